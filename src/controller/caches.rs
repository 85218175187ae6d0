//! What the watches hold: the objects that agents own, and the versions of all ConfigMaps (their contents are not kept).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::Stream;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{ApiResource, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::Mutex;

use super::context::Key;
use super::{people, plans};
use crate::api::{AGENT_LABEL, AgentDeployment, LaunchDecision, LaunchPlan, PLAN_LABEL, REVISION_LABEL};
use crate::children::{self, Owner};
use crate::revision;
use crate::traffic::{self, HTTPRoute};

/// An agent as it is watched: one that cannot be read must not stop the others.
pub(crate) type WatchedAgent = DeserializeGuard<AgentDeployment>;

/// A route as it is watched: tenants may write odd ones.
type WatchedRoute = DeserializeGuard<HTTPRoute>;

/// A decision as it is watched.
pub(crate) type WatchedDecision = DeserializeGuard<LaunchDecision>;
/// A LaunchPlan as it is watched.
type WatchedPlan = DeserializeGuard<LaunchPlan>;

/// The stores behind the watches.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) deployments: Store<Deployment>,
    pub(crate) services: Store<Service>,
    pub(crate) pods: Store<Pod>,
    pub(crate) config_maps: Store<PartialObjectMeta<ConfigMap>>,
    /// Absent when the cluster has no HTTPRoutes.
    pub(crate) routes: Option<Store<WatchedRoute>>,
    /// Decisions that wait for an answer. Nobody waits for this store: without its CRD (that of an older Sluice) agents
    /// must be looked after all the same, and a decision that is listed late is heard late.
    pub(crate) decisions: Store<WatchedDecision>,
    /// Absent when the cluster has no LaunchPlans: the CRDs are those of an older Sluice.
    pub(crate) plans: Option<Store<WatchedPlan>>,
    /// Whose turn it is to wait for the stores.
    turn: Arc<Mutex<()>>,
}

impl Caches {
    /// Waits until every watch has listed what there is.
    ///
    /// One waiter at a time: a store of kube 5.0 wakes only the waiter that asked last, and the others would wait for ever.
    pub(crate) async fn ready(&self) -> Result<(), reflector::store::WriterDropped> {
        let _turn = self.turn.lock().await;
        self.deployments.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.config_maps.wait_until_ready().await?;
        if let Some(plans) = &self.plans {
            plans.wait_until_ready().await?;
        }
        match &self.routes {
            Some(routes) => routes.wait_until_ready().await,
            None => Ok(()),
        }
    }

    /// The Deployments of an agent's revisions.
    pub(crate) fn deployments_of(&self, owner: &Owner) -> Vec<(String, Arc<Deployment>)> {
        let all = self.deployments.state().into_iter();
        all.filter_map(|object| Some((owner.revision_of(object.as_ref())?, object))).collect()
    }

    /// Every Deployment that says that it is the agent's: copies that somebody made too, for its Service selects their pods.
    pub(crate) fn all_deployments_of(&self, namespace: &str, agent: &str) -> Vec<Arc<Deployment>> {
        self.deployments.state().into_iter().filter(|object| belongs(object.as_ref(), namespace, agent)).collect()
    }

    /// The revisions of an agent that have a Deployment or a Service.
    pub(crate) fn revisions_of(&self, owner: &Owner) -> BTreeSet<String> {
        let served = self.services.state().into_iter().filter_map(|object| owner.revision_of(object.as_ref()));
        served.chain(self.deployments_of(owner).into_iter().map(|(hash, _)| hash)).collect()
    }

    /// A route, if it can be read.
    pub(crate) fn route(&self, namespace: &str, name: &str) -> Option<HTTPRoute> {
        let route = self.routes.as_ref()?.get(&ObjectRef::new(name).within(namespace))?;
        route.0.as_ref().ok().cloned()
    }

    /// The highest epoch that is written on a route or Service.
    pub(crate) fn highest_epoch(&self) -> i64 {
        let services = self.services.state().into_iter().filter_map(|object| traffic::epoch(object.annotations()));
        let routes = self.routes.iter().flat_map(Store::state);
        let routes = routes.filter_map(|route| traffic::highest_epoch(route.0.as_ref().ok()?.annotations()));
        services.chain(routes).max().unwrap_or_default()
    }

    /// Names of the users' routes that carry marks of an agent.
    pub(crate) fn routes_marked_by(&self, key: &Key) -> BTreeSet<String> {
        let all = self.routes.iter().flat_map(Store::state);
        let marked = |route: &Arc<WatchedRoute>| {
            let route = route.0.as_ref().ok().filter(|route| route.namespace().as_deref() == Some(&key.0))?;
            traffic::marked_by(route).contains(key.1.as_str()).then(|| route.name_any())
        };
        all.filter_map(|route| marked(&route)).collect()
    }

    /// The pods of an agent, with their revisions.
    pub(crate) fn pods_of(&self, namespace: &str, agent: &str) -> Vec<(String, Arc<Pod>)> {
        let mine = self.pods.state().into_iter().filter(|object| belongs(object.as_ref(), namespace, agent));
        mine.filter_map(|object| Some((object.labels().get(REVISION_LABEL)?.clone(), object))).collect()
    }

    /// Names of the decisions about an agent that wait for an answer, oldest first.
    pub(crate) fn decisions_of(&self, namespace: &str, agent: &str) -> Vec<String> {
        let all = self.decisions.state();
        people::oldest(all.iter().filter_map(|decision| people::waits(decision, namespace, agent)).collect())
    }

    /// Hashes of the plans of an agent that are stored.
    pub(crate) fn plan_copies_of(&self, namespace: &str, agent: &str) -> BTreeSet<String> {
        let mine = self.config_maps.state().into_iter().filter(|object| belongs(object.as_ref(), namespace, agent));
        let stored = |hash: &String, name: &str| name == children::plan_name(agent, hash); // and not a copy of that one
        mine.filter_map(|object| {
            object.labels().get(PLAN_LABEL).filter(|hash| stored(hash, &object.name_any())).cloned()
        })
        .collect()
    }

    /// Names of the frozen ConfigMaps of a revision.
    pub(crate) fn frozen_of(&self, owner: &Owner, revision: &str) -> Vec<String> {
        let all = self.config_maps.state().into_iter();
        all.filter(|object| owner.froze(object.as_ref(), revision)).map(|object| object.name_any()).collect()
    }
}

/// The kinds that a cluster may lack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kinds {
    /// HTTPRoutes.
    pub(crate) routes: bool,
    /// LaunchPlans.
    pub(crate) plans: bool,
}

fn belongs(object: &impl ResourceExt, namespace: &str, agent: &str) -> bool {
    object.namespace().as_deref() == Some(namespace)
        && object.labels().get(AGENT_LABEL).map(String::as_str) == Some(agent)
}

/// A controller of agents with all its watches, and the stores that they fill.
pub(crate) fn watch(client: &Client, kinds: Kinds) -> (Controller<WatchedAgent>, Caches) {
    let controller = Controller::new(Api::<WatchedAgent>::all(client.clone()), watcher::Config::default().timeout(60));
    let agents = controller.store();
    let every = watcher::Config::default().timeout(60); // a watch that died in silence is begun anew within a minute
    let ours = every.clone().labels(AGENT_LABEL);

    let (deployments, stream) = cached::<Deployment>(Api::all(client.clone()), ours.clone());
    let controller = controller.watches_stream(stream, |object| owner(&object));
    let (services, stream) = cached::<Service>(Api::all(client.clone()), ours.clone());
    let controller = controller.watches_stream(stream, |object| owner(&object));
    let (pods, stream) = cached::<Pod>(Api::all(client.clone()), ours.clone());
    let controller = controller.watches_stream(stream, |object| owner(&object));
    let (config_maps, stream) = cached::<PartialObjectMeta<ConfigMap>>(Api::all(client.clone()), every.clone());
    let store = agents.clone();
    let controller = controller.watches_stream(stream, move |object| users_of(&object, &store));

    let pending = watcher::Config::default().timeout(60).fields("status.state=Pending"); // answered ones are not kept
    let (decisions, stream) = cached::<WatchedDecision>(Api::all(client.clone()), pending);
    let mut controller = controller.watches_stream(stream, |decision| people::agent_of(&decision));

    let mut caches =
        Caches { deployments, services, pods, config_maps, routes: None, plans: None, decisions, turn: Arc::default() };
    if kinds.plans {
        let named = agents.clone();
        let (plans, stream) = cached::<WatchedPlan>(Api::all(client.clone()), every.clone());
        controller = controller.watches_stream(stream, move |plan| judged_by(&plan, &named));
        caches.plans = Some(plans);
    }
    if !kinds.routes {
        return (controller, caches);
    }
    let (routes, stream) = cached::<WatchedRoute>(Api::all(client.clone()), every); // all: users' own, and rivals for a host name
    let controller = controller.watches_stream(stream, move |object| concerned_by(&object, &agents));
    (controller, Caches { routes: Some(routes), ..caches })
}

/// A store and the stream that fills it.
fn cached<K>(api: Api<K>, config: watcher::Config) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let stream = watcher(api, config)
        .default_backoff()
        .modify(|object| {
            object.managed_fields_mut().clear();
            object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration"); // it may hold everything
        })
        .reflect(writer)
        .touched_objects();
    (reader, stream)
}

/// The agent that an object of ours belongs to.
fn owner(object: &impl ResourceExt) -> Option<ObjectRef<WatchedAgent>> {
    let namespace = object.namespace()?;
    object.labels().get(AGENT_LABEL).map(|agent| ObjectRef::new(agent).within(&namespace))
}

/// The agents whose revision a ConfigMap is part of, or whose frozen copy it is.
fn users_of(config_map: &PartialObjectMeta<ConfigMap>, agents: &Store<WatchedAgent>) -> Vec<ObjectRef<WatchedAgent>> {
    let (name, namespace) = (config_map.name_any(), config_map.namespace());
    let uses = |agent: &Arc<WatchedAgent>| {
        let Ok(agent) = &agent.0 else { return false };
        agent.namespace() == namespace && revision::config_maps(&agent.spec).is_ok_and(|names| names.contains(&name))
    };
    let found = agents.state().into_iter().filter(uses).map(|agent| ObjectRef::from_obj(agent.as_ref()));
    found.chain(owner(config_map)).collect()
}

/// The agents that a route was made for, or that share it (or did), or that have a host name of it: whether theirs is the
/// older one may have changed.
fn concerned_by(route: &WatchedRoute, agents: &Store<WatchedAgent>) -> Vec<ObjectRef<WatchedAgent>> {
    let (name, namespace) = (route.name_any(), route.namespace());
    let concerned = |agent: &Arc<WatchedAgent>| {
        let Ok(agent) = &agent.0 else { return false };
        let here = agent.namespace() == namespace;
        let shares = here && agent.spec.adopted_route() == Some(&name);
        let own = here && agent.name_any() == name;
        let rivals = |hosts: &[String]| route.0.as_ref().is_ok_and(|route| traffic::share_a_hostname(hosts, route));
        shares || !own && agent.spec.gateway().is_some_and(|gateway| rivals(&gateway.hostnames))
    };
    let found = agents.state().into_iter().filter(concerned).map(|agent| ObjectRef::from_obj(agent.as_ref()));
    let marks = route.0.as_ref().map(traffic::marked_by).unwrap_or_default();
    let marked = |agent: &str| namespace.as_ref().map(|namespace| ObjectRef::new(agent).within(namespace));
    found.chain(owner(route)).chain(marks.into_iter().filter_map(marked)).collect() // also who does not exist any more
}

/// The agents that name a LaunchPlan.
fn judged_by(plan: &WatchedPlan, agents: &Store<WatchedAgent>) -> Vec<ObjectRef<WatchedAgent>> {
    let name = plan.name_any();
    let names = |agent: &Arc<WatchedAgent>| {
        agent.0.as_ref().is_ok_and(|agent| plans::plan_ref(&agent.spec) == Some(name.as_str()))
    };
    agents.state().into_iter().filter(names).map(|agent| ObjectRef::from_obj(agent.as_ref())).collect()
}

/// The kind of a dynamic object, for its API.
pub(crate) fn dynamic<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
