//! Leadership: reads and writes the Lease as the [`Elector`] says. Losing it ends the process; a new leader continues
//! from the cluster's state.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::elector::{Act, Elector, LeaseView};

/// Name of the Lease.
const NAME: &str = "sluice-controller";
const LEASE: Duration = Duration::from_secs(15);
const RENEW_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(4);

/// What the rest of the process knows about leadership.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
    epoch: Arc<AtomicI64>,
}

impl Leadership {
    /// Whether we lead at this instant: asked before every write.
    pub fn holds(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// The number of this reign: one more than the Lease's transitions. It is written with every weight.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Waits until we lead.
    pub async fn acquired(&mut self) {
        // An error means that the candidate is gone, and with it the process: nobody is left to wait.
        let _ = self.until.wait_for(Option::is_some).await;
    }
}

/// Stands as a candidate until `stop`, then releases the Lease. Cancels `lost` when leadership was had and is gone.
pub fn stand(
    client: Client,
    namespace: &str,
    identity: &str,
    stop: CancellationToken,
    lost: CancellationToken,
) -> (Leadership, tokio::task::JoinHandle<()>) {
    let (sender, until) = watch::channel(None);
    let epoch = Arc::new(AtomicI64::new(0));
    let candidate = Candidate {
        leases: Api::namespaced(client, namespace),
        elector: Elector::new(identity, LEASE, RENEW_WITHIN),
        identity: identity.to_owned(),
        until: sender,
        epoch: epoch.clone(),
    };
    (Leadership { until, epoch }, tokio::spawn(candidate.run(stop, lost)))
}

struct Candidate {
    leases: Api<Lease>,
    elector: Elector,
    identity: String,
    until: watch::Sender<Option<Instant>>,
    epoch: Arc<AtomicI64>,
}

impl Candidate {
    async fn run(mut self, stop: CancellationToken, lost: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.turn().await {
                tracing::warn!(%error, "could not keep the Lease");
            }
            let until = self.elector.leads_until(Instant::now());
            let led = self.until.borrow().is_some();
            self.until.send_replace(until);
            if led && until.is_none() {
                tracing::error!("lost the Lease: stopping");
                lost.cancel();
                return;
            }
            tokio::select! { () = tokio::time::sleep(RETRY) => {}, () = stop.cancelled() => {} }
        }
        self.release().await;
    }

    /// One read, one decision, one guarded write.
    async fn turn(&mut self) -> Result<(), LeaseError> {
        let found = timeout(CALL, self.leases.get_opt(NAME)).await??;
        let begun = Instant::now();
        let act = self.elector.step(found.as_ref().map(view), begun);
        let transitions = match (&act, &found) {
            (Act::Wait, _) => return Ok(()),
            (Act::TakeOver(transitions), _) => *transitions,
            (Act::Renew, Some(lease)) => view(lease).transitions,
            (Act::Create | Act::Renew, _) => 0,
        };
        let lease = self.lease(found.as_ref(), transitions, &self.identity);
        let params = PostParams::default();
        match found {
            None => timeout(CALL, self.leases.create(&params, &lease)).await??,
            Some(_) => timeout(CALL, self.leases.replace(NAME, &params, &lease)).await??,
        };
        self.elector.wrote(begun);
        self.epoch.store(i64::from(transitions) + 1, Ordering::Relaxed);
        if act != Act::Renew {
            tracing::info!(epoch = transitions + 1, "leading");
        }
        Ok(())
    }

    /// The Lease as we want it; the version that was read guards the write.
    fn lease(&self, found: Option<&Lease>, transitions: i32, holder: &str) -> Lease {
        let before = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let kept = before.holder_identity.as_deref() == Some(self.identity.as_str());
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version: found.and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                lease_transitions: Some(transitions),
                acquire_time: before.acquire_time.filter(|_| kept).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets the next leader start at once.
    async fn release(&self) {
        if self.elector.leads_until(Instant::now()).is_none() {
            return;
        }
        let release = async {
            let Some(found) = self.leases.get_opt(NAME).await? else { return Ok(()) };
            let record = view(&found);
            if record.holder == self.identity {
                let lease = self.lease(Some(&found), record.transitions, "");
                self.leases.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(CALL, release).await {
            Ok(Ok(())) => tracing::info!("released the Lease"),
            Ok(Err(error)) => tracing::warn!(%error, "could not release the Lease"),
            Err(_) => tracing::warn!("could not release the Lease in time"),
        }
    }
}

fn view(lease: &Lease) -> LeaseView {
    let spec = lease.spec.clone().unwrap_or_default();
    LeaseView {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the API server did not answer in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the API server refused: {0}")]
    Refused(#[from] kube::Error),
}
