//! Rough weather: random specs, plans, verdicts and decisions meet an operator that dies after any of its writes, is slow
//! between looking and writing, sees old pods, is still at work when its successor leads, and whose clock jumps.
//!
//! An operator writes here as the shell does (`controller/reconcile.rs`), write by write and with its guards. Each decision
//! and each write that gives somebody more is asked all promises of `launch/promises.rs`. The model check does the same for
//! every order of few events; here are long lives with many. Where pods make the shares is [`by_pods`].

mod by_pods;

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::properties::{Happening, agent_shared, comes_to_rest, happen, happening, promises};
use super::*;
use crate::launch::promises::{Broken, Rise, of_a_rise, share_of};

/// What may happen in one second.
#[derive(Clone, Debug)]
enum Weather {
    /// Something happens before the operator looks, and it makes a whole pass.
    Calm(Happening),
    /// Something happens after it has looked, and before it writes.
    Slow(Happening),
    /// It dies after so many writes of this pass.
    Dies(usize),
    /// It sees the pods of some seconds ago; while no launch runs the route and the Service of then as well.
    OldView(usize),
    /// A former leader still makes the writes that it decided some seconds ago.
    Former(usize),
    /// The clock jumps by so many seconds.
    Jump(i64),
    /// The plan is edited.
    Plan(Edit),
}

/// Edits of a plan.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// A longer minimum duration: the edit only tightens.
    Tighter,
    /// Other stages, more or fewer of them.
    Stages(usize),
    /// Canaries have so many pods at least.
    CanaryPods(i32),
    /// A trigger goes, or comes back.
    Trigger,
    /// The soak is that long.
    Soak(u64),
    /// The deadline asks for a person, or for a rollback.
    Deadline(DeadlineOutcome),
}

const STAGES: [&[i32]; 5] = [&[5, 25, 50], &[5, 50], &[100], &[1, 2, 3, 4, 30], &[0, 25]];

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        24 => happening().prop_map(Weather::Calm),
        6 => happening().prop_map(Weather::Slow),
        4 => (0..6_usize).prop_map(Weather::Dies),
        3 => (1..12_usize).prop_map(Weather::OldView),
        3 => (1..40_usize).prop_map(Weather::Former),
        1 => prop_oneof![-3600..0_i64, -20..0_i64, 1..20_i64, 1..7200_i64].prop_map(Weather::Jump),
        1 => edit().prop_map(Weather::Plan),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        Just(Edit::Tighter),
        (0..STAGES.len()).prop_map(Edit::Stages),
        (1..4).prop_map(Edit::CanaryPods),
        Just(Edit::Trigger),
        (0..2_u64).prop_map(|on| Edit::Soak(on * 20)),
        prop_oneof![Just(DeadlineOutcome::Pause), Just(DeadlineOutcome::Rollback)].prop_map(Edit::Deadline),
    ]
}

fn change(plan: &mut Plan, edit: Edit, stages: &[&[i32]]) {
    let before = plan.hash.clone();
    plan.hash.push('x');
    plan.tightens = None;
    match edit {
        Edit::Tighter => {
            plan.stages.iter_mut().for_each(|stage| stage.min_duration += seconds(2));
            plan.tightens = Some(before);
        }
        Edit::Stages(which) => {
            let names = ["one", "two", "three", "four", "five"];
            plan.stages = stages[which].iter().zip(names).map(|(weight, name)| stage(name, *weight)).collect();
        }
        Edit::CanaryPods(pods) => plan.canary_pods = pods,
        Edit::Trigger => match plan.triggers.iter().position(|trigger| trigger.name == "errors") {
            Some(at) => drop(plan.triggers.remove(at)),
            None => plan.triggers.push(trigger("errors", TriggerCheck::Metric(question(5)), 4)),
        },
        Edit::Soak(span) => plan.soak = seconds(span),
        Edit::Deadline(then) => {
            for stage in &mut plan.stages {
                (stage.deadline, stage.then) = (seconds(90), then);
            }
        }
    }
}

/// A cluster, and what it was in the last seconds.
struct World {
    now: Sim,
    past: VecDeque<Sim>,
    /// The latest instant that any clock has shown.
    latest: Timestamp,
    guards: Guards,
    /// The first promise that a write broke.
    broken: Option<Broken>,
}

/// What keeps an operator from harm.
#[derive(Clone, Copy)]
struct Guards {
    /// It looks again before somebody gets more.
    last_look: bool,
    /// On the way up the status is written first.
    status_first: bool,
}

/// A cluster that goes through weather, second by second.
trait Weathered {
    type Weather;

    fn of(sim: Sim) -> Self;

    fn second(&mut self, weather: &Self::Weather);

    /// The cluster, the latest instant that any clock has shown, and the first promise that a write broke.
    fn now(&self) -> (&Sim, Timestamp, Option<&Broken>);
}

/// No decision and no write breaks a promise in this weather.
fn promises_hold_in<W: Weathered>(sim: Sim, weather: &[W::Weather]) -> Result<(), TestCaseError> {
    let mut world = W::of(sim);
    for weather in weather {
        world.second(weather);
        let (now, _, broken) = world.now();
        prop_assert_eq!(broken, None, "{:#?}", now);
    }
    Ok(())
}

/// The agent comes to rest after this weather, under a clock that is right again.
fn rests_after<W: Weathered>(sim: Sim, weather: &[W::Weather]) {
    let mut world = W::of(sim);
    for weather in weather {
        world.second(weather);
    }
    let (now, latest, _) = world.now();
    comes_to_rest(Sim { now: latest, ..now.clone() });
}

/// A write of a pass, in the order of `reconcile`.
enum Write {
    Commit,
    Size(String, i32),
    Route,
    Service,
    Unsized,
}

impl Weathered for World {
    type Weather = Weather;

    fn of(sim: Sim) -> Self {
        let latest = sim.now;
        let guards = Guards { last_look: true, status_first: true };
        Self { now: sim, past: VecDeque::new(), latest, guards, broken: None }
    }

    fn second(&mut self, weather: &Weather) {
        self.past.push_front(self.now.clone());
        self.past.truncate(40);
        match weather {
            Weather::Calm(happening) => happen(&mut self.now, happening),
            Weather::Jump(by) => self.now.now = Timestamp::from_second(self.now.now.as_second() + by).unwrap(),
            Weather::Plan(edit) => change(&mut self.now.plan, *edit, &STAGES),
            Weather::Slow(_) | Weather::Dies(_) | Weather::OldView(_) | Weather::Former(_) => {}
        }
        self.now.now = after(self.now.now, seconds(1));
        self.latest = self.latest.max(self.now.now);
        self.now.sample();
        if let Weather::Former(ago) = weather
            && let Some(then) = self.past.get(*ago).cloned()
        {
            let step = decide(then.clone());
            self.write(&then, &step, usize::MAX);
        }
        let view = match weather {
            Weather::OldView(ago) => self.old_view(*ago),
            _ => self.now.clone(),
        };
        let step = decide(view.clone());
        self.now.events.extend(step.events.clone());
        if let Weather::Slow(happening) = weather {
            happen(&mut self.now, happening);
        }
        let survives = match weather {
            Weather::Dies(writes) => *writes,
            Weather::Calm(Happening::Crash) => 1,
            _ => usize::MAX,
        };
        self.write(&view, &step, survives);
        self.now.settle();
    }

    fn now(&self) -> (&Sim, Timestamp, Option<&Broken>) {
        (&self.now, self.latest, self.broken.as_ref())
    }
}

impl World {
    /// What is read from caches is old; the agent itself is read now, and route and Service too while a launch runs.
    fn old_view(&self, ago: usize) -> Sim {
        let mut view = self.now.clone();
        let Some(then) = self.past.get(ago) else { return view };
        view.seen.pods.clone_from(&then.seen.pods);
        if view.state.running().is_none() {
            view.seen.route.clone_from(&then.seen.route);
            view.seen.service.clone_from(&then.seen.service);
            view.seen.decision.clone_from(&then.seen.decision);
        }
        view
    }

    fn write(&mut self, view: &Sim, step: &Step, survives: usize) {
        let mut writes = Vec::new();
        if step.wanted.falling || !self.guards.status_first {
            writes.extend([Write::Route, Write::Service]);
        }
        writes.push(Write::Commit);
        writes.extend(step.wanted.sizes.iter().map(|(revision, size)| Write::Size(revision.clone(), *size)));
        if !step.wanted.falling {
            writes.extend([Write::Route, Write::Service]);
        }
        writes.push(Write::Unsized);
        let mut left = survives;
        for write in writes {
            if left == 0 {
                return; // its operator has died
            }
            match self.land(view, step, &write) {
                Ok(requested) => left -= usize::from(requested),
                Err(()) if step.wanted.falling && matches!(write, Write::Route | Write::Service) => {}
                Err(()) => return, // the pass fails, and is made again
            }
        }
    }

    /// Whether a write changed anything; refused when its guard says no.
    fn land(&mut self, view: &Sim, step: &Step, write: &Write) -> Result<bool, ()> {
        let now = &mut self.now;
        match write {
            Write::Commit if step.state == view.state => Ok(false),
            Write::Commit if now.state != view.state => Err(()), // resourceVersion
            Write::Commit => {
                now.commit(step);
                Ok(true)
            }
            Write::Size(revision, size) => {
                let known = view.seen.pods.get(revision).map(|pods| pods.size);
                now.seen.pods.entry(revision.clone()).or_default().size = *size;
                Ok(known != Some(*size))
            }
            Write::Unsized => {
                let known: Vec<_> = view.seen.pods.keys().cloned().collect();
                for revision in known.iter().filter(|revision| !step.wanted.sizes.contains_key(*revision)) {
                    now.seen.pods.insert(revision.clone(), Pods::default());
                }
                Ok(true)
            }
            Write::Route => self.route(view, step),
            Write::Service => self.service(view, step),
        }
    }

    fn route(&mut self, view: &Sim, step: &Step) -> Result<bool, ()> {
        let Some(shares) = &step.wanted.shares else { return Ok(false) };
        let found = match &self.now.seen.route {
            Route::Seen { shares, .. } => Some(shares.clone()),
            _ => None,
        };
        let seen = match &view.seen.route {
            Route::Seen { shares, .. } => Some(shares),
            _ => None,
        };
        if !step.wanted.falling && found.as_ref() != seen && found.as_ref() != Some(shares) {
            return Err(());
        }
        let marked = !self.lacks_mark(step);
        if found.as_ref() == Some(shares) && marked {
            return Ok(false);
        }
        let after = Route::Seen { shares: shares.clone(), programmed: Programmed::Yes };
        self.may_rise(view, step, &after, None)?;
        self.now.seen.route = after;
        self.now.seen.route_version.generation += 1;
        self.now.seen.decision.clone_from(&step.wanted.decision);
        Ok(true)
    }

    fn service(&mut self, view: &Sim, step: &Step) -> Result<bool, ()> {
        if self.now.seen.service == step.wanted.service && !self.lacks_mark(step) {
            return Ok(false);
        }
        self.may_rise(view, step, &Route::NotUsed, step.wanted.service.as_deref())?;
        self.now.seen.service.clone_from(&step.wanted.service);
        if step.wanted.decision.is_some() {
            self.now.seen.decision.clone_from(&step.wanted.decision);
        }
        Ok(true)
    }

    /// `traffic::lacks_mark`.
    fn lacks_mark(&self, step: &Step) -> bool {
        let launch = step.state.launch.as_ref().filter(|launch| launch.phase == Phase::RollingBack);
        launch.is_some_and(|launch| self.now.seen.decision.as_ref().is_none_or(|written| written.launch != launch.id))
    }

    /// `traffic::may_rise`, and then the promise: who gets more by this write may have it.
    fn may_rise(&mut self, view: &Sim, step: &Step, route: &Route, service: Option<&str>) -> Result<(), ()> {
        let now = &self.now;
        let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
        let old = |revision: &str| match service {
            Some(_) => share_of(revision, &Route::NotUsed, now.seen.service.as_deref()),
            None => share_of(revision, &now.seen.route, None),
        };
        let rises = |revision: &&str| share_of(revision, route, service) > old(revision);
        let others = step.wanted.keep.iter().chain(step.wanted.sizes.keys()).map(String::as_str);
        for revision in others.filter(|revision| Some(*revision) != stable).filter(rises) {
            let launch = step.state.launch.as_ref();
            let written = now.seen.decision.as_ref();
            let taken_back = written.is_some_and(|it| launch.is_some_and(|launch| launch.id == it.launch));
            let same = now.state == step.state
                && (&now.seen.wanted, now.seen.replicas, now.seen.paused)
                    == (&view.seen.wanted, view.seen.replicas, view.seen.paused);
            if self.guards.last_look && (taken_back || !same) {
                return Err(());
            }
            let to = share_of(revision, route, service);
            let kept = of_a_rise(&Rise { revision, to, committed: &now.state, written });
            self.broken = self.broken.take().or(kept.err());
        }
        Ok(())
    }
}

/// One decision, and what no decision may do.
fn decide(mut view: Sim) -> Step {
    let step = view.decide();
    promises(&view, &step);
    step
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn the_promises_hold_in_rough_weather(sim in agent_shared(false), weather in prop::collection::vec(weather(), 1..250)) {
        promises_hold_in::<World>(sim, &weather)?;
    }

    #[test]
    fn after_rough_weather_the_agent_comes_to_rest(sim in agent_shared(false), weather in prop::collection::vec(weather(), 1..150)) {
        rests_after::<World>(sim, &weather);
    }
}

/// The promise that is broken first when these guards are missing, in as many lives as it takes.
fn found_without(guards: Guards) -> Option<&'static str> {
    let mut runner = TestRunner::deterministic();
    for _ in 0..2000 {
        let mut world = World::of(agent_shared(false).new_tree(&mut runner).unwrap().current());
        world.guards = guards;
        for weather in prop::collection::vec(weather(), 100).new_tree(&mut runner).unwrap().current() {
            world.second(&weather);
            if let Some(broken) = world.broken {
                return Some(broken.promise);
            }
        }
    }
    None
}

#[test]
fn rough_weather_finds_what_the_guards_are_for() {
    assert_eq!(found_without(Guards { last_look: false, status_first: true }), Some("WriteWhyFirst"));
    assert_eq!(found_without(Guards { last_look: false, status_first: false }), Some("WriteWhyFirst"));
}
