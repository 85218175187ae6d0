//! What the tests on a whole cluster share: Sluice installed from its chart, agents in namespaces of their own, and
//! waiting for what a user sees. Nothing here sleeps where a condition can be watched.
//!
//! Needs what `. .cluster/NAME/env` sets, with the images `sluice.dev/sluice:dev` and `sluice.dev/refund-agent:dev`
//! loaded. `make test-cluster` brings all of it.
#![allow(dead_code)] // every test file compiles this module for itself and uses a part of it

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use demo::load::{self, Load};
use demo::stream::Streams;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GetParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::core::{GroupVersionKind, Request};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::watch_object;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Launch, Outcome, Phase};
use tokio::sync::OnceCell;

use crate::common::{MANAGER, apply_crds, client, namespace, path, remove_namespace};

/// Where Sluice is installed.
pub const SYSTEM: &str = "sluice-system";
/// The lease that its leader holds.
const LEASE: &str = "sluice-controller";
/// Whatever should happen has happened by then, also on a slow machine, and also if the operator was killed meanwhile
/// (its successor waits 15 s for the lease).
pub const PATIENCE: Duration = Duration::from_secs(150);
/// The port of the metrics source `faulty`, on this host's address on the cluster's bridge: a test may listen there.
const FAULTY_PORT: u16 = 19_999;

/// The cluster that the environment names.
#[derive(Clone)]
pub struct Cluster {
    /// A client with all rights. It belongs to the runtime of one test.
    pub client: Client,
    /// Where the gateway listens.
    pub gateway_url: String,
    /// URL of the cluster's Prometheus: the metrics source `default`.
    pub prometheus_url: String,
}

fn set(name: &str) -> anyhow::Result<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).with_context(|| {
        format!(
            "{name} is not set: this test needs a whole cluster. `make test-cluster` brings one up, or: \
             .cluster/bin/cluster up --name test && . .cluster/test/env"
        )
    })
}

impl Cluster {
    /// The cluster, with Sluice installed in it and leading.
    pub async fn with_sluice() -> anyhow::Result<Self> {
        let cluster = Self::connect().await?;
        operator(&cluster).await?;
        Ok(cluster)
    }

    /// The cluster as it is.
    pub async fn connect() -> anyhow::Result<Self> {
        let client = client().await?;
        Ok(Self { client, gateway_url: set("GATEWAY_URL")?, prometheus_url: set("PROMETHEUS_URL")? })
    }

    /// Runs a program that a variable of the environment names: `KUBECTL`, `HELM` or `CLUSTER_TOOL`.
    pub async fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> anyhow::Result<Output> {
        run(program, arguments, input).await
    }

    /// What `kubectl` prints; an error when it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        told("KUBECTL", arguments, None).await
    }

    /// Runs a command of the tool that made this cluster, such as `stop-component … prometheus`.
    pub async fn tool(&self, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let name = set("SLUICE_CLUSTER")?;
        let all: Vec<&str> = [command, "--name", &name].into_iter().chain(arguments.iter().copied()).collect();
        told("CLUSTER_TOOL", &all, None).await
    }

    /// The pods of Sluice that are not being deleted.
    pub async fn operator_pods(&self) -> anyhow::Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), SYSTEM);
        let ours = ListParams::default().labels("app.kubernetes.io/name=sluice");
        let found = pods.list(&ours).await?;
        Ok(found.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The pod that leads.
    pub async fn leader(&self) -> anyhow::Result<String> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), SYSTEM);
        let held =
            |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let lease = until(&leases, LEASE, "held", left, |lease: &Lease| !held(lease).is_empty()).await?;
            let holder = held(&lease);
            let pods = self.operator_pods().await?;
            if pods.iter().any(|pod| pod.name_any() == holder) {
                return Ok(holder);
            }
            // The holder was killed: its successor takes the lease over.
            let changed = |lease: &Lease| held(lease) != holder;
            until(&leases, LEASE, "taken over", left, changed).await?;
        }
    }

    /// Deletes the leader's pod without grace. Another pod takes over, under another name.
    pub async fn kill_operator(&self) -> anyhow::Result<String> {
        let leader = self.leader().await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), SYSTEM);
        match pods.delete(&leader, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {} // another test was faster
            other => drop(other.context("could not kill the operator")?),
        }
        Ok(leader)
    }

    /// Aims at the leader's process, so that it can be killed within milliseconds.
    pub async fn aim(&self) -> anyhow::Result<Aim> {
        let leader = self.leader().await?;
        let pod = Api::<Pod>::namespaced(self.client.clone(), SYSTEM).get(&leader).await?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("the operator has no node")?;
        let containers = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let container = containers.first().context("the operator has no container")?;
        let id = container.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
        let container_id = id.context("the operator does not run")?.to_owned();
        Ok(Aim { cluster: self.clone(), pod: leader, node, container: container_id, restarts: container.restart_count })
    }

    /// The leader's own metrics page.
    pub async fn operator_metrics(&self) -> anyhow::Result<String> {
        let leader = self.leader().await?;
        let pods = Request::new(Pod::url_path(&(), Some(SYSTEM)));
        let request = pods.get(&format!("{leader}:8080/proxy/metrics"), &GetParams::default())?;
        self.client.request_text(request).await.context("could not read the operator's metrics")
    }

    /// The last lines of what Sluice logged.
    pub async fn operator_log(&self, lines: u32) -> String {
        let tail = format!("--tail={lines}");
        let arguments = ["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=sluice", "--prefix", &tail];
        self.kubectl(&arguments).await.unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// A process of Sluice that is to be killed.
pub struct Aim {
    cluster: Cluster,
    pod: String,
    node: String,
    container: String,
    restarts: i32,
}

impl Aim {
    /// Kills it with SIGKILL: it writes and says nothing more. Its pod starts another.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let kill = ["--", "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", &self.container];
        let arguments: Vec<&str> = [self.node.as_str()].into_iter().chain(kill).collect();
        self.cluster.tool("node-exec", &arguments).await.map(drop)
    }

    /// Waits until its pod runs again.
    pub async fn until_restarted(&self) -> anyhow::Result<()> {
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), SYSTEM);
        let again = |pod: &Pod| {
            let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            containers.any(|container| container.ready && container.restart_count > self.restarts)
        };
        until(&pods, &self.pod, "started again", PATIENCE, again).await.map(drop)
    }
}

/// Sums the samples of a metric whose line contains `part`.
pub fn sum_of(page: &str, metric: &str, part: &str) -> f64 {
    let lines = page.lines().filter(|line| !line.starts_with('#') && line.starts_with(metric) && line.contains(part));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn run(program: &str, arguments: &[&str], input: Option<&str>) -> anyhow::Result<Output> {
    let binary = set(program)?;
    // The tool finds its clusters from the folder that it made them in, which is where the kubeconfig is.
    let home = Path::new(&set("KUBECONFIG")?).ancestors().nth(3).map(Path::to_owned);
    let folder = home.filter(|_| program == "CLUSTER_TOOL").unwrap_or_else(|| path("."));
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let input = input.map(str::to_owned);
    let task = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(&binary);
        command.args(&arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().with_context(|| format!("could not run {binary}"))?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            std::io::Write::write_all(&mut stdin, input.as_bytes())?;
        }
        anyhow::Ok(child.wait_with_output()?)
    });
    task.await?
}

async fn told(program: &str, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
    let output = run(program, arguments, input).await?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {}: {}\n{said}{complained}", arguments.join(" "), output.status);
    Ok(said.into_owned())
}

// ---- Sluice itself

/// Where a test may listen to be the metrics source `faulty`.
pub fn faulty_address() -> anyhow::Result<SocketAddr> {
    let prometheus = set("PROMETHEUS_URL")?;
    let host = prometheus.trim_start_matches("http://").split([':', '/']).next().unwrap_or_default();
    Ok(SocketAddr::new(host.parse().with_context(|| format!("{prometheus} names no address"))?, FAULTY_PORT))
}

/// Installs Sluice from its chart: once per process, and the same in every process.
async fn operator(cluster: &Cluster) -> anyhow::Result<()> {
    static INSTALLED: OnceCell<Result<(), String>> = OnceCell::const_new();
    let install = async || install(cluster).await.map_err(|error| format!("{error:#}"));
    INSTALLED.get_or_init(install).await.clone().map_err(|error| anyhow!("Sluice could not be installed: {error}"))
}

/// Installs Sluice, whatever was before.
pub async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    apply_crds(&cluster.client).await?; // other tests apply it too, and Helm refuses to share its fields
    let default = format!("sources[0].url={}", cluster.prometheus_url);
    let faulty = format!("sources[1].url=http://{}", faulty_address()?);
    let mut arguments = vec!["upgrade", "--install", "sluice", "charts/sluice", "--namespace", SYSTEM];
    arguments.extend(["--create-namespace", "--skip-crds", "--wait", "--timeout", "2m", "--set", "image.tag=dev"]);
    arguments.extend(["--set", "sources[0].name=default", "--set", &default]);
    arguments.extend(["--set", "sources[1].name=faulty", "--set", &faulty, "--set", "sources[1].timeout=2s"]);
    told("HELM", &arguments, None).await?;
    cluster.leader().await.map(drop)
}

// ---- waiting

/// Watches of tests begin anew at once when the API server was away: they miss no version for a back-off of half a minute.
pub struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// Waits until an object is as wanted; a watch, which begins anew when the API server goes away.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    deadline: Duration,
    wanted: impl Fn(&K) -> bool,
) -> anyhow::Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut objects = watch_object(api.clone(), name).backoff(Steady).boxed();
    let watching = async {
        while let Some(seen) = objects.next().await {
            if let Ok(Some(object)) = seen
                && wanted(&object)
            {
                return Ok(object);
            }
        }
        bail!("the watch of {name} ended")
    };
    tokio::time::timeout(deadline, watching).await.map_err(|_| anyhow!("{name} is not {what} after {deadline:?}"))?
}

/// Waits until nothing of a kind is left in a namespace.
pub async fn until_none<K>(api: &Api<K>, labels: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (left, writer) = reflector::store();
    let config = watcher::Config::default().labels(labels);
    let mut changes = watcher(api.clone(), config).default_backoff().reflect(writer).boxed();
    let watching = async {
        let mut listed = false;
        while let Some(change) = changes.next().await {
            listed |= matches!(change, Ok(watcher::Event::InitDone));
            if listed && left.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.map_err(|_| {
        let names: Vec<_> = left.state().iter().map(|object| object.name_any()).collect();
        anyhow!("{} {names:?} are still there after {PATIENCE:?}", K::kind(&()))
    })
}

// ---- agents

/// The manifest of an agent that a test applies: the example's, with clocks of a few seconds.
#[derive(Clone, Debug)]
pub struct Manifest(pub Value);

impl Manifest {
    /// The refund agent behind the cluster's gateway: two pods, and a launch of 10 and 50 % with short clocks.
    pub fn example(name: &str) -> anyhow::Result<Self> {
        let mut agent: Value =
            serde_norway::from_str(&std::fs::read_to_string(path("examples/refund-agent/agent.yaml"))?)?;
        agent["metadata"] = json!({"name": name});
        agent["spec"]["replicas"] = json!(2);
        let success = |samples: u32| json!({"name": "success", "metric": {"name": "success_rate", "window": "3s", "minSamples": samples, "value": {"atLeast": "99%"}}});
        let errors = json!({"name": "error_rate", "window": "3s", "minSamples": 4, "ratioToStable": {"above": "200%", "floor": "1%"}});
        agent["spec"]["launch"] = json!({
            "stages": [
                {"name": "tenth", "traffic": 10, "minDuration": "3s", "gates": [success(5)]},
                {"name": "half", "traffic": 50, "minDuration": "3s", "gates": [success(20)]},
            ],
            "triggers": [{"name": "errors-doubled", "metric": errors, "for": "2s"}],
        });
        Ok(Self(agent))
    }

    /// The smallest manifest of `config/samples`, with an image that this cluster has.
    pub fn smallest() -> anyhow::Result<Self> {
        let mut agent: Value = serde_norway::from_str(&std::fs::read_to_string(path("config/samples/smallest.yaml"))?)?;
        agent["spec"]["template"]["spec"]["containers"][0]["image"] = json!("sluice.dev/refund-agent:dev");
        Ok(Self(agent))
    }

    fn name(&self) -> anyhow::Result<&str> {
        self.0["metadata"]["name"].as_str().context("the manifest has no name")
    }

    /// The same with another value at a place, such as `/spec/replicas`.
    #[must_use]
    pub fn with(mut self, place: &str, value: Value) -> Self {
        put(&mut self.0, place, value);
        self
    }
}

/// Puts a value at a JSON pointer, making the objects on the way.
fn put(object: &mut Value, place: &str, value: Value) {
    let slot = place.split('/').skip(1).fold(object, |at, key| match key.parse::<usize>() {
        Ok(index) => &mut at[index],
        Err(_) => &mut at[key],
    });
    *slot = value;
}

/// An agent in a namespace of its own.
pub struct Agent {
    /// Where it runs.
    pub cluster: Cluster,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its host name at the gateway: no other agent has it.
    pub host: String,
    manifest: std::sync::Mutex<Value>,
}

impl Agent {
    /// Applies an agent with its prompt, in a new namespace.
    pub async fn apply(cluster: &Cluster, manifest: Manifest) -> anyhow::Result<Self> {
        let namespace = namespace(&cluster.client, manifest.name()?).await?;
        let host = format!("{namespace}.example");
        Self::apply_in(cluster, namespace, host, manifest).await
    }

    /// Applies another agent in the namespace of this one. They share the prompt: an edit of it launches both.
    pub async fn beside(&self, manifest: Manifest) -> anyhow::Result<Self> {
        let host = format!("{}.{}", manifest.name()?, self.host);
        Self::apply_in(&self.cluster, self.namespace.clone(), host, manifest).await
    }

    async fn apply_in(cluster: &Cluster, namespace: String, host: String, manifest: Manifest) -> anyhow::Result<Self> {
        let name = manifest.name()?.to_owned();
        let mut manifest = manifest.0;
        manifest["metadata"]["namespace"] = json!(namespace);
        if !manifest["spec"]["traffic"]["gateway"].is_null() {
            manifest["spec"]["traffic"]["gateway"] = json!({"parentRefs": [gateway()?], "hostnames": [host]});
        } else if manifest["spec"]["traffic"]["httpRoute"].is_null()
            && manifest["spec"]["traffic"]["replicas"].is_null()
            && let Some(spec) = manifest["spec"].as_object_mut()
        {
            spec.remove("traffic");
        }
        let agent = Self { cluster: cluster.clone(), namespace, name, host, manifest: std::sync::Mutex::new(manifest) };
        agent.prompt("Refund what was paid.", &json!({})).await?;
        agent.edit(|_| {}).await?;
        Ok(agent)
    }

    /// Edits the prompt: what a user's `kubectl apply` of the ConfigMap does. `faults` are those of the example's README.
    pub async fn prompt(&self, text: &str, faults: &Value) -> anyhow::Result<()> {
        let data = [("prompt.txt", text.to_owned()), ("faults.json", faults.to_string())];
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let metadata = ObjectMeta { name: Some("refund-prompts".to_owned()), ..ObjectMeta::default() };
        let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        let params = PatchParams::apply(MANAGER).force();
        self.all::<ConfigMap>().patch("refund-prompts", &params, &Patch::Apply(&map)).await?;
        Ok(())
    }

    /// Edits the manifest and applies it.
    pub async fn edit(&self, edit: impl FnOnce(&mut Manifest)) -> anyhow::Result<AgentDeployment> {
        let manifest = {
            let mut held = self.manifest.lock().map_err(|_| anyhow!("an edit panicked"))?;
            let mut manifest = Manifest(held.clone());
            edit(&mut manifest);
            held.clone_from(&manifest.0);
            manifest.0
        };
        let params = PatchParams::apply(MANAGER).force().validation_strict();
        let applied = self.api().patch(&self.name, &params, &Patch::Apply(&manifest)).await;
        applied.context("the API server refuses the agent")
    }

    /// The agents of this namespace.
    pub fn api(&self) -> Api<AgentDeployment> {
        self.all()
    }

    /// Objects of this namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// The HTTPRoutes of this namespace, as anybody sees them.
    pub fn routes(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.cluster.client.clone(), &self.namespace, &http_routes())
    }

    /// The agent as it is now.
    pub async fn now(&self) -> anyhow::Result<AgentDeployment> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Waits until the agent is as wanted. An error tells all that a person would look at.
    pub async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&AgentDeployment) -> bool,
    ) -> anyhow::Result<AgentDeployment> {
        match until(&self.api(), &self.name, what, PATIENCE, wanted).await {
            Ok(agent) => Ok(agent),
            Err(error) => Err(anyhow!("{error}\n{}", self.story().await)),
        }
    }

    /// Waits until a launch has ended with this outcome, and returns it.
    pub async fn until_ended(&self, number: i64, outcome: Outcome) -> anyhow::Result<Launch> {
        let ended = |agent: &AgentDeployment| {
            launch(agent).is_some_and(|launch| launch.number >= number && launch.phase == Phase::Complete)
        };
        let agent = self.until(&format!("at the end of launch {number}"), ended).await?;
        let launch = launch(&agent).context("no launch")?.clone();
        if launch.number != number || launch.outcome != Some(outcome) {
            bail!(
                "launch {} ended as {:?}, not {number} as {outcome:?}\n{}",
                launch.number,
                launch.outcome,
                self.story().await
            );
        }
        Ok(launch)
    }

    /// Waits until a launch soaks: its revision is stable, and the way back is open.
    pub async fn until_soaking(&self, number: i64) -> anyhow::Result<Launch> {
        let soaks = |agent: &AgentDeployment| {
            launch(agent).is_some_and(|launch| launch.number == number && launch.phase == Phase::Soaking)
        };
        let agent = self.until(&format!("soaking in launch {number}"), soaks).await?;
        launch(&agent).cloned().context("no launch")
    }

    /// Begins streamed runs of so many seconds through the gateway; each has told its first line.
    pub async fn streams(&self, seconds: u64, count: usize) -> anyhow::Result<Streams> {
        self.until_answered(&self.requests()).await?;
        let config = load::Config::new(&self.cluster.gateway_url).host(&self.host);
        Streams::open(&config, seconds, count).await
    }

    /// Waits until the gateway answers for the agent.
    async fn until_answered(&self, config: &load::Config) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(error) = load::probe(config).await {
            ensure!(began.elapsed() < PATIENCE, "the gateway does not answer for {}: {error:#}", self.host);
            tokio::time::sleep(Duration::from_millis(100)).await; // nothing tells when a gateway begins to answer
        }
        Ok(())
    }

    /// Waits until the Deployment of a revision asks for so many pods.
    pub async fn until_sized(&self, revision: &str, size: i32) -> anyhow::Result<()> {
        let sized = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(size);
        let (name, what) = (format!("{}-{revision}", self.name), format!("at {size} pods"));
        match until(&self.all::<Deployment>(), &name, &what, PATIENCE, sized).await {
            Ok(_) => Ok(()),
            Err(error) => Err(anyhow!("{error}\n{}", self.story().await)),
        }
    }

    /// How many pods the Deployment of a revision asks for.
    pub async fn size(&self, revision: &str) -> anyhow::Result<i32> {
        let deployment = self.all::<Deployment>().get(&format!("{}-{revision}", self.name)).await?;
        Ok(deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1))
    }

    /// Waits until the running launch is in this stage with its weight read back, and returns it.
    pub async fn until_in_stage(&self, number: i64, stage: &str) -> anyhow::Result<Launch> {
        let there = |agent: &AgentDeployment| {
            launch(agent).is_some_and(|l| l.number == number && l.stage_name == stage && l.began_at.is_some())
        };
        let agent = self.until(&format!("in stage {stage} of launch {number}"), there).await?;
        launch(&agent).cloned().context("no launch")
    }

    /// Waits until the first deployment is stable, soaking or not, and returns its revision.
    pub async fn until_first_stable(&self) -> anyhow::Result<String> {
        let there = |launch: &Launch| matches!(launch.phase, Phase::Soaking | Phase::Complete);
        let agent = self.until("stable", |agent| launch(agent).is_some_and(there)).await?;
        stable(&agent).map(str::to_owned).context("the first deployment has failed")
    }

    /// Waits until the gateway answers for the agent, then sends so many requests a second.
    pub async fn load(&self, rate: u32) -> anyhow::Result<Load> {
        self.send(load::Config { rate, ..self.requests() }).await
    }

    /// The same with one more header.
    pub async fn load_with(&self, rate: u32, (name, value): (&str, &str)) -> anyhow::Result<Load> {
        self.send(load::Config { rate, ..self.requests().header(name, value) }).await
    }

    /// Sends so many requests a second to a Service of this namespace as callers inside the cluster do: past the gateway.
    /// `kept`: connections are used again; otherwise each request opens one of its own.
    pub async fn load_inside(&self, service: &str, rate: u32, kept: bool) -> anyhow::Result<Load> {
        let found = self.all::<Service>().get(service).await?;
        let address = found.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        let config = load::Config::new(format!("http://{address}/run"));
        self.send(load::Config { rate, fresh_every: u64::from(!kept), ..config }).await
    }

    fn requests(&self) -> load::Config {
        load::Config::new(format!("{}/run", self.cluster.gateway_url)).host(&self.host)
    }

    async fn send(&self, config: load::Config) -> anyhow::Result<Load> {
        self.until_answered(&config).await?;
        Load::start(&config)
    }

    /// Reasons and notes of the agent's Events, oldest first.
    pub async fn events(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut all = self.all::<Event>().list(&ListParams::default()).await?.items;
        all.retain(|event| event.regarding.as_ref().is_some_and(|about| about.name.as_ref() == Some(&self.name)));
        all.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        Ok(all.into_iter().map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect())
    }

    /// Fails when a request was lost, with all that is left to say why: the cluster is gone when somebody reads it.
    pub async fn ensure_none_lost(&self, answers: &load::Snapshot) -> anyhow::Result<()> {
        if answers.lost > 0 {
            bail!("{} of {} lost: {:?}\n{}", answers.lost, answers.sent, answers.losses, self.story().await);
        }
        Ok(())
    }

    /// Fails too when the agent itself answered with an error.
    pub async fn ensure_all_well(&self, answers: &load::Snapshot) -> anyhow::Result<()> {
        self.ensure_none_lost(answers).await?;
        ensure!(answers.errors() == 0, "{:?}", answers.revisions);
        Ok(())
    }

    /// What a person would look at when something is wrong.
    pub async fn story(&self) -> String {
        let of = |arguments: &'static [&'static str]| async {
            let all: Vec<&str> = ["-n", &self.namespace].into_iter().chain(arguments.iter().copied()).collect();
            self.cluster.kubectl(&all).await.unwrap_or_else(|error| format!("{error:#}"))
        };
        let agent = of(&["get", "agd", "-o", "yaml"]).await;
        let objects = of(&["get", "httproutes,deployments,pods,services,endpointslices", "-o", "wide"]).await;
        let events = of(&["events"]).await;
        let log = self.cluster.operator_log(60).await;
        format!("--- agent\n{agent}\n--- objects\n{objects}\n--- events\n{events}\n--- operator\n{log}")
    }

    /// Removes the namespace, without waiting for the end of it. A failed test leaves it for a look at it.
    pub async fn done(self) -> anyhow::Result<()> {
        remove_namespace(&self.cluster.client, &self.namespace).await
    }
}

/// What makes the example's agent fail nine runs of ten, by its dice. A gate that asks for five passes by chance once in 100,000
/// times; were it every other run, once in 32.
pub fn most_fail() -> Value {
    json!({"error_rate": 0.9})
}

/// The cluster's Gateway, as routes name it.
pub fn gateway() -> anyhow::Result<Value> {
    Ok(json!({"name": set("GATEWAY_NAME")?, "namespace": set("GATEWAY_NAMESPACE")?}))
}

/// HTTPRoutes, without Sluice's own idea of them.
pub fn http_routes() -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    ApiResource::from_gvk_with_plural(&kind, "httproutes")
}

/// The launch that runs, or the last one.
pub fn launch(agent: &AgentDeployment) -> Option<&Launch> {
    agent.status.as_ref()?.state.launch.as_ref()
}

/// The stable revision.
pub fn stable(agent: &AgentDeployment) -> Option<&str> {
    Some(&agent.status.as_ref()?.state.stable.as_ref()?.revision)
}

/// A condition as `Status Reason Message`.
pub fn condition(agent: &AgentDeployment, type_: &str) -> String {
    let mut conditions = agent.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.find(|condition| condition.type_ == type_);
    found.map_or_else(|| "absent".to_owned(), |c| format!("{} {} {}", c.status, c.reason, c.message))
}

/// Names and weights of all backends of a route.
pub fn backends(route: &DynamicObject) -> Vec<(String, i64)> {
    route.data["spec"]["rules"].as_array().into_iter().flatten().flat_map(backends_of).collect()
}

/// The same of one rule.
pub fn backends_of(rule: &Value) -> Vec<(String, i64)> {
    let backends = rule["backendRefs"].as_array().into_iter().flatten();
    let read = |backend: &Value| {
        (backend["name"].as_str().unwrap_or_default().to_owned(), backend["weight"].as_i64().unwrap_or(1))
    };
    backends.map(read).collect()
}

/// The share of a route that goes to a revision's own Service, in percent.
pub fn share(route: &DynamicObject, revision: &str) -> i64 {
    let all = backends(route);
    let sum: i64 = all.iter().map(|(_, weight)| weight).sum();
    let own: i64 = all.iter().filter(|(name, _)| name.ends_with(revision)).map(|(_, weight)| weight).sum();
    (100 * own).checked_div(sum).unwrap_or_default()
}
