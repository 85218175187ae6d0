//! How a launch is judged: stages, gates, triggers. The words of a plan, not their meaning (that is `launch/`).

use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amount, FreezeWindow, rules, schema};

/// A plan: how the launches of the agents that name it are judged. The agents' own `metrics.define` apply: a plan names metrics.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "LaunchPlan",
    category = "all",
    derive = "PartialEq",
    doc = "How launches are judged: stages, gates, triggers. Shared by the agents that name it in spec.launch.planRef; the platform team's.",
    printcolumn(name = "First", type_ = "string", json_path = ".spec.stages[0].name", description = "First stage; empty for the built-in stages"),
    printcolumn(name = "Traffic", type_ = "integer", json_path = ".spec.stages[0].traffic", description = "Share of the first stage, in percent"),
    printcolumn(name = "Last", type_ = "string", json_path = ".spec.stages[-1:].name", description = "Last stage, whose gates make the canary stable"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::plan_name()
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::never_null)]
#[x_kube(validation = rules::shares_rise())]
#[x_kube(validation = rules::stages_can_end())]
#[x_kube(validation = rules::matches_come_first())]
pub struct LaunchPlanSpec {
    /// What every stage uses that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_defaults: Option<StageDefaults>,
    /// The steps of a launch, in order; shares of traffic must rise. The last stage's gates make the canary stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stages: Option<Vec<Stage>>,
    /// What ends the launch as soon as it fires, in any stage. They replace the built-in health triggers: keep `image-pull` and `unready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Option<Vec<Trigger>>,
    /// Times in which no launch goes forward. They are not part of the plan's hash: an edit applies at once and restarts nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub freeze: Vec<FreezeWindow>,
    /// How long triggers still return to the previous revision after the launched one has all the traffic; the previous one keeps
    /// its pods until then. Comparisons with stable do not count in it. None when absent; 10m in the built-in plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub soak: Option<Duration>,
    /// The canary's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryPods>,
}

/// How many pods a canary has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryPods {
    /// The canary has at least so many pods, however small its share; never more than `spec.replicas`. 1 when absent. An edit of it
    /// resizes a running canary and restarts no stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,
}

/// What every stage uses that does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageDefaults {
    /// The deadline of stages that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
}

/// One step of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.match) || self.traffic > 0").message("match names the requests that traffic is a share of: raise traffic above 0, or remove match").field_path(".match"))]
pub struct Stage {
    /// Name of the stage.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Share of the traffic that the canary gets, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub traffic: i32,
    /// The canary gets its share of the requests that match one of these only; all others stay with stable. Stages with
    /// `match` come before those without.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4))]
    pub only: Vec<RequestMatch>,
    /// The stage lasts at least so long, counted from when its weight was read back and the canary is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub min_duration: Option<Duration>,
    /// How long the stage may last in all (waiting for pods included), and what happens then. 24h, Rollback when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
    /// What must pass before the stage is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub gates: Vec<Gate>,
}

/// Requests that match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RequestMatch {
    /// All of these headers must be there. They are added to what a rule of the route matches already.
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<HeaderMatch>,
}

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct HeaderMatch {
    /// Name of the header, such as `x-risk`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: String,
    /// Its whole value.
    #[schemars(length(min = 1, max = 256))]
    pub value: String,
}

/// How long a wait may last, and its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.after) >= duration('1s')").message("a deadline must be at least 1s").field_path(".after"))]
pub struct Deadline {
    /// Counted from the moment the stage was entered; stands still while the agent is paused or frozen.
    #[schemars(schema_with = "schema::duration")]
    pub after: Duration,
    /// `Rollback`, or `Pause`: hold the weight and ask for a person.
    #[serde(default)]
    pub then: DeadlineOutcome,
}

/// What happens when a deadline passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DeadlineOutcome {
    /// The launch is rolled back.
    #[default]
    Rollback,
    /// The launch holds its weight until a person decides `Resume` or `Abort`, or edits the plan.
    Pause,
}

/// Must pass before its stage is left ("promote when"): exactly one of `metric`, `health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.metric) != has(self.health)").message("a gate is exactly one of metric, health: keep one"))]
pub struct Gate {
    /// Name of the gate, unique in its stage.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A metric must be within bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricGate>,
    /// The canary's pods must be healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthGate>,
    /// What a failing gate does: `Hold` (default) keeps the stage until it passes or the deadline comes, `Rollback` ends the launch.
    #[serde(default)]
    pub on_fail: OnFail,
}

/// What a failing gate does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnFail {
    /// The stage is held.
    #[default]
    Hold,
    /// The launch is rolled back.
    Rollback,
}

/// A metric that must be within bounds: exactly one of `value`, `ratioToStable`, `differenceFromStable`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.value), has(self.ratioToStable), has(self.differenceFromStable)].filter(x, x).size() == 1").message("a metric gate has exactly one of value, ratioToStable, differenceFromStable: keep one"))]
#[x_kube(validation = Rule::new("!has(self.window) || duration(self.window) >= duration('1s')").message("window must be at least 1s").field_path(".window"))]
pub struct MetricGate {
    /// A standard metric or one of `spec.metrics.define`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The span of data that is judged; it lies wholly after the stage began. 1m when absent; a count needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub window: Option<WindowSpan>,
    /// Fewer events than this in the window are `Insufficient`. 10 when absent; gauges and counts have no samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_samples: Option<i64>,
    /// The canary's value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<GateBounds>,
    /// The canary's value as a multiple of stable's: `{atMost: 120%}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_stable: Option<GateRatioBounds>,
    /// The canary's value minus stable's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference_from_stable: Option<GateBounds>,
}

/// A window's length; the same as a `metav1.Duration`, but ordered and hashable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowSpan(pub std::time::Duration);

impl Serialize for WindowSpan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Duration::from(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WindowSpan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Duration::deserialize(deserializer).map(|duration| Self(duration.into()))
    }
}

/// Bounds that a gate accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.atLeast) || has(self.atMost)").message("give atLeast, atMost or both"))]
pub struct GateBounds {
    /// Passes at this amount and above, with its unit: `99%`, `1200ms`, `15m`, `0` or, quoted, `"0.5"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Amount>,
    /// Passes at this amount and below, with its unit: `99%`, `1200ms`, `15m`, `0` or, quoted, `"0.5"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Amount>,
}

/// Multiples of stable's value that a gate accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.atLeast) || has(self.atMost)").message("give atLeast, atMost or both"))]
#[x_kube(validation = Rule::new("!has(self.floor) || has(self.atMost)").message("floor is the smallest limit that atMost can become: add atMost, or remove floor").field_path(".floor"))]
pub struct GateRatioBounds {
    /// Passes when canary >= this multiple of stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Amount>,
    /// Passes when canary <= max(this multiple of stable, floor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Amount>,
    /// The smallest limit that `atMost` can become, for when stable's value is close to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Amount>,
}

/// All pods of the canary must be ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthGate {
    /// For at least so long without interruption. 0s when absent.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub lasting: Option<Duration>,
}

/// Ends the launch as soon as it fires ("rollback when"): exactly one of `metric`, `health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.metric) != has(self.health)").message("a trigger is exactly one of metric, health: keep one"))]
pub struct Trigger {
    /// Name of the trigger.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A metric is out of bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricTrigger>,
    /// The canary's pods are unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthTrigger>,
    /// Fires when the breach has lasted so long without a pass. At once when absent.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub lasting: Option<Duration>,
}

/// A metric that is out of bounds: exactly one of `value`, `ratioToStable`, `differenceFromStable`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.value), has(self.ratioToStable), has(self.differenceFromStable)].filter(x, x).size() == 1").message("a metric trigger has exactly one of value, ratioToStable, differenceFromStable: keep one"))]
#[x_kube(validation = Rule::new("!has(self.window) || duration(self.window) >= duration('1s')").message("window must be at least 1s").field_path(".window"))]
pub struct MetricTrigger {
    /// A standard metric or one of `spec.metrics.define`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The span of data that is judged. 1m when absent; a count needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub window: Option<WindowSpan>,
    /// Fewer events than this in the window are `Insufficient`. 10 when absent; gauges and counts have no samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_samples: Option<i64>,
    /// The canary's value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<TriggerBounds>,
    /// The canary's value as a multiple of stable's: `{above: 200%, floor: 1%}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_stable: Option<TriggerRatioBounds>,
    /// The canary's value minus stable's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference_from_stable: Option<TriggerBounds>,
}

/// Bounds outside which a trigger is in breach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.above) || has(self.below)").message("give above, below or both"))]
pub struct TriggerBounds {
    /// In breach above this amount, with its unit: `99%`, `1200ms`, `15m`, `0` or, quoted, `"0.5"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Amount>,
    /// In breach below this amount, with its unit: `99%`, `1200ms`, `15m`, `0` or, quoted, `"0.5"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Amount>,
}

/// Multiples of stable's value outside which a trigger is in breach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.above) || has(self.below)").message("give above, below or both"))]
#[x_kube(validation = Rule::new("!has(self.floor) || has(self.above)").message("floor is the smallest limit that above can become: add above, or remove floor").field_path(".floor"))]
pub struct TriggerRatioBounds {
    /// In breach when canary > max(this multiple of stable, floor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Amount>,
    /// In breach when canary < this multiple of stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Amount>,
    /// The smallest limit that `above` can become. Required with `above` for metrics that are a share of events:
    /// twice nothing is nothing, and one error would end the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Amount>,
}

/// The canary's pods are unhealthy: exactly one of `restarts`, `condition`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.restarts) != has(self.condition)").message("a health trigger is exactly one of restarts, condition: keep one"))]
#[x_kube(validation = Rule::new("has(self.restarts) == has(self.within)").message("restarts and within go together: restarts: 3, within: 5m"))]
#[x_kube(validation = Rule::new("!has(self.within) || duration(self.within) >= duration('1s')").message("within must be at least 1s").field_path(".within"))]
pub struct HealthTrigger {
    /// So many container restarts of the canary's pods, all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub restarts: Option<i32>,
    /// The span in which `restarts` are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub within: Option<Duration>,
    /// A condition of the canary's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<PodCondition>,
}

/// A condition of a revision's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum PodCondition {
    /// A container waits in `CrashLoopBackOff`.
    CrashLoop,
    /// A container's image cannot be pulled.
    ImagePull,
    /// Fewer pods are ready than the launch asked for.
    Unready,
}
