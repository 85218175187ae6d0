//! Sluice: launches AI agents on Kubernetes through gates that can fail a release, and takes a bad release back by itself.
//!
//! The folders and what each may import are in ARCHITECTURE.md; "why did it roll back?" is answered in [`launch`] alone.

pub mod api;
#[cfg(test)]
mod architecture;
pub mod children;
pub mod cli;
pub mod controller;
pub mod launch;
#[cfg(test)]
mod model;
pub mod revision;
pub mod server;
pub mod signals;
pub mod telemetry;
pub mod traffic;
