//! People's decisions on a real cluster: who may decide is ordinary RBAC and the API server itself proves who did; what
//! they decide happens once, and the decision tells what became of it. `logins` has users with certificates and a
//! ServiceAccount with its token; elsewhere the administrator impersonates them, which the API server checks alike.
//!
//! Needs a whole cluster, see `common/cluster.rs`.

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "common/login.rs"]
mod login;
#[path = "decisions/logins.rs"]
mod logins;
#[path = "decisions/people.rs"]
mod people;
#[path = "decisions/rights.rs"]
mod rights;
#[path = "decisions/verbs.rs"]
mod verbs;
