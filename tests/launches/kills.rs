//! The operator is killed, and its successor continues from what is in the cluster. Other tests run meanwhile.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use kube::ResourceExt as _;
use serde_json::json;
use sluice::api::{Launch, Outcome, Phase};

use crate::cluster::{Agent, Manifest, PATIENCE, condition, launch, most_fail, share, until};
use crate::history::History;
use crate::refusal::Refusal;
use crate::shared;

/// One at a time.
pub(crate) static KILLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_launch_goes_on_in_the_same_stage_after_the_operator_was_killed() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let stages = json!([
        {"name": "tenth", "traffic": 10, "minDuration": "30s"},
        {"name": "half", "traffic": 50, "minDuration": "1s"},
    ]);
    let agent = Agent::apply(&cluster, Manifest::example("killed")?.with("/spec/launch/stages", stages)).await?;
    agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(20).await?);
    agent.prompt("Be friendly.", &json!({})).await?;
    let before = agent.until_in_stage(2, "tenth").await?;
    let killing = KILLING.lock().await;
    let killed = cluster.kill_operator().await?;
    let began = Instant::now();
    let successor = cluster.leader().await?;
    println!("{successor} leads {:?} after {killed} was killed", began.elapsed());
    drop(killing);
    ensure!(successor != killed, "{killed} was not killed");

    let launch = agent.until_ended(2, Outcome::Succeeded).await?;
    ensure!(launch.revision == before.revision && launch.started_at == before.started_at, "{launch:?}");
    let starts: Vec<_> =
        history.launches().iter().filter(|l| l.stage_name == "tenth").filter_map(|l| l.began_at).collect();
    ensure!(starts.iter().all(|at| Some(*at) == before.began_at), "the stage began anew: {starts:?}");
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    let epochs = history.epochs();
    ensure!(epochs.len() > 1 && epochs.is_sorted(), "the successor writes under {epochs:?}");
    ensure!(history.shares(&launch.revision) == [0, 10, 50, 100, 0], "{:?}", history.shares(&launch.revision));
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}

#[tokio::test]
async fn a_rollback_stands_though_the_operator_is_killed_at_the_breach_and_before_it_is_told() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::example("halfway")?).await?;
    agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(40).await?);
    let no_rollback_is_told = Refusal::of_rollbacks(&agent).await?;
    let killing = KILLING.lock().await;
    let aim = cluster.aim().await?;
    agent.prompt("Be generous.", &most_fail()).await?;
    agent.until("in breach", |agent| launch(agent).is_some_and(|launch| !launch.breaches.is_empty())).await?;
    aim.kill().await?;
    aim.until_restarted().await?;
    let aim = cluster.aim().await?;
    let decided = |route: &kube::api::DynamicObject| route.annotations().contains_key("sluice.dev/decision");
    until(&agent.routes(), &agent.name, "taken back", PATIENCE, decided).await?;
    let written = agent.routes().get(&agent.name).await?;
    aim.kill().await?;
    let told = history.launches().into_iter().filter(|launch| launch.number == 2 && launch.outcome.is_some()).count();
    ensure!(told == 0, "the status told of the rollback before the operator was killed");
    no_rollback_is_told.lift().await?;
    aim.until_restarted().await?;
    drop(killing);

    let launch = agent.until_ended(2, Outcome::RolledBack).await?;
    let bad = &launch.revision;
    let seen = agent.until("stalled", |agent| condition(agent, "Stalled").starts_with("True RevisionRejected")).await?;
    let rejected = seen.status.map(|status| status.state.rejected).unwrap_or_default();
    ensure!(rejected.first().is_some_and(|first| first.revision == *bad), "{rejected:?}");
    let route = agent.routes().get(&agent.name).await?;
    let reason = route.annotations().get("sluice.dev/reason").context("no reason")?;
    ensure!(
        written.annotations().get("sluice.dev/reason") == Some(reason),
        "decided again: {:?}",
        written.annotations()
    );
    let decided_at = written.annotations().get("sluice.dev/decided-at").and_then(|at| at.parse().ok());
    ensure!(launch.decided_at == decided_at, "decided again at {:?}, not {decided_at:?}", launch.decided_at);
    ensure!(*reason == format!("TriggerFired: {}", launch.message.clone().unwrap_or_default()), "{reason}: {launch:?}");
    ensure!(share(&route, bad) == 0, "{bad} has traffic");
    ensure!(history.shares(bad) == [0, 10, 0], "{:?}", history.shares(bad));
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    let backward = |pair: &[Launch]| pair[0].phase == Phase::RollingBack && pair[1].phase == Phase::Progressing;
    ensure!(!history.launches().windows(2).any(backward), "the launch went forward again");
    let answers = load.stop().await;
    agent.ensure_none_lost(&answers).await?;
    agent.done().await
}
