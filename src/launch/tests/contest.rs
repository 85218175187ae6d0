//! Others write the route while a launch shares its traffic.

use super::*;

/// Somebody writes the route as it is at rest.
fn overwritten(sim: &mut Sim) {
    sim.seen.route = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Yes };
    let generation = sim.seen.route_version.generation + 1;
    sim.seen.route_version = RouteVersion { generation, rules_by: Some("argocd-controller".to_owned()) };
}

fn stalled(sim: &Sim) -> String {
    let mut conditions = Vec::new();
    super::super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    let found = conditions.iter().find(|condition| condition.type_ == "Stalled");
    found.map_or_else(String::new, |found| format!("{} {} {}", found.status, found.reason, found.message))
}

fn in_stage_one() -> Sim {
    let mut sim = Sim::with_stable();
    sim.say("success", Verdict::Insufficient).want(TEAL);
    sim.until(20, "in stage one", Sim::has_begun);
    sim
}

impl Sim {
    fn has_begun(&self) -> bool {
        self.state.launch.as_ref().is_some_and(|launch| launch.began_at.is_some())
    }

    /// A loop that writes the route every five seconds; returns how often it found a share there.
    fn contested_for(&mut self, rounds: u32) -> u32 {
        let mut found = 0;
        for _ in 0..rounds {
            found += u32::from(self.weight() > 0);
            if self.weight() > 0 {
                overwritten(self);
            }
            self.run(5);
        }
        found
    }
}

#[test]
fn one_write_of_another_restarts_the_window_and_nobody_needs_to_act() {
    let mut sim = in_stage_one();
    let began = sim.launch().began_at;
    overwritten(&mut sim);
    let step = sim.tick();
    assert!(
        step.events.iter().any(|event| event.reason == "RouteChanged" && event.message.contains("argocd-controller"))
    );
    assert!(stalled(&sim).starts_with("False"));
    sim.until(5, "shared again", |sim| sim.weight() == 5 && sim.has_begun());
    assert!(sim.launch().began_at > began);
    sim.run(61);
    assert_eq!(sim.launch().contest, None, "it is forgotten after a calm minute");
}

#[test]
fn a_loop_of_writes_makes_the_launch_give_way_and_say_who_and_the_mend() {
    let mut sim = in_stage_one();
    assert_eq!(sim.contested_for(10), 3, "a share is written three times, then no more");
    assert_eq!((sim.weight(), sim.launch().weight, sim.launch().phase), (0, 0, Phase::Progressing));
    let told = stalled(&sim);
    for words in ["True RouteContested argocd-controller overwrites", "(3 times)", "ignoreDifferences", "1m after"] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
    assert_eq!(sim.seen.service.as_deref(), Some(OCHRE));
    assert!(sim.launch().message.as_deref().unwrap_or_default().starts_with("held: argocd-controller"));
}

#[test]
fn a_loop_that_goes_on_is_met_seldom_and_the_condition_does_not_flap() {
    let mut sim = in_stage_one();
    sim.contested_for(4);
    let mut found = 0;
    for _ in 0..50 * 12 {
        if sim.weight() > 0 {
            found += 1;
            overwritten(&mut sim);
        }
        sim.run(5);
        assert!(stalled(&sim).starts_with("True RouteContested"));
    }
    assert!((4..=8).contains(&found), "{found} tries in 50 minutes");
}

#[test]
fn when_the_others_stop_the_launch_goes_on_from_its_stage() {
    let mut sim = in_stage_one();
    sim.contested_for(6);
    sim.say("success", Verdict::Pass);
    sim.until(60, "shared again", |sim| sim.weight() == 5);
    sim.until(200, "stable", |sim| sim.stable() == TEAL);
    assert!(stalled(&sim).starts_with("False"));
}

#[test]
fn an_edited_plan_ends_the_hold() {
    let mut sim = in_stage_one();
    sim.contested_for(6);
    sim.plan.hash.push('x');
    sim.until(5, "shared again", |sim| sim.weight() == 5);
}

#[test]
fn a_rollback_of_a_contested_launch_is_not_held_up() {
    for rounds in [0, 1, 2, 6] {
        let mut sim = in_stage_one();
        sim.contested_for(rounds);
        sim.say("bypass", Verdict::Fail);
        overwritten(&mut sim);
        sim.until(3, "taken back", |sim| sim.launch().outcome == Some(Outcome::RolledBack));
        sim.until(5, "over", |sim| sim.launch().phase == Phase::Complete);
        assert_eq!((sim.weight(), sim.seen.service.as_deref()), (0, Some(OCHRE)));
    }
}

#[test]
fn a_contested_launch_ends_at_its_deadline() {
    let mut sim = in_stage_one();
    sim.contested_for(6);
    sim.until(3700, "ended", |sim| sim.launch().phase == Phase::Complete);
    assert_eq!(sim.launch().reason.as_deref(), Some("DeadlinePassed"));
}

#[test]
fn a_contested_promotion_gives_way_too() {
    let mut sim = Sim::with_stable();
    sim.plan.stages.truncate(1);
    sim.want(TEAL);
    let mut overwrites = 0;
    for _ in 0..120 {
        if sim.state.launch.as_ref().is_some_and(|launch| launch.phase == Phase::Promoting)
            && sim.weight() == 100
            && sim.seen.service.as_deref() == Some(OCHRE)
        {
            overwrites += 1;
            overwritten(&mut sim);
        }
        sim.tick();
    }
    assert!(overwrites <= 6, "{overwrites}");
}

#[test]
fn a_share_that_is_not_written_yet_is_nobodys_fault() {
    let mut sim = in_stage_one();
    sim.broken = vec![TEAL];
    sim.settle();
    sim.until(5, "without traffic", |sim| sim.weight() == 0);
    sim.broken.clear();
    sim.until(10, "shared again", |sim| sim.weight() == 5);
    assert_eq!(sim.launch().contest, None);
}

#[test]
fn a_users_route_that_is_gone_holds_the_launch_and_no_rollback() {
    let gone = || Route::Unshared("HTTPRoute shop does not exist: create it".to_owned());
    let mut sim = in_stage_one();
    sim.seen.route = gone();
    sim.say("success", Verdict::Pass);
    for _ in 0..30 {
        let step = sim.decide();
        sim.commit(&step);
        sim.now = after(sim.now, seconds(1));
        sim.sample();
    }
    assert_eq!(sim.launch().phase, Phase::Progressing);
    assert!(stalled(&sim).starts_with("True RouteUnusable HTTPRoute shop does not exist"), "{}", stalled(&sim));
    sim.say("bypass", Verdict::Fail);
    for _ in 0..4 {
        sim.now = after(sim.now, seconds(1));
        sim.sample();
        let step = sim.decide();
        sim.commit(&step);
    }
    assert_eq!((sim.launch().phase, sim.launch().outcome), (Phase::Complete, Some(Outcome::RolledBack)));
}

#[test]
fn writes_of_sluice_for_another_agent_of_the_route_are_no_contest() {
    let mut sim = in_stage_one();
    sim.say("success", Verdict::Pass);
    let route = sim.seen.route.clone();
    for _ in 0..60 {
        sim.tick();
        if sim.launch().weight == 25 && sim.seen.route_version.generation < 20 {
            sim.seen.route.clone_from(&route); // our write was refused: another agent's came first
            sim.seen.route_version = RouteVersion { generation: sim.seen.route_version.generation + 1, rules_by: None };
        }
        assert!(sim.state.launch.as_ref().is_some_and(|launch| launch.contest.is_none()));
    }
}

#[test]
fn a_first_deployment_waits_a_moment_for_a_users_route_and_then_says_what_is_wrong() {
    let mut sim = Sim::fresh();
    sim.seen.route = Route::Unshared("no rule of HTTPRoute shop sends traffic to Service refund-agent".to_owned());
    for _ in 0..60 {
        sim.now = after(sim.now, seconds(1));
        sim.sample();
        let step = sim.decide();
        sim.commit(&step);
        sim.perform(&Wanted { shares: None, ..step.wanted });
        sim.settle();
    }
    assert_eq!((sim.stable(), sim.launch().outcome), (OCHRE, Some(Outcome::Succeeded)));
    assert!(sim.launch().ended_at > Some(after(sim.launch().started_at, seconds(29))));
    assert!(stalled(&sim).starts_with("True RouteUnusable no rule of HTTPRoute shop"), "{}", stalled(&sim));
}
