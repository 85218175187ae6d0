//! Callers that go past the gateway, straight to the canary: its share is not what its weight says, and nothing goes forward
//! on it.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use sluice::api::{AgentDeployment, Outcome, Phase};

use crate::cluster::{Agent, Manifest, condition, launch};
use crate::history::History;
use crate::shared;

/// So long the only stage lasts at least; it would be left then.
const STAGE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn callers_past_the_gateway_hold_the_launch_until_they_stop() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let success = json!({"name": "success_rate", "window": "3s", "minSamples": 5, "value": {"atLeast": "99%"}});
    let gate = json!({"name": "success", "metric": success});
    let stages = json!([{"name": "tenth", "traffic": 10, "minDuration": "8s", "gates": [gate]}]);
    let agent = Agent::apply(&cluster, Manifest::example("bypassed")?.with("/spec/launch/stages", stages)).await?;
    let first = agent.until_first_stable().await?;
    let (history, gateway) = (History::of(&agent), agent.load(40).await?);
    agent.prompt("Refund what was paid. Be friendly.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "tenth").await?.revision;
    let past = agent.load_inside(&format!("bypassed-{canary}"), 40, true).await?;

    let lied = |agent: &AgentDeployment| condition(agent, "Stalled").starts_with("True ShareNotKept");
    let told = agent.until("told of the share", lied).await?;
    let (stalled, progressing) = (condition(&told, "Stalled"), condition(&told, "Progressing"));
    println!("{stalled}");
    let words = format!("True ShareNotKept {canary} answered ");
    ensure!(
        stalled.starts_with(&words) && stalled.contains("runs, and should answer 10%: callers use its"),
        "{stalled}"
    );
    let held = |agent: &AgentDeployment| {
        let about = launch(agent).filter(|launch| launch.phase == Phase::Progressing && launch.weight == 10);
        about.is_some_and(|launch| launch.message.as_deref().is_some_and(|it| it.starts_with("held: ")))
    };
    agent.until("held after its minimum duration", held).await?;
    let (seen, since) = (tokio::time::Instant::now(), agent.now().await?);
    while seen.elapsed() < STAGE {
        tokio::time::sleep(Duration::from_millis(500)).await; // nothing happens: that is what is to be seen
        ensure!(launch(&agent.now().await?).is_some_and(|launch| launch.weight == 10), "it went on: {progressing}");
    }
    ensure!(lied(&agent.now().await?), "{}", condition(&since, "Stalled"));

    let went_past = past.stop().await;
    let ended = agent.until_ended(2, Outcome::Succeeded).await?;
    agent.until("fine", |agent| condition(agent, "Stalled").starts_with("False")).await?;
    ensure!(ended.revision == canary && history.selected() == [first, canary.clone()], "{:?}", history.selected());
    history.ensure_bounded(&[("tenth", 10)])?;
    let answers = gateway.stop().await;
    println!("bypassed: {} by the gateway, {} lost; {} past it", answers.sent, answers.lost, went_past.sent);
    agent.ensure_none_lost(&answers).await?;
    agent.ensure_none_lost(&went_past).await?;
    ensure!(went_past.answered_by(&canary) == went_past.sent, "{:?}", went_past.revisions);
    agent.done().await
}
