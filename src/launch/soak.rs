//! Soak: the launched revision is stable and has all the traffic, and triggers still return to the one before it, which
//! keeps its full size until then. What fires is `triggers.rs`, how it goes back `back.rs`; here is how a soak begins and ends.

use k8s_openapi::jiff::Timestamp;

use super::drain::{lose_traffic, regain_traffic};
use super::forward::{LOOK_AGAIN, QUIET, begin_clocks};
use super::step::Notes;
use super::time::after;
use super::{Compare, Observation, Plan, Trigger, TriggerCheck, WantedRevision, freeze, triggers};
use crate::api::{Launch, Outcome, PendingRevision, Phase, StableRevision, State, TrustedRevision, clip};

/// The canary has all the traffic, read back, and is stable from now on: it soaks if the plan asks for it. One that is
/// trusted soaked before.
pub(super) fn begin(
    launch: &mut Launch,
    plan: &Plan,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) {
    state.stable = Some(StableRevision { revision: launch.revision.clone(), since: now });
    regain_traffic(state, &launch.revision);
    begin_clocks(launch, now);
    if plan.soak.is_zero() || launch.trusted {
        return end(launch, state, seen, now, notes, Trust::Earned);
    }
    launch.phase = Phase::Soaking;
    "soak".clone_into(&mut launch.stage_name);
    go_on(launch, plan, state, seen, now, notes);
    notes.tell("Soaking", format!("{}: {} is stable and {}", launch.id, launch.revision, told(launch)));
}

/// Ends the soak when its time has come, or when a third revision is to be launched. A pause does not stop its clock.
pub(super) fn go_on(
    launch: &mut Launch,
    plan: &Plan,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) {
    let due = after(*launch.began_at.get_or_insert(now), plan.soak);
    let undo = launch.stable.as_ref().map_or_else(
        || "triggers still take it out of the traffic".to_owned(),
        |stable| format!("triggers still return to {stable}"),
    );
    let until = if due == Timestamp::MAX { "its plan is known".to_owned() } else { format!("{due:.0}") };
    launch.message = Some(format!("soaks until {until}: {undo}"));
    let unclear = match &seen.wanted {
        WantedRevision::Unknown { message, .. } => Some(message),
        WantedRevision::Refused { revision, message, .. } => Some(message).filter(|_| *revision == launch.revision),
        WantedRevision::Known(_) => None,
    };
    if let Some(message) = unclear {
        launch.message = Some(clip(&format!("soaks until this is mended: {message}; {undo}"), 512));
        return; // its plan may be what cannot be known: an end would rest on another one
    }
    let last = after(due, plan.soak);
    match (now >= due).then(|| triggers::unproved(launch, plan, seen, now)) {
        None => notes.wakes.push(due),
        Some(None) => return end(launch, state, seen, now, notes, Trust::Earned),
        Some(Some(why)) if now < last => {
            notes.wakes.push(last.min(after(now, LOOK_AGAIN)));
            launch.message = Some(clip(&format!("soaks until {last:.0} at the latest, for {why}; {undo}"), 512));
        }
        Some(Some(why)) if triggers::may_fire(launch, plan, seen, now) => {
            notes.wakes.push(after(now, LOOK_AGAIN)); // its time went by while nobody looked
            launch.message = Some(clip(&format!("soaks on, for {why}; {undo}"), 512));
        }
        Some(Some(why)) => return end(launch, state, seen, now, notes, Trust::Unproved(&why)),
    }
    let pending = state.pending.take();
    let Some(next) = third(launch, state, seen) else { return };
    let since = pending.filter(|pending| pending.revision == next).map_or(now, |pending| pending.since);
    state.pending = Some(PendingRevision { revision: next.to_owned(), since });
    if now >= after(since, QUIET) {
        return end(launch, state, seen, now, notes, Trust::Cut(next));
    }
    notes.wakes.push(after(since, QUIET));
}

/// The revision that the spec asks for now and that can be launched, if it is neither the soaking nor the previous one.
fn third<'a>(launch: &Launch, state: &State, seen: &'a Observation) -> Option<&'a str> {
    let WantedRevision::Known(wanted) = &seen.wanted else { return None };
    let known = *wanted == launch.revision || launch.stable.as_ref() == Some(wanted);
    let rejected = state.rejected.iter().any(|rejected| rejected.revision == *wanted);
    let trusted = state.trusted.iter().any(|trusted| trusted.revision == *wanted);
    let waits = seen.paused || freeze::holds(trusted, seen).is_some();
    (!known && !rejected && !waits).then_some(wanted)
}

/// Whether a revision that became stable has shown itself.
#[derive(Clone, Copy)]
enum Trust<'a> {
    /// Nothing fired until the end.
    Earned,
    /// The soak was cut short for this revision.
    Cut(&'a str),
    /// For so long that the soak lasted twice its time: why nobody can say.
    Unproved(&'a str),
}

/// The launch has succeeded; the revision before it loses its pods.
fn end(launch: &mut Launch, state: &mut State, seen: &Observation, now: Timestamp, notes: &mut Notes, trust: Trust) {
    launch.phase = Phase::Complete;
    launch.outcome = Some(Outcome::Succeeded);
    launch.reason = Some("Succeeded".to_owned());
    launch.ended_at = Some(now);
    launch.breaches.clear();
    if let Some(former) = &launch.stable {
        let since = launch.entered_at; // its traffic went with the beginning of the soak, and its runs may have ended in it
        let may_run = seen.drain.is_none_or(|deadline| now < after(since, deadline));
        lose_traffic(state, former, since, may_run);
    }
    let message = match trust {
        Trust::Earned => {
            state.trusted.retain(|trusted| trusted.revision != launch.revision);
            state.trusted.insert(0, TrustedRevision { revision: launch.revision.clone(), since: now });
            state.trusted.truncate(seen.history_limit.max(1) + 1);
            format!("{} is stable", launch.revision)
        }
        Trust::Unproved(why) => clip(&format!("{} is stable, not trusted: {why}", launch.revision), 512),
        Trust::Cut(next) => {
            notes.wakes.push(after(now, std::time::Duration::from_millis(1)));
            format!("{} is stable, not trusted: {next} cut its soak short", launch.revision)
        }
    };
    notes.tell("Launched", format!("{}: {message}", launch.id));
    launch.message = Some(message);
}

/// The launch is taken back: the revision before it is stable again.
pub(super) fn give_back(launch: &Launch, state: &mut State, now: Timestamp) {
    let former = launch.stable.clone().map(|revision| StableRevision { revision, since: now });
    state.stable = former;
    state.pending = None;
}

/// The triggers that mean anything now: in soak the previous revision has no traffic to compare with.
pub fn judged(plan: &Plan, phase: Phase) -> impl Iterator<Item = &Trigger> {
    let compares = |trigger: &Trigger| matches!(&trigger.check, TriggerCheck::Metric(question) if question.compare != Compare::Value);
    plan.triggers.iter().filter(move |trigger| !(phase == Phase::Soaking && compares(trigger)))
}

fn told(launch: &Launch) -> String {
    launch.message.clone().unwrap_or_default()
}
