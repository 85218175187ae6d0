//! Triggers: what ends a launch as soon as it fires.
//!
//! `for` counts consecutive breach: a Pass resets it, Insufficient and Error neither count nor reset, and gaps between
//! samples are not breach time. The breach's start is remembered in status, so a restart of the controller changes nothing.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::soak::judged;
use super::time::{after, between, human};
use super::{
    CheckName, Measured, Observation, Plan, Pods, Question, Trigger, TriggerCheck, WantedRevision, capacity,
    sampled_every,
};
use crate::api::{Breach, Launch, Phase, PodCondition, SeenRestart, Verdict};

/// At most so many restarts are remembered: those that a trigger may still count, and one older one of each pod. What finds no
/// room counts as one of just now.
pub(super) const SEEN_RESTARTS: usize = 512;

/// Breaches that a status holds: as many as a plan has triggers. Those of a plan that stands in for another may find no room.
const BREACHES: usize = 16;

/// A trigger that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fired {
    /// Name of the trigger.
    pub(super) trigger: String,
    /// The numbers behind it.
    pub(super) message: String,
    /// When the breach was first seen.
    pub(super) breached_at: Timestamp,
}

/// Judges every trigger, remembers the breaches, and says which fired (the first of the plan) or when to look again.
pub(super) fn judge(
    launch: &mut Launch,
    plan: &Plan,
    seen: &Observation,
    now: Timestamp,
) -> (Option<Fired>, Option<Timestamp>) {
    remember_restarts(launch, plan, seen, now);
    if matches!(seen.wanted, WantedRevision::Known(_)) {
        // else another plan may stand in for one that cannot be read, whose breaches go on
        launch.breaches.retain(|breach| plan.triggers.iter().any(|trigger| trigger.name == breach.trigger));
    }
    let (mut fired, mut wake) = (None, None);
    for trigger in judged(plan, launch.phase) {
        let Some(reading) = read(trigger, launch, plan, seen, now) else {
            continue;
        };
        match reading.verdict {
            Verdict::Pass => launch.breaches.retain(|breach| breach.trigger != trigger.name),
            Verdict::Insufficient | Verdict::Error | Verdict::NotApplicable => {
                for breach in launch.breaches.iter_mut().filter(|breach| breach.trigger == trigger.name) {
                    breach.interrupted = true;
                }
            }
            Verdict::Fail => {
                let breach = remember_breach(&mut launch.breaches, trigger, &reading, plan.interval);
                let lasted = between(breach.since, reading.sampled_at);
                if lasted >= trigger.lasting {
                    fired = fired.or(Some(fire(trigger, &breach, &reading, lasted)));
                } else if !matches!(trigger.check, TriggerCheck::Metric(_)) {
                    let due = after(breach.since, trigger.lasting);
                    wake = Some(wake.map_or(due, |earlier: Timestamp| earlier.min(due)));
                }
            }
        }
    }
    (fired, wake)
}

/// Why nothing counts as proved now, although nothing fired: a trigger that is in breach, if not for long enough yet, or that
/// cannot be measured. One without enough data is neither, unless it was in breach a moment ago: it is for gates to ask how much
/// there must be.
pub(super) fn unproved(launch: &Launch, plan: &Plan, seen: &Observation, now: Timestamp) -> Option<String> {
    judged(plan, launch.phase).find_map(|trigger| {
        let why = match read(trigger, launch, plan, seen, now) {
            None => "is not measured yet".to_owned(),
            Some(Measured { verdict: Verdict::Error, message, .. }) => format!("cannot be measured: {message}"),
            Some(Measured { verdict: Verdict::Fail, message, .. }) => format!("is in breach: {message}"),
            Some(Measured { verdict: Verdict::Insufficient, message, .. }) if was_in_breach(trigger, launch, now) => {
                format!("was in breach when it was last measured; now: {message}")
            }
            Some(_) => return None,
        };
        Some(format!("trigger {} {why}", trigger.name))
    })
}

/// Whether a trigger has had no chance to fire yet: its first answer is still to come, or its breach is younger than its `for`.
/// An outage of ours may be why, and what it hid must show itself first. Sources that do not answer are an Error in time, and a
/// breach that is interrupted counts from when it was first seen; while every answer is a breach, there is no end to ask for.
pub(super) fn may_fire(launch: &Launch, plan: &Plan, seen: &Observation, now: Timestamp) -> bool {
    let slack = longest_step(plan.interval);
    judged(plan, launch.phase).any(|trigger| {
        let begun = |breach: &Breach| if breach.interrupted { breach.first_seen } else { breach.since };
        let young = |breach: &Breach| now < after(begun(breach), trigger.lasting.saturating_add(slack));
        read(trigger, launch, plan, seen, now).is_none() || breach_of(trigger, launch).is_some_and(young)
    })
}

/// Whether the last known answer of a trigger was a breach, and not so long ago that it would have fired or been forgotten.
fn was_in_breach(trigger: &Trigger, launch: &Launch, now: Timestamp) -> bool {
    let lately = |breach: &Breach| now < after(breach.last_seen, trigger.lasting.max(window(trigger)));
    breach_of(trigger, launch).is_some_and(lately)
}

/// What is remembered of a trigger that is in breach.
fn breach_of<'a>(trigger: &Trigger, launch: &'a Launch) -> Option<&'a Breach> {
    launch.breaches.iter().find(|breach| breach.trigger == trigger.name)
}

/// The span of data behind each answer about a trigger.
fn window(trigger: &Trigger) -> Duration {
    match &trigger.check {
        TriggerCheck::Metric(question) => question.window.unwrap_or_default(),
        TriggerCheck::Restarts(..) | TriggerCheck::Condition(_) => Duration::ZERO,
    }
}

/// What a trigger's check says now. Pod health is watched and always fresh; a metric is as old as its sample.
fn read(trigger: &Trigger, launch: &Launch, plan: &Plan, seen: &Observation, now: Timestamp) -> Option<Measured> {
    let none = Pods::default();
    let pods = seen.pods.get(&launch.revision).unwrap_or(&none);
    let watched = |breach: Option<String>| Measured {
        verdict: if breach.is_some() { Verdict::Fail } else { Verdict::Pass },
        message: breach.unwrap_or_default(),
        sampled_at: now,
    };
    match &trigger.check {
        TriggerCheck::Metric(question) => {
            let measured = seen.measured.get(&CheckName::Trigger(trigger.name.clone()));
            let from = judged_from(launch, question);
            // what cannot be asked at all is known from the beginning
            let counts =
                |it: &&Measured| it.sampled_at > from || matches!(it.verdict, Verdict::Error | Verdict::NotApplicable);
            measured.filter(counts).cloned()
        }
        TriggerCheck::Restarts(limit, within) => Some(watched(too_many_restarts(launch, pods, *limit, *within, now))),
        TriggerCheck::Condition(PodCondition::CrashLoop) => Some(watched(pods.crash_loop.clone())),
        TriggerCheck::Condition(PodCondition::ImagePull) => Some(watched(pods.image_pull.clone())),
        TriggerCheck::Condition(PodCondition::Unready) => {
            let asked = capacity::of_canary(launch, plan, seen);
            // in soak a scaler may ask for more than there is room for: it is as well as the one before it with as many pods
            let room = launch.phase == Phase::Soaking && pods.failing == 0 && pods.ready >= launch.stable_size.max(1);
            Some(watched((pods.ready < asked && !room).then(|| format!("{}/{asked} pods ready", pods.ready))))
        }
    }
}

/// From when on samples speak of this launch. A trusted revision that comes back has a past: what its pods did then is no news.
/// A new revision has none, and what a rejected one did still counts when it is tried again.
pub(super) fn judged_from(launch: &Launch, question: &Question) -> Timestamp {
    after(launch.started_at, if launch.trusted { question.reach() } else { Duration::ZERO })
}

/// Notes a sample that is in breach. Time in which nothing could be measured moves the breach's start forward.
fn remember_breach(breaches: &mut Vec<Breach>, trigger: &Trigger, reading: &Measured, interval: Duration) -> Breach {
    let at = reading.sampled_at;
    if let Some(breach) = breaches.iter_mut().find(|breach| breach.trigger == trigger.name) {
        if matches!(trigger.check, TriggerCheck::Metric(_)) {
            let gap = between(breach.last_seen, at);
            // what is within the metric's own window is in the next sample, unless it said something else in between
            let seen_whole = if breach.interrupted { Duration::ZERO } else { window(trigger) };
            if gap > longest_step(interval).max(seen_whole) {
                breach.since = after(breach.since, gap);
            }
            breach.last_seen = breach.last_seen.max(at);
            breach.interrupted = false;
        }
        return breach.clone();
    }
    let breach = Breach { trigger: trigger.name.clone(), since: at, first_seen: at, last_seen: at, interrupted: false };
    if breaches.len() < BREACHES {
        breaches.push(breach.clone());
    }
    breach
}

/// Samples may be so far apart and still be consecutive: one may be lost, a slow source may take its time for two.
fn longest_step(interval: Duration) -> Duration {
    sampled_every(interval) * 2 + Duration::from_secs(10)
}

fn fire(trigger: &Trigger, breach: &Breach, reading: &Measured, lasted: Duration) -> Fired {
    let lasting = if trigger.lasting.is_zero() { String::new() } else { format!(" for {}", human(lasted)) };
    Fired {
        trigger: trigger.name.clone(),
        message: format!("{}: {}{lasting}", trigger.name, reading.message),
        breached_at: breach.first_seen,
    }
}

/// Remembers each restart count of the canary's pods when it first rises.
fn remember_restarts(launch: &mut Launch, plan: &Plan, seen: &Observation, now: Timestamp) {
    let Some(pods) = seen.pods.get(&launch.revision) else {
        return;
    };
    launch.restarts.retain(|restart| pods.restarts.contains_key(&restart.pod));
    if launch.restarts.len() >= SEEN_RESTARTS {
        forget_old_restarts(&mut launch.restarts, plan, now);
    }
    for (pod, count) in &pods.restarts {
        let known = launch.restarts.iter().filter(|r| &r.pod == pod).map(|r| r.count).max().unwrap_or(0);
        if *count > known && launch.restarts.len() < SEEN_RESTARTS {
            launch.restarts.push(SeenRestart { pod: pod.clone(), count: *count, at: now });
        }
    }
}

/// Of the restarts that no trigger counts any more the last one of each pod stays: what came after it is counted from there.
fn forget_old_restarts(restarts: &mut Vec<SeenRestart>, plan: &Plan, now: Timestamp) {
    let spans = plan.triggers.iter().filter_map(|trigger| match &trigger.check {
        TriggerCheck::Restarts(_, within) => Some(*within),
        TriggerCheck::Metric(_) | TriggerCheck::Condition(_) => None,
    });
    let longest = spans.max().unwrap_or_default();
    let old: Vec<SeenRestart> = restarts.iter().filter(|it| between(it.at, now) > longest).cloned().collect();
    restarts.retain(|it| !old.iter().any(|later| later.pod == it.pod && later.count > it.count));
}

/// Counts the restarts of all pods within the span: each pod's count less what it had before the span began.
fn too_many_restarts(launch: &Launch, pods: &Pods, limit: i32, within: Duration, now: Timestamp) -> Option<String> {
    let before = |pod: &String| {
        let old = launch.restarts.iter().filter(|it| it.pod == *pod && between(it.at, now) > within);
        old.map(|restart| restart.count).max().unwrap_or(0)
    };
    let recent = pods.restarts.iter().map(|(pod, count)| count.saturating_sub(before(pod)).max(0));
    let restarts = recent.fold(0, i32::saturating_add);
    (restarts >= limit).then(|| {
        let cause =
            pods.crash_loop.as_ref().or(pods.restarted.as_ref()).map(|cause| format!(" ({cause})")).unwrap_or_default();
        format!("{restarts} restarts within {} (limit {limit}){cause}", human(within))
    })
}
