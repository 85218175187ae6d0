//! A freeze holds everything that goes forward and nothing that goes back; and an edit that only tightens restarts nothing.

use super::scenarios::launched_to;
use super::*;
use crate::api::conditions::is_true;
use crate::api::{DecisionVerb, Launch};

impl Sim {
    /// A window opens now, for so many seconds; it stays as it is until it is changed.
    fn freeze(&mut self, span: u64) {
        let until = after(self.now, seconds(span));
        let open = Some(Frozen { window: "peak-week".to_owned(), until });
        self.seen.freeze = Freeze { open, changes_at: Some(until) };
    }

    fn thaw(&mut self) {
        self.seen.freeze = Freeze::default();
    }

    fn condition(&self, type_: &str) -> String {
        let mut conditions = Vec::new();
        super::super::conditions(&mut conditions, &self.state, &self.seen, Some(1), self.now);
        assert!(!is_true(&conditions, "Stalled"), "waiting is no failure: {conditions:?}");
        conditions
            .iter()
            .find(|c| c.type_ == type_)
            .map(|c| format!("{} {} {}", c.status, c.reason, c.message))
            .unwrap()
    }
}

#[test]
fn no_launch_begins_in_a_freeze_and_it_begins_when_the_freeze_ends() {
    let mut sim = Sim::with_stable();
    sim.freeze(1000);
    sim.want(TEAL);
    sim.run(20);
    assert!(sim.state.launch.is_none());
    let until = sim.seen.freeze.changes_at.unwrap();
    assert_eq!(sim.decide().wake_at, Some(until), "it wakes by itself");
    let words = format!("teal waits: frozen by window peak-week until {until}");
    assert_eq!(sim.condition("Launched"), format!("False Frozen {words}"));
    assert!(summary(&sim.state, &sim.seen).reason.starts_with("frozen by window peak-week until"));
    sim.thaw();
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_first_deployment_waits_for_the_end_of_a_freeze_too() {
    let mut sim = Sim::fresh();
    sim.freeze(1000);
    sim.run(20);
    assert!(sim.state.launch.is_none());
    sim.thaw();
    sim.until(20, "stable", |sim| sim.stable() == OCHRE);
}

#[test]
fn at_rest_a_freeze_wakes_nobody() {
    let mut sim = Sim::with_stable();
    sim.freeze(1000);
    let step = sim.tick();
    assert_eq!((step.wake_at, step.events.len()), (None, 0));
    assert_eq!(sim.condition("Launched"), "True Stable ochre is stable");
}

#[test]
fn no_weight_rises_in_a_freeze_and_the_deadline_stands_still() {
    let mut sim = launched_to("one");
    sim.freeze(10_000);
    sim.run(5000);
    assert_eq!((sim.weight(), sim.launch().stage_name.as_str()), (5, "one"), "longer than the stage's deadline of 1h");
    assert!(sim.condition("Progressing").starts_with("True Frozen "));
    assert!(sim.condition("Launched").contains("frozen by window peak-week until"));
    sim.thaw();
    sim.until(100, "two", |sim| sim.launch().stage_name == "two");
}

#[test]
fn a_running_launch_is_looked_at_when_a_window_opens() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Pass);
    let opens = after(sim.now, seconds(3));
    sim.seen.freeze.changes_at = Some(opens);
    assert!(sim.decide().wake_at.is_some_and(|at| at <= opens));
}

#[test]
fn nothing_becomes_stable_in_a_freeze() {
    let mut sim = launched_to("three");
    sim.until(60, "100%", |sim| sim.weight() == 50 && sim.launch().phase == Phase::Promoting);
    sim.freeze(1000);
    sim.run(30);
    assert_eq!((sim.stable(), sim.weight()), (OCHRE, 50));
    assert!(sim.condition("Progressing").starts_with("True Frozen "));
}

#[test]
fn a_trigger_fires_in_a_freeze() {
    let mut sim = launched_to("two");
    sim.freeze(1000);
    sim.say("bypass", Verdict::Fail);
    sim.until(10, "taken back", |sim| sim.weight() == 0);
    sim.until(60, "the end", |sim| sim.launch().outcome == Some(Outcome::RolledBack));
}

#[test]
fn a_newer_revision_takes_the_canary_back_in_a_freeze_and_waits_itself() {
    let mut sim = launched_to("two");
    sim.freeze(1000);
    sim.want("mauve");
    sim.until(60, "taken back", |sim| sim.launch().phase == Phase::Complete);
    sim.run(30);
    assert_eq!((sim.launch().outcome, sim.launch().number, sim.weight()), (Some(Outcome::Superseded), 1, 0));
}

#[test]
fn a_spec_that_goes_back_to_stable_aborts_in_a_freeze() {
    let mut sim = launched_to("two");
    sim.freeze(1000);
    sim.want(OCHRE);
    sim.until(60, "aborted", |sim| sim.launch().outcome == Some(Outcome::Aborted) && sim.weight() == 0);
}

#[test]
fn a_person_aborts_in_a_freeze_in_the_same_pass_whatever_the_launch_is_at() {
    let mut promoting = launched_to("three");
    promoting.until(200, "100%", |sim| sim.launch().phase == Phase::Promoting && sim.weight() == 100);
    for mut sim in [launched_to("one"), launched_to("two"), promoting] {
        sim.freeze(1000);
        sim.run(5);
        let step = sim.decides("a", DecisionVerb::Abort).tick();
        assert!(step.wanted.falling && sim.weight() == 0, "{}%", sim.weight());
        sim.until(60, "the end", |sim| sim.launch().phase == Phase::Complete);
        assert_eq!((sim.launch().outcome, sim.stable()), (Some(Outcome::RolledBack), OCHRE));
        assert!(sim.seen.freeze.open.is_some() && sim.state.rejected.iter().any(|it| it.revision == TEAL));
    }
}

#[test]
fn going_back_to_a_trusted_revision_is_never_frozen() {
    let mut sim = launched_to("three");
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
    sim.freeze(1000);
    sim.want(OCHRE);
    sim.until(60, "back", |sim| sim.stable() == OCHRE);
}

#[test]
fn a_canary_that_lost_its_pods_gets_no_traffic_back_in_a_freeze() {
    let mut sim = launched_to("two");
    sim.freeze(1000);
    sim.broken.push(TEAL);
    sim.until(10, "without traffic", |sim| sim.weight() == 0);
    sim.broken.clear();
    sim.run(30);
    assert_eq!(sim.weight(), 0);
    sim.thaw();
    sim.until(30, "25% again", |sim| sim.weight() == 25);
}

#[test]
fn a_plan_that_is_gone_holds_the_launch_and_its_triggers_go_on() {
    let mut sim = launched_to("two");
    let (reason, message) = ("PlanMissing".to_owned(), "LaunchPlan production does not exist: create it".to_owned());
    sim.seen.wanted = WantedRevision::Refused { revision: TEAL.to_owned(), reason, message };
    sim.run(60);
    assert_eq!((sim.weight(), sim.launch().stage_name.as_str()), (25, "two"));
    let held = sim.launch().message.clone().unwrap();
    assert_eq!(held, "held: LaunchPlan production does not exist: create it");
    let mut conditions = Vec::new();
    super::super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    assert!(is_true(&conditions, "Stalled"), "a person must act");
    sim.say("bypass", Verdict::Fail);
    sim.until(60, "the end", |sim| sim.launch().outcome == Some(Outcome::RolledBack));
}

#[test]
fn a_plan_that_is_gone_at_rest_leaves_stable_alone_and_holds_the_next_launch() {
    let mut sim = Sim::with_stable();
    let gone = |revision: &str| WantedRevision::Refused {
        revision: revision.to_owned(),
        reason: "PlanMissing".to_owned(),
        message: "LaunchPlan production does not exist: create it".to_owned(),
    };
    let told = |sim: &Sim, type_: &str| {
        let mut conditions = Vec::new();
        super::super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
        conditions.iter().find(|c| c.type_ == type_).map(|c| format!("{} {}", c.status, c.reason)).unwrap()
    };
    sim.seen.wanted = gone(OCHRE);
    sim.run(5);
    assert_eq!((told(&sim, "Launched").as_str(), told(&sim, "Stalled").as_str()), ("True Stable", "True PlanMissing"));
    sim.seen.wanted = gone(TEAL);
    sim.run(30);
    assert_eq!((told(&sim, "Launched").as_str(), sim.state.launch.is_none()), ("False PlanMissing", true));
}

#[test]
fn a_spec_that_goes_back_to_stable_aborts_though_the_plan_is_gone() {
    let mut sim = launched_to("two");
    let (reason, message) = ("PlanMissing".to_owned(), "create it".to_owned());
    sim.seen.wanted = WantedRevision::Refused { revision: OCHRE.to_owned(), reason, message };
    sim.until(60, "aborted", |sim| sim.launch().outcome == Some(Outcome::Aborted) && sim.weight() == 0);
}

#[test]
fn an_edit_that_only_tightens_restarts_nothing_and_is_obeyed_at_once() {
    let mut sim = launched_to("two");
    let clocks = |launch: &Launch| (launch.entered_at, launch.began_at, launch.weight, launch.stage);
    let before = clocks(sim.launch());
    sim.plan.tightens = Some("plan-1".to_owned());
    sim.plan.hash = "plan-2".to_owned();
    sim.plan.triggers.push(trigger("restarted", TriggerCheck::Restarts(1, seconds(60)), 0));
    sim.tick();
    assert_eq!((clocks(sim.launch()), sim.launch().plan_hash.as_str()), (before, "plan-2"));
    assert!(sim.events.iter().any(|event| event.reason == "PlanTightened"));
    sim.seen.pods.get_mut(TEAL).unwrap().restarts.insert("pod-a".to_owned(), 1);
    sim.until(60, "the end", |sim| sim.launch().outcome == Some(Outcome::RolledBack));
}

#[test]
fn a_gate_that_is_added_to_the_running_stage_holds_it() {
    let mut sim = launched_to("one");
    sim.plan.tightens = Some("plan-1".to_owned());
    sim.plan.hash = "plan-2".to_owned();
    let check = GateCheck::Health(seconds(600));
    sim.plan.stages[0].gates.push(Gate { name: "healthy".to_owned(), check, on_fail: OnFail::Hold });
    sim.run(60);
    assert_eq!((sim.weight(), sim.launch().verdicts.len()), (5, 2));
    sim.until(700, "two", |sim| sim.launch().stage_name == "two");
}

#[test]
fn the_service_does_not_move_in_a_freeze_though_the_gateway_has_taken_everything() {
    let mut sim = launched_to("three");
    sim.until(200, "100%", |sim| sim.weight() == 100 && sim.seen.service.as_deref() == Some(OCHRE));
    sim.freeze(3600);
    sim.run(20);
    assert_eq!(sim.seen.service.as_deref(), Some(OCHRE));
    sim.thaw();
    sim.until(5, "moved", |sim| sim.seen.service.as_deref() == Some(TEAL));
}

#[test]
fn a_promotion_that_is_frozen_still_takes_the_traffic_from_a_canary_without_pods() {
    let mut sim = launched_to("three");
    sim.until(200, "promotion", |sim| sim.launch().phase == Phase::Promoting);
    sim.freeze(3600);
    sim.broken.push(TEAL);
    sim.run(3);
    assert_eq!(sim.weight(), 0, "nobody is sent to nothing");
}
