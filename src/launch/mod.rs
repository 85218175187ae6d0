//! The decision core: why a launch goes on, waits, or is taken back.
//!
//! One pure function, [`step`]: from the plan, the remembered state and an observation it decides what to remember and what
//! the cluster should look like. No clock, no IO, no async, no Kubernetes client.

mod back;
mod capacity;
mod forward;
mod gates;
mod observation;
mod plan;
pub mod promises;
mod report;
mod retire;
mod step;
#[cfg(test)]
mod tests;
pub(crate) mod time;
mod triggers;
mod wanted;

pub use forward::QUIET;
pub use observation::*;
pub use plan::*;
pub use report::{conditions, summary};
pub use retire::SETTLE;
pub use step::step;
