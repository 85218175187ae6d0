//! `AgentDeployment`: what a user applies.

use std::collections::BTreeMap;

use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AgentDeploymentStatus, LaunchSpec, Metrics, rules, schema};

/// An agent: what it runs, how it serves and how a new revision of it is launched.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "AgentDeployment",
    namespaced,
    shortname = "agd",
    category = "all",
    status = "AgentDeploymentStatus",
    derive = "PartialEq",
    doc = "An AI agent that is launched through gates and taken back when a trigger fires.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.summary.stable", description = "Revision that owns the traffic"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.summary.canary", description = "Revision that is being launched"),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.summary.stage", description = "Stage of the launch"),
    printcolumn(name = "Weight", type_ = "string", json_path = ".status.summary.weight", description = "Share of the traffic that the canary gets"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.summary.verdict", description = "What the stage's gates say"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.summary.reason", description = "Why, with numbers"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::agent_name()
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::never_null)]
#[x_kube(validation = rules::has_port())]
#[x_kube(validation = rules::one_plan())]
#[x_kube(validation = rules::only_a_plan_is_tightened())]
#[x_kube(validation = rules::shares_need_a_gateway())]
#[x_kube(validation = rules::pods_make_half_at_most())]
#[x_kube(validation = rules::pods_know_no_requests())]
#[x_kube(validation = rules::pods_are_the_share())]
#[x_kube(validation = rules::gates_name_metrics())]
#[x_kube(validation = rules::triggers_name_metrics())]
#[x_kube(validation = rules::rates_need_a_floor())]
pub struct AgentDeploymentSpec {
    /// How many pods all the traffic needs; a HorizontalPodAutoscaler may set it. 1 when absent. Not part of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000), extend("default" = 1))] // `scale` fails on an object without the field
    pub replicas: Option<i32>,
    /// The agent's pods.
    pub template: PodTemplate,
    /// ConfigMaps that make the agent behave as it does. They are frozen into the revision and mounted; an edit starts a launch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub config: Vec<ConfigSource>,
    /// The container port that serves. The template's first containerPort when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Asks for HTTP probes on the first container where the template has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Who moves the traffic. Without it the agent's Service moves in one write after the last stage, whose traffic is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How runs end on a revision that has lost its traffic. Its pods stay for 10s when absent. Not part of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// How the agent is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// How a launch is judged. The built-in plan `basic` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchSpec>,
    /// Holds the launch where it is. Triggers still roll back, and deadlines stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// How many former stable revisions are kept. 5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub revision_history_limit: Option<i32>,
}

/// A pod template: all of Kubernetes' fields, checked by a dry run before a launch begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// The pods' spec.
    pub spec: TemplateSpec,
    /// Everything else, carried as it is.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// Labels and annotations of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(validation = Rule::new("!has(self.labels) || !self.labels.exists(k, k.startsWith('sluice.dev/'))").message("labels of sluice.dev/ are Sluice's own: remove them").field_path(".labels"))]
pub struct TemplateMetadata {
    /// Labels of the pods; those of `sluice.dev/` are Sluice's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::string_map")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::string_map")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Everything else, carried as it is.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// The pods' spec; fields that no rule needs are not listed here and are carried as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct TemplateSpec {
    /// The containers; the first one is the agent.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub containers: Vec<Container>,
    /// Everything else, carried as it is.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// A container; fields that no rule needs are not listed here and are carried as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Container {
    /// Name of the container.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Image of the container.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Ports of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ports: Option<Vec<ContainerPort>>,
    /// Everything else, carried as it is.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ContainerPort {
    /// Number of the port.
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: i32,
    /// Everything else, carried as it is.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// A ConfigMap that is part of the revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSource {
    /// Name of this part of the configuration, such as `prompt`.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The ConfigMap, in the agent's namespace.
    pub config_map_ref: ConfigMapRef,
    /// Where the agent finds it, an absolute path. Not mounted when absent: it still makes the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 512), regex(pattern = r"^/[^:]+$"))]
    pub mount_path: Option<String>,
}

/// Names a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 190))]
    pub name: String,
}

/// HTTP probes for a template that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Path of the liveness probe. `/healthz` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = "^/"))]
    pub liveness_path: Option<String>,
    /// Path of the readiness probe. `/readyz` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = "^/"))]
    pub readiness_path: Option<String>,
}

/// How runs end on a revision that has lost its traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.deadline) >= duration('10s')").message("drain.deadline must be at least 10s: requests on their way need that long").field_path(".deadline"))]
pub struct Drain {
    /// A revision without traffic keeps its pods until the metric `runs_in_flight`, summed over them, is 0, and at most so long.
    /// What cannot be measured counts as runs. Pods that others evict end after their own `terminationGracePeriodSeconds`.
    #[schemars(schema_with = "schema::duration")]
    pub deadline: Duration,
}

/// Who moves the traffic: exactly one of `gateway`, `httpRoute` and `replicas`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.gateway), has(self.httpRoute), has(self.replicas)].exists_one(given, given)").message("set exactly one of gateway (Sluice makes the HTTPRoute), httpRoute (Sluice shares the traffic of yours) and replicas (the pods make the shares), or remove spec.traffic"))]
pub struct Traffic {
    /// A Gateway API gateway: Sluice renders an HTTPRoute of the agent's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// An HTTPRoute of yours, in the agent's namespace. In every rule that names the agent's Service (as the Service of the
    /// agent's name, with a weight above 0) that backend is replaced during a launch by the Services of two revisions, which
    /// together get the same share; at rest the rule is again what you wrote. Sluice never creates or deletes the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route: Option<RouteRef>,
    /// No gateway: callers use the agent's Service inside the cluster (`replicas: {}`), and in a stage it selects the pods of
    /// both revisions. The canary gets its share by the number of its pods, so a stage's `traffic` is one that pods allow: 4
    /// replicas allow 20, 34, 43 and 50. Another one holds the launch before anything moves, and the condition names those that
    /// are possible. A share counts new connections: a caller that keeps its connection stays on its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ByReplicas>,
}

/// The pods make the shares; there is nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ByReplicas {}

/// How shares of the traffic are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Not at all: the agent's Service moves in one write.
    None,
    /// By the weights of an HTTPRoute.
    Route,
    /// By the number of pods.
    Pods,
}

/// Names an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteRef {
    /// Name of the HTTPRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl AgentDeploymentSpec {
    /// How shares of the agent's traffic are made.
    pub fn sharing(&self) -> Sharing {
        match &self.traffic {
            None => Sharing::None,
            Some(traffic) if traffic.replicas.is_some() => Sharing::Pods,
            Some(_) => Sharing::Route,
        }
    }

    /// The gateway that Sluice renders a route for.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.traffic.as_ref().and_then(|traffic| traffic.gateway.as_ref())
    }

    /// The name of the user's route that Sluice shares the traffic of.
    pub fn adopted_route(&self) -> Option<&str> {
        self.traffic.as_ref().and_then(|traffic| traffic.http_route.as_ref()).map(|route| route.name.as_str())
    }
}

/// The gateways that the agent's HTTPRoute attaches to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// The gateways.
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names of the agent. All of the gateway's when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
        )
    )]
    pub hostnames: Vec<String>,
}

/// A gateway, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Name of the Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the Gateway. The agent's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Listener of the Gateway. All when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// `kube::core::Duration` as a plain duration; negative ones never pass the schema and count as zero.
pub fn span(duration: &Duration) -> std::time::Duration {
    if duration.is_negative() { std::time::Duration::ZERO } else { (*duration).into() }
}
