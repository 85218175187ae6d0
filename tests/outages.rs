//! What is lost, and what is not, when a part of the cluster goes away: a canary's process, its node, the API server,
//! etcd, the namespace, Sluice itself.
//!
//! These tests take things away from everybody, so they have a cluster of their own, with a second node to lose, and run
//! one after the other: `make test-outages`. What they measure they print (`--nocapture`).

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "outages/control_plane.rs"]
mod control_plane;
#[allow(dead_code)] // the days of `bad_days.rs` need more of it
#[path = "bad_days/day.rs"]
mod day;
#[allow(dead_code)]
#[path = "bad_days/fake.rs"]
mod fake;
#[allow(dead_code)] // the launches of `launches.rs` need more of it
#[path = "launches/history.rs"]
mod history;
#[path = "outages/leaving.rs"]
mod leaving;
#[path = "outages/losses.rs"]
mod losses;

use anyhow::Context as _;
use cluster::Cluster;
use tokio::sync::{Mutex, MutexGuard};

/// The node that is lost. Nothing runs on it but what asks for it.
const SECOND_NODE: &str = "node2";

static TURN: Mutex<()> = Mutex::const_new(());

/// The cluster, for one test alone. Sluice runs on the first node.
async fn alone() -> anyhow::Result<(MutexGuard<'static, ()>, Cluster)> {
    let turn = TURN.lock().await;
    let cluster = Cluster::connect().await?;
    let second = cluster.kubectl(&["cordon", SECOND_NODE]).await;
    second.context("these tests need a cluster of their own with two nodes: `make test-outages` brings it")?;
    Ok((turn, Cluster::with_sluice().await?))
}
