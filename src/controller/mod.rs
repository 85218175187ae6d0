//! The shell: watch, observe, call [`crate::launch::step`], commit, perform, report. It decides nothing.
//!
//! [`reconcile`](reconcile::reconcile) is the loop; [`perform`] holds the only writes to what an agent owns, [`commit`] the
//! only write to status, [`leader`] the only writes to the Lease.

mod caches;
mod calls;
mod commit;
pub mod config;
mod context;
mod elector;
mod error;
mod leader;
mod metrics;
mod observe;
mod perform;
mod prepare;
mod reconcile;
mod revisions;
mod run;
mod traffic;

pub use error::Error;
pub use metrics::Metrics;
pub use run::{Identity, run};
