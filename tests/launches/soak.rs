//! After the promotion: the previous revision waits at full size, and triggers return to it.

use anyhow::{Context as _, ensure};
use serde_json::json;
use sluice::api::Outcome;

use crate::cluster::{Agent, condition, stable};
use crate::history::History;
use crate::{fires_at_once, quick, shared};

#[tokio::test]
async fn a_trigger_in_soak_returns_to_the_previous_revision_and_no_request_is_lost() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, quick("soak")?).await?;
    let first = agent.until_first_stable().await?;
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/soak", json!("10m"))).await?;
    let (history, load) = (History::of(&agent), agent.load(40).await?);
    agent.prompt("Second.", &json!({})).await?;
    let second = agent.until_soaking(2).await?.revision;

    let ci = ["-n", &agent.namespace, "wait", "agd/soak", "--for=condition=Launched", "--timeout=30s"];
    cluster.kubectl(&ci).await?; // who waits for the launch need not wait for the soak
    let seen = agent.now().await?;
    let launched = condition(&seen, "Launched");
    ensure!(launched.starts_with(&format!("True Soaking {second} is stable and soaks until 20")), "{launched}");
    ensure!(launched.ends_with(&format!("triggers still return to {first}")), "{launched}");
    ensure!(stable(&seen) == Some(&*second), "stable is {:?}", stable(&seen));
    ensure!((agent.size(&first).await?, agent.size(&second).await?) == (2, 2), "the way back is not open at full size");

    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/triggers", fires_at_once())).await?;
    let launch = agent.until_ended(2, Outcome::RolledBack).await?;
    let message = launch.message.clone().unwrap_or_default();
    ensure!(message.starts_with("slow: latency_p95"), "{message}");
    ensure!(launch.stable.as_deref() == Some(&*first), "{launch:?}");
    let seen = agent.now().await?;
    ensure!(stable(&seen) == Some(&*first), "stable is {:?}", stable(&seen));
    let stalled = condition(&seen, "Stalled");
    ensure!(stalled.contains("RevisionRejected"), "{stalled}");
    ensure!(history.selected() == [first.clone(), second.clone(), first.clone()], "{:?}", history.selected());
    agent.until_sized(&second, 0).await?;
    ensure!(agent.size(&first).await? == 2, "stable was resized");
    let answers = load.stop().await;
    println!(
        "{} requests, {} lost; decided {:?}, ended {:?}",
        answers.sent, answers.lost, launch.decided_at, launch.ended_at
    );
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}

#[tokio::test]
async fn an_edit_back_in_soak_returns_at_once_and_a_soak_that_ends_is_trusted() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, quick("soaked")?).await?;
    let first = agent.until_first_stable().await?;
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/soak", json!("10m"))).await?;
    let (history, load) = (History::of(&agent), agent.load(40).await?);
    agent.prompt("Second.", &json!({})).await?;
    let second = agent.until_soaking(2).await?.revision;
    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    ensure!(history.selected() == [first.clone(), second.clone(), first.clone()], "{:?}", history.selected());

    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/soak", json!("8s"))).await?;
    agent.prompt("Third.", &json!({})).await?;
    let soaking = agent.until_soaking(3).await?;
    let trusted = |agent: &sluice::api::AgentDeployment, revision: &str| {
        let status = agent.status.as_ref();
        status.is_some_and(|status| status.state.trusted.iter().any(|trusted| trusted.revision == revision))
    };
    ensure!(!trusted(&agent.now().await?, &soaking.revision), "trusted before its soak has ended");
    let launch = agent.until_ended(3, Outcome::Succeeded).await?;
    let soaked = launch.ended_at.context("no end")?.duration_since(soaking.began_at.context("no beginning")?);
    ensure!(soaked.as_secs() >= 8, "it soaked for {soaked:?}");
    let seen = agent.now().await?;
    ensure!(trusted(&seen, &launch.revision) && !trusted(&seen, &second), "{:?}", seen.status);
    agent.until_sized(&first, 0).await?;
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}
