//! What it costs when a canary's process or its node is lost in a stage of 25 %: requests that nobody answered, until the
//! route sends nobody there any more. The figures of `docs/launch.md` come from here.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use demo::load::{Load, Snapshot};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Outcome};

use crate::cluster::{Agent, Cluster, Manifest, PATIENCE, launch, until};
use crate::history::History;
use crate::{SECOND_NODE, alone};

/// Requests a second; a quarter of them is the canary's.
const RATE: u32 = 40;
/// A gateway has heard of a new weight by then.
const HEARD: Duration = Duration::from_secs(5);

/// An agent whose canary stays at 25 % until a trigger fires.
fn quarter(name: &str, replicas: i32, trigger: &Value) -> anyhow::Result<Manifest> {
    let stages = json!([{"name": "quarter", "traffic": 25, "minDuration": "1h"}]);
    let manifest = Manifest::example(name)?.with("/spec/replicas", json!(replicas));
    Ok(manifest.with("/spec/launch/stages", stages).with("/spec/launch/triggers", json!([trigger])))
}

/// Waits until the canary is in its stage and the gateway sends to it.
async fn until_answering(agent: &Agent, number: i64, load: &Load) -> anyhow::Result<String> {
    let canary = agent.until_in_stage(number, "quarter").await?.revision;
    while load.snapshot().answered_by(&canary) < u64::from(RATE) {
        ensure!(agent.now().await.is_ok_and(|agent| launch(&agent).is_some_and(|launch| launch.weight == 25)));
        tokio::time::sleep(Duration::from_millis(50)).await; // nothing tells who has answered
    }
    Ok(canary)
}

/// The pods of a revision.
async fn pods(agent: &Agent, revision: &str) -> anyhow::Result<Vec<Pod>> {
    let of = ListParams::default().labels(&format!("sluice.dev/revision={revision}"));
    Ok(agent.all::<Pod>().list(&of).await?.items)
}

/// What was lost between two instants of a load, and when.
struct Loss {
    lost: u64,
    sent: u64,
    until_weight_0: Duration,
    after: Duration,
}

impl Loss {
    /// Counts what was sent after `begun`; the canary's weight was 0 at `fell`.
    fn of(before: &Snapshot, after: &Snapshot, begun: Timestamp, fell: Timestamp) -> anyhow::Result<Self> {
        let since = |at: Timestamp| Duration::try_from(at.duration_since(begun)).unwrap_or_default();
        let late = after.losses.iter().filter(|lost| lost.sent > before.at).map(|lost| since(lost.sent));
        let loss = Self {
            lost: after.lost - before.lost,
            sent: after.sent - before.sent,
            until_weight_0: since(fell),
            after: late.max().unwrap_or_default(),
        };
        ensure!(
            loss.after <= loss.until_weight_0 + HEARD,
            "a request that was sent {:?} after the loss had no answer, but the weight was 0 after {:?}: {:?}",
            loss.after,
            loss.until_weight_0,
            after.losses
        );
        Ok(loss)
    }

    /// Nothing but the canary's own share can be lost, with some luck's room.
    fn is_within_the_share(&self) -> anyhow::Result<()> {
        let all = f64::from(RATE) * (self.until_weight_0 + HEARD).as_secs_f64();
        let lost = f64::from(u32::try_from(self.lost)?);
        ensure!(lost <= all / 4.0 * 1.5 + 5.0, "{lost} of about {all} requests were lost");
        Ok(())
    }

    fn print(&self, what: &str, after: &Snapshot) {
        println!(
            "{what}: {} of {} requests lost, the last {:.1} s after the loss; weight 0 after {:.1} s; by cause, all in all: {:?}",
            self.lost,
            self.sent,
            self.after.as_secs_f64(),
            self.until_weight_0.as_secs_f64(),
            after.losses_by_cause()
        );
    }
}

/// Kills the process of one pod with SIGKILL.
async fn kill(cluster: &Cluster, pod: &Pod) -> anyhow::Result<()> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("the pod has no node")?;
    let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let id = containers.find_map(|container| container.container_id.as_deref()?.strip_prefix("containerd://"));
    let id = id.context("the pod has no container")?;
    cluster.tool("node-exec", &[&node, "--", "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id]).await?;
    Ok(())
}

/// Crashes the canary three times, in three launches. The trigger of the plan takes it back at the first restart.
async fn crashes(cluster: &Cluster, name: &str, replicas: i32, canaries: usize) -> anyhow::Result<()> {
    let trigger = json!({"name": "restarts", "health": {"restarts": 1, "within": "5m"}});
    let agent = Agent::apply(cluster, quarter(name, replicas, &trigger)?).await?;
    agent.until_first_stable().await?;
    let load = agent.load(RATE).await?;
    for number in 2..=4 {
        let history = History::of(&agent);
        agent.prompt(&format!("Prompt {number}."), &json!({})).await?;
        let canary = until_answering(&agent, number, &load).await?;
        let all = pods(&agent, &canary).await?;
        ensure!(all.len() == canaries, "{} pods of {canary}", all.len());
        let (before, begun) = (load.snapshot(), Timestamp::now());
        kill(cluster, &all[0]).await?;
        let ended = agent.until_ended(number, Outcome::RolledBack).await?;
        let why = ended.message.unwrap_or_default();
        ensure!(why.starts_with("restarts: 1 restart"), "{why}");
        let after = load.snapshot();
        let fell = history.fell_at(&canary).context("the weight never fell")?;
        let loss = Loss::of(&before, &after, begun, fell)?;
        loss.print(&format!("crash of one of {canaries} canary pods at 25%"), &after);
        loss.is_within_the_share()?;
        ensure!(loss.until_weight_0 < Duration::from_secs(15), "weight 0 after {:?}", loss.until_weight_0);
    }
    let answers = load.stop().await;
    ensure!(answers.errors() == 0, "{answers:?}");
    agent.done().await
}

#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn a_canary_whose_process_is_killed_loses_a_part_of_its_share_and_is_taken_back() -> anyhow::Result<()> {
    let (_turn, cluster) = alone().await?;
    tokio::try_join!(crashes(&cluster, "crash-of-one", 4, 1), crashes(&cluster, "crash-of-two", 8, 2))?;
    Ok(())
}

/// Drops every packet to and from the second node, or lets them pass again: to everybody else this is a node without power.
/// (Its pods run on, alone. With the power they would be gone; nobody who could ask would see a difference.)
async fn reach(cluster: &Cluster, possible: bool) -> anyhow::Result<()> {
    let verb = if possible { "-D" } else { "-I" };
    for (chain, side) in [("INPUT", "-i"), ("OUTPUT", "-o"), ("FORWARD", "-i"), ("FORWARD", "-o")] {
        let rule = ["--", "iptables", "-w", verb, chain, side, "eth0", "-j", "DROP"];
        let arguments: Vec<&str> = [SECOND_NODE].into_iter().chain(rule).collect();
        cluster.tool("node-exec", &arguments).await?;
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The plan's gates and triggers see nothing: a lost pod has no metrics, and is ready until Kubernetes says otherwise.
async fn lose_the_canarys_node(cluster: &Cluster, agent: &Agent, load: &Load) -> anyhow::Result<()> {
    let history = History::of(agent);
    agent
        .edit(|manifest| {
            let spec = &mut manifest.0["spec"]["template"]["spec"];
            spec["nodeSelector"] = json!({"kubernetes.io/hostname": SECOND_NODE});
            spec["tolerations"] = json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]);
        })
        .await?;
    let canary = until_answering(agent, 2, load).await?;
    let on = pods(agent, &canary).await?;
    let there = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(SECOND_NODE);
    ensure!(on.len() == 1 && on.iter().all(there), "{on:?}");

    let nodes = Api::<Node>::all(cluster.client.clone());
    let (before, begun) = (load.snapshot(), Timestamp::now());
    reach(cluster, false).await?;
    let over = async {
        until(&nodes, SECOND_NODE, "found lost", PATIENCE, |node| !is_ready(node)).await?;
        let found = Timestamp::now().duration_since(begun);
        let ended = agent.until_ended(2, Outcome::RolledBack).await?;
        anyhow::Ok((found, ended))
    };
    let over = over.await;
    tokio::time::sleep(Duration::from_secs(5)).await; // the client's time-out: until then a request may still be answered
    let after = load.snapshot();
    reach(cluster, true).await?;
    let (found, ended) = over?;
    until(&nodes, SECOND_NODE, "back", PATIENCE, is_ready).await?;

    let why = ended.message.unwrap_or_default();
    ensure!(why.starts_with("unready: "), "{why}");
    let fell = history.fell_at(&canary).context("the weight never fell")?;
    let loss = Loss::of(&before, &after, begun, fell)?;
    println!("Kubernetes found the node lost after {:.1} s", found.as_secs_f64());
    loss.print("loss of the canary's node at 25%", &after);
    loss.is_within_the_share()?;
    ensure!(history.shares(&canary) == [0, 25, 0], "{:?}", history.shares(&canary));
    Ok(())
}

#[tokio::test]
#[ignore = "it needs a cluster of its own: `make test-outages`"]
async fn a_canary_whose_node_is_lost_loses_its_share_until_kubernetes_finds_out_and_is_taken_back() -> anyhow::Result<()>
{
    let (_turn, cluster) = alone().await?;
    let unready = json!({"name": "unready", "health": {"condition": "Unready"}, "for": "5s"});
    let agent = Agent::apply(&cluster, quarter("node-loss", 4, &unready)?).await?;
    let first = agent.until_first_stable().await?;
    let load = agent.load(RATE).await?;
    lose_the_canarys_node(&cluster, &agent, &load).await?;
    let begun = load.snapshot();
    agent.until("at rest", |agent: &AgentDeployment| launch(agent).is_some_and(|launch| launch.weight == 0)).await?;
    let answers = load.stop().await;
    ensure!(answers.lost == begun.lost && answers.errors() == 0, "{:?}", answers.losses_by_cause());
    ensure!(answers.answered_by(&first) > begun.answered_by(&first) || answers.sent == begun.sent, "stable is silent");
    agent.done().await
}
