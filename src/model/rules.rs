//! What a world is made of: how much may happen in it, how its agent is judged, and which guards are in place.

use std::sync::Arc;
use std::time::Duration;

use super::clock::TICK;
use super::world::Action;
use crate::api::{DeadlineOutcome, DecisionVerb, OnFail, standard_metrics};
use crate::launch::{Bounds, Compare, Gate, GateCheck, Plan, Question, Stage, Trigger, TriggerCheck};

/// The deadline of every stage.
const DEADLINE: Duration = Duration::from_secs(25);
/// How long triggers still return to the revision before, in a world that soaks.
const SOAK: Duration = Duration::from_secs(10);
/// How long runs may take, in a world that waits for them.
pub(super) const DRAIN: Duration = Duration::from_secs(20);

/// How often something of a kind may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Crashes, standstills, lost answers, late writes, old reads, lost watches, dying pods, foreign edits.
    pub(super) faults: u8,
    /// Edits of the spec.
    pub(super) edits: u8,
    /// Gates that stop passing, and triggers that fire.
    pub(super) verdicts: u8,
    /// Decisions by people.
    pub(super) people: u8,
    /// Freeze windows.
    pub(super) windows: u8,
}

/// How a launch is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    /// One stage instead of two.
    pub(super) short: bool,
    /// After 100 % it soaks.
    pub(super) soak: bool,
    /// A deadline holds the launch for a person, instead of ending it.
    pub(super) pauses: bool,
}

/// The guards that can be taken away.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Guards {
    /// Before a rise, agent and object are read afresh.
    pub(super) may_rise: bool,
    /// On the way up the status is written first.
    pub(super) status_first: bool,
    /// A fall carries its decision.
    pub(super) decision_written: bool,
    /// Status and route are guarded by `resourceVersion`.
    pub(super) versions: bool,
    /// Pods are taken away from the version of a Deployment that was seen, and a launch marks that of its canary.
    pub(super) pods_versions: bool,
    /// A launch that is taken back marks route and Service even where its weight is 0 already.
    pub(super) falls_are_marked: bool,
    /// A launch that succeeded takes its name from route and Service.
    pub(super) successes_are_marked: bool,
    /// Leadership is asked for before each write.
    pub(super) leadership: bool,
    /// A write with a lower epoch than the object's is refused.
    pub(super) fencing: bool,
    /// The status remembers what people were answered until the answer was read back.
    pub(super) remembers_answers: bool,
    /// What is decided is decided under the freeze windows of that instant.
    pub(super) sees_windows: bool,
    /// Runs under way are waited for.
    pub(super) sees_runs: bool,
    /// Before a Service selects the pods of both revisions their numbers are read afresh.
    pub(super) may_split: bool,
    /// Before a canary grows without traffic the Service is read afresh.
    pub(super) may_grow: bool,
}

/// A world: what is in it, and what may happen.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact about the world
pub(super) struct Rules {
    /// The agent has a gateway.
    pub(super) gateway: bool,
    /// Without a gateway: pods make the shares.
    pub(super) by_pods: bool,
    /// Something is stable already.
    pub(super) stable: bool,
    /// A revision without traffic keeps its pods until its runs end.
    pub(super) drain: bool,
    /// A second operator stands by.
    pub(super) standby: bool,
    pub(super) judged: Judged,
    pub(super) budget: Budget,
    /// What people may decide.
    pub(super) verbs: &'static [DecisionVerb],
    /// Of all that may happen only this does.
    pub(super) only: fn(&Action) -> bool,
    pub(super) guards: Guards,
    /// It counts as broken when the write of a deposed leader is accepted after one of its successor.
    pub(super) one_writer: bool,
}

impl Budget {
    pub(super) const NOTHING: Self = Self { faults: 0, edits: 0, verdicts: 0, people: 0, windows: 0 };
}

impl Judged {
    pub(super) const PLAIN: Self = Self { short: false, soak: false, pauses: false };
}

impl Guards {
    /// As it is built. The fence is off: what it is for is shown by a search of its own.
    pub(super) const ALL: Self = Self {
        may_rise: true,
        status_first: true,
        decision_written: true,
        versions: true,
        pods_versions: true,
        falls_are_marked: true,
        successes_are_marked: true,
        leadership: true,
        fencing: false,
        remembers_answers: true,
        sees_windows: true,
        sees_runs: true,
        may_split: true,
        may_grow: true,
    };
}

impl Rules {
    /// Everything as it is built, and nothing happens.
    pub(super) const CALM: Self = Self {
        gateway: true,
        by_pods: false,
        stable: true,
        drain: false,
        standby: false,
        judged: Judged::PLAIN,
        budget: Budget::NOTHING,
        verbs: &[],
        only: |_| true,
        guards: Guards::ALL,
        one_writer: false,
    };
}

/// Which plan the spec asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PlanAs {
    First,
    /// Other stages.
    Edited,
    /// The first one, with more asked for: no stage begins anew.
    Tightened,
}

/// The three plans that an agent may ask for.
pub(super) fn plans(rules: Rules) -> Arc<[Plan; 3]> {
    Arc::new([PlanAs::First, PlanAs::Edited, PlanAs::Tightened].map(|which| plan(rules, which)))
}

/// Two stages with a gate each, a trigger that must last and one that need not.
fn plan(rules: Rules, which: PlanAs) -> Plan {
    let stages: &[(&str, i32)] = match (rules.gateway, rules.judged.short, which) {
        (false, short, _) if rules.by_pods => stages_of_pods(short, which),
        (false, ..) => &[("healthy", 0)],
        (true, true, PlanAs::Edited) => &[("third", 30)],
        (true, true, _) => &[("half", 50)],
        (true, false, PlanAs::Edited) => &[("careful", 20), ("half", 60)],
        (true, false, _) => &[("one", 10), ("two", 50)],
    };
    let trigger =
        |name: &str, lasting| Trigger { name: name.to_owned(), check: TriggerCheck::Metric(question()), lasting };
    Plan {
        hash: format!("plan-{which:?}"),
        tightens: (which == PlanAs::Tightened).then(|| format!("plan-{:?}", PlanAs::First)),
        soak: if rules.judged.soak { SOAK } else { Duration::ZERO },
        canary_pods: 1,
        stages: stages.iter().map(|(name, weight)| stage(rules, which, name, *weight)).collect(),
        triggers: vec![trigger("errors", TICK), trigger("bypass", Duration::ZERO)],
        interval: Duration::from_secs(1),
        source: "default".to_owned(),
    }
}

/// One pod beside two makes a third, and two make a half; of four, two and four do.
fn stages_of_pods(short: bool, which: PlanAs) -> &'static [(&'static str, i32)] {
    match (short, which) {
        (true, PlanAs::Edited) => &[("third", 34)],
        (true, _) | (false, PlanAs::Edited) => &[("half", 50)],
        (false, _) => &[("third", 34), ("half", 50)],
    }
}

fn stage(rules: Rules, which: PlanAs, name: &str, weight: i32) -> Stage {
    let on_fail = if name == "two" { OnFail::Rollback } else { OnFail::Hold };
    Stage {
        name: name.to_owned(),
        weight,
        only: Vec::new(),
        min_duration: if which == PlanAs::Tightened { TICK * 2 } else { TICK },
        deadline: DEADLINE,
        then: if rules.judged.pauses { DeadlineOutcome::Pause } else { DeadlineOutcome::Rollback },
        gates: vec![Gate { name: "success".to_owned(), check: GateCheck::Metric(question()), on_fail }],
    }
}

fn question() -> Box<Question> {
    let bounds = Bounds { low: None, high: None, floor: None };
    let metric = standard_metrics().remove(0);
    Box::new(Question { metric, window: Some(TICK), min_samples: 1, compare: Compare::Value, bounds })
}
