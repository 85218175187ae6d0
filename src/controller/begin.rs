//! The start in the middle of an outage: a process that ends because nobody answers yet is started again later and later
//! (up to five minutes), and so would come back long after the API server has. It waits instead, and leads within seconds.

use std::time::Duration;

use kube::Client;
use tokio::time::{Instant, sleep, timeout};

use super::calls::LIMIT;

/// An API server that does not answer is asked again so often.
const AGAIN: Duration = Duration::from_millis(500);
/// It is told of so often.
const TOLD: Duration = Duration::from_secs(30);

/// Waits until the API server answers. What it refuses is an error: that no waiting mends.
pub(super) async fn api_server_answers(client: &Client) -> kube::Result<()> {
    let mut told: Option<Instant> = None;
    loop {
        let why = match timeout(LIMIT, client.apiserver_version()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refused @ kube::Error::Api(_))) if !is_passing(&refused) => return Err(refused),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {}s", LIMIT.as_secs()),
        };
        if told.is_none_or(|at| at.elapsed() >= TOLD) {
            tracing::warn!(why, "waiting for the API server");
            told = Some(Instant::now());
        }
        sleep(AGAIN).await;
    }
}

/// Whether an answer is that of an API server (or of what stands before it) which is about to start or too busy.
fn is_passing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code >= 500 || status.code == 429)
}
