//! An operator: the elector, and the passes of `controller/reconcile.rs` write by write. What is here must be what the shell
//! does (`commit.rs`, `perform.rs`, `traffic.rs`, `people.rs`); a change of their order or their guards belongs here too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use k8s_openapi::jiff::Timestamp;

use super::clock::{INSTANT, NOW, TICK, old, older, older_silence, older_state, past, without_instants};
use super::known::Known;
use super::rules::{DRAIN, Guards};
use super::world::{
    Cache, Deployment, Late, Refused, RouteObject, ServiceObject, Spec, World, Write, grow_older, in_the_way, named,
    service_as_seen,
};
use crate::api::{DecisionVerb, Launch, Outcome, Phase, State, Verdict};
use crate::controller::elector::{Elector, LEASE, RENEW_WITHIN};
use crate::launch::promises::{self, Broken, Decided};
use crate::launch::{
    CheckName, Decision, Freeze, Frozen, Given, Measured, Observation, People, Pods, Route, RouteVersion, Shares, Step,
    Wanted, WantedRevision, gone_since, launchable, step,
};
use crate::traffic::PodSplit;

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) elector: Known<Candidate>,
    pub(super) epoch: i64,
    pub(super) stopped: bool,
    /// Something that it watches has changed since its last pass began.
    pub(super) dirty: bool,
    /// When its last pass asked to be called again. Not part of the state: the next pass asks the same.
    pub(super) wake: Option<Timestamp>,
    pub(super) cache: Option<Cache>,
    /// Since when it sees a canary that is taken back without weight.
    gone_since: Option<Timestamp>,
    /// The agent, when it was read before everything else.
    pub(super) read: Option<Agent>,
    pub(super) pass: Option<Pass>,
}

impl Hash for Operator {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.elector, self.epoch, self.stopped, self.dirty, &self.cache, self.gone_since).hash(hasher);
        (&self.read, &self.pass).hash(hasher);
    }
}

/// The elector, as far as its decisions depend on it.
#[derive(Clone, Debug)]
pub(super) struct Candidate(pub(super) Elector);

impl Hash for Candidate {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.fingerprint(*INSTANT).hash(hasher);
    }
}

/// An agent as a pass reads it.
#[derive(Clone, Debug, Hash)]
pub(super) struct Agent {
    state: Known<State>,
    spec: Spec,
    /// Nobody wrote the agent since it was read.
    fresh: bool,
    /// Nobody edited its spec since.
    spec_fresh: bool,
}

/// What is left of a pass after it has decided.
#[derive(Clone, Debug, Hash)]
pub(super) struct Pass {
    agent: Agent,
    chosen: Known<Chosen>,
    left: VecDeque<Work>,
}

/// What a pass saw and decided, as far as its writes depend on it.
#[derive(Clone, Debug, Hash)]
struct Chosen {
    shares: Option<Shares>,
    serves: bool,
    /// The Service as it was observed (`live.rs`). While a launch runs it is this version that is written upon.
    service: Known<ServiceObject>,
    state: Known<State>,
    wanted: Wanted,
}

/// A piece of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Commit,
    Size(&'static str, i32),
    Route,
    Service,
    Remove(&'static str),
    Rest(&'static str),
    Answer(usize),
}

impl Operator {
    pub(super) fn new(index: usize) -> Self {
        Self {
            elector: Known::new(Candidate(Elector::new(Self::name(index), LEASE, RENEW_WITHIN))),
            epoch: 0,
            stopped: false,
            dirty: true,
            wake: None,
            cache: None,
            gone_since: None,
            read: None,
            pass: None,
        }
    }

    pub(super) fn name(index: usize) -> &'static str {
        ["a", "b"][index]
    }

    pub(super) fn leads(&self) -> bool {
        !self.stopped && self.elector.0.leads_until(*INSTANT).is_some()
    }

    /// It has nothing to do until something changes or time passes.
    pub(super) fn rests(&self) -> bool {
        !self.dirty && self.pass.is_none() && self.read.is_none()
    }

    /// No watch wakes it.
    pub(super) fn is_deaf(&self) -> bool {
        self.cache.is_some() && self.pass.is_none() && self.read.is_none()
    }

    fn reads(&mut self) -> impl Iterator<Item = &mut Agent> {
        self.read.iter_mut().chain(self.pass.iter_mut().map(|pass| &mut pass.agent))
    }

    pub(super) fn agent_is_written(&mut self) {
        self.reads().for_each(|agent| agent.fresh = false);
    }

    pub(super) fn spec_is_edited(&mut self) {
        self.reads().for_each(|agent| agent.spec_fresh = false);
    }

    pub(super) fn grow_older(&mut self) {
        self.elector.edit(|elector| elector.0 = elector.0.clone().aged(TICK));
        self.wake.iter_mut().for_each(older);
        self.gone_since.iter_mut().for_each(older_silence);
        if let Some(cache) = &mut self.cache {
            grow_older(&mut cache.pods, &mut cache.route, &mut cache.service);
        }
        self.reads().for_each(|agent| agent.state.edit(older_state));
        if let Some(pass) = &mut self.pass {
            pass.chosen.edit(|chosen| {
                chosen.state.edit(older_state);
                chosen.wanted.decision.iter_mut().for_each(|decision| past(&mut decision.at));
                if chosen.service.decision.is_some() {
                    chosen.service.edit(|it| it.decision.iter_mut().for_each(|decision| past(&mut decision.at)));
                }
            });
        }
    }
}

impl World {
    /// Reads the agent; everything else is read in a moment.
    pub(super) fn read_early(&mut self, index: usize) {
        self.operators[index].read = Some(self.agent());
        self.operators[index].dirty = false;
    }

    fn agent(&self) -> Agent {
        Agent { state: self.state.clone(), spec: self.spec.clone(), fresh: true, spec_fresh: true }
    }

    /// Reads, observes, decides.
    pub(super) fn begin(&mut self, index: usize) -> Result<(), Broken> {
        let early = self.operators[index].read.take();
        self.operators[index].dirty &= early.is_some();
        let agent = early.unwrap_or_else(|| self.agent());
        let mut truth = self.observe(index, &agent);
        truth.gone_since = gone_since(&agent.state, &truth, *NOW);
        self.operators[index].gone_since = truth.gone_since;
        let plans = self.plans();
        let plan = &plans[agent.spec.plan as usize];
        let mut step = step(plan, &agent.state, &blinded(truth.clone(), self.rules.guards), *NOW);
        without_instants(&mut step);
        promises::of_a_decision(&Decided { plan, before: &agent.state, seen: &truth, now: *NOW, step: &step })?;
        let left = self.work(index, &truth, &step);
        self.operators[index].wake = step.wake_at;
        let cache = self.operators[index].cache.as_ref().filter(|_| is_certain(&agent.state));
        let service = cache.map_or(&self.service, |cache| &cache.service).clone();
        let chosen = Known::new(chosen(truth, service, step));
        self.operators[index].pass = Some(Pass { agent, chosen, left });
        self.end_idle_pass(index);
        Ok(())
    }

    fn observe(&self, index: usize, agent: &Agent) -> Observation {
        let running = agent.state.running();
        let cache = self.operators[index].cache.as_ref();
        let deployments = cache.map_or(&self.deployments, |cache| &cache.pods);
        let resting = cache.filter(|_| is_certain(&agent.state));
        let route: &Option<RouteObject> = resting.map_or(&self.route, |cache| &cache.route);
        let service = resting.map_or(&self.service, |cache| &cache.service);
        let written = [route.as_ref().and_then(|route| route.decision.clone()), service.decision.clone()];
        let about = |decision: &Decision| running.is_some_and(|launch| launch.id == decision.launch);
        let pods = deployments.iter().map(|(revision, pods)| {
            let all = Pods {
                size: pods.size,
                ready: pods.ready,
                all_ready_since: pods.since.filter(|_| pods.ready >= pods.size && pods.size > 0),
                ..Pods::default()
            };
            ((*revision).to_owned(), all)
        });
        let asked = WantedRevision::Known(agent.spec.wanted.to_owned());
        let (route, by_pods, wanted) = if self.rules.by_pods {
            let (plans, replicas) = (self.plans(), agent.spec.replicas);
            let wanted = launchable(&asked, &plans[agent.spec.plan as usize], &agent.state, replicas, None);
            (service_as_seen(service, deployments), Some(in_the_way(&agent.state, deployments)), wanted)
        } else {
            (self.route_as_seen(route.as_ref()), None, asked)
        };
        Observation {
            agent: "agent".to_owned(),
            wanted,
            replicas: agent.spec.replicas,
            paused: agent.spec.paused,
            history_limit: 5,
            pods: pods.collect(),
            route,
            by_pods,
            service: service.revision.clone(),
            decision: written.into_iter().flatten().max_by_key(|decision| (about(decision), decision.at)),
            hostname_taken: None,
            no_room: None,
            freeze: self.freeze(),
            drain: self.rules.drain.then_some(DRAIN),
            route_version: RouteVersion::default(),
            gone_since: self.operators[index].gone_since,
            people: self.people(&agent.state, cache.map_or(usize::MAX, |cache| cache.decisions)),
            runs: None,
            trouble: None,
            measured: self.measured(&agent.state, running),
        }
    }

    fn freeze(&self) -> Freeze {
        match self.window {
            None => Freeze::default(),
            Some((opens, _)) if opens > *NOW => Freeze { open: None, changes_at: Some(opens) },
            Some((_, until)) => {
                Freeze { open: Some(Frozen { window: "peak".to_owned(), until }), changes_at: Some(until) }
            }
        }
    }

    /// `people::observe`: those that the watch knows, and those that the status remembers, each read now.
    fn people(&self, state: &State, known: usize) -> People {
        let uid = |index: usize| format!("d{index}");
        let remembered = |index: usize| state.answers.iter().any(|answer| answer.uid == uid(index));
        let all = self.decisions.iter().enumerate();
        let heard = all.filter(|(index, _)| *index < known || remembered(*index));
        let (settled, open): (Vec<_>, Vec<_>) = heard.partition(|(_, asked)| asked.answered);
        let given = open.into_iter().map(|(index, asked)| Given {
            uid: uid(index),
            name: uid(index),
            made_at: *NOW,
            verb: asked.verb,
            by: "ada".to_owned(),
            reason: "I decide".to_owned(),
            revision: asked.revision.map(str::to_owned),
            gates: if asked.verb == DecisionVerb::Override { vec!["success".to_owned()] } else { Vec::new() },
        });
        let settled: BTreeSet<_> = settled.into_iter().map(|(index, _)| uid(index)).collect();
        People { agent_made_at: old(), given: given.collect(), settled, ..People::default() }
    }

    fn measured(&self, state: &State, running: Option<&Launch>) -> BTreeMap<CheckName, Measured> {
        let at = running.map_or(0, |launch| launch.stage);
        let checks = [
            (CheckName::Gate(at, "success".to_owned()), self.says.gate),
            (CheckName::Trigger("errors".to_owned()), self.says.errors),
            (CheckName::Trigger("bypass".to_owned()), self.says.bypass),
        ];
        let retiring = state.retiring.iter().filter(|_| self.rules.drain);
        let drained = retiring.map(|it| (CheckName::Drained(it.revision.clone()), self.says.runs));
        let say = |verdict: Verdict| Measured { verdict, message: format!("{verdict:?}"), sampled_at: *NOW };
        checks.into_iter().chain(drained).map(|(name, verdict)| (name, say(verdict))).collect()
    }

    /// What a pass does after it has decided, in the order of `reconcile` and `perform`.
    fn work(&self, index: usize, seen: &Observation, step: &Step) -> VecDeque<Work> {
        let mut work = VecDeque::new();
        let (falling, first) = (step.wanted.falling, !self.rules.guards.status_first);
        if falling || first {
            work.extend([Work::Route, Work::Service]);
        }
        work.push_back(Work::Commit);
        work.extend(step.wanted.sizes.iter().map(|(revision, size)| Work::Size(named(revision), *size)));
        if !falling {
            work.extend([Work::Route, Work::Service]);
        }
        let known = self.operators[index].cache.as_ref().map_or(&self.deployments, |cache| &cache.pods);
        let unsized_ = known.keys().filter(|revision| !step.wanted.sizes.contains_key(**revision)).copied();
        let (rest, gone): (Vec<_>, Vec<_>) = unsized_.partition(|revision| step.wanted.keep.contains(*revision));
        work.extend(gone.into_iter().map(Work::Remove));
        work.extend(rest.into_iter().map(Work::Rest));
        let asked = |uid: &String| seen.people.given.iter().any(|given| given.uid == *uid);
        let answers = step.state.answers.iter().filter(|answer| asked(&answer.uid));
        work.extend(answers.filter_map(|answer| answer.uid[1..].parse().ok()).map(Work::Answer));
        work
    }

    /// The next write of a pass is made; its answer may be lost.
    pub(super) fn write(&mut self, index: usize, lost: bool) -> Result<(), Broken> {
        while let Some(work) = self.pass(index).and_then(|pass| pass.left.pop_front()) {
            let answer = match self.request(index, &work) {
                Ok(None) => continue, // it is right already
                Ok(Some(write)) => self.send(index, &work, &write)?,
                Err(refused) => Err(refused),
            };
            if answer.is_err() || lost {
                self.fail(index, &work);
            }
            break;
        }
        self.end_idle_pass(index);
        Ok(())
    }

    fn send(&mut self, index: usize, work: &Work, write: &Write) -> Result<Result<(), Refused>, Broken> {
        let operator = &self.operators[index];
        if self.rules.guards.leadership && !operator.leads() {
            return Ok(Err(Refused));
        }
        let fresh = *work != Work::Commit || operator.pass.as_ref().is_some_and(|pass| pass.agent.fresh);
        let epoch = operator.epoch;
        self.land(write, epoch, fresh, false)
    }

    /// The next write leaves and has not arrived; its operator stands still or dies.
    pub(super) fn delay(&mut self, index: usize, dies: bool) {
        while let Some(work) = self.pass(index).and_then(|pass| pass.left.pop_front()) {
            if let Ok(Some(write)) = self.request(index, &work) {
                let fresh = work != Work::Commit || self.pass(index).is_some_and(|pass| pass.agent.fresh);
                let epoch = self.operators[index].epoch;
                self.late = Some(Late { write, epoch, fresh });
                break;
            }
        }
        self.operators[index].pass = None;
        if dies {
            self.restart(index);
        } else {
            self.operators[index].stopped = true;
        }
    }

    /// A write failed. Route and Service do not wait for each other; a status and pods follow a fall all the same; and
    /// people are answered what the status remembers.
    fn fail(&mut self, index: usize, work: &Work) {
        let Some(pass) = self.pass(index) else { return };
        let falls = pass.left.contains(&Work::Commit);
        match work {
            Work::Route | Work::Service if falls => {
                pass.left.retain(|work| !matches!(work, Work::Remove(_) | Work::Rest(_)));
            }
            Work::Route => pass.left.retain(|work| matches!(work, Work::Service | Work::Answer(_))),
            Work::Size(..) | Work::Service | Work::Remove(_) | Work::Rest(_) => {
                pass.left.retain(|work| matches!(work, Work::Answer(_)));
            }
            Work::Commit | Work::Answer(_) => pass.left.clear(),
        }
        self.operators[index].dirty = true; // a failed pass is made again
    }

    /// A pass ends when nothing is left that it would change.
    fn end_idle_pass(&mut self, index: usize) {
        let Some(pass) = &self.operators[index].pass else { return };
        if pass.left.iter().all(|work| matches!(self.request(index, work), Ok(None))) {
            self.operators[index].pass = None;
        }
    }

    /// What a piece of work asks of the API server, after the operator's own checks. `None`: it is right already.
    fn request(&self, index: usize, work: &Work) -> Result<Option<Write>, Refused> {
        let operator = &self.operators[index];
        let Some(pass) = &operator.pass else { return Ok(None) };
        let known = operator.cache.as_ref().map_or(&self.deployments, |cache| &cache.pods);
        let emptied = pass.agent.spec.replicas == 0;
        let size_of = |revision: &str| known.get(revision).map(|pods| pods.size);
        Ok(match *work {
            Work::Commit => (pass.chosen.state != pass.agent.state).then(|| Write::Status(pass.chosen.state.clone())),
            Work::Size(revision, size) => {
                self.may_grow(pass, revision, size_of(revision).is_some_and(|now| now < size))?;
                let canary = pass.chosen.state.running().filter(|launch| launch.revision == revision);
                let launch = canary.map(|launch| launch.id.clone()).filter(|_| self.rules.guards.pods_versions);
                let marked = known.get(revision).is_some_and(|pods| launch.is_none() || pods.launch == launch);
                let right = size_of(revision) == Some(size) && marked;
                (!right).then_some(Write::Size { revision, size, emptied, launch })
            }
            Work::Remove(revision) => {
                self.unserved(revision, size_of(revision))?;
                self.seen(known, revision)?.then_some(Write::Remove { revision })
            }
            Work::Rest(revision) if size_of(revision) == Some(0) => None,
            Work::Rest(revision) => {
                self.unserved(revision, size_of(revision))?;
                let write = Write::Size { revision, size: 0, emptied, launch: None };
                self.seen(known, revision)?.then_some(write)
            }
            Work::Route => self.route_request(pass, operator.cache.as_ref(), operator.epoch)?,
            Work::Service => self.service_request(pass, operator.epoch)?,
            Work::Answer(index) => (!self.decisions[index].answered).then_some(Write::Answer(index)),
        })
    }

    /// `by_pods::may_grow`.
    fn may_grow(&self, pass: &Pass, revision: &str, grows: bool) -> Result<(), Refused> {
        let Chosen { state, wanted, .. } = &*pass.chosen;
        let climbs = |phase: Phase| matches!(phase, Phase::Progressing | Phase::Promoting);
        let launch = state.running().filter(|launch| launch.revision == revision && climbs(launch.phase));
        let narrow = launch.is_some_and(|launch| launch.weight < 100) && PodSplit::of(wanted).is_none();
        let asked = self.rules.by_pods && self.rules.guards.may_grow && narrow && grows;
        if asked && self.service.split.is_some() { Err(Refused) } else { Ok(()) }
    }

    /// `unserved`.
    fn unserved(&self, revision: &str, size: Option<i32>) -> Result<(), Refused> {
        let asked = size.is_some_and(|size| size > 0);
        let selected = match &self.service.split {
            Some(split) => split.names(revision),
            None => self.service.revision.as_deref() == Some(revision),
        };
        let route = self.route_as_seen(self.route.as_ref());
        let shared = promises::share_of(revision, &route, None) > 0;
        if asked && (selected || shared) { Err(Refused) } else { Ok(()) }
    }

    /// Whether a Deployment is there, and is as the operator knows it.
    fn seen(&self, known: &BTreeMap<&'static str, Deployment>, revision: &str) -> Result<bool, Refused> {
        let live = self.deployments.get(revision);
        let refused = self.rules.guards.pods_versions && live.is_some() && live != known.get(revision);
        if refused { Err(Refused) } else { Ok(live.is_some()) }
    }

    /// `traffic::route`.
    fn route_request(&self, pass: &Pass, cache: Option<&Cache>, epoch: i64) -> Result<Option<Write>, Refused> {
        let Chosen { shares: seen, serves, wanted, state, .. } = &*pass.chosen;
        if !self.rules.gateway {
            return Ok(None);
        }
        let cached = cache.map_or(&self.route, |cache| &cache.route).as_ref();
        let right = |cached: &RouteObject| {
            Some(&cached.shares) == wanted.shares.as_ref()
                && !self.needs_mark(state, cached.decision.as_ref(), (cached.epoch, epoch), cached.under_way)
        };
        if is_certain(&pass.agent.state) && cached.is_some_and(right) {
            return Ok(None); // it is read only when the watch says that it is wrong
        }
        let Some(live) = self.route.as_ref() else {
            return Ok(serves.then_some(Write::CreateRoute));
        };
        let Some(shares) = &wanted.shares else { return Ok(None) };
        if !wanted.falling && Some(&live.shares) != seen.as_ref() && live.shares != *shares {
            return Err(Refused);
        }
        if live.shares == *shares
            && !self.needs_mark(state, live.decision.as_ref(), (live.epoch, epoch), live.under_way)
        {
            return Ok(None);
        }
        let stable = state.stable.as_ref().map(|stable| stable.revision.as_str());
        if share_of_others(shares, stable) > share_of_others(&live.shares, stable) {
            self.may_rise(pass, live.decision.as_ref())?;
        }
        let (decision, takes_back) = self.mark(&pass.chosen);
        Ok(Some(Write::Route { shares: shares.clone(), decision, takes_back, under_way: state.running().is_some() }))
    }

    /// `traffic::service`.
    fn service_request(&self, pass: &Pass, epoch: i64) -> Result<Option<Write>, Refused> {
        let Chosen { wanted, state, service: observed, .. } = &*pass.chosen;
        let marked =
            |it: &ServiceObject| !self.needs_mark(state, it.decision.as_ref(), (it.epoch, epoch), it.under_way);
        let split = PodSplit::of(wanted).filter(|_| self.rules.by_pods);
        let same = |service: &ServiceObject| service.revision == wanted.service && service.split == split;
        let certain = is_certain(&pass.agent.state);
        let right = |service: &ServiceObject| same(service) && marked(service);
        let read_now = certain || **observed == ServiceObject::default();
        let read = if read_now { &self.service } else { observed };
        if (certain && state.running().is_none() && same(observed) && marked(observed)) || right(read) {
            return Ok(None);
        }
        if read != &self.service && !wanted.falling && self.rules.guards.versions {
            return Err(Refused); // its version is old; a fall reads it again
        }
        if right(&self.service) {
            return Ok(None);
        }
        let shared = self.service.split.as_ref();
        if let Some(split) = split.as_ref().filter(|split| !shared.is_some_and(|shared| split.is_within(shared))) {
            if self.rules.guards.may_split && !self.fits(split) {
                return Err(Refused);
            }
            self.may_rise(pass, self.service.decision.as_ref())?;
        }
        let stable = state.stable.as_ref().map(|stable| &stable.revision);
        let moves = self.service.revision != wanted.service;
        let canary = |launch: &&Launch| launch.stable.is_some() && Some(&launch.revision) == wanted.service.as_ref();
        let launch = state.launch.as_ref().filter(canary);
        let fell =
            launch.is_some_and(|it| self.service.decision.as_ref().is_some_and(|written| written.launch == it.id));
        if moves && wanted.service.is_some() && (wanted.service.as_ref() != stable || fell) {
            self.may_rise(pass, self.service.decision.as_ref())?;
        }
        let (decision, takes_back) = self.mark(&pass.chosen);
        Ok(Some(Write::Service {
            revision: wanted.service.clone(),
            split,
            decision,
            takes_back,
            under_way: state.running().is_some(),
        }))
    }

    /// `traffic::may_rise`.
    fn may_rise(&self, pass: &Pass, written: Option<&Decision>) -> Result<(), Refused> {
        if !self.rules.guards.may_rise {
            return Ok(());
        }
        let launch = pass.chosen.state.launch.as_ref();
        let taken_back = written.is_some_and(|decision| launch.is_some_and(|launch| launch.id == decision.launch));
        let same = pass.agent.spec_fresh && self.state == pass.chosen.state;
        if same && !taken_back { Ok(()) } else { Err(Refused) }
    }

    /// A launch that is taken back says so on the object, if only to be in the way of a rise that is still under way.
    /// A launch that goes forward is marked by whoever comes to lead; one that succeeded is under way no more.
    fn needs_mark(
        &self,
        state: &State,
        written: Option<&Decision>,
        (theirs, ours): (i64, i64),
        under_way: bool,
    ) -> bool {
        let Some(launch) = &state.launch else { return false };
        let untold = || written.is_none_or(|written| written.launch != launch.id);
        match launch.phase {
            Phase::RollingBack => self.rules.guards.falls_are_marked && untold(),
            Phase::Progressing | Phase::Promoting => theirs > 0 && theirs < ours && untold(), // 0: nobody has written it
            Phase::Complete if launch.outcome == Some(Outcome::Succeeded) => {
                self.rules.guards.successes_are_marked && under_way && untold()
            }
            Phase::Soaking | Phase::Complete => false,
        }
    }

    fn mark(&self, chosen: &Chosen) -> (Option<Decision>, Option<String>) {
        let takes_back =
            chosen.state.launch.as_ref().filter(|launch| launch.phase == Phase::RollingBack && launch.weight == 0);
        let decision = chosen.wanted.decision.clone().filter(|_| self.rules.guards.decision_written);
        (decision, takes_back.map(|launch| launch.id.clone()))
    }
}

fn chosen(seen: Observation, service: Known<ServiceObject>, step: Step) -> Chosen {
    let Step { state, wanted, .. } = step;
    let shares = match seen.route {
        Route::Seen { shares, .. } if seen.by_pods.is_none() => Some(shares),
        _ => None, // a Service is not written on what was seen of it
    };
    Chosen { shares, serves: seen.service.is_some(), service, state: Known::new(state), wanted }
}

/// What an operator sees that lacks a guard.
fn blinded(mut seen: Observation, guards: Guards) -> Observation {
    if !guards.sees_windows {
        seen.freeze = Freeze::default();
    }
    if !guards.sees_runs {
        seen.drain = None;
    }
    if !guards.remembers_answers {
        seen.people.settled.extend(seen.people.given.iter().map(|given| given.uid.clone()));
    }
    seen
}

/// No launch runs and no status was lost: what the watches hold of route and Service is good enough.
fn is_certain(state: &State) -> bool {
    state.running().is_none() && state.stable.is_some()
}

/// `traffic::canary_share`.
fn share_of_others(shares: &Shares, stable: Option<&str>) -> i32 {
    match shares {
        Shares::Split { stable: first, canary, weight } => {
            let other = |revision: &str, share: i32| if stable == Some(revision) { 0 } else { share };
            other(first, 100 - weight) + other(canary, *weight)
        }
        Shares::Matched { .. } | Shares::AtRest | Shares::Foreign(_) => 0, // no stage of the model matches headers
    }
}
