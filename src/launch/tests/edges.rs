//! The edges of each rule: the very second, the last pod, the one more. Most of these tests are here because a search for
//! mutants (`make mutants`) found that nobody would have noticed.

use super::scenarios::launched_to;
use super::*;

impl Sim {
    /// What a check says from now on, with its numbers: nothing else is measured.
    fn measure(&mut self, check: CheckName, verdict: Verdict, message: &str) -> &mut Self {
        self.measuring = false;
        let sampled_at = after(self.now, seconds(1)); // the next pass sees it at once
        self.seen.measured.insert(check, Measured { verdict, message: message.to_owned(), sampled_at });
        self
    }

    fn pods(&mut self, revision: &str) -> &mut Pods {
        self.seen.pods.get_mut(revision).expect("it has pods")
    }

    /// A pass that changes nothing but what is remembered.
    fn look(&mut self) -> Step {
        self.now = after(self.now, seconds(1));
        self.sample();
        let step = self.decide();
        self.commit(&step);
        step
    }
}

fn success() -> CheckName {
    CheckName::Gate(0, "success".to_owned())
}

// ---- gates

#[test]
fn a_window_is_whole_to_the_very_second() {
    let mut sim = Sim::with_stable();
    let GateCheck::Metric(question) = &mut sim.plan.stages[0].gates[0].check else { unreachable!() };
    question.window = Some(seconds(15));
    sim.want(TEAL).until(60, "stage one", |sim| sim.launch_began("one"));
    let began = sim.launch().began_at.unwrap();
    sim.until(60, "stage two", |sim| sim.launch().stage == 1);
    assert_eq!(sim.now, after(began, seconds(15)));
}

#[test]
fn the_numbers_of_a_gate_that_waits_are_told_anew_at_a_tenth_of_the_age_of_its_stage() {
    let mut sim = launched_to("one");
    let began = sim.launch().began_at.unwrap();
    let mut told = Vec::new();
    for second in 1..200 {
        sim.measure(success(), Verdict::Insufficient, &format!("{second} runs"));
        let before = sim.launch().verdicts.clone();
        let step = sim.tick();
        if second > 5 {
            let wake = step.wake_at.expect("it looks again");
            let old = after(sim.launch().verdicts_at.unwrap(), (between(began, sim.now) / 10).max(seconds(5)));
            assert!(wake <= old.max(after(sim.now, seconds(5))), "second {second}");
        }
        if sim.launch().verdicts != before {
            told.push(between(began, sim.now).as_secs());
        }
    }
    assert_eq!(told[told.len() - 4..], [143, 159, 177, 197]);
    assert!(told.len() < 40, "{told:?}");
    sim.measure(success(), Verdict::Fail, "worse").tick();
    assert_eq!(sim.launch().verdicts[0].message, "worse", "a verdict of another kind is told at once");
}

#[test]
fn the_same_numbers_are_not_written_again() {
    let mut sim = launched_to("one");
    let mut written = 0;
    for _ in 0..200 {
        let before = sim.state.clone();
        sim.measure(success(), Verdict::Insufficient, "12 of 200 runs").tick();
        written += i32::from(sim.state != before);
    }
    assert_eq!(written, 2, "that the window is not whole yet, and then the number");
}

#[test]
fn a_health_gate_tells_a_canary_that_grows_from_one_that_fails() {
    use Verdict::{Fail, Insufficient, Pass};
    for (size, ready, failing, asked_for, verdict, message) in [
        (2, 2, 0, 8, Pass, "2 pods ready for 3s"),
        (2, 2, 0, 12, Insufficient, "2/3 pods ready"), // a scaler asked for more a moment ago
        (3, 2, 0, 12, Insufficient, "2/3 pods ready"), // and the third starts
        (3, 2, 1, 12, Fail, "2/3 pods ready"),
        (1, 0, 0, 4, Fail, "0/1 pods ready"),
        (1, 0, 1, 4, Fail, "0/1 pods ready"),
    ] {
        let mut sim = Sim::with_stable();
        sim.seen.replicas = 8;
        sim.plan.canary_pods = 2;
        sim.plan.triggers.clear();
        sim.plan.stages[0].weight = 25;
        sim.plan.stages[0].gates[0].check = GateCheck::Health(seconds(3));
        sim.want(TEAL).until(60, "stage one", |sim| sim.launch_began("one"));
        sim.run(5);
        sim.seen.replicas = asked_for;
        let since = (ready == size).then_some(sim.now);
        *sim.pods(TEAL) = Pods { size, ready, failing, all_ready_since: since.map(|_| sim.launch().started_at), ..Pods::default() };
        if ready == 0 {
            sim.seen.pods.get_mut(OCHRE).unwrap().ready = 0; // else it would lose its traffic first
        }
        sim.look();
        let gate = &sim.launch().verdicts[0];
        assert_eq!((gate.verdict, gate.message.as_str()), (verdict, message), "{ready}/{size}, {failing} failing");
    }
}

// ---- triggers

#[test]
fn a_trigger_that_was_removed_and_comes_back_begins_to_count_anew() {
    let mut sim = launched_to("one");
    sim.say("success", Verdict::Insufficient).say("errors", Verdict::Fail).run(3);
    let errors = sim.plan.triggers.remove(0);
    sim.run(3);
    sim.plan.triggers.insert(0, errors);
    sim.run(4);
    assert_eq!(sim.launch().outcome, None, "three seconds of breach");
    sim.run(1);
    assert_eq!(sim.launch().reason.as_deref(), Some("TriggerFired"));
}

#[test]
fn pods_that_stay_unready_are_looked_at_when_their_time_is_over() {
    let mut sim = Sim::with_stable();
    sim.broken.push(TEAL);
    sim.want(TEAL).until(10, "a launch", |sim| sim.state.launch.is_some());
    let began = sim.now;
    let step = sim.tick();
    assert_eq!(step.wake_at, Some(after(began, seconds(1 + 120))), "one more than the pass that saw them first");
}

#[test]
fn a_sample_of_the_instant_at_which_the_launch_began_is_of_before() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(10, "a launch", |sim| sim.state.launch.is_some());
    for (sampled_at, outcome) in
        [(sim.now, None), (after(sim.now, Duration::from_millis(1)), Some(Outcome::RolledBack))]
    {
        let mut sim = sim.clone();
        sim.measure(CheckName::Trigger("bypass".to_owned()), Verdict::Fail, "1 bypass");
        sim.seen.measured.get_mut(&CheckName::Trigger("bypass".to_owned())).unwrap().sampled_at = sampled_at;
        sim.tick();
        assert_eq!(sim.launch().outcome, outcome);
    }
}

#[test]
fn samples_are_consecutive_when_one_was_lost_and_are_not_when_more_were() {
    for (apart, outcome) in [(60, Some(Outcome::RolledBack)), (70, Some(Outcome::RolledBack)), (71, None), (200, None)] {
        let mut sim = launched_to("one");
        sim.plan.interval = seconds(30);
        sim.plan.triggers[0].lasting = seconds(60);
        sim.measure(CheckName::Trigger("errors".to_owned()), Verdict::Fail, "9 of 10 fail").tick();
        sim.now = after(sim.now, seconds(apart - 1));
        sim.measure(CheckName::Trigger("errors".to_owned()), Verdict::Fail, "9 of 10 fail").tick();
        assert_eq!(sim.launch().outcome, outcome, "{apart} s apart, asked every 30 s");
    }
}

#[test]
fn restarts_are_counted_by_pod_and_what_a_pod_had_before_the_launch_hides_no_other() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).run(3);
    let old = Pods { restarts: [("pod-a".to_owned(), 5)].into(), ..Pods::default() };
    sim.seen.pods.insert(TEAL.to_owned(), old);
    sim.until(30, "stage one", |sim| sim.launch_began("one"));
    for (pod, count, outcome) in
        [("pod-b", 1, None), ("pod-a", 6, None), ("pod-b", 2, Some(Outcome::RolledBack))]
    {
        sim.pods(TEAL).restarts.insert(pod.to_owned(), count);
        sim.tick();
        assert_eq!(sim.launch().outcome, outcome, "{pod}");
    }
}

#[test]
fn a_status_remembers_as_many_restarts_as_any_trigger_may_ask_for_and_each_once() {
    let mut sim = launched_to("one");
    sim.plan.triggers = vec![trigger("restarts", TriggerCheck::Restarts(100, seconds(60)), 0)];
    sim.say("success", Verdict::Insufficient);
    sim.pods(TEAL).restarts = [("pod-a".to_owned(), 1), ("pod-b".to_owned(), 0)].into();
    sim.run(10);
    assert_eq!(sim.launch().restarts.len(), 1);
    sim.pods(TEAL).restarts.extend((0..40).map(|pod| (format!("pod-{pod}"), 1)));
    sim.run(10);
    assert_eq!(sim.launch().restarts.len(), 32);
}
