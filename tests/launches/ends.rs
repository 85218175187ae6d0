//! An agent that is deleted leaves nothing behind, and an agent at rest causes no work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use sluice::api::Outcome;

use crate::cluster::{Agent, Cluster, Manifest, PATIENCE, condition, most_fail, share, sum_of, until_none};
use crate::{OPERATOR, holding, quick, shared};

#[tokio::test]
async fn an_agent_that_is_deleted_in_mid_launch_leaves_nothing_behind() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("gone")?).await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "hold").await?;
    agent.api().delete("gone", &DeleteParams::default()).await?;

    let labels = "sluice.dev/agent=gone";
    until_none(&agent.all::<Pod>(), labels).await?;
    until_none(&agent.all::<Deployment>(), labels).await?;
    until_none(&agent.all::<Service>(), labels).await?;
    until_none(&agent.all::<ConfigMap>(), labels).await?;
    until_none(&agent.all::<ControllerRevision>(), labels).await?;
    until_none(&agent.all::<PodDisruptionBudget>(), labels).await?;
    until_none(&agent.all::<ServiceAccount>(), labels).await?;
    let routes = agent.routes().list(&ListParams::default()).await?;
    ensure!(routes.items.is_empty(), "{routes:?}");
    // What the user made is still there.
    agent.all::<ConfigMap>().get("refund-prompts").await?;
    agent.done().await
}

/// `kubectl replace --force`: what the former agent owned is there for a moment, and has its name.
#[tokio::test]
async fn an_agent_that_is_deleted_and_applied_again_at_once_is_launched_as_soon_as_the_former_one_has_gone()
-> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::example("phoenix")?).await?;
    agent.until_first_stable().await?;
    let former = agent.now().await?.uid();
    agent.api().delete("phoenix", &DeleteParams::background()).await?;
    agent.edit(|_| ()).await?;
    ensure!(agent.now().await?.uid() != former, "it is the former one");
    let launched = tokio::time::timeout(Duration::from_secs(50), agent.until_first_stable()).await;
    launched.context("it waits for what is gone")??;
    agent.done().await
}

/// A canary does not go on serving because a backup takes its time; stable does.
#[tokio::test]
async fn an_agent_in_deletion_that_somebody_else_holds_serves_from_stable_alone() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("lingers")?).await?;
    agent.until_first_stable().await?;
    agent.edit(|manifest| manifest.0["metadata"]["finalizers"] = json!(["example.com/backup"])).await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "hold").await?.revision;
    let load = agent.load(20).await?;
    agent.api().delete("lingers", &DeleteParams::default()).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    let route = agent.routes().get("lingers").await?;
    ensure!(share(&route, &canary) == 0, "the canary has {}%", share(&route, &canary));
    agent.until_sized(&canary, 0).await?;
    let lost = load.stop().await.lost;
    ensure!(lost == 0, "{lost} requests were lost");
    agent.edit(|manifest| manifest.0["metadata"]["finalizers"] = json!([])).await?;
    until_none(&agent.all::<Service>(), "sluice.dev/agent=lingers").await?;
    agent.done().await
}

/// Promise 10. It needs the operator for itself, and waits until former tests' namespaces are gone.
#[tokio::test]
async fn agents_at_rest_cause_no_requests() -> anyhow::Result<()> {
    let _alone = OPERATOR.write().await;
    let cluster = Cluster::with_sluice().await?;
    let stable = Agent::apply(&cluster, Manifest::example("calm")?).await?;
    let rejected = Agent::apply(&cluster, Manifest::example("sulking")?).await?;
    stable.until_first_stable().await?;
    rejected.until_first_stable().await?;
    let load = rejected.load(40).await?;
    rejected.prompt("Be generous.", &most_fail()).await?;
    rejected.until_ended(2, Outcome::RolledBack).await?;
    rejected.until("without pods to retire", retired).await?;
    let stalled = rejected.now().await?;
    ensure!(condition(&stalled, "Stalled").starts_with("True"), "{}", condition(&stalled, "Stalled"));
    let lost = load.stop().await.lost;
    ensure!(lost == 0, "{lost} requests were lost");
    no_namespace_ends(&cluster).await?;
    until_none_ends(&rejected).await?;

    let before = cluster.operator_metrics().await?;
    tokio::time::sleep(Duration::from_secs(15)).await; // silence cannot be awaited
    let after = cluster.operator_metrics().await?;
    for metric in ["sluice_api_writes_total", "sluice_api_reads_total"] {
        let (before, after) = (sum_of(&before, metric, ""), sum_of(&after, metric, ""));
        ensure!(before > 0.0, "{metric} is not counted");
        ensure!(after - before < 0.5, "{} {metric} in 15 s of rest", after - before);
    }
    stable.done().await?;
    rejected.done().await
}

/// What people make of an agent's objects has its labels, and is theirs all the same.
#[tokio::test]
async fn copies_of_an_agents_objects_outlive_its_revision_and_cause_no_writes() -> anyhow::Result<()> {
    let _alone = OPERATOR.write().await;
    let cluster = Cluster::with_sluice().await?;
    let agent = Agent::apply(&cluster, quick("copied")?.with("/spec/revisionHistoryLimit", json!(1))).await?;
    let first = agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_ended(2, Outcome::Succeeded).await?;
    agent.until_sized(&first, 0).await?;

    let (name, create) = (format!("copied-{first}"), PostParams::default());
    let (deployments, config_maps) = (agent.all::<Deployment>(), agent.all::<ConfigMap>());
    let mut pods = deployments.get(&name).await?;
    pods.metadata = named("mine", &pods.metadata);
    pods.spec.iter_mut().for_each(|spec| spec.replicas = Some(1));
    let pods = deployments.create(&create, &pods).await?;
    let mut prompt = config_maps.get(&format!("{name}-refund-prompts")).await?;
    prompt.metadata = named(&format!("{name}-mine"), &prompt.metadata);
    let prompt = config_maps.create(&create, &prompt).await?;
    let expose = ["expose", "-n", &agent.namespace, &format!("deployment/{name}"), "--name=mine", "--port=80"];
    cluster.kubectl(&expose).await?;
    let exposed = agent.all::<Service>().get("mine").await?;
    ensure!(exposed.labels().get("sluice.dev/revision") == Some(&first), "labels are not copied: {exposed:?}");
    until_no_writes(&cluster).await?;

    agent.prompt("Third.", &json!({})).await?;
    agent.until_ended(3, Outcome::Succeeded).await?;
    until_none(&agent.all::<ControllerRevision>(), &format!("sluice.dev/revision={first}")).await?;
    until_no_writes(&cluster).await?;
    ensure!(deployments.get_opt(&name).await?.is_none(), "{name} is still there");
    let still = deployments.get("mine").await?;
    ensure!(still.uid() == pods.uid() && still.metadata.generation == pods.metadata.generation, "{still:?}");
    ensure!(config_maps.get(&format!("{name}-mine")).await?.uid() == prompt.uid(), "the copied prompt was replaced");
    ensure!(agent.all::<Service>().get("mine").await?.uid() == exposed.uid(), "the exposed Service was replaced");
    let stalled = condition(&agent.now().await?, "Stalled");
    ensure!(stalled.starts_with("False"), "{stalled}");
    agent.done().await
}

/// A new object's metadata with the labels of another.
fn named(name: &str, of: &ObjectMeta) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: of.labels.clone(), ..ObjectMeta::default() }
}

/// Waits until Sluice has written nothing for a while.
async fn until_no_writes(cluster: &Cluster) -> anyhow::Result<()> {
    let began = Instant::now();
    let written = async || anyhow::Ok(sum_of(&cluster.operator_metrics().await?, "sluice_api_writes_total", ""));
    let mut before = written().await?;
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await; // silence cannot be awaited
        let now = written().await?;
        if (now - before).abs() < 0.5 {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{} writes in 10 s of rest", now - before);
        before = now;
    }
}

fn retired(agent: &sluice::api::AgentDeployment) -> bool {
    agent.status.as_ref().is_some_and(|status| status.state.retiring.is_empty())
}

/// Waits until the pods that were taken away are gone: their end is news.
async fn until_none_ends(agent: &Agent) -> anyhow::Result<()> {
    let bad = agent.now().await?;
    let revision = crate::cluster::launch(&bad).map(|launch| launch.revision.clone()).unwrap_or_default();
    until_none(&agent.all::<Pod>(), &format!("sluice.dev/revision={revision}")).await
}

/// Waits until no namespace is being deleted: what ends in one is news too.
async fn no_namespace_ends(cluster: &Cluster) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let (all, writer) = reflector::store();
    let mut changes = watcher(namespaces, watcher::Config::default()).default_backoff().reflect(writer).boxed();
    let watching = async {
        let mut listed = false;
        while let Some(change) = changes.next().await {
            listed |= matches!(change, Ok(watcher::Event::InitDone));
            if listed && all.state().iter().all(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.map_err(|_| anyhow!("namespaces of former tests do not end"))
}
