//! Before a revision's pods are taken away: does anything send to them? It is asked of the API server itself: a fall that was
//! held up may have arrived, and no watch has told of it yet.

use super::context::Context;
use super::reconcile::key;
use super::{Error, endpoints, live};
use crate::api::AgentDeployment;
use crate::children::Owner;
use crate::{children, traffic};

/// Refuses to take the pods of a revision that the agent's Service sends to, its own route, or a user's that it shares or shared.
pub(super) async fn unserved(
    ctx: &Context,
    agent: &AgentDeployment,
    owner: &Owner,
    revision: &str,
) -> Result<(), Error> {
    let key = key(agent);
    let served = |by: String| Err(Error::Served { revision: revision.to_owned(), by });
    let service = live::service(ctx, &key).await?;
    let selected = service.as_ref().is_some_and(|service| match traffic::split_of(service) {
        Some(split) => split.names(revision),
        None => children::selected_revision(service).as_deref() == Some(revision),
    });
    if selected {
        return served(format!("Service {}", key.1));
    }
    let ours = service.is_some_and(|service| owner.controls(&service)); // another's selects what they will
    if ours && endpoints::names(ctx, &key, &key.1, revision).await? {
        return served(format!("Service {}, whose EndpointSlices lag behind its selector,", key.1));
    }
    let adopted = agent.spec.adopted_route();
    let mut routes = ctx.caches.routes_marked_by(&key);
    routes.extend([key.1.clone()].into_iter().chain(adopted.map(str::to_owned)));
    for name in routes {
        let read = if name == key.1 && adopted != Some(&name) { traffic::read } else { traffic::read_adopted };
        if live::gives(ctx, &key, &name, read, revision).await? {
            return served(format!("HTTPRoute {name}"));
        }
    }
    Ok(())
}
