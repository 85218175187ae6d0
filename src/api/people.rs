//! What the status of an agent remembers of people's decisions.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DecisionState, DecisionVerb, schema};

/// A person paused the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// Who.
    #[schemars(length(max = 400))]
    pub by: String,
    /// Why.
    #[schemars(length(max = 256))]
    pub reason: String,
    /// Since when.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Timestamp,
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// UID of the decision.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Name of the decision.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Whether it was done.
    pub state: DecisionState,
    /// What it did, or why it did nothing.
    #[schemars(length(max = 512))]
    pub reason: String,
    /// When it was answered.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Timestamp,
}

/// A person overruled a gate of a launch, or cut the wait of a stage short. It counts for that stage of that plan alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intervention {
    /// `Promote` or `Override`.
    pub verb: DecisionVerb,
    /// Name of the stage.
    #[schemars(length(max = 63))]
    pub stage: String,
    /// Hash of the plan that the stage is of.
    #[schemars(length(max = 63))]
    pub plan_hash: String,
    /// Hash of a later plan under which it holds on: one that only asks for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub holds_under: Option<String>,
    /// The gate that was overruled. Absent for `Promote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub gate: Option<String>,
    /// Who.
    #[schemars(length(max = 400))]
    pub by: String,
    /// Why.
    #[schemars(length(max = 256))]
    pub reason: String,
    /// When it took effect.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Timestamp,
}
