//! What the sampler tells about itself. Labels are bounded: sources are the administrator's, kinds are words of the code.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;

/// From a quick answer to the longest time-out.
const SECONDS: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// Counters of the sampler. Clones count together.
#[derive(Clone, Debug)]
pub struct SamplerMetrics {
    queries: Family<OfSource, Counter>,
    failures: Family<OfFailure, Counter>,
    duration: Family<OfSource, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    source: String,
    kind: &'static str,
}

impl Default for SamplerMetrics {
    fn default() -> Self {
        Self {
            queries: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        }
    }
}

impl SamplerMetrics {
    /// Adds the metrics to a registry, under the names `sluice_sampler_*`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("sluice_sampler_queries", "Queries sent to metrics sources", self.queries.clone());
        registry.register(
            "sluice_sampler_query_failures",
            "Queries that brought no usable answer, by kind",
            self.failures.clone(),
        );
        registry.register(
            "sluice_sampler_query_duration_seconds",
            "How long metrics sources took to answer or fail",
            self.duration.clone(),
        );
    }

    /// Counts a query. `failure` is a word of [`super::ClientError::kind`].
    pub(super) fn asked(&self, source: &str, took: std::time::Duration, failure: Option<&'static str>) {
        let of = OfSource { source: source.to_owned() };
        self.queries.get_or_create(&of).inc();
        self.duration.get_or_create(&of).observe(took.as_secs_f64());
        if let Some(kind) = failure {
            let source = of.source;
            self.failures.get_or_create(&OfFailure { source, kind }).inc();
        }
    }
}
