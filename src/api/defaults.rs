//! What a field means when it is absent: the built-in plan and the standard metrics, each defined once.
//!
//! There are no schema defaults on what makes a revision, so that an upgrade of Sluice re-hashes nothing.

use std::time::Duration;

use super::{
    Across, Count, Deadline, DeadlineOutcome, Gate, Gauge, HealthGate, HealthTrigger, LaunchPlanSpec, Mean,
    MetricDefinition, PodCondition, Quantile, Ratio, Series, Sharing, Stage, Trigger,
};

/// A stage may last so long when nothing else is said.
pub const DEFAULT_DEADLINE: Duration = Duration::from_hours(24);
/// A launch is measured so often when nothing else is said.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// A metric is judged over so much data when nothing else is said.
pub const DEFAULT_WINDOW: Duration = Duration::from_mins(1);
/// So many events are needed when nothing else is said.
pub const DEFAULT_MIN_SAMPLES: i64 = 10;
/// So many former stable revisions are kept when nothing else is said.
pub const DEFAULT_HISTORY: i32 = 5;

/// The built-in plan soaks for so long.
pub const BASIC_SOAK: Duration = Duration::from_mins(10);

/// The built-in plan `basic`: 5 → 25 → 50 → 100 behind a gateway, 0 → healthy → 100 without one, 0 → 50 → 100 by pods (the
/// only share that every number of replicas allows), with health triggers.
pub fn basic_plan(sharing: Sharing) -> LaunchPlanSpec {
    let shares: &[i32] = match sharing {
        Sharing::None => &[0],
        Sharing::Route => &[5, 25, 50, 100],
        Sharing::Pods => &[0, 50],
    };
    LaunchPlanSpec {
        stage_defaults: None,
        stages: Some(shares.iter().map(|share| basic_stage(*share)).collect()),
        triggers: Some(basic_triggers()),
        freeze: Vec::new(),
        soak: Some(BASIC_SOAK.into()),
        canary: None,
    }
}

fn basic_stage(traffic: i32) -> Stage {
    let calm = Duration::from_secs(if traffic == 0 { 10 } else { 60 });
    Stage {
        name: if traffic == 0 { "healthy".to_owned() } else { format!("share-{traffic}") },
        traffic,
        only: Vec::new(),
        min_duration: None,
        deadline: Some(Deadline { after: Duration::from_hours(1).into(), then: DeadlineOutcome::Rollback }),
        gates: vec![Gate {
            name: "healthy".to_owned(),
            metric: None,
            health: Some(HealthGate { lasting: Some(calm.into()) }),
            on_fail: super::OnFail::Hold,
        }],
    }
}

/// The health triggers that a plan has when it names no triggers.
pub fn basic_triggers() -> Vec<Trigger> {
    let condition = |condition| HealthTrigger { restarts: None, within: None, condition: Some(condition) };
    let minutes = |n: u64| Some(Duration::from_mins(n));
    let restarts = HealthTrigger { restarts: Some(3), within: minutes(5).map(Into::into), condition: None };
    [
        ("restarts", restarts, None),
        ("crash-loop", condition(PodCondition::CrashLoop), None),
        ("image-pull", condition(PodCondition::ImagePull), minutes(2)),
        ("unready", condition(PodCondition::Unready), minutes(10)),
    ]
    .into_iter()
    .map(|(name, health, lasting)| Trigger {
        name: name.to_owned(),
        metric: None,
        health: Some(health),
        lasting: lasting.map(Into::into),
    })
    .collect()
}

/// The standard metrics, on names that follow OpenTelemetry's GenAI conventions where these exist.
/// The CEL rules of `AgentDeployment` list the same names; a test compares the two.
pub fn standard_metrics() -> Vec<MetricDefinition> {
    const RUN_SECONDS: &str = r#"gen_ai_client_operation_duration_seconds{gen_ai_operation_name="invoke_agent"}"#;
    const TOOL_CALLS: &str = r#"gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name="execute_tool"}"#;
    const TOOL_ERRORS: &str =
        r#"gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name="execute_tool",error_type!=""}"#;
    const RUNS: &str = "agent_runs_total";
    const SUCCESSES: &str = r#"agent_runs_total{outcome="success"}"#;
    vec![
        ratio("success_rate", Some(SUCCESSES), None, RUNS),
        ratio("error_rate", None, Some(r#"agent_runs_total{outcome="error"}"#), RUNS),
        quantile("latency_p95", RUN_SECONDS, "0.95"),
        ratio("tool_error_rate", None, Some(TOOL_ERRORS), TOOL_CALLS),
        MetricDefinition {
            mean: Some(Mean { sum: series("agent_cost_usd_total"), count: series(SUCCESSES) }),
            ..named("cost_per_success")
        },
        count("safety_blocks", "agent_safety_blocks_total"),
        count("policy_bypasses", "agent_policy_bypasses_total"),
        count("unapproved_high_risk_actions", "agent_unapproved_high_risk_actions_total"),
        ratio("quarantine_rate", None, Some(r#"agent_outputs_total{decision="quarantine"}"#), "agent_outputs_total"),
        quantile("approval_wait_median", "agent_approval_wait_seconds", "0.5"),
        gauge("approval_backlog_age", "agent_approval_backlog_age_seconds", Across::Max),
        gauge("runs_in_flight", "agent_runs_in_flight", Across::Sum),
    ]
}

fn named(name: &str) -> MetricDefinition {
    MetricDefinition { name: name.to_owned(), ratio: None, quantile: None, mean: None, count: None, gauge: None }
}

fn series(text: &str) -> Series {
    Series(text.to_owned())
}

fn ratio(name: &str, good: Option<&str>, bad: Option<&str>, total: &str) -> MetricDefinition {
    let ratio = Ratio { good: good.map(series), bad: bad.map(series), total: series(total) };
    MetricDefinition { ratio: Some(ratio), ..named(name) }
}

fn quantile(name: &str, histogram: &str, q: &str) -> MetricDefinition {
    MetricDefinition { quantile: Some(Quantile { histogram: series(histogram), q: q.to_owned() }), ..named(name) }
}

fn count(name: &str, of: &str) -> MetricDefinition {
    MetricDefinition { count: Some(Count { series: series(of) }), ..named(name) }
}

fn gauge(name: &str, of: &str, across: Across) -> MetricDefinition {
    MetricDefinition { gauge: Some(Gauge { series: series(of), across }), ..named(name) }
}
