//! Leadership: reads and writes the Lease as the [`Elector`] says. Losing it ends the reign; a new leader, which may be the
//! same process, continues from the cluster's state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::calls::LIMIT;
use super::elector::{Act, Elector, LEASE, LeaseView, RENEW_WITHIN};
use crate::traffic::HIGHEST_EPOCH;

/// Name of the Lease.
const NAME: &str = "sluice-controller";
// A canary loses its weight within 20 s after a leader is gone without a word. In the worst case its last renewal is seen
// RETRY late, stood still for LEASE, is found so RETRY late, and the new leader needs 2 s to list and judge: 17 s.
const RETRY: Duration = Duration::from_millis(1500);
const CALL: Duration = Duration::from_secs(2);
const _: () = assert!(
    RENEW_WITHIN.as_millis() + LIMIT.as_millis() < LEASE.as_millis(),
    "the last request of a leader must end before another may lead"
);

/// What the rest of the process knows about leadership.
#[derive(Clone, Debug)]
pub struct Leadership {
    reign: watch::Receiver<Reign>,
    /// The highest epoch that was found on an object.
    found: Arc<watch::Sender<i64>>,
}

/// Until when we lead, if we do, and under which number.
#[derive(Clone, Copy, Debug, Default)]
struct Reign {
    until: Option<Instant>,
    epoch: i64,
}

impl Leadership {
    /// Whether we lead at this instant: asked before every write.
    pub fn holds(&self) -> bool {
        self.reign.borrow().until.is_some_and(|until| Instant::now() < until)
    }

    /// The number of this reign: above the Lease's transitions and every epoch that was found. It is written with every weight.
    pub fn epoch(&self) -> i64 {
        self.reign.borrow().epoch
    }

    /// Waits until we lead.
    pub async fn acquired(&mut self) {
        // An error means that the candidate is gone, which it is only after it led or was told to stop.
        let _ = self.reign.wait_for(|reign| reign.until.is_some()).await;
    }

    /// Tells of an epoch that an object carries. Ours rises above it only with a write of the Lease, which proves that we
    /// lead still: a deposed leader stays below.
    pub fn heard_of(&self, epoch: i64) {
        self.found.send_if_modified(|highest| std::mem::replace(highest, epoch.max(*highest)) < epoch);
    }

    /// Waits until our epoch is above one that was found, or until we lead no more.
    pub async fn above(&self, epoch: i64) {
        self.heard_of(epoch);
        let _ = self.reign.clone().wait_for(|reign| reign.epoch > epoch || reign.until.is_none()).await;
    }
}

#[cfg(test)]
impl Leadership {
    /// A leader's, under this number.
    pub(super) fn under(epoch: i64) -> Self {
        let until = Some(Instant::now() + RENEW_WITHIN);
        Self { reign: watch::channel(Reign { until, epoch }).1, found: Arc::new(watch::channel(0).0) }
    }

    /// The highest epoch that it was told of.
    pub(super) fn found(&self) -> i64 {
        *self.found.borrow()
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
    let (sender, reign) = watch::channel(Reign::default());
    let found = Arc::new(watch::channel(0).0);
    let candidate = Candidate {
        leases: Api::namespaced(client, namespace),
        elector: Elector::new(identity, LEASE, RENEW_WITHIN),
        identity: identity.to_owned(),
        reign: sender,
        found: found.clone(),
    };
    (Leadership { reign, found }, tokio::spawn(candidate.run(stop, lost)))
}

struct Candidate {
    leases: Api<Lease>,
    elector: Elector,
    identity: String,
    reign: watch::Sender<Reign>,
    found: Arc<watch::Sender<i64>>,
}

impl Candidate {
    async fn run(mut self, stop: CancellationToken, lost: CancellationToken) {
        let mut found = self.found.subscribe();
        while !stop.is_cancelled() {
            found.mark_unchanged();
            if let Err(error) = self.turn().await {
                tracing::warn!(%error, "could not keep the Lease");
            }
            let until = self.elector.leads_until(Instant::now());
            let led = self.reign.borrow().until.is_some();
            self.reign.send_modify(|reign| reign.until = until);
            if led && until.is_none() {
                tracing::error!("lost the Lease: this process leads no more");
                lost.cancel();
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = found.changed() => {} // an object carries a higher epoch than ours
                () = stop.cancelled() => {}
            }
        }
        self.release().await;
    }

    /// One read, one decision, one guarded write.
    async fn turn(&mut self) -> Result<(), LeaseError> {
        let highest = i32::try_from(*self.found.borrow()).unwrap_or(i32::MAX - 1);
        let found = timeout(CALL, self.leases.get_opt(NAME)).await??;
        let begun = Instant::now();
        let act = self.elector.step(found.as_ref().map(view), begun);
        let transitions = match (&act, &found) {
            (Act::Wait, _) => return Ok(()),
            (Act::Create(transitions) | Act::TakeOver(transitions), _) => *transitions,
            (Act::Renew, found) => found.as_ref().map_or(0, |lease| view(lease).transitions),
        };
        let before = self.reign.borrow().epoch;
        let lowest = i32::try_from(before).unwrap_or(i32::MAX - 1) - i32::from(found.is_some());
        let transitions = transitions.max(highest).max(lowest); // whoever deletes the Lease, or edits it: numbers only rise
        let transitions = transitions.min(HIGHEST_EPOCH - 1); // beyond it no write of ours would be let in
        let lease = self.lease(found.as_ref(), transitions, &self.identity);
        let params = PostParams::default();
        match found {
            None => timeout(CALL, self.leases.create(&params, &lease)).await??,
            Some(_) => timeout(CALL, self.leases.replace(NAME, &params, &lease)).await??,
        };
        self.elector.wrote(begun);
        let epoch = i64::from(transitions) + 1;
        self.reign.send_modify(|reign| reign.epoch = epoch);
        if epoch != before {
            tracing::info!(epoch, "leading");
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
