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

/// An agent whose launches soak, and whose runs are waited for, or neither.
pub(super) fn agent() -> impl Strategy<Value = Sim> {
    let soak = prop_oneof![Just(0_u64), Just(20)];
    let drain = prop_oneof![Just(None), Just(Some(60_u64))];
    (soak, drain, 1..4_i32, any::<bool>()).prop_map(|(soak, drain, canary_pods, by_pods)| {
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
    sim.look();
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
    let launch = step.state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete).unwrap();
    assert_eq!((&split.canary, Some(&split.stable)), (&launch.revision, launch.stable.as_ref()));
    if launch.phase != Phase::RollingBack && !sim.rescaled {
        let share = split.share(size);
        assert!(share <= launch.weight, "{share}% for {launch:#?}");
    }
}

/// The promises that one decision can break, each written once.
fn promises(before: &Sim, step: &Step) {
    let decided = Decided { plan: &before.plan, before: &before.state, seen: &before.seen, now: before.now, step };
    if let Err(broken) = promises::of_a_decision(&decided) {
        panic!("{broken}\nbefore: {:#?}\nseen: {:#?}\nafter: {step:#?}", before.state, before.seen);
    }
    let running = step.state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
    freeze_blocks_forward(before, step);
    // An abort wins over everything, a dead stable included: nobody but stable has or gets a share.
    let aborts =
        |given: &&Given| given.verb == DecisionVerb::Abort && given.made_at >= before.seen.people.agent_made_at;
    let heard = |given: &&Given| before.state.answers.iter().any(|answer| answer.uid == given.uid);
    let fresh = before.seen.people.given.iter().filter(aborts).any(|given| !heard(&given));
    let hearing = step.state.answers.len() < 32;
    let running_before = before.state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
    if let (true, true, Some(old)) = (fresh, hearing, running_before) {
        let new = step.state.launch.as_ref().unwrap();
        assert!(
            new.id != old.id || (new.weight == 0 && matches!(new.phase, Phase::RollingBack | Phase::Complete)),
            "{new:?}"
        );
        assert!(!matches!(&step.wanted.shares, Some(Shares::Split { weight, .. }) if *weight > 0), "{:?}", step.wanted);
    }
    // The agent's Service never leaves stable without a promotion; a rollback leaves it until stable has a ready pod.
    if let (Some(service), Some(stable)) = (&step.wanted.service, &step.state.stable)
        && *service != stable.revision
    {
        assert!(running.is_some_and(|launch| launch.weight == 100 && launch.revision == *service));
        let waits = |pods: &Pods| pods.ready == 0;
        let dead = before.seen.pods.get(&stable.revision).is_none_or(waits);
        assert!(
            running
                .is_some_and(|launch| launch.phase == Phase::Promoting || launch.phase == Phase::RollingBack && dead)
        );
    }
    // While it soaks its revision is stable, and the way back is open at full size.
    if let Some(launch) = running.filter(|launch| launch.phase == Phase::Soaking) {
        assert_eq!(step.state.stable.as_ref().map(|stable| &stable.revision), Some(&launch.revision));
        assert!(!step.state.trusted.iter().any(|trusted| trusted.revision == launch.revision) || launch.trusted);
        let back = launch.stable.as_ref().map(|former| step.wanted.sizes[former]);
        assert!(back.is_none_or(|size| size >= launch.stable_size.max(before.seen.replicas)), "{back:?}");
        assert!(step.wanted.shares.as_ref().is_none_or(|shares| *shares == Shares::AtRest));
    }
    // 15. Runs finish: pods of a revision that had traffic go only when it is known that nobody runs there, or late.
    for retiring in before.state.retiring.iter().filter(|retiring| !retiring.idle) {
        let kept = step.wanted.sizes.contains_key(&retiring.revision);
        let late = |span: u64| before.now >= after(retiring.since, seconds(span));
        let due = before.seen.drain.map_or(late(10), |deadline| before.now >= after(retiring.since, deadline));
        let pods = before.seen.pods.get(&retiring.revision).map_or(0, |pods| pods.size);
        assert!(kept || due || pods == 0 && late(10), "{retiring:?} lost its pods");
    }
}

/// 13. In a freeze no launch begins, no weight rises and nothing becomes stable, unless it goes back to what is trusted.
fn freeze_blocks_forward(before: &Sim, step: &Step) {
    let Some(new) = step.state.launch.as_ref().filter(|_| before.seen.freeze.open.is_some()) else { return };
    let old = before.state.launch.as_ref();
    let begins = old.is_none_or(|old| old.id != new.id);
    assert!(!begins || new.trusted, "a launch began in a freeze: {new:?}");
    if let Some(old) = old.filter(|old| old.id == new.id && !old.trusted) {
        assert!(new.weight <= old.weight && new.stage <= old.stage, "a weight rose in a freeze: {old:?} {new:?}");
        let moved = before.seen.service.as_ref() == Some(&new.revision);
        assert!(moved || new.outcome == old.outcome || new.outcome != Some(Outcome::Succeeded), "promoted in a freeze");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

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
        for _ in 0..400 {
            pass(&mut sim, false);
            for pods in sim.seen.pods.values_mut() {
                pods.restarts.clear();
            }
        }
        let WantedRevision::Known(wanted) = sim.seen.wanted.clone() else { unreachable!() };
        let rejected = sim.state.rejected.iter().any(|r| r.revision == wanted);
        prop_assert!(sim.stable() == wanted || rejected, "{} is neither stable nor rejected: {:#?}", wanted, sim.state);
        prop_assert_eq!(sim.weight(), 0);
        prop_assert_eq!(sim.seen.service.as_deref(), Some(sim.stable()));
        let step = sim.decide();
        prop_assert_eq!(&step.state, &sim.state, "a second look changes nothing");
        prop_assert_eq!(step.wake_at, None);
        let sizes: Vec<_> = sim.seen.pods.iter().filter(|(_, pods)| pods.size > 0).collect();
        prop_assert_eq!(sizes.len(), 1, "only stable has pods");
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
