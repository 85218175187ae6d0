//! Every version of an agent, its route and its Service, in the order in which the API server accepted them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Resource, ResourceExt as _};
use serde_json::Value;
use sluice::api::{AgentDeployment, Launch, Phase, REVISION_LABEL};
use tokio::task::JoinSet;

use crate::cluster::{Agent, Steady, backends, backends_of, launch};

/// One version of one object.
#[derive(Clone, Debug)]
pub struct Version {
    /// Versions of all objects have one order: they come from one store.
    pub number: u64,
    /// When we saw it.
    pub at: Timestamp,
    /// What it is.
    pub seen: Seen,
}

/// An object as it was.
#[derive(Clone, Debug)]
pub enum Seen {
    /// The agent.
    Agent(Box<AgentDeployment>),
    /// Its route.
    Route(Box<DynamicObject>),
    /// The revision that its Service selects.
    Service(Option<String>),
}

/// Watches that run until this is dropped.
pub struct History {
    agent: String,
    others: Vec<String>,
    versions: Arc<Mutex<Vec<Version>>>,
    _watches: JoinSet<()>,
}

impl History {
    /// Begins to watch, with the route that Sluice made.
    pub fn of(agent: &Agent) -> Self {
        Self::on(agent, &agent.name, &[])
    }

    /// Begins to watch, with a route of the user's, which sends to these Services of others too.
    pub fn on(agent: &Agent, route: &str, others: &[&str]) -> Self {
        let versions = Arc::<Mutex<Vec<Version>>>::default();
        let mut watches = JoinSet::new();
        watches.spawn(follow(agent.api(), agent.name.clone(), versions.clone(), |agent| Seen::Agent(Box::new(agent))));
        let seen = |route| Seen::Route(Box::new(route));
        watches.spawn(follow(agent.routes(), route.to_owned(), versions.clone(), seen));
        watches.spawn(follow(agent.all::<Service>(), agent.name.clone(), versions.clone(), |service| {
            let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
            Seen::Service(selector.get(REVISION_LABEL).cloned())
        }));
        let others = others.iter().map(|&name| name.to_owned()).collect();
        Self { agent: agent.name.clone(), others, versions, _watches: watches }
    }

    /// All versions so far, in order.
    pub fn versions(&self) -> Vec<Version> {
        let mut all = self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|version| version.number);
        all
    }

    /// Every version of the launch.
    pub fn launches(&self) -> Vec<Launch> {
        let launches = self.versions().into_iter().filter_map(|version| match version.seen {
            Seen::Agent(agent) => launch(&agent).cloned(),
            _ => None,
        });
        launches.collect()
    }

    /// The revisions that the agent's Service selected, one after the other.
    pub fn selected(&self) -> Vec<String> {
        let selected = self.versions().into_iter().filter_map(|version| match version.seen {
            Seen::Service(selected) => selected,
            _ => None,
        });
        let mut all: Vec<String> = selected.collect();
        all.dedup();
        all
    }

    /// The specs of the route, one after the other.
    pub fn specs(&self) -> Vec<Value> {
        let specs = self.versions().into_iter().filter_map(|version| match version.seen {
            Seen::Route(route) => Some(route.data["spec"].clone()),
            _ => None,
        });
        specs.collect()
    }

    /// The shares that a revision had in the route, one after the other.
    pub fn shares(&self, revision: &str) -> Vec<i64> {
        let shares = self.versions().into_iter().filter_map(|version| match version.seen {
            Seen::Route(route) => Some(self.largest(&route, revision)),
            _ => None,
        });
        let mut all: Vec<i64> = shares.collect();
        all.dedup();
        all
    }

    /// The epochs of the leaders that wrote the route, one after the other.
    pub fn epochs(&self) -> Vec<u64> {
        let epochs = self.versions().into_iter().filter_map(|version| match version.seen {
            Seen::Route(route) => route.annotations().get("sluice.dev/epoch")?.parse().ok(),
            _ => None,
        });
        let mut all: Vec<u64> = epochs.collect();
        all.dedup();
        all
    }

    /// When the route was first seen without this revision, after it had a share.
    pub fn fell_at(&self, revision: &str) -> Option<Timestamp> {
        let routes = self.versions().into_iter().filter_map(|version| match version.seen {
            Seen::Route(route) => Some((version.at, self.largest(&route, revision))),
            _ => None,
        });
        let mut routes = routes.skip_while(|(_, share)| *share == 0);
        routes.find(|(_, share)| *share == 0).map(|(at, _)| at)
    }

    /// Promises 1 and 2, at every version of the route: the canary's share is at most that of the stage which the agent's
    /// status named *before*, and nobody else has any.
    pub fn ensure_bounded(&self, plan: &[(&str, i64)]) -> anyhow::Result<()> {
        let (mut known, mut last): (Option<Box<AgentDeployment>>, i64) = (None, 0);
        for version in self.versions() {
            match version.seen {
                Seen::Agent(agent) => known = Some(agent),
                Seen::Service(_) => {}
                Seen::Route(route) => {
                    let Some(launch) = known.as_deref().and_then(launch) else { continue };
                    let found = self.largest(&route, &launch.revision);
                    let allowed = allowed(launch, plan, last);
                    ensure!(
                        found <= allowed,
                        "version {}: {found}% for {}, but {allowed}% were allowed in {:?} {}",
                        version.number,
                        launch.revision,
                        launch.phase,
                        launch.stage_name
                    );
                    self.ensure_no_stranger(&route, launch)?;
                    last = found;
                }
            }
        }
        Ok(())
    }

    /// The largest share that a revision has in a rule, of what that rule leaves to the agent.
    fn largest(&self, route: &DynamicObject, revision: &str) -> i64 {
        let rules = route.data["spec"]["rules"].as_array().into_iter().flatten();
        let share = |rule: &Value| {
            let mut own = backends_of(rule);
            own.retain(|(name, _)| !self.others.contains(name));
            let sum =
                |of: &dyn Fn(&str) -> bool| own.iter().filter(|(name, _)| of(name)).map(|(_, weight)| weight).sum();
            let (all, revisions): (i64, i64) = (sum(&|_| true), sum(&|name| name.ends_with(revision)));
            if all == 0 { 0 } else { (100 * revisions + all - 1) / all }
        };
        rules.map(share).max().unwrap_or_default()
    }

    fn ensure_no_stranger(&self, route: &DynamicObject, launch: &Launch) -> anyhow::Result<()> {
        for (name, weight) in backends(route) {
            let stable = launch.stable.as_ref().is_some_and(|stable| name.ends_with(stable.as_str()));
            let known = name == self.agent
                || self.others.contains(&name)
                || stable
                || name.ends_with(&launch.revision)
                || weight == 0;
            ensure!(known, "{weight} for {name} in launch {}", launch.id);
        }
        Ok(())
    }
}

/// The share that a canary may have at most, by what its agent's status says.
fn allowed(launch: &Launch, plan: &[(&str, i64)], last: i64) -> i64 {
    let staged = plan.iter().find(|(name, _)| *name == launch.stage_name).map_or(0, |(_, share)| *share);
    match launch.phase {
        Phase::Progressing => staged.min(i64::from(launch.weight)),
        Phase::Promoting => i64::from(launch.weight).max(last),
        Phase::RollingBack => last, // it may only fall
        Phase::Soaking | Phase::Complete => 0,
    }
}

async fn follow<K>(api: Api<K>, name: String, into: Arc<Mutex<Vec<Version>>>, read: impl Fn(K) -> Seen)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut objects = watch_object(api, &name).backoff(Steady).boxed();
    while let Some(seen) = objects.next().await {
        let Ok(Some(object)) = seen else { continue };
        let number = object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default();
        let version = Version { number, at: Timestamp::now(), seen: read(object) };
        into.lock().unwrap_or_else(PoisonError::into_inner).push(version);
    }
}
