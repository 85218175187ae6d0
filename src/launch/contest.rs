//! Others write the route while a launch shares its traffic. Each write restarts the window; after a few the launch stops
//! raising its weight and asks for a person, so that nothing flaps. Going back is never held up by this.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::step::Notes;
use super::time::{after, human};
use super::wanted::{read_back, service_moved};
use super::{Observation, Route, by_pods};
use crate::api::{Contest, Launch, SharedRoute, clip};

/// So often a share is written anew before the launch gives way.
const PATIENCE: i32 = 3;
/// Nobody wrote for so long: it is over. A launch that gave way tries again after so long, and then after twice as long each time.
pub(super) const CALM: Duration = Duration::from_mins(1);
/// The longest time between two tries.
const LONGEST: Duration = Duration::from_mins(16);
/// Times that are counted.
const MOST: i32 = 100;

/// Remembers at which version of the route a share was asked for or read back. When the share is not there at a later
/// version, somebody else wrote the route.
pub(super) fn notice(launch: &mut Launch, seen: &Observation, now: Timestamp, notes: &mut Notes) {
    let (true, false) = (matches!(seen.route, Route::Seen { .. }), service_moved(launch, seen)) else { return };
    let (before, generation) = (launch.shared.take(), seen.route_version.generation);
    if launch.weight == 0 || seen.by_pods.is_some() && by_pods::hindered(launch, seen) {
        return; // the Service does not share, or is about to stop: that is our own write
    }
    launch.shared = Some(SharedRoute { weight: launch.weight, generation, read_back: read_back(launch, seen) });
    let before = before.filter(|before| before.weight == launch.weight);
    if read_back(launch, seen) {
        be_calm(launch, before.is_some_and(|before| before.read_back), now, notes);
    } else if before.is_some_and(|before| before.generation < generation && (before.read_back || by_others(seen))) {
        overwritten(launch, seen, now, notes);
    }
}

/// Not Sluice itself, which writes for the other agents of a route too.
fn by_others(seen: &Observation) -> bool {
    seen.route_version.rules_by.is_some()
}

/// A share that stays what it is for a while is not contested any more.
fn be_calm(launch: &mut Launch, was_there: bool, now: Timestamp, notes: &mut Notes) {
    let Some(contest) = &mut launch.contest else { return };
    if !was_there {
        contest.at = now;
    }
    let calm = after(contest.at, CALM);
    if now < calm { notes.wakes.push(calm) } else { launch.contest = None }
}

fn overwritten(launch: &mut Launch, seen: &Observation, now: Timestamp, notes: &mut Notes) {
    let times = launch.contest.as_ref().map_or(0, |contest| contest.times).saturating_add(1).min(MOST);
    let by = seen.route_version.rules_by.clone().unwrap_or_else(|| "somebody".to_owned());
    let what = if seen.by_pods.is_some() { "agent's Service" } else { "HTTPRoute" };
    notes.warn("RouteChanged", format!("{}: {by} wrote the {what}; the stage's windows begin anew", launch.id));
    launch.contest = Some(Contest { times, at: now, by: clip(&by, 128) });
    if times >= PATIENCE {
        launch.weight = 0;
        launch.shared = None;
        launch.began_at = None;
        launch.verdicts.clear();
        notes.warn("RouteContested", contested(launch, seen).unwrap_or_default());
    }
}

/// How long the launch gives way.
fn pause(contest: &Contest) -> Duration {
    let doubled = u32::try_from(contest.times.saturating_sub(PATIENCE)).unwrap_or(0).min(8);
    (CALM * 2u32.pow(doubled)).min(LONGEST)
}

/// Why a contested launch may not go forward now.
pub(super) fn holds(launch: &Launch, seen: &Observation, now: Timestamp, notes: &mut Notes) -> Option<String> {
    let contest = launch.contest.as_ref().filter(|contest| contest.times >= PATIENCE && launch.weight == 0)?;
    let until = after(contest.at, pause(contest));
    let held = now < until;
    notes.wakes.extend(held.then_some(until));
    held.then(|| format!("held: {}", contested(launch, seen).unwrap_or_default()))
}

/// The trouble and its mend, in words, from the moment that the launch gives way until nobody else wrote for a while.
pub(super) fn contested(launch: &Launch, seen: &Observation) -> Option<String> {
    let contest = launch.contest.as_ref().filter(|contest| contest.times >= PATIENCE)?;
    let (what, fields) = match seen.by_pods {
        Some(_) => ("selector of the agent's Service", "spec.selector"),
        None => ("shared backends of the HTTPRoute", "spec.rules[].backendRefs"),
    };
    Some(format!(
        "{} overwrites the {what} ({} times), so stable keeps the traffic: let Sluice own {fields} (Argo CD: \
         ignoreDifferences with RespectIgnoreDifferences; others: do not force it); a share is tried again {} after the \
         last time",
        contest.by,
        contest.times,
        human(pause(contest))
    ))
}
