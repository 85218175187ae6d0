//! Sluice with several replicas, and harm to the one that leads: killed, stopped, cut off from the API server. Whatever
//! happens in a test, the replicas are as many as before when it ends, and one of them leads.
//!
//! Processes are stopped by their number, found by their container's id in /proc; packets are dropped in the pod's own
//! network namespace. Both need root on the machine of the local cluster, as the cluster itself does.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail, ensure};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams};
use kube::core::Request;
use kube::runtime::watcher::watch_object;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, PATIENCE, SYSTEM, sum_of, until};

/// One test at a time harms the leader.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The Deployment and the Lease of Sluice.
const DEPLOYMENT: &str = "sluice";
const LEASE: &str = "sluice-controller";

/// Runs a test against so many replicas.
pub async fn with_replicas(
    cluster: &Cluster,
    replicas: i32,
    test: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _turn = TURN.lock().await;
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), SYSTEM);
    let before = deployments.get(DEPLOYMENT).await?.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    scale(cluster, replicas).await?;
    let told = AssertUnwindSafe(test()).catch_unwind().await;
    let restored = scale(cluster, before).await;
    told.unwrap_or_else(|panic| resume_unwind(panic)).and(restored)
}

/// Scales Sluice, and waits until exactly so many pods are there, all ready and one of them leading.
async fn scale(cluster: &Cluster, replicas: i32) -> anyhow::Result<()> {
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), SYSTEM);
    let wish = json!({"spec": {"replicas": replicas}});
    deployments.patch_scale(DEPLOYMENT, &PatchParams::default(), &Patch::Merge(&wish)).await?;
    let (pods, writer) = reflector::store::<Pod>();
    let config = watcher::Config::default().labels("app.kubernetes.io/name=sluice");
    let all = Api::<Pod>::namespaced(cluster.client.clone(), SYSTEM);
    let mut changes = watcher(all, config).default_backoff().reflect(writer).boxed();
    let size = usize::try_from(replicas)?;
    let settling = async {
        while let Some(change) = changes.next().await {
            let listed = !matches!(change, Ok(watcher::Event::Init | watcher::Event::InitApply(_)));
            let pods = pods.state();
            if listed && pods.len() == size && pods.iter().all(|pod| is_ready(pod)) {
                return;
            }
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settling).await;
    settled.map_err(|_| anyhow!("Sluice does not come to {replicas} ready pods: {:?}", names(&pods.state())))?;
    cluster.leader().await.map(drop)
}

fn names(pods: &[Arc<Pod>]) -> Vec<String> {
    pods.iter().map(|pod| format!("{} ready: {}", pod.name_any(), is_ready(pod))).collect()
}

/// Its container runs and is ready, and nobody deletes it.
fn is_ready(pod: &Pod) -> bool {
    let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && containers.any(|container| container.ready)
}

/// The pods that say of themselves that they lead.
pub async fn leaders(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = Request::new(Pod::url_path(&(), Some(SYSTEM)));
    let mut leaders = Vec::new();
    for pod in cluster.operator_pods().await? {
        let name = pod.name_any();
        let request = pods.get(&format!("{name}:8080/proxy/metrics"), &GetParams::default())?;
        let page = cluster.client.request_text(request).await.with_context(|| format!("metrics of {name}"))?;
        if sum_of(&page, "sluice_leader", "") > 0.0 {
            leaders.push(name);
        }
    }
    Ok(leaders)
}

/// Deletes the Lease.
pub async fn delete_the_lease(cluster: &Cluster) -> anyhow::Result<()> {
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), SYSTEM);
    leases.delete(LEASE, &DeleteParams::default()).await?;
    Ok(())
}

/// The process that leads, to be harmed.
pub struct Leader {
    /// Its pod.
    pub pod: String,
    cluster: Cluster,
    pid: String,
    restarts: i32,
    /// The network namespace of its pod; it stays when the process ends.
    network: File,
    /// Where its pod reaches the API server.
    api_server: String,
}

impl Leader {
    /// Finds it.
    pub async fn find(cluster: &Cluster) -> anyhow::Result<Self> {
        let name = cluster.leader().await?;
        let pod = Api::<Pod>::namespaced(cluster.client.clone(), SYSTEM).get(&name).await?;
        let containers = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let container = containers.first().context("the operator has no container")?;
        let id = container.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
        let pid = process_of(id.context("the operator does not run")?)?;
        let network = File::open(format!("/proc/{pid}/ns/net")).context("its network namespace; is this root?")?;
        let kubernetes = Api::<Service>::namespaced(cluster.client.clone(), "default").get("kubernetes").await?;
        let api_server = kubernetes.spec.and_then(|spec| spec.cluster_ip).context("no Service of the API server")?;
        Ok(Self { pod: name, cluster: cluster.clone(), pid, restarts: container.restart_count, network, api_server })
    }

    /// Kills it with SIGKILL, and its pod with it, as if the node had burned down: nobody starts it again under its name, and
    /// it gives nothing back.
    pub async fn kill(self) -> anyhow::Result<Timestamp> {
        let at = Timestamp::now();
        signal("KILL", &self.pid)?;
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), SYSTEM);
        pods.delete(&self.pod, &DeleteParams::default().grace_period(0)).await?;
        Ok(at)
    }

    /// Stops it until what is returned is dropped.
    pub fn stop(&self) -> anyhow::Result<Stopped> {
        let at = Timestamp::now();
        signal("STOP", &self.pid)?;
        Ok(Stopped { pid: self.pid.clone(), at })
    }

    /// Drops every packet between its pod and the API server until what is returned is dropped.
    pub fn cut_off(&self) -> anyhow::Result<CutOff> {
        let network = format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd());
        let cut = CutOff { network: self.network.try_clone()?, at: Timestamp::now() };
        let server = &self.api_server;
        let rules = format!(
            "add table inet {TABLE}\n\
             add chain inet {TABLE} out {{ type filter hook output priority 0; }}\n\
             add chain inet {TABLE} in {{ type filter hook input priority 0; }}\n\
             add rule inet {TABLE} out ip daddr {server} drop\n\
             add rule inet {TABLE} in ip saddr {server} drop\n"
        );
        nft(&network, &rules)?;
        Ok(cut)
    }

    /// Waits until it knows that another leads. Its process lives, and stands as a candidate again.
    pub async fn until_deposed(&self) -> anyhow::Result<()> {
        let began = std::time::Instant::now();
        while leaders(&self.cluster).await?.contains(&self.pod) {
            ensure!(began.elapsed() < PATIENCE, "{} still thinks that it leads", self.pod);
            tokio::time::sleep(std::time::Duration::from_millis(200)).await; // nothing tells when a metric changes
        }
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), SYSTEM);
        let pod = until(&pods, &self.pod, "a candidate again", PATIENCE, is_ready).await?;
        let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        ensure!(containers.all(|container| container.restart_count == self.restarts), "its process ended");
        let leads = self.cluster.leader().await?;
        ensure!(leads != self.pod, "{} leads again", self.pod);
        ensure!(leaders(&self.cluster).await? == [leads], "somebody else thinks that it leads");
        Ok(())
    }

    /// Waits until nothing that its pod had under way when it was cut off can arrive any more.
    pub async fn until_silent(&self) -> anyhow::Result<()> {
        let network = format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd());
        let began = std::time::Instant::now();
        loop {
            let unsent = inside(&network, &["ss", "-Htno", "state", "fin-wait-1"], "")?;
            if unsent.trim().is_empty() {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "connections of a reign that is over:\n{unsent}");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await; // nothing tells when a socket is done
        }
    }
}

const TABLE: &str = "sluice_test_cut_off";

/// A process that stands still, until this is dropped.
pub struct Stopped {
    pid: String,
    /// Since when.
    pub at: Timestamp,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal("CONT", &self.pid); // it may be gone
    }
}

/// A pod that does not reach the API server, until this is dropped.
pub struct CutOff {
    network: File,
    /// Since when.
    pub at: Timestamp,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        let network = format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd());
        if let Err(error) = nft(&network, &format!("delete table inet {TABLE}\n")) {
            println!("could not heal the network: {error:#}");
        }
    }
}

/// The number of a container's first process on this machine.
fn process_of(container: &str) -> anyhow::Result<String> {
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_string_lossy().into_owned();
        let Ok(group) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
        if group.contains(container) {
            return Ok(pid);
        }
    }
    bail!("no process of the container {container} in /proc")
}

fn signal(name: &str, pid: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", name, pid]).status().context("could not run kill")?;
    ensure!(status.success(), "kill -s {name} {pid}: {status}");
    Ok(())
}

fn nft(network: &str, rules: &str) -> anyhow::Result<()> {
    inside(network, &["nft", "-f", "-"], rules).map(drop)
}

/// Runs a program in a network namespace.
fn inside(network: &str, program: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={network}")).args(program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program:?} in {network}: {}\n{complaint}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every version of the Lease, until this is dropped.
pub struct Reigns {
    seen: Arc<Mutex<Vec<(Timestamp, LeaseSpec)>>>,
    _watch: JoinSet<()>,
}

impl Reigns {
    /// Begins to watch.
    pub fn of(cluster: &Cluster) -> Self {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (written, leases) = (seen.clone(), Api::<Lease>::namespaced(cluster.client.clone(), SYSTEM));
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            let mut versions = watch_object(leases, LEASE).default_backoff().boxed();
            while let Some(version) = versions.next().await {
                if let Ok(Some(Lease { spec: Some(spec), .. })) = version {
                    written.lock().unwrap_or_else(PoisonError::into_inner).push((Timestamp::now(), spec));
                }
            }
        });
        Self { seen, _watch: watch }
    }

    /// Who held it after an instant, one after the other, each with the instant and its number.
    pub fn after(&self, instant: Timestamp) -> Vec<(Timestamp, String, i32)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let holders = seen.into_iter().filter(|(at, _)| *at > instant);
        let read = |(at, spec): (Timestamp, LeaseSpec)| {
            (at, spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or_default())
        };
        let mut all: Vec<_> = holders.map(read).collect();
        all.dedup_by(|new, old| (&new.1, new.2) == (&old.1, old.2));
        all
    }

    /// When somebody else than this pod took it.
    pub fn taken_from(&self, pod: &str, instant: Timestamp) -> anyhow::Result<Timestamp> {
        let after = self.after(instant);
        let taken = after.iter().find(|(_, holder, _)| holder != pod && !holder.is_empty());
        taken.map(|(at, ..)| *at).with_context(|| format!("nobody took the Lease from {pod}: {after:?}"))
    }
}
