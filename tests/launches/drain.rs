//! Runs finish: a revision that loses its traffic keeps its pods until its runs have ended, or the deadline has passed.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use sluice::api::{AgentDeployment, Outcome};

use crate::cluster::Agent;
use crate::{fires_at_once, holding, quick, shared};

/// How long the runs of these tests take, in seconds.
const RUN: u64 = 25;

/// Seconds between two instants.
fn between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// When a revision lost its traffic, while it is drained.
fn lost_traffic_at(agent: &AgentDeployment, revision: &str) -> Option<Timestamp> {
    let retiring = agent.status.iter().flat_map(|status| &status.state.retiring);
    retiring.filter(|retiring| retiring.revision == revision).map(|retiring| retiring.since).next()
}

#[tokio::test]
async fn streamed_runs_of_before_a_promotion_end_whole_and_the_pods_go_soon_after() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let manifest = quick("drain")?.with("/spec/drain", json!({"deadline": "10m"}));
    let agent = Agent::apply(&cluster, manifest).await?;
    let first = agent.until_first_stable().await?;
    let load = agent.load(20).await?;
    let streams = agent.streams(RUN, 4).await?;
    ensure!(streams.revisions.iter().all(|revision| *revision == first), "{:?}", streams.revisions);
    agent.prompt("Second.", &json!({})).await?;
    let launch = agent.until_ended(2, Outcome::Succeeded).await?;
    let runs = streams.ended().await;
    let last = runs.iter().map(|run| run.ended).max().unwrap_or_default();
    ensure!(runs.len() == 4 && runs.iter().all(|run| run.broken.is_none()), "{runs:?}");
    let promoted = launch.ended_at.unwrap_or_default();
    ensure!(between(promoted, last) > 1.0, "the promotion took longer than the runs: nothing was drained");
    agent.until_sized(&first, 0).await?;
    let idle = between(last, Timestamp::now());
    println!("promoted, last run {:.1}s later, pods gone {idle:.1}s after it", between(promoted, last));
    ensure!(idle < 20.0, "the pods went {idle}s after the last run");
    let told = agent.events().await?;
    ensure!(told.iter().any(|(reason, _)| reason == "Drained"), "{told:?}");
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}

#[tokio::test]
async fn streamed_runs_on_a_canary_end_whole_after_its_rollback() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let half = json!([{"name": "hold", "traffic": 50, "minDuration": "1h"}]);
    let manifest =
        holding("drain-back")?.with("/spec/launch/stages", half).with("/spec/drain", json!({"deadline": "10m"}));
    let agent = Agent::apply(&cluster, manifest).await?;
    let first = agent.until_first_stable().await?;
    let load = agent.load(20).await?;
    agent.prompt("Second.", &json!({})).await?;
    let second = agent.until_in_stage(2, "hold").await?.revision;
    while load.snapshot().answered_by(&second) == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await; // a gateway says that it has taken a route before it uses it
    }
    let streams = agent.streams(RUN, 8).await?;
    let on_canary = streams.revisions.iter().filter(|revision| **revision == second).count();
    ensure!(on_canary > 0, "no run began on the canary: {:?}", streams.revisions);
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/triggers", fires_at_once())).await?;
    let launch = agent.until_ended(2, Outcome::RolledBack).await?;
    ensure!(agent.size(&second).await? > 0, "the canary's pods went with its traffic");
    let runs = streams.ended().await;
    let last = runs.iter().filter(|run| run.revision == second).map(|run| run.ended).max().unwrap_or_default();
    ensure!(runs.len() == 8 && runs.iter().all(|run| run.broken.is_none()), "{runs:?}");
    ensure!(between(launch.ended_at.unwrap_or_default(), last) > 1.0, "the rollback took longer than the runs");
    agent.until_sized(&second, 0).await?;
    let idle = between(last, Timestamp::now());
    println!("{on_canary} of 8 runs on the canary; pods gone {idle:.1}s after the last");
    ensure!(idle < 20.0, "the pods went {idle}s after the last run");
    ensure!(agent.size(&first).await? == 2, "stable was resized");
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}

#[tokio::test]
async fn pods_go_at_the_drain_deadline_whatever_runs_on_them() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let manifest = quick("drain-late")?.with("/spec/drain", json!({"deadline": "15s"}));
    let manifest = manifest.with("/spec/template/spec/terminationGracePeriodSeconds", json!(5)); // which still holds
    let agent = Agent::apply(&cluster, manifest).await?;
    let first = agent.until_first_stable().await?;
    let streams = agent.streams(120, 2).await?;
    agent.prompt("Second.", &json!({})).await?;
    let draining = agent.until("draining", |agent| lost_traffic_at(agent, &first).is_some()).await?;
    let since = lost_traffic_at(&draining, &first).unwrap_or_default();
    agent.until_sized(&first, 0).await?;
    let kept = between(since, Timestamp::now());
    println!("pods gone {kept:.1}s after their traffic");
    ensure!((15.0..25.0).contains(&kept), "the pods went after {kept}s");
    let told = agent.events().await?;
    let late = told.iter().find(|(reason, _)| reason == "DrainDeadline").map(|(_, note)| note.clone());
    ensure!(late.as_ref().is_some_and(|note| note.contains("runs_in_flight 2 > 0")), "{told:?}");
    let runs = streams.ended().await;
    ensure!(runs.iter().all(|run| run.broken.is_some()), "runs of 120s ended whole: {runs:?}");
    agent.done().await
}
