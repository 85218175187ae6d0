//! The API server or etcd is away while agents launch and go back. Requests flow on, nothing is promoted on what was
//! measured before, and what was decided or came to light meanwhile is done within seconds of the API server's return.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Outcome, Verdict};
use sluice::traffic::HTTPRoute;

use crate::alone;
use crate::cluster::{Agent, Cluster, Manifest, SYSTEM, backends, condition, share, until};
use crate::day::{Day, NAME, SOON, Weights, canary_share, climbs_at, is, launch, plan, stable, tells};
use crate::fake::Mood;
use crate::history::History;

/// A gateway may hear of a weight this late; a rollback waits two minutes for its answer.
const DEAF_GATEWAY: Duration = Duration::from_mins(3);

/// How a component goes away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Away {
    /// Its process stands still: connections stay, and nobody answers.
    Hangs,
    /// Its process is gone: connections are refused.
    Killed,
}

/// Takes a component away for so long, and says when the API server answered again.
async fn without(cluster: &Cluster, component: &str, away: Away, span: Duration) -> anyhow::Result<Instant> {
    let (stop, start): (&[&str], &str) = match away {
        Away::Hangs => (&["pause-component"], "resume-component"),
        Away::Killed => (&["stop-component", "--kill"], "start-component"),
    };
    let arguments: Vec<&str> = stop[1..].iter().copied().chain([component]).collect();
    cluster.tool(stop[0], &arguments).await?;
    tokio::time::sleep(span).await; // the outage itself
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), SYSTEM);
    let answered = async {
        let soon = Duration::from_millis(500);
        while !matches!(tokio::time::timeout(soon, leases.list(&ListParams::default())).await, Ok(Ok(_))) {
            tokio::time::sleep(Duration::from_millis(20)).await; // nothing tells when it answers again
        }
        anyhow::Ok(Instant::now())
    };
    let component = [component];
    let (started, answered) = tokio::join!(cluster.tool(start, &component), answered);
    started?;
    answered
}

/// An agent whose canary is at 50 % and stays there while its metric is silent; every version of its route is watched.
async fn at_50(prefix: &str, launch: Value, mood: Mood) -> anyhow::Result<(Day, String, Weights)> {
    let day = Day::begin(prefix, launch).await?;
    let first = day.stable().await?;
    let weights = day.watch_route().await?;
    day.mood(mood);
    day.prompt("the second", &json!({})).await?;
    day.until_at(50).await?;
    Ok((day, first, weights))
}

/// Waits until the canary has nothing on the route.
async fn until_at_0(day: &Day, first: &str) -> anyhow::Result<()> {
    let at_0 = |route: &HTTPRoute| canary_share(route, first) == 0;
    until(&day.api::<HTTPRoute>(), NAME, "at 0%", SOON, at_0).await.map(drop)
}

/// A canary that was at 50 % went to 0 and stayed there.
fn fell_once(weights: &Weights) -> anyhow::Result<()> {
    let mut seen = weights.seen();
    seen.dedup();
    ensure!(seen.ends_with(&[50, 0]) && seen.len() <= 3, "the canary's share went {seen:?}");
    Ok(())
}

/// A launch in the middle of a stage that passes its gate.
async fn climbing(outlasts: Duration) -> anyhow::Result<(Agent, History)> {
    let cluster = Cluster::with_sluice().await?;
    let manifest = Manifest::example("climbing")?
        .with("/spec/launch/stages/0/minDuration", json!(format!("{}s", outlasts.as_secs() + 26)));
    let agent = Agent::apply(&cluster, manifest).await?;
    agent.until_first_stable().await?;
    let history = History::of(&agent);
    agent.prompt("Be friendly.", &json!({})).await?;
    Ok((agent, history))
}

/// The stage went on where it was, and the launch ended well.
async fn went_on(agent: &Agent, history: &History) -> anyhow::Result<()> {
    let launch = agent.until_ended(2, Outcome::Succeeded).await?;
    let mut begun: Vec<_> =
        history.launches().iter().filter(|l| l.stage_name == "tenth").filter_map(|l| l.began_at).collect();
    begun.dedup();
    ensure!(begun.len() == 1, "the stage began anew: {begun:?}");
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    let shares = history.shares(&launch.revision);
    ensure!(shares == [0, 10, 50, 100, 0], "{shares:?}");
    println!("epochs {:?}", history.epochs());
    Ok(())
}

fn has_passed(agent: &AgentDeployment) -> bool {
    let verdicts = launch(agent).map(|launch| &launch.verdicts);
    climbs_at(agent, 50) && verdicts.is_some_and(|verdicts| verdicts.iter().any(|it| it.verdict == Verdict::Pass))
}

/// Its gate passed before the outage and its minimum duration ended in it; but now nothing is known. It waits, and goes on
/// when something is known again.
async fn was_not_promoted_on_old_data(day: Day, first: &str, weights: &Weights) -> anyhow::Result<()> {
    day.stays("held at 50%", Duration::from_secs(6), |agent| climbs_at(agent, 50)).await?;
    weights.never_above(50)?;
    day.mood(Mood::Good(1.0));
    day.until("launched", SOON, |agent| stable(agent) != first && is(agent, "Launched", "True", "")).await?;
    day.end().await
}

/// How often Sluice's container was started.
async fn starts(cluster: &Cluster, pod: &str) -> anyhow::Result<i32> {
    let pod = Api::<Pod>::namespaced(cluster.client.clone(), SYSTEM).get(pod).await?;
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    Ok(containers.map(|container| container.restart_count).sum())
}

/// Four agents meet the same outage: one climbs, one has passed its gate, one breaches in it, one is just being taken back.
async fn outage(component: &str, away: Away, span: Duration) -> anyhow::Result<()> {
    let (_turn, cluster) = alone().await?;
    let leader = cluster.leader().await?;
    let mut waits = plan("10m");
    waits["stages"][0]["minDuration"] = json!(format!("{}s", span.as_secs() + 4));
    let ((climber, history), (breach, first, taken), (falling, before, fell), passed) = tokio::try_join!(
        climbing(span),
        at_50("breach", plan("10m"), Mood::Empty),
        at_50("falling", plan("10m"), Mood::Empty),
        Day::begin("passed", waits),
    )?;
    let load = climber.load(20).await?;
    let known = passed.stable().await?;
    let weights = passed.watch_route().await?;
    passed.prompt("the second", &json!({})).await?;
    climber.until_in_stage(2, "tenth").await?;
    let restarts = starts(&cluster, &leader).await?;

    passed.until_at(50).await?;
    falling.mood(Mood::Good(0.0));
    tokio::try_join!(passed.until("past its gate", SOON, has_passed), until_at_0(&falling, &before))?;
    passed.mood(Mood::Empty);
    breach.mood(Mood::Good(0.0));
    let back = without(&cluster, component, away, span).await?;
    until_at_0(&breach, &first).await?;
    let took = back.elapsed();
    let now = Timestamp::now();
    println!("{component} {away:?} for {span:?}: back → weight 0 of a breach in it: {took:?}");
    let canary = launch(&breach.now().await?).context("no launch")?.revision.clone();
    for (day, stays) in [(&breach, &first), (&falling, &before)] {
        let over = day.until_ended_within(DEAF_GATEWAY, Outcome::RolledBack).await?;
        ensure!(stable(&over) == *stays, "stable changed");
        tells(&over, "Launched", &["False", "RolledBack", "bad-quality: quality"])?;
        tells(&over, "Stalled", &["True", "RevisionRejected", "will not launch again"])?;
    }
    println!("{component} {away:?} for {span:?}: back → both rollbacks told: {:?}", back.elapsed());
    fell_once(&taken)?;
    fell_once(&fell)?;
    was_not_promoted_on_old_data(passed, &known, &weights).await?;
    went_on(&climber, &history).await?;
    let answers = load.stop().await;
    println!("{} requests to the agent that climbed, {} lost", answers.sent, answers.lost);
    ensure!(answers.lost == 0 && answers.errors() == 0, "{:?}", answers.losses);
    if let Some(last) = breach.requests()?.revisions.get(&canary).map(|answers| answers.last) {
        let late = last.duration_since(now).as_secs_f64();
        println!(
            "{component} {away:?} for {span:?}: the gateway's last answer by the canary {late:.1} s after weight 0"
        );
    }
    ensure!(starts(&cluster, &leader).await? == restarts, "Sluice ended in an outage: its next starts come late");
    ensure!(took < Duration::from_secs(10), "the breach waited {took:?} after the outage");
    climber.done().await?;
    breach.end().await?;
    falling.end().await
}

#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn launches_survive_an_api_server_that_hangs_for_less_than_the_lease() -> anyhow::Result<()> {
    Box::pin(outage("apiserver", Away::Hangs, Duration::from_secs(4))).await
}

/// Sluice lost its lease meanwhile; its process went on, for whoever ends is started again later and later.
#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn launches_survive_an_api_server_that_is_gone_for_longer_than_the_lease() -> anyhow::Result<()> {
    Box::pin(outage("apiserver", Away::Killed, Duration::from_secs(18))).await
}

#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn launches_survive_an_etcd_that_hangs_for_longer_than_the_lease() -> anyhow::Result<()> {
    Box::pin(outage("etcd", Away::Hangs, Duration::from_secs(16))).await
}

/// As after an outage: pods are ready, but the controller that tells gateways of them is behind. Nothing moves to a Service
/// that no gateway could use.
#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn a_share_waits_for_the_endpoints_of_both_revisions_and_tells_which_are_missing() -> anyhow::Result<()> {
    let (_turn, cluster) = alone().await?;
    let stages = json!([
        {"name": "none", "traffic": 0, "minDuration": "8s"},
        {"name": "tenth", "traffic": 10, "minDuration": "1h"},
    ]);
    let agent = Agent::apply(&cluster, Manifest::example("behind")?.with("/spec/launch/stages", stages)).await?;
    let first = agent.until_first_stable().await?;
    let load = agent.load(20).await?;
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "none").await?;
    cluster.tool("pause-component", &["controller-manager"]).await?;
    let slices = agent.all::<EndpointSlice>();
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name=behind-{first}"));
    let behind = async {
        slices.delete_collection(&DeleteParams::default(), &of).await?;
        let words = format!("True NoEndpoints Service behind-{first} has no ready endpoint of {first}");
        let told = agent.until("told", |agent| condition(agent, "Stalled").starts_with(&words)).await?;
        anyhow::Ok((told, agent.routes().get("behind").await?))
    };
    let behind = behind.await;
    cluster.tool("resume-component", &["controller-manager"]).await?;
    let (told, route) = behind?;
    println!("Stalled {}", condition(&told, "Stalled"));
    ensure!(backends(&route) == [("behind".to_owned(), 1)], "the route moved: {:?}", backends(&route));
    let launch = agent.until_in_stage(2, "tenth").await?;
    ensure!(share(&agent.routes().get("behind").await?, &launch.revision) == 10);
    agent.until("fine", |agent| condition(agent, "Stalled").starts_with("False")).await?;
    let answers = load.stop().await;
    println!("{} requests meanwhile, {} lost", answers.sent, answers.lost);
    ensure!(answers.lost == 0, "{:?}", answers.losses_by_cause());
    agent.done().await
}
