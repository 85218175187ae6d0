//! People's decisions on a real cluster: who may decide is ordinary RBAC and the API server itself proves who did; what
//! they decide happens once, and the decision tells what became of it. Users and ServiceAccounts are impersonated.
//!
//! Needs a whole cluster, see `common/cluster.rs`.

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "decisions/people.rs"]
mod people;
#[path = "decisions/rights.rs"]
mod rights;
#[path = "decisions/verbs.rs"]
mod verbs;
