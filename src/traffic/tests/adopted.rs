//! Routes of users: shared, followed when Git changes them, and put back as they were.

use kube::ResourceExt;

use super::*;

const AT_REST: Mark<'_> = Mark { epoch: 9, launch: None, decision: None };

/// A user's route with these backends in its rules.
fn users(rules: &[Value]) -> HTTPRoute {
    let rules: Vec<Value> = rules
        .iter()
        .enumerate()
        .map(|(index, backends)| {
            json!({
                "matches": [{"path": {"type": "PathPrefix", "value": format!("/{index}")}}],
                "filters": [{"type": "X", "x": 1.5}], "backendRefs": backends, "timeouts": {"request": "10s"},
            })
        })
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "shop", "namespace": "support", "generation": 4, "annotations": {"team": "x"}},
        "spec": {"parentRefs": [{"name": "public"}], "hostnames": ["shop.example"], "rules": rules},
    }))
    .unwrap()
}

fn backends(route: &HTTPRoute, rule: usize) -> Value {
    json!(route.spec.rules.as_ref().unwrap()[rule].backend_refs)
}

fn seen(route: &HTTPRoute, agent: &str) -> Shares {
    match read_adopted(route, agent) {
        Route::Seen { shares, .. } => shares,
        other => panic!("{other:?}"),
    }
}

fn share(route: &HTTPRoute, agent: &str, shares: &Shares) -> HTTPRoute {
    with_adopted_shares(route, agent, shares, &CLIMB)
}

fn rest(route: &HTTPRoute, agent: &str) -> HTTPRoute {
    with_adopted_shares(route, agent, &Shares::AtRest, &AT_REST)
}

fn weights(route: &HTTPRoute, rule: usize) -> Vec<(String, i64)> {
    let all = backends(route, rule);
    let each = all.as_array().unwrap().iter();
    each.map(|it| (it["name"].as_str().unwrap().to_owned(), it["weight"].as_i64().unwrap_or(1))).collect()
}

fn named(list: &[(&str, i64)]) -> Vec<(String, i64)> {
    list.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

const ONE: &str = "refund-1111111111";
const TWO: &str = "refund-2222222222";

#[test]
fn a_backend_becomes_two_with_the_same_share_and_the_others_keep_theirs() {
    let route = users(&[
        json!([{"name": "refund", "port": 80}]),
        json!([backend("shop", 1), {"name": "refund", "port": 8080, "weight": 3, "filters": [{"x": 1}]}]),
        json!([backend("shop", 7)]),
    ]);
    assert_eq!(seen(&route, "refund"), Shares::AtRest);
    let shared = share(&route, "refund", &split(5));
    assert_eq!(weights(&shared, 0), named(&[(ONE, 95), (TWO, 5)]));
    assert_eq!(weights(&shared, 1), named(&[("shop", 100), (ONE, 285), (TWO, 15)]));
    assert_eq!(backends(&shared, 2), backends(&route, 2));
    for new in [1, 2] {
        assert_eq!(backends(&shared, 1)[new]["port"], 8080);
        assert_eq!(backends(&shared, 1)[new]["filters"], json!([{"x": 1}]));
    }
    assert_eq!((seen(&shared, "refund"), canary_share(&shared, "refund", Some(H1))), (split(5), 5));
    let rested = rest(&share(&share(&shared, "refund", &split(25)), "refund", &split(0)), "refund");
    assert_eq!(json!(rested.spec), json!(route.spec), "a weight that was absent is absent again");
    assert!(!rested.annotations().contains_key(annotations::ORIGINAL));
    assert_eq!(released(&rested, "refund"), route);
    assert_eq!(released(&shared, "refund"), route);
}

#[test]
fn the_decision_is_written_under_the_agents_name() {
    let decided = decision_();
    let route = users(&[json!([backend("refund", 1), backend("other", 1)])]);
    let shared = share(&route, "refund", &split(25));
    let falling =
        with_adopted_shares(&shared, "refund", &split(0), &Mark { epoch: 8, decision: Some(&decided), ..CLIMB });
    let found = falling.annotations();
    assert_eq!(found["sluice.dev/refund.decision"], "RolledBack");
    assert_eq!(decision(&marks_of(found, "refund")), Some(decided));
    assert_eq!(epoch(&marks_of(found, "refund")), Some(8));
    assert_eq!(decision(&marks_of(found, "other")), None);
    let both = share(&falling, "other", &split(5));
    assert_eq!(marked_by(&both), ["other", "refund"].into());
    assert_eq!(decision(&marks_of(both.annotations(), "refund")), decision(&marks_of(found, "refund")));
    assert_eq!(marked_by(&released(&both, "refund")), ["other"].into());
}

#[test]
fn two_agents_in_one_rule_touch_their_own_backends_only() {
    let route = users(&[json!([backend("refund", 1), backend("other", 3), backend("shop", 1)])]);
    let first = share(&route, "refund", &split(10));
    assert_eq!(weights(&first, 0), named(&[(ONE, 90), (TWO, 10), ("other", 300), ("shop", 100)]));
    let both = share(&first, "other", &split(50));
    let (o1, o2) = (format!("other-{H1}"), format!("other-{H2}"));
    assert_eq!(weights(&both, 0), named(&[(ONE, 90), (TWO, 10), (&o1, 150), (&o2, 150), ("shop", 100)]));
    assert_eq!((seen(&both, "refund"), seen(&both, "other")), (split(10), split(50)));
    let one = rest(&both, "refund");
    assert_eq!(weights(&one, 0), named(&[("refund", 100), (&o1, 150), (&o2, 150), ("shop", 100)]));
    assert_eq!((seen(&one, "refund"), seen(&one, "other")), (Shares::AtRest, split(50)));
    assert_eq!(rest(&one, "other").spec, route.spec);
}

#[test]
fn what_git_says_anew_in_a_launch_is_the_new_original() {
    let route = users(&[json!([backend("refund", 1), backend("shop", 1)]), json!([backend("refund", 1)])]);
    let mut applied = share(&route, "refund", &split(25));
    let fresh = users(&[json!([backend("refund", 1), backend("shop", 9)]), json!([backend("refund", 1)])]);
    applied.spec = fresh.spec.clone();
    assert_eq!(seen(&applied, "refund"), Shares::AtRest, "the drift is seen");
    let again = share(&applied, "refund", &split(25));
    assert_eq!(weights(&again, 0), named(&[(ONE, 75), (TWO, 25), ("shop", 900)]));
    assert_eq!(rest(&again, "refund").spec, fresh.spec);

    let mut torn = share(&route, "refund", &split(25));
    torn.spec.rules.as_mut().unwrap()[0] = fresh.spec.rules.as_ref().unwrap()[0].clone();
    assert!(matches!(seen(&torn, "refund"), Shares::Foreign(_)), "one rule of two was written");
    assert_eq!(rest(&torn, "refund").spec, fresh.spec);
}

#[test]
fn a_rule_that_moved_is_put_back_where_it_is_now() {
    let route = users(&[json!([{"name": "refund", "port": 80}]), json!([{"name": "refund", "port": 80, "weight": 1}])]);
    let mut shared = share(&route, "refund", &split(25));
    let rules = shared.spec.rules.as_mut().unwrap();
    rules.insert(
        0,
        HttpRouteRule {
            backend_refs: serde_json::from_value(json!([backend("shop", 1)])).unwrap(),
            ..HttpRouteRule::default()
        },
    );
    let rested = rest(&shared, "refund");
    assert_eq!(weights(&rested, 1), named(&[("refund", 1)]));
    assert_eq!(weights(&rested, 2), named(&[("refund", 1)]));
}

#[test]
fn without_its_memory_a_route_comes_back_with_the_same_shares() {
    let route = users(&[json!([backend("refund", 3), backend("shop", 2)])]);
    for lost in [None, Some("no json"), Some("[]"), Some("{}")] {
        let mut shared = share(&route, "refund", &split(25));
        let kept = shared.metadata.annotations.as_mut().unwrap();
        kept.remove(annotations::ORIGINAL);
        kept.extend(lost.map(|text| (annotations::ORIGINAL.to_owned(), text.to_owned())));
        assert_eq!(seen(&shared, "refund"), split(25));
        assert_eq!(weights(&share(&shared, "refund", &split(50)), 0), named(&[(ONE, 150), (TWO, 150), ("shop", 200)]));
        assert_eq!(rest(&shared, "refund").spec, route.spec);
    }
    // Somebody gave another backend another weight by hand: our share of the rest stays what it is.
    let mut edited = share(&route, "refund", &split(25));
    edited.spec.rules.as_mut().unwrap()[0].backend_refs.as_mut().unwrap()[2].weight = Some(50);
    assert_eq!(seen(&edited, "refund"), split(25));
    assert_eq!(weights(&rest(&edited, "refund"), 0), named(&[("refund", 6), ("shop", 1)]));
}

#[test]
fn what_somebody_wrote_into_a_shared_rule_is_foreign_and_can_be_mended() {
    for (list, why) in [
        (json!([backend("refund", 95), backend(TWO, 5)]), "[refund 95, refund-2222222222 5]"),
        (json!([backend(ONE, 100)]), "[refund-1111111111 100]"),
        (json!([backend(ONE, 2), backend(TWO, 1)]), "[refund-1111111111 2, refund-2222222222 1]"),
        (json!([backend(ONE, 0), backend(TWO, 0)]), "[refund-1111111111 0, refund-2222222222 0]"),
        (json!([backend(ONE, 50), backend(ONE, 50)]), "[refund-1111111111 50, refund-1111111111 50]"),
    ] {
        let route = users(&[list]);
        assert_eq!(seen(&route, "refund"), Shares::Foreign(format!("the HTTPRoute shares the traffic as {why}")));
        assert_eq!(seen(&rest(&route, "refund"), "refund"), Shares::AtRest);
        assert_eq!(seen(&share(&route, "refund", &split(5)), "refund"), split(5));
    }
}

#[test]
fn a_route_that_cannot_be_shared_says_why_and_the_mend() {
    let why = |route: &HTTPRoute| match read_adopted(route, "refund") {
        Route::Unshared(why) => why,
        other => panic!("{other:?}"),
    };
    for nobody in [json!([]), json!([backend("shop", 1)]), json!([backend("refund", 0)])] {
        let route = users(&[nobody]);
        assert_eq!(
            why(&route),
            "no rule of HTTPRoute shop sends traffic to Service refund: name it in backendRefs, or correct \
             spec.traffic.httpRoute.name"
        );
        assert_eq!(share(&route, "refund", &split(5)).spec, route.spec);
    }
    let many: Vec<Value> = (0..16).map(|n| backend(if n == 0 { "refund" } else { "shop" }, 1)).collect();
    for full in
        [json!([backend("refund", 10_001)]), json!([backend("refund", 1), backend("shop", 10_001)]), json!(many)]
    {
        let route = users(&[full]);
        assert!(why(&route).contains("leave no room to share the traffic of Service refund: use weights up to 10000"));
        assert_eq!(share(&route, "refund", &split(5)).spec, route.spec);
    }
    let mut made = users(&[json!([backend("refund", 1)])]);
    made.metadata.owner_references = Some(vec![owner().reference()]);
    assert_eq!(
        why(&made),
        "Sluice made HTTPRoute shop for refund: name a route of yours, or remove its ownerReferences to make it yours"
    );
}

#[test]
fn the_largest_weights_can_be_shared() {
    let route = users(&[json!([backend("refund", 10_000), backend("shop", 10_000)])]);
    assert_eq!(
        weights(&share(&route, "refund", &split(0)), 0),
        named(&[(ONE, 1_000_000), (TWO, 0), ("shop", 1_000_000)])
    );
}

#[test]
fn a_gateway_that_refuses_a_users_route_names_the_route() {
    let mut route = json!(users(&[json!([backend("refund", 1)])]));
    let told = |route: &Value| match read_adopted(&serde_json::from_value(route.clone()).unwrap(), "refund") {
        Route::Seen { programmed: Programmed::Refused(why) | Programmed::Silent(why), .. } => why,
        other => panic!("{other:?}"),
    };
    assert!(told(&route).ends_with("or correct the HTTPRoute's parentRefs"));
    let no = vec![condition("Accepted", "False", 4)];
    route["status"] = json!({"parents": [{"parentRef": {"name": "public"}, "controllerName": "c", "conditions": no}]});
    assert!(
        told(&route).ends_with("correct the HTTPRoute's hostnames, or the listener's hostname"),
        "{}",
        told(&route)
    );
}

/// Agents that share one route, and what each asks for in turn; `None` when Git's version is applied again.
fn moves() -> impl Strategy<Value = Vec<(usize, Option<Shares>)>> {
    let shares = prop_oneof![
        1 => Just(None),
        1 => Just(Some(Shares::AtRest)),
        4 => (0..=100i32).prop_map(|weight| Some(split(weight))),
        1 => (0..=100i32).prop_map(|weight| Some(matched(weight, "low"))),
        1 => (0..=100i32).prop_map(|weight| Some(matched(weight, "high"))),
    ];
    proptest::collection::vec((0..3usize, shares), 1..12)
}

fn matched(weight: i32, risk: &str) -> Shares {
    let only = serde_json::from_value(json!([{"headers": [{"name": "x-risk", "value": risk}]}])).unwrap();
    Shares::Matched { stable: H1.to_owned(), canary: H2.to_owned(), weight, only }
}

/// Without the rules for requests that match.
fn written(route: &HTTPRoute) -> HTTPRoute {
    let mut route = route.clone();
    let added = |rule: &HttpRouteRule| json!(rule).to_string().contains("x-risk");
    route.spec.rules.as_mut().unwrap().retain(|rule| !added(rule));
    route
}

const AGENTS: [&str; 3] = ["refund", "other", "re"];

/// A rule as anybody may write it: agents once or twice, with or without weights, filters and unknown fields.
fn any_rule() -> impl Strategy<Value = Value> {
    let weight = prop_oneof![Just(None), Just(Some(0)), (1..500i64).prop_map(Some)];
    let one = (0..5usize, weight, any::<bool>(), ".{0,4}").prop_map(|(who, weight, defaults, extra)| {
        let name = ["refund", "other", "re", "shop", "refund-shop"][who];
        let mut backend = json!({"name": name, "port": 80 + who, "x": extra});
        if defaults {
            backend["group"] = json!("");
            backend["kind"] = json!("Service");
        }
        if let Some(weight) = weight {
            backend["weight"] = json!(weight);
        }
        backend
    });
    (proptest::collection::vec(one, 0..5), ".{0,4}")
        .prop_map(|(backends, extra)| json!({"backendRefs": backends, "y": extra}))
}

/// What each name gets of a rule, where all revisions of an agent count as the agent.
fn shares_by_name(route: &HTTPRoute) -> Vec<BTreeMap<String, (i64, i64)>> {
    let rules = route.spec.rules.iter().flatten();
    rules
        .map(|rule| {
            let backends = rule.backend_refs.as_deref().unwrap_or_default();
            let all = backends.iter().map(|backend| i64::from(backend.share())).sum::<i64>().max(1);
            let mut by_name = BTreeMap::new();
            for backend in backends {
                let name =
                    backend.name.strip_suffix(&format!("-{H1}")).or(backend.name.strip_suffix(&format!("-{H2}")));
                let entry = by_name.entry(name.unwrap_or(&backend.name).to_owned()).or_insert((0, all));
                entry.0 += i64::from(backend.share());
            }
            by_name
        })
        .collect()
}

proptest! {
    #[test]
    fn whatever_agents_do_everybody_keeps_their_share_and_the_route_comes_back_byte_for_byte(
        mut json in any_route(), rules in proptest::collection::vec(any_rule(), 1..4), moves in moves(),
    ) {
        json["spec"]["rules"] = json!(rules);
        let route: HTTPRoute = serde_json::from_value(json.clone()).unwrap();
        let takes_part = |agent: &str| matches!(read_adopted(&route, agent), Route::Seen { .. });
        let mut now = route.clone();
        let mut wanted = [Shares::AtRest, Shares::AtRest, Shares::AtRest];
        for (who, asked) in moves {
            let agent = AGENTS[who];
            let Some(asked) = asked else {
                now.spec.clone_from(&route.spec);
                wanted.fill(Shares::AtRest);
                continue;
            };
            now = with_adopted_shares(&now, agent, &asked, &CLIMB);
            prop_assert_eq!(&with_adopted_shares(&now, agent, &asked, &CLIMB), &now, "a second write changes nothing");
            now = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
            wanted[who] = asked;
            for (agent, wanted) in AGENTS.iter().zip(&wanted).filter(|(agent, _)| takes_part(agent)) {
                prop_assert_eq!(&seen(&now, agent), wanted);
                let weight = match wanted {
                    Shares::Split { weight, .. } | Shares::Matched { weight, .. } => *weight,
                    _ => 0,
                };
                prop_assert_eq!(canary_share(&now, agent, Some(H1)), weight);
            }
            for (before, after) in shares_by_name(&route).iter().zip(shares_by_name(&written(&now))) {
                for (name, (share, all)) in before {
                    let (part, whole) = after[name];
                    prop_assert_eq!(share * whole, part * all, "{}", name);
                }
            }
        }
        for agent in AGENTS {
            now = released(&now, agent);
        }
        prop_assert_eq!(json!(now), json);
    }
}

// ---- a share of some requests

#[test]
fn a_share_of_some_requests_is_a_rule_before_the_one_it_was_made_from() {
    let route = users(&[json!([{"name": "refund", "port": 80}, backend("shop", 1)]), json!([backend("shop", 7)])]);
    let shared = share(&route, "refund", &matched(10, "low"));
    let rules = json!(shared.spec.rules);
    assert_eq!(rules.as_array().unwrap().len(), 3);
    let header = json!({"type": "Exact", "name": "x-risk", "value": "low"});
    assert_eq!(rules[0]["matches"], json!([{"path": {"type": "PathPrefix", "value": "/0"}, "headers": [header]}]));
    assert_eq!(weights(&shared, 0), named(&[(ONE, 90), (TWO, 10), ("shop", 100)]));
    assert_eq!((&rules[0]["filters"], &rules[0]["timeouts"]), (&rules[1]["filters"], &rules[1]["timeouts"]));
    assert_eq!(json!([rules[1], rules[2]]), json!(route.spec.rules), "all others stay with stable, as they were");
    assert_eq!((seen(&shared, "refund"), canary_share(&shared, "refund", Some(H1))), (matched(10, "low"), 10));

    let wide = share(&shared, "refund", &split(25));
    assert_eq!((seen(&wide, "refund"), wide.spec.rules.as_ref().unwrap().len()), (split(25), 2));
    let back = share(&wide, "refund", &matched(30, "high"));
    assert_eq!(seen(&back, "refund"), matched(30, "high"));
    assert_eq!(rest(&back, "refund").spec, route.spec);
    assert_eq!(released(&shared, "refund"), route);
}

#[test]
fn a_rendered_route_shares_some_requests_too() {
    let route = routed(&json!([backend("refund", 1)]));
    let shared = with_shares(&route, "refund", &matched(5, "low"), &CLIMB);
    assert_eq!(shares(&shared), matched(5, "low"));
    assert_eq!(with_shares(&shared, "refund", &matched(5, "low"), &CLIMB), shared);
    assert_eq!(canary_share(&shared, "refund", Some(H1)), 5);
    assert_eq!(shares(&with_shares(&shared, "refund", &matched(0, "low"), &CLIMB)), matched(0, "low"));
    let wide = with_shares(&shared, "refund", &split(25), &CLIMB);
    assert_eq!((shares(&wide), wide.spec.rules.as_ref().unwrap().len()), (split(25), 1));
    let rested = with_shares(&shared, "refund", &Shares::AtRest, &CLIMB);
    assert_eq!(rested.spec, route.spec);
    assert!(!rested.annotations().contains_key(annotations::ORIGINAL));
    let torn =
        with_shares(&routed(&json!([backend("refund", 95), backend(TWO, 5)])), "refund", &matched(5, "low"), &CLIMB);
    assert_eq!(shares(&torn), matched(5, "low"));
}

#[test]
fn every_match_of_a_rule_is_narrowed_and_one_that_contradicts_is_left_out() {
    let mut route = json!(users(&[json!([backend("refund", 1)])]));
    let header = |name: &str, value: &str| json!({"type": "Exact", "name": name, "value": value});
    route["spec"]["rules"][0]["name"] = json!("main");
    route["spec"]["rules"][0]["matches"] = json!([
        {"path": {"value": "/a"}, "headers": [header("X-Risk", "low")]},
        {"path": {"value": "/b"}, "headers": [header("x-risk", "high")]},
        {"path": {"value": "/c"}, "headers": [{"type": "RegularExpression", "name": "x-risk", "value": "low"}]},
        {"method": "GET", "headers": [header("y", "1")]},
    ]);
    let route: HTTPRoute = serde_json::from_value(route).unwrap();
    let shared = json!(share(&route, "refund", &matched(5, "low")).spec.rules);
    assert_eq!(
        shared[0]["matches"],
        json!([
            {"path": {"value": "/a"}, "headers": [header("X-Risk", "low")]},
            {"method": "GET", "headers": [header("y", "1"), header("x-risk", "low")]},
        ])
    );
    assert_eq!((shared[0].get("name"), &shared[1]["name"]), (None, &json!("main")));
}

#[test]
fn a_rule_for_some_requests_that_somebody_edited_is_foreign_and_goes() {
    let route = users(&[json!([backend("refund", 1)]), json!([backend("refund", 1)])]);
    let shared = share(&route, "refund", &matched(5, "low"));
    let mut less = shared.clone();
    less.spec.rules.as_mut().unwrap().remove(0);
    let mut more = shared.clone();
    more.spec.rules.as_mut().unwrap()[0].backend_refs.as_mut().unwrap()[1].weight = Some(95);
    for edited in [less, more] {
        assert!(matches!(seen(&edited, "refund"), Shares::Foreign(_)));
        assert_eq!(share(&edited, "refund", &matched(5, "low")).spec, shared.spec);
        assert_eq!(rest(&edited, "refund").spec, route.spec);
    }
    let mut git = shared.clone();
    git.spec = route.spec.clone();
    assert_eq!(seen(&git, "refund"), Shares::AtRest);
}
