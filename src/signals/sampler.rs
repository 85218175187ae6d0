//! The sampler: asks the metrics sources for the agents that are watched, outside the reconcile loop, and wakes an agent
//! when what it says of it has changed.
//!
//! It runs only while somebody is watched. It holds answers, never decisions: what it forgets in a restart it asks again.
//! The lock is held for moments, never across an await.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Verdict;
use crate::launch::{CheckName, Compare, Measured, Question};

use super::judge::judge;
use super::metrics::SamplerMetrics;
use super::prometheus::{Client, ClientError};
use super::query::Query;
use super::sample::{Answer, Reading, RevisionKey, Sample, preflight};
use super::source::Source;

/// So many queries are under way at a source at once.
const CONCURRENCY: usize = 4;
/// An agent is never asked about more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Nor more seldom.
const LONGEST_INTERVAL: Duration = Duration::from_hours(24);

/// An agent: namespace and name.
pub type AgentKey = (String, String);

/// Reads the wall clock.
pub type Now = fn() -> Timestamp;

/// What to measure of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The metrics source, by name.
    pub source: String,
    /// How often.
    pub interval: Duration,
    /// The canary's hash.
    pub canary: String,
    /// Stable's hash. `None` on a first deployment.
    pub stable: Option<String>,
    /// How many of the canary's pods are ready.
    pub ready_pods: i32,
    /// What is asked, by gate and trigger.
    pub questions: BTreeMap<CheckName, Question>,
}

/// Asks the sources and remembers the last answers.
pub struct Sampler {
    sources: BTreeMap<String, Asked>,
    wake: mpsc::Sender<AgentKey>,
    metrics: SamplerMetrics,
    now: Now,
    /// Schedules are aligned to it, so that agents with equal intervals share their queries.
    start: Instant,
    state: Mutex<State>,
    changed: Notify,
}

/// A source with its client.
struct Asked {
    client: Client,
    permits: Semaphore,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<AgentKey, Watched>,
    in_flight: BTreeSet<Ask>,
    to_wake: BTreeSet<AgentKey>,
}

/// A query to a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ask {
    source: String,
    query: Query,
}

struct Watched {
    watch: Watch,
    checks: BTreeMap<CheckName, Check>,
}

/// One question of one agent.
struct Check {
    question: Question,
    /// What to ask. `None` when there is nothing to ask; `measured` then says why.
    ask: Option<Ask>,
    due: Instant,
    /// The last numbers, kept to judge them again when other pods are ready.
    seen: Option<Seen>,
    measured: Option<Measured>,
}

struct Seen {
    canary: Reading,
    stable: Option<Reading>,
    /// Said of an `Insufficient` instead of the judge's words.
    preflight: Option<String>,
    at: Timestamp,
}

/// A query that came back.
struct Done {
    ask: Ask,
    revisions: BTreeSet<String>,
    at: Timestamp,
    result: Result<Answer, ClientError>,
}

impl Sampler {
    /// A sampler of the administrator's sources. It wakes agents through `wake`, at the latest when there is room.
    pub fn new(
        sources: Vec<Source>,
        wake: mpsc::Sender<AgentKey>,
        metrics: SamplerMetrics,
        now: Now,
    ) -> Result<Self, ClientError> {
        let sources = sources
            .into_iter()
            .map(|source| {
                let name = source.name.clone();
                let permits = Semaphore::new(CONCURRENCY);
                Client::new(source).map(|client| (name, Asked { client, permits }))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { sources, wake, metrics, now, start: Instant::now(), state: Mutex::default(), changed: Notify::new() })
    }

    /// Measures an agent from now on; replaces what was measured before. Answers that still fit stay. Cheap when equal.
    pub fn watch(&self, key: AgentKey, watch: Watch) {
        let mut state = self.state();
        let former = state.agents.get(&key);
        if former.is_some_and(|former| former.watch == watch) {
            return;
        }
        let former = state.agents.remove(&key);
        let watched = self.prepare(watch, former);
        state.agents.insert(key, watched);
        drop(state);
        self.changed.notify_one();
    }

    /// Measures an agent no longer.
    pub fn forget(&self, key: &AgentKey) {
        let mut state = self.state();
        state.to_wake.remove(key);
        if state.agents.remove(key).is_some() {
            self.changed.notify_one();
        }
    }

    /// The last answers about the agent as it is watched now. One that has become too old is an error: a sampler that
    /// stands still proves nothing.
    pub fn latest(&self, key: &AgentKey) -> BTreeMap<CheckName, Measured> {
        let now = (self.now)();
        let state = self.state();
        let Some(watched) = state.agents.get(key) else {
            return BTreeMap::new();
        };
        let fresh = self.fresh(&watched.watch);
        watched
            .checks
            .iter()
            .filter_map(|(name, check)| Some((name.clone(), check.measured.clone()?)))
            .map(|(name, measured)| (name, aged(measured, now, fresh)))
            .collect()
    }

    /// Asks what is due until the token is cancelled.
    pub async fn run(&self, token: CancellationToken) {
        let mut queries: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        loop {
            let (due, next) = self.due();
            queries.extend(due.into_iter().map(|(ask, revisions)| self.ask(ask, revisions)));
            let waking = self.next_wake();
            tokio::select! {
                () = token.cancelled() => return,
                Some(done) = queries.next() => self.take(&done),
                () = self.changed.notified() => {}
                () = sleep_until(next) => {}
                permit = self.wake.reserve(), if waking.is_some() => self.send(permit.ok(), waking),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole values: each is replaced, none is edited in parts.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a new watch up with what is still valid of the former.
    fn prepare(&self, watch: Watch, former: Option<Watched>) -> Watched {
        let mut former =
            former.filter(|former| former.watch.source == watch.source && former.watch.canary == watch.canary);
        let same_stable = former.as_ref().is_some_and(|former| former.watch.stable == watch.stable);
        let same_pods = former.as_ref().is_some_and(|former| former.watch.ready_pods == watch.ready_pods);
        let next = self.aligned(watch.interval);
        let checks = watch.questions.iter().map(|(name, question)| {
            let kept = former
                .as_mut()
                .and_then(|former| former.checks.remove(name))
                .filter(|check| check.question == *question)
                .filter(|check| same_stable || check.question.compare == Compare::Value);
            let check = match kept {
                Some(mut check) => {
                    check.due = check.due.min(next);
                    if !same_pods {
                        check.judge(watch.ready_pods);
                    }
                    check
                }
                None => self.new_check(&watch, question),
            };
            (name.clone(), check)
        });
        let checks = checks.collect();
        Watched { watch, checks }
    }

    fn new_check(&self, watch: &Watch, question: &Question) -> Check {
        let mut check =
            Check { question: question.clone(), ask: None, due: Instant::now(), seen: None, measured: None };
        let at = millis((self.now)());
        match self.compile(watch, question) {
            Err(why) => {
                check.measured = Some(Measured { verdict: Verdict::Error, message: short(&why), sampled_at: at });
            }
            Ok(_) if question.compare != Compare::Value && watch.stable.is_none() => {
                let canary = Sample::default().reading(&question.metric);
                check.seen = Some(Seen { canary, stable: None, preflight: None, at });
                check.judge(watch.ready_pods); // does not apply
            }
            Ok(ask) => check.ask = Some(ask),
        }
        check
    }

    fn compile(&self, watch: &Watch, question: &Question) -> Result<Ask, String> {
        if !self.sources.contains_key(&watch.source) {
            let known: Vec<&str> = self.sources.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!(
                "no metrics source named {}: the administrator's configuration has {known}",
                watch.source
            ));
        }
        let query = Query::compile(&question.metric, question.window).map_err(|error| error.to_string())?;
        Ok(Ask { source: watch.source.clone(), query })
    }

    /// The next instant of a schedule that all agents with this interval share.
    fn aligned(&self, interval: Duration) -> Instant {
        let interval = interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        let past = self.start.elapsed();
        let rounds = past.as_millis() / interval.as_millis();
        let next = interval.saturating_mul(u32::try_from(rounds + 1).unwrap_or(u32::MAX));
        self.start + next.max(past)
    }

    /// How old an answer may become.
    fn fresh(&self, watch: &Watch) -> Duration {
        let timeout = self.sources.get(&watch.source).map_or(Duration::ZERO, |asked| asked.client.source().timeout);
        watch.interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL) * 3 + timeout * 3
    }

    /// The queries that are due and not under way, each with the revisions it is about; and when the next is due.
    fn due(&self) -> (BTreeMap<Ask, BTreeSet<String>>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.state();
        let mut due: BTreeMap<Ask, BTreeSet<String>> = BTreeMap::new();
        let mut next: Option<Instant> = None;
        let State { agents, in_flight, .. } = &mut *state;
        for watched in agents.values_mut() {
            for check in watched.checks.values_mut() {
                let Some(ask) = check.ask.as_ref() else { continue };
                if in_flight.contains(ask) {
                    continue;
                }
                if check.due <= now {
                    check.due = self.aligned(watched.watch.interval);
                    let revisions = due.entry(ask.clone()).or_default();
                    revisions.insert(watched.watch.canary.clone());
                    if check.question.compare != Compare::Value {
                        revisions.extend(watched.watch.stable.clone());
                    }
                }
                next = Some(next.map_or(check.due, |next| next.min(check.due)));
            }
        }
        in_flight.extend(due.keys().cloned());
        (due, next)
    }

    fn ask(&self, ask: Ask, revisions: BTreeSet<String>) -> BoxFuture<'_, Done> {
        Box::pin(async move {
            let mut at = (self.now)();
            let result = match self.sources.get(&ask.source) {
                Some(asked) => {
                    let _permit = asked.permits.acquire().await;
                    at = millis((self.now)());
                    self.query(&asked.client, &ask.query, &revisions, at).await
                }
                None => Err(ClientError::Broken), // never: a query is compiled for a known source only
            };
            Done { ask, revisions, at, result }
        })
    }

    async fn query(
        &self,
        client: &Client,
        query: &Query,
        revisions: &BTreeSet<String>,
        at: Timestamp,
    ) -> Result<Answer, ClientError> {
        let source = client.source();
        let began = Instant::now();
        let result = client.ask(&query.text(source, revisions), at).await;
        let failure = result.as_ref().err().map(ClientError::kind);
        self.metrics.asked(&source.name, began.elapsed(), failure);
        if let Err(error) = &result {
            tracing::warn!(source = %source.name, series = query.series(), %error, "could not ask a metrics source");
        }
        result
    }

    /// Judges an answer for everybody who asked for it.
    fn take(&self, done: &Done) {
        let Some(source) = self.sources.get(&done.ask.source).map(|asked| asked.client.source()) else {
            return;
        };
        let mut state = self.state();
        let State { agents, in_flight, to_wake } = &mut *state;
        in_flight.remove(&done.ask);
        for (key, watched) in agents {
            let Watched { watch, checks } = watched;
            // The agent may have moved on to other revisions since: those were not asked for.
            let asked = |revision: &String| done.revisions.contains(revision);
            if !asked(&watch.canary) {
                continue;
            }
            let stable_asked = watch.stable.as_ref().is_none_or(asked);
            let next = self.aligned(watch.interval);
            for check in checks.values_mut() {
                let asked = stable_asked || check.question.compare == Compare::Value;
                if !asked || check.ask.as_ref() != Some(&done.ask) {
                    continue;
                }
                check.due = check.due.max(next); // what was missed while it was under way is not made up for
                if check.take(source, key, watch, done) {
                    to_wake.insert(key.clone());
                }
            }
        }
    }

    fn next_wake(&self) -> Option<AgentKey> {
        if self.wake.is_closed() {
            return None;
        }
        self.state().to_wake.first().cloned()
    }

    fn send(&self, permit: Option<mpsc::Permit<'_, AgentKey>>, waking: Option<AgentKey>) {
        if let (Some(permit), Some(key)) = (permit, waking)
            && self.state().to_wake.remove(&key)
        {
            permit.send(key);
        }
    }
}

impl Check {
    /// Takes an answer; tells whether the agent should look.
    fn take(&mut self, source: &Source, key: &AgentKey, watch: &Watch, done: &Done) -> bool {
        let before = self.measured.as_ref().map(|measured| measured.verdict);
        match &done.result {
            Ok(answer) if !answer.warned => {
                let of = |revision: &String| RevisionKey {
                    namespace: key.0.clone(),
                    agent: key.1.clone(),
                    revision: revision.clone(),
                };
                let reading = |revision| answer.of(&of(revision)).reading(&self.question.metric);
                self.seen = Some(Seen {
                    canary: reading(&watch.canary),
                    stable: watch.stable.as_ref().map(reading),
                    preflight: preflight(source, answer, &of(&watch.canary)),
                    at: done.at,
                });
                self.judge(watch.ready_pods);
            }
            Ok(_) => self.fail(source, "the source warned that its answer may be incomplete", done.at),
            Err(error) => self.fail(source, &error.to_string(), done.at),
        }
        let after = self.measured.as_ref().map(|measured| measured.verdict);
        after != before || after == Some(Verdict::Fail)
    }

    fn judge(&mut self, ready_pods: i32) {
        let Some(seen) = &self.seen else { return };
        let (verdict, said) = judge(&self.question, &seen.canary, seen.stable.as_ref(), ready_pods);
        let message = match (&seen.preflight, verdict) {
            (Some(preflight), Verdict::Insufficient) => short(&format!("{said}: {preflight}")),
            _ => said,
        };
        self.measured = Some(Measured { verdict, message, sampled_at: seen.at });
    }

    fn fail(&mut self, source: &Source, why: &str, at: Timestamp) {
        self.seen = None;
        self.measured = Some(Measured {
            verdict: Verdict::Error,
            message: short(&format!("source {}: {why}", source.name)),
            sampled_at: at,
        });
    }
}

/// A pass or a breach that is older than `fresh` is neither any more.
fn aged(measured: Measured, now: Timestamp, fresh: Duration) -> Measured {
    let age = now.duration_since(measured.sampled_at);
    let limit = SignedDuration::try_from(fresh).unwrap_or(SignedDuration::MAX);
    if age <= limit || !matches!(measured.verdict, Verdict::Pass | Verdict::Fail) {
        return measured;
    }
    Measured {
        verdict: Verdict::Error,
        message: short(&format!("no answer for {}s; the last was: {}", age.as_secs(), measured.message)),
        ..measured
    }
}

/// The instant as Prometheus takes it, so that what is remembered is what was asked.
fn millis(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

fn short(text: &str) -> String {
    text.chars().take(256).collect()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
