//! The share that the canary really got, beside its weight. A gateway that took the route and does not split by it holds the
//! launch. Without numbers of both revisions it says nothing.

use k8s_openapi::jiff::Timestamp;

use super::{Observation, Route, Runs, Shares};
use crate::api::{Launch, Phase};

/// Fewer runs say nothing.
const ENOUGH: i128 = 50;
/// Points that connections which are kept alive, and counters that are read at different times, may move a share by.
const SLACK: i128 = 5;
/// Standard deviations that chance may move it by.
const SIGMAS: i128 = 4;

/// What is wrong with the share of a running launch, with the numbers and the mend.
pub(super) fn wrong(launch: &Launch, seen: &Observation) -> Option<String> {
    let shared = matches!(seen.route, Route::Seen { shares: Shares::Split { .. } | Shares::Matched { .. }, .. });
    let began = launch.began_at.filter(|_| launch.phase == Phase::Progressing && shared)?;
    let runs = seen.runs.as_ref().filter(|runs| covers(runs, began))?;
    let (canary, all) = (runs.canary.max(0), runs.canary.max(0).saturating_add(runs.stable.max(0)));
    let (more, less) = compare(launch.weight, canary, all);
    let mend = match (more, less && launch.only.is_empty()) {
        (true, _) if seen.by_pods.is_some() => {
            "see which callers use its own Service, and whether stable's pods are ready"
        }
        (_, true) if seen.by_pods.is_some() => {
            "most callers keep their connections, and stay on stable's pods: let them connect anew now and then"
        }
        (true, _) => {
            "callers use its own Service beside the gateway, or the gateway gives it more than the HTTPRoute says: see to them"
        }
        (_, true) => {
            "the gateway does not split, or most callers use the agent's Service inside the cluster, which is not split: \
             see to the gateway, or let them call through it"
        }
        _ => return None,
    };
    Some(format!("{} answered {canary} of {all} runs, and should answer {}%: {mend}", launch.revision, launch.weight))
}

/// The data lies wholly after the stage began.
fn covers(runs: &Runs, began: Timestamp) -> bool {
    runs.from >= began
}

/// Whether so many of all are surely more than the share, or next to nothing of it.
fn compare(weight: i32, canary: i64, all: i64) -> (bool, bool) {
    let (weight, canary, all) = (i128::from(weight), i128::from(canary), i128::from(all));
    if all < ENOUGH {
        return (false, false);
    }
    // In hundredths of a run; the variance of a share is all × weight × (100 - weight), in the square of that.
    let beyond = (canary * 100 - all * weight - all * SLACK).max(0);
    let more = beyond * beyond > SIGMAS * SIGMAS * all * weight * (100 - weight);
    let less = all * weight >= ENOUGH * 100 && canary * 1000 < all * weight;
    (more, less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_no_lie_and_a_gateway_that_does_not_split_is() {
        for (weight, canary, all, expected) in [
            (5, 49, 49, (false, false)),       // too few to say
            (5, 50, 50, (true, false)),        // enough
            (5, 5, 100, (false, false)),       // as it should be
            (5, 18, 100, (false, false)),      // chance, and connections that are kept
            (5, 40, 100, (true, false)),       // not by chance
            (5, 100, 100, (true, false)),      // everything to the canary
            (5, 0, 100, (false, false)),       // five were expected: too few to say
            (5, 0, 1000, (false, true)),       // fifty were expected
            (5, 6, 1000, (false, false)),      // callers inside the cluster
            (50, 500, 1000, (false, false)),   // as it should be
            (50, 700, 1000, (true, false)),    // not by chance
            (50, 620, 1000, (true, false)),    // and not that either
            (50, 610, 1000, (false, false)),   // it may be
            (50, 50, 1000, (false, false)),    // a twentieth of it: callers inside the cluster
            (50, 49, 1000, (false, true)),     // less
            (50, 0, 120, (false, true)),       // it does not split
            (50, 60, 120, (false, false)),     // as it should be
            (100, 1000, 1000, (false, false)), // all is all
            (100, 50, 1000, (false, true)),    // and a twentieth is not
            (100, i64::MAX, i64::MAX, (false, false)),
        ] {
            assert_eq!(compare(weight, canary, all), expected, "{canary} of {all} at {weight}%");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_share_that_is_as_it_should_be_is_never_doubted(weight in 0..=100i32, all in 0..1_000_000_000i64) {
            let canary = (i128::from(all) * i128::from(weight) / 100).try_into().unwrap();
            proptest::prop_assert_eq!(compare(weight, canary, all), (false, false));
        }
    }
}
