//! Routes as an API server holds them: read, edited, and nothing lost.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{Gateway, Outcome, annotations};
use crate::children::Owner;
use crate::launch::{Decision, Programmed, Route, Shares};

mod adopted;

const H1: &str = "1111111111";
const H2: &str = "2222222222";
const CLIMB: Mark<'_> = Mark { epoch: 7, launch: Some("refund-3"), decision: None };

fn owner() -> Owner {
    Owner { name: "refund".to_owned(), namespace: "support".to_owned(), uid: "u-1".to_owned() }
}

fn gateway() -> Gateway {
    serde_json::from_value(
        json!({"parentRefs": [{"name": "public", "namespace": "infra"}], "hostnames": ["refunds.example"]}),
    )
    .unwrap()
}

fn split(weight: i32) -> Shares {
    Shares::Split { stable: H1.to_owned(), canary: H2.to_owned(), weight }
}

fn decision_() -> Decision {
    Decision {
        launch: "refund-3".to_owned(),
        revision: H2.to_owned(),
        outcome: Outcome::RolledBack,
        reason: "ErrorsDoubled".to_owned(),
        message: "error_rate is 4.1%".to_owned(),
        at: "2026-01-01T00:00:01Z".parse().unwrap(),
    }
}

/// A backend as the API server holds it.
fn backend(name: &str, weight: i32) -> Value {
    json!({"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight})
}

/// The rendered route, with these backends in its rule.
fn routed(backends: &Value) -> HTTPRoute {
    let mut route = json!(render(&owner(), &gateway()));
    route["spec"]["rules"][0]["backendRefs"] = backends.clone();
    route["metadata"]["generation"] = json!(4);
    serde_json::from_value(route).unwrap()
}

fn shares(route: &HTTPRoute) -> Shares {
    match read(route, "refund") {
        Route::Seen { shares, .. } => shares,
        other => panic!("{other:?}"),
    }
}

// ---- rendering

#[test]
fn a_user_reads_a_route_at_rest_with_every_default_said() {
    let expected = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": "refund", "namespace": "support",
            "labels": {"app.kubernetes.io/managed-by": "sluice", "sluice.dev/agent": "refund"},
            "ownerReferences": [{
                "apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment", "name": "refund", "uid": "u-1",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public", "namespace": "infra"}],
            "hostnames": ["refunds.example"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"group": "", "kind": "Service", "name": "refund", "port": 80, "weight": 1}],
            }],
        },
    });
    let route = render(&owner(), &gateway());
    assert_eq!(json!(route), expected);
    assert_eq!(shares(&route), Shares::AtRest);
    assert!(same_base(&route, &gateway()));
}

#[test]
fn drift_of_gateways_and_host_names_is_seen_and_mended() {
    let split_route = with_shares(&render(&owner(), &gateway()), "refund", &split(25), &CLIMB);
    for (at, value) in [
        ("/spec/parentRefs/0/name", json!("other")),
        ("/spec/parentRefs/0/namespace", json!("support")),
        ("/spec/parentRefs", json!([])),
        ("/spec/hostnames", json!([])),
    ] {
        let mut drifted = json!(split_route);
        *drifted.pointer_mut(at).unwrap() = value;
        let drifted: HTTPRoute = serde_json::from_value(drifted).unwrap();
        assert!(!same_base(&drifted, &gateway()), "{at}");
        assert_eq!(with_base(&drifted, &gateway()), split_route, "{at}");
    }
}

#[test]
fn a_parent_said_in_fewer_words_is_the_same_parent() {
    let own: Gateway = serde_json::from_value(json!({"parentRefs": [{"name": "public"}]})).unwrap();
    let mut route = render(&owner(), &own);
    route.spec.parent_refs = serde_json::from_value(json!([{"name": "public", "namespace": "support"}])).unwrap();
    assert!(same_base(&route, &own));
    assert_eq!(with_base(&route, &own), route);
    route.spec.parent_refs = serde_json::from_value(json!([{"name": "public", "sectionName": "web"}])).unwrap();
    assert!(!same_base(&route, &own));
}

// ---- who gets the traffic

#[test]
fn shares_that_sluice_wrote_are_read_back() {
    for weight in [0, 1, 5, 50, 99, 100] {
        let route = with_shares(&routed(&json!([backend("refund", 1)])), "refund", &split(weight), &CLIMB);
        assert_eq!(shares(&route), split(weight));
        let backends = json!(route.spec.rules.as_ref().unwrap()[0].backend_refs);
        let expected =
            json!([backend(&format!("refund-{H1}"), 100 - weight), backend(&format!("refund-{H2}"), weight)]);
        assert_eq!(backends, expected);
        let rest = with_shares(&route, "refund", &Shares::AtRest, &CLIMB);
        assert_eq!(shares(&rest), Shares::AtRest);
    }
}

#[test]
fn whatever_sluice_did_not_write_is_foreign() {
    let (one, two) = (format!("refund-{H1}"), format!("refund-{H2}"));
    let with = |mut backend: Value, field: &str, value: Value| {
        backend[field] = value;
        backend
    };
    let no_weight = |name: &str| json!({"name": name, "port": 80});
    for (backends, why) in [
        (json!([]), "no rule of the HTTPRoute names Service refund: name it as a backend"),
        (json!([backend("shop", 1)]), "no rule of the HTTPRoute names Service refund: name it as a backend"),
        (json!([backend("refund", 0)]), "the HTTPRoute shares the traffic as [refund 0]"),
        (json!([backend(&one, 100)]), "the HTTPRoute shares the traffic as [refund-1111111111 100]"),
        (
            json!([backend(&one, 50), backend(&two, 25)]),
            "the HTTPRoute shares the traffic as [refund-1111111111 50, refund-2222222222 25]",
        ),
        (
            json!([backend(&one, -5), backend(&two, 105)]),
            "the HTTPRoute shares the traffic as [refund-1111111111 -5, refund-2222222222 105]",
        ),
        (
            json!([no_weight(&one), no_weight(&two)]),
            "the HTTPRoute shares the traffic as [refund-1111111111 1, refund-2222222222 1]",
        ),
        (
            json!([backend(&one, 50), backend(&one, 50)]),
            "the HTTPRoute shares the traffic as [refund-1111111111 50, refund-1111111111 50]",
        ),
        (
            json!([backend("refund", 95), backend(&two, 5)]),
            "the HTTPRoute shares the traffic as [refund 95, refund-2222222222 5]",
        ),
        (json!([backend("refund", 1), backend("shop", 1)]), r#"a rule of the HTTPRoute names backend "shop" too"#),
        (
            json!([backend(&one, 90), with(backend(&two, 10), "namespace", json!("other"))]),
            r#"a rule of the HTTPRoute names backend "refund-2222222222" too"#,
        ),
        (json!([with(backend("refund", 1), "port", json!(8080))]), r#"backend "refund" has port 8080, not 80"#),
    ] {
        let route = routed(&backends);
        assert_eq!(shares(&route), Shares::Foreign(why.to_owned()), "{backends}");
        let mended = with_shares(&route, "refund", &split(5), &CLIMB);
        assert_eq!(shares(&mended), split(5), "{backends}");
    }
}

#[test]
fn a_weight_that_is_absent_is_one() {
    assert_eq!(shares(&routed(&json!([{"name": "refund", "port": 80}]))), Shares::AtRest);
    let backends = json!([backend(&format!("refund-{H1}"), 99), {"name": format!("refund-{H2}"), "port": 80}]);
    assert_eq!(shares(&routed(&backends)), split(1));
}

#[test]
fn rules_that_disagree_are_foreign_and_an_edit_moves_all_of_the_agents_rules() {
    let mut route = routed(&json!([backend("refund", 1)]));
    let rules = route.spec.rules.as_mut().unwrap();
    rules.push(HttpRouteRule {
        backend_refs: serde_json::from_value(json!([backend("shop", 1)])).unwrap(),
        ..HttpRouteRule::default()
    });
    rules.push(rules[0].clone());
    let moved = with_shares(&route, "refund", &split(5), &CLIMB);
    let after = moved.spec.rules.as_ref().unwrap();
    assert_eq!(shares(&moved), split(5));
    assert_eq!((&after[1], &after[2]), (&route.spec.rules.as_ref().unwrap()[1], &after[0]));

    let mut torn = moved.clone();
    torn.spec.rules.as_mut().unwrap()[2] = route.spec.rules.as_ref().unwrap()[0].clone();
    assert_eq!(shares(&torn), Shares::Foreign("rules of the HTTPRoute share the traffic in different ways".to_owned()));
    assert_eq!(canary_share(&torn, "refund", Some(H1)), 5);
}

#[test]
fn the_weight_bound_counts_every_revision_but_stable() {
    let (one, two) = (format!("refund-{H1}"), format!("refund-{H2}"));
    for (backends, stable, share) in [
        (json!([backend("refund", 1)]), Some(H1), 0),
        (json!([backend(&one, 95), backend(&two, 5)]), Some(H1), 5),
        (json!([backend(&one, 95), backend(&two, 5)]), Some(H2), 95),
        (json!([backend(&one, 95), backend(&two, 5)]), None, 100),
        (json!([backend(&two, 1)]), Some(H1), 100),
        (json!([backend(&one, 2), backend(&two, 1)]), Some(H1), 34),
        (json!([{"name": one, "port": 80}, {"name": two, "port": 80}]), Some(H1), 50),
        (json!([backend(&one, 0), backend(&two, 0)]), Some(H1), 0),
        (json!([backend("shop", 1)]), Some(H1), 0),
        (json!([]), Some(H1), 0),
    ] {
        assert_eq!(canary_share(&routed(&backends), "refund", stable), share, "{backends}");
    }
}

// ---- what an edit leaves alone

#[test]
fn a_route_that_is_right_is_not_changed() {
    let route = with_shares(&routed(&json!([{"name": "refund", "port": 80}])), "refund", &Shares::AtRest, &CLIMB);
    assert_eq!(json!(route.spec.rules.as_ref().unwrap()[0].backend_refs), json!([{"name": "refund", "port": 80}]));
    assert_eq!(with_shares(&route, "refund", &Shares::AtRest, &CLIMB), route);
}

#[test]
fn what_a_user_added_to_a_backend_goes_with_it_there_and_back() {
    let mut filtered = backend("refund", 1);
    filtered["filters"] = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]);
    let route = routed(&json!([filtered]));
    let away = with_shares(&route, "refund", &split(5), &CLIMB);
    for backend in away.spec.rules.as_ref().unwrap()[0].backend_refs.as_ref().unwrap() {
        assert_eq!(backend.rest["filters"], filtered["filters"]);
    }
    let back = with_shares(&away, "refund", &Shares::AtRest, &CLIMB);
    assert_eq!(back.spec, route.spec);
}

#[test]
fn the_decision_is_written_with_the_falling_weight_and_goes_when_a_launch_climbs() {
    let route = routed(&json!([backend("refund", 1)]));
    let climbing = with_shares(&route, "refund", &split(25), &CLIMB);
    let of = |route: &HTTPRoute| route.metadata.annotations.clone().unwrap();
    assert_eq!(decision(&of(&climbing)), None);
    assert_eq!((epoch(&of(&climbing)), of(&climbing)[annotations::LAUNCH].as_str()), (Some(7), "refund-3"));

    let decided = decision_();
    let falling = with_shares(&climbing, "refund", &split(0), &Mark { epoch: 8, decision: Some(&decided), ..CLIMB });
    assert_eq!(shares(&falling), split(0));
    assert_eq!(decision(&of(&falling)), Some(decided));
    assert_eq!(epoch(&of(&falling)), Some(8));

    let again =
        with_shares(&falling, "refund", &split(5), &Mark { epoch: 9, launch: Some("refund-4"), decision: None });
    assert_eq!(decision(&of(&again)), None);
    assert_eq!(of(&again).len(), 2);
}

#[test]
fn foreign_shares_are_nobodys_wish() {
    let route = routed(&json!([backend("refund", 1)]));
    let same = with_shares(&route, "refund", &Shares::Foreign("x".to_owned()), &CLIMB);
    assert_eq!(same.spec, route.spec);
}

/// A route as someone else may have extended it: unknown fields wherever there can be some.
fn any_route() -> impl Strategy<Value = Value> {
    let unknown = || {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1000i32..1000).prop_map(|number| Value::from(f64::from(number) / 8.0)),
            ".{0,5}".prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{1,3}", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    };
    let rule = (unknown(), unknown(), 0..4usize).prop_map(|(rule, backend, kind)| {
        let name = ["refund", "shop", "refund-1111111111", "refund-shop"][kind];
        json!({
            "matches": [], "xRule": rule,
            "backendRefs": [{"name": name, "port": 80, "weight": 3, "xBackend": backend}],
        })
    });
    let rules = proptest::collection::vec(rule, 1..4);
    (unknown(), unknown(), unknown(), rules).prop_map(|(spec, parent, status, rules)| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {
                "name": "refund", "namespace": "support", "resourceVersion": "12", "generation": 3,
                "annotations": {"team": "x", "sluice.dev/reason": "old"},
                "finalizers": ["a/b"],
                "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"parentRefs": [{"name": "public", "port": 80, "xParent": parent}], "rules": rules, "xSpec": spec},
            "status": {
                "parents": [{"parentRef": {"name": "public"}, "controllerName": "c", "xStatus": status}],
                "xAll": status,
            },
        })
    })
}

/// The route without what an edit may change.
fn untouched(mut route: Value) -> Value {
    let annotations = route["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.retain(|key, _| !key.starts_with("sluice.dev/"));
    let agents = |rule: &Value| {
        let mut names = rule["backendRefs"].as_array().unwrap().iter().map(|backend| backend["name"].as_str().unwrap());
        names.any(|name| name == "refund" || name.ends_with(H1) || name.ends_with(H2))
    };
    let rules = route["spec"]["rules"].as_array_mut().unwrap();
    let any = rules.iter().any(agents);
    for (index, rule) in rules.iter_mut().enumerate() {
        if agents(rule) || !any && index == 0 {
            rule["backendRefs"] = json!("ours");
        }
    }
    route
}

proptest! {
    #[test]
    fn a_route_is_read_and_written_without_losing_a_field(route in any_route()) {
        let typed: HTTPRoute = serde_json::from_value(route.clone()).unwrap();
        prop_assert_eq!(json!(typed), route);
    }

    #[test]
    fn an_edit_changes_backends_of_the_agent_and_our_annotations_alone(route in any_route(), weight in 0..=100i32) {
        let typed: HTTPRoute = serde_json::from_value(route.clone()).unwrap();
        let decided = decision_();
        for mark in [CLIMB, Mark { decision: Some(&decided), ..CLIMB }] {
            let edited = with_shares(&typed, "refund", &split(weight), &mark);
            prop_assert_eq!(untouched(json!(edited)), untouched(route.clone()));
            prop_assert_eq!(shares(&edited), split(weight));
            prop_assert_eq!(canary_share(&edited, "refund", Some(H1)), weight);
            prop_assert_eq!(&with_shares(&edited, "refund", &split(weight), &mark), &edited);
            let rest = with_shares(&edited, "refund", &Shares::AtRest, &mark);
            prop_assert_eq!(untouched(json!(rest)), untouched(route.clone()));
        }
    }
}

// ---- what the gateways say

fn condition(type_: &str, status: &str, generation: i64) -> Value {
    let reason = if status == "True" { "Fine" } else { "NoMatchingListenerHostname" };
    json!({
        "type": type_, "status": status, "reason": reason, "message": "told", "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// What is read when each parent is answered so.
fn programmed(parents: &Value, answers: &[(Value, Vec<Value>)]) -> Programmed {
    let mut route = json!(routed(&json!([backend("refund", 1)])));
    route["spec"]["parentRefs"] = parents.clone();
    let entry = |(parent, conditions): &(Value, Vec<Value>)| json!({"parentRef": parent, "controllerName": "c", "conditions": conditions});
    route["status"] = json!({"parents": answers.iter().map(entry).collect::<Vec<_>>()});
    match read(&serde_json::from_value(route).unwrap(), "refund") {
        Route::Seen { programmed, .. } => programmed,
        other => panic!("{other:?}"),
    }
}

fn good() -> Vec<Value> {
    vec![condition("Accepted", "True", 4), condition("ResolvedRefs", "True", 4)]
}

fn public() -> Value {
    json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public", "namespace": "infra"})
}

#[test]
fn a_route_is_programmed_when_every_parent_took_this_generation() {
    let own = json!({"name": "own", "sectionName": "web"});
    let told = json!({"name": "own", "namespace": "support", "sectionName": "web"});
    let parents = json!([public(), own]);
    assert_eq!(programmed(&parents, &[(public(), good()), (told.clone(), good())]), Programmed::Yes);
    for answers in [vec![(public(), good())], vec![(public(), good()), (json!({"name": "own"}), good())]] {
        let Programmed::Silent(why) = programmed(&parents, &answers) else { panic!("one parent never answered") };
        assert!(why.starts_with("Gateway support/own (listener web) says nothing"), "{why}");
    }
    let behind = vec![condition("Accepted", "True", 3), condition("ResolvedRefs", "True", 3)];
    assert_eq!(programmed(&parents, &[(public(), behind)]), Programmed::Pending, "it may serve what was before");
}

#[test]
fn an_answer_to_another_generation_or_half_an_answer_is_pending() {
    let unnumbered = || {
        let mut condition = condition("Accepted", "True", 4);
        condition.as_object_mut().unwrap().remove("observedGeneration");
        condition
    };
    for conditions in [
        vec![],
        vec![condition("Accepted", "True", 4)],
        vec![condition("Accepted", "True", 3), condition("ResolvedRefs", "True", 4)],
        vec![condition("Accepted", "True", 5), condition("ResolvedRefs", "True", 5)],
        vec![condition("Accepted", "False", 3), condition("ResolvedRefs", "True", 4)],
        vec![condition("Accepted", "Unknown", 4), condition("ResolvedRefs", "True", 4)],
        vec![unnumbered(), condition("ResolvedRefs", "True", 4)],
    ] {
        assert_eq!(
            programmed(&json!([public()]), &[(public(), conditions.clone())]),
            Programmed::Pending,
            "{conditions:?}"
        );
    }
}

#[test]
fn a_refusal_names_the_parent_the_reason_and_the_mend() {
    let no = vec![condition("Accepted", "False", 4), condition("ResolvedRefs", "True", 4)];
    let told = "Gateway infra/public refuses the HTTPRoute: NoMatchingListenerHostname: told; \
                correct spec.traffic.gateway.hostnames, or the listener's hostname";
    assert_eq!(programmed(&json!([public()]), &[(public(), no)]), Programmed::Refused(told.to_owned()));
    let unresolved = vec![condition("Accepted", "True", 4), condition("ResolvedRefs", "False", 4)];
    assert!(matches!(programmed(&json!([public()]), &[(public(), unresolved)]), Programmed::Refused(_)));
    assert!(matches!(programmed(&json!([]), &[]), Programmed::Refused(_)));
}

#[test]
fn a_stale_answer_of_a_former_controller_does_not_hide_the_present_one() {
    let old = vec![condition("Accepted", "True", 1), condition("ResolvedRefs", "True", 1)];
    assert_eq!(programmed(&json!([public()]), &[(public(), old), (public(), good())]), Programmed::Yes);
}
