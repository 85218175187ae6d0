//! One run: a fake model call, then one or two tool calls, with an outcome and a cost.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    config::Config,
    metrics::{ErrorType, Filtered, Metrics, Outcome},
};

/// Who answers: it is in every answer, so that a client can count who served it.
pub(crate) struct Identity {
    /// The pod's name.
    pub(crate) who: String,
    /// The revision's hash, as Sluice labels the pod; `none` outside Sluice.
    pub(crate) revision: String,
}

impl Identity {
    pub(crate) fn from_env() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            who: set("HOSTNAME").unwrap_or_else(|| "unknown".to_owned()),
            revision: set("SLUICE_REVISION").unwrap_or_else(|| "none".to_owned()),
        }
    }
}

/// What a run replies.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) outcome: &'static str,
    pub(crate) who: String,
    pub(crate) revision: String,
    pub(crate) run: u64,
    /// A string with its unit in the name: money is no float.
    pub(crate) cost_usd: String,
    pub(crate) tools: &'static [&'static str],
    pub(crate) message: String,
}

/// The agent: its frozen configuration, its metrics, and the runs under way.
pub(crate) struct Agent {
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    metrics: Metrics,
    seed: u64,
    begun: AtomicU64,
    ended: AtomicU64,
    draining: AtomicBool,
    last_activity: Mutex<Instant>,
    approvals: Mutex<BTreeMap<u64, Instant>>,
}

impl Agent {
    pub(crate) fn new(identity: Identity, config: Config) -> Self {
        let seed = seed(&identity.who);
        Self {
            identity,
            config,
            metrics: Metrics::new(),
            seed,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            last_activity: Mutex::new(Instant::now()),
            approvals: Mutex::new(BTreeMap::new()),
        }
    }

    /// From now on connections are closed after their answer.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(crate) fn runs_in_flight(&self) -> u64 {
        // `ended` first: read the other way round, a run that begins and ends in between would make it negative.
        let ended = self.ended.load(Ordering::SeqCst);
        self.begun.load(Ordering::SeqCst).saturating_sub(ended)
    }

    /// How long no run has begun, been under way, or ended.
    pub(crate) fn quiet_for(&self) -> Duration {
        if self.runs_in_flight() > 0 { Duration::ZERO } else { lock(&self.last_activity).elapsed() }
    }

    /// Whether this was the last run before the crash that the configuration asks for.
    pub(crate) fn must_crash(&self) -> bool {
        self.config.faults.crash_after.is_some_and(|runs| self.ended.load(Ordering::SeqCst) >= runs)
    }

    pub(crate) fn metrics_page(&self) -> Result<String, std::fmt::Error> {
        let backlog = lock(&self.approvals).values().map(Instant::elapsed).max().unwrap_or_default();
        self.metrics.page(backlog.as_secs_f64())
    }

    /// One whole run. It is not cancelled when the client hangs up (see [`crate::http`]): a refund is not undone by
    /// a closed connection.
    pub(crate) async fn run(&self) -> (Outcome, Answer) {
        let (run, began) = self.begin();
        let dice = Dice { seed: self.seed, run };

        // The model thinks for two thirds of the run, give or take a fifth; the tools share the rest.
        let whole = self.config.faults.latency.mul_f64(0.8 + 0.4 * dice.share(Roll::Latency));
        tokio::time::sleep(whole.mul_f64(0.66)).await;
        let fails = dice.share(Roll::Error) < self.config.faults.error_rate;
        let (outcome, tools, message) = if dice.share(Roll::Injection) < INJECTIONS {
            self.metrics.safety_blocked();
            (Outcome::success, &[][..], "refused: the customer's message tried to change my instructions".to_owned())
        } else {
            self.call_tool(whole.mul_f64(0.17), None).await;
            self.refund(run, whole.mul_f64(0.17), fails, &dice).await
        };
        if outcome == Outcome::success {
            let redacted = dice.share(Roll::Redaction) < REDACTIONS;
            self.metrics.answered(if redacted { Filtered::redact } else { Filtered::allow });
        }

        let micro_usd = 9_000.0 + (4_000.0 * dice.share(Roll::Cost)).round();
        self.end(outcome, began, micro_usd / 1e6);
        let answer = Answer {
            outcome: if outcome == Outcome::success { "success" } else { "error" },
            who: self.identity.who.clone(),
            revision: self.identity.revision.clone(),
            run,
            cost_usd: format!("{:.6}", micro_usd / 1e6),
            tools,
            message,
        };
        (outcome, answer)
    }

    /// One long run that tells its steps as it makes them: a line when it begins, one a second, and `done` at the end.
    /// It goes on when nobody listens any more, as any run does.
    pub(crate) async fn stream(&self, seconds: u64, lines: UnboundedSender<String>) {
        let (run, began) = self.begin();
        let tell = |line: String| drop(lines.send(line)); // whoever hung up is told nothing
        tell(format!("run {run} of {seconds}s on {}\n", self.identity.who));
        for step in 1..=seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tell(format!("step {step} of {seconds}\n"));
        }
        self.end(Outcome::success, began, 0.01);
        tell("done\n".to_owned());
    }

    fn begin(&self) -> (u64, Instant) {
        let began = Instant::now();
        let run = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        *lock(&self.last_activity) = began;
        self.metrics.run_began();
        (run, began)
    }

    fn end(&self, outcome: Outcome, began: Instant, cost_usd: f64) {
        self.metrics.run_ended(outcome, began.elapsed().as_secs_f64(), cost_usd);
        self.ended.fetch_add(1, Ordering::SeqCst);
        *lock(&self.last_activity) = Instant::now();
    }

    async fn refund(
        &self,
        run: u64,
        takes: Duration,
        fails: bool,
        dice: &Dice,
    ) -> (Outcome, &'static [&'static str], String) {
        let order = 1_000 + run % 9_000;
        if !fails && dice.share(Roll::Lookup) < ONLY_LOOKUPS {
            return (Outcome::success, &["orders.lookup"], format!("order {order} is too old for a refund"));
        }
        let tools = &["orders.lookup", "stripe.refund"];
        if dice.share(Roll::Bypass) < self.config.faults.policy_bypass_rate {
            self.metrics.policy_bypassed();
        } else {
            self.approve(run, dice).await;
        }
        let error = fails.then_some(ErrorType::invalid_arguments);
        self.call_tool(takes, error).await;
        if fails {
            (Outcome::error, tools, format!("stripe.refund refused the amount that I made up for order {order}"))
        } else {
            (Outcome::success, tools, format!("order {order} is refunded"))
        }
    }

    async fn call_tool(&self, takes: Duration, error: Option<ErrorType>) {
        let began = Instant::now();
        tokio::time::sleep(takes).await;
        self.metrics.tool_called(error, began.elapsed().as_secs_f64());
    }

    /// Asks the policy, which approves by itself within a few milliseconds.
    async fn approve(&self, run: u64, dice: &Dice) {
        let began = Instant::now();
        lock(&self.approvals).insert(run, began);
        tokio::time::sleep(Duration::from_millis(1).mul_f64(dice.share(Roll::Approval))).await;
        lock(&self.approvals).remove(&run);
        self.metrics.approved(began.elapsed().as_secs_f64());
    }
}

/// The share of customers who try to talk the agent into something.
const INJECTIONS: f64 = 0.002;
/// The share of answers that name something private, which the output filter takes out.
const REDACTIONS: f64 = 0.02;
/// The share of runs that end after looking the order up.
const ONLY_LOOKUPS: f64 = 0.2;

/// What is left to chance in a run. Each has its own dice: a change of one rate moves nothing else.
#[derive(Clone, Copy)]
enum Roll {
    Latency = 1,
    Error,
    Injection,
    Lookup,
    Bypass,
    Approval,
    Redaction,
    Cost,
}

/// Chance that repeats: the same pod name and run number always roll the same.
struct Dice {
    seed: u64,
    run: u64,
}

impl Dice {
    /// From 0 to just under 1.
    fn share(&self, roll: Roll) -> f64 {
        let mixed = mix(self.seed ^ mix(self.run ^ mix(roll as u64)));
        f64::from(u32::try_from(mixed >> 32).unwrap_or_default()) / 4_294_967_296.0
    }
}

/// The finalizer of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn seed(name: &str) -> u64 {
    name.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)))
}

/// A poisoned lock guards plain values here: whatever is in them is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Faults;

    fn failures(error_rate: f64, runs: u64) -> usize {
        let seed = seed("refund-agent-7f3c91-abcde");
        (1..=runs).filter(|&run| Dice { seed, run }.share(Roll::Error) < error_rate).count()
    }

    #[test]
    fn a_rate_is_kept_to_and_repeats() {
        assert_eq!(failures(0.0, 10_000), 0);
        assert_eq!(failures(1.0, 10_000), 10_000);
        let third = failures(0.3, 10_000);
        assert!((2_850..=3_150).contains(&third), "{third} of 10000 at 0.3");
        assert_eq!(third, failures(0.3, 10_000));
    }

    #[test]
    fn rolls_stay_within_a_share() {
        for run in 0..10_000 {
            let share = Dice { seed: seed("a"), run }.share(Roll::Cost);
            assert!((0.0..1.0).contains(&share), "{share}");
        }
    }

    fn agent(faults: Faults) -> Agent {
        let identity = Identity { who: "pod-a".to_owned(), revision: "7f3c91".to_owned() };
        Agent::new(identity, Config { prompt: "Refund.".to_owned(), faults })
    }

    #[tokio::test(start_paused = true)]
    async fn a_healthy_agent_shows_no_series_for_what_it_never_did() {
        let agent = agent(Faults::default());
        for _ in 0..50 {
            let (outcome, answer) = agent.run().await;
            assert_eq!((outcome, answer.outcome), (Outcome::success, "success"));
        }
        let page = agent.metrics_page().unwrap();
        for line in [
            "agent_runs_total{outcome=\"success\"} 50",
            "agent_runs_total{outcome=\"error\"} 0",
            "agent_runs_in_flight 0",
            "agent_approval_backlog_age_seconds 0.0",
            "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"invoke_agent\",error_type=\"\"} 50",
        ] {
            assert!(page.lines().any(|have| have == line), "no line {line:?} in\n{page}");
        }
        for absent in ["agent_policy_bypasses", "agent_unapproved_high_risk_actions", "invalid_arguments"] {
            assert!(!page.contains(absent), "{absent} is in\n{page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn faults_reach_runs_and_metrics() {
        let agent = agent(Faults { error_rate: 1.0, policy_bypass_rate: 1.0, ..Faults::default() });
        let (outcome, answer) = agent.run().await;
        assert_eq!((outcome, answer.outcome), (Outcome::error, "error"));
        assert_eq!(answer.tools, ["orders.lookup", "stripe.refund"]);
        let page = agent.metrics_page().unwrap();
        for line in [
            "agent_runs_total{outcome=\"error\"} 1",
            "agent_policy_bypasses_total 1",
            "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"execute_tool\",error_type=\"invalid_arguments\"} 1",
        ] {
            assert!(page.lines().any(|have| have == line), "no line {line:?} in\n{page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_counts_as_under_way_until_it_ends() {
        let agent = std::sync::Arc::new(agent(Faults { latency: Duration::from_secs(10), ..Faults::default() }));
        let run = tokio::spawn({
            let agent = agent.clone();
            async move { agent.run().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((agent.runs_in_flight(), agent.quiet_for()), (1, Duration::ZERO));
        assert!(agent.metrics_page().unwrap().contains("agent_runs_in_flight 1"));
        run.await.unwrap();
        assert_eq!(agent.runs_in_flight(), 0);
    }
}
