//! The command line: `sluice controller`, `sluice crd`.

use clap::{Parser, Subcommand};
use kube::CustomResourceExt;

use crate::api::AgentDeployment;

/// Launches AI agents through gates that can fail a release, and takes a bad release back by itself.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinitions as YAML.
    Crd,
}

/// The CustomResourceDefinitions as one YAML stream.
pub fn crd_yaml() -> Result<String, serde_norway::Error> {
    serde_norway::to_string(&AgentDeployment::crd())
}
