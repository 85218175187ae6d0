//! What is seen of an agent whose pods make the shares: its Service takes the place of a route.

use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::ObjectRef;

use super::context::{Context, Key};
use super::prepare::Prepared;
use super::reconcile::key;
use super::{Error, live};
use crate::api::{AgentDeployment, Launch, Phase, Sharing, State};
use crate::children::Owner;
use crate::launch::{self, ByPods, Observation, Programmed, Route, Shares, Step};
use crate::revision::names::revision_name;
use crate::traffic::{self, HTTPRoute, PodSplit};

/// What one pass knows of an agent.
pub(super) struct Known<'a> {
    pub(super) agent: &'a AgentDeployment,
    pub(super) prepared: &'a Prepared,
    pub(super) state: &'a State,
    pub(super) service: Option<&'a Service>,
    pub(super) route: Option<&'a HTTPRoute>,
}

/// Sees the Service as the route, when it is what shares the traffic. A route that was made before is used until it is gone;
/// a Service that shares although nobody asks for it any more is nobody's wish, and falls.
pub(super) fn observe(ctx: &Context, key: &Key, known: &Known<'_>, seen: &mut Observation) {
    let Known { agent, prepared, state, service, route } = known;
    let owner = Owner::of(agent);
    let routed = route.is_some_and(|route| owner.is_some_and(|owner| owner.controls(route)));
    if agent.spec.sharing() != Sharing::Pods || routed {
        if service.is_some_and(traffic::selects_all) {
            let why = "the agent's Service selects the pods of every revision, and spec.traffic does not ask for it";
            seen.route = Route::Seen { shares: Shares::Foreign(why.to_owned()), programmed: Programmed::Yes };
            seen.service = None;
        }
        return;
    }
    (seen.route, seen.service) = traffic::read_service(*service, &seen.pods);
    seen.route_version = service.map(traffic::service_version).unwrap_or_default();
    let running = state.running();
    seen.by_pods = Some(ByPods { obstacle: running.and_then(|launch| obstacle(ctx, key, launch)) });
    let port = prepared.revision.as_ref().map(|revision| revision.port);
    let ports = service.zip(port).and_then(|(service, port)| traffic::port_differs(service, port));
    seen.wanted = launch::launchable(&seen.wanted, &prepared.plan, state, seen.replicas, ports);
}

/// Why the Service may not select the pods of both revisions of a launch.
fn obstacle(ctx: &Context, key: &Key, launch: &Launch) -> Option<String> {
    let stable = launch.stable.as_ref()?;
    let service = |revision: &str| {
        let name = revision_name(&key.1, revision);
        let found = ctx.caches.services.get(&ObjectRef::new(&name).within(&key.0));
        found.ok_or_else(|| format!("Service {name} is not there yet"))
    };
    let ports = match (service(stable), service(&launch.revision)) {
        (Ok(stable), Ok(canary)) => traffic::ports_differ(&stable, &canary),
        (Err(missing), _) | (_, Err(missing)) => Some(missing),
    };
    let pods = ctx.caches.pods.state();
    let here = pods.iter().map(AsRef::as_ref).filter(|pod| pod.metadata.namespace.as_ref() == Some(&key.0));
    let revisions = [stable.as_str(), &launch.revision];
    let deployments = ctx.caches.all_deployments_of(&key.0, &key.1);
    ports
        .or_else(|| traffic::stray(here, &key.1, revisions))
        .or_else(|| traffic::besides(deployments.iter().map(AsRef::as_ref), revisions))
}

/// More pods for the next share start without traffic: a Service that selects them all the same, by a late write of a
/// stopped leader, would give them a share that nobody decided.
pub(super) async fn may_grow(
    ctx: &Context,
    agent: &AgentDeployment,
    step: &Step,
    revision: &str,
    size: i32,
) -> Result<(), Error> {
    let key = key(agent);
    let climbs = |launch: &&Launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    let launch = step.state.launch.as_ref().filter(climbs).filter(|launch| launch.revision == revision);
    let narrow = launch.is_some_and(|launch| launch.weight < 100) && PodSplit::of(&step.wanted).is_none();
    let now = ctx.caches.deployments.get(&ObjectRef::new(&revision_name(&key.1, revision)).within(&key.0));
    let grows = now.and_then(|now| now.spec.as_ref()?.replicas).is_some_and(|now| now < size);
    if agent.spec.sharing() != Sharing::Pods || !narrow || !grows {
        return Ok(());
    }
    match live::service(ctx, &key).await? {
        Some(service) if traffic::selects_all(&service) => Err(Error::Stale(format!("Service {}", key.1))),
        _ => Ok(()),
    }
}
