//! Tables and properties of the decision core, on a small pretended cluster that obeys it.
//!
//! Revisions have odd names (stable `ochre`, canary `teal`), so that swapped arguments show.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use proptest::test_runner::Config as ProptestConfig;

use super::time::{after, between};
use super::*;
use crate::api::{
    DeadlineOutcome, OnFail, Outcome, Phase, PodCondition, StableRevision, State, TrustedRevision, Verdict,
    standard_metrics,
};
use crate::traffic::PodSplit;

mod by_pods;
mod contest;
mod edges;
mod freezes;
mod matching;
mod people;
mod picture;
mod promises;
mod properties;
mod refusals;
mod rough;
mod scenarios;
mod share;
mod soak;
mod tables;
mod told;
mod unproved;

const OCHRE: &str = "ochre";
const TEAL: &str = "teal";

/// So many cases of a property, or as many as `PROPTEST_CASES` says: a search for mutants is in a hurry, a night is not.
pub(super) fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(usual), ..ProptestConfig::default() }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A question whose content does not matter to the core: verdicts come from the tests.
fn question(window: u64) -> Box<Question> {
    let metric = standard_metrics().remove(0);
    let bounds = Bounds { low: None, high: None, floor: None };
    Box::new(Question { metric, window: Some(seconds(window)), min_samples: 1, compare: Compare::Value, bounds })
}

fn stage(name: &str, weight: i32) -> Stage {
    Stage {
        name: name.to_owned(),
        weight,
        only: Vec::new(),
        min_duration: seconds(10),
        deadline: seconds(3600),
        then: DeadlineOutcome::Rollback,
        gates: vec![Gate { name: "success".to_owned(), check: GateCheck::Metric(question(5)), on_fail: OnFail::Hold }],
    }
}

fn trigger(name: &str, check: TriggerCheck, lasting: u64) -> Trigger {
    Trigger { name: name.to_owned(), check, lasting: seconds(lasting) }
}

/// 5 → 25 → 50, each with a metric gate; triggers on errors (for 4 s), on one bypass, on restarts, on pods that stay unready.
fn plan() -> Plan {
    Plan {
        hash: "plan-1".to_owned(),
        tightens: None,
        stages: vec![stage("one", 5), stage("two", 25), stage("three", 50)],
        triggers: vec![
            trigger("errors", TriggerCheck::Metric(question(5)), 4),
            trigger("bypass", TriggerCheck::Metric(question(5)), 0),
            trigger("restarts", TriggerCheck::Restarts(3, seconds(60)), 0),
            trigger("unready", TriggerCheck::Condition(PodCondition::Unready), 120),
        ],
        soak: seconds(0),
        canary_pods: 1,
        interval: seconds(1),
        source: "default".to_owned(),
    }
}

/// A pretended cluster: it does what the core wants, and pods become ready unless their revision is broken.
#[derive(Clone, Debug)]
struct Sim {
    plan: Plan,
    state: State,
    seen: Observation,
    now: Timestamp,
    /// Revisions whose pods never become ready.
    broken: Vec<&'static str>,
    /// What every gate and trigger says when nothing else is set.
    verdicts: BTreeMap<String, Verdict>,
    /// Samples are taken.
    measuring: bool,
    events: Vec<Event>,
    /// Whose pods the agent's Service selects, where pods make the shares.
    split: Option<PodSplit>,
    /// A person has just changed sizes that are not theirs.
    rescaled: bool,
}

impl Observation {
    /// An agent behind a gateway that asks for a revision, and has no pods yet.
    pub(crate) fn calm(revision: &str) -> Self {
        Self {
            agent: "refund-agent".to_owned(),
            wanted: WantedRevision::Known(revision.to_owned()),
            replicas: 2,
            paused: false,
            freeze: Freeze::default(),
            drain: None,
            history_limit: 5,
            pods: BTreeMap::new(),
            route: Route::Seen { shares: Shares::AtRest, programmed: Programmed::Yes },
            route_version: RouteVersion { generation: 1, rules_by: None },
            gone_since: None,
            by_pods: None,
            service: None,
            decision: None,
            hostname_taken: None,
            no_room: None,
            trouble: None,
            measured: BTreeMap::new(),
            people: People::default(),
            runs: None,
        }
    }
}

impl Sim {
    /// An agent whose stable revision is ochre, with a gateway.
    fn with_stable() -> Self {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let mut sim = Self::fresh();
        sim.state.stable = Some(StableRevision { revision: OCHRE.to_owned(), since: now });
        sim.state.trusted = vec![TrustedRevision { revision: OCHRE.to_owned(), since: now }];
        sim.seen.service = Some(OCHRE.to_owned());
        sim.seen.pods.insert(OCHRE.to_owned(), ready_pods(4, now));
        sim
    }

    /// An agent that has nothing yet.
    fn fresh() -> Self {
        let now = Timestamp::from_second(1_000_000).unwrap();
        Self {
            plan: plan(),
            state: State::default(),
            seen: Observation { replicas: 4, ..Observation::calm(OCHRE) },
            now,
            broken: Vec::new(),
            verdicts: BTreeMap::new(),
            measuring: true,
            events: Vec::new(),
            split: None,
            rescaled: false,
        }
    }

    fn want(&mut self, revision: &str) -> &mut Self {
        self.seen.wanted = WantedRevision::Known(revision.to_owned());
        self
    }

    fn say(&mut self, check: &str, verdict: Verdict) -> &mut Self {
        self.verdicts.insert(check.to_owned(), verdict);
        self
    }

    fn launch_began(&self, stage: &str) -> bool {
        self.state.launch.as_ref().is_some_and(|l| l.stage_name == stage && l.began_at.is_some())
    }

    fn launch(&self) -> &crate::api::Launch {
        self.state.launch.as_ref().expect("a launch")
    }

    fn weight(&self) -> i32 {
        match &self.seen.route {
            Route::Seen { shares: Shares::Split { weight, .. } | Shares::Matched { weight, .. }, .. } => *weight,
            _ => 0,
        }
    }

    fn stable(&self) -> &str {
        self.state.stable.as_ref().map_or("-", |stable| &stable.revision)
    }

    /// Samples every question of the current stage, now.
    fn sample(&mut self) {
        if !self.measuring {
            return;
        }
        let stage = self.state.launch.as_ref().map_or(0, |launch| launch.stage);
        let names = [
            CheckName::Gate(stage, "success".to_owned()),
            CheckName::Trigger("errors".to_owned()),
            CheckName::Trigger("bypass".to_owned()),
        ];
        for name in names {
            let text = match &name {
                CheckName::Gate(_, name) | CheckName::Trigger(name) | CheckName::Drained(name) => name.clone(),
            };
            let verdict = self.verdicts.get(&text).copied().unwrap_or(Verdict::Pass);
            let measured = Measured { verdict, message: format!("{text} says {verdict:?}"), sampled_at: self.now };
            self.seen.measured.insert(name, measured);
        }
    }

    /// One second: samples, one pass, and the cluster obeys.
    fn tick(&mut self) -> Step {
        self.now = after(self.now, seconds(1));
        self.sample();
        let step = self.decide();
        self.commit(&step);
        self.perform(&step.wanted);
        self.settle();
        step
    }

    fn decide(&mut self) -> Step {
        self.look_at_service();
        self.seen.gone_since = gone_since(&self.state, &self.seen, self.now);
        let step = step(&self.plan, &self.state, &self.seen, self.now);
        assert!(step.wake_at.is_none_or(|at| at > self.now), "a wake in the past is a hot loop");
        self.events.extend(step.events.clone());
        step
    }

    /// Where pods make the shares, the Service is what is seen of a route; and what pods cannot make is refused.
    fn look_at_service(&mut self) {
        if self.seen.by_pods.is_none() {
            return;
        }
        let size = |revision: &str| self.seen.pods.get(revision).map_or(0, |pods| pods.size);
        let shares = self.split.as_ref().map_or(Shares::AtRest, |split| Shares::Split {
            stable: split.stable.clone(),
            canary: split.canary.clone(),
            weight: split.weight.max(split.share(size)),
        });
        self.seen.route = Route::Seen { shares, programmed: Programmed::Yes };
        let (WantedRevision::Known(asked) | WantedRevision::Refused { revision: asked, .. }) = &self.seen.wanted else {
            return;
        };
        let asked = WantedRevision::Known(asked.clone());
        self.seen.wanted = launchable(&asked, &self.plan, &self.state, self.seen.replicas, None);
    }

    fn commit(&mut self, step: &Step) {
        self.state = step.state.clone();
    }

    /// What the shell and Kubernetes do with what is wanted.
    fn perform(&mut self, wanted: &Wanted) {
        for (revision, size) in &wanted.sizes {
            self.seen.pods.entry(revision.clone()).or_default().size = *size;
        }
        for (revision, pods) in &mut self.seen.pods {
            if !wanted.sizes.contains_key(revision) {
                *pods = Pods::default();
            }
        }
        if self.seen.by_pods.is_some() {
            let split = PodSplit::of(wanted);
            self.seen.route_version.generation += i64::from(split != self.split);
            self.split = split;
            self.rescaled = false;
            self.seen.decision.clone_from(&wanted.decision);
            self.look_at_service();
        } else if let Some(shares) = &wanted.shares {
            let changed = !matches!(&self.seen.route, Route::Seen { shares: now, .. } if now == shares);
            if changed {
                self.seen.route = Route::Seen { shares: shares.clone(), programmed: Programmed::Yes };
                self.seen.decision.clone_from(&wanted.decision);
                self.seen.route_version.generation += 1;
            }
        }
        self.seen.service.clone_from(&wanted.service);
    }

    /// Pods become ready, or do not.
    fn settle(&mut self) {
        for (revision, pods) in &mut self.seen.pods {
            let ready = if self.broken.contains(&revision.as_str()) { 0 } else { pods.size };
            if ready < pods.size || pods.size == 0 {
                pods.all_ready_since = None;
            } else if pods.ready != ready || pods.all_ready_since.is_none() {
                pods.all_ready_since = Some(self.now);
            }
            pods.failing = pods.size - ready;
            pods.ready = ready;
        }
    }

    /// Ticks until the condition holds; fails when it does not within so many seconds.
    fn until(&mut self, limit: u64, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..limit {
            if condition(self) {
                return;
            }
            self.tick();
        }
        assert!(condition(self), "{what} within {limit}s; launch: {:#?}", self.state.launch);
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
        }
    }
}

fn ready_pods(size: i32, since: Timestamp) -> Pods {
    Pods { size, ready: size, all_ready_since: Some(since), ..Pods::default() }
}
