//! What is seen of the cluster, as the core wants to see it; and what the sampler is to ask for next.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::Error;
use super::context::{Context, Key};
use super::prepare::Prepared;
use crate::api::{AgentDeployment, DEFAULT_HISTORY, Launch, Phase, State};
use crate::launch::{CheckName, Decision, GateCheck, Observation, Plan, Pods, Question, Route, TriggerCheck};
use crate::signals::Watch;
use crate::traffic::HTTPRoute;
use crate::{children, traffic};

/// Reads the caches; what moves traffic is read from the API server itself while a launch runs.
pub(crate) async fn observe(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    prepared: &Prepared,
    state: &State,
) -> Result<Observation, Error> {
    let spec = &agent.spec;
    let running = state.launch.as_ref().filter(|launch| launch.phase != Phase::Complete);
    let adopted = spec.adopted_route();
    let route_name = adopted.unwrap_or(&key.1);
    let (service, route) =
        if running.is_some() { live(ctx, key, route_name).await? } else { cached(ctx, key, route_name) };
    let service = service.filter(|it| ours(it, agent));
    let route = route.filter(|it| adopted.is_some() || ours(it, agent));
    let on_service = service.as_ref().and_then(|service| traffic::decision(service.annotations()));
    let on_route = route.as_ref().and_then(|route| match adopted {
        Some(_) => traffic::decision(&traffic::marks_of(route.annotations(), &key.1)),
        None => traffic::decision(route.annotations()),
    });
    let mut seen = Observation {
        agent: key.1.clone(),
        wanted: prepared.wanted.clone(),
        replicas: spec.replicas.unwrap_or(1),
        paused: spec.paused.unwrap_or(false),
        history_limit: usize::try_from(spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(1),
        pods: pods(ctx, key),
        route: shares(ctx, key, agent, route.as_ref()),
        route_version: route.as_ref().map(traffic::version).unwrap_or_default(),
        service: service.as_ref().and_then(children::selected_revision),
        decision: decision([on_route, on_service], running),
        trouble: ctx.remember(key, |memory| memory.trouble.clone()),
        measured: BTreeMap::new(),
        runs: None,
    };
    ask(ctx, key, prepared, state, &seen); // the answers below are judged by the pods that are ready now
    seen.measured = ctx.sampler.latest(key);
    seen.runs = ctx.sampler.runs(key);
    Ok(seen)
}

/// The agent's Service and route as the watches hold them.
fn cached(ctx: &Context, key: &Key, route: &str) -> (Option<Service>, Option<HTTPRoute>) {
    let service = ctx.caches.services.get(&ObjectRef::new(&key.1).within(&key.0));
    (service.map(|service| service.as_ref().clone()), ctx.caches.route(&key.0, route))
}

/// The agent's Service and route as the API server holds them: a launch ends on nothing older.
async fn live(ctx: &Context, key: &Key, route: &str) -> Result<(Option<Service>, Option<HTTPRoute>), Error> {
    let services = Api::<Service>::namespaced(ctx.client.clone(), &key.0);
    let service = ctx.calls.read("Service", &key.1, services.get_opt(&key.1)).await?;
    if ctx.caches.routes.is_none() {
        return Ok((service, None));
    }
    let routes = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    Ok((service, ctx.calls.read("HTTPRoute", route, routes.get_opt(route)).await?))
}

/// Not an object that a former agent of the same name left behind.
fn ours(object: &impl ResourceExt, agent: &AgentDeployment) -> bool {
    let mut owners = object.owner_references().iter().filter(|owner| owner.controller == Some(true));
    owners.all(|owner| Some(&owner.uid) == agent.metadata.uid.as_ref())
}

/// The decision about the running launch, or the latest one.
fn decision(found: [Option<Decision>; 2], running: Option<&Launch>) -> Option<Decision> {
    let about = |decision: &Decision| running.is_some_and(|launch| launch.id == decision.launch);
    found.into_iter().flatten().max_by_key(|decision| (about(decision), decision.at))
}

/// Pods by revision: every revision that has a Deployment.
fn pods(ctx: &Context, key: &Key) -> BTreeMap<String, Pods> {
    let all = ctx.caches.pods_of(&key.0, &key.1);
    let deployments = ctx.caches.deployments_of(&key.0, &key.1).into_iter();
    let seen = deployments.map(|(hash, deployment)| {
        let size = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let mine: Vec<Pod> = all.iter().filter(|(of, _)| *of == hash).map(|(_, pod)| pod.as_ref().clone()).collect();
        (hash, Pods { refused: refused(&deployment), ..children::pods(&mine, size) })
    });
    seen.collect()
}

/// Why Kubernetes does not make the pods that a Deployment asks for.
fn refused(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    failure?.message.clone()
}

/// Who gets the traffic. A route that is still there counts even when the spec no longer asks for one.
fn shares(ctx: &Context, key: &Key, agent: &AgentDeployment, route: Option<&HTTPRoute>) -> Route {
    let asked = agent.spec.traffic.is_some();
    match route {
        Some(route) if agent.spec.adopted_route().is_some() => traffic::read_adopted(route, &key.1),
        Some(route) => traffic::read(route, &key.1),
        None if !asked => Route::NotUsed,
        None if ctx.caches.routes.is_none() => {
            Route::Unusable("the cluster has no HTTPRoutes: install the Gateway API, or remove spec.traffic".to_owned())
        }
        None => agent.spec.adopted_route().map_or(Route::Missing, |name| {
            Route::Unshared(format!(
                "HTTPRoute {name} does not exist: create it, or correct spec.traffic.httpRoute.name"
            ))
        }),
    }
}

/// Tells the sampler what a pass wants to know. Only agents that launch are measured.
pub(crate) fn ask(ctx: &Context, key: &Key, prepared: &Prepared, state: &State, seen: &Observation) {
    let running = state.launch.as_ref();
    let Some(launch) = running.filter(|launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting)) else {
        ctx.sampler.forget(key);
        return;
    };
    let questions = questions(&prepared.plan, launch.stage, launch.phase);
    let watch = Watch {
        source: prepared.plan.source.clone(),
        interval: prepared.plan.interval,
        canary: launch.revision.clone(),
        stable: launch.stable.clone(),
        ready_pods: seen.pods.get(&launch.revision).map_or(0, |pods| pods.ready),
        questions,
    };
    ctx.sampler.watch(key.clone(), watch);
}

/// The questions of the stage's gates and of all triggers.
fn questions(plan: &Plan, stage: i32, phase: Phase) -> BTreeMap<CheckName, Question> {
    let climbing = phase == Phase::Progressing;
    let gates = plan
        .stages
        .get(usize::try_from(stage).unwrap_or(usize::MAX))
        .filter(|_| climbing)
        .into_iter()
        .flat_map(|stage| &stage.gates);
    let gates = gates.filter_map(|gate| match &gate.check {
        GateCheck::Metric(question) => Some((CheckName::Gate(stage, gate.name.clone()), (**question).clone())),
        GateCheck::Health(_) => None,
    });
    let triggers = plan.triggers.iter().filter_map(|trigger| match &trigger.check {
        TriggerCheck::Metric(question) => Some((CheckName::Trigger(trigger.name.clone()), (**question).clone())),
        TriggerCheck::Restarts(..) | TriggerCheck::Condition(_) => None,
    });
    gates.chain(triggers).collect()
}
