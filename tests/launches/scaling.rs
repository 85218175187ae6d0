//! A HorizontalPodAutoscaler works on the agent, `kubectl scale` to nothing and back, and a quota that cannot hold both
//! revisions is told.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use sluice::api::{AgentDeployment, Outcome, Phase};

use crate::cluster::{Agent, PATIENCE, condition, launch, stable, until};
use crate::history::History;
use crate::{holding, quick, shared};

/// Nothing measures CPU here: the autoscaler enforces its bounds all the same.
#[tokio::test]
async fn an_autoscaler_is_followed_in_mid_launch_and_never_fought() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let mut manifest = holding("scaled")?;
    manifest.0["spec"].as_object_mut().map(|spec| spec.remove("replicas")); // the autoscaler's from the beginning
    let agent = Agent::apply(&cluster, manifest).await?;
    let first = agent.until_first_stable().await?;
    let scaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": {"name": "scaled"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment", "name": "scaled"},
            "minReplicas": 2, "maxReplicas": 6,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    }))?;
    let scalers = agent.all::<HorizontalPodAutoscaler>();
    scalers.create(&PostParams::default(), &scaler).await?;
    let asks = |replicas: i32| move |agent: &AgentDeployment| agent.spec.replicas == Some(replicas);
    agent.until("scaled to 2", asks(2)).await?;
    agent.until_sized(&first, 2).await?;
    ensure!(launch(&agent.now().await?).is_some_and(|launch| launch.number == 1), "scaling began a launch");

    agent.prompt("Second.", &json!({})).await?;
    let before = agent.until_in_stage(2, "hold").await?;
    let load = agent.load(20).await?;
    let bounds = async |min: i32, max: i32| {
        let patch = json!({"spec": {"minReplicas": min, "maxReplicas": max}});
        scalers.patch("scaled", &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    bounds(4, 6).await?;
    agent.until("scaled to 4", asks(4)).await?;
    agent.until_sized(&first, 4).await?;
    let grown = |agent: &AgentDeployment| agent.status.as_ref().is_some_and(|status| status.replicas == Some(5));
    agent.until("at 5 ready pods in all", grown).await?; // one is the canary's
    let seen = until(&scalers, "scaled", "satisfied", PATIENCE, |scaler| {
        scaler.status.as_ref().is_some_and(|status| status.current_replicas == Some(4) && status.desired_replicas == 4)
    })
    .await?;
    bounds(1, 3).await?;
    agent.until("scaled to 3", asks(3)).await?;
    agent.until_sized(&first, 3).await?; // it had 2 when the launch began
    let after = launch(&agent.now().await?).cloned().unwrap_or_else(|| before.clone());
    ensure!(after.phase == Phase::Progressing && after.number == 2, "{after:?} {:?}", seen.status);
    ensure!(
        after.entered_at == before.entered_at && after.began_at == before.began_at,
        "a clock began anew: {after:?}"
    );
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}

/// `kubectl scale` to nothing and back, twice: at rest, which ends every pod, and with a canary beside, which loses its own.
#[tokio::test]
async fn an_agent_behind_a_gateway_is_scaled_to_nothing_and_back() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("nothing")?.with("/spec/replicas", json!(1))).await?;
    let first = agent.until_first_stable().await?;
    let history = History::of(&agent);
    let scale = async |count: i32| {
        let count = format!("--replicas={count}");
        cluster.kubectl(&["-n", &agent.namespace, "scale", "agd/nothing", &count]).await
    };
    let ready = |words: &'static str| move |agent: &AgentDeployment| condition(agent, "Ready").starts_with(words);

    agent.load(20).await?.stop().await;
    scale(0).await?;
    agent.until_sized(&first, 0).await?;
    let asleep = agent.until("asleep", ready("True ScaledToZero 0/0 pods")).await?;
    ensure!(condition(&asleep, "Stalled").starts_with("False"), "{}", condition(&asleep, "Stalled"));
    ensure!(stable(&asleep) == Some(&*first), "{:?}", stable(&asleep));
    scale(2).await?;
    agent.until("awake", ready("True Serving 2/2 pods")).await?;
    let load = agent.load(200).await?; // begins with the first answer
    agent.prompt("Second.", &json!({})).await?;
    let before = agent.until_in_stage(2, "hold").await?;

    scale(0).await?; // stable keeps what it had when the launch began, and answers
    let held = |agent: &AgentDeployment| {
        launch(agent).is_some_and(|l| {
            l.weight == 0 && l.message.as_deref() == Some("held: spec.replicas is 0, so nothing can be judged")
        })
    };
    agent.until("held", held).await?;
    agent.until_sized(&before.revision, 0).await?;
    ensure!(agent.size(&first).await? == 2, "stable has {} pods", agent.size(&first).await?);
    scale(2).await?;
    let back = |agent: &AgentDeployment| launch(agent).is_some_and(|l| l.weight == 10 && l.began_at > before.began_at);
    let back = agent.until("in its stage anew", back).await?;
    let after = launch(&back).context("no launch")?;
    ensure!((after.number, &after.revision, after.entered_at) == (2, &before.revision, before.entered_at), "{after:?}");
    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    let answers = load.stop().await;
    agent.ensure_none_lost(&answers).await?;
    ensure!(answers.answered_by(&first) > 0, "{:?}", answers.revisions);
    history.ensure_bounded(&[("hold", 10)])?;
    ensure!(history.selected() == [first], "the Service moved to {:?}", history.selected());
    agent.done().await
}

#[tokio::test]
async fn a_quota_that_cannot_hold_both_revisions_is_told_and_the_launch_goes_on_when_it_is_raised() -> anyhow::Result<()>
{
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, quick("tight")?).await?;
    let first = agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(20).await?);
    let quota = |pods: u32| json!({"metadata": {"name": "tight"}, "spec": {"hard": {"pods": pods.to_string()}}});
    let quotas = agent.all::<ResourceQuota>();
    let made: ResourceQuota = serde_json::from_value(quota(2))?;
    quotas.create(&PostParams::default(), &made).await?;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    until(&quotas, "tight", "counted", PATIENCE, counted).await?;
    agent.prompt("Second.", &json!({})).await?;
    let told = agent.until("stalled", |agent| condition(agent, "Stalled").starts_with("True QuotaExceeded")).await?;
    let stalled = condition(&told, "Stalled");
    ensure!(stalled.contains("exceeded quota: tight") && stalled.contains("raise the quota"), "{stalled}");
    ensure!(condition(&told, "Ready").starts_with("True Serving 2/2"), "{}", condition(&told, "Ready"));
    ensure!(stable(&told) == Some(&*first) && launch(&told).is_some_and(|launch| launch.weight == 0), "{told:?}");

    // one more pod: the canary's first, which is enough for its first share and not for the promotion
    quotas.patch("tight", &PatchParams::default(), &Patch::Merge(&quota(3))).await?;
    let both =
        "True QuotaExceeded quota tight allows pods 3, of which 3 is used, and 1 more pods need 1: a launch runs both";
    agent.until("no room for both", |agent| condition(agent, "Stalled").starts_with(both)).await?;
    let canary = launch(&agent.now().await?).map(|launch| launch.revision.clone()).context("no launch")?;
    let ready = |it: &Deployment| it.status.as_ref().and_then(|status| status.ready_replicas) == Some(1);
    until(&agent.all::<Deployment>(), &format!("tight-{canary}"), "ready", PATIENCE, ready).await?;
    tokio::time::sleep(Duration::from_secs(5)).await; // nothing happens: that is what is to be seen
    let held = agent.now().await?;
    ensure!(launch(&held).is_some_and(|launch| !launch.served && launch.weight == 0), "{:?}", held.status);
    ensure!(history.shares(&canary) == [0], "{:?}", history.shares(&canary));
    quotas.patch("tight", &PatchParams::default(), &Patch::Merge(&quota(8))).await?;
    agent.until_ended(2, Outcome::Succeeded).await?;
    let over = agent.until("fine", |agent| condition(agent, "Stalled").starts_with("False")).await?;
    ensure!(stable(&over) != Some(&*first), "{:?}", stable(&over));
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}
