//! The edges of each rule: the very second, the last pod, the one more. Most of these tests are here because a search for
//! mutants (`make mutants`) found that nobody would have noticed.

use super::scenarios::launched_to;
use super::*;
use crate::api::{Contest, DecisionVerb};
use crate::launch::contest::contested;

impl Sim {
    /// What a check says from now on, with its numbers: nothing else is measured.
    pub(super) fn measure(&mut self, check: CheckName, verdict: Verdict, message: &str) -> &mut Self {
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
        *sim.pods(TEAL) =
            Pods { size, ready, failing, all_ready_since: since.map(|_| sim.launch().started_at), ..Pods::default() };
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
    sim.plan.hash.push('x');
    sim.run(3);
    sim.plan.triggers.insert(0, errors);
    sim.plan.hash.push('y');
    sim.run(4);
    assert_eq!(sim.launch().outcome, None, "three seconds of breach");
    sim.run(1);
    assert_eq!(sim.launch().reason.as_deref(), Some("TriggerFired"));
}

#[test]
fn a_plan_that_stands_in_for_one_that_cannot_be_read_forgets_no_breach() {
    let mut sim = launched_to("one");
    sim.plan.triggers[0].lasting = seconds(60);
    sim.say("success", Verdict::Insufficient).say("errors", Verdict::Fail).run(50);
    let errors = sim.plan.triggers.remove(0);
    let (reason, message) = ("Unreadable".to_owned(), "it is tried again".to_owned());
    let wanted = std::mem::replace(&mut sim.seen.wanted, WantedRevision::Unknown { reason, message });
    sim.run(1);
    sim.plan.triggers.insert(0, errors);
    sim.seen.wanted = wanted;
    sim.run(12);
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
    for (apart, outcome) in [(60, Some(Outcome::RolledBack)), (70, Some(Outcome::RolledBack)), (71, None), (200, None)]
    {
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
    for (pod, count, outcome) in [("pod-b", 1, None), ("pod-a", 6, None), ("pod-b", 2, Some(Outcome::RolledBack))] {
        sim.pods(TEAL).restarts.insert(pod.to_owned(), count);
        sim.tick();
        assert_eq!(sim.launch().outcome, outcome, "{pod}");
    }
}

/// A launch that stays in its stage for as long as a test takes, and is taken back by so many restarts in so many seconds.
fn counting_restarts(limit: i32, within: u64) -> Sim {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(10_000_000);
    sim.plan.triggers = vec![trigger("crash-loop", TriggerCheck::Restarts(limit, seconds(within)), 0)];
    sim.say("success", Verdict::Insufficient);
    sim
}

#[test]
fn a_status_remembers_as_many_restarts_as_any_trigger_may_ask_for_and_each_once() {
    let mut sim = counting_restarts(100, 60);
    sim.pods(TEAL).restarts = [("pod-a".to_owned(), 1), ("pod-b".to_owned(), 0)].into();
    sim.run(10);
    assert_eq!(sim.launch().restarts.len(), 1);
    sim.pods(TEAL).restarts.extend((0..600).map(|pod| (format!("pod-{pod}"), 1)));
    sim.plan.triggers[0].check = TriggerCheck::Restarts(1000, seconds(60));
    sim.run(10);
    assert_eq!(sim.launch().restarts.len(), 512);
}

#[test]
fn a_canary_that_restarted_slowly_for_days_is_taken_back_when_it_really_crashes() {
    let mut sim = counting_restarts(3, 300);
    for count in 1..=550 {
        sim.now = after(sim.now, seconds(600));
        sim.pods(TEAL).restarts =
            (0..4).map(|pod| (format!("pod-{pod}"), count / 4 + i32::from(pod < count % 4))).collect();
        sim.run(2);
        assert_eq!(sim.launch().outcome, None, "restart {count} of a slow row");
    }
    sim.now = after(sim.now, seconds(600));
    for (count, outcome) in [(138, None), (139, None), (140, Some(Outcome::RolledBack))] {
        sim.pods(TEAL).restarts.insert("pod-3".to_owned(), count);
        sim.run(2);
        assert_eq!(sim.launch().outcome, outcome, "{count}");
    }
}

#[test]
fn a_restart_of_60_seconds_ago_is_counted_and_one_of_61_is_not() {
    for (last, outcome) in [(3, None), (4, Some(Outcome::RolledBack))] {
        let mut sim = counting_restarts(3, 60);
        for (count, passes) in [(1, 1), (2, 60), (last, 1)] {
            sim.pods(TEAL).restarts = [("pod-a".to_owned(), count)].into();
            sim.run(passes);
        }
        assert_eq!(sim.launch().outcome, outcome, "after {last} restarts, the first of them 61 s ago");
    }
}

#[test]
fn a_trigger_that_comes_later_counts_no_restart_from_before_its_span() {
    let mut sim = counting_restarts(3, 60);
    for count in 1..=3 {
        sim.pods(TEAL).restarts = [("pod-a".to_owned(), count)].into();
        sim.run(if count < 3 { 100 } else { 62 });
    }
    sim.plan.triggers = vec![trigger("crash-loop", TriggerCheck::Restarts(3, seconds(150)), 0)];
    sim.run(2);
    assert_eq!(sim.launch().outcome, None, "one of them was in the last 150 s");
}

#[test]
fn what_is_forgotten_for_want_of_room_makes_no_restart_look_new() {
    let mut sim = counting_restarts(3, 300);
    for (apart, count) in (1..=512).map(|count| (600, count)).chain([(300, 513)]) {
        sim.now = after(sim.now, seconds(apart - 1));
        sim.pods(TEAL).restarts = [("pod-a".to_owned(), count)].into();
        sim.run(1);
        assert_eq!(sim.launch().outcome, None, "restart {count}");
    }
    assert_eq!(sim.launch().restarts.len(), 3, "the last two, and the one before them");
}

#[test]
fn restarts_for_which_there_is_no_room_count_all_the_same() {
    let mut sim = counting_restarts(600, 60);
    sim.pods(TEAL).restarts = (0..550).map(|pod| (format!("pod-{pod}"), 1)).collect();
    sim.run(2);
    assert_eq!(sim.launch().outcome, None);
    sim.pods(TEAL).restarts = (0..600).map(|pod| (format!("pod-{pod}"), 1)).collect();
    sim.run(2);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
}

#[test]
fn a_clock_that_is_set_back_blinds_no_trigger_and_holds_up_no_launch() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(1_000_000);
    sim.say("success", Verdict::Insufficient);
    sim.now = Timestamp::from_second(sim.now.as_second() - 3600).unwrap();
    sim.run(2);
    sim.say("bypass", Verdict::Fail).run(2);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack), "{:?}", sim.launch());
    let mut contested = launched_to("one");
    let by = "argocd".to_owned();
    contested.state.launch.as_mut().unwrap().contest =
        Some(Contest { times: 3, at: after(contested.now, seconds(86_400)), by });
    contested.say("success", Verdict::Insufficient).run(70);
    assert_eq!(contested.launch().contest, None, "it is forgotten after a calm minute");
    let mut quiet = Sim::with_stable();
    quiet.want(TEAL).run(1);
    quiet.now = Timestamp::from_second(quiet.now.as_second() - 3600).unwrap();
    quiet.until(10, "a launch", |sim| sim.state.launch.is_some());
}

#[test]
fn a_launch_that_is_scaled_to_nothing_takes_the_canarys_traffic_before_its_pods() {
    let mut sim = launched_to("two");
    let (size, share) = (sim.pods(TEAL).size, sim.launch().weight);
    assert!(size > 0 && share > 5, "{size} {share}");
    sim.seen.replicas = 0;
    let step = sim.decide();
    sim.commit(&step);
    assert_eq!((sim.launch().weight, step.wanted.falling, step.wanted.sizes[TEAL]), (0, true, size));
    sim.perform(&step.wanted);
    let gateway = |sim: &mut Sim, says: Programmed| match &mut sim.seen.route {
        Route::Seen { programmed, .. } => *programmed = says,
        other => panic!("{other:?}"),
    };
    gateway(&mut sim, Programmed::Pending);
    assert_eq!((sim.weight(), sim.decide().wanted.sizes[TEAL]), (0, size), "the gateway sends it {share}% still");
    gateway(&mut sim, Programmed::Yes);
    sim.until(10, "no canary", |sim| sim.seen.pods[TEAL].size == 0);
    assert_eq!(sim.pods(OCHRE).size, 4, "stable keeps what it had when the launch began");
    sim.seen.replicas = 4;
    sim.until(30, "its share again", |sim| sim.weight() == share && sim.launch_began("two"));
}

#[test]
fn a_status_that_is_lost_mid_launch_costs_the_canary_its_pods_ten_seconds_later_and_its_next_launch_none() {
    let mut sim = launched_to("one");
    sim.seen.route = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Yes };
    sim.state = State::default();
    let step = sim.tick();
    assert_eq!((sim.stable(), step.wanted.sizes[TEAL]), (OCHRE, 1), "the spec asks for it still");
    sim.until(10, "its launch", |sim| sim.state.launch.is_some());
    assert_eq!(sim.seen.pods[TEAL].size, 1);
    let mut paused = launched_to("one");
    paused.seen.route = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Yes };
    (paused.state, paused.seen.paused) = (State::default(), true);
    paused.run(5);
    assert_eq!(paused.seen.pods[TEAL].size, 1);
    paused.until(10, "no pods", |sim| sim.seen.pods[TEAL].size == 0);
}

#[test]
fn after_a_lost_status_those_stay_for_a_while_that_have_pods_and_do_not_serve() {
    let mut sim = launched_to("one");
    sim.state = State::default();
    sim.seen.pods.insert("umber".to_owned(), Pods::default());
    let state = sim.look().state;
    let stay: Vec<&str> = state.retiring.iter().map(|retiring| &*retiring.revision).collect();
    assert_eq!((state.stable.as_ref().map(|stable| &*stable.revision), stay), (Some(OCHRE), vec![TEAL]));
}

#[test]
fn pods_of_a_share_that_an_edit_lowered_stay_until_the_gateway_has_taken_the_lower_one() {
    let mut sim = launched_to("two");
    sim.seen.replicas = 10;
    sim.run(2);
    let (size, weight) = (sim.pods(TEAL).size, sim.launch().weight);
    assert!(size > 1 && weight > 5, "{size} {weight}");
    sim.say("success", Verdict::Insufficient);
    sim.plan.stages.truncate(1);
    "looser".clone_into(&mut sim.plan.hash);
    let step = sim.decide();
    sim.commit(&step);
    assert_eq!((sim.launch().weight, step.wanted.sizes[TEAL]), (5, size), "the gateway sends it {weight}% still");
    sim.perform(&step.wanted);
    sim.until(10, "fewer pods", |sim| sim.seen.pods[TEAL].size == 1 && sim.launch_began("one"));
}

// ---- going back

fn told(sim: &Sim, reason: &str) -> Vec<(String, bool)> {
    let events = sim.events.iter().filter(|event| event.reason == reason);
    events.map(|event| (event.message.clone(), event.warning)).collect()
}

#[test]
fn a_deadline_passes_at_its_very_second() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(60);
    sim.say("success", Verdict::Insufficient);
    let due = after(sim.launch().entered_at, seconds(60));
    sim.until(100, "rollback", |sim| sim.launch().outcome.is_some());
    assert_eq!((sim.now, sim.launch().reason.as_deref()), (due, Some("DeadlinePassed")));
}

#[test]
fn a_launch_that_its_deadline_holds_says_so_once_and_shows_why_until_a_person_acts() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].deadline = seconds(30);
    sim.plan.stages[0].then = DeadlineOutcome::Pause;
    sim.say("success", Verdict::Fail).run(100);
    let why = "one did not finish within 30s: success: success says Fail";
    assert_eq!(sim.launch().message.as_deref(), Some(why));
    assert_eq!(told(&sim, "DeadlinePassed"), [(format!("{why}; held until a person decides Resume or Abort"), true)]);
}

#[test]
fn a_first_deployment_that_is_superseded_has_not_failed() {
    let mut sim = Sim::fresh();
    sim.broken.push(OCHRE);
    sim.run(3);
    sim.want(TEAL).run(1);
    assert_eq!(sim.launch().outcome, Some(Outcome::Superseded));
    assert!(sim.state.rejected.is_empty());
    sim.until(10, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn each_rejected_revision_stays_rejected_and_only_it_loses_its_trust() {
    let mut sim = Sim::with_stable();
    for revision in [TEAL, "mauve", "lime"] {
        sim.say("bypass", Verdict::Pass).want(revision);
        sim.until(60, "traffic", |sim| sim.weight() == 5);
        sim.say("bypass", Verdict::Fail).run(3);
    }
    let rejected: Vec<_> = sim.state.rejected.iter().map(|rejected| rejected.revision.as_str()).collect();
    assert_eq!(rejected, ["lime", "mauve", TEAL]);
    assert_eq!(sim.state.trusted.len(), 1);
}

#[test]
fn a_canary_that_had_traffic_drains_though_its_weight_was_0_when_it_was_taken_back() {
    let mut sim = launched_to("two");
    sim.seen.drain = Some(seconds(600));
    sim.state.launch.as_mut().unwrap().weight = 0; // such as a launch that gives way on a contested route
    sim.say("bypass", Verdict::Fail).run(30);
    assert_eq!((sim.weight(), sim.launch().phase), (0, Phase::Complete));
    assert!(sim.seen.pods[TEAL].size > 0, "its runs are waited for");
}

#[test]
fn a_canary_that_an_older_sluice_gave_traffic_to_drains_too() {
    let mut sim = launched_to("two");
    sim.seen.drain = Some(seconds(600));
    sim.state.launch.as_mut().unwrap().served = false; // it did not remember that
    sim.say("bypass", Verdict::Fail).run(30);
    assert!(sim.seen.pods[TEAL].size > 0, "its runs are waited for");
}

#[test]
fn without_pods_for_anybody_a_canary_is_taken_back_at_once() {
    let mut sim = launched_to("two");
    sim.seen.replicas = 0;
    sim.pods(OCHRE).ready = 0;
    sim.want("mauve").run(1);
    assert_eq!((sim.weight(), sim.launch().outcome), (0, Some(Outcome::Superseded)));
}

#[test]
fn beside_a_dead_stable_a_share_of_some_requests_is_not_widened_on_the_way_back() {
    let mut sim = Sim::with_stable();
    let only: Vec<crate::api::RequestMatch> =
        serde_json::from_str(r#"[{"headers": [{"name": "x-risk", "value": "low"}]}]"#).unwrap();
    sim.plan.stages[0].only.clone_from(&only);
    sim.want(TEAL).until(60, "25 % of all is next", |sim| {
        let mut next = sim.clone();
        next.tick();
        next.state.launch.is_some_and(|launch| launch.weight == 25)
    });
    sim.look(); // the status says 25 % of all; the leader dies before the route does
    assert_eq!((sim.launch().weight, sim.launch().only.len()), (25, 0));
    sim.broken.push(OCHRE);
    sim.settle();
    sim.say("bypass", Verdict::Fail).run(10);
    let shares = Shares::Matched { stable: OCHRE.into(), canary: TEAL.into(), weight: 5, only };
    assert_eq!(sim.seen.route, Route::Seen { shares, programmed: Programmed::Yes });
}

#[test]
fn after_a_wait_for_a_dead_stable_the_gateway_still_has_its_time_to_answer() {
    let mut sim = launched_to("two");
    sim.broken.push(OCHRE);
    sim.settle();
    sim.say("bypass", Verdict::Fail).run(120);
    assert_eq!((sim.weight(), sim.launch().phase), (25, Phase::RollingBack));
    sim.broken.clear();
    sim.settle();
    sim.tick();
    let fallen = sim.now;
    unconfirmed(&mut sim, Programmed::Pending);
    while sim.launch().phase == Phase::RollingBack {
        let step = sim.look();
        let waits = sim.launch().phase == Phase::RollingBack;
        assert!(!waits || step.wake_at == Some(after(sim.seen.gone_since.unwrap(), seconds(120))));
    }
    assert!(sim.now >= after(fallen, seconds(120)) && sim.now <= after(fallen, seconds(121)));
    let end = "teal has weight 0, and the gateway did not confirm it for 2m: bypass: bypass says Fail";
    assert_eq!(told(&sim, "RolledBack"), [(end.to_owned(), true)]);
}

/// The route as it is, and what the gateway says of it.
fn unconfirmed(sim: &mut Sim, programmed: Programmed) {
    let Route::Seen { programmed: said, .. } = &mut sim.seen.route else { panic!("no route") };
    *said = programmed;
}

/// Taken back from 25 %, and the gateway says this of the weight 0.
fn fallen(programmed: Programmed) -> Sim {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail).tick();
    assert_eq!((sim.launch().phase, sim.launch().weight), (Phase::RollingBack, 0));
    unconfirmed(&mut sim, programmed);
    sim
}

/// Seconds until the launch has ended; as long as it has not, the canary keeps its pods.
fn seconds_to_the_end(sim: &mut Sim) -> u64 {
    let began = sim.now;
    while sim.launch().phase == Phase::RollingBack {
        let step = sim.look();
        assert!(step.wanted.sizes[TEAL] > 0, "the gateway may still send to {TEAL}");
        assert!(sim.now < after(began, seconds(600)), "the wait does not end");
    }
    u64::try_from(sim.now.duration_since(began).as_secs()).unwrap()
}

#[test]
fn a_gateway_that_is_deaf_for_a_minute_finds_the_canarys_pods_until_it_hears_that_its_weight_is_0() {
    let mut sim = fallen(Programmed::Pending);
    for _ in 0..60 {
        assert!(sim.look().wanted.sizes[TEAL] > 0);
    }
    unconfirmed(&mut sim, Programmed::Yes);
    sim.look();
    assert_eq!(sim.launch().phase, Phase::Complete);
    assert_eq!(told(&sim, "RolledBack"), [("teal has no traffic: bypass: bypass says Fail".to_owned(), true)]);
}

#[test]
fn the_gateways_time_begins_anew_with_whoever_comes_to_lead_after_an_outage() {
    let mut sim = fallen(Programmed::Pending);
    sim.look();
    sim.now = after(sim.now, seconds(180)); // nobody could say anything
    sim.seen.gone_since = None; // the memory of a process that leads again
    assert_eq!(seconds_to_the_end(&mut sim), 121);
}

#[test]
fn the_gateways_time_begins_when_the_weight_of_0_is_seen_and_not_when_it_was_decided() {
    let mut sim = launched_to("two");
    let split = sim.seen.route.clone();
    sim.say("bypass", Verdict::Fail).tick();
    for _ in 0..180 {
        sim.seen.route = split.clone(); // the write was refused
        sim.look();
    }
    sim.seen.route = Route::Seen {
        shares: Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 0 },
        programmed: Programmed::Pending,
    };
    assert_eq!(seconds_to_the_end(&mut sim), 121);
}

#[test]
fn a_gateway_that_never_said_a_word_is_waited_for_half_a_minute_and_for_a_canary_without_traffic_not_at_all() {
    let silent = || Programmed::Silent("nobody".to_owned());
    assert_eq!(seconds_to_the_end(&mut fallen(silent())), 31);
    let mut sim = launched_to("two");
    sim.state.launch.as_mut().unwrap().served = false;
    sim.state.launch.as_mut().unwrap().weight = 0;
    sim.seen.route = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Pending };
    sim.say("bypass", Verdict::Fail);
    sim.look();
    unconfirmed(&mut sim, Programmed::Pending);
    sim.look();
    assert_eq!(sim.launch().phase, Phase::Complete);
}

#[test]
fn how_a_launch_was_taken_back_is_told_as_a_warning_when_it_failed_and_as_news_when_it_did_not() {
    let mut bad = launched_to("two");
    bad.say("bypass", Verdict::Fail).run(5);
    assert_eq!(told(&bad, "RollingBack"), [("teal at 25%: bypass: bypass says Fail".to_owned(), true)]);
    assert_eq!(told(&bad, "RolledBack"), [("teal has no traffic: bypass: bypass says Fail".to_owned(), true)]);

    let mut first = Sim::fresh();
    first.run(1);
    first.say("bypass", Verdict::Fail).run(5);
    assert_eq!(told(&first, "Failed"), [("ochre was taken out: bypass: bypass says Fail".to_owned(), true)]);

    let mut other = launched_to("two");
    other.want("mauve").run(3);
    assert_eq!(told(&other, "TakenBack"), [("teal has no traffic: the spec asks for mauve now".to_owned(), false)]);
}

#[test]
fn a_fall_that_overrules_a_late_success_leaves_others_their_drain() {
    let mut sim = launched_to("three");
    sim.seen.drain = Some(seconds(600));
    sim.until(60, "teal stable", |sim| sim.stable() == TEAL);
    let mauve = crate::api::RetiringRevision { revision: "mauve".to_owned(), since: sim.now, idle: false };
    sim.state.retiring.push(mauve);
    sim.seen.pods.insert("mauve".to_owned(), ready_pods(1, sim.now));
    sim.seen.decision = Some(Decision {
        launch: sim.launch().id.clone(),
        revision: TEAL.to_owned(),
        outcome: Outcome::RolledBack,
        reason: "TriggerFired".to_owned(),
        message: "bypass: 1".to_owned(),
        at: sim.now,
    });
    sim.run(30);
    assert_eq!(sim.stable(), OCHRE);
    assert_eq!(sim.seen.pods["mauve"].size, 1, "its runs are waited for");
    assert!(sim.state.retiring.iter().all(|retiring| retiring.revision != OCHRE), "{:?}", sim.state.retiring);
}

// ---- going forward

#[test]
fn an_edit_is_launched_when_it_was_left_alone_for_three_seconds_and_a_first_revision_at_once() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).tick();
    let seen = sim.now;
    sim.until(10, "a launch", |sim| sim.state.launch.is_some());
    assert_eq!(sim.now, after(seen, seconds(3)));
    assert_eq!(sim.launch().id, "refund-agent-1");
    let mut first = Sim::fresh();
    first.tick();
    assert_eq!(first.launch().number, 1);
}

#[test]
fn a_launch_says_what_begins_beside_what() {
    let mut sim = Sim::fresh();
    sim.until(20, "ochre stable", |sim| sim.stable() == OCHRE);
    sim.want(TEAL).until(100, "teal stable", |sim| sim.stable() == TEAL);
    sim.want(OCHRE).until(30, "ochre stable", |sim| sim.stable() == OCHRE);
    let told: Vec<_> = told(&sim, "LaunchStarted").into_iter().map(|(message, _)| message).collect();
    assert_eq!(
        told,
        [
            "refund-agent-1: first deployment of ochre",
            "refund-agent-2: teal beside stable ochre",
            "refund-agent-3: back to trusted ochre from teal",
        ]
    );
}

#[test]
fn every_rise_is_told_with_what_justifies_it() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(100, "stable", |sim| sim.stable() == TEAL);
    let told: Vec<_> = told(&sim, "WeightRaised").into_iter().map(|(message, _)| message).collect();
    assert_eq!(
        told,
        [
            "refund-agent-1: teal to 5%: the launch begins",
            "refund-agent-1: teal to 25%: one passed: success: success says Pass",
            "refund-agent-1: teal to 50%: two passed: success: success says Pass",
            "refund-agent-1: teal to 100%: three passed: success: success says Pass",
        ]
    );
}

#[test]
fn a_revision_that_is_launched_again_leaves_others_their_drain() {
    let mut sim = Sim::with_stable();
    sim.seen.drain = Some(seconds(600));
    for revision in ["mauve", TEAL] {
        sim.want(revision).until(100, "stable", |sim| sim.stable() == revision);
    }
    sim.want("mauve").until(10, "a launch", |sim| sim.launch().revision == "mauve");
    let retiring: Vec<_> = sim.state.retiring.iter().map(|retiring| retiring.revision.as_str()).collect();
    assert_eq!(retiring, [OCHRE, "mauve"]);
    sim.until(10, "stable", |sim| sim.stable() == "mauve");
    let retiring: Vec<_> = sim.state.retiring.iter().map(|retiring| retiring.revision.as_str()).collect();
    assert_eq!(retiring, [OCHRE, TEAL]);
}

#[test]
fn only_pods_that_restarted_before_the_launch_are_remembered() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).run(3);
    let restarts = [("pod-a".to_owned(), 2), ("pod-b".to_owned(), 0)].into();
    sim.seen.pods.insert(TEAL.to_owned(), Pods { restarts, ..Pods::default() });
    sim.tick();
    let known: Vec<_> = sim.launch().restarts.iter().map(|restart| (restart.pod.as_str(), restart.count)).collect();
    assert_eq!(known, [("pod-a", 2)]);
}

#[test]
fn a_stage_lasts_its_minimum_duration_to_the_second() {
    let mut sim = launched_to("one");
    let began = sim.launch().began_at.unwrap();
    sim.until(60, "stage two", |sim| sim.launch().stage == 1);
    assert_eq!(sim.now, after(began, seconds(10)));
}

#[test]
fn new_pods_wait_two_seconds_for_gateways_to_know_them_and_those_of_a_first_deployment_do_not() {
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(20, "pods", |sim| sim.seen.pods.get(TEAL).is_some_and(|pods| pods.ready > 0));
    let ready = sim.now;
    let step = sim.tick();
    assert_eq!(step.wake_at, Some(after(ready, seconds(2))));
    assert_eq!(sim.launch().message.as_deref(), Some("waiting until the gateway knows the pods of teal"));
    sim.until(10, "traffic", |sim| sim.weight() == 5);
    assert_eq!(sim.now, after(ready, seconds(2)));

    let mut first = Sim::fresh();
    first.until(10, "ready pods", |sim| sim.seen.pods.get(OCHRE).is_some_and(|pods| pods.ready > 0));
    first.tick();
    assert_eq!(first.launch().weight, 100);
}

#[test]
fn pods_in_trouble_are_waited_for_with_the_reason() {
    let trouble: [fn(&mut Pods); 3] = [
        |pods| pods.image_pull = Some("agent: no such image".to_owned()),
        |pods| pods.crash_loop = Some("agent: exit 1".to_owned()),
        |pods| pods.refused = Some("exceeded quota".to_owned()),
    ];
    for (trouble, why) in trouble.iter().zip(["agent: no such image", "agent: exit 1", "exceeded quota"]) {
        let mut sim = Sim::with_stable();
        sim.broken.push(TEAL);
        sim.want(TEAL).until(10, "pods", |sim| sim.seen.pods.contains_key(TEAL));
        trouble(sim.pods(TEAL));
        sim.tick();
        assert_eq!(sim.launch().message, Some(format!("waiting for pods of teal: 0/1 ready ({why})")));
    }
}

#[test]
fn what_the_gateway_has_not_confirmed_is_told() {
    let split = |weight| Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight };
    for (route, message) in [
        (Route::Missing, "waiting for the HTTPRoute to be there"),
        (Route::Unusable("no rules".to_owned()), "the HTTPRoute cannot be used: no rules"),
        (Route::Unshared("no room".to_owned()), "no room"),
        (
            Route::Seen { shares: split(1), programmed: Programmed::Yes },
            "waiting for 5% to be read back from the HTTPRoute",
        ),
        (Route::Seen { shares: split(5), programmed: Programmed::Pending }, "waiting for the gateway to take 5%"),
        (Route::Seen { shares: split(5), programmed: Programmed::Silent("create it".to_owned()) }, "create it"),
        (
            Route::Seen { shares: split(5), programmed: Programmed::Refused("no such port".to_owned()) },
            "the gateway refuses the HTTPRoute: no such port",
        ),
    ] {
        let mut sim = launched_to("one");
        sim.run(5);
        sim.seen.route = route;
        for _ in 0..60 {
            sim.look();
        }
        assert_eq!((sim.launch().stage, sim.launch().message.as_deref()), (0, Some(message)));
        assert_eq!(sim.launch().began_at, None, "its window begins anew: {message}");
    }
}

#[test]
fn a_promotion_says_what_it_waits_for() {
    let at_100 =
        |sim: &Sim| sim.state.launch.as_ref().is_some_and(|it| it.phase == Phase::Promoting && it.weight == 100);
    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(100, "100 %", |sim| sim.weight() == 100);
    let mut gateway = sim.clone();
    let Route::Seen { programmed, .. } = &mut gateway.seen.route else { unreachable!() };
    *programmed = Programmed::Pending;
    gateway.look();
    assert_eq!(gateway.launch().message.as_deref(), Some("waiting for the gateway to take 100%"));
    sim.look();
    assert_eq!(sim.launch().message.as_deref(), Some("moving the agent's Service"));
    sim.run(1);
    sim.seen.route = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Pending };
    sim.look();
    assert_eq!(sim.launch().message.as_deref(), Some("waiting for the route's rule to be restored"));

    let mut first = Sim::fresh();
    first.until(20, "100 %", at_100);
    first.seen.service = None;
    first.look();
    assert_eq!(
        first.launch().message.as_deref(),
        Some("moving the agent's Service"),
        "the gateway is asked afterwards"
    );
}

#[test]
fn an_agent_that_is_scaled_to_nothing_holds_in_a_stage_and_goes_on_in_a_promotion() {
    let mut sim = launched_to("one");
    sim.seen.replicas = 0;
    sim.run(2);
    assert_eq!(sim.launch().message.as_deref(), Some("held: spec.replicas is 0, so nothing can be judged"));

    let mut sim = Sim::with_stable();
    sim.want(TEAL).until(100, "100 %", |sim| sim.weight() == 100);
    sim.seen.replicas = 0;
    *sim.pods(TEAL) = Pods::default(); // the canary's pods are the first to go
    for _ in 0..3 {
        sim.look();
        assert_eq!(sim.launch().weight, 100, "it does not flap");
    }
    sim.until(20, "stable", |sim| sim.stable() == TEAL);
}

#[test]
fn a_first_deployment_waits_half_a_minute_for_its_gateway_to_the_second() {
    let mut sim = Sim::fresh();
    let silent = Route::Seen { shares: Shares::AtRest, programmed: Programmed::Silent("create it".into()) };
    sim.seen.route.clone_from(&silent);
    sim.until(20, "the wait", Sim::launch_waits_for_gateway);
    let (began, step) = (sim.now, sim.look());
    assert_eq!(step.wake_at, Some(after(began, seconds(30))));
    sim.until(60, "stable", |sim| sim.stable() == OCHRE);
    assert_eq!(sim.now, after(began, seconds(30)));
}

impl Sim {
    fn launch_waits_for_gateway(&self) -> bool {
        let message = self.state.launch.as_ref().and_then(|launch| launch.message.as_deref());
        message == Some("waiting for the gateway to take the HTTPRoute")
    }
}

#[test]
fn an_edited_plan_goes_on_in_the_highest_stage_that_is_not_above_the_weight() {
    for (weights, stage, weight) in [
        (&[5, 10, 25, 50][..], "three", 25), // as far as it was
        (&[5, 20, 30, 50], "two", 20),
        (&[30, 50], "one", 25), // it waits in the first until it may rise
        (&[0, 5, 100], "two", 5),
    ] {
        let mut sim = launched_to("two");
        sim.say("success", Verdict::Insufficient);
        let names = ["one", "two", "three", "four"];
        sim.plan.stages = weights.iter().zip(names).map(|(weight, name)| super::stage(name, *weight)).collect();
        sim.plan.hash = "edited".to_owned();
        sim.seen.paused = true; // nothing else moves it
        let launch = sim.decide().state.launch.unwrap();
        assert_eq!((launch.stage_name.as_str(), launch.weight), (stage, weight), "{weights:?}");
        assert_eq!(usize::try_from(launch.stages).unwrap(), weights.len());
    }
}

#[test]
fn a_stage_without_minimum_duration_is_left_as_soon_as_its_gates_pass() {
    let mut sim = Sim::with_stable();
    sim.plan.stages.iter_mut().for_each(|stage| stage.min_duration = Duration::ZERO);
    sim.want(TEAL).until(60, "stable", |sim| sim.stable() == TEAL); // and no pass asks to be woken in the past
}

// ---- soak and drain

#[test]
fn a_soak_is_told_with_its_end_and_who_would_come_back() {
    let mut sim = Sim::with_stable();
    sim.plan.soak = seconds(100);
    sim.want(TEAL).until(200, "soaking", |sim| sim.launch_began("soak"));
    let until = after(sim.now, seconds(100));
    let message = format!("refund-agent-1: teal is stable and soaks until {until:.0}: triggers still return to ochre");
    assert_eq!(told(&sim, "Soaking"), [(message, false)]);
}

#[test]
fn that_another_revision_was_rejected_is_in_nobodys_way() {
    let mut sim = Sim::with_stable();
    sim.want("lime").until(60, "traffic", |sim| sim.weight() == 5);
    sim.say("bypass", Verdict::Fail).run(3);
    sim.say("bypass", Verdict::Pass);
    sim.plan.soak = seconds(1000);
    sim.want(TEAL).until(200, "soaking", |sim| sim.launch_began("soak"));
    sim.want("mauve").until(10, "the next launch", |sim| sim.launch().revision == "mauve");
}

#[test]
fn as_many_trusted_revisions_are_kept_as_the_history_has_beside_stable() {
    let mut sim = Sim::with_stable();
    sim.seen.history_limit = 2;
    for revision in [TEAL, "mauve", "lime", "azure"] {
        sim.want(revision).until(100, "stable", |sim| sim.stable() == revision);
    }
    let trusted: Vec<_> = sim.state.trusted.iter().map(|trusted| trusted.revision.as_str()).collect();
    assert_eq!(trusted, ["azure", "lime", "mauve"]);
}

#[test]
fn pods_of_a_revision_without_traffic_go_after_ten_seconds_to_the_second() {
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail);
    sim.until(10, "the end", |sim| sim.launch().phase == Phase::Complete);
    let gone = sim.state.retiring[0].since;
    sim.until(30, "no pods", |sim| sim.seen.pods[TEAL].size == 0);
    assert_eq!(sim.now, after(gone, seconds(10)));
}

#[test]
fn a_revision_without_pods_has_no_runs_to_wait_for() {
    let mut sim = launched_to("two");
    sim.seen.drain = Some(seconds(600));
    sim.say("bypass", Verdict::Fail);
    sim.until(10, "the end", |sim| sim.launch().phase == Phase::Complete);
    sim.run(5);
    assert_eq!(draining(&sim.state, &sim.seen).collect::<Vec<_>>(), [TEAL]);
    *sim.pods(TEAL) = Pods::default(); // its node is gone, and somebody scaled it to nothing
    assert_eq!(draining(&sim.state, &sim.seen).count(), 0);
    sim.run(10);
    assert!(sim.state.retiring.is_empty());
}

#[test]
fn a_drain_deadline_that_passes_with_the_soak_warns_nobody() {
    let mut sim = Sim::with_stable();
    (sim.plan.soak, sim.seen.drain) = (seconds(100), Some(seconds(100)));
    sim.want(TEAL).until(300, "the end", |sim| sim.stable() == TEAL && sim.launch().phase == Phase::Complete);
    sim.run(2);
    assert_eq!(sim.seen.pods[OCHRE].size, 0);
    assert!(sim.events.iter().all(|event| !event.warning), "{:?}", sim.events);
}

// ---- people

fn answers(sim: &Sim) -> Vec<&str> {
    sim.state.answers.iter().map(|answer| answer.reason.as_str()).collect()
}

#[test]
fn a_decision_of_the_second_in_which_the_agent_was_made_is_about_it() {
    let mut sim = launched_to("one");
    sim.seen.people.agent_made_at = sim.now;
    let now = sim.now;
    sim.decides_with("a", DecisionVerb::Abort, |given| given.made_at = now).run(1);
    assert_eq!(sim.weight(), 0);
}

#[test]
fn a_pause_says_what_it_holds() {
    let mut sim = launched_to("one");
    sim.decides("p", DecisionVerb::Pause).run(1);
    assert_eq!(answers(&sim), ["refund-agent-1 holds at 5% until Resume"]);
    let mut rest = launched_to("one");
    rest.say("bypass", Verdict::Fail).run(10);
    rest.decides("p", DecisionVerb::Pause).run(1);
    assert_eq!(answers(&rest), ["no launch begins until Resume"]);
}

#[test]
fn promote_skips_what_is_left_of_a_minimum_duration_and_says_when_nothing_is() {
    for (age, answer) in [
        (8, "what is left of the minimum duration of one is skipped: its gates decide"),
        (9, "one has no minimum duration left: its gates decide"),
    ] {
        let mut sim = launched_to("one");
        sim.say("success", Verdict::Insufficient).run(age);
        sim.decides("p", DecisionVerb::Promote).run(1);
        assert_eq!(answers(&sim), [answer]);
    }
}

#[test]
fn a_decision_about_gates_that_comes_too_late_is_told_why() {
    let mut promoting = Sim::with_stable();
    promoting.want(TEAL).until(100, "100 %", |sim| sim.weight() == 100);
    promoting.decides("p", DecisionVerb::Promote).run(1);
    assert_eq!(answers(&promoting), ["refund-agent-1 has passed its gates"]);
    let mut back = launched_to("two");
    back.broken.push(OCHRE);
    back.settle();
    back.say("bypass", Verdict::Fail).run(2);
    back.decides("p", DecisionVerb::Promote).run(1);
    assert_eq!(answers(&back), ["refund-agent-1 is taken back"]);
}

#[test]
fn a_launch_carries_thirty_two_interventions_and_a_decision_about_two_gates_is_two() {
    let mut sim = launched_to("one");
    sim.plan.stages[0].min_duration = seconds(10_000);
    let two = || vec!["success".to_owned(), "success".to_owned()];
    for n in 0..15 {
        sim.decides_with(&format!("o{n:02}"), DecisionVerb::Override, |given| given.gates = two()).run(1);
        sim.read_back();
    }
    sim.decides_with("o20", DecisionVerb::Override, |given| given.gates = vec!["success".to_owned()]).run(1);
    sim.read_back();
    sim.decides_with("o21", DecisionVerb::Override, |given| given.gates = two()).run(1);
    assert_eq!(sim.launch().interventions.len(), 31, "one more fits, two do not");
    sim.read_back();
    sim.decides_with("o22", DecisionVerb::Override, |given| given.gates = vec!["success".to_owned()]).run(1);
    assert_eq!(sim.launch().interventions.len(), 32);
}

#[test]
fn each_kind_of_decision_has_its_own_event() {
    for (verb, reason, warning) in [
        (DecisionVerb::Abort, "Aborted", false),
        (DecisionVerb::Pause, "Paused", false),
        (DecisionVerb::Promote, "WaitSkipped", false),
        (DecisionVerb::Override, "GatesOverridden", true),
    ] {
        let mut sim = launched_to("one");
        sim.decides_with("d", verb, |given| given.gates = vec!["success".to_owned()]).run(1);
        let told = told(&sim, reason);
        assert_eq!(told.len(), 1, "{verb:?}");
        assert!(told[0].0.starts_with(&format!("{verb:?} by jane: ")) && told[0].1 == warning, "{told:?}");
    }
    let mut sim = launched_to("one");
    sim.decides("r", DecisionVerb::Resume).run(1);
    assert_eq!(told(&sim, "DecisionIgnored").len(), 1);
    sim.decides("p", DecisionVerb::Pause).run(1);
    sim.decides("q", DecisionVerb::Resume).run(1);
    assert_eq!(told(&sim, "Resumed").len(), 1);
    sim.say("bypass", Verdict::Fail).run(5);
    sim.decides_with("t", DecisionVerb::Retry, |given| given.revision = Some(TEAL.to_owned())).run(1);
    assert_eq!(told(&sim, "RetryAllowed").len(), 1);
}

// ---- a contested route

#[test]
fn a_launch_gives_way_for_a_minute_and_then_for_twice_as_long_each_time() {
    for (times, pause) in [(3, "1m"), (4, "2m"), (5, "4m"), (6, "8m"), (7, "16m"), (8, "16m"), (100, "16m")] {
        let mut sim = launched_to("one");
        let launch = sim.state.launch.as_mut().unwrap();
        launch.contest = Some(Contest { times, at: sim.now, by: "argocd".to_owned() });
        let told = contested(sim.launch(), &sim.seen).unwrap();
        assert!(told.ends_with(&format!("a share is tried again {pause} after the last time")), "{told}");
    }
}

#[test]
fn a_launch_that_gave_way_tries_again_after_its_minute_to_the_second() {
    let mut sim = launched_to("one");
    let launch = sim.state.launch.as_mut().unwrap();
    (launch.weight, launch.began_at) = (0, None);
    launch.contest = Some(Contest { times: 3, at: sim.now, by: "argocd".to_owned() });
    let (since, step) = (sim.now, sim.tick());
    assert_eq!(step.wake_at, Some(after(since, seconds(60))));
    sim.until(100, "a share", |sim| sim.launch().weight == 5);
    assert_eq!(sim.now, after(since, seconds(60)));
    sim.until(10, "its window", |sim| sim.launch_began("one"));
    let there = sim.now;
    sim.say("success", Verdict::Insufficient).until(100, "calm", |sim| sim.launch().contest.is_none());
    assert_eq!(sim.now, after(there, seconds(60)), "and forgets after a calm minute");
}

#[test]
fn a_share_that_could_not_be_written_is_no_contest_on_a_route_that_others_wrote_last() {
    let mut sim = Sim::with_stable();
    sim.seen.route_version.rules_by = Some("argocd-controller".to_owned());
    sim.want(TEAL).until(20, "5 %", |sim| sim.state.launch.as_ref().is_some_and(|launch| launch.weight == 0));
    sim.run(1);
    for _ in 0..10 {
        sim.look(); // the status says 5 %, and its write does not come through
    }
    assert_eq!((sim.launch().weight, sim.weight(), sim.launch().contest.as_ref()), (5, 0, None));
}

// ---- the share that the canary really got

fn stalled(sim: &Sim) -> String {
    let mut conditions = Vec::new();
    super::conditions(&mut conditions, &sim.state, &sim.seen, Some(1), sim.now);
    conditions.into_iter().find(|condition| condition.type_ == "Stalled").unwrap().reason
}

#[test]
fn runs_of_a_canary_without_a_share_are_no_lie_of_the_gateway() {
    let mut sim = Sim::with_stable();
    sim.plan.stages[0].weight = 0;
    sim.want(TEAL).until(30, "stage one", |sim| sim.launch_began("one"));
    sim.seen.runs = Some(Runs { canary: 100, stable: 100, from: sim.now }); // somebody tries it by its own Service
    sim.tick();
    assert_eq!(stalled(&sim), "Fine");
    sim.until(30, "stage two", |sim| sim.launch().stage == 1);
}

#[test]
fn a_rollback_that_waits_for_stable_asks_for_stable_and_not_for_the_gateway() {
    let mut sim = launched_to("two");
    sim.broken.push(OCHRE);
    sim.settle();
    sim.seen.runs = Some(Runs { canary: 1000, stable: 0, from: sim.now });
    sim.say("bypass", Verdict::Fail).run(3);
    assert_eq!(stalled(&sim), "StableNotReady");
}
