//! Makes and edits the agent's route. An edit changes what it names, and everything else survives.
//!
//! Whatever the API server would add by default is said, so that an edit of a route as the server holds it changes nothing
//! when there is nothing to change.

use kube::ResourceExt;
use serde_json::json;

use super::adopted::{reshared, without_added};
use super::mark::{KEYS, Mark};
use super::read::{is_of_agent, is_ours, rule_shares};
use super::route::{BackendRef, HTTPRoute, HttpRouteRule, HttpRouteSpec, ParentReference};
use crate::api::Gateway;
use crate::children::Owner;
use crate::launch::Shares;
use crate::revision::names::{SERVICE_PORT, revision_name};

/// The agent's route at rest, for an agent that has none yet.
pub fn render(owner: &Owner, gateway: &Gateway) -> HTTPRoute {
    let rule = HttpRouteRule {
        backend_refs: Some(vec![backend(&BackendRef::default(), owner.name.clone(), 1)]),
        rest: [("matches".to_owned(), json!([{"path": {"type": "PathPrefix", "value": "/"}}]))].into_iter().collect(),
    };
    let mut route = HTTPRoute::new(&owner.name, HttpRouteSpec { rules: Some(vec![rule]), ..HttpRouteSpec::default() });
    route.metadata = owner.metadata(owner.name.clone(), None);
    with_base(&route, gateway)
}

/// Whether a route attaches to what the agent's spec names.
pub fn same_base(route: &HTTPRoute, gateway: &Gateway) -> bool {
    let namespace = route.namespace().unwrap_or_default();
    let wanted = parents(gateway);
    let found = route.spec.parent_refs.as_deref().unwrap_or_default();
    let same = |(one, other): (&ParentReference, &ParentReference)| one.same(other, &namespace);
    wanted.len() == found.len()
        && wanted.iter().zip(found).all(same)
        && route.spec.hostnames.as_deref().unwrap_or_default() == gateway.hostnames
}

/// The route, attached to what the agent's spec names. Who gets the traffic stays as it is.
pub fn with_base(route: &HTTPRoute, gateway: &Gateway) -> HTTPRoute {
    let mut route = route.clone();
    if !same_base(&route, gateway) {
        route.spec.parent_refs = Some(parents(gateway));
        route.spec.hostnames = (!gateway.hostnames.is_empty()).then(|| gateway.hostnames.clone());
    }
    route
}

/// The route with other shares, and the mark of who wrote them and why. `Foreign` shares are nobody's wish: they stay.
///
/// Only the backends of the rules that send traffic to the agent change, and Sluice's own annotations. A route without such
/// a rule gets the agent back in its first one. What a user added to a backend (filters) goes with it.
pub fn with_shares(route: &HTTPRoute, agent: &str, shares: &Shares, mark: &Mark<'_>) -> HTTPRoute {
    if matches!(shares, Shares::Matched { .. }) {
        return reshared(&with_shares(route, agent, &Shares::AtRest, mark), agent, shares);
    }
    let mut route = match shares {
        Shares::Foreign(_) => route.clone(),
        _ => without_added(route, agent),
    };
    let namespace = route.namespace().unwrap_or_default();
    let annotations = route.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| !KEYS.contains(&key.as_str()));
    annotations.extend(mark.annotations());
    if matches!(shares, Shares::Foreign(_)) {
        return route;
    }
    let rules = route.spec.rules.get_or_insert_default();
    if !rules.iter().any(|rule| is_of_agent(rule, agent, &namespace)) {
        if rules.is_empty() {
            rules.push(HttpRouteRule::default());
        }
        rules[0].backend_refs = Some(backends(&BackendRef::default(), agent, shares));
    }
    for rule in rules {
        if rule_shares(rule, agent, &namespace) == *shares {
            continue; // as it is, down to a weight that means the same
        }
        let current = rule.backend_refs.iter().flatten();
        if let Some(like) = current.into_iter().find(|backend| is_ours(backend, agent, &namespace)) {
            rule.backend_refs = Some(backends(like, agent, shares));
        }
    }
    route
}

fn parents(gateway: &Gateway) -> Vec<ParentReference> {
    let parents = gateway.parent_refs.iter().cloned();
    parents.map(|parent| ParentReference::gateway(parent.name, parent.namespace, parent.section_name)).collect()
}

fn backends(like: &BackendRef, agent: &str, shares: &Shares) -> Vec<BackendRef> {
    match shares {
        Shares::AtRest => vec![backend(like, agent.to_owned(), 1)],
        Shares::Split { stable, canary, weight } => {
            let weight = (*weight).clamp(0, 100);
            vec![
                backend(like, revision_name(agent, stable), 100 - weight),
                backend(like, revision_name(agent, canary), weight),
            ]
        }
        Shares::Matched { .. } | Shares::Foreign(_) => Vec::new(),
    }
}

/// A backend like another one, under another name and with another weight.
fn backend(like: &BackendRef, name: String, weight: i32) -> BackendRef {
    BackendRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        namespace: None,
        name,
        port: Some(SERVICE_PORT),
        weight: Some(weight),
        rest: like.rest.clone(),
    }
}
