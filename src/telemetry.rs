//! Logs: one JSON line per event, with the launch's id where there is one.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard output. `RUST_LOG` sets the level; `info` when it is absent.
pub fn start_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_target(false)
        .with_current_span(false)
        .with_span_list(false)
        .init();
}
