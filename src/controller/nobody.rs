//! What names an agent that does not exist: no pass is ever made for it. Decisions about it are answered, and a user's route
//! that carries its mark is put back. What it owned goes with it, and is Kubernetes' business.

use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, Key};
use super::{Error, adopted, people};

/// One apply may bring an agent and a decision about it, and a replaced agent is gone for a moment: waited for before anybody
/// is told that there is no such agent.
const LATE: Duration = Duration::from_secs(10);

/// Settles what is left about an agent that no watch knows. Tries until it has, or leads no more.
pub(crate) async fn about_nobody(ctx: Arc<Context>, key: Key) {
    let left = |ctx: &Context| {
        !ctx.caches.decisions_of(&key.0, &key.1).is_empty() || !ctx.caches.routes_marked_by(&key).is_empty()
    };
    if !left(&ctx) {
        return;
    }
    tokio::time::sleep(LATE).await;
    let mut failures = 0;
    while left(&ctx) && ctx.calls.leadership.holds() {
        let Err(error) = settle(&ctx, &key).await else { return };
        let cause = error.cause().unwrap_or_default();
        tracing::warn!(namespace = key.0, agent = key.1, %error, cause, "what an absent agent left is not settled yet");
        tokio::time::sleep(error.retry_after(failures, false)).await;
        failures = failures.saturating_add(1);
    }
}

async fn settle(ctx: &Context, key: &Key) -> Result<(), Error> {
    let agents = ctx.agents(&key.0);
    if ctx.calls.read("AgentDeployment", &key.1, agents.get_opt(&key.1)).await?.is_some() {
        return Ok(()); // its own passes do
    }
    people::ignore(ctx, key).await.and(adopted::put_back_of_nobody(ctx, key).await)
}
