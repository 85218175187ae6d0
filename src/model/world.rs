//! The world around the operators: what is in the API server, what Kubernetes, the gateway, users and metrics do to it,
//! and which writes it accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use super::operator::{Operator, Pass};
use crate::api::{
    DeadlineOutcome, OnFail, Phase, Sharing, StableRevision, State, TrustedRevision, Verdict, standard_metrics,
};
use crate::controller::elector::{Act, LeaseView};
use crate::launch::promises::{self, Broken, Rise, share_of};
use crate::launch::{
    Bounds, ByPods, Compare, Decision, Gate, GateCheck, Plan, Programmed, Question, Route, Shares, Stage, Trigger,
    TriggerCheck,
};
use crate::traffic::PodSplit;

/// It is always now; everything else grows older.
pub(super) static NOW: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::from_second(1_000_000).unwrap());
/// The same on the operators' own clocks.
pub(super) static INSTANT: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_hours(24));
/// So much time passes at once.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// What is older is as old: more than any time-out here.
const OLDEST: Duration = Duration::from_secs(30);
/// The deadline of every stage.
const DEADLINE: Duration = Duration::from_secs(25);

pub(super) const OCHRE: &str = "ochre";
pub(super) const TEAL: &str = "teal";
pub(super) const MAUVE: &str = "mauve";

/// How much may happen, and which guards are in place.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a guard that can be taken away
pub(super) struct Rules {
    /// The agent has a gateway.
    pub(super) gateway: bool,
    /// Without a gateway: pods make the shares.
    pub(super) by_pods: bool,
    /// Before a Service selects the pods of both revisions, their numbers are read afresh.
    pub(super) may_split: bool,
    /// Something is stable already.
    pub(super) stable: bool,
    /// Crashes, standstills, lost answers, late writes, old caches, dying pods, foreign edits.
    pub(super) faults: u8,
    /// Edits of the spec.
    pub(super) edits: u8,
    /// Gates that stop passing, and triggers that fire.
    pub(super) verdicts: u8,
    /// A second operator stands by.
    pub(super) standby: bool,
    /// Before a rise, agent and object are read afresh.
    pub(super) may_rise: bool,
    /// On the way up the status is written first.
    pub(super) status_first: bool,
    /// A fall carries its decision.
    pub(super) decision_written: bool,
    /// Status and route are guarded by `resourceVersion`.
    pub(super) versions: bool,
    /// A launch that is taken back marks route and Service even where its weight is 0 already.
    pub(super) falls_are_marked: bool,
    /// Leadership is asked for before each write.
    pub(super) leadership: bool,
    /// A write with a lower epoch than the object's is refused.
    pub(super) fencing: bool,
    /// It counts as broken when the write of a deposed leader is accepted after one of its successor.
    pub(super) one_writer: bool,
}

impl Rules {
    /// Everything as it is built, and nothing happens.
    pub(super) const CALM: Self = Self {
        gateway: true,
        by_pods: false,
        may_split: true,
        stable: true,
        faults: 0,
        edits: 0,
        verdicts: 0,
        standby: false,
        may_rise: true,
        status_first: true,
        decision_written: true,
        versions: true,
        falls_are_marked: true,
        leadership: true,
        fencing: false,
        one_writer: false,
    };
}

/// What the user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spec {
    pub(super) wanted: &'static str,
    pub(super) paused: bool,
    pub(super) replicas: i32,
    pub(super) edited_plan: bool,
}

/// The agent's route, as the API server holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RouteObject {
    pub(super) shares: Shares,
    pub(super) programmed: bool,
    pub(super) decision: Option<Decision>,
    pub(super) epoch: i64,
}

/// The agent's Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ServiceObject {
    pub(super) revision: Option<String>,
    /// It selects the pods of this revision and of another one.
    pub(super) split: Option<PodSplit>,
    pub(super) decision: Option<Decision>,
    pub(super) epoch: i64,
}

/// A revision's Deployment and its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Deployment {
    pub(super) size: i32,
    pub(super) ready: i32,
    pub(super) since: Option<Timestamp>,
    pub(super) epoch: i64,
}

/// What the metrics say now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Says {
    pub(super) gate: Verdict,
    pub(super) errors: Verdict,
    pub(super) bypass: Verdict,
}

/// A request to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Write {
    Status(Arc<State>),
    CreateRoute,
    Route {
        shares: Shares,
        decision: Option<Decision>,
        takes_back: Option<String>,
    },
    Service {
        revision: Option<String>,
        split: Option<PodSplit>,
        decision: Option<Decision>,
        takes_back: Option<String>,
    },
    /// `emptied`: it was decided on a spec that asks for no pods at all.
    Size {
        revision: String,
        size: i32,
        emptied: bool,
    },
    Remove {
        revision: String,
    },
}

/// A request that left its operator and has not arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Late {
    pub(super) write: Write,
    pub(super) epoch: i64,
    /// Nobody has written the object since it was read.
    pub(super) fresh: bool,
}

/// A state of everything.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) spec: Spec,
    pub(super) state: Arc<State>,
    pub(super) route: Option<RouteObject>,
    pub(super) service: ServiceObject,
    pub(super) deployments: BTreeMap<String, Deployment>,
    pub(super) says: Says,
    lease: Option<(String, u8, i32)>,
    pub(super) operators: [Operator; 2],
    pub(super) late: Option<Late>,
    /// Launches whose fall has been written on an object: for the promises only, nobody else sees it.
    taken_back: BTreeSet<(u8, String)>,
    left: (u8, u8, u8),
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.spec, &self.state, &self.route, &self.service, &self.deployments).hash(hasher);
        (&self.says, &self.lease, &self.operators, &self.late, &self.taken_back, self.left).hash(hasher);
    }
}

/// Something that may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Five seconds pass.
    Tick,
    /// An operator reads, observes and decides.
    Begin(usize),
    /// It makes its next write.
    Write(usize),
    /// Its next write is accepted, and the answer is lost.
    LoseAnswer(usize),
    /// It dies, and starts anew under the same name.
    Crash(usize),
    /// Its next write leaves and arrives later; then it dies (true), or stands still.
    Delay(usize, bool),
    /// The late write arrives.
    Arrive,
    /// It stands still, or is cut off.
    Stop(usize),
    Resume(usize),
    /// Its watches stand still: pods, and at rest the route and the Service, are seen as they were.
    Freeze(usize),
    Thaw(usize),
    /// Kubernetes makes the pods of a revision ready.
    Ready(String),
    /// The gateway takes the route.
    Program,
    /// All pods of a revision die.
    Die(String),
    /// Somebody else gives the canary 90 %.
    Drift,
    /// Somebody removes the route.
    LoseRoute,
    /// Somebody empties the status.
    LoseStatus,
    Want(&'static str),
    Pause(bool),
    Replicas(i32),
    EditPlan,
    Gate(Verdict),
    Errors(Verdict),
    Bypass(Verdict),
}

/// Why an operator's write came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        let wanted = if rules.stable { TEAL } else { OCHRE };
        let mut world = Self {
            rules,
            spec: Spec { wanted, paused: false, replicas: 2, edited_plan: false },
            state: Arc::default(),
            route: None,
            service: ServiceObject::default(),
            deployments: BTreeMap::new(),
            says: Says { gate: Verdict::Pass, errors: Verdict::Pass, bypass: Verdict::Pass },
            lease: None,
            operators: [Operator::new(0), Operator::new(1)],
            late: None,
            taken_back: BTreeSet::new(),
            left: (rules.faults, rules.edits, rules.verdicts),
        };
        if rules.stable {
            let since = old();
            world.state = Arc::new(State {
                stable: Some(StableRevision { revision: OCHRE.to_owned(), since }),
                trusted: vec![TrustedRevision { revision: OCHRE.to_owned(), since }],
                ..State::default()
            });
            let pods = Deployment { size: 2, ready: 2, since: Some(since), epoch: 0 };
            world.deployments.insert(OCHRE.to_owned(), pods);
            world.service.revision = Some(OCHRE.to_owned());
            world.route = rules.gateway.then_some(RouteObject {
                shares: Shares::AtRest,
                programmed: true,
                decision: None,
                epoch: 0,
            });
        }
        world.operators[1].stopped = !rules.standby;
        world.lease_turn(0);
        world
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        plan(self.rules.gateway, self.rules.by_pods, self.spec.edited_plan)
    }

    // ---- what may happen

    pub(super) fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        for index in 0..2 {
            self.actions_of_operator(index, &mut all);
        }
        if self.late.is_some() {
            all.push(Action::Arrive);
        }
        if self.operators.iter().all(|operator| operator.stopped || !operator.leads() || operator.rests()) {
            all.push(Action::Tick);
        }
        for (revision, pods) in &self.deployments {
            if pods.ready < pods.size {
                all.push(Action::Ready(revision.clone()));
            }
            if pods.ready > 0 && self.left.0 > 0 {
                all.push(Action::Die(revision.clone()));
            }
        }
        if self.route.as_ref().is_some_and(|route| !route.programmed) {
            all.push(Action::Program);
        }
        self.actions_of_others(&mut all);
        all
    }

    fn actions_of_operator(&self, index: usize, all: &mut Vec<Action>) {
        let operator = &self.operators[index];
        let faults = self.left.0 > 0;
        if index == 1 && !self.rules.standby {
            return;
        }
        if operator.stopped {
            return all.push(Action::Resume(index));
        }
        if operator.pass.is_some() {
            all.push(Action::Write(index));
        } else if operator.leads() && operator.dirty {
            all.push(Action::Begin(index));
        }
        if operator.cache.is_some() {
            all.push(Action::Thaw(index));
        }
        if faults && operator.leads() {
            if operator.pass.is_some() {
                all.extend([Action::LoseAnswer(index), Action::Crash(index)]);
                if self.late.is_none() {
                    all.extend([Action::Delay(index, false), Action::Delay(index, true)]);
                }
            }
            all.push(Action::Stop(index));
            if operator.cache.is_none() {
                all.push(Action::Freeze(index));
            }
        }
    }

    fn actions_of_others(&self, all: &mut Vec<Action>) {
        let (faults, edits, verdicts) = self.left;
        if faults > 0 {
            if self.route.as_ref().is_some_and(|route| matches!(route.shares, Shares::Split { .. })) {
                all.extend([Action::Drift, Action::LoseRoute]);
            }
            if *self.state != State::default() && self.operators.iter().all(|operator| operator.pass.is_none()) {
                all.push(Action::LoseStatus);
            }
        }
        if edits > 0 {
            let names = [OCHRE, TEAL, MAUVE].into_iter().filter(|name| *name != self.spec.wanted);
            all.extend(names.map(Action::Want));
            all.push(Action::Pause(!self.spec.paused));
            all.extend([0, 2, 4].into_iter().filter(|n| *n != self.spec.replicas).map(Action::Replicas));
            if !self.spec.edited_plan {
                all.push(Action::EditPlan);
            }
        }
        let launching = self.state.launch.as_ref().is_some_and(|launch| launch.phase != Phase::Complete);
        if self.says.gate != Verdict::Pass {
            all.push(Action::Gate(Verdict::Pass));
        } else if verdicts > 0 && launching {
            all.extend([Verdict::Fail, Verdict::Error].map(Action::Gate));
        }
        if self.says.errors != Verdict::Pass {
            all.push(Action::Errors(Verdict::Pass));
        } else if verdicts > 0 && launching {
            all.push(Action::Errors(Verdict::Fail));
        }
        if self.says.bypass != Verdict::Pass {
            all.push(Action::Bypass(Verdict::Pass));
        } else if verdicts > 0 && launching {
            all.push(Action::Bypass(Verdict::Fail));
        }
    }

    // ---- what it does

    /// Makes it happen. An error is a promise that was broken.
    pub(super) fn happen(&mut self, action: &Action) -> Result<(), Broken> {
        self.pay(action);
        match action {
            Action::Tick => self.tick(),
            Action::Begin(index) => self.begin(*index)?,
            Action::Write(index) => self.write(*index, false)?,
            Action::LoseAnswer(index) => self.write(*index, true)?,
            Action::Crash(index) => self.restart(*index),
            Action::Delay(index, dies) => self.delay(*index, *dies),
            Action::Arrive => {
                if let Some(late) = self.late.take() {
                    let _ = self.land(&late.write, late.epoch, late.fresh, true)?;
                }
            }
            Action::Stop(index) => self.operators[*index].stopped = true,
            Action::Resume(index) => self.resume(*index),
            Action::Freeze(index) => {
                let cache = (self.deployments.clone(), self.route.clone(), self.service.clone());
                self.operators[*index].cache = Some(Arc::new(cache));
            }
            Action::Thaw(index) => {
                self.operators[*index].cache = None;
                self.operators[*index].dirty = true;
            }
            other => self.others(other),
        }
        Ok(())
    }

    fn pay(&mut self, action: &Action) {
        let (faults, edits, verdicts) = &mut self.left;
        match action {
            Action::LoseAnswer(_) | Action::Crash(_) | Action::Delay(..) | Action::Stop(_) | Action::Freeze(_) => {
                *faults -= 1;
            }
            Action::Die(_) | Action::Drift | Action::LoseRoute | Action::LoseStatus => *faults -= 1,
            Action::Want(_) | Action::Pause(_) | Action::Replicas(_) | Action::EditPlan => *edits -= 1,
            Action::Gate(verdict) | Action::Errors(verdict) | Action::Bypass(verdict) if *verdict != Verdict::Pass => {
                *verdicts -= 1;
            }
            _ => {}
        }
    }

    /// Kubernetes, the gateway, users, metrics, and other hands.
    fn others(&mut self, action: &Action) {
        match action {
            Action::Ready(revision) => {
                if let Some(pods) = self.deployments.get_mut(revision) {
                    pods.ready = pods.size;
                    pods.since = Some(*NOW);
                }
            }
            Action::Die(revision) => {
                if let Some(pods) = self.deployments.get_mut(revision) {
                    (pods.ready, pods.since) = (0, None);
                }
            }
            Action::Program => self.route.iter_mut().for_each(|route| route.programmed = true),
            Action::Drift => {
                let shares = self.route.as_mut().map(|route| &mut route.shares);
                if let Some(Shares::Split { weight, .. }) = shares {
                    *weight = 90;
                }
                self.changed(&Write::CreateRoute);
            }
            Action::LoseRoute => {
                self.route = None;
                self.changed(&Write::CreateRoute);
            }
            Action::LoseStatus => {
                self.state = Arc::default();
                self.changed(&Write::Status(self.state.clone()));
            }
            Action::Want(_) | Action::Pause(_) | Action::Replicas(_) | Action::EditPlan => self.edit(action),
            Action::Gate(verdict) => self.says.gate = *verdict,
            Action::Errors(verdict) => self.says.errors = *verdict,
            Action::Bypass(verdict) => self.says.bypass = *verdict,
            _ => {}
        }
        self.wake();
    }

    fn edit(&mut self, action: &Action) {
        match action {
            Action::Want(revision) => self.spec.wanted = revision,
            Action::Pause(paused) => self.spec.paused = *paused,
            Action::Replicas(replicas) => self.spec.replicas = *replicas,
            _ => self.spec.edited_plan = true,
        }
        for pass in self.operators.iter_mut().filter_map(|operator| operator.pass.as_mut()) {
            pass.spec_fresh = false;
        }
        self.changed(&Write::Status(self.state.clone())); // one object has one version
    }

    /// Everything that is watched changed for somebody.
    pub(super) fn wake(&mut self) {
        self.operators.iter_mut().for_each(|operator| operator.dirty = true);
    }

    /// An object was written: what was read of it before is old.
    fn changed(&mut self, write: &Write) {
        if matches!(write, Write::Status(_)) {
            for pass in self.operators.iter_mut().filter_map(|operator| operator.pass.as_mut()) {
                pass.agent_fresh = false;
            }
        }
        if let Some(late) = &mut self.late {
            late.fresh &= object(&late.write) != object(write);
        }
        self.wake();
    }

    fn tick(&mut self) {
        self.grow_older();
        for index in 0..2 {
            if !self.operators[index].stopped {
                self.lease_turn(index);
            }
        }
        self.wake();
    }

    // ---- leadership

    /// One read, one decision, one guarded write, as `controller/leader.rs` makes them.
    fn lease_turn(&mut self, index: usize) {
        let view = self.lease.as_ref().map(|(holder, version, transitions)| LeaseView {
            holder: holder.clone(),
            version: version.to_string(),
            transitions: *transitions,
        });
        let operator = &mut self.operators[index];
        let act = operator.elector.step(view, *INSTANT);
        let known = self.lease.as_ref().map_or(0, |(_, _, transitions)| *transitions);
        let transitions = match act {
            Act::Create => 0,
            Act::Renew => known,
            Act::TakeOver(transitions) => transitions,
            Act::Wait => return self.end_reign(index),
        };
        operator.elector.wrote(*INSTANT);
        operator.epoch = i64::from(transitions) + 1;
        let version = self.unseen_version();
        self.lease = Some((Operator::name(index).to_owned(), version, transitions));
    }

    /// A version that no elector remembers: versions may be used again when nobody can take one for the other.
    fn unseen_version(&self) -> u8 {
        let used: Vec<String> = self
            .operators
            .iter()
            .filter_map(|operator| operator.elector.fingerprint(*INSTANT).0.map(|(view, _)| view.version))
            .collect();
        (0..=9).find(|version| !used.contains(&version.to_string())).unwrap_or(0)
    }

    /// Losing the Lease ends the process.
    fn end_reign(&mut self, index: usize) {
        let (_, led) = self.operators[index].elector.fingerprint(*INSTANT);
        if led.is_some() && !self.operators[index].leads() {
            self.restart(index);
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        self.operators[index] = Operator::new(index);
        self.lease_turn(index);
    }

    fn resume(&mut self, index: usize) {
        self.operators[index].stopped = false;
        self.operators[index].dirty = true;
        self.end_reign(index);
    }

    // ---- the API server

    /// A write arrives. `Ok(Err(Refused))`: it is refused.
    pub(super) fn land(
        &mut self,
        write: &Write,
        epoch: i64,
        fresh: bool,
        late: bool,
    ) -> Result<Result<(), Refused>, Broken> {
        if self.rules.versions && !fresh && !matches!(write, Write::Size { .. } | Write::Remove { .. }) {
            return Ok(Err(Refused));
        }
        let deposed = epoch < self.epoch_of(write);
        if self.rules.fencing && deposed {
            return Ok(Err(Refused));
        }
        self.promises_of_a_write(write, late, deposed)?;
        let before = self.share_of_pods();
        self.apply(write, epoch);
        self.changed(write);
        let (after, allowed) = (self.share_of_pods(), self.state.launch.as_ref().map_or(0, |launch| launch.weight));
        if after > before.max(allowed) && !late {
            let why = format!("pods make {after}% after {write:?}, and the status says {allowed}%");
            return Err(Broken { promise: "WeightBound", why }); // one that was on its way is undone in the next pass
        }
        Ok(Ok(()))
    }

    /// What selector and sizes make of the canary's share.
    fn share_of_pods(&self) -> i32 {
        let size = |revision: &str| self.deployments.get(revision).map_or(0, |pods| pods.size);
        self.service.split.as_ref().map_or(0, |split| split.share(size))
    }

    /// The Service of an agent whose pods make the shares, as the core sees it; and what is in its way.
    pub(super) fn service_as_seen(
        &self,
        service: &ServiceObject,
        pods: &BTreeMap<String, Deployment>,
    ) -> (Route, ByPods) {
        let size = |revision: &str| pods.get(revision).map_or(0, |pods| pods.size);
        let shares = service.split.as_ref().map_or(Shares::AtRest, |split| Shares::Split {
            stable: split.stable.clone(),
            canary: split.canary.clone(),
            weight: split.weight.max(split.share(size)),
        });
        let launch = self.state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
        let known = |revision: &String| {
            launch.is_some_and(|launch| launch.revision == *revision || launch.stable.as_ref() == Some(revision))
        };
        let mut others = pods.iter().filter(|(revision, pods)| !known(revision) && pods.size.max(pods.ready) > 0);
        let obstacle = others.next().map(|(revision, _)| format!("a pod of {revision} is there"));
        (Route::Seen { shares, programmed: Programmed::Yes }, ByPods { obstacle })
    }

    /// `PodSplit::fits`.
    pub(super) fn fits(&self, split: &PodSplit) -> bool {
        let size = |revision: &str| self.deployments.get(revision).map_or(0, |pods| pods.size);
        let known = |revision: &String| *revision == split.stable || *revision == split.canary;
        let others = self.deployments.iter().filter(|(revision, _)| !known(revision));
        let alone = others.map(|(_, pods)| pods.size).all(|size| size == 0);
        size(&split.stable) > 0 && split.share(size) <= split.weight && alone
    }

    fn epoch_of(&self, write: &Write) -> i64 {
        match write {
            Write::Status(_) | Write::CreateRoute => 0,
            Write::Route { .. } => self.route.as_ref().map_or(0, |route| route.epoch),
            Write::Service { .. } => self.service.epoch,
            Write::Size { revision, .. } | Write::Remove { revision } => {
                self.deployments.get(revision).map_or(0, |pods| pods.epoch)
            }
        }
    }

    fn apply(&mut self, write: &Write, epoch: i64) {
        match write.clone() {
            Write::Status(state) => self.state = state,
            Write::CreateRoute => {
                self.route = Some(RouteObject { shares: Shares::AtRest, programmed: false, decision: None, epoch });
            }
            Write::Route { shares, decision, takes_back } => {
                self.taken_back.extend(takes_back.map(|launch| (object(write).0, launch)));
                self.route = Some(RouteObject { shares, programmed: false, decision, epoch });
            }
            Write::Service { revision, split, decision, takes_back } => {
                self.taken_back.extend(takes_back.map(|launch| (object(write).0, launch)));
                self.service = ServiceObject { revision, split, decision, epoch };
            }
            Write::Size { revision, size, .. } => {
                let pods = self.deployments.entry(revision).or_default();
                pods.since = match (pods.since, pods.ready.cmp(&size)) {
                    (since, std::cmp::Ordering::Equal) if size > 0 => since,
                    (_, std::cmp::Ordering::Greater) if size > 0 => Some(*NOW),
                    _ => None,
                };
                (pods.size, pods.ready, pods.epoch) = (size, pods.ready.min(size), epoch);
            }
            Write::Remove { revision } => drop(self.deployments.remove(&revision)),
        }
    }

    pub(super) fn route_as_seen(&self, route: Option<&RouteObject>) -> Route {
        match route {
            None if self.rules.gateway => Route::Missing,
            None => Route::NotUsed,
            Some(route) => {
                let programmed = if route.programmed { Programmed::Yes } else { Programmed::Pending };
                Route::Seen { shares: route.shares.clone(), programmed }
            }
        }
    }

    fn share(&self, revision: &str) -> i32 {
        let route = if self.rules.by_pods {
            self.service_as_seen(&self.service, &self.deployments).0
        } else {
            self.route_as_seen(self.route.as_ref())
        };
        share_of(revision, &route, self.service.revision.as_deref())
    }

    // ---- what no write may do

    fn promises_of_a_write(&self, write: &Write, late: bool, deposed: bool) -> Result<(), Broken> {
        let broken = |promise: &'static str, why: String| Err(Broken { promise, why });
        match write {
            Write::Route { shares: Shares::Split { canary, weight, .. }, .. } if *weight > self.share(canary) => {
                let written = self.route.as_ref().and_then(|route| route.decision.as_ref());
                self.rises(write, (canary, *weight), written, late)
            }
            Write::Service { split: Some(split), .. }
                if !self.service.split.as_ref().is_some_and(|shared| split.is_within(shared)) =>
            {
                self.rises(write, (&split.canary, split.weight), self.service.decision.as_ref(), late)
            }
            Write::Service { revision: Some(revision), takes_back: None, .. }
                if self.service.revision.as_ref() != Some(revision)
                    && self.state.launch.as_ref().is_some_and(|launch| launch.revision == *revision) =>
            {
                self.rises(write, (revision, 100), self.service.decision.as_ref(), late)
            }
            Write::Size { revision, size: 0, emptied: false } | Write::Remove { revision }
                if self.share(revision) > 0 && self.deployments.contains_key(revision) =>
            {
                broken("WeightBeforeScaleDown", format!("{revision} has {}% and loses its pods", self.share(revision)))
            }
            _ if deposed && self.rules.one_writer => broken("OneWriter", format!("a deposed leader wrote {write:?}")),
            _ => Ok(()),
        }
    }

    fn rises(
        &self,
        write: &Write,
        (revision, to): (&str, i32),
        written: Option<&Decision>,
        late: bool,
    ) -> Result<(), Broken> {
        let rise = Rise { revision, to, committed: &self.state, written };
        match promises::of_a_rise(&rise) {
            Err(broken) if late && broken.promise == "WriteWhyFirst" => {} // it is undone in the next pass
            kept => kept?,
        }
        let launch = self.state.launch.as_ref();
        if launch.is_some_and(|launch| self.taken_back.contains(&(object(write).0, launch.id.clone()))) {
            let why = format!("{revision} was taken back on this object and rises to {to}%");
            return Err(Broken { promise: "Finality", why });
        }
        if !late && self.spec.wanted != revision {
            let why = format!("{revision} rises to {to}%, and the spec asks for {}", self.spec.wanted);
            return Err(Broken { promise: "ReadAfresh", why }); // one that was on its way is undone in the next pass
        }
        Ok(())
    }

    // ---- time

    fn grow_older(&mut self) {
        let (mut state, base) = ((*self.state).clone(), self.state.clone());
        older_state(&mut state);
        if state != *base {
            self.state = Arc::new(state);
        }
        for decision in self.route.iter_mut().filter_map(|route| route.decision.as_mut()) {
            past(&mut decision.at);
        }
        self.service.decision.iter_mut().for_each(|decision| past(&mut decision.at));
        self.deployments.values_mut().filter_map(|pods| pods.since.as_mut()).for_each(older);
        for operator in &mut self.operators {
            operator.grow_older();
        }
        if let Some(late) = &mut self.late {
            match &mut late.write {
                Write::Status(state) => older_state(Arc::make_mut(state)),
                Write::Route { decision, .. } | Write::Service { decision, .. } => {
                    if let Some(decision) = decision {
                        past(&mut decision.at);
                    }
                }
                _ => {}
            }
        }
    }

    // ---- the end of all trouble

    /// From here on nothing bad happens: does the world come to rest where it should, woken by nothing but what the
    /// operator watches and the wakes it asked for?
    pub(super) fn comes_to_rest(&self) -> Result<usize, Broken> {
        let stuck = |why: String| Err(Broken { promise: "Convergence", why });
        let mut world = self.clone();
        world.calm_down()?;
        let mut passes = 0;
        for _ in 0..400 {
            let ready: Vec<_> =
                world.actions().into_iter().filter(|it| matches!(it, Action::Ready(_) | Action::Program)).collect();
            for action in &ready {
                world.happen(action)?;
            }
            match world.operators.iter().position(Operator::leads) {
                Some(index) if world.operators[index].dirty || world.operators[index].pass.is_some() => {
                    passes += 1;
                    world.whole_pass(index)?;
                }
                Some(index) if world.operators[index].wake.is_none() => return world.is_at_rest().map(|()| passes),
                _ => world.pass_time(),
            }
        }
        stuck(format!("it is not at rest after {passes} passes: {:#?}", world.state.launch))
    }

    fn calm_down(&mut self) -> Result<(), Broken> {
        self.left = (0, 0, 0);
        if self.late.is_some() {
            self.happen(&Action::Arrive)?;
        }
        for index in 0..2 {
            self.operators[index].cache = None;
            if self.operators[index].stopped && (index == 0 || self.rules.standby) {
                self.resume(index);
            }
        }
        self.says = Says { gate: Verdict::Pass, errors: Verdict::Pass, bypass: Verdict::Pass };
        if self.spec.paused || self.spec.replicas == 0 {
            self.spec = Spec { paused: false, replicas: 2, ..self.spec.clone() };
            self.edit(&Action::Replicas(2));
        }
        self.wake();
        Ok(())
    }

    fn whole_pass(&mut self, index: usize) -> Result<(), Broken> {
        if self.operators[index].pass.is_none() {
            self.begin(index)?;
        }
        while self.operators[index].pass.is_some() {
            self.write(index, false)?;
        }
        Ok(())
    }

    /// As [`World::tick`], but only a wake that was asked for wakes.
    fn pass_time(&mut self) {
        let dirty = self.operators.each_ref().map(|operator| operator.dirty);
        self.tick();
        for (operator, dirty) in self.operators.iter_mut().zip(dirty) {
            operator.dirty = dirty || operator.wake.is_none_or(|at| at <= *NOW);
        }
    }

    fn is_at_rest(&self) -> Result<(), Broken> {
        let stuck = |why: String| Err(Broken { promise: "Convergence", why });
        let stable = self.state.stable.as_ref().map(|stable| stable.revision.as_str());
        let rejected = self.state.rejected.iter().any(|rejected| rejected.revision == self.spec.wanted);
        let running = self.state.launch.as_ref().is_some_and(|launch| launch.phase != Phase::Complete);
        if running || self.state.pending.is_some() || !(rejected || stable == Some(self.spec.wanted)) {
            return stuck(format!(
                "it rests and {} is neither stable nor rejected: {:#?}",
                self.spec.wanted, self.state
            ));
        }
        if self.service.revision.as_deref() != stable || self.service.split.is_some() {
            return stuck(format!("the Service is with {:?} and stable is {stable:?}", self.service.revision));
        }
        if self.route.as_ref().is_some_and(|route| route.shares != Shares::AtRest) {
            return stuck(format!("the route is not at rest: {:?}", self.route));
        }
        let sized: Vec<_> = self.deployments.iter().filter(|(_, pods)| pods.size > 0).collect();
        match sized.as_slice() {
            [(revision, pods)] if Some(revision.as_str()) == stable && pods.size == self.spec.replicas => Ok(()),
            [] if stable.is_none() => Ok(()),
            other => stuck(format!("stable is {stable:?}, and there are {other:?}")),
        }
    }
}

fn object(write: &Write) -> (u8, &str) {
    match write {
        Write::Status(_) => (0, ""),
        Write::CreateRoute | Write::Route { .. } => (1, ""),
        Write::Service { .. } => (2, ""),
        Write::Size { revision, .. } | Write::Remove { revision } => (3, revision),
    }
}

fn old() -> Timestamp {
    *NOW - k8s_openapi::jiff::SignedDuration::try_from(OLDEST).unwrap()
}

pub(super) fn older(at: &mut Timestamp) {
    *at = (*at - k8s_openapi::jiff::SignedDuration::try_from(TICK).unwrap()).max(old());
}

/// An instant that is only told, or only compared with what happens now: it is simply past.
pub(super) fn past(at: &mut Timestamp) {
    *at = old();
}

/// Everything that is remembered grows older. A new instant in [`State`] belongs here.
pub(super) fn older_state(state: &mut State) {
    state.stable.iter_mut().for_each(|it| past(&mut it.since));
    state.trusted.iter_mut().for_each(|it| past(&mut it.since));
    state.rejected.iter_mut().for_each(|it| past(&mut it.at));
    state.pending.iter_mut().for_each(|it| older(&mut it.since));
    state.retiring.iter_mut().for_each(|it| older(&mut it.since));
    let Some(launch) = &mut state.launch else { return };
    past(&mut launch.started_at);
    [&mut launch.decided_at, &mut launch.breached_at, &mut launch.ended_at].into_iter().flatten().for_each(past);
    older(&mut launch.entered_at);
    [&mut launch.began_at, &mut launch.paused_at, &mut launch.verdicts_at].into_iter().flatten().for_each(older);
    launch.restarts.iter_mut().for_each(|it| older(&mut it.at));
    for breach in &mut launch.breaches {
        past(&mut breach.first_seen);
        older(&mut breach.since);
        older(&mut breach.last_seen);
    }
}

/// Two stages with a gate each, a trigger that must last and one that need not; the edited plan has other shares.
fn plan(gateway: bool, by_pods: bool, edited: bool) -> Arc<Plan> {
    static PLANS: LazyLock<[[Arc<Plan>; 2]; 3]> = LazyLock::new(|| {
        [Sharing::None, Sharing::Route, Sharing::Pods]
            .map(|sharing| [false, true].map(|edited| Arc::new(make_plan(sharing, edited))))
    });
    PLANS[if by_pods { 2 } else { usize::from(gateway) }][usize::from(edited)].clone()
}

fn make_plan(sharing: Sharing, edited: bool) -> Plan {
    let question = || {
        let bounds = Bounds { low: None, high: None, floor: None };
        let metric = standard_metrics().remove(0);
        Box::new(Question { metric, window: Some(TICK), min_samples: 1, compare: Compare::Value, bounds })
    };
    let stage = |name: &str, weight: i32| Stage {
        name: name.to_owned(),
        weight,
        only: Vec::new(),
        min_duration: TICK,
        deadline: DEADLINE,
        then: DeadlineOutcome::Rollback,
        gates: vec![Gate { name: "success".to_owned(), check: GateCheck::Metric(question()), on_fail: OnFail::Hold }],
    };
    let trigger =
        |name: &str, lasting| Trigger { name: name.to_owned(), check: TriggerCheck::Metric(question()), lasting };
    let stages = match (sharing, edited) {
        (Sharing::None, _) => vec![stage("healthy", 0)],
        (Sharing::Route, false) => vec![stage("one", 10), stage("two", 50)],
        (Sharing::Route, true) => vec![stage("careful", 20), stage("half", 60)],
        (Sharing::Pods, false) => vec![stage("third", 34), stage("half", 50)], // of 2 replicas, and of 4
        (Sharing::Pods, true) => vec![stage("half", 50)],
    };
    Plan {
        hash: format!("plan-{edited}"),
        tightens: None,
        soak: Duration::ZERO,
        canary_pods: 1,
        stages,
        triggers: vec![trigger("errors", TICK), trigger("bypass", Duration::ZERO)],
        interval: Duration::from_secs(1),
        source: "default".to_owned(),
    }
}

pub(super) type Cache = (BTreeMap<String, Deployment>, Option<RouteObject>, ServiceObject);

impl World {
    pub(super) fn pass(&mut self, index: usize) -> Option<&mut Pass> {
        self.operators[index].pass.as_mut()
    }
}
