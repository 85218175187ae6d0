//! The spec is edited while a launch runs.

use anyhow::ensure;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use sluice::api::{Outcome, Phase};

use crate::cluster::{Agent, PATIENCE, condition, launch, share, until};
use crate::history::History;
use crate::{holding, shared};

#[tokio::test]
async fn a_third_revision_supersedes_and_going_back_to_stable_aborts() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("edits")?).await?;
    let first = agent.until_first_stable().await?;
    let history = History::of(&agent);

    agent.prompt("Second.", &json!({})).await?;
    let second = agent.until_in_stage(2, "hold").await?.revision;
    let table = cluster.kubectl(&["-n", &agent.namespace, "get", "agd"]).await?;
    for words in [&first, &second, "hold 1/1", "10%"] {
        ensure!(table.contains(words), "{words:?} is not in\n{table}");
    }
    agent.prompt("Third.", &json!({})).await?;
    let superseded = agent.until_ended(2, Outcome::Superseded).await?;
    let third = agent.until_in_stage(3, "hold").await?.revision;
    let words = format!("the spec asks for {third} now");
    ensure!(superseded.message.as_deref() == Some(&*words), "{:?}", superseded.message);

    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(3, Outcome::Aborted).await?;
    let seen = agent.until("stable", |agent| condition(agent, "Launched").starts_with("True Stable")).await?;
    let rejected = seen.status.map(|status| status.state.rejected).unwrap_or_default();
    ensure!(rejected.is_empty(), "nothing was wrong with {rejected:?}");
    history.ensure_bounded(&[("hold", 10)])?;
    for revision in [&second, &third] {
        ensure!(history.shares(revision) == [0, 10, 0], "{revision} had {:?}", history.shares(revision));
    }
    ensure!(history.selected() == [first], "the Service moved to {:?}", history.selected());

    // What was aborted was not judged: it may launch again.
    agent.prompt("Second.", &json!({})).await?;
    ensure!(agent.until_in_stage(4, "hold").await?.revision == second, "another revision");
    agent.done().await
}

#[tokio::test]
async fn more_replicas_resize_a_launch_and_do_not_restart_it() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("sizes")?).await?;
    let first = agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    let before = agent.until_in_stage(2, "hold").await?;

    let deployments = agent.all::<Deployment>();
    let ready = |count: i32| {
        move |deployment: &Deployment| {
            deployment.status.as_ref().and_then(|status| status.ready_replicas) == Some(count)
        }
    };
    let old = format!("sizes-{first}");
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/replicas", json!(3))).await?;
    until(&deployments, &old, "at 3 pods", PATIENCE, ready(3)).await?;
    let said = cluster.kubectl(&["-n", &agent.namespace, "scale", "agd/sizes", "--replicas=4"]).await?;
    ensure!(said.contains("sizes scaled"), "{said}");
    until(&deployments, &old, "at 4 pods", PATIENCE, ready(4)).await?;

    let scaled = |agent: &sluice::api::AgentDeployment| {
        agent.status.as_ref().is_some_and(|status| status.replicas == Some(5)) // one more is the canary's
    };
    let seen = agent.until("at 5 ready pods in all", scaled).await?;
    let after = launch(&seen).cloned().unwrap_or_else(|| before.clone());
    ensure!(after.phase == Phase::Progressing && after.number == 2 && after.revision == before.revision, "{after:?}");
    ensure!(
        after.entered_at == before.entered_at && after.began_at == before.began_at,
        "the stage began anew: {after:?}"
    );
    ensure!(share(&agent.routes().get("sizes").await?, &after.revision) == 10, "the share changed");
    agent.done().await
}
