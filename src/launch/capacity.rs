//! How many pods each revision needs, so that the share it gets is a share it can carry.

use std::collections::BTreeMap;

use super::drain::is_retiring;
use super::wanted::canary_share;
use super::{Observation, Plan, Programmed, Route, Stage, by_pods};
use crate::api::{Launch, Phase, State};

/// Pods for a share of the traffic: the share of all pods rounded up, and one pod at least.
pub(super) fn canary_size(replicas: i32, weight: i32) -> i32 {
    if replicas <= 0 {
        return 0;
    }
    let exact = i64::from(replicas) * i64::from(weight.clamp(0, 100));
    i32::try_from((exact + 99) / 100).unwrap_or(replicas).clamp(1, replicas)
}

/// Pods that the canary needs in a stage: for its share, and as many as the plan wants at least.
pub(super) fn of_stage(launch: &Launch, stage: &Stage, plan: &Plan, seen: &Observation) -> i32 {
    if seen.by_pods.is_some() {
        return by_pods::needed(launch, stage.weight, seen);
    }
    at_least(canary_size(seen.replicas, stage.weight), plan, seen)
}

/// The plan's minimum, which is never more than all the traffic needs.
fn at_least(size: i32, plan: &Plan, seen: &Observation) -> i32 {
    size.max(plan.canary_pods.min(seen.replicas))
}

/// Pods that the canary of a running launch should have: enough for its stage, and for the weight it has now.
pub(super) fn of_canary(launch: &Launch, plan: &Plan, seen: &Observation) -> i32 {
    let staged =
        usize::try_from(launch.stage).ok().and_then(|index| plan.stages.get(index)).map_or(0, |stage| stage.weight);
    if seen.by_pods.is_some() && launch.stable.is_some() {
        return by_pods::of_canary(launch, staged, seen);
    }
    match launch.phase {
        Phase::Progressing => {
            let size = at_least(canary_size(seen.replicas, staged.max(launch.weight)), plan, seen);
            if is_lowered(launch, seen) { size.max(size_now(seen, &launch.revision)) } else { size }
        }
        Phase::Promoting | Phase::Soaking => seen.replicas,
        Phase::RollingBack if launch.weight > 0 => {
            canary_size(seen.replicas, launch.weight).max(size_now(seen, &launch.revision))
        }
        Phase::RollingBack | Phase::Complete => size_now(seen, &launch.revision),
    }
}

/// A weight that an edit lowered, or that `replicas: 0` took away, may be the former one at the gateway still: the pods stay
/// until it has taken the new one.
pub(super) fn is_lowered(launch: &Launch, seen: &Observation) -> bool {
    let waits = matches!(seen.route, Route::Seen { programmed: Programmed::Pending, .. });
    let may_answer = seen.replicas > 0 || launch.weight > 0 || canary_share(launch, seen) > 0 || waits;
    launch.served && launch.began_at.is_none() && may_answer
}

/// Pods that every revision should have. The stable revision before a launch keeps what it had when it began until it has
/// ended, its soak included.
pub(super) fn sizes(state: &State, plan: &Plan, seen: &Observation) -> BTreeMap<String, i32> {
    let mut sizes = BTreeMap::new();
    let running = state.running();
    for retiring in &state.retiring {
        sizes.insert(retiring.revision.clone(), size_now(seen, &retiring.revision));
    }
    if let Some(stable) = &state.stable {
        sizes.insert(stable.revision.clone(), seen.replicas);
    }
    if let Some(launch) = running {
        let size = of_canary(launch, plan, seen).max(of_earlier_runs(launch, state, seen));
        sizes.insert(launch.revision.clone(), size);
        let size = seen.replicas.max(launch.stable_size).max(by_pods::of_stable(launch, seen));
        let before = launch.stable.iter().map(|stable| (stable.clone(), size));
        sizes.extend(before);
    }
    sizes
}

/// Pods that a canary keeps because it lost its traffic a moment ago, in an earlier launch: their runs may not have ended. Where
/// pods make the share it gets none before they have.
fn of_earlier_runs(launch: &Launch, state: &State, seen: &Observation) -> i32 {
    let free = seen.by_pods.is_none() || launch.weight == 0 && !by_pods::splits(seen);
    if free && is_retiring(state, &launch.revision) { size_now(seen, &launch.revision) } else { 0 }
}

/// The canary of a launch that has moved nothing yet, and how many pods it will need beside stable's before the promotion,
/// more than it has. `None` when there is nothing to ask.
pub fn to_come<'a>(state: &'a State, seen: &Observation) -> Option<(&'a str, i32)> {
    let launch = state.running().filter(|launch| moved_nothing(launch))?;
    let more = seen.replicas.saturating_sub(size_now(seen, &launch.revision).max(0));
    (more > 0).then_some((&*launch.revision, more))
}

fn moved_nothing(launch: &Launch) -> bool {
    launch.phase == Phase::Progressing && !launch.served
}

/// Why a launch does not begin to move traffic that it could never move whole, and the mend.
pub(super) fn no_room(launch: &Launch, seen: &Observation) -> Option<String> {
    let why = seen.no_room.as_ref().filter(|_| moved_nothing(launch))?;
    Some(format!("{why}: {BOTH}"))
}

/// The mend of a quota that is too small for a launch.
pub(super) const BOTH: &str = "a launch runs both revisions beside each other: raise the quota, or lower spec.replicas";

fn size_now(seen: &Observation, revision: &str) -> i32 {
    seen.pods.get(revision).map_or(0, |pods| pods.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_to_whole_pods() {
        for (replicas, weight, pods) in
            [(4, 5, 1), (4, 25, 1), (4, 26, 2), (4, 100, 4), (1, 5, 1), (3, 0, 1), (0, 50, 0), (1000, 1, 10)]
        {
            assert_eq!(canary_size(replicas, weight), pods, "{replicas} x {weight}%");
        }
    }
}
