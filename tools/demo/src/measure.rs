//! What many rollbacks have in common: the median and the worst of each measure.

use crate::timeline::{Rollback, Spans};

/// One rollback in a line.
pub(crate) fn line(rollback: &Rollback) -> String {
    let span = |span: Option<f64>| span.map_or_else(|| "unseen".to_owned(), |span| format!("{span:.3} s"));
    let spans = rollback.spans();
    format!(
        "{} rolled back; to weight 0: {} from the first bad answer, {} from the decision; {} bad answers, {} lost",
        rollback.launch.revision,
        span(spans.first_bad_to_zero),
        span(spans.decision_to_zero),
        rollback.bad_answers(),
        rollback.lost()
    )
}

/// Median and worst of every measure. `n` is in how many rollbacks it was seen.
pub(crate) fn table(rollbacks: &[Rollback]) -> String {
    let times = |what, measure: fn(&Spans) -> Option<f64>| {
        let seen: Vec<f64> = rollbacks.iter().filter_map(|rollback| measure(&rollback.spans())).collect();
        row(what, &seen, |span| format!("{span:.3} s"))
    };
    let counts = |what, measure: fn(&Rollback) -> u64| {
        let small = |count| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let seen: Vec<f64> = rollbacks.iter().map(|rollback| small(measure(rollback))).collect();
        row(what, &seen, |count| count.to_string())
    };
    let lines = [
        format!("{:<44} {:>10} {:>10} {:>4}", "", "median", "worst", "n"),
        times("applied → launch begins", |spans| Some(spans.applied_to_launch)),
        times("first bad answer → weight 0 accepted", |spans| spans.first_bad_to_zero),
        times("first breaching sample → weight 0 accepted", |spans| spans.breach_to_zero),
        times("decision → weight 0 accepted", |spans| spans.decision_to_zero),
        times("weight 0 → the canary's last answer", |spans| spans.zero_to_last),
        counts("bad answers of one rollback", Rollback::bad_answers),
        counts("requests lost in one rollback", Rollback::lost),
    ];
    lines.join("\n")
}

/// Median and worst of a measure in a line.
pub(crate) fn row(what: &str, seen: &[f64], show: impl Fn(f64) -> String) -> String {
    let (median, worst) =
        median_and_worst(seen).map_or_else(|| ("-".into(), "-".into()), |(median, worst)| (show(median), show(worst)));
    format!("{what:<44} {median:>10} {worst:>10} {:>4}", seen.len())
}

/// The worst is the greatest. Of an even number, the median is between the two in the middle.
fn median_and_worst(seen: &[f64]) -> Option<(f64, f64)> {
    let mut seen = seen.to_vec();
    seen.sort_by(f64::total_cmp);
    let middle = seen.len() / 2;
    let upper = *seen.get(middle)?;
    let lower = if seen.len().is_multiple_of(2) { seen[middle - 1] } else { upper };
    Some((f64::midpoint(lower, upper), *seen.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::tests::{at, rollback, snapshot};

    #[test]
    fn the_median_is_in_the_middle_and_the_worst_is_the_greatest() {
        assert_eq!(median_and_worst(&[]), None);
        assert_eq!(median_and_worst(&[3.0]), Some((3.0, 3.0)));
        assert_eq!(median_and_worst(&[9.0, 1.0, 2.0]), Some((2.0, 9.0)));
        assert_eq!(median_and_worst(&[4.0, 1.0, 9.0, 2.0]), Some((3.0, 9.0)));
    }

    #[test]
    fn the_table_tells_what_was_seen() {
        let blind = Rollback { routes: Vec::new(), after: snapshot(at(12_000), 600, 0, 0), ..rollback() };
        let table = table(&[rollback(), blind]);
        let mut rows: Vec<Vec<&str>> = Vec::new();
        for line in table.lines() {
            rows.push(line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect());
        }
        assert_eq!(
            rows,
            [
                vec!["median", "worst", "n"],
                vec!["applied → launch begins", "1.000 s", "1.000 s", "2"],
                vec!["first bad answer → weight 0 accepted", "4.650 s", "4.650 s", "1"],
                vec!["first breaching sample → weight 0 accepted", "3.150 s", "3.150 s", "1"],
                vec!["decision → weight 0 accepted", "0.027 s", "0.027 s", "1"],
                vec!["weight 0 → the canary's last answer", "0.150 s", "0.150 s", "1"],
                vec!["bad answers of one rollback", "3", "6", "2"],
                vec!["requests lost in one rollback", "0", "0", "2"],
            ]
        );
    }

    #[test]
    fn a_rollback_is_a_line() {
        assert_eq!(
            line(&rollback()),
            "teal rolled back; to weight 0: 4.650 s from the first bad answer, 0.027 s from the decision; \
             6 bad answers, 0 lost"
        );
    }
}
