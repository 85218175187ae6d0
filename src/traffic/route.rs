//! The parts of an HTTPRoute that Sluice reads or writes; everything else is carried as it is.
//!
//! Partial on purpose: no generated type follows every version of Gateway API without dropping a field.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an HTTPRoute asks for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled",
    status = "HttpRouteStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// The gateways that it attaches to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_refs: Option<Vec<ParentReference>>,
    /// The host names that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostnames: Option<Vec<String>>,
    /// Its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<HttpRouteRule>>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A gateway, or another parent of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the parent.
    pub name: String,
    /// Listener of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Everything else, such as `port`.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A rule of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Who gets the requests that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_refs: Option<Vec<BackendRef>>,
    /// Everything else: matches, filters, timeouts.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Who gets a share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendRef {
    /// API group of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the backend.
    pub name: String,
    /// Port of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Its share is this among the sum of all. 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Everything else, such as `filters`.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What the gateways say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpRouteStatus {
    /// One entry for each parent and controller.
    #[serde(default)]
    pub parents: Vec<RouteParent>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What one gateway says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParent {
    /// Which of the route's parents.
    pub parent_ref: ParentReference,
    /// What it says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Everything else, such as `controllerName`.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// API group of gateways and routes.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Kind of a gateway.
const GATEWAY_KIND: &str = "Gateway";

impl ParentReference {
    /// A gateway with everything said that the API server would add.
    pub(super) fn gateway(name: String, namespace: Option<String>, section_name: Option<String>) -> Self {
        Self {
            group: Some(GATEWAY_GROUP.to_owned()),
            kind: Some(GATEWAY_KIND.to_owned()),
            namespace,
            name,
            section_name,
            rest: Map::new(),
        }
    }

    /// Whether two references, both of routes in `namespace`, mean the same parent.
    pub(super) fn same(&self, other: &Self, namespace: &str) -> bool {
        self.meaning(namespace) == other.meaning(namespace)
    }

    fn meaning<'a>(
        &'a self,
        namespace: &'a str,
    ) -> (&'a str, &'a str, &'a str, &'a str, Option<&'a str>, &'a Map<String, Value>) {
        (
            self.group.as_deref().unwrap_or(GATEWAY_GROUP),
            self.kind.as_deref().unwrap_or(GATEWAY_KIND),
            self.namespace.as_deref().unwrap_or(namespace),
            &self.name,
            self.section_name.as_deref(),
            &self.rest,
        )
    }

    /// The parent in a sentence.
    pub(super) fn told(&self, namespace: &str) -> String {
        let (_, kind, namespace, name, section, _) = self.meaning(namespace);
        let section = section.map(|section| format!(" (listener {section})")).unwrap_or_default();
        format!("{kind} {namespace}/{name}{section}")
    }
}

impl BackendRef {
    /// Whether it is a Service in the route's own namespace.
    pub(super) fn is_local_service(&self, namespace: &str) -> bool {
        self.group.as_deref().unwrap_or_default().is_empty()
            && self.kind.as_deref().is_none_or(|kind| kind == "Service")
            && self.namespace.as_deref().is_none_or(|other| other == namespace)
    }

    /// Its weight, as Gateway API understands it.
    pub(super) fn share(&self) -> i32 {
        self.weight.unwrap_or(1)
    }
}
