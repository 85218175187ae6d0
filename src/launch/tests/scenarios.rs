//! The life of a launch, told scene by scene. Each test asserts what a user sees: weight, stable, outcome, reason.

use super::*;

pub(super) fn launched_to(stage: &str) -> Sim {
    let mut sim = Sim::with_stable();
    sim.want(TEAL);
    sim.until(200, stage, |sim| {
        sim.state.launch.as_ref().is_some_and(|l| l.stage_name == stage && l.began_at.is_some())
    });
    sim
}

#[test]
fn a_first_deployment_becomes_stable_without_stages() {
    let mut sim = Sim::fresh();
    sim.until(10, "stable", |sim| sim.stable() == OCHRE);
    assert_eq!(sim.launch().outcome, Some(Outcome::Succeeded));
    assert_eq!(sim.seen.service.as_deref(), Some(OCHRE));
    assert_eq!(sim.weight(), 0);
}

#[test]
fn a_first_deployment_gives_the_gateway_a_moment_to_take_its_route_and_waits_no_longer() {
    let mut sim = Sim::fresh();
    sim.seen.route = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Silent("create it".into()) };
    sim.run(20);
    assert_eq!((sim.stable(), sim.seen.service.as_deref()), ("-", Some(OCHRE)));
    sim.until(30, "stable", |sim| sim.stable() == OCHRE);
}

#[test]
fn a_good_revision_climbs_every_stage_and_becomes_stable() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL);
    let mut weights = Vec::new();
    for _ in 0..100 {
        sim.tick();
        if weights.last() != Some(&sim.weight()) {
            weights.push(sim.weight());
        }
    }
    assert_eq!(weights, [0, 5, 25, 50, 100, 0]);
    assert_eq!(sim.stable(), TEAL);
    assert_eq!(sim.seen.service.as_deref(), Some(TEAL));
    assert_eq!(sim.seen.pods[TEAL].size, 4);
    assert_eq!(sim.seen.pods.get(OCHRE).map_or(0, |pods| pods.size), 0, "the former stable is scaled down in the end");
}

#[test]
fn each_stage_lasts_at_least_its_minimum_duration() {
    let mut sim = launched_to("one");
    let began = sim.launch().began_at.unwrap();
    sim.until(60, "two", |sim| sim.launch().stage_name == "two");
    assert!(sim.now >= after(began, seconds(10)));
}

#[test]
fn without_a_gateway_the_service_moves_when_the_canary_is_healthy() {
    let mut sim = Sim::with_stable();
    sim.seen.route = Route::NotUsed;
    sim.plan.stages = vec![stage("healthy", 0)];
    sim.plan.stages[0].gates[0].check = GateCheck::Health(seconds(3));
    sim.want(TEAL);
    sim.until(40, "stable", |sim| sim.stable() == TEAL);
    assert_eq!(sim.seen.service.as_deref(), Some(TEAL));
}

#[test]
fn the_weight_waits_for_pods_that_can_carry_it() {
    let mut sim = Sim::with_stable();
    sim.broken.push(TEAL);
    sim.want(TEAL);
    sim.run(60);
    assert_eq!(sim.weight(), 0);
    assert_eq!(sim.launch().message.as_deref(), Some("waiting for pods of teal: 0/1 ready"));
}

#[test]
fn the_next_weight_waits_until_the_gateway_has_taken_the_last() {
    let mut sim = launched_to("one");
    sim.seen.route = Route::Seen {
        shares: Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 5 },
        programmed: Programmed::Pending,
    };
    for _ in 0..60 {
        sim.now = after(sim.now, seconds(1));
        sim.sample();
        let step = sim.decide();
        sim.commit(&step);
    }
    assert_eq!(sim.launch().weight, 5);
    assert_eq!(sim.launch().message.as_deref(), Some("waiting for the gateway to take 5%"));
}

#[test]
fn no_data_and_errors_hold_until_the_deadline_and_then_roll_back() {
    for verdict in [Verdict::Insufficient, Verdict::Error] {
        let mut sim = launched_to("one");
        sim.plan.stages[0].deadline = seconds(300);
        sim.say("success", verdict).say("errors", verdict).say("bypass", verdict);
        sim.run(200);
        assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing), "{verdict:?} holds");
        sim.until(150, "rollback", |sim| sim.launch().outcome == Some(Outcome::RolledBack));
        assert_eq!(sim.launch().reason.as_deref(), Some("DeadlinePassed"));
        let told = sim.launch().message.clone().unwrap_or_default();
        assert!(told.contains("within 5m: success: success says"), "what held it is told: {told}");
    }
}

#[test]
fn a_sampler_that_never_answers_holds() {
    let mut sim = launched_to("one");
    sim.measuring = false;
    sim.seen.measured.clear();
    sim.run(300);
    assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing));
}

#[test]
fn data_from_before_the_stage_never_passes_a_gate() {
    let mut sim = launched_to("one");
    sim.measuring = false;
    let old = Measured { verdict: Verdict::Pass, message: "old".into(), sampled_at: sim.launch().began_at.unwrap() };
    sim.seen.measured.insert(CheckName::Gate(0, "success".into()), old);
    sim.run(100);
    assert_eq!(sim.launch().stage_name, "one");
}

#[test]
fn a_deadline_may_hold_for_a_person_instead() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(30);
    sim.plan.stages[0].then = DeadlineOutcome::Pause;
    sim.say("success", Verdict::Fail);
    sim.run(60);
    assert!(sim.launch().held);
    sim.say("success", Verdict::Pass);
    sim.run(60);
    assert_eq!(sim.weight(), 5, "a person must act");
    let mut conditions = Vec::new();
    super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    let stalled = conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "DeadlinePassed"));
}

#[test]
fn a_failing_gate_holds_unless_it_asks_for_a_rollback() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Fail);
    sim.run(100);
    assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing));
    sim.plan.stages[0].gates[0].on_fail = OnFail::Rollback;
    sim.run(3);
    assert_eq!(sim.weight(), 0);
    assert_eq!(sim.launch().reason.as_deref(), Some("GateFailed"));
}

#[test]
fn a_trigger_without_for_takes_the_canary_back_in_the_same_pass() {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail);
    let step = sim.tick();
    assert!(step.wanted.falling);
    assert_eq!(sim.weight(), 0);
    assert_eq!(step.wanted.decision.unwrap().message, "bypass: bypass says Fail");
}

#[test]
fn sustained_means_sustained() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Insufficient);
    for _ in 0..10 {
        sim.say("errors", Verdict::Fail).run(3);
        sim.say("errors", Verdict::Pass).run(1);
    }
    assert_eq!(sim.launch().outcome, None, "3 s of breach never make 4");
    sim.say("errors", Verdict::Fail).run(6);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
}

#[test]
fn gaps_in_the_data_are_not_breach_time_and_do_not_reset() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Insufficient);
    sim.say("errors", Verdict::Fail).run(3); // samples at 0, 1, 2: two seconds of breach
    sim.say("errors", Verdict::Error).run(60);
    assert_eq!(sim.launch().outcome, None);
    sim.say("errors", Verdict::Fail).run(2); // the gap counts nothing; one more second
    assert_eq!(sim.launch().outcome, None);
    sim.run(2);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
}

#[test]
fn triggers_fire_while_paused_and_while_promoting() {
    let mut sim = launched_to("one");
    sim.seen.paused = true;
    sim.run(5);
    sim.say("bypass", Verdict::Fail).run(1);
    assert_eq!(sim.weight(), 0);

    let mut sim = launched_to("three");
    sim.until(60, "100 %", |sim| sim.weight() == 100);
    sim.say("bypass", Verdict::Fail).run(1);
    assert_eq!(sim.weight(), 0);
    assert_eq!(sim.seen.service.as_deref(), Some(OCHRE));
}

#[test]
fn a_launch_whose_host_name_is_taken_holds_and_still_rolls_back() {
    let mut sim = launched_to("one");
    sim.seen.hostname_taken = Some("host name a.example is HTTPRoute b/x's".into());
    sim.run(200);
    assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing));
    assert_eq!(sim.launch().message.as_deref(), Some("held: host name a.example is HTTPRoute b/x's"));
    sim.say("bypass", Verdict::Fail).run(1);
    assert_eq!(sim.weight(), 0);
}

#[test]
fn a_pause_holds_the_weight_and_the_deadline() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(60);
    sim.seen.paused = true;
    sim.run(500);
    assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing));
    sim.seen.paused = false;
    sim.until(100, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_rise_that_has_not_landed_before_a_pause_lands_after_it() {
    let mut sim = launched_to("one");
    sim.until(60, "the decision to rise", |sim| sim.clone().decide().state.launch.unwrap().weight == 25);
    sim.sample();
    let step = sim.decide();
    sim.commit(&step); // the route's write is refused: gateways do not know the pods yet
    sim.seen.paused = true;
    sim.run(30);
    assert_eq!((sim.launch().weight, sim.weight()), (25, 5));
    sim.seen.paused = false;
    sim.until(5, "the rise", |sim| sim.weight() == 25);
}

#[test]
fn three_restarts_within_the_span_roll_back_and_slow_ones_do_not() {
    let mut slow = launched_to("one");
    slow.say("success", Verdict::Insufficient);
    for count in 1..=6 {
        slow.seen.pods.get_mut(TEAL).unwrap().restarts.insert("pod-a".into(), count);
        slow.run(31);
    }
    assert_eq!(slow.launch().outcome, None, "two a minute are below three");

    let mut quick = launched_to("one");
    for count in 1..=3 {
        quick.seen.pods.get_mut(TEAL).unwrap().restarts.insert("pod-a".into(), count);
        quick.tick();
    }
    assert_eq!(quick.launch().outcome, Some(Outcome::RolledBack));
    assert!(quick.launch().message.as_ref().unwrap().contains("3 restarts within 1m"));
}

#[test]
fn a_canary_that_never_becomes_ready_is_taken_back_without_ever_having_traffic() {
    let mut sim = Sim::with_stable();
    sim.broken.push(TEAL);
    sim.want(TEAL);
    for _ in 0..200 {
        sim.tick();
        assert_eq!(sim.weight(), 0);
    }
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
    assert_eq!(sim.launch().message.as_deref(), Some("unready: 0/1 pods ready for 2m"));
}

#[test]
fn a_rejected_revision_does_not_launch_again() {
    let mut sim = launched_to("one");
    sim.say("bypass", Verdict::Fail).run(1);
    sim.say("bypass", Verdict::Pass).run(300);
    assert_eq!(sim.launch().number, 1);
    assert_eq!((sim.weight(), sim.stable()), (0, OCHRE));
    sim.want(OCHRE).run(10);
    sim.want(TEAL).run(300);
    assert_eq!(sim.launch().number, 1, "finality is by revision hash, edits back and forth do not launder it");
    let mut conditions = Vec::new();
    super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    let stalled = conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert!(stalled.message.contains("teal will not launch again; revert Git"), "{}", stalled.message);
    let launched = conditions.iter().find(|c| c.type_ == "Launched").unwrap();
    assert!(launched.message.contains("bypass: bypass says Fail at "), "{}", launched.message);
}

#[test]
fn going_back_to_a_trusted_revision_passes_no_gates() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(200, "teal stable", |sim| sim.stable() == TEAL);
    sim.run(20);
    sim.say("success", Verdict::Error).want(OCHRE);
    sim.until(20, "ochre stable", |sim| sim.stable() == OCHRE);
}

#[test]
fn a_third_revision_supersedes_and_starts_at_the_first_stage() {
    let mut sim = launched_to("two");
    sim.want("mauve").tick();
    assert_eq!(sim.weight(), 0, "the superseded canary loses its traffic at once");
    sim.until(20, "a new launch", |sim| sim.launch().number == 2);
    assert_eq!((sim.launch().revision.as_str(), sim.launch().stage_name.as_str()), ("mauve", "one"));
    sim.want(TEAL).until(30, "teal again", |sim| sim.launch().number == 3);
    assert_eq!(sim.launch().revision, TEAL, "superseded is not rejected");
}

#[test]
fn editing_back_to_stable_aborts() {
    let mut sim = launched_to("two");
    sim.want(OCHRE).run(1);
    assert_eq!((sim.weight(), sim.launch().outcome), (0, Some(Outcome::Aborted)));
    sim.run(30);
    assert_eq!(sim.launch().number, 1);
}

#[test]
fn edits_close_together_are_one_launch() {
    let mut sim = Sim::with_stable();
    for revision in ["a", "b", "c", TEAL] {
        sim.want(revision).run(2);
    }
    sim.until(20, "a launch", |sim| sim.state.launch.is_some());
    assert_eq!((sim.launch().number, sim.launch().revision.as_str()), (1, TEAL));
}

#[test]
fn whoever_waits_for_an_edit_by_kstatus_waits_from_its_quiet_time_on() {
    let reconciling = |sim: &Sim| {
        let mut conditions = Vec::new();
        super::super::conditions(&mut conditions, &sim.state, &sim.seen, Some(2), sim.now);
        conditions.into_iter().find(|condition| condition.type_ == "Reconciling").map(|condition| condition.reason)
    };
    let mut sim = Sim::with_stable();
    sim.run(2);
    assert_eq!(reconciling(&sim), None);
    sim.want(TEAL).tick();
    assert_eq!(reconciling(&sim).as_deref(), Some("Pending"));
    sim.until(5, "a launch", |sim| sim.state.launch.is_some());
    assert_eq!(reconciling(&sim).as_deref(), Some("Progressing"));
    sim.until(200, "the end", |sim| sim.stable() == TEAL);
    sim.run(2);
    assert_eq!(reconciling(&sim), None);
}

#[test]
fn only_replicas_change_sizes_and_nothing_else() {
    let mut sim = launched_to("two");
    sim.seen.replicas = 8;
    sim.tick();
    assert_eq!(sim.launch().number, 1);
    assert_eq!((sim.seen.pods[OCHRE].size, sim.seen.pods[TEAL].size), (8, 2));
    sim.seen.replicas = 2;
    sim.tick();
    assert_eq!(sim.seen.pods[OCHRE].size, 4, "stable keeps what it had when the launch began");
}

#[test]
fn a_plan_edit_restarts_the_stage_without_raising_the_weight() {
    let mut sim = launched_to("two");
    sim.plan.hash = "plan-2".into();
    sim.plan.stages = vec![stage("careful", 10), stage("half", 50)];
    sim.tick();
    assert_eq!((sim.launch().stage_name.as_str(), sim.weight()), ("careful", 10));
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_dead_stable_is_raised_before_it_gets_everything() {
    let mut sim = launched_to("two");
    sim.broken.push(OCHRE);
    sim.run(2);
    sim.say("bypass", Verdict::Fail).run(30);
    assert_eq!(sim.weight(), 25, "never 100 % to a dead stable");
    assert_eq!(sim.launch().phase, Phase::RollingBack);
    sim.broken.clear();
    sim.until(5, "weight 0", |sim| sim.weight() == 0);
}

#[test]
fn a_failed_first_deployment_has_no_route_and_the_next_revision_replaces_it() {
    let mut sim = Sim::fresh();
    sim.broken.push(OCHRE);
    sim.run(200);
    assert_eq!(sim.launch().outcome, Some(Outcome::Failed));
    assert_eq!((sim.stable(), sim.seen.service.as_deref()), ("-", None));
    sim.want(TEAL).until(10, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_rollback_on_the_route_stands_when_the_status_write_was_lost() {
    let mut sim = launched_to("two");
    let before = sim.state.clone();
    sim.say("bypass", Verdict::Fail).tick();
    sim.state = before; // the leader died between the route's write and the status
    sim.say("bypass", Verdict::Pass);
    sim.seen.measured.clear();
    sim.run(5);
    assert_eq!((sim.weight(), sim.launch().outcome), (0, Some(Outcome::RolledBack)));
    assert!(sim.state.rejected.iter().any(|rejected| rejected.revision == TEAL));
}

#[test]
fn a_fall_on_the_route_stands_when_a_deposed_leader_tells_of_success_afterwards() {
    let mut sim = launched_to("three");
    sim.until(60, "teal stable", |sim| sim.stable() == TEAL);
    let fall = Decision {
        launch: sim.launch().id.clone(),
        revision: TEAL.to_owned(),
        outcome: Outcome::RolledBack,
        reason: "TriggerFired".to_owned(),
        message: "bypass: 1".to_owned(),
        at: sim.now,
    };
    sim.seen.decision = Some(fall); // the successor wrote it before the late status arrived
    sim.run(20);
    assert_eq!((sim.stable(), sim.weight(), sim.seen.service.as_deref()), (OCHRE, 0, Some(OCHRE)));
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
    assert!(sim.state.rejected.iter().any(|rejected| rejected.revision == TEAL));
    assert!(sim.state.trusted.iter().all(|trusted| trusted.revision != TEAL));
}

#[test]
fn a_rise_that_was_not_yet_written_is_not_written_when_the_launch_is_taken_back_beside_a_dead_stable() {
    let mut sim = launched_to("one");
    sim.until(60, "25 % decided", |sim| {
        let mut next = sim.clone();
        next.tick();
        next.launch().weight == 25
    });
    sim.now = after(sim.now, seconds(1));
    sim.sample();
    let step = sim.decide();
    sim.commit(&step); // the status says 25 %; the leader dies before the route does
    assert_eq!((sim.launch().weight, sim.weight()), (25, 5));
    sim.broken.push(OCHRE);
    sim.settle();
    sim.say("bypass", Verdict::Fail);
    for _ in 0..10 {
        sim.tick();
        assert_eq!(sim.weight(), 5, "a rejected revision never rises");
    }
    sim.broken.clear();
    sim.until(5, "weight 0", |sim| sim.weight() == 0);
}

#[test]
fn a_missing_config_map_holds_the_launch_and_triggers_still_act() {
    let mut sim = launched_to("one");
    sim.seen.wanted = WantedRevision::Unknown { reason: "ConfigMapMissing".into(), message: "create it".into() };
    sim.run(100);
    assert_eq!((sim.weight(), sim.launch().phase), (5, Phase::Progressing));
    sim.say("bypass", Verdict::Fail).run(1);
    assert_eq!(sim.weight(), 0);
}

#[test]
fn drift_in_the_route_is_undone_and_restarts_the_window() {
    let mut sim = launched_to("one");
    let began = sim.launch().began_at;
    sim.run(5);
    sim.seen.route = Route::Seen {
        shares: Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 90 },
        programmed: Programmed::Yes,
    };
    let step = sim.tick();
    assert!(step.wanted.falling);
    assert_eq!(sim.weight(), 5);
    sim.run(3);
    assert!(sim.launch().began_at > began);
}

#[test]
fn the_gateway_may_be_dead_and_the_rollback_still_ends() {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail);
    for _ in 0..150 {
        sim.tick();
        if let Route::Seen { programmed, .. } = &mut sim.seen.route {
            *programmed = Programmed::Pending;
        }
    }
    assert_eq!((sim.weight(), sim.launch().phase), (0, Phase::Complete));
}

#[test]
fn in_the_steady_state_nothing_changes_and_nothing_wakes() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(200, "stable", |sim| sim.stable() == TEAL);
    sim.run(60);
    let before = sim.state.clone();
    let step = sim.tick();
    assert_eq!((&step.state, step.wake_at, step.events.len()), (&before, None, 0));
}

#[test]
fn the_line_of_kubectl_get_tells_the_story() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Insufficient).run(12);
    let line = super::summary(&sim.state, &sim.seen);
    let told = [line.stable, line.canary, line.stage, line.weight, line.verdict, line.reason].join(" | ");
    assert_eq!(told, "ochre | teal | one 1/3 | 5% | Insufficient | success: success says Insufficient");
}

#[test]
fn a_canary_that_loses_all_its_pods_loses_its_traffic_until_it_has_some() {
    let mut sim = launched_to("two");
    sim.say("success", Verdict::Insufficient);
    sim.broken.push(TEAL);
    sim.run(2);
    assert_eq!((sim.weight(), sim.launch().phase), (0, Phase::Progressing));
    sim.broken.clear();
    sim.until(5, "25 % again", |sim| sim.weight() == 25);
    assert_eq!(sim.launch().number, 1);
}

#[test]
fn a_lost_status_is_found_again_from_what_serves() {
    let mut sim = launched_to("one");
    sim.say("bypass", Verdict::Fail).run(3);
    sim.say("bypass", Verdict::Pass);
    sim.state = State::default();
    sim.run(60);
    assert_eq!((sim.stable(), sim.weight()), (OCHRE, 0), "stable keeps serving");
    assert_eq!(sim.seen.service.as_deref(), Some(OCHRE));
    assert!(sim.state.launch.is_none(), "what was taken back stays so: its mark is on the route");
}

#[test]
fn restarts_before_the_launch_are_nobodys_fault() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).run(3);
    sim.seen.pods.insert(TEAL.into(), Pods { size: 1, restarts: [("old".to_owned(), 9)].into(), ..Pods::default() });
    sim.until(30, "traffic", |sim| sim.weight() == 5);
    assert_eq!((sim.launch().outcome, sim.launch().restarts.len()), (None, 1), "they are known, and not counted");
}

#[test]
fn deadlines_stand_still_while_there_are_no_pods() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(60);
    sim.seen.replicas = 0;
    sim.run(500);
    assert_eq!((sim.weight(), sim.launch().phase), (0, Phase::Progressing));
    sim.seen.replicas = 4;
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_rollback_is_read_back_before_it_is_told() {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail);
    let step = sim.tick();
    assert_eq!(step.state.launch.as_ref().map(|launch| launch.phase), Some(Phase::RollingBack));
    assert!(step.events.iter().all(|event| event.reason != "RolledBack"));
    sim.run(2);
    assert_eq!(sim.launch().phase, Phase::Complete);
    assert!(sim.events.iter().any(|event| event.reason == "RolledBack"));
}

#[test]
fn a_weight_that_nobody_asked_for_falls_even_when_no_launch_runs() {
    let mut sim = Sim::with_stable();
    sim.seen.route = Route::Seen {
        shares: Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 50 },
        programmed: Programmed::Yes,
    };
    let step = sim.tick();
    assert!(step.wanted.falling);
    assert_eq!(step.wanted.shares, Some(Shares::AtRest));
}

#[test]
fn pods_that_have_just_become_ready_get_no_traffic_before_gateways_can_know_them() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL);
    sim.until(20, "ready pods", |sim| sim.seen.pods.get(TEAL).is_some_and(|pods| pods.ready > 0));
    let ready = sim.now;
    sim.until(10, "traffic", |sim| sim.weight() > 0);
    assert!(sim.now >= after(ready, seconds(2)), "a request would have found nobody");
}
