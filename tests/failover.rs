//! The fence around routes and Services: who may write Sluice's annotations, against real users and ServiceAccounts.
//!
//! Needs a whole cluster, see `common/cluster.rs`.

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "failover/fence.rs"]
mod fence;
