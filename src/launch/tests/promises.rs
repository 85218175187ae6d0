//! Each promise refuses the decision that breaks it: steps that are right are damaged by hand.

use super::*;
use crate::launch::promises::{Decided, Rise, of_a_decision, of_a_rise};

/// The promise that the next decision breaks when `damage` is done to it, or "kept".
pub(super) fn broken(sim: &Sim, damage: impl Fn(&mut Step)) -> &'static str {
    let mut sim = sim.clone();
    sim.now = after(sim.now, seconds(1));
    sim.sample();
    let mut step = sim.decide();
    damage(&mut step);
    let decided = Decided { plan: &sim.plan, before: &sim.state, seen: &sim.seen, now: sim.now, step: &step };
    of_a_decision(&decided).map_or_else(|broken| broken.promise, |()| "kept")
}

pub(super) fn launch(step: &mut Step) -> &mut crate::api::Launch {
    step.state.launch.as_mut().unwrap()
}

pub(super) fn at_5_percent() -> Sim {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(30, "5 %", |sim| sim.weight() == 5 && sim.launch().began_at.is_some());
    sim
}

#[test]
fn what_the_core_decides_keeps_every_promise() {
    assert_eq!(broken(&at_5_percent(), |_| {}), "kept");
}

#[test]
fn a_share_above_its_stage_is_refused() {
    assert_eq!(broken(&at_5_percent(), |step| launch(step).weight = 6), "WeightBound");
    let above = |step: &mut Step| {
        step.wanted.shares = Some(Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 90 });
    };
    assert_eq!(broken(&at_5_percent(), above), "WeightBound");
}

#[test]
fn a_stage_that_is_left_without_proof_is_refused() {
    let promote = |step: &mut Step| launch(step).phase = Phase::Promoting;
    let climb = |step: &mut Step| launch(step).stage = 1;
    let skip = |step: &mut Step| launch(step).stage = 2;
    for verdict in [Verdict::Fail, Verdict::Error, Verdict::Insufficient] {
        let mut sim = at_5_percent();
        sim.say("success", verdict).run(20);
        assert_eq!(broken(&sim, climb), "NoPromotionWithoutProof", "{verdict:?}");
        assert_eq!(broken(&sim, promote), "NoPromotionWithoutProof", "{verdict:?}");
    }
    assert_eq!(broken(&at_5_percent(), climb), "NoPromotionWithoutProof", "its window is not whole");
    let mut sim = at_5_percent();
    sim.run(6);
    assert_eq!(broken(&sim, skip), "NoPromotionWithoutProof", "one stage at a time");
    sim.seen.paused = true;
    assert_eq!(broken(&sim, climb), "NoPromotionWithoutProof", "paused");
}

#[test]
fn a_trigger_that_is_not_obeyed_is_refused() {
    let mut sim = at_5_percent();
    let before = sim.state.launch.clone();
    sim.say("bypass", Verdict::Fail);
    assert_eq!(broken(&sim, |step| step.state.launch.clone_from(&before)), "RollbackWins");
}

#[test]
fn a_launch_that_comes_back_is_refused() {
    let mut sim = at_5_percent();
    sim.say("bypass", Verdict::Fail).tick();
    assert_eq!(broken(&sim, |step| launch(step).phase = Phase::Progressing), "RollbackIsFinal");
}

#[test]
fn a_share_of_what_matches_that_becomes_one_of_all_in_a_freeze_is_refused() {
    let mut sim = super::matching::matching();
    sim.until(20, "in stage one", |sim| sim.weight() == 10);
    let until = after(sim.now, seconds(100));
    sim.seen.freeze.open = Some(crate::launch::Frozen { window: "holidays".to_owned(), until });
    let widen = |step: &mut Step| {
        step.wanted.shares = Some(Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 10 });
    };
    let other = super::matching::only("high");
    let turn = |step: &mut Step| {
        let only = other.clone();
        step.wanted.shares = Some(Shares::Matched { stable: OCHRE.into(), canary: TEAL.into(), weight: 10, only });
    };
    assert_eq!((broken(&sim, |_| {}), broken(&sim, widen), broken(&sim, turn)), ("kept", "Freeze", "Freeze"));
    sim.state.launch.as_mut().unwrap().began_at = Some(sim.now);
    assert_eq!(broken(&sim, widen), "kept", "it had that share, and somebody else narrowed it");
}

#[test]
fn trust_that_a_trigger_does_not_confirm_and_a_soak_that_ends_unasked_are_refused() {
    let end = |step: &mut Step| {
        let launch = launch(step);
        (launch.phase, launch.outcome, launch.ended_at) = (Phase::Complete, Some(Outcome::Succeeded), launch.began_at);
    };
    let trust = |step: &mut Step| {
        end(step);
        let since = step.state.launch.as_ref().unwrap().started_at;
        step.state.trusted.insert(0, crate::api::TrustedRevision { revision: TEAL.into(), since });
    };
    let mut sim = super::soak::soaking();
    sim.say("bypass", Verdict::Error).run(50);
    assert_eq!((broken(&sim, end), broken(&sim, trust)), ("kept", "TrustIsEarned"));
    let mut confirmed = sim.clone();
    confirmed.state.launch.as_mut().unwrap().trusted = true;
    assert_eq!(broken(&confirmed, trust), "kept", "it was trusted before this launch");
    sim.say("bypass", Verdict::Pass).measuring = false;
    sim.seen.measured.clear();
    assert_eq!((broken(&sim, |_| {}), broken(&sim, end)), ("kept", "TrustIsEarned"));
}

#[test]
fn a_rise_without_pods_and_pods_that_leave_before_their_traffic_are_refused() {
    let mut sim = at_5_percent();
    sim.until(60, "25 % is next", |sim| sim.launch().stage == 1 && sim.launch().weight == 5);
    assert_eq!(broken(&sim, |_| {}), "kept");
    sim.seen.pods.get_mut(TEAL).unwrap().ready = 0;
    assert_eq!(broken(&sim, |step| launch(step).weight = 25), "CapacityBeforeWeight");
    let bare = |step: &mut Step| step.wanted.sizes.retain(|revision, _| revision != TEAL);
    assert_eq!(broken(&at_5_percent(), bare), "WeightBeforeScaleDown");
}

#[test]
fn a_rejected_revision_that_begins_again_is_refused() {
    let mut sim = at_5_percent();
    let again = sim.state.launch.clone();
    sim.say("bypass", Verdict::Fail).run(30);
    assert_eq!(sim.launch().phase, Phase::Complete);
    let begin = |step: &mut Step| {
        step.state.launch.clone_from(&again);
        let launch = launch(step);
        (launch.id, launch.weight, launch.stage, launch.began_at) = ("refund-agent-2".into(), 0, 0, None);
    };
    assert_eq!(broken(&sim, begin), "Finality");
}

#[test]
fn a_service_that_leaves_stable_and_unrest_at_rest_are_refused() {
    let away = |step: &mut Step| step.wanted.service = Some(TEAL.into());
    assert_eq!(broken(&at_5_percent(), away), "ServiceStaysWithStable");
    let sim = Sim::with_stable();
    assert_eq!(broken(&sim, |step| step.wake_at = Some(after(sim.now, seconds(60)))), "QuietAtRest");
    assert_eq!(broken(&sim, |step| step.wake_at = Some(sim.now)), "QuietAtRest");
}

#[test]
fn a_wait_that_nothing_ends_is_refused() {
    let mut sim = at_5_percent();
    sim.say("success", Verdict::Insufficient).run(7);
    let before = sim.state.clone();
    let forget = |step: &mut Step| (step.state, step.wake_at) = (before.clone(), None);
    assert_eq!(broken(&sim, forget), "EveryWaitEnds");
}

#[test]
fn a_write_rises_only_as_far_as_the_cluster_says_why() {
    let sim = at_5_percent();
    let rise = |revision, to| of_a_rise(&Rise { revision, to, committed: &sim.state, written: None });
    assert_eq!(rise(TEAL, 5), Ok(()));
    assert_eq!(rise(TEAL, 6).unwrap_err().promise, "WriteWhyFirst");
    assert_eq!(rise("mauve", 1).unwrap_err().promise, "WriteWhyFirst");
    assert_eq!(rise(OCHRE, 100), Ok(()), "stable may have everything");

    let mut back = sim.clone();
    let step = back.say("bypass", Verdict::Fail).tick();
    let written = step.wanted.decision.as_ref();
    let taken = of_a_rise(&Rise { revision: TEAL, to: 5, committed: &sim.state, written });
    assert_eq!(taken.unwrap_err().promise, "Finality", "the object says that it was taken back");
    let rejected = of_a_rise(&Rise { revision: TEAL, to: 5, committed: &back.state, written: None });
    assert_eq!(rejected.unwrap_err().promise, "Finality", "the status says so");
}

#[test]
fn a_launch_that_begins_in_a_freeze_is_refused() {
    let begun = at_5_percent().state.launch.map(|it| crate::api::Launch { weight: 0, began_at: None, ..it });
    let mut sim = Sim::with_stable();
    sim.want(TEAL).run(1);
    let until = after(sim.now, seconds(1000));
    sim.seen.freeze = Freeze { open: Some(Frozen { window: "peak".into(), until }), changes_at: Some(until) };
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, |step| step.state.launch.clone_from(&begun)), "Freeze");
}

#[test]
fn a_share_that_rises_and_a_stage_that_is_left_in_a_freeze_are_refused() {
    let freeze = |sim: &mut Sim| {
        let until = after(sim.now, seconds(1000));
        sim.seen.freeze = Freeze { open: Some(Frozen { window: "peak".into(), until }), changes_at: Some(until) };
    };
    let mut sim = Sim::with_stable();
    sim.want(TEAL)
        .until(30, "its pods", |sim| sim.weight() == 0 && sim.seen.pods.get(TEAL).is_some_and(|it| it.ready > 0));
    freeze(&mut sim);
    assert_eq!((broken(&sim, |_| {}), broken(&sim, |step| launch(step).weight = 5)), ("kept", "Freeze"));
    let mut sim = at_5_percent();
    sim.run(6);
    freeze(&mut sim);
    assert_eq!(broken(&sim, |step| launch(step).stage = 1), "NoPromotionWithoutProof");
    sim.seen.freeze = Freeze::default();
    sim.until(100, "all the traffic", |sim| sim.weight() == 100 && sim.seen.service.as_deref() == Some(OCHRE));
    freeze(&mut sim);
    let succeed = |step: &mut Step| launch(step).outcome = Some(Outcome::Succeeded);
    assert_eq!((broken(&sim, |_| {}), broken(&sim, succeed)), ("kept", "Freeze"));
}

#[test]
fn an_abort_that_is_heard_and_not_obeyed_is_refused() {
    let mut sim = at_5_percent();
    let before = sim.state.launch.clone();
    sim.decides("stop", crate::api::DecisionVerb::Abort);
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, |step| step.state.launch.clone_from(&before)), "AbortWins");
    assert_eq!(broken(&sim, |step| launch(step).weight = 5), "AbortWins");
    let keep = |step: &mut Step| {
        step.wanted.shares = Some(Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 5 });
    };
    assert_eq!(broken(&sim, keep), "WeightBound");
    let mut full = sim.clone();
    let answer =
        |number: i32| crate::api::Answer { uid: format!("u{number}"), ..sim.decide().state.answers[0].clone() };
    full.state.answers = (0..32).map(answer).collect();
    let unheard = |step: &mut Step| step.state = full.state.clone();
    assert_eq!(broken(&full, unheard), "kept", "one of so many has to wait");
}

#[test]
fn a_soak_that_takes_pods_from_the_revision_before_is_refused() {
    let mut sim = Sim::with_stable();
    sim.plan.soak = seconds(100);
    sim.want(TEAL);
    sim.until(200, "a soak", |sim| sim.state.launch.as_ref().is_some_and(|it| it.phase == Phase::Soaking));
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, |step| step.wanted.sizes.extend([(OCHRE.to_owned(), 3)])), "WayBack");
    assert_eq!(broken(&sim, |step| step.state.stable = None), "WayBack");
    let trust = |step: &mut Step| {
        let since = launch(step).started_at;
        step.state.trusted.push(crate::api::TrustedRevision { revision: TEAL.into(), since });
    };
    assert_eq!(broken(&sim, trust), "WayBack");
}

#[test]
fn pods_that_go_while_runs_may_be_under_way_are_refused() {
    let mut sim = at_5_percent();
    sim.seen.drain = Some(seconds(60));
    sim.say("bypass", Verdict::Fail).run(5);
    assert_eq!((sim.launch().phase, sim.state.retiring.len()), (Phase::Complete, 1));
    let bare = |step: &mut Step| step.wanted.sizes.retain(|revision, _| revision != TEAL);
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, bare), "RunsFinish");
    let none = Measured { verdict: Verdict::Pass, message: "0".into(), sampled_at: after(sim.now, seconds(15)) };
    sim.now = after(sim.now, seconds(15));
    assert_eq!(broken(&sim, bare), "RunsFinish", "nobody measured it");
    let since = sim.state.retiring[0].since;
    let early = Measured { sampled_at: after(since, seconds(5)), ..none.clone() };
    let runs = Measured { verdict: Verdict::Fail, ..none.clone() };
    for (what, measured) in [("its last requests may be on their way", early), ("they run", runs)] {
        sim.seen.measured.insert(CheckName::Drained(TEAL.into()), measured);
        assert_eq!(broken(&sim, bare), "RunsFinish", "{what}");
    }
    sim.seen.measured.insert(CheckName::Drained(TEAL.into()), none);
    assert_eq!(broken(&sim, bare), "kept");
}

#[test]
fn a_canary_without_a_share_keeps_the_pods_of_its_earlier_launch_or_is_refused() {
    let mut sim = super::soak::superseded_with_runs();
    sim.want(TEAL).until(20, "teal again", |sim| sim.launch().revision == TEAL);
    sim.seen.paused = true;
    assert_eq!((sim.tick().wanted.sizes.get(TEAL), sim.weight()), (Some(&3), 0));
    let pods = |size: i32| move |step: &mut Step| step.wanted.sizes.extend([(TEAL.to_owned(), size)]);
    assert_eq!(broken(&sim, pods(3)), "kept");
    for fewer in 0..3 {
        assert_eq!(broken(&sim, pods(fewer)), "RunsFinish", "{fewer}");
    }
}

#[test]
fn a_fall_that_arrives_after_the_success_is_obeyed_and_breaks_no_promise() {
    let mut sim = at_5_percent();
    let mut falls = sim.clone();
    let fall = falls.say("bypass", Verdict::Fail).tick();
    sim.until(200, "success", |sim| sim.stable() == TEAL && sim.state.retiring.is_empty());
    let shares = Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 0 };
    sim.seen.route = Route::Seen { shares, programmed: Programmed::Yes };
    sim.seen.decision = fall.wanted.decision;
    assert_eq!(broken(&sim, |_| {}), "kept", "something is to be done");
    let step = sim.decide();
    assert_eq!(step.state.launch.as_ref().map(|it| it.phase), Some(Phase::RollingBack));
    assert_eq!(step.wanted.sizes.get(OCHRE), Some(&4), "stable gets its pods back");
}
