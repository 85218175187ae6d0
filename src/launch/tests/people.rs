//! What people decide: each verb, its limits, and that nothing is obeyed twice or told to nobody.

use super::scenarios::launched_to;
use super::*;
use crate::api::{DecisionState, DecisionVerb};

const ABORT: DecisionVerb = DecisionVerb::Abort;
const PAUSE: DecisionVerb = DecisionVerb::Pause;
const RESUME: DecisionVerb = DecisionVerb::Resume;
const RETRY: DecisionVerb = DecisionVerb::Retry;
const PROMOTE: DecisionVerb = DecisionVerb::Promote;
const OVERRIDE: DecisionVerb = DecisionVerb::Override;

/// A decision by jane, made now. Its UID is its name.
fn by_jane(sim: &Sim, name: &str, verb: DecisionVerb) -> Given {
    Given {
        uid: name.to_owned(),
        name: name.to_owned(),
        made_at: sim.now,
        verb,
        by: "jane".to_owned(),
        reason: "INC-412".to_owned(),
        revision: None,
        gates: Vec::new(),
    }
}

impl Sim {
    /// Jane decides.
    pub(super) fn decides(&mut self, name: &str, verb: DecisionVerb) -> &mut Self {
        self.decides_with(name, verb, |_| {})
    }

    pub(super) fn decides_with(&mut self, name: &str, verb: DecisionVerb, edit: impl FnOnce(&mut Given)) -> &mut Self {
        let mut given = by_jane(self, name, verb);
        edit(&mut given);
        self.seen.people.given.push(given);
        self
    }

    /// The answer that is remembered for a decision: `Applied: …`.
    fn answer(&self, name: &str) -> String {
        let found = self.state.answers.iter().find(|answer| answer.name == name);
        found.map_or_else(|| "none".to_owned(), |answer| format!("{:?}: {}", answer.state, answer.reason))
    }

    /// All answers are written on their decisions, and read back.
    pub(super) fn read_back(&mut self) -> &mut Self {
        let answered: Vec<_> = self.state.answers.iter().map(|answer| answer.uid.clone()).collect();
        self.seen.people.given.retain(|given| !answered.contains(&given.uid));
        self.seen.people.settled = answered.into_iter().collect();
        self
    }
}

fn rejected(sim: &Sim, revision: &str) -> bool {
    sim.state.rejected.iter().any(|rejected| rejected.revision == revision)
}

// ---- Abort

#[test]
fn an_abort_takes_the_canary_back_in_the_same_pass_and_for_good() {
    let mut sim = launched_to("two");
    let step = sim.decides("abort-1", ABORT).tick();
    assert!(step.wanted.falling, "the weight falls before the status is written");
    assert_eq!(sim.weight(), 0);
    assert_eq!(sim.answer("abort-1"), "Applied: refund-agent-1: teal is taken back from 25% and rejected");
    sim.run(5);
    let line = super::summary(&sim.state, &sim.seen);
    assert_eq!(
        (line.stage.as_str(), line.weight.as_str(), line.verdict.as_str(), line.reason.as_str()),
        ("RolledBack", "0%", "-", "aborted by jane: INC-412")
    );
    sim.run(100);
    assert!(rejected(&sim, TEAL) && sim.launch().number == 1, "what a person aborted does not launch again");
}

#[test]
fn an_abort_works_without_metrics_while_paused_and_while_promoting() {
    let mut blind = launched_to("one");
    blind.measuring = false;
    blind.seen.measured.clear();
    blind.decides("a", ABORT).run(1);
    assert_eq!(blind.weight(), 0);

    let mut paused = launched_to("one");
    paused.seen.paused = true;
    paused.decides("p", PAUSE).run(5);
    paused.decides("a", ABORT).run(1);
    assert_eq!(paused.weight(), 0);

    let mut promoting = launched_to("three");
    promoting.until(60, "100 %", |sim| sim.weight() == 100);
    promoting.decides("a", ABORT).run(1);
    assert_eq!((promoting.weight(), promoting.stable()), (0, OCHRE));
}

#[test]
fn an_abort_goes_even_to_a_dead_stable_also_when_a_trigger_was_first() {
    let mut sim = launched_to("two");
    sim.broken.push(OCHRE);
    sim.run(2);
    let mut at_once = sim.clone();
    at_once.decides("a", ABORT).run(1);
    assert_eq!(at_once.weight(), 0, "a person wants it");

    sim.say("bypass", Verdict::Fail).run(5);
    assert_eq!((sim.weight(), sim.launch().phase), (25, Phase::RollingBack), "a trigger waits for stable");
    sim.decides("a", ABORT).run(1);
    assert_eq!(sim.weight(), 0);
    sim.run(3);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
}

#[test]
fn an_abort_that_races_a_raise_is_undone_in_the_next_pass() {
    let mut sim = launched_to("one");
    sim.until(60, "two is asked for", |sim| sim.launch().weight == 25);
    sim.decides("a", ABORT); // while the raise to 25 % was on its way
    sim.run(1);
    assert_eq!(sim.weight(), 0);
}

#[test]
fn an_abort_of_a_canary_without_traffic_and_of_a_superseded_one_rejects_them() {
    let mut waiting = Sim::with_stable();
    waiting.broken.push(TEAL);
    waiting.want(TEAL).run(10);
    waiting.decides("a", ABORT).run(1);
    assert_eq!(waiting.launch().phase, Phase::RollingBack, "its end is read back in a later pass");
    waiting.run(3);
    assert_eq!((waiting.launch().phase, rejected(&waiting, TEAL)), (Phase::Complete, true));

    let mut superseded = launched_to("two");
    superseded.want("mauve").tick();
    superseded.decides("a", ABORT).run(3);
    assert!(rejected(&superseded, TEAL));
}

#[test]
fn an_abort_of_a_first_deployment_fails_it() {
    let mut sim = Sim::fresh();
    sim.broken.push(OCHRE);
    sim.run(5);
    sim.decides("a", ABORT).run(5);
    assert_eq!((sim.launch().outcome, sim.seen.service.as_deref()), (Some(Outcome::Failed), None));
}

#[test]
fn an_abort_keeps_the_numbers_of_the_trigger_that_was_first() {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail).run(1);
    sim.decides("a", ABORT).tick();
    assert_eq!(sim.answer("a"), "Applied: refund-agent-1 was going back already: bypass: bypass says Fail");
    assert_eq!(sim.launch().message.as_deref(), Some("bypass: bypass says Fail"));
}

#[test]
fn without_a_launch_there_is_nothing_to_abort_promote_or_override() {
    for verb in [ABORT, PROMOTE, OVERRIDE] {
        let mut sim = Sim::with_stable();
        sim.decides_with("d", verb, |given| given.gates = vec!["success".into()]).run(1);
        assert_eq!(sim.answer("d"), "Ignored: no launch runs; ochre is stable", "{verb:?}");
    }
}

// ---- Pause and Resume

#[test]
fn a_persons_pause_holds_the_weight_and_the_deadline_and_says_who_and_why() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(60);
    sim.decides("p", PAUSE).run(500);
    assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing));
    assert_eq!(sim.answer("p"), "Applied: refund-agent-1 holds at 5% until Resume");
    assert_eq!(super::summary(&sim.state, &sim.seen).reason, "paused by jane: INC-412");
    sim.say("bypass", Verdict::Fail).run(1);
    assert_eq!(sim.weight(), 0, "triggers fire during a person's pause too");
}

#[test]
fn deleting_a_pause_does_not_undo_it_and_resume_does() {
    let mut sim = launched_to("one");
    sim.decides("p", PAUSE).run(1);
    sim.read_back().run(100); // answered, and then deleted
    assert!(sim.state.answers.is_empty() && sim.state.pause.is_some());
    assert_eq!(sim.weight(), 5);
    sim.decides("r", RESUME).tick();
    assert_eq!(sim.answer("r"), "Applied: the pause of jane is over");
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_pause_at_rest_holds_the_next_launch_and_shows() {
    let mut sim = Sim::with_stable();
    sim.decides("p", PAUSE).run(1);
    assert_eq!(super::summary(&sim.state, &sim.seen).reason, "Stable; paused by jane: INC-412");
    sim.want(TEAL).run(100);
    assert!(sim.state.launch.is_none());
    let mut conditions = Vec::new();
    super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    let launched = conditions.iter().find(|c| c.type_ == "Launched").unwrap();
    assert_eq!(launched.reason, "Paused");
    assert!(launched.message.starts_with("teal waits: paused by jane: INC-412"), "{}", launched.message);
    sim.decides("r", RESUME).until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_person_never_ends_the_pause_of_the_spec() {
    let mut sim = launched_to("one");
    sim.seen.paused = true;
    sim.decides("r", RESUME).run(1);
    assert_eq!(sim.answer("r"), "Ignored: spec.paused still holds it: set it to false");
    sim.decides("p", PAUSE).decides("r2", RESUME).run(50);
    assert_eq!(sim.answer("r2"), "Applied: the pause of jane is over; spec.paused still holds it: set it to false");
    assert_eq!(sim.weight(), 5);
    let mut idle = launched_to("one");
    idle.decides("r", RESUME).run(1);
    assert_eq!(idle.answer("r"), "Ignored: nobody paused it, and no deadline holds it");
}

/// In stage one, whose gate did not pass in its 30 s.
fn held_by_its_deadline() -> Sim {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(30);
    sim.plan.stages[0].then = DeadlineOutcome::Pause;
    sim.say("success", Verdict::Fail).run(60);
    sim
}

#[test]
fn resume_releases_a_stage_that_its_deadline_held_and_gives_it_a_new_one() {
    let mut sim = held_by_its_deadline();
    assert!(sim.launch().held);
    sim.decides("r", RESUME).run(20);
    assert!(!sim.launch().held && sim.weight() == 5, "it waits for its gate again");
    sim.run(15);
    assert!(sim.launch().held, "the new deadline passed too");
    sim.say("success", Verdict::Pass).decides("r2", RESUME);
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_stage_that_its_deadline_held_goes_on_to_say_so_whatever_else_held_it_for_a_moment() {
    let mut sim = held_by_its_deadline();
    let told = sim.launch().message.clone();
    assert!(told.as_ref().is_some_and(|told| told.starts_with("one did not finish within 30s")), "{told:?}");
    let (reason, message) = ("Unreadable".to_owned(), "could not read ConfigMap prompt".to_owned());
    let wanted = std::mem::replace(&mut sim.seen.wanted, WantedRevision::Unknown { reason, message });
    sim.run(3);
    sim.seen.wanted = wanted;
    sim.run(3);
    assert_eq!((sim.launch().held, &sim.launch().message), (true, &told));
}

// ---- Retry

#[test]
fn a_rejected_revision_launches_again_after_retry_from_the_first_stage() {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail).run(2);
    sim.say("bypass", Verdict::Pass).run(100);
    sim.decides_with("r", RETRY, |given| given.revision = Some("mauve".into())).run(10);
    assert_eq!((sim.answer("r").as_str(), sim.launch().number), ("Ignored: mauve is not rejected", 1));
    sim.decides_with("r2", RETRY, |given| given.revision = Some(TEAL.into()));
    sim.until(20, "a second launch", |sim| sim.launch().number == 2);
    assert_eq!((sim.launch().stage_name.as_str(), sim.launch().trusted), ("one", false));
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

// ---- Promote

#[test]
fn promote_skips_the_minimum_duration_of_this_stage_and_of_no_other() {
    let mut sim = launched_to("one");
    sim.plan.stages.iter_mut().for_each(|stage| stage.min_duration = seconds(100));
    sim.run(10);
    sim.decides_with("p", PROMOTE, |given| given.revision = Some(TEAL.into())).run(2);
    assert_eq!(sim.answer("p"), "Applied: what is left of the minimum duration of one is skipped: its gates decide");
    assert_eq!(sim.launch().stage_name, "two");
    let why = sim.launch().justification.clone().unwrap_or_default();
    assert!(why.ends_with("; minimum duration skipped by jane: INC-412"), "{why}");
    sim.run(80);
    assert_eq!(sim.launch().stage_name, "two", "the next stage lasts as long as it should");
}

#[test]
fn promote_never_skips_a_gate_that_does_not_pass() {
    for verdict in [Verdict::Fail, Verdict::Insufficient, Verdict::Error] {
        let mut sim = launched_to("one");
        sim.plan.stages[0].min_duration = seconds(100);
        sim.say("success", verdict).decides("p", PROMOTE).run(60);
        assert_eq!((sim.weight(), sim.launch().stage_name.as_str()), (5, "one"), "{verdict:?}");
        sim.decides("again", PROMOTE).run(60);
        assert!(sim.answer("again").contains("is skipped already"), "{}", sim.answer("again"));
        sim.decides("late", PROMOTE).run(1);
        assert_eq!(sim.answer("late"), "Ignored: one has no minimum duration left: its gates decide");
    }
}

#[test]
fn a_decision_for_another_revision_is_ignored() {
    for verb in [PROMOTE, OVERRIDE] {
        let mut sim = launched_to("one");
        let stale = |given: &mut Given| {
            given.revision = Some("51ee02".into());
            given.gates = vec!["success".into()];
        };
        sim.say("success", Verdict::Fail).decides_with("d", verb, stale).run(30);
        assert_eq!(sim.answer("d"), "Ignored: given for 51ee02; the canary is teal");
        assert_eq!(sim.weight(), 5);
    }
}

// ---- Override

fn gate(name: &str) -> impl FnOnce(&mut Given) {
    let name = name.to_owned();
    move |given| given.gates = vec![name]
}

#[test]
fn an_override_counts_for_one_gate_of_one_stage_and_stays_in_the_record() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Fail).run(20);
    sim.decides_with("o", OVERRIDE, gate("success")).tick();
    assert_eq!(sim.answer("o"), "Applied: success of stage one counts as passed in refund-agent-1");
    let shown = sim.launch().justification.clone().unwrap_or_default();
    assert_eq!(shown, "one passed: success: overridden by jane: INC-412; it says Fail: success says Fail");
    sim.run(60);
    assert_eq!((sim.launch().stage_name.as_str(), sim.weight()), ("two", 25), "the next stage's gate holds");
    assert!(sim.events.iter().any(|event| event.reason == "GatesOverridden" && event.warning));
    sim.say("success", Verdict::Pass).until(200, "stable", |sim| sim.stable() == TEAL);
    let kept: Vec<_> = sim.launch().interventions.iter().map(|it| (it.stage.as_str(), it.gate.as_deref())).collect();
    assert_eq!(kept, [("one", Some("success"))]);
}

#[test]
fn an_override_outlives_an_edit_of_the_plan_that_only_tightens_and_no_other() {
    for (tightens, verdict) in [(Some("plan-1".to_owned()), Verdict::Pass), (None, Verdict::Fail)] {
        let mut sim = launched_to("one");
        sim.plan.stages[0].min_duration = seconds(100);
        sim.decides_with("o", OVERRIDE, gate("success")).say("success", Verdict::Fail).run(1);
        (sim.plan.tightens, sim.plan.hash) = (tightens, "plan-2".to_owned());
        sim.run(30);
        assert_eq!((sim.launch().plan_hash.as_str(), sim.launch().verdicts[0].verdict), ("plan-2", verdict));
    }
}

#[test]
fn an_override_that_an_edit_made_void_is_not_revived_by_one_that_tightens() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].min_duration = seconds(100);
    sim.decides_with("o", OVERRIDE, gate("success")).say("success", Verdict::Fail).run(1);
    sim.plan.hash = "plan-2".to_owned();
    sim.run(2);
    (sim.plan.tightens, sim.plan.hash) = (Some("plan-2".to_owned()), "plan-3".to_owned());
    sim.run(30);
    assert_eq!((sim.launch().plan_hash.as_str(), sim.launch().verdicts[0].verdict), ("plan-3", Verdict::Fail));
}

#[test]
fn an_overridden_gate_is_shown_while_the_stage_lasts_and_no_longer_ends_the_launch() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].min_duration = seconds(100);
    sim.decides_with("o", OVERRIDE, gate("success")).run(1);
    sim.plan.stages[0].gates[0].on_fail = OnFail::Rollback;
    sim.say("success", Verdict::Fail).run(30);
    let verdict = &sim.launch().verdicts[0];
    assert_eq!((verdict.verdict, sim.weight()), (Verdict::Pass, 5));
    assert!(verdict.message.starts_with("overridden by jane: INC-412; it says "), "{}", verdict.message);
}

#[test]
fn an_override_stops_no_trigger_and_skips_no_minimum_duration() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].min_duration = seconds(100);
    sim.say("success", Verdict::Error).decides_with("o", OVERRIDE, gate("success")).run(50);
    assert_eq!(sim.launch().stage_name, "one");
    sim.say("bypass", Verdict::Fail).run(1);
    assert_eq!(sim.weight(), 0);
}

#[test]
fn an_override_of_a_gate_that_the_stage_has_not_is_ignored_whole() {
    let mut sim = launched_to("one");
    let two = |given: &mut Given| given.gates = vec!["success".into(), "sucess".into()];
    sim.say("success", Verdict::Fail).decides_with("o", OVERRIDE, two).run(30);
    assert_eq!(sim.answer("o"), "Ignored: stage one has no gate sucess; its gates: success");
    assert_eq!(sim.weight(), 5);
}

#[test]
fn an_edited_plan_voids_overrides_and_a_skipped_minimum_duration() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].min_duration = seconds(20);
    sim.say("success", Verdict::Insufficient);
    sim.decides_with("o", OVERRIDE, gate("success")).run(1);
    sim.plan.hash = "plan-2".into();
    sim.run(100);
    assert_eq!(sim.launch().stage_name, "one", "it was given for another plan");
    sim.plan.hash = "plan-3".into();
    sim.decides_with("o2", OVERRIDE, gate("success")).tick();
    assert!(sim.answer("o2").starts_with("Ignored: the plan was edited meanwhile"), "{}", sim.answer("o2"));
}

#[test]
fn people_may_not_decide_without_end_about_one_launch() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].min_duration = seconds(10_000);
    for n in 0..40 {
        sim.decides_with(&format!("o{n:02}"), OVERRIDE, gate("success")).run(1);
        sim.read_back();
    }
    assert_eq!(sim.launch().interventions.len(), 32);
}

// ---- once, in order, and answered

#[test]
fn decisions_are_obeyed_in_the_order_in_which_they_were_made_and_then_by_name() {
    let mut sim = launched_to("one");
    let earlier = Timestamp::from_second(sim.now.as_second() - 1).unwrap();
    sim.decides("b", RESUME).decides("a", PAUSE).run(1);
    assert!(sim.state.pause.is_none(), "in one second the name decides: a before b");
    sim.decides("c", PAUSE).decides_with("d", RESUME, |given| given.made_at = earlier).run(1);
    assert!(sim.state.pause.is_some(), "the older one first");
}

#[test]
fn a_decision_that_is_still_given_is_not_obeyed_again() {
    let mut sim = launched_to("one");
    sim.decides("p", PAUSE).decides("r", RESUME);
    sim.run(3);
    let told = sim.events.iter().filter(|event| ["Paused", "Resumed"].contains(&event.reason)).count();
    assert_eq!((told, sim.state.answers.len()), (2, 2));
    sim.read_back().run(1);
    assert!(sim.state.answers.is_empty(), "an answer that was read back is forgotten");
}

#[test]
fn what_could_not_be_read_is_neither_forgotten_nor_repeated() {
    let mut sim = launched_to("one");
    sim.decides("p", PAUSE).run(1);
    sim.seen.people.given.clear();
    sim.seen.people.unread = true;
    let step = sim.tick();
    assert_eq!(sim.state.answers.len(), 1);
    assert!(step.wake_at.is_some_and(|at| at <= after(sim.now, seconds(1))), "it looks again soon");
}

#[test]
fn a_decision_about_a_former_agent_of_the_same_name_is_ignored() {
    let mut sim = launched_to("one");
    sim.seen.people.agent_made_at = sim.now;
    let old = Timestamp::from_second(sim.now.as_second() - 1).unwrap();
    sim.decides_with("a", ABORT, |given| given.made_at = old).run(1);
    assert!(sim.answer("a").starts_with("Ignored: it is older than this agent"), "{}", sim.answer("a"));
    assert_eq!(sim.weight(), 5);
}

#[test]
fn more_decisions_than_are_remembered_wait_for_their_turn() {
    let mut sim = launched_to("one");
    for n in 0..100 {
        sim.decides(&format!("d{n:03}"), if n % 2 == 0 { PAUSE } else { RESUME });
    }
    sim.decides("e", ABORT);
    let mut most = 0;
    for _ in 0..5 {
        sim.run(1);
        most = most.max(sim.state.answers.len());
        sim.read_back();
    }
    assert_eq!((most, sim.weight(), rejected(&sim, TEAL)), (32, 0, true));
}

#[test]
fn an_old_status_without_people_is_still_understood() {
    let mut sim = launched_to("one");
    let text = serde_json::to_string(&sim.state).unwrap();
    assert!(!text.contains("answers") && !text.contains("interventions") && !text.contains("pause\""), "{text}");
    sim.decides("p", PAUSE).run(1);
    let state: State = serde_json::from_str(&serde_json::to_string(&sim.state).unwrap()).unwrap();
    assert_eq!(state, sim.state);
}

// ---- crashes between any two writes

mod crashes {
    use super::*;
    use proptest::prelude::*;

    /// The answers as they stand on the decisions.
    type Written = BTreeMap<String, DecisionState>;
    /// How often each decision was heard, by what was committed.
    type Heard = BTreeMap<String, usize>;

    /// Counts the decisions that a commit hears, and fails when it does what nobody but a person may do and hears none.
    fn count(heard: &mut Heard, given: &[Given], before: &State, after: &State) {
        let fresh: Vec<_> =
            after.answers.iter().filter(|it| before.answers.iter().all(|old| old.uid != it.uid)).collect();
        for answer in &fresh {
            *heard.entry(answer.uid.clone()).or_default() += 1;
        }
        let asked = |verb: DecisionVerb| {
            let of = |uid: &String| given.iter().any(|given| given.uid == *uid && given.verb == verb);
            fresh.iter().filter(|it| it.state == DecisionState::Applied && of(&it.uid)).count()
        };
        let decided = |state: &State, verb: DecisionVerb| {
            let launch =
                state.launch.as_ref().filter(|it| after.launch.as_ref().is_some_and(|after| after.id == it.id));
            launch.map_or(0, |launch| launch.interventions.iter().filter(|it| it.verb == verb).count())
        };
        let gone = |it: &&crate::api::RejectedRevision| after.rejected.iter().all(|now| now.revision != it.revision);
        let retried = before.rejected.iter().filter(gone).count();
        for (verb, times) in [
            (PAUSE, usize::from(before.pause.is_none() && after.pause.is_some())),
            (RESUME, usize::from(before.pause.is_some() && after.pause.is_none())),
            (RETRY, retried),
            (PROMOTE, decided(after, PROMOTE) - decided(before, PROMOTE)),
            (OVERRIDE, decided(after, OVERRIDE) - decided(before, OVERRIDE)),
        ] {
            assert!(times <= asked(verb), "{verb:?} takes effect {times} times: {before:#?} {after:#?}");
        }
    }

    /// One pass whose leader may die after any of its writes: route (falling), status, route (rising), answers.
    fn pass(sim: &mut Sim, (written, heard): (&mut Written, &mut Heard), survives: usize) {
        sim.now = after(sim.now, seconds(1));
        sim.sample();
        // what a pass reads: decisions without an answer, and which remembered ones are settled
        sim.seen.people.settled =
            sim.state.answers.iter().filter(|a| written.contains_key(&a.uid)).map(|a| a.uid.clone()).collect();
        let open = sim.seen.people.given.clone();
        sim.seen.people.given.retain(|given| !written.contains_key(&given.uid));
        let step = sim.decide();
        let given = std::mem::replace(&mut sim.seen.people.given, open);
        let mut writes = 0;
        let mut may = || {
            writes += 1;
            writes <= survives
        };
        if step.wanted.falling && may() {
            sim.perform(&step.wanted);
        }
        if may() {
            count(heard, &given, &sim.state, &step.state);
            sim.commit(&step);
            if may() {
                sim.perform(&step.wanted);
            }
            for answer in &step.state.answers {
                if given.iter().any(|given| given.uid == answer.uid) && may() {
                    let before = written.insert(answer.uid.clone(), answer.state);
                    assert!(before.is_none_or(|before| before == answer.state), "two answers to {}", answer.uid);
                }
            }
        }
        sim.settle();
    }

    fn verb() -> impl Strategy<Value = DecisionVerb> {
        prop_oneof![Just(ABORT), Just(PAUSE), Just(RESUME), Just(RETRY), Just(PROMOTE), Just(OVERRIDE)]
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn every_decision_takes_effect_once_and_is_answered_whatever_dies(
            decisions in prop::collection::vec((0..60_usize, verb()), 1..12),
            crashes in prop::collection::vec(prop_oneof![3 => Just(99_usize), 2 => 0..4_usize], 60),
        ) {
            let mut sim = Sim::with_stable();
            let (mut written, mut heard) = (Written::new(), Heard::new());
            sim.want(TEAL);
            for (second, survives) in crashes.iter().enumerate() {
                for (n, (_, verb)) in decisions.iter().enumerate().filter(|(_, (at, _))| *at == second) {
                    sim.decides_with(&format!("d{n}"), *verb, |given| {
                        given.revision = matches!(verb, DecisionVerb::Retry).then(|| TEAL.to_owned());
                        given.gates = vec!["success".to_owned()];
                    });
                }
                pass(&mut sim, (&mut written, &mut heard), *survives);
            }
            for _ in 0..8 {
                pass(&mut sim, (&mut written, &mut heard), 99);
            }
            prop_assert!(heard.values().all(|times| *times == 1), "each decision is heard once: {:?}", heard);
            prop_assert_eq!(written.len(), sim.seen.people.given.len(), "each decision has its answer");
            prop_assert!(sim.state.answers.is_empty(), "nothing is remembered that everybody can read: {:?}", sim.state.answers);
        }
    }
}

#[test]
fn what_was_decided_about_the_stage_before_is_not_heard_in_this_one() {
    for verb in [PROMOTE, OVERRIDE] {
        let mut sim = launched_to("two");
        let entered = sim.launch().entered_at;
        let given_at = |at: Timestamp| {
            move |given: &mut Given| {
                given.made_at = at;
                given.gates = if verb == OVERRIDE { vec!["success".to_owned()] } else { Vec::new() };
            }
        };
        sim.decides_with("late", verb, given_at(Timestamp::from_second(entered.as_second() - 1).unwrap())).run(1);
        assert_eq!(sim.answer("late"), "Ignored: given before two was entered: look again, and decide again");
        sim.decides_with("in-time", verb, given_at(entered)).run(1);
        assert!(sim.answer("in-time").starts_with("Applied: "), "{}", sim.answer("in-time"));
    }
}
