//! First deployments, and the smallest manifest.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;
use sluice::api::Outcome;

use crate::cluster::{Agent, Manifest, backends, condition, stable, until_none};
use crate::history::History;
use crate::shared;

/// The columns of `kubectl get agd` for one agent.
async fn line(agent: &Agent) -> anyhow::Result<Vec<String>> {
    let table = agent.cluster.kubectl(&["-n", &agent.namespace, "get", "agd", &agent.name]).await?;
    let (header, row) = table.split_once('\n').context("no row")?;
    let columns = ["NAME", "STABLE", "CANARY", "STAGE", "WEIGHT", "VERDICT", "REASON", "AGE"];
    ensure!(header.split_whitespace().eq(columns), "{header}");
    Ok(row.split_whitespace().map(str::to_owned).collect())
}

/// Transcripts 3 and 4.
#[tokio::test]
async fn a_first_deployment_becomes_stable_and_ci_stops_waiting() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::example("faq-agent")?).await?;
    let ci = ["-n", &agent.namespace, "wait", "agd/faq-agent", "--for=condition=Launched", "--timeout=150s"];
    let waited = cluster.kubectl(&ci).await?;
    ensure!(waited.trim() == "agentdeployment.sluice.dev/faq-agent condition met", "{waited}");

    let seen = agent.now().await?;
    let revision = stable(&seen).context("no stable revision")?.to_owned();
    let told = line(&agent).await?;
    let (age, row) = told.split_last().context("an empty row")?;
    ensure!(row == ["faq-agent", &revision, "-", "-", "-", "-", "Stable"], "{told:?}");
    ensure!(age.ends_with('s') || age.ends_with('m'), "{age}");
    let ready = condition(&seen, "Ready");
    ensure!(ready == format!("True Serving 2/2 pods of {revision} ready"), "{ready}");

    let named = format!("faq-agent-{revision}");
    let service = agent.all::<Service>().get("faq-agent").await?;
    let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
    ensure!(selector.get("sluice.dev/revision") == Some(&revision), "{selector:?}");
    agent.all::<Service>().get(&named).await?;
    agent.all::<ServiceAccount>().get("faq-agent").await?;
    agent.all::<PodDisruptionBudget>().get(&named).await?;
    let pods = agent.all::<Deployment>().get(&named).await?.spec.and_then(|spec| spec.replicas);
    ensure!(pods == Some(2), "{pods:?} pods");
    let route = agent.routes().get("faq-agent").await?;
    ensure!(backends(&route) == [("faq-agent".to_owned(), 1)], "{:?}", backends(&route));

    let answers = agent.load(20).await?;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await; // twenty requests
    let answers = answers.stop().await;
    ensure!(answers.lost == 0 && answers.answered_by(&revision) == answers.sent, "{answers:?}");
    agent.done().await
}

#[tokio::test]
async fn the_smallest_agent_is_launched_without_a_gateway() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::smallest()?).await?;
    let first = agent.until_soaking(1).await?.revision; // the built-in plan soaks for 10 minutes
    let history = History::of(&agent);
    let variables = json!([{"name": "GREETING", "value": "hello"}]);
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/template/spec/containers/0/env", variables)).await?;

    let healthy = agent.until_in_stage(2, "healthy").await?;
    let told = line(&agent).await?;
    ensure!(told[..6] == [&agent.name, &first, &healthy.revision, "healthy", "1/1", "0%"], "{told:?}");
    let second = agent.until_soaking(2).await?.revision;
    let seen = agent.now().await?;
    let launched = condition(&seen, "Launched");
    ensure!(launched.starts_with(&format!("True Soaking {second} is stable and soaks until 20")), "{launched}");
    ensure!(stable(&seen) == Some(&*second) && agent.size(&first).await? == 1, "the way back is closed");
    ensure!(history.selected() == [first.clone(), second.clone()], "{:?}", history.selected());
    let before = history.launches().iter().filter(|launch| launch.number == 2).all(|launch| launch.weight % 100 == 0);
    ensure!(before, "a share other than 0 and 100 without a gateway");
    ensure!(
        agent.routes().list(&kube::api::ListParams::default()).await?.items.is_empty(),
        "a route without a gateway"
    );

    let short = json!("1s");
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch", json!({"soak": short}))).await?;
    agent.until_ended(2, Outcome::Succeeded).await?;
    // Its own soak was cut short: it is not trusted, and so it is gone.
    until_none(&agent.all::<Deployment>(), &format!("sluice.dev/revision={first}")).await?;
    agent.done().await
}
