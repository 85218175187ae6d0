//! What is seen of the cluster, as the core wants to see it; and what the sampler is to ask for next.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::context::{Context, Key};
use super::live::Live;
use super::prepare::Prepared;
use super::traffic::{is_sluices, shares_of, written};
use super::{Error, by_pods, live, people};
use crate::api::{AgentDeployment, DEFAULT_HISTORY, Launch, Phase, Sharing, State, span};
use crate::children::Owner;
use crate::launch::{
    CheckName, Decision, Freeze, GateCheck, Observation, Plan, Pods, Question, Route, TriggerCheck, WantedRevision,
};
use crate::signals::Watch;
use crate::traffic::HTTPRoute;
use crate::{children, launch, traffic};

/// Reads the caches; what moves traffic is read from the API server itself while a launch runs, and handed on.
pub(crate) async fn observe(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    prepared: &Prepared,
    state: &State,
) -> Result<(Observation, Live), Error> {
    let spec = &agent.spec;
    let running = state.running();
    let adopted = spec.adopted_route();
    let named = adopted.unwrap_or(&key.1);
    let gone_since = ctx.remember(key, |memory| memory.gone_since.take()); // a pass that sees nothing begins it anew
    let certain = running.is_none() && state.stable.is_some(); // a status that was lost does not tell who has the traffic
    let live = if certain { Live::cached(ctx, key, named) } else { Live::fresh(ctx, key, named).await? };
    let service = live.service.as_ref().filter(|it| ours(*it, agent));
    let route = live.route.as_ref().filter(|it| adopted.is_some() || made_by_sluice(it, agent));
    let on_service = service.and_then(|service| written(agent, service.annotations()));
    let on_route = route.and_then(|route| match adopted {
        Some(_) => written(agent, &traffic::marks_of(route.annotations(), &key.1)),
        None => written(agent, route.annotations()),
    });
    let mut seen = Observation {
        agent: key.1.clone(),
        wanted: wanted(agent, prepared, state),
        replicas: spec.replicas.unwrap_or(1),
        paused: spec.paused.unwrap_or(false),
        freeze: Freeze::at(&prepared.judge.windows, ctx.now()),
        drain: spec.drain.as_ref().map(|drain| span(&drain.deadline)),
        history_limit: usize::try_from(spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(1),
        pods: pods(ctx, key, agent),
        route: shares(ctx, key, agent, route),
        gone_since,
        by_pods: None,
        route_version: route.map(traffic::version).unwrap_or_default(),
        service: service.and_then(children::selected_revision),
        hostname_taken: hostname_taken(ctx, agent, route),
        decision: decision([on_route, on_service], running),
        no_room: None,
        trouble: ctx.remember(key, |memory| memory.trouble.clone()),
        measured: BTreeMap::new(),
        people: people::observe(ctx, key, agent, state).await,
        runs: None,
    };
    let falls = running.is_some_and(|launch| launch.phase == Phase::RollingBack);
    if adopted.is_some() && matches!(seen.route, Route::Unshared(_)) && falls {
        // the user's route is not there: what Sluice made before serves, and what falls, falls there
        seen.route = made(ctx, key, agent).await?.unwrap_or(seen.route);
    }
    if let Some(launch) = running.filter(|launch| falls && launch.weight == 0)
        && let Some(why) = left_behind(ctx, key, adopted, &launch.revision).await?
    {
        seen.route = Route::Unusable(why);
    }
    by_pods::observe(ctx, key, &by_pods::Known { agent, prepared, state, service, route }, &mut seen);
    seen.no_room = no_room(ctx, key, state, &seen).await;
    seen.gone_since = launch::gone_since(state, &seen, ctx.now());
    ctx.remember(key, |memory| memory.gone_since = seen.gone_since);
    ask(ctx, key, agent, prepared, state, &seen); // the answers below are judged by the pods that are ready now
    seen.measured = ctx.sampler.latest(key);
    seen.measured.retain(|_, measured| measured.sampled_at <= ctx.now()); // the clock was set back: nobody knows when it was taken
    seen.runs = ctx.sampler.runs(key);
    Ok((seen, live))
}

/// What the spec asks for. An agent in deletion that somebody's finalizer holds goes on serving, from what is proved: a launch
/// of it is taken back, and none begins.
fn wanted(agent: &AgentDeployment, prepared: &Prepared, state: &State) -> WantedRevision {
    let stable = state.stable.as_ref().filter(|_| agent.metadata.deletion_timestamp.is_some());
    stable.map_or_else(|| prepared.wanted.clone(), |stable| WantedRevision::Known(stable.revision.clone()))
}

/// The route that Sluice made for the agent, read now.
async fn made(ctx: &Context, key: &Key, agent: &AgentDeployment) -> Result<Option<Route>, Error> {
    let route = live::route(ctx, key, &key.1).await?;
    let made = route.filter(|route| Owner::of(agent).is_some_and(|owner| owner.controls(route)));
    Ok(made.map(|route| traffic::read(&route, &key.1)))
}

/// What the namespace's quotas lack for the pods that a launch will need, as long as it has moved nothing. Without a pod to
/// measure by there is no traffic either. Quotas that cannot be read hold up no pass: Kubernetes keeps them anyway.
async fn no_room(ctx: &Context, key: &Key, state: &State, seen: &Observation) -> Option<String> {
    let (canary, more) = launch::to_come(state, seen)?;
    let pods = ctx.caches.pods_of(&key.0, &key.1);
    let (_, pod) = pods.iter().find(|(revision, _)| revision == canary)?;
    let api = Api::<ResourceQuota>::namespaced(ctx.client.clone(), &key.0);
    match ctx.calls.read("ResourceQuota", &key.0, api.list(&ListParams::default())).await {
        Ok(quotas) => children::lacking(&quotas.items, pod, more),
        Err(error) => {
            let cause = error.cause().unwrap_or_default();
            tracing::warn!(namespace = key.0, agent = key.1, %error, cause, "quotas were not asked");
            None
        }
    }
}

/// A route that the agent shared before it was turned to another, and that still gives the canary a share: a rollback does not
/// end before it was put back.
async fn left_behind(ctx: &Context, key: &Key, adopted: Option<&str>, canary: &str) -> Result<Option<String>, Error> {
    for name in ctx.caches.routes_marked_by(key).into_iter().filter(|name| Some(name.as_str()) != adopted) {
        // read now: the watch may not have told that it was put back
        if live::gives(ctx, key, &name, traffic::read_adopted, canary).await? {
            let left = format!("HTTPRoute {name}, which the agent shared before, still gives {canary} a share");
            return Ok(Some(format!("{left}: it is being put back")));
        }
    }
    Ok(None)
}

/// Not a user's route that only has the agent's name.
fn made_by_sluice(route: &HTTPRoute, agent: &AgentDeployment) -> bool {
    let in_it = || is_sluices(route, shares_of(&traffic::read(route, &agent.name_any())).as_ref());
    ours(route, agent) && (Owner::of(agent).is_some_and(|owner| owner.controls(route)) || in_it())
}

/// Not an object that a former agent of the same name left behind.
fn ours(object: &impl ResourceExt, agent: &AgentDeployment) -> bool {
    Owner::of(agent).is_some_and(|owner| owner.may_own(object))
}

/// The decision about the running launch, or the latest one.
fn decision(found: [Option<Decision>; 2], running: Option<&Launch>) -> Option<Decision> {
    let about = |decision: &Decision| running.is_some_and(|launch| launch.id == decision.launch);
    found.into_iter().flatten().max_by_key(|decision| (about(decision), decision.at))
}

/// Pods by revision: every revision that has a Deployment.
fn pods(ctx: &Context, key: &Key, agent: &AgentDeployment) -> BTreeMap<String, Pods> {
    let all = ctx.caches.pods_of(&key.0, &key.1);
    let deployments = Owner::of(agent).into_iter().flat_map(|owner| ctx.caches.deployments_of(&owner));
    let seen = deployments.map(|(hash, deployment)| {
        let size = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let mine: Vec<Pod> = all.iter().filter(|(of, _)| *of == hash).map(|(_, pod)| pod.as_ref().clone()).collect();
        (hash, Pods { refused: refused(&deployment), ..children::pods(&mine, size) })
    });
    seen.collect()
}

/// Why Kubernetes does not make the pods that a Deployment asks for.
pub(super) fn refused(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    failure?.message.clone()
}

/// Who gets the traffic. A route that is still there counts even when the spec no longer asks for one.
fn shares(ctx: &Context, key: &Key, agent: &AgentDeployment, route: Option<&HTTPRoute>) -> Route {
    let asked = agent.spec.sharing() == Sharing::Route;
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

/// Who gets the requests that the agent's route asks for, or will ask for once it is made.
fn hostname_taken(ctx: &Context, agent: &AgentDeployment, route: Option<&HTTPRoute>) -> Option<String> {
    let gateway = agent.spec.traffic.as_ref()?.gateway.as_ref()?;
    let owner = Owner::of(agent)?;
    let mine = route.map_or_else(|| traffic::render(&owner, gateway), |route| traffic::with_base(route, gateway));
    let others = ctx.caches.routes.as_ref()?.state();
    traffic::taken_by(&mine, others.iter().filter_map(|route| route.0.as_ref().ok()))
}

/// Tells the sampler what a pass wants to know. Only agents that launch, soak or drain are measured.
pub(crate) fn ask(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    prepared: &Prepared,
    state: &State,
    seen: &Observation,
) {
    let judged = |launch: &&Launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting | Phase::Soaking);
    let launch = state.launch.as_ref().filter(judged);
    let ready = |revision: &String| seen.pods.get(revision).map_or(0, |pods| pods.ready);
    let mut questions = launch.map_or_else(BTreeMap::new, |launch| questions(&prepared.plan, launch));
    let draining: BTreeMap<String, i32> =
        launch::draining(state, seen).map(|revision| (revision.clone(), ready(revision))).collect();
    let metrics = agent.spec.metrics.clone().unwrap_or_default();
    let no_runs = launch::definitions(&metrics).remove(launch::RUNS_IN_FLIGHT).map(launch::no_runs);
    questions
        .extend(draining.keys().filter_map(|revision| Some((CheckName::Drained(revision.clone()), no_runs.clone()?))));
    if launch.is_none() && questions.is_empty() {
        ctx.sampler.forget(key);
        return;
    }
    let watch = Watch {
        source: prepared.plan.source.clone(),
        interval: prepared.plan.interval,
        canary: launch.map(|launch| launch.revision.clone()).unwrap_or_default(),
        stable: launch.and_then(|launch| launch.stable.clone()),
        ready_pods: launch.map_or(0, |launch| ready(&launch.revision)),
        draining,
        questions,
    };
    ctx.sampler.watch(key.clone(), watch);
}

/// The questions of the stage's gates and of all triggers that mean anything now.
fn questions(plan: &Plan, launch: &Launch) -> BTreeMap<CheckName, Question> {
    let (stage, phase) = (launch.stage, launch.phase);
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
    let triggers = launch::judged(plan, phase).filter_map(|trigger| match &trigger.check {
        TriggerCheck::Metric(question) => Some((CheckName::Trigger(trigger.name.clone()), (**question).clone())),
        TriggerCheck::Restarts(..) | TriggerCheck::Condition(_) => None,
    });
    gates.chain(triggers).collect()
}
