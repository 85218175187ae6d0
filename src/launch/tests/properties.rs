//! Properties: random specs, verdicts, crashes and broken pods against the pretended cluster; the promises must hold always.

use proptest::prelude::*;

use super::*;
use crate::api::DecisionVerb;
use crate::launch::promises::{self, Decided};

/// What may happen in one second.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Nothing,
    Want(usize),
    Gate(Verdict),
    Errors(Verdict),
    Bypass(Verdict),
    Break(usize),
    Mend,
    Pause(bool),
    Freeze(bool),
    Replicas(i32),
    Restart,
    EditPlan,
    Drift(i32),
    RouteLost,
    GatewayPending,
    /// The leader dies after its first write of this pass.
    Crash,
    ClockBack,
    /// A person decides.
    Decide(DecisionVerb),
    /// Answers are written on their decisions.
    Answered,
}

const REVISIONS: [&str; 4] = [OCHRE, TEAL, "mauve", "lime"];

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![4 => Just(Verdict::Pass), 1 => Just(Verdict::Fail), 1 => Just(Verdict::Insufficient), 1 => Just(Verdict::Error)]
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        30 => Just(Happening::Nothing),
        2 => (0..REVISIONS.len()).prop_map(Happening::Want),
        2 => verdict().prop_map(Happening::Gate),
        1 => verdict().prop_map(Happening::Errors),
        1 => verdict().prop_map(Happening::Bypass),
        1 => (0..REVISIONS.len()).prop_map(Happening::Break),
        1 => Just(Happening::Mend),
        1 => any::<bool>().prop_map(Happening::Pause),
        1 => any::<bool>().prop_map(Happening::Freeze),
        1 => (0..6).prop_map(Happening::Replicas),
        1 => Just(Happening::Restart),
        1 => Just(Happening::EditPlan),
        1 => (0..=100).prop_map(Happening::Drift),
        1 => Just(Happening::RouteLost),
        1 => Just(Happening::GatewayPending),
        2 => Just(Happening::Crash),
        1 => Just(Happening::ClockBack),
        3 => prop::sample::select(vec![
            DecisionVerb::Abort, DecisionVerb::Pause, DecisionVerb::Resume, DecisionVerb::Retry, DecisionVerb::Promote,
            DecisionVerb::Override,
        ]).prop_map(Happening::Decide),
        2 => Just(Happening::Answered),
    ]
}

/// An agent whose launches soak, and whose runs are waited for, or neither; its traffic is shared by a route or by pods.
pub(super) fn agent() -> impl Strategy<Value = Sim> {
    any::<bool>().prop_flat_map(agent_shared)
}

/// The same, where it is known who shares.
pub(super) fn agent_shared(by_pods: bool) -> impl Strategy<Value = Sim> {
    let soak = prop_oneof![Just(0_u64), Just(20)];
    let drain = prop_oneof![Just(None), Just(Some(60_u64))];
    (soak, drain, 1..4_i32).prop_map(move |(soak, drain, canary_pods)| {
        let mut sim = if by_pods { Sim::by_pods() } else { Sim::with_stable() };
        sim.plan.soak = seconds(soak);
        sim.plan.canary_pods = if by_pods { 1 } else { canary_pods };
        sim.seen.drain = drain.map(seconds);
        sim
    })
}

pub(super) fn happen(sim: &mut Sim, happening: &Happening) {
    match happening {
        Happening::Drift(share) if sim.seen.by_pods.is_some() => {
            sim.rescale(share % 4, share / 10);
        }
        Happening::RouteLost if sim.seen.by_pods.is_some() => sim.obstruct(Some("a pod is in the way")),
        Happening::GatewayPending if sim.seen.by_pods.is_some() => sim.obstruct(None),
        Happening::Want(index) => drop(sim.want(REVISIONS[*index])),
        Happening::Gate(verdict) => drop(sim.say("success", *verdict)),
        Happening::Errors(verdict) => drop(sim.say("errors", *verdict)),
        Happening::Bypass(verdict) => drop(sim.say("bypass", *verdict)),
        Happening::Break(index) => sim.broken.push(REVISIONS[*index]),
        Happening::Mend => sim.broken.clear(),
        Happening::Pause(paused) => sim.seen.paused = *paused,
        Happening::Freeze(frozen) => {
            let until = after(sim.now, seconds(1_000_000));
            let open = frozen.then(|| Frozen { window: "peak-week".to_owned(), until });
            sim.seen.freeze = Freeze { changes_at: open.as_ref().map(|frozen| frozen.until), open };
        }
        Happening::Replicas(replicas) => sim.seen.replicas = *replicas,
        Happening::EditPlan => sim.plan.hash.push('x'),
        Happening::RouteLost => sim.seen.route = Route::Missing,
        Happening::ClockBack => sim.now = Timestamp::from_second(sim.now.as_second() - 5).unwrap(),
        Happening::Restart => {
            for pods in sim.seen.pods.values_mut().filter(|pods| pods.size > 0) {
                *pods.restarts.entry("pod-a".into()).or_default() += 1;
            }
        }
        Happening::Drift(share) => {
            if let Route::Seen { shares: Shares::Split { weight, .. }, .. } = &mut sim.seen.route {
                *weight = *share;
                sim.seen.route_version.generation += 1;
            }
        }
        Happening::GatewayPending => {
            if let Route::Seen { programmed, .. } = &mut sim.seen.route {
                *programmed = Programmed::Pending;
            }
        }
        Happening::Decide(verb) => decide(sim, *verb),
        Happening::Answered => drop(sim.read_back()),
        Happening::Nothing | Happening::Crash => {}
    }
}

fn decide(sim: &mut Sim, verb: DecisionVerb) {
    let revision = sim.state.rejected.first().map_or_else(|| TEAL.to_owned(), |rejected| rejected.revision.clone());
    let name = format!("{}-{}", sim.now.as_second(), sim.seen.people.given.len());
    sim.decides_with(&name, verb, |given| {
        given.revision = (verb == DecisionVerb::Retry).then_some(revision);
        given.gates = vec!["success".to_owned()];
    });
}

/// One pass in which the leader may die between its two writes: status first on the way up, route first on the way down.
pub(super) fn pass(sim: &mut Sim, crash: bool) {
    sim.now = after(sim.now, seconds(1));
    sim.sample();
    sim.look_at_service();
    let before = sim.clone();
    let step = sim.decide();
    promises(&before, &step);
    if step.wanted.falling {
        sim.perform(&step.wanted);
        if !crash {
            sim.commit(&step);
        }
    } else {
        sim.commit(&step);
        if !crash {
            sim.perform(&step.wanted);
        }
    }
    sim.settle();
    shares_are_bounded(sim, &step);
}

/// 1. Where pods are the share, it is never more than what the status says, whatever was written and what was not.
fn shares_are_bounded(sim: &Sim, step: &Step) {
    let Some(split) = sim.split.as_ref().filter(|_| sim.seen.by_pods.is_some()) else { return };
    let size = |revision: &str| sim.seen.pods.get(revision).map_or(0, |pods| pods.size);
    let launch = step.state.running().unwrap();
    assert_eq!((&split.canary, Some(&split.stable)), (&launch.revision, launch.stable.as_ref()));
    if launch.phase != Phase::RollingBack && !sim.rescaled {
        let share = split.share(size);
        assert!(share <= launch.weight, "{share}% for {launch:#?}");
    }
}

/// The promises that one decision can break, each written once.
pub(super) fn promises(before: &Sim, step: &Step) {
    let decided = Decided { plan: &before.plan, before: &before.state, seen: &before.seen, now: before.now, step };
    if let Err(broken) = promises::of_a_decision(&decided) {
        panic!("{broken}\nbefore: {:#?}\nseen: {:#?}\nafter: {step:#?}", before.state, before.seen);
    }
}

/// Everything is mended and nothing more happens: what the spec asks for is stable or rejected, and nothing is left to do.
pub(super) fn comes_to_rest(mut sim: Sim) {
    sim.broken.clear();
    if sim.seen.by_pods.is_some() {
        sim.obstruct(None);
    }
    sim.verdicts.clear();
    sim.seen.paused = false;
    pass(&mut sim, false); // what was decided is heard
    sim.read_back();
    sim.state.pause = None;
    sim.seen.freeze = Freeze::default();
    sim.seen.replicas = 4;
    if let Route::Seen { programmed, .. } = &mut sim.seen.route {
        *programmed = Programmed::Yes;
    }
    for second in 0..400 {
        if sim.state.launch.as_ref().is_some_and(|launch| launch.held) {
            sim.decides(&format!("resume-{second}"), DecisionVerb::Resume); // a deadline asks for a person
        }
        pass(&mut sim, false);
        sim.read_back();
        for pods in sim.seen.pods.values_mut() {
            pods.restarts.clear();
        }
    }
    let WantedRevision::Known(wanted) = sim.seen.wanted.clone() else { unreachable!() };
    let rejected = sim.state.rejected.iter().any(|r| r.revision == wanted);
    assert!(sim.stable() == wanted || rejected, "{wanted} is neither stable nor rejected: {:#?}", sim.state);
    assert_eq!(sim.weight(), 0);
    assert_eq!(sim.seen.service.as_deref(), Some(sim.stable()));
    let step = sim.decide();
    assert_eq!(step.state, sim.state, "a second look changes nothing");
    assert_eq!(step.wake_at, None);
    let sizes = sim.seen.pods.values().filter(|pods| pods.size > 0).count();
    assert_eq!(sizes, 1, "only stable has pods");
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn the_promises_hold_whatever_happens(mut sim in agent(), happenings in prop::collection::vec(happening(), 1..250)) {
        for happening in &happenings {
            happen(&mut sim, happening);
            pass(&mut sim, matches!(happening, Happening::Crash));
        }
    }

    #[test]
    fn when_nothing_more_happens_the_agent_comes_to_rest(mut sim in agent(), happenings in prop::collection::vec(happening(), 1..120)) {
        for happening in &happenings {
            happen(&mut sim, happening);
            pass(&mut sim, matches!(happening, Happening::Crash));
        }
        comes_to_rest(sim);
    }

    #[test]
    fn the_same_input_gives_the_same_decision(mut sim in agent(), happenings in prop::collection::vec(happening(), 1..60)) {
        for happening in &happenings {
            happen(&mut sim, happening);
            let (one, two) = (sim.clone().decide(), sim.clone().decide());
            prop_assert_eq!(one, two);
            pass(&mut sim, false);
        }
    }
}
