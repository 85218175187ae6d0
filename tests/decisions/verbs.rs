//! Each verb once, with plain `kubectl`, on an agent that serves.

use anyhow::{Context as _, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, LaunchDecision, Outcome};

use crate::cluster::{Agent, Cluster, Manifest, condition, launch, share};
use crate::people::{answer, bind, create, decide, decision};

/// An agent whose second revision stays in its only stage, at 10 %, until somebody decides. Jane may decide everything.
async fn held(name: &str, gates: Value) -> anyhow::Result<(Agent, String)> {
    let cluster = Cluster::with_sluice().await?;
    let wait = if gates == json!([]) { "1h" } else { "0s" }; // who holds it: the time, or its gates
    let hold = json!([{"name": "hold", "traffic": 10, "minDuration": wait, "gates": gates}]);
    let manifest = Manifest::example(name)?.with("/spec/launch/stages", hold);
    let agent = Agent::apply(&cluster, manifest).await?;
    bind(&cluster, &agent.namespace, "sluice-breakglass", "jane").await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "hold").await?.revision;
    Ok((agent, canary))
}

fn reason(agent: &AgentDeployment) -> String {
    let summary = agent.status.as_ref().and_then(|status| status.summary.as_ref());
    summary.map(|summary| summary.reason.clone()).unwrap_or_default()
}

/// Transcript 8. The agent's metrics source is dead: nobody listens there.
#[tokio::test]
async fn an_abort_with_plain_kubectl_takes_the_canary_back_while_metrics_are_down() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let hold = json!([{"name": "hold", "traffic": 10, "minDuration": "1h"}]);
    let manifest = Manifest::example("abort")?.with("/spec/launch/stages", hold);
    let manifest = manifest.with("/spec/metrics/sourceRef", json!({"name": "faulty"}));
    let agent = Agent::apply(&cluster, manifest).await?;
    bind(&cluster, &agent.namespace, "sluice-approver", "jane").await?;
    let stable = agent.until_first_stable().await?;
    let load = agent.load(20).await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "hold").await?.revision;

    let mut object = decision("abort", "", "Abort", "jane");
    object["metadata"] = json!({"generateName": "abort-"});
    let said = create(&cluster, &agent.namespace, "jane", &object).await?;
    ensure!(said.starts_with("launchdecision.sluice.dev/abort-") && said.ends_with("created\n"), "{said}");
    let ended = agent.until_ended(2, Outcome::RolledBack).await?;
    ensure!(ended.reason.as_deref() == Some("Aborted"), "{ended:?}");
    let line = cluster.kubectl(&["-n", &agent.namespace, "get", "agd", "abort", "--no-headers"]).await?;
    let told = format!("{stable} {canary} RolledBack 0% - aborted by jane: wrong refunds");
    ensure!(line.split_whitespace().collect::<Vec<_>>().join(" ").contains(&told), "{told:?} is not in {line}");
    let route = agent.routes().get("abort").await?;
    ensure!(share(&route, &canary) == 0, "{route:?}");

    let name = said.trim_start_matches("launchdecision.sluice.dev/").split(' ').next().context("no name")?;
    let became = answer(&agent, name).await?;
    ensure!(became == format!("Applied: abort-2: {canary} is taken back from 10% and rejected"), "{became}");
    let listed = cluster.kubectl(&["-n", &agent.namespace, "get", "launchdecisions", "--no-headers"]).await?;
    ensure!(listed.split_whitespace().collect::<Vec<_>>()[1..4] == ["abort", "Abort", "jane"], "{listed}");
    println!("{line}{listed}");
    let stalled = condition(&agent.now().await?, "Stalled");
    ensure!(stalled.contains("RevisionRejected") && stalled.contains("decide Retry"), "{stalled}");
    agent
        .until("with its answers read back", |agent| {
            agent.status.as_ref().is_some_and(|status| status.state.answers.is_empty())
        })
        .await?;

    // and a second time there is nothing to abort
    let again = decide(&agent, "again", "Abort", &json!({})).await?;
    ensure!(again == format!("Ignored: no launch runs; {stable} is stable"), "{again}");

    // Retry lets the very same revision launch again
    let unknown = decide(&agent, "stale", "Retry", &json!({"revision": "51ee02"})).await?;
    ensure!(unknown == "Ignored: 51ee02 is not rejected", "{unknown}");
    let retried = decide(&agent, "retry", "Retry", &json!({"revision": canary})).await?;
    ensure!(retried.starts_with(&format!("Applied: {canary} may launch again")), "{retried}");
    let third = agent.until_in_stage(3, "hold").await?;
    ensure!(third.revision == canary, "{third:?}");
    let answers = load.stop().await;
    println!("{} requests, {} lost", answers.sent, answers.lost);
    ensure!(answers.lost == 0, "{:?}", answers.losses);
    agent.done().await
}

#[tokio::test]
async fn a_pause_outlives_its_decision_until_resume_and_promote_ends_the_wait() -> anyhow::Result<()> {
    let (agent, canary) = held("pause", json!([])).await?;
    let paused = decide(&agent, "pause", "Pause", &json!({})).await?;
    ensure!(paused == "Applied: pause-2 holds at 10% until Resume", "{paused}");
    let waits = agent.until("held by jane", |agent| reason(agent) == "paused by jane: wrong refunds").await?;
    ensure!(launch(&waits).is_some_and(|launch| launch.paused_at.is_some()), "its deadline stands still");

    agent.all::<LaunchDecision>().delete("pause", &DeleteParams::default()).await?;
    let promoted = decide(&agent, "promote", "Promote", &json!({"revision": canary})).await?;
    ensure!(promoted.starts_with("Applied: what is left of the minimum duration of hold is skipped"), "{promoted}");
    let still = agent.now().await?;
    ensure!(launch(&still).is_some_and(|l| l.stage_name == "hold" && l.weight == 10), "{:?}", launch(&still));
    ensure!(still.status.is_some_and(|status| status.state.pause.is_some()), "deleting a decision undoes nothing");

    let resumed = decide(&agent, "resume", "Resume", &json!({})).await?;
    ensure!(resumed == "Applied: the pause of jane is over", "{resumed}");
    let ended = agent.until_ended(2, Outcome::Succeeded).await?;
    let why = ended.justification.clone().unwrap_or_default();
    ensure!(why.contains("minimum duration skipped by jane: wrong refunds"), "{why}");
    agent.done().await
}

#[tokio::test]
async fn an_override_passes_the_gate_that_it_names_and_stays_in_the_status() -> anyhow::Result<()> {
    let (agent, canary) = held("override", json!([{"name": "calm", "health": {"for": "1h"}}])).await?;
    let wrong = decide(&agent, "wrong", "Override", &json!({"gates": ["clam"]})).await?;
    ensure!(wrong == "Ignored: stage hold has no gate clam; its gates: calm", "{wrong}");
    let stale = decide(&agent, "stale", "Override", &json!({"gates": ["calm"], "revision": "51ee02"})).await?;
    ensure!(stale == format!("Ignored: given for 51ee02; the canary is {canary}"), "{stale}");
    let hurry = decide(&agent, "hurry", "Promote", &json!({})).await?;
    ensure!(hurry.starts_with("Ignored: hold has no minimum duration left"), "{hurry}");

    let done = decide(&agent, "override", "Override", &json!({"gates": ["calm"]})).await?;
    ensure!(done == "Applied: calm of stage hold counts as passed in override-2", "{done}");
    let ended = agent.until_ended(2, Outcome::Succeeded).await?;
    let why = ended.justification.clone().unwrap_or_default();
    ensure!(why.starts_with("hold passed: calm: overridden by jane: wrong refunds; it says Insufficient"), "{why}");
    ensure!(ended.interventions.len() == 1 && ended.interventions[0].gate.as_deref() == Some("calm"), "{ended:?}");
    let told = agent.events().await?;
    ensure!(told.iter().any(|(reason, note)| reason == "GatesOverridden" && note.contains("jane")), "{told:?}");
    agent.done().await
}

/// Replay: a decision is about the agent that was there when it was made.
#[tokio::test]
async fn a_decision_about_a_former_agent_of_the_same_name_is_ignored() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let agent = Agent::apply(&cluster, Manifest::smallest()?.with("/metadata/name", json!("replay"))).await?;
    bind(&cluster, &agent.namespace, "sluice-breakglass", "jane").await?;
    agent.until_first_stable().await?;
    let about = |name: &str| decision("later", name, "Pause", "jane"); // an agent that does not exist yet
    create(&cluster, &agent.namespace, "jane", &about("early")).await?;
    let made = agent.all::<LaunchDecision>().get("early").await?.metadata.creation_timestamp.context("no time")?.0;
    while k8s_openapi::jiff::Timestamp::now().as_second() <= made.as_second() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await; // timestamps of objects are whole seconds
    }
    let mut later = agent.now().await?;
    later.metadata = kube::api::ObjectMeta { name: Some("later".to_owned()), ..Default::default() };
    later.status = None;
    agent.api().create(&kube::api::PostParams::default(), &later).await?;
    let replayed = answer(&agent, "early").await?;
    ensure!(replayed.starts_with("Ignored: it is older than this agent"), "{replayed}");
    create(&cluster, &agent.namespace, "jane", &about("now")).await?;
    let heard = answer(&agent, "now").await?;
    ensure!(heard.starts_with("Applied: "), "{heard}");
    agent.done().await
}

/// Two agents of one namespace launch at the same time; jane may abort both and aborts one.
#[tokio::test]
async fn an_abort_of_one_agent_leaves_the_launch_of_another_alone() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let hold = json!([{"name": "hold", "traffic": 10, "minDuration": "1h"}]);
    let manifest = |name: &str| anyhow::Ok(Manifest::example(name)?.with("/spec/launch/stages", hold.clone()));
    let one = Agent::apply(&cluster, manifest("one")?).await?;
    let two = one.beside(manifest("two")?).await?;
    bind(&cluster, &one.namespace, "sluice-breakglass", "jane").await?;
    for agent in [&one, &two] {
        agent.until_first_stable().await?;
    }
    one.prompt("Second.", &json!({})).await?; // it is the prompt of both
    one.until_in_stage(2, "hold").await?;
    let before = two.until_in_stage(2, "hold").await?;

    let aborted = decide(&one, "abort", "Abort", &json!({})).await?;
    ensure!(aborted.starts_with("Applied: one-2: "), "{aborted}");
    one.until_ended(2, Outcome::RolledBack).await?;
    // whatever the Abort did to the other one, its answer to a later decision comes after it
    let later = decide(&two, "pause", "Pause", &json!({})).await?;
    ensure!(later == "Applied: two-2 holds at 10% until Resume", "{later}");
    let seen = two.now().await?;
    let after = launch(&seen).context("no launch")?;
    ensure!(
        (after.number, after.phase, after.weight, after.began_at) == (2, before.phase, 10, before.began_at),
        "{after:?}"
    );
    ensure!(share(&two.routes().get("two").await?, &after.revision) == 10, "its share changed");
    ensure!(seen.status.is_some_and(|status| status.state.rejected.is_empty()), "its revision was rejected too");
    one.done().await
}

/// The operator dies while it obeys: the decision takes effect once, and its answer is not lost.
#[tokio::test]
async fn a_decision_takes_effect_once_though_the_operator_is_killed_over_it() -> anyhow::Result<()> {
    let (agent, _) = held("killed", json!([{"name": "calm", "health": {"for": "1h"}}])).await?;
    let aim = agent.cluster.aim().await?;
    let mut object = decision("killed", "override", "Override", "jane");
    object["spec"]["gates"] = json!(["calm"]);
    let obeyed = agent.until("remembering the decision", |agent| {
        launch(agent).is_some_and(|launch| !launch.interventions.is_empty())
    });
    let created = create(&agent.cluster, &agent.namespace, "jane", &object);
    let (obeyed, created) = tokio::join!(obeyed, created);
    aim.kill().await?;
    created?;
    obeyed?;
    let became = answer(&agent, "override").await?;
    ensure!(became == "Applied: calm of stage hold counts as passed in killed-2", "{became}");
    let ended = agent.until_ended(2, Outcome::Succeeded).await?;
    ensure!(ended.interventions.len() == 1, "{:?}", ended.interventions);
    agent
        .until("without an answer to remember", |agent| {
            agent.status.as_ref().is_some_and(|status| status.state.answers.is_empty())
        })
        .await?;
    agent.done().await
}

/// A stage whose deadline pauses: nothing moves until a person decides, and then it has its whole deadline again.
#[tokio::test]
async fn a_stage_that_its_deadline_pauses_waits_for_a_person_and_goes_on_after_resume() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let calm = json!([{"name": "calm", "health": {"for": "25s"}}]);
    let stages = json!([{
        "name": "hold", "traffic": 10, "gates": calm, "deadline": {"after": "20s", "then": "Pause"},
    }]);
    let agent = Agent::apply(&cluster, Manifest::example("deadline")?.with("/spec/launch/stages", stages)).await?;
    bind(&cluster, &agent.namespace, "sluice-approver", "jane").await?;
    agent.until_first_stable().await?;
    let load = agent.load(20).await?;
    agent.prompt("Second.", &json!({})).await?;
    let words = "True DeadlinePassed hold did not finish within 20s: calm: ";
    let held = agent.until("held by its deadline", |agent| condition(agent, "Stalled").starts_with(words)).await?;
    let stalled = condition(&held, "Stalled");
    ensure!(stalled.ends_with("; decide Resume or Abort, or edit the plan"), "{stalled}");
    let canary = launch(&held).context("no launch")?.revision.clone();
    let told = agent.events().await?;
    let deadline = told.iter().find(|(reason, _)| reason == "DeadlinePassed").context("no Event tells it")?;
    ensure!(deadline.1.ends_with("; held until a person decides Resume or Abort"), "{deadline:?}");

    // its gate passes by now: it is held all the same
    let entered = launch(&held).and_then(|launch| launch.began_at).context("the stage has not begun")?;
    while k8s_openapi::jiff::Timestamp::now().duration_since(entered).as_secs() < 27 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await; // the gate's own clock
    }
    let still = agent.now().await?;
    ensure!(launch(&still).is_some_and(|l| l.held && l.weight == 10), "{:?}", launch(&still));
    ensure!(share(&agent.routes().get("deadline").await?, &canary) == 10, "the weight moved");
    let resumed = decide(&agent, "resume", "Resume", &json!({})).await?;
    ensure!(resumed == "Applied: deadline-2 goes on in hold, with a new deadline", "{resumed}");
    let ended = agent.until_ended(2, Outcome::Succeeded).await?;
    ensure!(ended.revision == canary, "{ended:?}");
    let stalled = condition(&agent.now().await?, "Stalled");
    ensure!(stalled.starts_with("False"), "{stalled}");
    let answers = load.stop().await;
    ensure!(answers.lost == 0, "{:?}", answers.losses);
    agent.done().await
}
