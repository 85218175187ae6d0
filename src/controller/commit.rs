//! The only write of an agent's status: once per pass, guarded by `resourceVersion`, and only when it means something new.
//! What users are told follows the write, so that nothing is told that was not decided, and holds up no traffic.

use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Error;
use super::context::Context;
use super::metrics::DecisionLabel;
use crate::api::{AGENT_LABEL, AgentDeployment, AgentDeploymentStatus, Launch, Outcome, Phase, clip};
use crate::launch::{self, Observation, Step};
use k8s_openapi::jiff::Timestamp;

/// Writes the status.
pub(crate) async fn commit(
    ctx: &Context,
    agent: &AgentDeployment,
    seen: &Observation,
    step: &Step,
    now: Timestamp,
) -> Result<(), Error> {
    let before = agent.status.clone().unwrap_or_default();
    let status = status(&before, agent, seen, step, now);
    if status != before {
        let name = agent.name_any();
        let body = json!({
            "apiVersion": AgentDeployment::api_version(&()),
            "kind": AgentDeployment::kind(&()),
            "metadata": {"name": name, "resourceVersion": agent.resource_version()},
            "status": status,
        });
        let params = PatchParams::apply("sluice-status").force();
        let api = ctx.agents(&agent.namespace().unwrap_or_default());
        let write = async { api.patch_status(&name, &params, &Patch::Apply(&body)).await };
        ctx.calls.write("patch", "AgentDeployment/status", &name, write).await?;
    }
    measure(ctx, before.state.launch.as_ref(), step);
    Ok(())
}

/// The status as it should be.
fn status(
    before: &AgentDeploymentStatus,
    agent: &AgentDeployment,
    seen: &Observation,
    step: &Step,
    now: Timestamp,
) -> AgentDeploymentStatus {
    let generation = agent.metadata.generation;
    let mut conditions = before.conditions.clone();
    launch::conditions(&mut conditions, &step.state, seen, generation, now);
    AgentDeploymentStatus {
        observed_generation: generation,
        replicas: Some(seen.pods.values().map(|pods| pods.ready).sum()),
        selector: Some(format!("{AGENT_LABEL}={}", agent.name_any())),
        summary: Some(launch::summary(&step.state, seen)),
        conditions,
        state: step.state.clone(),
    }
}

/// One log line, one Event and one count per decision that was committed.
pub(crate) async fn tell(ctx: &Context, agent: &AgentDeployment, step: &Step) {
    let launch = step.state.launch.as_ref().map_or("-", |launch| &launch.id);
    let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
    for event in &step.events {
        ctx.calls.metrics.decisions.get_or_create(&DecisionLabel { decision: event.reason }).inc();
        tracing::info!(namespace, agent = name, launch, decision = event.reason, message = event.message);
        let publish = Event {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.to_owned(),
            note: Some(clip(&event.message, 900)),
            action: action(step), // repeats are merged by reason and action: another weight is another Event
            secondary: None,
        };
        let about = agent.object_ref(&());
        let request = ctx.recorder.publish(&publish, &about);
        if let Err(error) = ctx.calls.write("create", "Event", &name, request).await
            && !ctx.ends(&(namespace.clone(), name.clone()), &error)
        {
            tracing::warn!(namespace, agent = name, launch, %error, "could not publish an Event");
        }
    }
}

fn action(step: &Step) -> String {
    let launch = step.state.launch.as_ref();
    launch.map_or_else(String::new, |launch| format!("{} {} {}%", launch.id, launch.stage_name, launch.weight))
}

/// How long a rollback took from the first breaching sample to the write that has just been accepted.
fn measure(ctx: &Context, before: Option<&Launch>, step: &Step) {
    let Some(launch) = &step.state.launch else { return };
    let newly = launch.outcome == Some(Outcome::RolledBack) && launch.phase != Phase::Progressing;
    let known = before.is_some_and(|before| before.id == launch.id && before.outcome.is_some());
    if let (true, false, Some(breached)) = (newly, known, launch.breached_at) {
        ctx.calls.metrics.breach_to_write.observe(ctx.now().duration_since(breached).as_secs_f64());
    }
}
