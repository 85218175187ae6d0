//! How an answer is read: rows of floats become exact numbers by revision, once and for all.
//!
//! A float that is not a number, a row that is there twice, a missing label: each has its own word here, and none of
//! them can become a number. Must not judge.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use rust_decimal::Decimal;
use rust_decimal::prelude::FromPrimitive as _;
use serde::Deserialize;

use crate::api::{Across, MetricDefinition};

use super::query::Part;
use super::source::{Labels, PART_LABEL, Source};

/// Significant digits of a number that is read; more would be the noise of floats.
const DIGITS_READ: u32 = 12;
/// Significant digits of a quotient, fewer than those read, so that 198/200 is 0.99 whatever the noise.
const DIGITS_KEPT: u32 = 9;

/// Whose a sample is: namespace, agent, revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionKey {
    /// The agent's namespace.
    pub namespace: String,
    /// The agent's name.
    pub agent: String,
    /// The revision's hash.
    pub revision: String,
}

/// One number of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// A number.
    Exact(Decimal),
    /// An infinity, or a number beyond all sense.
    NotANumber,
    /// `NaN`: a quantile or a mean of nothing.
    OfNothing,
    /// Several series where one was expected.
    Several,
}

/// Of a sum or a mean one pod without a number hides all others.
const HIDDEN_BY_NAN: &str =
    "a pod's series is NaN, as that of an idle pod may be; `across: Max` and `across: Min` leave such pods out";

/// The numbers of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample(BTreeMap<Part, Number>);

/// What a source answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    samples: BTreeMap<RevisionKey, Sample>,
    /// The source said that something was wrong with the data; perhaps a part is missing.
    pub warned: bool,
}

/// Why an answer was not understood. Never holds what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not the JSON of a query's answer.
    #[error("it is not the answer of a Prometheus query API")]
    Shape,
    /// The query failed.
    #[error("the source reports an error")]
    Failed,
    /// Not an instant vector.
    #[error("it is not a vector")]
    NotAVector,
}

/// What one revision's metric is, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The metric's value.
    pub value: Value,
    /// How many events it is made of. `None` for counts and gauges.
    pub samples: Option<Number>,
    /// How many pods the source sees.
    pub pods: i64,
}

/// A metric's value, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Known.
    Known(Decimal),
    /// Larger than this: the quantile lies beyond the histogram's largest finite bucket.
    Beyond(Decimal),
    /// No series.
    Absent,
    /// Not to be used: why.
    Unusable(&'static str),
}

#[derive(Deserialize)]
struct Envelope {
    status: String,
    data: Option<Data>,
    #[serde(default)]
    warnings: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    #[serde(default)]
    result: serde_json::Value,
}

/// A row of a vector. Those of native histograms have no `value`.
#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    value: Option<(f64, String)>,
}

impl Answer {
    /// Reads the body of an answer.
    pub fn parse(body: &[u8], labels: &Labels) -> Result<Self, AnswerError> {
        let envelope: Envelope = serde_json::from_slice(body).map_err(|_| AnswerError::Shape)?;
        if envelope.status != "success" {
            return Err(AnswerError::Failed);
        }
        let data = envelope.data.ok_or(AnswerError::Shape)?;
        if data.result_type != "vector" {
            return Err(AnswerError::NotAVector);
        }
        let rows: Vec<Row> = serde_json::from_value(data.result).map_err(|_| AnswerError::Shape)?;
        let mut answer =
            Self { samples: BTreeMap::new(), warned: envelope.warnings.is_some_and(|warnings| !warnings.is_empty()) };
        for row in rows {
            answer.add(&row, labels);
        }
        Ok(answer)
    }

    /// The numbers of a revision; no row for it means no numbers.
    pub fn of(&self, key: &RevisionKey) -> Sample {
        self.samples.get(key).cloned().unwrap_or_default()
    }

    /// How many revisions it speaks of.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether it speaks of nobody.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Adds a row; one that does not say whose it is belongs to nobody.
    fn add(&mut self, row: &Row, labels: &Labels) {
        let label = |name: &str| row.metric.get(name).filter(|value| !value.is_empty()).cloned();
        let key = (label(&labels.namespace), label(&labels.agent), label(&labels.revision));
        let (Some(namespace), Some(agent), Some(revision)) = key else {
            return;
        };
        let Some(part) = label(PART_LABEL).as_deref().and_then(Part::of) else {
            return;
        };
        let key = RevisionKey { namespace, agent, revision };
        let number = row.value.as_ref().map_or(Number::NotANumber, |(_, text)| Number::read(text));
        self.samples
            .entry(key)
            .or_default()
            .0
            .entry(part)
            .and_modify(|known| *known = Number::Several)
            .or_insert(number);
    }
}

impl Number {
    /// The one place where a float becomes a decimal.
    fn read(text: &str) -> Self {
        if text == "NaN" {
            return Self::OfNothing;
        }
        text.parse::<f64>()
            .ok()
            .filter(|float| float.is_finite())
            .and_then(Decimal::from_f64)
            .and_then(|number| number.round_sf(DIGITS_READ))
            .map_or(Self::NotANumber, |number| Self::Exact(number.normalize()))
    }
}

impl Sample {
    /// A sample of some numbers.
    pub fn new(numbers: impl IntoIterator<Item = (Part, Number)>) -> Self {
        Self(numbers.into_iter().collect())
    }

    /// What the numbers say of a metric.
    pub fn reading(&self, metric: &MetricDefinition) -> Reading {
        Reading {
            value: if metric.ratio.is_some() {
                // A counter of good or bad events that never counted has no series: with events observed that is zero.
                self.quotient(Some(Decimal::ZERO))
            } else if metric.mean.is_some() {
                // A sum without series is not known to be zero: an amount per event needs both.
                self.quotient(None)
            } else {
                self.value(metric)
            },
            samples: if metric.is_instant() { None } else { self.0.get(&Part::Samples).copied() },
            pods: self.pods(),
        }
    }

    /// When the oldest sample behind a gauge was taken, if that was asked.
    pub fn taken(&self) -> Option<Timestamp> {
        let seconds = self.part(Part::Taken).ok()??;
        let millis = seconds.checked_mul(Decimal::ONE_THOUSAND)?.trunc();
        Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()
    }

    /// Pods that the source sees; what is not a number is none.
    fn pods(&self) -> i64 {
        match self.0.get(&Part::Pods) {
            Some(Number::Exact(pods)) => i64::try_from(pods.trunc()).unwrap_or(0).max(0),
            _ => 0,
        }
    }

    fn quotient(&self, absent: Option<Decimal>) -> Value {
        let amount = match (self.part(Part::Amount), absent) {
            (Ok(Some(amount)), _) | (Ok(None), Some(amount)) => amount,
            (Ok(None), None) => return Value::Absent,
            (Err(why), _) => return Value::Unusable(why),
        };
        match self.part(Part::Samples) {
            Ok(None) => Value::Absent,
            Ok(Some(samples)) if samples.is_zero() => Value::Absent,
            Ok(Some(samples)) => amount
                .checked_div(samples)
                .and_then(|value| value.round_sf(DIGITS_KEPT))
                .map_or(Value::Unusable("the numbers are too large"), |value| Value::Known(value.normalize())),
            Err(why) => Value::Unusable(why),
        }
    }

    fn value(&self, metric: &MetricDefinition) -> Value {
        if let (Some(gauge), Some(Number::OfNothing)) = (&metric.gauge, self.0.get(&Part::Value)) {
            // a pod that nobody called has no quantile of its own yet
            return match gauge.across {
                Across::Max | Across::Min => Value::Absent,
                Across::Sum | Across::Avg => Value::Unusable(HIDDEN_BY_NAN),
            };
        }
        match self.part(Part::Value) {
            Ok(None) => Value::Absent,
            Err(why) => Value::Unusable(why),
            Ok(Some(value)) => match &metric.quantile {
                Some(quantile) if self.beyond(&quantile.q) => Value::Beyond(value),
                _ => Value::Known(value),
            },
        }
    }

    /// Whether the quantile lies beyond the largest finite bucket, or may do.
    fn beyond(&self, q: &str) -> bool {
        let (Ok(Some(within)), Ok(Some(samples)), Ok(q)) =
            (self.part(Part::Within), self.part(Part::Samples), q.parse::<Decimal>())
        else {
            return true;
        };
        samples.checked_mul(q).and_then(|rank| rank.round_sf(DIGITS_KEPT)).is_none_or(|rank| rank > within)
    }

    fn part(&self, part: Part) -> Result<Option<Decimal>, &'static str> {
        match self.0.get(&part) {
            None => Ok(None),
            Some(Number::Exact(number)) => Ok(Some(*number)),
            Some(Number::NotANumber | Number::OfNothing) => {
                Err("the source answered with something that is not a number")
            }
            Some(Number::Several) => Err("several series where one was expected"),
        }
    }
}

/// Why a revision has no numbers at all, as far as the presence series tell: the source's labels are wrong, or it does
/// not see this revision's pods. `None` when it sees some.
pub fn preflight(source: &Source, answer: &Answer, key: &RevisionKey) -> Option<String> {
    let seen = |sample: &Sample| sample.pods() > 0;
    if answer.samples.get(key).is_some_and(seen) {
        return None;
    }
    let Labels { namespace, agent, revision, .. } = &source.labels;
    Some(if answer.samples.values().any(seen) {
        format!("source {} sees no pod of revision {}: is it scraped?", source.name, key.revision)
    } else {
        format!(
            "source {}: no series of {} carry a revision (labels {namespace}, {agent}, {revision}): check the relabelling and the source's labels",
            source.name, source.presence
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::standard_metrics;
    use crate::signals::parse_sources;
    use proptest::prelude::*;

    fn row(revision: &str, part: &str, value: &str) -> String {
        format!(
            r#"{{"metric":{{"namespace":"support","agent":"refund","revision":"{revision}","sluice_part":"{part}"}},"value":[1.5,"{value}"]}}"#
        )
    }

    fn answer(rows: &[String]) -> Answer {
        let body = format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#, rows.join(","));
        Answer::parse(body.as_bytes(), &Labels::default()).unwrap()
    }

    fn key(revision: &str) -> RevisionKey {
        RevisionKey { namespace: "support".to_owned(), agent: "refund".to_owned(), revision: revision.to_owned() }
    }

    fn reading(metric: &str, rows: &[(&str, &str)]) -> Reading {
        let metric = standard_metrics().into_iter().find(|m| m.name == metric).unwrap();
        let rows: Vec<String> = rows.iter().map(|(part, value)| row("teal", part, value)).collect();
        answer(&rows).of(&key("teal")).reading(&metric)
    }

    fn known(text: &str) -> Value {
        Value::Known(text.parse().unwrap())
    }

    #[test]
    fn rows_belong_to_their_revision() {
        let answer = answer(&[row("teal", "amount", "9"), row("teal", "samples", "10"), row("ochre", "samples", "20")]);
        let number = |n: i64| Number::Exact(Decimal::from(n));
        assert_eq!(answer.of(&key("teal")), Sample::new([(Part::Amount, number(9)), (Part::Samples, number(10))]));
        assert_eq!(answer.of(&key("ochre")), Sample::new([(Part::Samples, number(20))]));
        assert_eq!(answer.of(&key("third")), Sample::default());
        assert_eq!(answer.len(), 2);
    }

    #[test]
    fn a_row_that_does_not_say_whose_it_is_belongs_to_nobody() {
        let rows = [
            r#"{"metric":{},"value":[1,"5"]}"#,
            r#"{"metric":{"namespace":"support","agent":"refund","sluice_part":"value"},"value":[1,"5"]}"#,
            r#"{"metric":{"namespace":"support","agent":"","revision":"teal","sluice_part":"value"},"value":[1,"5"]}"#,
            r#"{"metric":{"namespace":"support","agent":"refund","revision":"teal"},"value":[1,"5"]}"#,
            r#"{"metric":{"namespace":"support","agent":"refund","revision":"teal","sluice_part":"other"},"value":[1,"5"]}"#,
        ];
        assert!(answer(&rows.map(str::to_owned)).is_empty());
    }

    #[test]
    fn two_series_for_one_number_are_an_error_of_that_revision_only() {
        let metric = &standard_metrics()[0];
        let answer = answer(&[
            row("teal", "amount", "9"),
            row("teal", "samples", "10"),
            row("teal", "amount", "9"),
            row("ochre", "amount", "9"),
            row("ochre", "samples", "10"),
        ]);
        let teal = answer.of(&key("teal")).reading(metric);
        assert_eq!(teal.value, Value::Unusable("several series where one was expected"));
        assert_eq!(answer.of(&key("ochre")).reading(metric).value, known("0.9"));
    }

    #[test]
    fn a_quotient_is_exact_and_nothing_over_nothing_is_no_value() {
        let nan = Value::Unusable("the source answered with something that is not a number");
        for (metric, rows, expected) in [
            ("success_rate", vec![("amount", "198"), ("samples", "200")], known("0.99")),
            // The same share as floats bring it.
            ("success_rate", vec![("amount", "205.71428571428572"), ("samples", "207.79220779220779")], known("0.99")),
            ("error_rate", vec![("samples", "200")], known("0")),
            ("error_rate", vec![("amount", "3")], Value::Absent),
            ("error_rate", vec![("amount", "0"), ("samples", "0")], Value::Absent),
            ("error_rate", vec![], Value::Absent),
            ("error_rate", vec![("amount", "NaN"), ("samples", "200")], nan),
            ("error_rate", vec![("amount", "1"), ("samples", "NaN")], nan),
            ("error_rate", vec![("amount", "+Inf"), ("samples", "200")], nan),
            ("error_rate", vec![("amount", "1e300"), ("samples", "200")], nan),
            ("error_rate", vec![("amount", "ten"), ("samples", "200")], nan),
            (
                "error_rate",
                vec![("amount", "7e28"), ("samples", "0.0000000001")],
                Value::Unusable("the numbers are too large"),
            ),
            ("cost_per_success", vec![("amount", "12.5"), ("samples", "25")], known("0.5")),
            ("cost_per_success", vec![("samples", "25")], Value::Absent),
        ] {
            assert_eq!(reading(metric, &rows).value, expected, "{metric} {rows:?}");
        }
    }

    #[test]
    fn a_quantile_knows_when_it_lies_beyond_the_buckets() {
        let p95 = |within, samples| {
            reading("latency_p95", &[("value", "20"), ("within", within), ("samples", samples)]).value
        };
        let beyond = Value::Beyond(Decimal::from(20));
        assert_eq!(p95("100", "100"), known("20"));
        assert_eq!(p95("95", "100"), known("20"));
        assert_eq!(p95("94.9", "100"), beyond);
        assert_eq!(p95("NaN", "100"), beyond);
        assert_eq!(reading("latency_p95", &[("value", "20"), ("samples", "9")]).value, beyond);
        let nan = reading("latency_p95", &[("value", "NaN"), ("within", "0"), ("samples", "0")]);
        assert!(matches!(nan.value, Value::Unusable(_)));
        assert_eq!(nan.samples, Some(Number::Exact(Decimal::ZERO)));
    }

    #[test]
    fn counts_and_gauges_have_pods_instead_of_samples() {
        let count = reading("policy_bypasses", &[("pods", "3")]);
        assert_eq!(count, Reading { value: Value::Absent, samples: None, pods: 3 });
        let gauge = reading("runs_in_flight", &[("value", "4"), ("pods", "NaN")]);
        assert_eq!(gauge, Reading { value: known("4"), samples: None, pods: 0 });
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        let vector = |rest: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{rest}}}}}"#);
        for (body, expected) in [
            (String::new(), AnswerError::Shape),
            ("<html>".to_owned(), AnswerError::Shape),
            ("{}".to_owned(), AnswerError::Shape),
            (r#"{"status":"success"}"#.to_owned(), AnswerError::Shape),
            (r#"{"status":"error","errorType":"timeout","error":"secret"}"#.to_owned(), AnswerError::Failed),
            (r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#.to_owned(), AnswerError::NotAVector),
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#.to_owned(),
                AnswerError::NotAVector,
            ),
            (vector("null"), AnswerError::Shape),
            (vector(r#"[{"metric":{},"value":"5"}]"#), AnswerError::Shape),
            (vector(r#"[{"metric":{},"value":[1,5]}]"#), AnswerError::Shape),
        ] {
            assert_eq!(Answer::parse(body.as_bytes(), &Labels::default()), Err(expected), "{body}");
        }
    }

    #[test]
    fn a_gauge_of_nothing_is_absent_and_a_quotient_of_nothing_is_no_number() {
        let gauge = |across| {
            let mut metric = standard_metrics().into_iter().find(|metric| metric.gauge.is_some()).unwrap();
            metric.gauge.as_mut().unwrap().across = across;
            metric
        };
        let ratio = standard_metrics().into_iter().find(|metric| metric.ratio.is_some()).unwrap();
        let idle = answer(&[row("teal", "value", "NaN"), row("teal", "amount", "NaN"), row("teal", "samples", "20")]);
        for (across, absent) in [(Across::Max, true), (Across::Min, true), (Across::Sum, false), (Across::Avg, false)] {
            let value = idle.of(&key("teal")).reading(&gauge(across)).value;
            let expected = if absent { Value::Absent } else { Value::Unusable(HIDDEN_BY_NAN) };
            assert_eq!(value, expected, "{across:?}");
        }
        assert!(matches!(idle.of(&key("teal")).reading(&ratio).value, Value::Unusable(_)));
        let infinite = answer(&[row("teal", "value", "+Inf")]);
        assert!(matches!(infinite.of(&key("teal")).reading(&gauge(Across::Max)).value, Value::Unusable(_)));
    }

    #[test]
    fn a_native_histogram_is_no_number_and_spoils_nobody_elses() {
        let native = r#"{"metric":{"namespace":"support","agent":"refund","revision":"teal","sluice_part":"value"},"histogram":[1,{"count":"1"}]}"#;
        let answer = answer(&[native.to_owned(), row("ochre", "value", "4")]);
        assert_eq!(answer.of(&key("teal")), Sample::new([(Part::Value, Number::NotANumber)]));
        assert_eq!(answer.of(&key("ochre")), Sample::new([(Part::Value, Number::Exact(Decimal::from(4)))]));
    }

    #[test]
    fn warnings_are_remembered() {
        let body = |warnings: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[]}}{warnings}}}"#)
        };
        for (warnings, expected) in [
            ("", false),
            (r#","warnings":null"#, false),
            (r#","warnings":[]"#, false),
            (r#","infos":["x"]"#, false),
            (r#","warnings":["a store is gone"]"#, true),
        ] {
            let answer = Answer::parse(body(warnings).as_bytes(), &Labels::default()).unwrap();
            assert_eq!(answer.warned, expected);
        }
    }

    #[test]
    fn a_preflight_says_whether_labels_or_pods_are_missing() {
        let source = &parse_sources("[{name: default, url: 'http://p'}]").unwrap()[0];
        let said = |answer: &Answer| preflight(source, answer, &key("teal"));
        assert_eq!(said(&answer(&[row("teal", "pods", "1")])), None);
        assert_eq!(
            said(&answer(&[row("ochre", "pods", "1"), row("teal", "samples", "4")])).unwrap(),
            "source default sees no pod of revision teal: is it scraped?"
        );
        assert_eq!(
            said(&answer(&[])).unwrap(),
            "source default: no series of up carry a revision (labels namespace, agent, revision): check the relabelling and the source's labels"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::parse(&body, &Labels::default());
        }

        #[test]
        fn every_float_is_a_number_close_to_it_or_none(float in any::<f64>()) {
            if let Number::Exact(number) = Number::read(&float.to_string()) {
                let back: f64 = number.to_string().parse().unwrap();
                prop_assert!((back - float).abs() <= float.abs() * 1e-11 + 1e-27, "{float} {number}");
            } else {
                prop_assert!(float.is_nan() || float.abs() > 7e28);
            }
        }
    }
}
