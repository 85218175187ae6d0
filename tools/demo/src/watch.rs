//! What the API server says, as it says it: the agent's status, and each version of its route.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use sluice::api::{AgentDeployment, Launch};
use tokio::{sync::watch, task::JoinSet};

/// One version of the route, and when a watch saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteSeen {
    /// By the clock of this machine.
    pub(crate) at: Timestamp,
    /// Names and weights of all backends.
    pub(crate) backends: Vec<(String, u64)>,
    /// The annotations that Sluice wrote.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl RouteSeen {
    fn new(route: &DynamicObject) -> Self {
        let rules = route.data["spec"]["rules"].as_array().into_iter().flatten();
        let backends = rules
            .flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten())
            .map(|backend| {
                let name = backend["name"].as_str().unwrap_or_default().to_owned();
                (name, backend["weight"].as_u64().unwrap_or(1))
            })
            .collect();
        let annotations = route.metadata.annotations.clone().unwrap_or_default();
        Self { at: Timestamp::now(), backends, annotations }
    }

    /// The share of the backends whose name carries `revision`, in percent.
    pub(crate) fn share(&self, revision: &str) -> u64 {
        let all: u64 = self.backends.iter().map(|(_, weight)| weight).sum();
        let own: u64 = self.backends.iter().filter(|(name, _)| name.contains(revision)).map(|(_, weight)| weight).sum();
        (100 * own).checked_div(all).unwrap_or_default()
    }
}

/// Two watches that run until this is dropped.
pub(crate) struct Watches {
    agent: watch::Receiver<Option<AgentDeployment>>,
    launches: Arc<Mutex<Vec<Launch>>>,
    routes: Arc<Mutex<Vec<RouteSeen>>>,
    _tasks: JoinSet<()>,
}

impl Watches {
    pub(crate) fn start(client: &Client, namespace: &str, agent: &'static str) -> Self {
        let mut tasks = JoinSet::new();
        let (seen, latest) = watch::channel(None);
        let launches = Arc::<Mutex<Vec<Launch>>>::default();
        let agents = Api::<AgentDeployment>::namespaced(client.clone(), namespace);
        tasks.spawn({
            let launches = launches.clone();
            async move {
                let mut objects = watch_object(agents, agent).default_backoff().boxed();
                while let Some(object) = objects.next().await {
                    // An error is the watch's own business: it begins again.
                    let Ok(object) = object else { continue };
                    if let Some(launch) = object.as_ref().and_then(launch) {
                        let mut launches = lock(&launches);
                        if launches.last() != Some(launch) {
                            launches.push(launch.clone());
                        }
                    }
                    seen.send_replace(object);
                }
            }
        });
        let routes = Arc::<Mutex<Vec<RouteSeen>>>::default();
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "gateway.networking.k8s.io/v1".to_owned(),
            kind: "HTTPRoute".to_owned(),
            plural: "httproutes".to_owned(),
        };
        let http_routes = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        tasks.spawn({
            let routes = routes.clone();
            async move {
                let mut objects = watch_object(http_routes, agent).default_backoff().boxed();
                while let Some(object) = objects.next().await {
                    if let Ok(Some(route)) = object {
                        lock(&routes).push(RouteSeen::new(&route));
                    }
                }
            }
        });
        Self { agent: latest, launches, routes, _tasks: tasks }
    }

    /// The agent as it is now.
    pub(crate) fn agent(&self) -> Option<AgentDeployment> {
        self.agent.borrow().clone()
    }

    /// Every version of the agent's launches so far, but for the first `skip`.
    pub(crate) fn launches(&self, skip: usize) -> Vec<Launch> {
        lock(&self.launches).iter().skip(skip).cloned().collect()
    }

    /// Every version of the route so far.
    pub(crate) fn routes(&self) -> Vec<RouteSeen> {
        lock(&self.routes).clone()
    }
}

fn launch(agent: &AgentDeployment) -> Option<&Launch> {
    agent.status.as_ref()?.state.launch.as_ref()
}

/// A poisoned lock guards plain records here: whatever is in them is whole.
fn lock<T>(records: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_from_a_route() {
        let route: DynamicObject = serde_json::from_value(serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "refund-agent", "annotations": {"sluice.dev/decision": "RollBack"}},
            "spec": {"rules": [{"backendRefs": [
                {"name": "refund-agent-ochre", "port": 80, "weight": 95},
                {"name": "refund-agent-teal", "port": 80, "weight": 5},
            ]}]},
        }))
        .unwrap();
        let seen = RouteSeen::new(&route);
        assert_eq!((seen.share("teal"), seen.share("ochre"), seen.share("puce")), (5, 95, 0));
        assert_eq!(seen.annotations["sluice.dev/decision"], "RollBack");
    }
}
