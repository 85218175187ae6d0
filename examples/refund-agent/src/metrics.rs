//! The agent's metrics, under the names that Sluice's standard metrics read without any mapping.
//!
//! Label sets are bounded by enums. A healthy agent has no series for what it never did (a policy bypass, say): it
//! appears with the first event, which is how most agents in production behave, and why Sluice asks a
//! presence series before it reads "absent" as zero.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// A counter whose series is absent until its first event.
#[derive(Clone, Debug, Default)]
struct Rare(Counter);

impl EncodeMetric for Rare {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }

    fn is_empty(&self) -> bool {
        self.0.get() == 0
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "these are the label values")]
pub(crate) enum Outcome {
    success,
    error,
}

/// What an operation was, in OpenTelemetry's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "these are the label values")]
pub(crate) enum Operation {
    invoke_agent,
    execute_tool,
}

/// Why a tool call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "these are the label values")]
pub(crate) enum ErrorType {
    invalid_arguments,
}

/// What the output filter made of an answer. (`quarantine` is a word of the contract that this agent never says.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "these are the label values")]
pub(crate) enum Filtered {
    allow,
    redact,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    gen_ai_operation_name: Operation,
    error_type: Option<ErrorType>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFiltered {
    decision: Filtered,
}

/// Every metric of the agent, and the registry that writes them.
pub(crate) struct Metrics {
    registry: Registry,
    runs: Family<ByOutcome, Counter>,
    duration: Family<ByOperation, Histogram>,
    cost: Counter<f64, AtomicU64>,
    safety_blocks: Rare,
    policy_bypasses: Rare,
    outputs: Family<ByFiltered, Counter>,
    approval_wait: Histogram,
    approval_backlog_age: Gauge<f64, AtomicU64>,
    in_flight: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            runs: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            cost: Counter::default(),
            safety_blocks: Rare::default(),
            policy_bypasses: Rare::default(),
            outputs: Family::default(),
            approval_wait: Histogram::new(APPROVAL_BUCKETS),
            approval_backlog_age: Gauge::default(),
            in_flight: Gauge::default(),
        };
        // A run that has not failed yet is a zero, not an absence: error rates of a quiet pod are then known.
        for outcome in [Outcome::success, Outcome::error] {
            drop(metrics.runs.get_or_create(&ByOutcome { outcome }));
        }
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let to = &mut self.registry;
        // The names of counters end in `_total` and those of help texts in a full stop: the encoder sees to both.
        to.register("agent_runs", "Runs, by how they ended", self.runs.clone());
        to.register(
            "gen_ai_client_operation_duration_seconds",
            "How long runs and tool calls took",
            self.duration.clone(),
        );
        to.register("agent_cost_usd", "What the runs cost, in US dollars", self.cost.clone());
        to.register("agent_safety_blocks", "Requests that the safety filter refused", self.safety_blocks.clone());
        to.register("agent_policy_bypasses", "Refunds made without asking the policy", self.policy_bypasses.clone());
        to.register(
            "agent_unapproved_high_risk_actions",
            "High-risk actions that ran without the approval they needed",
            // Registered for the contract; this agent asks before every high-risk action, so no series appears.
            Rare::default(),
        );
        to.register("agent_outputs", "Answers, by what the output filter decided", self.outputs.clone());
        to.register("agent_approval_wait_seconds", "How long runs waited for an approval", self.approval_wait.clone());
        to.register(
            "agent_approval_backlog_age_seconds",
            "Age of the oldest approval that is still waited for",
            self.approval_backlog_age.clone(),
        );
        to.register("agent_runs_in_flight", "Runs under way", self.in_flight.clone());
        self
    }

    pub(crate) fn run_began(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn run_ended(&self, outcome: Outcome, seconds: f64, cost_usd: f64) {
        self.in_flight.dec();
        self.runs.get_or_create(&ByOutcome { outcome }).inc();
        self.cost.inc_by(cost_usd);
        let run = ByOperation { gen_ai_operation_name: Operation::invoke_agent, error_type: None };
        self.duration.get_or_create(&run).observe(seconds);
    }

    pub(crate) fn tool_called(&self, error_type: Option<ErrorType>, seconds: f64) {
        let call = ByOperation { gen_ai_operation_name: Operation::execute_tool, error_type };
        self.duration.get_or_create(&call).observe(seconds);
    }

    pub(crate) fn approved(&self, seconds: f64) {
        self.approval_wait.observe(seconds);
    }

    pub(crate) fn policy_bypassed(&self) {
        self.policy_bypasses.0.inc();
    }

    pub(crate) fn safety_blocked(&self) {
        self.safety_blocks.0.inc();
    }

    pub(crate) fn answered(&self, decision: Filtered) {
        self.outputs.get_or_create(&ByFiltered { decision }).inc();
    }

    /// The whole page, as OpenMetrics text. `backlog` is the age of the oldest approval still waited for.
    pub(crate) fn page(&self, backlog: f64) -> Result<String, std::fmt::Error> {
        self.approval_backlog_age.set(backlog);
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

const BUCKETS: [f64; 14] = [0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const APPROVAL_BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 1.0, 60.0, 900.0, 3600.0];
