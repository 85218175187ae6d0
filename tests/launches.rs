//! Launches on a real cluster, as a user sees them: Sluice runs as a pod from its chart, real requests go through a real
//! gateway, real pods answer.
//!
//! Needs a whole cluster, see `common/cluster.rs`. Every test has a namespace of its own, and all share one Sluice; two
//! tests kill it, which the others must survive.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use anyhow::ensure;
use cluster::{Agent, Cluster, Manifest};

/// Transcripts 3 and 4.
#[tokio::test]
async fn a_first_deployment_becomes_stable() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let agent = Agent::apply(&cluster, Manifest::example("first")?).await?;
    let revision = agent.until_first_stable().await?;
    ensure!(!revision.is_empty());
    agent.done().await
}
