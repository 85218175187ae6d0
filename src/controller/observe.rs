//! What is seen of the cluster, as the core wants to see it; and what the sampler is to ask for next.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::context::{Context, Key};
use super::prepare::Prepared;
use crate::api::{AgentDeployment, DEFAULT_HISTORY, Phase, State};
use crate::launch::{CheckName, Decision, GateCheck, Measured, Observation, Plan, Pods, Question, Route, TriggerCheck};
use crate::signals::Watch;
use crate::{children, traffic};

/// Reads the caches; makes no request.
pub(crate) fn observe(ctx: &Context, key: &Key, agent: &AgentDeployment, prepared: &Prepared) -> Observation {
    let spec = &agent.spec;
    let service = ctx.caches.services.get(&ObjectRef::new(&key.1).within(&key.0));
    let (route, on_route) = route(ctx, key, agent);
    let on_service = service.as_ref().and_then(|service| traffic::decision(service.annotations()));
    Observation {
        agent: key.1.clone(),
        wanted: prepared.wanted.clone(),
        replicas: spec.replicas.unwrap_or(1),
        paused: spec.paused.unwrap_or(false),
        history_limit: usize::try_from(spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(1),
        pods: pods(ctx, key),
        route,
        service: service.as_ref().and_then(|service| children::selected_revision(service)),
        decision: newest(on_route, on_service),
        measured: BTreeMap::new(),
    }
}

/// The route and the Service may carry decisions of different launches: the later one counts.
fn newest(one: Option<Decision>, two: Option<Decision>) -> Option<Decision> {
    one.into_iter().chain(two).max_by_key(|decision| decision.at)
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

fn route(ctx: &Context, key: &Key, agent: &AgentDeployment) -> (Route, Option<Decision>) {
    if agent.spec.traffic.as_ref().is_none_or(|traffic| traffic.gateway.is_none()) {
        return (Route::NotUsed, None);
    }
    let Some(routes) = &ctx.caches.routes else {
        let mend = "the cluster has no HTTPRoutes: install the Gateway API and restart Sluice, or remove spec.traffic";
        return (Route::Unusable(mend.to_owned()), None);
    };
    let reference = ObjectRef::new(&key.1).within(&key.0);
    match routes.get(&reference) {
        None => (Route::Missing, None),
        Some(route) => (traffic::read(&route, &key.1), traffic::decision(route.annotations())),
    }
}

/// What the metrics say of the launch, in the light of the pods that are ready now.
pub(crate) fn measure(
    ctx: &Context,
    key: &Key,
    prepared: &Prepared,
    state: &State,
    seen: &Observation,
) -> BTreeMap<CheckName, Measured> {
    ask(ctx, key, prepared, state, seen);
    ctx.sampler.latest(key)
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
