//! The objects as a user would see them with `kubectl get -o yaml`.

use serde_json::{Value, json};

use super::*;
use crate::api::AgentDeploymentSpec;

const YAML: &str = "
template: {spec: {fromTheFuture: true, containers: [{name: agent, image: 'agent:1', ports: [{containerPort: 8080}]}]}}
config: [{name: prompt, configMapRef: {name: prompts}, mountPath: /etc/prompt}]
";

fn owner() -> Owner {
    Owner { name: "refund".to_owned(), namespace: "support".to_owned(), uid: "u-1".to_owned() }
}

fn revision() -> Revision {
    let spec: AgentDeploymentSpec = serde_norway::from_str(YAML).unwrap();
    let prompts = serde_json::from_value(json!({"data": {"a": "b"}, "binaryData": {"c": "AAE="}})).unwrap();
    Revision::of("refund", &spec, &BTreeMap::from([("prompts".to_owned(), prompts)])).unwrap()
}

fn metadata(name: &str, hash: Option<&str>) -> Value {
    let mut metadata = json!({
        "name": name,
        "namespace": "support",
        "labels": {"app.kubernetes.io/managed-by": "sluice", "sluice.dev/agent": "refund"},
        "ownerReferences": [{
            "apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment", "name": "refund", "uid": "u-1",
            "controller": true, "blockOwnerDeletion": true,
        }],
    });
    if let Some(hash) = hash {
        metadata["labels"]["sluice.dev/revision"] = json!(hash);
    }
    metadata
}

#[test]
fn a_deployment_carries_the_stored_template_field_by_field() {
    let revision = revision();
    let hash = revision.hash.as_str();
    let expected = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(&format!("refund-{hash}"), Some(hash)),
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"sluice.dev/agent": "refund", "sluice.dev/revision": hash}},
            "template": revision.template,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": 2_147_483_647,
        },
    });
    assert_eq!(json!(deployment(&owner(), &revision, 3)), expected);
    assert_eq!(expected["spec"]["template"]["spec"]["fromTheFuture"], true);
}

#[test]
fn a_deployment_selects_the_pods_of_its_own_template() {
    let deployment = json!(deployment(&owner(), &revision(), 1));
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (label, value) in selector("refund", Some(&revision().hash)) {
        assert_eq!(labels[label], value);
    }
}

#[test]
fn a_controller_revision_gives_the_revision_back() {
    let revision = revision();
    let stored = json!(controller_revision(&owner(), &revision, 7));
    assert_eq!(stored["metadata"], metadata(&revision.name(), Some(&revision.hash)));
    assert_eq!((&stored["apiVersion"], &stored["revision"]), (&json!("apps/v1"), &json!(7)));
    assert_eq!(Revision::from_data(&stored["data"]).unwrap(), revision);
}

#[test]
fn frozen_copies_are_immutable_and_are_those_that_the_pods_mount() {
    let revision = revision();
    let frozen = json!(frozen_config_maps(&owner(), &revision));
    let name = format!("refund-{}-prompts", revision.hash);
    let expected = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(&name, Some(&revision.hash)),
        "data": {"a": "b"}, "binaryData": {"c": "AAE="}, "immutable": true,
    }]);
    assert_eq!(frozen, expected);
    assert_eq!(revision.template["spec"]["volumes"][0]["configMap"]["name"], name);
}

#[test]
fn a_plans_copy_is_immutable_goes_with_the_agent_and_gives_the_plan_back() {
    let spec: AgentDeploymentSpec = serde_norway::from_str(YAML).unwrap();
    let plan = WrittenPlan::of(&spec, None).unwrap();
    let copy = plan_copy(&owner(), "0123456789", &plan);
    let mut expected = metadata("refund-plan-0123456789", None);
    expected["labels"]["sluice.dev/plan"] = json!("0123456789");
    assert_eq!(serde_json::to_value(&copy.metadata).unwrap(), expected);
    assert_eq!((copy.immutable, stored_plan(&copy)), (Some(true), Some(plan)));
    assert_eq!(stored_plan(&ConfigMap::default()), None);
}

#[test]
fn a_revisions_service_leads_to_its_pods_and_port() {
    let revision = revision();
    let expected = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(&revision.name(), Some(&revision.hash)),
        "spec": {
            "selector": {"sluice.dev/agent": "refund", "sluice.dev/revision": revision.hash},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    });
    assert_eq!(json!(revision_service(&owner(), &revision)), expected);
}

#[test]
fn the_agents_service_selects_one_revision_or_nothing() {
    let revision = revision();
    let one = agent_service(&owner(), Some(&revision), BTreeMap::new());
    let none = agent_service(&owner(), None, BTreeMap::new());
    assert_eq!(json!(one.metadata), metadata("refund", None));
    assert_eq!(json!(one.spec)["ports"][0]["targetPort"], 8080);
    assert_eq!(json!(none.spec)["selector"]["sluice.dev/revision"], "none");
    assert_eq!(selected_revision(&one), Some(revision.hash));
    assert_eq!(selected_revision(&none), None);
}

#[test]
fn a_service_of_a_lost_revision_leads_where_it_led_whatever_somebody_made_of_its_port() {
    let led =
        |live: Option<&Service>| json!(turned(&owner(), live, Some("0123456789"), BTreeMap::new()))["spec"].clone();
    let ports = |target: i32| json!([{"name": "http", "protocol": "TCP", "port": 80, "targetPort": target}]);
    for found in [ports(8080), json!([{"name": "http", "protocol": "UDP", "port": 8081, "targetPort": 8080}])] {
        let live = serde_json::from_value(json!({"metadata": {"name": "refund"}, "spec": {"ports": found}})).unwrap();
        assert_eq!(led(Some(&live))["ports"], ports(8080), "{found}");
    }
    assert_eq!(led(None)["ports"], ports(80));
    assert_eq!(led(None)["selector"]["sluice.dev/revision"], "0123456789");
}

#[test]
fn a_decision_rides_on_the_agents_service() {
    let annotations = BTreeMap::from([("sluice.dev/epoch".to_owned(), "3".to_owned())]);
    let service = json!(agent_service(&owner(), None, annotations));
    assert_eq!(service["metadata"]["annotations"], json!({"sluice.dev/epoch": "3"}));
}

#[test]
fn the_service_account_owns_nothing_but_its_name() {
    let expected = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("refund", None)});
    assert_eq!(json!(service_account(&owner())), expected);
}

#[test]
fn a_budget_covers_one_revision_and_never_blocks_a_drain() {
    let revision = revision();
    let budget = json!(pod_disruption_budget(&owner(), &revision));
    assert_eq!(budget["metadata"], metadata(&revision.name(), Some(&revision.hash)));
    let expected = json!({
        "selector": {"matchLabels": {"sluice.dev/agent": "refund", "sluice.dev/revision": revision.hash}},
        "maxUnavailable": "10%",
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    });
    assert_eq!(budget["spec"], expected);
}

#[test]
fn an_owner_is_an_agent_that_an_api_server_knows() {
    let spec: AgentDeploymentSpec = serde_norway::from_str(YAML).unwrap();
    let mut agent = AgentDeployment::new("refund", spec);
    assert_eq!(Owner::of(&agent), None);
    agent.metadata.namespace = Some("support".to_owned());
    agent.metadata.uid = Some("u-1".to_owned());
    assert_eq!(Owner::of(&agent), Some(owner()));
}

#[test]
fn an_agent_controls_its_own_children_and_no_others() {
    let service = revision_service(&owner(), &revision());
    assert!(owner().controls(&service));
    let other = Owner { uid: "u-2".to_owned(), ..owner() };
    assert!(!other.controls(&service));
    assert!(!owner().controls(&Service::default()));
}

#[test]
fn copies_of_a_revisions_objects_are_their_makers_whatever_their_labels_say() {
    let revision = revision();
    let service = revision_service(&owner(), &revision);
    let edited = |edit: fn(&mut ObjectMeta)| {
        let mut service = service.clone();
        edit(&mut service.metadata);
        owner().revision_of(&service)
    };
    let is_ours = Some(revision.hash.clone());
    assert_eq!(edited(|_| ()), is_ours);
    assert_eq!(edited(|it| it.owner_references = None), is_ours, "the name is ours: it is taken up again");
    assert_eq!(edited(|it| it.name = Some("mine".to_owned())), None);
    assert_eq!(edited(|it| it.namespace = Some("elsewhere".to_owned())), None);
    assert_eq!(edited(|it| it.labels = None), None);
    let other = Owner { uid: "u-2".to_owned(), ..owner() };
    assert_eq!(other.revision_of(&service), None, "a former agent of the same name has it");
    assert_eq!(owner().revision_of(&agent_service(&owner(), Some(&revision), BTreeMap::new())), None);
}

#[test]
fn a_copy_of_a_frozen_config_map_is_its_makers() {
    let revision = revision();
    let frozen = frozen_config_maps(&owner(), &revision).remove(0);
    assert!(owner().froze(&frozen, &revision.hash) && !owner().froze(&frozen, "0123456789"));
    let mut renamed = frozen.clone();
    renamed.metadata.name = Some("mine".to_owned()); // with its owner, as `kubectl get -o yaml` tells it
    let mut freed = frozen;
    freed.metadata.owner_references = None;
    assert!(!owner().froze(&renamed, &revision.hash) && !owner().froze(&freed, &revision.hash));
}

#[test]
fn every_name_of_the_longest_agent_is_a_name() {
    let long = "a".repeat(40);
    assert!(revision_name(&long, &revision().hash).len() <= 63);
}

#[test]
fn a_service_that_is_turned_to_pods_of_which_nothing_is_known_asks_them_at_the_port_of_before() {
    let owner = Owner { name: "a".to_owned(), namespace: "n".to_owned(), uid: "u".to_owned() };
    for ports in [
        serde_json::json!([{"name": "http", "port": 80, "targetPort": 9000}]),
        serde_json::json!([{"name": "http", "port": 8080, "targetPort": 9000}]),
        serde_json::json!([{"name": "web", "port": 80, "targetPort": 9000}, {"name": "other", "port": 81, "targetPort": 1}]),
    ] {
        let live: Service = serde_json::from_value(serde_json::json!({"spec": {"ports": ports}})).unwrap();
        let turned = turned(&owner, Some(&live), Some("ochre"), BTreeMap::new());
        assert_eq!(selected_revision(&turned).as_deref(), Some("ochre"));
        let spec = serde_json::to_value(turned.spec).unwrap();
        let ours = serde_json::json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 9000}]);
        assert_eq!(spec["ports"], ours, "{ports}");
    }
}
