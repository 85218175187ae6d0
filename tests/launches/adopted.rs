//! A user's own HTTPRoute: shared, contested, put back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions::is_deleted};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Outcome};
use sluice::traffic::HTTPRoute;

use crate::cluster::{
    Agent, Cluster, Manifest, PATIENCE, SYSTEM, backends_of, condition, gateway, http_routes, launch, most_fail, share,
    until, until_none,
};
use crate::history::{History, Seen};
use crate::login::Login;
use crate::{holding, shared};

/// Who applies the route, as a GitOps tool would.
const GIT: &str = "gitops";

/// The user's route: a rule of the agent's own, one that it has with another Service, one that is none of its business.
fn route(agent: &str, host: &str) -> anyhow::Result<Value> {
    let path = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    Ok(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "shop"},
        "spec": {
            "parentRefs": [gateway()?],
            "hostnames": [host],
            "rules": [
                {"matches": path("/run"), "backendRefs": [{"name": agent, "port": 80}]},
                {
                    "matches": path("/both"), "timeouts": {"request": "30s"},
                    "backendRefs": [{"name": "foreign", "port": 80, "weight": 1}, {"name": agent, "port": 80, "weight": 3}],
                },
                {"matches": path("/foreign"), "backendRefs": [{"name": "foreign", "port": 80}]},
            ],
        },
    }))
}

/// An agent that shares the route `shop`.
async fn sharing(cluster: &Cluster, manifest: Manifest) -> anyhow::Result<(Agent, Value)> {
    let manifest = manifest.with("/spec/traffic", json!({"httpRoute": {"name": "shop"}}));
    let agent = Agent::apply(cluster, manifest).await?;
    foreign(&agent).await?;
    let git = apply(&agent).await?;
    Ok((agent, git))
}

/// The Service of somebody else that the route names too: without it the gateway refuses the route.
async fn foreign(agent: &Agent) -> anyhow::Result<()> {
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let foreign = json!({"metadata": {"name": "foreign"}, "spec": {"ports": port, "selector": {"app": "nobody"}}});
    agent.all::<Service>().create(&PostParams::default(), &serde_json::from_value(foreign)?).await?;
    Ok(())
}

/// Applies the route as Git has it, and returns its spec as the API server holds it.
async fn apply(agent: &Agent) -> anyhow::Result<Value> {
    let git = route(&agent.name, &agent.host)?;
    let applied = agent.routes().patch("shop", &PatchParams::apply(GIT).force(), &Patch::Apply(&git)).await?;
    Ok(applied.data["spec"].clone())
}

fn weights(route: &DynamicObject, rule: usize) -> Vec<i64> {
    let backends = route.data["spec"]["rules"][rule]["backendRefs"].as_array().into_iter().flatten();
    backends.map(|backend| backend["weight"].as_i64().unwrap_or(1)).collect()
}

async fn until_at_rest(agent: &Agent, git: &Value) -> anyhow::Result<DynamicObject> {
    let same = |route: &DynamicObject| route.data["spec"] == *git;
    until(&agent.routes(), "shop", "as Git has it", PATIENCE, same).await
}

#[tokio::test]
async fn a_users_route_is_shared_and_comes_back_byte_for_byte_and_no_request_is_lost() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let (agent, git) = sharing(&cluster, Manifest::example("adopts")?).await?;
    agent.until_first_stable().await?;
    let (history, load) = (History::on(&agent, "shop", &["foreign"]), agent.load(40).await?);

    agent.prompt("Refund what was paid. Be friendly.", &json!({})).await?;
    let second = agent.until_in_stage(2, "tenth").await?.revision;
    let shared = agent.routes().get("shop").await?;
    ensure!(weights(&shared, 0) == [90, 10], "{:?}", weights(&shared, 0));
    ensure!(weights(&shared, 1) == [100, 270, 30], "{:?}", weights(&shared, 1));
    ensure!(shared.data["spec"]["rules"][2] == git["rules"][2], "the third rule changed: {shared:?}");
    ensure!(shared.owner_references().is_empty() && shared.labels().is_empty(), "{:?}", shared.metadata);
    agent.until_ended(2, Outcome::Succeeded).await?;
    until_at_rest(&agent, &git).await?;
    ensure!(history.shares(&second) == [0, 10, 50, 100, 0], "{second} had {:?}", history.shares(&second));

    agent.prompt("Be generous.", &most_fail()).await?;
    let bad = agent.until_ended(3, Outcome::RolledBack).await?.revision;
    let rested = until_at_rest(&agent, &git).await?;
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    let had = history.shares(&bad); // how far it climbs before its trigger fires is a matter of the machine's speed
    ensure!([&[0, 10, 0][..], &[0, 10, 50, 0]].contains(&&had[..]), "{bad} had {had:?}");
    ensure_only_its_own_changed(&history, &git)?;
    let said = rested.annotations().get("sluice.dev/adopts.decision").cloned();
    ensure!(said.as_deref() == Some("RolledBack"), "{:?}", rested.annotations());
    let answers = load.stop().await;
    println!("adopted: {} requests, {} lost", answers.sent, answers.lost);
    agent.ensure_none_lost(&answers).await?;
    agent.done().await
}

/// At every version of the route: only the agent's part of the backends of its two rules is not what Git says.
fn ensure_only_its_own_changed(history: &History, git: &Value) -> anyhow::Result<()> {
    let without = |spec: &Value| {
        let mut spec = spec.clone();
        for rule in [0, 1] {
            spec["rules"][rule]["backendRefs"].take();
        }
        spec
    };
    let specs = history.specs();
    ensure!(specs.len() > 6, "only {} versions were seen", specs.len());
    for spec in &specs {
        ensure!(without(spec) == without(git), "{spec} is more than the agent's part of\n{git}");
        let both = backends_of(&spec["rules"][1]);
        let of = |what: &dyn Fn(&str) -> bool| both.iter().filter(|(name, _)| what(name)).map(|(_, w)| w).sum::<i64>();
        ensure!(4 * of(&|name| name == "foreign") == of(&|_| true), "the other Service has not its quarter: {spec}");
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_deleted_in_a_launch_leaves_the_route_as_it_was() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let (agent, git) = sharing(&cluster, holding("leaves")?).await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "hold").await?;
    delete(&agent).await?;
    let left = agent.routes().get("shop").await?;
    ensure!(left.data["spec"] == git, "the route is {}", left.data["spec"]);
    ensure!(left.annotations().is_empty(), "left behind: {:?}", left.annotations());
    agent.done().await
}

/// A write of Sluice's that was on its way when the agent went arrives when no pass is made for it any more.
#[tokio::test]
async fn a_share_that_arrives_after_its_agent_has_gone_is_put_back() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let (agent, git) = sharing(&cluster, holding("overtaken")?).await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "hold").await?;
    let mut late = agent.routes().get("shop").await?;
    delete(&agent).await?;
    let sluice = Login::account(&cluster, SYSTEM, "sluice").await?.client().await?;
    let sluices = Api::<DynamicObject>::namespaced_with(sluice, &agent.namespace, &http_routes());
    late.metadata.resource_version = sluices.get("shop").await?.resource_version();
    sluices.replace("shop", &PostParams::default(), &late).await?;
    let as_it_was = |route: &DynamicObject| route.data["spec"] == git && route.annotations().is_empty();
    until(&agent.routes(), "shop", "as it was", PATIENCE, as_it_was).await?;
    agent.done().await
}

/// Deletes an agent and waits until it is gone.
async fn delete(agent: &Agent) -> anyhow::Result<()> {
    let uid = agent.now().await?.uid().unwrap_or_default();
    agent.api().delete(&agent.name, &DeleteParams::background()).await?;
    let gone = await_condition(agent.api(), &agent.name, is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.context("it is still there")??;
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_route_is_gone_can_be_deleted() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let (agent, _) = sharing(&cluster, holding("orphan")?).await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "hold").await?;
    agent.routes().delete("shop", &DeleteParams::default()).await?;
    let stalled = |agent: &AgentDeployment| {
        condition(agent, "Stalled").starts_with("True RouteUnusable HTTPRoute shop does not exist: create it")
    };
    agent.until("told of", stalled).await?;
    delete(&agent).await?;
    agent.done().await
}

/// The spec turns to a route that nobody has made yet: until it is there the one that Sluice made serves, and a rollback takes
/// the canary's weight there.
#[tokio::test]
async fn a_launch_that_is_turned_to_a_missing_route_is_taken_back_on_the_one_before() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("turned")?).await?;
    let first = agent.until_first_stable().await?;
    let load = agent.load(20).await?;
    agent.prompt("Second.", &json!({})).await?;
    let second = agent.until_in_stage(2, "hold").await?.revision;
    agent.edit(|manifest| manifest.0["spec"]["traffic"] = json!({"httpRoute": {"name": "shop"}})).await?;
    let missing = |agent: &AgentDeployment| {
        condition(agent, "Stalled").starts_with("True RouteUnusable HTTPRoute shop does not exist: create it")
    };
    agent.until("told of", missing).await?;
    ensure!(share(&agent.routes().get("turned").await?, &second) == 10, "the route before does not serve any more");
    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    let made = agent.routes().get("turned").await?;
    ensure!(share(&made, &second) == 0, "the canary has {}%", share(&made, &second));
    agent.until_sized(&second, 0).await?;

    apply(&agent).await?;
    let refused = |agent: &AgentDeployment| condition(agent, "Stalled").starts_with("True RouteRefused Gateway");
    agent.until("refused", refused).await?;
    ensure!(agent.routes().get("turned").await?.metadata.deletion_timestamp.is_none(), "nobody serves");
    foreign(&agent).await?;
    until_none(&agent.all::<HTTPRoute>(), "sluice.dev/agent=turned").await?;
    let answers = load.stop().await;
    println!("turned to another route: {} requests, {} lost", answers.sent, answers.lost);
    agent.ensure_none_lost(&answers).await?;
    ensure!(answers.answered_by(&first) > 0, "{:?}", answers.revisions);
    agent.done().await
}

/// A loop that applies the route as Git has it, every five seconds.
fn gitops(agent: &Agent, client_side: bool) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let (routes, cluster, namespace) = (agent.routes(), agent.cluster.clone(), agent.namespace.clone());
    let git = route(&agent.name, &agent.host)?;
    Ok(tokio::spawn(async move {
        loop {
            if client_side {
                let arguments = ["-n", &namespace, "apply", "-f", "-"];
                drop(cluster.run("KUBECTL", &arguments, Some(&git.to_string())).await);
            } else {
                drop(routes.patch("shop", &PatchParams::apply(GIT).force(), &Patch::Apply(&git)).await);
            }
            tokio::time::sleep(Duration::from_secs(5)).await; // the loop is what is tested
        }
    }))
}

/// Three shares were tried, and from the moment that the launch gave way nobody changed the route: it is as Git has it.
fn ensure_nothing_flaps(history: &History, canary: &str, git: &Value) -> anyhow::Result<()> {
    let (mut tries, mut rests, mut gave_way) = (BTreeSet::new(), None, false);
    for version in history.versions() {
        match version.seen {
            Seen::Agent(agent) => {
                let contested = launch(&agent).filter(|launch| launch.contest.as_ref().is_some_and(|it| it.times >= 3));
                gave_way |= contested.is_some_and(|launch| launch.weight == 0);
            }
            Seen::Route(route) => {
                // neither what a gateway answers changes it, nor the mark of a new leader: other tests kill the operator
                let written = route.metadata.generation;
                if gave_way {
                    ensure!(route.data["spec"] == *git, "{} after the launch gave way", route.data["spec"]);
                    ensure!(
                        rests.as_ref() == Some(&written),
                        "{written:?} after the launch gave way, before: {rests:?}"
                    );
                } else if share(&route, canary) > 0 {
                    tries.insert(written);
                }
                rests = Some(written);
            }
            Seen::Service(_) => {}
        }
    }
    ensure!(gave_way && (1..=3).contains(&tries.len()), "gave way: {gave_way}, after shares in versions {tries:?}");
    Ok(())
}

async fn contested(name: &str, client_side: bool, who: &str) -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let (agent, git) = sharing(&cluster, holding(name)?).await?;
    let first = agent.until_first_stable().await?;
    let (history, load) = (History::on(&agent, "shop", &["foreign"]), agent.load(20).await?);
    let git_loop = gitops(&agent, client_side)?;
    agent.prompt("Second.", &json!({})).await?;
    let words = format!("True RouteContested {who} overwrites the shared backends");
    agent.until("contested", |agent| condition(agent, "Stalled").starts_with(&words)).await?;
    until_at_rest(&agent, &git).await?;
    ensure!(launch(&agent.now().await?).is_some_and(|launch| launch.weight == 0), "it still has a weight");
    tokio::time::sleep(Duration::from_secs(20)).await; // nothing should happen, while the loop goes on
    let canary = launch(&agent.now().await?).context("no launch")?.revision.clone();
    ensure_nothing_flaps(&history, &canary, &git)?;

    git_loop.abort();
    agent.until("shared again", |agent| launch(agent).is_some_and(|l| l.weight == 10 && l.began_at.is_some())).await?;
    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    until_at_rest(&agent, &git).await?;
    let answers = load.stop().await;
    println!("contested by {who}: {} requests, {} lost", answers.sent, answers.lost);
    agent.ensure_none_lost(&answers).await?;
    ensure!(answers.answered_by(&first) > 0, "{:?}", answers.revisions);
    agent.done().await
}

#[tokio::test]
async fn a_loop_of_server_side_applies_holds_the_launch_and_is_named() -> anyhow::Result<()> {
    contested("serverside", false, GIT).await
}

#[tokio::test]
async fn a_loop_of_client_side_applies_holds_the_launch_and_is_named() -> anyhow::Result<()> {
    contested("clientside", true, "kubectl-client-side-apply").await
}

/// Two stages of matching requests; the last one shares all.
#[tokio::test]
async fn a_share_of_some_requests_reaches_no_others_and_no_request_is_lost() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let low = json!([{"headers": [{"name": "x-risk", "value": "low"}]}]);
    let stages = json!([
        {"name": "low", "traffic": 40, "match": low, "minDuration": "10s"},
        {"name": "all", "traffic": 50, "minDuration": "1h"},
    ]);
    let (agent, git) = sharing(&cluster, Manifest::example("matches")?.with("/spec/launch/stages", stages)).await?;
    let first = agent.until_first_stable().await?;
    let (plain, low) = (agent.load(20).await?, agent.load_with(20, ("x-risk", "low")).await?);
    agent.prompt("Second.", &json!({})).await?;
    let second = agent.until_in_stage(2, "low").await?.revision;
    let shared = agent.routes().get("shop").await?;
    ensure!(shared.data["spec"]["rules"].as_array().map(Vec::len) == Some(5), "{}", shared.data["spec"]);
    let begun = low.snapshot();
    let wide = |agent: &AgentDeployment| launch(agent).is_some_and(|launch| launch.stage_name == "all");
    agent.until("past its first stage", wide).await?;
    let (others, passed) = (plain.snapshot(), low.snapshot());
    let answers = |revision: &str| passed.answered_by(revision) - begun.answered_by(revision);
    let (old, new) = (answers(&first), answers(&second));
    println!(
        "of what matches stable answered {old}, the canary {new}; of all others the canary {}",
        others.answered_by(&second)
    );
    ensure!(others.answered_by(&second) == 0, "the canary answered requests that do not match");
    ensure!(old + new >= 100 && new * 4 >= old && new <= old * 2, "at 40% stable answered {old}, the canary {new}");

    agent.until_in_stage(2, "all").await?;
    ensure!(
        agent.routes().get("shop").await?.data["spec"]["rules"].as_array().map(Vec::len) == Some(3),
        "a rule is left"
    );
    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    until_at_rest(&agent, &git).await?;
    for load in [plain, low] {
        let answers = load.stop().await;
        println!("matching: {} requests, {} lost", answers.sent, answers.lost);
        agent.ensure_none_lost(&answers).await?;
    }
    agent.done().await
}
