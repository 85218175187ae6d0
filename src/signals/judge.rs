//! How numbers become a verdict. Pure: no clock, no IO, no floats.
//!
//! Fail closed: only known numbers, enough of them, of pods that the source sees, pass. What is missing, broken or too
//! large to compare is `Insufficient` or `Error`, which never promote and are no breach.

use rust_decimal::Decimal;

use crate::api::{Across, MetricDefinition, Verdict};
use crate::launch::{Bounds, Compare, Question};

use super::sample::{Number, Reading, Value};

/// Longest message, in characters.
const MAX_MESSAGE: usize = 256;
/// Significant digits that are shown.
const DIGITS_SHOWN: u32 = 4;

/// Judges the canary, beside stable when the question compares them. `stable` is `None` on a first deployment.
/// `ready_pods` is how many of the canary's pods are ready, and so must be seen by the source.
pub fn judge(question: &Question, canary: &Reading, stable: Option<&Reading>, ready_pods: i32) -> (Verdict, String) {
    let (verdict, message) = match decide(question, canary, stable, ready_pods) {
        Ok(judged) => judged,
        Err(unknown) => unknown,
    };
    let text = format!("{} {message}", question.metric.name);
    (verdict, text.chars().take(MAX_MESSAGE).collect())
}

/// A verdict with its message, without the metric's name.
type Judged = (Verdict, String);

fn decide(question: &Question, canary: &Reading, stable: Option<&Reading>, ready_pods: i32) -> Result<Judged, Judged> {
    let compared = match (question.compare, stable) {
        (Compare::Value, _) => None,
        (_, Some(stable)) => Some(stable),
        (_, None) => {
            let message = "does not apply: there is no stable revision to compare with";
            return Err((Verdict::NotApplicable, message.to_owned()));
        }
    };
    let canary = known(question, "", canary, i64::from(ready_pods))?;
    let stable = compared.map(|stable| known(question, "stable: ", stable, 1)).transpose()?;
    if stable.as_ref().is_some_and(|stable| stable.beyond || stable.partial.is_some() && question.metric.is_instant()) {
        let message = "stable is not known exactly, so the canary cannot be compared with it";
        return Err((Verdict::Insufficient, message.to_owned()));
    }
    let limits = limits(question, stable.as_ref())
        .ok_or_else(|| (Verdict::Error, "the numbers are too large to compare".to_owned()))?;
    Ok(verdict(question, &canary, stable.as_ref(), &limits))
}

/// A number that may be compared, and what is still uncertain about it.
struct Known {
    value: Decimal,
    /// The true value is larger.
    beyond: bool,
    /// Not all ready pods are seen: what is missing. The number is that of the pods that are.
    partial: Option<String>,
    samples: Option<Decimal>,
}

/// The number of a reading, or the verdict that there is none.
fn known(question: &Question, whose: &str, reading: &Reading, ready: i64) -> Result<Known, Judged> {
    let insufficient = |message: String| Err((Verdict::Insufficient, format!("{whose}{message}")));
    let error = |message: &str| Err((Verdict::Error, format!("{whose}{message}")));
    let instant = question.metric.is_instant();
    let wanted = ready.max(1);
    let unseen = (reading.pods < wanted).then(|| format!("{}/{wanted} pods seen by the source", reading.pods));
    let samples = match reading.samples {
        _ if instant => None,
        None => {
            return insufficient(format!("no data ({}/{wanted} pods seen by the source)", reading.pods));
        }
        Some(Number::Several) => return error("several series where one was expected"),
        Some(Number::NotANumber | Number::OfNothing) => {
            return error("the source answered with something that is not a number");
        }
        Some(Number::Exact(samples)) => {
            let min = question.min_samples.max(1);
            if samples.round() < Decimal::from(min) {
                return insufficient(format!("{}/{min} samples", samples.round().normalize()));
            }
            Some(samples)
        }
    };
    let (value, beyond) = match (reading.value, unseen.as_ref()) {
        (Value::Known(value), _) => (value, false),
        (Value::Beyond(value), _) => (value, true),
        (Value::Unusable(why), _) => return error(why),
        (Value::Absent, Some(unseen)) => return insufficient(format!("no data ({unseen})")),
        // A counter that never counted has no series: with every ready pod seen, that is zero.
        (Value::Absent, None) if question.metric.count.is_some() => (Decimal::ZERO, false),
        (Value::Absent, None) => return insufficient("no data".to_owned()),
    };
    Ok(Known { value, beyond, partial: unseen, samples })
}

/// The bounds that the canary's value is held to.
struct Limits {
    low: Option<Decimal>,
    high: Option<Decimal>,
}

/// `None` when the numbers are too large.
fn limits(question: &Question, stable: Option<&Known>) -> Option<Limits> {
    let Bounds { low, high, floor } = &question.bounds;
    let Some(stable) = stable.map(|stable| stable.value) else {
        return Some(Limits { low: *low, high: *high });
    };
    let limit = |bound: &Option<Decimal>| -> Option<Option<Decimal>> {
        match bound {
            None => Some(None),
            Some(bound) if question.compare == Compare::RatioToStable => bound.checked_mul(stable).map(Some),
            Some(bound) => bound.checked_add(stable).map(Some),
        }
    };
    Some(Limits { low: limit(low)?, high: limit(high)?.map(|high| floor.map_or(high, |floor| high.max(floor))) })
}

/// Which bound is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Low,
    High,
}

fn verdict(question: &Question, canary: &Known, stable: Option<&Known>, limits: &Limits) -> Judged {
    let above = |high: &Decimal| canary.value > *high || canary.beyond && canary.value >= *high;
    let broken = if limits.high.as_ref().is_some_and(above) {
        Some(Broken::High)
    } else if limits.low.is_some_and(|low| canary.value < low) && !canary.beyond {
        Some(Broken::Low)
    } else {
        None
    };
    let numbers = Shown { question, canary, stable, limits };
    match (broken, canary.partial.as_ref()) {
        (Some(broken), Some(unseen)) if !proven(&question.metric, broken) => {
            (Verdict::Insufficient, format!("{} ({unseen})", numbers.text(Some(broken))))
        }
        (Some(broken), _) => (Verdict::Fail, numbers.text(Some(broken))),
        (None, _) if canary.beyond && undecided(canary, limits) => (
            Verdict::Error,
            format!(
                "is above the histogram's largest bucket, {}: add buckets",
                Unit::of(&question.metric).show(canary.value)
            ),
        ),
        (None, Some(unseen)) => (Verdict::Insufficient, format!("{} ({unseen})", numbers.text(None))),
        (None, None) => (Verdict::Pass, numbers.text(None)),
    }
}

/// A value beyond the buckets that breaks no bound is still not known to keep them.
fn undecided(canary: &Known, limits: &Limits) -> bool {
    limits.high.is_some() || limits.low.is_some_and(|low| canary.value < low)
}

/// Whether a bound that the seen pods break stays broken whatever the unseen ones do. Of events the seen ones are bad enough:
/// somebody was answered so.
fn proven(metric: &MetricDefinition, broken: Broken) -> bool {
    if !metric.is_instant() {
        return true;
    }
    match metric.gauge.as_ref().map(|gauge| gauge.across) {
        None | Some(Across::Max | Across::Sum) => broken == Broken::High,
        Some(Across::Min) => broken == Broken::Low,
        Some(Across::Avg) => false,
    }
}

/// The numbers of a verdict, for people.
struct Shown<'a> {
    question: &'a Question,
    canary: &'a Known,
    stable: Option<&'a Known>,
    limits: &'a Limits,
}

impl Shown<'_> {
    fn text(&self, broken: Option<Broken>) -> String {
        let unit = Unit::of(&self.question.metric);
        let value = |known: &Known| {
            let more = if known.beyond { ">" } else { "" };
            let samples = known.samples.map_or_else(String::new, |n| format!(" (n={})", n.round().normalize()));
            format!("{more}{}{samples}", unit.show_beside(known.value, self.limits))
        };
        let limit = |limit: Decimal| unit.show(limit);
        let Some(stable) = self.stable else {
            return format!("{} {}", value(self.canary), self.bounds(broken, limit));
        };
        let limits = match (self.limits.low, self.limits.high) {
            (Some(low), Some(high)) => format!("limits {} to {}", limit(low), limit(high)),
            (Some(low), None) => format!("at least {}", limit(low)),
            (None, high) => format!("limit {}", limit(high.unwrap_or_default())),
        };
        format!("canary={} stable={}, {limits}", value(self.canary), value(stable))
    }

    fn bounds(&self, broken: Option<Broken>, show: impl Fn(Decimal) -> String) -> String {
        match (broken, self.limits.low, self.limits.high) {
            (Some(Broken::High), _, Some(high)) => format!("> {}", show(high)),
            (Some(Broken::Low), Some(low), _) => format!("< {}", show(low)),
            (_, Some(low), Some(high)) => format!("within {} to {}", show(low), show(high)),
            (_, Some(low), None) => format!(">= {}", show(low)),
            (_, None, Some(high)) => format!("<= {}", show(high)),
            (_, None, None) => String::new(),
        }
    }
}

/// How people read a metric's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Share,
    Seconds,
    Plain,
}

impl Unit {
    /// A ratio is a share; series of seconds say so in their name, as Prometheus asks.
    fn of(metric: &MetricDefinition) -> Self {
        let series = match (&metric.quantile, &metric.gauge, &metric.mean) {
            (Some(quantile), _, _) => &quantile.histogram,
            (_, Some(gauge), _) => &gauge.series,
            (_, _, Some(mean)) => &mean.sum,
            _ if metric.ratio.is_some() => return Self::Share,
            _ => return Self::Plain,
        };
        let name = series.0.split('{').next().unwrap_or_default();
        if name.trim_end_matches("_total").ends_with("_seconds") || name.ends_with("_seconds_sum") {
            Self::Seconds
        } else {
            Self::Plain
        }
    }

    fn show(self, number: Decimal) -> String {
        self.written(number, |number| {
            // Whole numbers are shown whole: 12345 events are not 12350.
            let large = number.abs() >= Decimal::from(1000);
            let short = if large { Some(number.round()) } else { number.round_sf(DIGITS_SHOWN) };
            short.unwrap_or(number)
        })
    }

    /// A number that is not a limit does not look like it.
    fn show_beside(self, number: Decimal, limits: &Limits) -> String {
        let short = self.show(number);
        let same = |limit: &Decimal| *limit != number && self.show(*limit) == short;
        if [limits.low, limits.high].iter().flatten().any(same) { self.written(number, |number| number) } else { short }
    }

    fn written(self, number: Decimal, round: impl Fn(Decimal) -> Decimal) -> String {
        let plain = |number: Decimal| round(number).normalize().to_string();
        let times = |factor: i64| number.checked_mul(Decimal::from(factor)).unwrap_or(number);
        let per = |divisor: i64| number.checked_div(Decimal::from(divisor)).unwrap_or(number);
        match self {
            Self::Plain => plain(number),
            Self::Share => format!("{}%", plain(times(100))),
            Self::Seconds => match number.abs() {
                n if n.is_zero() => "0s".to_owned(),
                n if n < Decimal::ONE => format!("{}ms", plain(times(1000))),
                n if n < Decimal::from(120) => format!("{}s", plain(number)),
                n if n < Decimal::from(7200) => format!("{}m", plain(per(60))),
                _ => format!("{}h", plain(per(3600))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Gauge, Series, standard_metrics};
    use proptest::prelude::*;
    use std::time::Duration;

    fn d(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn ask(metric: &str, compare: Compare, [low, high, floor]: [Option<&str>; 3]) -> Question {
        Question {
            metric: standard_metrics().into_iter().find(|m| m.name == metric).unwrap(),
            window: Some(Duration::from_mins(1)),
            min_samples: 10,
            compare,
            bounds: Bounds { low: low.map(d), high: high.map(d), floor: floor.map(d) },
        }
    }

    fn rate(value: &str, samples: i64) -> Reading {
        Reading { value: Value::Known(d(value)), samples: Some(Number::Exact(Decimal::from(samples))), pods: 3 }
    }

    fn instant(value: Value, pods: i64) -> Reading {
        Reading { value, samples: None, pods }
    }

    fn check(question: &Question, canary: &Reading, stable: Option<&Reading>, expected: (Verdict, &str)) {
        let (verdict, message) = judge(question, canary, stable, 3);
        assert_eq!((verdict, message.as_str()), expected, "{question:?} {canary:?} {stable:?}");
    }

    #[test]
    fn a_value_is_held_to_inclusive_bounds() {
        let at_least = ask("success_rate", Compare::Value, [Some("0.99"), None, None]);
        let between = ask("latency_p95", Compare::Value, [Some("0.1"), Some("1.2"), None]);
        for (question, value, expected) in [
            (&at_least, "0.994", (Verdict::Pass, "success_rate 99.4% (n=812) >= 99%")),
            (&at_least, "0.99", (Verdict::Pass, "success_rate 99% (n=812) >= 99%")),
            (&at_least, "0.989999", (Verdict::Fail, "success_rate 98.9999% (n=812) < 99%")),
            (&at_least, "0", (Verdict::Fail, "success_rate 0% (n=812) < 99%")),
            (&between, "1.2", (Verdict::Pass, "latency_p95 1.2s (n=812) within 100ms to 1.2s")),
            (&between, "0.1", (Verdict::Pass, "latency_p95 100ms (n=812) within 100ms to 1.2s")),
            (&between, "1.2000001", (Verdict::Fail, "latency_p95 1.2000001s (n=812) > 1.2s")),
            (&between, "0.05", (Verdict::Fail, "latency_p95 50ms (n=812) < 100ms")),
            (&between, "5400", (Verdict::Fail, "latency_p95 90m (n=812) > 1.2s")),
            (&between, "9000", (Verdict::Fail, "latency_p95 2.5h (n=812) > 1.2s")),
        ] {
            check(question, &rate(value, 812), None, expected);
        }
    }

    #[test]
    fn too_few_samples_are_insufficient_however_good_or_bad() {
        let question = ask("success_rate", Compare::Value, [Some("0.99"), None, None]);
        for (value, samples, expected) in [
            ("1", 9, (Verdict::Insufficient, "success_rate 9/10 samples")),
            ("0", 9, (Verdict::Insufficient, "success_rate 9/10 samples")),
            ("1", 0, (Verdict::Insufficient, "success_rate 0/10 samples")),
            ("1", 10, (Verdict::Pass, "success_rate 100% (n=10) >= 99%")),
        ] {
            check(&question, &rate(value, samples), None, expected);
        }
        let none = Question { min_samples: 0, ..question };
        let empty = (Verdict::Insufficient, "success_rate 0/1 samples");
        check(&none, &rate("1", 0), None, empty);
    }

    #[test]
    fn what_is_missing_or_broken_has_its_own_verdict() {
        let question = ask("latency_p95", Compare::Value, [None, Some("1.2"), None]);
        let nan = "the source answered with something that is not a number";
        let reading = |value, samples| Reading { value, samples, pods: 2 };
        let enough = Some(Number::Exact(Decimal::from(50)));
        for (canary, verdict, message) in [
            (reading(Value::Absent, None), Verdict::Insufficient, "no data (2/3 pods seen by the source)"),
            (reading(Value::Absent, enough), Verdict::Insufficient, "no data (2/3 pods seen by the source)"),
            (reading(Value::Unusable(nan), enough), Verdict::Error, nan),
            (reading(Value::Unusable(nan), Some(Number::Exact(Decimal::ZERO))), Verdict::Insufficient, "0/10 samples"),
            (reading(Value::Known(Decimal::ONE), Some(Number::NotANumber)), Verdict::Error, nan),
            (
                reading(Value::Known(Decimal::ONE), Some(Number::Several)),
                Verdict::Error,
                "several series where one was expected",
            ),
        ] {
            check(&question, &canary, None, (verdict, &format!("latency_p95 {message}")));
        }
    }

    #[test]
    fn events_of_some_pods_fail_and_never_pass() {
        let (at_least, at_most) = (Some("0.99"), Some("0.01"));
        let success = ask("success_rate", Compare::Value, [at_least, None, None]);
        let errors = ask("error_rate", Compare::Value, [None, at_most, None]);
        for (question, value, expected) in [
            (&success, "1", (Verdict::Insufficient, "success_rate 100% (n=812) >= 99% (2/3 pods seen by the source)")),
            (&success, "0.5", (Verdict::Fail, "success_rate 50% (n=812) < 99%")),
            (&errors, "0", (Verdict::Insufficient, "error_rate 0% (n=812) <= 1% (2/3 pods seen by the source)")),
            (&errors, "0.5", (Verdict::Fail, "error_rate 50% (n=812) > 1%")),
        ] {
            check(question, &Reading { pods: 2, ..rate(value, 812) }, None, expected);
        }
    }

    #[test]
    fn a_count_is_zero_only_when_every_ready_pod_is_seen() {
        let none = ask("policy_bypasses", Compare::Value, [None, Some("0"), None]);
        let some = ask("policy_bypasses", Compare::Value, [Some("2"), None, None]);
        let (one, absent) = (Value::Known(Decimal::ONE), Value::Absent);
        for (question, value, pods, expected) in [
            (&none, absent, 3, (Verdict::Pass, "policy_bypasses 0 <= 0")),
            (&none, absent, 4, (Verdict::Pass, "policy_bypasses 0 <= 0")),
            (&none, absent, 2, (Verdict::Insufficient, "policy_bypasses no data (2/3 pods seen by the source)")),
            (&none, absent, 0, (Verdict::Insufficient, "policy_bypasses no data (0/3 pods seen by the source)")),
            (
                &none,
                Value::Known(Decimal::ZERO),
                2,
                (Verdict::Insufficient, "policy_bypasses 0 <= 0 (2/3 pods seen by the source)"),
            ),
            (&none, one, 3, (Verdict::Fail, "policy_bypasses 1 > 0")),
            // A bypass that was seen happened, whoever else is not seen: even when the pod is gone.
            (&none, one, 0, (Verdict::Fail, "policy_bypasses 1 > 0")),
            // Too few may still be enough when the others are seen.
            (&some, one, 2, (Verdict::Insufficient, "policy_bypasses 1 < 2 (2/3 pods seen by the source)")),
            (&some, one, 3, (Verdict::Fail, "policy_bypasses 1 < 2")),
        ] {
            check(question, &instant(value, pods), None, expected);
        }
        let (verdict, _) = judge(&none, &instant(absent, 0), None, 0);
        assert_eq!(verdict, Verdict::Insufficient, "no ready pod and no seen pod prove nothing");
        assert_eq!(judge(&none, &instant(absent, 1), None, 0).0, Verdict::Pass);
    }

    #[test]
    fn a_gauge_of_some_pods_fails_only_when_the_others_cannot_mend_it() {
        let gauge = |across, low, high| {
            let mut question = ask("approval_backlog_age", Compare::Value, [low, high, None]);
            let series = Series("backlog_seconds".to_owned());
            question.metric.gauge = Some(Gauge { series, across });
            question
        };
        let (low, high) = (Some("5"), Some("15"));
        for (across, value, verdict) in [
            (Across::Max, "20", Verdict::Fail),
            (Across::Max, "1", Verdict::Insufficient),
            (Across::Max, "10", Verdict::Insufficient),
            (Across::Min, "1", Verdict::Fail),
            (Across::Min, "20", Verdict::Insufficient),
            (Across::Sum, "20", Verdict::Fail),
            (Across::Avg, "20", Verdict::Insufficient),
            (Across::Avg, "1", Verdict::Insufficient),
        ] {
            let question = gauge(across, low, high);
            let partial = judge(&question, &instant(Value::Known(d(value)), 2), None, 3);
            assert_eq!(partial.0, verdict, "{across:?} {value}");
            let whole = judge(&question, &instant(Value::Known(d(value)), 3), None, 3);
            let within = value == "10";
            assert_eq!(whole.0, if within { Verdict::Pass } else { Verdict::Fail });
        }
        let absent = judge(&gauge(Across::Max, None, high), &instant(Value::Absent, 3), None, 3);
        assert_eq!(absent, (Verdict::Insufficient, "approval_backlog_age no data".to_owned()));
    }

    #[test]
    fn a_ratio_to_stable_has_a_floor() {
        let doubled = ask("error_rate", Compare::RatioToStable, [None, Some("2"), Some("0.01")]);
        let bare = ask("error_rate", Compare::RatioToStable, [None, Some("2"), None]);
        let low = ask("success_rate", Compare::RatioToStable, [Some("0.9"), None, None]);
        for (question, canary, stable, expected) in [
            (&doubled, "0.31", "0.002", (Verdict::Fail, "error_rate canary=31% (n=64) stable=0.2% (n=1210), limit 1%")),
            (&doubled, "0.01", "0.002", (Verdict::Pass, "error_rate canary=1% (n=64) stable=0.2% (n=1210), limit 1%")),
            (&doubled, "0.08", "0.04", (Verdict::Pass, "error_rate canary=8% (n=64) stable=4% (n=1210), limit 8%")),
            (
                &doubled,
                "0.0800001",
                "0.04",
                (Verdict::Fail, "error_rate canary=8.00001% (n=64) stable=4% (n=1210), limit 8%"),
            ),
            (&bare, "0", "0", (Verdict::Pass, "error_rate canary=0% (n=64) stable=0% (n=1210), limit 0%")),
            (&bare, "0.001", "0", (Verdict::Fail, "error_rate canary=0.1% (n=64) stable=0% (n=1210), limit 0%")),
            (&low, "0.9", "1", (Verdict::Pass, "success_rate canary=90% (n=64) stable=100% (n=1210), at least 90%")),
            (&low, "0.8", "1", (Verdict::Fail, "success_rate canary=80% (n=64) stable=100% (n=1210), at least 90%")),
        ] {
            check(question, &rate(canary, 64), Some(&rate(stable, 1210)), expected);
        }
    }

    #[test]
    fn a_difference_from_stable_is_within_its_bounds() {
        let question = ask("latency_p95", Compare::DifferenceFromStable, [Some("-0.5"), Some("0.2"), None]);
        for (canary, verdict) in
            [("1.2", Verdict::Pass), ("1.21", Verdict::Fail), ("0.5", Verdict::Pass), ("0.49", Verdict::Fail)]
        {
            let judged = judge(&question, &rate(canary, 64), Some(&rate("1", 1210)), 3);
            assert_eq!(judged.0, verdict, "{}", judged.1);
            assert!(judged.1.contains("limits 500ms to 1.2s"), "{}", judged.1);
        }
    }

    #[test]
    fn a_comparison_needs_a_stable_with_enough_data() {
        let question = ask("error_rate", Compare::RatioToStable, [None, Some("2"), Some("0.01")]);
        let canary = rate("0.5", 64);
        let absent = Reading { value: Value::Absent, samples: None, pods: 0 };
        let broken = Reading { value: Value::Unusable("several series where one was expected"), ..rate("0", 99) };
        let none = (Verdict::NotApplicable, "error_rate does not apply: there is no stable revision to compare with");
        check(&question, &canary, None, none);
        for (stable, expected) in [
            (&rate("0", 9), (Verdict::Insufficient, "error_rate stable: 9/10 samples")),
            (&absent, (Verdict::Insufficient, "error_rate stable: no data (0/1 pods seen by the source)")),
            (&broken, (Verdict::Error, "error_rate stable: several series where one was expected")),
        ] {
            check(&question, &canary, Some(stable), expected);
        }
    }

    #[test]
    fn a_quantile_beyond_the_buckets_is_not_taken_for_the_largest_bucket() {
        let beyond = Reading { value: Value::Beyond(d("20")), ..rate("0", 50) };
        let question = |low, high| ask("latency_p95", Compare::Value, [low, high, None]);
        let more = "latency_p95 is above the histogram's largest bucket, 20s: add buckets";
        check(&question(None, Some("30")), &beyond, None, (Verdict::Error, more));
        check(&question(None, Some("20")), &beyond, None, (Verdict::Fail, "latency_p95 >20s (n=50) > 20s"));
        check(&question(None, Some("10")), &beyond, None, (Verdict::Fail, "latency_p95 >20s (n=50) > 10s"));
        check(&question(Some("30"), None), &beyond, None, (Verdict::Error, more));
        check(&question(Some("10"), None), &beyond, None, (Verdict::Pass, "latency_p95 >20s (n=50) >= 10s"));
        let ratio = ask("latency_p95", Compare::RatioToStable, [None, Some("2"), None]);
        assert_eq!(judge(&ratio, &rate("1", 50), Some(&beyond), 3).0, Verdict::Insufficient);
    }

    #[test]
    fn huge_numbers_are_an_error_and_long_names_are_cut() {
        let question = ask("latency_p95", Compare::RatioToStable, [None, Some("2"), None]);
        let huge = Reading { value: Value::Known(Decimal::MAX), ..rate("0", 50) };
        let expected = (Verdict::Error, "latency_p95 the numbers are too large to compare");
        check(&question, &huge, Some(&huge), expected);
        let mut long = ask("latency_p95", Compare::Value, [None, Some("1"), None]);
        long.metric.name = "ü".repeat(300);
        assert_eq!(judge(&long, &huge, None, 3).1.chars().count(), 256);
    }

    prop_compose! {
        fn numbers()(mantissa in any::<i64>(), scale in 0_u32..20) -> Decimal {
            Decimal::new(mantissa, scale)
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            numbers().prop_map(Value::Known),
            numbers().prop_map(Value::Beyond),
            Just(Value::Known(Decimal::MAX)),
            Just(Value::Known(Decimal::MIN)),
            Just(Value::Absent),
            Just(Value::Unusable("broken")),
        ]
    }

    fn readings() -> impl Strategy<Value = Reading> {
        let samples = prop_oneof![
            Just(None),
            Just(Some(Number::NotANumber)),
            Just(Some(Number::Several)),
            numbers().prop_map(|n| Some(Number::Exact(n))),
            (0_i64..40).prop_map(|n| Some(Number::Exact(Decimal::from(n)))),
        ];
        (values(), samples, 0_i64..5).prop_map(|(value, samples, pods)| Reading { value, samples, pods })
    }

    fn questions() -> impl Strategy<Value = Question> {
        let metrics = proptest::sample::select(standard_metrics());
        let compare =
            prop_oneof![Just(Compare::Value), Just(Compare::RatioToStable), Just(Compare::DifferenceFromStable)];
        let bound = || proptest::option::of(numbers());
        (metrics, compare, bound(), bound(), bound()).prop_map(|(metric, compare, low, high, floor)| Question {
            metric,
            window: None,
            min_samples: 10,
            compare,
            bounds: Bounds { low, high, floor },
        })
    }

    proptest! {
        #[test]
        fn a_pass_has_data_enough_of_it_and_a_number_within_bounds(
            question in questions(), canary in readings(), stable in proptest::option::of(readings()), ready in 0_i32..5,
        ) {
            let (verdict, message) = judge(&question, &canary, stable.as_ref(), ready);
            prop_assert!(message.chars().count() <= 256);
            let instant = question.metric.is_instant();
            if verdict == Verdict::Pass {
                prop_assert!(!matches!(canary.value, Value::Unusable(_)));
                prop_assert!(canary.value != Value::Absent || question.metric.count.is_some());
                prop_assert!(canary.pods >= i64::from(ready).max(1));
                if !instant {
                    prop_assert!(matches!(canary.samples, Some(Number::Exact(n)) if n.round() >= Decimal::TEN));
                }
                if let (Compare::Value, Value::Known(value)) = (question.compare, canary.value) {
                    prop_assert!(question.bounds.low.is_none_or(|low| value >= low));
                    prop_assert!(question.bounds.high.is_none_or(|high| value <= high));
                }
            }
            if verdict == Verdict::Fail {
                prop_assert!(matches!(canary.value, Value::Known(_) | Value::Beyond(_)) || question.metric.count.is_some());
            }
            prop_assert_eq!(
                verdict == Verdict::NotApplicable,
                question.compare != Compare::Value && stable.is_none()
            );
        }

        #[test]
        fn losing_data_never_turns_anything_into_a_pass(
            question in questions(), canary in readings(), stable in proptest::option::of(readings()), ready in 0_i32..5,
        ) {
            let before = judge(&question, &canary, stable.as_ref(), ready).0;
            prop_assume!(matches!(before, Verdict::Insufficient | Verdict::Error));
            let less = [
                Reading { value: Value::Unusable("broken"), ..canary.clone() },
                Reading { samples: None, ..canary.clone() },
                Reading { pods: 0, ..canary.clone() },
            ];
            for reading in less {
                prop_assert_ne!(judge(&question, &reading, stable.as_ref(), ready).0, Verdict::Pass);
            }
        }
    }
}
