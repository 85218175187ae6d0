//! Writes that the API server refuses for a while, in one namespace: the operator is caught between two of its writes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
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
        let client = agent.cluster.client.clone();
        let refusal =
            Self { policies: Api::all(client.clone()), bindings: Api::all(client), name: agent.namespace.clone() };
        let tried = format!("has(object.metadata.annotations) && '{TRY}' in object.metadata.annotations");
        let policy = json!({
            "metadata": {"name": refusal.name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["gateway.networking.k8s.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
                    "resources": ["httproutes"],
                }]},
                "validations": [{
                    "expression": format!("!(({tried}) || ({expression}))"), "message": "this test does not want it",
                }],
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
        refusal.until_refused(&agent.routes(), &agent.name).await?;
        Ok(refusal)
    }

    /// Tries such a write until it is refused; nothing tells when a policy begins to hold.
    async fn until_refused(&self, routes: &Api<DynamicObject>, name: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let patch = json!({"metadata": {"annotations": {TRY: "1"}}});
        let try_out = PatchParams { dry_run: true, ..PatchParams::default() };
        while routes.patch(name, &try_out, &Patch::Merge(&patch)).await.is_ok() {
            ensure!(began.elapsed() < PATIENCE, "the policy does not hold");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Ends it.
    pub async fn lift(self) -> anyhow::Result<()> {
        self.bindings.delete(&self.name, &DeleteParams::default()).await?;
        self.policies.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}
