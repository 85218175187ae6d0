//! What a route says: who gets the traffic, and whether the gateways have taken this very version of it.
//!
//! Whatever Sluice did not write is `Foreign`, never guessed at.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;

use super::adopted::matched;
use super::route::{BackendRef, HTTPRoute, HttpRouteRule, ParentReference};
use crate::api::FIELD_MANAGER;
use crate::launch::{Programmed, Route, RouteVersion, Shares};
use crate::revision::names::{SERVICE_PORT, hash_in};

/// Reads the route of an agent.
pub fn read(route: &HTTPRoute, agent: &str) -> Route {
    Route::Seen { shares: shares(route, agent), programmed: programmed(route, "spec.traffic.gateway") }
}

/// The largest share of the agent's traffic, in percent and rounded up, that a revision other than `stable` could get in any
/// rule of the route.
///
/// The agent's Service counts as stable, which it selects; other backends of a rule do not count. `stable` is `None`: there
/// is no stable revision, and all count.
pub fn canary_share(route: &HTTPRoute, agent: &str, stable: Option<&str>) -> i32 {
    let other = |backend: &&BackendRef| hash_in(agent, &backend.name).is_some_and(|hash| Some(&*hash) != stable);
    let own = |backend: &&BackendRef| backend.name == agent || hash_in(agent, &backend.name).is_some();
    let share = |backends: &Vec<BackendRef>| {
        let sum = |part: i64, backend: &BackendRef| part + i64::from(backend.share().max(0));
        let all = backends.iter().filter(own).fold(0, sum);
        let part = backends.iter().filter(other).fold(0, sum);
        if all == 0 { 0 } else { (part * 100 + all - 1) / all }
    };
    let rules = route.spec.rules.iter().flatten();
    let largest = rules.filter_map(|rule| rule.backend_refs.as_ref()).map(share).max();
    largest.and_then(|share| i32::try_from(share).ok()).unwrap_or_default()
}

/// Which version of a route it is, and whose.
pub fn version(route: &HTTPRoute) -> RouteVersion {
    RouteVersion { generation: route.metadata.generation.unwrap_or_default(), rules_by: rules_by(route) }
}

/// The field manager that wrote the rules last, when that was not Sluice.
fn rules_by(route: &HTTPRoute) -> Option<String> {
    let of_rules = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().filter(|_| entry.subresource.as_deref().unwrap_or_default().is_empty());
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:rules").is_some())
    };
    let last =
        route.managed_fields().iter().filter(of_rules).max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    last.manager.clone().filter(|manager| manager != FIELD_MANAGER)
}

/// Whether a rule sends anything to the agent.
pub(super) fn is_of_agent(rule: &HttpRouteRule, agent: &str, namespace: &str) -> bool {
    let mut backends = rule.backend_refs.iter().flatten();
    backends.any(|backend| is_ours(backend, agent, namespace))
}

/// Whether a backend is the agent's Service, or that of one of its revisions.
pub(super) fn is_ours(backend: &BackendRef, agent: &str, namespace: &str) -> bool {
    backend.is_local_service(namespace) && (backend.name == agent || hash_in(agent, &backend.name).is_some())
}

/// The shares of all rules that send anything to the agent; they must agree.
fn shares(route: &HTTPRoute, agent: &str) -> Shares {
    if let Some(matched) = matched(route, agent) {
        return matched;
    }
    let namespace = route.namespace().unwrap_or_default();
    let rules = route.spec.rules.iter().flatten();
    let mut ours =
        rules.filter(|rule| is_of_agent(rule, agent, &namespace)).map(|rule| rule_shares(rule, agent, &namespace));
    let Some(first) = ours.next() else {
        return Shares::Foreign(format!("no rule of the HTTPRoute names Service {agent}: name it as a backend"));
    };
    match ours.find(|other| *other != first) {
        Some(Shares::Foreign(why)) => Shares::Foreign(why),
        Some(_) if matches!(first, Shares::Foreign(_)) => first,
        Some(_) => Shares::Foreign("rules of the HTTPRoute share the traffic in different ways".to_owned()),
        None => first,
    }
}

/// The shares of one rule.
pub(super) fn rule_shares(rule: &HttpRouteRule, agent: &str, namespace: &str) -> Shares {
    let backends = rule.backend_refs.as_deref().unwrap_or_default();
    if let Some(stranger) = backends.iter().find(|backend| !is_ours(backend, agent, namespace)) {
        return Shares::Foreign(format!("a rule of the HTTPRoute names backend {:?} too", stranger.name));
    }
    if let Some(backend) = backends.iter().find(|backend| backend.port != Some(SERVICE_PORT)) {
        let port = backend.port.map_or_else(|| "none".to_owned(), |port| port.to_string());
        return Shares::Foreign(format!("backend {:?} has port {port}, not {SERVICE_PORT}", backend.name));
    }
    match backends {
        [one] if one.name == agent && one.share() > 0 => Shares::AtRest,
        [stable, canary] => split(stable, canary, agent).unwrap_or_else(|| foreign(backends)),
        _ => foreign(backends),
    }
}

fn split(stable: &BackendRef, canary: &BackendRef, agent: &str) -> Option<Shares> {
    let (rest, weight) = (stable.share(), canary.share());
    let whole = (0..=100).contains(&weight) && rest == 100 - weight;
    let (stable, canary) = (hash_in(agent, &stable.name)?, hash_in(agent, &canary.name)?);
    (whole && stable != canary).then_some(Shares::Split { stable, canary, weight })
}

fn foreign(backends: &[BackendRef]) -> Shares {
    let told: Vec<_> = backends.iter().map(|backend| format!("{} {}", backend.name, backend.share())).collect();
    Shares::Foreign(format!("the HTTPRoute shares the traffic as [{}]", told.join(", ")))
}

/// Whether every parent has taken this generation. `named_in` is where a person corrects the parents.
pub(super) fn programmed(route: &HTTPRoute, named_in: &str) -> Programmed {
    let parents = route.spec.parent_refs.as_deref().unwrap_or_default();
    if parents.is_empty() {
        return Programmed::Refused("the HTTPRoute names no gateway".to_owned());
    }
    let answers: Vec<_> = parents.iter().map(|parent| answer(route, parent, named_in)).collect();
    // one that has not followed yet may still do what an earlier version says; one that is silent never did anything
    let refused = answers.iter().find(|answer| matches!(answer, Programmed::Refused(_)));
    let pending = answers.iter().find(|answer| **answer == Programmed::Pending);
    let silent = answers.iter().find(|answer| matches!(answer, Programmed::Silent(_)));
    refused.or(pending).or(silent).cloned().unwrap_or(Programmed::Yes)
}

/// What one parent says. Where several controllers answer for it (a gateway changed hands), one that took the route is enough.
fn answer(route: &HTTPRoute, parent: &ParentReference, named_in: &str) -> Programmed {
    let namespace = route.namespace().unwrap_or_default();
    let mut answer = Programmed::Silent(format!(
        "{} says nothing about the HTTPRoute: create it, see to it that its controller runs, or correct {named_in}",
        parent.told(&namespace)
    ));
    let parents = route.status.iter().flat_map(|status| &status.parents);
    for entry in parents.filter(|entry| entry.parent_ref.same(parent, &namespace)) {
        let of = |type_: &str| {
            let current = |generation: Option<i64>| generation.is_some() && generation == route.metadata.generation;
            let mut conditions = entry.conditions.iter();
            conditions.find(|condition| condition.type_ == type_ && current(condition.observed_generation))
        };
        let conditions = [of("Accepted"), of("ResolvedRefs")];
        if conditions.iter().all(|condition| condition.is_some_and(|condition| condition.status == "True")) {
            return Programmed::Yes;
        }
        if let Some(no) = conditions.into_iter().flatten().find(|condition| condition.status == "False") {
            let parent = parent.told(&namespace);
            let mend = mend(&no.reason, named_in);
            answer =
                Programmed::Refused(format!("{parent} refuses the HTTPRoute: {}: {}; {mend}", no.reason, no.message));
        } else if matches!(answer, Programmed::Silent(_)) {
            answer = Programmed::Pending;
        }
    }
    answer
}

/// What to do about a reason of Gateway API.
fn mend(reason: &str, named_in: &str) -> String {
    match reason {
        "NotAllowedByListeners" => "allow routes of this namespace in the listener's allowedRoutes".to_owned(),
        "NoMatchingListenerHostname" if named_in.starts_with("spec.") => {
            format!("correct {named_in}.hostnames, or the listener's hostname")
        }
        "NoMatchingListenerHostname" => "correct the HTTPRoute's hostnames, or the listener's hostname".to_owned(),
        "NoMatchingParent" if named_in.starts_with("spec.") => format!("correct sectionName in {named_in}.parentRefs"),
        "NoMatchingParent" => format!("correct sectionName in {named_in}"),
        "BackendNotFound" => "it follows by itself once the Service exists".to_owned(),
        "RefNotPermitted" => "add a ReferenceGrant".to_owned(),
        _ => format!("correct {named_in}, or the gateway"),
    }
}
