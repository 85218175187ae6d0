//! Upgrading Sluice changes nothing: no launch starts, no pod restarts, no hash moves, and a stage goes on where it was.
//!
//! An earlier Sluice (image, chart and CRDs of the commit in `tests/upgrade-from`) is installed in a cluster of its own,
//! runs agents, and is replaced by this tree's as its chart's notes say. `make test-upgrade` brings all of it.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use cluster::{Agent, Cluster, Manifest, SYSTEM, condition, launch, most_fail, stable};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Launch, Outcome};

/// The earlier Sluice, made by `make test-upgrade`.
const BEFORE: &str = ".cluster/upgrade-from";

#[tokio::test]
#[ignore = "it replaces the operator of a whole cluster: `make test-upgrade` runs it on a cluster of its own"]
async fn an_upgrade_starts_no_launch_restarts_no_pod_moves_no_hash_and_the_stage_goes_on() -> anyhow::Result<()> {
    let cluster = Cluster::connect().await?;
    install(&cluster, &format!("{BEFORE}/crds"), &format!("{BEFORE}/charts/sluice"), "upgrade-from").await?;
    let resting = Agent::apply(&cluster, Manifest::smallest()?).await?;
    let rejected = Agent::apply(&cluster, Manifest::example("rejected")?).await?;
    let climbing = Agent::apply(&cluster, slow("climbing")?).await?;
    for agent in [&resting, &rejected, &climbing] {
        agent.until_first_stable().await?;
    }
    let load = climbing.load(40).await?;
    let errors = rejected.load(40).await?;
    rejected.prompt("Be generous.", &most_fail()).await?;
    let bad = rejected.until_ended(2, Outcome::RolledBack).await?.revision;
    errors.stop().await;
    rejected.until_sized(&bad, 0).await?; // its pods stay for a moment, and go without any upgrade
    climbing.prompt("Be friendly.", &json!({})).await?;
    climbing.until_in_stage(2, "tenth").await?;
    let agents = [&resting, &rejected, &climbing];
    let mut before = Vec::new();
    for agent in agents {
        before.push(At::of(agent).await?);
    }

    install(&cluster, "crds", "charts/sluice", "dev").await?;
    let passes = |page: &str| cluster::sum_of(page, "sluice_reconcile_seconds_count", "");
    while passes(&cluster.operator_metrics().await?) < 6.0 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await; // nothing tells when a counter has grown
    }
    for (agent, before) in agents.into_iter().zip(&before) {
        let after = At::of(agent).await?;
        ensure!(after == *before, "{} is not as it was: {before:#?}\nnow {after:#?}", agent.name);
    }
    let stalled = condition(&rejected.now().await?, "Stalled");
    ensure!(stalled.contains("will not launch again"), "{stalled}");

    let ended = climbing.until_ended(2, Outcome::Succeeded).await?;
    ensure!(
        stable(&climbing.now().await?) == Some(ended.revision.as_str()),
        "the launch went on and its revision serves"
    );
    let answers = load.stop().await;
    println!("{} requests through the upgrade, {} lost", answers.sent, answers.lost);
    ensure!(answers.lost == 0, "{:?}", answers.losses);
    Ok(())
}

/// An agent whose first stage outlasts the upgrade.
fn slow(name: &str) -> anyhow::Result<Manifest> {
    Ok(Manifest::example(name)?.with("/spec/launch/stages/0/minDuration", json!("45s")))
}

/// As an administrator does it: the CRDs first, then the chart.
async fn install(cluster: &Cluster, crds: &str, chart: &str, tag: &str) -> anyhow::Result<()> {
    let (crds, chart) = (common::path(crds), common::path(chart));
    let (crds, chart) = (crds.to_string_lossy(), chart.to_string_lossy());
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds]).await?;
    let (tag, source) = (format!("image.tag={tag}"), format!("sources[0].url={}", cluster.prometheus_url));
    let mut arguments = vec!["upgrade", "--install", "sluice", &*chart, "--namespace", SYSTEM, "--create-namespace"];
    arguments.extend(["--skip-crds", "--wait", "--timeout", "2m", "--set", &tag]);
    arguments.extend(["--set", "sources[0].name=default", "--set", &source]);
    let done = cluster.run("HELM", &arguments, None).await?;
    ensure!(done.status.success(), "helm: {}", String::from_utf8_lossy(&done.stderr));
    cluster.leader().await.map(drop)
}

/// What an upgrade must not touch.
#[derive(Debug, PartialEq)]
struct At {
    stable: Option<String>,
    launch: Option<Value>,
    rejected: usize,
    /// Names, identities and restarts.
    pods: BTreeMap<String, (Option<String>, i32)>,
    /// Their specs, size and template included. Not their generations: these move with an annotation too, as on a canary.
    deployments: BTreeMap<String, Value>,
    revisions: Vec<String>,
    route: Value,
}

impl At {
    async fn of(agent: &Agent) -> anyhow::Result<Self> {
        let seen = agent.now().await?;
        let all = ListParams::default();
        let restarts = |pod: &Pod| {
            let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            containers.map(|container| container.restart_count).sum()
        };
        let pods = agent.all::<Pod>().list(&all).await?.items.into_iter();
        let living = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let deployments = agent.all::<Deployment>().list(&all).await?.items.into_iter();
        let revisions = agent.all::<ControllerRevision>().list(&all).await?.items.into_iter();
        let ours = |object: &ControllerRevision| object.labels().contains_key(sluice::api::AGENT_LABEL);
        Ok(Self {
            stable: stable(&seen).map(str::to_owned),
            launch: launch(&seen).map(place).transpose()?,
            rejected: rejected(&seen),
            pods: living.map(|pod| (pod.name_any(), (pod.uid(), restarts(&pod)))).collect(),
            deployments: deployments.map(|it| (it.name_any(), json!(it.spec))).collect(),
            revisions: revisions.filter(ours).map(|it| it.name_any()).collect(),
            route: agent.routes().list(&all).await?.items.into_iter().map(|route| route.data["spec"].clone()).collect(),
        })
    }
}

fn rejected(agent: &AgentDeployment) -> usize {
    agent.status.as_ref().map_or(0, |status| status.state.rejected.len())
}

/// Where a launch is; verdicts and messages may be told anew.
fn place(launch: &Launch) -> anyhow::Result<Value> {
    let launch = serde_json::to_value(launch).context("a launch is JSON")?;
    let kept = [
        "number",
        "id",
        "revision",
        "stable",
        "planHash",
        "phase",
        "outcome",
        "stage",
        "weight",
        "startedAt",
        "enteredAt",
        "beganAt",
    ];
    Ok(kept
        .into_iter()
        .map(|field| (field.to_owned(), launch[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into())
}
