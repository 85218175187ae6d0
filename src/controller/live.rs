//! The agent's Service and route as one pass reads them, once: what is observed is also what the pass writes upon.
//!
//! While a launch runs, and where nothing is stable (a first deployment, a status that was lost), they come from the API
//! server. A write is guarded by the `resourceVersion` of that reading, so one that is accepted proves that nobody wrote in
//! between: nothing needs to be read a second time. At rest they come from the watches, and are read only when they are
//! not as they should be, or pods are to go.

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::reflector::ObjectRef;

use super::Error;
use super::context::{Context, Key};
use crate::launch::Route;
use crate::launch::promises::share_of;
use crate::traffic::HTTPRoute;

/// What was read.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) service: Option<Service>,
    pub(crate) route: Option<HTTPRoute>,
    /// It comes from the API server. What the watches hold is cut short, and never written back.
    pub(crate) fresh: bool,
}

impl Live {
    /// As the watches hold them.
    pub(crate) fn cached(ctx: &Context, key: &Key, route: &str) -> Self {
        let service = ctx.caches.services.get(&ObjectRef::new(&key.1).within(&key.0));
        Self {
            service: service.map(|service| service.as_ref().clone()),
            route: ctx.caches.route(&key.0, route),
            fresh: false,
        }
    }

    /// As the API server holds them: a launch ends on nothing older.
    pub(crate) async fn fresh(ctx: &Context, key: &Key, name: &str) -> Result<Self, Error> {
        Ok(Self { service: service(ctx, key).await?, route: route(ctx, key, name).await?, fresh: true })
    }
}

/// The agent's Service, read now.
pub(crate) async fn service(ctx: &Context, key: &Key) -> Result<Option<Service>, Error> {
    let api = Api::<Service>::namespaced(ctx.client.clone(), &key.0);
    ctx.calls.read("Service", &key.1, api.get_opt(&key.1)).await
}

/// A route in the agent's namespace, read now: its own, or the user's that it shares.
pub(crate) async fn route(ctx: &Context, key: &Key, name: &str) -> Result<Option<HTTPRoute>, Error> {
    if ctx.caches.routes.is_none() {
        return Ok(None);
    }
    let api = Api::<HTTPRoute>::namespaced(ctx.client.clone(), &key.0);
    ctx.calls.read("HTTPRoute", name, api.get_opt(name)).await
}

/// Whether a route gives a revision a share, read now, and as `read` understands it.
pub(crate) async fn gives(
    ctx: &Context,
    key: &Key,
    name: &str,
    read: fn(&HTTPRoute, &str) -> Route,
    revision: &str,
) -> Result<bool, Error> {
    let route = route(ctx, key, name).await?;
    Ok(route.is_some_and(|route| share_of(revision, &read(&route, &key.1), None) > 0))
}
