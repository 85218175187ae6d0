//! The agent's HTTP face.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};

use tokio::sync::mpsc;

use crate::{agent::Agent, metrics::Outcome};

/// On every answer. An answer without it came from somebody else: a gateway, say.
const REVISION: HeaderName = HeaderName::from_static("x-agent-revision");

/// A streamed run takes at most an hour.
const LONGEST_STREAM: u64 = 3_600;

pub(crate) fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/run", get(run).post(run))
        .route("/runs/stream", get(stream).post(stream))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .layer(middleware::map_response_with_state(agent.clone(), sign))
        .with_state(agent)
}

/// The body is read (a gateway may reuse the connection only then) and, in this stand-in, means nothing.
async fn run(State(agent): State<Arc<Agent>>, _body: Bytes) -> Response {
    // Its own task: a client that hangs up ends the request, not the run.
    let run = tokio::spawn({
        let agent = agent.clone();
        async move { agent.run().await }
    });
    let answer = match run.await {
        Ok((Outcome::success, answer)) => (StatusCode::OK, Json(answer)).into_response(),
        Ok((Outcome::error, answer)) => (StatusCode::INTERNAL_SERVER_ERROR, Json(answer)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the run died: {error}\n")).into_response(),
    };
    if agent.must_crash() {
        tokio::spawn(crash());
    }
    answer
}

/// A run that takes as many seconds as asked (20 when not said) and is answered line by line, chunked.
async fn stream(State(agent): State<Arc<Agent>>, uri: Uri, _body: Bytes) -> Response {
    let asked = uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("seconds=")));
    let Some(seconds) = asked.map_or(Some(20), |text| text.parse::<u64>().ok()).filter(|n| *n <= LONGEST_STREAM) else {
        let mend = format!("seconds must be a number from 0 to {LONGEST_STREAM}\n");
        return (StatusCode::BAD_REQUEST, mend).into_response();
    };
    let (lines, told) = mpsc::unbounded_channel();
    tokio::spawn(async move { agent.stream(seconds, lines).await });
    let told = futures::stream::unfold(told, |mut told| async move {
        let line = told.recv().await?;
        Some((Ok::<_, Infallible>(line), told))
    });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(told)).into_response()
}

/// What `crash_after` asks for: this answer still leaves, other runs are lost with the process.
async fn crash() {
    tokio::time::sleep(Duration::from_millis(20)).await;
    eprintln!("refund-agent: crashing after as many runs as crash_after in faults.json says");
    std::process::exit(1);
}

async fn ready(State(agent): State<Arc<Agent>>) -> (StatusCode, &'static str) {
    if agent.config.faults.unready {
        (StatusCode::SERVICE_UNAVAILABLE, "unready: faults.json says so\n")
    } else {
        // Also while draining: whoever still comes is served.
        (StatusCode::OK, "ok\n")
    }
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match agent.metrics_page() {
        Ok(page) => ([(header::CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("could not write metrics: {error}\n")).into_response()
        }
    }
}

/// Names the revision, and while draining asks the peer not to use this connection again.
async fn sign(State(agent): State<Arc<Agent>>, mut response: Response) -> Response {
    if let Ok(revision) = HeaderValue::from_str(&agent.identity.revision) {
        response.headers_mut().insert(REVISION, revision);
    }
    if agent.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
