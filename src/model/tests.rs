//! What is searched in every test run, and the proof that the search can fail.

use std::time::Duration;

use super::search::{Bounds, Found, search, tell};
use super::world::Rules;

/// What a test run searches: `SLUICE_MODEL_SECONDS` for each search.
fn bounds() -> Bounds {
    let seconds = std::env::var("SLUICE_MODEL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    Bounds { states: 60_000_000, time: Duration::from_secs(seconds), rest: 199 }
}

/// Searches, prints what was searched, and fails with the steps that break a promise.
fn holds(name: &str, rules: Rules) {
    let found = search(rules, bounds());
    report(name, &found);
    if let Some((broken, way)) = &found.counterexample {
        panic!("{name}: {broken}\n{}", tell(rules, way));
    }
}

fn report(name: &str, found: &Found) {
    let Found { states, transitions, depth, whole, rests, longest, time, .. } = found;
    let bound = if *whole { "all of them" } else { "cut off" };
    println!(
        "model: {name}: {states} states ({bound}), {transitions} transitions, depth {depth}, {rests} tried to rest (at most {longest} passes), {time:.1?}"
    );
}

/// Without a guard the search finds the promise that the guard keeps.
fn finds(promise: &str, rules: Rules) {
    let found = search(rules, Bounds { time: Duration::from_mins(4), ..bounds() });
    report(promise, &found);
    let (broken, way) = found.counterexample.expect("a counterexample");
    println!("{broken}\n{}", tell(rules, &way));
    assert_eq!(broken.promise, promise, "{}", broken.why);
}

#[test]
fn a_launch_and_one_verdict() {
    holds("one verdict", Rules { verdicts: 1, ..Rules::CALM });
}

#[test]
fn a_launch_and_one_edit() {
    holds("one edit", Rules { edits: 1, ..Rules::CALM });
}

#[test]
fn a_launch_and_one_fault_with_two_operators() {
    holds("one fault", Rules { faults: 1, standby: true, ..Rules::CALM });
}

#[test]
fn without_a_gateway() {
    holds("no gateway", Rules { gateway: false, verdicts: 1, edits: 1, ..Rules::CALM });
}

/// An agent whose pods make the shares.
const BY_PODS: Rules = Rules { gateway: false, by_pods: true, ..Rules::CALM };

#[test]
fn by_pods_and_one_edit() {
    holds("by pods, one edit", Rules { edits: 1, verdicts: 1, ..BY_PODS });
}

#[test]
fn by_pods_and_one_fault_with_two_operators() {
    holds("by pods, one fault", Rules { faults: 1, standby: true, ..BY_PODS });
}

#[test]
fn a_first_deployment() {
    holds("first deployment", Rules { stable: false, verdicts: 1, edits: 1, ..Rules::CALM });
}

#[test]
fn a_verdict_and_a_fault() {
    holds("verdict and fault", Rules { verdicts: 1, faults: 1, ..Rules::CALM });
}

#[test]
#[ignore = "long: make model"]
fn deep_everything_once() {
    holds("everything once", Rules { verdicts: 1, faults: 1, edits: 1, standby: true, ..Rules::CALM });
}

#[test]
#[ignore = "long: make model"]
fn deep_by_pods_everything_once() {
    holds("by pods, everything once", Rules { verdicts: 1, faults: 1, edits: 1, standby: true, ..BY_PODS });
}

#[test]
#[ignore = "long: make model"]
fn deep_two_faults() {
    holds("two faults", Rules { faults: 2, verdicts: 1, standby: true, ..Rules::CALM });
}

// ---- the search can fail

#[test]
fn a_rise_before_its_status_is_found() {
    // reading afresh guards this too, so both are taken away
    finds("WriteWhyFirst", Rules { status_first: false, may_rise: false, ..Rules::CALM });
}

#[test]
fn pods_that_grow_under_a_late_share_are_found() {
    // a late write of the Service, and an edit that makes the canary grow for another share
    finds("WeightBound", Rules { may_split: false, faults: 1, edits: 1, ..BY_PODS });
}

#[test]
fn a_rise_on_an_old_view_is_found() {
    finds("ReadAfresh", Rules { may_rise: false, edits: 1, ..Rules::CALM });
}

#[test]
fn a_fall_without_its_decision_is_found() {
    finds("Finality", Rules { decision_written: false, faults: 1, verdicts: 1, ..Rules::CALM });
}

#[test]
fn a_fall_that_leaves_no_mark_is_found() {
    finds("Finality", Rules { falls_are_marked: false, faults: 1, standby: true, ..Rules::CALM });
}

#[test]
fn a_late_write_over_a_newer_version_is_found() {
    finds("Finality", Rules { versions: false, faults: 1, standby: true, ..Rules::CALM });
}

#[test]
fn what_the_fence_is_for_is_found() {
    let rules = Rules { faults: 1, standby: true, one_writer: true, ..Rules::CALM };
    finds("OneWriter", rules);
}

#[test]
fn behind_the_fence_a_deposed_leader_overwrites_nothing_of_its_successor() {
    holds("fenced", Rules { faults: 1, standby: true, one_writer: true, fencing: true, ..Rules::CALM });
}
