//! Moves the traffic: the agent's HTTPRoute and the agent's Service, each in one guarded write that carries its reason.
//!
//! On the way up the agent and the object are read afresh first, and a decision that is written on the object stands. On
//! the way down nothing is asked that could hold the write up.

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};

use super::context::{Context, Key};
use super::perform::FIELD_MANAGER;
use super::prepare::Prepared;
use super::reconcile::key;
use super::{Error, revisions};
use crate::api::{AgentDeployment, Gateway, Phase};
use crate::children::{self, Owner};
use crate::launch::{Shares, Step};
use crate::traffic::{self, HTTPRoute, Mark};

/// Gives the traffic to whom the core wants it to be given.
pub(crate) async fn traffic(
    ctx: &Context,
    agent: &AgentDeployment,
    prepared: &Prepared,
    step: &Step,
) -> Result<(), Error> {
    let key = key(agent);
    let Some(owner) = Owner::of(agent) else { return Ok(()) };
    let gateway = agent.spec.traffic.as_ref().and_then(|traffic| traffic.gateway.as_ref());
    let on_route = match (gateway, &step.wanted.shares, &ctx.caches.routes) {
        (Some(gateway), Some(shares), Some(_)) => route(ctx, &key, agent, &owner, gateway, shares, step).await,
        _ => Ok(()),
    };
    let on_service = service(ctx, &key, agent, &owner, prepared, step).await; // trouble with one holds up the other never
    on_route.and(on_service)
}

/// What is written together with a weight.
fn mark<'a>(ctx: &Context, step: &'a Step) -> Mark<'a> {
    let running = step.state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
    let decision = step.wanted.decision.as_ref();
    let launch = running.map(|launch| launch.id.as_str()).or(decision.map(|decision| decision.launch.as_str()));
    Mark { epoch: ctx.calls.leadership.epoch(), launch, decision }
}

/// The HTTPRoute: created at rest, then edited in place.
async fn route(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    owner: &Owner,
    gateway: &Gateway,
    shares: &Shares,
    step: &Step,
) -> Result<(), Error> {
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    let Some(live) = ctx.calls.read("HTTPRoute", &key.1, api.get_opt(&key.1)).await? else {
        let (fresh, params) = (traffic::render(owner, gateway), PostParams::default());
        return ctx.calls.write("create", "HTTPRoute", &key.1, api.create(&params, &fresh)).await.map(drop);
    };
    if !owner.controls(&live) {
        return Err(Error::Taken(format!("HTTPRoute {}", key.1)));
    }
    let based = traffic::with_base(&live, gateway);
    let edited = reshared(based, &key.1, shares, &mark(ctx, step));
    if edited.spec == live.spec {
        return Ok(());
    }
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    let share = |route: &HTTPRoute| traffic::canary_share(route, &key.1, stable);
    if share(&edited) > share(&live) {
        may_rise(ctx, key, agent, step, traffic::decision(live.annotations()).as_ref()).await?;
    }
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    ctx.calls.write("update", "HTTPRoute", &key.1, api.replace(&key.1, &params, &edited)).await.map(drop)
}

/// The route with the wanted shares; the mark changes only together with them.
fn reshared(route: HTTPRoute, agent: &str, shares: &Shares, mark: &Mark<'_>) -> HTTPRoute {
    let edited = traffic::with_shares(&route, agent, shares, mark);
    if edited.spec == route.spec { route } else { edited }
}

/// Refuses to raise a weight on a stale view, or against a decision that is already written on the object.
async fn may_rise(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    step: &Step,
    written: Option<&crate::launch::Decision>,
) -> Result<(), Error> {
    let launch = step.state.launch.as_ref();
    if written.is_some_and(|decision| launch.is_some_and(|launch| launch.id == decision.launch)) {
        return Err(Error::Stale(format!("HTTPRoute {}: this launch was taken back", key.1)));
    }
    let api = ctx.agents(&key.0);
    let fresh = ctx.calls.read("AgentDeployment", &key.1, api.get_opt(&key.1)).await?;
    let same = fresh.is_some_and(|fresh| {
        fresh.metadata.generation == agent.metadata.generation
            && fresh.uid() == agent.uid()
            && fresh.status.is_some_and(|status| status.state == step.state)
    });
    if same { Ok(()) } else { Err(Error::Stale(format!("AgentDeployment {}", key.1))) }
}

/// The agent's Service: it selects the stable revision, and moves when the canary has all the traffic.
async fn service(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    owner: &Owner,
    prepared: &Prepared,
    step: &Step,
) -> Result<(), Error> {
    let reference = kube::runtime::reflector::ObjectRef::new(&key.1).within(&key.0);
    let cached = ctx.caches.services.get(&reference);
    let now = cached.as_ref().and_then(|service| children::selected_revision(service));
    let wanted = step.wanted.service.as_deref();
    if cached.as_ref().is_some_and(|service| owner.controls(service.as_ref())) && now.as_deref() == wanted {
        return Ok(());
    }
    let api = Api::<Service>::namespaced(ctx.client.clone(), &key.0);
    let live = ctx.calls.read("Service", &key.1, api.get_opt(&key.1)).await?;
    if live.as_ref().is_some_and(|live| !owner.controls(live)) {
        return Err(Error::Taken(format!("Service {}", key.1)));
    }
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    if wanted.is_some() && wanted != stable {
        let written = live.as_ref().and_then(|service| traffic::decision(service.annotations()));
        may_rise(ctx, key, agent, step, written.as_ref()).await?;
    }
    let revision = match wanted {
        Some(hash) => Some(revisions::stored(ctx, key, agent, prepared, hash).await?),
        None => None,
    };
    let mut service = children::agent_service(owner, revision.as_deref(), mark(ctx, step).annotations());
    service.metadata.resource_version = live.and_then(|live| live.metadata.resource_version);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let write = async { api.patch(&key.1, &params, &Patch::Apply(&service)).await };
    ctx.calls.write("patch", "Service", &key.1, write).await.map(drop)
}
