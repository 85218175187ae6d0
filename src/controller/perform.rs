//! Makes the cluster what the core wants: the only writes to what an agent owns. Each write is idempotent, each object
//! that is right already is left alone.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::caches::dynamic;
use super::context::{Context, Key};
use super::live::Live;
use super::observe::refused;
use super::prepare::Prepared;
use super::reconcile::key;
use super::services::{self, same_service};
use super::unserved::unserved;
use super::{Error, adopted, by_pods, plans, revisions};
use crate::api::{AgentDeployment, annotations};
use crate::children::{self, Owner};
use crate::launch::{Observation, Shares, Step};
use crate::revision::Revision;
use crate::revision::names::revision_name;
use crate::traffic::asked_pods;

pub(crate) use super::traffic::traffic;

/// Field manager of everything that an agent owns whole.
pub(crate) use crate::api::FIELD_MANAGER;

/// A kind of which an agent owns objects.
pub(super) trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

/// Capacity first, then traffic (`None`: it has fallen already), then what is no longer needed.
pub(crate) async fn perform(
    ctx: &Context,
    agent: &AgentDeployment,
    prepared: &Prepared,
    seen: &Observation,
    step: &Step,
    live: Option<&Live>,
) -> Result<(), Error> {
    let key = key(agent);
    let Some(owner) = Owner::of(agent) else { return Ok(()) };
    let mut given = capacity(ctx, agent, prepared, step).await;
    let may_move = given.as_ref().map_or_else(|error| !error.is_about_all() && all_to_stable(step), |()| true);
    if let Some(live) = live.filter(|_| may_move) {
        given = given.and(traffic(ctx, agent, prepared, seen, step, live).await);
    }
    // before pods go: what it could not leave may send to them; and whatever failed above, for a canary may have a share there
    let left = adopted::leave_others(ctx, agent).await;
    let taken = match given {
        Err(error @ Error::Taken(_)) => Err(error), // maybe for ever: what is not needed goes all the same
        other => Ok(other?),
    };
    plans::keep(ctx, &key, &owner, prepared, step.state.launch.as_ref()).await?;
    take_away(ctx, agent, &owner, prepared, step).await?;
    left.and(taken)
}

/// Pods and objects of revisions that are not needed any more go, unless something still sends to them.
async fn take_away(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    prepared: &Prepared,
    step: &Step,
) -> Result<(), Error> {
    let key = key(agent);
    let idle = |hash: &String| !step.wanted.sizes.contains_key(hash);
    let mut first = Ok(());
    for hash in ctx.caches.revisions_of(owner) {
        let old = idle(&hash) && !step.wanted.keep.contains(&hash);
        if old && !goes_on(&mut first, remove(ctx, agent, owner, &hash).await) {
            return first;
        }
    }
    for (hash, deployment) in ctx.caches.deployments_of(owner) {
        let rests = idle(&hash) && step.wanted.keep.contains(&hash) && asked_pods(&deployment) != 0;
        if rests && !goes_on(&mut first, rest(ctx, agent, owner, prepared, &hash, &deployment).await) {
            return first;
        }
    }
    ctx.remember(&key, |memory| memory.revisions.retain(|hash, _| step.wanted.sizes.contains_key(hash)));
    first
}

/// Takes the pods of a revision that stays in the history, unless something sends to them.
async fn rest(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    prepared: &Prepared,
    hash: &str,
    deployment: &Deployment,
) -> Result<(), Error> {
    let key = key(agent);
    unserved(ctx, agent, owner, hash).await?;
    let revision = revisions::stored(ctx, &key, agent, prepared, hash).await?;
    let as_seen = As::Seen(deployment.resource_version());
    apply_deployment(ctx, &key, owner, &revision, 0, as_seen).await
}

/// Keeps the first error of several revisions, and tells whether to go on with the next: what one is refused keeps none of the
/// others. Where the API server does not answer, or we lead no more, there is no use in it.
fn goes_on(first: &mut Result<(), Error>, done: Result<(), Error>) -> bool {
    let Err(error) = done else { return true };
    let goes_on = !error.is_about_all();
    if first.is_ok() {
        *first = Err(error);
    }
    goes_on
}

/// Whether all traffic is to go to stable: that takes no capacity that could be missing. Whatever else is written waits for it.
fn all_to_stable(step: &Step) -> bool {
    let stable = step.state.stable.as_ref().map(|stable| &stable.revision);
    stable.is_some()
        && step.wanted.service.as_ref() == stable
        && matches!(step.wanted.shares, None | Some(Shares::AtRest))
}

/// What is done when a fall could not be written: every revision that should run has its pods, for the fall may wait for them;
/// and routes that the agent shared before are put back, for the canary may have a share there too.
pub(crate) async fn without_traffic(
    ctx: &Context,
    agent: &AgentDeployment,
    prepared: &Prepared,
    step: &Step,
) -> Result<(), Error> {
    let sized = capacity(ctx, agent, prepared, step).await;
    adopted::leave_others(ctx, agent).await.and(sized)
}

/// Every revision that should run has its pods: stable first, and it has them also where a canary cannot be made.
async fn capacity(ctx: &Context, agent: &AgentDeployment, prepared: &Prepared, step: &Step) -> Result<(), Error> {
    let Some(owner) = Owner::of(agent) else { return Ok(()) };
    let mut first = Ok(());
    for (hash, size) in stable_first(step) {
        if !goes_on(&mut first, give(ctx, agent, &owner, prepared, step, (hash, size)).await) {
            break;
        }
    }
    first
}

/// One revision has its pods.
async fn give(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    prepared: &Prepared,
    step: &Step,
    (hash, size): (&str, i32),
) -> Result<(), Error> {
    let key = key(agent);
    let revision = revisions::stored(ctx, &key, agent, prepared, hash).await?;
    by_pods::may_grow(ctx, agent, step, hash, size).await?;
    let launch = step.state.running().filter(|launch| launch.revision == hash).map(|launch| launch.id.as_str());
    run(ctx, &key, owner, &revision, size, launch).await
}

/// The revisions that should run, with their sizes.
fn stable_first(step: &Step) -> Vec<(&str, i32)> {
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    let mut all: Vec<_> = step.wanted.sizes.iter().map(|(hash, size)| (hash.as_str(), *size)).collect();
    all.sort_by_key(|(hash, _)| Some(*hash) != stable);
    all
}

/// How a Deployment is written.
#[derive(Clone, Debug)]
enum As<'a> {
    /// It runs; a canary carries its launch, so that pods that were to go before it was launched again do not go now.
    Running(Option<&'a str>),
    /// It rests, if nobody wrote it since this version.
    Seen(Option<String>),
}

/// The objects of a revision that should run.
async fn run(
    ctx: &Context,
    key: &Key,
    owner: &Owner,
    revision: &Revision,
    size: i32,
    launch: Option<&str>,
) -> Result<(), Error> {
    for frozen in children::frozen_config_maps(owner, revision) {
        let exists = ctx.caches.config_maps.get(&ObjectRef::new(&frozen.name_any()).within(&key.0)).is_some();
        if !exists {
            create::<ConfigMap>(ctx, key, "ConfigMap", &frozen).await?;
        }
    }
    let name = revision.name();
    let service = children::revision_service(owner, revision);
    let found = ctx.caches.services.get(&ObjectRef::new(&name).within(&key.0));
    if !found.as_ref().is_some_and(|found| same_service(found, &service)) {
        services::apply(ctx, key, found.as_deref().filter(|found| owner.controls(*found)), service).await?;
    }
    let live = ctx.caches.deployments.get(&ObjectRef::new(&name).within(&key.0));
    let sized = live.as_ref().and_then(|live| live.spec.as_ref()?.replicas) == Some(size);
    let applied = ctx.remember(key, |memory| memory.applied.get(&revision.hash).copied());
    let untouched = live.as_ref().is_some_and(|live| live.metadata.generation == applied);
    let carried = live.as_ref().and_then(|live| live.annotations().get(annotations::LAUNCH));
    let marked = launch.is_none_or(|launch| carried.is_some_and(|carried| carried == launch));
    let whole = sized && untouched && marked;
    // nothing watches ServiceAccounts: asked for where Kubernetes makes no pods
    let refused = || live.as_ref().is_some_and(|live| refused(live).is_some());
    if whole && !(refused() && found_account(ctx, key).await?.is_none()) {
        return Ok(());
    }
    apply_deployment(ctx, key, owner, revision, size, As::Running(launch)).await
}

/// The ServiceAccount of the agent's name, whosever it is.
async fn found_account(ctx: &Context, key: &Key) -> Result<Option<PartialObjectMeta<ServiceAccount>>, Error> {
    let api = Api::<ServiceAccount>::namespaced(ctx.client.clone(), &key.0);
    ctx.calls.read("ServiceAccount", &key.1, api.get_metadata_opt(&key.1)).await
}

/// The agent's ServiceAccount. One that somebody else made under its name is theirs, and the pods run as it.
async fn account(ctx: &Context, key: &Key, owner: &Owner) -> Result<(), Error> {
    if found_account(ctx, key).await?.is_some_and(|found| !owner.controls(&found)) {
        return Ok(());
    }
    apply::<ServiceAccount>(ctx, key, "ServiceAccount", &children::service_account(owner)).await.map(drop)
}

/// Applies a Deployment with what its pods need, and remembers the generation that this gave it: another one is somebody else's edit.
async fn apply_deployment(
    ctx: &Context,
    key: &Key,
    owner: &Owner,
    revision: &Revision,
    size: i32,
    written: As<'_>,
) -> Result<(), Error> {
    account(ctx, key, owner).await?;
    let budget = children::pod_disruption_budget(owner, revision);
    apply::<PodDisruptionBudget>(ctx, key, "PodDisruptionBudget", &budget).await?;
    let api = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), &key.0, &dynamic::<Deployment>());
    let (name, mut deployment) = (revision.name(), children::deployment(owner, revision, size));
    // a write that is held up, and arrives when another leads, finds another version than this
    deployment.metadata.resource_version = match written {
        As::Running(launch) => {
            let mark = |launch: &str| [(annotations::LAUNCH.to_owned(), launch.to_owned())].into();
            deployment.metadata.annotations = launch.map(mark);
            let found = ctx.calls.read("Deployment", &name, api.get_metadata_opt(&name)).await?;
            found.and_then(|found| found.metadata.resource_version)
        }
        As::Seen(version) => version,
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let write = async { api.patch(&name, &params, &Patch::Apply(&deployment)).await };
    let mut applied = ctx.calls.write("patch", "Deployment", &name, write).await?;
    if edited_by_others(&applied) {
        // an apply leaves fields alone that somebody else added: a variable, a sidecar
        let whole = json!({"op": "replace", "path": "/spec/template", "value": deployment.data["spec"]["template"]});
        applied = edit(ctx, "Deployment", &api, &applied, vec![whole]).await?;
    }
    if let Some(generation) = applied.metadata.generation {
        ctx.remember(key, |memory| memory.applied.insert(revision.hash.clone(), generation));
    }
    Ok(())
}

/// Edits an object by a JSON patch, if nobody wrote it since it was `read`.
pub(super) async fn edit<K>(
    ctx: &Context,
    kind: &'static str,
    api: &Api<K>,
    read: &K,
    edits: Vec<Value>,
) -> Result<K, Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let name = read.name_any();
    let seen = json!({"op": "replace", "path": "/metadata/resourceVersion", "value": read.resource_version()});
    let edits: Value = [seen].into_iter().chain(edits).collect();
    let edits = serde_json::from_value(edits).map_err(|error| Error::Json(format!("{kind} {name}"), error))?;
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let write = async { api.patch(&name, &params, &Patch::<()>::Json(edits)).await };
    ctx.calls.write("patch", kind, &name, write).await
}

/// Whether somebody else owns a field of the pod template.
fn edited_by_others(deployment: &DynamicObject) -> bool {
    let theirs = deployment.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER));
    let mut fields = theirs.filter_map(|entry| entry.fields_v1.as_ref());
    fields.any(|fields| fields.0.pointer("/f:spec/f:template").is_some())
}

/// Server-side apply of an object that we own whole.
pub(super) async fn apply<K: Child>(ctx: &Context, key: &Key, kind: &'static str, object: &K) -> Result<K, Error> {
    let api = Api::<K>::namespaced(ctx.client.clone(), &key.0);
    let name = object.name_any();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let write = async { api.patch(&name, &params, &Patch::Apply(object)).await };
    ctx.calls.write("patch", kind, &name, write).await
}

/// Creates an object that never changes; one that is there already is right.
pub(super) async fn create<K: Child>(ctx: &Context, key: &Key, kind: &'static str, object: &K) -> Result<(), Error> {
    let api = Api::<K>::namespaced(ctx.client.clone(), &key.0);
    let (name, params) = (object.name_any(), PostParams::default());
    match ctx.calls.write("create", kind, &name, api.create(&params, object)).await {
        Err(Error::Api { source, .. }) if is_there(&source) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

fn is_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Takes away everything of a revision that is no longer in the history. The Deployment goes last: it is what we look for.
async fn remove(ctx: &Context, agent: &AgentDeployment, owner: &Owner, hash: &str) -> Result<(), Error> {
    let key = &key(agent);
    let name = revision_name(&key.1, hash);
    let live = ctx.caches.deployments.get(&ObjectRef::new(&name).within(&key.0));
    if live.as_ref().is_some_and(|live| asked_pods(live) != 0) {
        unserved(ctx, agent, owner, hash).await?;
    }
    for config_map in ctx.caches.frozen_of(owner, hash) {
        delete::<ConfigMap>(ctx, key, "ConfigMap", &config_map).await?;
    }
    delete::<Service>(ctx, key, "Service", &name).await?;
    delete::<PodDisruptionBudget>(ctx, key, "PodDisruptionBudget", &name).await?;
    delete::<ControllerRevision>(ctx, key, "ControllerRevision", &name).await?;
    let seen = live.map(|live| Preconditions { uid: live.uid(), resource_version: live.resource_version() });
    delete_as(ctx, "Deployment", &name, Api::<Deployment>::namespaced(ctx.client.clone(), &key.0), seen).await?;
    ctx.remember(key, |memory| {
        memory.revisions.remove(hash);
        memory.applied.remove(hash);
    });
    Ok(())
}

pub(super) async fn delete<K: Child>(ctx: &Context, key: &Key, kind: &'static str, name: &str) -> Result<(), Error> {
    delete_as(ctx, kind, name, Api::<K>::namespaced(ctx.client.clone(), &key.0), None).await
}

/// Deletes an object; one that is gone already is right. `seen`: only if nobody wrote it since.
async fn delete_as<K: Child>(
    ctx: &Context,
    kind: &'static str,
    name: &str,
    api: Api<K>,
    seen: Option<Preconditions>,
) -> Result<(), Error> {
    let params = DeleteParams { preconditions: seen, ..DeleteParams::background() };
    match ctx.calls.write("delete", kind, name, api.delete(name, &params)).await {
        Err(Error::Api { source, .. }) if matches!(source.as_ref(), kube::Error::Api(s) if s.is_not_found()) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_revision_is_refused_keeps_none_of_the_others_and_who_leads_no_more_stops() {
        let served = |revision: &str| Err(Error::Served { revision: revision.to_owned(), by: "Service a".to_owned() });
        let mut first = Ok(());
        assert!(goes_on(&mut first, Ok(())) && first.is_ok());
        assert!(goes_on(&mut first, served("one")) && goes_on(&mut first, served("two")));
        assert!(!goes_on(&mut first, Err(Error::NotLeading)));
        assert!(matches!(first, Err(Error::Served { revision, .. }) if revision == "one"));
    }

    #[test]
    fn a_scaler_and_a_status_are_no_edit_of_the_template() {
        let by = |manager: &str, fields: serde_json::Value| {
            let entry =
                json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields});
            let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "managedFields": [entry]}});
            edited_by_others(&serde_json::from_value(object).unwrap())
        };
        let template = json!({"f:spec": {"f:template": {"f:spec": {}}}});
        assert!(by("kubectl-set", template.clone()));
        assert!(!by(FIELD_MANAGER, template));
        assert!(!by("kube-controller-manager", json!({"f:status": {"f:replicas": {}}})));
        assert!(!by("hpa", json!({"f:spec": {"f:replicas": {}}})));
    }
}
