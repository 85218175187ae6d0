//! Time: it is always now, and everything that is remembered grows older. What is older than any time-out counts as just
//! that old, so that the states are finite though time is not. A new instant in [`State`] belongs here.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::{Launch, Phase, State};
use crate::launch::{GATEWAY_ANSWER, Step};

/// It is always now.
pub(super) static NOW: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::from_second(1_000_000).unwrap());
/// The same on the operators' own clocks.
pub(super) static INSTANT: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_hours(24));
/// So much time passes at once.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// What is older is as old: no time-out here is longer, but for the time that a gateway has to answer.
const OLDEST: Duration = Duration::from_secs(30);

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap()
}

/// So long from now.
pub(super) fn in_(span: Duration) -> Timestamp {
    *NOW + signed(span)
}

/// So long ago.
fn ago(span: Duration) -> Timestamp {
    *NOW - signed(span)
}

/// Longer ago than anything that matters.
pub(super) fn old() -> Timestamp {
    ago(OLDEST)
}

pub(super) fn older(at: &mut Timestamp) {
    older_to(at, OLDEST);
}

/// Of this instant nothing matters but whether it is so long ago.
pub(super) fn older_to(at: &mut Timestamp, oldest: Duration) {
    *at = (*at - signed(TICK)).max(ago(oldest));
}

/// Of the gateway's time to answer only the end matters: it comes in four ticks, and the states stay few.
pub(super) fn older_silence(at: &mut Timestamp) {
    *at = (*at - signed(GATEWAY_ANSWER / 4)).max(ago(GATEWAY_ANSWER));
}

/// An instant that is only told, or only compared with what happens now: it is simply past.
pub(super) fn past(at: &mut Timestamp) {
    *at = old();
}

/// Everything that a status remembers grows older.
pub(super) fn older_state(state: &mut State) {
    state.stable.iter_mut().for_each(|it| past(&mut it.since));
    state.trusted.iter_mut().for_each(|it| past(&mut it.since));
    state.rejected.iter_mut().for_each(|it| past(&mut it.at));
    state.answers.iter_mut().for_each(|it| past(&mut it.at));
    state.pause.iter_mut().for_each(|it| past(&mut it.since));
    state.pending.iter_mut().for_each(|it| older_to(&mut it.since, TICK)); // the quiet time is shorter
    state.retiring.iter_mut().for_each(|it| older(&mut it.since));
    state.launch.iter_mut().for_each(older_launch);
}

fn older_launch(launch: &mut Launch) {
    past(&mut launch.started_at);
    [&mut launch.decided_at, &mut launch.breached_at, &mut launch.ended_at].into_iter().flatten().for_each(past);
    launch.interventions.iter_mut().for_each(|it| past(&mut it.at));
    launch.verdicts_at.iter_mut().for_each(|at| older_to(at, TICK)); // they are told anew after that
    launch.began_at.iter_mut().for_each(older);
    launch.restarts.iter_mut().for_each(|it| older(&mut it.at));
    older_stage(launch);
    for breach in &mut launch.breaches {
        past(&mut breach.first_seen);
        older(&mut breach.since);
        older(&mut breach.last_seen);
    }
}

/// The deadline's clock. While it stands still nothing grows older: how long a pause lasts matters to nobody.
fn older_stage(launch: &mut Launch) {
    if launch.phase == Phase::RollingBack {
        return past(&mut launch.entered_at); // it has no deadline
    }
    let climbs = matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    if climbs && launch.paused_at.is_some_and(|at| at < *NOW) {
        return;
    }
    launch.paused_at.iter_mut().for_each(older);
    if launch.entered_at <= old() {
        let tick = i64::try_from(TICK.as_secs()).unwrap();
        launch.paused_seconds = (launch.paused_seconds - tick).max(0); // the same deadline
    } else {
        older(&mut launch.entered_at);
    }
}

/// Instants in words would tell the age of the world.
pub(super) fn without_instants(step: &mut Step) {
    let Some(message) = step.state.launch.as_mut().and_then(|launch| launch.message.as_mut()) else { return };
    let Some((before, rest)) = message.split_once("until 1970-") else { return };
    let after = rest.split_once('Z').map_or("", |(_, after)| after);
    *message = format!("{before}until then{after}");
}
