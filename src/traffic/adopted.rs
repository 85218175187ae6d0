//! Routes that users own: the agent's backend is replaced by two while a launch runs, and comes back as it was written.
//!
//! A rule is read against its original: `expand` makes the shared rule from it, `unify` finds the shares back. The originals
//! of shared rules ride on the route itself, in an annotation of the same write, so that no crash parts the two. A rule that
//! names no revision is at rest, whoever wrote it: that is what Git says, and the new original. Nothing here makes or
//! deletes a route.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mark::{KEYS, Mark};
use super::matching;
use super::read::programmed;
use super::route::{BackendRef, HTTPRoute, HttpRouteRule};
use crate::api::{GROUP, RequestMatch, annotations};
use crate::launch::{Route, Shares};
use crate::revision::names::{hash_in, revision_name};

/// Weights of a shared rule are those of the original times this, so that percents of one of them are whole.
const SCALE: i64 = 100;
/// The largest weight that Gateway API takes.
const HEAVIEST: i64 = 1_000_000;
/// The most backends of a rule that Gateway API takes.
const MOST_BACKENDS: usize = 16;
/// The longest memory of originals. Kubernetes takes 256 KiB of annotations in all.
const LONGEST: usize = 100_000;

/// What a shared rule was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Original {
    /// Index of the rule when it was shared; it may have moved since.
    rule: usize,
    /// Its backends.
    backend_refs: Vec<BackendRef>,
    /// Nobody wrote this rule: an agent shares some requests of the next one in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    added: Option<Added>,
}

/// A rule that was added for a share of some requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Added {
    /// The agent.
    agent: String,
    /// Which requests its plan names.
    only: Vec<RequestMatch>,
    /// What the rule matches.
    matches: Value,
}

/// The two revisions of an agent that share its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    stable: String,
    canary: String,
    weight: i32,
}

/// Pairs by agent.
type Pairs = BTreeMap<String, Pair>;

/// A rule as its owner wrote it, and the agents that share their backends of it.
struct Base {
    backends: Vec<BackendRef>,
    pairs: Pairs,
}

/// One agent's look at a route.
struct View<'a> {
    agent: &'a str,
    namespace: String,
    originals: Vec<Original>,
}

impl<'a> View<'a> {
    fn of(route: &HTTPRoute, agent: &'a str) -> Self {
        let remembered = route.annotations().get(annotations::ORIGINAL);
        let originals = remembered.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self { agent, namespace: route.namespace().unwrap_or_default(), originals }
    }

    /// Whether a backend is the agent's Service, and gets something.
    fn is_at_rest(&self, backend: &BackendRef) -> bool {
        backend.is_local_service(&self.namespace) && backend.name == self.agent && backend.share() > 0
    }

    /// The revision of the agent that a backend is.
    fn revision(&self, backend: &BackendRef) -> Option<String> {
        hash_in(self.agent, &backend.name).filter(|_| backend.is_local_service(&self.namespace))
    }

    /// For whom a rule was added.
    fn added(&self, rule: &HttpRouteRule) -> Option<&Added> {
        let backends = rule.backend_refs.as_deref().unwrap_or_default();
        let all = self.originals.iter().filter_map(|original| original.added.as_ref());
        let mut fitting = all.filter(|added| {
            rule.rest.get("matches") == Some(&added.matches)
                && backends.iter().any(|backend| hash_in(&added.agent, &backend.name).is_some())
        });
        fitting.next()
    }

    /// Whether a rule was added for this agent.
    fn is_added(&self, rule: &HttpRouteRule) -> bool {
        self.added(rule).is_some_and(|added| added.agent == self.agent)
    }

    /// A rule as its owner wrote it. Without a memory of it the two backends become one that gets what both got.
    fn base(&self, index: usize, backends: &[BackendRef]) -> Base {
        let here = self.originals.iter().filter(|original| original.rule == index);
        let elsewhere = self.originals.iter().filter(|original| original.rule != index);
        let found = here.chain(elsewhere).find_map(|original| {
            Some((&original.backend_refs, unify(&original.backend_refs, backends, &self.namespace)?))
        });
        let (written, pairs) =
            found.map_or((backends, BTreeMap::new()), |(written, pairs)| (written.as_slice(), pairs));
        Base { backends: self.collapse(written), pairs }
    }

    /// Puts one backend where revisions of the agent stand, with the sum of their weights, in the smallest numbers.
    fn collapse(&self, backends: &[BackendRef]) -> Vec<BackendRef> {
        if !backends.iter().any(|backend| self.revision(backend).is_some()) {
            return backends.to_vec();
        }
        let mut one: Vec<BackendRef> = Vec::new();
        for backend in backends {
            let ours = self.is_at_rest(backend) || self.revision(backend).is_some();
            let name = if ours { self.agent.to_owned() } else { backend.name.clone() };
            let next = BackendRef { name, weight: Some(backend.share()), ..backend.clone() };
            match one.last_mut().filter(|last| ours && last.name == self.agent && alike(last, &next)) {
                Some(last) => last.weight = Some(last.share().saturating_add(next.share())),
                None => one.push(next),
            }
        }
        let divisor = one.iter().fold(0, |divisor, backend| gcd(divisor, backend.share()));
        let whole = i32::try_from(SCALE).unwrap_or(1);
        let divisor = if divisor % whole == 0 { whole } else { divisor }.max(1);
        let silent = one.iter().all(|backend| backend.share() == 0);
        for backend in &mut one {
            let ours = backend.name == self.agent;
            backend.weight = Some(if silent && ours { 1 } else { backend.share() / divisor });
        }
        one
    }

    /// The shares of one rule; `None` when it sends nothing to the agent.
    fn shares(&self, backends: &[BackendRef]) -> Option<Shares> {
        let rests = backends.iter().any(|backend| self.is_at_rest(backend));
        let ours: Vec<_> = backends.iter().filter_map(|it| Some((self.revision(it)?, it.share()))).collect();
        if ours.is_empty() {
            return rests.then_some(Shares::AtRest);
        }
        let pairs: Option<Vec<Pair>> = ours.chunks(2).map(pair).collect();
        let same = |pairs: &Vec<Pair>| pairs.windows(2).all(|two| two[0] == two[1]);
        let first = pairs.filter(|pairs| !rests && same(pairs)).and_then(|pairs| pairs.into_iter().next());
        Some(first.map_or_else(
            || {
                let told: Vec<_> = backends.iter().map(|it| format!("{} {}", it.name, it.share())).collect();
                Shares::Foreign(format!("the HTTPRoute shares the traffic as [{}]", told.join(", ")))
            },
            |Pair { stable, canary, weight }| Shares::Split { stable, canary, weight },
        ))
    }
}

/// Stable and canary, with the canary's share of both.
fn pair(two: &[(String, i32)]) -> Option<Pair> {
    let [(stable, rest), (canary, share)] = two else { return None };
    let (rest, share) = (i64::from(*rest), i64::from(*share));
    let sum = rest + share;
    let whole = stable != canary && rest >= 0 && share >= 0 && sum > 0 && share * 100 % sum == 0;
    let weight = whole.then(|| i32::try_from(share * 100 / sum).ok()).flatten()?;
    Some(Pair { stable: stable.clone(), canary: canary.clone(), weight })
}

fn gcd(a: i32, b: i32) -> i32 {
    if b == 0 { a.saturating_abs() } else { gcd(b, a % b) }
}

/// Whether two backends differ in name and weight at most.
fn alike(one: &BackendRef, other: &BackendRef) -> bool {
    let plain = |backend: &BackendRef| BackendRef { name: String::new(), weight: None, ..backend.clone() };
    plain(one) == plain(other)
}

/// The backend with another weight; `None` when Gateway API takes no such weight.
fn weighing(backend: &BackendRef, name: String, weight: i64) -> Option<BackendRef> {
    let weight = i32::try_from(weight).ok().filter(|_| (0..=HEAVIEST).contains(&weight))?;
    Some(BackendRef { name, weight: Some(weight), ..backend.clone() })
}

/// The pair that shares a backend, if somebody shares it.
fn sharing<'a>(backend: &BackendRef, pairs: &'a Pairs, namespace: &str) -> Option<&'a Pair> {
    pairs.get(&backend.name).filter(|_| backend.is_local_service(namespace) && backend.share() > 0)
}

/// The rule with the shares of these agents; everybody else keeps the share that the original gives. `None` when Gateway API
/// takes no such weights, or not so many backends.
fn expand(backends: &[BackendRef], pairs: &Pairs, namespace: &str) -> Option<Vec<BackendRef>> {
    if !backends.iter().any(|backend| sharing(backend, pairs, namespace).is_some()) {
        return Some(backends.to_vec());
    }
    let mut expanded = Vec::new();
    for backend in backends {
        let share = i64::from(backend.share());
        let whole = weighing(backend, backend.name.clone(), share * SCALE)?; // what fits at one weight fits at all
        match sharing(backend, pairs, namespace) {
            None => expanded.push(whole),
            Some(Pair { stable, canary, weight }) => {
                let (weight, named) = (i64::from(*weight), |hash: &str| revision_name(&backend.name, hash));
                expanded.push(weighing(backend, named(stable), share * (SCALE - weight))?);
                expanded.push(weighing(backend, named(canary), share * weight)?);
            }
        }
    }
    (expanded.len() <= MOST_BACKENDS).then_some(expanded)
}

/// Who shares what, if the rule was made from this original by [`expand`].
fn unify(original: &[BackendRef], rule: &[BackendRef], namespace: &str) -> Option<Pairs> {
    let mut pairs = BTreeMap::new();
    let mut left = rule;
    for backend in original {
        let shared = left.split_first_chunk::<2>().and_then(|(two, rest)| Some((shared_by(backend, two)?, rest)));
        match shared {
            Some((pair, rest)) => {
                pairs.insert(backend.name.clone(), pair);
                left = rest;
            }
            None => left = left.split_first()?.1,
        }
    }
    let made = expand(original, &pairs, namespace)?;
    (left.is_empty() && !pairs.is_empty() && made == rule).then_some(pairs)
}

/// The pair that two backends are, if they stand for this one.
fn shared_by(backend: &BackendRef, two: &[BackendRef; 2]) -> Option<Pair> {
    let part = |it: &BackendRef| Some((hash_in(&backend.name, &it.name)?, it.share()));
    pair(&[part(&two[0])?, part(&two[1])?])
}

/// Reads a user's route for an agent.
pub fn read_adopted(route: &HTTPRoute, agent: &str) -> Route {
    let (view, name) = (View::of(route, agent), route.name_any());
    if let Some(owner) = route.owner_references().iter().find(|owner| owner.api_version.starts_with(GROUP)) {
        return Route::Unshared(format!(
            "Sluice made HTTPRoute {name} for {}: name a route of yours, or remove its ownerReferences to make it yours",
            owner.name
        ));
    }
    let Some(shares) = shares_of(route, &view) else {
        return Route::Unshared(format!(
            "no rule of HTTPRoute {name} sends traffic to Service {agent}: name it in backendRefs, or correct \
             spec.traffic.httpRoute.name"
        ));
    };
    if shares == Shares::AtRest && !has_room(route, &view) {
        return Route::Unshared(format!(
            "the rules of HTTPRoute {name} leave no room to share the traffic of Service {agent}: use weights up to \
             10000, at most {} backends in a rule, and shorter filters",
            MOST_BACKENDS - 1
        ));
    }
    Route::Seen { shares, programmed: programmed(route, "the HTTPRoute's parentRefs") }
}

/// The shares of all rules that send anything to the agent, which must agree. `None`: there are none.
fn shares_of(route: &HTTPRoute, view: &View<'_>) -> Option<Shares> {
    let rules = || route.spec.rules.iter().flatten();
    let of = |rule: &HttpRouteRule| view.shares(rule.backend_refs.as_deref().unwrap_or_default());
    let written = agreed(rules().filter(|rule| !view.is_added(rule)).filter_map(of))?;
    let Some(added) = agreed(rules().filter(|rule| view.is_added(rule)).filter_map(of)) else {
        return Some(written);
    };
    let only = rules().filter(|rule| view.is_added(rule)).find_map(|rule| view.added(rule));
    if let (Shares::AtRest, Shares::Split { stable, canary, weight }, Some(only)) = (&written, added, only) {
        let (stable, canary) = (stable.clone(), canary.clone());
        let matched = Shares::Matched { stable, canary, weight, only: only.only.clone() };
        if reshared(route, view.agent, &matched).spec == route.spec {
            return Some(matched);
        }
    }
    Some(Shares::Foreign("the rules for the requests that match are not as Sluice wrote them".to_owned()))
}

/// The shares that all rules agree on.
fn agreed(mut all: impl Iterator<Item = Shares>) -> Option<Shares> {
    let first = all.next()?;
    Some(match all.find(|other| *other != first) {
        None => first,
        Some(foreign @ Shares::Foreign(_)) => foreign,
        Some(_) if matches!(first, Shares::Foreign(_)) => first,
        Some(_) => Shares::Foreign("rules of the HTTPRoute share the traffic in different ways".to_owned()),
    })
}

/// The shares of a route of Sluice's own for some requests, if it has any.
pub(super) fn matched(route: &HTTPRoute, agent: &str) -> Option<Shares> {
    let view = View::of(route, agent);
    let any = route.spec.rules.iter().flatten().any(|rule| view.is_added(rule));
    any.then(|| shares_of(route, &view)).flatten()
}

/// The route without the rules that were added for an agent.
pub(super) fn without_added(route: &HTTPRoute, agent: &str) -> HTTPRoute {
    let mut route = route.clone();
    let view = View::of(&route, agent);
    if let Some(rules) = &mut route.spec.rules {
        rules.retain(|rule| !view.is_added(rule));
    }
    if let Some(kept) = &mut route.metadata.annotations {
        kept.remove(annotations::ORIGINAL);
    }
    route
}

/// Whether the route at rest can be shared.
fn has_room(route: &HTTPRoute, view: &View<'_>) -> bool {
    let any = Pair { stable: "0".repeat(10), canary: "1".repeat(10), weight: 0 };
    let mut originals = Vec::new();
    for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
        let Base { backends, mut pairs } = view.base(index, rule.backend_refs.as_deref().unwrap_or_default());
        pairs.insert(view.agent.to_owned(), any.clone());
        if expand(&backends, &pairs, &view.namespace).is_none() {
            return false;
        }
        if backends.iter().any(|backend| view.is_at_rest(backend)) {
            originals.push(Original { rule: index, backend_refs: backends, added: None });
        }
    }
    serde_json::to_string(&originals).is_ok_and(|text| text.len() <= LONGEST)
}

/// The user's route with other shares of this agent, and the mark of who wrote them and why. All else stays.
///
/// A rule that cannot be shared, and `Foreign` shares (which are nobody's wish), leave it as it is.
pub fn with_adopted_shares(route: &HTTPRoute, agent: &str, shares: &Shares, mark: &Mark<'_>) -> HTTPRoute {
    let mut edited = reshared(route, agent, shares);
    let kept = edited.metadata.annotations.get_or_insert_default();
    kept.retain(|key, _| agent_of(key) != Some(agent));
    kept.extend(mark.annotations().into_iter().map(|(key, value)| (scoped(&key, agent), value)));
    edited
}

/// The user's route without any trace of this agent: at rest, and without its marks.
pub fn released(route: &HTTPRoute, agent: &str) -> HTTPRoute {
    let mut edited = reshared(route, agent, &Shares::AtRest);
    if let Some(kept) = &mut edited.metadata.annotations {
        kept.retain(|key, _| agent_of(key) != Some(agent));
    }
    edited.metadata.annotations = edited.metadata.annotations.filter(|kept| !kept.is_empty());
    edited
}

/// The agents whose marks a route carries, whether they exist or not.
pub fn marked_by(route: &HTTPRoute) -> BTreeSet<&str> {
    route.annotations().keys().filter_map(|key| agent_of(key)).collect()
}

/// The marks of one agent on a user's route, under the names that they have on a route of Sluice's own.
pub fn marks_of(found: &BTreeMap<String, String>, agent: &str) -> BTreeMap<String, String> {
    let own = KEYS.iter().filter_map(|key| Some(((*key).to_owned(), found.get(&scoped(key, agent))?.clone())));
    own.collect()
}

/// `sluice.dev/decision` → `sluice.dev/<agent>.decision`: several agents may be in one route.
fn scoped(key: &str, agent: &str) -> String {
    key.split_once('/').map_or_else(|| key.to_owned(), |(group, word)| format!("{group}/{agent}.{word}"))
}

/// Whose mark an annotation is.
fn agent_of(key: &str) -> Option<&str> {
    let (agent, word) = key.strip_prefix(GROUP)?.strip_prefix('/')?.rsplit_once('.')?;
    KEYS.iter().any(|base| base.rsplit('/').next() == Some(word)).then_some(agent)
}

/// The route with other shares of this agent; its own added rules are made anew.
pub(super) fn reshared(route: &HTTPRoute, agent: &str, shares: &Shares) -> HTTPRoute {
    let mut route = route.clone();
    let view = View::of(&route, agent);
    let Some(wish) = Wish::of(shares) else { return route };
    let Some(found) = route.spec.rules.take() else { return route };
    let places = places(&view, &found);
    let (mut rules, mut originals) = (Vec::new(), Vec::new());
    for (index, mut rule) in found.iter().cloned().enumerate() {
        for (base, narrow) in places.iter().filter(|(_, place)| *place == index).map(|(base, _)| (*base, &found[*base]))
        {
            if let Some((added, narrower)) = wish.narrower(&view, base, narrow) {
                originals.push(Original { rule: rules.len(), ..added });
                rules.push(narrower);
            }
        }
        let added = view.added(&rule).cloned();
        if added.as_ref().is_some_and(|added| added.agent == agent) {
            continue;
        }
        let Some(current) = rule.backend_refs.clone() else {
            rules.push(rule);
            continue;
        };
        let Base { backends, pairs: before } = view.base(index, &current);
        let (_, mut pairs) = wish.over(&view, &backends, &before);
        match expand(&backends, &pairs, &view.namespace) {
            Some(fresh) if view.shares(&current).as_ref() != Some(wish.written) => rule.backend_refs = Some(fresh),
            Some(_) => {} // as it is, down to a weight that means the same
            None => pairs = before,
        }
        if !pairs.is_empty() {
            originals.push(Original { rule: rules.len(), backend_refs: backends, added });
        }
        rules.push(rule);
    }
    route.spec.rules = Some(rules);
    let kept = route.metadata.annotations.get_or_insert_default();
    kept.remove(annotations::ORIGINAL);
    if let (false, Ok(text)) = (originals.is_empty(), serde_json::to_string(&originals)) {
        kept.insert(annotations::ORIGINAL.to_owned(), text);
    }
    route
}

/// Where the rules go that are added for an agent: where they are already, or else before the rule that they are made from.
/// Pairs of that rule and the place, by index. No rule is made from an added one.
fn places(view: &View<'_>, rules: &[HttpRouteRule]) -> Vec<(usize, usize)> {
    let (mut places, mut taken) = (Vec::new(), None);
    for (index, rule) in rules.iter().enumerate() {
        match view.added(rule) {
            None => places.push((index, taken.take().unwrap_or(index))),
            Some(added) if added.agent == view.agent => taken = taken.or(Some(index)),
            Some(_) => {}
        }
    }
    places
}

/// What an agent wants of the rules of a route.
struct Wish<'a> {
    pair: Option<Pair>,
    /// The requests that are shared; all when empty.
    only: &'a [RequestMatch],
    /// The shares of the rules that the owner wrote.
    written: &'a Shares,
}

impl<'a> Wish<'a> {
    /// `None` when it is nobody's wish.
    fn of(shares: &'a Shares) -> Option<Self> {
        let pair = |stable: &str, canary: &str, weight: i32| {
            Some(Pair { stable: stable.to_owned(), canary: canary.to_owned(), weight: weight.clamp(0, 100) })
        };
        match shares {
            Shares::AtRest => Some(Self { pair: None, only: &[], written: shares }),
            Shares::Split { stable, canary, weight } => {
                Some(Self { pair: pair(stable, canary, *weight), only: &[], written: shares })
            }
            Shares::Matched { stable, canary, weight, only } => {
                Some(Self { pair: pair(stable, canary, *weight), only, written: &Shares::AtRest })
            }
            Shares::Foreign(_) => None,
        }
    }

    /// The rule that is added for a share of some requests of another one, and its memory.
    fn narrower(&self, view: &View<'_>, base: usize, rule: &HttpRouteRule) -> Option<(Original, HttpRouteRule)> {
        let Base { backends, pairs } = view.base(base, rule.backend_refs.as_deref()?);
        let (narrow, _) = self.over(view, &backends, &pairs);
        let shared = expand(&backends, &narrow?, &view.namespace)?;
        let narrower = matching::narrower(rule, self.only, shared)?;
        let matches = narrower.rest.get("matches").cloned().unwrap_or_default();
        let added = Some(Added { agent: view.agent.to_owned(), only: self.only.to_vec(), matches });
        Some((Original { rule: base, backend_refs: backends, added }, narrower))
    }

    /// Who shares a rule: of its requests that match, if they are to be shared, and of all its requests.
    fn over(&self, view: &View<'_>, backends: &[BackendRef], before: &Pairs) -> (Option<Pairs>, Pairs) {
        let mut others = before.clone();
        others.remove(view.agent);
        let Some(pair) = self.pair.clone().filter(|_| backends.iter().any(|backend| view.is_at_rest(backend))) else {
            return (None, others);
        };
        let mut shared = others.clone();
        shared.insert(view.agent.to_owned(), pair);
        if self.only.is_empty() { (None, shared) } else { (Some(shared), others) }
    }
}
