//! Going forward: capacity → ready → weight → read back → gates → the next stage, and in the end the promotion.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::back::{NO_GATEWAY, waiting_for};
use super::drain::{is_retiring, lose_traffic};
use super::step::{Notes, index};
use super::time::{after, between};
use super::triggers::SEEN_RESTARTS;
use super::wanted::{is_promoted, read_back, service_moved};
use super::{
    Observation, Plan, Pods, Programmed, Route, Shares, WantedRevision, by_pods, capacity, contest, freeze, gates,
    people, share, soak, triggers,
};
use crate::api::{Launch, Outcome, PendingRevision, Phase, RejectedRevision, SeenRestart, StableRevision, State, clip};

/// A new revision is left alone for so long, so that edits close together are one launch.
pub const QUIET: Duration = Duration::from_secs(3);
/// Pods are ready for so long before they get traffic: EndpointSlices, and the gateways that follow them, lag behind readiness.
const KNOWN: Duration = Duration::from_secs(2);

/// What is measured, and tells nobody that it was, is looked at again so often.
pub(super) const LOOK_SOON: Duration = Duration::from_secs(5);
/// What is not watched is read again so often.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// No launch runs: begins one if the spec asks for a revision that may be launched.
pub(super) fn begin(
    last: Option<Launch>,
    plan: &Plan,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Option<Launch> {
    let pending = state.pending.take();
    if last.is_none() {
        find_lost_state(state, seen, now, notes);
    }
    let WantedRevision::Known(revision) = &seen.wanted else {
        return last;
    };
    let is_stable = state.stable.as_ref().is_some_and(|stable| stable.revision == *revision);
    let is_rejected = state.rejected.iter().any(|rejected| rejected.revision == *revision);
    if is_stable || is_rejected || seen.paused {
        return last;
    }
    freeze::wake(seen, notes);
    if freeze::holds(state.trusted.iter().any(|trusted| trusted.revision == *revision), seen).is_some() {
        return last;
    }
    let since = pending.filter(|pending| pending.revision == *revision).map_or(now, |pending| pending.since);
    let quiet = if state.stable.is_some() { QUIET } else { Duration::ZERO };
    if now < after(since, quiet) {
        notes.wakes.push(after(since, quiet));
        state.pending = Some(PendingRevision { revision: revision.clone(), since });
        return last;
    }
    let number = last.map_or_else(|| last_number(seen), |launch| launch.number).saturating_add(1);
    let launch = new_launch(number, revision, plan, state, seen, now);
    notes.tell("LaunchStarted", start_message(&launch));
    Some(launch)
}

/// The number of the launch that a decision on route or Service speaks of: where the status was lost, a new launch must not
/// have the name of one that was taken back.
fn last_number(seen: &Observation) -> i64 {
    let named =
        seen.decision.as_ref().and_then(|decision| decision.launch.strip_prefix(&seen.agent)?.strip_prefix('-'));
    named.and_then(|number| number.parse().ok()).filter(|number| (1..i64::MAX).contains(number)).unwrap_or(0)
}

/// A status that is empty beside a Service that serves was lost: what serves is stable, and what was taken back stays so.
fn find_lost_state(state: &mut State, seen: &Observation, now: Timestamp, notes: &mut Notes) {
    let Some(serving) = seen.service.as_ref().filter(|_| state.stable.is_none()) else { return };
    notes.warn("StatusRestored", format!("the status was lost; {serving} serves and counts as stable"));
    state.stable = Some(StableRevision { revision: serving.clone(), since: now });
    // their pods do not go at once: the spec may ask for one of them, and a scale-down that is late would meet its launch
    for revision in seen.pods.iter().filter(|(revision, pods)| *revision != serving && pods.size > 0).map(|(it, _)| it)
    {
        lose_traffic(state, revision, now, true);
    }
    let taken_back = seen.decision.iter().filter(|decision| decision.revision != *serving);
    state.rejected.extend(taken_back.filter(|decision| decision.outcome == Outcome::RolledBack).map(|decision| {
        RejectedRevision { revision: decision.revision.clone(), at: decision.at, reason: clip(&decision.message, 512) }
    }));
}

fn new_launch(number: i64, revision: &str, plan: &Plan, state: &State, seen: &Observation, now: Timestamp) -> Launch {
    let stable = state.stable.as_ref().map(|stable| stable.revision.clone());
    let trusted = state.trusted.iter().any(|trusted| trusted.revision == revision);
    let size = stable.as_ref().and_then(|stable| seen.pods.get(stable)).map_or(0, |pods| pods.size);
    let straight = trusted || stable.is_none();
    let last = plan.stages.len().saturating_sub(1);
    let (index, stage_name) = match plan.stages.first() {
        Some(first) if !straight => (0, first.name.clone()),
        _ => (last, if stable.is_none() { "first".to_owned() } else { "return".to_owned() }),
    };
    Launch {
        number,
        id: format!("{}-{number}", seen.agent),
        revision: revision.to_owned(),
        trusted,
        plan_hash: plan.hash.clone(),
        phase: if straight { Phase::Promoting } else { Phase::Progressing },
        outcome: None,
        reason: None,
        message: None,
        justification: None,
        stage: i32::try_from(index).unwrap_or(0),
        stage_name,
        stages: i32::try_from(plan.stages.len()).unwrap_or(0),
        weight: 0,
        served: false,
        only: Vec::new(),
        shared: None,
        contest: None,
        stable_size: size.max(if stable.is_some() { seen.replicas } else { 0 }),
        stable,
        started_at: now,
        entered_at: now,
        began_at: None,
        paused_at: None,
        paused_seconds: 0,
        held: false,
        verdicts: Vec::new(),
        verdicts_at: None,
        breaches: Vec::new(),
        restarts: before(revision, seen),
        decided_at: None,
        breached_at: None,
        ended_at: None,
        interventions: Vec::new(),
    }
}

/// Restarts that pods of the revision had before the launch: they are nobody's fault now.
fn before(revision: &str, seen: &Observation) -> Vec<SeenRestart> {
    let pods = seen.pods.get(revision).into_iter().flat_map(|pods| &pods.restarts);
    let counted = pods.filter(|(_, count)| **count > 0).take(SEEN_RESTARTS);
    counted.map(|(pod, count)| SeenRestart { pod: pod.clone(), count: *count, at: Timestamp::UNIX_EPOCH }).collect()
}

fn start_message(launch: &Launch) -> String {
    match &launch.stable {
        None => format!("{}: first deployment of {}", launch.id, launch.revision),
        Some(stable) if launch.trusted => {
            format!("{}: back to trusted {} from {stable}", launch.id, launch.revision)
        }
        Some(stable) => format!("{}: {} beside stable {stable}", launch.id, launch.revision),
    }
}

/// The clocks of a stage stand still while the agent is paused or frozen, or has no pods; and where a share of pods waits for
/// pods of an earlier launch, which have their own deadline.
pub(super) fn follow_pause(launch: &mut Launch, state: &State, seen: &Observation, now: Timestamp) {
    let frozen = freeze::holds(launch.trusted, seen).is_some();
    let drains = seen.by_pods.is_some() && launch.weight == 0 && is_retiring(state, &launch.revision);
    let paused = seen.paused || frozen || drains || seen.replicas == 0; // without pods nothing can be judged
    match (launch.paused_at, paused) {
        (None, true) => launch.paused_at = Some(now),
        (Some(since), false) => {
            launch.paused_seconds += i64::try_from(between(since, now).as_secs()).unwrap_or(0);
            launch.paused_at = None;
        }
        (None, false) | (Some(_), true) => {}
    }
}

/// An edit that only tightens restarts nothing. Another one restarts the stage, and never raises the weight by itself: the launch goes on in the highest stage that
/// is not above its weight.
pub(super) fn follow_plan(launch: &mut Launch, plan: &Plan, now: Timestamp, notes: &mut Notes) {
    if launch.plan_hash == plan.hash {
        return;
    }
    if plan.tightens.as_ref() == Some(&launch.plan_hash) {
        notes.tell("PlanTightened", format!("{}: the plan asks for more now; its stage goes on", launch.id));
        people::keep_overrides(launch, &plan.hash);
        launch.plan_hash.clone_from(&plan.hash);
        return;
    }
    if matches!(launch.phase, Phase::Promoting | Phase::Soaking) {
        launch.plan_hash.clone_from(&plan.hash);
        return begin_clocks(launch, now); // its gates have passed; an edit releases a deadline that holds it
    }
    let reached = plan.stages.iter().rposition(|stage| stage.weight <= launch.weight).unwrap_or(0);
    let alike = plan.stages.get(reached).is_some_and(|stage| stage.only == launch.only);
    if !alike {
        launch.weight = 0; // a share of other requests is another share: it begins anew
    }
    notes.tell("PlanChanged", format!("{}: the plan was edited; its stage begins anew", launch.id));
    launch.contest = None; // a person acted
    launch.plan_hash.clone_from(&plan.hash);
    launch.stages = i32::try_from(plan.stages.len()).unwrap_or(0);
    enter(launch, plan, if alike { reached } else { 0 }, now);
}

fn enter(launch: &mut Launch, plan: &Plan, stage: usize, now: Timestamp) {
    let Some(entered) = plan.stages.get(stage) else {
        return;
    };
    launch.stage = i32::try_from(stage).unwrap_or(0);
    launch.stage_name.clone_from(&entered.name);
    launch.weight = launch.weight.min(entered.weight);
    begin_clocks(launch, now);
}

pub(super) fn begin_clocks(launch: &mut Launch, now: Timestamp) {
    launch.entered_at = now;
    launch.began_at = None;
    launch.paused_seconds = 0;
    launch.paused_at = launch.paused_at.map(|_| now);
    launch.held = false;
    launch.verdicts.clear();
    launch.verdicts_at = None;
}

/// Why a launch may not go forward now, if it may not.
fn held_forward(launch: &Launch, seen: &Observation, now: Timestamp, notes: &mut Notes) -> Option<String> {
    if launch.held {
        return Some(waiting_for(launch)); // first: it says why, for as long as it takes
    }
    // such as a plan that is gone; a refused revision that is not the launch's has taken it back already
    if let WantedRevision::Unknown { message, .. } | WantedRevision::Refused { message, .. } = &seen.wanted {
        return Some(format!("held: {message}"));
    }
    if let Some(taken) = &seen.hostname_taken {
        return Some(format!("held: {taken}")); // whatever the canary did, its metrics would not show it
    }
    if seen.paused {
        return Some(seen.people.paused.clone().unwrap_or_else(|| "paused".to_owned()));
    }
    if let Some(frozen) = freeze::holds(launch.trusted, seen) {
        return Some(frozen.words());
    }
    if launch.phase == Phase::Progressing && seen.replicas == 0 {
        let stay = if capacity::is_lowered(launch, seen) {
            "; the canary's pods stay until the gateway has taken its weight of 0"
        } else {
            ""
        };
        return Some(format!("held: spec.replicas is 0, so nothing can be judged{stay}"));
    }
    if let Some(why) = capacity::no_room(launch, seen) {
        notes.wakes.push(after(now, LOOK_AGAIN)); // quotas are not watched
        return Some(format!("held: {why}"));
    }
    contest::holds(launch, seen, now, notes)
}

/// One stage: capacity → ready → weight → read back → gates → the next.
pub(super) fn climb(launch: &mut Launch, plan: &Plan, seen: &Observation, now: Timestamp, notes: &mut Notes) {
    let Some(stage) = plan.stages.get(index(launch)) else {
        return;
    };
    if goes_without_pods(launch, seen, notes) {
        return;
    }
    if let Some(why) = held_forward(launch, seen, now, notes) {
        launch.message = Some(clip(&why, 512));
        return;
    }
    let needed = capacity::of_stage(launch, stage, plan, seen);
    if launch.weight < stage.weight && by_pods::makes_room(launch, needed, seen, notes) {
        return;
    }
    let hindered = by_pods::waits(launch, stage.weight, &stage.name, seen);
    if let Some(why) = lacks_capacity(launch, needed, seen, now, notes).or(hindered) {
        launch.message = Some(why);
        return;
    }
    if launch.weight < stage.weight || launch.only != stage.only {
        launch.weight = stage.weight;
        launch.served = true;
        launch.only.clone_from(&stage.only);
        launch.message = None;
        notes.tell("WeightRaised", raised(launch));
        return; // the weight is written after this state is; it is read back in a later pass
    }
    if let Some(why) = not_read_back(launch, seen) {
        launch.began_at = None;
        launch.verdicts.clear();
        launch.message = Some(clip(&why, 512));
        return;
    }
    launch.message = None; // from here on its gates say what it waits for
    let Some(began) = launch.began_at else {
        launch.began_at = Some(now);
        notes.wakes.push(after(now, stage.min_duration));
        notes.wakes.push(after(now, Duration::from_secs(1)));
        return;
    };
    let skipped = people::cut_short(launch).is_some();
    let calm = after(began, if skipped { Duration::ZERO } else { stage.min_duration });
    if now < calm {
        notes.wakes.push(calm);
    } else if let Some(why) = share::wrong(launch, seen) {
        hold(launch, &why, now, notes);
    } else if gates::all_pass(launch) && launch.verdicts.len() == stage.gates.len() {
        match triggers::unproved(launch, plan, seen, now) {
            None => leave_stage(launch, plan, now, notes),
            Some(why) => hold(launch, &why, now, notes),
        }
    }
}

/// What is measured holds the launch, and nobody tells when it does no more.
fn hold(launch: &mut Launch, why: &str, now: Timestamp, notes: &mut Notes) {
    launch.message = Some(clip(&format!("held: {why}"), 512));
    notes.wakes.push(after(now, LOOK_SOON));
}

fn leave_stage(launch: &mut Launch, plan: &Plan, now: Timestamp, notes: &mut Notes) {
    let hurried = people::cut_short(launch).map(|who| format!("; {who}")).unwrap_or_default();
    let why = format!("{} passed: {}{hurried}", launch.stage_name, gates::justification(launch));
    notes.tell("StagePassed", format!("{}: {why}", launch.id));
    let next = index(launch) + 1;
    if next < plan.stages.len() {
        enter(launch, plan, next, now);
    } else {
        launch.phase = Phase::Promoting;
        "promotion".clone_into(&mut launch.stage_name);
        begin_clocks(launch, now);
    }
    launch.message = None;
    launch.justification = Some(clip(&why, 512));
    notes.wakes.push(after(now, Duration::from_millis(1)));
}

fn raised(launch: &Launch) -> String {
    let why = launch.justification.clone().unwrap_or_else(|| "the launch begins".to_owned());
    let of = if launch.only.is_empty() { "" } else { " of what matches" };
    format!("{}: {} to {}%{of}: {why}", launch.id, launch.revision, launch.weight)
}

/// A canary that lost all its pods loses its traffic until it has some again; the launch goes on, and its triggers judge. One
/// whose pods are to go by `replicas: 0` loses it before them.
fn goes_without_pods(launch: &mut Launch, seen: &Observation, notes: &mut Notes) -> bool {
    let ready = |revision: &str| seen.pods.get(revision).map_or(0, |pods| pods.ready);
    let stable = launch.stable.as_ref().map_or(0, |stable| ready(stable));
    let to_go = launch.phase == Phase::Progressing && seen.replicas == 0;
    if launch.weight == 0 || stable == 0 || ready(&launch.revision) > 0 && !to_go {
        return false;
    }
    let (id, revision) = (&launch.id, &launch.revision);
    if to_go {
        notes.tell("ScaledToZero", format!("{id}: spec.replicas is 0; {revision} gets no traffic, then no pods"));
    } else {
        notes.warn("CanaryGone", format!("{id}: {revision} has no ready pod; its traffic waits until it has"));
    }
    launch.weight = 0;
    launch.began_at = None;
    launch.verdicts.clear();
    true
}

/// Pods that are missing before the weight may rise, in words. Pods that have just become ready are not yet known to every
/// gateway: a request that is sent to them at once finds nobody.
fn lacks_capacity(
    launch: &Launch,
    needed: i32,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) -> Option<String> {
    let none = Pods::default();
    let pods = seen.pods.get(&launch.revision).unwrap_or(&none);
    if pods.ready < needed {
        let trouble = pods.image_pull.as_ref().or(pods.crash_loop.as_ref()).or(pods.refused.as_ref());
        let trouble = trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        let text = format!("waiting for pods of {}: {}/{needed} ready{trouble}", launch.revision, pods.ready);
        return Some(clip(&text, 512));
    }
    let known = after(pods.all_ready_since?, KNOWN);
    let waits = launch.stable.is_some() && now < known;
    notes.wakes.extend(waits.then_some(known));
    waits.then(|| format!("waiting until the gateway knows the pods of {}", launch.revision))
}

/// What the gateway has not confirmed, in words.
fn not_read_back(launch: &Launch, seen: &Observation) -> Option<String> {
    let weight = launch.weight;
    match &seen.route {
        Route::Missing => Some("waiting for the HTTPRoute to be there".to_owned()),
        Route::Unusable(why) => Some(format!("the HTTPRoute cannot be used: {why}")),
        Route::Seen { .. } if !read_back(launch, seen) => {
            let from = if seen.by_pods.is_some() { "agent's Service" } else { "HTTPRoute" };
            let why = by_pods::hinders(launch, weight, seen).map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("waiting for {weight}% to be read back from the {from}{why}"))
        }
        Route::Seen { programmed: Programmed::Pending, .. } => {
            Some(format!("waiting for the gateway to take {weight}%"))
        }
        Route::Unshared(why) | Route::Seen { programmed: Programmed::Silent(why), .. } => Some(why.clone()),
        Route::Seen { programmed: Programmed::Refused(why), .. } => {
            Some(format!("the gateway refuses the HTTPRoute: {why}"))
        }
        Route::NotUsed | Route::Seen { programmed: Programmed::Yes, .. } => None,
    }
}

/// All gates passed: full capacity → 100 % → read back → the agent's Service moves → the route's rule is restored.
pub(super) fn promote(
    launch: &mut Launch,
    plan: &Plan,
    state: &mut State,
    seen: &Observation,
    now: Timestamp,
    notes: &mut Notes,
) {
    let (first, moved) = (launch.stable.is_none(), service_moved(launch, seen));
    if !moved && seen.replicas > 0 && goes_without_pods(launch, seen, notes) {
        return;
    }
    if let Some(why) = held_forward(launch, seen, now, notes).filter(|_| !moved) {
        launch.message = Some(clip(&why, 512));
        return;
    }
    let lacks = if moved { None } else { lacks_capacity(launch, seen.replicas, seen, now, notes) };
    let share_of_pods = seen.by_pods.is_some() && launch.weight > 0; // it goes before they are more, and nobody measures without
    if let Some(why) = lacks.clone().filter(|_| !share_of_pods) {
        launch.message = Some(why);
        return;
    }
    let has_all = is_promoted(launch);
    let proved = launch.trusted || first || has_all; // by its soak, by nothing yet, or before
    if !proved && let Some(why) = triggers::unproved(launch, plan, seen, now) {
        hold(launch, &why, now, notes);
        return;
    }
    if !moved && by_pods::makes_room(launch, seen.replicas, seen, notes) {
        return;
    }
    if let Some(why) = lacks {
        launch.message = Some(why);
        return;
    }
    if !has_all {
        launch.weight = 100;
        launch.served = true;
        launch.only.clear();
        notes.tell("WeightRaised", raised(launch));
        return; // as in `climb`
    }
    if !moved {
        let waits = not_read_back(launch, seen).filter(|_| !first);
        launch.message = Some(clip(&waits.unwrap_or_else(|| "moving the agent's Service".to_owned()), 512));
        return;
    }
    let restored =
        matches!(&seen.route, Route::Seen { shares: Shares::AtRest, programmed: Programmed::Yes } | Route::NotUsed);
    if !restored && !first {
        launch.message = Some("waiting for the route's rule to be restored".to_owned());
        return;
    }
    if first && gateway_may_answer(launch, seen, now, notes) {
        launch.message = Some("waiting for the gateway to take the HTTPRoute".to_owned());
        return;
    }
    soak::begin(launch, plan, state, seen, now, notes);
}

/// Whether the gateway has not answered yet for the route of a first deployment, and still has time to.
fn gateway_may_answer(launch: &mut Launch, seen: &Observation, now: Timestamp, notes: &mut Notes) -> bool {
    let awaited = match &seen.route {
        Route::Missing | Route::Unshared(_) => true,
        Route::Seen { programmed, .. } => matches!(programmed, Programmed::Pending | Programmed::Silent(_)),
        Route::NotUsed | Route::Unusable(_) => false,
    };
    let due = after(*launch.began_at.get_or_insert(now), NO_GATEWAY);
    let waits = awaited && now < due;
    notes.wakes.extend(waits.then_some(due));
    waits
}
