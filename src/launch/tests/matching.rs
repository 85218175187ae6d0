//! Stages that share some requests only.

use super::*;
use crate::api::RequestMatch;
use crate::launch::Frozen;

pub(super) fn only(risk: &str) -> Vec<RequestMatch> {
    serde_json::from_value(serde_json::json!([{"headers": [{"name": "x-risk", "value": risk}]}])).unwrap()
}

/// 10 % of low risk → 25 % of all.
pub(super) fn matching() -> Sim {
    let mut sim = Sim::with_stable();
    sim.plan.stages.truncate(2);
    sim.plan.stages[0].weight = 10;
    sim.plan.stages[0].only = only("low");
    sim.want(TEAL);
    sim
}

fn shares(sim: &Sim) -> &Shares {
    match &sim.seen.route {
        Route::Seen { shares, .. } => shares,
        other => panic!("{other:?}"),
    }
}

fn is_wide(sim: &Sim) -> bool {
    matches!(shares(sim), Shares::Split { .. })
}

#[test]
fn a_stage_with_match_shares_what_matches_and_the_next_shares_all_in_one_write() {
    let mut sim = matching();
    sim.until(20, "in stage one", |sim| sim.weight() == 10);
    assert_eq!(
        *shares(&sim),
        Shares::Matched { stable: OCHRE.into(), canary: TEAL.into(), weight: 10, only: only("low") }
    );
    assert!(sim.events.iter().any(|event| event.message.contains("to 10% of what matches")));
    let mut steps = vec![shares(&sim).clone()];
    for _ in 0..60 {
        sim.tick();
        steps.push(shares(&sim).clone());
    }
    steps.dedup();
    let split = |weight| Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight };
    assert_eq!(steps[1..], [split(25), split(100), Shares::AtRest]);
    assert_eq!(sim.stable(), TEAL);
}

#[test]
fn all_of_what_matches_is_not_all_of_the_traffic() {
    let mut sim = matching();
    sim.plan.stages.truncate(1);
    sim.plan.stages[0].weight = 100;
    let mut before = (false, sim.seen.service.clone());
    for _ in 0..60 {
        sim.tick();
        let moved = sim.seen.service != before.1;
        assert!(!moved || before.0, "the Service moved before all the traffic was read back");
        before = (is_wide(&sim) && sim.weight() == 100, sim.seen.service.clone());
    }
    assert_eq!(sim.stable(), TEAL);
}

#[test]
fn a_wider_share_that_has_not_landed_before_a_pause_waits_for_its_end() {
    let mut sim = matching();
    sim.until(30, "in stage one", |sim| sim.launch_began("one"));
    for _ in 0..60 {
        sim.now = after(sim.now, seconds(1));
        sim.sample();
        let step = sim.decide();
        sim.commit(&step);
        if sim.launch().only.is_empty() {
            break; // and its write fails
        }
        sim.perform(&step.wanted);
        sim.settle();
    }
    assert!(sim.launch().only.is_empty() && !is_wide(&sim));
    let mut frozen = sim.clone();
    frozen.seen.freeze.open = Some(Frozen { window: "holidays".to_owned(), until: after(sim.now, seconds(30)) });
    sim.seen.paused = true;
    for mut sim in [sim, frozen] {
        sim.run(30);
        assert_eq!((is_wide(&sim), sim.weight()), (false, 10));
        (sim.seen.paused, sim.seen.freeze.open) = (false, None);
        sim.until(60, "stable", |sim| sim.stable() == TEAL);
    }
}

#[test]
fn a_share_of_other_requests_that_has_not_landed_before_a_pause_waits_for_its_end() {
    let mut sim = matching();
    sim.plan.stages[1].only = only("high");
    sim.until(30, "in stage one", |sim| sim.launch_began("one"));
    while sim.launch().only == only("low") {
        sim.now = after(sim.now, seconds(1));
        sim.sample();
        let step = sim.decide();
        sim.commit(&step);
        if sim.launch().only == only("low") {
            sim.perform(&step.wanted);
            sim.settle();
        } // else its write fails
    }
    let of = |sim: &Sim| match shares(sim) {
        Shares::Matched { only, weight, .. } => (only.clone(), *weight),
        other => panic!("{other:?}"),
    };
    sim.seen.paused = true;
    sim.run(30);
    assert_eq!(of(&sim), (only("low"), 10));
    sim.seen.paused = false;
    sim.until(10, "high risk", |sim| of(sim) == (only("high"), 25));
}

#[test]
fn a_landed_share_that_somebody_changes_in_a_pause_is_put_right_in_it() {
    let mut sim = matching();
    sim.say("success", Verdict::Insufficient).until(30, "in stage one", |sim| sim.launch_began("one"));
    sim.seen.paused = true;
    let others = Shares::Matched { stable: OCHRE.into(), canary: TEAL.into(), weight: 10, only: only("high") };
    sim.seen.route = Route::Seen { shares: others, programmed: Programmed::Yes };
    sim.tick();
    assert!(matches!(shares(&sim), Shares::Matched { only: now, .. } if *now == only("low")), "{:?}", shares(&sim));
}

#[test]
fn the_wider_share_waits_for_its_pods() {
    let mut sim = matching();
    sim.until(20, "in stage one", |sim| sim.weight() == 10);
    sim.seen.replicas = 40;
    sim.broken = vec![TEAL];
    for _ in 0..60 {
        sim.tick();
        assert!(!is_wide(&sim), "all requests are shared without pods for them");
    }
}

#[test]
fn an_edit_of_the_plan_never_widens_a_share_by_itself() {
    let mut sim = matching();
    sim.plan.stages[1].only = only("low");
    sim.until(60, "in stage two", |sim| sim.weight() == 25);
    sim.say("success", Verdict::Insufficient);
    sim.plan.stages[1].only.clear();
    sim.plan.hash.push('x');
    sim.run(2);
    assert_eq!(sim.launch().stage, 0, "it begins anew");
    sim.run(30);
    assert_eq!((sim.weight(), is_wide(&sim)), (10, false));
}

#[test]
fn a_share_of_all_that_somebody_wrote_falls_at_once() {
    let mut sim = matching();
    sim.say("success", Verdict::Insufficient);
    sim.until(20, "in stage one", |sim| sim.weight() == 10);
    let wide = Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 10 };
    sim.seen.route = Route::Seen { shares: wide, programmed: Programmed::Yes };
    assert!(sim.decide().wanted.falling);
    sim.tick();
    assert!(!is_wide(&sim));
}

#[test]
fn a_trigger_takes_a_share_of_some_requests_back() {
    let mut sim = matching();
    sim.until(20, "in stage one", |sim| sim.weight() == 10);
    sim.say("bypass", Verdict::Fail);
    sim.tick();
    assert_eq!(sim.weight(), 0);
    sim.until(5, "at rest", |sim| *shares(sim) == Shares::AtRest);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
}
