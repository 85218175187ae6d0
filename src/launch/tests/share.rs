//! The share that the canary really got.

use super::*;

fn stalled(sim: &Sim) -> String {
    let mut conditions = Vec::new();
    super::super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    let found = conditions.iter().find(|condition| condition.type_ == "Stalled");
    found.map_or_else(String::new, |found| format!("{} {} {}", found.status, found.reason, found.message))
}

fn answer(sim: &mut Sim, canary: i64, stable: i64) {
    sim.seen.runs = Some(Runs { canary, stable, from: sim.now });
}

#[test]
fn a_gateway_that_gives_the_canary_too_much_holds_the_launch_until_it_does_not() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL);
    sim.until(20, "in stage one", |sim| sim.weight() == 5);
    for _ in 0..60 {
        answer(&mut sim, 500, 500);
        sim.tick();
    }
    assert_eq!((sim.weight(), sim.launch().stage), (5, 0), "all gates pass, and it holds");
    let told = stalled(&sim);
    assert!(told.starts_with("True ShareNotKept teal answered 500 of 1000 runs, and should answer 5%"), "{told}");
    answer(&mut sim, 50, 950);
    sim.until(10, "in stage two", |sim| sim.weight() == 25);
}

#[test]
fn a_gateway_that_does_not_split_is_told_of() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL);
    sim.until(60, "in stage three", |sim| sim.weight() == 50);
    for _ in 0..60 {
        answer(&mut sim, 0, 1000);
        sim.tick();
    }
    assert_eq!(sim.weight(), 50);
    assert!(stalled(&sim).contains("the gateway does not split, or most callers use the agent's Service"));
}

#[test]
fn data_from_before_the_stage_and_no_data_say_nothing() {
    let mut sim = Sim::with_stable();
    let early = sim.now;
    sim.want(TEAL);
    for _ in 0..120 {
        sim.seen.runs = Some(Runs { canary: 1000, stable: 0, from: early });
        sim.tick();
    }
    assert_eq!(sim.stable(), TEAL);
}

#[test]
fn a_rollback_asks_nobody_about_shares() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL);
    sim.until(20, "in stage one", |sim| sim.weight() == 5);
    sim.say("bypass", Verdict::Fail);
    answer(&mut sim, 500, 500);
    sim.tick();
    assert_eq!(sim.weight(), 0);
}
