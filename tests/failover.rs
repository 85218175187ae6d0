//! Several replicas, one leader: the fence around routes and Services, against users and ServiceAccounts with logins of
//! their own; and leaders that are killed, stopped, cut off and deposed while a launch runs.
//!
//! Needs a whole cluster, see `common/cluster.rs`. The tests of `leaders` run one after the other, and leave as many
//! replicas behind as they found.

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "bad_days/fake.rs"]
#[allow(dead_code)] // its other moods are for bad days
mod fake;
#[path = "failover/fence.rs"]
mod fence;
#[path = "launches/history.rs"]
#[allow(dead_code)] // more of it is asked by the tests of launches
mod history;
#[path = "failover/leaders.rs"]
mod leaders;
#[path = "common/login.rs"]
mod login;
#[path = "failover/operators.rs"]
mod operators;
#[path = "common/refusal.rs"]
mod refusal;
#[path = "failover/scene.rs"]
mod scene;
