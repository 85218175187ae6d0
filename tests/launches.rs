//! Launches on a real cluster, as a user sees them: Sluice runs as a pod from its chart, real requests go through a real
//! gateway, real pods answer.
//!
//! Needs a whole cluster, see `common/cluster.rs`. Every test has a namespace of its own and all share one Sluice; two
//! tests kill it, and the others must survive that.

#[path = "launches/adopted.rs"]
mod adopted;
#[path = "launches/by_pods.rs"]
mod by_pods;
#[path = "launches/bypass.rs"]
mod bypass;
#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "launches/drain.rs"]
mod drain;
#[path = "launches/edits.rs"]
mod edits;
#[path = "launches/ends.rs"]
mod ends;
#[path = "launches/first.rs"]
mod first;
#[path = "launches/history.rs"]
mod history;
#[path = "launches/kills.rs"]
mod kills;
#[path = "common/login.rs"]
mod login;
#[path = "launches/others.rs"]
mod others;
#[path = "decisions/people.rs"]
#[allow(dead_code)] // roles and refusals are for the tests of decisions
mod people;
#[path = "launches/plans.rs"]
mod plans;
#[path = "common/refusal.rs"]
mod refusal;
#[path = "launches/releases.rs"]
mod releases;
#[path = "launches/scaling.rs"]
mod scaling;
#[path = "launches/soak.rs"]
mod soak;

use cluster::{Cluster, Manifest};
use serde_json::json;
use tokio::sync::{RwLock, RwLockReadGuard};

/// The test of quiet needs the operator for itself; all others share it.
static OPERATOR: RwLock<()> = RwLock::const_new(());

/// The cluster, shared with other tests.
async fn shared() -> anyhow::Result<(RwLockReadGuard<'static, ()>, Cluster)> {
    let turn = OPERATOR.read().await;
    Ok((turn, Cluster::with_sluice().await?))
}

/// An agent whose launches stay in their only stage, at 10 %, until something else happens.
fn holding(name: &str) -> anyhow::Result<Manifest> {
    let hold = json!([{"name": "hold", "traffic": 10, "minDuration": "1h"}]);
    Ok(Manifest::example(name)?.with("/spec/launch/stages", hold))
}

/// One stage that ends by itself within seconds.
fn quick(name: &str) -> anyhow::Result<Manifest> {
    let quick = json!([{"name": "quick", "traffic": 50, "minDuration": "1s"}]);
    Ok(Manifest::example(name)?.with("/spec/launch/stages", quick))
}

/// A trigger that fires with the next sample: no run takes less than a millisecond.
fn fires_at_once() -> serde_json::Value {
    let slow = json!({"name": "latency_p95", "window": "3s", "minSamples": 3, "value": {"above": "1ms"}});
    json!([{"name": "slow", "metric": slow}])
}
