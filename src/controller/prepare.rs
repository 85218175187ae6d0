//! What the spec asks for: the plan, and the revision. A new revision is tried as a Deployment before anything else, so
//! that a typo in its template becomes a condition at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::caches::dynamic;
use super::context::{Context, Key};
use super::perform::FIELD_MANAGER;
use super::plans::Judge;
use super::{Error, plans, revisions};
use crate::api::{AgentDeployment, clip};
use crate::children::{self, Owner};
use crate::launch::{Plan, WantedRevision};
use crate::revision::{self, Revision};
use crate::traffic::HTTPRoute;

/// A refused template is tried again after so long: quota and admission policies change without telling us.
const RETRY: SignedDuration = SignedDuration::from_mins(1);
/// All requests of a preparation together: a rollback does not wait longer for a slow webhook.
const LIMIT: Duration = Duration::from_secs(3);
/// Why an agent waits that was deleted and applied again at once.
const FORMER: &str = "FormerAgent";
/// What could not be read, or is about to be deleted, is read again after so long.
const UNREADABLE: SignedDuration = SignedDuration::from_secs(3);

/// What the spec asks for.
#[derive(Clone)]
pub(crate) struct Prepared {
    inputs: Inputs,
    /// The plan that judges it.
    pub(crate) plan: Plan,
    /// That plan as it is written, and the freeze windows.
    pub(crate) judge: Judge,
    /// The revision, or why there is none.
    pub(crate) wanted: WantedRevision,
    /// The revision itself, when it is known.
    pub(crate) revision: Option<Arc<Revision>>,
    /// When to try a refused template again.
    pub(crate) retry_at: Option<Timestamp>,
}

/// What it was computed from: the same inputs need no second computation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inputs {
    uid: Option<String>,
    generation: Option<i64>,
    /// Versions of the ConfigMaps; `None` for one that does not exist.
    config_maps: BTreeMap<String, Option<String>>,
    /// Version of the LaunchPlan; `None` when none is named or it does not exist.
    plan: Option<String>,
}

/// Computes the plan and the wanted revision, or returns those of the last pass when nothing they depend on has changed.
///
/// It cannot fail: what cannot be read makes the wanted revision unknown, which holds the launch and no rollback.
pub(crate) async fn prepare(ctx: &Context, key: &Key, agent: &AgentDeployment) -> Arc<Prepared> {
    let prepared = prepared(ctx, key, agent).await;
    plans::in_force(ctx, key, agent, prepared).await
}

async fn prepared(ctx: &Context, key: &Key, agent: &AgentDeployment) -> Arc<Prepared> {
    let inputs = inputs(ctx, key, agent);
    let last = ctx.remember(key, |memory| memory.prepared.clone());
    if let Some(last) = last.filter(|last| last.inputs == inputs && last.retry_at.is_none_or(|at| ctx.now() < at)) {
        return last;
    }
    let limit = || Error::Slow { verb: "prepare", what: format!("revision of {}", key.1), limit: LIMIT };
    let computed = tokio::time::timeout(LIMIT, compute(ctx, key, agent, &inputs)).await;
    let fresh = match computed.unwrap_or_else(|_| Err(limit())) {
        Ok(fresh) => fresh,
        Err(error) => {
            if !ctx.ends(key, &error) {
                let cause = error.cause().unwrap_or_default();
                tracing::warn!(namespace = key.0, agent = key.1, %error, cause, "the wanted revision cannot be known");
            }
            unreadable(ctx, agent, inputs, &error)
        }
    };
    let prepared = Arc::new(fresh);
    ctx.remember(key, |memory| memory.prepared = Some(prepared.clone()));
    prepared
}

/// Nothing is known of the wanted revision for a moment.
fn unreadable(ctx: &Context, agent: &AgentDeployment, inputs: Inputs, error: &Error) -> Prepared {
    let message = clip(&format!("{error}: {}; it is tried again", error.cause().unwrap_or_default()), 512);
    let wanted = WantedRevision::Unknown { reason: "Unreadable".to_owned(), message };
    let retry_at = Some(ctx.now() + UNREADABLE);
    let (plan, judge, _) = plans::judge(ctx, &agent.spec);
    Prepared { inputs, plan, judge, wanted, revision: None, retry_at }
}

async fn compute(ctx: &Context, key: &Key, agent: &AgentDeployment, inputs: &Inputs) -> Result<Prepared, Error> {
    let contents = read_config_maps(ctx, key, inputs).await?;
    let (plan, judge, problem) = plans::judge(ctx, &agent.spec);
    let (wanted, revision) = match (problem, Revision::of(&key.1, &agent.spec, &contents)) {
        (Some((reason, message)), Ok(revision)) => {
            // nothing is launched without a plan; what it would be is known, and may take a running launch back
            let wanted = WantedRevision::Refused { revision: revision.hash.clone(), reason, message };
            (wanted, Some(Arc::new(revision)))
        }
        (Some((reason, message)), Err(_)) => (WantedRevision::Unknown { reason, message }, None),
        (None, Err(error)) => {
            let (reason, message) = (error.reason().to_owned(), clip(&error.to_string(), 512));
            (WantedRevision::Unknown { reason, message }, None)
        }
        (None, Ok(revision)) => {
            let revision = Arc::new(revision);
            let wanted = match names_taken(ctx, key, agent, &revision).await? {
                Some(taken) => taken,
                None => try_out(ctx, key, agent, &revision).await?,
            };
            (wanted, Some(revision))
        }
    };
    let again = match &wanted {
        WantedRevision::Known(_) => None,
        WantedRevision::Refused { reason, .. } | WantedRevision::Unknown { reason, .. } => match reason.as_str() {
            "TemplateInvalid" | "NameTaken" => Some(RETRY),
            FORMER => Some(UNREADABLE),
            _ => None, // what else is unknown is watched
        },
    };
    let retry_at = again.map(|wait| ctx.now() + wait);
    Ok(Prepared { inputs: inputs.clone(), plan, judge, wanted, revision, retry_at })
}

fn inputs(ctx: &Context, key: &Key, agent: &AgentDeployment) -> Inputs {
    let version = |name: &String| {
        let reference = ObjectRef::new(name).within(&key.0);
        ctx.caches.config_maps.get(&reference).and_then(|config_map| config_map.resource_version())
    };
    let names = revision::config_maps(&agent.spec).unwrap_or_default();
    Inputs {
        uid: agent.uid(),
        generation: agent.metadata.generation,
        config_maps: names.into_iter().map(|name| (name.clone(), version(&name))).collect(),
        plan: plans::version(ctx, &agent.spec),
    }
}

async fn read_config_maps(ctx: &Context, key: &Key, inputs: &Inputs) -> Result<BTreeMap<String, ConfigMap>, Error> {
    let api = Api::<ConfigMap>::namespaced(ctx.client.clone(), &key.0);
    let mut contents = BTreeMap::new();
    for name in inputs.config_maps.keys() {
        let found = ctx.calls.read("ConfigMap", name, api.get_opt(name)).await?;
        contents.extend(found.map(|config_map| (name.clone(), config_map)));
    }
    Ok(contents)
}

/// Before the first launch: objects of the agent's name that are not Sluice's are never taken over.
async fn names_taken(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    revision: &Revision,
) -> Result<Option<WantedRevision>, Error> {
    let begun = agent.status.as_ref().is_some_and(|status| status.state.launch.is_some());
    let Some(owner) = Owner::of(agent).filter(|_| !begun) else { return Ok(None) };
    let (namespace, name) = (&key.0, &key.1);
    let services = Api::<Service>::namespaced(ctx.client.clone(), namespace);
    let accounts = Api::<ServiceAccount>::namespaced(ctx.client.clone(), namespace);
    let service = ctx.calls.read("Service", name, services.get_opt(name)).await?;
    let account = ctx.calls.read("ServiceAccount", name, accounts.get_opt(name)).await?;
    let account = account.filter(|_| !revision.names_account());
    let mut taken = Vec::new();
    taken.extend(service.filter(|it| !owner.controls(it)).map(|it| ("Service", owner.follows(&it))));
    taken.extend(account.filter(|it| !owner.controls(it)).map(|it| ("ServiceAccount", owner.follows(&it))));
    if ctx.caches.routes.is_some() && agent.spec.gateway().is_some() {
        let routes = Api::<HTTPRoute>::namespaced(ctx.client.clone(), namespace);
        let route = ctx.calls.read("HTTPRoute", name, routes.get_opt(name)).await?;
        taken.extend(route.filter(|it| !owner.controls(it)).map(|it| ("HTTPRoute", owner.follows(&it))));
    }
    if taken.is_empty() {
        return Ok(None);
    }
    let kinds: Vec<_> = taken.iter().map(|(kind, _)| *kind).collect();
    let what = format!("{} {name}", kinds.join(", "));
    let (reason, message) = if taken.iter().all(|(_, leaves)| *leaves) {
        (FORMER, format!("{what} of a former agent of this name is being deleted: it goes on when that is gone"))
    } else {
        ("NameTaken", Error::Taken(what).to_string())
    };
    Ok(Some(WantedRevision::Unknown { reason: reason.to_owned(), message }))
}

/// Asks the API server whether it would take the revision's Deployment. One that runs already was taken.
async fn try_out(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    revision: &Arc<Revision>,
) -> Result<WantedRevision, Error> {
    let known = WantedRevision::Known(revision.hash.clone());
    let Some(owner) = Owner::of(agent) else { return Ok(known) };
    let runs = ctx.caches.deployments_of(&owner).iter().any(|(hash, _)| *hash == revision.hash);
    if runs && revisions::is_stored(ctx, key, agent, revision).await? {
        return Ok(known);
    }
    let api = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), &key.0, &dynamic::<Deployment>());
    let trial = children::deployment(&owner, revision, 0);
    let strict = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER).force().validation_strict() };
    let (name, trial) = (revision.name(), Patch::Apply(&trial));
    match ctx.calls.write("dry-run", "Deployment", &name, api.patch(&name, &strict, &trial)).await {
        Ok(_) => Ok(known),
        Err(error) if error.namespace_ends() => Err(error), // no fault of the template
        Err(Error::Api { source, .. }) => match *source {
            kube::Error::Api(status) if [400, 403, 422, 500].contains(&status.code) => {
                let message = clip(&format!("Kubernetes refuses the template: {}", status.message), 512);
                let reason = "TemplateInvalid".to_owned();
                Ok(WantedRevision::Refused { revision: revision.hash.clone(), reason, message })
            }
            other => {
                let what = format!("Deployment {}", revision.name());
                Err(Error::Api { verb: "dry-run", what, source: Box::new(other) })
            }
        },
        Err(error) => Err(error),
    }
}
