//! Moves the traffic: the agent's HTTPRoute and the agent's Service, each in one guarded write that carries its reason.
//!
//! On the way up the agent and the object are read afresh first, and a decision that is written on the object stands. On
//! the way down neither waits for the other, and nothing is asked that the write itself does not need.

use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::context::{Context, Key};
use super::perform::{FIELD_MANAGER, same_service};
use super::prepare::Prepared;
use super::reconcile::key;
use super::{Error, guard, revisions};
use crate::api::{AgentDeployment, Phase};
use crate::children::{self, Owner};
use crate::launch::promises::Rise;
use crate::launch::{Decision, Observation, Route, Shares, Step};
use crate::traffic::{self, HTTPRoute, Mark};

/// Gives the traffic to whom the core wants it to be given.
pub(crate) async fn traffic(
    ctx: &Context,
    agent: &AgentDeployment,
    prepared: &Prepared,
    seen: &Observation,
    step: &Step,
) -> Result<(), Error> {
    let Some(owner) = Owner::of(agent) else { return Ok(()) };
    let on_route = route(ctx, agent, &owner, seen, step).await;
    let on_service = service(ctx, agent, &owner, prepared, step).await;
    on_route.and(on_service)
}

/// What is written together with a weight.
fn mark<'a>(ctx: &Context, step: &'a Step) -> Mark<'a> {
    let running = step.state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
    let decision = step.wanted.decision.as_ref();
    let launch = running.map(|launch| launch.id.as_str()).or(decision.map(|decision| decision.launch.as_str()));
    Mark { epoch: ctx.calls.leadership.epoch(), launch, decision }
}

/// A launch that is taken back says so on route and Service even where its weight is 0 already: the write is in the way of
/// a rise that left its operator before, and has not arrived.
fn lacks_mark(step: &Step, written: Option<&Decision>) -> bool {
    let launch = step.state.launch.as_ref().filter(|launch| launch.phase == Phase::RollingBack);
    launch.is_some_and(|launch| written.is_none_or(|written| written.launch != launch.id))
}

/// The HTTPRoute: created at rest, then edited in place, and removed when the spec asks for none and nobody is split.
async fn route(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    seen: &Observation,
    step: &Step,
) -> Result<(), Error> {
    let key = key(agent);
    let gateway = agent.spec.traffic.as_ref().and_then(|traffic| traffic.gateway.as_ref());
    if ctx.caches.routes.is_none() || (gateway.is_none() && ctx.caches.route(&key).is_none()) {
        return Ok(()); // `observe` tells when a route is asked for that cannot be
    }
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    let name = key.1.as_str();
    let (live, gateway) = match (ctx.calls.read("HTTPRoute", name, api.get_opt(name)).await?, gateway) {
        (None, None) => return Ok(()),
        (None, Some(_)) if seen.service.is_none() => return Ok(()), // a host name is claimed when somebody serves it
        (None, Some(gateway)) => {
            let (fresh, params) = (traffic::render(owner, gateway), PostParams::default());
            return ctx.calls.write("create", "HTTPRoute", name, api.create(&params, &fresh)).await.map(drop);
        }
        (Some(live), gateway) => (live, gateway),
    };
    let Some(shares) = &step.wanted.shares else { return Ok(()) };
    let found = shares_of(&traffic::read(&live, name));
    let falling = step.wanted.falling && matches!(found, Some(Shares::Split { .. } | Shares::AtRest));
    if !owner.controls(&live) && !falling {
        return Err(Error::Taken(format!("HTTPRoute {name}"))); // only a fall touches a route that lost its owner
    }
    if !step.wanted.falling && found != shares_of(&seen.route) && found.as_ref() != Some(shares) {
        return Err(Error::Stale(format!("HTTPRoute {name}"))); // somebody else wrote: that is to be seen, and judged
    }
    let at_rest = found == Some(Shares::AtRest);
    if gateway.is_none() && at_rest && *shares == Shares::AtRest {
        return remove(ctx, &key, &live).await;
    }
    let based = gateway.map_or_else(|| live.clone(), |gateway| traffic::with_base(&live, gateway));
    let (marks, unmarked) = (mark(ctx, step), lacks_mark(step, traffic::decision(live.annotations()).as_ref()));
    let edited = if unmarked {
        traffic::with_shares(&based, name, shares, &marks)
    } else {
        reshared(based, name, shares, &marks)
    };
    if edited.spec == live.spec && !unmarked {
        return Ok(());
    }
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    let share = |route: &HTTPRoute| traffic::canary_share(route, name, stable);
    if share(&edited) > share(&live) {
        let canary = match shares {
            Shares::Split { canary, .. } => canary.as_str(),
            Shares::AtRest | Shares::Foreign(_) => name,
        };
        may_rise(ctx, agent, step, (canary, share(&edited)), traffic::decision(live.annotations()).as_ref()).await?;
    }
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    ctx.calls.write("update", "HTTPRoute", name, api.replace(name, &params, &edited)).await.map(drop)
}

fn shares_of(route: &Route) -> Option<Shares> {
    match route {
        Route::Seen { shares, .. } => Some(shares.clone()),
        Route::NotUsed | Route::Missing | Route::Unusable(_) => None,
    }
}

/// The route with the wanted shares; the mark changes only together with them.
fn reshared(route: HTTPRoute, agent: &str, shares: &Shares, mark: &Mark<'_>) -> HTTPRoute {
    let edited = traffic::with_shares(&route, agent, shares, mark);
    if edited.spec == route.spec { route } else { edited }
}

async fn remove(ctx: &Context, key: &Key, live: &HTTPRoute) -> Result<(), Error> {
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    let preconditions = Preconditions { uid: live.uid(), resource_version: live.resource_version() };
    let params = DeleteParams::background().preconditions(preconditions);
    ctx.calls.write("delete", "HTTPRoute", &key.1, api.delete(&key.1, &params)).await.map(drop)
}

/// Refuses to raise a weight on a stale view, or against a decision that is already written on the object.
async fn may_rise(
    ctx: &Context,
    agent: &AgentDeployment,
    step: &Step,
    (revision, to): (&str, i32),
    written: Option<&Decision>,
) -> Result<(), Error> {
    let key = key(agent);
    let launch = step.state.launch.as_ref();
    if written.is_some_and(|decision| launch.is_some_and(|launch| launch.id == decision.launch)) {
        return Err(Error::Stale(format!("{}: this launch was taken back; its state", key.1)));
    }
    let api = ctx.agents(&key.0);
    let fresh = ctx.calls.read("AgentDeployment", &key.1, api.get_opt(&key.1)).await?;
    let same = fresh.is_some_and(|fresh| {
        fresh.metadata.generation == agent.metadata.generation
            && fresh.uid() == agent.uid()
            && fresh.status.is_some_and(|status| status.state == step.state)
    });
    if !same {
        return Err(Error::Stale(format!("AgentDeployment {}", key.1)));
    }
    guard::rise(ctx, &key, &Rise { revision, to, committed: &step.state, written })
}

/// The agent's Service: it selects the stable revision, and moves when the canary has all the traffic.
async fn service(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    prepared: &Prepared,
    step: &Step,
) -> Result<(), Error> {
    let key = key(agent);
    let name = key.1.as_str();
    let launching = step.state.launch.as_ref().is_some_and(|launch| launch.phase != Phase::Complete);
    let wanted = step.wanted.service.as_deref();
    let revision = match wanted {
        Some(hash) => revisions::stored(ctx, &key, agent, prepared, hash).await.map(Some),
        None => Ok(None),
    };
    let right = |live: &Service| match &revision {
        Ok(revision) => same_service(live, &children::agent_service(owner, revision.as_deref(), [].into())),
        Err(_) => children::selected_revision(live).as_deref() == wanted,
    };
    let cached = ctx.caches.services.get(&ObjectRef::new(name).within(&key.0));
    if !launching && cached.is_some_and(|cached| owner.controls(cached.as_ref()) && right(&cached)) {
        return Ok(());
    }
    let api = Api::<Service>::namespaced(ctx.client.clone(), &key.0);
    let live = ctx.calls.read("Service", name, api.get_opt(name)).await?;
    let falls = |live: &Service| step.wanted.falling && children::selected_revision(live).is_some();
    if live.as_ref().is_some_and(|live| !owner.controls(live) && !falls(live)) {
        return Err(Error::Taken(format!("Service {name}"))); // even one that is right: no watch tells when it changes
    }
    let unmarked = |live: &Service| lacks_mark(step, traffic::decision(live.annotations()).as_ref());
    if live.as_ref().is_some_and(|live| right(live) && !unmarked(live)) {
        return Ok(());
    }
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    if let Some(canary) = wanted.filter(|wanted| stable != Some(*wanted)) {
        let written = live.as_ref().and_then(|service| traffic::decision(service.annotations()));
        may_rise(ctx, agent, step, (canary, 100), written.as_ref()).await?;
    }
    let marks = mark(ctx, step).annotations();
    let revision = match revision {
        Ok(revision) => revision,
        Err(error) => return turn_back(&api, ctx, &key, wanted, live.is_some(), marks, error).await,
    };
    let mut service = children::agent_service(owner, revision.as_deref(), marks);
    service.metadata.resource_version = live.and_then(|live| live.metadata.resource_version);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let write = async { api.patch(name, &params, &Patch::Apply(&service)).await };
    ctx.calls.write("patch", "Service", name, write).await.map(drop)
}

/// Stable's stored contents cannot be read: its pods are there all the same, and the Service is turned to them.
async fn turn_back(
    api: &Api<Service>,
    ctx: &Context,
    key: &Key,
    wanted: Option<&str>,
    exists: bool,
    marks: std::collections::BTreeMap<String, String>,
    error: Error,
) -> Result<(), Error> {
    let Some(wanted) = wanted.filter(|_| exists) else { return Err(error) };
    let selector = children::selector(&key.1, Some(wanted));
    let body = json!({"metadata": {"annotations": marks}, "spec": {"selector": selector}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let write = async { api.patch(&key.1, &params, &Patch::Merge(&body)).await };
    ctx.calls.write("patch", "Service", &key.1, write).await.map(drop)
}
