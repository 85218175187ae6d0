//! Releases that cannot run: typos, images, pods that never become ready, pods that crash.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use sluice::api::Outcome;

use crate::day::{Day, SOON, climbs_at, condition, is, launch, plan, runs, stable, tells, with_triggers};

/// Applies an agent that Kubernetes will refuse, sees it refused in words, and mends it.
async fn refused_and_mended(
    prefix: &str,
    spoil: impl FnOnce(&mut Value),
    mend: impl FnOnce(&mut Value),
    words: &[&str],
) -> anyhow::Result<()> {
    let mut day = Day::begin(prefix, plan("5m")).await?;
    let before = day.stable().await?;
    let weights = day.watch_route().await?;
    let applied = Instant::now();
    day.edit(spoil).await?;
    let refused = day.until("refused", SOON, |agent| is(agent, "Stalled", "True", "TemplateInvalid")).await?;
    let took = applied.elapsed();
    ensure!(took < Duration::from_secs(5), "the typo was told after {took:?}");
    tells(&refused, "Stalled", words)?;
    tells(&refused, "Launched", &["False", "TemplateInvalid"])?;
    tells(&refused, "Ready", &["True", "1/1"])?;
    ensure!(launch(&refused).is_none_or(|launch| !runs(launch)), "a launch of a refused template runs");

    day.edit(mend).await?;
    let mended =
        day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    tells(&mended, "Stalled", &["False"])?;
    ensure!(weights.seen().contains(&50), "the mended revision passed its stage: {:?}", weights.seen());
    day.end().await
}

fn container(spec: &mut Value) -> &mut Value {
    &mut spec["template"]["spec"]["containers"][0]
}

#[tokio::test]
async fn a_misspelt_field_is_named_within_seconds_and_the_mended_template_launches() -> anyhow::Result<()> {
    let spoil =
        |spec: &mut Value| container(spec)["livenesProbe"] = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    let mend = |spec: &mut Value| {
        if let Some(container) = container(spec).as_object_mut() {
            container.remove("livenesProbe");
        }
        container(spec)["livenessProbe"] = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    };
    refused_and_mended("typo", spoil, mend, &["TemplateInvalid", "livenesProbe"]).await
}

#[tokio::test]
async fn an_impossible_value_is_named_within_seconds_and_the_mended_template_launches() -> anyhow::Result<()> {
    let spoil =
        |spec: &mut Value| container(spec)["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": 99999}});
    let mend = |spec: &mut Value| container(spec)["readinessProbe"]["httpGet"]["port"] = json!(8080);
    refused_and_mended("value", spoil, mend, &["TemplateInvalid", "readinessProbe.httpGet.port", "99999"]).await
}

#[tokio::test]
async fn an_image_that_is_nowhere_gets_no_traffic_and_its_pod_and_image_are_named() -> anyhow::Result<()> {
    let triggers = json!([{"name": "image", "health": {"condition": "ImagePull"}, "for": "4s"}]);
    let mut day = Day::begin("image", with_triggers(plan("5m"), triggers)).await?;
    let before = day.stable().await?;
    let weights = day.watch_route().await?;
    day.edit(|spec| container(spec)["image"] = json!("sluice.dev/refund-agent:absent")).await?;
    let waits = |agent: &_| launch(agent).is_some_and(runs) && is(agent, "Progressing", "True", "refund-agent:absent");
    let waiting = day.until("waiting for its image", SOON, waits).await?;
    let canary = launch(&waiting).map(|launch| launch.revision.clone()).unwrap_or_default();
    tells(&waiting, "Progressing", &[&format!("pod refunds-{canary}"), "sluice.dev/refund-agent:absent", "0/1 ready"])?;

    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "image: ", &format!("pod refunds-{canary}"), "refund-agent:absent"])?;
    tells(&over, "Stalled", &["True", "RevisionRejected", "change the template"])?;
    ensure!(stable(&over) == before, "stable changed");
    weights.never_above(0)?;
    day.end().await
}

#[tokio::test]
async fn an_image_name_that_is_none_is_taken_back_too() -> anyhow::Result<()> {
    let triggers = json!([{"name": "image", "health": {"condition": "ImagePull"}}]);
    let mut day = Day::begin("imagename", with_triggers(plan("5m"), triggers)).await?;
    let weights = day.watch_route().await?;
    day.edit(|spec| container(spec)["image"] = json!("Not An Image")).await?;
    let over = day
        .until("told", SOON, |agent| {
            is(agent, "Launched", "False", "RolledBack") || is(agent, "Launched", "False", "TemplateInvalid")
        })
        .await?;
    tells(&over, "Launched", &["Not An Image"])?;
    weights.never_above(0)?;
    day.end().await
}

#[tokio::test]
async fn a_canary_that_is_never_ready_is_taken_back_at_the_deadline_with_its_reason() -> anyhow::Result<()> {
    let day = Day::begin("unready", with_triggers(plan("8s"), json!([]))).await?;
    let before = day.stable().await?;
    let weights = day.watch_route().await?;
    day.prompt("never ready", &json!({"unready": true})).await?;
    let waiting = day.until("waiting", SOON, |agent| is(agent, "Progressing", "True", "0/1 ready")).await?;
    tells(&waiting, "Launched", &["False", "waiting for pods", "0/1 ready"])?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "half did not finish within 8s", "0/1 ready"])?;
    ensure!(stable(&over) == before, "stable changed");
    weights.never_above(0)?;
    day.end().await
}

#[tokio::test]
async fn a_canary_that_is_never_ready_is_taken_back_by_a_trigger_long_before_the_deadline() -> anyhow::Result<()> {
    let triggers = json!([{"name": "unready", "health": {"condition": "Unready"}, "for": "6s"}]);
    let day = Day::begin("unready", with_triggers(plan("24h"), triggers)).await?;
    let weights = day.watch_route().await?;
    day.prompt("never ready", &json!({"unready": true})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "unready: 0/1 pods ready for 6s"])?;
    weights.never_above(0)?;
    day.end().await
}

#[tokio::test]
async fn a_canary_that_crashes_at_start_is_taken_back_without_ever_having_traffic() -> anyhow::Result<()> {
    let day = Day::begin("crash", plan("5m")).await?;
    let before = day.stable().await?;
    let weights = day.watch_route().await?;
    day.prompt("crashes", &json!({"crash_after": 0})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    let pod =
        format!("container agent of pod refunds-{}", launch(&over).map(|l| l.revision.clone()).unwrap_or_default());
    tells(&over, "Launched", &["RolledBack", "restarts: 2 restarts within 5m (limit 2)", &pod, "last exit 1"])?;
    ensure!(stable(&over) == before, "stable changed");
    weights.never_above(0)?;
    day.end().await
}

#[tokio::test]
async fn a_canary_that_crashes_under_traffic_loses_its_traffic_and_stable_serves_on() -> anyhow::Result<()> {
    let triggers = json!([{"name": "restarts", "health": {"restarts": 1, "within": "5m"}}]);
    let mut slow = with_triggers(plan("24h"), triggers);
    slow["stages"][0]["minDuration"] = json!("10m"); // no way but back
    let day = Day::begin("crash", slow).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    day.prompt("crashes", &json!({"crash_after": 8})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "restarts: 1 restarts within 5m (limit 1)"])?;
    ensure!(weights.peak()? == 50, "the canary had {:?}", weights.seen());
    ensure!(weights.seen().last() == Some(&0), "the canary still has traffic: {:?}", weights.seen());

    let (then, canary) = (day.requests()?, launch(&over).map(|launch| launch.revision.clone()).unwrap_or_default());
    ensure!(then.answered_by(&canary) > 0, "the canary never had a request");
    tokio::time::sleep(Duration::from_secs(2)).await; // so long the requests that follow are counted
    let after = day.requests()?;
    ensure!(after.answered_by(&before) >= then.answered_by(&before) + 8, "stable does not serve: {after:?}");
    ensure!(after.lost <= then.lost + 1, "requests are lost after the canary is gone: {:?}", after.losses);
    day.end_with_losses().await // those that the crash took with it
}

#[tokio::test]
async fn the_spec_that_follows_a_rejected_one_launches() -> anyhow::Result<()> {
    let day = Day::begin("again", plan("5m")).await?;
    let before = day.stable().await?;
    day.prompt("crashes", &json!({"crash_after": 0})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    ensure!(condition(&over, "Stalled", "True").is_some(), "nobody is asked to act");
    day.prompt("works", &json!({})).await?;
    let mended =
        day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    tells(&mended, "Stalled", &["False"])?;
    ensure!(!climbs_at(&mended, 50), "a launch still runs");
    day.end().await
}
