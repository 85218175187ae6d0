//! Before a revision's pods are taken away: does anything send to them? It is asked of the API server itself: a fall that was
//! held up may have arrived, and no watch has told of it yet.

use super::Error;
use super::context::Context;
use super::live::Live;
use super::reconcile::key;
use crate::api::AgentDeployment;
use crate::launch::promises::share_of;
use crate::{children, traffic};

/// Refuses to take the pods of a revision that the agent's Service or its route sends to.
pub(super) async fn unserved(ctx: &Context, agent: &AgentDeployment, revision: &str) -> Result<(), Error> {
    let (key, adopted) = (key(agent), agent.spec.adopted_route());
    let live = Live::fresh(ctx, &key, adopted.unwrap_or(&key.1)).await?;
    let selected = live.service.as_ref().is_some_and(|service| match traffic::split_of(service) {
        Some(split) => [&split.stable, &split.canary].into_iter().any(|shares| shares == revision),
        None => children::selected_revision(service).as_deref() == Some(revision),
    });
    let shared = live.route.as_ref().is_some_and(|route| {
        let read = if adopted.is_some() { traffic::read_adopted } else { traffic::read };
        share_of(revision, &read(route, &key.1), None) > 0
    });
    if selected || shared { Err(Error::Stale(format!("the traffic of {}", key.1))) } else { Ok(()) }
}
