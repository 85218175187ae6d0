//! A user's HTTPRoute: its traffic is shared in guarded writes, and it is put back when the agent leaves it. It is never
//! created or deleted here, and gets no owner.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::context::{Context, Key};
use super::live::Live;
use super::perform::FIELD_MANAGER;
use super::reconcile::key;
use super::traffic::{RACES, fence, lacks_mark, mark, may_rise, replace, rises, shares_of, written};
use super::{Error, endpoints};
use crate::api::{AgentDeployment, ROUTE_FINALIZER};
use crate::children::Owner;
use crate::launch::{Observation, Shares, Step};
use crate::traffic::{self, HTTPRoute};

/// An agent that is deleted waits so long for a route that cannot be written.
const GIVE_UP: Duration = Duration::from_mins(1);
/// Finalizers of the garbage collector: what an agent owns is deleted, or orphaned, before the agent goes.
const COLLECTED: [&str; 2] = ["foregroundDeletion", "orphan"];

/// The route that the agent's spec names gets the wanted shares.
pub(super) async fn route(
    ctx: &Context,
    agent: &AgentDeployment,
    name: &str,
    seen: &Observation,
    step: &Step,
) -> Result<(), Error> {
    let key = key(agent);
    let Some(wanted) = step.wanted.shares.as_ref().filter(|_| ctx.caches.routes.is_some()) else { return Ok(()) };
    if ctx.caches.route(&key.0, name).is_none() && shares_of(&seen.route).is_none() {
        return Ok(()); // `observe` tells that it is missing
    }
    for _ in 0..RACES {
        match write(ctx, agent, name, seen, step, wanted).await {
            Err(error) if step.wanted.falling && error.reason() == "Conflict" => {} // read again: a fall loses to nobody
            done => return done,
        }
    }
    Err(Error::Stale(format!("HTTPRoute {name}")))
}

async fn write(
    ctx: &Context,
    agent: &AgentDeployment,
    name: &str,
    seen: &Observation,
    step: &Step,
    wanted: &Shares,
) -> Result<(), Error> {
    let key = key(agent);
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    let Some(live) = ctx.calls.read("HTTPRoute", name, api.get_opt(name)).await? else { return Ok(()) };
    let Some(found) = shares_of(&traffic::read_adopted(&live, &key.1)) else { return Ok(()) };
    if !step.wanted.falling && Some(&found) != shares_of(&seen.route).as_ref() && found != *wanted {
        return Err(Error::Stale(format!("HTTPRoute {name}"))); // somebody else wrote: that is to be seen, and judged
    }
    let edited = traffic::with_adopted_shares(&live, &key.1, wanted, &mark(ctx, step));
    let marks = traffic::marks_of(live.annotations(), &key.1);
    if edited.spec == live.spec && !lacks_mark(agent, &step.state, &marks, ctx.calls.leadership.epoch()) {
        return Ok(()); // the mark changes only together with the shares, with a fall, with a new leader, and with the success
    }
    fence(&ctx.calls.leadership, format!("HTTPRoute {name}"), &marks)?;
    let rise = rises(&live, &edited, &key.1, step, Some(&found));
    endpoints::known(ctx, &key, seen, step, Some(&found), rise.is_some()).await?;
    if let Some(rise) = rise {
        stay_to_put_it_back(ctx, agent).await?;
        may_rise(ctx, agent, step, rise, written(agent, &marks).as_ref()).await?;
    }
    replace(ctx, &api, name, &edited).await
}

/// Routes that the agent shared and that its spec no longer names: each is put back.
pub(super) async fn leave_others(ctx: &Context, agent: &AgentDeployment) -> Result<(), Error> {
    let (key, named) = (key(agent), agent.spec.adopted_route());
    let left = ctx.caches.routes_marked_by(&key).into_iter().filter(|name| Some(name.as_str()) != named);
    let mut all_left = true;
    for name in left {
        all_left = false;
        put_back(ctx, &key, &name).await?;
    }
    if all_left && named.is_none() && stays(agent) {
        return finalizers(ctx, agent, false).await;
    }
    Ok(())
}

/// The route as its owner wrote it, without any mark of the agent.
async fn put_back(ctx: &Context, key: &Key, name: &str) -> Result<(), Error> {
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    let Some(live) = ctx.calls.read("HTTPRoute", name, api.get_opt(name)).await? else { return Ok(()) };
    let released = traffic::released(&live, &key.1);
    if released == live {
        return Ok(());
    }
    replace(ctx, &api, name, &released).await
}

/// The agent is being deleted: its route is put back, then it may go. A route that cannot be written holds it up for a
/// moment only.
pub(super) async fn farewell(ctx: &Context, agent: &AgentDeployment) -> Result<(), Error> {
    if !stays(agent) {
        return Ok(());
    }
    let key = key(agent);
    if ctx.caches.routes.is_some() {
        let mut names = ctx.caches.routes_marked_by(&key);
        names.extend(agent.spec.adopted_route().map(str::to_owned));
        for name in names {
            let Err(error) = put_back(ctx, &key, &name).await else { continue };
            let asked = agent.metadata.deletion_timestamp.as_ref().map_or_else(|| ctx.now(), |at| at.0);
            let waited = Duration::try_from(ctx.now().duration_since(asked)).unwrap_or_default();
            if waited < GIVE_UP {
                return Err(error);
            }
            let cause = error.cause().unwrap_or_default();
            tracing::warn!(namespace = key.0, agent = key.1, route = name, cause, "the route could not be put back");
        }
    }
    finalizers(ctx, agent, false).await
}

/// Whether an agent in deletion serves on for reasons of somebody else's: as long as it has a stable revision, and owns the
/// Service that sends to it. Whoever deletes in the foreground, or orphans what it owns, has ended that.
pub(super) fn is_held(ctx: &Context, agent: &AgentDeployment) -> bool {
    let key = key(agent);
    let held = agent.finalizers().iter().any(|finalizer| finalizer != ROUTE_FINALIZER);
    let stable = agent.status.as_ref().is_some_and(|status| status.state.stable.is_some());
    let service = Live::cached(ctx, &key, &key.1).service;
    let owns = Owner::of(agent).zip(service).is_some_and(|(owner, service)| owner.controls(&service));
    let collected = agent.finalizers().iter().any(|finalizer| COLLECTED.contains(&finalizer.as_str()));
    held && stable && owns && !collected
}

/// Routes that carry marks of an agent that does not exist: a write that was on its way when it went, or one that was refused
/// for as long as its deletion waited.
pub(super) async fn put_back_of_nobody(ctx: &Context, key: &Key) -> Result<(), Error> {
    for name in ctx.caches.routes_marked_by(key) {
        put_back(ctx, key, &name).await?;
    }
    Ok(())
}

fn stays(agent: &AgentDeployment) -> bool {
    agent.finalizers().iter().any(|finalizer| finalizer == ROUTE_FINALIZER)
}

/// Sees to it that the agent cannot go while it shares a route. The write makes the next pass.
async fn stay_to_put_it_back(ctx: &Context, agent: &AgentDeployment) -> Result<(), Error> {
    if stays(agent) {
        return Ok(());
    }
    finalizers(ctx, agent, true).await?;
    Err(Error::Stale(format!("AgentDeployment {}", agent.name_any())))
}

/// Adds or removes our finalizer; nothing else of the agent is written.
async fn finalizers(ctx: &Context, agent: &AgentDeployment, ours: bool) -> Result<(), Error> {
    let (namespace, name) = key(agent);
    let mut all: Vec<&str> = agent.finalizers().iter().map(String::as_str).collect();
    all.retain(|finalizer| *finalizer != ROUTE_FINALIZER);
    all.extend(ours.then_some(ROUTE_FINALIZER));
    let body = json!({"metadata": {"resourceVersion": agent.resource_version(), "finalizers": all}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api = ctx.agents(&namespace);
    let write = async { api.patch_metadata(&name, &params, &Patch::Merge(&body)).await };
    match ctx.calls.write("patch", "AgentDeployment", &name, write).await {
        Err(error) if error.reason() == "NotFound" => Ok(()), // it is gone
        other => other.map(drop),
    }
}
