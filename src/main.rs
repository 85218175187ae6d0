//! The `sluice` binary: reads the command line and calls the library.

use std::io::Write as _;

use clap::Parser as _;
use sluice::cli::{Cli, Command, ControllerArgs, crd_yaml};
use sluice::controller::config::Config;
use sluice::controller::{self, Identity};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd { plural } => Ok(std::io::stdout().write_all(crd_yaml(plural.as_deref())?.as_bytes())?),
        Command::Controller(args) => control(args),
    }
}

#[tokio::main]
async fn control(args: ControllerArgs) -> anyhow::Result<()> {
    sluice::telemetry::start_logs();
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().map_err(|_| anyhow::anyhow!("another TLS provider was installed"))?;
    let config = Config::read(&args.config)?;
    let stop = CancellationToken::new();
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        stopped.cancel();
    });
    let identity = Identity { pod: args.pod, namespace: args.namespace, address: args.address };
    controller::run(config, identity, stop).await
}
