//! The decision core: why a launch goes on, waits, or is taken back.
//!
//! One pure function, [`step`]: from the plan, the remembered state and an observation it decides what to remember and what
//! the cluster should look like. No clock, no IO, no async, no Kubernetes client.

mod observation;
mod plan;

pub use observation::*;
pub use plan::*;
