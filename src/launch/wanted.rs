//! What the cluster should look like, derived from what is remembered and what is seen. Nothing here changes a decision.

use std::collections::BTreeSet;

use super::{Decision, Observation, Plan, Programmed, Route, Shares, Wanted, by_pods, capacity, freeze};
use crate::api::{Launch, Outcome, Phase, State};

/// The cluster as it should be now.
pub(super) fn wanted(state: &State, plan: &Plan, seen: &Observation) -> Wanted {
    let running = state.running();
    let shares = (seen.route != Route::NotUsed).then(|| running.map_or(Shares::AtRest, |launch| shares(launch, seen)));
    Wanted {
        sizes: capacity::sizes(state, plan, seen),
        keep: keep(state, seen),
        falling: falls(state, running, seen) || by_pods::splits(seen) && shares == Some(Shares::AtRest),
        shares,
        service: service(state, running, seen),
        decision: state.launch.as_ref().and_then(written),
    }
}

/// Somebody other than stable has more of the traffic than they may have, or a rollback is under way.
fn falls(state: &State, running: Option<&Launch>, seen: &Observation) -> bool {
    let stable = state.stable.as_ref().map(|stable| stable.revision.as_str());
    let climbs = |launch: &&Launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    let allowed = running.filter(climbs).map_or(0, |launch| launch.weight);
    let too_wide = running.is_some_and(|launch| !launch.only.is_empty()) && everybody_shares(seen);
    running.is_some_and(|launch| launch.phase == Phase::RollingBack) || exposed(stable, seen) > allowed || too_wide
}

/// A share of all requests is there.
fn everybody_shares(seen: &Observation) -> bool {
    matches!(&seen.route, Route::Seen { shares: Shares::Split { weight, .. }, .. } if *weight > 0)
}

/// The largest share that a revision other than stable has, as far as can be seen.
fn exposed(stable: Option<&str>, seen: &Observation) -> i32 {
    let share = |revision: &str, share: i32| if stable == Some(revision) { 0 } else { share };
    match &seen.route {
        Route::Seen {
            shares:
                Shares::Split { stable: first, canary, weight } | Shares::Matched { stable: first, canary, weight, .. },
            ..
        } => share(first, 100 - *weight).max(share(canary, *weight)),
        Route::Seen { shares: Shares::Foreign(_), .. } => 100,
        _ => seen.service.as_deref().map_or(0, |service| share(service, 100)),
    }
}

fn shares(launch: &Launch, seen: &Observation) -> Shares {
    let Some(stable) = &launch.stable else {
        return Shares::AtRest;
    };
    // a rise, or a share of other requests, that has not landed before a pause or a freeze waits for its end
    let forward = matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    let holds = forward && (launch.held || seen.paused || freeze::holds(launch.trusted, seen).is_some());
    let weight = if holds { launch.weight.min(canary_share(launch, seen)) } else { launch.weight };
    let (stable, canary) = (stable.clone(), launch.revision.clone());
    let only = match &seen.route {
        Route::Seen { shares: Shares::Matched { only, canary, .. }, .. }
            if holds && launch.began_at.is_none() && *canary == launch.revision =>
        {
            only
        }
        _ => &launch.only,
    };
    let split = match only.clone() {
        only if only.is_empty() => Shares::Split { stable, canary, weight },
        only => Shares::Matched { stable, canary, weight, only },
    };
    let at_rest = matches!(seen.route, Route::Seen { shares: Shares::AtRest, .. });
    let untouched = at_rest && (!service_moved(launch, seen) || launch.weight == 100);
    match launch.phase {
        Phase::Progressing if weight == 0 => Shares::AtRest,
        Phase::Promoting if weight == 0 || service_moved(launch, seen) => Shares::AtRest,
        Phase::RollingBack if untouched => Shares::AtRest,
        Phase::Progressing | Phase::Promoting if by_pods::hindered(launch, seen) => Shares::AtRest,
        Phase::Progressing | Phase::Promoting | Phase::RollingBack => split,
        Phase::Soaking | Phase::Complete => Shares::AtRest,
    }
}

/// The agent's Service selects stable; it moves when the canary's 100 % was read back. A rollback that waits for a dead
/// stable leaves it where it is.
fn service(state: &State, running: Option<&Launch>, seen: &Observation) -> Option<String> {
    if let Some(launch) = running.filter(|launch| is_promoted(launch)) {
        let confirmed = seen.by_pods.is_some()
            || match (&seen.route, &launch.stable) {
                (Route::NotUsed, _) | (_, None) => true,
                (Route::Seen { programmed: Programmed::Yes, .. }, _) => read_back(launch, seen),
                _ => false,
            };
        let holds = launch.held || seen.paused || freeze::holds(launch.trusted, seen).is_some();
        if confirmed && !holds || service_moved(launch, seen) {
            return Some(launch.revision.clone());
        }
    }
    let waits = |launch: &&Launch| launch.phase == Phase::RollingBack && launch.weight == 100;
    if let Some(launch) = running.filter(waits).filter(|launch| service_moved(launch, seen)) {
        return Some(launch.revision.clone());
    }
    state.stable.as_ref().map(|stable| stable.revision.clone())
}

/// The canary may have all the traffic.
pub(super) fn is_promoted(launch: &Launch) -> bool {
    launch.phase == Phase::Promoting && launch.weight == 100 && launch.only.is_empty()
}

/// Revisions whose objects stay: what runs, what may be gone back to, and the last canary for a look at it.
fn keep(state: &State, seen: &Observation) -> BTreeSet<String> {
    let trusted = state.trusted.iter().take(seen.history_limit + 1).map(|trusted| &trusted.revision);
    let stable = state.stable.iter().map(|stable| &stable.revision);
    let retiring = state.retiring.iter().map(|retiring| &retiring.revision);
    let launch = state.launch.iter().flat_map(|launch| {
        let before = launch.stable.iter().filter(|_| launch.phase != Phase::Complete);
        before.chain([&launch.revision])
    });
    trusted.chain(stable).chain(retiring).chain(launch).cloned().collect()
}

/// The decision that is written with the canary's fall, and stays on the route until a later launch raises a weight.
fn written(launch: &Launch) -> Option<Decision> {
    let outcome = launch.outcome.filter(|outcome| *outcome != Outcome::Succeeded)?;
    Some(Decision {
        launch: launch.id.clone(),
        revision: launch.revision.clone(),
        outcome,
        reason: launch.reason.clone().unwrap_or_default(),
        message: launch.message.clone().unwrap_or_default(),
        at: launch.decided_at?,
    })
}

/// Whether the agent's Service selects the canary.
pub(super) fn service_moved(launch: &Launch, seen: &Observation) -> bool {
    seen.service.as_ref() == Some(&launch.revision)
}

/// The share that the canary has in the route (or through the agent's Service), as the API server holds it.
pub(super) fn canary_share(launch: &Launch, seen: &Observation) -> i32 {
    match &seen.route {
        Route::Seen { shares: Shares::Foreign(_), .. } => 100,
        Route::Seen {
            shares: Shares::Split { stable, canary, weight } | Shares::Matched { stable, canary, weight, .. },
            ..
        } => match &launch.revision {
            revision if revision == canary => *weight,
            revision if revision == stable => 100 - *weight,
            _ => 0,
        },
        _ if service_moved(launch, seen) => 100,
        _ => 0,
    }
}

/// Whether the API server holds just the shares that the launch asks for.
pub(super) fn read_back(launch: &Launch, seen: &Observation) -> bool {
    let moved = service_moved(launch, seen);
    let as_asked = |stable: &String, canary: &String, weight: i32| {
        *canary == launch.revision
            && launch.stable.as_ref() == Some(stable)
            && weight == launch.weight
            && (launch.phase != Phase::RollingBack || !moved)
    };
    match &seen.route {
        Route::NotUsed | Route::Missing | Route::Unshared(_) => launch.phase != Phase::RollingBack || !moved,
        Route::Seen { shares: Shares::AtRest, .. } => launch.weight == 0 && !moved,
        Route::Seen { shares: Shares::Split { stable, canary, weight }, .. } => {
            launch.only.is_empty() && as_asked(stable, canary, *weight)
        }
        Route::Seen { shares: Shares::Matched { stable, canary, weight, only }, .. } => {
            launch.only == *only && as_asked(stable, canary, *weight)
        }
        Route::Unusable(_) | Route::Seen { shares: Shares::Foreign(_), .. } => false,
    }
}
