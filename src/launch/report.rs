//! What users read: the line of `kubectl get`, and the conditions with their mends. It tells decisions and makes none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::capacity::{self, BOTH};
use super::{Observation, Pods, Programmed, Route, WantedRevision, contest, freeze, people, share};
use crate::api::conditions::{LAUNCHED, PROGRESSING, READY, RECONCILING, STALLED, clear, set};
use crate::api::{Launch, Outcome, Phase, State, Summary, Verdict, clip};

/// The reason in the line of `kubectl get` is cut here; conditions carry it whole.
const LINE: usize = 200;

/// The line that `kubectl get` prints.
pub fn summary(state: &State, seen: &Observation) -> Summary {
    let dash = || "-".to_owned();
    let stable = state.stable.as_ref().map_or_else(dash, |stable| stable.revision.clone());
    let settled = matches!((&seen.wanted, &state.stable), (WantedRevision::Known(wanted), Some(stable)) if *wanted == stable.revision);
    let ended = |launch: &Launch| launch.phase == Phase::Complete;
    let told = |launch: &Launch| launch.outcome != Some(Outcome::Succeeded) && !(settled && ended(launch));
    let shown = state.launch.as_ref().filter(|launch| told(launch));
    let Some(launch) = shown else {
        let resting = || waits_frozen(state, seen).unwrap_or_else(|| people::at_rest(state, seen));
        let reason = problem(state, seen).map_or_else(resting, |(_, message)| message);
        return Summary {
            stable,
            canary: dash(),
            stage: dash(),
            weight: dash(),
            verdict: dash(),
            reason: clip(&reason, LINE),
        };
    };
    let soaks = launch.phase == Phase::Soaking; // its revision is stable, and there is no canary any more
    Summary {
        stable,
        canary: if soaks { dash() } else { launch.revision.clone() },
        stage: stage(launch),
        weight: if soaks { dash() } else { format!("{}%", launch.weight) },
        verdict: worst(launch).map_or_else(dash, |verdict| format!("{verdict:?}")),
        reason: clip(&reason(launch), LINE),
    }
}

fn stage(launch: &Launch) -> String {
    match launch.phase {
        Phase::Progressing => format!("{} {}/{}", launch.stage_name, launch.stage + 1, launch.stages),
        Phase::Promoting | Phase::Soaking => launch.stage_name.clone(),
        Phase::RollingBack => "RollingBack".to_owned(),
        Phase::Complete => launch.outcome.map_or_else(String::new, |outcome| format!("{outcome:?}")),
    }
}

fn worst(launch: &Launch) -> Option<Verdict> {
    let running = matches!(launch.phase, Phase::Progressing);
    let order = [Verdict::Fail, Verdict::Error, Verdict::Insufficient, Verdict::Pass, Verdict::NotApplicable];
    order.into_iter().find(|verdict| running && launch.verdicts.iter().any(|gate| gate.verdict == *verdict))
}

/// What the launch waits for, or the first gate that does not pass.
fn reason(launch: &Launch) -> String {
    let gate = worst(launch).and_then(|worst| launch.verdicts.iter().find(|gate| gate.verdict == worst));
    let gate = gate.map(|gate| format!("{}: {}", gate.gate, gate.message));
    launch.message.clone().or(gate).unwrap_or_else(|| "starting".to_owned())
}

/// Sets all conditions.
pub fn conditions(
    conditions: &mut Vec<Condition>,
    state: &State,
    seen: &Observation,
    generation: Option<i64>,
    now: Timestamp,
) {
    let running = state.running();
    let (ready, reason, message) = ready(state, seen);
    set(conditions, (READY, ready, reason, &message), generation, now);
    let (launched, reason, message) = launched(state, seen);
    set(conditions, (LAUNCHED, launched, &reason, &message), generation, now);
    if let Some(launch) = running {
        let message = format!("{}: {} at {}%, {}", launch.id, stage(launch), launch.weight, self::reason(launch));
        let reason = phase(launch, seen);
        set(conditions, (PROGRESSING, true, &reason, &message), generation, now);
        if launch.phase == Phase::Soaking {
            clear(conditions, RECONCILING); // what was asked for is there: whoever waits for it need not wait for the soak
        } else {
            set(conditions, (RECONCILING, true, &reason, &message), generation, now);
        }
    } else {
        set(conditions, (PROGRESSING, false, "NoLaunch", "no launch runs"), generation, now);
        if reason == "Pending" {
            // kstatus would say Current of a spec that nobody has begun to launch
            set(conditions, (RECONCILING, true, &reason, &message), generation, now);
        } else {
            clear(conditions, RECONCILING);
        }
    }
    let (reason, message) =
        problem(state, seen).unwrap_or_else(|| ("Fine".to_owned(), "nobody needs to act".to_owned()));
    set(conditions, (STALLED, reason != "Fine", &reason, &message), generation, now);
}

fn ready(state: &State, seen: &Observation) -> (bool, &'static str, String) {
    let Some(stable) = &state.stable else {
        return (false, "NoStable", "no revision is stable yet".to_owned());
    };
    let none = Pods::default();
    let pods = seen.pods.get(&stable.revision).unwrap_or(&none);
    let message = format!("{}/{} pods of {} ready", pods.ready, pods.size, stable.revision);
    match &seen.route {
        Route::Seen { programmed: Programmed::Refused(why), .. } => {
            (false, "RouteRefused", format!("the gateway refuses the HTTPRoute: {why}"))
        }
        Route::Seen { programmed: Programmed::Silent(why), .. } => (false, "GatewaySilent", why.clone()),
        Route::Unusable(why) => (false, "RouteUnusable", format!("the HTTPRoute cannot be used: {why}")),
        Route::Unshared(why) => (false, "RouteUnusable", why.clone()),
        _ if pods.ready > 0 => (true, "Serving", message),
        _ if seen.replicas == 0 => (true, "ScaledToZero", message),
        _ => (false, "NoReadyPods", message),
    }
}

fn launched(state: &State, seen: &Observation) -> (bool, String, String) {
    let is_stable = |revision: &String| state.stable.as_ref().is_some_and(|stable| stable.revision == *revision);
    let revision = match &seen.wanted {
        WantedRevision::Known(revision) => revision,
        WantedRevision::Refused { revision, .. } if is_stable(revision) => revision, // only the next launch waits
        WantedRevision::Refused { reason, message, .. } | WantedRevision::Unknown { reason, message } => {
            return (false, reason.clone(), message.clone());
        }
    };
    let soaks = |launch: &&Launch| launch.phase == Phase::Soaking && launch.revision == *revision;
    if let Some(launch) = state.launch.as_ref().filter(soaks) {
        return (true, "Soaking".to_owned(), format!("{revision} is stable and {}", reason(launch)));
    }
    if is_stable(revision) {
        return (true, "Stable".to_owned(), format!("{revision} is stable"));
    }
    if let Some(rejected) = state.rejected.iter().find(|rejected| rejected.revision == *revision) {
        let first = state.launch.as_ref().is_some_and(|launch| launch.outcome == Some(Outcome::Failed));
        let reason = if first { "Failed" } else { "RolledBack" };
        return (false, reason.to_owned(), format!("{} at {:.0}", rejected.reason, rejected.at));
    }
    match state.running() {
        Some(launch) => (false, phase(launch, seen), format!("{}: {}, {}", launch.id, stage(launch), reason(launch))),
        None if seen.paused => (false, "Paused".to_owned(), format!("{revision} waits: spec.paused is true")),
        None if state.pause.is_some() => (false, "Paused".to_owned(), people::waits(state, revision)),
        None => match waits_frozen(state, seen) {
            Some(frozen) => (false, "Frozen".to_owned(), format!("{revision} waits: {frozen}")),
            None => (false, "Pending".to_owned(), format!("{revision} waits for its quiet time")),
        },
    }
}

/// The phase of a running launch; or that it is frozen, which is no failure.
fn phase(launch: &Launch, seen: &Observation) -> String {
    let forward = matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    let frozen = forward && !launch.held && !seen.paused && freeze::holds(launch.trusted, seen).is_some();
    if frozen { "Frozen".to_owned() } else { format!("{:?}", launch.phase) }
}

/// A new revision waits for the end of a freeze: until when.
fn waits_frozen(state: &State, seen: &Observation) -> Option<String> {
    let WantedRevision::Known(revision) = &seen.wanted else { return None };
    let is_stable = state.stable.as_ref().is_some_and(|stable| stable.revision == *revision);
    let is_rejected = state.rejected.iter().any(|rejected| rejected.revision == *revision);
    let trusted = state.trusted.iter().any(|trusted| trusted.revision == *revision);
    let frozen = freeze::holds(trusted, seen).filter(|_| !is_stable && !is_rejected && !seen.paused);
    frozen.map(super::Frozen::words)
}

/// Pods that Kubernetes does not make, of the running launch's revision or of stable: why, and the mend.
fn pods_refused(state: &State, seen: &Observation) -> Option<(String, String)> {
    let running = state.running();
    let launched = running.map(|launch| &launch.revision);
    let stable = state.stable.as_ref().map(|stable| &stable.revision);
    launched.into_iter().chain(stable).find_map(|revision| {
        let pods = seen.pods.get(revision).filter(|pods| pods.ready < pods.size)?;
        let why = pods.refused.as_ref()?;
        let (reason, mend) = if why.contains("exceeded quota") {
            ("QuotaExceeded", if running.is_some() { BOTH } else { "raise the quota, or lower spec.replicas" })
        } else {
            ("PodsRefused", "see to what the message names: an admission policy, a limit, a missing object")
        };
        let message =
            format!("Kubernetes refuses pods of {revision} ({}/{} ready): {why}; {mend}", pods.ready, pods.size);
        Some((reason.to_owned(), clip(&message, 1024)))
    })
}

/// What a person must mend, as reason and message.
fn problem(state: &State, seen: &Observation) -> Option<(String, String)> {
    let running = state.running();
    if let WantedRevision::Refused { reason, message, .. } | WantedRevision::Unknown { reason, message } = &seen.wanted
    {
        return Some((reason.clone(), message.clone()));
    }
    if let Some(trouble) = &seen.trouble {
        return Some(trouble.clone());
    }
    if let Some(taken) = &seen.hostname_taken {
        return Some(("HostnameTaken".to_owned(), taken.clone()));
    }
    if let Route::Unusable(why) | Route::Unshared(why) = &seen.route {
        return Some(("RouteUnusable".to_owned(), why.clone()));
    }
    if let Route::Seen { programmed: Programmed::Refused(why), .. } = &seen.route {
        return Some(("RouteRefused".to_owned(), why.clone()));
    }
    if let Route::Seen { programmed: Programmed::Silent(why), .. } = &seen.route
        && running.is_none()
    {
        return Some(("GatewaySilent".to_owned(), why.clone())); // a launch waits for it, with a deadline
    }
    if let Some(launch) = running.filter(|launch| launch.held) {
        let mend = "decide Resume or Abort, or edit the plan";
        return Some(("DeadlinePassed".to_owned(), format!("{}; {mend}", launch.message.clone().unwrap_or_default())));
    }
    if let Some(refused) = pods_refused(state, seen) {
        return Some(refused);
    }
    if let Some(why) = running.and_then(|launch| capacity::no_room(launch, seen)) {
        return Some(("QuotaExceeded".to_owned(), why));
    }
    if let Some(why) =
        running.filter(|launch| launch.phase != Phase::RollingBack).and_then(|launch| contest::contested(launch, seen))
    {
        return Some(("RouteContested".to_owned(), why));
    }
    if let Some(why) = running.and_then(|launch| share::wrong(launch, seen)) {
        return Some(("ShareNotKept".to_owned(), why));
    }
    if running.is_some_and(|launch| launch.phase == Phase::RollingBack && launch.weight > 0) {
        let message = "the canary is to be taken back, but stable has no ready pod; see the events of stable's pods, or decide Abort: it goes to stable all the same";
        return Some(("StableNotReady".to_owned(), message.to_owned()));
    }
    let WantedRevision::Known(revision) = &seen.wanted else { return None };
    let is_stable = state.stable.as_ref().is_some_and(|stable| stable.revision == *revision);
    state.rejected.iter().find(|rejected| rejected.revision == *revision && !is_stable).map(|_| {
        let mend = "revert Git, change the template or its ConfigMaps, or decide Retry";
        ("RevisionRejected".to_owned(), format!("{revision} will not launch again; {mend}"))
    })
}
