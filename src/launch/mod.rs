//! The decision core: why a launch goes on, waits, or is taken back.
//!
//! One pure function, [`step`]: from the plan, the remembered state and an observation it decides what to remember and what
//! the cluster should look like. No clock, no IO, no async, no Kubernetes client.

mod back;
mod by_pods;
mod calendar;
mod capacity;
mod contest;
mod drain;
mod forward;
mod freeze;
mod gates;
mod observation;
mod people;
mod plan;
pub mod promises;
mod report;
mod share;
mod soak;
mod step;
#[cfg(test)]
mod tests;
pub(crate) mod time;
mod triggers;
mod wanted;
mod written;

pub use back::{GATEWAY_ANSWER, gone_since};
pub use by_pods::{ByPods, LARGEST, launchable, pods_of_share, share_of_pods};
pub use calendar::{Window, WindowError};
pub use capacity::to_come;
pub use drain::{RUNS_IN_FLIGHT, SETTLE, draining, no_runs};
pub use forward::QUIET;
pub use freeze::{Freeze, Frozen};
pub use observation::*;
pub use plan::*;
pub use report::{conditions, summary};
pub use soak::judged;
pub use step::step;
pub use written::{WrittenPlan, freeze_windows, only_tightens};
