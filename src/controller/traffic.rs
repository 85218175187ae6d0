//! Moves the traffic: the agent's HTTPRoute and the agent's Service, each in one guarded write that carries its reason.
//!
//! On the way up the agent is read afresh first, a decision that is written on the object stands, and the object's own
//! version proves that it was read afresh too. On the way down neither waits for the other, nothing is asked that the
//! write itself does not need, and a write that loses a race is made again at once. What a leader with a higher epoch
//! wrote is left alone, always.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use super::context::{Context, Key};
use super::leader::Leadership;
use super::live::{self, Live};
use super::people::made_at;
use super::perform::FIELD_MANAGER;
use super::prepare::Prepared;
use super::reconcile::key;
use super::services::{self, same_service};
use super::{Error, adopted, endpoints, guard, revisions};
use crate::api::{AGENT_LABEL, AgentDeployment, Outcome, Phase, State, annotations};
use crate::children::{self, Owner};
use crate::launch::promises::Rise;
use crate::launch::{Decision, Observation, Programmed, Route, Shares, Step};
use crate::revision::Revision;
use crate::traffic::{self, HTTPRoute, Mark, PodSplit};

/// A write that takes traffic away loses so many races in one pass: somebody writes the same object all the time.
pub(super) const RACES: u32 = 5;

/// Gives the traffic to whom the core wants it to be given.
pub(crate) async fn traffic(
    ctx: &Context,
    agent: &AgentDeployment,
    prepared: &Prepared,
    seen: &Observation,
    step: &Step,
    live: &Live,
) -> Result<(), Error> {
    let Some(owner) = Owner::of(agent) else { return Ok(()) };
    let on_route = match agent.spec.adopted_route() {
        Some(name) => adopted(ctx, agent, &owner, name, seen, step).await,
        None => route(ctx, agent, &owner, seen, step, live).await,
    };
    let on_service = service(ctx, agent, &owner, prepared, seen, step, live).await;
    on_route.and(on_service)
}

/// A user's route; one that Sluice made before goes once the gateway has taken the user's.
async fn adopted(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    name: &str,
    seen: &Observation,
    step: &Step,
) -> Result<(), Error> {
    adopted::route(ctx, agent, name, seen, step).await?;
    let key = key(agent);
    let own = ctx.caches.route(&key.0, &key.1).filter(|made| name != key.1 && owner.controls(made));
    let Some(made) = own else { return Ok(()) };
    let users = ctx.caches.route(&key.0, name).map(|users| traffic::read_adopted(&users, &key.1));
    match users {
        Some(Route::Seen { programmed: Programmed::Yes, .. }) => remove(ctx, &key, &made).await,
        _ => narrow(ctx, &key, step, &made).await,
    }
}

/// A route that Sluice made serves until the user's is there; what its launch may not have any more falls all the same.
async fn narrow(ctx: &Context, key: &Key, step: &Step, made: &HTTPRoute) -> Result<(), Error> {
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    let allowed = step.state.running().map_or(0, |launch| launch.weight);
    if traffic::canary_share(made, &key.1, stable) <= allowed {
        return Ok(());
    }
    let Some(live) = live::route(ctx, key, &key.1).await? else { return Ok(()) };
    fence(&ctx.calls.leadership, format!("HTTPRoute {}", key.1), live.annotations())?;
    let edited = traffic::with_shares(&live, &key.1, &Shares::AtRest, &mark(ctx, step));
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    replace(ctx, &api, &key.1, &edited).await
}

/// Writes a route whole, upon the version that was read.
pub(super) async fn replace(ctx: &Context, api: &Api<HTTPRoute>, name: &str, edited: &HTTPRoute) -> Result<(), Error> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    ctx.calls.write("update", "HTTPRoute", name, api.replace(name, &params, edited)).await.map(drop)
}

/// Refuses to write over a leader with a higher epoch. The admission policy does the same for who does not ask.
pub(super) fn fence(leadership: &Leadership, what: String, found: &BTreeMap<String, String>) -> Result<(), Error> {
    let (theirs, ours) = (traffic::epoch(found).unwrap_or_default(), leadership.epoch());
    if theirs <= ours {
        return Ok(());
    }
    leadership.heard_of(theirs); // if we lead all the same, our epoch rises above it with the next renewal
    Err(Error::Fenced { what, theirs, ours })
}

/// What is written together with a weight.
pub(super) fn mark<'a>(ctx: &Context, step: &'a Step) -> Mark<'a> {
    let running = step.state.running();
    let decision = step.wanted.decision.as_ref();
    let launch = running.map(|launch| launch.id.as_str()).or(decision.map(|decision| decision.launch.as_str()));
    Mark { epoch: ctx.calls.leadership.epoch(), launch, decision }
}

/// The decision that an object carries, if it is about this agent: a former one of the same name may have left one on a route
/// that was not its own. One whose time cannot be read counts.
pub(super) fn written(agent: &AgentDeployment, found: &BTreeMap<String, String>) -> Option<Decision> {
    traffic::decision(found).filter(|decision| decision.at >= made_at(agent) || decision.at == Timestamp::UNIX_EPOCH)
}

/// Whether an object lacks a mark that stands in the way of a rise which has left its operator and not arrived: the version
/// that guards that rise is old with the next write.
///
/// A launch that is taken back marks route and Service even where its weight is 0 already. Who comes to lead marks those of a
/// launch that goes forward, before it judges the launch any further. And a success takes its launch's name from both: a fall
/// that was decided before it, and arrives when the former pods go, conflicts.
pub(super) fn lacks_mark(agent: &AgentDeployment, state: &State, found: &BTreeMap<String, String>, epoch: i64) -> bool {
    let Some(launch) = &state.launch else { return false };
    let untold = || written(agent, found).is_none_or(|written| written.launch != launch.id);
    match launch.phase {
        Phase::RollingBack => untold(),
        // a fall that arrived a moment ago is to be seen and obeyed, and not written over
        Phase::Progressing | Phase::Promoting => traffic::epoch(found).is_some_and(|theirs| theirs < epoch) && untold(),
        Phase::Complete if launch.outcome == Some(Outcome::Succeeded) => {
            found.get(annotations::LAUNCH) == Some(&launch.id) && untold()
        }
        Phase::Soaking | Phase::Complete => false,
    }
}

/// The HTTPRoute: as it was handed on, or read now if it is not as it should be.
async fn route(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    seen: &Observation,
    step: &Step,
    live: &Live,
) -> Result<(), Error> {
    let key = key(agent);
    let gateway = agent.spec.gateway();
    let known = live.route.is_some() || ctx.caches.route(&key.0, &key.1).is_some();
    if ctx.caches.routes.is_none() || (gateway.is_none() && !known) {
        return Ok(()); // `observe` tells when a route is asked for that cannot be
    }
    let right = |cached: &HTTPRoute| {
        let Some((gateway, shares)) = gateway.zip(step.wanted.shares.as_ref()) else { return false };
        let based = traffic::with_base(cached, gateway);
        owner.controls(cached) && reshared(based, &key.1, shares, &mark(ctx, step)).spec == cached.spec
    };
    let epoch = ctx.calls.leadership.epoch();
    let mut found = match &live.route {
        Some(cached)
            if !live.fresh && right(cached) && !lacks_mark(agent, &step.state, cached.annotations(), epoch) =>
        {
            return Ok(());
        }
        _ if live.fresh => live.route.clone(),
        _ => live::route(ctx, &key, &key.1).await?,
    };
    for _ in 0..RACES {
        match write_route(ctx, agent, owner, seen, step, found).await {
            Err(error) if step.wanted.falling && error.reason() == "Conflict" => {
                found = live::route(ctx, &key, &key.1).await?;
            }
            done => return done,
        }
    }
    Err(Error::Stale(format!("HTTPRoute {}", key.1)))
}

/// Writes the HTTPRoute: created at rest, then edited in place, and removed when the spec asks for none and nobody is split.
async fn write_route(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    seen: &Observation,
    step: &Step,
    found: Option<HTTPRoute>,
) -> Result<(), Error> {
    let key = key(agent);
    let gateway = agent.spec.gateway();
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    let name = key.1.as_str();
    let (live, gateway) = match (found, gateway) {
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
    let ours = owner.controls(&live);
    let lost = !ours && is_sluices(&live, found.as_ref());
    let falls = lost && step.wanted.falling;
    if !(ours || falls) {
        // only a fall touches a route that lost its owner; a user's that has the agent's name is in nobody's way but a gateway's
        return if lost || gateway.is_some() { Err(Error::Taken(format!("HTTPRoute {name}"))) } else { Ok(()) };
    }
    if !step.wanted.falling && found != shares_of(&seen.route) && found.as_ref() != Some(shares) {
        return Err(Error::Stale(format!("HTTPRoute {name}"))); // somebody else wrote: that is to be seen, and judged
    }
    let at_rest = found == Some(Shares::AtRest);
    if ours && gateway.is_none() && at_rest && *shares == Shares::AtRest {
        fence(&ctx.calls.leadership, format!("HTTPRoute {name}"), live.annotations())?;
        return remove(ctx, &key, &live).await;
    }
    let based = gateway.filter(|_| ours).map_or_else(|| live.clone(), |gateway| traffic::with_base(&live, gateway));
    let marks = mark(ctx, step);
    let unmarked = lacks_mark(agent, &step.state, live.annotations(), marks.epoch);
    let edited = if unmarked {
        traffic::with_shares(&based, name, shares, &marks)
    } else {
        reshared(based, name, shares, &marks)
    };
    if edited.spec == live.spec && !unmarked {
        return Ok(());
    }
    fence(&ctx.calls.leadership, format!("HTTPRoute {name}"), live.annotations())?;
    let rise = rises(&live, &edited, name, step, found.as_ref());
    endpoints::known(ctx, &key, seen, step, found.as_ref(), rise.is_some()).await?;
    if let Some(rise) = rise {
        may_rise(ctx, agent, step, rise, written(agent, live.annotations()).as_ref()).await?;
    }
    replace(ctx, &api, name, &edited).await
}

/// Whether Sluice made a route, by what is in it: shares of two revisions, or Sluice's mark. One that only has the agent's name
/// is its user's.
pub(super) fn is_sluices(route: &HTTPRoute, shares: Option<&Shares>) -> bool {
    let split = matches!(shares, Some(Shares::Split { .. } | Shares::Matched { .. }));
    split || shares == Some(&Shares::AtRest) && traffic::epoch(route.annotations()).is_some()
}

/// Who gets more by an edit, if a revision that is not stable does, and its new share in percent.
pub(super) fn rises<'a>(
    live: &HTTPRoute,
    edited: &HTTPRoute,
    agent: &str,
    step: &'a Step,
    found: Option<&Shares>,
) -> Option<(&'a str, i32)> {
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    let share = |route: &HTTPRoute| traffic::canary_share(route, agent, stable);
    let matched = |shares: Option<&Shares>| matches!(shares, Some(Shares::Matched { .. }));
    let widened = matched(found) && step.wanted.shares.as_ref() != found && share(edited) > 0 && !step.wanted.falling;
    let canary = match &step.wanted.shares {
        Some(Shares::Split { canary, .. } | Shares::Matched { canary, .. }) => canary.as_str(),
        Some(Shares::AtRest | Shares::Foreign(_)) | None => "",
    };
    (share(edited) > share(live) || widened).then(|| (canary, share(edited)))
}

pub(super) fn shares_of(route: &Route) -> Option<Shares> {
    match route {
        Route::Seen { shares, .. } => Some(shares.clone()),
        Route::NotUsed | Route::Missing | Route::Unusable(_) | Route::Unshared(_) => None,
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
pub(super) async fn may_rise(
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

/// The agent's Service: as it was handed on, or read now if it is not as it should be.
async fn service(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    prepared: &Prepared,
    seen: &Observation,
    step: &Step,
    live: &Live,
) -> Result<(), Error> {
    let key = key(agent);
    let split = seen.by_pods.as_ref().and_then(|_| PodSplit::of(&step.wanted));
    let launching = step.state.running().is_some();
    let revision = match step.wanted.service.as_deref() {
        Some(hash) => revisions::stored(ctx, &key, agent, prepared, hash).await.map(Some),
        None => Ok(None),
    };
    let same_split = |live: &Service| traffic::split_of(live) == split;
    let right = |live: &Service| match &revision {
        Ok(revision) => {
            same_service(live, &built(owner, revision.as_deref(), split.as_ref(), [].into())) && same_split(live)
        }
        Err(_) => split.is_some() && same_split(live) || children::selected_revision(live) == step.wanted.service,
    };
    let unmarked = |live: &Service| lacks_mark(agent, &step.state, live.annotations(), ctx.calls.leadership.epoch());
    let mut found = match &live.service {
        Some(cached) if !live.fresh && !launching && owner.controls(cached) && right(cached) && !unmarked(cached) => {
            return Ok(());
        }
        Some(read) if live.fresh => Some(read.clone()),
        _ => live::service(ctx, &key).await?, // no version guards a Service that is made: that it is absent is read last
    };
    for _ in 0..RACES {
        let marked = |live: &Service| traffic::epoch(live.annotations()).is_some();
        let serves =
            |live: &Service| children::selected_revision(live).is_some() || traffic::selects_all(live) && marked(live);
        let falls = |live: &Service| step.wanted.falling && serves(live);
        if found.as_ref().is_some_and(|live| !owner.controls(live) && !falls(live)) {
            return Err(Error::Taken(format!("Service {}", key.1))); // even one that is right: no watch tells when it changes
        }
        if found.as_ref().is_some_and(|live| right(live) && !unmarked(live)) {
            return Ok(());
        }
        if revision.is_err() && (found.is_none() || split.is_some()) {
            break;
        }
        match write_service(ctx, agent, owner, step, found.as_ref(), &revision, split.as_ref()).await {
            Err(error) if step.wanted.falling && error.reason() == "Conflict" => {
                found = live::service(ctx, &key).await?;
            }
            done => return done,
        }
    }
    Err(revision.err().unwrap_or_else(|| Error::Stale(format!("Service {}", key.1))))
}

/// The agent's Service as it should be.
fn built(
    owner: &Owner,
    revision: Option<&Revision>,
    split: Option<&PodSplit>,
    marks: BTreeMap<String, String>,
) -> Service {
    let service = children::agent_service(owner, revision, marks);
    match split {
        Some(split) => traffic::splitting(service, &owner.name, split),
        None => service,
    }
}

/// Pods make a share only as long as nobody changes their number: it is read afresh before the Service selects them.
async fn may_split(ctx: &Context, key: &Key, split: &PodSplit) -> Result<(), Error> {
    let api = Api::<Deployment>::namespaced(ctx.client.clone(), &key.0);
    let mine = ListParams::default().labels(&format!("{AGENT_LABEL}={}", key.1));
    let all = ctx.calls.read("Deployment", &key.1, api.list(&mine)).await?;
    if split.fits(&all.items) { Ok(()) } else { Err(Error::Stale(format!("Deployments of {}", key.1))) }
}

/// Writes the agent's Service: it selects the stable revision, both while pods make a share, and moves when the canary has all
/// the traffic.
async fn write_service(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    step: &Step,
    live: Option<&Service>,
    revision: &Result<Option<Arc<Revision>>, Error>,
    split: Option<&PodSplit>,
) -> Result<(), Error> {
    let key = key(agent);
    let name = key.1.as_str();
    let found = live.map(|service| service.annotations().clone()).unwrap_or_default();
    fence(&ctx.calls.leadership, format!("Service {name}"), &found)?;
    let written = written(agent, &found);
    let stable = step.state.stable.as_ref().map(|stable| &stable.revision);
    let selected = live.and_then(children::selected_revision);
    let launch = step.state.launch.as_ref();
    // a fall that arrived unseen stands, also where the status already tells of a success: there is a former stable to go back to
    let fell = |wanted: &String| {
        let of = written.as_ref().map(|decision| &decision.launch);
        let canary = launch.filter(|launch| launch.revision == *wanted && launch.stable.is_some());
        canary.is_some_and(|launch| of == Some(&launch.id))
    };
    let moves = |wanted: &&String| selected.as_ref() != Some(*wanted) && (Some(*wanted) != stable || fell(wanted));
    if let Some(canary) = step.wanted.service.as_ref().filter(moves) {
        may_rise(ctx, agent, step, (canary, 100), written.as_ref()).await?;
    }
    let shared = live.and_then(traffic::split_of);
    if let Some(split) = split.filter(|split| !shared.is_some_and(|shared| split.is_within(&shared))) {
        may_split(ctx, &key, split).await?;
        may_rise(ctx, agent, step, (&split.canary, split.weight), written.as_ref()).await?;
    }
    let version = live.and_then(|live| live.metadata.resource_version.clone());
    let marks = mark(ctx, step).annotations();
    let mut service = match revision {
        Ok(revision) => built(owner, revision.as_deref(), split, marks),
        // Stable's stored contents cannot be read: its pods are there all the same, and the Service is turned to them.
        Err(_) => children::turned(owner, live, step.wanted.service.as_deref(), marks),
    };
    service.metadata.resource_version = version;
    services::apply(ctx, &key, live, service).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::annotations;

    #[test]
    fn a_leader_below_the_epoch_on_an_object_refuses_its_own_write_and_asks_for_a_higher_epoch() {
        let leadership = Leadership::under(4);
        let written = |epoch: &str| BTreeMap::from([(annotations::EPOCH.to_owned(), epoch.to_owned())]);
        for fine in ["", "3", "4", "junk"] {
            assert!(fence(&leadership, "HTTPRoute a".to_owned(), &written(fine)).is_ok(), "{fine}");
        }
        assert_eq!(leadership.found(), 0);
        let refused = fence(&leadership, "HTTPRoute a".to_owned(), &written("7")).unwrap_err();
        assert!(matches!(refused, Error::Fenced { theirs: 7, ours: 4, .. }), "{refused}");
        assert_eq!(leadership.found(), 7);
    }

    #[test]
    fn a_route_that_only_has_the_agents_name_is_its_users() {
        let epoch = json!({"annotations": {"sluice.dev/epoch": "3"}});
        let to = |backends: &[&str]| {
            let refs: Vec<_> =
                backends.iter().map(|name| json!({"name": name, "port": 80, "weight": 100 / backends.len()})).collect();
            json!({"rules": [{"backendRefs": refs}]})
        };
        let (rest, split) = (to(&["a"]), to(&["a-0123456789", "a-abcdef0123"]));
        for (metadata, spec, ours) in [
            (json!({}), &rest, false),
            (epoch.clone(), &rest, true),
            (json!({}), &split, true),
            (epoch, &to(&["other"]), false),
            (json!({}), &to(&["a", "other"]), false),
        ] {
            let route = json!({"apiVersion": "v", "kind": "k", "metadata": metadata, "spec": spec});
            let route: HTTPRoute = serde_json::from_value(route).unwrap();
            let shares = shares_of(&traffic::read(&route, "a"));
            assert_eq!(is_sluices(&route, shares.as_ref()), ours, "{shares:?} {route:?}");
        }
    }

    fn agent(made: &str) -> AgentDeployment {
        let metadata = json!({"name": "a", "namespace": "n", "creationTimestamp": made});
        let spec = json!({"template": {"spec": {"containers": [{"name": "a", "image": "a"}]}}});
        serde_json::from_value(json!({"apiVersion": "v", "kind": "k", "metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn a_new_leader_marks_what_a_launch_that_goes_forward_has_of_a_former_one_and_every_fall_is_marked() {
        let mut agent = agent("2026-11-21T01:00:00Z");
        let state = |phase: &str| -> State {
            let at = "2026-11-21T02:00:00Z";
            let launch = json!({
                "number": 2, "id": "a-2", "revision": "b", "planHash": "p", "phase": phase, "stage": 0, "stageName": "half",
                "stages": 1, "weight": 50, "stableSize": 2, "startedAt": at, "enteredAt": at,
            });
            serde_json::from_value(json!({"launch": launch})).unwrap()
        };
        let written = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let (none, former) = (written(&[]), written(&[(annotations::EPOCH, "4")]));
        let decided = |launch: &str| {
            let about = [(annotations::LAUNCH, launch), (annotations::REVISION, "b"), (annotations::EPOCH, "4")];
            written(&[&about[..], &[(annotations::DECISION, "RolledBack")]].concat())
        };
        for phase in ["Progressing", "Promoting"] {
            assert!(lacks_mark(&agent, &state(phase), &former, 5), "{phase}");
            assert!(!lacks_mark(&agent, &state(phase), &former, 4), "{phase}: it is ours");
            assert!(!lacks_mark(&agent, &state(phase), &none, 5), "{phase}: nobody wrote it");
            assert!(!lacks_mark(&agent, &state(phase), &decided("a-2"), 5), "{phase}: it was taken back");
        }
        for phase in ["Soaking", "Complete"] {
            assert!(!lacks_mark(&agent, &state(phase), &former, 5), "{phase}");
        }
        let (mut succeeded, named) = (state("Complete"), written(&[(annotations::LAUNCH, "a-2")]));
        assert!(!lacks_mark(&agent, &succeeded, &named, 4), "it did not succeed");
        succeeded.launch.as_mut().unwrap().outcome = Some(Outcome::Succeeded);
        assert!(lacks_mark(&agent, &succeeded, &named, 4) && !lacks_mark(&agent, &succeeded, &none, 4));
        assert!(!lacks_mark(&agent, &succeeded, &decided("a-2"), 5), "a fall arrived: it is obeyed");
        assert!(lacks_mark(&agent, &state("RollingBack"), &former, 4));
        assert!(lacks_mark(&agent, &state("RollingBack"), &decided("a-1"), 4));
        assert!(!lacks_mark(&agent, &state("RollingBack"), &decided("a-2"), 4));
        let mut former = decided("a-2");
        former.insert(annotations::DECIDED_AT.to_owned(), "2026-11-21T02:00:00Z".to_owned());
        assert!(!lacks_mark(&agent, &state("RollingBack"), &former, 4));
        agent = self::agent("2026-11-21T03:00:00Z");
        assert!(lacks_mark(&agent, &state("RollingBack"), &former, 4), "it was about a former agent of the same name");
        assert!(!lacks_mark(&agent, &state("RollingBack"), &decided("a-2"), 4), "nobody knows when");
    }
}
