//! What is searched in every test run, and the proof that the search can fail.

use std::time::Duration;

use super::search::{Bounds, Found, search, tell};
use super::world::Rules;

const CI: Bounds = Bounds { states: 3_000_000, time: Duration::from_secs(60), rest: 50 };

/// Searches, prints what was searched, and fails with the steps that break a promise.
fn holds(name: &str, rules: Rules) {
    let found = search(rules, CI);
    report(name, &found);
    if let Some((broken, way)) = &found.counterexample {
        panic!("{name}: {broken}\n{}", tell(rules, way));
    }
}

fn report(name: &str, found: &Found) {
    let Found { states, transitions, depth, whole, rests, longest, time, .. } = found;
    let bound = if *whole { "all of them" } else { "cut off" };
    println!(
        "{name}: {states} states ({bound}), {transitions} transitions, depth {depth}, {rests} tried to rest (at most {longest} passes), {time:.1?}"
    );
}

#[test]
fn calm() {
    holds("calm", Rules::CALM);
}

#[test]
fn one_verdict() {
    holds("one verdict", Rules { verdicts: 1, ..Rules::CALM });
}

#[test]
fn one_edit() {
    holds("one edit", Rules { edits: 1, ..Rules::CALM });
}

#[test]
fn one_fault() {
    holds("one fault", Rules { faults: 1, standby: true, ..Rules::CALM });
}
