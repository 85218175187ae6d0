//! Metrics sources that fail: whatever is not a good number holds the launch, promotes nothing and rolls nothing back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use sluice::api::{AgentDeployment, Outcome, Verdict};

use crate::day::{Day, SOON, climbs_at, is, launch, plan, stable, tells};
use crate::fake::Mood;

/// In so much time a healthy source would have let the launch pass its stage twice.
const LONG_ENOUGH: Duration = Duration::from_secs(7);

fn judged(agent: &AgentDeployment, verdict: Verdict, words: &str) -> bool {
    climbs_at(agent, 50)
        && launch(agent).is_some_and(|launch| {
            launch.verdicts.iter().any(|gate| gate.verdict == verdict && gate.message.contains(words))
        })
}

/// A source in this mood holds the launch where it is, says so, and lets it go on when it has recovered.
async fn holds(prefix: &str, mood: Mood, verdict: Verdict, words: &str) -> anyhow::Result<()> {
    let day = Day::begin(prefix, plan("10m")).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    day.mood(mood);
    day.prompt("the second", &json!({})).await?;
    let held = day.until(&format!("{verdict:?}: {words}"), SOON, |agent| judged(agent, verdict, words)).await?;
    let id = launch(&held).map(|launch| launch.id.clone());
    let asked = day.fake.questions(&day.series);

    let stays = |agent: &AgentDeployment| climbs_at(agent, 50) && launch(agent).map(|launch| &launch.id) == id.as_ref();
    let held = day.stays("held at 50%", LONG_ENOUGH, stays).await?;
    ensure!(day.fake.questions(&day.series) >= asked + 2, "the source was not asked meanwhile");
    ensure!(judged(&held, verdict, words), "another verdict: {:?}", launch(&held).map(|launch| &launch.verdicts));
    ensure!(stable(&held) == before, "stable changed");
    weights.never_above(50)?;
    let summary = held.status.as_ref().and_then(|status| status.summary.clone()).context("no summary")?;
    ensure!(summary.verdict == format!("{verdict:?}") && summary.reason.contains(words), "{summary:?}");
    tells(&held, "Progressing", &["quality: ", words])?;
    tells(&held, "Launched", &["False", "quality: ", words])?;

    day.mood(Mood::Good(1.0));
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end().await
}

#[tokio::test]
async fn a_source_that_is_too_slow_holds_the_launch() -> anyhow::Result<()> {
    holds("slow", Mood::Slow, Verdict::Error, "timed out after 2s").await
}

#[tokio::test]
async fn a_source_that_answers_500_holds_the_launch() -> anyhow::Result<()> {
    holds("status", Mood::Status(500), Verdict::Error, "HTTP status 500").await
}

#[tokio::test]
async fn a_source_that_redirects_is_not_followed_and_holds_the_launch() -> anyhow::Result<()> {
    holds("redirect", Mood::Redirect, Verdict::Error, "HTTP status 307").await
}

#[tokio::test]
async fn a_source_that_breaks_the_connection_holds_the_launch() -> anyhow::Result<()> {
    holds("broken", Mood::Broken, Verdict::Error, "connection broke").await
}

#[tokio::test]
async fn a_source_that_answers_with_a_login_page_holds_the_launch() -> anyhow::Result<()> {
    holds("garbage", Mood::Garbage, Verdict::Error, "not the answer of a Prometheus").await
}

#[tokio::test]
async fn a_source_that_cannot_run_the_query_holds_the_launch() -> anyhow::Result<()> {
    holds("failed", Mood::Failed, Verdict::Error, "HTTP status 422").await
}

#[tokio::test]
async fn numbers_that_are_none_hold_the_launch() -> anyhow::Result<()> {
    holds("nan", Mood::NotANumber, Verdict::Error, "something that is not a number").await
}

#[tokio::test]
async fn an_empty_answer_holds_the_launch_and_says_what_to_look_at() -> anyhow::Result<()> {
    holds("empty", Mood::Empty, Verdict::Insufficient, "check the relabelling and the source's labels").await
}

#[tokio::test]
async fn two_series_for_one_revision_hold_the_launch() -> anyhow::Result<()> {
    holds("twice", Mood::Twice, Verdict::Error, "several series where one was expected").await
}

#[tokio::test]
async fn series_that_name_no_revision_hold_the_launch_and_say_so() -> anyhow::Result<()> {
    holds("nameless", Mood::Nameless, Verdict::Insufficient, "no series of up carry a revision").await
}

#[tokio::test]
async fn a_dead_source_ends_the_launch_at_the_deadline_and_not_before() -> anyhow::Result<()> {
    let day = Day::begin("deadline", plan("12s")).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    day.mood(Mood::Status(503));
    day.prompt("the second", &json!({})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    let ended = launch(&over).context("no launch")?;
    let lasted = ended.decided_at.context("never decided")?.duration_since(ended.started_at).as_secs();
    ensure!((12..=14).contains(&lasted), "the stage of 12 s lasted {lasted} s");
    ensure!(ended.reason.as_deref() == Some("DeadlinePassed"), "{ended:?}");
    ensure!(stable(&over) == before, "stable changed");
    weights.never_above(50)?;
    tells(&over, "Launched", &["RolledBack", "half did not finish within 12s", "quality", "HTTP status 503"])?;
    day.end().await
}

#[tokio::test]
async fn a_health_trigger_rolls_back_while_the_source_is_dead() -> anyhow::Result<()> {
    let day = Day::begin("deadcrash", plan("10m")).await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    day.mood(Mood::Slow);
    day.prompt("crashes soon", &json!({"crash_after": 6})).await?;
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "restarts: 2 restarts within 5m"])?;
    ensure!(stable(&over) == before, "stable changed");
    weights.never_above(50)?;
    ensure!(weights.seen().last() == Some(&0), "the canary still has traffic: {:?}", weights.seen());
    day.end_with_losses().await // those that the crashes took with them
}

#[tokio::test]
async fn bad_numbers_after_a_dead_source_roll_back_at_once() -> anyhow::Result<()> {
    let day = Day::begin("worse", plan("10m")).await?;
    day.mood(Mood::Status(500));
    day.prompt("the second", &json!({})).await?;
    day.until("held", SOON, |agent| judged(agent, Verdict::Error, "HTTP status 500")).await?;
    day.mood(Mood::Good(0.1));
    let over = day.until_ended(Outcome::RolledBack).await?;
    tells(&over, "Launched", &["RolledBack", "bad-quality: quality", "10%", "50%"])?;
    day.end().await
}

/// Starts Prometheus again however the test ends.
struct Stopped<'a>(&'a Day);

impl Stopped<'_> {
    async fn start(self) -> anyhow::Result<()> {
        self.0.cluster.tool("start-component", &["prometheus"]).await?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let tool = std::env::var("CLUSTER_TOOL").unwrap_or_default();
        let name = std::env::var("SLUICE_CLUSTER").unwrap_or_default();
        let _ = std::process::Command::new(tool).args(["start-component", "--name", &name, "prometheus"]).status();
    }
}

/// The only test of this file that needs the cluster's own Prometheus: no other one is disturbed.
#[tokio::test]
async fn a_prometheus_that_is_stopped_mid_launch_holds_it_until_it_is_back() -> anyhow::Result<()> {
    let mut day = Day::dawn("stopped", plan("10m")).await?;
    let metric = json!({"name": "success_rate", "window": "4s", "minSamples": 3, "value": {"atLeast": "99%"}});
    day.agent["spec"]["metrics"] = json!({"sourceRef": {"name": "default"}, "interval": "1s"});
    day.agent["spec"]["launch"]["stages"][0]["gates"] = json!([{"name": "success", "metric": metric}]);
    day.agent["spec"]["launch"]["stages"][0]["minDuration"] = json!("6s");
    day.agent["spec"]["launch"]["triggers"] = json!([{"name": "errors", "metric": {"name": "error_rate", "window": "4s", "minSamples": 3, "value": {"above": "20%"}}}]);
    day.agent["spec"]["template"]["metadata"] =
        json!({"annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}});
    day.first().await?;
    let (before, weights) = (day.stable().await?, day.watch_route().await?);
    day.prompt("the second", &json!({})).await?;
    day.until_at(50).await?;
    day.cluster.tool("stop-component", &["prometheus"]).await?;
    let stopped = Stopped(&day);
    day.until("held", SOON, |agent| judged(agent, Verdict::Error, "connection refused")).await?;
    let held = day.stays("held at 50%", LONG_ENOUGH, |agent| climbs_at(agent, 50)).await?;
    tells(&held, "Progressing", &["success: ", "source default", "connection refused"])?;
    weights.never_above(50)?;
    ensure!(stable(&held) == before, "stable changed");
    stopped.start().await?;
    day.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    day.end().await
}
