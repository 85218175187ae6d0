//! Going back: why a launch must end, and how its canary loses the traffic. Judged first in every pass.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::drain::{lose_traffic, regain_traffic};
use super::forward::LOOK_AGAIN;
use super::people::ABORTED;
use super::soak::give_back;
use super::step::{Notes, index};
use super::time::{after, human};
use super::wanted::{canary_share, read_back};
use super::{Decision, Observation, Plan, Programmed, Route, Shares, WantedRevision, gates, triggers};
use crate::api::{DeadlineOutcome, Launch, Outcome, Phase, RejectedRevision, StableRevision, State, Verdict, clip};

/// A rollback waits so long for the gateway's answer before the canary's pods go. A gateway that only does not hear goes on
/// sending to them, and every such request would be lost. After an outage of the API server its watches come back within
/// little more than a minute: for a minute at most do Kubernetes' clients wait between two tries.
pub const GATEWAY_ANSWER: Duration = Duration::from_mins(2);
/// A gateway that never said a word about the route is waited for so long. Most likely there is none, which is told of, and is
/// no fault of the revision.
pub(super) const NO_GATEWAY: Duration = Duration::from_secs(30);
/// Rejected revisions that are remembered.
const REJECTED: usize = 100;

/// A rollback that was written on the route before a crash, or by another leader: it stands.
pub(super) fn written_decision(launch: &Launch, seen: &Observation) -> Option<Decision> {
    seen.decision.clone().filter(|decision| decision.launch == launch.id && decision.revision == launch.revision)
}

/// A success that a deposed leader told of after its successor had written the fall: the fall stands.
pub(super) fn overruled(launch: &Launch, state: &mut State, seen: &Observation) -> Option<Decision> {
    let decision = written_decision(launch, seen).filter(|_| launch.outcome == Some(Outcome::Succeeded))?;
    let former = launch.stable.clone()?; // a first deployment has nothing to go back to
    regain_traffic(state, &former);
    state.stable = Some(StableRevision { revision: former, since: decision.at });
    Some(decision)
}

/// Why the launch must end now, if it must. The order is the order of precedence.
pub(super) fn must_end(
    launch: &mut Launch,
    plan: &Plan,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Option<Decision> {
    let (fired, wake) = triggers::judge(launch, plan, seen, now);
    notes.wakes.extend(wake);
    if let Some(fired) = fired {
        launch.breached_at = Some(fired.breached_at);
        return Some(decision(launch, Outcome::RolledBack, "TriggerFired", &fired.message, now));
    }
    if launch.phase == Phase::Progressing
        && let Some(stage) = plan.stages.get(index(launch))
    {
        notes.wakes.extend(gates::judge(launch, stage, seen, now));
        if let Some((gate, numbers)) = gates::failed(launch, stage) {
            return Some(decision(launch, Outcome::RolledBack, "GateFailed", &format!("{gate}: {numbers}"), now));
        }
    }
    replaced(launch, seen, now).or_else(|| deadline_passed(launch, plan, now, notes))
}

/// The spec asks for another revision now. One that soaks has the traffic already: a third revision ends its soak only.
fn replaced(launch: &Launch, seen: &Observation, now: Timestamp) -> Option<Decision> {
    let revision = match &seen.wanted {
        WantedRevision::Known(revision) | WantedRevision::Refused { revision, .. } => revision,
        WantedRevision::Unknown { .. } => return None,
    };
    if *revision == launch.revision {
        None
    } else if launch.stable.as_ref() == Some(revision) {
        Some(decision(launch, Outcome::Aborted, ABORTED, &format!("the spec went back to stable {revision}"), now))
    } else if launch.phase == Phase::Soaking {
        None
    } else {
        Some(decision(launch, Outcome::Superseded, "Superseded", &format!("the spec asks for {revision} now"), now))
    }
}

/// The deadline of the stage; it stands still while the launch may not move.
fn deadline_passed(launch: &mut Launch, plan: &Plan, now: Timestamp, notes: &mut Notes) -> Option<Decision> {
    let stage = plan.stages.get(index(launch)).or(plan.stages.last())?;
    if launch.phase == Phase::Soaking || launch.paused_at.is_some() || launch.held {
        return None;
    }
    let paused = Duration::from_secs(u64::try_from(launch.paused_seconds).unwrap_or(0));
    let due = after(after(launch.entered_at, stage.deadline), paused);
    if now < due {
        notes.wakes.push(due);
        return None;
    }
    let message =
        format!("{} did not finish within {}: {}", launch.stage_name, human(stage.deadline), waiting_for(launch));
    match stage.then {
        DeadlineOutcome::Rollback => Some(decision(launch, Outcome::RolledBack, "DeadlinePassed", &message, now)),
        DeadlineOutcome::Pause => {
            notes.warn("DeadlinePassed", format!("{message}; held until a person decides Resume or Abort"));
            launch.held = true;
            launch.message = Some(clip(&message, 512));
            None
        }
    }
}

/// What holds the launch: what it waits for, or else the first gate that does not pass.
pub(super) fn waiting_for(launch: &Launch) -> String {
    let open = launch.verdicts.iter().find(|gate| !matches!(gate.verdict, Verdict::Pass | Verdict::NotApplicable));
    let gate = open.map(|gate| format!("{}: {}", gate.gate, gate.message));
    gate.filter(|_| !launch.held).or_else(|| launch.message.clone()).unwrap_or_else(|| "it was waiting".to_owned())
}

fn decision(launch: &Launch, outcome: Outcome, reason: &str, message: &str, now: Timestamp) -> Decision {
    Decision {
        launch: launch.id.clone(),
        revision: launch.revision.clone(),
        outcome,
        reason: reason.to_owned(),
        message: clip(message, 512),
        at: now,
    }
}

/// Turns the launch round. What follows takes the canary's traffic; nothing raises it again.
pub(super) fn take_back(
    mut launch: Launch,
    decision: &Decision,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Launch {
    let first = launch.stable.is_none();
    let outcome = if first && decision.outcome == Outcome::RolledBack { Outcome::Failed } else { decision.outcome };
    if launch.phase == Phase::Soaking {
        give_back(&launch, state, now);
    }
    launch.phase = Phase::RollingBack;
    launch.held = false;
    launch.served |= launch.weight > 0;
    launch.outcome = Some(outcome);
    launch.reason = Some(decision.reason.clone());
    launch.message = Some(decision.message.clone());
    launch.decided_at = Some(decision.at);
    if matches!(outcome, Outcome::RolledBack | Outcome::Failed) {
        state.rejected.retain(|rejected| rejected.revision != launch.revision);
        state.trusted.retain(|trusted| trusted.revision != launch.revision);
        let rejected =
            RejectedRevision { revision: launch.revision.clone(), at: decision.at, reason: decision.message.clone() };
        state.rejected.insert(0, rejected);
        state.rejected.truncate(REJECTED);
        notes.warn("RollingBack", format!("{} at {}%: {}", launch.revision, launch.weight, decision.message));
    } else {
        notes.tell("TakingBack", format!("{} at {}%: {}", launch.revision, launch.weight, decision.message));
    }
    launch.entered_at = now;
    lower(&mut launch, seen);
    notes.wakes.push(after(now, Duration::from_millis(50)));
    launch // whether its traffic is gone is read back in a later pass
}

/// Takes the weight away. A measured trigger never gives 100 % to a dead stable: `sizes` raises it, and its first ready pod
/// wakes us. A spec that went back to stable goes anyway, and so does `Abort`: a person wants it.
fn lower(launch: &mut Launch, seen: &Observation) {
    let serves = |stable: &String| seen.pods.get(stable).is_some_and(|pods| pods.ready > 0);
    let guarded = launch.reason.as_deref() != Some(ABORTED) && seen.replicas > 0;
    let waits = guarded && !launch.stable.as_ref().is_none_or(serves);
    let left = if waits { launch.weight.min(canary_share(launch, seen)) } else { 0 }; // a rise that is not written yet never is
    if left > 0 {
        launch.only = match &seen.route {
            Route::Seen { shares: Shares::Matched { only, .. }, .. } => only.clone(),
            _ => Vec::new(),
        };
    }
    launch.weight = left;
}

/// Ends the launch once it was read back that its traffic is gone.
pub(super) fn finish_rollback(
    mut launch: Launch,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Launch {
    lower(&mut launch, seen);
    if launch.weight > 0 || !read_back(&launch, seen) {
        let unusable = matches!(seen.route, Route::Unusable(_)).then(|| after(now, LOOK_AGAIN));
        notes.wakes.extend(unusable); // such as a route that was left: nothing tells this agent when it was put back
        return launch;
    }
    let may_send = gateway_may_send(&launch, seen);
    if let Some(limit) = may_send {
        let due = after(seen.gone_since.unwrap_or(now), limit);
        if now < due {
            notes.wakes.push(due);
            return launch;
        }
    }
    launch.phase = Phase::Complete;
    launch.ended_at = Some(now);
    launch.breaches.clear();
    lose_traffic(state, &launch.revision, now, launch.served);
    let message = launch.message.clone().unwrap_or_default();
    let gone = match may_send {
        None => format!("{} has no traffic", launch.revision),
        Some(limit) => {
            format!("{} has weight 0, and the gateway did not confirm it for {}", launch.revision, human(limit))
        }
    };
    match launch.outcome {
        Some(Outcome::RolledBack) => notes.warn("RolledBack", format!("{gone}: {message}")),
        Some(Outcome::Failed) => notes.warn("Failed", format!("{} was taken out: {message}", launch.revision)),
        _ => notes.tell("TakenBack", format!("{gone}: {message}")),
    }
    launch
}

/// How long a gateway may still send to the canary, whose weight is 0: `None` when it said that it does not, or never did.
fn gateway_may_send(launch: &Launch, seen: &Observation) -> Option<Duration> {
    match &seen.route {
        _ if !launch.served => None,
        Route::Seen { programmed: Programmed::Yes, .. } => None,
        Route::Seen { programmed: Programmed::Silent(_), .. } => Some(NO_GATEWAY),
        Route::Seen { .. } => Some(GATEWAY_ANSWER),
        _ => None,
    }
}

/// Since when a canary that is taken back has been seen without weight: kept in memory from pass to pass (`seen.gone_since`),
/// and begun anew by whoever comes to lead, so that a time in which nobody could answer does not count as one without answer.
pub fn gone_since(state: &State, seen: &Observation, now: Timestamp) -> Option<Timestamp> {
    let gone = |launch: &&Launch| launch.phase == Phase::RollingBack && launch.weight == 0 && read_back(launch, seen);
    state.running().filter(gone).map(|_| seen.gone_since.unwrap_or(now).min(now))
}
