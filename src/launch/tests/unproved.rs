//! What triggers have to say when nothing fires: one that cannot be measured, or is in breach, proves nothing. And what is
//! no news of a launch.

use super::scenarios::launched_to;
use super::soak::{is_trusted, soaking};
use super::*;

fn counting() -> Box<Question> {
    let count = standard_metrics().into_iter().find(|metric| metric.count.is_some()).unwrap();
    Box::new(Question { metric: count, window: None, ..*question(5) })
}

fn message(sim: &Sim) -> &str {
    sim.launch().message.as_deref().unwrap_or_default()
}

#[test]
fn a_stage_is_held_while_a_trigger_cannot_be_measured_and_the_deadline_ends_it() {
    let mut sim = launched_to("one");
    sim.say("errors", Verdict::Error).run(60);
    assert_eq!((sim.launch().stage_name.as_str(), sim.weight()), ("one", 5), "all its gates pass");
    assert_eq!(message(&sim), "held: trigger errors cannot be measured: errors says Error");
    let mut dead = sim.clone();
    dead.run(3600);
    assert_eq!(
        (dead.launch().outcome, dead.launch().reason.as_deref()),
        (Some(Outcome::RolledBack), Some("DeadlinePassed"))
    );
    sim.say("errors", Verdict::Pass).until(5, "stage two", |sim| sim.launch().stage_name == "two");
}

#[test]
fn a_trigger_that_was_never_asked_holds_too_and_one_without_enough_data_does_not() {
    for (verdict, stage) in [(None, "one"), (Some(Verdict::Insufficient), "two")] {
        let mut sim = launched_to("one");
        sim.plan.triggers.push(trigger("cost", TriggerCheck::Metric(question(5)), 0));
        for _ in 0..40 {
            if let Some(verdict) = verdict {
                let measured = Measured { verdict, message: "0/10 samples".to_owned(), sampled_at: sim.now };
                sim.seen.measured.insert(CheckName::Trigger("cost".to_owned()), measured);
            }
            sim.tick();
            if sim.launch().stage_name == "two" {
                break;
            }
        }
        assert_eq!(sim.launch().stage_name, stage, "{verdict:?}: {}", message(&sim));
    }
}

#[test]
fn a_stage_is_not_left_in_the_midst_of_a_breach() {
    let mut sim = launched_to("one");
    sim.plan.triggers[0].lasting = seconds(120);
    sim.say("errors", Verdict::Fail).run(60);
    assert_eq!((sim.launch().stage_name.as_str(), sim.launch().outcome), ("one", None));
    assert_eq!(message(&sim), "held: trigger errors is in breach: errors says Fail");
    let mut mended = sim.clone();
    mended.say("errors", Verdict::Pass).until(5, "stage two", |sim| sim.launch().stage_name == "two");
    sim.run(70);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
}

#[test]
fn a_soak_does_not_end_in_the_midst_of_a_breach() {
    let mut sim = soaking();
    sim.plan.triggers[0].lasting = seconds(60);
    sim.run(80);
    sim.say("errors", Verdict::Fail).run(40);
    assert_eq!(sim.launch().phase, Phase::Soaking, "its 100 s are over");
    assert!(message(&sim).contains("for trigger errors is in breach"), "{}", message(&sim));
    let mut mended = sim.clone();
    mended.say("errors", Verdict::Pass).run(2);
    assert_eq!((mended.launch().phase, is_trusted(&mended, TEAL)), (Phase::Complete, true));
    sim.run(40);
    assert_eq!((sim.launch().outcome, sim.stable()), (Some(Outcome::RolledBack), OCHRE));
}

#[test]
fn a_soak_that_nobody_can_judge_lasts_twice_its_time_and_earns_no_trust() {
    let mut sim = soaking();
    let began = sim.launch().began_at.unwrap();
    sim.say("bypass", Verdict::Error).until(300, "the end", |sim| sim.launch().phase == Phase::Complete);
    assert_eq!(sim.now, after(began, seconds(200)));
    assert_eq!((sim.launch().outcome, sim.stable()), (Some(Outcome::Succeeded), TEAL));
    assert!(!is_trusted(&sim, TEAL));
    let why = "teal is stable, not trusted: trigger bypass cannot be measured: bypass says Error";
    assert_eq!(message(&sim), why);
}

/// Teal's soak of 100 s, and nobody looked for so long that it could have lasted twice.
fn soaked_unseen() -> Sim {
    let mut sim = soaking();
    sim.plan.triggers[0].lasting = seconds(60);
    sim.measuring = false;
    sim.seen.measured.clear();
    sim.now = after(sim.now, seconds(1000));
    sim.run(30);
    assert_eq!(sim.launch().phase, Phase::Soaking);
    let told = "soaks on, for trigger errors is not measured yet; triggers still return to ochre";
    assert_eq!(message(&sim), told);
    sim.measuring = true;
    sim
}

#[test]
fn a_soak_whose_time_went_by_while_nobody_looked_waits_for_the_first_answer() {
    for (verdict, trusted) in [(Verdict::Pass, true), (Verdict::Error, false)] {
        let mut sim = soaked_unseen();
        sim.say("errors", verdict).run(1);
        assert_eq!((sim.launch().outcome, is_trusted(&sim, TEAL)), (Some(Outcome::Succeeded), trusted), "{verdict:?}");
    }
}

#[test]
fn a_breach_that_an_outage_hid_takes_the_soaking_revision_back() {
    let mut sim = soaked_unseen();
    sim.say("errors", Verdict::Fail).run(50);
    let told = "soaks on, for trigger errors is in breach: errors says Fail; triggers still return to ochre";
    assert_eq!((sim.launch().phase, message(&sim)), (Phase::Soaking, told));
    sim.run(12);
    assert_eq!((sim.launch().outcome, sim.stable()), (Some(Outcome::RolledBack), OCHRE));
}

#[test]
fn a_breach_that_is_interrupted_for_ever_ends_a_soak_of_before_an_outage_without_trust() {
    let mut sim = soaked_unseen();
    sim.say("errors", Verdict::Fail).run(20);
    let seen = sim.launch().breaches[0].first_seen;
    sim.say("errors", Verdict::Error).until(200, "the end", |sim| sim.launch().phase == Phase::Complete);
    let slack = sim.plan.interval * 2 + seconds(10);
    assert_eq!(sim.now, after(seen, seconds(60) + slack), "so long the breach could have fired");
    assert_eq!((sim.stable(), is_trusted(&sim, TEAL)), (TEAL, false));
}

#[test]
fn a_breach_of_before_an_outage_has_its_time_after_it() {
    let mut sim = soaking();
    sim.plan.triggers[0].lasting = seconds(60);
    sim.say("errors", Verdict::Fail).run(10);
    sim.now = after(sim.now, seconds(1000));
    sim.run(40);
    assert_eq!(sim.launch().phase, Phase::Soaking, "{}", message(&sim));
    sim.run(15);
    assert_eq!((sim.launch().outcome, sim.stable()), (Some(Outcome::RolledBack), OCHRE));
}

#[test]
fn a_canary_that_has_all_the_traffic_becomes_stable_in_the_midst_of_a_breach_too() {
    let mut sim = launched_to("three");
    sim.plan.triggers[0].lasting = seconds(300);
    sim.until(60, "all the traffic", |sim| sim.launch().phase == Phase::Promoting && sim.launch().weight == 100);
    sim.say("errors", Verdict::Fail).until(60, "stable", |sim| sim.stable() == TEAL); // it is late to hold anything
}

#[test]
fn all_of_what_matches_proves_nothing_about_all_of_the_traffic() {
    let mut sim = super::matching::matching();
    sim.plan.stages.truncate(1);
    sim.plan.stages[0].weight = 100;
    sim.plan.triggers[0].lasting = seconds(300);
    sim.until(60, "all of what matches", |sim| sim.weight() == 100);
    sim.until(60, "the promotion", |sim| sim.launch().phase == Phase::Promoting);
    let some = sim.launch().only.clone();
    assert!(!some.is_empty());
    sim.say("errors", Verdict::Fail).run(60);
    assert_eq!((sim.launch().phase, &sim.launch().only), (Phase::Promoting, &some));
    let widen = |step: &mut Step| super::promises::launch(step).only.clear();
    assert_eq!(super::promises::broken(&sim, widen), "NoPromotionWithoutProof");
    sim.say("errors", Verdict::Pass).until(60, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_promotion_that_waits_for_pods_says_so_and_alarms_nobody() {
    let mut sim = launched_to("three");
    sim.until(60, "the promotion", |sim| sim.launch().phase == Phase::Promoting);
    let pods = sim.seen.pods.get_mut(TEAL).unwrap();
    (pods.size, pods.ready, pods.all_ready_since) = (4, 2, None);
    pods.refused = Some("exceeded quota".to_owned());
    let step = sim.decide();
    sim.commit(&step);
    assert!(sim.launch().breaches.iter().any(|breach| breach.trigger == "unready"));
    assert_eq!(message(&sim), "waiting for pods of teal: 2/4 ready (exceeded quota)");
}

#[test]
fn a_soak_that_nobody_can_judge_is_cut_short_by_the_next_revision_all_the_same() {
    let mut sim = soaking();
    sim.say("bypass", Verdict::Error).run(120);
    sim.want("mauve").until(10, "the next launch", |sim| sim.launch().revision == "mauve");
}

#[test]
fn a_soaking_revision_is_unready_when_it_has_fewer_pods_than_the_one_before_it_had() {
    let taken = Some(Outcome::RolledBack);
    for (replicas, ready, failing, outcome) in
        [(10, 4, 0, None), (10, 4, 1, taken), (10, 3, 0, taken), (4, 1, 0, taken)]
    {
        let mut sim = soaking();
        sim.plan.soak = seconds(1000);
        sim.seen.replicas = replicas; // there is no node for the others
        for _ in 0..150 {
            let step = sim.decide();
            sim.commit(&step);
            sim.now = after(sim.now, seconds(1));
            sim.sample();
            let pods = sim.seen.pods.get_mut(TEAL).unwrap();
            (pods.size, pods.ready, pods.failing, pods.all_ready_since) = (replicas, ready, failing, None);
        }
        assert_eq!(sim.launch().outcome, outcome, "{ready} of {replicas}, {failing} failing: {}", message(&sim));
    }
}

#[test]
fn what_cannot_be_asked_is_told_from_the_first_pass_on() {
    let mut sim = launched_to("one");
    let since = sim.launch().started_at;
    sim.plan.triggers.push(trigger("cost", TriggerCheck::Metric(question(5)), 0));
    let why = "no metrics source named prod: the administrator's configuration has default".to_owned();
    let measured = Measured { verdict: Verdict::Error, message: why.clone(), sampled_at: since };
    sim.seen.measured.insert(CheckName::Trigger("cost".to_owned()), measured);
    sim.run(60);
    assert_eq!(message(&sim), format!("held: trigger cost cannot be measured: {why}"));
}

#[test]
fn a_promotion_waits_for_its_triggers_too() {
    for (verdict, why) in [(Verdict::Error, "cannot be measured"), (Verdict::Fail, "is in breach")] {
        let mut sim = launched_to("three");
        sim.plan.triggers[0].lasting = seconds(300);
        sim.until(60, "the promotion", |sim| sim.launch().phase == Phase::Promoting);
        assert!(sim.weight() < 100);
        sim.say("errors", verdict).run(60);
        assert_eq!((sim.launch().phase, sim.weight()), (Phase::Promoting, 50));
        assert!(message(&sim).starts_with(&format!("held: trigger errors {why}")), "{}", message(&sim));
        sim.say("errors", Verdict::Pass).until(60, "stable", |sim| sim.stable() == TEAL);
    }
}

#[test]
fn a_status_holds_as_many_breaches_as_its_schema_allows() {
    let mut sim = launched_to("one");
    sim.plan.triggers = (0..20).map(|n| trigger(&format!("t{n}"), TriggerCheck::Metric(question(5)), 600)).collect();
    for n in 0..20 {
        sim.measure(CheckName::Trigger(format!("t{n}")), Verdict::Fail, "9 of 10 fail");
    }
    sim.tick();
    assert_eq!(sim.launch().breaches.len(), 16);
}

#[test]
fn a_breach_of_which_nobody_can_say_whether_it_is_over_holds_for_as_long_as_it_takes_to_fire() {
    let mut sim = launched_to("three");
    sim.plan.triggers[0].lasting = seconds(300);
    sim.until(60, "the promotion", |sim| sim.launch().phase == Phase::Promoting);
    sim.say("errors", Verdict::Fail).run(5);
    let last = sim.launch().breaches[0].last_seen;
    sim.say("errors", Verdict::Insufficient).run(280);
    assert_eq!((sim.launch().phase, sim.weight()), (Phase::Promoting, 50));
    assert!(
        message(&sim).starts_with("held: trigger errors was in breach when it was last measured"),
        "{}",
        message(&sim)
    );
    sim.until(60, "all the traffic", |sim| sim.weight() == 100);
    assert_eq!(sim.now, after(last, seconds(300)));
    sim.until(60, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn time_in_which_nobody_could_say_is_no_breach_however_long_the_window() {
    for (between, outcome) in
        [(Verdict::Fail, Some(Outcome::RolledBack)), (Verdict::Error, None), (Verdict::Insufficient, None)]
    {
        let mut sim = launched_to("one");
        sim.plan.stages[0].deadline = seconds(100_000);
        sim.plan.triggers[0] = trigger("errors", TriggerCheck::Metric(question(900)), 600);
        sim.say("success", Verdict::Insufficient).say("errors", Verdict::Fail).run(10);
        sim.say("errors", between).run(620);
        sim.say("errors", Verdict::Fail).run(10);
        assert_eq!(sim.launch().outcome, outcome, "{between:?} in between");
    }
}

#[test]
fn an_interval_of_hours_in_an_old_object_makes_no_breach_longer() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(1_000_000);
    sim.plan.interval = seconds(86_400);
    sim.plan.triggers[0].lasting = seconds(3600);
    for _ in 0..2 {
        sim.now = after(sim.now, seconds(4000));
        sim.measure(CheckName::Trigger("errors".to_owned()), Verdict::Fail, "9 of 10 fail").tick();
    }
    assert_eq!(sim.launch().outcome, None);
}

#[test]
fn what_a_trusted_revision_did_before_is_no_news_when_it_comes_back() {
    for (check, blind) in [(question(30), 30), (counting(), 3600)] {
        let mut sim = Sim::with_stable();
        sim.want(TEAL).until(200, "stable", |sim| sim.stable() == TEAL);
        sim.plan.triggers[1].check = TriggerCheck::Metric(check);
        sim.want(OCHRE).until(20, "the return", |sim| sim.launch().revision == OCHRE);
        let began = sim.launch().started_at;
        let mut late = sim.clone();
        sim.say("bypass", Verdict::Fail).until(20, "the end", |sim| sim.launch().phase == Phase::Complete);
        assert_eq!((sim.launch().outcome, sim.stable()), (Some(Outcome::Succeeded), OCHRE));

        late.broken.push(OCHRE); // it takes its time
        late.now = after(began, seconds(blind));
        late.say("bypass", Verdict::Fail).tick();
        assert_eq!(late.launch().outcome, Some(Outcome::RolledBack), "what is after its return counts");
    }
}

#[test]
fn a_gate_without_a_window_waits_for_a_sample_of_its_stage() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].gates[0].check = GateCheck::Metric(counting());
    let (began, name) = (sim.launch().began_at.unwrap(), CheckName::Gate(0, "success".to_owned()));
    let taken = |sim: &mut Sim, sampled_at| {
        sim.run(20);
        let measured = Measured { verdict: Verdict::Pass, message: "0 <= 0".to_owned(), sampled_at };
        sim.measuring = false;
        sim.seen.measured.insert(name.clone(), measured);
        sim.run(10);
        (sim.launch().stage_name.clone(), sim.launch().verdicts.clone())
    };
    sim.say("success", Verdict::Insufficient);
    let (stage, verdicts) = taken(&mut sim, began);
    assert_eq!((stage.as_str(), verdicts[0].verdict), ("one", Verdict::Insufficient));
    assert_eq!(verdicts[0].message, "no sample since the stage began");
    let (stage, _) = taken(&mut sim, after(began, seconds(1)));
    assert_eq!(stage, "two");
}

#[test]
fn samples_within_the_metrics_own_window_are_consecutive_however_slow_the_source() {
    for (window, outcome) in [(300, Some(Outcome::RolledBack)), (30, None)] {
        let mut sim = launched_to("one");
        sim.plan.stages[0].deadline = seconds(100_000);
        sim.plan.triggers[0] = trigger("errors", TriggerCheck::Metric(question(window)), 600);
        for _ in 0..12 {
            sim.now = after(sim.now, seconds(59));
            sim.measure(CheckName::Trigger("errors".to_owned()), Verdict::Fail, "9 of 10 fail").tick();
        }
        assert_eq!(sim.launch().outcome, outcome, "a window of {window} s, asked every second, answered every minute");
    }
}
