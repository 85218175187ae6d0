//! Drain: a revision that has lost its traffic keeps its pods until its runs have ended, or the deadline has passed.
//!
//! Without `spec.drain` it keeps them for a moment, so that requests on their way are answered. Decides nothing else.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::step::Notes;
use super::time::{after, between, human};
use super::{Bounds, CheckName, Compare, Observation, Plan, Question, sampled_every};
use crate::api::{Across, Launch, MetricDefinition, Phase, RetiringRevision, State, Verdict};

/// A revision keeps its pods for so long after its traffic is gone, so that requests on their way are answered.
pub const SETTLE: Duration = Duration::from_secs(10);
/// So many revisions are drained at once; of more the oldest go.
const RETIRING: usize = 32;

/// The metric that says how many runs are under way.
pub const RUNS_IN_FLIGHT: &str = "runs_in_flight";

/// Whether no run is under way on a revision: the metric, summed over its pods, is 0.
pub fn no_runs(metric: MetricDefinition) -> Question {
    let gauge = metric.gauge.map(|gauge| crate::api::Gauge { across: Across::Sum, ..gauge });
    let bounds = Bounds { low: None, high: Some(rust_decimal::Decimal::ZERO), floor: None };
    let metric = MetricDefinition { gauge, ..metric };
    Question { metric, window: None, min_samples: 1, compare: Compare::Value, bounds }
}

/// From now on a revision has no traffic. One that never had any has no runs to wait for, but those of the traffic before.
pub(super) fn lose_traffic(state: &mut State, revision: &str, since: Timestamp, served: bool) {
    let earlier = regain_traffic(state, revision).filter(|earlier| !earlier.idle && !served);
    let lost = RetiringRevision { revision: revision.to_owned(), since, idle: !served };
    state.retiring.push(earlier.unwrap_or(lost));
    let surplus = state.retiring.len().saturating_sub(RETIRING);
    state.retiring.drain(..surplus);
}

/// From now on a revision is not waited for. What was remembered of it.
pub(super) fn regain_traffic(state: &mut State, revision: &str) -> Option<RetiringRevision> {
    let at = state.retiring.iter().position(|retiring| retiring.revision == revision)?;
    Some(state.retiring.remove(at))
}

/// Whether a revision lost its traffic, and keeps its pods for that.
pub(super) fn is_retiring(state: &State, revision: &str) -> bool {
    state.retiring.iter().any(|retiring| retiring.revision == revision)
}

/// A canary's pods get requests, or did until this pass: then it drains anew.
fn serves(launch: &Launch) -> bool {
    launch.weight > 0 || launch.phase == Phase::RollingBack
}

/// Lets the pods go of revisions whose runs have ended. One that is launched again, and serves, serves with all of them: it keeps
/// them as long as it has a share.
pub(super) fn retire(state: &mut State, plan: &Plan, seen: &Observation, now: Timestamp, notes: &mut Notes) {
    let running = state.running().map(|launch| (launch.revision.clone(), serves(launch)));
    state.retiring.retain(|retiring| {
        let again = running.as_ref().filter(|(revision, _)| *revision == retiring.revision);
        let keeps = match look(retiring, plan, seen, now) {
            Look::Again(at) => {
                notes.wakes.push(at);
                true
            }
            Look::Ended | Look::Late(_) if again.is_some_and(|(_, serves)| *serves) => true,
            Look::Ended => {
                if waits_for_runs(retiring, seen).is_some() {
                    let took = human(between(retiring.since, now));
                    notes.tell(
                        "Drained",
                        format!("{}: its runs have ended, {took} after its traffic", retiring.revision),
                    );
                }
                false
            }
            Look::Late(runs) => {
                notes.warn("DrainDeadline", format!("{}: its pods go, runs or not: {runs}", retiring.revision));
                false
            }
        };
        if again.is_some() && !keeps {
            notes.wakes.push(after(now, Duration::from_millis(1))); // its launch waited for that
        }
        keeps
    });
}

/// What is seen of a revision without traffic.
enum Look {
    /// It keeps its pods; look again then, if nothing happens before.
    Again(Timestamp),
    /// No run is under way.
    Ended,
    /// The deadline has passed; what is known of its runs.
    Late(String),
}

fn look(retiring: &RetiringRevision, plan: &Plan, seen: &Observation, now: Timestamp) -> Look {
    let settled = after(retiring.since, SETTLE);
    if now < settled {
        return Look::Again(settled);
    }
    let Some(deadline) = waits_for_runs(retiring, seen) else { return Look::Ended };
    let due = after(retiring.since, deadline);
    let measured = seen.measured.get(&CheckName::Drained(retiring.revision.clone()));
    let none = measured.filter(|measured| measured.verdict == Verdict::Pass);
    if none.is_some_and(|none| none.sampled_at >= settled) {
        Look::Ended
    } else if now >= due {
        let known = measured.map_or("they were not measured", |measured| &measured.message);
        Look::Late(format!("the drain deadline of {} has passed, and {known}", human(deadline)))
    } else if none.is_some() {
        Look::Again(after(now, sampled_every(plan.interval)).min(due)) // a younger sample wakes nobody
    } else {
        Look::Again(due)
    }
}

/// The revisions whose runs are waited for.
pub fn draining<'a>(state: &'a State, seen: &'a Observation) -> impl Iterator<Item = &'a String> {
    let waiting = state.retiring.iter().filter(|retiring| waits_for_runs(retiring, seen).is_some());
    waiting.map(|retiring| &retiring.revision)
}

/// How long its runs may take, if it has pods on which there may be some.
fn waits_for_runs(retiring: &RetiringRevision, seen: &Observation) -> Option<Duration> {
    let has_pods = seen.pods.get(&retiring.revision).is_some_and(|pods| pods.size > 0);
    seen.drain.filter(|_| has_pods && !retiring.idle)
}
