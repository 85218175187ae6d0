//! The last look before anything goes forward: a decision or a write that breaks a promise is refused and told of.
//!
//! It never stands in the way of a write that takes traffic from a canary.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, Key};
use super::metrics::{Metrics, PromiseLabel};
use super::{Error, commit};
use crate::api::{AgentDeployment, State};
use crate::launch::promises::{self, Broken, Decided, Kept, Rise};
use crate::launch::{Observation, Step, Wanted};

/// Tells of a decision that breaks a promise, and refuses it where it gives a canary more: what was remembered stays, and
/// the conditions tell.
pub(crate) async fn decision(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    decided: &Decided<'_>,
) -> Result<(), Error> {
    let Err(broken) = promises::of_a_decision(decided) else { return Ok(()) };
    report(&ctx.calls.metrics, key, &broken);
    if decided.step.wanted.falling || !promises::raises(decided) {
        return Ok(()); // what goes down goes down, and what stays is no danger
    }
    let error = Error::Broken(broken);
    let seen = Observation { trouble: error.mend(), ..decided.seen.clone() };
    commit::commit(ctx, agent, &seen, &held(decided.before), decided.now).await?;
    Err(error)
}

/// Refuses a write that gives a canary more traffic than the cluster justifies at this instant.
pub(crate) fn rise(ctx: &Context, key: &Key, rise: &Rise<'_>) -> Result<(), Error> {
    let kept: Kept = promises::of_a_rise(rise);
    kept.map_err(|broken| {
        report(&ctx.calls.metrics, key, &broken);
        Error::Broken(broken)
    })
}

fn report(metrics: &Metrics, key: &Key, broken: &Broken) {
    metrics.promises_broken.get_or_create(&PromiseLabel { promise: broken.promise }).inc();
    tracing::error!(
        namespace = key.0,
        agent = key.1,
        promise = broken.promise,
        why = broken.why,
        "a promise is broken"
    );
}

/// A step that changes nothing.
fn held(state: &State) -> Step {
    let wanted = Wanted {
        sizes: BTreeMap::new(),
        keep: BTreeSet::new(),
        shares: None,
        service: None,
        decision: None,
        falling: false,
    };
    Step { state: state.clone(), wanted, events: Vec::new(), wake_at: None }
}
