//! Soak and drain, scene by scene: what fires after the promotion, who keeps its pods, and for how long.

use super::*;
use crate::launch::drain::no_runs;

/// Teal soaks for 100 s, and ochre was stable before.
pub(super) fn soaking() -> Sim {
    let mut sim = Sim::with_stable();
    sim.plan.soak = seconds(100);
    sim.want(TEAL);
    sim.until(200, "soaking", |sim| sim.state.launch.as_ref().is_some_and(|l| l.phase == Phase::Soaking));
    sim
}

fn size(sim: &Sim, revision: &str) -> i32 {
    sim.seen.pods.get(revision).map_or(0, |pods| pods.size)
}

pub(super) fn is_trusted(sim: &Sim, revision: &str) -> bool {
    sim.state.trusted.iter().any(|trusted| trusted.revision == revision)
}

fn is_rejected(sim: &Sim, revision: &str) -> bool {
    sim.state.rejected.iter().any(|rejected| rejected.revision == revision)
}

fn condition(sim: &Sim, type_: &str) -> String {
    let mut conditions = Vec::new();
    crate::launch::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    let found = conditions.iter().find(|c| c.type_ == type_);
    found.map_or_else(|| "absent".to_owned(), |c| format!("{} {} {}", c.status, c.reason, c.message))
}

#[test]
fn a_soaking_revision_is_launched_and_the_previous_one_keeps_its_full_size() {
    let mut sim = soaking();
    sim.run(30);
    assert_eq!((sim.stable(), sim.seen.service.as_deref(), sim.weight()), (TEAL, Some(TEAL), 0));
    assert_eq!((size(&sim, OCHRE), size(&sim, TEAL)), (4, 4));
    assert!(!is_trusted(&sim, TEAL), "trust is earned at the end");
    let until = format!("{:.0}", after(sim.launch().began_at.unwrap(), seconds(100)));
    let told = format!("teal is stable and soaks until {until}: triggers still return to ochre");
    assert_eq!(condition(&sim, "Launched"), format!("True Soaking {told}"));
    assert!(condition(&sim, "Progressing").starts_with("True Soaking refund-agent-1: soak at 100%, soaks until"));
    assert_eq!(condition(&sim, "Reconciling"), "absent");
    let line = crate::launch::summary(&sim.state, &sim.seen);
    assert_eq!([line.stable, line.canary, line.stage, line.weight], ["teal", "-", "soak", "-"]);
}

#[test]
fn after_the_soak_the_revision_is_trusted_and_the_previous_one_loses_its_pods() {
    let mut sim = soaking();
    let began = sim.launch().began_at.unwrap();
    sim.until(110, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert!(sim.now >= after(began, seconds(100)));
    assert_eq!((sim.launch().outcome, is_trusted(&sim, TEAL)), (Some(Outcome::Succeeded), true));
    assert_eq!((sim.stable(), size(&sim, OCHRE), size(&sim, TEAL)), (TEAL, 0, 4));
    assert_eq!(condition(&sim, "Launched"), "True Stable teal is stable");
}

#[test]
fn a_trigger_in_soak_returns_to_the_previous_revision_in_the_same_pass() {
    let mut sim = soaking();
    sim.say("success", Verdict::Error).run(50);
    let step = sim.say("bypass", Verdict::Fail).tick();
    assert!(step.wanted.falling);
    assert_eq!(
        step.wanted.service.as_deref(),
        Some(OCHRE),
        "the agent's Service returns with the very pass that sees it"
    );
    assert_eq!(step.wanted.shares, Some(Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 0 }));
    assert_eq!(step.wanted.decision.as_ref().map(|d| d.outcome), Some(Outcome::RolledBack));
    assert_eq!(sim.stable(), OCHRE);
    sim.say("bypass", Verdict::Pass).run(30);
    assert_eq!((sim.launch().phase, sim.launch().outcome), (Phase::Complete, Some(Outcome::RolledBack)));
    assert_eq!((sim.stable(), sim.seen.service.as_deref(), sim.weight()), (OCHRE, Some(OCHRE), 0));
    assert_eq!((size(&sim, OCHRE), size(&sim, TEAL)), (4, 0));
    assert!(is_rejected(&sim, TEAL) && !is_trusted(&sim, TEAL) && is_trusted(&sim, OCHRE));
}

#[test]
fn a_return_that_was_written_before_the_leader_died_stands() {
    let mut sim = soaking();
    let before = sim.state.clone();
    sim.say("bypass", Verdict::Fail).tick();
    sim.state = before; // the status write was lost
    sim.seen.measured.clear();
    sim.say("bypass", Verdict::Pass).run(5);
    assert_eq!((sim.stable(), sim.seen.service.as_deref()), (OCHRE, Some(OCHRE)));
    assert!(is_rejected(&sim, TEAL));
}

#[test]
fn without_a_gateway_a_trigger_in_soak_moves_the_service_back() {
    let mut sim = Sim::with_stable();
    sim.seen.route = Route::NotUsed;
    sim.plan.soak = seconds(100);
    sim.plan.stages = vec![stage("healthy", 0)];
    sim.want(TEAL).until(60, "soaking", |sim| sim.stable() == TEAL);
    sim.say("bypass", Verdict::Fail).tick();
    assert_eq!((sim.stable(), sim.seen.service.as_deref()), (OCHRE, Some(OCHRE)));
}

#[test]
fn a_previous_revision_without_ready_pods_is_raised_before_it_gets_everything() {
    for route in [Route::NotUsed, Route::Seen { shares: Shares::AtRest, programmed: Programmed::Yes }] {
        let mut sim = soaking();
        sim.seen.route = route;
        sim.broken.push(OCHRE);
        sim.run(2);
        sim.say("bypass", Verdict::Fail).run(20);
        assert_eq!(sim.seen.service.as_deref(), Some(TEAL), "nobody is sent to a dead revision");
        assert_eq!((sim.launch().phase, sim.stable()), (Phase::RollingBack, OCHRE));
        assert!(condition(&sim, "Stalled").starts_with("True StableNotReady"), "{}", condition(&sim, "Stalled"));
        sim.broken.clear();
        sim.until(5, "ochre again", |sim| sim.seen.service.as_deref() == Some(OCHRE));
        sim.until(5, "the end", |sim| sim.launch().phase == Phase::Complete);
    }
}

#[test]
fn a_pause_stops_neither_triggers_nor_the_clock_of_the_soak() {
    let mut sim = soaking();
    sim.seen.paused = true;
    let mut other = sim.clone();
    sim.until(110, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert!(is_trusted(&sim, TEAL));
    other.run(10);
    other.say("bypass", Verdict::Fail).run(3);
    assert_eq!(other.stable(), OCHRE);
}

#[test]
fn the_deadline_of_the_last_stage_does_not_end_a_soak() {
    let mut sim = soaking();
    for stage in &mut sim.plan.stages {
        stage.deadline = seconds(20);
    }
    sim.run(60);
    assert_eq!((sim.launch().phase, sim.stable()), (Phase::Soaking, TEAL));
}

#[test]
fn comparisons_with_a_revision_that_has_no_traffic_are_no_breach() {
    let compares = |sim: &mut Sim| {
        let TriggerCheck::Metric(question) = &mut sim.plan.triggers[1].check else { unreachable!() };
        question.compare = Compare::RatioToStable;
    };
    let mut sim = soaking();
    compares(&mut sim);
    sim.say("bypass", Verdict::Fail).run(50);
    assert_eq!((sim.stable(), sim.launch().phase), (TEAL, Phase::Soaking));
    let mut sim = Sim::with_stable();
    compares(&mut sim);
    sim.want(TEAL).until(30, "traffic", |sim| sim.weight() == 5);
    sim.say("bypass", Verdict::Fail).run(2);
    assert_eq!(sim.weight(), 0, "in a stage it is one");
}

#[test]
fn going_back_to_the_previous_revision_in_soak_is_done_at_once_and_rejects_nobody() {
    let mut sim = soaking();
    sim.say("success", Verdict::Error).want(OCHRE).tick();
    assert_eq!((sim.stable(), sim.seen.service.as_deref()), (OCHRE, Some(OCHRE)));
    sim.run(30);
    assert_eq!((sim.launch().number, sim.launch().outcome), (1, Some(Outcome::Aborted)));
    assert!(!is_rejected(&sim, TEAL) && !is_trusted(&sim, TEAL));
    assert_eq!(condition(&sim, "Launched"), "True Stable ochre is stable");
}

#[test]
fn a_third_revision_cuts_the_soak_short_and_launches_beside_the_one_that_soaked() {
    let mut sim = soaking();
    sim.run(20);
    sim.want("mauve").run(2);
    assert_eq!(sim.launch().phase, Phase::Soaking, "edits close together are one");
    sim.until(5, "a launch", |sim| sim.launch().number == 2);
    assert_eq!((sim.launch().stable.as_deref(), sim.stable()), (Some(TEAL), TEAL));
    assert!(!is_trusted(&sim, TEAL), "it did not soak");
    assert!(sim.events.iter().any(|e| e.message.contains("teal is stable, not trusted: mauve cut its soak short")));
    sim.run(20);
    assert_eq!((size(&sim, OCHRE), size(&sim, TEAL)), (0, 4));
    sim.say("bypass", Verdict::Fail).run(3);
    assert_eq!((sim.stable(), sim.weight()), (TEAL, 0), "the way back is to the one that soaked");
}

#[test]
fn what_cannot_be_launched_does_not_cut_a_soak_short() {
    let mut sim = soaking();
    sim.seen.wanted =
        WantedRevision::Refused { revision: "mauve".into(), reason: "TemplateInvalid".into(), message: "mend".into() };
    sim.run(20);
    assert_eq!(sim.launch().phase, Phase::Soaking);
    sim.want("mauve").seen.paused = true;
    sim.run(20);
    assert_eq!(sim.launch().phase, Phase::Soaking, "a paused agent launches nothing");
    sim.seen.paused = false;
    sim.until(10, "a launch", |sim| sim.launch().number == 2);
}

#[test]
fn a_first_deployment_soaks_for_its_triggers() {
    let mut sim = Sim::fresh();
    sim.plan.soak = seconds(100);
    sim.until(10, "soaking", |sim| sim.stable() == OCHRE);
    assert!(condition(&sim, "Launched").contains("triggers still take it out of the traffic"));
    let mut bad = sim.clone();
    sim.until(110, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert!(is_trusted(&sim, OCHRE));
    bad.say("bypass", Verdict::Fail).run(3);
    assert_eq!((bad.launch().outcome, bad.stable(), bad.seen.service.as_deref()), (Some(Outcome::Failed), "-", None));
    bad.say("bypass", Verdict::Pass).want(TEAL).until(10, "the next", |sim| sim.stable() == TEAL);
}

#[test]
fn a_trusted_revision_that_returns_does_not_soak_again() {
    let mut sim = soaking();
    sim.until(110, "the end", |sim| sim.launch().phase == Phase::Complete);
    sim.want(OCHRE).until(20, "ochre", |sim| sim.stable() == OCHRE);
    assert_eq!((sim.launch().number, sim.launch().phase), (2, Phase::Complete));
}

#[test]
fn a_plan_edit_begins_the_soak_anew() {
    let mut sim = soaking();
    sim.run(50);
    sim.plan.hash = "plan-2".into();
    sim.plan.soak = seconds(200);
    sim.run(190);
    assert_eq!(sim.launch().phase, Phase::Soaking);
    sim.until(20, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert!(is_trusted(&sim, TEAL));
}

#[test]
fn a_scaler_in_soak_is_followed_by_both_revisions_and_changes_nothing_else() {
    let mut sim = soaking();
    let began = sim.launch().began_at;
    sim.seen.replicas = 6;
    sim.run(3);
    assert_eq!((size(&sim, OCHRE), size(&sim, TEAL)), (6, 6));
    sim.seen.replicas = 2;
    sim.run(3);
    assert_eq!((size(&sim, OCHRE), size(&sim, TEAL)), (4, 2), "the way back stays open at the size it had");
    assert_eq!((sim.launch().number, sim.launch().began_at), (1, began));
}

#[test]
fn somebody_who_moves_the_service_in_soak_is_undone() {
    let mut sim = soaking();
    sim.seen.service = Some(OCHRE.into());
    let step = sim.tick();
    assert!(step.wanted.falling);
    assert_eq!((sim.seen.service.as_deref(), sim.launch().phase), (Some(TEAL), Phase::Soaking));
}

#[test]
fn a_soak_that_waits_wakes_at_its_end_only() {
    let mut sim = soaking();
    sim.run(5);
    let step = sim.tick();
    assert_eq!(step.wake_at, Some(after(sim.launch().began_at.unwrap(), seconds(100))));
    assert_eq!(step.events.len(), 0);
}

/// What the sampler says of the runs of a revision without traffic.
fn runs(sim: &mut Sim, revision: &str, verdict: Verdict) {
    let measured = Measured { verdict, message: "runs_in_flight 3 > 0".into(), sampled_at: sim.now };
    sim.seen.measured.insert(CheckName::Drained(revision.into()), measured);
}

/// Teal was promoted without a soak a moment ago; ochre has lost its traffic, and drains for 600 s at most.
fn draining() -> Sim {
    let mut sim = Sim::with_stable();
    sim.seen.drain = Some(seconds(600));
    sim.want(TEAL).until(200, "teal stable", |sim| sim.stable() == TEAL);
    sim
}

#[test]
fn a_revision_without_traffic_keeps_its_pods_until_its_runs_have_ended() {
    let mut sim = draining();
    for _ in 0..200 {
        runs(&mut sim, OCHRE, Verdict::Fail);
        sim.tick();
        assert_eq!(size(&sim, OCHRE), 4);
    }
    runs(&mut sim, OCHRE, Verdict::Pass);
    sim.run(2);
    assert_eq!(size(&sim, OCHRE), 0);
    assert!(sim.events.iter().any(|e| e.reason == "Drained" && e.message.contains("ochre: its runs have ended, 3m")));
}

#[test]
fn no_data_holds_until_the_drain_deadline() {
    for verdict in [None, Some(Verdict::Error), Some(Verdict::Insufficient), Some(Verdict::Fail)] {
        let mut sim = draining();
        let since = sim.state.retiring[0].since;
        for _ in 0..590 {
            if let Some(verdict) = verdict {
                runs(&mut sim, OCHRE, verdict);
            }
            sim.tick();
            assert_eq!(size(&sim, OCHRE), 4, "{verdict:?} at {:?}", sim.now.duration_since(since));
        }
        sim.run(15);
        assert_eq!(size(&sim, OCHRE), 0, "{verdict:?}");
        assert!(sim.events.iter().any(|e| e.reason == "DrainDeadline" && e.warning));
    }
}

#[test]
fn a_sample_from_before_the_traffic_was_gone_proves_nothing() {
    let mut sim = draining();
    runs(&mut sim, OCHRE, Verdict::Pass);
    sim.run(100);
    assert_eq!(size(&sim, OCHRE), 4);
    runs(&mut sim, OCHRE, Verdict::Pass);
    sim.run(2);
    assert_eq!(size(&sim, OCHRE), 0);
}

#[test]
fn even_without_runs_the_pods_stay_for_a_moment() {
    let mut sim = draining();
    for _ in 0..9 {
        runs(&mut sim, OCHRE, Verdict::Pass);
        sim.tick();
        assert_eq!(size(&sim, OCHRE), 4);
    }
    for _ in 0..4 {
        runs(&mut sim, OCHRE, Verdict::Pass);
        sim.tick();
    }
    assert_eq!(size(&sim, OCHRE), 0);
}

#[test]
fn a_canary_that_was_taken_back_drains_too_unless_it_never_had_traffic() {
    let mut sim = Sim::with_stable();
    sim.seen.drain = Some(seconds(600));
    sim.want(TEAL).until(60, "traffic", |sim| sim.weight() == 25);
    sim.say("bypass", Verdict::Fail).run(100);
    assert_eq!((sim.weight(), size(&sim, TEAL), sim.launch().phase), (0, 1, Phase::Complete));
    runs(&mut sim, TEAL, Verdict::Pass);
    sim.run(2);
    assert_eq!(size(&sim, TEAL), 0);

    let mut sim = Sim::with_stable();
    sim.seen.drain = Some(seconds(600));
    sim.broken.push(TEAL);
    sim.want(TEAL)
        .until(200, "rolled back", |sim| sim.state.launch.as_ref().is_some_and(|l| l.phase == Phase::Complete));
    sim.run(12);
    assert_eq!(size(&sim, TEAL), 0, "nobody runs on a revision that never had traffic");
}

#[test]
fn what_was_drained_during_the_soak_goes_with_its_end() {
    let mut sim = soaking();
    sim.seen.drain = Some(seconds(600));
    sim.until(110, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert_eq!(size(&sim, OCHRE), 4, "its runs are not known yet");
    runs(&mut sim, OCHRE, Verdict::Pass);
    sim.run(2);
    assert_eq!(size(&sim, OCHRE), 0);
}

#[test]
fn runs_that_had_longer_than_the_drain_deadline_in_the_soak_are_not_waited_for() {
    let mut sim = soaking();
    sim.seen.drain = Some(seconds(60));
    sim.until(110, "the end", |sim| sim.launch().phase == Phase::Complete);
    sim.run(2);
    assert_eq!(size(&sim, OCHRE), 0);
    assert!(sim.events.iter().all(|event| !event.warning), "{:?}", sim.events);
}

#[test]
fn a_soak_does_not_end_while_its_plan_cannot_be_known() {
    let mut sim = soaking();
    sim.seen.wanted = WantedRevision::Unknown { reason: "PlanInvalid".into(), message: "mend the plan".into() };
    sim.run(200);
    assert_eq!((sim.launch().phase, size(&sim, OCHRE)), (Phase::Soaking, 4));
    assert_eq!(
        sim.launch().message.as_deref(),
        Some("soaks until this is mended: mend the plan; triggers still return to ochre")
    );
    let mut bad = sim.clone();
    bad.say("bypass", Verdict::Fail).run(2);
    assert_eq!(bad.stable(), OCHRE);
    sim.want(TEAL).run(2);
    assert_eq!(sim.launch().phase, Phase::Complete);
}

#[test]
fn a_revision_that_is_wanted_again_while_it_drains_is_launched() {
    let mut sim = draining();
    sim.run(30);
    sim.want(OCHRE).until(30, "ochre again", |sim| sim.stable() == OCHRE);
    assert_eq!(sim.state.retiring.iter().map(|r| r.revision.as_str()).collect::<Vec<_>>(), [TEAL]);
    assert_eq!(size(&sim, OCHRE), 4);
}

/// Teal had 75 % when mauve superseded it, and its three pods may have runs.
pub(super) fn superseded_with_runs() -> Sim {
    let mut sim = Sim::with_stable();
    sim.seen.drain = Some(seconds(600));
    sim.plan.stages[2].weight = 75;
    sim.want(TEAL).until(100, "3 pods", |sim| sim.weight() == 75);
    sim.want("mauve").until(20, "mauve", |sim| sim.launch().revision == "mauve");
    assert_eq!(size(&sim, TEAL), 3);
    sim
}

#[test]
fn a_deadline_runs_while_pods_of_an_earlier_launch_hold_up_nothing() {
    let serves = superseded_with_runs();
    let mut without_pods = superseded_with_runs();
    without_pods.broken.push(TEAL);
    let mut by_pods = Sim::by_pods();
    by_pods.broken.push(TEAL);
    for (what, mut sim) in [("at 5 %", serves), ("without pods", without_pods), ("by pods", by_pods)] {
        sim.plan.stages[0].deadline = seconds(60);
        sim.plan.triggers.clear();
        sim.say("success", Verdict::Insufficient)
            .want(TEAL)
            .until(20, what, |sim| sim.state.launch.as_ref().is_some_and(|it| it.revision == TEAL));
        sim.run(70);
        assert_eq!(sim.launch().reason.as_deref(), Some("DeadlinePassed"), "{what}");
    }
}

#[test]
fn a_revision_that_never_had_traffic_waits_for_no_runs_and_for_none_of_others() {
    let mut sim = superseded_with_runs();
    for again in 1..=2 {
        sim.want("lime").until(20, "lime", |sim| sim.launch().revision == "lime");
        sim.want("mauve").until(20, "mauve", |sim| sim.launch().revision == "mauve");
        let lime: Vec<_> = sim.state.retiring.iter().filter(|it| it.revision == "lime").collect();
        assert!(lime.len() == 1 && lime[0].idle && between(lime[0].since, sim.now) < seconds(10), "{again}: {lime:?}");
    }
}

#[test]
fn a_revision_that_is_launched_again_while_it_drains_keeps_its_pods_and_serves_with_them() {
    let mut sim = superseded_with_runs();
    sim.want(TEAL);
    let mut served = false;
    for _ in 0..60 {
        runs(&mut sim, TEAL, Verdict::Fail);
        sim.tick();
        served |= sim.launch().revision == TEAL && sim.weight() == 5;
        assert!(size(&sim, TEAL) >= 3);
        sim.say("success", Verdict::Insufficient);
    }
    assert!(served, "it does not wait for them");
    runs(&mut sim, TEAL, Verdict::Pass);
    sim.run(20);
    assert_eq!((size(&sim, TEAL), sim.weight()), (3, 5), "all of them serve now");
    sim.say("success", Verdict::Pass).until(200, "stable", |sim| sim.stable() == TEAL);
    assert!(sim.state.retiring.iter().all(|it| it.revision != TEAL), "{:?}", sim.state.retiring);
}

#[test]
fn a_revision_that_is_launched_again_without_a_share_loses_the_pods_whose_runs_have_ended() {
    let mut sim = superseded_with_runs();
    sim.want(TEAL).until(20, "teal again", |sim| sim.launch().revision == TEAL);
    sim.seen.paused = true;
    for _ in 0..60 {
        runs(&mut sim, TEAL, Verdict::Fail);
        sim.tick();
        assert_eq!((size(&sim, TEAL), sim.weight()), (3, 0));
    }
    runs(&mut sim, TEAL, Verdict::Pass);
    sim.run(2);
    assert_eq!(size(&sim, TEAL), 1, "what its first stage needs");
}

#[test]
fn a_canary_that_serves_again_keeps_the_pods_of_its_earlier_runs_past_their_deadline() {
    let mut sim = superseded_with_runs();
    let since = sim.state.retiring.iter().find(|it| it.revision == TEAL).unwrap().since;
    sim.say("success", Verdict::Insufficient).want(TEAL).until(60, "5 %", |sim| sim.weight() == 5);
    for _ in 0..700 {
        runs(&mut sim, TEAL, Verdict::Fail);
        sim.tick();
        assert_eq!(size(&sim, TEAL), 3);
    }
    sim.want(OCHRE).until(60, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert!(sim.events.iter().all(|event| event.reason != "DrainDeadline"), "{:?}", sim.events);
    let retiring: Vec<_> = sim.state.retiring.iter().filter(|it| it.revision == TEAL).collect();
    assert!(retiring.len() == 1 && retiring[0].since > after(since, seconds(700)) && !retiring[0].idle, "{retiring:?}");
}

#[test]
fn a_revision_that_is_launched_again_and_taken_back_before_any_traffic_still_waits_for_its_runs() {
    let mut sim = superseded_with_runs();
    let since = sim.state.retiring.iter().find(|it| it.revision == TEAL).unwrap().since;
    sim.want(TEAL).until(20, "teal", |sim| sim.launch().revision == TEAL);
    sim.want(OCHRE);
    for _ in 0..60 {
        runs(&mut sim, TEAL, Verdict::Fail);
        sim.tick();
        assert_eq!(size(&sim, TEAL), 3);
    }
    assert_eq!((sim.launch().phase, sim.launch().outcome), (Phase::Complete, Some(Outcome::Aborted)));
    let waits: Vec<_> = sim.state.retiring.iter().map(|it| (it.revision.as_str(), it.since, it.idle)).collect();
    assert_eq!(waits, [(TEAL, since, false)]);
}

#[test]
fn an_agent_that_launches_all_day_with_a_long_drain_stays_within_its_status() {
    let mut sim = draining();
    sim.seen.drain = Some(seconds(90_000));
    sim.plan.stages.truncate(1);
    for n in 0..40 {
        let name = format!("r{n}");
        sim.want(&name).until(60, "stable", |sim| sim.stable() == name);
    }
    assert_eq!(sim.state.retiring.len(), 32);
}

#[test]
fn a_quota_that_cannot_hold_both_revisions_is_told_with_its_mend_and_touches_nothing() {
    let mut sim = Sim::with_stable();
    sim.plan.triggers.clear();
    sim.plan.stages[0].deadline = seconds(60);
    sim.broken.push(TEAL);
    sim.want(TEAL).run(10);
    let quota =
        r#"pods "teal-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4"#;
    sim.seen.pods.get_mut(TEAL).unwrap().refused = Some(quota.to_owned());
    sim.run(5);
    let stalled = condition(&sim, "Stalled");
    assert!(stalled.starts_with("True QuotaExceeded Kubernetes refuses pods of teal (0/1 ready): pods"), "{stalled}");
    assert!(stalled.ends_with("raise the quota, or lower spec.replicas"), "{stalled}");
    assert_eq!((sim.weight(), size(&sim, OCHRE), sim.launch().phase), (0, 4, Phase::Progressing));
    assert!(condition(&sim, "Ready").starts_with("True Serving 4/4"));
    let mut mended = sim.clone();
    sim.run(60);
    assert_eq!((sim.launch().reason.as_deref(), size(&sim, OCHRE)), (Some("DeadlinePassed"), 4), "the deadline runs");
    mended.broken.clear();
    mended.until(10, "traffic", |sim| sim.weight() == 5);
    assert!(!condition(&mended, "Stalled").starts_with("True"), "an old refusal is over when the pods are there");
    sim.seen.pods.get_mut(OCHRE).unwrap().refused = Some("denied by policy".into());
    sim.broken.push(OCHRE);
    sim.run(2);
    assert!(condition(&sim, "Stalled").starts_with("True PodsRefused"), "{}", condition(&sim, "Stalled"));
}

#[test]
fn a_quota_that_holds_the_first_pods_but_not_both_revisions_is_told_before_anything_moves() {
    let mut sim = Sim::with_stable();
    sim.plan.triggers.clear();
    sim.plan.stages[0].deadline = seconds(60);
    sim.want(TEAL).run(5);
    assert_eq!(to_come(&sim.state, &sim.seen), Some((TEAL, 3)), "one of four is there");
    sim.seen.no_room = Some("quota small allows pods 6, of which 5 is used, and 3 more pods need 3".to_owned());
    sim.run(10);
    let stalled = condition(&sim, "Stalled");
    let told = "quota small allows pods 6, of which 5 is used, and 3 more pods need 3: a launch runs both revisions beside each other";
    assert!(stalled.starts_with(&format!("True QuotaExceeded {told}")), "{stalled}");
    assert!(stalled.ends_with("raise the quota, or lower spec.replicas"), "{stalled}");
    assert_eq!(sim.launch().message, Some(format!("held: {told}: raise the quota, or lower spec.replicas")));
    assert_eq!((sim.weight(), sim.launch().served, size(&sim, OCHRE)), (0, false, 4));
    let wakes = sim.tick().wake_at;
    assert!(wakes.is_some_and(|at| at <= after(sim.now, seconds(10))), "nobody tells when a quota is raised");
    let mut raised = sim.clone();
    sim.run(60);
    assert_eq!(sim.launch().reason.as_deref(), Some("DeadlinePassed"), "the deadline runs");
    raised.seen.no_room = None;
    raised.until(10, "traffic", |sim| sim.weight() == 5);
    assert!(!condition(&raised, "Stalled").starts_with("True"), "{}", condition(&raised, "Stalled"));
    raised.seen.no_room = Some("somebody else took it".to_owned());
    assert_eq!(to_come(&raised.state, &raised.seen), None, "what serves is not asked again");
    raised.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_small_share_has_as_many_pods_as_the_plan_wants_at_least() {
    let mut sim = Sim::with_stable();
    sim.plan.canary_pods = 3;
    sim.broken.push(TEAL);
    sim.want(TEAL).run(10);
    assert_eq!((size(&sim, TEAL), sim.weight()), (3, 0));
    assert_eq!(sim.launch().message.as_deref(), Some("waiting for pods of teal: 0/3 ready"));
    sim.broken.clear();
    sim.until(5, "traffic", |sim| sim.weight() == 5);
    sim.seen.replicas = 2;
    sim.run(2);
    assert_eq!(size(&sim, TEAL), 2, "never more than all the traffic needs");
}

#[test]
fn a_single_pod_is_launched_beside_a_single_pod() {
    let mut sim = Sim::with_stable();
    sim.seen.replicas = 1;
    sim.run(2);
    sim.want(TEAL).until(30, "5 %", |sim| sim.weight() == 5);
    assert_eq!((size(&sim, OCHRE), size(&sim, TEAL)), (1, 1));
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_scaler_in_a_stage_is_followed_and_restarts_no_clock() {
    let mut sim = Sim::with_stable();
    sim.plan.stages[1].min_duration = seconds(60);
    sim.want(TEAL).until(60, "25 %", |sim| sim.launch_began("two"));
    let before = sim.launch().clone();
    for replicas in [8, 3, 0, 1, 6] {
        sim.seen.replicas = replicas;
        sim.run(2);
        assert_eq!(size(&sim, OCHRE), replicas.max(4), "stable holds what it had until the launch ends");
    }
    let now = sim.launch();
    assert_eq!((now.number, now.entered_at, &now.stage_name), (1, before.entered_at, &before.stage_name));
    sim.until(300, "stable", |sim| sim.stable() == TEAL);
    assert_eq!((sim.launch().number, size(&sim, TEAL)), (1, 6));
}

#[test]
fn pods_that_a_scaler_adds_fail_no_health_gate() {
    let mut sim = Sim::with_stable();
    let health = Gate { name: "healthy".into(), check: GateCheck::Health(seconds(5)), on_fail: OnFail::Rollback };
    sim.plan.stages[1].gates = vec![health];
    sim.plan.stages[1].min_duration = seconds(60);
    sim.want(TEAL).until(60, "25 %", |sim| sim.launch_began("two"));
    let mut lost = sim.clone();
    sim.seen.replicas = 8; // two pods of the canary instead of one, which is not there yet
    let step = sim.decide();
    assert_eq!(step.state.launch.as_ref().map(|launch| launch.phase), Some(Phase::Progressing));
    sim.commit(&step);
    sim.perform(&step.wanted);
    sim.run(3);
    assert_eq!((sim.launch().phase, sim.weight(), size(&sim, TEAL)), (Phase::Progressing, 25, 2));
    let pods = lost.seen.pods.get_mut(TEAL).unwrap();
    (pods.ready, pods.failing, pods.all_ready_since) = (0, 1, None);
    lost.broken.push(TEAL);
    lost.run(2);
    assert_eq!(lost.launch().reason.as_deref(), Some("GateFailed"), "a pod that was ready and is not any more is one");
}

#[test]
fn runs_are_summed_over_the_pods_whatever_the_gauge_says() {
    let mut metric = standard_metrics().into_iter().find(|metric| metric.name == "runs_in_flight").unwrap();
    metric.gauge.as_mut().unwrap().across = crate::api::Across::Max;
    let question = no_runs(metric);
    assert_eq!(question.metric.gauge.unwrap().across, crate::api::Across::Sum);
    assert_eq!(question.bounds.high, Some(rust_decimal::Decimal::ZERO));
}

#[test]
fn a_plan_that_is_gone_ends_no_soak() {
    let mut sim = soaking();
    sim.seen.wanted =
        WantedRevision::Refused { revision: TEAL.into(), reason: "PlanMissing".into(), message: "create it".into() };
    sim.run(200);
    assert_eq!(sim.launch().phase, Phase::Soaking, "an end would rest on another plan");
    sim.say("bypass", Verdict::Fail).run(3);
    assert_eq!(sim.stable(), OCHRE, "triggers go on");
}

#[test]
fn an_abort_in_soak_returns_to_the_previous_revision() {
    let mut sim = soaking();
    sim.decides("stop", crate::api::DecisionVerb::Abort).run(3);
    assert_eq!((sim.stable(), sim.seen.service.as_deref()), (OCHRE, Some(OCHRE)));
    assert!(is_rejected(&sim, TEAL));
}

#[test]
fn a_revision_that_waits_for_a_freeze_cuts_no_soak_short() {
    let mut sim = soaking();
    let until = after(sim.now, seconds(50));
    let open = Some(Frozen { window: "peak-week".to_owned(), until });
    sim.seen.freeze = Freeze { open, changes_at: Some(until) };
    sim.want("mauve").run(10);
    assert_eq!((sim.launch().phase, sim.launch().number), (Phase::Soaking, 1));
    sim.seen.freeze = Freeze::default();
    sim.until(6, "a launch", |sim| sim.launch().number == 2);
}
