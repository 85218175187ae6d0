//! Every request to the API server goes through here: a time-out, a count, and for writes the question whether we lead.

use std::future::Future;
use std::time::Duration;

use super::Error;
use super::leader::Leadership;
use super::metrics::{Metrics, RequestLabel};

/// No request may take longer: less than a new leader waits after our last renewal.
pub(super) const LIMIT: Duration = Duration::from_secs(4);

/// What every request needs.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) metrics: Metrics,
    pub(crate) leadership: Leadership,
}

impl Calls {
    /// A request that reads.
    pub(crate) async fn read<T>(
        &self,
        kind: &'static str,
        name: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        self.metrics.reads.get_or_create(&RequestLabel { verb: "get", kind }).inc();
        bounded("read", kind, name, request).await
    }

    /// A request that writes; it is refused when we do not lead.
    pub(crate) async fn write<T>(
        &self,
        verb: &'static str,
        kind: &'static str,
        name: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        if !self.leadership.holds() {
            return Err(Error::NotLeading);
        }
        self.metrics.writes.get_or_create(&RequestLabel { verb, kind }).inc();
        bounded(verb, kind, name, request).await
    }
}

async fn bounded<T>(
    verb: &'static str,
    kind: &str,
    name: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    let what = || format!("{kind} {name}");
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api { verb, what: what(), source: Box::new(source) }),
        Err(_) => Err(Error::Slow { verb, what: what(), limit: LIMIT }),
    }
}
