//! The leader is killed, stopped, cut off, or loses its Lease while a launch runs: another replica goes on, a canary that is
//! to lose its weight loses it within 20 s, and what was taken back is never raised again.

use anyhow::{Context as _, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;
use sluice::api::{Outcome, Phase};

use crate::cluster::{Cluster, Manifest, SYSTEM, launch, most_fail, share, sum_of};
use crate::login::Login;
use crate::operators::{Leader, Reigns, delete_the_lease, leaders, with_replicas};
use crate::refusal::Refusal;
use crate::scene::{Scene, within_promise};

#[tokio::test]
async fn when_the_leader_of_two_is_killed_the_other_takes_the_canary_back() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let hold = json!([{"name": "half", "traffic": 50, "minDuration": "1h"}]);
    let errors = json!({"name": "error_rate", "window": "3s", "minSamples": 4, "ratioToStable": {"above": "200%", "floor": "1%"}});
    let manifest = Manifest::example("killed")?
        .with("/spec/launch/stages", hold)
        .with("/spec/launch/triggers", json!([{"name": "errors-doubled", "metric": errors, "for": "1s"}]));
    let scene = Scene::measured(&cluster, manifest).await?;
    with_replicas(&cluster, 2, async || {
        let (leader, reigns) = (Leader::find(&cluster).await?, Reigns::of(&cluster));
        let pod = leader.pod.clone();
        scene.agent.prompt("Be generous.", &most_fail()).await?;
        let breached = |agent: &_| launch(agent).is_some_and(|launch| !launch.breaches.is_empty());
        let agent = scene.agent.until("in breach", breached).await?;
        let bad = launch(&agent).context("no launch")?.revision.clone();
        let killed = leader.kill().await?;
        ensure!(share(&scene.agent.routes().get(&scene.agent.name).await?, &bad) == 50, "killed too late");
        let done = scene.until_weight(&bad, 0).await?;
        let taken = reigns.taken_from(&pod, killed)?;
        within_promise("killed in a breach, 2 replicas", killed, taken, done)?;
        ensure!(reigns.after(taken).iter().all(|(_, holder, _)| *holder != pod), "{pod} was not gone");
        let launch = scene.agent.until_ended(2, Outcome::RolledBack).await?;
        ensure!(launch.reason.as_deref() == Some("TriggerFired"), "{launch:?}");
        scene.ensure_one_will(&bad)
    })
    .await?;
    scene.end().await
}

#[tokio::test]
async fn a_leader_that_stood_still_past_its_lease_does_not_raise_what_its_successor_took_back() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let scene = Scene::set(&cluster, "stopped", "1h").await?;
    let canary = scene.launch().await?;
    with_replicas(&cluster, 2, async || {
        let (leader, reigns) = (Leader::find(&cluster).await?, Reigns::of(&cluster));
        let stopped = leader.stop()?;
        scene.quality(0.0);
        let done = scene.until_weight(&canary, 0).await?;
        let taken = reigns.taken_from(&leader.pod, stopped.at)?;
        within_promise("stopped in a stage, then a breach, 2 replicas", stopped.at, taken, done)?;
        scene.quality(1.0); // what it knows speaks for going on
        drop(stopped);
        leader.until_deposed().await?;
        scene.agent.until_ended(2, Outcome::RolledBack).await?;
        scene.ensure_one_will(&canary)
    })
    .await?;
    scene.end().await
}

#[tokio::test]
async fn a_leader_that_stood_still_in_the_middle_of_a_raise_does_not_finish_it() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let scene = Scene::set(&cluster, "raising", "1h").await?;
    with_replicas(&cluster, 3, async || {
        let (leader, reigns) = (Leader::find(&cluster).await?, Reigns::of(&cluster));
        scene.agent.prompt("Be friendly.", &json!({})).await?;
        let raising = |agent: &_| launch(agent).is_some_and(|launch| launch.number == 2 && launch.weight == 50);
        let agent = scene.agent.until("about to raise", raising).await?;
        let stopped = leader.stop()?;
        scene.quality(0.0);
        let canary = launch(&agent).context("no launch")?.revision.clone();
        let before = share(&scene.agent.routes().get(&scene.agent.name).await?, &canary);
        println!("the leader was stopped when the canary had {before}%");
        let done = scene.until_weight(&canary, 0).await?;
        let taken = reigns.taken_from(&leader.pod, stopped.at)?;
        within_promise("stopped in a raise, then a breach, 3 replicas", stopped.at, taken, done)?;
        scene.quality(1.0);
        drop(stopped);
        leader.until_deposed().await?;
        scene.agent.until_ended(2, Outcome::RolledBack).await?;
        scene.ensure_one_will(&canary)
    })
    .await?;
    scene.end().await
}

#[tokio::test]
async fn a_rollback_is_finished_by_another_when_its_leader_is_cut_off_from_the_api_server() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let scene = Scene::set(&cluster, "cutback", "1h").await?;
    let canary = scene.launch().await?;
    with_replicas(&cluster, 3, async || {
        let (leader, reigns) = (Leader::find(&cluster).await?, Reigns::of(&cluster));
        let decided = "has(object.metadata.annotations) && 'sluice.dev/decision' in object.metadata.annotations";
        let no_rollback = Refusal::of_routes(&scene.agent, decided).await?;
        scene.quality(0.0);
        let going_back = |agent: &_| launch(agent).is_some_and(|launch| launch.phase == Phase::RollingBack);
        scene.agent.until("rolling back", going_back).await?;
        let cut = leader.cut_off()?;
        no_rollback.lift().await?;
        let done = scene.until_weight(&canary, 0).await?;
        within_promise("cut off in a rollback, 3 replicas", cut.at, reigns.taken_from(&leader.pod, cut.at)?, done)?;
        scene.agent.until_ended(2, Outcome::RolledBack).await?;
        scene.quality(1.0);
        drop(cut);
        leader.until_deposed().await?;
        leader.until_silent().await?;
        scene.ensure_one_will(&canary)
    })
    .await?;
    scene.end().await
}

#[tokio::test]
async fn a_raise_is_finished_by_another_when_its_leader_is_cut_off_and_not_again_after_the_healing()
-> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let scene = Scene::set(&cluster, "cutraise", "1h").await?;
    with_replicas(&cluster, 2, async || {
        let (leader, reigns) = (Leader::find(&cluster).await?, Reigns::of(&cluster));
        let weighted = "object.spec.rules.exists(rule, has(rule.backendRefs) && rule.backendRefs.exists(backend, has(backend.weight) && backend.weight == 50))";
        let no_raise = Refusal::of_routes(&scene.agent, weighted).await?;
        scene.agent.prompt("Be friendly.", &json!({})).await?;
        let raising = |agent: &_| launch(agent).is_some_and(|launch| launch.number == 2 && launch.weight == 50);
        let agent = scene.agent.until("about to raise", raising).await?;
        let canary = launch(&agent).context("no launch")?.revision.clone();
        let cut = leader.cut_off()?;
        no_raise.lift().await?;
        let raised = scene.until_weight(&canary, 50).await?;
        within_promise("cut off in a raise, 2 replicas", cut.at, reigns.taken_from(&leader.pod, cut.at)?, raised)?;
        scene.agent.until_in_stage(2, "half").await?;
        scene.quality(0.0);
        scene.until_weight(&canary, 0).await?;
        scene.agent.until_ended(2, Outcome::RolledBack).await?;
        scene.quality(1.0);
        drop(cut);
        leader.until_deposed().await?;
        leader.until_silent().await?;
        scene.ensure_one_will(&canary)
    })
    .await?;
    scene.end().await
}

#[tokio::test]
async fn a_launch_goes_on_under_its_leader_and_a_higher_epoch_when_the_lease_is_deleted() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let scene = Scene::set(&cluster, "leaseless", "8s").await?;
    with_replicas(&cluster, 3, async || {
        let (leader, reigns) = (cluster.leader().await?, Reigns::of(&cluster));
        let canary = scene.launch().await?;
        let began = launch(&scene.agent.now().await?).and_then(|launch| launch.began_at);
        let before = scene.history.epochs().last().copied().context("no epoch")?;
        let deleted = Timestamp::now();
        delete_the_lease(&cluster).await?;
        scene.agent.until_ended(2, Outcome::Succeeded).await?;
        let half =
            scene.history.launches().into_iter().filter(|launch| launch.number == 2 && launch.stage_name == "half");
        let starts: Vec<_> = half.filter_map(|launch| launch.began_at).collect();
        ensure!(starts.iter().all(|at| Some(*at) == began), "the stage began anew: {starts:?}");
        let (after, epochs) = (reigns.after(deleted), scene.history.epochs());
        let made = after.iter().find(|(_, _, transitions)| u64::try_from(*transitions).is_ok_and(|t| t >= before));
        let (at, ..) = made.with_context(|| format!("no number above epoch {before}: {after:?}"))?;
        println!(
            "MEASURED Lease deleted, 3 replicas: made again after {:.2} s",
            at.duration_since(deleted).as_secs_f64()
        );
        ensure!(after.iter().all(|(_, holder, _)| *holder == leader), "{leader} led, and then {after:?}");
        ensure!(leaders(&cluster).await? == [leader], "somebody else thinks that it leads");
        ensure!(epochs.is_sorted() && epochs.last() > Some(&before), "epoch {before}, and then {epochs:?}");
        scene.ensure_one_will(&canary)
    })
    .await?;
    scene.end().await
}

#[tokio::test]
async fn a_leader_below_the_epoch_on_a_route_refuses_its_own_write_until_it_is_above() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let scene = Scene::set(&cluster, "fenced", "1h").await?;
    let canary = scene.launch().await?;
    with_replicas(&cluster, 2, async || {
        let leader = cluster.leader().await?;
        let theirs = scene.history.epochs().last().copied().context("no epoch")? + 7;
        write_epoch(&scene, theirs).await?;
        let fenced =
            async || anyhow::Ok(sum_of(&cluster.operator_metrics().await?, "sluice_reconcile_errors", "\"Fenced\""));
        let (refused, began) = (fenced().await?, Timestamp::now());
        scene.quality(0.0);
        let done = scene.until_weight(&canary, 0).await?;
        println!("MEASURED fenced by a higher epoch: done after {:.2} s", done.duration_since(began).as_secs_f64());
        ensure!(cluster.leader().await? == leader, "another leads");
        ensure!(fenced().await? > refused, "it has not refused its own write");
        ensure!(scene.history.epochs().last() > Some(&theirs), "epoch {theirs}, and then {:?}", scene.history.epochs());
        scene.agent.until_ended(2, Outcome::RolledBack).await?;
        scene.ensure_one_will(&canary)
    })
    .await?;
    scene.end().await
}

/// Writes an epoch on the agent's route as Sluice itself, for nobody else may.
async fn write_epoch(scene: &Scene, epoch: u64) -> anyhow::Result<()> {
    let sluice = Login::account(&scene.agent.cluster, SYSTEM, "sluice").await?;
    let kind = crate::cluster::http_routes();
    let routes = Api::<DynamicObject>::namespaced_with(sluice.client().await?, &scene.agent.namespace, &kind);
    let mut route = routes.get(&scene.agent.name).await?;
    route.annotations_mut().insert("sluice.dev/epoch".to_owned(), epoch.to_string());
    routes.replace(&scene.agent.name, &PostParams::default(), &route).await?;
    Ok(())
}
