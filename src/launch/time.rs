//! Arithmetic on instants that cannot fail: a clock that jumps back counts as standing still.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The instant `span` after `from`; the end of time when there is none.
pub(super) fn after(from: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span).ok().and_then(|span| from.checked_add(span).ok()).unwrap_or(Timestamp::MAX)
}

/// How long it is from `from` to `to`; zero when `to` is not later.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A span for people: `45s`, `12m`, `3h5m`, `2d3h`.
pub(crate) fn human(span: Duration) -> String {
    let seconds = span.as_secs();
    let pair = |big: u64, unit: char, small: u64, rest: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{rest}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, 'm', seconds % 60, 's'),
        3600..86400 => pair(seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
        _ => pair(seconds / 86400, 'd', seconds % 86400 / 3600, 'h'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_back_stands_still() {
        let (early, late) = (Timestamp::from_second(10).unwrap(), Timestamp::from_second(20).unwrap());
        assert_eq!(between(late, early), Duration::ZERO);
        assert_eq!(between(early, late), Duration::from_secs(10));
        assert_eq!(after(Timestamp::MAX, Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(after(early, Duration::from_secs(u64::MAX)), Timestamp::MAX);
    }

    #[test]
    fn spans_read_like_kubectl() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (11_100, "3h5m"), (183_600, "2d3h")]
        {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }
}
