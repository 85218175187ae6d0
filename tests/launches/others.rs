//! Routes of other people: one that only has the agent's name, and one that the agent shared before it was turned away.

use anyhow::{Context as _, ensure};
use kube::ResourceExt as _;
use kube::api::{DynamicObject, PostParams};
use serde_json::json;
use sluice::api::{AgentDeployment, Outcome};

use crate::cluster::{Agent, Manifest, PATIENCE, condition, gateway, http_routes, share, until};
use crate::{holding, shared};

/// A route that somebody made by hand, through the cluster's gateway.
async fn make(agent: &Agent, name: &str, host: &str, backend: &str) -> anyhow::Result<DynamicObject> {
    let backends = json!([{"name": backend, "port": 80}]);
    let spec = json!({"parentRefs": [gateway()?], "hostnames": [host], "rules": [{"backendRefs": backends}]});
    let route = DynamicObject::new(name, &http_routes()).data(json!({"spec": spec}));
    Ok(agent.routes().create(&PostParams::default(), &route).await?)
}

/// Whoever wants no gateway of Sluice may have a route of their own, and call it like the agent.
#[tokio::test]
async fn a_users_route_that_has_the_agents_name_is_not_touched_by_any_launch() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let look = json!([{"name": "look", "traffic": 0, "minDuration": "1s"}]);
    let manifest = Manifest::example("namesake")?.with("/spec/traffic", json!(null)).with("/spec/launch/stages", look);
    let agent = Agent::apply(&cluster, manifest).await?;
    agent.until_first_stable().await?;
    let theirs = make(&agent, "namesake", &agent.host, "namesake").await?;
    let load = agent.load(20).await?;

    agent.prompt("Second.", &json!({})).await?;
    agent.until_ended(2, Outcome::Succeeded).await?;
    agent.edit(|manifest| manifest.0["spec"]["launch"]["stages"][0]["minDuration"] = json!("1h")).await?;
    agent.prompt("Third.", &json!({})).await?;
    agent.until_in_stage(3, "look").await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_ended(3, Outcome::Aborted).await?;

    let still = agent.routes().get("namesake").await.context("their route is gone")?;
    ensure!(still.uid() == theirs.uid() && still.data["spec"] == theirs.data["spec"], "{still:?}");
    ensure!(still.annotations().is_empty() && still.owner_references().is_empty(), "{:?}", still.metadata);
    let stalled = condition(&agent.now().await?, "Stalled");
    ensure!(stalled.starts_with("False"), "{stalled}");
    let answers = load.stop().await;
    println!("a namesake: {} requests, {} lost", answers.sent, answers.lost);
    agent.ensure_none_lost(&answers).await?;
    agent.done().await
}

/// What Sluice should do next fails; the canary's share on the route before goes all the same.
#[tokio::test]
async fn a_canary_has_no_share_on_a_route_that_the_agent_left_even_where_its_new_one_cannot_be_made()
-> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let manifest = holding("leaver")?.with("/spec/traffic", json!({"httpRoute": {"name": "web"}}));
    let agent = Agent::apply(&cluster, manifest).await?;
    let web = make(&agent, "web", &agent.host, "leaver").await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "hold").await?.revision;
    ensure!(share(&agent.routes().get("web").await?, &canary) == 10, "it has no share to lose");

    make(&agent, "leaver", "theirs.example", "theirs").await?;
    let traffic = json!({"gateway": {"parentRefs": [gateway()?], "hostnames": [agent.host]}});
    agent.edit(|manifest| manifest.0["spec"]["traffic"] = traffic).await?;
    let taken = |agent: &AgentDeployment| condition(agent, "Stalled").starts_with("True NameTaken HTTPRoute leaver");
    agent.until("told of", taken).await?;
    let left = |route: &DynamicObject| route.data["spec"] == web.data["spec"];
    until(&agent.routes(), "web", "as it was", PATIENCE, left).await?;

    agent.prompt("Refund what was paid.", &json!({})).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    agent.until_sized(&canary, 0).await?;
    agent.done().await
}
