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
pub fn judge(
    question: &Question,
    canary: &Reading,
    stable: Option<&Reading>,
    ready_pods: i32,
) -> (Verdict, String) {
    let (verdict, message) = match decide(question, canary, stable, ready_pods) {
        Ok(judged) => judged,
        Err(unknown) => unknown,
    };
    let text = format!("{} {message}", question.metric.name);
    (verdict, text.chars().take(MAX_MESSAGE).collect())
}

/// A verdict with its message, without the metric's name.
type Judged = (Verdict, String);

fn decide(
    question: &Question,
    canary: &Reading,
    stable: Option<&Reading>,
    ready_pods: i32,
) -> Result<Judged, Judged> {
    let compared = match (question.compare, stable) {
        (Compare::Value, _) => None,
        (_, Some(stable)) => Some(stable),
        (_, None) => {
            let message = "does not apply: there is no stable revision to compare with";
            return Err((Verdict::NotApplicable, message.to_owned()));
        }
    };
    let canary = known(question, "", canary, i64::from(ready_pods))?;
    let stable = compared
        .map(|stable| known(question, "stable: ", stable, 1))
        .transpose()?;
    if stable
        .as_ref()
        .is_some_and(|stable| stable.beyond || stable.partial.is_some())
    {
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
    let instant = question.metric.count.is_some() || question.metric.gauge.is_some();
    let wanted = ready.max(1);
    let unseen = (instant && reading.pods < wanted)
        .then(|| format!("{}/{wanted} pods seen by the source", reading.pods));
    let samples = match reading.samples {
        _ if instant => None,
        None => {
            return insufficient(format!(
                "no data ({}/{wanted} pods seen by the source)",
                reading.pods
            ));
        }
        Some(Number::Several) => return error("several series where one was expected"),
        Some(Number::NotANumber) => return error("the source answered with something that is not a number"),
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
    Ok(Known {
        value,
        beyond,
        partial: unseen,
        samples,
    })
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
        return Some(Limits {
            low: *low,
            high: *high,
        });
    };
    let limit = |bound: &Option<Decimal>| -> Option<Option<Decimal>> {
        match bound {
            None => Some(None),
            Some(bound) if question.compare == Compare::RatioToStable => bound.checked_mul(stable).map(Some),
            Some(bound) => bound.checked_add(stable).map(Some),
        }
    };
    Some(Limits {
        low: limit(low)?,
        high: limit(high)?.map(|high| floor.map_or(high, |floor| high.max(floor))),
    })
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
    let numbers = Shown {
        question,
        canary,
        stable,
        limits,
    };
    match (broken, canary.partial.as_ref()) {
        (Some(broken), Some(unseen)) if !proven(&question.metric, broken) => (
            Verdict::Insufficient,
            format!("{} ({unseen})", numbers.text(Some(broken))),
        ),
        (Some(broken), _) => (Verdict::Fail, numbers.text(Some(broken))),
        (None, _) if canary.beyond && undecided(canary, limits) => (
            Verdict::Error,
            format!(
                "is above the histogram's largest bucket, {}: add buckets",
                Unit::of(&question.metric).show(canary.value)
            ),
        ),
        (None, Some(unseen)) => (
            Verdict::Insufficient,
            format!("{} ({unseen})", numbers.text(None)),
        ),
        (None, None) => (Verdict::Pass, numbers.text(None)),
    }
}

/// A value beyond the buckets that breaks no bound is still not known to keep them.
fn undecided(canary: &Known, limits: &Limits) -> bool {
    limits.high.is_some() || limits.low.is_some_and(|low| canary.value < low)
}

/// Whether a bound that the seen pods break stays broken whatever the unseen ones do.
fn proven(metric: &MetricDefinition, broken: Broken) -> bool {
    match metric.gauge.as_ref().map(|gauge| gauge.across) {
        None => broken == Broken::High,
        Some(Across::Max | Across::Sum) => broken == Broken::High,
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
            let samples = known
                .samples
                .map_or_else(String::new, |n| format!(" (n={})", n.round().normalize()));
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
        self.written(number, DIGITS_SHOWN)
    }

    /// A number that is not a limit does not look like it.
    fn show_beside(self, number: Decimal, limits: &Limits) -> String {
        let short = self.show(number);
        let same = |limit: &Decimal| *limit != number && self.show(*limit) == short;
        if [limits.low, limits.high].iter().flatten().any(same) {
            self.written(number, 12)
        } else {
            short
        }
    }

    fn written(self, number: Decimal, digits: u32) -> String {
        let plain = |number: Decimal| {
            let short = number.round_sf(digits).unwrap_or(number);
            // Whole numbers are shown whole: 12345 events are not 12350.
            let kept = if number.abs() >= Decimal::from(1000) {
                number.round_dp(digits - DIGITS_SHOWN)
            } else {
                short
            };
            kept.normalize().to_string()
        };
        let per = |divisor: i64| number.checked_div(Decimal::from(divisor)).unwrap_or(number);
        match self {
            Self::Plain => plain(number),
            Self::Share => format!(
                "{}%",
                plain(number.checked_mul(Decimal::from(100)).unwrap_or(number))
            ),
            Self::Seconds => match number.abs() {
                n if n.is_zero() => "0s".to_owned(),
                n if n < Decimal::ONE => {
                    format!(
                        "{}ms",
                        plain(number.checked_mul(Decimal::from(1000)).unwrap_or(number))
                    )
                }
                n if n < Decimal::from(120) => format!("{}s", plain(number)),
                n if n < Decimal::from(7200) => format!("{}m", plain(per(60))),
                _ => format!("{}h", plain(per(3600))),
            },
        }
    }
}
