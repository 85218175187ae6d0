//! Who claims the same requests of a gateway: two routes with an equal host name and equal matches on one parent.
//!
//! The gateway gives all of them to the older route, by Gateway API's rule: the other agent would be launched blind.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::route::{HTTPRoute, HttpRouteRule, ParentReference};

/// The route that gets the requests of `mine`, and what both claim, in a sentence; `None` when nobody older does.
pub fn taken_by<'a>(mine: &HTTPRoute, others: impl Iterator<Item = &'a HTTPRoute>) -> Option<String> {
    let older =
        others.filter(|other| !same(mine, other) && other.metadata.deletion_timestamp.is_none() && serves(other));
    let meeting =
        older.filter(|other| age(other) < age(mine)).filter_map(|other| Some((other, claimed_by_both(mine, other)?)));
    meeting.min_by_key(|(other, _)| age(other)).map(|(other, what)| {
        let (namespace, name) = (other.namespace().unwrap_or_default(), other.name_any());
        format!(
            "{what} is HTTPRoute {namespace}/{name}'s, which is older: choose another host name, or remove that route"
        )
    })
}

/// Whether two routes could claim the same requests: a cheap look, for whom to wake when one of them changes.
pub fn share_a_hostname(hostnames: &[String], other: &HTTPRoute) -> bool {
    let theirs = other.spec.hostnames.as_deref().unwrap_or_default();
    (hostnames.is_empty() && theirs.is_empty()) || hostnames.iter().any(|name| theirs.contains(name))
}

/// Whether a gateway has taken the route: one that it refuses takes nobody's requests.
fn serves(route: &HTTPRoute) -> bool {
    let parents = route.status.iter().flat_map(|status| &status.parents);
    parents.flat_map(|parent| &parent.conditions).any(|answer| answer.type_ == "Accepted" && answer.status == "True")
}

fn same(mine: &HTTPRoute, other: &HTTPRoute) -> bool {
    mine.name_any() == other.name_any() && mine.namespace() == other.namespace()
}

/// The older route wins, then the one whose namespace and name come first. One that is not made yet is the youngest.
fn age(route: &HTTPRoute) -> (bool, Option<k8s_openapi::jiff::Timestamp>, String, String) {
    let created = route.creation_timestamp().map(|time| time.0);
    (created.is_none(), created, route.namespace().unwrap_or_default(), route.name_any())
}

/// What both routes claim, in words.
fn claimed_by_both(mine: &HTTPRoute, other: &HTTPRoute) -> Option<String> {
    let namespace = mine.namespace().unwrap_or_default();
    let parent =
        parents(mine).iter().find(|parent| parents(other).iter().any(|theirs| meet(mine, parent, other, theirs)))?;
    let names = mine.spec.hostnames.as_deref().unwrap_or_default();
    let name = names.iter().find(|name| share_a_hostname(std::slice::from_ref(*name), other));
    if !share_a_hostname(names, other) {
        return None;
    }
    let theirs: Vec<Value> = matches(other).collect();
    let both = matches(mine).find(|mine| theirs.contains(mine))?;
    let of = parent.told(&namespace);
    let path = both.pointer("/path/value").and_then(Value::as_str).unwrap_or("/");
    Some(name.map_or_else(|| format!("{path} of {of}"), |name| format!("host name {name} ({path}) of {of}")))
}

fn parents(route: &HTTPRoute) -> &[ParentReference] {
    route.spec.parent_refs.as_deref().unwrap_or_default()
}

/// Whether two references meet at a listener: one that names none means all.
fn meet(mine: &HTTPRoute, one: &ParentReference, theirs: &HTTPRoute, other: &ParentReference) -> bool {
    let anywhere = |reference: &ParentReference, route: &HTTPRoute| ParentReference {
        namespace: reference.namespace.clone().or_else(|| route.namespace()),
        section_name: None,
        ..reference.clone()
    };
    let sections = one.section_name.is_none() || other.section_name.is_none() || one.section_name == other.section_name;
    sections && anywhere(one, mine).same(&anywhere(other, theirs), "")
}

/// What a route's rules match; a rule that names nothing matches everything.
fn matches(route: &HTTPRoute) -> impl Iterator<Item = Value> {
    let everything = || json!({"path": {"type": "PathPrefix", "value": "/"}});
    let of = move |rule: &HttpRouteRule| {
        let named = rule.rest.get("matches").and_then(Value::as_array).filter(|named| !named.is_empty());
        named.cloned().unwrap_or_else(|| vec![everything()])
    };
    route.spec.rules.iter().flatten().flat_map(of).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(namespace: &str, name: &str, created: Option<&str>, spec: Value) -> HTTPRoute {
        let mut spec = spec;
        if spec["parentRefs"].is_null() {
            spec["parentRefs"] = json!([{"name": "public", "namespace": "infra"}]);
        }
        if spec["rules"].is_null() {
            spec["rules"] = json!([{"backendRefs": [{"name": name, "port": 80}]}]);
        }
        let answer = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": OLD});
        let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": spec,
            "status": {"parents": [{"parentRef": spec["parentRefs"][0], "conditions": [answer]}]},
        }))
        .unwrap()
    }

    const OLD: Option<&str> = Some("2026-01-01T00:00:00Z");
    const YOUNG: Option<&str> = Some("2026-01-02T00:00:00Z");

    fn host(name: &str) -> Value {
        json!({"hostnames": [name]})
    }

    fn taken(mine: &HTTPRoute, other: &HTTPRoute) -> Option<String> {
        taken_by(mine, [mine, other].into_iter())
    }

    #[test]
    fn the_older_of_two_routes_with_one_host_name_wins_and_the_other_is_told_the_mend() {
        let (old, young) = (route("b", "x", OLD, host("a.example")), route("a", "y", YOUNG, host("a.example")));
        assert_eq!(taken(&old, &young), None);
        let told = "host name a.example (/) of Gateway infra/public is HTTPRoute b/x's, which is older: choose another host name, or remove that route";
        assert_eq!(taken(&young, &old).as_deref(), Some(told));
        let not_made_yet = route("a", "y", None, host("a.example"));
        assert!(taken(&not_made_yet, &young).is_none() && taken(&not_made_yet, &old).is_some());
        let same_age = route("a", "y", OLD, host("a.example"));
        assert!(taken(&old, &same_age).is_some() && taken(&same_age, &old).is_none(), "a/y comes before b/x");
    }

    #[test]
    fn other_names_other_matches_and_other_gateways_do_not_meet() {
        let mine = route("b", "x", YOUNG, host("a.example"));
        let elsewhere = json!({"hostnames": ["a.example"], "parentRefs": [{"name": "public"}]});
        let part = json!({"hostnames": ["a.example"], "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}]}]});
        for other in [host("b.example"), json!({}), elsewhere, part] {
            assert_eq!(taken(&mine, &route("a", "y", OLD, other.clone())), None, "{other}");
        }
        let mut going = route("a", "y", OLD, host("a.example"));
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        assert_eq!(taken(&mine, &going), None);
        let mut refused = route("a", "y", OLD, host("a.example"));
        refused.status = None;
        assert_eq!(taken(&mine, &refused), None);
    }

    #[test]
    fn a_route_without_host_names_a_listener_and_one_of_many_rules_are_seen() {
        let mine = route("infra", "x", YOUNG, json!({"parentRefs": [{"name": "public", "sectionName": "web"}]}));
        assert!(taken(&mine, &route("a", "y", OLD, json!({}))).unwrap().starts_with("/ of Gateway infra/public"));
        let rules = json!([
            {"matches": [{"path": {"type": "Exact", "value": "/v1"}}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]},
        ]);
        assert!(taken(&mine, &route("a", "y", OLD, json!({"rules": rules}))).is_some());
        let other_listener = json!({"parentRefs": [{"name": "public", "namespace": "infra", "sectionName": "tls"}]});
        assert_eq!(taken(&mine, &route("a", "y", OLD, other_listener)), None);
    }
}
