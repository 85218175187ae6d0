//! A good release climbs, a bad one is taken back, a trusted one passes no gates.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde_json::json;
use sluice::api::Outcome;

use crate::cluster::{Agent, Manifest, PATIENCE, condition, most_fail, share, stable, until};
use crate::history::History;
use crate::shared;

/// The plan of [`Manifest::example`].
const PLAN: [(&str, i64); 2] = [("tenth", 10), ("half", 50)];

#[tokio::test]
async fn a_good_revision_climbs_its_stages_and_no_request_is_lost() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::example("good")?).await?;
    let first = agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(40).await?);
    agent.prompt("Refund what was paid. Be friendly.", &json!({})).await?;

    let second = agent.until_in_stage(2, "half").await?.revision;
    let begun = load.snapshot();
    agent
        .until("past 50%", |agent| crate::cluster::launch(agent).is_some_and(|launch| launch.stage_name != "half"))
        .await?;
    let passed = load.snapshot();
    let launch = agent.until_ended(2, Outcome::Succeeded).await?;
    ensure!(launch.revision == second && launch.stable.as_deref() == Some(&*first), "{launch:?}");

    history.ensure_bounded(&PLAN)?;
    ensure!(history.shares(&second) == [0, 10, 50, 100, 0], "{:?}", history.shares(&second));
    ensure!(history.selected() == [first.clone(), second.clone()], "{:?}", history.selected());
    let answers = |revision: &str| passed.answered_by(revision) - begun.answered_by(revision);
    let (old, new) = (answers(&first), answers(&second));
    ensure!(
        old + new >= 60 && 3 * old >= 2 * new && 3 * new >= 2 * old,
        "at 50% stable answered {old}, the canary {new}"
    );

    let size = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
    until(&agent.all::<Deployment>(), &format!("good-{first}"), "scaled to 0", PATIENCE, |d| size(d) == Some(0))
        .await?;
    let serving = agent.all::<Deployment>().get(&format!("good-{second}")).await?;
    ensure!(size(&serving) == Some(2), "{:?} pods serve", size(&serving));
    let answers = load.stop().await;
    println!("{} requests, {} lost; at 50% {old}:{new}", answers.sent, answers.lost);
    agent.ensure_all_well(&answers).await?;
    ensure!(answers.answered_by(&first) + answers.answered_by(&second) == answers.sent, "{:?}", answers.revisions);
    agent.done().await
}

/// Transcript 10, and finality.
#[tokio::test]
async fn a_bad_revision_is_taken_back_for_good_and_no_request_is_lost() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::example("bad")?).await?;
    let first = agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(40).await?);
    agent.prompt("Be generous.", &most_fail()).await?;
    let launch = agent.until_ended(2, Outcome::RolledBack).await?;
    let bad = launch.revision.clone();
    history.ensure_bounded(&PLAN)?;
    ensure!(history.shares(&bad) == [0, 10, 0], "{:?}", history.shares(&bad));
    ensure!(history.selected() == [first.clone()], "the Service moved to {:?}", history.selected());

    let seen = agent.now().await?;
    let message = launch.message.clone().unwrap_or_default();
    ensure!(message.starts_with("errors-doubled: error_rate canary=") && message.contains("stable=0"), "{message}");
    let launched = condition(&seen, "Launched");
    ensure!(launched.starts_with(&format!("False RolledBack {message} at 20")), "{launched}");
    let mend = format!("{bad} will not launch again; revert Git");
    let described = cluster.kubectl(&["-n", &agent.namespace, "describe", "agd", "bad"]).await?;
    for words in ["RolledBack", &message, "Launched", "RevisionRejected", &mend, "Stalled", "RollingBack"] {
        ensure!(described.contains(words), "{words:?} is not in\n{described}");
    }
    let route = agent.routes().get("bad").await?;
    let told = route.annotations();
    let is = |key: &str, value: &str| told.get(key).is_some_and(|found| found == value);
    ensure!(is("sluice.dev/decision", "RolledBack") && is("sluice.dev/decided-revision", &bad), "{told:?}");
    ensure!(
        is("sluice.dev/launch", "bad-2") && is("sluice.dev/reason", &format!("TriggerFired: {message}")),
        "{told:?}"
    );
    ensure!(told.get("sluice.dev/epoch").and_then(|epoch| epoch.parse::<u64>().ok()) >= Some(1), "{told:?}");

    // It is final: the same content is the same revision, whoever applies it, and however often.
    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until("at peace with the former prompt", |agent| condition(agent, "Launched").starts_with("True")).await?;
    agent.prompt("Be generous.", &most_fail()).await?;
    let again = agent.until("stalled again", |agent| condition(agent, "Stalled").starts_with("True")).await?;
    ensure!(condition(&again, "Stalled").contains("RevisionRejected"), "{}", condition(&again, "Stalled"));
    agent.prompt("Refund what was paid. Be friendly.", &json!({})).await?;
    let good = agent.until_ended(3, Outcome::Succeeded).await?.revision; // launch 3: the bad one had none of its own
    ensure!(history.shares(&bad) == [0, 10, 0] && stable(&agent.now().await?) == Some(&*good), "{bad} came back");

    let answers = load.stop().await;
    let fell = history.fell_at(&bad).context("the share never fell")?;
    let since = |from: Option<k8s_openapi::jiff::Timestamp>| from.map(|from| fell.duration_since(from));
    println!(
        "{} requests, {} lost, {} failed; breach to weight 0 {:?}, decision to weight 0 {:?}",
        answers.sent,
        answers.lost,
        answers.errors(),
        since(launch.breached_at),
        since(launch.decided_at)
    );
    agent.ensure_none_lost(&answers).await?;
    let errors = |revision: &str| answers.revisions.get(revision).map_or(0, |answers| answers.errors);
    ensure!(answers.errors() == errors(&bad) && errors(&bad) > 0, "{:?}", answers.revisions);
    agent.done().await
}

#[tokio::test]
async fn going_back_to_a_trusted_revision_passes_no_gates() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let quick = json!([{"name": "quick", "traffic": 50, "minDuration": "1s"}]);
    let agent = Agent::apply(&cluster, Manifest::example("back")?.with("/spec/launch/stages", quick)).await?;
    let first = agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(20).await?);
    agent.prompt("Refund what was paid. Be friendly.", &json!({})).await?;
    let second = agent.until_ended(2, Outcome::Succeeded).await?.revision;

    // A plan that nothing passes: the way back must not go through it.
    let closed = json!([{"name": "closed", "traffic": 5, "minDuration": "1h"}]);
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/stages", closed)).await?;
    agent.prompt("Refund what was paid.", &json!({})).await?;
    let launch = agent.until_ended(3, Outcome::Succeeded).await?;
    ensure!(launch.revision == first && launch.trusted && launch.stable.as_deref() == Some(&*second), "{launch:?}");
    ensure!(history.shares(&first) == [0, 50, 0, 100, 0], "{:?}", history.shares(&first));
    let took = launch.ended_at.context("no end")?.duration_since(launch.started_at);
    println!("back in {took:?}");
    ensure!(took.unsigned_abs() < Duration::from_mins(1), "it took {took:?}");
    let route = agent.routes().get("back").await?;
    ensure!(share(&route, &first) == 0, "the rule is not restored");
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}
