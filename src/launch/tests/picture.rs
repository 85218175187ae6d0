//! The picture in `docs/launch.md` is the code's: its arrows are just the changes of phase that really happen.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use super::properties::{Happening, agent, happen, happening, pass};
use super::*;

/// So many agents live through so many happenings each, with a calm minute now and then; the same ones every time.
const LIVES: (usize, usize) = (800, 250);
const CALM: usize = 60;

type Arrow = (String, String);

fn place(sim: &Sim) -> (i64, Option<Phase>) {
    sim.state.launch.as_ref().map_or((0, None), |launch| (launch.number, Some(launch.phase)))
}

fn name(phase: Option<Phase>) -> String {
    phase.map_or_else(|| "[*]".to_owned(), |phase| format!("{phase:?}"))
}

fn arrow(before: (i64, Option<Phase>), after: (i64, Option<Phase>)) -> Option<Arrow> {
    let from = if after.0 > before.0 { None } else { before.1 };
    (after != before).then(|| (name(from), name(after.1)))
}

/// The changes of phase of many random lives.
fn happened() -> BTreeSet<Arrow> {
    let mut runner = TestRunner::deterministic();
    let mut arrows = BTreeSet::new();
    for _ in 0..LIVES.0 {
        let mut sim = agent().new_tree(&mut runner).unwrap().current();
        for happening in vec(happening(), LIVES.1).new_tree(&mut runner).unwrap().current() {
            let calm = if matches!(happening, Happening::Mend | Happening::Pause(false)) { CALM } else { 0 };
            for second in 0..=calm {
                let before = place(&sim);
                happen(&mut sim, if second == 0 { &happening } else { &Happening::Nothing });
                pass(&mut sim, matches!(happening, Happening::Crash));
                arrows.extend(arrow(before, place(&sim)));
            }
        }
    }
    arrows.insert((name(Some(Phase::Complete)), name(None))); // the end of the picture
    arrows
}

fn drawn() -> BTreeSet<Arrow> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/launch.md")).unwrap();
    let lines = page.lines().filter_map(|line| line.split_once(" --> "));
    let arrow = |(from, to): (&str, &str)| {
        let to = to.split(':').next().unwrap_or(to);
        (from.trim().to_owned(), to.trim().to_owned())
    };
    lines.map(arrow).collect()
}

#[test]
fn the_picture_of_a_launch_shows_just_the_changes_that_happen() {
    let (happened, drawn) = (happened(), drawn());
    let missing: Vec<_> = happened.difference(&drawn).collect();
    let invented: Vec<_> = drawn.difference(&happened).collect();
    assert!(missing.is_empty() && invented.is_empty(), "docs/launch.md lacks {missing:?} and invents {invented:?}");
}
