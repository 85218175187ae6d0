//! The world around the operators: what is in the API server, what Kubernetes, the gateway, users and metrics do to it,
//! and which writes it accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::clock::{INSTANT, NOW, TICK, in_, old, older, older_state, older_to, past};
use super::known::Known;
use super::operator::{Operator, Pass};
use super::rules::{Budget, PlanAs, Rules, plans};
use crate::api::{DecisionVerb, Launch, Outcome, StableRevision, State, TrustedRevision, Verdict};
use crate::controller::elector::{Act, LeaseView};
use crate::launch::promises::{self, Broken, Rise, share_of};
use crate::launch::{ByPods, Decision, Plan, Programmed, Route, Shares};
use crate::traffic::PodSplit;

pub(super) const OCHRE: &str = "ochre";
pub(super) const TEAL: &str = "teal";
pub(super) const MAUVE: &str = "mauve";

/// The one copy of a revision's name.
pub(super) fn named(revision: &str) -> &'static str {
    [OCHRE, TEAL, MAUVE].into_iter().find(|name| *name == revision).unwrap()
}

/// What the user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spec {
    pub(super) wanted: &'static str,
    pub(super) paused: bool,
    pub(super) replicas: i32,
    pub(super) plan: PlanAs,
}

/// The agent's route, as the API server holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RouteObject {
    pub(super) shares: Shares,
    pub(super) programmed: bool,
    pub(super) decision: Option<Decision>,
    pub(super) epoch: i64,
    /// Its mark names a launch as one that is under way.
    pub(super) under_way: bool,
}

/// The agent's Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ServiceObject {
    pub(super) revision: Option<String>,
    /// It selects the pods of this revision and of another one.
    pub(super) split: Option<PodSplit>,
    pub(super) decision: Option<Decision>,
    pub(super) epoch: i64,
    /// Its mark names a launch as one that is under way.
    pub(super) under_way: bool,
}

/// A revision's Deployment and its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Deployment {
    pub(super) size: i32,
    pub(super) ready: i32,
    pub(super) since: Option<Timestamp>,
    /// The launch that it runs for.
    pub(super) launch: Option<String>,
    pub(super) epoch: i64,
}

/// What the metrics say now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Says {
    pub(super) gate: Verdict,
    pub(super) errors: Verdict,
    pub(super) bypass: Verdict,
    /// Whether no run is under way on revisions without traffic.
    pub(super) runs: Verdict,
}

/// A `LaunchDecision`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) verb: DecisionVerb,
    pub(super) revision: Option<&'static str>,
    pub(super) answered: bool,
}

/// A request to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Write {
    Status(Known<State>),
    /// The answer of a decision.
    Answer(usize),
    CreateRoute,
    Route {
        shares: Shares,
        decision: Option<Decision>,
        takes_back: Option<String>,
        under_way: bool,
    },
    Service {
        revision: Option<String>,
        split: Option<PodSplit>,
        decision: Option<Decision>,
        takes_back: Option<String>,
        under_way: bool,
    },
    /// `emptied`: it was decided on a spec that asks for no pods at all.
    Size {
        revision: &'static str,
        size: i32,
        emptied: bool,
        launch: Option<String>,
    },
    Remove {
        revision: &'static str,
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
    plans: Arc<[Plan; 3]>,
    pub(super) spec: Spec,
    pub(super) state: Known<State>,
    pub(super) route: Known<Option<RouteObject>>,
    pub(super) service: Known<ServiceObject>,
    pub(super) deployments: Known<BTreeMap<&'static str, Deployment>>,
    pub(super) says: Says,
    pub(super) decisions: Vec<Asked>,
    /// A freeze window: when it opens, and when it closes.
    pub(super) window: Option<(Timestamp, Timestamp)>,
    lease: Option<(&'static str, u8, i32)>,
    pub(super) operators: [Operator; 2],
    pub(super) late: Option<Late>,
    /// Launches whose fall has been written on an object, and decisions that took effect: for the promises only, nobody
    /// else sees them.
    taken_back: BTreeSet<(u8, String)>,
    heard: BTreeSet<String>,
    pub(super) left: Budget,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.spec, &self.state, &self.route, &self.service, &self.deployments).hash(hasher);
        (&self.says, &self.decisions, &self.window, &self.lease, &self.operators).hash(hasher);
        (&self.late, &self.taken_back, &self.heard, &self.left).hash(hasher);
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
    /// It has read the agent, and looks at everything else later.
    ReadEarly(usize),
    /// Its watches stand still: pods, new decisions, and at rest the route and the Service, are seen as they were.
    LoseWatch(usize),
    FindWatch(usize),
    /// Kubernetes makes the pods of a revision ready.
    Ready(&'static str),
    /// The gateway takes the route.
    Program,
    /// All pods of a revision die.
    Die(&'static str),
    /// Somebody else gives the canary 90 %, or scales it up where pods make the shares.
    Drift,
    /// Somebody removes the route.
    LoseRoute,
    /// Somebody empties the status.
    LoseStatus,
    Want(&'static str),
    Pause(bool),
    Replicas(i32),
    EditPlan(PlanAs),
    /// A person decides.
    Decide(DecisionVerb),
    /// A freeze window is written: it opens in a moment, and closes after two.
    Window,
    Gate(Verdict),
    Errors(Verdict),
    Bypass(Verdict),
    /// The runs end on revisions without traffic.
    RunsEnd,
}

/// Whether it is paid from the budget of faults.
pub(super) fn is_fault(action: &Action) -> bool {
    use Action as It;
    let own = matches!(action, It::LoseAnswer(_) | It::Crash(_) | It::Delay(..) | It::Stop(_) | It::ReadEarly(_));
    own || matches!(action, It::LoseWatch(_) | It::Die(_) | It::Drift | It::LoseRoute | It::LoseStatus)
}

/// Why an operator's write came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        let wanted = if rules.stable { TEAL } else { OCHRE };
        let mut world = Self {
            rules,
            plans: plans(rules),
            spec: Spec { wanted, paused: false, replicas: 2, plan: PlanAs::First },
            state: Known::new(State::default()),
            route: Known::new(None),
            service: Known::new(ServiceObject::default()),
            deployments: Known::new(BTreeMap::new()),
            says: Says {
                gate: Verdict::Pass,
                errors: Verdict::Pass,
                bypass: Verdict::Pass,
                runs: if rules.drain { Verdict::Fail } else { Verdict::Pass },
            },
            decisions: Vec::new(),
            window: None,
            lease: None,
            operators: [Operator::new(0), Operator::new(1)],
            late: None,
            taken_back: BTreeSet::new(),
            heard: BTreeSet::new(),
            left: rules.budget,
        };
        if rules.stable {
            world.begin_with(OCHRE);
        }
        world.operators[1].stopped = !rules.standby;
        world.lease_turn(0);
        world
    }

    fn begin_with(&mut self, stable: &'static str) {
        let since = old();
        self.state = Known::new(State {
            stable: Some(StableRevision { revision: stable.to_owned(), since }),
            trusted: vec![TrustedRevision { revision: stable.to_owned(), since }],
            ..State::default()
        });
        let pods = Deployment { size: 2, ready: 2, since: Some(since), launch: None, epoch: 0 };
        self.deployments = Known::new([(stable, pods)].into());
        self.service = Known::new(ServiceObject { revision: Some(stable.to_owned()), ..ServiceObject::default() });
        let route =
            RouteObject { shares: Shares::AtRest, programmed: true, decision: None, epoch: 0, under_way: false };
        self.route = Known::new(self.rules.gateway.then_some(route));
    }

    pub(super) fn plans(&self) -> Arc<[Plan; 3]> {
        self.plans.clone()
    }

    // ---- what may happen

    pub(super) fn actions(&self) -> Vec<Action> {
        let mut all = self.all_actions();
        all.retain(self.rules.only);
        all
    }

    pub(super) fn all_actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        for index in 0..2 {
            self.actions_of_operator(index, &mut all);
        }
        if self.late.is_some() {
            all.push(Action::Arrive);
        }
        let waits = |it: &Operator| it.stopped || !it.leads() || it.rests() || it.is_deaf();
        if self.operators.iter().all(waits) {
            all.push(Action::Tick);
        }
        for (revision, pods) in self.deployments.iter() {
            if pods.ready < pods.size {
                all.push(Action::Ready(revision));
            }
            if pods.ready > 0 && self.left.faults > 0 {
                all.push(Action::Die(revision));
            }
        }
        if self.route.as_ref().is_some_and(|route| !route.programmed) {
            all.push(Action::Program);
        }
        self.actions_of_others(&mut all);
        self.actions_of_users(&mut all);
        self.actions_of_metrics(&mut all);
        all
    }

    fn actions_of_operator(&self, index: usize, all: &mut Vec<Action>) {
        let operator = &self.operators[index];
        if index == 1 && !self.rules.standby {
            return;
        }
        if operator.stopped {
            return all.push(Action::Resume(index));
        }
        if operator.pass.is_some() {
            all.push(Action::Write(index));
        } else if operator.leads() && !operator.rests() {
            all.push(Action::Begin(index));
        }
        if operator.cache.is_some() {
            all.push(Action::FindWatch(index));
        }
        if self.left.faults > 0 && operator.leads() {
            self.faults_of_operator(index, all);
        }
    }

    fn faults_of_operator(&self, index: usize, all: &mut Vec<Action>) {
        let operator = &self.operators[index];
        if operator.pass.is_some() {
            all.extend([Action::LoseAnswer(index), Action::Crash(index)]);
            if self.late.is_none() {
                all.extend([Action::Delay(index, false), Action::Delay(index, true)]);
            }
        } else if operator.read.is_none() && operator.dirty {
            all.push(Action::ReadEarly(index));
        }
        all.push(Action::Stop(index));
        if operator.cache.is_none() {
            all.push(Action::LoseWatch(index));
        }
    }

    fn actions_of_others(&self, all: &mut Vec<Action>) {
        if self.left.faults > 0 {
            if self.route.as_ref().is_some_and(|route| matches!(route.shares, Shares::Split { .. })) {
                all.extend([Action::Drift, Action::LoseRoute]);
            }
            if self.service.split.is_some() {
                all.push(Action::Drift);
            }
            if *self.state != State::default() && self.operators.iter().all(|operator| operator.pass.is_none()) {
                all.push(Action::LoseStatus);
            }
        }
        if self.left.windows > 0 && self.window.is_none() {
            all.push(Action::Window);
        }
    }

    fn actions_of_users(&self, all: &mut Vec<Action>) {
        if self.left.edits > 0 {
            let names = [OCHRE, TEAL, MAUVE].into_iter().filter(|name| *name != self.spec.wanted);
            all.extend(names.map(Action::Want));
            all.push(Action::Pause(!self.spec.paused));
            all.extend([0, 2, 4].into_iter().filter(|n| *n != self.spec.replicas).map(Action::Replicas));
            if self.spec.plan == PlanAs::First {
                all.extend([PlanAs::Edited, PlanAs::Tightened].map(Action::EditPlan));
            }
        }
        if self.left.people > 0 {
            all.extend(
                self.rules.verbs.iter().filter(|verb| self.makes_sense(**verb)).map(|verb| Action::Decide(*verb)),
            );
        }
    }

    /// Whether somebody who looks at the agent now would decide it. An operator may be a pass ahead or behind.
    fn makes_sense(&self, verb: DecisionVerb) -> bool {
        let held = self.running().is_some_and(|launch| launch.held);
        match verb {
            DecisionVerb::Abort | DecisionVerb::Promote | DecisionVerb::Override => self.running().is_some(),
            DecisionVerb::Pause => self.state.pause.is_none(),
            DecisionVerb::Resume => self.state.pause.is_some() || held,
            DecisionVerb::Retry => !self.state.rejected.is_empty(),
        }
    }

    fn running(&self) -> Option<&crate::api::Launch> {
        self.state.running()
    }

    fn actions_of_metrics(&self, all: &mut Vec<Action>) {
        let mut may_say = |now: Verdict, bad: &[Verdict], say: fn(Verdict) -> Action| {
            if now != Verdict::Pass {
                all.push(say(Verdict::Pass));
            } else if self.left.verdicts > 0 && self.running().is_some() {
                all.extend(bad.iter().map(|verdict| say(*verdict)));
            }
        };
        may_say(self.says.gate, &[Verdict::Fail, Verdict::Error], Action::Gate);
        may_say(self.says.errors, &[Verdict::Fail], Action::Errors);
        may_say(self.says.bypass, &[Verdict::Fail], Action::Bypass);
        if self.says.runs != Verdict::Pass && !self.state.retiring.is_empty() {
            all.push(Action::RunsEnd);
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
            Action::ReadEarly(index) => self.read_early(*index),
            Action::LoseWatch(index) => {
                let decisions = self.decisions.len();
                let (pods, route, service) = (self.deployments.clone(), self.route.clone(), self.service.clone());
                self.operators[*index].cache = Some(Cache { pods, route, service, decisions });
            }
            Action::FindWatch(index) => {
                self.operators[*index].cache = None;
                self.operators[*index].dirty = true;
            }
            other => self.others(other),
        }
        Ok(())
    }

    fn pay(&mut self, action: &Action) {
        let left = match action {
            fault if is_fault(fault) => &mut self.left.faults,
            Action::Want(_) | Action::Pause(_) | Action::Replicas(_) | Action::EditPlan(_) => &mut self.left.edits,
            Action::Gate(verdict) | Action::Errors(verdict) | Action::Bypass(verdict) if *verdict != Verdict::Pass => {
                &mut self.left.verdicts
            }
            Action::Decide(_) => &mut self.left.people,
            Action::Window => &mut self.left.windows,
            _ => return,
        };
        *left = left.saturating_sub(1);
    }

    /// Kubernetes, the gateway, users, metrics, and other hands.
    fn others(&mut self, action: &Action) {
        match action {
            Action::Ready(revision) => self.deployments.edit(|all| {
                let pods = all.get_mut(revision).unwrap();
                (pods.ready, pods.since) = (pods.size, Some(*NOW));
            }),
            Action::Die(revision) => self.deployments.edit(|all| {
                let pods = all.get_mut(revision).unwrap();
                (pods.ready, pods.since) = (0, None);
            }),
            Action::Program => self.route.edit(|route| route.iter_mut().for_each(|route| route.programmed = true)),
            Action::Drift if self.rules.by_pods => {
                let canary = self.service.split.as_ref().map(|split| named(&split.canary));
                let canary = canary.filter(|canary| self.deployments.contains_key(canary));
                if let Some(revision) = canary {
                    self.deployments.edit(|all| resize(all.get_mut(revision).unwrap(), 4));
                    self.changed(&Write::Remove { revision });
                }
            }
            Action::Drift => {
                self.route.edit(|route| {
                    if let Some(Shares::Split { weight, .. }) = route.as_mut().map(|route| &mut route.shares) {
                        *weight = 90;
                    }
                });
                self.changed(&Write::CreateRoute);
            }
            Action::LoseRoute => {
                self.route = Known::new(None);
                self.changed(&Write::CreateRoute);
            }
            Action::LoseStatus => {
                self.state = Known::new(State::default());
                self.heard.clear(); // what was not answered yet is heard anew
                self.taken_back.clear(); // ids are given anew
                self.changed(&Write::Status(self.state.clone()));
            }
            Action::Want(_) | Action::Pause(_) | Action::Replicas(_) | Action::EditPlan(_) => self.edit(action),
            Action::Decide(verb) => self.decide(*verb),
            Action::Window => self.window = Some((in_(TICK), in_(TICK * 3))),
            Action::Gate(verdict) => self.says.gate = *verdict,
            Action::Errors(verdict) => self.says.errors = *verdict,
            Action::Bypass(verdict) => self.says.bypass = *verdict,
            Action::RunsEnd => self.says.runs = Verdict::Pass,
            _ => {}
        }
        self.wake();
    }

    fn decide(&mut self, verb: DecisionVerb) {
        let rejected = self.state.rejected.first().map_or(TEAL, |rejected| named(&rejected.revision));
        let revision = (verb == DecisionVerb::Retry).then_some(rejected);
        self.decisions.push(Asked { verb, revision, answered: false });
    }

    pub(super) fn edit(&mut self, action: &Action) {
        match action {
            Action::Want(revision) => self.spec.wanted = revision,
            Action::Pause(paused) => self.spec.paused = *paused,
            Action::Replicas(replicas) => self.spec.replicas = *replicas,
            Action::EditPlan(plan) => self.spec.plan = *plan,
            _ => {}
        }
        self.operators.iter_mut().for_each(Operator::spec_is_edited);
        self.changed(&Write::Status(self.state.clone())); // one object has one version
    }

    /// Everything that is watched changed for somebody.
    pub(super) fn wake(&mut self) {
        self.operators.iter_mut().for_each(|operator| operator.dirty = true);
    }

    /// An object was written: what was read of it before is old.
    fn changed(&mut self, write: &Write) {
        if matches!(write, Write::Status(_)) {
            self.operators.iter_mut().for_each(Operator::agent_is_written);
        }
        if let Some(late) = &mut self.late {
            late.fresh &= object(&late.write) != object(write);
        }
        self.wake();
    }

    pub(super) fn tick(&mut self) {
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
            holder: (*holder).to_owned(),
            version: version.to_string(),
            transitions: *transitions,
        });
        let act = self.operators[index].elector.edit(|elector| elector.0.step(view, *INSTANT));
        let known = self.lease.as_ref().map_or(0, |(_, _, transitions)| *transitions);
        let transitions = match act {
            Act::Create(transitions) | Act::TakeOver(transitions) => transitions,
            Act::Renew => known,
            Act::Wait => return self.end_reign(index),
        };
        let operator = &mut self.operators[index];
        operator.elector.edit(|elector| elector.0.wrote(*INSTANT));
        operator.epoch = i64::from(transitions) + 1;
        let version = self.unseen_version();
        self.lease = Some((Operator::name(index), version, transitions));
    }

    /// A version that no elector remembers: versions may be used again when nobody can take one for the other.
    fn unseen_version(&self) -> u8 {
        let used: Vec<String> = self
            .operators
            .iter()
            .filter_map(|operator| operator.elector.0.fingerprint(*INSTANT).0.map(|(view, _)| view.version))
            .collect();
        (0..=9).find(|version| !used.contains(&version.to_string())).unwrap_or(0)
    }

    /// Losing the Lease ends the reign; what follows begins from nothing, in a new process or in the same one.
    fn end_reign(&mut self, index: usize) {
        let led = self.operators[index].epoch > 0;
        if led && !self.operators[index].leads() {
            self.restart(index);
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        self.operators[index] = Operator::new(index);
        self.lease_turn(index);
    }

    /// It goes on where it stood, and does not know that time has passed: its next look at the Lease tells.
    fn resume(&mut self, index: usize) {
        self.operators[index].stopped = false;
        self.operators[index].dirty = true;
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
        if !fresh && self.is_guarded(write) {
            return Ok(Err(Refused));
        }
        let deposed = epoch < self.epoch_of(write);
        if self.rules.guards.fencing && deposed {
            return Ok(Err(Refused));
        }
        self.promises_of_a_write(write, late, deposed)?;
        let before = self.share_of_pods();
        self.apply(write, epoch);
        self.changed(write);
        let canary = self.service.split.as_ref().map(|split| split.canary.as_str());
        let kept = promises::of_sizes(&self.state, canary, before, self.share_of_pods());
        if !late {
            kept?; // one that was on its way is undone in the next pass
        }
        Ok(Ok(()))
    }

    /// Whether a write carries the version of the object that it was decided on.
    fn is_guarded(&self, write: &Write) -> bool {
        match write {
            Write::Status(_) | Write::CreateRoute | Write::Route { .. } | Write::Service { .. } => {
                self.rules.guards.versions
            }
            Write::Remove { .. } | Write::Size { size: 0, emptied: false, .. } => self.rules.guards.pods_versions,
            Write::Size { .. } | Write::Answer(_) => false,
        }
    }

    fn epoch_of(&self, write: &Write) -> i64 {
        match write {
            Write::Status(_) | Write::Answer(_) | Write::CreateRoute => 0,
            Write::Route { .. } => self.route.as_ref().map_or(0, |route| route.epoch),
            Write::Service { .. } => self.service.epoch,
            Write::Size { revision, .. } | Write::Remove { revision } => {
                self.deployments.get(revision).map_or(0, |pods| pods.epoch)
            }
        }
    }

    fn apply(&mut self, write: &Write, epoch: i64) {
        match write.clone() {
            Write::Status(state) => {
                self.heard.extend(state.answers.iter().map(|answer| answer.uid.clone()));
                self.state = state;
            }
            Write::Answer(index) => self.decisions[index].answered = true,
            Write::CreateRoute => {
                let route =
                    RouteObject { shares: Shares::AtRest, programmed: false, decision: None, epoch, under_way: false };
                self.route = Known::new(Some(route));
            }
            Write::Route { shares, decision, takes_back, under_way } => {
                self.taken_back.extend(takes_back.map(|launch| (object(write).0, launch)));
                self.route = Known::new(Some(RouteObject { shares, programmed: false, decision, epoch, under_way }));
            }
            Write::Service { revision, split, decision, takes_back, under_way } => {
                self.taken_back.extend(takes_back.map(|launch| (object(write).0, launch)));
                self.service = Known::new(ServiceObject { revision, split, decision, epoch, under_way });
            }
            Write::Size { revision, size, launch, .. } => self.deployments.edit(|all| {
                let pods = all.entry(revision).or_default();
                resize(pods, size);
                (pods.epoch, pods.launch) = (epoch, launch);
            }),
            Write::Remove { revision } => self.deployments.edit(|all| drop(all.remove(revision))),
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
            service_as_seen(&self.service, &self.deployments)
        } else {
            self.route_as_seen(self.route.as_ref())
        };
        share_of(revision, &route, self.service.revision.as_deref())
    }

    /// What selector and sizes make of the canary's share.
    fn share_of_pods(&self) -> i32 {
        let size = |revision: &str| self.deployments.get(revision).map_or(0, |pods| pods.size);
        self.service.split.as_ref().map_or(0, |split| split.share(size))
    }

    /// `PodSplit::fits`.
    pub(super) fn fits(&self, split: &PodSplit) -> bool {
        let size = |revision: &str| self.deployments.get(revision).map_or(0, |pods| pods.size);
        let mut others = self.deployments.iter().filter(|(name, _)| **name != split.stable && **name != split.canary);
        let alone = others.all(|(_, pods)| pods.size.max(pods.ready) == 0);
        size(&split.stable) > 0 && split.share(size) <= split.weight && alone
    }

    // ---- what no write may do

    fn promises_of_a_write(&self, write: &Write, late: bool, deposed: bool) -> Result<(), Broken> {
        let broken = |promise: &'static str, why: String| Err(Broken { promise, why });
        if let Some(revision) =
            turns_to(write).filter(|revision| late && self.spec.replicas > 0 && !self.has_pods(revision))
        {
            return broken("WeightBeforeScaleDown", format!("{revision} lost its pods and gets the traffic"));
        }
        match write {
            Write::Status(state) => self.hears_once(state),
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
            Write::Size { revision, size: 0, emptied: false, .. } | Write::Remove { revision }
                if self.share(revision) > 0 && self.deployments.contains_key(revision) =>
            {
                broken("WeightBeforeScaleDown", format!("{revision} has {}% and loses its pods", self.share(revision)))
            }
            _ if deposed && self.rules.one_writer => broken("OneWriter", format!("a deposed leader wrote {write:?}")),
            _ => Ok(()),
        }
    }

    fn has_pods(&self, revision: &str) -> bool {
        self.deployments.get(revision).is_some_and(|pods| pods.size > 0)
    }

    /// What a person decided takes effect once.
    fn hears_once(&self, state: &State) -> Result<(), Broken> {
        let mut fresh = state.answers.iter().filter(|answer| !self.state.answers.contains(answer));
        let fresh = fresh.find(|answer| self.heard.contains(&answer.uid));
        let again = |uid: &String| Broken { promise: "HeardOnce", why: format!("decision {uid} takes effect again") };
        fresh.map_or(Ok(()), |answer| Err(again(&answer.uid)))
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
        // a first deployment that succeeded all the same has nothing to go back to: it serves
        let stays = |launch: &&Launch| launch.stable.is_none() && launch.outcome == Some(Outcome::Succeeded);
        let launch = self.state.launch.as_ref().filter(|launch| !stays(launch));
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
        self.state.edit(older_state);
        grow_older(&mut self.deployments, &mut self.route, &mut self.service);
        if let Some((opens, closes)) = &mut self.window {
            older(opens);
            older(closes);
        }
        self.window = self.window.filter(|(_, closes)| *closes > *NOW);
        for operator in &mut self.operators {
            operator.grow_older();
        }
        if let Some(late) = &mut self.late {
            match &mut late.write {
                Write::Status(state) => state.edit(older_state),
                Write::Route { decision, .. } | Write::Service { decision, .. } => {
                    if let Some(decision) = decision {
                        past(&mut decision.at);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Objects, as they are or as somebody remembers them, grow older.
pub(super) fn grow_older(
    pods: &mut Known<BTreeMap<&'static str, Deployment>>,
    route: &mut Known<Option<RouteObject>>,
    service: &mut Known<ServiceObject>,
) {
    // the gateway knows pods that are ready for two seconds
    pods.edit(|all| all.values_mut().filter_map(|pods| pods.since.as_mut()).for_each(|at| older_to(at, TICK)));
    if route.as_ref().is_some_and(|route| route.decision.is_some()) {
        route.edit(|route| route.iter_mut().filter_map(|it| it.decision.as_mut()).for_each(|it| past(&mut it.at)));
    }
    if service.decision.is_some() {
        service.edit(|service| service.decision.iter_mut().for_each(|decision| past(&mut decision.at)));
    }
}

/// `traffic::read_service`: the Service of an agent whose pods make the shares, as its route.
pub(super) fn service_as_seen(service: &ServiceObject, pods: &BTreeMap<&'static str, Deployment>) -> Route {
    let size = |revision: &str| pods.get(revision).map_or(0, |pods| pods.size);
    let shares = service.split.as_ref().map_or(Shares::AtRest, |split| Shares::Split {
        stable: split.stable.clone(),
        canary: split.canary.clone(),
        weight: split.weight.max(split.share(size)),
    });
    Route::Seen { shares, programmed: Programmed::Yes }
}

/// `by_pods::obstacle`: the pods of one revision that a Service of both would send to as well.
pub(super) fn in_the_way(state: &State, pods: &BTreeMap<&'static str, Deployment>) -> ByPods {
    let launch = state.running();
    let Some((launch, stable)) = launch.and_then(|launch| Some((launch, launch.stable.as_ref()?))) else {
        return ByPods::default();
    };
    let known = |name: &str| name == launch.revision || name == stable;
    let mut others = pods.iter().filter(|(name, pods)| !known(name) && pods.size.max(pods.ready) > 0);
    ByPods { obstacle: others.next().map(|(name, _)| format!("a pod of {name} is there")) }
}

fn resize(pods: &mut Deployment, size: i32) {
    pods.since = match (pods.since, pods.ready.cmp(&size)) {
        (since, std::cmp::Ordering::Equal) if size > 0 => since,
        (_, std::cmp::Ordering::Greater) if size > 0 => Some(*NOW),
        _ => None,
    };
    (pods.size, pods.ready) = (size, pods.ready.min(size));
}

fn object(write: &Write) -> (u8, &str) {
    match write {
        Write::Status(_) => (0, ""),
        Write::Answer(_) => (4, ""),
        Write::CreateRoute | Write::Route { .. } => (1, ""),
        Write::Service { .. } => (2, ""),
        Write::Size { revision, .. } | Write::Remove { revision } => (3, revision),
    }
}

/// What an operator's watches hold when they stand still.
#[derive(Clone, Debug, Hash)]
pub(super) struct Cache {
    pub(super) pods: Known<BTreeMap<&'static str, Deployment>>,
    pub(super) route: Known<Option<RouteObject>>,
    pub(super) service: Known<ServiceObject>,
    /// So many decisions are known.
    pub(super) decisions: usize,
}

impl World {
    pub(super) fn pass(&mut self, index: usize) -> Option<&mut Pass> {
        self.operators[index].pass.as_mut()
    }
}

/// The revision that a write turns all or the rest of the traffic to.
fn turns_to(write: &Write) -> Option<&str> {
    match write {
        Write::Service { revision, .. } => revision.as_deref(),
        Write::Route { shares: Shares::Split { stable, .. }, .. } => Some(stable),
        _ => None,
    }
}
