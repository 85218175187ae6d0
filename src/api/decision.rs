//! `LaunchDecision`: what a person decided about an agent. It is never edited; Sluice answers it in its status.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};

#[allow(clippy::duplicated_attributes)] // every column has a type
/// What a person decides about an agent. The API server proves who they are, RBAC says whether they may.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "LaunchDecision",
    namespaced,
    status = "LaunchDecisionStatus",
    derive = "PartialEq",
    doc = "What a person decided about an agent: who, what and why. Deleting it undoes nothing.",
    selectable = ".spec.agent",
    selectable = ".status.state",
    printcolumn(
        name = "Agent",
        type_ = "string",
        json_path = ".spec.agent",
        description = "The agent that it is about"
    ),
    printcolumn(name = "Verb", type_ = "string", json_path = ".spec.verb", description = "What was decided"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.by", description = "Who decided"),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".spec.revision",
        description = "The revision that it is bound to"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Whether Sluice has answered"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        description = "What it did, or why it did nothing"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::never_null)]
#[x_kube(validation = rules::decision_is_immutable())]
#[x_kube(validation = rules::override_names_gates())]
#[x_kube(validation = rules::retry_names_a_revision())]
#[x_kube(validation = rules::no_hash_voids_it())]
pub struct LaunchDecisionSpec {
    /// Name of the agent, in the decision's namespace.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub agent: String,
    /// What is decided. It is also the RBAC verb on `agentdeployments`, in lower case, that the person needs.
    pub verb: DecisionVerb,
    /// Who decides: your user name, as `kubectl auth whoami` prints it.
    #[schemars(length(min = 1, max = 400))]
    pub by: String,
    /// Why, for those who read it later.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// Binds the decision to this revision: it is ignored when another one is launched. `Retry` must name the rejected
    /// revision; `Promote` and `Override` may name the canary; the others are about the agent and take none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]+$"))]
    pub revision: Option<String>,
    /// The gates of the current stage that count as passed. `Override` alone names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"), inner(length(min = 1, max = 63)))]
    pub gates: Vec<String>,
}

/// What a person can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DecisionVerb {
    /// Takes the running launch back at once, whatever holds it, and rejects its revision.
    Abort,
    /// Holds every launch of the agent where it is, until `Resume`. Triggers still roll back.
    Pause,
    /// Ends a person's `Pause`, and releases a stage that its deadline held.
    Resume,
    /// Lets a rejected revision launch again.
    Retry,
    /// Skips what is left of the current stage's minimum duration. Its gates must still pass.
    Promote,
    /// Counts the named gates of the current stage as passed. Status says so until the next launch, and the decision itself stays.
    Override,
}

/// What Sluice answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::never_null, extend("default" = {"state": "Pending", "reason": "waiting for Sluice"}))]
pub struct LaunchDecisionStatus {
    /// `Pending` until Sluice has looked, then `Applied` or `Ignored` for ever.
    pub state: DecisionState,
    /// What it did, or why it did nothing.
    #[schemars(length(max = 512))]
    pub reason: String,
    /// When it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub at: Option<k8s_openapi::jiff::Timestamp>,
}

/// Whether Sluice has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DecisionState {
    /// Not answered yet.
    Pending,
    /// It was done, once.
    Applied,
    /// It was not done, and never will be: the reason says why.
    Ignored,
}
