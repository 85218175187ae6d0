//! Routes that users own: the agent's backend is replaced by two while a launch runs, and comes back as it was written.
//!
//! A rule is read against its original: `expand` makes the shared rule from it, `unify` finds the shares back. The originals
//! of shared rules ride on the route itself, in an annotation of the same write, so that no crash parts the two. A rule that
//! names no revision is at rest, whoever wrote it: that is what Git says, and the new original. Nothing here makes or
//! deletes a route.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::mark::{KEYS, Mark};
use super::read::programmed;
use super::route::{BackendRef, HTTPRoute};
use crate::api::{GROUP, annotations};
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
}

/// The two revisions of an agent that share its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    stable: String,
    canary: String,
    weight: i32,
}

/// A rule as its owner wrote it, and the agents that share their backends of it.
struct Base {
    backends: Vec<BackendRef>,
    pairs: BTreeMap<String, Pair>,
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

    /// A rule as its owner wrote it. Without a memory of it the two backends become one that gets what both got.
    fn base(&self, index: usize, backends: &[BackendRef]) -> Base {
        let here = self.originals.iter().filter(|original| original.rule == index);
        let elsewhere = self.originals.iter().filter(|original| original.rule != index);
        let found = here.chain(elsewhere).find_map(|original| {
            Some((&original.backend_refs, unify(&original.backend_refs, backends, &self.namespace)?))
        });
        let (written, pairs) = found.map_or((backends, BTreeMap::new()), |(written, pairs)| (written.as_slice(), pairs));
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
fn sharing<'a>(backend: &BackendRef, pairs: &'a BTreeMap<String, Pair>, namespace: &str) -> Option<&'a Pair> {
    pairs.get(&backend.name).filter(|_| backend.is_local_service(namespace) && backend.share() > 0)
}

/// The rule with the shares of these agents; everybody else keeps the share that the original gives. `None` when Gateway API
/// takes no such weights, or not so many backends.
fn expand(backends: &[BackendRef], pairs: &BTreeMap<String, Pair>, namespace: &str) -> Option<Vec<BackendRef>> {
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
fn unify(original: &[BackendRef], rule: &[BackendRef], namespace: &str) -> Option<BTreeMap<String, Pair>> {
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
        return Route::Unshared(format!("Sluice made HTTPRoute {name} for {}: name a route of yours", owner.name));
    }
    let rules = || route.spec.rules.iter().flatten().map(|rule| rule.backend_refs.as_deref().unwrap_or_default());
    let mut ours = rules().filter_map(|backends| view.shares(backends));
    let Some(first) = ours.next() else {
        return Route::Unshared(format!(
            "no rule of HTTPRoute {name} sends traffic to Service {agent}: name it in backendRefs, or correct \
             spec.traffic.httpRoute.name"
        ));
    };
    let shares = match ours.find(|other| *other != first) {
        None => first,
        Some(foreign @ Shares::Foreign(_)) => foreign,
        Some(_) if matches!(first, Shares::Foreign(_)) => first,
        Some(_) => Shares::Foreign("rules of the HTTPRoute share the traffic in different ways".to_owned()),
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
        originals.push(Original { rule: index, backend_refs: backends });
    }
    serde_json::to_string(&originals).is_ok_and(|text| text.len() <= LONGEST)
}

/// The user's route with other shares of this agent, and the mark of who wrote them and why. All else stays.
///
/// A rule that cannot be shared, and `Foreign` shares (which are nobody's wish), leave it as it is.
pub fn with_adopted_shares(route: &HTTPRoute, agent: &str, shares: &Shares, mark: &Mark<'_>) -> HTTPRoute {
    let mut edited = reshared(route, agent, shares);
    let kept = edited.metadata.annotations.get_or_insert_default();
    kept.retain(|key, _| !is_of(key, agent));
    kept.extend(mark.annotations().into_iter().map(|(key, value)| (scoped(&key, agent), value)));
    edited
}

/// The user's route without any trace of this agent: at rest, and without its marks.
pub fn released(route: &HTTPRoute, agent: &str) -> HTTPRoute {
    let mut edited = reshared(route, agent, &Shares::AtRest);
    if let Some(kept) = &mut edited.metadata.annotations {
        kept.retain(|key, _| !is_of(key, agent));
    }
    edited.metadata.annotations = edited.metadata.annotations.filter(|kept| !kept.is_empty());
    edited
}

/// Whether a route carries marks of this agent.
pub fn is_marked(route: &HTTPRoute, agent: &str) -> bool {
    route.annotations().keys().any(|key| is_of(key, agent))
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

fn is_of(key: &str, agent: &str) -> bool {
    let word = key.strip_prefix(GROUP).and_then(|key| key.strip_prefix('/')?.strip_prefix(agent)?.strip_prefix('.'));
    word.is_some_and(|word| KEYS.iter().any(|base| base.rsplit('/').next() == Some(word)))
}

fn reshared(route: &HTTPRoute, agent: &str, shares: &Shares) -> HTTPRoute {
    let mut route = route.clone();
    let view = View::of(&route, agent);
    let pair = match shares {
        Shares::AtRest => None,
        Shares::Split { stable, canary, weight } => {
            Some(Pair { stable: stable.clone(), canary: canary.clone(), weight: (*weight).clamp(0, 100) })
        }
        Shares::Foreign(_) => return route,
    };
    let mut originals = Vec::new();
    for (index, rule) in route.spec.rules.iter_mut().flatten().enumerate() {
        let Some(current) = &mut rule.backend_refs else { continue };
        let Base { backends, mut pairs } = view.base(index, current);
        let before = pairs.clone();
        match (&pair, backends.iter().any(|backend| view.is_at_rest(backend))) {
            (Some(pair), true) => drop(pairs.insert(agent.to_owned(), pair.clone())),
            (None, _) | (_, false) => drop(pairs.remove(agent)),
        }
        match expand(&backends, &pairs, &view.namespace) {
            Some(shared) if view.shares(current).as_ref() != Some(shares) => *current = shared,
            Some(_) => {} // as it is, down to a weight that means the same
            None => pairs = before,
        }
        if !pairs.is_empty() {
            originals.push(Original { rule: index, backend_refs: backends });
        }
    }
    let kept = route.metadata.annotations.get_or_insert_default();
    kept.remove(annotations::ORIGINAL);
    if let (false, Ok(text)) = (originals.is_empty(), serde_json::to_string(&originals)) {
        kept.insert(annotations::ORIGINAL.to_owned(), text);
    }
    route
}
