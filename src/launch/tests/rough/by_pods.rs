//! Rough weather where pods make the shares: no route, and an agent's Service that selects both revisions or one. Sizes are
//! seen late, writes arrive late, and each object has a version that guards them as in `controller/perform.rs` and `traffic.rs`.

use super::*;
use crate::launch::promises::of_sizes;

/// The version of the agent, of its spec, of the Service (`""`), and of each revision's Deployment.
type Versions = BTreeMap<String, u64>;

const AGENT: &str = "agent";
const SPEC: &str = "spec";
const SERVICE: &str = "";

/// What may happen in one second.
#[derive(Clone, Debug)]
enum Weather {
    /// Something happens before the operator looks, and it makes a whole pass.
    Calm(Happening),
    /// Something happens after it has looked, and after so many of its writes.
    Slow(Happening, usize),
    /// It dies after so many writes of this pass.
    Dies(usize),
    /// It dies after so many writes, and the next one arrives so many half seconds later: between two passes, or in the middle.
    HeldUp(usize, usize),
    /// Its watches stand still for so many seconds.
    Deaf(usize),
    /// The clock jumps by so many seconds.
    Jump(i64),
    /// The plan is edited.
    Plan(Edit),
}

/// Shares that four pods can make.
const STAGES: [&[i32]; 5] = [&[20, 50], &[50], &[34], &[20, 34, 43, 50], &[0, 50]];

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        24 => happening().prop_map(Weather::Calm),
        6 => (happening(), 0..3_usize).prop_map(|(happening, writes)| Weather::Slow(happening, writes)),
        2 => (0..6_usize).prop_map(Weather::Dies),
        4 => (0..6_usize, 0..40_usize).prop_map(|(writes, halves)| Weather::HeldUp(writes, halves)),
        3 => (1..20_usize).prop_map(Weather::Deaf),
        1 => prop_oneof![-3600..0_i64, -20..0_i64, 1..20_i64, 1..7200_i64].prop_map(Weather::Jump),
        2 => edit().prop_map(Weather::Plan),
    ]
}

/// What keeps an operator from harm.
#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools)]
struct Guards {
    /// The agent is read again before somebody gets more.
    last_look: bool,
    /// On the way up the status is written first.
    status_first: bool,
    /// Sizes are read again before the Service selects both.
    may_split: bool,
    /// The Service is read again before a canary grows without traffic.
    may_grow: bool,
}

const ALL: Guards = Guards { last_look: true, status_first: true, may_split: true, may_grow: true };

/// A request to the API server, and the version of its object that it carries.
#[derive(Clone, Debug)]
struct Request {
    change: Change,
    version: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Status(Box<State>),
    Size(String, i32),
    Service {
        service: Option<String>,
        split: Option<PodSplit>,
        decision: Option<Decision>,
        epoch: u64,
        under_way: bool,
    },
}

impl Change {
    fn object(&self) -> &str {
        match self {
            Self::Status(_) => AGENT,
            Self::Size(revision, _) => revision,
            Self::Service { .. } => SERVICE,
        }
    }
}

/// A write of a pass, in the order of `reconcile`.
enum Work {
    Service,
    Commit,
    Size(String, i32),
    Rest(String),
}

/// What an operator sees in one pass.
struct View {
    sim: Sim,
    /// Versions as they were read, or as the watches hold them.
    versions: Versions,
    cached: Versions,
}

struct World {
    now: Sim,
    versions: Versions,
    /// Of the operator, and of the one that wrote the Service last.
    epochs: (u64, u64),
    /// The Service's mark names a launch as one that is under way.
    under_way: bool,
    /// What the watches hold while they stand still, and for how long they do.
    still: Option<(Sim, Versions, usize)>,
    late: Option<(Request, usize)>,
    latest: Timestamp,
    guards: Guards,
    broken: Option<Broken>,
}

impl Weathered for World {
    type Weather = Weather;

    fn of(sim: Sim) -> Self {
        let latest = sim.now;
        let (versions, epochs) = (Versions::new(), (1, 0));
        Self {
            now: sim,
            versions,
            epochs,
            under_way: false,
            still: None,
            late: None,
            latest,
            guards: ALL,
            broken: None,
        }
    }

    fn second(&mut self, weather: &Weather) {
        match weather {
            Weather::Calm(happening) => self.happens(happening),
            Weather::Deaf(seconds) if self.still.is_none() => {
                self.still = Some((self.now.clone(), self.versions.clone(), *seconds));
            }
            Weather::Jump(by) => self.now.now = Timestamp::from_second(self.now.now.as_second() + by).unwrap(),
            Weather::Plan(edit) => self.edit(*edit),
            Weather::Deaf(_) | Weather::Slow(..) | Weather::Dies(_) | Weather::HeldUp(..) => {}
        }
        self.now.now = after(self.now.now, seconds(1));
        self.latest = self.latest.max(self.now.now);
        self.now.sample();
        self.arrives();
        let view = self.view();
        let mut seen = view.sim.clone();
        let step = seen.decide();
        promises(&seen, &step);
        self.now.events.extend(step.events.clone());
        self.arrives();
        self.pass(&view, &step, weather);
        self.now.settle();
        self.still = self.still.take().and_then(|(sim, versions, left)| (left > 1).then(|| (sim, versions, left - 1)));
    }

    fn now(&self) -> (&Sim, Timestamp, Option<&Broken>) {
        (&self.now, self.latest, self.broken.as_ref())
    }
}

impl World {
    /// Others change what they may: the agent's spec, sizes.
    fn happens(&mut self, happening: &Happening) {
        let before = self.now.clone();
        happen(&mut self.now, happening);
        let spec = |sim: &Sim| (sim.seen.wanted.clone(), sim.seen.replicas, sim.seen.paused);
        if spec(&before) != spec(&self.now) {
            self.written(SPEC);
            self.written(AGENT);
        }
        let mut sized: Vec<String> = self.now.seen.pods.keys().cloned().collect();
        sized.retain(|revision| before.size(revision) != self.now.size(revision));
        for revision in &sized {
            self.written(revision);
        }
    }

    fn edit(&mut self, edit: Edit) {
        change(&mut self.now.plan, edit, &STAGES);
        self.now.plan.canary_pods = 1; // a plan of pods has no other
    }

    fn written(&mut self, object: &str) {
        *self.versions.entry(object.to_owned()).or_default() += 1;
    }

    fn version(&self, object: &str) -> u64 {
        self.versions.get(object).copied().unwrap_or_default()
    }

    fn certain(sim: &Sim) -> bool {
        sim.state.running().is_none() && sim.state.stable.is_some()
    }

    /// Pods are seen as the watches hold them, and at rest the Service too; the agent is read now.
    fn view(&self) -> View {
        let (mut sim, versions) = (self.now.clone(), self.versions.clone());
        let Some((then, cached, _)) = &self.still else { return View { sim, cached: versions.clone(), versions } };
        sim.seen.pods.clone_from(&then.seen.pods);
        sim.seen.by_pods.clone_from(&then.seen.by_pods);
        if Self::certain(&sim) {
            sim.split.clone_from(&then.split);
            sim.seen.service.clone_from(&then.seen.service);
            sim.seen.decision.clone_from(&then.seen.decision);
        }
        View { sim, versions, cached: cached.clone() }
    }

    fn pass(&mut self, view: &View, step: &Step, weather: &Weather) {
        let survives = match weather {
            Weather::Dies(writes) | Weather::HeldUp(writes, _) => *writes,
            Weather::Calm(Happening::Crash) => 1,
            _ => usize::MAX,
        };
        let (mut written, mut fell) = (0, true);
        for work in self.work(view, step) {
            if !fell && matches!(work, Work::Rest(_)) {
                break;
            }
            if let Weather::Slow(happening, writes) = weather
                && *writes == written
            {
                self.happens(happening);
                written += 1; // once
            }
            let answer = match self.request(view, step, &work) {
                Ok(None) => continue,
                Ok(Some(request)) if written < survives => self.accept(request, false),
                Ok(Some(request)) => {
                    if let Weather::HeldUp(_, halves) = weather {
                        self.late = self.late.take().or(Some((request, *halves)));
                    }
                    break;
                }
                Err(()) => Err(()),
            };
            written += 1;
            if answer.is_err() {
                fell = false;
                if !step.wanted.falling || !matches!(work, Work::Service) {
                    break;
                }
            }
        }
        if survives < usize::MAX {
            self.epochs.0 += 1; // its successor begins anew
            self.still = None;
        }
    }

    fn work(&self, view: &View, step: &Step) -> Vec<Work> {
        let sizes = step.wanted.sizes.iter().map(|(revision, size)| Work::Size(revision.clone(), *size));
        let known = view.sim.seen.pods.keys().filter(|revision| !step.wanted.sizes.contains_key(*revision));
        let rest = known.cloned().map(Work::Rest);
        if step.wanted.falling || !self.guards.status_first {
            [Work::Service, Work::Commit].into_iter().chain(sizes).chain(rest).collect()
        } else {
            [Work::Commit].into_iter().chain(sizes).chain([Work::Service]).chain(rest).collect()
        }
    }

    /// What a piece of work asks of the API server, after the operator's own looks. `None`: it is right already.
    fn request(&self, view: &View, step: &Step, work: &Work) -> Result<Option<Request>, ()> {
        let cached = |revision: &str| view.cached.get(revision).copied().unwrap_or_default();
        match work {
            Work::Commit => {
                let version = view.versions.get(AGENT).copied().unwrap_or_default();
                let change = Change::Status(Box::new(step.state.clone()));
                Ok((step.state != view.sim.state).then_some(Request { change, version }))
            }
            Work::Size(revision, asked) => {
                self.may_grow(view, step, revision, *asked)?;
                let version = self.version(revision); // it is read just before the write
                let change = Change::Size(revision.clone(), *asked);
                Ok((view.sim.size(revision) != *asked).then_some(Request { change, version }))
            }
            Work::Rest(revision) if view.sim.size(revision) == 0 => Ok(None),
            Work::Rest(revision) => {
                let served = match &self.now.split {
                    Some(split) => split.names(revision),
                    None => self.now.seen.service.as_ref() == Some(revision),
                };
                let request = Request { change: Change::Size(revision.clone(), 0), version: cached(revision) };
                if served { Err(()) } else { Ok(Some(request)) } // `unserved`
            }
            Work::Service => self.service(view, step),
        }
    }

    /// `by_pods::may_grow`.
    fn may_grow(&self, view: &View, step: &Step, revision: &str, asked: i32) -> Result<(), ()> {
        let climbs = |launch: &&crate::api::Launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting);
        let launch = step.state.launch.as_ref().filter(climbs).filter(|launch| launch.revision == revision);
        let narrow = launch.is_some_and(|launch| launch.weight < 100) && PodSplit::of(&step.wanted).is_none();
        let grows = self.guards.may_grow && narrow && view.sim.size(revision) < asked;
        if grows && self.now.split.is_some() { Err(()) } else { Ok(()) }
    }

    /// `traffic::service`.
    fn service(&self, view: &View, step: &Step) -> Result<Option<Request>, ()> {
        let split = PodSplit::of(&step.wanted);
        let right = |sim: &Sim| {
            sim.split == split && sim.seen.service == step.wanted.service && !self.needs_mark(&step.state, sim)
        };
        let rests = Self::certain(&view.sim) && step.state.running().is_none();
        if (rests && right(&view.sim)) || right(&self.now) {
            return Ok(None);
        }
        if let Some(split) = split.as_ref().filter(|it| !self.now.split.as_ref().is_some_and(|now| it.is_within(now))) {
            if self.guards.may_split && !self.fits(split) {
                return Err(());
            }
            self.may_rise(view, step)?;
        }
        let stable = step.state.stable.as_ref().map(|stable| &stable.revision);
        let (asked, selected) = (step.wanted.service.as_ref(), self.now.seen.service.as_ref());
        let canary = step.state.launch.as_ref().filter(|it| it.stable.is_some() && Some(&it.revision) == asked);
        let fell = canary.is_some_and(|it| self.now.seen.decision.as_ref().is_some_and(|fall| fall.launch == it.id));
        if asked.is_some() && asked != selected && (asked != stable || fell) {
            self.may_rise(view, step)?;
        }
        let change = Change::Service {
            service: step.wanted.service.clone(),
            split,
            decision: step.wanted.decision.clone(),
            epoch: self.epochs.0,
            under_way: step.state.running().is_some(),
        };
        Ok(Some(Request { change, version: self.version(SERVICE) }))
    }

    /// `PodSplit::fits`.
    fn fits(&self, split: &PodSplit) -> bool {
        let mut others = self.now.seen.pods.iter().filter(|(revision, _)| !split.names(revision));
        let alone = others.all(|(_, pods)| pods.size.max(pods.ready) == 0);
        let share = split.share(|revision| self.now.size(revision));
        self.now.size(&split.stable) > 0 && share <= split.weight && alone
    }

    /// `traffic::may_rise`.
    fn may_rise(&self, view: &View, step: &Step) -> Result<(), ()> {
        let launch = step.state.launch.as_ref();
        let written = self.now.seen.decision.as_ref();
        let taken_back = written.is_some_and(|it| launch.is_some_and(|launch| launch.id == it.launch));
        let same = view.versions.get(SPEC) == self.versions.get(SPEC) && self.now.state == step.state;
        if self.guards.last_look && (taken_back || !same) { Err(()) } else { Ok(()) }
    }

    /// `traffic::lacks_mark`.
    fn needs_mark(&self, state: &State, seen: &Sim) -> bool {
        let Some(launch) = &state.launch else { return false };
        let untold = seen.seen.decision.as_ref().is_none_or(|written| written.launch != launch.id);
        let (ours, theirs) = self.epochs;
        let asks = match launch.phase {
            Phase::RollingBack => true,
            Phase::Progressing | Phase::Promoting => theirs > 0 && theirs < ours,
            Phase::Complete => launch.outcome == Some(Outcome::Succeeded) && self.under_way,
            Phase::Soaking => false,
        };
        asks && untold
    }

    /// The API server takes a write on the version that it carries; what nobody may do is remembered as broken.
    fn accept(&mut self, request: Request, late: bool) -> Result<(), ()> {
        let Request { change, version } = request;
        if version != self.version(change.object()) {
            return Err(());
        }
        let undone = ["WriteWhyFirst", "ReadAfresh"]; // in the next pass, when it was on its way
        let kept = self.rises(&change).filter(|broken| !(late && undone.contains(&broken.promise)));
        let before = self.now.real_share();
        self.written(change.object());
        match change {
            Change::Status(state) => self.now.state = *state,
            Change::Size(revision, size) => self.now.seen.pods.entry(revision).or_default().size = size,
            Change::Service { service, split, decision, epoch, under_way } => {
                self.now.seen.route_version.generation += i64::from(self.now.split != split);
                (self.now.seen.service, self.now.split, self.now.seen.decision) = (service, split, decision);
                (self.epochs.1, self.under_way) = (epoch, under_way);
            }
        }
        let canary = self.now.split.as_ref().map(|split| split.canary.as_str());
        let sized = of_sizes(&self.now.state, canary, before, self.now.real_share());
        self.broken = self.broken.take().or(kept).or(sized.err().filter(|_| !late)); // likewise
        Ok(())
    }

    /// Who gets more by a write may have it.
    fn rises(&self, change: &Change) -> Option<Broken> {
        let Change::Service { service, split, decision: None, .. } = change else { return None };
        let (revision, to) = match split {
            Some(split) if !self.now.split.as_ref().is_some_and(|now| split.is_within(now)) => {
                (&split.canary, split.weight)
            }
            None if *service != self.now.seen.service => (service.as_ref()?, 100),
            _ => return None,
        };
        let written = self.now.seen.decision.as_ref();
        let kept = of_a_rise(&Rise { revision, to, committed: &self.now.state, written });
        let canary = self.now.state.running().is_some_and(|launch| launch.revision == *revision);
        let asked = self.now.seen.wanted == WantedRevision::Known(revision.clone());
        let why = format!("{revision} rises to {to}%, and the spec asks for another one");
        kept.err().or((canary && !asked).then_some(Broken { promise: "ReadAfresh", why }))
    }

    /// A write that was held up arrives when its time has come. Each second there are two chances: before the operator looks,
    /// and after.
    fn arrives(&mut self) {
        match self.late.take() {
            Some((request, 0)) => drop(self.accept(request, true)),
            late => self.late = late.map(|(request, left)| (request, left - 1)),
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn the_promises_hold_in_rough_weather_by_pods(sim in agent_shared(true), weather in prop::collection::vec(weather(), 1..250)) {
        promises_hold_in::<World>(sim, &weather)?;
    }

    #[test]
    fn after_rough_weather_by_pods_the_agent_comes_to_rest(sim in agent_shared(true), weather in prop::collection::vec(weather(), 1..150)) {
        rests_after::<World>(sim, &weather);
    }
}

/// The promise that is broken first in these lives when these guards are missing.
fn found_without(guards: Guards, mut lives: impl Iterator<Item = Vec<Weather>>) -> Option<&'static str> {
    lives.find_map(|weather| {
        let mut world = World::of(Sim::by_pods());
        world.guards = guards;
        world.happens(&Happening::Want(1));
        for weather in &weather {
            world.second(weather);
        }
        world.broken.map(|broken| broken.promise)
    })
}

/// So many lives of a good minute, each with this trouble now and then.
fn troubled(lives: usize, trouble: impl Strategy<Value = Weather> + 'static) -> impl Iterator<Item = Vec<Weather>> {
    let mut runner = TestRunner::deterministic();
    let weather = prop_oneof![12 => Just(Weather::Calm(Happening::Nothing)), 1 => trouble];
    let life = prop::collection::vec(weather, 80);
    (0..lives).map(move |_| life.new_tree(&mut runner).unwrap().current())
}

/// A share is held up, the plan then asks for more pods, and the share arrives: each at every moment.
fn shares_that_arrive_under_more_pods() -> impl Iterator<Item = Vec<Weather>> {
    let calm = Weather::Calm(Happening::Nothing);
    (0..30).flat_map(|at| (0..6).map(move |halves| (at, halves))).map(move |(at, halves)| {
        let trouble = [Weather::HeldUp(1, halves), Weather::Plan(Edit::Stages(1))];
        let before = std::iter::repeat_n(calm.clone(), at);
        before.chain(trouble).chain(std::iter::repeat_n(calm.clone(), 10)).collect()
    })
}

#[test]
fn rough_weather_by_pods_finds_what_the_guards_are_for() {
    let edited = || (0..3_usize).prop_map(|writes| Weather::Slow(Happening::Want(2), writes));
    let rescaled = || (0..100, 0..3_usize).prop_map(|(to, writes)| Weather::Slow(Happening::Drift(to), writes));
    let late = shares_that_arrive_under_more_pods;
    let without_status = Guards { last_look: false, status_first: false, ..ALL };
    assert_eq!(found_without(without_status, troubled(20, edited())), Some("WriteWhyFirst"));
    assert_eq!(found_without(Guards { last_look: false, ..ALL }, troubled(100, edited())), Some("ReadAfresh"));
    assert_eq!(found_without(Guards { may_split: false, ..ALL }, troubled(300, rescaled())), Some("PodsWithinStatus"));
    assert_eq!(found_without(Guards { may_grow: false, ..ALL }, late()), Some("PodsWithinStatus"));
    let all = troubled(100, edited()).chain(troubled(300, rescaled())).chain(late());
    assert_eq!(found_without(ALL, all), None);
}
