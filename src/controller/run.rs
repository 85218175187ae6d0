//! Wiring: clients, leadership, watches, sampler, server, and the order in which they stop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
use super::metrics::Metrics;
use super::{begin, caches, leader, plans, reconcile};
use crate::server::{self, Shown};
use crate::signals::{Sampler, SamplerMetrics};

/// A cluster without HTTPRoutes or LaunchPlans is asked again so often; there is nothing to watch before.
const KINDS_AGAIN: Duration = Duration::from_mins(1);

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

/// Runs until `stop`, or until leadership is lost (an error, so that the process is started again).
pub async fn run(config: Config, identity: Identity, stop: CancellationToken) -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let sampler_metrics = SamplerMetrics::default();
    sampler_metrics.register(&mut registry);
    let shown = Shown { registry: Arc::new(registry), ready: Arc::new(AtomicBool::new(false)) };
    let (end, lost) = (CancellationToken::new(), CancellationToken::new());
    let server = tokio::spawn(server::serve(identity.address, shown.clone(), end.clone()));

    tokio::select! { // readiness means that the API server answers
        answered = begin::api_server_answers(&client) => answered?,
        () = stop.cancelled() => return Ok(()),
    }
    let mut missed = false;
    let candidacy = CancellationToken::new();
    let lease_client = Client::try_default().await?;
    let (mut leadership, candidate) =
        leader::stand(lease_client, &identity.namespace, &identity.pod, candidacy.clone(), lost.clone());
    shown.ready.store(true, Ordering::Relaxed); // a candidate is ready: it waits for its turn
    tokio::select! {
        () = leadership.acquired() => {
            metrics.leader.set(1);
            let halt = CancellationToken::new();
            let calls = Calls { metrics: metrics.clone(), leadership };
            let kinds = kinds(&client).await?;
            let watched = client.clone();
            let work = Work { client, config, pod: identity.pod, calls, sampler_metrics, ready: shown.ready.clone() };
            let work = work.lead(kinds, halt.clone());
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => result?,
                () = stop.cancelled() => { halt.cancel(); work.await?; }
                () = lost.cancelled() => {}
                () = until_more(watched, kinds), if !(kinds.routes && kinds.plans) => {
                    halt.cancel();
                    work.await?;
                    missed = true;
                }
            }
            metrics.leader.set(0);
        }
        () = stop.cancelled() => {}
    }

    candidacy.cancel();
    candidate.await?;
    end.cancel();
    server.await??;
    if missed {
        anyhow::bail!("the cluster has HTTPRoutes or LaunchPlans now; a new start watches them");
    }
    if lost.is_cancelled() {
        anyhow::bail!("leadership was lost; a new start continues from the cluster's state");
    }
    Ok(())
}

/// What a leader works with.
struct Work {
    client: Client,
    config: Config,
    pod: String,
    calls: Calls,
    sampler_metrics: SamplerMetrics,
    ready: Arc<AtomicBool>,
}

impl Work {
    /// The controller and the sampler, until `halt`; passes that run are finished.
    async fn lead(self, kinds: Kinds, halt: CancellationToken) -> anyhow::Result<()> {
        let Self { client, config, pod, calls, sampler_metrics, ready } = self;
        ready.store(false, Ordering::Relaxed);
        if !kinds.plans {
            tracing::warn!("the cluster has no LaunchPlans: apply Sluice's CRDs (charts/sluice/crds)");
        }
        if !kinds.routes {
            tracing::warn!("the cluster has no HTTPRoutes: agents with a gateway cannot be launched");
        }
        let (wake, woken) = mpsc::channel(1024);
        let sampler = Arc::new(Sampler::new(config.sources, wake, sampler_metrics, Timestamp::now)?);
        let (sampling, until) = (sampler.clone(), halt.clone());
        let mut sampling = tokio::spawn(async move { sampling.run(until).await });

        let (controller, caches) = caches::watch(&client, kinds);
        let reporter = Reporter { controller: "sluice".to_owned(), instance: Some(pod) };
        let recorder = Recorder::new(client.clone(), reporter);
        let ctx = Arc::new(Context {
            client,
            caches: caches.clone(),
            calls,
            recorder,
            sampler,
            clock: Timestamp::now,
            freeze: plans::parse(&config.freeze)?,
            memory: Mutex::default(),
            begun: OnceCell::new(),
        });
        let wakes = futures::stream::unfold(woken, |mut woken| async {
            let (namespace, name): (String, String) = woken.recv().await?;
            Some((ObjectRef::new(&name).within(&namespace), woken))
        });

        tokio::spawn(async move {
            if caches.ready().await.is_ok() {
                ready.store(true, Ordering::Relaxed);
            }
        });
        let config = controller::Config::default().concurrency(config.concurrency);
        let passes = controller
            .with_config(config)
            .reconcile_on(wakes)
            .graceful_shutdown_on(halt.cancelled_owned())
            .run(reconcile::reconcile_when_ready, reconcile::again, ctx)
            .for_each(|result| async {
                if let Err(controller::Error::QueueError(error)) = result {
                    tracing::warn!(%error, "a watch failed; it begins anew");
                }
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
async fn until_more(client: Client, before: Kinds) {
    loop {
        tokio::time::sleep(KINDS_AGAIN).await;
        let now = kinds(&client).await.unwrap_or(before);
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
