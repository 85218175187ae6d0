//! A plan that is shared: it is edited and deleted while it judges a launch. And freeze windows that open meanwhile.

use std::hash::{BuildHasher as _, RandomState};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Launch, LaunchPlan, Outcome};

use crate::cluster::{Agent, Cluster, Manifest, PATIENCE, condition, launch, most_fail, share, until, until_none};
use crate::common::MANAGER;
use crate::history::History;
use crate::kills::KILLING;
use crate::people::{bind, decide};
use crate::shared;

/// The label of stored plans.
const COPIES: &str = "sluice.dev/plan";

/// A LaunchPlan of a test's own: plans have no namespace.
struct Plan {
    api: Api<LaunchPlan>,
    name: String,
}

impl Plan {
    async fn apply(cluster: &Cluster, spec: &Value) -> anyhow::Result<Self> {
        let name = format!("plan-{:08x}", RandomState::new().hash_one("plan") & 0xffff_ffff);
        let plan = Self { api: Api::all(cluster.client.clone()), name };
        plan.edit(spec).await?;
        Ok(plan)
    }

    async fn edit(&self, spec: &Value) -> anyhow::Result<()> {
        let metadata = json!({"name": self.name});
        let object =
            json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "LaunchPlan", "metadata": metadata, "spec": spec});
        let params = PatchParams::apply(MANAGER).force().validation_strict();
        self.api.patch(&self.name, &params, &Patch::Apply(&object)).await.context("the API server refuses the plan")?;
        Ok(())
    }

    /// The example agent under another name, judged by this plan.
    fn judges(&self, agent: &str) -> anyhow::Result<Manifest> {
        Ok(Manifest::example(agent)?.with("/spec/launch", json!({"planRef": {"name": self.name}})))
    }

    async fn delete(&self) -> anyhow::Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// One stage of an hour at 10 %; a trigger on errors, which needs requests to say anything.
fn holding(min_duration: &str, triggers: &[Value]) -> Value {
    let errors = json!({"name": "error_rate", "window": "3s", "minSamples": 4, "value": {"above": "10%"}});
    let errors = json!({"name": "errors", "metric": errors, "for": "1s"});
    let triggers: Vec<_> = [errors].into_iter().chain(triggers.iter().cloned()).collect();
    json!({"stages": [{"name": "hold", "traffic": 10, "minDuration": min_duration}], "triggers": triggers})
}

/// Waits until a second revision, half of whose runs fail, has its share. Nobody asks it anything yet.
async fn until_held(agent: &Agent) -> anyhow::Result<(History, Launch)> {
    agent.until_first_stable().await?;
    let history = History::of(agent);
    agent.prompt("Be generous.", &most_fail()).await?;
    Ok((history, agent.until_in_stage(2, "hold").await?))
}

fn plan_hash(agent: &AgentDeployment) -> String {
    launch(agent).map(|launch| launch.plan_hash.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_plan_is_edited_and_deleted_mid_launch_and_the_launch_keeps_its_triggers() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let plan = Plan::apply(&cluster, &holding("1h", &[])).await?;
    let agent = Agent::apply(&cluster, plan.judges("planned")?).await?;
    let (history, begun) = until_held(&agent).await?;

    let crashes = json!({"name": "crash-loop", "health": {"condition": "CrashLoop"}});
    plan.edit(&holding("1h", std::slice::from_ref(&crashes))).await?;
    let tightened = agent.until("under the tighter plan", |agent| plan_hash(agent) != begun.plan_hash).await?;
    let tightened = launch(&tightened).context("no launch")?.clone();
    ensure!(
        (tightened.entered_at, tightened.began_at) == (begun.entered_at, begun.began_at),
        "one more trigger restarted the stage: {tightened:?}"
    );

    plan.edit(&holding("50m", &[crashes])).await?;
    let again = |agent: &AgentDeployment| {
        plan_hash(agent) != tightened.plan_hash && launch(agent).is_some_and(|launch| launch.began_at > begun.began_at)
    };
    let edited = agent.until("in its stage anew", again).await?;
    let edited = launch(&edited).context("no launch")?.clone();
    ensure!((edited.weight, edited.stage_name.as_str()) == (10, "hold"), "{edited:?}");

    let copies: Api<ConfigMap> = agent.all();
    let name = format!("planned-plan-{}", edited.plan_hash);
    until(&copies, &name, "stored", PATIENCE, |copy| copy.immutable == Some(true)).await?;
    let killing = KILLING.lock().await;
    plan.delete().await?;
    let held = agent.until("held", |agent| condition(agent, "Stalled").starts_with("True PlanMissing")).await?;
    let words = format!("LaunchPlan {} does not exist: create it", plan.name);
    ensure!(condition(&held, "Progressing").contains(&words), "{}", condition(&held, "Progressing"));
    let killed = cluster.kill_operator().await?;
    let successor = cluster.leader().await?;
    drop(killing);
    ensure!(killed != successor, "{killed} was not killed");

    let load = agent.load(40).await?;
    let ended = agent.until_ended(2, Outcome::RolledBack).await?;
    let message = ended.message.clone().unwrap_or_default();
    ensure!(message.starts_with("errors: "), "another trigger fired: {message}");
    ensure!(
        (&ended.plan_hash, ended.began_at) == (&edited.plan_hash, edited.began_at),
        "another plan judged: {ended:?}"
    );
    ensure!(load.stop().await.lost == 0, "requests were lost");
    history.ensure_bounded(&[("hold", 10)])?;
    until_none::<ConfigMap>(&copies, COPIES).await?;
    agent.done().await
}

/// The copy that was stored with the launch holds and judges it, whatever is written in the LaunchPlan meanwhile.
#[tokio::test]
async fn a_plan_that_is_edited_into_nonsense_holds_the_launch_and_its_triggers_go_on() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let good = holding("12s", &[]);
    let plan = Plan::apply(&cluster, &good).await?;
    let agent = Agent::apply(&cluster, plan.judges("nonsense")?).await?;
    let (history, begun) = until_held(&agent).await?;

    let mut nonsense = good.clone();
    nonsense["stages"][0]["minDuration"] = json!("1s"); // it would be over at once
    nonsense["triggers"][0]["metric"]["name"] = json!("eror_rate");
    plan.edit(&nonsense).await?;
    let held = agent.until("held", |agent| condition(agent, "Stalled").starts_with("True PlanInvalid")).await?;
    let stalled = condition(&held, "Stalled");
    ensure!(stalled.contains("eror_rate"), "{stalled}");
    ensure!(condition(&held, "Ready").starts_with("True Serving"), "{}", condition(&held, "Ready"));

    let since = begun.began_at.context("it has not begun")?;
    while Timestamp::now().duration_since(since).as_secs() < 16 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await; // its stage is over by both plans
    }
    let still = agent.now().await?;
    let still = launch(&still).context("no launch")?;
    ensure!(
        (still.weight, &still.plan_hash, still.began_at) == (10, &begun.plan_hash, begun.began_at),
        "it is not held under its copy: {still:?}"
    );
    let load = agent.load(40).await?;
    let ended = agent.until_ended(2, Outcome::RolledBack).await?;
    let message = ended.message.clone().unwrap_or_default();
    ensure!(message.starts_with("errors: ") && ended.plan_hash == begun.plan_hash, "{ended:?}");
    ensure!(load.stop().await.lost == 0, "requests were lost");

    plan.edit(&good).await?;
    let mended = |agent: &AgentDeployment| condition(agent, "Stalled").starts_with("True RevisionRejected");
    agent.until("under its plan again", mended).await?;
    history.ensure_bounded(&[("hold", 10)])?;
    plan.delete().await?;
    agent.done().await
}

#[tokio::test]
async fn an_agent_waits_for_its_plan_and_launches_when_it_is_there() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let plan = Plan::apply(&cluster, &holding("1s", &[])).await?;
    plan.delete().await?;
    let launched_by = json!({"planRef": {"name": plan.name}});
    let agent = Agent::apply(&cluster, Manifest::example("waits")?.with("/spec/launch", launched_by)).await?;
    let waits = agent.until("waiting", |agent| condition(agent, "Launched").starts_with("False PlanMissing")).await?;
    ensure!(launch(&waits).is_none(), "it launched without a plan");
    plan.edit(&holding("1s", &[])).await?;
    agent.until_first_stable().await?;
    plan.delete().await?;
    agent.done().await
}

/// A window that is open from this minute on.
fn opens_now(duration: &str) -> Value {
    let minute = TimeZone::UTC.to_datetime(Timestamp::now()).strftime("%-M %-H * * *").to_string();
    json!([{"name": "peak-week", "schedule": minute, "duration": duration}])
}

/// Waits until the window holds the launch, and reads when it closes.
async fn until_frozen(agent: &Agent) -> anyhow::Result<(AgentDeployment, Timestamp)> {
    let frozen = agent.until("frozen", |agent| condition(agent, "Progressing").starts_with("True Frozen")).await?;
    let said = condition(&frozen, "Launched");
    let until = said.split("frozen by window peak-week until ").nth(1).with_context(|| said.clone())?;
    let until = until.parse().with_context(|| said.clone())?;
    Ok((frozen, until))
}

#[tokio::test]
async fn a_window_that_opens_mid_launch_holds_it_until_it_closes_by_itself() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let stages = json!([
        {"name": "tenth", "traffic": 10, "minDuration": "10s"},
        {"name": "half", "traffic": 50, "minDuration": "1s"},
    ]);
    let agent = Agent::apply(&cluster, Manifest::example("frozen")?.with("/spec/launch/stages", stages)).await?;
    agent.until_first_stable().await?;
    let history = History::of(&agent);
    agent.prompt("Be friendly.", &json!({})).await?;
    let begun = agent.until_in_stage(2, "tenth").await?;

    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/freeze", opens_now("2m"))).await?;
    let (frozen, until) = until_frozen(&agent).await?;
    ensure!(condition(&frozen, "Stalled").starts_with("False"), "waiting is no failure");
    let before = launch(&frozen).context("no launch")?;
    ensure!(before.began_at == begun.began_at && before.plan_hash == begun.plan_hash, "a window restarted the stage");

    agent.until_ended(2, Outcome::Succeeded).await?;
    let next = history.launches().into_iter().find(|launch| launch.number == 2 && launch.stage_name == "half");
    let entered = next.context("it was never in half")?.entered_at;
    ensure!(entered >= until, "it went on at {entered}, before {until}");
    println!("the window closed at {until}, the next stage was entered at {entered}");
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    agent.done().await
}

/// One window is the agent's own, the other one its LaunchPlan's; a person aborts here, a trigger fires there.
#[tokio::test]
async fn in_a_freeze_window_a_person_and_a_trigger_take_the_canary_back_at_once() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let mut spec = holding("1h", &[]);
    let plan = Plan::apply(&cluster, &spec).await?;
    let own = Agent::apply(&cluster, crate::holding("aborts")?).await?;
    let planned = own.beside(plan.judges("triggers")?).await?;
    bind(&cluster, &own.namespace, "sluice-approver", "jane").await?;
    for agent in [&own, &planned] {
        agent.until_first_stable().await?;
    }
    own.prompt("Be generous.", &most_fail()).await?; // both have it, and nobody asks anything yet
    for agent in [&own, &planned] {
        agent.until_in_stage(2, "hold").await?;
    }
    own.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/freeze", opens_now("1h"))).await?;
    spec["freeze"] = opens_now("1h");
    plan.edit(&spec).await?;
    for agent in [&own, &planned] {
        let (frozen, _) = until_frozen(agent).await?;
        ensure!(launch(&frozen).is_some_and(|launch| launch.weight == 10), "{:?}", launch(&frozen));
    }

    let asked = Timestamp::now();
    let answer = decide(&own, "abort", "Abort", &json!({})).await?;
    ensure!(
        answer.starts_with("Applied: aborts-2: ") && answer.ends_with("is taken back from 10% and rejected"),
        "{answer}"
    );
    let aborted = own.until_ended(2, Outcome::RolledBack).await?;
    let took = aborted.decided_at.context("it was not decided")?.duration_since(asked);
    ensure!(took.as_secs() < 5, "it was obeyed after {took}");

    let load = planned.load(40).await?;
    let asked = Timestamp::now();
    let fired = planned.until_ended(2, Outcome::RolledBack).await?;
    ensure!(fired.message.as_deref().is_some_and(|message| message.starts_with("errors: ")), "{fired:?}");
    let took = fired.decided_at.context("it was not decided")?.duration_since(asked);
    println!("in a freeze window: the trigger took {took}");
    ensure!(took.as_secs() < 30, "it fired after {took}");
    ensure!(load.stop().await.lost == 0, "requests were lost");
    for (agent, ended) in [(&own, &aborted), (&planned, &fired)] {
        let route = agent.routes().get(&agent.name).await?;
        ensure!(share(&route, &ended.revision) == 0, "{} has a share: {route:?}", ended.revision);
    }
    plan.delete().await?;
    own.done().await
}
