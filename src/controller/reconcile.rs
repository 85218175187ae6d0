//! The loop: observe → step → commit → perform → wake. On the way down it performs before it commits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::caches::WatchedAgent;
use super::context::{Context, Key, Memory};
use super::metrics::ReasonLabel;
use super::{Error, adopted, commit, guard, observe, people, perform, prepare};
use crate::launch::{self, promises::Decided};

/// A pass is made so often even if nothing is seen to change: watches may lose events.
const RESYNC: Duration = Duration::from_mins(30);

/// Waits for the first listing of every watch: what is not cached yet must not look like what is not there.
pub(crate) async fn reconcile_when_ready(watched: Arc<WatchedAgent>, ctx: Arc<Context>) -> Result<Action, Error> {
    if ctx.ready().await.is_err() {
        return Ok(Action::requeue(Duration::from_secs(1))); // the watches are ending: the reign is over
    }
    Box::pin(reconcile(&watched, &ctx)).await
}

/// One pass over one agent.
pub(crate) async fn reconcile(watched: &WatchedAgent, ctx: &Context) -> Result<Action, Error> {
    let begun = Instant::now();
    let key = key(watched);
    let request = ctx.agents(&key.0);
    let found = ctx.calls.read("AgentDeployment", &key.1, request.get_opt(&key.1)).await?;
    let Some(agent) = found else {
        ctx.forget(&key); // what it owned goes with it
        return Ok(Action::await_change());
    };
    let leaves = agent.metadata.deletion_timestamp.is_some();
    if leaves && !adopted::is_held(ctx, &agent) {
        ctx.forget(&key);
        return adopted::farewell(ctx, &agent).await.map(|()| Action::await_change());
    }

    if let Some(until) = ctx.remember(&key, |memory| memory.ends).filter(|until| ctx.now() < *until) {
        return Ok(Action::requeue(wait(Some(until), ctx.now()))); // its namespace is being deleted, and it too in a moment
    }
    let prepared = prepare::prepare(ctx, &key, &agent).await;
    let state = agent.status.clone().unwrap_or_default().state;
    let (seen, live) = observe::observe(ctx, &key, &agent, &prepared, &state).await?;
    let now = ctx.now();
    let step = launch::step(&prepared.plan, &state, &seen, now);
    let decided = Decided { plan: &prepared.plan, before: &state, seen: &seen, now, step: &step };
    guard::decision(ctx, &key, &agent, &decided).await?;
    observe::ask(ctx, &key, &agent, &prepared, &step.state, &seen);

    let falling = step.wanted.falling;
    let fallen = if falling { perform::traffic(ctx, &agent, &prepared, &seen, &step, &live).await } else { Ok(()) };
    commit::commit(ctx, &agent, &seen, &step, now).await?; // a decision whose write failed is remembered all the same
    ctx.remember(&key, |memory| memory.committed(&step.state));
    let performed = match fallen {
        Ok(()) => perform::perform(ctx, &agent, &prepared, &seen, &step, (!falling).then_some(&live)).await,
        failed => failed.and(perform::without_traffic(ctx, &agent, &prepared, &step).await),
    };
    commit::tell(ctx, &agent, &step).await;
    let answered = people::answer(ctx, &key, &seen.people, &step.state).await;
    performed?;
    answered?;
    if leaves && step.state.running().is_none() {
        adopted::farewell(ctx, &agent).await?;
    }

    let shown = ctx.remember(&key, Memory::succeeded);
    if shown {
        return Ok(Action::requeue(Duration::from_millis(1))); // the trouble that status shows is over
    }
    ctx.calls.metrics.passes.observe(begun.elapsed().as_secs_f64());
    Ok(Action::requeue(wait(step.wake_at.into_iter().chain(prepared.retry_at).min(), now)))
}

fn wait(wake_at: Option<Timestamp>, now: Timestamp) -> Duration {
    let until = wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    until.unwrap_or(RESYNC).clamp(Duration::from_millis(1), RESYNC)
}

/// Namespace and name.
pub(crate) fn key(agent: &impl ResourceExt) -> Key {
    (agent.namespace().unwrap_or_default(), agent.name_any())
}

/// A failed pass is made again, the later the more often it failed.
#[allow(clippy::needless_pass_by_value)] // the controller asks for this signature
pub(crate) fn again(watched: Arc<WatchedAgent>, error: &Error, ctx: Arc<Context>) -> Action {
    let key = key(watched.as_ref());
    let (failures, launching) = ctx.remember(&key, |memory| memory.failed(error, ctx.now()));
    ctx.calls.metrics.errors.get_or_create(&ReasonLabel { reason: error.reason() }).inc();
    if ctx.ends(&key, error) {
        tracing::debug!(namespace = key.0, agent = key.1, %error, "its namespace is being deleted");
    } else if error.reason() == "Conflict" || !error.lasts(failures) {
        tracing::debug!(namespace = key.0, agent = key.1, %error, "looking again");
    } else {
        let cause = error.cause().unwrap_or_default();
        tracing::warn!(namespace = key.0, agent = key.1, reason = error.reason(), %error, cause, "the pass failed");
    }
    Action::requeue(error.retry_after(failures, launching))
}
