//! The command line: `sluice controller`, `sluice crd`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::api::{AgentDeployment, LaunchDecision, LaunchPlan};

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
    Crd {
        /// Only this one, by its plural: `launchdecisions`.
        plural: Option<String>,
    },
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

/// All of Sluice's CustomResourceDefinitions.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![AgentDeployment::crd(), LaunchDecision::crd(), LaunchPlan::crd()]
}

/// The CustomResourceDefinitions as one YAML stream, or one of them.
pub fn crd_yaml(plural: Option<&str>) -> anyhow::Result<String> {
    let name = |crd: &CustomResourceDefinition| crd.spec.names.plural.clone();
    let wanted: Vec<_> = crds().into_iter().filter(|crd| plural.is_none_or(|plural| name(crd) == plural)).collect();
    let names: Vec<_> = crds().iter().map(name).collect();
    anyhow::ensure!(!wanted.is_empty(), "there is no such kind: name one of {}", names.join(", "));
    let texts = wanted.iter().map(serde_norway::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("---\n"))
}
