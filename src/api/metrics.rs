//! What an agent may measure: structured metrics instead of query strings, so that tenants cannot read each other's data.

use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// Where the agent's metrics come from and how they are made of series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.interval) || duration(self.interval) >= duration('1s') && duration(self.interval) <= duration('1m')").message("interval must be 1s to 1m: triggers sleep in between").field_path(".interval"))]
pub struct Metrics {
    /// The metrics source, by the name the administrator gave it in Sluice's configuration. `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ref: Option<SourceRef>,
    /// How often a launch is measured: 1s to 1m, 10s when absent. Triggers see nothing in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub interval: Option<Duration>,
    /// Metrics of this agent, and standard metrics that it overrides by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub define: Vec<MetricDefinition>,
}

/// Names a metrics source of Sluice's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SourceRef {
    /// Name of the source.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// One metric: a name and exactly one of `ratio`, `quantile`, `mean`, `count`, `gauge`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.ratio), has(self.quantile), has(self.mean), has(self.count), has(self.gauge)].filter(x, x).size() == 1").message("a metric is exactly one of ratio, quantile, mean, count, gauge: keep one"))]
pub struct MetricDefinition {
    /// Name by which gates and triggers use it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([a-z0-9_]*[a-z0-9])?$"))]
    pub name: String,
    /// A share of events: `good / total` or `bad / total`, counted over the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// A quantile of a classic histogram, over the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<Quantile>,
    /// An amount per event: `sum / count`, over the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Mean>,
    /// A number of events since the pods started (not over a window, so that the first event is never missed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// A value that goes up and down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gauge: Option<Gauge>,
}

impl MetricDefinition {
    /// Counts and gauges have no window: what is not seen now was never seen.
    pub fn is_instant(&self) -> bool {
        self.count.is_some() || self.gauge.is_some()
    }
}

/// A series: a metric name with optional label matchers, such as `refunds_total{result="match"}`. Not an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Series(
    #[schemars(
        length(min = 1, max = 256),
        regex(
            pattern = r#"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*(=|!=|=~|!~)"[^"\\\n{}]*"(,\s*[a-zA-Z_][a-zA-Z0-9_]*(=|!=|=~|!~)"[^"\\\n{}]*")*)?\})?$"#
        )
    )]
    pub String,
);

/// A share of events.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.good) != has(self.bad)").message("a ratio counts either good or bad events: keep one"))]
pub struct Ratio {
    /// Counter of the good events. The metric's value is good / total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Series>,
    /// Counter of the bad events. The metric's value is bad / total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<Series>,
    /// Counter of all events.
    pub total: Series,
}

/// A quantile of a classic histogram.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Quantile {
    /// The histogram without its `_bucket` suffix.
    pub histogram: Series,
    /// The quantile between 0 and 1, quoted: `"0.95"`.
    #[schemars(length(max = 8), regex(pattern = r"^0?\.[0-9]{1,5}$"))]
    pub q: String,
}

/// An amount per event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Mean {
    /// Counter that sums the amount.
    pub sum: Series,
    /// Counter of the events.
    pub count: Series,
}

/// A number of events.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// The counter. Absent series count 0 when every ready pod of the revision is seen by the source.
    pub series: Series,
}

/// A value that goes up and down.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Gauge {
    /// The gauge.
    pub series: Series,
    /// How the pods of a revision become one number: `Max` (default), `Min`, `Sum` or `Avg`.
    #[serde(default)]
    pub across: Across,
}

/// How the pods of a revision become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Across {
    /// The largest.
    #[default]
    Max,
    /// The smallest.
    Min,
    /// The sum.
    Sum,
    /// The average.
    Avg,
}
