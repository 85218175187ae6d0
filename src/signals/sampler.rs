//! The sampler: asks the metrics sources for the agents that are watched, outside the reconcile loop, and wakes an agent
//! when what it says of it has changed.
//!
//! It runs only while somebody is watched. It holds answers, never decisions: what it forgets in a restart it asks again.
//! The lock is held for moments, never across an await.
//!
//! Agents that ask the same share one query, and must not share its fate. A query that fails is asked again in halves of
//! its agents, down to one; who answers long enough shares again. Namespaces take turns at a source (`turns`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rust_decimal::prelude::ToPrimitive as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Verdict;
use crate::launch::{CheckName, Compare, Measured, Question, Runs, sampled_every};

use super::judge::judge;
use super::metrics::SamplerMetrics;
use super::prometheus::{Client, ClientError};
use super::query::Query;
use super::sample::{Answer, Number, Reading, RevisionKey, Sample, preflight};
use super::source::Source;
use super::turns::Turns;

/// The part of a query that all agents share who had no failure of late.
const SHARED: u64 = 0;
/// After so many answers in a row an agent shares again.
const APART: u32 = 30;
/// A query is in no more parts that fail, so that a dead source is not asked ever more.
const MOST_PARTS: usize = 32;
/// So many of them may tell the agents of a namespace apart: the rest is for telling namespaces apart.
const MOST_PARTS_WITHIN: usize = 8;

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
    /// The canary's hash; empty when no launch runs.
    pub canary: String,
    /// Stable's hash. `None` on a first deployment.
    pub stable: Option<String>,
    /// How many of the canary's pods are ready.
    pub ready_pods: i32,
    /// Revisions that are drained, with how many of their pods are ready.
    pub draining: BTreeMap<String, i32>,
    /// What is asked, by gate, trigger and drained revision.
    pub questions: BTreeMap<CheckName, Question>,
}

impl Watch {
    /// The revision that a check is about, and how many of its pods are ready.
    fn subject<'a>(&'a self, name: &'a CheckName) -> (&'a String, i32) {
        match name {
            CheckName::Gate(..) | CheckName::Trigger(_) => (&self.canary, self.ready_pods),
            CheckName::Drained(revision) => (revision, self.draining.get(revision).copied().unwrap_or_default()),
        }
    }
}

/// Asks the sources and remembers the last answers.
pub struct Sampler {
    sources: BTreeMap<String, Client>,
    wake: mpsc::Sender<AgentKey>,
    metrics: SamplerMetrics,
    now: Now,
    /// Schedules are aligned to it, so that agents with equal intervals share their queries.
    start: Instant,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<AgentKey, Watched>,
    in_flight: BTreeSet<Ask>,
    to_wake: BTreeSet<AgentKey>,
    turns: Turns,
    /// How many parts there were so far: each has its own number.
    parts: u64,
}

/// The metrics that are shares of all runs.
const RUN_METRICS: [&str; 2] = ["success_rate", "error_rate"];

/// A query to a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ask {
    source: String,
    query: Query,
    /// The agents that ask it together.
    part: u64,
}

/// For whom a query is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whom {
    revisions: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    /// Since when the first of them waits.
    since: Instant,
}

struct Watched {
    watch: Watch,
    checks: BTreeMap<CheckName, Check>,
}

/// One question of one agent.
struct Check {
    question: Question,
    /// The samples' own instants count, and not the answer's: a drained revision, and a gate without a window, are judged by
    /// nothing older than the drain or the stage.
    dated: bool,
    /// What to ask. `None` when there is nothing to ask; `measured` then says why.
    ask: Option<Ask>,
    /// So many answers in a row until it shares its query with all others again.
    apart: u32,
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
    /// When the oldest sample behind the numbers was taken, if that was asked.
    taken: Option<Timestamp>,
}

/// A query that came back.
struct Done {
    ask: Ask,
    whom: Whom,
    at: Timestamp,
    took: Duration,
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
                Client::new(source).map(|client| (name, client))
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

    /// The runs that both revisions of an agent's launch answered, as far as its questions count them: the youngest data.
    pub fn runs(&self, key: &AgentKey) -> Option<Runs> {
        let state = self.state();
        state.agents.get(key)?.checks.values().filter_map(Check::runs).max_by_key(|runs| runs.from)
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
            .filter_map(|(name, check)| Some((name.clone(), check, check.measured.clone()?)))
            .map(|(name, check, measured)| match &name {
                CheckName::Drained(_) => (name, measured), // without traffic no run begins: what is known stays true
                CheckName::Gate(..) | CheckName::Trigger(_) => {
                    let answered = check.seen.as_ref().map_or(measured.sampled_at, |seen| seen.at);
                    (name, aged(measured, answered, now, fresh))
                }
            })
            .collect()
    }

    /// Asks what is due until the token is cancelled.
    pub async fn run(&self, token: CancellationToken) {
        let mut queries: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        loop {
            let (due, next) = self.due();
            queries.extend(due.into_iter().map(|(ask, whom)| self.ask(ask, whom)));
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
        let mut former = former.filter(|former| former.watch.source == watch.source);
        let same_canary = former.as_ref().is_some_and(|former| former.watch.canary == watch.canary);
        let same_stable = former.as_ref().is_some_and(|former| former.watch.stable == watch.stable);
        let before = former.as_ref().map(|former| former.watch.clone());
        let next = self.aligned(watch.interval);
        let checks = watch.questions.iter().map(|(name, question)| {
            let kept = former
                .as_mut()
                .and_then(|former| former.checks.remove(name))
                .filter(|check| check.question == *question && (same_canary || matches!(name, CheckName::Drained(_))))
                .filter(|check| same_stable || check.question.compare == Compare::Value);
            let check = match kept {
                Some(mut check) => {
                    check.due = check.due.min(next);
                    let pods = watch.subject(name).1;
                    if before.as_ref().map(|before| before.subject(name).1) != Some(pods) {
                        check.judge(pods);
                    }
                    check
                }
                None => self.new_check(&watch, name, question),
            };
            (name.clone(), check)
        });
        let checks = checks.collect();
        Watched { watch, checks }
    }

    fn new_check(&self, watch: &Watch, name: &CheckName, question: &Question) -> Check {
        let dated = match name {
            CheckName::Drained(_) => true,
            CheckName::Gate(..) => question.window.is_none(),
            CheckName::Trigger(_) => false,
        };
        let mut check = Check {
            question: question.clone(),
            dated,
            ask: None,
            apart: 0,
            due: Instant::now(),
            seen: None,
            measured: None,
        };
        let at = millis((self.now)());
        match self.compile(watch, question) {
            Err(why) => {
                check.measured = Some(Measured { verdict: Verdict::Error, message: short(&why), sampled_at: at });
            }
            Ok(_) if question.compare != Compare::Value && watch.stable.is_none() => {
                let canary = Sample::default().reading(&question.metric);
                check.seen = Some(Seen { canary, stable: None, preflight: None, at, taken: None });
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
        Ok(Ask { source: watch.source.clone(), query, part: SHARED })
    }

    /// The next instant of a schedule that all agents with this interval share.
    fn aligned(&self, interval: Duration) -> Instant {
        let interval = sampled_every(interval);
        let past = self.start.elapsed();
        let rounds = past.as_millis() / interval.as_millis();
        let next = interval.saturating_mul(u32::try_from(rounds + 1).unwrap_or(u32::MAX));
        self.start + next.max(past)
    }

    /// How old an answer may become.
    fn fresh(&self, watch: &Watch) -> Duration {
        let timeout = self.sources.get(&watch.source).map_or(Duration::ZERO, |client| client.source().timeout);
        sampled_every(watch.interval) * 3 + timeout * 3
    }

    /// Begins the queries whose turn it is; and tells when the next is due. What finds no slot waits for an answer.
    fn due(&self) -> (BTreeMap<Ask, Whom>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.state();
        let (due, next) = state.due(now);
        let begun = state.begin(due, now);
        for watched in state.agents.values_mut() {
            let after = self.aligned(watched.watch.interval);
            let begun =
                |check: &Check| check.due <= now && check.ask.as_ref().is_some_and(|ask| begun.contains_key(ask));
            watched.checks.values_mut().filter(|check| begun(check)).for_each(|check| check.due = after);
        }
        (begun, next)
    }

    fn ask(&self, ask: Ask, whom: Whom) -> BoxFuture<'_, Done> {
        Box::pin(async move {
            let (at, began) = (millis((self.now)()), Instant::now());
            let result = match self.sources.get(&ask.source) {
                Some(client) => self.query(client, &ask.query, &whom, at).await,
                None => Err(ClientError::Broken), // never: a query is compiled for a known source only
            };
            Done { ask, whom, at, took: began.elapsed(), result }
        })
    }

    async fn query(&self, client: &Client, query: &Query, whom: &Whom, at: Timestamp) -> Result<Answer, ClientError> {
        let source = client.source();
        let began = Instant::now();
        let result = client.ask(&query.text(source, &whom.namespaces, &whom.revisions), at).await;
        let failure = result.as_ref().err().map(ClientError::kind);
        self.metrics.asked(&source.name, began.elapsed(), failure);
        result
    }

    /// Judges an answer for everybody who asked for it.
    fn take(&self, done: &Done) {
        let Some(source) = self.sources.get(&done.ask.source).map(Client::source) else {
            return;
        };
        let mut state = self.state();
        let State { agents, in_flight, to_wake, turns, .. } = &mut *state;
        in_flight.remove(&done.ask);
        turns.pay(&source.name, &done.whom.namespaces, done.took, Instant::now());
        let (mut news, mut failed) = (false, Vec::new());
        for (key, watched) in agents {
            let Watched { watch, checks } = watched;
            // The agent may have come, or moved on to other revisions, since: those were not asked for.
            let within = done.whom.namespaces.contains(&key.0);
            let asked = |revision: &String| within && done.whom.revisions.contains(revision);
            let stable_asked = watch.stable.as_ref().is_none_or(asked);
            let next = self.aligned(watch.interval);
            for (name, check) in checks {
                let asked = asked(watch.subject(name).0) && (stable_asked || check.question.compare == Compare::Value);
                if !asked || check.ask.as_ref() != Some(&done.ask) {
                    continue;
                }
                check.due = check.due.max(next); // what was missed while it was under way is not made up for
                if done.blames_the_query() && failed.last() != Some(key) {
                    failed.push(key.clone());
                }
                if check.take(source, key, watch, name, done) {
                    to_wake.insert(key.clone());
                    news = true;
                }
            }
        }
        state.divide(&done.ask, &failed);
        if let (true, Err(error)) = (news, &done.result) {
            // Once, not with every sample: the counters tell how often.
            tracing::warn!(source = %source.name, series = done.ask.query.series(), %error, "could not ask a metrics source");
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

impl State {
    /// The queries that are due and not under way; and when the next is due.
    fn due(&self, now: Instant) -> (BTreeMap<Ask, Whom>, Option<Instant>) {
        let mut due: BTreeMap<Ask, Whom> = BTreeMap::new();
        let mut next: Option<Instant> = None;
        for ((namespace, _), watched) in &self.agents {
            for (name, check) in &watched.checks {
                let Some(ask) = check.ask.as_ref().filter(|ask| !self.in_flight.contains(ask)) else { continue };
                if check.due > now {
                    next = Some(next.map_or(check.due, |next| next.min(check.due)));
                    continue;
                }
                let whom = due.entry(ask.clone()).or_insert_with(|| Whom::nobody(check.due));
                whom.namespaces.insert(namespace.clone());
                whom.revisions.insert(watched.watch.subject(name).0.clone());
                if check.question.compare != Compare::Value {
                    whom.revisions.extend(watched.watch.stable.clone());
                }
                whom.since = whom.since.min(check.due);
            }
        }
        (due, next)
    }

    /// Those of the queries that may begin now, in turn.
    fn begin(&mut self, due: BTreeMap<Ask, Whom>, now: Instant) -> BTreeMap<Ask, Whom> {
        let turn =
            |(ask, whom): (Ask, Whom)| (self.turns.of(&ask.source, &whom.namespaces, now), whom.since, ask, whom);
        let mut waiting: Vec<_> = due.into_iter().map(turn).collect();
        waiting.sort_by(|one, other| (one.0, one.1, &one.2).cmp(&(other.0, other.1, &other.2)));
        let mut begun = BTreeMap::new();
        for (turn, _, ask, whom) in waiting {
            let under_way = self.in_flight.iter().filter(|other| other.source == ask.source).count();
            if Turns::may_begin(turn, under_way) {
                self.in_flight.insert(ask.clone());
                begun.insert(ask, whom);
            }
        }
        begun
    }

    /// Tells apart who shared a query that failed: its halves are asked at once. First namespaces are told apart, then the
    /// agents of one.
    fn divide(&mut self, ask: &Ask, failed: &[AgentKey]) {
        let namespaces: BTreeSet<&String> = failed.iter().map(|(namespace, _)| namespace).collect();
        let (all, most) = match namespaces.len() {
            0 | 1 => (failed.len(), MOST_PARTS_WITHIN),
            several => (several, MOST_PARTS),
        };
        let alone = all <= 1;
        if alone && ask.part != SHARED || self.failing_parts(ask) + 2 > most {
            return;
        }
        let first = self.parts + 1;
        self.parts += 2;
        for (i, key) in failed.iter().enumerate() {
            let place =
                if namespaces.len() > 1 { namespaces.iter().filter(|before| **before < &key.0).count() } else { i };
            let part = first + u64::from(place >= all.div_ceil(2));
            let checks = self.agents.get_mut(key).into_iter().flat_map(|watched| watched.checks.values_mut());
            for check in checks.filter(|check| check.ask.as_ref() == Some(ask)) {
                check.ask = Some(Ask { part, ..ask.clone() });
                check.due = if alone { check.due } else { Instant::now() };
            }
        }
    }

    /// How many parts of a query fail.
    fn failing_parts(&self, ask: &Ask) -> usize {
        let checks = self.agents.values().flat_map(|watched| watched.checks.values());
        let failing = checks.filter(|check| check.seen.is_none()).filter_map(|check| check.ask.as_ref());
        let same = failing.filter(|of| of.part != SHARED && (&of.source, &of.query) == (&ask.source, &ask.query));
        same.map(|of| of.part).collect::<BTreeSet<u64>>().len()
    }
}

impl Whom {
    fn nobody(since: Instant) -> Self {
        Self { revisions: BTreeSet::new(), namespaces: BTreeSet::new(), since }
    }
}

impl Done {
    /// Whether it failed in a way that may be the fault of somebody whom it asked about.
    fn blames_the_query(&self) -> bool {
        match &self.result {
            Ok(answer) => answer.warned,
            Err(ClientError::Setup { .. } | ClientError::Refused | ClientError::Token) => false,
            Err(ClientError::Status(status)) => !matches!(status, 401 | 403 | 404 | 429),
            Err(_) => true,
        }
    }
}

impl Check {
    /// Takes an answer; tells whether the agent should look.
    fn take(&mut self, source: &Source, key: &AgentKey, watch: &Watch, name: &CheckName, done: &Done) -> bool {
        let (subject, ready_pods) = watch.subject(name);
        let before = self.measured.as_ref().map(|measured| measured.verdict);
        match &done.result {
            Ok(answer) if !answer.warned => {
                self.answered();
                let of = |revision: &String| RevisionKey {
                    namespace: key.0.clone(),
                    agent: key.1.clone(),
                    revision: revision.clone(),
                };
                let reading = |revision| answer.of(&of(revision)).reading(&self.question.metric);
                self.seen = Some(Seen {
                    canary: reading(subject),
                    stable: watch.stable.as_ref().map(reading),
                    preflight: preflight(source, answer, &of(subject)),
                    at: done.at,
                    taken: answer.of(&of(subject)).taken(),
                });
                self.judge(ready_pods);
            }
            Ok(_) => self.fail(source, "the source warned that its answer may be incomplete", done.at),
            Err(error) => self.fail(source, &error.to_string(), done.at),
        }
        let after = self.measured.as_ref().map(|measured| measured.verdict);
        let drains = matches!(name, CheckName::Drained(_)); // how long a breach lasts counts, not how long runs go on
        after != before || after == Some(Verdict::Fail) && !drains
    }

    /// Shares its query again after enough answers.
    fn answered(&mut self) {
        self.apart = self.apart.saturating_sub(1);
        if let (0, Some(ask)) = (self.apart, &mut self.ask) {
            ask.part = SHARED;
        }
    }

    /// How many runs both revisions answered, when that is what the question's metric is made of.
    fn runs(&self) -> Option<Runs> {
        let (seen, metric) = (self.seen.as_ref()?, &self.question.metric);
        let window = SignedDuration::try_from(self.question.window?).ok()?;
        let count = |reading: &Reading| match reading.samples? {
            Number::Exact(samples) => samples.round().to_i64(),
            Number::Several | Number::NotANumber | Number::OfNothing => None,
        };
        let counts_runs = metric.ratio.is_some() && RUN_METRICS.contains(&metric.name.as_str());
        let (canary, stable) = (count(&seen.canary)?, count(seen.stable.as_ref()?)?);
        counts_runs.then_some(Runs { canary, stable, from: seen.at.checked_sub(window).ok()? })
    }

    fn judge(&mut self, ready_pods: i32) {
        let Some(seen) = &self.seen else { return };
        let (verdict, said) = judge(&self.question, &seen.canary, seen.stable.as_ref(), ready_pods);
        let message = match (&seen.preflight, verdict) {
            (Some(preflight), Verdict::Insufficient) => short(&format!("{said}: {preflight}")),
            _ => said,
        };
        let (verdict, message, sampled_at) = match seen.taken {
            Some(taken) if self.dated => (verdict, message, taken.min(seen.at)),
            None if self.dated && verdict == Verdict::Pass => {
                let mend = format!("{message}, but not when: define it as a gauge");
                (Verdict::Insufficient, short(&mend), seen.at)
            }
            _ => (verdict, message, seen.at),
        };
        self.measured = Some(Measured { verdict, message, sampled_at });
    }

    fn fail(&mut self, source: &Source, why: &str, at: Timestamp) {
        self.seen = None;
        self.apart = APART;
        self.measured = Some(Measured {
            verdict: Verdict::Error,
            message: short(&format!("source {}: {why}", source.name)),
            sampled_at: at,
        });
    }
}

/// A pass or a breach that is older than `fresh` is neither any more.
fn aged(measured: Measured, answered: Timestamp, now: Timestamp, fresh: Duration) -> Measured {
    let age = now.duration_since(answered);
    let limit = SignedDuration::try_from(fresh).unwrap_or(SignedDuration::MAX);
    if age <= limit || !matches!(measured.verdict, Verdict::Pass | Verdict::Fail) {
        return measured;
    }
    Measured {
        verdict: Verdict::Error,
        message: short(&format!("no answer since {answered:.0}; the last was: {}", measured.message)),
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

#[cfg(test)]
mod tenants;

#[cfg(test)]
mod tests {
    use super::super::testing::{Fake, Reply, body, vector};
    use super::*;
    use crate::api::standard_metrics;
    use crate::launch::Bounds;
    use std::cell::Cell;
    use std::sync::Arc;

    thread_local! {
        /// How far the clock of this test is ahead, in seconds.
        static AHEAD: Cell<i64> = const { Cell::new(0) };
    }

    fn now() -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(AHEAD.get())
    }

    pub(super) const GOOD: &[(&str, &str, &str)] =
        &[("teal", "amount", "99"), ("teal", "samples", "100"), ("teal", "pods", "1")];
    pub(super) const BAD: &[(&str, &str, &str)] =
        &[("teal", "amount", "9"), ("teal", "samples", "100"), ("teal", "pods", "1")];

    /// A running sampler.
    struct Running {
        sampler: Arc<Sampler>,
        woken: mpsc::Receiver<AgentKey>,
        metrics: SamplerMetrics,
        token: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    pub(super) fn build(sources: Vec<Source>, room: usize) -> (Arc<Sampler>, mpsc::Receiver<AgentKey>, SamplerMetrics) {
        let (wake, woken) = mpsc::channel(room);
        let metrics = SamplerMetrics::default();
        let sampler = Sampler::new(sources, wake, metrics.clone(), now).unwrap();
        (Arc::new(sampler), woken, metrics)
    }

    fn start(sources: Vec<Source>) -> Running {
        let (sampler, woken, metrics) = build(sources, 8);
        let token = CancellationToken::new();
        let (runner, until) = (Arc::clone(&sampler), token.clone());
        let task = tokio::spawn(async move { runner.run(until).await });
        Running { sampler, woken, metrics, token, task }
    }

    impl Running {
        /// Waits until the agent is woken, and tells what is then known of its one check.
        async fn woken(&mut self) -> Measured {
            let woken = tokio::time::timeout(Duration::from_secs(20), self.woken.recv());
            assert_eq!(woken.await.unwrap(), Some(key()));
            self.only()
        }

        fn only(&self) -> Measured {
            let latest = self.sampler.latest(&key());
            assert_eq!(latest.len(), 1, "{latest:?}");
            latest.into_values().next().unwrap()
        }
    }

    pub(super) fn key() -> AgentKey {
        ("support".to_owned(), "refund".to_owned())
    }

    pub(super) fn gate(name: &str) -> CheckName {
        CheckName::Gate(0, name.to_owned())
    }

    pub(super) fn question(metric: &str, compare: Compare, low: &str) -> Question {
        Question {
            metric: standard_metrics().into_iter().find(|m| m.name == metric).unwrap(),
            window: Some(Duration::from_mins(1)),
            min_samples: 10,
            compare,
            bounds: Bounds { low: Some(low.parse().unwrap()), high: None, floor: None },
        }
    }

    pub(super) fn watch(canary: &str) -> Watch {
        Watch {
            source: "default".to_owned(),
            interval: Duration::from_secs(1),
            canary: canary.to_owned(),
            stable: Some("ochre".to_owned()),
            ready_pods: 1,
            draining: BTreeMap::new(),
            questions: [(gate("success"), question("success_rate", Compare::Value, "0.9"))].into(),
        }
    }

    #[tokio::test]
    async fn an_agent_is_woken_when_its_verdict_changes_and_by_every_failing_sample() {
        let fake = Fake::of(GOOD).await;
        let mut running = start(vec![fake.source("")]);
        running.sampler.watch(key(), watch("teal"));
        let pass = running.woken().await;
        assert_eq!((pass.verdict, pass.message.as_str()), (Verdict::Pass, "success_rate 99% (n=100) >= 90%"));
        fake.asked(3).await; // a second pass wakes nobody
        fake.set(vector(BAD));
        let fail = running.woken().await;
        assert_eq!((fail.verdict, fail.message.as_str()), (Verdict::Fail, "success_rate 9% (n=100) < 90%"));
        let again = running.woken().await;
        assert_eq!(again.verdict, Verdict::Fail);
        assert!(pass.sampled_at < fail.sampled_at && fail.sampled_at < again.sampled_at);
        let last = fake.requests().pop().unwrap();
        let time = format!("time={}.{:03}", again.sampled_at.as_second(), again.sampled_at.as_millisecond() % 1000);
        assert!(last.contains(&time), "{last}: what is remembered is what was asked: {time}");
    }

    /// Nothing is launched; mauve, of which two pods are ready, is drained.
    fn draining() -> Watch {
        let metric = standard_metrics().into_iter().find(|m| m.name == crate::launch::RUNS_IN_FLIGHT).unwrap();
        let drained = (CheckName::Drained("mauve".to_owned()), crate::launch::no_runs(metric));
        Watch { draining: [("mauve".to_owned(), 2)].into(), stable: None, questions: [drained].into(), ..watch("") }
    }

    #[tokio::test]
    async fn a_drained_revision_is_judged_by_the_age_of_its_oldest_sample() {
        let runs = |value: &'static str, pods: &'static str| {
            vector(&[("mauve", "value", value), ("mauve", "pods", pods), ("mauve", "taken", "1000000.5")])
        };
        let fake = Fake::start(runs("3", "2")).await;
        let mut running = start(vec![fake.source("")]);
        running.sampler.watch(key(), draining());
        let some = running.woken().await;
        assert_eq!((some.verdict, some.message.as_str()), (Verdict::Fail, "runs_in_flight 3 > 0"));
        fake.asked(4).await; // runs that go on wake nobody
        assert!(running.woken.try_recv().is_err());
        assert!(fake.requests()[0].contains("timestamp") && !fake.requests()[0].contains("ochre"));
        fake.set(runs("0", "1"));
        let partial = running.woken().await;
        assert_eq!(partial.verdict, Verdict::Insufficient, "{}", partial.message);
        fake.set(runs("0", "2"));
        let none = running.woken().await;
        let taken = Timestamp::from_millisecond(1_000_000_500).unwrap();
        assert_eq!((none.verdict, none.sampled_at), (Verdict::Pass, taken));
        // A launch that begins meanwhile forgets nothing of it.
        let watch = Watch { canary: "teal".to_owned(), ..draining() };
        running.sampler.watch(key(), watch);
        assert_eq!(running.only(), none);
    }

    #[tokio::test]
    async fn runs_that_are_no_gauge_are_never_known_to_have_ended() {
        let fake = Fake::of(&[("mauve", "value", "0"), ("mauve", "pods", "2")]).await;
        let mut running = start(vec![fake.source("")]);
        running.sampler.watch(key(), draining());
        let said = running.woken().await;
        assert_eq!(said.verdict, Verdict::Insufficient);
        assert!(said.message.ends_with("define it as a gauge"), "{}", said.message);
    }

    #[tokio::test]
    async fn a_failing_source_is_an_error_until_it_answers() {
        let fake = Fake::start(Reply::Hang).await;
        let mut running = start(vec![fake.source(", timeout: 1s")]);
        running.sampler.watch(key(), watch("teal"));
        for (reply, verdict, message) in [
            (vector(GOOD), Verdict::Error, "source default: timed out after 1s"),
            (Reply::Http(503, "", String::new()), Verdict::Pass, "success_rate 99% (n=100) >= 90%"),
            (vector(&[]), Verdict::Error, "source default: HTTP status 503"),
            (
                vector(&[("teal", "amount", "NaN"), ("teal", "samples", "100")]),
                Verdict::Insufficient,
                "success_rate no data (0/1 pods seen by the source): source default: no series of up carry a revision \
                 (labels namespace, agent, revision): check the relabelling and the source's labels",
            ),
            (
                Reply::Http(200, "", body(GOOD).replace(r#""success","#, r#""success","warnings":["x"],"#)),
                Verdict::Error,
                "success_rate the source answered with something that is not a number",
            ),
        ] {
            let said = running.woken().await;
            assert_eq!((said.verdict, said.message.as_str()), (verdict, message));
            fake.set(reply);
        }
        let warned = "source default: the source warned that its answer may be incomplete";
        fake.asked(7).await; // an error after an error wakes nobody
        fake.set(vector(GOOD));
        assert_eq!(running.only().message, warned);
        assert_eq!(running.woken().await.verdict, Verdict::Pass);

        let mut registry = prometheus_client::registry::Registry::default();
        running.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"sluice_sampler_query_failures_total{source="default",kind="timeout"} 1"#,
            r#"sluice_sampler_query_failures_total{source="default",kind="status"} 1"#,
            r#"sluice_sampler_queries_total{source="default"} "#,
            r#"sluice_sampler_query_duration_seconds_count{source="default"} "#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_says_so_at_once_and_is_not_asked() {
        let fake = Fake::of(GOOD).await;
        let (sampler, _woken, _) = build(vec![fake.source("")], 8);
        let mut elsewhere = watch("teal");
        elsewhere.source = "mimir".to_owned();
        let mut evil = watch("teal");
        for question in evil.questions.values_mut() {
            question.metric.ratio.as_mut().unwrap().total.0 = "up or secrets".to_owned();
        }
        let mut first = watch("teal");
        first.stable = None;
        first.questions = [(gate("success"), question("success_rate", Compare::RatioToStable, "0.9"))].into();
        for (watch, verdict, message) in [
            (elsewhere, Verdict::Error, "no metrics source named mimir: the administrator's configuration has default"),
            (
                evil,
                Verdict::Error,
                "\"up or secrets\" is not a series: it does not begin with a metric name; write a metric name with label matchers, such as refunds_total{result=\"match\"}",
            ),
            (first, Verdict::NotApplicable, "success_rate does not apply: there is no stable revision to compare with"),
        ] {
            sampler.watch(key(), watch);
            let said = sampler.latest(&key()).remove(&gate("success")).unwrap();
            assert_eq!((said.verdict, said.message.as_str()), (verdict, message));
            assert_eq!(sampler.due(), (BTreeMap::new(), None));
        }
    }

    #[tokio::test]
    async fn with_nobody_watched_it_sleeps() {
        let fake = Fake::of(GOOD).await;
        let (sampler, _woken, _) = build(vec![fake.source("")], 8);
        assert_eq!(sampler.due(), (BTreeMap::new(), None));
        sampler.watch(key(), watch("teal"));
        sampler.forget(&key());
        assert_eq!(sampler.due(), (BTreeMap::new(), None));
        assert!(sampler.latest(&key()).is_empty());
    }

    #[tokio::test]
    async fn an_answer_about_another_revision_never_shows() {
        let fake = Fake::of(GOOD).await;
        let mut running = start(vec![fake.source("")]);
        running.sampler.watch(key(), watch("teal"));
        assert_eq!(running.woken().await.verdict, Verdict::Pass);
        let gone = Arc::new(Notify::new());
        fake.set(Reply::Held(Arc::clone(&gone), body(GOOD)));
        let before = fake.requests().len();
        fake.asked(before + 1).await;
        // The question about teal is under way when the agent moves on.
        running.sampler.watch(key(), watch("plum"));
        assert!(running.sampler.latest(&key()).is_empty());
        fake.set(vector(&[("plum", "amount", "1"), ("plum", "samples", "100"), ("plum", "pods", "1")]));
        gone.notify_waiters();
        let said = running.woken().await;
        assert_eq!(said.message, "success_rate 1% (n=100) < 90%");
        assert!(fake.requests()[before].contains("revision%3D%7E%22teal%22"));
        assert!(fake.requests()[before + 1].contains("revision%3D%7E%22plum%22"));
    }

    #[tokio::test]
    async fn a_changed_watch_keeps_only_the_answers_that_still_fit() {
        let rows: Vec<_> =
            GOOD.iter().copied().chain([("ochre", "amount", "99"), ("ochre", "samples", "100")]).collect();
        let fake = Fake::of(&rows).await;
        let mut running = start(vec![fake.source("")]);
        let mut both = watch("teal");
        both.interval = Duration::from_hours(1);
        both.questions.insert(gate("ratio"), question("success_rate", Compare::RatioToStable, "0.9"));
        running.sampler.watch(key(), both.clone());
        running.woken.recv().await.unwrap();
        let shown = |sampler: &Sampler| sampler.latest(&key()).into_keys().collect::<Vec<_>>();
        assert_eq!(shown(&running.sampler), [gate("ratio"), gate("success")]);
        assert_eq!(fake.requests().len(), 1, "both questions are one query");

        running.token.cancel(); // what follows is asked no more
        running.task.await.unwrap();
        let sampler = running.sampler;
        sampler.watch(key(), both.clone());
        assert_eq!(shown(&sampler).len(), 2, "the same watch changes nothing");
        both.stable = Some("umber".to_owned());
        sampler.watch(key(), both.clone());
        assert_eq!(shown(&sampler), [gate("success")], "another stable voids the comparison only");
        both.questions.insert(gate("success"), question("success_rate", Compare::Value, "0.5"));
        sampler.watch(key(), both);
        assert_eq!(shown(&sampler), [], "another question voids the answer");
    }

    #[tokio::test]
    async fn what_has_no_window_is_as_old_as_its_oldest_sample_to_a_gate_and_news_to_a_trigger() {
        let seen = [("teal", "value", "0"), ("teal", "pods", "1"), ("teal", "taken", "1000000.5")];
        let mut running = start(vec![Fake::of(&seen).await.source("")]);
        let mut none = question("policy_bypasses", Compare::Value, "0");
        (none.window, none.bounds.high) = (None, none.bounds.low.take());
        let trigger = CheckName::Trigger("bypasses".to_owned());
        let questions = [(gate("bypasses"), none.clone()), (trigger.clone(), none)].into();
        running.sampler.watch(key(), Watch { questions, ..watch("teal") });
        tokio::time::timeout(Duration::from_secs(20), running.woken.recv()).await.unwrap();
        let said = running.sampler.latest(&key());
        let taken = Timestamp::from_millisecond(1_000_000_500).unwrap();
        assert_eq!((said[&gate("bypasses")].verdict, said[&gate("bypasses")].sampled_at), (Verdict::Pass, taken));
        assert!(said[&trigger].verdict == Verdict::Pass && said[&trigger].sampled_at > taken);
    }

    #[tokio::test]
    async fn other_ready_pods_are_judged_on_the_numbers_that_are_known() {
        let fake = Fake::of(&[("teal", "pods", "2")]).await;
        let mut running = start(vec![fake.source("")]);
        let mut counting = watch("teal");
        counting.interval = Duration::from_hours(1);
        counting.ready_pods = 2;
        let mut none = question("policy_bypasses", Compare::Value, "0");
        none.bounds.high = none.bounds.low.take();
        counting.questions = [(gate("bypasses"), none)].into();
        running.sampler.watch(key(), counting.clone());
        assert_eq!(running.woken().await.message, "policy_bypasses 0 <= 0");
        counting.ready_pods = 3;
        running.sampler.watch(key(), counting);
        let said = running.only();
        assert_eq!(
            (said.verdict, said.message.as_str()),
            (Verdict::Insufficient, "policy_bypasses no data (2/3 pods seen by the source)")
        );
        assert_eq!(fake.requests().len(), 1);
    }

    #[tokio::test]
    async fn the_runs_of_both_revisions_are_counted_when_both_are_known() {
        let both = [("teal", "samples", "39.7"), ("teal", "amount", "40"), ("ochre", "samples", "360.2")];
        for (seen, runs) in [(&both[..], Some((40, 360))), (&both[..2], None)] {
            let fake = Fake::of(seen).await;
            let mut running = start(vec![fake.source("")]);
            running.sampler.watch(key(), watch("teal"));
            let at = running.woken().await.sampled_at;
            let found = running.sampler.runs(&key());
            assert_eq!(found.as_ref().map(|runs| (runs.canary, runs.stable)), runs);
            assert!(found.is_none_or(|runs| runs.from + SignedDuration::from_mins(1) == at));
        }
    }

    #[tokio::test]
    async fn agents_with_the_same_question_share_one_query_and_it_never_overlaps() {
        let fake = Fake::start(Reply::Hang).await;
        let running = {
            let (sampler, woken, metrics) = build(vec![fake.source("")], 8);
            for i in 0..50 {
                sampler.watch(("support".to_owned(), format!("agent-{i}")), watch(&format!("c0ffee{i}")));
            }
            let token = CancellationToken::new();
            let (runner, until) = (Arc::clone(&sampler), token.clone());
            let task = tokio::spawn(async move { runner.run(until).await });
            Running { sampler, woken, metrics, token, task }
        };
        fake.asked(1).await;
        let request = fake.requests().remove(0);
        assert!(request.contains("c0ffee0%7Cc0ffee1%7C") && request.contains("c0ffee49"), "{request}");
        running.sampler.watch(key(), watch("teal"));
        assert_eq!(running.sampler.due().0, BTreeMap::new(), "due, but the same query is under way");
        running.token.cancel();
        running.task.await.unwrap();
        assert_eq!(fake.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_dead_source_does_not_hold_another_back() {
        let (dead, alive) = (Fake::start(Reply::Hang).await, Fake::of(GOOD).await);
        let mut hanging = dead.source(", timeout: 1m");
        hanging.name = "dead".to_owned();
        let mut running = start(vec![hanging, alive.source("")]);
        let mut elsewhere = watch("teal");
        elsewhere.source = "dead".to_owned();
        running.sampler.watch(("support".to_owned(), "other".to_owned()), elsewhere);
        dead.asked(1).await;
        running.sampler.watch(key(), watch("teal"));
        assert_eq!(running.woken().await.verdict, Verdict::Pass);
        running.token.cancel();
        running.task.await.unwrap(); // at once, though a query is under way
    }

    #[tokio::test]
    async fn a_wake_that_finds_no_room_is_kept() {
        let fake = Fake::of(&[]).await;
        let (sampler, mut woken, _) = build(vec![fake.source("")], 1);
        let names: BTreeSet<AgentKey> = (0..5).map(|i| ("support".to_owned(), format!("agent-{i}"))).collect();
        for name in &names {
            sampler.watch(name.clone(), watch("teal"));
        }
        let runner = Arc::clone(&sampler);
        tokio::spawn(async move { runner.run(CancellationToken::new()).await });
        let mut seen = BTreeSet::new();
        while seen != names {
            seen.insert(woken.recv().await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_sampler_that_stands_still_proves_nothing() {
        let fake = Fake::of(GOOD).await;
        let mut running = start(vec![fake.source("")]);
        running.sampler.watch(key(), watch("teal"));
        assert_eq!(running.woken().await.verdict, Verdict::Pass);
        running.token.cancel();
        AHEAD.set(17);
        assert_eq!(running.only().verdict, Verdict::Pass, "3 intervals and 3 time-outs are 18s");
        AHEAD.set(60);
        let said = running.only();
        assert_eq!(said.verdict, Verdict::Error);
        assert!(
            said.message.starts_with("no answer since ") && said.message.ends_with("success_rate 99% (n=100) >= 90%"),
            "{said:?}"
        );
    }

    #[tokio::test]
    async fn equal_intervals_fall_together_and_odd_ones_do_not_panic() {
        let (sampler, _woken, _) = build(Vec::new(), 1);
        let ten = Duration::from_secs(10);
        assert_eq!(sampler.aligned(ten), sampler.start + ten);
        for odd in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            assert!(sampler.aligned(odd) > Instant::now(), "{odd:?}");
            let mut watch = watch("teal");
            watch.interval = odd;
            sampler.watch(key(), watch);
            assert_eq!(sampler.latest(&key()).len(), 1);
        }
    }
}
