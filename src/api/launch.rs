//! Which plan judges an agent's launches: a `LaunchPlan` by name, made tighter if the agent asks for it, or one written inline.

use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Gate, LaunchPlanSpec, Trigger, schema};

/// Name of the built-in plan, unless a LaunchPlan has it.
pub const BASIC: &str = "basic";

/// Which plan judges the agent's launches: `planRef`, or a plan written here; the built-in plan `basic` when neither is.
///
/// While a launch runs, an edit of its plan (here or in the LaunchPlan) applies at once: it restarts the stage and never
/// raises the weight. An edit that only tightens (more triggers, more gates, a longer minDuration, nothing else) restarts
/// nothing. A plan that is deleted or becomes wrong meanwhile does not end the launch: it is held under a stored copy of the
/// plan it had, whose triggers, failing gates and deadlines go on, until the plan is there and right again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchSpec {
    /// The LaunchPlan that judges this agent. With it, no plan is written here: only `tighten` and `freeze`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_ref: Option<PlanRef>,
    /// What this agent asks for beyond its LaunchPlan. It can only make it stricter. Needs `planRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tighten: Option<Tightening>,
    /// A plan of the agent's own.
    #[serde(flatten)]
    pub plan: LaunchPlanSpec,
}

/// Names a LaunchPlan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanRef {
    /// Name of the LaunchPlan. `basic` is the built-in plan unless a LaunchPlan has that name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// What makes a plan stricter: more triggers, more gates, longer stages. Nothing here can loosen it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tightening {
    /// Stages of the plan, by name, that last longer or have more gates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stages: Vec<TighterStage>,
    /// Triggers besides those of the plan, under names that the plan does not use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Vec<Trigger>,
}

/// A stage of the plan that lasts longer or has more gates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TighterStage {
    /// Name of a stage of the plan.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The stage lasts at least so long: not less than in the plan, and less than its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub min_duration: Option<Duration>,
    /// Gates besides those of the plan, under names that the stage does not use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub gates: Vec<Gate>,
}
