//! The agent's Service as the one that shares: in a stage it selects the pods of both revisions, otherwise of one.
//!
//! Whose share it is, and how large it may be, is an annotation of the same write as the selector. Sizes are not written here.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::{AGENT_LABEL, FIELD_MANAGER, REVISION_LABEL, annotations};
use crate::children;
use crate::launch::{Pods, Programmed, Route, RouteVersion, Shares, Wanted, share_of_pods};

/// The Service selects the pods of two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSplit {
    /// Hash of the stable revision.
    pub stable: String,
    /// Hash of the canary.
    pub canary: String,
    /// The share that the canary may have, 1 to 99 percent.
    pub weight: i32,
}

impl PodSplit {
    /// What a decision asks of the Service, if it asks for a share.
    pub fn of(wanted: &Wanted) -> Option<Self> {
        match &wanted.shares {
            Some(Shares::Split { stable, canary, weight })
                if (1..100).contains(weight) && wanted.service.as_ref() == Some(stable) =>
            {
                Some(Self { stable: stable.clone(), canary: canary.clone(), weight: *weight })
            }
            _ => None,
        }
    }

    /// The same revisions, and no larger share.
    pub fn is_within(&self, other: &Self) -> bool {
        (&self.stable, &self.canary) == (&other.stable, &other.canary) && self.weight <= other.weight
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        let (stable, canary, weight) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        let whole = words.next().is_none() && (1..100).contains(&weight) && stable != canary;
        whole.then_some(Self { stable, canary, weight })
    }

    /// The annotation that says whose share it is.
    pub fn annotation(&self) -> (String, String) {
        (annotations::SPLIT.to_owned(), format!("{} {} {}", self.stable, self.canary, self.weight))
    }

    /// The share that Deployments of these sizes make beside each other: it is never above the written one, unless somebody
    /// changed them.
    pub fn share(&self, size: impl Fn(&str) -> i32) -> i32 {
        share_of_pods(size(&self.stable), size(&self.canary))
    }

    /// Whether a revision has a part in it.
    pub fn names(&self, revision: &str) -> bool {
        [&self.stable, &self.canary].into_iter().any(|named| named == revision)
    }

    /// Whether the Deployments of an agent, as the API server holds them, make no larger share, and no other revision has pods.
    pub fn fits(&self, deployments: &[Deployment]) -> bool {
        let revision = |deployment: &Deployment| deployment.labels().get(REVISION_LABEL).cloned().unwrap_or_default();
        let sizes: BTreeMap<String, i32> = deployments.iter().map(|it| (revision(it), asked_pods(it))).collect();
        let whole = sizes.get(&self.stable).is_some_and(|size| *size > 0);
        let share = self.share(|revision| sizes.get(revision).copied().unwrap_or(0));
        whole && share <= self.weight && besides(deployments.iter(), [&self.stable, &self.canary]).is_none()
    }
}

/// Whether a Service selects the pods of every revision of the agent.
pub fn selects_all(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.contains_key(REVISION_LABEL))
}

/// The share that a Service was given.
pub fn split_of(service: &Service) -> Option<PodSplit> {
    let written = service.annotations().get(annotations::SPLIT).filter(|_| selects_all(service))?;
    PodSplit::parse(written)
}

/// A Service that selects the pods of both revisions.
pub fn splitting(mut service: Service, agent: &str, split: &PodSplit) -> Service {
    if let Some(spec) = &mut service.spec {
        spec.selector = Some(children::selector(agent, None));
    }
    service.metadata.annotations.get_or_insert_default().extend([split.annotation()]);
    service
}

/// Who gets the traffic of the agent's Service, as its route; and the revision that it would select without any share.
pub fn read_service(service: Option<&Service>, pods: &BTreeMap<String, Pods>) -> (Route, Option<String>) {
    let size = |revision: &str| pods.get(revision).map_or(0, |pods| pods.size);
    let (shares, stable) = match service {
        Some(service) if selects_all(service) => match split_of(service) {
            Some(split) => {
                let weight = split.weight.max(split.share(size));
                let PodSplit { stable, canary, .. } = split;
                (Shares::Split { stable: stable.clone(), canary, weight }, Some(stable))
            }
            None => (Shares::Foreign("the agent's Service selects the pods of every revision".to_owned()), None),
        },
        Some(service) => (Shares::AtRest, children::selected_revision(service)),
        None => (Shares::AtRest, None),
    };
    (Route::Seen { shares, programmed: Programmed::Yes }, stable)
}

/// Which version of the Service it is, and who wrote its selector last, when that was not Sluice.
pub fn service_version(service: &Service) -> RouteVersion {
    let of_selector = service.managed_fields().iter().filter(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:selector").is_some())
    });
    let last = of_selector.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    RouteVersion {
        generation: service.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default(),
        rules_by: last.and_then(|entry| entry.manager.clone()).filter(|manager| manager != FIELD_MANAGER),
    }
}

/// Why a Service that selects every revision's pods would send to others than the two of a launch. Pods that end get nothing
/// from it.
pub fn stray<'a>(pods: impl Iterator<Item = &'a Pod>, agent: &str, revisions: [&str; 2]) -> Option<String> {
    let ends = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded"))
    };
    let mine = |pod: &&Pod| pod.labels().get(AGENT_LABEL).is_some_and(|of| of == agent) && !ends(pod);
    let strays = pods.filter(mine).filter(|pod| !is_of(*pod, revisions));
    let first = strays.map(ResourceExt::name_any).min()?; // the same one from pass to pass
    Some(format!("pod {first} is of neither revision, and the agent's Service would send to it too: it must end first"))
}

/// A Deployment of the agent that is of neither revision and asks for pods, or has some: they may come at any moment.
pub fn besides<'a>(deployments: impl Iterator<Item = &'a Deployment>, revisions: [&str; 2]) -> Option<String> {
    let there = |it: &Deployment| it.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let sized = deployments.filter(|it| !is_of(*it, revisions) && asked_pods(it).max(there(it)) > 0);
    let first = sized.map(ResourceExt::name_any).min()?; // the same one from pass to pass
    Some(format!(
        "Deployment {first} is of neither revision, and the agent's Service would send to its pods too: it must have none first"
    ))
}

/// Whether a pod or Deployment is of one of these revisions.
fn is_of(object: &impl ResourceExt, revisions: [&str; 2]) -> bool {
    object.labels().get(REVISION_LABEL).is_some_and(|hash| revisions.contains(&hash.as_str()))
}

/// Pods that a Deployment asks for; one when it does not say.
pub fn asked_pods(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Why pods of both revisions cannot be behind one Service: it has one port for all.
pub fn ports_differ(stable: &Service, canary: &Service) -> Option<String> {
    let (old, new) = (target(stable)?, target(canary)?);
    (old != new).then(|| port_changed(&old, &new))
}

/// The same for a revision that has no Service yet.
pub fn port_differs(agents: &Service, port: i32) -> Option<String> {
    let (old, new) = (target(agents)?, port.to_string());
    (old != new).then(|| port_changed(&old, &new))
}

/// The port of the pods behind a Service of ours, which has one.
fn target(service: &Service) -> Option<String> {
    match service.spec.as_ref()?.ports.as_ref()?.first()?.target_port.as_ref()? {
        IntOrString::Int(number) => Some(number.to_string()),
        IntOrString::String(name) => Some(name.clone()),
    }
}

fn port_changed(old: &str, new: &str) -> String {
    format!(
        "the port changes from {old} to {new}, and one Service has one port for the pods of both revisions: keep the port, \
         or launch this revision with a plan whose stages have no traffic"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(selector: &Value, split: Option<&str>) -> Service {
        let annotations = split.map_or(json!({}), |split| json!({annotations::SPLIT: split}));
        let ports = json!([{"port": 80, "targetPort": 8080}]);
        let metadata = json!({"annotations": annotations, "resourceVersion": "7"});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"selector": selector, "ports": ports}})).unwrap()
    }

    fn sized(sizes: &[(&str, i32)]) -> BTreeMap<String, Pods> {
        let pods = |size: i32| Pods { size, ..Pods::default() };
        sizes.iter().map(|(revision, size)| ((*revision).to_owned(), pods(*size))).collect()
    }

    fn read(service: &Service, sizes: &[(&str, i32)]) -> (Shares, Option<String>) {
        match read_service(Some(service), &sized(sizes)) {
            (Route::Seen { shares, .. }, stable) => (shares, stable),
            other => panic!("{other:?}"),
        }
    }

    const ALL: &str = "sluice.dev/agent";

    #[test]
    fn a_deployment_of_neither_revision_is_in_the_way_while_it_asks_for_pods_or_has_some() {
        let deployment = |revision: Option<&str>, asked: i32, there: i32| -> Deployment {
            let labels = revision.map_or(json!({}), |revision| json!({REVISION_LABEL: revision}));
            let spec = json!({"replicas": asked, "selector": {}, "template": {}});
            serde_json::from_value(json!({
                "metadata": {"name": "other", "labels": labels}, "spec": spec, "status": {"replicas": there},
            }))
            .unwrap()
        };
        let told = |deployment: Deployment| besides([deployment].iter(), ["ochre", "teal"]);
        assert_eq!(told(deployment(Some("teal"), 3, 3)), None);
        assert_eq!(told(deployment(Some("mauve"), 0, 0)), None);
        assert!(told(deployment(Some("mauve"), 1, 0)).is_some_and(|why| why.starts_with("Deployment other")));
        assert!(told(deployment(Some("mauve"), 0, 1)).is_some() && told(deployment(None, 1, 0)).is_some());
    }

    #[test]
    fn a_service_says_whose_share_it_gives() {
        let split = service(&json!({ALL: "faq"}), Some("ochre teal 20"));
        let shares = |weight| Shares::Split { stable: "ochre".to_owned(), canary: "teal".to_owned(), weight };
        let stable = Some("ochre".to_owned());
        assert_eq!(read(&split, &[("ochre", 4), ("teal", 1)]), (shares(20), stable.clone()));
        assert_eq!(read(&split, &[("ochre", 9), ("teal", 1)]), (shares(20), stable.clone()), "less than it may have");
        assert_eq!(read(&split, &[("ochre", 4), ("teal", 4)]), (shares(50), stable.clone()), "somebody made it more");
        let rests = service(&json!({ALL: "faq", REVISION_LABEL: "ochre"}), Some("ochre teal 20"));
        assert_eq!(read(&rests, &[("teal", 9)]), (Shares::AtRest, stable), "the selector counts");
        for text in [None, Some(""), Some("ochre teal"), Some("ochre ochre 5"), Some("ochre teal 0"), Some("a b 5 c")] {
            let (shares, stable) = read(&service(&json!({ALL: "faq"}), text), &[]);
            assert!(matches!(shares, Shares::Foreign(_)) && stable.is_none(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_a_narrow_service_has_no_share() {
        let split = PodSplit { stable: "ochre".to_owned(), canary: "teal".to_owned(), weight: 34 };
        let narrow = service(&json!({ALL: "faq", REVISION_LABEL: "ochre"}), None);
        let wide = splitting(narrow.clone(), "faq", &split);
        assert_eq!((split_of(&wide), split_of(&narrow)), (Some(split), None));
        assert_eq!(wide.spec.unwrap().selector.unwrap(), children::selector("faq", None));
    }

    #[test]
    fn a_share_is_written_only_beside_the_pods_that_make_it() {
        let split = PodSplit { stable: "ochre".to_owned(), canary: "teal".to_owned(), weight: 20 };
        let fits = |sizes: &[(&str, i32, i32)]| {
            let deployments: Vec<Deployment> = sizes
                .iter()
                .map(|(revision, size, there)| {
                    let metadata = json!({"labels": {REVISION_LABEL: revision}});
                    let status = json!({"replicas": there});
                    let spec = json!({"replicas": size, "selector": {}, "template": {}});
                    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
                })
                .collect();
            split.fits(&deployments)
        };
        assert!(fits(&[("ochre", 4, 4), ("teal", 1, 1), ("lime", 0, 0)]));
        assert!(fits(&[("ochre", 6, 6), ("teal", 1, 1)]));
        assert!(!fits(&[("ochre", 4, 4), ("teal", 2, 1)]), "it would be 34%");
        assert!(!fits(&[("ochre", 3, 3), ("teal", 1, 1)]), "stable has shrunk");
        assert!(!fits(&[("ochre", 4, 4), ("teal", 1, 1), ("lime", 0, 1)]), "a third revision's pod is there");
        assert!(!fits(&[("ochre", 4, 4), ("teal", 1, 1), ("lime", 1, 0)]));
        assert!(!fits(&[("teal", 1, 1)]) && !fits(&[]));
    }

    #[test]
    fn a_pod_of_neither_revision_is_in_the_way_until_it_ends() {
        let pod = |name: &str, revision: Option<&str>, more: Value| -> Pod {
            let mut labels = json!({ALL: "faq"});
            if let Some(revision) = revision {
                labels[REVISION_LABEL] = json!(revision);
            }
            let mut pod = json!({"metadata": {"name": name, "labels": labels}});
            pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(pod).unwrap()
        };
        let stray = |pod: Pod| stray([pod].iter(), "faq", ["ochre", "teal"]);
        assert_eq!(stray(pod("a", Some("ochre"), json!({}))), None);
        assert_eq!(stray(pod("a", Some("lime"), json!({"status": {"phase": "Failed"}}))), None);
        assert!(stray(pod("a", Some("lime"), json!({}))).unwrap().starts_with("pod a is of neither revision"));
        assert!(stray(pod("b", None, json!({}))).is_some(), "made by hand");
        let mut ending = pod("c", Some("lime"), json!({}));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        assert_eq!(stray(ending), None);
    }

    #[test]
    fn one_service_has_one_port() {
        let eighty = service(&json!({}), None);
        assert_eq!((port_differs(&eighty, 8080), ports_differ(&eighty, &eighty)), (None, None));
        let told = port_differs(&eighty, 9090).unwrap();
        assert!(told.starts_with("the port changes from 8080 to 9090"), "{told}");
    }

    #[test]
    fn somebody_else_who_writes_the_selector_is_named() {
        let by = |manager: &str, fields: Value| {
            let mut service = service(&json!({}), None);
            let entry = json!({"manager": manager, "fieldsType": "FieldsV1", "fieldsV1": fields});
            service.metadata.managed_fields = Some(vec![serde_json::from_value(entry).unwrap()]);
            let version = service_version(&service);
            (version.generation, version.rules_by)
        };
        let selector = json!({"f:spec": {"f:selector": {}}});
        assert_eq!(by("kubectl-edit", selector.clone()), (7, Some("kubectl-edit".to_owned())));
        assert_eq!(by(FIELD_MANAGER, selector), (7, None));
        assert_eq!(by("kubectl-edit", json!({"f:metadata": {}})), (7, None));
    }
}
