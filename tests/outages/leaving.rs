//! Ends that nobody prepared: the namespace is deleted in the middle of a launch, Sluice is uninstalled before its agents.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions::is_deleted};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::alone;
use crate::cluster::{Agent, Cluster, Manifest, PATIENCE, SYSTEM, backends, gateway, install, sum_of, until};
use crate::common::path;

/// An agent whose launch stays at 10 % of a route that is the user's own, as Git has it.
async fn sharing(cluster: &Cluster, name: &str) -> anyhow::Result<(Agent, Value)> {
    let hold = json!([{"name": "hold", "traffic": 10, "minDuration": "1h"}]);
    let manifest = Manifest::example(name)?.with("/spec/launch/stages", hold);
    let manifest = manifest.with("/spec/template/spec/terminationGracePeriodSeconds", json!(2)); // nobody waits for its runs
    let manifest = manifest.with("/spec/traffic", json!({"httpRoute": {"name": "shop"}}));
    let agent = Agent::apply(cluster, manifest).await?;
    let git = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "shop", "namespace": agent.namespace},
        "spec": {
            "parentRefs": [gateway()?],
            "hostnames": [agent.host], "rules": [{"backendRefs": [{"name": agent.name, "port": 80}]}],
        },
    });
    apply(&agent, &git).await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "hold").await?;
    ensure!(backends(&agent.routes().get("shop").await?).len() == 2, "the route is not shared");
    Ok((agent, git))
}

async fn apply(agent: &Agent, git: &Value) -> anyhow::Result<()> {
    agent.routes().patch("shop", &PatchParams::apply("gitops").force(), &Patch::Apply(git)).await?;
    Ok(())
}

/// Deletes a namespace and waits until it is gone.
async fn delete_namespace(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let uid = namespaces.get(name).await?.uid().unwrap_or_default();
    namespaces.delete(name, &DeleteParams::background()).await?;
    let gone = await_condition(namespaces, name, is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.context("the namespace is still there")??;
    Ok(())
}

/// Waits until the namespaces of earlier tests are gone: passes that fail in them would count as this one's.
async fn nobody_else_leaves(cluster: &Cluster) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    for one in namespaces.list(&ListParams::default()).await? {
        let (name, uid) = (one.name_any(), one.uid().unwrap_or_default());
        if one.metadata.deletion_timestamp.is_some() {
            let gone = await_condition(namespaces.clone(), &name, is_deleted(&uid));
            tokio::time::timeout(PATIENCE, gone).await.with_context(|| format!("{name} is still there"))??;
        }
    }
    Ok(())
}

#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn a_namespace_that_is_deleted_in_a_launch_ends_quietly_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let (_turn, cluster) = alone().await?;
    let (agent, _) = sharing(&cluster, "nobody-left").await?;
    nobody_else_leaves(&cluster).await?;
    let errors = |page: &str| sum_of(page, "sluice_reconcile_errors_total", "");
    let before = cluster.operator_metrics().await?;
    let begun = Instant::now();
    delete_namespace(&cluster, &agent.namespace).await?;
    println!("the namespace was gone after {:?}", begun.elapsed());

    let after = cluster.operator_metrics().await?;
    let failed = errors(&after) - errors(&before);
    let log = cluster.operator_log(5000).await;
    let about: Vec<&str> = log.lines().filter(|line| line.contains(&agent.namespace)).collect();
    let loud = |line: &&&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
    let loud: Vec<_> = about.iter().filter(loud).collect();
    println!("{failed} failed passes, {} of {} lines about it are warnings", loud.len(), about.len());
    ensure!(!about.is_empty(), "the log says nothing about the agent at all: {log}");
    ensure!(loud.is_empty(), "{loud:#?}");
    let reasons =
        |page: &str| page.lines().filter(|it| it.starts_with("sluice_reconcile_errors")).collect::<Vec<_>>().join("\n");
    ensure!(failed <= 3.0, "{failed} passes failed; before:\n{}\nafter:\n{}", reasons(&before), reasons(&after));
    let kinds = "deployments,services,configmaps,serviceaccounts,controllerrevisions,poddisruptionbudgets,httproutes";
    let mine = format!("sluice.dev/agent={}", agent.name);
    let left = cluster.kubectl(&["get", kinds, "-A", "-l", &mine, "-o", "name"]).await?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}

/// The command of the chart's notes for an agent that Sluice can no longer let go.
fn mend_of_the_notes(agent: &Agent) -> anyhow::Result<Vec<String>> {
    let notes = std::fs::read_to_string(path("charts/sluice/templates/NOTES.txt"))?;
    let line = notes.lines().map(str::trim).find(|line| line.starts_with("kubectl patch agentdeployment"));
    let line = line.context("the notes do not tell the mend")?.replace("NAMESPACE", &agent.namespace);
    let words = line.replace(" NAME ", &format!(" {} ", agent.name));
    Ok(words.split_whitespace().skip(1).map(|word| word.trim_matches('\'').to_owned()).collect())
}

#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn an_agent_that_sluice_left_in_a_launch_can_be_deleted_as_the_notes_say() -> anyhow::Result<()> {
    let (_turn, cluster) = alone().await?;
    let (agent, git) = sharing(&cluster, "left-alone").await?;
    let load = agent.load(20).await?;
    let done = cluster.run("HELM", &["uninstall", "sluice", "--namespace", SYSTEM, "--wait"], None).await?;
    ensure!(done.status.success(), "helm: {}", String::from_utf8_lossy(&done.stderr));

    // The route as Git has it: all requests are stable's again, and it stays so.
    apply(&agent, &git).await?;
    ensure!(agent.routes().get("shop").await?.data["spec"]["rules"][0]["backendRefs"][0]["name"] == agent.name);
    let answers = load.stop().await;
    println!("{} requests while Sluice was uninstalled, {} lost", answers.sent, answers.lost);
    ensure!(answers.lost == 0, "{:?}", answers.losses);

    let uid = agent.now().await?.uid().unwrap_or_default();
    agent.api().delete(&agent.name, &DeleteParams::background()).await?;
    let waits = |agent: &sluice::api::AgentDeployment| agent.metadata.deletion_timestamp.is_some();
    until(&agent.api(), &agent.name, "waiting for nobody", Duration::from_secs(10), waits).await?;
    let mend = mend_of_the_notes(&agent)?;
    cluster.kubectl(&mend.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let gone = await_condition(agent.api(), &agent.name, is_deleted(&uid));
    tokio::time::timeout(Duration::from_secs(10), gone).await.context("it is still there")??;
    install(&cluster).await?; // for whoever comes next
    agent.done().await
}
