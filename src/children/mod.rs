//! The objects an agent owns, as pure builders: minimal, with only the fields that Sluice means to own under server-side apply.
//!
//! Per agent: Service and ServiceAccount, named after it, and while a launch runs a copy of its plan. Per revision: ControllerRevision, frozen ConfigMaps, Deployment,
//! Service and PodDisruptionBudget, named `<agent>-<hash>`. Nothing here decides or talks to a cluster.

mod pods;
mod quota;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::json;

pub use pods::pods;
pub use quota::lacking;

use crate::api::{AGENT_LABEL, AgentDeployment, MANAGED_BY, PLAN_LABEL, REVISION_LABEL};
use crate::launch::WrittenPlan;
use crate::revision::names::{SERVICE_PORT, revision_name};
use crate::revision::{MANAGED_BY_LABEL, Revision};

/// Value of the revision label that no pod has: a Service with it selects nothing.
pub const NO_REVISION: &str = "none";

/// Sluice judges progress itself; Kubernetes takes this value as "no deadline".
const NO_PROGRESS_DEADLINE: i32 = i32::MAX;

/// The agent that owns an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the agent.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
}

impl Owner {
    /// The agent as an owner. `None` if the object does not come from an API server.
    pub fn of(agent: &AgentDeployment) -> Option<Self> {
        Some(Self {
            name: agent.metadata.name.clone()?,
            namespace: agent.metadata.namespace.clone()?,
            uid: agent.metadata.uid.clone()?,
        })
    }

    /// The owner reference that every child carries.
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: AgentDeployment::api_version(&()).into_owned(),
            kind: AgentDeployment::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// Whether this agent controls an object. What it does not control, it must not take over.
    pub fn controls(&self, object: &impl ResourceExt) -> bool {
        let mut owners = object.owner_references().iter();
        owners.any(|owner| owner.controller == Some(true) && owner.uid == self.uid)
    }

    /// Whether an object belonged to an agent of this name that exists no more: Kubernetes is about to delete it.
    pub fn follows(&self, object: &impl ResourceExt) -> bool {
        let mine = self.reference();
        let mut owners = object.owner_references().iter();
        owners.any(|owner| owner.kind == mine.kind && owner.name == mine.name && owner.uid != mine.uid)
    }

    /// The revision that this is the own object of (`<agent>-<hash>`): by its labels and by its name, and not if somebody else
    /// controls it. Labels alone say nothing: who copies a Deployment, or exposes it, copies them.
    pub fn revision_of(&self, object: &impl ResourceExt) -> Option<String> {
        let hash = self.labelled(object)?;
        (object.name_any() == revision_name(&self.name, hash) && self.may_own(object)).then(|| hash.clone())
    }

    /// Whether nobody else controls an object, not even a former agent of the same name.
    pub fn may_own(&self, object: &impl ResourceExt) -> bool {
        let mut controllers = object.owner_references().iter().filter(|owner| owner.controller == Some(true));
        controllers.all(|owner| owner.uid == self.uid)
    }

    /// Whether this is a frozen copy of a ConfigMap that belongs to a revision, and no copy of that one.
    pub fn froze(&self, object: &impl ResourceExt, revision: &str) -> bool {
        let prefix = format!("{}-", revision_name(&self.name, revision));
        let labelled = self.labelled(object).is_some_and(|hash| hash == revision);
        labelled && object.name_any().starts_with(&prefix) && self.controls(object)
    }

    /// The hash on an object in the agent's namespace that has its labels.
    fn labelled<'a>(&self, object: &'a impl ResourceExt) -> Option<&'a String> {
        let here = object.namespace().as_ref() == Some(&self.namespace);
        let labels = object.labels();
        labels.get(REVISION_LABEL).filter(|_| here && labels.get(AGENT_LABEL) == Some(&self.name))
    }

    /// Metadata of a child.
    pub fn metadata(&self, name: String, revision: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels(&self.name, revision)),
            owner_references: Some(vec![self.reference()]),
            ..ObjectMeta::default()
        }
    }
}

/// The labels of everything that belongs to an agent, or to one revision of it.
pub fn labels(agent: &str, revision: Option<&str>) -> BTreeMap<String, String> {
    let managed = (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    selector(agent, revision).into_iter().chain([managed]).collect()
}

/// The labels that select the pods of an agent, or of one revision of it.
pub fn selector(agent: &str, revision: Option<&str>) -> BTreeMap<String, String> {
    let revision = revision.map(|hash| (REVISION_LABEL.to_owned(), hash.to_owned()));
    revision.into_iter().chain([(AGENT_LABEL.to_owned(), agent.to_owned())]).collect()
}

/// Stores a revision. `number` orders them; the API server keeps the contents from changing.
pub fn controller_revision(owner: &Owner, revision: &Revision, number: i64) -> ControllerRevision {
    ControllerRevision {
        metadata: owner.metadata(revision.name(), Some(&revision.hash)),
        data: Some(RawExtension(revision.to_data())),
        revision: number,
    }
}

/// The copies of ConfigMaps that a revision's pods use: an edit of the originals does not reach them.
pub fn frozen_config_maps(owner: &Owner, revision: &Revision) -> Vec<ConfigMap> {
    let frozen = revision.config.iter().map(|(name, config)| ConfigMap {
        metadata: owner.metadata(revision.frozen_name(name), Some(&revision.hash)),
        data: (!config.data.is_empty()).then(|| config.data.clone()),
        binary_data: (!config.binary_data.is_empty()).then(|| config.binary_data.clone()),
        immutable: Some(true),
    });
    frozen.collect()
}

/// `<agent>-plan-<hash>`: the copy of a plan.
pub fn plan_name(agent: &str, hash: &str) -> String {
    format!("{agent}-plan-{hash}")
}

/// The key of a plan's copy that holds it, as JSON.
const PLAN_KEY: &str = "plan.json";

/// The copy of the plan that judges a running launch: it outlives an edit and a deletion of the original.
pub fn plan_copy(owner: &Owner, hash: &str, plan: &WrittenPlan) -> ConfigMap {
    let mut metadata = owner.metadata(plan_name(&owner.name, hash), None);
    metadata.labels.get_or_insert_default().insert(PLAN_LABEL.to_owned(), hash.to_owned());
    let text = serde_json::to_string(plan).unwrap_or_default(); // plain data: it always can be written
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([(PLAN_KEY.to_owned(), text)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The plan in a copy; `None` when it cannot be read. Its hash proves what it is.
pub fn stored_plan(copy: &ConfigMap) -> Option<WrittenPlan> {
    serde_json::from_str(copy.data.as_ref()?.get(PLAN_KEY)?).ok()
}

/// The pods of a revision. The template is the stored one, field by field: a typed one would drop what it does not know.
pub fn deployment(owner: &Owner, revision: &Revision, size: i32) -> DynamicObject {
    let mut deployment = DynamicObject::new(&revision.name(), &ApiResource::erase::<Deployment>(&()));
    deployment.metadata = owner.metadata(revision.name(), Some(&revision.hash));
    deployment.data = json!({"spec": {
        "replicas": size,
        "selector": {"matchLabels": selector(&owner.name, Some(&revision.hash))},
        "template": revision.template,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 0,
        "progressDeadlineSeconds": NO_PROGRESS_DEADLINE,
    }});
    deployment
}

/// The Service of one revision, behind which a route finds its pods.
pub fn revision_service(owner: &Owner, revision: &Revision) -> Service {
    Service {
        metadata: owner.metadata(revision.name(), Some(&revision.hash)),
        spec: Some(service(selector(&owner.name, Some(&revision.hash)), revision.port)),
        status: None,
    }
}

/// The agent's Service: it selects one revision, or nothing. `annotations` are those of the decision that moves it.
pub fn agent_service(owner: &Owner, selected: Option<&Revision>, annotations: BTreeMap<String, String>) -> Service {
    let hash = selected.map_or(NO_REVISION, |revision| &revision.hash);
    let port = selected.map_or(SERVICE_PORT, |revision| revision.port);
    Service {
        metadata: ObjectMeta {
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..owner.metadata(owner.name.clone(), None)
        },
        spec: Some(service(selector(&owner.name, Some(hash)), port)),
        status: None,
    }
}

/// The agent's Service as it should be when nothing is known of a revision but its hash: it leads to the port that it led to.
pub fn turned(
    owner: &Owner,
    live: Option<&Service>,
    revision: Option<&str>,
    annotations: BTreeMap<String, String>,
) -> Service {
    let mut service = agent_service(owner, None, annotations);
    let found = live.and_then(|live| live.spec.as_ref()?.ports.as_ref()).into_iter().flatten();
    // ours, or what somebody made of it
    let target = found.min_by_key(|port| port.port != SERVICE_PORT).and_then(|port| port.target_port.clone());
    if let Some(spec) = &mut service.spec {
        spec.selector = Some(selector(&owner.name, revision.or(Some(NO_REVISION))));
        spec.ports.iter_mut().flatten().for_each(|port| port.target_port = target.clone().or(port.target_port.take()));
    }
    service
}

/// Which revision a Service selects.
pub fn selected_revision(service: &Service) -> Option<String> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    selector.get(REVISION_LABEL).filter(|hash| *hash != NO_REVISION).cloned()
}

fn service(selector: BTreeMap<String, String>, port: i32) -> ServiceSpec {
    ServiceSpec {
        selector: Some(selector),
        ports: Some(vec![ServicePort {
            name: Some("http".to_owned()),
            protocol: Some("TCP".to_owned()),
            port: SERVICE_PORT,
            target_port: Some(IntOrString::Int(port)),
            ..ServicePort::default()
        }]),
        ..ServiceSpec::default()
    }
}

/// The agent's own ServiceAccount, used when the template names none.
pub fn service_account(owner: &Owner) -> ServiceAccount {
    ServiceAccount { metadata: owner.metadata(owner.name.clone(), None), ..ServiceAccount::default() }
}

/// How a drain of nodes may thin out the pods of a revision: a tenth at a time, and one at least, so that it never blocks;
/// pods that are not ready may always go. One per revision, because a broken canary must not block a drain of stable.
pub fn pod_disruption_budget(owner: &Owner, revision: &Revision) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owner.metadata(revision_name(&owner.name, &revision.hash), Some(&revision.hash)),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(LabelSelector {
                match_labels: Some(selector(&owner.name, Some(&revision.hash))),
                ..LabelSelector::default()
            }),
            max_unavailable: Some(IntOrString::String("10%".to_owned())),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests;
