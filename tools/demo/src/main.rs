//! `make demo`: a real cluster, real traffic, a good release, a bad one, and the measured time line of its rollback.
//!
//! It does only what a user would do (the commands are printed as they run) and tells only what was measured: by the
//! load generator, by Sluice in the agent's status, and by the API server. It exits with 1 if one request was lost or
//! the story went another way. `make measure` makes many bad changes instead of one and tells their medians.

mod cluster;
mod measure;
mod screen;
mod story;
mod teller;
mod timeline;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::screen::{Screen, Tone};

/// Launches a good and a bad release of an agent under load, and measures the rollback.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Where the gateway listens, for example http://127.0.0.1:8000.
    #[arg(long, env = "GATEWAY_URL")]
    gateway_url: String,
    /// Where Sluice's pod reaches Prometheus.
    #[arg(long, env = "PROMETHEUS_URL")]
    prometheus_url: String,
    /// The Gateway that the agent's route attaches to.
    #[arg(long, env = "GATEWAY_NAME", default_value = "public")]
    gateway_name: String,
    /// That Gateway's namespace.
    #[arg(long, env = "GATEWAY_NAMESPACE", default_value = "infra")]
    gateway_namespace: String,
    /// The cluster.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The helm program.
    #[arg(long, env = "HELM", default_value = "helm")]
    helm: PathBuf,
    /// The kubectl program.
    #[arg(long, env = "KUBECTL", default_value = "kubectl")]
    kubectl: PathBuf,
    /// Sluice's image; it must be on the nodes.
    #[arg(long, env = "IMAGE", default_value = "sluice.dev/sluice:dev")]
    image: String,
    /// The example agent's image; it must be on the nodes.
    #[arg(long, env = "AGENT_IMAGE", default_value = story::AGENT_IMAGE)]
    agent_image: String,
    /// Requests per second.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// Instead of telling one bad change, measure so many.
    #[arg(long, default_value_t = 0)]
    rollbacks: u32,
    /// Before that, measure so many more good changes.
    #[arg(long, default_value_t = 0)]
    promotions: u32,
    /// The repository, for its chart and examples.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))]
    repository: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let screen = Screen::detect();
    // Kubernetes' API speaks TLS; only the first installation counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let told = tokio::select! {
        told = story::tell(&options, &screen) => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; the cluster is left as it is")),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{}", screen.paint(Tone::Bad, &format!("demo: {error:#}")));
            ExitCode::FAILURE
        }
    }
}
