//! Promises about what holds a launch or is kept for it: a freeze, a person's abort, a soak's way back and trust, runs under way.
//! As all promises they judge the core from outside; numbers that they need are written here once more.

use std::time::Duration;

use super::{Decided, all_clear, between};
use crate::api::{DecisionVerb, Outcome, Phase, RetiringRevision, Verdict};
use crate::launch::soak::judged;
use crate::launch::{CheckName, Observation, Route, Shares, Trigger, TriggerCheck, WantedRevision};

/// Requests on their way are answered within this time after the traffic is gone.
const SETTLE: Duration = Duration::from_secs(10);
/// Answers that a status remembers, and revisions that are drained at once: of more, one has to wait or go.
const MOST: usize = 32;

/// 13. In a freeze no launch begins, no weight rises and nothing becomes stable, unless it goes back to what is trusted.
pub(super) fn freeze(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, .. } = decided;
    let Some(new) = step.state.launch.as_ref().filter(|_| seen.freeze.open.is_some()) else { return Ok(()) };
    let Some(old) = before.launch.as_ref().filter(|old| old.id == new.id) else {
        return if new.trusted { Ok(()) } else { Err("it begins in a freeze".to_owned()) };
    };
    if old.trusted {
        return Ok(());
    }
    if new.weight > old.weight {
        return Err(format!("it goes from {}% to {}% in a freeze", old.weight, new.weight));
    }
    let moved = seen.service.as_ref() == Some(&new.revision); // it had become stable before, in all but name
    if old.began_at.is_none() && widens(seen, step.wanted.shares.as_ref()) {
        return Err("it gets a share of requests of which it had none, in a freeze".to_owned());
    }
    let promoted = new.outcome != old.outcome && new.outcome == Some(Outcome::Succeeded);
    if promoted && !moved { Err("it becomes stable in a freeze".to_owned()) } else { Ok(()) }
}

/// A share of some requests becomes one of all, or of others.
fn widens(seen: &Observation, wanted: Option<&Shares>) -> bool {
    let Route::Seen { shares: Shares::Matched { weight: 1.., only: had, .. }, .. } = &seen.route else { return false };
    match wanted {
        Some(Shares::Split { weight: 1.., .. }) => true,
        Some(Shares::Matched { weight: 1.., only, .. }) => only.iter().any(|gets| !had.contains(gets)),
        _ => false,
    }
}

/// 3. An abort wins over everything, a dead stable included: in the pass that hears it nobody but stable keeps a share.
pub(super) fn abort_wins(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, .. } = decided;
    let heard = |uid: &String| before.answers.iter().any(|answer| answer.uid == *uid);
    let mut given = seen.people.given.iter().filter(|given| !heard(&given.uid));
    let aborted = given.any(|it| it.verb == DecisionVerb::Abort && it.made_at >= seen.people.agent_made_at);
    let (Some(old), Some(new)) = (before.running(), &step.state.launch) else { return Ok(()) };
    if !aborted || step.state.answers.len() >= MOST || old.id != new.id {
        return Ok(());
    }
    if new.weight > 0 || !matches!(new.phase, Phase::RollingBack | Phase::Complete) {
        return Err(format!("a person aborted it, and it is {:?} at {}%", new.phase, new.weight));
    }
    Ok(()) // and no route gives more than the status says
}

/// While a revision soaks it is stable and not yet trusted, and the one before it keeps its full size.
pub(super) fn way_back(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { seen, step, .. } = decided;
    let soaking = step.state.running().filter(|launch| launch.phase == Phase::Soaking);
    let Some(launch) = soaking else { return Ok(()) };
    if step.state.stable.as_ref().map(|stable| &stable.revision) != Some(&launch.revision) {
        return Err(format!("{} soaks and is not stable", launch.revision));
    }
    if !launch.trusted && step.state.trusted.iter().any(|trusted| trusted.revision == launch.revision) {
        return Err(format!("{} soaks and is trusted", launch.revision));
    }
    if step.wanted.shares.as_ref().is_some_and(|shares| *shares != Shares::AtRest) {
        return Err(format!("{} soaks on a shared route", launch.revision));
    }
    let Some(former) = &launch.stable else { return Ok(()) };
    let (size, full) = (step.wanted.sizes.get(former).copied().unwrap_or(0), launch.stable_size.max(seen.replicas));
    if size >= full { Ok(()) } else { Err(format!("{former} would have {size} of {full} pods while it may be needed")) }
}

/// 5. A soak earns trust only where every trigger says that nothing is wrong, and time alone ends none before each was asked.
pub(super) fn trust(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { plan, before, seen, step, .. } = decided;
    let (Some(old), Some(new)) = (before.running(), &step.state.launch) else { return Ok(()) };
    if old.id != new.id || old.trusted || old.phase != Phase::Soaking || new.outcome != Some(Outcome::Succeeded) {
        return Ok(());
    }
    if step.state.trusted.iter().any(|trusted| trusted.revision == new.revision) {
        return all_clear(decided, old);
    }
    let in_time = matches!(&seen.wanted, WantedRevision::Known(revision) if *revision == new.revision);
    let asked = |trigger: &Trigger| seen.measured.contains_key(&CheckName::Trigger(trigger.name.clone()));
    let never = judged(plan, old.phase).find(|it| matches!(it.check, TriggerCheck::Metric(_)) && !asked(it));
    match never.filter(|_| in_time) {
        Some(trigger) => Err(format!("its soak ended, and trigger {} was never asked", trigger.name)),
        None => Ok(()),
    }
}

/// 15. Pods of a revision that had traffic go only when it is known that nobody runs there, or when its time is over.
pub(super) fn runs_finish(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, now, .. } = decided;
    let over = |retiring: &&RetiringRevision| {
        let lasted = between(retiring.since, *now);
        let measured = seen.measured.get(&CheckName::Drained(retiring.revision.clone()));
        let none = measured.is_some_and(|it| {
            it.verdict == Verdict::Pass
                && it.sampled_at >= retiring.since
                && between(retiring.since, it.sampled_at) >= SETTLE
        });
        seen.drain.map_or(lasted >= SETTLE, |deadline| none || lasted >= deadline.max(SETTLE))
    };
    if before.retiring.len() >= MOST {
        return Ok(());
    }
    let served = before.retiring.iter().filter(|retiring| !retiring.idle);
    let size = |revision: &str| seen.pods.get(revision).map_or(0, |pods| pods.size);
    let waits = step.state.running().filter(|launch| launch.weight == 0).map(|launch| &launch.revision);
    let shrinks = |revision: &String| {
        let asked = step.wanted.sizes.get(revision).copied();
        asked.is_none() || waits == Some(revision) && asked < Some(size(revision))
    };
    let mut bared = served.filter(|it| size(&it.revision) > 0 && shrinks(&it.revision));
    let lost = bared.find(|retiring| !over(retiring));
    lost.map_or(Ok(()), |retiring| Err(format!("{} would lose its pods, and runs may be under way", retiring.revision)))
}
