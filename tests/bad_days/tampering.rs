//! What people and other programs do to the objects of a launch: delete, edit, pause. It is put back, and never upwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Outcome};
use sluice::traffic::HTTPRoute;

use crate::cluster::until;
use crate::day::{
    Day, NAME, PROMPTS, SOON, canary_share, climbs_at, is, launch, plan, runs, stable, tells, with_triggers,
};
use crate::fake::Mood;

/// In so much time a launch that is not held would have passed its stage.
const LONG_ENOUGH: Duration = Duration::from_secs(6);
/// What somebody did is undone within this.
const QUICKLY: Duration = Duration::from_secs(10);

/// A stage that is only left when the test lets the metric be good.
async fn held_at_50(prefix: &str, launch: Value) -> anyhow::Result<(Day, AgentDeployment)> {
    let day = Day::begin(prefix, launch).await?;
    day.mood(Mood::Empty);
    day.prompt("the second", &json!({})).await?;
    let agent = day.until_at(50).await?;
    Ok((day, agent))
}

fn began(agent: &AgentDeployment) -> Option<Timestamp> {
    launch(agent).filter(|launch| runs(launch))?.began_at
}

fn revision(agent: &AgentDeployment) -> String {
    launch(agent).map(|launch| launch.revision.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_config_map_deleted_mid_launch_holds_it_with_the_mend_and_the_same_contents_let_it_go_on()
-> anyhow::Result<()> {
    let (day, agent) = held_at_50("configmap", plan("10m")).await?;
    let (id, canary) = (launch(&agent).map(|launch| launch.id.clone()), revision(&agent));
    let weights = day.watch_route().await?;
    day.delete::<ConfigMap>(PROMPTS).await?;
    let held = day.until("held", SOON, |agent| is(agent, "Stalled", "True", "ConfigMapMissing")).await?;
    tells(&held, "Stalled", &["ConfigMap \"prompts\"", "does not exist", "create it", "spec.config"])?;
    tells(&held, "Launched", &["False", "ConfigMapMissing", "create it"])?;
    tells(&held, "Progressing", &["held: ", "create it"])?;
    day.mood(Mood::Good(1.0));
    let stays = |agent: &AgentDeployment| climbs_at(agent, 50) && launch(agent).map(|launch| &launch.id) == id.as_ref();
    day.stays("held at 50%", LONG_ENOUGH, stays).await?;
    weights.never_above(50)?;
    let pods = day.pods(&canary).await?;
    let frozen = |pod: &k8s_openapi::api::core::v1::Pod| {
        serde_json::to_string(&pod.spec).is_ok_and(|spec| !spec.contains("\"name\":\"prompts\"}"))
    };
    ensure!(pods.len() == 1 && pods.iter().all(frozen), "the canary's pods do not use a frozen copy");

    day.prompt("the second", &json!({})).await?;
    let over = day.until_ended(Outcome::Succeeded).await?;
    ensure!(launch(&over).map(|launch| &launch.id) == id.as_ref(), "another launch ended");
    ensure!(stable(&over) == canary, "another revision is stable");
    tells(&over, "Stalled", &["False"])?;
    day.end().await
}

#[tokio::test]
async fn a_trigger_still_fires_while_a_deleted_config_map_holds_the_launch() -> anyhow::Result<()> {
    let (day, _) = held_at_50("configmap", plan("10m")).await?;
    let before = day.stable().await?;
    day.delete::<ConfigMap>(PROMPTS).await?;
    day.until("held", SOON, |agent| is(agent, "Stalled", "True", "ConfigMapMissing")).await?;
    day.mood(Mood::Good(0.0));
    let over = day.until_ended(Outcome::RolledBack).await?;
    ensure!(stable(&over) == before, "stable changed");
    let rejected =
        over.status.as_ref().and_then(|status| status.state.rejected.first()).context("nothing is rejected")?;
    ensure!(rejected.reason.contains("bad-quality"), "{rejected:?}");
    tells(&over, "Stalled", &["True", "create it"])?;
    day.end().await
}

#[tokio::test]
async fn a_frozen_copy_deleted_by_hand_is_restored() -> anyhow::Result<()> {
    let day = Day::begin("frozen", plan("10m")).await?;
    let revision = day.stable().await?;
    let api = day.api::<ConfigMap>();
    let copies = api.list(&kube::api::ListParams::default().labels(&format!("sluice.dev/revision={revision}"))).await?;
    let copy = copies.items.into_iter().next().context("no frozen copy")?;
    day.delete::<ConfigMap>(&copy.name_any()).await?;
    let restored =
        until(&api, &copy.name_any(), "restored", QUICKLY, |other: &ConfigMap| other.uid() != copy.uid()).await?;
    ensure!(restored.data == copy.data && restored.immutable == Some(true), "it is another one: {restored:?}");
    ensure!(day.stable().await? == revision, "stable changed");
    day.end().await
}

#[tokio::test]
async fn a_route_deleted_mid_launch_comes_back_at_no_more_than_the_stage_and_the_window_begins_anew()
-> anyhow::Result<()> {
    let (day, agent) = held_at_50("route", plan("10m")).await?;
    let before = day.stable().await?;
    let weights = day.watch_route().await?;
    let old = day.api::<HTTPRoute>().get(NAME).await?;
    let deleted = Instant::now();
    day.delete::<HTTPRoute>(NAME).await?;
    let new = |route: &HTTPRoute| route.uid() != old.uid() && canary_share(route, &before) == 50;
    until(&day.api::<HTTPRoute>(), NAME, "restored", QUICKLY, new).await?;
    println!("restored after {:?}", deleted.elapsed());
    day.until("at 50% anew", SOON, |now| climbs_at(now, 50) && began(now) > began(&agent)).await?;
    weights.never_above(50)?;
    day.mood(Mood::Good(1.0));
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end_with_losses().await // while there was no route
}

#[tokio::test]
async fn a_route_deleted_at_rest_comes_back() -> anyhow::Result<()> {
    let day = Day::begin("route", plan("10m")).await?;
    let before = day.stable().await?;
    let old = day.api::<HTTPRoute>().get(NAME).await?;
    day.delete::<HTTPRoute>(NAME).await?;
    let new = |route: &HTTPRoute| route.uid() != old.uid();
    let restored = until(&day.api::<HTTPRoute>(), NAME, "restored", QUICKLY, new).await?;
    ensure!(restored.spec == old.spec, "it is another one: {:?}", restored.spec);
    ensure!(canary_share(&restored, &before) == 0, "somebody else has traffic");
    day.end_with_losses().await // while there was no route
}

#[tokio::test]
async fn stables_deployment_deleted_by_hand_is_restored_from_the_stored_revision() -> anyhow::Result<()> {
    let day = Day::begin("deployment", plan("10m")).await?;
    let revision = day.stable().await?;
    let old = day.deployment(&revision).await?;
    day.prompt("not this one", &json!({"unready": true})).await?; // the ConfigMap in the cluster is another by now
    day.until("launching", SOON, |agent| launch(agent).is_some_and(runs)).await?;
    day.delete::<Deployment>(&old.name_any()).await?;
    let new = |deployment: &Deployment| deployment.uid() != old.uid();
    let restored = until(&day.api::<Deployment>(), &old.name_any(), "restored", QUICKLY, new).await?;
    let template = |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.template.clone());
    ensure!(template(&restored) == template(&old), "it has another template");
    let ready = |deployment: &Deployment| deployment.status.as_ref().is_some_and(|s| s.ready_replicas == Some(1));
    until(&day.api::<Deployment>(), &old.name_any(), "ready", SOON, ready).await?;
    ensure!(day.stable().await? == revision, "stable changed");
    day.end_with_losses().await // Kubernetes deletes the pods with their Deployment
}

#[tokio::test]
async fn a_deployment_edited_by_hand_is_put_back() -> anyhow::Result<()> {
    let day = Day::begin("edited", plan("10m")).await?;
    let revision = day.stable().await?;
    let old = day.deployment(&revision).await?;
    let deployments = day.api::<Deployment>();
    let edit = json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "agent", "image": "sluice.dev/refund-agent:other"}]}}}});
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    deployments.patch(&old.name_any(), &by_hand, &Patch::Strategic(&edit)).await?;
    let same = |deployment: &Deployment| {
        deployment.spec == old.spec && deployment.metadata.generation > old.metadata.generation
    };
    until(&deployments, &old.name_any(), "as it was", QUICKLY, same).await?;
    day.end().await
}

#[tokio::test]
async fn a_variable_added_to_a_deployment_by_hand_is_taken_away() -> anyhow::Result<()> {
    let day = Day::begin("setenv", plan("10m")).await?;
    let revision = day.stable().await?;
    let old = day.deployment(&revision).await?;
    let name = format!("deployment/{}", old.name_any());
    day.cluster.kubectl(&["set", "env", "-n", &day.namespace, &name, "GUARD=off"]).await?;
    let same = |deployment: &Deployment| {
        deployment.spec == old.spec && deployment.metadata.generation > old.metadata.generation
    };
    until(&day.api::<Deployment>(), &old.name_any(), "as it was", QUICKLY, same).await?;
    day.end().await
}

/// Sets the canary's weight in the route, as a person in a hurry does.
async fn set_weight(day: &Day, weight: i32) -> anyhow::Result<()> {
    let backends = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 100 - weight},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": weight},
    ]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(backends)?);
    day.api::<HTTPRoute>().patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

#[tokio::test]
async fn a_weight_raised_by_hand_mid_launch_is_undone_quickly_and_the_window_begins_anew() -> anyhow::Result<()> {
    let (day, agent) = held_at_50("contested", plan("10m")).await?;
    let before = day.stable().await?;
    for weight in [90, 10] {
        let began_before = began(&day.now().await?);
        let raised = Instant::now();
        set_weight(&day, weight).await?;
        until(&day.api::<HTTPRoute>(), NAME, "back at 50%", QUICKLY, |r: &HTTPRoute| canary_share(r, &before) == 50)
            .await?;
        println!("{weight}% by hand was undone after {:?}", raised.elapsed());
        day.until("in a new window", SOON, |now| climbs_at(now, 50) && began(now) > began_before).await?;
    }
    ensure!(revision(&day.now().await?) == revision(&agent), "another canary");
    day.mood(Mood::Good(1.0));
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end().await
}

#[tokio::test]
async fn a_paused_launch_holds_its_weight_and_goes_on_when_it_may() -> anyhow::Result<()> {
    let (mut day, _) = held_at_50("paused", plan("12s")).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    day.edit(|spec| spec["paused"] = json!(true)).await?;
    let paused = day.until("paused", SOON, |agent| is(agent, "Progressing", "True", "paused")).await?;
    tells(&paused, "Stalled", &["False"])?;
    day.mood(Mood::Good(1.0));
    day.stays("held at 50%", Duration::from_secs(14), |agent| climbs_at(agent, 50)).await?; // beyond its deadline
    weights.never_above(50)?;
    day.edit(|spec| spec["paused"] = json!(false)).await?;
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end().await
}

#[tokio::test]
async fn a_trigger_fires_while_the_agent_is_paused() -> anyhow::Result<()> {
    let (mut day, _) = held_at_50("paused", plan("10m")).await?;
    let before = day.stable().await?;
    day.edit(|spec| spec["paused"] = json!(true)).await?;
    day.until("paused", SOON, |agent| is(agent, "Progressing", "True", "paused")).await?;
    day.mood(Mood::Good(0.2));
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "bad-quality: quality", "20%"])?;
    ensure!(stable(&over) == before, "stable changed");
    day.end().await
}

#[tokio::test]
async fn a_new_revision_waits_while_the_agent_is_paused() -> anyhow::Result<()> {
    let mut day = Day::begin("paused", with_triggers(plan("10m"), json!([]))).await?;
    let before = day.stable().await?;
    day.edit(|spec| spec["paused"] = json!(true)).await?;
    day.prompt("the second", &json!({})).await?;
    let waiting = day.until("waiting", SOON, |agent| is(agent, "Launched", "False", "Paused")).await?;
    tells(&waiting, "Launched", &["spec.paused is true"])?;
    day.stays("without a launch", LONG_ENOUGH, |agent| launch(agent).is_none_or(|launch| !runs(launch))).await?;
    day.edit(|spec| spec["paused"] = json!(false)).await?;
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end().await
}

/// Somebody writes the route as fast as the API server lets him, while a launch is taken back.
#[tokio::test]
async fn a_rollback_gets_through_between_the_writes_of_somebody_who_never_stops() -> anyhow::Result<()> {
    let (day, _) = held_at_50("busy", plan("10m")).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    let routes = day.api::<HTTPRoute>();
    let writer = tokio::spawn(async move {
        let mut writes = 0_u64;
        loop {
            let Ok(mut route) = routes.get(NAME).await else { continue };
            writes += 1;
            route.labels_mut().insert("example.com/writes".to_owned(), writes.to_string());
            drop(routes.replace(NAME, &PostParams::default(), &route).await);
        }
    });
    let count = |route: &HTTPRoute| route.labels().get("example.com/writes").and_then(|it| it.parse::<u64>().ok());
    let often = |route: &HTTPRoute| count(route) > Some(20);
    until(&day.api::<HTTPRoute>(), NAME, "written again and again", SOON, often).await?;
    let breached = Instant::now();
    day.mood(Mood::Good(0.0));
    until(&day.api::<HTTPRoute>(), NAME, "at 0%", SOON, |route: &HTTPRoute| canary_share(route, &before) == 0).await?;
    let took = breached.elapsed();
    let over = day.until_ended(Outcome::RolledBack).await?;
    writer.abort();
    let written = day.api::<HTTPRoute>().get(NAME).await?;
    println!("breach → weight 0 beside {:?} writes of somebody else: {took:?}", count(&written));
    tells(&over, "Launched", &["False", "RolledBack", "bad-quality: quality"])?;
    ensure!(took < QUICKLY, "it took {took:?}");
    ensure!(written.annotations().get("sluice.dev/decision").is_some_and(|it| it == "RolledBack"), "{written:?}");
    weights.never_above(50)?;
    let fallen = weights.seen().into_iter().skip_while(|share| *share != 0);
    ensure!(fallen.into_iter().all(|share| share == 0), "it rose again: {:?}", weights.seen());
    day.end().await
}
