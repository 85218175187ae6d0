//! An operator: the elector, and the passes of `controller/reconcile.rs` write by write. What is here must be what the shell
//! does (`commit.rs`, `perform.rs`, `traffic.rs`); a change of their order or their guards belongs here too.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::world::{
    Cache, INSTANT, Late, NOW, Refused, ServiceObject, Spec, TICK, World, Write, older, older_state, past,
};
use crate::api::{Phase, State};
use crate::controller::elector::Elector;
use crate::launch::promises::{self, Broken, Decided};
use crate::launch::{
    CheckName, Decision, Freeze, Measured, Observation, People, Pods, Route, RouteVersion, Shares, Step,
    WantedRevision, launchable, step,
};
use crate::traffic::PodSplit;

const LEASE: Duration = Duration::from_secs(15);
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) elector: Elector,
    pub(super) epoch: i64,
    pub(super) stopped: bool,
    /// Something that it watches has changed since its last pass began.
    pub(super) dirty: bool,
    /// When its last pass asked to be called again. Not part of the state: the next pass asks the same.
    pub(super) wake: Option<Timestamp>,
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) pass: Option<Pass>,
}

impl Hash for Operator {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.elector.fingerprint(*INSTANT).hash(hasher);
        (self.epoch, self.stopped, self.dirty, &self.cache, &self.pass).hash(hasher);
    }
}

/// What is left of a pass after it has decided.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    before: Arc<State>,
    spec: Spec,
    /// Nobody wrote the agent since it was read.
    pub(super) agent_fresh: bool,
    pub(super) spec_fresh: bool,
    decided: Arc<(Observation, Step)>,
    left: VecDeque<Work>,
    /// A write of the fall failed: the status is written all the same, and then the pass ends.
    failed: bool,
}

impl Hash for Pass {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.before, &self.spec, self.agent_fresh, self.spec_fresh, self.failed, &self.left).hash(hasher);
        (&self.decided.0.route, &self.decided.0.service, &self.decided.1.state, &self.decided.1.wanted).hash(hasher);
    }
}

/// A piece of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Commit,
    Size(String, i32),
    Route,
    Service,
    Remove(String),
    Rest(String),
}

impl Operator {
    pub(super) fn new(index: usize) -> Self {
        Self {
            elector: Elector::new(Self::name(index), LEASE, RENEW_WITHIN),
            epoch: 0,
            stopped: false,
            dirty: true,
            wake: None,
            cache: None,
            pass: None,
        }
    }

    pub(super) fn name(index: usize) -> &'static str {
        ["a", "b"][index]
    }

    pub(super) fn leads(&self) -> bool {
        !self.stopped && self.elector.leads_until(*INSTANT).is_some()
    }

    /// It has nothing to do until something changes or time passes.
    pub(super) fn rests(&self) -> bool {
        !self.dirty && self.pass.is_none()
    }

    pub(super) fn grow_older(&mut self) {
        self.elector = self.elector.clone().aged(TICK);
        self.wake.iter_mut().for_each(older);
        if let Some(cache) = &mut self.cache {
            let cache = Arc::make_mut(cache);
            cache.0.values_mut().filter_map(|pods| pods.since.as_mut()).for_each(older);
            let decisions = cache.1.iter_mut().filter_map(|route| route.decision.as_mut());
            decisions.chain(cache.2.decision.as_mut()).for_each(|decision| past(&mut decision.at));
        }
        if let Some(pass) = &mut self.pass {
            older_state(Arc::make_mut(&mut pass.before));
            let (_, step) = Arc::make_mut(&mut pass.decided);
            older_state(&mut step.state);
            step.wanted.decision.iter_mut().for_each(|decision| past(&mut decision.at));
        }
    }
}

impl World {
    /// Reads, observes, decides.
    pub(super) fn begin(&mut self, index: usize) -> Result<(), Broken> {
        let state = self.state.clone();
        let seen = self.observe(index, &state);
        let plan = self.plan();
        let step = step(&plan, &state, &seen, *NOW);
        let decided = Decided { plan: &plan, before: &state, seen: &seen, now: *NOW, step: &step };
        promises::of_a_decision(&decided)?;
        let left = self.work(index, &step);
        let spec = self.spec.clone();
        let operator = &mut self.operators[index];
        operator.dirty = false;
        operator.wake = step.wake_at;
        let decided = Arc::new((seen, step));
        let (agent_fresh, spec_fresh) = (true, true);
        operator.pass = Some(Pass { before: state, spec, agent_fresh, spec_fresh, decided, left, failed: false });
        self.end_idle_pass(index);
        Ok(())
    }

    fn observe(&self, index: usize, state: &State) -> Observation {
        let running = state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
        let cache = self.operators[index].cache.as_deref();
        let deployments = cache.map_or(&self.deployments, |cache| &cache.0);
        let resting = cache.filter(|_| running.is_none());
        let route = resting.map_or(&self.route, |cache| &cache.1).as_ref();
        let service = resting.map_or(&self.service, |cache| &cache.2);
        let written = [route.and_then(|route| route.decision.clone()), service.decision.clone()];
        let about = |decision: &Decision| running.is_some_and(|launch| launch.id == decision.launch);
        let pods = deployments.iter().map(|(revision, pods)| {
            let all = Pods {
                size: pods.size,
                ready: pods.ready,
                all_ready_since: pods.since.filter(|_| pods.ready >= pods.size && pods.size > 0),
                ..Pods::default()
            };
            (revision.clone(), all)
        });
        let asked = WantedRevision::Known(self.spec.wanted.to_owned());
        let (route, by_pods, wanted) = if self.rules.by_pods {
            let (route, by_pods) = self.service_as_seen(service, deployments);
            (route, Some(by_pods), launchable(&asked, &self.plan(), state, self.spec.replicas, None))
        } else {
            (self.route_as_seen(route), None, asked)
        };
        Observation {
            agent: "agent".to_owned(),
            wanted,
            replicas: self.spec.replicas,
            paused: self.spec.paused,
            history_limit: 5,
            pods: pods.collect(),
            route,
            by_pods,
            service: service.revision.clone(),
            decision: written.into_iter().flatten().max_by_key(|decision| (about(decision), decision.at)),
            hostname_taken: None,
            freeze: Freeze::default(),
            drain: None,
            route_version: RouteVersion::default(),
            people: People::default(),
            runs: None,
            trouble: None,
            measured: self.measured(running.map_or(0, |launch| launch.stage)),
        }
    }

    fn measured(&self, stage: i32) -> BTreeMap<CheckName, Measured> {
        let all = [
            (CheckName::Gate(stage, "success".to_owned()), self.says.gate),
            (CheckName::Trigger("errors".to_owned()), self.says.errors),
            (CheckName::Trigger("bypass".to_owned()), self.says.bypass),
        ];
        let say = |verdict| Measured { verdict, message: format!("{verdict:?}"), sampled_at: *NOW };
        all.into_iter().map(|(name, verdict)| (name, say(verdict))).collect()
    }

    /// What a pass does after it has decided, in the order of `reconcile` and `perform`.
    fn work(&self, index: usize, step: &Step) -> VecDeque<Work> {
        let mut work = VecDeque::new();
        if step.wanted.falling || !self.rules.status_first {
            work.extend([Work::Route, Work::Service]);
        }
        work.push_back(Work::Commit);
        work.extend(step.wanted.sizes.iter().map(|(revision, size)| Work::Size(revision.clone(), *size)));
        work.extend([Work::Route, Work::Service]);
        let known = self.operators[index].cache.as_deref().map_or(&self.deployments, |cache| &cache.0);
        let unsized_ = known.keys().filter(|revision| !step.wanted.sizes.contains_key(*revision)).cloned();
        let (rest, gone): (Vec<_>, Vec<_>) = unsized_.partition(|revision| step.wanted.keep.contains(revision));
        work.extend(gone.into_iter().map(Work::Remove));
        work.extend(rest.into_iter().map(Work::Rest));
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
        if self.rules.leadership && !operator.leads() {
            return Ok(Err(Refused));
        }
        let fresh = *work != Work::Commit || operator.pass.as_ref().is_some_and(|pass| pass.agent_fresh);
        let epoch = operator.epoch;
        self.land(write, epoch, fresh, false)
    }

    /// The next write leaves and has not arrived; its operator stands still or dies.
    pub(super) fn delay(&mut self, index: usize, dies: bool) {
        while let Some(work) = self.pass(index).and_then(|pass| pass.left.pop_front()) {
            if let Ok(Some(write)) = self.request(index, &work) {
                let fresh = work != Work::Commit || self.pass(index).is_some_and(|pass| pass.agent_fresh);
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

    /// A write failed. Route and Service do not wait for each other; a status that follows a fall is written all the same.
    fn fail(&mut self, index: usize, work: &Work) {
        let Some(pass) = self.pass(index) else { return };
        let falls = pass.left.contains(&Work::Commit);
        match work {
            Work::Route | Work::Service if falls => pass.failed = true,
            Work::Route => pass.left.truncate(1), // the Service is next
            _ => pass.left.clear(),
        }
        self.operators[index].dirty = true; // a failed pass is made again
    }

    /// A pass ends when nothing is left that it would change.
    fn end_idle_pass(&mut self, index: usize) {
        let Some(pass) = &self.operators[index].pass else { return };
        let committed = !pass.left.contains(&Work::Commit);
        if pass.failed && committed {
            self.operators[index].pass = None;
            return;
        }
        let idle = pass.left.iter().all(|work| matches!(self.request(index, work), Ok(None)));
        if idle {
            self.operators[index].pass = None;
        }
    }

    /// What a piece of work asks of the API server, after the operator's own checks. `None`: it is right already.
    fn request(&self, index: usize, work: &Work) -> Result<Option<Write>, Refused> {
        let operator = &self.operators[index];
        let Some(pass) = &operator.pass else { return Ok(None) };
        let known = operator.cache.as_deref().map_or(&self.deployments, |cache| &cache.0);
        let emptied = pass.spec.replicas == 0;
        let size_of = |revision: &str| known.get(revision).map(|pods| pods.size);
        Ok(match work {
            Work::Commit => {
                (pass.decided.1.state != *pass.before).then(|| Write::Status(Arc::new(pass.decided.1.state.clone())))
            }
            Work::Size(revision, size)
                if self.grows_unseen(pass, revision, *size > size_of(revision).unwrap_or(*size)) =>
            {
                return Err(Refused);
            }
            Work::Size(revision, size) => (size_of(revision) != Some(*size)).then(|| Write::Size {
                revision: revision.clone(),
                size: *size,
                emptied,
            }),
            Work::Remove(revision) => {
                self.deployments.contains_key(revision).then(|| Write::Remove { revision: revision.clone() })
            }
            Work::Rest(revision) => {
                (size_of(revision) != Some(0)).then(|| Write::Size { revision: revision.clone(), size: 0, emptied })
            }
            Work::Route => self.route_request(pass)?,
            Work::Service => self.service_request(pass, operator.cache.as_deref())?,
        })
    }

    /// `by_pods::may_grow`.
    fn grows_unseen(&self, pass: &Pass, revision: &str, grows: bool) -> bool {
        let step = &pass.decided.1;
        let climbs = |phase: Phase| matches!(phase, Phase::Progressing | Phase::Promoting);
        let launch = step.state.launch.as_ref().filter(|launch| launch.revision == revision && climbs(launch.phase));
        let narrow = launch.is_some_and(|launch| launch.weight < 100) && PodSplit::of(&step.wanted).is_none();
        self.rules.by_pods && self.rules.may_split && grows && narrow && self.service.split.is_some()
    }

    /// `traffic::route`.
    fn route_request(&self, pass: &Pass) -> Result<Option<Write>, Refused> {
        let (seen, step) = (&pass.decided.0, &pass.decided.1);
        if !self.rules.gateway {
            return Ok(None);
        }
        let Some(live) = &self.route else {
            return Ok(seen.service.is_some().then_some(Write::CreateRoute));
        };
        let Some(shares) = &step.wanted.shares else { return Ok(None) };
        let seen_shares = match &seen.route {
            Route::Seen { shares, .. } => Some(shares),
            _ => None,
        };
        if !step.wanted.falling && Some(&live.shares) != seen_shares && live.shares != *shares {
            return Err(Refused);
        }
        if live.shares == *shares && !self.needs_mark(step, live.decision.as_ref()) {
            return Ok(None);
        }
        let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
        if share_of_others(shares, stable) > share_of_others(&live.shares, stable) {
            self.may_rise(pass, live.decision.as_ref())?;
        }
        let (decision, takes_back) = self.mark(step);
        Ok(Some(Write::Route { shares: shares.clone(), decision, takes_back }))
    }

    /// `traffic::service`.
    fn service_request(&self, pass: &Pass, cache: Option<&Cache>) -> Result<Option<Write>, Refused> {
        let step = &pass.decided.1;
        let launching = step.state.launch.as_ref().is_some_and(|launch| launch.phase != Phase::Complete);
        let cached = cache.map_or(&self.service, |cache| &cache.2);
        let marked = !self.needs_mark(step, self.service.decision.as_ref());
        let split = pass.decided.0.by_pods.as_ref().and_then(|_| PodSplit::of(&step.wanted));
        let same = |service: &ServiceObject| service.revision == step.wanted.service && service.split == split;
        if (!launching && same(cached)) || same(&self.service) && marked {
            return Ok(None);
        }
        let shared = self.service.split.as_ref();
        if let Some(split) = split.as_ref().filter(|split| !shared.is_some_and(|shared| split.is_within(shared))) {
            if self.rules.may_split && !self.fits(split) {
                return Err(Refused);
            }
            self.may_rise(pass, self.service.decision.as_ref())?;
        }
        let stable = step.state.stable.as_ref().map(|stable| &stable.revision);
        if step.wanted.service.is_some() && step.wanted.service.as_ref() != stable {
            self.may_rise(pass, self.service.decision.as_ref())?;
        }
        let (decision, takes_back) = self.mark(step);
        Ok(Some(Write::Service { revision: step.wanted.service.clone(), split, decision, takes_back }))
    }

    /// `traffic::may_rise`.
    fn may_rise(&self, pass: &Pass, written: Option<&Decision>) -> Result<(), Refused> {
        if !self.rules.may_rise {
            return Ok(());
        }
        let launch = pass.decided.1.state.launch.as_ref();
        let taken_back = written.is_some_and(|decision| launch.is_some_and(|launch| launch.id == decision.launch));
        let same = pass.spec_fresh && *self.state == pass.decided.1.state;
        if same && !taken_back { Ok(()) } else { Err(Refused) }
    }

    /// A launch that is taken back says so on the object, if only to be in the way of a rise that is still under way.
    fn needs_mark(&self, step: &Step, written: Option<&Decision>) -> bool {
        let launch = step.state.launch.as_ref().filter(|launch| launch.phase == Phase::RollingBack);
        self.rules.falls_are_marked
            && launch.is_some_and(|launch| written.is_none_or(|written| written.launch != launch.id))
    }

    fn mark(&self, step: &Step) -> (Option<Decision>, Option<String>) {
        let takes_back =
            step.state.launch.as_ref().filter(|launch| launch.phase == Phase::RollingBack && launch.weight == 0);
        let decision = step.wanted.decision.clone().filter(|_| self.rules.decision_written);
        (decision, takes_back.map(|launch| launch.id.clone()))
    }
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
