//! What the cluster around an agent lacks or already has: gateways, names, room.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions::is_deleted};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use sluice::api::Outcome;
use sluice::revision::Revision;
use sluice::traffic::HTTPRoute;

use crate::cluster::until;
use crate::day::{Day, NAME, PROMPTS, SOON, canary_share, is, launch, plan, runs, stable, tells, with_triggers};

#[tokio::test]
async fn a_gateway_that_does_not_exist_is_named_with_the_mend_and_the_first_revision_is_stable_all_the_same()
-> anyhow::Result<()> {
    let mut day = Day::dawn("gateway", plan("10m")).await?;
    day.agent["spec"]["traffic"]["gateway"]["parentRefs"] = json!([{"name": "nowhere", "namespace": "infra"}]);
    day.prompt("the first", &json!({})).await?;
    day.apply().await?;
    let first = day.until("launched", SOON, |agent| is(agent, "Launched", "True", "")).await?;
    ensure!(stable(&first) != "-", "nothing is stable");
    let told = day.until("told", SOON, |agent| is(agent, "Ready", "False", "infra/nowhere")).await?;
    tells(&told, "Ready", &["GatewaySilent", "Gateway infra/nowhere", "create it", "spec.traffic.gateway"])?;
    tells(&told, "Stalled", &["True", "infra/nowhere"])?;

    day.edit(|spec| spec["traffic"]["gateway"]["parentRefs"][0]["name"] = json!("public")).await?;
    let mended = day.until("mended", SOON, |agent| is(agent, "Ready", "True", "")).await?;
    tells(&mended, "Stalled", &["False"])?;
    day.end().await
}

#[tokio::test]
async fn a_gateway_that_goes_away_gives_the_next_canary_no_traffic_and_is_named() -> anyhow::Result<()> {
    let mut day = Day::begin("gateway", plan("8s")).await?;
    let before = day.stable().await?;
    day.edit(|spec| spec["traffic"]["gateway"]["parentRefs"][0]["name"] = json!("nowhere")).await?;
    day.prompt("the second", &json!({})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "half did not finish within 8s", "infra/nowhere"])?;
    ensure!(stable(&over) == before, "stable changed");
    day.end_with_losses().await // no gateway, no answers
}

/// Somebody's object of the agent's name stays as it is, and the agent says so until it is gone.
async fn name_taken(prefix: &str, kind: &str, object: serde_json::Value) -> anyhow::Result<()> {
    let day = Day::dawn(prefix, plan("10m")).await?;
    let api = kube::discovery::pinned_kind(
        &day.client(),
        &match kind {
            "HTTPRoute" => kube::core::GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind),
            _ => kube::core::GroupVersionKind::gvk("", "v1", kind),
        },
    )
    .await?
    .0;
    let api = Api::<kube::core::DynamicObject>::namespaced_with(day.client(), &day.namespace, &api);
    let theirs = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    day.prompt("the first", &json!({})).await?;
    day.apply().await?;
    let taken = day.until("told", SOON, |agent| is(agent, "Stalled", "True", "NameTaken")).await?;
    let words = ["NameTaken", &format!("{kind} {NAME}"), "not Sluice's", "rename the agent, or remove"];
    tells(&taken, "Stalled", &words)?;
    tells(&taken, "Launched", &["False", "NameTaken"])?;
    let still = api.get(NAME).await?;
    ensure!(
        still.uid() == theirs.uid() && still.resource_version() == theirs.resource_version(),
        "Sluice wrote to it: {still:?}"
    );
    api.delete(NAME, &kube::api::DeleteParams::default()).await?;
    // nothing tells of objects that are not Sluice's: it looks again after a minute
    day.until("launched", Duration::from_secs(90), |agent| is(agent, "Launched", "True", "")).await?;
    day.end().await
}

/// All at once: each waits a minute until Sluice looks again.
#[tokio::test]
async fn a_service_a_service_account_and_a_route_of_somebody_else_are_not_taken_over() -> anyhow::Result<()> {
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": {"ports": [{"port": 80}]}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}});
    let rules = json!([{"backendRefs": [{"name": "theirs", "port": 80}]}]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": NAME},
        "spec": {"hostnames": ["theirs.example"], "rules": rules},
    });
    futures::try_join!(
        name_taken("service", "Service", service),
        name_taken("account", "ServiceAccount", account),
        name_taken("httproute", "HTTPRoute", route),
    )?;
    Ok(())
}

#[tokio::test]
async fn a_route_of_somebody_else_is_not_taken_over_when_the_gateway_comes_later() -> anyhow::Result<()> {
    let mut day = Day::dawn("later", with_triggers(plan("10m"), json!([]))).await?;
    let traffic = day.agent["spec"]["traffic"].clone();
    if let Some(spec) = day.agent["spec"].as_object_mut() {
        spec.remove("traffic");
    }
    day.agent["spec"]["launch"]["stages"][0]["traffic"] = json!(0);
    day.prompt("the first", &json!({})).await?;
    day.apply().await?;
    day.until("launched", SOON, |agent| is(agent, "Launched", "True", "")).await?;
    let theirs: HTTPRoute = serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": NAME},
        "spec": {"hostnames": ["theirs.example"], "rules": [{"backendRefs": [{"name": "theirs", "port": 80}]}]},
    }))?;
    let theirs = day.api::<HTTPRoute>().create(&PostParams::default(), &theirs).await?;
    day.edit(|spec| spec["traffic"] = traffic).await?;
    let told = day.until("told", Duration::from_secs(20), |agent| is(agent, "Stalled", "True", "NameTaken")).await?;
    tells(&told, "Stalled", &["NameTaken", "HTTPRoute refunds", "rename the agent, or remove"])?;
    let still = day.api::<HTTPRoute>().get(NAME).await?;
    ensure!(still.resource_version() == theirs.resource_version(), "Sluice wrote to it: {still:?}");
    day.end().await
}

#[tokio::test]
async fn a_service_taken_away_and_replaced_by_somebody_elses_is_not_overwritten() -> anyhow::Result<()> {
    let day = Day::begin("replaced", plan("10m")).await?;
    // Orphaned: it is the same Service, but no longer Sluice's.
    let patch = json!({"metadata": {"ownerReferences": null, "labels": {"sluice.dev/agent": null}}});
    let services = day.api::<Service>();
    services.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let told = day.until("told", Duration::from_secs(20), |agent| is(agent, "Stalled", "True", "NameTaken")).await?;
    tells(&told, "Stalled", &["NameTaken", "Service refunds", "rename the agent, or remove"])?;
    let still = services.get(NAME).await?;
    ensure!(still.owner_references().is_empty(), "Sluice took it over");
    day.end_with_losses().await
}

#[tokio::test]
async fn a_quota_without_room_for_the_canary_leaves_stable_alone_and_is_told() -> anyhow::Result<()> {
    let day = Day::begin("quota", with_triggers(plan("9s"), json!([]))).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}))?;
    let quotas = day.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &quota).await?;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    until(&quotas, "small", "counted", SOON, counted).await?;
    day.prompt("the second", &json!({})).await?;
    let waiting = |agent: &_| launch(agent).is_some_and(runs) && is(agent, "Progressing", "True", "quota");
    let waiting = day.until("told", SOON, waiting).await?;
    tells(&waiting, "Progressing", &["waiting for pods", "0/1 ready", "exceeded quota: small"])?;
    tells(&waiting, "Stalled", &["True", "QuotaExceeded", "exceeded quota: small", "raise the quota"])?;
    tells(&waiting, "Ready", &["True", "1/1"])?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "half did not finish within 9s", "0/1 ready", "exceeded quota: small"])?;
    ensure!(stable(&over) == before, "stable changed");
    weights.never_above(0)?;
    day.end().await
}

/// A prompt whose revision has a smaller hash than another revision: what is done in the order of hashes comes to it first.
async fn prompt_before(day: &Day, revision: &str) -> anyhow::Result<String> {
    let spec = day.now().await?.spec;
    let hash = |prompt: &str| -> anyhow::Result<String> {
        let data = json!({"data": {"prompt.txt": prompt, "faults.json": "{}"}});
        let contents = [(PROMPTS.to_owned(), serde_json::from_value(data)?)].into();
        Ok(Revision::of(NAME, &spec, &contents)?.hash)
    };
    let mut prompts = (0..).map(|number| format!("try {number}"));
    let found = prompts.find(|prompt| hash(prompt).is_ok_and(|hash| *hash < *revision));
    found.context("no prompt")
}

#[tokio::test]
async fn a_canary_that_cannot_be_made_keeps_nothing_from_stable() -> anyhow::Result<()> {
    let day = Day::begin("refused", with_triggers(plan("10m"), json!([]))).await?;
    let before = day.stable().await?;
    let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"services": "2"}}}); // the agent's and stable's
    let quotas = day.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    until(&quotas, "few", "counted", SOON, counted).await?;
    day.prompt(&prompt_before(&day, &before).await?, &json!({})).await?;
    let refused = |agent: &_| launch(agent).is_some_and(runs) && is(agent, "Stalled", "True", "exceeded quota: few");
    let told = day.until("refused", SOON, refused).await?;
    let canary = launch(&told).map(|launch| launch.revision.clone()).unwrap_or_default();
    ensure!(canary < before, "{canary} does not come before {before}");
    tells(&told, "Stalled", &["Forbidden", &format!("Service {NAME}-{canary}"), "exceeded quota: few"])?;

    let (deployments, routes) = (day.api::<Deployment>(), day.api::<HTTPRoute>());
    let (pods, route) = (day.deployment(&before).await?, routes.get(NAME).await?);
    day.delete::<Deployment>(&pods.name_any()).await?;
    let ready =
        |deployment: &Deployment| deployment.status.as_ref().and_then(|status| status.ready_replicas) == Some(1);
    let back = |now: &Deployment| now.uid() != pods.uid() && ready(now);
    until(&deployments, &pods.name_any(), "made again", SOON, back).await?;
    day.delete::<HTTPRoute>(NAME).await?;
    let again = |now: &HTTPRoute| now.uid() != route.uid() && canary_share(now, &before) == 0;
    until(&routes, NAME, "made again", SOON, again).await?;
    ensure!(launch(&day.now().await?).is_some_and(runs), "the canary was made meanwhile");
    day.end_with_losses().await // Kubernetes deletes the pods with their Deployment
}

/// Without it Kubernetes makes no pods: nothing tells of the account, the Deployment tells of the pods.
#[tokio::test]
async fn a_service_account_deleted_by_hand_is_back_when_stable_needs_a_pod() -> anyhow::Result<()> {
    let day = Day::begin("identity", plan("10m")).await?;
    let before = day.stable().await?;
    let (pods, accounts) = (day.pods(&before).await?, day.api::<ServiceAccount>());
    let uid = accounts.get(NAME).await?.uid().unwrap_or_default();
    day.delete::<ServiceAccount>(NAME).await?;
    tokio::time::timeout(SOON, await_condition(accounts.clone(), NAME, is_deleted(&uid))).await??;
    for pod in &pods {
        day.delete::<Pod>(&pod.name_any()).await?;
    }
    let serves = |deployment: &Deployment| deployment.status.as_ref().and_then(|it| it.ready_replicas) == Some(1);
    let name = format!("{NAME}-{before}");
    let gone = |deployment: &Deployment| !serves(deployment);
    until(&day.api::<Deployment>(), &name, "without its pod", SOON, gone).await?;
    until(&day.api::<Deployment>(), &name, "whole again", SOON, serves).await?;
    accounts.get(NAME).await.context("the account is gone")?;
    ensure!(day.stable().await? == before, "stable changed");
    day.end_with_losses().await // its only pod was deleted
}

/// The ServiceAccount of an agent is its own; a typed API of it is used nowhere else.
#[tokio::test]
async fn the_agents_own_service_account_deleted_by_hand_does_not_stop_stable() -> anyhow::Result<()> {
    let day = Day::begin("identity", plan("10m")).await?;
    day.delete::<ServiceAccount>(NAME).await?;
    let before = day.stable().await?;
    day.prompt("the second", &json!({})).await?; // a new revision needs it again
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end().await
}

#[tokio::test]
async fn a_service_account_that_the_template_names_is_its_users_whatever_it_is_called() -> anyhow::Result<()> {
    let mut day = Day::dawn("own-account", plan("10m")).await?;
    let accounts = Api::<ServiceAccount>::namespaced(day.client(), &day.namespace);
    let theirs: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": NAME}}))?;
    accounts.create(&PostParams::default(), &theirs).await?;
    day.agent["spec"]["template"]["spec"]["serviceAccountName"] = json!(NAME);
    day.prompt("the first", &json!({})).await?;
    day.apply().await?;
    day.until("launched", SOON, |agent| is(agent, "Launched", "True", "")).await?;
    let account = accounts.get(NAME).await?;
    ensure!(account.owner_references().is_empty(), "it would go with the agent: {:?}", account.owner_references());
    day.end().await
}
