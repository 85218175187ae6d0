//! The command line: `sluice controller`, `sluice crd`.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Run the controller in a cluster.
    Controller(ControllerArgs),
}

/// Arguments of `sluice controller`.
#[derive(Debug, clap::Args)]
pub struct ControllerArgs {
    /// The administrator's configuration.
    #[arg(long)]
    pub config: PathBuf,
    /// Where health and metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub address: SocketAddr,
    /// Name of this pod: the identity of this process in the election of a leader.
    #[arg(long, env = "POD_NAME")]
    pub pod: String,
    /// Namespace of this pod, where the Lease is.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
}

/// The CustomResourceDefinitions as one YAML stream.
pub fn crd_yaml() -> Result<String, serde_norway::Error> {
    serde_norway::to_string(&AgentDeployment::crd())
}
