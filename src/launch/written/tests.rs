use proptest::prelude::*;

use std::time::Duration;

use super::*;
use crate::launch::resolve;

const GATEWAY: &str = r#", "traffic": {"gateway": {"parentRefs": [{"name": "public"}]}}"#;

fn spec(launch: &str, more: &str) -> AgentDeploymentSpec {
    let template =
        r#""template": {"spec": {"containers": [{"name": "agent", "image": "a", "ports": [{"containerPort": 1}]}]}}"#;
    serde_json::from_str(&format!(r#"{{{template}, "launch": {launch}{more}}}"#)).unwrap()
}

fn plan(text: &str) -> LaunchPlanSpec {
    serde_json::from_str(text).unwrap()
}

/// Two stages with a gate each, and one trigger.
fn production() -> LaunchPlanSpec {
    plan(
        r#"{"stageDefaults": {"deadline": {"after": "2h"}}, "stages": [
            {"name": "tenth", "traffic": 10, "minDuration": "10m", "gates": [{"name": "success", "metric": {"name": "success_rate", "value": {"atLeast": "99%"}}}]},
            {"name": "half", "traffic": 50, "gates": [{"name": "healthy", "health": {"for": "1m"}}]}],
          "triggers": [{"name": "crash-loop", "health": {"condition": "CrashLoop"}}]}"#,
    )
}

fn judged(launch: &str, more: &str, named: Option<&LaunchPlanSpec>) -> Result<Plan, String> {
    let written = WrittenPlan::of(&spec(launch, more), named);
    written.and_then(|written| written.resolve()).map_err(|error| error.to_string())
}

#[test]
fn the_built_in_plan_has_one_hash_however_it_is_asked_for() {
    for gateway in ["", GATEWAY] {
        let unasked = judged("{}", gateway, None).unwrap();
        assert_eq!(judged(r#"{"planRef": {"name": "basic"}}"#, gateway, None).unwrap(), unasked);
        assert_eq!(judged(r#"{"planRef": {"name": "basic"}, "tighten": {}}"#, gateway, None).unwrap(), unasked);
    }
    let own = plan(r#"{"stages": [{"name": "mine", "traffic": 0}]}"#);
    let named = judged(r#"{"planRef": {"name": "basic"}}"#, "", Some(&own)).unwrap();
    assert_eq!(named.stages[0].name, "mine", "a LaunchPlan of that name wins");
}

#[test]
fn a_plan_has_the_same_hash_inline_and_by_name() {
    let inline = serde_json::to_string(&production()).unwrap();
    let named = judged(r#"{"planRef": {"name": "production"}}"#, GATEWAY, Some(&production())).unwrap();
    assert_eq!(judged(&inline, GATEWAY, None).unwrap(), named);
}

#[test]
fn a_freeze_window_is_no_part_of_the_hash() {
    let window = r#"{"freeze": [{"name": "w", "schedule": "0 18 * * FRI", "duration": "62h"}]}"#;
    assert_eq!(resolve(&spec(window, "")).unwrap().hash, resolve(&spec("{}", "")).unwrap().hash);
}

#[test]
fn a_plan_that_is_missing_or_does_not_fit_names_the_mend() {
    let named = |launch: &str, gateway: &str, plan: Option<&LaunchPlanSpec>| judged(launch, gateway, plan).unwrap_err();
    let by_name = r#"{"planRef": {"name": "production"}}"#;
    assert!(named(by_name, GATEWAY, None).contains("LaunchPlan production does not exist: create it, or name another"));
    let shares = named(by_name, "", Some(&production()));
    assert!(shares.contains(r#"stage "tenth" asks for 10% of the traffic: add spec.traffic.gateway"#), "{shares}");
    let unknown = plan(
        r#"{"stages": [{"name": "a", "traffic": 0, "gates": [{"name": "g", "metric": {"name": "refunds_ok", "value": {"atLeast": "99%"}}}]}]}"#,
    );
    let unknown = named(by_name, "", Some(&unknown));
    let words = r#"LaunchPlan production: spec.stages[a].gates[g] names metric "refunds_ok", which is neither standard nor in spec.metrics.define"#;
    assert!(unknown.contains(words), "{unknown}");
    let bare =
        plan(r#"{"triggers": [{"name": "t", "metric": {"name": "error_rate", "ratioToStable": {"above": "200%"}}}]}"#);
    let bare = named(by_name, "", Some(&bare));
    assert!(bare.contains("LaunchPlan production: spec.triggers[t]") && bare.contains("add floor"), "{bare}");
}

#[test]
fn what_an_agent_adds_is_in_the_plan_and_nothing_of_the_plan_is_gone() {
    let tight = r#"{"planRef": {"name": "production"}, "tighten": {
        "stages": [{"name": "half", "minDuration": "30m", "gates": [{"name": "errors", "metric": {"name": "error_rate", "value": {"atMost": "1%"}}}]}],
        "triggers": [{"name": "unready", "health": {"condition": "Unready"}, "for": "10m"}]}}"#;
    let (loose, tight) = (
        judged(r#"{"planRef": {"name": "production"}}"#, GATEWAY, Some(&production())).unwrap(),
        judged(tight, GATEWAY, Some(&production())).unwrap(),
    );
    assert!(only_tightens(&loose, &tight) && !only_tightens(&tight, &loose));
    assert_ne!(loose.hash, tight.hash);
    let names: Vec<_> = tight.stages[1].gates.iter().map(|gate| gate.name.as_str()).collect();
    assert_eq!((names, tight.triggers.len()), (vec!["healthy", "errors"], 2));
}

#[test]
fn what_would_not_tighten_is_refused_with_the_field_and_the_mend() {
    let refused = |tighten: &str| {
        let launch = format!(r#"{{"planRef": {{"name": "production"}}, "tighten": {tighten}}}"#);
        judged(&launch, GATEWAY, Some(&production())).unwrap_err()
    };
    let many: Vec<_> =
        (0..16).map(|n| format!(r#"{{"name": "t{n}", "health": {{"condition": "Unready"}}}}"#)).collect();
    for (tighten, words) in [
        (
            r#"{"stages": [{"name": "tenth", "minDuration": "9m"}]}"#.to_owned(),
            "spec.launch.tighten.stages[tenth].minDuration: it is shorter than in the plan: raise it",
        ),
        (
            r#"{"stages": [{"name": "tenth", "minDuration": "2h"}]}"#.to_owned(),
            "stages[tenth].minDuration: it reaches the stage's deadline",
        ),
        (
            r#"{"stages": [{"name": "third"}]}"#.to_owned(),
            "LaunchPlan production has the stages tenth, half: name one of them",
        ),
        (
            r#"{"stages": [{"name": "tenth", "gates": [{"name": "success", "health": {}}]}]}"#.to_owned(),
            "stages[tenth].gates[success]: the plan has one of that name",
        ),
        (
            r#"{"triggers": [{"name": "crash-loop", "health": {"condition": "Unready"}}]}"#.to_owned(),
            "triggers[crash-loop]: the plan has one of that name",
        ),
        (
            r#"{"triggers": [{"name": "t", "metric": {"name": "refunds", "value": {"above": 1}}}]}"#.to_owned(),
            r#"spec.launch.tighten.triggers[t] names metric "refunds""#,
        ),
        (format!(r#"{{"triggers": [{}]}}"#, many.join(",")), "with those of the plan they are 17: 16 at most"),
    ] {
        let error = refused(&tighten);
        assert!(error.contains(words), "{tighten}: {error}");
    }
}

#[test]
fn a_copy_says_the_same_and_an_altered_one_does_not() {
    let written =
        WrittenPlan::of(&spec(r#"{"planRef": {"name": "production"}}"#, GATEWAY), Some(&production())).unwrap();
    let text = serde_json::to_string(&written).unwrap();
    let copy: WrittenPlan = serde_json::from_str(&text).unwrap();
    assert_eq!(copy.resolve(), written.resolve());
    let altered: WrittenPlan = serde_json::from_str(&text.replace("99%", "9%")).unwrap();
    assert_ne!(altered.resolve().unwrap().hash, written.resolve().unwrap().hash);
}

fn matching() -> Vec<api::RequestMatch> {
    serde_json::from_str(r#"[{"headers": [{"name": "x-risk", "value": "low"}]}]"#).unwrap()
}

#[test]
fn an_edit_that_makes_anything_easier_is_no_tightening() {
    let base = judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&production())).unwrap();
    let edited = |edit: fn(&mut LaunchPlanSpec)| {
        let mut plan = production();
        edit(&mut plan);
        judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&plan)).unwrap()
    };
    for (what, plan) in [
        ("a gate less", edited(|plan| plan.stages.as_mut().unwrap()[0].gates.clear())),
        ("a trigger less", edited(|plan| plan.triggers = Some(Vec::new()))),
        ("a stage less", edited(|plan| drop(plan.stages.as_mut().unwrap().pop()))),
        ("a shorter stage", edited(|plan| plan.stages.as_mut().unwrap()[0].min_duration = None)),
        ("another share", edited(|plan| plan.stages.as_mut().unwrap()[0].traffic = 20)),
        ("other requests", edited(|plan| plan.stages.as_mut().unwrap()[0].only = matching())),
        ("another deadline", edited(|plan| plan.stage_defaults = None)),
        ("another name", edited(|plan| plan.stages.as_mut().unwrap()[0].name = "x".to_owned())),
    ] {
        assert!(!only_tightens(&base, &plan), "{what}");
    }
    assert!(only_tightens(&base, &base));
}

#[test]
fn an_edit_that_asks_for_more_tightens_and_clocks_and_sources_are_what_they_were() {
    let soaks = plan(&serde_json::to_string(&production()).unwrap().replacen('{', r#"{"soak": "1h","#, 1));
    let base = judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&soaks)).unwrap();
    let second = Duration::from_secs(1);
    let with = |edit: fn(&mut Plan, Duration)| {
        let mut plan = base.clone();
        edit(&mut plan, second);
        only_tightens(&base, &plan)
    };
    assert!(with(|plan, second| plan.soak += second));
    assert!(!with(|plan, second| plan.soak -= second));
    assert!(with(|plan, second| plan.stages[0].min_duration += second));
    assert!(!with(|plan, second| plan.stages[0].min_duration -= second));
    assert!(!with(|plan, second| plan.stages[0].deadline += second));
    assert!(!with(|plan, second| plan.interval += second), "another interval samples other data");
    assert!(!with(|plan, _| plan.source = "other".to_owned()));
    assert!(with(|plan, _| plan.stages[1].gates = [&plan.stages[0].gates[..], &plan.stages[1].gates].concat()));
    assert!(with(|plan, _| plan.triggers.extend(plan.triggers.clone())));
}

#[test]
fn what_is_read_at_an_instant_has_no_window() {
    for (metric, window) in
        [("error_rate", true), ("latency_p95", true), ("policy_bypasses", false), ("runs_in_flight", false)]
    {
        let text = format!(
            r#"{{"triggers": [{{"name": "t", "metric": {{"name": "{metric}", "value": {{"above": "0"}}}}}}]}}"#
        );
        let resolved = judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&plan(&text)));
        let Ok(resolved) = resolved else { panic!("{metric}: {resolved:?}") };
        let super::super::TriggerCheck::Metric(question) = &resolved.triggers[0].check else { panic!("{metric}") };
        assert_eq!(question.window.is_some(), window, "{metric}");
    }
}

#[test]
fn a_number_has_no_unit_and_a_gauge_may_be_a_time() {
    let bound = |metric: &str, amount: &str| {
        let trigger = format!(r#"{{"name": "t", "metric": {{"name": "{metric}", "value": {{"above": "{amount}"}}}}}}"#);
        judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&plan(&format!(r#"{{"triggers": [{trigger}]}}"#))))
            .is_ok()
    };
    for (metric, amount, fits) in [
        ("policy_bypasses", "5", true),
        ("policy_bypasses", "5s", false),
        ("policy_bypasses", "5%", false),
        ("runs_in_flight", "5", true),
        ("runs_in_flight", "5s", true),
        ("runs_in_flight", "5%", false),
    ] {
        assert_eq!(bound(metric, amount), fits, "{metric} above {amount}");
    }
}

#[test]
fn the_plan_of_an_agent_that_cannot_be_understood_takes_nothing_from_it() {
    let own = spec(r#"{"soak": "1h"}"#, r#", "metrics": {"interval": "7s"}"#);
    assert_eq!(crate::launch::basic(&own), crate::launch::basic(&spec("{}", "")));
}

#[test]
fn the_windows_of_the_named_plan_count_beside_those_of_the_agent() {
    let window =
        |name: &str| format!(r#""freeze": [{{"name": "{name}", "schedule": "0 18 * * FRI", "duration": "62h"}}]"#);
    let places = |launch: &str, named: Option<&LaunchPlanSpec>| -> Vec<String> {
        freeze_windows(&spec(launch, ""), named).into_iter().map(|(place, _)| place).collect()
    };
    let own = format!(r#"{{"planRef": {{"name": "production"}}, {}}}"#, window("nights"));
    let theirs = plan(&format!("{{{}}}", window("peak-week")));
    let both = ["LaunchPlan production: spec.freeze[peak-week]", "spec.launch.freeze[nights]"];
    assert_eq!(places(&own, Some(&theirs)), both);
    assert_eq!(places(&own, None), both[1..]);
    assert!(places("{}", None).is_empty());
}

#[test]
fn a_multiple_of_a_share_of_events_needs_a_floor_and_nothing_else_does() {
    let with = |metric: &str| {
        let text = format!(r#"{{"triggers": [{{"name": "t", "metric": {metric}}}]}}"#);
        judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&plan(&text)))
    };
    assert!(with(r#"{"name": "error_rate", "ratioToStable": {"above": "200%", "floor": "1%"}}"#).is_ok());
    assert!(with(r#"{"name": "success_rate", "ratioToStable": {"below": "50%"}}"#).is_ok());
    assert!(with(r#"{"name": "error_rate", "value": {"above": "5%"}}"#).is_ok());
    assert!(with(r#"{"name": "latency_p95", "ratioToStable": {"above": "200%"}}"#).is_ok());
    let bare = with(r#"{"name": "error_rate", "ratioToStable": {"above": "200%"}}"#).unwrap_err();
    assert!(bare.contains("triggers[t]"), "{bare}");
}

#[test]
fn what_an_agent_adds_may_be_as_long_and_as_many_as_the_plan_allows() {
    let tighten = |tighten: &str| {
        let launch = format!(r#"{{"planRef": {{"name": "production"}}, "tighten": {tighten}}}"#);
        judged(&launch, GATEWAY, Some(&production()))
    };
    let same = tighten(r#"{"stages": [{"name": "tenth", "minDuration": "10m"}]}"#).unwrap();
    assert_eq!(same.stages[0].min_duration, Duration::from_mins(10));
    assert!(tighten(r#"{"stages": [{"name": "tenth", "minDuration": "119m"}]}"#).is_ok());
    let many: Vec<_> =
        (0..15).map(|n| format!(r#"{{"name": "t{n}", "health": {{"condition": "Unready"}}}}"#)).collect();
    assert_eq!(tighten(&format!(r#"{{"triggers": [{}]}}"#, many.join(","))).unwrap().triggers.len(), 16);
}

proptest! {
    /// Whatever an agent may write beside a plan: it is refused, or the plan is only tightened.
    #[test]
    fn an_agent_can_only_tighten(
        stages in prop::collection::vec((0usize..3, prop::option::of(0u64..200), 0usize..3), 0..3),
        triggers in prop::collection::vec(0usize..3, 0..3),
    ) {
        let gates = |n: usize| (0..n).map(|n| format!(r#"{{"name": "{}", "health": {{}}}}"#, ["mine", "success", "healthy"][n])).collect::<Vec<_>>().join(",");
        let stages: Vec<_> = stages.iter().map(|(stage, minutes, count)| {
            let longer = minutes.map(|m| format!(r#""minDuration": "{m}m","#)).unwrap_or_default();
            format!(r#"{{"name": "{}", {longer} "gates": [{}]}}"#, ["tenth", "half", "other"][*stage], gates(*count))
        }).collect();
        let triggers: Vec<_> = triggers.iter().map(|n| format!(r#"{{"name": "{}", "health": {{"condition": "Unready"}}}}"#, ["a", "b", "crash-loop"][*n])).collect();
        let launch = format!(r#"{{"planRef": {{"name": "p"}}, "tighten": {{"stages": [{}], "triggers": [{}]}}}}"#, stages.join(","), triggers.join(","));
        let base = judged(r#"{"planRef": {"name": "p"}}"#, GATEWAY, Some(&production())).unwrap();
        if let Ok(tight) = judged(&launch, GATEWAY, Some(&production())) {
            prop_assert!(only_tightens(&base, &tight), "{launch}");
        }
    }
}
