//! What the pods of a revision say, as the core's plain values.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::launch::Pods;

/// What a container waits for that ended too often.
const CRASH_LOOP: &str = "CrashLoopBackOff";
/// What a container that cannot get its image waits for.
const IMAGE_PULL: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// The pods of one revision. `size` is what its Deployment asks for.
///
/// Pods that are being deleted or have ended (evicted, failed) are neither ready nor in trouble; their restarts still count.
pub fn pods(pods: &[Pod], size: i32) -> Pods {
    let mut sorted: Vec<_> = pods.iter().collect();
    sorted.sort_by_key(|pod| pod.name_any()); // the same pod is named from pass to pass
    let alive: Vec<_> = sorted.iter().copied().filter(|pod| is_alive(pod)).collect();
    let ready: Vec<_> = alive.iter().filter_map(|pod| ready_condition(pod)).collect();
    let waits = |wanted: &dyn Fn(&str) -> bool| alive.iter().find_map(|pod| waiting(pod, wanted));
    Pods {
        size,
        ready: i32::try_from(ready.len()).unwrap_or(i32::MAX),
        failing: i32::try_from(alive.iter().filter(|pod| is_failing(pod)).count()).unwrap_or(i32::MAX),
        all_ready_since: all_ready_since(&ready, size),
        restarts: sorted.iter().map(|pod| (pod.name_any(), restarts(pod))).collect::<BTreeMap<_, _>>(),
        restarted: restarted(&alive),
        crash_loop: waits(&|reason| reason == CRASH_LOOP),
        image_pull: waits(&|reason| IMAGE_PULL.contains(&reason)),
        refused: None, // its Deployment says that
    }
}

fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// The pod's Ready condition, if it is true.
fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod that is not ready was ready before, or is in trouble. The condition of one that has never been ready is as
/// old as its start.
fn is_failing(pod: &Pod) -> bool {
    let Some(status) = pod.status.as_ref().filter(|_| ready_condition(pod).is_none()) else { return false };
    let started = status.start_time.as_ref().map(|time| time.0);
    let mut conditions = status.conditions.iter().flatten();
    let unready = conditions.find(|condition| condition.type_ == "Ready");
    let since = unready.and_then(|condition| Some(condition.last_transition_time.as_ref()?.0));
    let was_ready = since.zip(started).is_some_and(|(since, started)| since.duration_since(started).as_secs() > 1);
    let trouble = |reason: &str| reason == CRASH_LOOP || IMAGE_PULL.contains(&reason);
    was_ready || restarts(pod) > 0 || waiting(pod, &trouble).is_some()
}

/// Since when `size` of the pods are ready: the instant at which the last of the `size` oldest became so.
fn all_ready_since(ready: &[&PodCondition], size: i32) -> Option<Timestamp> {
    let last = usize::try_from(size).ok()?.checked_sub(1)?;
    let mut since: Vec<Timestamp> =
        ready.iter().filter_map(|condition| Some(condition.last_transition_time.as_ref()?.0)).collect();
    since.sort_unstable();
    since.get(last).copied()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().chain(main).flatten()
}

fn restarts(pod: &Pod) -> i32 {
    containers(pod).fold(0, |sum, container| sum.saturating_add(container.restart_count))
}

/// The first container that waits for a reason of the wanted kind, in a sentence.
fn waiting(pod: &Pod, wanted: &dyn Fn(&str) -> bool) -> Option<String> {
    containers(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| wanted(reason))?;
        let exit = last_exit(container).filter(|_| reason == CRASH_LOOP);
        let why = exit.or_else(|| waiting.message.clone());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("container {} of pod {} waits in {reason}{why}", container.name, pod.name_any()))
    })
}

/// The container that restarted most, and how it ended last, in a sentence.
fn restarted(pods: &[&Pod]) -> Option<String> {
    let all = pods.iter().flat_map(|pod| containers(pod).map(|container| (pod.name_any(), container)));
    let (pod, container) = all.filter(|(_, c)| c.restart_count > 0).max_by_key(|(_, c)| c.restart_count)?;
    let exit = last_exit(container).map(|exit| format!(": {exit}")).unwrap_or_default();
    Some(format!("container {} of pod {pod}{exit}", container.name))
}

/// How the container ended last.
fn last_exit(container: &ContainerStatus) -> Option<String> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let reason = ended.reason.as_deref().filter(|reason| !matches!(*reason, "Error" | "Completed"));
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    Some(format!("last exit {}{reason}", ended.exit_code))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, status: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name}});
        pod["status"] = status;
        serde_json::from_value(pod).unwrap()
    }

    fn ready(name: &str, since: &str) -> Pod {
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        pod(name, json!({"phase": "Running", "conditions": conditions}))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const T1: &str = "2026-01-01T00:00:01Z";
    const T2: &str = "2026-01-01T00:00:02Z";
    const T3: &str = "2026-01-01T00:00:03Z";

    #[test]
    fn all_are_ready_since_the_last_of_them_became_so() {
        let seen = pods(&[ready("b", T3), ready("a", T1)], 2);
        assert_eq!((seen.ready, seen.all_ready_since), (2, Some(at(T3))));
    }

    #[test]
    fn a_surplus_pod_does_not_restart_the_clock() {
        let seen = pods(&[ready("a", T1), ready("b", T2), ready("c", T3)], 2);
        assert_eq!((seen.ready, seen.all_ready_since), (3, Some(at(T2))));
    }

    #[test]
    fn too_few_pods_are_not_all_ready_and_none_are_never_all() {
        assert_eq!(pods(&[ready("a", T1)], 2).all_ready_since, None);
        assert_eq!(pods(&[], 0).all_ready_since, None);
        assert_eq!(pods(&[ready("a", T1)], 0).all_ready_since, None);
    }

    #[test]
    fn pods_that_go_or_have_gone_are_not_ready() {
        let mut leaving = ready("a", T1);
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(T2.parse().unwrap()));
        let mut evicted = ready("b", T1);
        let status = evicted.status.as_mut().unwrap();
        (status.phase, status.reason) = (Some("Failed".to_owned()), Some("Evicted".to_owned()));
        let unready = pod("c", json!({"conditions": [{"type": "Ready", "status": "False"}]}));
        let seen = pods(&[leaving, evicted, unready, pod("d", json!({}))], 1);
        assert_eq!((seen.ready, seen.all_ready_since), (0, None));
    }

    #[test]
    fn a_pod_that_starts_is_not_failing_and_one_that_was_ready_is() {
        let unready = |since: &str, restarts: i32| {
            let container = json!({"name": "x", "image": "", "imageID": "", "ready": false, "restartCount": restarts});
            let conditions = json!([{"type": "Ready", "status": "False", "lastTransitionTime": since}]);
            pod("a", json!({"startTime": T1, "conditions": conditions, "containerStatuses": [container]}))
        };
        let failing = |pod: Pod| pods(&[pod, ready("b", T1)], 2).failing;
        assert_eq!(failing(unready(T1, 0)), 0, "it starts");
        assert_eq!(failing(unready(T3, 0)), 1, "it was ready");
        assert_eq!(failing(unready(T1, 1)), 1, "its container has ended");
        assert_eq!(failing(pod("c", json!({"phase": "Pending"}))), 0);
        assert_eq!(failing(waits("ErrImagePull", "", None)), 1);
    }

    #[test]
    fn the_container_that_restarted_most_is_named_with_its_last_exit() {
        let status = |name: &str, count: i32, code: i32| {
            let ended = json!({"terminated": {"exitCode": code, "reason": "Error"}});
            json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": count, "lastState": ended})
        };
        let of = |statuses: Value| pods(&[pod("a", json!({"containerStatuses": statuses}))], 1).restarted;
        assert_eq!(of(json!([status("x", 0, 7)])), None);
        let told = of(json!([status("x", 1, 7), status("y", 3, 137)]));
        assert_eq!(told.as_deref(), Some("container y of pod a: last exit 137"));
    }

    #[test]
    fn restarts_are_summed_over_init_and_main_containers() {
        let status = |name: &str, count: i32| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": count});
        let seen = pods(
            &[pod(
                "a",
                json!({"initContainerStatuses": [status("proxy", 2)], "containerStatuses": [status("x", 1), status("y", 4)]}),
            )],
            1,
        );
        assert_eq!(seen.restarts, BTreeMap::from([("a".to_owned(), 7)]));
    }

    fn waits(reason: &str, message: &str, exit: Option<(i32, &str)>) -> Pod {
        let last = exit.map_or(json!({}), |(code, reason)| json!({"terminated": {"exitCode": code, "reason": reason}}));
        let container = json!({
            "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 3, "lastState": last,
            "state": {"waiting": {"reason": reason, "message": message}},
        });
        pod("x", json!({"phase": "Running", "containerStatuses": [container]}))
    }

    #[test]
    fn a_crash_loop_tells_the_container_and_its_last_exit() {
        let told = |exit| pods(&[waits("CrashLoopBackOff", "back-off 40s", exit)], 1).crash_loop.unwrap();
        assert_eq!(told(Some((1, "Error"))), "container agent of pod x waits in CrashLoopBackOff: last exit 1");
        assert_eq!(
            told(Some((137, "OOMKilled"))),
            "container agent of pod x waits in CrashLoopBackOff: last exit 137 (OOMKilled)"
        );
        assert_eq!(told(None), "container agent of pod x waits in CrashLoopBackOff: back-off 40s");
    }

    #[test]
    fn an_image_that_cannot_be_pulled_tells_why() {
        for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"] {
            let seen = pods(&[waits(reason, "no such tag", None)], 1);
            let told = format!("container agent of pod x waits in {reason}: no such tag");
            assert_eq!((seen.image_pull, seen.crash_loop), (Some(told), None));
        }
        let other = pods(&[waits("ContainerCreating", "", None)], 1);
        assert_eq!((other.image_pull, other.crash_loop), (None, None));
    }

    #[test]
    fn the_order_of_the_pods_changes_nothing() {
        let mut other = waits("CrashLoopBackOff", "", Some((2, "Error")));
        other.metadata.name = Some("w".to_owned());
        let one = waits("CrashLoopBackOff", "", Some((1, "Error")));
        assert_eq!(pods(&[one.clone(), other.clone()], 2), pods(&[other, one], 2));
    }
}
