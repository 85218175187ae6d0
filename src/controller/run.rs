//! Wiring: clients, leadership, watches, sampler, server, and the order in which they stop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::core::GroupVersionKind;
use kube::runtime::controller;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, discovery};
use prometheus_client::registry::Registry;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use super::caches::Kinds;
use super::calls::Calls;
use super::config::Config;
use super::context::Context;
use super::elector::LEASE;
use super::metrics::Metrics;
use super::{begin, caches, leader, nobody, plans, reconcile};
use crate::server::{self, Shown};
use crate::signals::{Sampler, SamplerMetrics};

/// A cluster without HTTPRoutes or LaunchPlans is asked again so often; there is nothing to watch before.
const KINDS_AGAIN: Duration = Duration::from_mins(1);

/// Whoever loses the Lease sooner than this, or cannot begin to lead for so long, leaves it to others for a moment.
const SHORT_REIGN: Duration = Duration::from_secs(30);

/// Who and where this process is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the pod.
    pub pod: String,
    /// Its namespace, where the Lease is.
    pub namespace: String,
    /// Where health and metrics are served.
    pub address: SocketAddr,
}

/// Runs until `stop`. A process that leads no more does not end, for whoever ends is started again later and later: it stands
/// as a candidate again, with nothing of its former reign.
pub async fn run(config: Config, identity: Identity, stop: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let sampler_metrics = SamplerMetrics::default();
    sampler_metrics.register(&mut registry);
    let shown = Shown { registry: Arc::new(registry), ready: Arc::new(AtomicBool::new(false)) };
    let end = CancellationToken::new();
    let server = tokio::spawn(server::serve(identity.address, shown.clone(), end.clone()));

    let process = Process { config, identity, metrics, sampler_metrics, ready: shown.ready };
    while !stop.is_cancelled() {
        process.stand(&stop).await?;
    }
    end.cancel();
    Ok(server.await??)
}

/// How a reign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was told to end, or lost the Lease.
    Told,
    /// It could not begin: the API server does not tell it which kinds there are.
    Unable,
}

/// What lasts as long as the process.
struct Process {
    config: Config,
    identity: Identity,
    metrics: Metrics,
    sampler_metrics: SamplerMetrics,
    ready: Arc<AtomicBool>,
}

impl Process {
    /// One candidacy and the reign that follows. Its clients are its own: what a former one had under way goes with its
    /// connections.
    async fn stand(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        self.ready.store(false, Ordering::Relaxed);
        let (client, lease_client) = (Client::try_default().await?, Client::try_default().await?);
        tokio::select! { // readiness means that the API server answers
            _ = begin::answered(|| client.apiserver_version()) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let (candidacy, lost) = (CancellationToken::new(), CancellationToken::new());
        let Identity { pod, namespace, .. } = &self.identity;
        let (mut leadership, candidate) = leader::stand(lease_client, namespace, pod, candidacy.clone(), lost.clone());
        self.ready.store(true, Ordering::Relaxed); // a candidate is ready: it waits for its turn
        tokio::select! {
            () = leadership.acquired() => {}
            () = stop.cancelled() => {}
        }
        let begun = Instant::now();
        let ended = if leadership.holds() {
            let calls = Calls { metrics: self.metrics.clone(), leadership };
            self.reign(&client, calls, stop, &lost).await
        } else {
            Ok(Ended::Told)
        };
        self.metrics.leader.set(0);
        candidacy.cancel();
        candidate.await?;
        let ended = ended?;
        if ended == Ended::Unable || lost.is_cancelled() && begun.elapsed() < SHORT_REIGN {
            tokio::select! { // it cannot keep, or use, what it takes: another may be better off
                () = tokio::time::sleep(LEASE) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Leads until `stop`, until leadership is `lost`, or until the cluster has a kind that it lacked.
    async fn reign(
        &self,
        client: &Client,
        calls: Calls,
        stop: &CancellationToken,
        lost: &CancellationToken,
    ) -> anyhow::Result<Ended> {
        self.ready.store(false, Ordering::Relaxed);
        let kinds = tokio::select! {
            kinds = begin::answered(|| kinds(client)) => kinds,
            () = tokio::time::sleep(SHORT_REIGN) => return Ok(Ended::Unable),
            () = stop.cancelled() => return Ok(Ended::Told),
            () = lost.cancelled() => return Ok(Ended::Told),
        };
        self.metrics.leader.set(1);
        let halt = CancellationToken::new();
        let _halts = halt.clone().drop_guard(); // the sampler too, however the reign ends
        let work = self.work(client.clone(), kinds, calls, halt.clone());
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => result?,
            () = stop.cancelled() => { halt.cancel(); work.await?; }
            () = lost.cancelled() => {} // what it had under way is dropped: another may lead
            () = until_more(client, kinds), if !(kinds.routes && kinds.plans) => {
                tracing::info!("the cluster has HTTPRoutes or LaunchPlans now: they are watched from here on");
                halt.cancel();
                work.await?;
            }
        }
        Ok(Ended::Told)
    }

    /// The controller and the sampler, until `halt`; passes that run are finished.
    async fn work(&self, client: Client, kinds: Kinds, calls: Calls, halt: CancellationToken) -> anyhow::Result<()> {
        if !kinds.plans {
            tracing::warn!("the cluster has no LaunchPlans: apply Sluice's CRDs (charts/sluice/crds)");
        }
        if !kinds.routes {
            tracing::warn!("the cluster has no HTTPRoutes: agents with a gateway cannot be launched");
        }
        let (wake, woken) = mpsc::channel(1024);
        let sources = self.config.sources.clone();
        let sampler = Arc::new(Sampler::new(sources, wake, self.sampler_metrics.clone(), Timestamp::now)?);
        let (sampling, until) = (sampler.clone(), halt.clone());
        let mut sampling = tokio::spawn(async move { sampling.run(until).await });

        let (controller, caches) = caches::watch(&client, kinds);
        let reporter = Reporter { controller: "sluice".to_owned(), instance: Some(self.identity.pod.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let ctx = Arc::new(Context {
            client,
            caches: caches.clone(),
            calls,
            recorder,
            sampler,
            clock: Timestamp::now,
            freeze: plans::parse(&self.config.freeze)?,
            memory: Mutex::default(),
            begun: OnceCell::new(),
        });
        let wakes = futures::stream::unfold(woken, |mut woken| async {
            let (namespace, name): (String, String) = woken.recv().await?;
            Some((ObjectRef::new(&name).within(&namespace), woken))
        });

        let ready = self.ready.clone();
        tokio::spawn(async move {
            if caches.ready().await.is_ok() {
                ready.store(true, Ordering::Relaxed);
            }
        });
        let config = controller::Config::default().concurrency(self.config.concurrency);
        let passes = controller
            .with_config(config)
            .reconcile_on(wakes)
            .graceful_shutdown_on(halt.cancelled_owned())
            .run(reconcile::reconcile_when_ready, reconcile::again, ctx.clone())
            .for_each(|result| {
                match result {
                    Err(controller::Error::QueueError(error)) => {
                        tracing::warn!(%error, "a watch failed; it begins anew");
                    }
                    Err(controller::Error::ObjectNotFound(agent)) => {
                        let key = (agent.namespace.unwrap_or_default(), agent.name);
                        ctx.forget(&key); // also where no pass saw it go
                        tokio::spawn(nobody::about_nobody(ctx.clone(), key)); // it asks before it writes whether we lead
                    }
                    _ => {}
                }
                futures::future::ready(())
            });
        tokio::pin!(passes);
        tokio::select! {
            () = &mut passes => sampling.await?,
            ended = &mut sampling => { // it ends only when it is told to, or in a bug: without it triggers are blind
                ended?;
                passes.await;
            }
        }
        Ok(())
    }
}

/// Ends the work when the cluster gets a kind that it lacked, so that it begins anew with a watch of it.
async fn until_more(client: &Client, before: Kinds) {
    loop {
        tokio::time::sleep(KINDS_AGAIN).await;
        let now = kinds(client).await.unwrap_or(before);
        if (now.routes && !before.routes) || (now.plans && !before.plans) {
            return;
        }
    }
}

/// What the cluster knows.
async fn kinds(client: &Client) -> kube::Result<Kinds> {
    let route = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let plan = GroupVersionKind::gvk(crate::api::GROUP, "v1alpha1", "LaunchPlan");
    Ok(Kinds { routes: knows(client, &route).await?, plans: knows(client, &plan).await? })
}

/// Whether the cluster knows a kind.
async fn knows(client: &Client, kind: &GroupVersionKind) -> kube::Result<bool> {
    match discovery::pinned_kind(client, kind).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Discovery(kube::error::DiscoveryError::MissingKind(_))) => Ok(false),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
