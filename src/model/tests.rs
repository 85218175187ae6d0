//! What is searched in every test run, and the proof that the search can fail.

use std::io::Write as _;
use std::time::Duration;

use super::rules::{Budget, Guards, Judged, PlanAs, Rules};
use super::search::{Bounds, Cut, Found, search, tell};
use super::world::{Action, is_fault};
use crate::api::DecisionVerb;

const SECONDS: &str = "SLUICE_MODEL_SECONDS";
const MEMORY_MB: &str = "SLUICE_MODEL_MEMORY_MB";

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What a test run searches. `make model` goes further than `make unit`.
fn bounds() -> Bounds {
    Bounds {
        width: set("SLUICE_MODEL_WIDTH").map_or(4000, |width| usize::try_from(width).unwrap()),
        time: Duration::from_secs(set(SECONDS).unwrap_or(600)),
        memory: set(MEMORY_MB).unwrap_or(2048) << 20,
        rest: 199,
    }
}

/// Searches, prints what was searched, and fails with the steps that break a promise.
///
/// A search that stops early shows little. That is good only for who asked for it: without a word of time and memory they
/// are a net, far from what any search needs, and who falls into it has failed.
fn holds(name: &str, rules: Rules) {
    let found = search(rules, bounds());
    report(name, &found);
    if let Some((broken, way)) = &found.counterexample {
        panic!("{name}: {broken}\n{}", tell(rules, way));
    }
    let unasked = |cut: &str, variable| {
        let why = format!("{name}: cut off by {cut} at depth {}: it shows nothing of what comes later", found.depth);
        assert!(set(variable).is_some(), "{why}. {variable} makes it a bound that is asked for");
    };
    match found.cut {
        Some(Cut::Time) => unasked("time", SECONDS),
        Some(Cut::Memory) => unasked("memory (of the whole process, other tests too)", MEMORY_MB),
        None | Some(Cut::Thinned(_) | Cut::Broken) => {}
    }
}

/// One line, past the test harness, which swallows what a passing test prints.
fn report(name: &str, found: &Found) {
    let Found { states, transitions, depth, cut, rests, longest, time, memory, .. } = found;
    let bound = match cut {
        None => "all of them".to_owned(),
        Some(Cut::Thinned(from)) => format!("thinned from depth {from}, followed to the end"),
        Some(Cut::Broken) => "up to a broken promise".to_owned(),
        Some(cut) => format!("cut off: {cut:?}"),
    };
    let megabytes = memory >> 20;
    let line = format!(
        "model: {name}: {states} states ({bound}), {transitions} transitions, depth {depth}, {rests} tried to rest (at most {longest} passes), {time:.1?}, {megabytes} MB\n"
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Without a guard the search finds the promise that the guard keeps, in a second or two.
fn finds(promise: &str, rules: Rules) {
    finds_within(4000, promise, rules);
}

fn finds_within(width: usize, promise: &str, rules: Rules) {
    let found = search(rules, Bounds { width, rest: u64::MAX, ..bounds() });
    report(promise, &found);
    let (broken, way) = found.counterexample.expect("a counterexample");
    println!("{broken}\n{}", tell(rules, &way));
    assert_eq!(broken.promise, promise, "{}", broken.why);
}

const fn budget(faults: u8, edits: u8, verdicts: u8) -> Budget {
    Budget { faults, edits, verdicts, ..Budget::NOTHING }
}

const fn asked(people: u8) -> Budget {
    Budget { people, ..Budget::NOTHING }
}

const SOAKS: Judged = Judged { soak: true, ..Judged::PLAIN };
const SHORT: Judged = Judged { short: true, ..Judged::PLAIN };

/// Of all faults only those that a process dies of, or believes to have failed.
fn only_crashes(action: &Action) -> bool {
    !is_fault(action) || matches!(action, Action::LoseAnswer(_) | Action::Crash(_) | Action::Delay(..))
}

fn is_edit(action: &Action) -> bool {
    matches!(action, Action::Want(_) | Action::Pause(_) | Action::Replicas(_) | Action::EditPlan(_))
}

#[test]
fn a_launch_and_one_verdict() {
    holds("one verdict", Rules { budget: budget(0, 0, 1), ..Rules::CALM });
}

#[test]
fn a_launch_and_one_edit() {
    holds("one edit", Rules { budget: budget(0, 1, 0), ..Rules::CALM });
}

#[test]
fn a_launch_and_one_fault_with_two_operators() {
    holds("one fault, two operators", Rules { budget: budget(1, 0, 0), standby: true, ..Rules::CALM });
}

#[test]
fn without_a_gateway() {
    holds("no gateway: verdict, edit", Rules { gateway: false, budget: budget(0, 1, 1), ..Rules::CALM });
}

#[test]
fn a_first_deployment() {
    holds("first deployment: verdict, edit", Rules { stable: false, budget: budget(0, 1, 1), ..Rules::CALM });
}

#[test]
fn a_first_deployment_and_a_late_fall() {
    let only = |action: &Action| !is_fault(action) || matches!(action, Action::Delay(..));
    let world = Rules { stable: false, budget: budget(1, 0, 1), only, ..Rules::CALM };
    holds("first deployment: verdict, late write", world);
}

#[test]
fn a_verdict_and_a_fault() {
    holds("verdict, fault", Rules { budget: budget(1, 0, 1), ..Rules::CALM });
}

#[test]
fn an_edited_plan_and_a_verdict() {
    let only = |action: &Action| !is_edit(action) || matches!(action, Action::EditPlan(_));
    holds("plan edit, verdict", Rules { budget: budget(0, 1, 1), only, ..Rules::CALM });
}

// ---- pods that make the shares

const BY_PODS: Rules = Rules { gateway: false, by_pods: true, ..Rules::CALM };

#[test]
fn by_pods_and_one_verdict() {
    holds("by pods: verdict", Rules { budget: budget(0, 0, 1), ..BY_PODS });
}

#[test]
fn by_pods_and_one_edit() {
    holds("by pods: edit", Rules { budget: budget(0, 1, 0), ..BY_PODS });
}

#[test]
fn by_pods_and_one_fault_with_two_operators() {
    holds("by pods: fault, two operators", Rules { budget: budget(1, 0, 0), standby: true, ..BY_PODS });
}

#[test]
fn by_pods_other_replicas_and_a_fault() {
    let only = |action: &Action| !is_edit(action) || matches!(action, Action::Replicas(_) | Action::EditPlan(_));
    holds("by pods: replicas or plan, fault", Rules { budget: budget(1, 1, 0), only, ..BY_PODS });
}

#[test]
fn by_pods_a_verdict_and_a_fault() {
    holds("by pods: verdict, fault", Rules { judged: SHORT, budget: budget(1, 0, 1), ..BY_PODS });
}

/// Sizes that are written late and seen by a watch that stands still, while the plan asks for fewer pods.
const LATE_PODS: Rules = Rules { budget: budget(2, 1, 0), judged: SHORT, only: only_late_pods, ..BY_PODS };

fn only_late_pods(action: &Action) -> bool {
    let fault = is_fault(action) && !matches!(action, Action::Delay(_, true) | Action::LoseWatch(_));
    !fault && (!is_edit(action) || matches!(action, Action::EditPlan(PlanAs::Edited)))
}

/// A fall that is under way, and a success that is written by a pass that dies.
#[test]
fn by_pods_a_late_fall_and_a_crash_in_the_success() {
    let only = |action: &Action| !is_fault(action) || matches!(action, Action::Delay(..) | Action::Crash(_));
    holds("by pods: late write, crash, verdict", Rules { judged: SHORT, budget: budget(2, 0, 1), only, ..BY_PODS });
}

#[test]
fn by_pods_that_are_written_late_and_a_watch_that_stands_still() {
    holds("by pods: late write, lost watch, plan edit", LATE_PODS);
}

// ---- soak and drain

#[test]
fn a_soak_and_a_verdict() {
    holds("soak: verdict", Rules { judged: SOAKS, budget: budget(0, 0, 1), ..Rules::CALM });
}

#[test]
fn a_soak_and_an_edit() {
    holds("soak: edit", Rules { judged: SOAKS, budget: budget(0, 1, 0), ..Rules::CALM });
}

#[test]
fn a_soak_a_verdict_and_a_fault() {
    let judged = Judged { short: true, ..SOAKS };
    holds("soak: verdict, fault", Rules { judged, budget: budget(1, 0, 1), ..Rules::CALM });
}

#[test]
fn runs_that_are_waited_for_a_verdict_and_a_fault() {
    let judged = Judged { short: true, ..SOAKS };
    holds("drain, soak: verdict, fault", Rules { drain: true, judged, budget: budget(1, 0, 1), ..Rules::CALM });
}

// ---- people

#[test]
fn an_abort_and_a_fault() {
    let budget = Budget { faults: 1, ..asked(1) };
    holds("abort, fault", Rules { verbs: &[DecisionVerb::Abort], judged: SHORT, budget, ..Rules::CALM });
}

#[test]
fn an_abort_in_a_soak_and_a_crash_with_two_operators() {
    let budget = Budget { faults: 1, ..asked(1) };
    let judged = Judged { short: true, ..SOAKS };
    let world =
        Rules { verbs: &[DecisionVerb::Abort], judged, budget, standby: true, only: only_crashes, ..Rules::CALM };
    holds("soak: abort, crash, two operators", world);
}

#[test]
fn a_pause_a_resume_and_a_crash() {
    let verbs = &[DecisionVerb::Pause, DecisionVerb::Resume];
    let budget = Budget { faults: 1, ..asked(2) };
    holds("pause, resume, crash", Rules { verbs, judged: SHORT, budget, only: only_crashes, ..Rules::CALM });
}

#[test]
fn a_pause_in_the_spec_and_a_crash() {
    let only = |action: &Action| only_crashes(action) && (!is_edit(action) || matches!(action, Action::Pause(_)));
    holds("spec.paused twice, crash", Rules { budget: budget(1, 2, 0), judged: SHORT, only, ..Rules::CALM });
}

#[test]
fn the_retry_of_a_rejected_revision_and_a_crash() {
    let budget = Budget { people: 1, ..budget(1, 0, 1) };
    let world = Rules { verbs: &[DecisionVerb::Retry], judged: SHORT, budget, only: only_crashes, ..Rules::CALM };
    holds("verdict, retry, crash", world);
}

#[test]
fn a_wait_that_is_skipped_a_gate_that_is_overruled_and_a_verdict() {
    let verbs = &[DecisionVerb::Promote, DecisionVerb::Override];
    holds(
        "promote or override, verdict",
        Rules { verbs, budget: Budget { people: 1, ..budget(0, 0, 1) }, ..Rules::CALM },
    );
}

#[test]
fn a_deadline_that_asks_for_a_person() {
    let verbs = &[DecisionVerb::Resume, DecisionVerb::Abort];
    let judged = Judged { pauses: true, ..SHORT };
    let world = Rules { verbs, judged, budget: Budget { people: 1, ..budget(0, 0, 1) }, ..Rules::CALM };
    holds("then: Pause: verdict, resume or abort", world);
}

#[test]
fn two_decisions_of_any_kind() {
    use DecisionVerb::{Abort, Override, Pause, Promote, Resume, Retry};
    let verbs = &[Abort, Pause, Resume, Retry, Promote, Override];
    holds("two decisions", Rules { verbs, judged: SHORT, budget: asked(2), ..Rules::CALM });
}

// ---- freezes

#[test]
fn a_freeze_and_a_verdict() {
    let budget = Budget { windows: 1, ..budget(0, 0, 1) };
    holds("freeze, verdict", Rules { judged: SOAKS, budget, ..Rules::CALM });
}

#[test]
fn a_freeze_and_a_fault() {
    let budget = Budget { windows: 1, ..budget(1, 0, 0) };
    holds("freeze, fault", Rules { judged: SHORT, budget, ..Rules::CALM });
}

#[test]
fn a_status_that_is_lost_while_the_watches_stand_still() {
    let only = |action: &Action| !is_fault(action) || matches!(action, Action::LoseStatus | Action::LoseWatch(_));
    holds("lost status, lost watch", Rules { judged: SHORT, budget: budget(2, 0, 0), only, ..Rules::CALM });
}

// ---- deep: `make model`

#[test]
#[ignore = "long: make model"]
fn deep_everything_once() {
    holds("everything once", Rules { budget: budget(1, 1, 1), standby: true, ..Rules::CALM });
}

#[test]
#[ignore = "long: make model"]
fn deep_by_pods_everything_once() {
    holds("by pods, everything once", Rules { budget: budget(1, 1, 1), standby: true, ..BY_PODS });
}

#[test]
#[ignore = "long: make model"]
fn deep_two_faults() {
    holds("two faults, verdict", Rules { budget: budget(2, 0, 1), standby: true, ..Rules::CALM });
}

#[test]
#[ignore = "long: make model"]
fn deep_all_dimensions() {
    use DecisionVerb::{Abort, Override, Pause, Promote, Resume, Retry};
    let verbs = &[Abort, Pause, Resume, Retry, Promote, Override];
    let budget = Budget { faults: 1, edits: 1, verdicts: 1, people: 1, windows: 1 };
    holds("all dimensions", Rules { drain: true, judged: SOAKS, verbs, budget, standby: true, ..Rules::CALM });
}

// ---- the search can fail

fn without(take: fn(&mut Guards), rules: Rules) -> Rules {
    let mut guards = Guards::ALL;
    take(&mut guards);
    Rules { guards, ..rules }
}

#[test]
fn a_rise_before_its_status_is_found() {
    // reading afresh guards this too, so both are taken away
    let take = |guards: &mut Guards| (guards.status_first, guards.may_rise) = (false, false);
    finds("WriteWhyFirst", without(take, Rules::CALM));
}

#[test]
fn a_rise_on_an_old_view_is_found() {
    let world = Rules { budget: budget(0, 1, 0), ..Rules::CALM };
    finds("ReadAfresh", without(|guards| guards.may_rise = false, world));
}

#[test]
fn a_fall_without_its_decision_is_found() {
    let world = Rules { budget: budget(1, 0, 1), judged: SHORT, ..Rules::CALM };
    finds("Finality", without(|guards| guards.decision_written = false, world));
}

#[test]
fn a_fall_that_leaves_no_mark_is_found() {
    let world = Rules { budget: budget(1, 0, 0), standby: true, ..Rules::CALM };
    finds("Finality", without(|guards| guards.falls_are_marked = false, world));
}

#[test]
fn a_success_that_leaves_its_name_is_found() {
    let only = |action: &Action| !is_fault(action) || matches!(action, Action::Delay(_, true));
    let world = Rules { judged: SHORT, budget: budget(1, 0, 1), only, ..BY_PODS };
    finds_within(30_000, "WeightBeforeScaleDown", without(|guards| guards.successes_are_marked = false, world));
}

#[test]
fn a_late_write_over_a_newer_version_is_found() {
    let world = Rules { budget: budget(1, 0, 0), standby: true, ..Rules::CALM };
    finds("Finality", without(|guards| guards.versions = false, world));
}

#[test]
fn pods_that_go_late_from_a_revision_that_is_launched_again_are_found() {
    let only = |action: &Action| {
        let fault = is_fault(action) && !matches!(action, Action::Delay(_, false));
        !fault && !matches!(action, Action::Gate(_) | Action::Errors(_))
    };
    let budget = Budget { people: 1, ..budget(1, 0, 1) };
    let world = Rules { verbs: &[DecisionVerb::Retry], judged: SHORT, budget, only, ..Rules::CALM };
    finds("WeightBeforeScaleDown", without(|guards| guards.pods_versions = false, world));
}

/// Of all edits only those of the plan, and of all faults only late writes.
fn only_plans_and_delays(action: &Action) -> bool {
    let fault = is_fault(action) && !matches!(action, Action::Delay(..));
    !fault && (!is_edit(action) || matches!(action, Action::EditPlan(_)))
}

#[test]
fn pods_that_grow_under_a_late_share_are_found() {
    let world = Rules { budget: budget(1, 1, 0), only: only_plans_and_delays, ..BY_PODS };
    finds("PodsWithinStatus", without(|guards| guards.may_grow = false, world));
}

#[test]
fn a_share_that_is_given_to_pods_that_grew_late_is_found() {
    finds("PodsWithinStatus", without(|guards| guards.may_split = false, LATE_PODS));
}

#[test]
fn an_answer_that_is_not_remembered_is_found() {
    let budget = Budget { faults: 1, ..asked(1) };
    let world = Rules { verbs: &[DecisionVerb::Abort], judged: SHORT, budget, only: only_crashes, ..Rules::CALM };
    finds("HeardOnce", without(|guards| guards.remembers_answers = false, world));
}

#[test]
fn a_freeze_that_is_not_seen_is_found() {
    let world = Rules { budget: Budget { windows: 1, ..Budget::NOTHING }, ..Rules::CALM };
    finds("Freeze", without(|guards| guards.sees_windows = false, world));
}

#[test]
fn runs_that_are_not_waited_for_are_found() {
    let world = Rules { drain: true, judged: SHORT, budget: budget(0, 0, 1), ..Rules::CALM };
    finds("RunsFinish", without(|guards| guards.sees_runs = false, world));
}

/// An operator stands still in the middle of a pass, and goes on when its successor leads.
const STANDSTILL: Rules =
    Rules { budget: budget(1, 0, 0), standby: true, one_writer: true, only: only_standstills, ..Rules::CALM };

fn only_standstills(action: &Action) -> bool {
    !is_fault(action) || matches!(action, Action::Stop(_))
}

#[test]
fn a_leader_that_does_not_ask_whether_it_leads_is_found() {
    finds("OneWriter", without(|guards| guards.leadership = false, STANDSTILL));
}

#[test]
fn a_leader_that_stood_still_overwrites_nothing_of_its_successor() {
    holds("standstill", STANDSTILL);
}

#[test]
fn what_the_fence_is_for_is_found() {
    finds("OneWriter", Rules { budget: budget(1, 0, 0), standby: true, one_writer: true, ..Rules::CALM });
}

#[test]
fn behind_the_fence_a_deposed_leader_overwrites_nothing_of_its_successor() {
    let guards = Guards { fencing: true, ..Guards::ALL };
    holds("fenced", Rules { budget: budget(1, 0, 0), standby: true, one_writer: true, guards, ..Rules::CALM });
}
