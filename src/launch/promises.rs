//! The promises of a launch as predicates, each written once: what no decision and no write may ever do.
//!
//! They judge the core from outside and share no code with it. The properties and the model check ask all of them of
//! everything that happens; the shell asks them before it acts, and refuses to go forward on a decision that breaks one.
//! They decide nothing. A new phase needs a look at each of them.

mod held;

use std::fmt;

use k8s_openapi::jiff::Timestamp;

use super::soak::judged;
use super::time::between;
use super::triggers::judged_from;
use super::{
    CheckName, Decision, Gate, GateCheck, Measured, Observation, Plan, Route, Shares, Step, Trigger, TriggerCheck,
};
use super::{Stage, WantedRevision, capacity, pods_of_share, share_of_pods};
use crate::api::{DecisionVerb, Intervention, Launch, Outcome, Phase, PodCondition, State, Verdict};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broken {
    /// Name of the promise.
    pub promise: &'static str,
    /// What happened, in a sentence.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "promise {} is broken: {}", self.promise, self.why)
    }
}

/// What a predicate says.
pub type Kept = Result<(), Broken>;

/// One decision: what the core was given, and what it answered.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// How the launch is judged.
    pub plan: &'a Plan,
    /// What was remembered.
    pub before: &'a State,
    /// What was seen.
    pub seen: &'a Observation,
    /// The instant.
    pub now: Timestamp,
    /// The answer.
    pub step: &'a Step,
}

/// A write that gives a revision more of the traffic, and what justifies it in the cluster at that instant.
#[derive(Clone, Copy, Debug)]
pub struct Rise<'a> {
    /// The revision that gets more.
    pub revision: &'a str,
    /// Its new share in percent.
    pub to: i32,
    /// The state that the API server holds.
    pub committed: &'a State,
    /// The decision that is written on the object.
    pub written: Option<&'a Decision>,
}

type OfADecision = (&'static str, fn(&Decided<'_>) -> Result<(), String>);

/// Every promise that one decision can break.
pub const OF_A_DECISION: [OfADecision; 16] = [
    ("WeightBound", weight_bound),
    ("PodsWithinShare", pods_within_share),
    ("NoPromotionWithoutProof", proof),
    ("RollbackWins", rollback_wins),
    ("RollbackIsFinal", no_way_back),
    ("CapacityBeforeWeight", capacity_first),
    ("WeightBeforeScaleDown", pods_stay),
    ("Finality", finality),
    ("ServiceStaysWithStable", service_stays),
    ("QuietAtRest", quiet_at_rest),
    ("EveryWaitEnds", waits_end),
    ("Freeze", held::freeze),
    ("AbortWins", held::abort_wins),
    ("WayBack", held::way_back),
    ("TrustIsEarned", held::trust),
    ("RunsFinish", held::runs_finish),
];

/// The first promise that a decision breaks.
pub fn of_a_decision(decided: &Decided<'_>) -> Kept {
    OF_A_DECISION
        .iter()
        .try_for_each(|(promise, kept)| kept(decided).map_err(|why| Broken { promise, why: told(decided, &why) }))
}

fn told(decided: &Decided<'_>, why: &str) -> String {
    let launch = decided.step.state.launch.as_ref().map_or("no launch", |launch| launch.id.as_str());
    format!("{launch}: {why}")
}

/// "Going up, write why first": what is in the cluster must justify a rise at the very instant of its write.
pub fn of_a_rise(rise: &Rise<'_>) -> Kept {
    let broken = |promise: &'static str, why: String| Err(Broken { promise, why });
    let (revision, to) = (rise.revision, rise.to);
    if rise.committed.rejected.iter().any(|rejected| rejected.revision == revision) {
        return broken("Finality", format!("{revision} was rejected and would rise to {to}%"));
    }
    if rise.committed.stable.as_ref().is_some_and(|stable| stable.revision == revision) {
        return Ok(());
    }
    let Some(launch) = rise.committed.launch.as_ref().filter(|launch| launch.revision == revision) else {
        return broken(
            "WriteWhyFirst",
            format!("no launch of {revision} is in the status, and it would rise to {to}%"),
        );
    };
    if matches!(launch.phase, Phase::RollingBack | Phase::Complete) {
        return broken("WriteWhyFirst", format!("{revision} is {:?} and would rise to {to}%", launch.phase));
    }
    if rise.written.is_some_and(|decision| decision.launch == launch.id) {
        return broken("Finality", format!("{} was taken back on the object and would rise to {to}%", launch.id));
    }
    if to > launch.weight {
        return broken("WriteWhyFirst", format!("the status justifies {}% and not {to}%", launch.weight));
    }
    Ok(())
}

/// Where pods are the share, no write makes it larger than the status says: `canary` is whom the Service shares with, and what
/// pods made of it before and after. For the model and the rough weather: the shell asks it of sizes before it writes.
#[cfg(test)]
pub(crate) fn of_sizes(committed: &State, canary: Option<&str>, before: i32, after: i32) -> Kept {
    let climbs = |launch: &&Launch| matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    let launch = committed.launch.as_ref().filter(climbs).filter(|launch| canary == Some(&launch.revision));
    let allowed = launch.map_or(0, |launch| launch.weight);
    if after <= before.max(allowed) {
        return Ok(());
    }
    Err(Broken { promise: "PodsWithinStatus", why: format!("pods make {after}%, and the status says {allowed}%") })
}

/// Whether a decision goes forward (a launch, a stage, a share): only such a one may be refused.
pub fn raises(decided: &Decided<'_>) -> bool {
    let step = decided.step;
    let more = |launch: &Launch| {
        let now = share_of(&launch.revision, &decided.seen.route, decided.seen.service.as_deref());
        let onward = moved(decided).is_none_or(|(old, new)| {
            let left = old.phase == Phase::Progressing && new.phase == Phase::Promoting;
            let climbs = matches!(new.phase, Phase::Progressing | Phase::Promoting);
            let widened = climbs && !old.only.is_empty() && new.only.is_empty();
            new.weight > old.weight || new.stage > old.stage || left || widened
        });
        asked_for(&launch.revision, step) > now || onward
    };
    step.state.running().is_some_and(more)
}

/// The launch before and after, when the decision is about one that runs on.
fn moved<'a>(decided: &Decided<'a>) -> Option<(&'a Launch, &'a Launch)> {
    let (old, new) = (decided.before.running()?, decided.step.state.launch.as_ref()?);
    (old.id == new.id).then_some((old, new))
}

fn stage<'a>(plan: &'a Plan, launch: &Launch) -> Option<&'a Stage> {
    plan.stages.get(usize::try_from(launch.stage).ok()?)
}

fn ready(seen: &Observation, revision: &str) -> i32 {
    seen.pods.get(revision).map_or(0, |pods| pods.ready)
}

/// The share that a revision has, as the API server holds it.
pub fn share_of(revision: &str, route: &Route, service: Option<&str>) -> i32 {
    match route {
        Route::Seen {
            shares: Shares::Split { canary, weight, .. } | Shares::Matched { canary, weight, .. }, ..
        } if canary == revision => *weight,
        Route::Seen { shares: Shares::Split { stable, weight, .. }, .. } if stable == revision => 100 - *weight,
        Route::Seen { shares: Shares::Matched { stable, .. }, .. } if stable == revision => 100, // of all others
        Route::Seen { shares: Shares::Split { .. } | Shares::Matched { .. } | Shares::Foreign(_), .. } => 0,
        _ if service == Some(revision) => 100,
        _ => 0,
    }
}

/// The share that a decision gives to a revision.
fn asked_for(revision: &str, step: &Step) -> i32 {
    let on_route = match &step.wanted.shares {
        Some(Shares::Split { canary, weight, .. } | Shares::Matched { canary, weight, .. }) if canary == revision => {
            *weight
        }
        Some(Shares::Split { stable, weight, .. }) if stable == revision => 100 - *weight,
        Some(Shares::Matched { stable, .. }) if stable == revision => 100,
        Some(Shares::Split { .. } | Shares::Matched { .. } | Shares::Foreign(_)) => 0,
        Some(Shares::AtRest) | None => i32::from(step.wanted.service.as_deref() == Some(revision)) * 100,
    };
    on_route.max(0)
}

/// 1. The canary's share never exceeds its stage's, nor what the status says.
fn weight_bound(decided: &Decided<'_>) -> Result<(), String> {
    let Some(launch) = decided.step.state.running() else { return Ok(()) };
    let before = moved(decided).map_or(0, |(old, _)| old.weight);
    let bound = match launch.phase {
        Phase::Progressing => stage(decided.plan, launch).map_or(0, |stage| stage.weight),
        Phase::Promoting | Phase::Soaking => 100,
        Phase::RollingBack | Phase::Complete => before,
    };
    if launch.weight > bound {
        return Err(format!("{}% in the status, above {bound}%", launch.weight));
    }
    match &decided.step.wanted.shares {
        Some(Shares::Split { canary, weight, .. } | Shares::Matched { canary, weight, .. })
            if *weight > launch.weight || *canary != launch.revision =>
        {
            Err(format!("{canary} would get {weight}%, and the status says {}% for {}", launch.weight, launch.revision))
        }
        _ => Ok(()),
    }
}

/// 1. Where pods are the share: in whatever order the sizes are written, they make no more of it than the status says.
///
/// As long as the Service selects the pods of both. A person's edit is put right, and made no worse.
fn pods_within_share(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { seen, step, .. } = decided;
    let both =
        |shares: Option<&Shares>| matches!(shares, Some(Shares::Split { weight, .. }) if (1..100).contains(weight));
    let split = matches!(&seen.route, Route::Seen { shares, .. } if both(Some(shares)));
    let Some(launch) = step.state.running().filter(|_| seen.by_pods.is_some()) else { return Ok(()) };
    let (true, Some(stable)) = (split || both(step.wanted.shares.as_ref()), &launch.stable) else { return Ok(()) };
    let size = |revision: &String| seen.pods.get(revision).map_or(0, |pods| pods.size);
    let asked = |revision: &String| step.wanted.sizes.get(revision).copied().unwrap_or(0);
    let (old, new) = (size(stable).min(asked(stable)), size(&launch.revision).max(asked(&launch.revision)));
    let (now, worst) = (share_of_pods(size(stable), size(&launch.revision)), share_of_pods(old, new));
    let climbs = matches!(launch.phase, Phase::Progressing | Phase::Promoting);
    let bound = if climbs && launch.weight > 0 { launch.weight.max(now) } else { now };
    if worst <= bound {
        Ok(())
    } else {
        Err(format!("{new} pods of {} beside {old} would be {worst}%, above {bound}%", launch.revision))
    }
}

/// 2. and 5. A stage is left only when each of its gates passes on data of its own window, and one stage at a time.
fn proof(decided: &Decided<'_>) -> Result<(), String> {
    let launch = decided.step.state.launch.as_ref();
    let fresh = launch.filter(|launch| decided.before.launch.as_ref().is_none_or(|old| old.id != launch.id));
    if let Some(launch) = fresh {
        let straight = launch.trusted || launch.stable.is_none();
        let fair =
            launch.weight == 0 && (launch.phase == Phase::Promoting) == straight && (straight || launch.stage == 0);
        return if fair { Ok(()) } else { Err(format!("it begins in {} at {}%", launch.stage_name, launch.weight)) };
    }
    let Some((old, new)) = moved(decided) else { return Ok(()) };
    let proved = new.trusted || new.stable.is_none();
    let has_all = |launch: &Launch| launch.weight == 100 && launch.only.is_empty();
    if old.phase == Phase::Promoting && !has_all(old) && has_all(new) && !proved {
        return all_clear(decided, old);
    }
    let left = new.phase == Phase::Promoting || new.phase == Phase::Progressing && new.stage > old.stage;
    if old.phase != Phase::Progressing || !left || old.plan_hash != new.plan_hash {
        return Ok(()); // an edited plan restarts its stage: the weight bound holds it
    }
    let Some(stage) = stage(decided.plan, old) else {
        return Err("it left a stage that is not in the plan".to_owned());
    };
    if new.phase == Phase::Progressing && new.stage != old.stage + 1 {
        return Err(format!("it left {} and skipped a stage", old.stage_name));
    }
    let frozen = decided.seen.freeze.open.is_some() && !old.trusted;
    let paused = decided.seen.paused || decided.step.state.pause.is_some();
    if paused || frozen || decided.seen.replicas == 0 || new.held {
        return Err(format!("it left {} while nothing may go forward", old.stage_name));
    }
    let Some(began) = old.began_at else { return Err(format!("it left {} before it began", old.stage_name)) };
    let judged = stage.gates.iter().filter(|gate| !overruled(gate, new, &old.stage_name));
    judged.into_iter().try_for_each(|gate| passes(gate, old, began, decided))?;
    all_clear(decided, old)
}

/// Every trigger that is judged says that nothing is wrong.
fn all_clear(decided: &Decided<'_>, launch: &Launch) -> Result<(), String> {
    judged(decided.plan, launch.phase).try_for_each(|trigger| is_clear(trigger, launch, decided.seen))
}

/// A trigger that cannot be measured, or is in breach, proves nothing.
fn is_clear(trigger: &Trigger, launch: &Launch, seen: &Observation) -> Result<(), String> {
    if !matches!(trigger.check, TriggerCheck::Metric(_)) {
        return Ok(());
    }
    let says = seen.measured.get(&CheckName::Trigger(trigger.name.clone())).map(|it| it.verdict);
    if matches!(says, Some(Verdict::Pass | Verdict::Insufficient | Verdict::NotApplicable)) {
        return Ok(());
    }
    Err(format!("{} was left, and trigger {} says {says:?}", launch.stage_name, trigger.name))
}

/// A person overruled this gate of this stage, by name.
fn overruled(gate: &Gate, launch: &Launch, stage: &str) -> bool {
    let named = |it: &&Intervention| it.verb == DecisionVerb::Override && it.stage == stage;
    launch.interventions.iter().filter(named).any(|it| it.gate.as_ref() == Some(&gate.name))
}

fn passes(gate: &Gate, launch: &Launch, began: Timestamp, decided: &Decided<'_>) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{} was left, and gate {} {why}", launch.stage_name, gate.name));
    match &gate.check {
        GateCheck::Health(lasting) => {
            let pods = decided.seen.pods.get(&launch.revision);
            match pods.filter(|pods| pods.ready > 0).and_then(|pods| pods.all_ready_since) {
                Some(since) if between(since.max(began), decided.now) >= *lasting => Ok(()),
                _ => refuse("was not healthy for long enough"),
            }
        }
        GateCheck::Metric(question) => {
            let name = CheckName::Gate(launch.stage, gate.name.clone());
            match decided.seen.measured.get(&name) {
                None => refuse("was not measured"),
                Some(Measured { verdict: Verdict::NotApplicable, .. }) => Ok(()),
                Some(Measured { verdict: Verdict::Pass, sampled_at, .. }) => {
                    let whole =
                        *sampled_at > began && between(began, *sampled_at) >= question.window.unwrap_or_default();
                    if whole { Ok(()) } else { refuse("passed on data of before the stage") }
                }
                Some(other) => refuse(&format!("says {:?}", other.verdict)),
            }
        }
    }
}

/// 3. A trigger that fires, and a decision that is written on the route, end the launch in the pass that sees them.
fn rollback_wins(decided: &Decided<'_>) -> Result<(), String> {
    let Some((old, new)) = moved(decided) else { return Ok(()) };
    let ends = matches!(new.phase, Phase::RollingBack | Phase::Complete) && new.outcome != Some(Outcome::Succeeded);
    if !matches!(old.phase, Phase::Progressing | Phase::Promoting | Phase::Soaking) || ends {
        return Ok(());
    }
    let seen = decided.seen;
    if seen.decision.as_ref().is_some_and(|decision| decision.launch == old.id && decision.revision == old.revision) {
        return Err("the route says that it was taken back, and it goes on".to_owned());
    }
    let pods = seen.pods.get(&old.revision);
    let judged = judged(decided.plan, old.phase);
    let fired = judged.filter(|trigger| trigger.lasting.is_zero()).find(|trigger| match &trigger.check {
        TriggerCheck::Metric(question) => {
            let measured = seen.measured.get(&CheckName::Trigger(trigger.name.clone()));
            measured.is_some_and(|it| it.verdict == Verdict::Fail && it.sampled_at > judged_from(old, question))
        }
        TriggerCheck::Condition(PodCondition::CrashLoop) => pods.is_some_and(|pods| pods.crash_loop.is_some()),
        TriggerCheck::Condition(PodCondition::ImagePull) => pods.is_some_and(|pods| pods.image_pull.is_some()),
        TriggerCheck::Condition(PodCondition::Unready) | TriggerCheck::Restarts(..) => false,
    });
    fired.map_or(Ok(()), |trigger| Err(format!("trigger {} fired, and it goes on", trigger.name)))
}

/// 3. and 6. A launch that is taken back never goes forward again, and its weight never rises.
fn no_way_back(decided: &Decided<'_>) -> Result<(), String> {
    let Some((old, new)) = moved(decided).filter(|(old, _)| old.phase == Phase::RollingBack) else { return Ok(()) };
    let rejected = matches!(new.outcome, Some(Outcome::RolledBack | Outcome::Failed)); // a person aborted it meanwhile
    if !matches!(new.phase, Phase::RollingBack | Phase::Complete) || !(new.outcome == old.outcome || rejected) {
        return Err(format!("it was taken back and is {:?} again", new.phase));
    }
    if new.weight > old.weight { Err(format!("it was taken back and rises to {}%", new.weight)) } else { Ok(()) }
}

/// 4. The share has its pods before it has its traffic.
fn capacity_first(decided: &Decided<'_>) -> Result<(), String> {
    let Some((old, new)) = moved(decided).filter(|(old, new)| new.weight > old.weight) else { return Ok(()) };
    let seen = decided.seen;
    let beside = |stable: &String| pods_of_share(new.weight, seen.pods.get(stable).map_or(0, |pods| pods.size));
    let by_pods = seen.by_pods.as_ref().filter(|_| new.weight < 100).and(new.stable.as_ref());
    let needed = by_pods.map_or_else(|| capacity::canary_size(seen.replicas, new.weight), beside);
    let ready = ready(seen, &new.revision);
    if ready >= needed {
        return Ok(());
    }
    Err(format!("{} rises from {}% to {}% on {ready} of {needed} pods", new.revision, old.weight, new.weight))
}

/// 4. A revision of the launch that has traffic keeps the pods that it has, as long as the agent has any.
fn pods_stay(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, .. } = decided;
    let Some(launch) = before.running().filter(|_| seen.replicas > 0) else { return Ok(()) };
    let revisions = launch.stable.iter().chain([&launch.revision]);
    let mut served = revisions.filter(|revision| share_of(revision, &seen.route, seen.service.as_deref()) > 0);
    let bared = served.find(|revision| {
        let size = seen.pods.get(*revision).map_or(0, |pods| pods.size);
        size > 0 && step.wanted.sizes.get(*revision).copied().unwrap_or(0) == 0
    });
    bared.map_or(Ok(()), |revision| Err(format!("{revision} has traffic and would lose its pods")))
}

/// 6. A rejected revision starts no launch, is not trusted, and gets no more traffic than it has.
fn finality(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, .. } = decided;
    let stable = step.state.stable.as_ref().map(|stable| stable.revision.as_str());
    for rejected in &step.state.rejected {
        let revision = rejected.revision.as_str();
        let known = before.rejected.iter().any(|before| before.revision == revision);
        let begins = step.state.running().is_some_and(|launch| {
            launch.revision == revision && before.launch.as_ref().is_none_or(|old| old.id != launch.id)
        });
        if known && begins {
            return Err(format!("{revision} was rejected and is launched"));
        }
        if step.state.trusted.iter().any(|trusted| trusted.revision == revision) && stable != Some(revision) {
            return Err(format!("{revision} was rejected and is trusted"));
        }
        let (now, asked) = (share_of(revision, &seen.route, seen.service.as_deref()), asked_for(revision, step));
        if stable != Some(revision) && asked > now {
            return Err(format!("{revision} was rejected and would rise from {now}% to {asked}%"));
        }
    }
    Ok(())
}

/// The agent's Service leaves stable only for a canary that has all the traffic after all its gates.
fn service_stays(decided: &Decided<'_>) -> Result<(), String> {
    let step = decided.step;
    let (Some(service), Some(stable)) = (&step.wanted.service, &step.state.stable) else { return Ok(()) };
    let promoted = step
        .state
        .running()
        .is_some_and(|it| it.phase == Phase::Promoting && it.weight == 100 && it.revision == *service);
    let waits = step.state.running().is_some_and(|it| it.phase == Phase::RollingBack && it.revision == *service)
        && decided.seen.service.as_ref() == Some(service)
        && ready(decided.seen, &stable.revision) == 0; // stable is dead, and the Service stays where it is
    if *service == stable.revision || promoted || waits {
        Ok(())
    } else {
        Err(format!("the Service would move to {service}"))
    }
}

/// 10. Where nothing is to be done, nothing is written, told or awaited.
fn quiet_at_rest(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, .. } = decided;
    let settled = match (&seen.wanted, &before.stable) {
        (WantedRevision::Known(wanted), Some(stable)) => *wanted == stable.revision,
        _ => false,
    };
    let fallen = |launch: &Launch| seen.decision.as_ref().is_some_and(|written| written.launch == launch.id);
    let late =
        before.launch.as_ref().is_some_and(|launch| launch.outcome == Some(Outcome::Succeeded) && fallen(launch));
    let asked = late // a fall that arrived after the success: it is obeyed
        || !seen.people.given.is_empty() || seen.people.unread || !before.answers.is_empty();
    let resting =
        settled && !asked && before.running().is_none() && before.pending.is_none() && before.retiring.is_empty();
    if !resting || step.state == **before && step.events.is_empty() && step.wake_at.is_none() {
        return Ok(());
    }
    Err("nothing is to be done, and the pass does something".to_owned())
}

/// 16. Whatever waits for time to pass is woken by it.
fn waits_end(decided: &Decided<'_>) -> Result<(), String> {
    let Decided { before, seen, step, now, .. } = decided;
    if step.wake_at.is_some_and(|at| at <= *now) {
        return Err("it asks to be woken in the past".to_owned());
    }
    if step.wake_at.is_some() || step.state != **before {
        return Ok(()); // the write of what is new wakes it
    }
    let awaits = match step.state.running() {
        Some(launch) if launch.phase == Phase::RollingBack => false, // it waits for what is watched: pods, the route
        Some(launch) if launch.phase == Phase::Soaking => matches!(seen.wanted, WantedRevision::Known(_)),
        Some(launch) => !launch.held && launch.paused_at.is_none() && seen.replicas > 0,
        None => false,
    };
    let serves = |launch: &&Launch| launch.weight > 0 || launch.phase == Phase::RollingBack;
    let serves = step.state.running().filter(serves).map(|launch| &launch.revision);
    let drains = step.state.retiring.iter().any(|retiring| Some(&retiring.revision) != serves);
    if awaits || step.state.pending.is_some() || drains {
        return Err("it waits, and nothing wakes it".to_owned());
    }
    Ok(())
}
