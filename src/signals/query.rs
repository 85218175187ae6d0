//! What is asked: one grouped PromQL query per metric and window, for all agents at once.
//!
//! Every query has named parts (the label `sluice_part`) joined with `or`, so that all numbers of one metric are of one
//! instant. It asks for the watched revisions in their namespaces only: agents that do not launch cost nothing, and equal
//! manifests elsewhere, which have equal revisions, disturb nobody.
//! The text is made of what the parser understood, never of what somebody wrote. Must not know thresholds, or who asks.

use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::time::Duration;

use rust_decimal::Decimal;

use crate::api::{Across, MetricDefinition, Series};
use crate::launch::COUNT_SPAN;

use super::selector::{Selector, SelectorError};
use super::source::{PART_LABEL, Source};

/// The numbers of one metric and window, for any revisions. Equal queries are asked once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    kind: Kind,
    /// The window as PromQL writes it; empty for counts and gauges.
    window: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    /// `amount / samples`, both counters: a ratio or a mean.
    Quotient { amount: Selector, samples: Selector },
    /// A quantile of a classic histogram.
    Quantile { histogram: Selector, q: Decimal },
    /// Events since the pods started.
    Count(Selector),
    /// A value across pods.
    Gauge { series: Selector, across: &'static str },
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The value itself: a quantile, a count, a gauge.
    Value,
    /// What is divided by the samples: good or bad events, a sum.
    Amount,
    /// How many events were observed in the window.
    Samples,
    /// Observations that lie within the histogram's finite buckets.
    Within,
    /// Pods that the source sees.
    Pods,
    /// When the oldest of the samples behind a count or a gauge was taken, in seconds since 1970.
    Taken,
}

/// Why a metric cannot be asked for. The API server's rules refuse these; an old object may still hold one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A series is not one.
    #[error(transparent)]
    Series(#[from] SelectorError),
    /// Not exactly one kind.
    #[error("metric {0:?} must be exactly one of ratio, quantile, mean, count, gauge: keep one")]
    NotOneKind(String),
    /// Neither or both of good and bad.
    #[error("metric {0:?} must count either good or bad events: keep one")]
    GoodOrBad(String),
    /// Not a quantile.
    #[error("metric {0:?}: q must lie between 0 and 1, such as \"0.95\"")]
    Quantile(String),
    /// A matcher on the bucket label.
    #[error("metric {0:?}: a histogram's matchers must not name \"le\": remove it")]
    BucketLabel(String),
    /// A rate without a window.
    #[error("metric {0:?} needs a window longer than 0s")]
    Window(String),
}

impl Part {
    const ALL: [Self; 6] = [Self::Value, Self::Amount, Self::Samples, Self::Within, Self::Pods, Self::Taken];

    /// The value of the label `sluice_part`.
    fn label(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Amount => "amount",
            Self::Samples => "samples",
            Self::Within => "within",
            Self::Pods => "pods",
            Self::Taken => "taken",
        }
    }

    /// The part that a label's value names.
    pub(super) fn of(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.label() == label)
    }
}

impl Query {
    /// Understands a metric, to be measured over a window (counts and gauges have none).
    pub fn compile(metric: &MetricDefinition, window: Option<Duration>) -> Result<Self, QueryError> {
        let kind = kind(metric)?;
        let window = match kind {
            Kind::Count(_) | Kind::Gauge { .. } => String::new(),
            Kind::Quotient { .. } | Kind::Quantile { .. } => window
                .filter(|window| window.as_millis() > 0)
                .map(range)
                .ok_or_else(|| QueryError::Window(metric.name.clone()))?,
        };
        Ok(Self { kind, window })
    }

    /// The PromQL text for some revisions in some namespaces of a source.
    pub fn text(&self, source: &Source, namespaces: &BTreeSet<String>, revisions: &BTreeSet<String>) -> String {
        let ask = Ask::new(source, namespaces, revisions);
        let mut parts = self.parts(&ask, &source.presence);
        parts.push((Part::Pods, ask.pods(&source.presence)));
        let parts: Vec<String> = parts
            .into_iter()
            .map(|(part, text)| format!("label_replace({text}, \"{PART_LABEL}\", \"{}\", \"\", \"\")", part.label()))
            .collect();
        parts.join(" or ")
    }

    /// The series that carries the metric, for messages.
    pub(super) fn series(&self) -> &str {
        match &self.kind {
            Kind::Quotient { samples, .. } => samples.metric(),
            Kind::Quantile { histogram, .. } => histogram.metric(),
            Kind::Count(series) | Kind::Gauge { series, .. } => series.metric(),
        }
    }

    fn parts(&self, ask: &Ask, presence: &Selector) -> Vec<(Part, String)> {
        // what has no window may be as old as the last scrape
        let taken = |series: &Selector| (Part::Taken, ask.across("min", &format!("timestamp({})", ask.only(series))));
        let increase = |series: &Selector| format!("increase({}[{}])", ask.only(series), self.window);
        match &self.kind {
            Kind::Quotient { amount, samples } => vec![
                (Part::Amount, ask.across("sum", &increase(amount))),
                (Part::Samples, ask.across("sum", &increase(samples))),
            ],
            Kind::Quantile { histogram, q } => quantile(ask, histogram, *q, &self.window),
            // Not `increase`: that needs two samples and so misses a counter's first event. The largest value of the last
            // hour is the counter itself while its pod lives, and its last scraped value for an hour after; an event shows with
            // the first scrape that saw it. A container that restarts within its pod resets the counter: then the larger of
            // the two lives counts, so a threshold of 0 misses nothing and a higher one may be understated for that pod (the
            // restart itself is what health triggers watch). Events that no scrape saw are in no metrics store.
            Kind::Count(series) => {
                let raw = format!("max_over_time({}[{}])", ask.only(series), range(COUNT_SPAN));
                // of pods, because a counter that never counted has no sample of its own
                vec![(Part::Value, ask.across("sum", &raw)), taken(presence)]
            }
            Kind::Gauge { series, across } => {
                vec![(Part::Value, ask.across(across, &ask.only(series).to_string())), taken(series)]
            }
        }
    }
}

/// The parts of a quantile. `histogram_quantile` answers with the largest finite bucket's bound when the quantile lies
/// beyond it; the part `within` tells the two apart (buckets are cumulative, so the fullest finite one holds all of them).
fn quantile(ask: &Ask, histogram: &Selector, q: Decimal, window: &str) -> Vec<(Part, String)> {
    let buckets = histogram.with_suffix("_bucket");
    let by_bucket = |series: &Selector| format!("sum by ({}, le) (increase({}[{window}]))", ask.by, ask.only(series));
    let count = format!("increase({}[{window}])", ask.only(&histogram.with_suffix("_count")));
    vec![
        (Part::Value, format!("histogram_quantile({q}, {})", by_bucket(&buckets))),
        (Part::Samples, ask.across("sum", &count)),
        (Part::Within, ask.across("max", &by_bucket(&buckets.and("le", "!=", "+Inf")))),
    ]
}

/// What every part of a query shares: whose series, grouped by what.
struct Ask<'a> {
    by: String,
    namespace: &'a str,
    revision: &'a str,
    pod: Option<&'a str>,
    namespaces: String,
    revisions: String,
}

impl<'a> Ask<'a> {
    fn new(source: &'a Source, namespaces: &BTreeSet<String>, revisions: &BTreeSet<String>) -> Self {
        let labels = &source.labels;
        // Hashes are hexadecimal and namespaces DNS labels; anything else could be more than a name.
        let any = |names: &BTreeSet<String>| {
            let plain = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !name.is_empty();
            names.iter().map(String::as_str).filter(plain).collect::<Vec<_>>().join("|")
        };
        Self {
            by: format!("{}, {}, {}", labels.namespace, labels.agent, labels.revision),
            namespace: &labels.namespace,
            revision: &labels.revision,
            pod: labels.pod.as_deref(),
            namespaces: any(namespaces),
            revisions: any(revisions),
        }
    }

    /// The series of the asked revisions only.
    fn only(&self, series: &Selector) -> Selector {
        series.and(self.revision, "=~", &self.revisions).and(self.namespace, "=~", &self.namespaces)
    }

    fn across(&self, how: &str, what: &str) -> String {
        format!("{how} by ({}) ({what})", self.by)
    }

    /// How many pods of each revision the source sees. Of all revisions, so that a preflight can tell "none of yours"
    /// from "none carries a revision".
    fn pods(&self, presence: &Selector) -> String {
        let seen = format!("{} == 1", presence.and(self.revision, "!=", ""));
        match self.pod {
            None => self.across("count", &seen),
            Some(pod) => self.across("count", &format!("count by ({}, {pod}) ({seen})", self.by)),
        }
    }
}

fn kind(metric: &MetricDefinition) -> Result<Kind, QueryError> {
    let name = || metric.name.clone();
    match (&metric.ratio, &metric.quantile, &metric.mean, &metric.count, &metric.gauge) {
        (Some(ratio), None, None, None, None) => match (&ratio.good, &ratio.bad) {
            (Some(part), None) | (None, Some(part)) => {
                Ok(Kind::Quotient { amount: read(part)?, samples: read(&ratio.total)? })
            }
            _ => Err(QueryError::GoodOrBad(name())),
        },
        (None, Some(quantile), None, None, None) => {
            let histogram = read(&quantile.histogram)?;
            if histogram.names("le") {
                return Err(QueryError::BucketLabel(name()));
            }
            let q = Decimal::from_str(&quantile.q).map_err(|_| QueryError::Quantile(name()))?;
            if q <= Decimal::ZERO || q >= Decimal::ONE {
                return Err(QueryError::Quantile(name()));
            }
            Ok(Kind::Quantile { histogram, q: q.normalize() })
        }
        (None, None, Some(mean), None, None) => {
            Ok(Kind::Quotient { amount: read(&mean.sum)?, samples: read(&mean.count)? })
        }
        (None, None, None, Some(count), None) => Ok(Kind::Count(read(&count.series)?)),
        (None, None, None, None, Some(gauge)) => {
            Ok(Kind::Gauge { series: read(&gauge.series)?, across: across(gauge.across) })
        }
        _ => Err(QueryError::NotOneKind(name())),
    }
}

fn read(series: &Series) -> Result<Selector, SelectorError> {
    Selector::parse(&series.0)
}

fn across(across: Across) -> &'static str {
    match across {
        Across::Max => "max",
        Across::Min => "min",
        Across::Sum => "sum",
        Across::Avg => "avg",
    }
}

/// A duration as PromQL writes it.
fn range(window: Duration) -> String {
    let millis = window.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Count, Gauge, Mean, Quantile, Ratio, standard_metrics};
    use crate::signals::parse_sources;

    fn source(more: &str) -> Source {
        parse_sources(&format!("- {{name: default, url: 'http://p:9090'{more}}}")).unwrap().remove(0)
    }

    fn namespaces() -> BTreeSet<String> {
        ["support".to_owned(), "growth-2".to_owned()].into()
    }

    fn revisions() -> BTreeSet<String> {
        ["5ab1e00000".to_owned(), "0c0ffee000".to_owned()].into()
    }

    fn standard(name: &str) -> MetricDefinition {
        standard_metrics().into_iter().find(|m| m.name == name).unwrap()
    }

    fn text(name: &str, more: &str) -> String {
        Query::compile(&standard(name), Some(Duration::from_mins(1))).unwrap().text(
            &source(more),
            &namespaces(),
            &revisions(),
        )
    }

    const PODS: &str = r#"label_replace(count by (namespace, agent, revision) (up{revision!=""} == 1), "sluice_part", "pods", "", "")"#;

    #[test]
    fn each_kind_of_metric_is_one_query_of_named_parts() {
        let who = r#"revision=~"0c0ffee000|5ab1e00000",namespace=~"growth-2|support""#;
        let by = "by (namespace, agent, revision)";
        let part = |text: &str, part: &str| format!(r#"label_replace({text}, "sluice_part", "{part}", "", "")"#);
        let taken = |series: &str| part(&format!("min {by} (timestamp({series}{{{who}}}))"), "taken");
        let runs = r#"{gen_ai_operation_name="invoke_agent","#;
        let histogram = "gen_ai_client_operation_duration_seconds";
        for (name, expected) in [
            (
                "success_rate",
                vec![
                    part(
                        &format!(r#"sum {by} (increase(agent_runs_total{{outcome="success",{who}}}[60s]))"#),
                        "amount",
                    ),
                    part(&format!("sum {by} (increase(agent_runs_total{{{who}}}[60s]))"), "samples"),
                ],
            ),
            (
                "cost_per_success",
                vec![
                    part(&format!("sum {by} (increase(agent_cost_usd_total{{{who}}}[60s]))"), "amount"),
                    part(
                        &format!(r#"sum {by} (increase(agent_runs_total{{outcome="success",{who}}}[60s]))"#),
                        "samples",
                    ),
                ],
            ),
            (
                "latency_p95",
                vec![
                    part(
                        &format!(
                            "histogram_quantile(0.95, sum by (namespace, agent, revision, le) (increase({histogram}_bucket{runs}{who}}}[60s])))"
                        ),
                        "value",
                    ),
                    part(&format!("sum {by} (increase({histogram}_count{runs}{who}}}[60s]))"), "samples"),
                    part(
                        &format!(
                            r#"max {by} (sum by (namespace, agent, revision, le) (increase({histogram}_bucket{runs}le!="+Inf",{who}}}[60s])))"#
                        ),
                        "within",
                    ),
                ],
            ),
            (
                "policy_bypasses",
                vec![
                    part(&format!("sum {by} (max_over_time(agent_policy_bypasses_total{{{who}}}[3600s]))"), "value"),
                    taken("up"),
                ],
            ),
            (
                "approval_backlog_age",
                vec![
                    part(&format!("max {by} (agent_approval_backlog_age_seconds{{{who}}})"), "value"),
                    taken("agent_approval_backlog_age_seconds"),
                ],
            ),
            (
                "runs_in_flight",
                vec![
                    part(&format!("sum {by} (agent_runs_in_flight{{{who}}})"), "value"),
                    taken("agent_runs_in_flight"),
                ],
            ),
        ] {
            assert_eq!(text(name, ""), format!("{} or {PODS}", expected.join(" or ")), "{name}");
        }
    }

    #[test]
    fn labels_presence_and_windows_are_the_sources_and_the_questions() {
        let more =
            r#", presence: 'target_info{job="agents"}', labels: {namespace: ns, agent: app, revision: rev, pod: pod}"#;
        let text = text("runs_in_flight", more);
        assert_eq!(
            text,
            r#"label_replace(sum by (ns, app, rev) (agent_runs_in_flight{rev=~"0c0ffee000|5ab1e00000",ns=~"growth-2|support"}), "sluice_part", "value", "", "") or label_replace(min by (ns, app, rev) (timestamp(agent_runs_in_flight{rev=~"0c0ffee000|5ab1e00000",ns=~"growth-2|support"})), "sluice_part", "taken", "", "") or label_replace(count by (ns, app, rev) (count by (ns, app, rev, pod) (target_info{job="agents",rev!=""} == 1)), "sluice_part", "pods", "", "")"#
        );
        for (window, expected) in [(90_000, "[90s]"), (1500, "[1500ms]"), (3_600_000, "[3600s]")] {
            let query = Query::compile(&standard("success_rate"), Some(Duration::from_millis(window))).unwrap();
            assert!(query.text(&source(""), &namespaces(), &revisions()).contains(expected));
        }
    }

    #[test]
    fn what_cannot_be_a_revision_is_not_asked_for() {
        let query = Query::compile(&standard("policy_bypasses"), None).unwrap();
        let odd = ["abc".to_owned(), ".*".to_owned(), "a|b".to_owned(), "x\"} or y{a=\"".to_owned(), String::new()];
        let text = query.text(&source(""), &odd.clone().into(), &odd.into());
        assert!(text.contains(r#"{revision=~"abc",namespace=~"abc"}"#), "{text}");
    }

    #[test]
    fn the_same_question_of_many_agents_is_one_query() {
        let minute = Some(Duration::from_mins(1));
        let ours = Query::compile(&standard("success_rate"), minute).unwrap();
        let mut renamed = standard("success_rate");
        renamed.name = "theirs".to_owned();
        assert_eq!(Query::compile(&renamed, minute).unwrap(), ours);
        assert_ne!(Query::compile(&renamed, Some(Duration::from_mins(2))).unwrap(), ours);
        let count = standard("policy_bypasses");
        assert_eq!(Query::compile(&count, None), Query::compile(&count, minute));
    }

    #[test]
    fn nothing_breaks_out_of_a_series() {
        let evil = || Series(r#"up{a="b"}[1h])) or sum(secrets{c="d"}"#.to_owned());
        let fine = || Series("fine".to_owned());
        let bare = MetricDefinition { gauge: None, ..standard("runs_in_flight") };
        let minute = Some(Duration::from_mins(1));
        let ratio = |good, bad, total| MetricDefinition { ratio: Some(Ratio { good, bad, total }), ..bare.clone() };
        for metric in [
            ratio(Some(evil()), None, fine()),
            ratio(None, Some(evil()), fine()),
            ratio(Some(fine()), None, evil()),
            MetricDefinition { quantile: Some(Quantile { histogram: evil(), q: "0.5".to_owned() }), ..bare.clone() },
            MetricDefinition { mean: Some(Mean { sum: evil(), count: fine() }), ..bare.clone() },
            MetricDefinition { mean: Some(Mean { sum: fine(), count: evil() }), ..bare.clone() },
            MetricDefinition { count: Some(Count { series: evil() }), ..bare.clone() },
            MetricDefinition { gauge: Some(Gauge { series: evil(), across: Across::Max }), ..bare.clone() },
        ] {
            let error = Query::compile(&metric, minute).unwrap_err();
            assert!(matches!(error, QueryError::Series(_)), "{error}");
        }
    }

    #[test]
    fn a_metric_that_cannot_be_asked_for_is_refused_with_the_mend() {
        let minute = Some(Duration::from_mins(1));
        let quantile = |histogram: &str, q: &str| MetricDefinition {
            quantile: Some(Quantile { histogram: Series(histogram.to_owned()), q: q.to_owned() }),
            ..MetricDefinition { gauge: None, ..standard("runs_in_flight") }
        };
        let both = MetricDefinition { count: standard("policy_bypasses").count, ..standard("runs_in_flight") };
        let mut neither = standard("success_rate");
        neither.ratio.as_mut().unwrap().good = None;
        for (metric, window, expected) in [
            (quantile("h", "0.95) or (x"), minute, "q must lie between 0 and 1"),
            (quantile("h", "1"), minute, "q must lie between 0 and 1"),
            (quantile("h", "0"), minute, "q must lie between 0 and 1"),
            (quantile(r#"h{le="1"}"#, "0.5"), minute, "must not name \"le\": remove it"),
            (both, minute, "must be exactly one of"),
            (neither, minute, "either good or bad"),
            (standard("success_rate"), None, "needs a window longer than 0s"),
            (standard("success_rate"), Some(Duration::ZERO), "needs a window longer than 0s"),
        ] {
            let error = Query::compile(&metric, window).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
