//! Writes that the API server refuses for a while, in one namespace: the operator is caught between two of its writes.
#![allow(dead_code)] // every test file compiles this module for itself and uses a part of it

use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Agent, PATIENCE};

/// An object with this annotation is refused too: that is how the policy's beginning is seen.
const TRY: &str = "sluice-tests/refuse";

/// An admission policy. It is lifted by [`Refusal::lift`], or stands until the cluster ends.
pub struct Refusal {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    name: String,
}

impl Refusal {
    /// Refuses updates of the agent's HTTPRoute to what this expression of CEL says about `object`.
    pub async fn of_routes(agent: &Agent, expression: &str) -> anyhow::Result<Self> {
        let (routes, what) = (agent.routes(), ("gateway.networking.k8s.io", "httproutes"));
        let tried = format!("has(object.metadata.annotations) && '{TRY}' in object.metadata.annotations");
        let patch = json!({"metadata": {"annotations": {TRY: "1"}}});
        let attempt = async || routes.patch(&agent.name, &dry_run(), &Patch::Merge(&patch)).await.map(drop);
        Self::of(agent, what, &format!("({tried}) || ({expression})"), attempt).await
    }

    /// Refuses every status that tells of a rollback.
    pub async fn of_rollbacks(agent: &Agent) -> anyhow::Result<Self> {
        let (agents, what) = (agent.api(), ("sluice.dev", "agentdeployments/status"));
        let told = "has(object.status) && has(object.status.launch) && has(object.status.launch.outcome) && object.status.launch.outcome == 'RolledBack'";
        let status = json!({"status": {"launch": {"outcome": "RolledBack"}}});
        let attempt = async || agents.patch_status(&agent.name, &dry_run(), &Patch::Merge(&status)).await.map(drop);
        Self::of(agent, what, told, attempt).await
    }

    /// Returns when the `attempt` to write such a thing is refused; nothing tells when a policy begins to hold.
    async fn of(
        agent: &Agent,
        (group, resource): (&str, &str),
        expression: &str,
        attempt: impl AsyncFn() -> kube::Result<()>,
    ) -> anyhow::Result<Self> {
        let client = agent.cluster.client.clone();
        let refusal =
            Self { policies: Api::all(client.clone()), bindings: Api::all(client), name: agent.namespace.clone() };
        let policy = json!({
            "metadata": {"name": refusal.name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [group], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": [resource],
                }]},
                "validations": [{"expression": format!("!({expression})"), "message": "this test does not want it"}],
            },
        });
        let binding = json!({
            "metadata": {"name": refusal.name},
            "spec": {
                "policyName": refusal.name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": agent.namespace}}},
            },
        });
        refusal.policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
        refusal.bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        let began = Instant::now();
        while attempt().await.is_ok() {
            ensure!(began.elapsed() < PATIENCE, "the policy does not hold");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(refusal)
    }

    /// Ends it.
    pub async fn lift(self) -> anyhow::Result<()> {
        self.bindings.delete(&self.name, &DeleteParams::default()).await?;
        self.policies.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

fn dry_run() -> PatchParams {
    PatchParams { dry_run: true, ..PatchParams::default() }
}
