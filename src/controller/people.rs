//! People's decisions: read for the core, and answered on their own status once the agent's status remembers the answer.
//! A crash between the two writes is harmless: the next pass finds the answer remembered, and writes it.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::Error;
use super::caches::{WatchedAgent, WatchedDecision};
use super::context::{Context, Key};
use crate::api::{AgentDeployment, Answer, DecisionState, LaunchDecision, State, clip};
use crate::launch::{Given, People};

/// So many unanswered decisions are read in one pass; the others wait for the next.
const AT_ONCE: usize = 32;

/// The agent that a decision is about.
pub(crate) fn agent_of(decision: &WatchedDecision) -> Option<ObjectRef<WatchedAgent>> {
    let known = decision.0.as_ref().ok()?;
    Some(ObjectRef::new(&known.spec.agent).within(&known.namespace()?))
}

/// The decisions that wait for an answer, each as the API server holds it now: a watch may be behind, and an answer that
/// is read back is forgotten. What cannot be read is neither obeyed nor forgotten in this pass.
pub(crate) async fn observe(ctx: &Context, key: &Key, agent: &AgentDeployment, state: &State) -> People {
    let mut people = People { agent_made_at: made_at(agent), ..People::default() };
    let waiting = ctx.caches.decisions_of(&key.0, &key.1);
    let remembered = state.answers.iter().map(|answer| answer.name.clone());
    let names: BTreeSet<String> = remembered.chain(waiting).collect();
    for name in names {
        let uid_of = |answer: &Answer| (answer.name == name).then(|| answer.uid.clone());
        let remembered: Vec<String> = state.answers.iter().filter_map(uid_of).collect();
        match open(ctx, key, &name).await {
            Err(error) => {
                people.unread = true;
                let cause = error.cause().unwrap_or_default();
                tracing::warn!(namespace = key.0, agent = key.1, decision = name, %error, cause, "not heard yet");
            }
            Ok(open) => {
                let live = open.as_ref().and_then(LaunchDecision::uid);
                people.settled.extend(remembered.into_iter().filter(|uid| live.as_ref() != Some(uid)));
                people.given.extend(open.and_then(given));
            }
        }
    }
    people
}

/// A decision about the agent as the API server holds it now, if nobody has answered it.
async fn open(ctx: &Context, key: &Key, name: &str) -> Result<Option<LaunchDecision>, Error> {
    let api = Api::<LaunchDecision>::namespaced(ctx.client.clone(), &key.0);
    let found = ctx.calls.read("LaunchDecision", name, api.get_opt(name)).await?;
    Ok(found.filter(|decision| !answered(decision) && decision.spec.agent == key.1))
}

fn answered(decision: &LaunchDecision) -> bool {
    decision.status.as_ref().is_some_and(|status| status.state != DecisionState::Pending)
}

/// When an object was created; long ago where nobody can say.
pub(super) fn made_at(object: &impl ResourceExt) -> Timestamp {
    object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn given(decision: LaunchDecision) -> Option<Given> {
    let (uid, name, made_at) = (decision.uid()?, decision.name_any(), made_at(&decision));
    let spec = decision.spec;
    let (revision, gates) = (spec.revision, spec.gates);
    Some(Given { uid, name, made_at, verb: spec.verb, by: spec.by, reason: spec.reason, revision, gates })
}

/// Writes the answers that the agent's status remembers on decisions that lack them.
pub(crate) async fn answer(ctx: &Context, key: &Key, people: &People, state: &State) -> Result<(), Error> {
    for answer in &state.answers {
        if people.given.iter().any(|given| given.uid == answer.uid) {
            write(ctx, key, answer).await?;
        }
    }
    Ok(())
}

async fn write(ctx: &Context, key: &Key, answer: &Answer) -> Result<(), Error> {
    let api = Api::<LaunchDecision>::namespaced(ctx.client.clone(), &key.0);
    let params = PatchParams::apply("sluice-status").force();
    let body = json!({
        "apiVersion": LaunchDecision::api_version(&()),
        "kind": LaunchDecision::kind(&()),
        "metadata": {"name": answer.name, "uid": answer.uid}, // not another one of the same name
        "status": {"state": answer.state, "reason": answer.reason, "at": answer.at},
    });
    let write = async { api.patch_status(&answer.name, &params, &Patch::Apply(&body)).await };
    match ctx.calls.write("patch", "LaunchDecision/status", &answer.name, write).await {
        Err(error) if ["NotFound", "Conflict"].contains(&error.reason()) => Ok(()), // deleted meanwhile: nobody asks
        other => other.map(drop),
    }
}

/// Answers decisions about an agent that does not exist, for no pass ever will: a name with a slip in it must not look like
/// an abort that is on its way.
pub(super) async fn ignore(ctx: &Context, key: &Key) -> Result<(), Error> {
    for name in ctx.caches.decisions_of(&key.0, &key.1) {
        let Some(uid) = open(ctx, key, &name).await?.and_then(|decision| decision.uid()) else { continue };
        let why = format!("there is no AgentDeployment {} in namespace {}: see spec.agent", key.1, key.0);
        let (state, reason) = (DecisionState::Ignored, clip(&why, 512));
        write(ctx, key, &Answer { uid, name, state, reason, at: ctx.now() }).await?;
    }
    Ok(())
}

/// Names of the waiting decisions of an agent, oldest first, as many as are heard at once.
pub(crate) fn oldest(mut waiting: Vec<(Timestamp, String)>) -> Vec<String> {
    waiting.sort();
    waiting.into_iter().take(AT_ONCE).map(|(_, name)| name).collect()
}

/// What the watch holds of a decision, for [`oldest`].
pub(crate) fn waits(decision: &WatchedDecision, namespace: &str, agent: &str) -> Option<(Timestamp, String)> {
    let known = decision.0.as_ref().ok()?;
    let about = known.spec.agent == agent && known.namespace().as_deref() == Some(namespace);
    (about && !answered(known)).then(|| (made_at(known), known.name_any()))
}
