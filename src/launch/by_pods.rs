//! Shares made of pods: the agent's Service selects the pods of both revisions, and a new connection meets each of them as
//! often as any other. How many pods make a share, which shares there are, and when the Service may select both.
//!
//! While it does, stable only grows and the canary has no more pods than the share allows: whatever write arrives when, the
//! share that the sizes make is never above the stage's. More pods for the next share start without any traffic.

use super::step::Notes;
use super::{Observation, Plan, Pods, Route, Shares, WantedRevision};
use crate::api::{Launch, Phase, State, clip};

/// No share is larger: the canary would need more pods than all the traffic does.
pub const LARGEST: i32 = 50;

/// The agent's Service makes the shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByPods {
    /// Why the Service may not select the pods of both revisions now.
    pub obstacle: Option<String>,
}

/// The share of so many pods beside stable's, in percent and rounded up.
pub fn share_of_pods(stable: i32, canary: i32) -> i32 {
    let (stable, canary) = (i64::from(stable.max(0)), i64::from(canary.max(0)));
    let all = stable + canary;
    if all == 0 { 0 } else { i32::try_from((canary * 100 + all - 1) / all).unwrap_or(100) }
}

/// The most pods whose share beside so many of stable is not above `percent`.
pub fn pods_of_share(percent: i32, stable: i32) -> i32 {
    let percent = i64::from(percent.clamp(0, LARGEST));
    i32::try_from(i64::from(stable.max(0)) * percent / (100 - percent)).unwrap_or(stable)
}

/// The shares that so many pods of stable allow.
fn possible(stable: i32) -> Vec<i32> {
    let mut shares: Vec<i32> = (1..=stable).map(|canary| share_of_pods(stable, canary)).collect();
    shares.dedup();
    shares
}

/// What a plan asks for that no number of pods can make, and the mend; as the rest of a message that begins with the plan.
pub(super) fn unfit(plan: &Plan) -> Option<String> {
    let mend = "or use spec.traffic.gateway";
    if let Some(stage) = plan.stages.iter().find(|stage| stage.weight > LARGEST) {
        let (name, share) = (&stage.name, stage.weight);
        let most = "with spec.traffic.replicas a share is 50 at most, and the promotion gives the rest";
        return Some(format!(".stages[{name}].traffic is {share}: {most}; lower it, {mend}"));
    }
    if let Some(stage) = plan.stages.iter().find(|stage| !stage.only.is_empty()) {
        let blind = "with spec.traffic.replicas nobody looks at requests";
        return Some(format!(".stages[{}].match: {blind}; remove it, {mend}", stage.name));
    }
    let sized = plan.canary_pods > 1;
    sized.then(|| {
        format!(".canary.minReplicas: with spec.traffic.replicas the canary's pods are its share; remove it, {mend}")
    })
}

/// Why pods cannot make a share of the plan.
fn impossible(plan: &Plan, replicas: i32) -> Option<String> {
    let exact = |share: i32| share_of_pods(replicas, pods_of_share(share, replicas)) == share;
    let stage = plan.stages.iter().find(|stage| !exact(stage.weight))?;
    Some(told(&stage.name, stage.weight, replicas))
}

fn told(stage: &str, share: i32, replicas: i32) -> String {
    let listed: Vec<String> = possible(replicas).iter().map(ToString::to_string).collect();
    let allowed = match replicas {
        0 => "spec.replicas is 0, and this revision waits until there are pods".to_owned(),
        1 => "1 replica allows 50".to_owned(),
        _ => format!("{replicas} replicas allow {}", listed.join(", ")),
    };
    clip(
        &format!(
            "traffic {share} of stage {stage} cannot be made of pods: {allowed}; set one of these, or spec.traffic.gateway"
        ),
        512,
    )
}

/// The revision that the spec asks for; refused where a launch of it would need a share that pods cannot make. One that runs
/// is not stopped by another number of replicas. `ports` tells why pods of both revisions cannot be behind one Service.
pub fn launchable(
    wanted: &WantedRevision,
    plan: &Plan,
    state: &State,
    replicas: i32,
    ports: Option<String>,
) -> WantedRevision {
    let WantedRevision::Known(revision) = wanted else { return wanted.clone() };
    let running = state.running();
    let Some(stable) = &state.stable else { return wanted.clone() }; // nobody to share with
    let settled = stable.revision == *revision
        || running.is_some_and(|launch| launch.revision == *revision)
        || state.trusted.iter().any(|trusted| trusted.revision == *revision)
        || state.rejected.iter().any(|rejected| rejected.revision == *revision);
    let shared = plan.stages.iter().any(|stage| stage.weight > 0);
    let ports = ports.filter(|_| shared).map(|message| ("PortChanged", message));
    let problem = ports.or_else(|| impossible(plan, replicas).map(|message| ("PlanInvalid", message)));
    match problem.filter(|_| !settled) {
        Some((reason, message)) => {
            WantedRevision::Refused { revision: revision.clone(), reason: reason.to_owned(), message }
        }
        None => wanted.clone(),
    }
}

/// The Service selects the pods of both revisions.
pub(super) fn splits(seen: &Observation) -> bool {
    let split = matches!(&seen.route, Route::Seen { shares: Shares::Split { weight, .. }, .. } if *weight > 0);
    seen.by_pods.is_some() && split
}

fn pods(seen: &Observation, revision: Option<&String>) -> Pods {
    revision.and_then(|revision| seen.pods.get(revision)).cloned().unwrap_or_default()
}

/// Pods that a canary needs for a share that is all its own to have; one to be looked at without any traffic.
pub(super) fn needed(launch: &Launch, share: i32, seen: &Observation) -> i32 {
    let stable = pods(seen, launch.stable.as_ref()).size;
    if share == 0 { seen.replicas.clamp(0, 1) } else { pods_of_share(share, stable) }
}

/// Pods that the canary should have. Under traffic it grows only as far as stable's ready pods carry it, and it shrinks to
/// what stable's size allows.
pub(super) fn of_canary(launch: &Launch, staged: i32, seen: &Observation) -> i32 {
    let size = pods(seen, Some(&launch.revision)).size;
    match launch.phase {
        Phase::RollingBack | Phase::Complete => size,
        _ if splits(seen) && launch.weight == 0 => size, // it is about to lose its traffic
        _ if seen.replicas == 0 => 0,
        _ if splits(seen) && launch.weight < 100 => {
            let stable = pods(seen, launch.stable.as_ref());
            let most = pods_of_share(launch.weight, stable.size);
            let carried = pods_of_share(launch.weight, stable.size.min(stable.ready));
            size.clamp(carried.min(most), most.max(1)) // one stays to be judged: the Service turns, not the pod
        }
        Phase::Promoting | Phase::Soaking if launch.weight == 0 || launch.weight == 100 => seen.replicas,
        _ if launch.weight == 0 => needed(launch, staged, seen),
        _ => needed(launch, launch.weight, seen),
    }
}

/// Pods that stable keeps at least: fewer would make the canary's share larger.
pub(super) fn of_stable(launch: &Launch, seen: &Observation) -> i32 {
    let shares = seen.by_pods.is_some() && (splits(seen) || (1..100).contains(&launch.weight));
    if shares { pods(seen, launch.stable.as_ref()).size } else { 0 }
}

/// Why the Service may not select both revisions. Before it does, ready pods must make no larger share than it will have;
/// once it does, what Deployments ask for counts: a pod that is not ready for a moment turns nothing.
pub(super) fn hinders(launch: &Launch, share: i32, seen: &Observation) -> Option<String> {
    let by_pods = seen.by_pods.as_ref()?;
    if let Some(obstacle) = &by_pods.obstacle {
        return Some(obstacle.clone());
    }
    let (stable, canary) = (pods(seen, launch.stable.as_ref()), pods(seen, Some(&launch.revision)));
    let (old, new) = if splits(seen) {
        (stable.size, canary.size)
    } else {
        (stable.size.min(stable.ready), canary.size.max(canary.ready))
    };
    let makes = share_of_pods(old, new);
    (makes > share).then(|| {
        format!("{new} pods of {} beside {old} ready ones of stable make {makes}%, more than {share}%", launch.revision)
    })
}

/// Whether the Service should not select the pods of both, although the launch has a share. It never leaves the canary for a
/// stable revision without ready pods.
pub(super) fn hindered(launch: &Launch, seen: &Observation) -> bool {
    let dead = pods(seen, launch.stable.as_ref()).ready == 0;
    launch.weight < 100 && hinders(launch, launch.weight, seen).is_some() && !(dead && splits(seen))
}

/// Why a share cannot be given now, in words.
pub(super) fn waits(launch: &Launch, share: i32, stage: &str, seen: &Observation) -> Option<String> {
    seen.by_pods.as_ref()?;
    let stable = pods(seen, launch.stable.as_ref()).size;
    if share > 0 && needed(launch, share, seen) == 0 {
        return Some(format!("held: {}", told(stage, share, stable))); // an edited plan, or more replicas from none
    }
    let why = hinders(launch, share, seen).filter(|_| share > 0 && launch.weight < share)?;
    Some(clip(&format!("waiting: {why}"), 512))
}

/// More pods would be a larger share at once: the canary gives up the one that it has until they are ready.
pub(super) fn makes_room(launch: &mut Launch, needed: i32, seen: &Observation, notes: &mut Notes) -> bool {
    let (size, stable) = (pods(seen, Some(&launch.revision)).size, pods(seen, launch.stable.as_ref()));
    let grows = seen.by_pods.is_some() && (1..100).contains(&launch.weight) && needed > size;
    if !grows || stable.ready == 0 {
        return false;
    }
    let what = format!("{}: {} needs {needed} pods for its next share", launch.id, launch.revision);
    notes.tell("PodsAdded", format!("{what}; it has no traffic until they are ready"));
    launch.weight = 0;
    launch.began_at = None;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_more_than_its_pods_make() {
        for (replicas, shares) in
            [(1, &[50][..]), (2, &[34, 50]), (4, &[20, 34, 43, 50]), (9, &[10, 19, 25, 31, 36, 40, 44, 48, 50])]
        {
            assert_eq!(possible(replicas), shares, "{replicas} replicas");
            for (pods, share) in (1..).zip(shares) {
                assert_eq!(pods_of_share(*share, replicas), pods, "{share}% of {replicas}");
            }
        }
        assert_eq!((possible(0), possible(1000).len()), (vec![], 50));
        assert_eq!(
            [(0, 0), (4, 0), (0, 1), (19, 1)].map(|(stable, canary)| share_of_pods(stable, canary)),
            [0, 0, 100, 5]
        );
        assert_eq!(
            [(5, 4), (19, 4), (0, 4), (50, 0), (100, 4)].map(|(share, n)| pods_of_share(share, n)),
            [0, 0, 0, 0, 4]
        );
    }

    #[test]
    fn shares_that_pods_cannot_make_are_told_with_those_that_they_can() {
        assert_eq!(
            told("canary-1", 5, 4),
            "traffic 5 of stage canary-1 cannot be made of pods: 4 replicas allow 20, 34, 43, 50; set one of these, or \
             spec.traffic.gateway"
        );
        assert!(told("canary-1", 5, 1).contains(": 1 replica allows 50;"));
        assert!(told("canary-1", 5, 1000).chars().count() <= 512);
    }

    proptest::proptest! {
        #[test]
        fn pods_of_a_share_stay_within_it_and_one_more_does_not(share in 1..=LARGEST, stable in 0..=1000) {
            let pods = pods_of_share(share, stable);
            proptest::prop_assert!(share_of_pods(stable, pods) <= share && pods <= stable);
            proptest::prop_assert!(stable == 0 || share_of_pods(stable, pods + 1) > share);
        }
    }
}
