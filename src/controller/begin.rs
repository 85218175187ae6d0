//! The beginning of a candidacy or a reign in the middle of an outage: a process that ends because nobody answers yet is
//! started again later and later (up to five minutes), and so would come back long after the API server has. It waits
//! instead, and leads within seconds.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::calls::LIMIT;

/// An API server that does not answer is asked again so often.
const AGAIN: Duration = Duration::from_millis(500);
/// It is told of so often.
const TOLD: Duration = Duration::from_secs(30);

/// Asks until the API server answers. A refusal is told of and asked again too: while it starts it may not know yet who may
/// ask it what.
pub(super) async fn answered<T>(ask: impl AsyncFn() -> kube::Result<T>) -> T {
    let mut told: Option<Instant> = None;
    loop {
        let why = match timeout(LIMIT, ask()).await {
            Ok(Ok(answer)) => return answer,
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
