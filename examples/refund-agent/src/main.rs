//! A stand-in for a production AI agent that refunds customers: runs, tools, costs, and no model.
//!
//! It does nothing that a reader could not check: what it does wrong is written in `faults.json`, next to
//! `prompt.txt` in its frozen configuration ([`config`]). Sluice freezes both into the revision, so that "we
//! changed the prompt and refunds began to fail" is a change of one ConfigMap. See README.md.

mod agent;
mod config;
mod http;
mod metrics;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::serve::ListenerExt as _;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    agent::{Agent, Identity},
    config::Config,
};

/// After SIGTERM the agent serves for at least this long: endpoints and gateways need a moment to forget it.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(3);
/// It stops once no run has begun for this long, and none is under way.
const DRAIN_QUIET: Duration = Duration::from_secs(1);
/// It stops accepting after this long even if clients still come: the kubelet kills after 30 s by default.
const DRAIN_AT_MOST: Duration = Duration::from_secs(25);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("refund-agent: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    let config = Config::load(&config::dir()).map_err(|error| error.to_string())?;
    if config.faults.crash_after == Some(0) {
        return Err("crash_after is 0 in faults.json: exiting at start, as asked".to_owned());
    }
    // Before the socket: a SIGTERM that comes at once must find its handler.
    let terminate = signal(SignalKind::terminate()).map_err(|error| format!("could not watch SIGTERM: {error}"))?;
    let address = std::env::var("AGENT_LISTEN").unwrap_or_else(|_| "0.0.0.0:8080".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("could not listen on {address}: {error}"))?;
    let bound = listener.local_addr().map_err(|error| format!("could not read the listening address: {error}"))?;

    let agent = Arc::new(Agent::new(Identity::from_env(), config));
    println!(
        "refund-agent {who} (revision {revision}) listens on {bound}; prompt: {prompt:?}; faults: {faults}",
        who = agent.identity.who,
        revision = agent.identity.revision,
        prompt = agent.config.prompt_title(),
        faults = agent.config.faults,
    );
    let listener = listener.tap_io(|stream| {
        // Without it an answer on a reused connection may wait 40 ms for the peer's delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("refund-agent: could not set TCP_NODELAY: {error}");
        }
    });
    axum::serve(listener, http::router(agent.clone()))
        .with_graceful_shutdown(drained(agent, terminate))
        .await
        .map_err(|error| format!("could not serve: {error}"))
}

/// Ends when the agent may stop accepting: SIGTERM came, and then no run was under way for a while.
///
/// Until then it stays ready and serves whoever still comes, closing each connection after its answer. What is
/// left after that (idle connections, answers being written) `axum` closes in good order.
async fn drained(agent: Arc<Agent>, mut terminate: Signal) {
    if terminate.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
    let asked = Instant::now();
    agent.drain();
    println!("refund-agent: SIGTERM: {} runs under way; serving on until they are done", agent.runs_in_flight());
    while asked.elapsed() < DRAIN_AT_MOST {
        if asked.elapsed() >= DRAIN_AT_LEAST && agent.quiet_for() >= DRAIN_QUIET {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "refund-agent: stopping {:.1} s after SIGTERM, {} runs under way",
        asked.elapsed().as_secs_f32(),
        agent.runs_in_flight()
    );
}
