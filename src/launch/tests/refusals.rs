//! Each promise refuses what breaks it and nothing else, at its edges: what is right is damaged by hand, a little.

use super::promises::{at_5_percent, broken, launch};
use super::scenarios::launched_to;
use super::*;
use crate::api::{DecisionVerb, Intervention, Pause, RejectedRevision, RetiringRevision};
use crate::launch::promises::{Decided, Rise, of_a_rise, raises, share_of};

fn split(stable: &str, canary: &str, weight: i32) -> Shares {
    Shares::Split { stable: stable.to_owned(), canary: canary.to_owned(), weight }
}

fn matched(stable: &str, canary: &str, weight: i32) -> Shares {
    Shares::Matched { stable: stable.to_owned(), canary: canary.to_owned(), weight, only: Vec::new() }
}

fn route(shares: Shares) -> Route {
    Route::Seen { shares, programmed: Programmed::Yes }
}

/// The next pass would leave stage one for the next.
fn about_to_leave() -> Sim {
    let mut sim = at_5_percent();
    sim.until(60, "its end", |sim| sim.clone().tick().state.launch.unwrap().stage == 1);
    sim
}

/// The next pass begins a launch.
fn about_to_begin(sim: Sim) -> Sim {
    let mut sim = sim;
    sim.want(TEAL).until(10, "its beginning", |sim| sim.clone().tick().state.launch.is_some());
    sim
}

/// It leaves its stage, whatever the core says.
fn leave(step: &mut Step) {
    launch(step).stage = 1;
}

fn raises_share(sim: &Sim, damage: impl Fn(&mut Step)) -> bool {
    let mut sim = sim.clone();
    sim.now = after(sim.now, seconds(1));
    sim.sample();
    let mut step = sim.decide();
    damage(&mut step);
    raises(&Decided { plan: &sim.plan, before: &sim.state, seen: &sim.seen, now: sim.now, step: &step })
}

#[test]
fn the_share_of_a_revision_is_what_the_api_server_gives_it() {
    for (revision, route, service, share) in [
        (TEAL, route(split(OCHRE, TEAL, 25)), OCHRE, 25),
        (OCHRE, route(split(OCHRE, TEAL, 25)), OCHRE, 75),
        ("mauve", route(split(OCHRE, TEAL, 25)), "mauve", 0),
        (TEAL, route(matched(OCHRE, TEAL, 25)), OCHRE, 25),
        (OCHRE, route(matched(OCHRE, TEAL, 25)), OCHRE, 100),
        ("mauve", route(matched(OCHRE, TEAL, 25)), "mauve", 0),
        (TEAL, route(Shares::Foreign("x".into())), TEAL, 0),
        (TEAL, route(Shares::AtRest), TEAL, 100),
        (TEAL, route(Shares::AtRest), OCHRE, 0),
        (TEAL, Route::NotUsed, TEAL, 100),
        (OCHRE, Route::Missing, TEAL, 0),
    ] {
        assert_eq!(share_of(revision, &route, Some(service)), share, "{revision} {route:?} {service}");
    }
    assert_eq!(share_of(TEAL, &Route::NotUsed, None), 0);
}

#[test]
fn only_what_goes_forward_may_be_refused() {
    let sim = at_5_percent();
    assert!(!raises_share(&sim, |_| {}), "it waits");
    assert!(raises_share(&about_to_leave(), |_| {}), "a stage is left");
    assert!(raises_share(&sim, |step| launch(step).weight = 6), "a weight rises in the status");
    assert!(raises_share(&sim, |step| launch(step).phase = Phase::Promoting), "a promotion begins");
    assert!(raises_share(&sim, |step| step.wanted.shares = Some(split(OCHRE, TEAL, 6))), "a weight rises on the route");
    assert!(!raises_share(&sim, |step| step.wanted.shares = Some(split(OCHRE, TEAL, 5))));
    assert!(raises_share(&sim, |step| step.wanted.shares = Some(split(TEAL, OCHRE, 5))), "teal would have 95 %");
    assert!(raises_share(&sim, |step| step.wanted.shares = Some(matched(OCHRE, TEAL, 6))));
    assert!(
        raises_share(&sim, |step| step.wanted.shares = Some(matched(TEAL, OCHRE, 0))),
        "teal would have all others"
    );
    assert!(!raises_share(&sim, |step| step.wanted.shares = Some(Shares::Foreign("x".into()))));
    assert!(raises_share(&sim, |step| step.wanted.shares = Some(split(TEAL, OCHRE, 60))), "teal would have 40 %");
    assert!(!raises_share(&sim, |step| step.wanted.shares = Some(split(TEAL, OCHRE, 96))), "teal would have 4 %");
    assert!(!raises_share(&sim, |step| step.wanted.shares = Some(split(OCHRE, "mauve", 50))), "mauve's is no launch");
    assert!(!raises_share(&sim, |step| step.wanted.shares = Some(matched(OCHRE, "mauve", 50))));
    let moves = |step: &mut Step| (step.wanted.shares, step.wanted.service) = (None, Some(TEAL.to_owned()));
    assert!(raises_share(&sim, moves), "the Service moves");
    assert!(raises_share(&about_to_begin(Sim::with_stable()), |_| {}), "a launch begins");
    assert!(!raises_share(&sim, |step| launch(step).phase = Phase::Complete));
    let mut back = sim.clone();
    back.say("bypass", Verdict::Fail);
    assert!(!raises_share(&back, |_| {}), "a rollback is never refused");
}

#[test]
fn a_share_is_bounded_by_its_stage_and_by_the_status_for_the_canary_alone() {
    let sim = at_5_percent();
    assert_eq!(broken(&sim, |step| step.wanted.shares = Some(split(OCHRE, TEAL, 5))), "kept");
    assert_eq!(broken(&sim, |step| step.wanted.shares = Some(split(OCHRE, TEAL, 6))), "WeightBound");
    assert_eq!(broken(&sim, |step| step.wanted.shares = Some(split(OCHRE, "mauve", 1))), "WeightBound");
    assert_eq!(broken(&sim, |step| step.wanted.shares = Some(matched(OCHRE, TEAL, 6))), "WeightBound");
    let mut back = sim.clone();
    back.say("bypass", Verdict::Fail);
    assert_eq!(broken(&back, |_| {}), "kept");
    assert_eq!(broken(&back, |step| launch(step).weight = 5), "kept", "stable may be dead");
    assert_eq!(broken(&back, |step| launch(step).weight = 6), "WeightBound");
}

#[test]
fn a_launch_begins_with_nothing_in_its_first_stage_unless_it_is_trusted_or_the_first() {
    let new = about_to_begin(Sim::with_stable());
    assert_eq!(broken(&new, |_| {}), "kept");
    assert_eq!(broken(&new, |step| launch(step).weight = 5), "NoPromotionWithoutProof");
    assert_eq!(broken(&new, |step| launch(step).stage = 1), "NoPromotionWithoutProof");
    assert_eq!(broken(&new, |step| launch(step).phase = Phase::Promoting), "NoPromotionWithoutProof");
    assert_eq!(
        broken(&new, |step| launch(step).trusted = true),
        "NoPromotionWithoutProof",
        "it would pass its gates by"
    );

    let mut known = Sim::with_stable();
    known.state.trusted.push(TrustedRevision { revision: TEAL.to_owned(), since: known.now });
    let known = about_to_begin(known);
    assert_eq!(broken(&known, |_| {}), "kept");
    assert_eq!(broken(&known, |step| launch(step).phase = Phase::Progressing), "NoPromotionWithoutProof");

    let mut first = Sim::fresh();
    assert_eq!(broken(&first, |_| {}), "kept");
    assert_eq!(broken(&first, |step| launch(step).phase = Phase::Progressing), "NoPromotionWithoutProof");
    first.tick();
    assert_eq!(broken(&first, |_| {}), "kept");
}

#[test]
fn a_stage_is_not_left_while_nothing_may_go_forward() {
    let sim = about_to_leave();
    assert_eq!(broken(&sim, |_| {}), "kept");
    let mut held = [sim.clone(), sim.clone(), sim.clone(), sim.clone(), sim.clone()];
    held[0].seen.paused = true;
    held[1].seen.replicas = 0;
    let until = after(sim.now, seconds(60));
    held[2].seen.freeze.open = Some(Frozen { window: "peak-week".to_owned(), until });
    held[3].state.pause = Some(Pause { by: "jane".to_owned(), reason: "looks".to_owned(), since: sim.now });
    held[4].state.launch.as_mut().unwrap().began_at = None;
    for sim in &held {
        assert_eq!(broken(sim, leave), "NoPromotionWithoutProof");
        let promote = |step: &mut Step| launch(step).phase = Phase::Promoting;
        assert_eq!(broken(sim, promote), "NoPromotionWithoutProof");
    }
    let leave_held = |step: &mut Step| (launch(step).stage, launch(step).held) = (1, true);
    assert_eq!(broken(&sim, leave_held), "NoPromotionWithoutProof");
    let mut trusted = held[2].clone();
    trusted.state.launch.as_mut().unwrap().trusted = true;
    assert_eq!(broken(&trusted, |_| {}), "kept", "what is trusted is never frozen");
    let mut edited = held[0].clone();
    edited.plan.hash = "edited".to_owned();
    assert_eq!(broken(&edited, leave), "kept", "an edit counts its stages anew");
    let mut cut = sim.clone();
    cut.plan.stages.clear();
    let promote = |step: &mut Step| launch(step).phase = Phase::Promoting;
    assert_eq!(broken(&cut, promote), "NoPromotionWithoutProof", "its stage is not in the plan");
}

#[test]
fn a_gate_passes_on_data_of_its_own_window_or_by_a_person_who_names_it() {
    let sim = about_to_leave();
    let began = sim.launch().began_at.unwrap();
    let said = |verdict, age: u64| {
        let mut sim = sim.clone();
        sim.measuring = false;
        let sampled_at = after(began, seconds(age));
        let measured = Measured { verdict, message: String::new(), sampled_at };
        sim.seen.measured.insert(CheckName::Gate(0, "success".to_owned()), measured);
        broken(&sim, leave)
    };
    assert_eq!(said(Verdict::Pass, 5), "kept");
    assert_eq!(said(Verdict::Pass, 4), "NoPromotionWithoutProof", "the window is not whole");
    assert_eq!(said(Verdict::NotApplicable, 5), "kept");
    assert_eq!(said(Verdict::Error, 5), "NoPromotionWithoutProof");
    let mut blind = sim.clone();
    blind.measuring = false;
    blind.seen.measured.clear();
    assert_eq!(broken(&blind, leave), "NoPromotionWithoutProof");
    let mut no_window = sim.clone();
    let GateCheck::Metric(question) = &mut no_window.plan.stages[0].gates[0].check else { unreachable!() };
    question.window = None;
    no_window.state.launch.as_mut().unwrap().began_at = Some(after(no_window.now, seconds(1)));
    assert_eq!(broken(&no_window, leave), "NoPromotionWithoutProof", "a sample of the instant at which it began");

    let named = |verb, stage: &str, gate: &str| {
        let mut sim = sim.clone();
        sim.say("success", Verdict::Fail);
        let it = Intervention {
            verb,
            stage: stage.to_owned(),
            plan_hash: sim.plan.hash.clone(),
            holds_under: None,
            gate: Some(gate.to_owned()),
            by: "jane".to_owned(),
            reason: "it is known".to_owned(),
            at: sim.now,
        };
        sim.state.launch.as_mut().unwrap().interventions.push(it);
        broken(&sim, leave)
    };
    assert_eq!(named(DecisionVerb::Override, "one", "success"), "kept");
    assert_eq!(named(DecisionVerb::Promote, "one", "success"), "NoPromotionWithoutProof");
    assert_eq!(named(DecisionVerb::Override, "two", "success"), "NoPromotionWithoutProof");
    assert_eq!(named(DecisionVerb::Override, "one", "latency"), "NoPromotionWithoutProof");
}

#[test]
fn a_health_gate_passes_when_pods_were_ready_for_as_long_as_it_asks() {
    let mut sim = about_to_leave();
    let began = sim.launch().began_at.unwrap();
    let lasted = between(began, after(sim.now, seconds(1)));
    for (lasting, ready, kept) in [
        (lasted, 1, "kept"),
        (lasted + seconds(1), 1, "NoPromotionWithoutProof"),
        (lasted, 0, "NoPromotionWithoutProof"),
    ] {
        sim.plan.stages[0].gates[0].check = GateCheck::Health(lasting);
        sim.seen.pods.get_mut(TEAL).unwrap().ready = ready;
        assert_eq!(broken(&sim, leave), kept, "{lasting:?} on {ready}");
    }
}

#[test]
fn whatever_fires_at_once_ends_the_launch() {
    let sim = at_5_percent();
    let go_on = |sim: &Sim| {
        let before = sim.state.launch.clone();
        broken(sim, move |step| step.state.launch.clone_from(&before))
    };
    assert_eq!(go_on(&sim), "kept");
    for (condition, edit) in [
        (PodCondition::CrashLoop, (|pods| pods.crash_loop = Some("agent".to_owned())) as fn(&mut Pods)),
        (PodCondition::ImagePull, |pods| pods.image_pull = Some("agent".to_owned())),
    ] {
        let mut sim = sim.clone();
        sim.plan.triggers.push(trigger("pods", TriggerCheck::Condition(condition), 0));
        assert_eq!(go_on(&sim), "kept");
        edit(sim.seen.pods.get_mut(TEAL).unwrap());
        assert_eq!(go_on(&sim), "RollbackWins");
        sim.plan.triggers.last_mut().unwrap().lasting = seconds(60);
        assert_eq!(go_on(&sim), "kept", "it has to last");
    }
    let mut old = sim.clone();
    old.measuring = false;
    let name = CheckName::Trigger("bypass".to_owned());
    let measured = Measured { verdict: Verdict::Fail, message: String::new(), sampled_at: old.launch().started_at };
    old.seen.measured.insert(name.clone(), measured);
    assert_eq!(go_on(&old), "kept", "a sample of before the launch");
    old.seen.measured.get_mut(&name).unwrap().sampled_at = old.now;
    assert_eq!(go_on(&old), "RollbackWins");

    let fall = |launch: &str, revision: &str| Decision {
        launch: launch.to_owned(),
        revision: revision.to_owned(),
        outcome: Outcome::RolledBack,
        reason: "TriggerFired".to_owned(),
        message: String::new(),
        at: sim.now,
    };
    for (launch, revision, kept) in [
        ("refund-agent-1", TEAL, "RollbackWins"),
        ("refund-agent-0", TEAL, "kept"),
        ("refund-agent-1", "mauve", "kept"),
    ] {
        let mut sim = sim.clone();
        sim.seen.decision = Some(fall(launch, revision));
        assert_eq!(go_on(&sim), kept, "{launch} {revision}");
    }
}

#[test]
fn what_is_taken_back_stays_so_and_only_a_person_may_make_its_end_worse() {
    let mut sim = launched_to("two");
    sim.want("mauve").tick();
    assert_eq!((sim.launch().phase, sim.launch().outcome), (Phase::RollingBack, Some(Outcome::Superseded)));
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, |step| launch(step).outcome = Some(Outcome::RolledBack)), "kept", "it was aborted");
    assert_eq!(broken(&sim, |step| launch(step).outcome = Some(Outcome::Succeeded)), "RollbackIsFinal");
    assert_eq!(broken(&sim, |step| launch(step).phase = Phase::Soaking), "RollbackIsFinal");
    let mut waits = sim.clone();
    waits.state.launch.as_mut().unwrap().weight = 5;
    let still =
        |weight| move |step: &mut Step| (launch(step).phase, launch(step).weight) = (Phase::RollingBack, weight);
    assert_eq!(broken(&waits, still(5)), "kept");
    assert_ne!(broken(&waits, still(6)), "kept");
}

#[test]
fn a_share_has_its_pods_before_it_has_its_traffic() {
    let mut sim = at_5_percent();
    sim.until(60, "25 % is next", |sim| sim.launch().stage == 1 && sim.launch().weight == 5);
    sim.seen.replicas = 12;
    let raise = |step: &mut Step| launch(step).weight = 25;
    for (ready, kept) in [(2, "CapacityBeforeWeight"), (3, "kept")] {
        *sim.seen.pods.get_mut(TEAL).unwrap() = ready_pods(ready, sim.now);
        assert_eq!(broken(&sim, raise), kept, "{ready} of 3");
    }
}

#[test]
fn pods_stay_as_long_as_they_have_traffic() {
    let sim = at_5_percent();
    let bare = |revision: &'static str| {
        move |step: &mut Step| {
            step.wanted.sizes.insert(revision.to_owned(), 0);
        }
    };
    assert_eq!(broken(&sim, bare(TEAL)), "WeightBeforeScaleDown");
    assert_eq!(broken(&sim, bare(OCHRE)), "WeightBeforeScaleDown");
    assert_eq!(broken(&sim, bare("mauve")), "kept", "it is none of the launch's");
    let mut none = sim.clone();
    none.seen.pods.get_mut(TEAL).unwrap().size = 0;
    assert_eq!(broken(&none, bare(TEAL)), "kept", "it has none");
    let mut idle = sim.clone();
    idle.seen.route = route(split(OCHRE, TEAL, 0));
    assert_eq!(broken(&idle, bare(TEAL)), "kept", "it has no traffic");
    let mut nothing = sim.clone();
    nothing.seen.replicas = 0;
    assert_eq!(broken(&nothing, bare(TEAL)), "kept", "the agent has no pods");
}

#[test]
fn pods_that_are_the_share_make_no_more_of_it_in_whatever_order_their_sizes_are_written() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL).until(30, "20 %", |sim| sim.split.is_some());
    let ask = |ochre: i32, teal: i32| {
        move |step: &mut Step| step.wanted.sizes.extend([(OCHRE.to_owned(), ochre), (TEAL.to_owned(), teal)])
    };
    for (ochre, teal, kept) in [
        (4, 1, "kept"),
        (8, 1, "kept"),
        (4, 2, "PodsWithinShare"), // 34 %
        (3, 1, "PodsWithinShare"), // 25 %
        (8, 2, "PodsWithinShare"), // the canary's may be written first
    ] {
        assert_eq!(broken(&sim, ask(ochre, teal)), kept, "{ochre} and {teal}");
    }
    assert_eq!(
        broken(&sim, |step| step.wanted.sizes.retain(|name, _| name != OCHRE)),
        "PodsWithinShare",
        "none are left"
    );
    let mut grown = sim.clone();
    grown.rescale(1, 2);
    assert_eq!(broken(&grown, ask(4, 2)), "kept", "somebody else made them two");
    assert_eq!(broken(&grown, ask(4, 3)), "PodsWithinShare", "that is no reason for three");
    let mut back = sim.clone();
    back.say("bypass", Verdict::Fail);
    assert_eq!(broken(&back, ask(4, 1)), "kept");
    assert_eq!(broken(&back, ask(4, 2)), "PodsWithinShare", "what goes back does not grow");
    let mut alone = sim.clone();
    alone.split = None;
    let narrow = |step: &mut Step| {
        ask(4, 4)(step);
        step.wanted.shares = Some(Shares::AtRest);
    };
    assert_eq!(broken(&alone, narrow), "kept", "the Service selects stable's alone");
    assert_eq!(broken(&alone, ask(4, 4)), "PodsWithinShare", "and is to select both");
    assert_eq!(broken(&at_5_percent(), ask(4, 4)), "kept", "a gateway makes the share");
}

#[test]
fn a_rejected_revision_is_neither_launched_nor_trusted_nor_given_more() {
    let rejected = |revision: &str, at| RejectedRevision { revision: revision.to_owned(), at, reason: String::new() };
    let mut sim = at_5_percent();
    let mauve = rejected("mauve", sim.now);
    sim.state.rejected.push(mauve);
    assert_eq!(broken(&sim, |_| {}), "kept");
    let trusted = |revision: &'static str| {
        move |step: &mut Step| {
            let since = Timestamp::UNIX_EPOCH;
            step.state.trusted.push(TrustedRevision { revision: revision.to_owned(), since });
        }
    };
    assert_eq!(broken(&sim, trusted("mauve")), "Finality");
    assert_eq!(broken(&sim, trusted("lime")), "kept");
    let mut fell = sim.clone();
    fell.seen.service = Some(TEAL.to_owned());
    fell.say("bypass", Verdict::Fail);
    let serve = |step: &mut Step| (step.wanted.shares, step.wanted.service) = (None, Some(TEAL.to_owned()));
    fell.seen.route = Route::NotUsed;
    assert_ne!(broken(&fell, serve), "Finality", "it has that already");
    fell.seen.service = Some(OCHRE.to_owned());
    assert_eq!(broken(&fell, serve), "Finality", "teal is rejected in this pass and would rise");
}

#[test]
fn the_service_may_stay_with_a_canary_only_when_stable_is_dead() {
    let mut sim = launched_to("three");
    sim.until(60, "the Service", |sim| sim.seen.service.as_deref() == Some(TEAL));
    let launched = sim.state.launch.as_mut().unwrap();
    assert_eq!(launched.phase, Phase::Promoting);
    sim.say("bypass", Verdict::Fail);
    let stay = |step: &mut Step| {
        step.wanted.shares = Some(Shares::AtRest);
        step.wanted.service = Some(TEAL.to_owned());
    };
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, stay), "ServiceStaysWithStable");
    sim.seen.pods.get_mut(OCHRE).unwrap().ready = 0;
    assert_eq!(broken(&sim, stay), "kept");
    sim.seen.service = Some("mauve".to_owned());
    assert_ne!(broken(&sim, stay), "kept", "it was not there");
    let other = |step: &mut Step| {
        stay(step);
        step.wanted.service = Some("mauve".to_owned());
    };
    assert_eq!(broken(&sim, other), "ServiceStaysWithStable", "mauve is nobody");
}

#[test]
fn rest_is_rest_when_nothing_is_asked_or_left_to_do() {
    let sim = Sim::with_stable();
    let wake = |step: &mut Step| step.wake_at = Some(Timestamp::MAX);
    let tell = |step: &mut Step| step.events.push(Event { reason: "X", message: String::new(), warning: false });
    let write = |step: &mut Step| step.state.retiring.push(retiring("lime"));
    assert_eq!(broken(&sim, |_| {}), "kept");
    assert_eq!(broken(&sim, wake), "QuietAtRest");
    assert_eq!(broken(&sim, tell), "QuietAtRest");
    assert_eq!(broken(&sim, write), "QuietAtRest");
    let mut busy: Vec<Sim> = (0..5).map(|_| sim.clone()).collect();
    busy[0].want("mauve");
    busy[1].seen.people.unread = true;
    busy[2].decides("r", DecisionVerb::Resume);
    busy[3].state.retiring.push(retiring("mauve"));
    busy[4].say("bypass", Verdict::Pass).want(TEAL).run(5);
    for sim in &busy {
        assert_eq!(broken(sim, tell), "kept");
    }
}

fn retiring(revision: &str) -> RetiringRevision {
    RetiringRevision { revision: revision.to_owned(), since: Timestamp::from_second(1_000_000).unwrap(), idle: true }
}

#[test]
fn whatever_waits_is_woken_unless_a_person_or_the_cluster_ends_its_wait() {
    let mut sim = at_5_percent();
    sim.say("success", Verdict::Insufficient).run(7);
    let sleep = |sim: &Sim| {
        let before = sim.state.clone();
        broken(sim, move |step| (step.state, step.wake_at) = (before.clone(), None))
    };
    assert_eq!(sleep(&sim), "EveryWaitEnds");
    let with = |edit: fn(&mut crate::api::Launch)| {
        let mut sim = sim.clone();
        edit(sim.state.launch.as_mut().unwrap());
        sleep(&sim)
    };
    assert_eq!(with(|launch| launch.held = true), "kept", "a person is asked");
    assert_eq!(with(|launch| launch.paused_at = Some(launch.started_at)), "kept");
    assert_eq!(with(|launch| launch.phase = Phase::RollingBack), "kept", "pods and the route are watched");
    let mut scaled = sim.clone();
    scaled.seen.replicas = 0;
    assert_eq!(sleep(&scaled), "kept");
    let mut drains = Sim::with_stable();
    drains.state.retiring.push(retiring("mauve"));
    assert_eq!(sleep(&drains), "EveryWaitEnds");
    let mut pending = Sim::with_stable();
    pending.want(TEAL).tick();
    assert_eq!(sleep(&pending), "EveryWaitEnds");
    assert_eq!(broken(&sim, |step| step.wake_at = Some(Timestamp::UNIX_EPOCH)), "EveryWaitEnds");
    let at_once = after(sim.now, seconds(1));
    assert_eq!(broken(&sim, move |step| step.wake_at = Some(at_once)), "EveryWaitEnds", "the instant of the pass");

    let mut soak = Sim::with_stable();
    soak.plan.soak = seconds(100);
    soak.want(TEAL).until(200, "soaking", |sim| sim.launch_began("soak"));
    soak.run(20);
    assert_eq!(sleep(&soak), "EveryWaitEnds");
    soak.seen.wanted = WantedRevision::Unknown { reason: "X".to_owned(), message: "a ConfigMap is missing".to_owned() };
    assert_eq!(sleep(&soak), "kept", "somebody mends it");
}

#[test]
fn a_write_rises_for_the_running_launch_alone() {
    let sim = at_5_percent();
    let rise = |state: &State, revision, to| of_a_rise(&Rise { revision, to, committed: state, written: None });
    assert!(rise(&sim.state, TEAL, 5).is_ok());
    for phase in [Phase::RollingBack, Phase::Complete] {
        let mut state = sim.state.clone();
        state.launch.as_mut().unwrap().phase = phase;
        assert_eq!(rise(&state, TEAL, 1).unwrap_err().promise, "WriteWhyFirst", "{phase:?}");
    }
    let mut other = Decision {
        launch: "refund-agent-0".to_owned(),
        revision: TEAL.to_owned(),
        outcome: Outcome::RolledBack,
        reason: String::new(),
        message: String::new(),
        at: sim.now,
    };
    let written = |decision: &Decision| {
        of_a_rise(&Rise { revision: TEAL, to: 5, committed: &sim.state, written: Some(decision) })
    };
    assert!(written(&other).is_ok(), "a former launch was taken back");
    other.launch = sim.launch().id.clone();
    assert_eq!(written(&other).unwrap_err().promise, "Finality");
    let told = rise(&sim.state, TEAL, 6).unwrap_err().to_string();
    assert_eq!(told, "promise WriteWhyFirst is broken: the status justifies 5% and not 6%");
}

#[test]
fn a_broken_promise_names_the_launch_and_what_happened() {
    let mut sim = at_5_percent();
    sim.now = after(sim.now, seconds(1));
    let mut step = sim.decide();
    launch(&mut step).weight = 6;
    let decided = Decided { plan: &sim.plan, before: &sim.state, seen: &sim.seen, now: sim.now, step: &step };
    let told = crate::launch::promises::of_a_decision(&decided).unwrap_err().to_string();
    assert_eq!(told, "promise WeightBound is broken: refund-agent-1: 6% in the status, above 5%");
}
