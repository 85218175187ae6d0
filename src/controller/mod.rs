//! The shell: watch, observe, call [`crate::launch::step`], commit, perform, report. It decides nothing.
//!
//! `reconcile` is the loop. What an agent owns is written by `perform`, its traffic by `traffic`, its frozen revisions by
//! `revisions`; `commit` holds the only write to status, `leader` the only writes to the Lease.

mod adopted;
mod begin;
mod by_pods;
mod caches;
mod calls;
mod commit;
pub mod config;
mod context;
pub(crate) mod elector;
mod endpoints;
mod error;
mod guard;
pub(crate) mod leader;
mod live;
mod metrics;
mod nobody;
mod observe;
mod people;
mod perform;
mod plans;
mod prepare;
mod reconcile;
mod revisions;
mod run;
mod services;
mod traffic;
mod unserved;

pub use error::Error;
pub use metrics::Metrics;
pub use run::{Identity, run};
