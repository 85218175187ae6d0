//! The one function that decides. Read [`step`] first: rollback is judged before anything else, in every pass.

use k8s_openapi::jiff::Timestamp;

use super::back::{finish_rollback, must_end, overruled, take_back, written_decision};
use super::drain::retire;
use super::forward::{begin, climb, follow_pause, follow_plan, promote};
use super::soak;
use super::wanted::wanted;
use super::{Event, Observation, Plan, Step, contest, freeze, people};
use crate::api::{Launch, Phase, State};

/// Decides one pass: what to remember, what the cluster should look like, what to tell, when to look again.
pub fn step(plan: &Plan, state: &State, seen: &Observation, now: Timestamp) -> Step {
    let mut state = state.clone();
    follow_clock(&mut state, now);
    let mut notes = Notes::default();
    let end = |state: &State| state.launch.as_ref().map(|launch| (launch.phase, launch.outcome, launch.decided_at));
    let before = end(&state);
    people::hear(plan, &mut state, seen, now, &mut notes);
    let seen = &*people::under_pause(seen, &state);
    let taken_back = end(&state) != before;
    state.launch = match state.launch.take() {
        Some(launch) if taken_back => Some(launch), // a person has just decided it: it is read back in a later pass
        Some(launch) if launch.phase == Phase::Complete => match overruled(&launch, &mut state, seen) {
            Some(fall) => Some(take_back(launch, &fall, &mut state, seen, now, &mut notes)),
            None => begin(Some(launch), plan, &mut state, seen, now, &mut notes),
        },
        None => begin(None, plan, &mut state, seen, now, &mut notes),
        Some(launch) => Some(go_on(launch, plan, &mut state, seen, now, &mut notes)),
    };
    retire(&mut state, plan, seen, now, &mut notes);
    let wanted = wanted(&state, plan, seen);
    let wake_at = notes.wakes.into_iter().filter(|at| *at > now).min();
    Step { state, wanted, events: notes.events, wake_at }
}

/// What a pass tells, and when it wants to be called again.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) events: Vec<Event>,
    pub(super) wakes: Vec<Timestamp>,
}

impl Notes {
    pub(super) fn tell(&mut self, reason: &'static str, message: String) {
        self.events.push(Event { reason, message, warning: false });
    }

    pub(super) fn warn(&mut self, reason: &'static str, message: String) {
        self.events.push(Event { reason, message, warning: true });
    }
}

/// The clock may be set back, and a new leader's may be behind: what would lie in the future began now. A sample that is taken
/// now would count as older than the launch otherwise, and no trigger would see it.
fn follow_clock(state: &mut State, now: Timestamp) {
    let retiring = state.retiring.iter_mut().map(|it| &mut it.since);
    let pending = state.pending.iter_mut().map(|it| &mut it.since);
    let running = state.launch.iter_mut().filter(|launch| launch.phase != Phase::Complete);
    let launch = running.flat_map(|launch| {
        let breaches = launch.breaches.iter_mut().flat_map(|it| [&mut it.since, &mut it.first_seen, &mut it.last_seen]);
        let restarts = launch.restarts.iter_mut().map(|it| &mut it.at);
        let contest = launch.contest.iter_mut().map(|it| &mut it.at);
        let clocks = [&mut launch.started_at, &mut launch.entered_at].into_iter().chain(contest);
        clocks.chain(&mut launch.began_at).chain(&mut launch.paused_at).chain(breaches).chain(restarts)
    });
    for at in retiring.chain(pending).chain(launch) {
        *at = now.min(*at);
    }
}

/// A running launch: taken back if it must be, or one move further.
fn go_on(
    mut launch: Launch,
    plan: &Plan,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Launch {
    if launch.phase == Phase::RollingBack {
        return finish_rollback(launch, state, seen, now, notes);
    }
    if let Some(written) = written_decision(&launch, seen) {
        return take_back(launch, &written, state, seen, now, notes);
    }
    follow_pause(&mut launch, state, seen, now);
    freeze::wake(seen, notes);
    follow_plan(&mut launch, plan, now, notes);
    if let Some(end) = must_end(&mut launch, plan, seen, now, notes) {
        return take_back(launch, &end, state, seen, now, notes);
    }
    contest::notice(&mut launch, seen, now, notes);
    match launch.phase {
        Phase::Progressing => climb(&mut launch, plan, seen, now, notes),
        Phase::Promoting => promote(&mut launch, plan, state, seen, now, notes),
        Phase::Soaking => soak::go_on(&mut launch, plan, state, seen, now, notes),
        Phase::RollingBack | Phase::Complete => {}
    }
    launch
}

/// The index of the launch's stage.
pub(super) fn index(launch: &Launch) -> usize {
    usize::try_from(launch.stage).unwrap_or(0)
}
