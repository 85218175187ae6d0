//! What people decide about a launch: heard first in every pass, in the order in which it was decided, obeyed once.
//!
//! Going back and holding need nobody's proof. Going forward a person may cut a wait short, or overrule a gate by its name:
//! both are told with the launch for ever. Nobody can raise a weight, or stop a trigger.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::back::take_back;
use super::step::{Notes, index};
use super::time::after;
use super::{Decision, Given, Observation, Plan, Stage};
use crate::api::{
    Answer, DecisionState, DecisionVerb, Intervention, Launch, Outcome, Pause, Phase, State, Verdict, clip,
};

/// The reason of a launch that a person aborted (or whose spec went back to stable): a dead stable does not hold it up.
pub(super) const ABORTED: &str = "Aborted";
/// Answers that are remembered until they are read back. More decisions than that wait for their turn.
const ANSWERS: usize = 32;
/// Decisions that could not be read are asked for again after so long.
const UNREAD: Duration = Duration::from_secs(1);
/// What people may decide about one launch.
const INTERVENTIONS: usize = 32;

/// What became of a decision: done, or not done, and why.
type Outcomes = Result<String, String>;

/// Hears the decisions that were not heard yet, and remembers the answers until they were read back.
pub(super) fn hear(plan: &Plan, state: &mut State, seen: &Observation, now: Timestamp, notes: &mut Notes) {
    state.answers.retain(|answer| !seen.people.settled.contains(&answer.uid));
    notes.wakes.extend(seen.people.unread.then(|| after(now, UNREAD)));
    let mut given: Vec<&Given> = seen.people.given.iter().collect();
    given.sort_by(|a, b| (a.made_at, &a.name).cmp(&(b.made_at, &b.name)));
    for decision in given {
        let heard = state.answers.iter().any(|answer| answer.uid == decision.uid);
        if heard || state.answers.len() >= ANSWERS {
            continue;
        }
        let outcome = if decision.made_at < seen.people.agent_made_at {
            Err("it is older than this agent: it was about a former one of the same name".to_owned())
        } else {
            obey(decision, plan, state, seen, now, notes)
        };
        let (done, reason) = match outcome {
            Ok(done) => (DecisionState::Applied, done),
            Err(why) => (DecisionState::Ignored, why),
        };
        tell(decision, done, &reason, notes);
        let (uid, name) = (decision.uid.clone(), decision.name.clone());
        state.answers.push(Answer { uid, name, state: done, reason: clip(&reason, 512), at: now });
    }
}

/// One Event per decision. Events are merged by their reason: each verb has its own.
fn tell(decision: &Given, done: DecisionState, reason: &str, notes: &mut Notes) {
    let message = format!("{:?} by {}: {}: {reason}", decision.verb, decision.by, decision.reason);
    if done != DecisionState::Applied {
        return notes.tell("DecisionIgnored", message);
    }
    match decision.verb {
        DecisionVerb::Abort => notes.tell("Aborted", message),
        DecisionVerb::Pause => notes.tell("Paused", message),
        DecisionVerb::Resume => notes.tell("Resumed", message),
        DecisionVerb::Retry => notes.tell("RetryAllowed", message),
        DecisionVerb::Promote => notes.tell("WaitSkipped", message),
        DecisionVerb::Override => notes.warn("GatesOverridden", message),
    }
}

fn obey(
    decision: &Given,
    plan: &Plan,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Outcomes {
    match decision.verb {
        DecisionVerb::Abort => abort(decision, state, seen, now, notes),
        DecisionVerb::Pause => Ok(pause(decision, state, now)),
        DecisionVerb::Resume => resume(state, seen, now),
        DecisionVerb::Retry => retry(decision, state),
        DecisionVerb::Promote => promote(decision, plan, state, now),
        DecisionVerb::Override => overrule(decision, plan, state, now),
    }
}

/// The running launch goes back at once, and its revision is rejected. What it waited for, and why it was going back
/// already, does not matter: a dead stable least of all.
fn abort(decision: &Given, state: &mut State, seen: &Observation, now: Timestamp, notes: &mut Notes) -> Outcomes {
    let Some(launch) = state.launch.take_if(|launch| launch.phase != Phase::Complete) else {
        return Err(no_launch(state));
    };
    let (id, revision) = (launch.id.clone(), launch.revision.clone());
    let rejected = matches!(launch.outcome, Some(Outcome::RolledBack | Outcome::Failed));
    if launch.phase == Phase::RollingBack && rejected && launch.weight == 0 {
        let why = launch.message.clone().unwrap_or_default();
        state.launch = Some(launch);
        return Ok(format!("{id} was going back already: {why}"));
    }
    let end = Decision {
        launch: id.clone(),
        revision: revision.clone(),
        outcome: Outcome::RolledBack,
        reason: ABORTED.to_owned(),
        message: clip(&format!("aborted by {}: {}", decision.by, decision.reason), 512),
        at: now,
    };
    let from = launch.weight;
    state.launch = Some(take_back(launch, &end, state, seen, now, notes));
    Ok(format!("{id}: {revision} is taken back from {from}% and rejected"))
}

fn no_launch(state: &State) -> String {
    match &state.stable {
        Some(stable) => format!("no launch runs; {} is stable", stable.revision),
        None => "no launch runs".to_owned(),
    }
}

fn pause(decision: &Given, state: &mut State, now: Timestamp) -> String {
    if let Some(pause) = &state.pause {
        return format!("it is paused already, by {}: {}", pause.by, pause.reason);
    }
    state.pause = Some(Pause { by: decision.by.clone(), reason: decision.reason.clone(), since: now });
    match state.running() {
        Some(launch) => format!("{} holds at {}% until Resume", launch.id, launch.weight),
        None => "no launch begins until Resume".to_owned(),
    }
}

/// Ends what a person or a deadline holds. What the spec holds, the spec must release.
fn resume(state: &mut State, seen: &Observation, now: Timestamp) -> Outcomes {
    let mut done = Vec::new();
    if let Some(pause) = state.pause.take() {
        done.push(format!("the pause of {} is over", pause.by));
    }
    if let Some(launch) = state.launch.as_mut().filter(|launch| launch.phase != Phase::Complete && launch.held) {
        launch.held = false;
        launch.message = None;
        launch.entered_at = now; // its deadline begins anew, its window goes on
        launch.paused_seconds = 0;
        launch.paused_at = launch.paused_at.map(|_| now);
        done.push(format!("{} goes on in {}, with a new deadline", launch.id, launch.stage_name));
    }
    let spec = seen.paused.then_some("spec.paused still holds it: set it to false");
    if done.is_empty() {
        return Err(spec.unwrap_or("nobody paused it, and no deadline holds it").to_owned());
    }
    done.extend(spec.map(str::to_owned));
    Ok(done.join("; "))
}

/// Finality ends here, and only here.
fn retry(decision: &Given, state: &mut State) -> Outcomes {
    let revision = decision.revision.as_deref().unwrap_or_default();
    let before = state.rejected.len();
    state.rejected.retain(|rejected| rejected.revision != revision);
    if state.rejected.len() == before {
        return Err(format!("{revision} is not rejected"));
    }
    Ok(format!("{revision} may launch again, from the first stage, when the spec asks for it"))
}

/// The launch that climbs, and its stage, when the decision speaks of them as they are now.
fn stage_of<'a>(decision: &Given, plan: &'a Plan, state: &'a mut State) -> Result<(&'a mut Launch, &'a Stage), String> {
    let nothing = no_launch(state);
    let Some(launch) = state.launch.as_mut().filter(|launch| launch.phase != Phase::Complete) else {
        return Err(nothing);
    };
    if let Some(revision) = decision.revision.as_ref().filter(|revision| **revision != launch.revision) {
        return Err(format!("given for {revision}; the canary is {}", launch.revision));
    }
    if launch.phase != Phase::Progressing {
        let why = if launch.phase == Phase::RollingBack { "is taken back" } else { "has passed its gates" };
        return Err(format!("{} {why}", launch.id));
    }
    if launch.plan_hash != plan.hash {
        return Err("the plan was edited meanwhile: look again, and decide again".to_owned());
    }
    let at = plan.stages.get(index(launch)).ok_or("the plan has no such stage")?;
    // creation times are whole seconds
    if after(decision.made_at, Duration::from_secs(1)) <= launch.entered_at {
        return Err(format!("given before {} was entered: look again, and decide again", launch.stage_name));
    }
    if launch.interventions.len() + decision.gates.len().max(1) > INTERVENTIONS {
        return Err(format!("people have decided {INTERVENTIONS} things about this launch: that is all it may carry"));
    }
    Ok((launch, at))
}

fn remember(launch: &mut Launch, decision: &Given, at: &Stage, gate: Option<&String>, now: Timestamp) {
    launch.interventions.push(Intervention {
        verb: decision.verb,
        stage: at.name.clone(),
        plan_hash: launch.plan_hash.clone(),
        holds_under: None,
        gate: gate.cloned(),
        by: decision.by.clone(),
        reason: decision.reason.clone(),
        at: now,
    });
}

fn promote(decision: &Given, plan: &Plan, state: &mut State, now: Timestamp) -> Outcomes {
    let (launch, at) = stage_of(decision, plan, state)?;
    let name = &at.name;
    let over = launch.began_at.is_some_and(|began| now >= after(began, at.min_duration));
    if at.min_duration.is_zero() || over {
        return Err(format!("{name} has no minimum duration left: its gates decide"));
    }
    if cut_short(launch).is_some() {
        return Ok(format!("the minimum duration of {name} is skipped already: its gates decide"));
    }
    remember(launch, decision, at, None, now);
    Ok(format!("what is left of the minimum duration of {name} is skipped: its gates decide"))
}

fn overrule(decision: &Given, plan: &Plan, state: &mut State, now: Timestamp) -> Outcomes {
    let (launch, at) = stage_of(decision, plan, state)?;
    let known: Vec<_> = at.gates.iter().map(|gate| gate.name.as_str()).collect();
    if let Some(unknown) = decision.gates.iter().find(|gate| !known.contains(&gate.as_str())) {
        let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(format!("stage {} has no gate {unknown}; its gates: {has}", at.name));
    }
    for gate in &decision.gates {
        remember(launch, decision, at, Some(gate), now);
    }
    Ok(format!("{} of stage {} counts as passed in {}", decision.gates.join(", "), at.name, launch.id))
}

/// What a person decided about the stage that the launch is in, under the plan that judges it now.
fn decided(launch: &Launch, verb: DecisionVerb) -> impl Iterator<Item = &Intervention> {
    let here = |it: &&Intervention| it.stage == launch.stage_name && *plan_of(it) == launch.plan_hash;
    launch.interventions.iter().filter(here).filter(move |it| it.verb == verb)
}

/// Under a plan that only asks for more every gate is what it was, and what a person said of it holds on. A minimum duration may
/// be longer now: nobody skipped that.
pub(super) fn keep_overrides(launch: &mut Launch, plan_hash: &str) {
    let (stage, former) = (&launch.stage_name, &launch.plan_hash);
    let here = |it: &&mut Intervention| it.stage == *stage && plan_of(it) == former;
    for it in launch.interventions.iter_mut().filter(here).filter(|it| it.verb == DecisionVerb::Override) {
        it.holds_under = Some(plan_hash.to_owned());
    }
}

/// The plan that it counts for now.
fn plan_of(it: &Intervention) -> &String {
    it.holds_under.as_ref().unwrap_or(&it.plan_hash)
}

/// Who skipped the stage's minimum duration, and why.
pub(super) fn cut_short(launch: &Launch) -> Option<String> {
    let it = decided(launch, DecisionVerb::Promote).next()?;
    Some(format!("minimum duration skipped by {}: {}", it.by, it.reason))
}

/// What a gate says, or that a person overruled it, with what it said.
pub(super) fn overruled(launch: &Launch, gate: &str, reading: (Verdict, String)) -> (Verdict, String) {
    let it = decided(launch, DecisionVerb::Override).find(|it| it.gate.as_deref() == Some(gate));
    let Some(it) = it else { return reading };
    let (by, reason) = (clip(&it.by, 64), clip(&it.reason, 100));
    (Verdict::Pass, format!("overridden by {by}: {reason}; it says {:?}: {}", reading.0, reading.1))
}

/// The observation under a person's pause: the effective pause is the spec's or theirs.
pub(super) fn under_pause<'a>(seen: &'a Observation, state: &State) -> Cow<'a, Observation> {
    let Some(pause) = &state.pause else { return Cow::Borrowed(seen) };
    let mut held = seen.clone();
    held.paused = true;
    held.people.paused = Some(paused(pause));
    Cow::Owned(held)
}

/// A person's pause, in words.
pub(super) fn paused(pause: &Pause) -> String {
    format!("paused by {}: {}", pause.by, pause.reason)
}

/// The line of an agent at rest. One that nobody serves is not told to be stable.
pub(super) fn at_rest(state: &State, seen: &Observation) -> String {
    let held = state.pause.as_ref().map(paused).or_else(|| seen.paused.then(|| "spec.paused is true".to_owned()));
    let serves = if state.stable.is_some() { "Stable" } else { "no revision is stable yet" };
    held.map_or_else(|| serves.to_owned(), |held| format!("{serves}; {held}"))
}

/// What a revision waits for that a person's pause holds, with the mend.
pub(super) fn waits(state: &State, revision: &str) -> String {
    let why = state.pause.as_ref().map(paused).unwrap_or_default();
    format!("{revision} waits: {why}; a LaunchDecision with verb Resume lets it go on")
}
