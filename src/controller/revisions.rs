//! Stored revisions: frozen when a launch begins, read back when an object of theirs must be made again.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::Api;
use kube::api::PostParams;

use super::Error;
use super::context::{Context, Key};
use super::prepare::Prepared;
use crate::api::AgentDeployment;
use crate::children::{self, Owner};
use crate::revision::Revision;
use crate::revision::names::revision_name;

/// The revision as it is stored; the wanted one is frozen first if it is not stored yet.
pub(crate) async fn stored(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    prepared: &Prepared,
    hash: &str,
) -> Result<Arc<Revision>, Error> {
    if let Some(known) = ctx.remember(key, |memory| memory.revisions.get(hash).cloned()) {
        return Ok(known);
    }
    let wanted = prepared.revision.as_ref().filter(|revision| revision.hash == hash);
    let found = match read(ctx, key, agent, hash).await? {
        Some(found) => found,
        None => freeze(ctx, key, agent, wanted.ok_or_else(|| lost(hash))?).await?,
    };
    if let Some(wanted) = wanted
        && wanted.digest != found.digest
    {
        let why =
            "another revision has the same short hash: change anything in the spec, such as an annotation".to_owned();
        return Err(Error::LostRevision { revision: hash.to_owned(), why });
    }
    ctx.remember(key, |memory| memory.revisions.insert(hash.to_owned(), found.clone()));
    Ok(found)
}

/// Whether the API server holds just this revision.
pub(crate) async fn is_stored(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    revision: &Revision,
) -> Result<bool, Error> {
    Ok(read(ctx, key, agent, &revision.hash).await?.is_some_and(|found| found.digest == revision.digest))
}

/// One that a former agent of the same name stored goes with that agent.
async fn read(ctx: &Context, key: &Key, agent: &AgentDeployment, hash: &str) -> Result<Option<Arc<Revision>>, Error> {
    let api = Api::<ControllerRevision>::namespaced(ctx.client.clone(), &key.0);
    let name = revision_name(&key.1, hash);
    let found = ctx.calls.read("ControllerRevision", &name, api.get_opt(&name)).await?;
    let owner = Owner::of(agent);
    let found = found.filter(|found| owner.is_none_or(|owner| !owner.follows(found)));
    let Some(data) = found.and_then(|found| found.data) else { return Ok(None) };
    match Revision::from_data(&data.0) {
        Ok(revision) => Ok(Some(Arc::new(revision))),
        Err(error) => Err(Error::LostRevision { revision: hash.to_owned(), why: error.to_string() }),
    }
}

async fn freeze(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    revision: &Arc<Revision>,
) -> Result<Arc<Revision>, Error> {
    let owner = Owner::of(agent).ok_or_else(|| Error::Stale(format!("AgentDeployment {}", key.1)))?;
    let number =
        agent.status.as_ref().and_then(|status| status.state.launch.as_ref()).map_or(1, |launch| launch.number + 1);
    let object = children::controller_revision(&owner, revision, number);
    let api = Api::<ControllerRevision>::namespaced(ctx.client.clone(), &key.0);
    let params = PostParams::default();
    ctx.calls.write("create", "ControllerRevision", &revision.name(), api.create(&params, &object)).await?;
    Ok(revision.clone())
}

fn lost(hash: &str) -> Error {
    let why =
        "its ControllerRevision was deleted and the spec asks for another one: apply the former spec again".to_owned();
    Error::LostRevision { revision: hash.to_owned(), why }
}
