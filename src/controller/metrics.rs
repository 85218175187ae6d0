//! Sluice's own metrics, `sluice_*`. Labels are bounded: no names of objects, no texts of errors.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A kind of event, such as `WeightRaised` or `RollingBack`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabel {
    /// The event's reason.
    pub decision: &'static str,
}

/// A request to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// get, create, patch, update, delete.
    pub verb: &'static str,
    /// The kind of the object.
    pub kind: &'static str,
}

/// Why a pass failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// A word of [`super::Error::reason`].
    pub reason: &'static str,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PromiseLabel {
    /// Name of the promise.
    pub promise: &'static str,
}

/// Everything the controller counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Decisions by kind.
    pub decisions: Family<DecisionLabel, Counter>,
    /// Requests that read.
    pub reads: Family<RequestLabel, Counter>,
    /// Requests that write.
    pub writes: Family<RequestLabel, Counter>,
    /// Failed passes by reason.
    pub errors: Family<ReasonLabel, Counter>,
    /// Decisions and writes that were refused because they break a promise: each is a bug.
    pub promises_broken: Family<PromiseLabel, Counter>,
    /// Seconds a pass took.
    pub passes: Histogram,
    /// Seconds from the first breaching sample to the accepted write that set weight 0.
    pub breach_to_write: Histogram,
    /// 1 while this process leads.
    pub leader: Gauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            decisions: Family::default(),
            reads: Family::default(),
            writes: Family::default(),
            errors: Family::default(),
            promises_broken: Family::default(),
            passes: Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]),
            breach_to_write: Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 1800.0]),
            leader: Gauge::default(),
        };
        let m = &metrics;
        registry.register("sluice_decisions", "Decisions by kind", m.decisions.clone());
        registry.register("sluice_api_reads", "Requests to the API server that read", m.reads.clone());
        registry.register("sluice_api_writes", "Requests to the API server that write", m.writes.clone());
        registry.register("sluice_reconcile_errors", "Failed passes by reason", m.errors.clone());
        let help = "Decisions and writes refused because they break a promise: each is a bug";
        registry.register("sluice_promises_broken", help, m.promises_broken.clone());
        registry.register("sluice_reconcile_seconds", "Seconds a pass took", m.passes.clone());
        let help = "Seconds from the first breaching sample to the accepted write of weight 0";
        registry.register("sluice_breach_to_write_seconds", help, m.breach_to_write.clone());
        registry.register("sluice_leader", "1 while this process leads", m.leader.clone());
        metrics
    }
}
