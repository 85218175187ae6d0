//! One agent on a bad day: a stable revision that serves under load, a way to make trouble, and words for what is seen.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use demo::load::{self, Load};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Launch, Outcome, Phase};
use sluice::traffic::HTTPRoute;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Steady, faulty_address, until};
use crate::common::{MANAGER, namespace, remove_namespace};
use crate::fake::{Fake, Mood};

/// Name of every agent here; its namespace tells it from the others.
pub const NAME: &str = "refunds";
/// The ConfigMap that is part of its revision.
pub const PROMPTS: &str = "prompts";
/// What should happen soon has happened by then, on a slow machine too.
pub const SOON: Duration = Duration::from_mins(1);

/// One agent on a bad day.
pub struct Day {
    pub cluster: Cluster,
    pub namespace: String,
    pub agents: Api<AgentDeployment>,
    pub fake: Fake,
    /// Name of the series that this agent alone has.
    pub series: String,
    /// What is applied.
    pub agent: Value,
    load: Option<Load>,
}

impl Day {
    /// An empty namespace on a cluster with Sluice. Nothing is applied yet.
    pub async fn dawn(prefix: &str, launch: Value) -> anyhow::Result<Self> {
        let cluster = Cluster::with_sluice().await?;
        let fake = Fake::get(faulty_address()?)?;
        let namespace = namespace(&cluster.client, prefix).await?;
        let series = format!("{}_total", namespace.replace('-', "_"));
        fake.set(&series, &namespace, NAME, Mood::Good(1.0));
        let agents = Api::namespaced(cluster.client.clone(), &namespace);
        let agent = manifest(&namespace, &series, &launch);
        Ok(Self { cluster, namespace, agents, fake, series, agent, load: None })
    }

    /// An agent whose first revision is stable and serves: from here on no request may be lost.
    pub async fn begin(prefix: &str, launch: Value) -> anyhow::Result<Self> {
        let mut day = Self::dawn(prefix, launch).await?;
        day.first().await?;
        Ok(day)
    }

    /// Applies the first revision, waits until it is stable, and sends requests to it from then on.
    pub async fn first(&mut self) -> anyhow::Result<()> {
        self.prompt("the first", &json!({})).await?;
        self.apply().await?;
        self.until("launched for the first time", SOON, |agent| is(agent, "Launched", "True", "")).await?;
        let mut config = load::Config::new(format!("{}/run", self.cluster.gateway_url)).host(self.host());
        config.rate = 8;
        let began = Instant::now();
        while let Err(error) = load::probe(&config).await {
            // after an outage the gateway's watches come back one by one, within a minute each
            ensure!(began.elapsed() < SOON * 2, "the agent does not answer through the gateway: {error:#}");
            tokio::time::sleep(Duration::from_millis(100)).await; // the gateway's view cannot be watched
        }
        self.load = Some(Load::start(&config)?);
        Ok(())
    }

    /// The host name of the agent's route.
    pub fn host(&self) -> String {
        format!("{}.example", self.namespace)
    }

    /// Applies the agent as it is written now.
    pub async fn apply(&self) -> anyhow::Result<AgentDeployment> {
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&self.agent);
        self.agents.patch(NAME, &params, &patch).await.context("the API server refuses the agent")
    }

    /// Edits the agent's spec and applies it.
    pub async fn edit(&mut self, edit: impl FnOnce(&mut Value)) -> anyhow::Result<AgentDeployment> {
        edit(&mut self.agent["spec"]);
        self.apply().await
    }

    /// Writes the prompt and its faults: a new revision.
    pub async fn prompt(&self, text: &str, faults: &Value) -> anyhow::Result<()> {
        let config_map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": PROMPTS, "namespace": self.namespace},
            "data": {"prompt.txt": text, "faults.json": faults.to_string()},
        });
        let api: Api<ConfigMap> = self.api();
        api.patch(PROMPTS, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&config_map)).await?;
        Ok(())
    }

    /// How the metrics source answers about this agent from now on.
    pub fn mood(&self, mood: Mood) {
        self.fake.set(&self.series, &self.namespace, NAME, mood);
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    pub fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    /// The agent as it is now.
    pub async fn now(&self) -> anyhow::Result<AgentDeployment> {
        Ok(self.agents.get(NAME).await?)
    }

    /// The stable revision.
    pub async fn stable(&self) -> anyhow::Result<String> {
        Ok(stable(&self.now().await?))
    }

    /// Waits until the agent is as wanted; an error tells how it is instead.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&AgentDeployment) -> bool,
    ) -> anyhow::Result<AgentDeployment> {
        match until(&self.agents, NAME, what, deadline, wanted).await {
            Ok(agent) => Ok(agent),
            Err(error) => {
                let status = self.now().await.map(|agent| serde_json::to_string_pretty(&agent.status));
                Err(error.context(format!("in namespace {}, status {status:?}", self.namespace)))
            }
        }
    }

    /// Waits until the canary has a weight and the stage's clocks run.
    pub async fn until_at(&self, weight: i32) -> anyhow::Result<AgentDeployment> {
        let at = |agent: &AgentDeployment| {
            launch(agent).is_some_and(|launch| launch.weight == weight && launch.began_at.is_some() && runs(launch))
        };
        self.until(&format!("at {weight}%"), SOON, at).await
    }

    /// Waits until a launch other than the first has ended in this way.
    pub async fn until_ended(&self, outcome: Outcome) -> anyhow::Result<AgentDeployment> {
        self.until_ended_within(SOON, outcome).await
    }

    /// The same, when it may take longer.
    pub async fn until_ended_within(&self, span: Duration, outcome: Outcome) -> anyhow::Result<AgentDeployment> {
        let ended = |agent: &AgentDeployment| {
            launch(agent).is_some_and(|l| l.number > 1 && l.phase == Phase::Complete && l.outcome == Some(outcome))
        };
        self.until(&format!("{outcome:?}"), span, ended).await
    }

    /// Sees to it that the agent stays as it is for a while: nothing that happens in this time may end `holds`.
    pub async fn stays(
        &self,
        what: &str,
        span: Duration,
        holds: impl Fn(&AgentDeployment) -> bool,
    ) -> anyhow::Result<AgentDeployment> {
        match until(&self.agents, NAME, what, span, |agent| !holds(agent)).await {
            Ok(agent) => anyhow::bail!(
                "in namespace {}, no longer {what}: {}",
                self.namespace,
                serde_json::to_string_pretty(&agent.status)?
            ),
            Err(_) => self.now().await, // it was so until the end of the span
        }
    }

    /// The Deployment of a revision.
    pub async fn deployment(&self, revision: &str) -> anyhow::Result<Deployment> {
        Ok(self.api::<Deployment>().get(&format!("{NAME}-{revision}")).await?)
    }

    /// The pods of a revision.
    pub async fn pods(&self, revision: &str) -> anyhow::Result<Vec<Pod>> {
        let of = ListParams::default().labels(&format!("sluice.dev/revision={revision}"));
        Ok(self.api::<Pod>().list(&of).await?.items)
    }

    /// Watches every version of the agent's route from now on.
    pub async fn watch_route(&self) -> anyhow::Result<Weights> {
        Ok(Weights::watch(self.api(), self.stable().await?))
    }

    pub async fn delete<K>(&self, name: &str) -> anyhow::Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        self.api::<K>().delete(name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// What became of the requests so far.
    pub fn requests(&self) -> anyhow::Result<load::Snapshot> {
        Ok(self.load.as_ref().context("no requests are sent")?.snapshot())
    }

    /// The day is over: no request was lost on it, and the namespace goes.
    pub async fn end(mut self) -> anyhow::Result<()> {
        if let Some(load) = self.load.take() {
            let seen = load.stop().await;
            ensure!(seen.answered() > 0, "no request was answered: {seen:?}");
            ensure!(seen.lost == 0, "{} requests were lost: {:?}", seen.lost, seen.losses);
        }
        remove_namespace(&self.cluster.client, &self.namespace).await
    }

    /// The day is over, and requests may have been lost on it.
    pub async fn end_with_losses(mut self) -> anyhow::Result<()> {
        drop(self.load.take());
        self.end().await
    }
}

/// An agent with short clocks. Its metric is its own, and so is its revision.
fn manifest(namespace: &str, series: &str, launch: &Value) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "template": {"spec": {
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "agent",
                    "image": "sluice.dev/refund-agent:dev",
                    "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "env": [
                        {"name": "SLUICE_REVISION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['sluice.dev/revision']"}}},
                        {"name": "WHOSE", "value": namespace},
                    ],
                    "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
                }],
            }},
            "config": [{"name": "prompt", "configMapRef": {"name": PROMPTS}, "mountPath": "/etc/agent/prompt"}],
            "health": {},
            "traffic": {"gateway": {"parentRefs": [{"name": "public", "namespace": "infra"}], "hostnames": [format!("{namespace}.example")]}},
            "metrics": {"sourceRef": {"name": "faulty"}, "interval": "1s", "define": [
                {"name": "quality", "ratio": {"good": format!("{series}{{result=\"good\"}}"), "total": series}},
            ]},
            "launch": launch,
        },
    })
}

/// One stage at 50 % with a gate on the agent's own metric, a trigger on the same metric and one on restarts.
pub fn plan(deadline: &str) -> Value {
    json!({
        "stages": [{
            "name": "half", "traffic": 50, "minDuration": "2s", "deadline": {"after": deadline},
            "gates": [{"name": "quality", "metric": {"name": "quality", "window": "2s", "minSamples": 5, "value": {"atLeast": "99%"}}}],
        }],
        "triggers": [
            {"name": "bad-quality", "metric": {"name": "quality", "window": "2s", "minSamples": 5, "value": {"below": "50%"}}},
            {"name": "restarts", "health": {"restarts": 2, "within": "5m"}},
        ],
    })
}

/// The plan without its triggers, or with others.
pub fn with_triggers(mut plan: Value, triggers: Value) -> Value {
    plan["triggers"] = triggers;
    plan
}

pub fn launch(agent: &AgentDeployment) -> Option<&Launch> {
    agent.status.as_ref()?.state.launch.as_ref()
}

/// A launch beside a stable revision that has not ended.
pub fn runs(launch: &Launch) -> bool {
    launch.stable.is_some() && launch.phase == Phase::Progressing
}

/// The agent launches beside its stable revision, and the canary has this weight.
pub fn climbs_at(agent: &AgentDeployment, weight: i32) -> bool {
    launch(agent).is_some_and(|launch| runs(launch) && launch.weight == weight)
}

pub fn stable(agent: &AgentDeployment) -> String {
    let stable = agent.status.as_ref().and_then(|status| status.state.stable.as_ref());
    stable.map_or_else(|| "-".to_owned(), |stable| stable.revision.clone())
}

/// Reason and message of a condition, when it has this status.
pub fn condition(agent: &AgentDeployment, type_: &str, status: &str) -> Option<(String, String)> {
    let mut conditions = agent.status.as_ref()?.conditions.iter();
    let found = conditions.find(|condition| condition.type_ == type_ && condition.status == status)?;
    Some((found.reason.clone(), found.message.clone()))
}

/// Whether a condition has this status, and a reason or a message with these words. It must speak of the spec as it is.
pub fn is(agent: &AgentDeployment, type_: &str, status: &str, words: &str) -> bool {
    let current = agent.status.as_ref().is_some_and(|status| status.observed_generation == agent.metadata.generation);
    current
        && condition(agent, type_, status)
            .is_some_and(|(reason, message)| reason.contains(words) || message.contains(words))
}

/// The condition's message holds all of these words.
pub fn tells(agent: &AgentDeployment, type_: &str, words: &[&str]) -> anyhow::Result<()> {
    let conditions = agent.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition.type_ == type_).context("the condition is not there")?;
    let told = format!("{} {}: {}", found.status, found.reason, found.message);
    println!("{type_} {told}"); // shown with --nocapture, and when the test fails
    let missing: Vec<_> = words.iter().filter(|word| !told.contains(*word)).collect();
    ensure!(missing.is_empty(), "{type_} is {told:?}, which does not say {missing:?}");
    Ok(())
}

/// The canary's share at every version of a route.
pub struct Weights {
    seen: Arc<Mutex<Vec<(String, i64)>>>,
    watching: JoinHandle<()>,
}

impl Weights {
    fn watch(api: Api<HTTPRoute>, stable: String) -> Self {
        let seen: Arc<Mutex<Vec<(String, i64)>>> = Arc::default();
        let written = seen.clone();
        let watching = tokio::spawn(async move {
            let mut versions = watch_object(api, NAME).backoff(Steady).boxed();
            while let Some(version) = versions.next().await {
                if let Ok(Some(route)) = version {
                    let share = canary_share(&route, &stable);
                    let mut seen = written.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push((route.resource_version().unwrap_or_default(), share));
                }
            }
        });
        Self { seen, watching }
    }

    /// The shares, in order.
    pub fn seen(&self) -> Vec<i64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(_, share)| *share).collect()
    }

    /// The largest share so far; the watch must have seen the route at all.
    pub fn peak(&self) -> anyhow::Result<i64> {
        self.seen().into_iter().max().context("the route was never seen")
    }

    /// No version of the route gave the canary more than this.
    pub fn never_above(&self, share: i64) -> anyhow::Result<()> {
        let peak = self.peak()?;
        ensure!(peak <= share, "the canary had {peak}%, at most {share}% is its stage's: {:?}", self.seen());
        Ok(())
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// What everybody but stable gets of a route, in percent. Told apart by names alone, not with Sluice's own code.
pub fn canary_share(route: &HTTPRoute, stable: &str) -> i64 {
    let stable = format!("{NAME}-{stable}");
    let share = |backends: &Vec<sluice::traffic::BackendRef>| {
        let weight = |backend: &sluice::traffic::BackendRef| i64::from(backend.weight.unwrap_or(1));
        let all: i64 = backends.iter().map(weight).sum();
        let others = backends.iter().filter(|backend| backend.name != NAME && backend.name != stable);
        if all == 0 { 0 } else { others.map(weight).sum::<i64>() * 100 / all }
    };
    route.spec.rules.iter().flatten().filter_map(|rule| rule.backend_refs.as_ref()).map(share).max().unwrap_or(0)
}
