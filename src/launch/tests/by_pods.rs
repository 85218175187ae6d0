//! Shares made of pods: the agent's Service selects both revisions, and sizes and readiness are what moves the traffic.

use super::*;
use crate::launch::promises::{self, Decided};

impl Sim {
    /// An agent without a gateway: 4 pods of ochre, and stages of 20 and 50 %.
    pub(super) fn by_pods() -> Self {
        let mut sim = Self::with_stable();
        sim.plan.stages = vec![stage("one", 20), stage("two", 50)];
        sim.seen.by_pods = Some(ByPods::default());
        sim
    }

    /// Something is in the way of a Service that selects both, or is not any more.
    pub(super) fn obstruct(&mut self, why: Option<&str>) {
        self.seen.by_pods = Some(ByPods { obstacle: why.map(str::to_owned) });
    }

    /// A person changes the size of a Deployment, which is Sluice's.
    pub(super) fn rescale(&mut self, index: i32, size: i32) {
        let revision = [OCHRE, TEAL, "mauve", "lime"][usize::try_from(index).unwrap()];
        let Some(pods) = self.seen.pods.get_mut(revision) else { return };
        pods.size = size;
        self.rescaled = true;
    }

    pub(super) fn size(&self, revision: &str) -> i32 {
        self.seen.pods.get(revision).map_or(0, |pods| pods.size)
    }

    /// What the sizes make of the Service's selector.
    pub(super) fn real_share(&self) -> i32 {
        self.split.as_ref().map_or(0, |split| split.share(|revision| self.size(revision)))
    }

    fn serves(&self) -> String {
        match &self.split {
            Some(split) => format!("{}+{}", split.stable, split.canary),
            None => self.seen.service.clone().unwrap_or_default(),
        }
    }

    fn told(&self) -> String {
        self.launch().message.clone().unwrap_or_default()
    }

    /// What the Service selected in so many seconds, one after the other.
    fn served(&mut self, ticks: u64) -> Vec<String> {
        let mut all = vec![self.serves()];
        for _ in 0..ticks {
            self.checked_tick();
            all.push(self.serves());
        }
        all.dedup();
        all
    }

    /// One second, in which no promise is broken.
    fn checked_tick(&mut self) -> Step {
        let before = self.clone();
        let step = self.tick();
        let mut seen = before.clone();
        seen.now = self.now;
        seen.sample();
        seen.look_at_service();
        let decided = Decided { plan: &seen.plan, before: &seen.state, seen: &seen.seen, now: seen.now, step: &step };
        promises::of_a_decision(&decided).unwrap();
        step
    }

    fn stalled(&self) -> String {
        let mut conditions = Vec::new();
        crate::launch::conditions(&mut conditions, &self.state, &self.seen, Some(1), self.now);
        let found = conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
        format!("{} {} {}", found.status, found.reason, found.message)
    }
}

#[test]
fn a_good_revision_gets_its_shares_by_its_pods_and_then_the_service() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    assert_eq!(sim.served(60), ["ochre", "ochre+teal", "ochre", "ochre+teal", "teal"]);
    assert_eq!((sim.stable(), sim.size(TEAL), sim.size(OCHRE)), (TEAL, 4, 0));
    let told: Vec<_> = sim.events.iter().map(|event| event.reason).collect();
    assert!(told.contains(&"PodsAdded"), "{told:?}");
}

#[test]
fn a_share_is_given_in_one_write_after_its_pods_are_ready() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.broken.push(TEAL);
    sim.until(30, "waiting for a pod", |sim| sim.state.launch.is_some() && sim.told().contains("0/1 ready"));
    assert_eq!(sim.serves(), "ochre");
    sim.broken.clear();
    sim.until(10, "shared", |sim| sim.serves() == "ochre+teal");
    assert_eq!((sim.size(OCHRE), sim.size(TEAL), sim.real_share(), sim.launch().weight), (4, 1, 20, 20));
    sim.until(30, "waiting for the next share", |sim| sim.size(TEAL) == 4);
    assert_eq!((sim.serves().as_str(), sim.launch().weight), ("ochre", 0), "more pods start without any traffic");
    sim.until(10, "at half", |sim| sim.serves() == "ochre+teal");
    assert_eq!(sim.real_share(), 50);
}

#[test]
fn a_share_that_pods_cannot_make_is_refused_before_anything_moves() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![stage("canary-1", 5), stage("two", 50)];
    sim.want(TEAL);
    for _ in 0..30 {
        sim.checked_tick();
    }
    let told = "True PlanInvalid traffic 5 of stage canary-1 cannot be made of pods: 4 replicas allow 20, 34, 43, 50; set \
                one of these, or spec.traffic.gateway";
    assert_eq!((sim.stalled().as_str(), sim.size(TEAL), sim.state.launch.is_none()), (told, 0, true));
    sim.seen.replicas = 19;
    assert_eq!(sim.served(200).last().map(String::as_str), Some("teal"), "19 replicas allow it");
}

/// Teal had a half, was superseded by mauve, has runs on 4 pods, and is wanted again: a fifth needs one.
fn again_with_runs() -> Sim {
    let mut sim = Sim::by_pods();
    sim.seen.drain = Some(seconds(600));
    sim.want(TEAL).until(100, "a half", |sim| sim.real_share() == 50);
    sim.want("mauve").until(20, "mauve", |sim| sim.launch().revision == "mauve");
    sim.want(TEAL).until(20, "teal again", |sim| sim.launch().revision == TEAL);
    sim
}

#[test]
fn a_share_that_waits_for_runs_of_an_earlier_launch_meets_no_deadline_meanwhile() {
    let mut sim = again_with_runs();
    sim.plan.stages[0].deadline = seconds(60);
    for _ in 0..300 {
        let step = sim.checked_tick();
        assert_eq!((sim.size(TEAL), sim.real_share()), (4, 0));
        assert!(step.wake_at.is_some_and(|at| at > after(sim.now, Duration::from_millis(500))), "{:?}", step.wake_at);
    }
    sim.until(400, "its share", |sim| sim.real_share() == 20);
    assert_eq!((sim.launch().outcome, sim.size(TEAL)), (None, 1));
}

#[test]
fn one_pod_of_an_earlier_launch_that_shares_again_outlives_an_agent_that_is_scaled_to_nothing() {
    let mut sim = Sim::by_pods();
    sim.seen.drain = Some(seconds(600));
    sim.say("success", Verdict::Insufficient).want(TEAL).until(60, "a fifth", |sim| sim.real_share() == 20);
    sim.want("mauve").until(20, "mauve", |sim| sim.launch().revision == "mauve");
    sim.want(TEAL).until(60, "a fifth again", |sim| sim.launch().revision == TEAL && sim.real_share() == 20);
    sim.seen.replicas = 0;
    for _ in 0..60 {
        sim.checked_tick();
        assert_eq!(sim.size(TEAL), 1);
    }
}

#[test]
fn a_canary_that_is_taken_back_as_its_agent_is_scaled_to_nothing_keeps_its_pods_for_a_moment() {
    let mut sim = Sim::by_pods();
    sim.say("success", Verdict::Insufficient).want(TEAL).until(60, "a fifth", |sim| sim.real_share() == 20);
    sim.seen.replicas = 0;
    sim.want(OCHRE);
    for _ in 0..10 {
        sim.checked_tick();
        assert_eq!(sim.size(TEAL), 1);
    }
}

#[test]
fn a_promotion_without_its_share_says_that_it_waits_for_pods() {
    let mut sim = Sim::by_pods();
    sim.plan.stages.truncate(1);
    sim.want(TEAL).until(60, "the promotion", |sim| {
        sim.state.launch.as_ref().is_some_and(|it| it.phase == Phase::Promoting && it.weight == 0)
    });
    let pods = sim.seen.pods.get_mut(TEAL).unwrap();
    (pods.size, pods.ready, pods.all_ready_since) = (4, 1, None);
    let step = sim.decide();
    sim.commit(&step);
    assert!(sim.told().starts_with("waiting for pods of teal"), "{}", sim.told());
}

#[test]
fn pods_of_an_earlier_launch_outlive_an_agent_that_is_scaled_to_nothing() {
    let mut sim = again_with_runs();
    sim.run(5);
    sim.seen.replicas = 0;
    for _ in 0..60 {
        sim.checked_tick();
        assert_eq!(sim.size(TEAL), 4);
    }
}

#[test]
fn a_first_deployment_and_a_way_back_need_no_shares() {
    let mut sim = Sim::fresh();
    sim.seen.by_pods = Some(ByPods::default());
    sim.until(30, "stable", |sim| sim.stable() == OCHRE && sim.serves() == OCHRE);
    sim.plan.stages = vec![stage("one", 5)];
    sim.state.trusted.push(TrustedRevision { revision: TEAL.to_owned(), since: sim.now });
    sim.want(TEAL);
    assert_eq!(sim.served(30), ["ochre", "teal"]);
}

#[test]
fn a_trigger_narrows_the_service_in_the_same_pass() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.say("bypass", Verdict::Fail);
    let step = sim.checked_tick();
    assert!(step.wanted.falling && step.wanted.decision.is_some(), "{:?}", step.wanted);
    assert_eq!(sim.serves(), OCHRE);
    sim.until(20, "ended", |sim| sim.launch().phase == Phase::Complete);
    assert_eq!(sim.launch().outcome, Some(Outcome::RolledBack));
    sim.say("bypass", Verdict::Pass);
    assert_eq!(sim.served(60), [OCHRE], "it is final");
}

#[test]
fn a_last_share_of_all_pods_is_promoted_without_a_gap() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![stage("half", 50)];
    sim.want(TEAL);
    assert_eq!(sim.served(60), ["ochre", "ochre+teal", "teal"]);
    sim.seen.replicas = 2;
    sim.plan.stages = vec![stage("third", 34)];
    sim.want("mauve");
    assert_eq!(sim.served(80), ["teal", "teal+mauve", "teal", "mauve"], "one pod is not enough for everything");
}

#[test]
fn an_autoscaler_moves_both_sizes_and_never_the_share_above_its_stage() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("half", 50) }];
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    for (replicas, ochre, teal) in [(8, 8, 8), (5, 8, 8), (1, 8, 8), (10, 10, 10)] {
        sim.seen.replicas = replicas;
        for _ in 0..10 {
            sim.checked_tick();
            assert!(sim.real_share() <= 50, "{}%", sim.real_share());
        }
        assert_eq!((sim.serves().as_str(), sim.size(OCHRE), sim.size(TEAL)), ("ochre+teal", ochre, teal));
    }
}

#[test]
fn a_canary_does_not_grow_beyond_what_the_ready_pods_of_stable_carry() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("half", 50) }];
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.seen.replicas = 8;
    sim.decide();
    let step = sim.decide();
    sim.perform(&step.wanted); // stable has 8 from here on, 4 of them ready
    for _ in 0..5 {
        let step = sim.decide();
        assert_eq!((step.wanted.sizes[OCHRE], step.wanted.sizes[TEAL]), (8, 4));
    }
    sim.settle();
    assert_eq!(sim.decide().wanted.sizes[TEAL], 8);
}

#[test]
fn sizes_that_somebody_else_writes_cost_the_canary_its_traffic_until_they_are_right() {
    for (index, size) in [(1, 4), (0, 2)] {
        let mut sim = Sim::by_pods();
        sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("one", 20) }];
        sim.want(TEAL);
        sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
        sim.rescale(index, size);
        let step = sim.checked_tick();
        assert!(step.wanted.falling, "the Service turns first");
        assert_eq!(sim.serves(), OCHRE);
        sim.until(20, "shared again", |sim| sim.serves() == "ochre+teal");
        assert_eq!((sim.size(OCHRE), sim.size(TEAL)), (4, 1));
    }
}

#[test]
fn a_pod_of_a_third_revision_ends_the_share_until_it_is_gone() {
    let mut sim = Sim::by_pods();
    sim.obstruct(Some("pod lime-1 is of neither revision"));
    sim.want(TEAL);
    sim.until(30, "waiting", |sim| sim.state.launch.is_some() && sim.told().contains("pod lime-1 is of neither"));
    for _ in 0..20 {
        sim.checked_tick();
        assert_eq!(sim.serves(), OCHRE);
    }
    sim.obstruct(None);
    sim.until(10, "shared", |sim| sim.serves() == "ochre+teal");
    for _ in 0..4 {
        sim.obstruct(Some("pod lime-1 is of neither revision"));
        assert!(sim.checked_tick().wanted.falling);
        sim.obstruct(None);
        sim.until(10, "shared again", |sim| sim.serves() == "ochre+teal");
    }
    assert!(sim.events.iter().all(|event| event.reason != "RouteChanged"), "our own writes are nobody's contest");
    sim.obstruct(Some("pod lime-1 is of neither revision"));
    assert!(sim.checked_tick().wanted.falling);
    assert_eq!((sim.serves().as_str(), sim.launch().phase), (OCHRE, Phase::Progressing));
    sim.obstruct(None);
    assert_eq!(sim.served(80).last().map(String::as_str), Some(TEAL));
}

#[test]
fn a_dead_stable_is_raised_before_the_canary_loses_the_service() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.broken.push(OCHRE);
    sim.settle();
    sim.say("bypass", Verdict::Fail);
    for _ in 0..10 {
        sim.checked_tick();
        assert_eq!((sim.serves().as_str(), sim.launch().phase), ("ochre+teal", Phase::RollingBack));
    }
    assert!(sim.stalled().starts_with("True StableNotReady"), "{}", sim.stalled());
    sim.broken.clear();
    sim.until(20, "back", |sim| sim.serves() == OCHRE && sim.launch().phase == Phase::Complete);
}

#[test]
fn the_service_is_not_turned_to_a_dead_stable_because_something_is_in_the_way() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.broken.push(OCHRE);
    sim.settle();
    sim.obstruct(Some("pod lime-1 is of neither revision"));
    for _ in 0..5 {
        sim.checked_tick();
        assert_eq!(sim.serves(), "ochre+teal", "the canary is all that serves");
    }
    sim.broken.clear();
    sim.settle();
    sim.checked_tick();
    assert_eq!(sim.serves(), OCHRE);
}

#[test]
fn a_canary_without_ready_pods_gives_up_its_share_and_gets_it_back() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("one", 20) }];
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.broken.push(TEAL);
    sim.settle();
    sim.checked_tick();
    assert_eq!((sim.serves().as_str(), sim.size(TEAL)), (OCHRE, 1));
    sim.broken.clear();
    sim.until(20, "shared again", |sim| sim.serves() == "ochre+teal");
}

#[test]
fn a_lost_status_finds_stable_on_the_service() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.state = State::default();
    let step = sim.tick();
    assert!(step.wanted.falling, "nobody shares without a launch");
    assert_eq!((sim.stable(), sim.serves().as_str()), (OCHRE, OCHRE));
}

#[test]
fn after_a_lost_status_no_launch_has_the_name_of_one_that_was_taken_back() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.want("mauve");
    sim.checked_tick();
    let taken_back = sim.seen.decision.clone();
    assert_eq!(taken_back.as_ref().map(|decision| decision.launch.as_str()), Some("refund-agent-1"));
    sim.state = State::default();
    for _ in 0..10 {
        sim.seen.decision.clone_from(&taken_back); // nobody writes a Service that is right
        sim.tick();
    }
    assert_eq!(sim.launch().revision, "mauve");
    assert_eq!(sim.launch().id, "refund-agent-2");
}

#[test]
fn without_replicas_nothing_is_shared_and_with_some_it_goes_on() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.seen.replicas = 0;
    for _ in 0..5 {
        sim.checked_tick();
    }
    assert_eq!((sim.serves().as_str(), sim.size(TEAL)), (OCHRE, 0));
    sim.seen.replicas = 4;
    assert_eq!(sim.served(80).last().map(String::as_str), Some(TEAL));

    let mut asleep = Sim::by_pods();
    asleep.seen.replicas = 0;
    asleep.want(TEAL).run(30);
    assert!(asleep.state.launch.is_none() && asleep.stalled().contains("spec.replicas is 0"), "{}", asleep.stalled());
}

#[test]
fn an_edit_of_the_plan_lowers_a_share_and_never_asks_for_an_impossible_one() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("half", 50) }];
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("fifth", 20) }];
    sim.plan.hash = "plan-2".to_owned();
    let step = sim.checked_tick();
    assert!(step.wanted.falling && sim.serves() == OCHRE, "four pods are half");
    sim.until(20, "at a fifth", |sim| sim.real_share() == 20);
    sim.plan.stages = vec![stage("tenth", 10)];
    sim.plan.hash = "plan-3".to_owned();
    sim.checked_tick();
    for _ in 0..20 {
        sim.checked_tick();
        assert_eq!(sim.serves(), OCHRE);
    }
    assert!(
        sim.told().contains("traffic 10 of stage tenth cannot be made of pods: 4 replicas allow 20"),
        "{}",
        sim.told()
    );
}

#[test]
fn somebody_who_writes_the_selector_again_and_again_gets_it() {
    let mut sim = Sim::by_pods();
    sim.plan.stages = vec![Stage { min_duration: seconds(1000), ..stage("one", 20) }];
    sim.want(TEAL);
    let mut given = 0;
    for _ in 0..50 {
        sim.checked_tick();
        if sim.split.take().is_some() {
            given += 1;
            sim.seen.route_version.rules_by = Some("gitops".to_owned());
        }
        sim.seen.route_version.generation += 1;
    }
    assert_eq!(given, 4, "a share is given a few times, then no more");
    assert!(sim.stalled().contains("gitops overwrites the selector of the agent's Service"), "{}", sim.stalled());
}

#[test]
fn a_soaking_revision_goes_back_by_the_service() {
    let mut sim = Sim::by_pods();
    sim.plan.soak = seconds(600);
    sim.want(TEAL);
    sim.until(80, "soaking", |sim| sim.state.launch.as_ref().is_some_and(|launch| launch.phase == Phase::Soaking));
    assert_eq!((sim.serves().as_str(), sim.size(OCHRE)), (TEAL, 4));
    sim.say("bypass", Verdict::Fail);
    sim.checked_tick();
    assert_eq!(sim.serves(), OCHRE);
    sim.until(20, "ended", |sim| sim.launch().outcome == Some(Outcome::RolledBack));
}

#[test]
fn an_unready_pod_of_stable_turns_nothing_and_keeps_the_next_share_waiting() {
    let mut sim = Sim::by_pods();
    sim.want(TEAL);
    sim.until(30, "shared", |sim| sim.serves() == "ochre+teal");
    sim.seen.pods.get_mut(OCHRE).unwrap().ready = 3;
    let step = sim.decide();
    assert_eq!(PodSplit::of(&step.wanted).map(|split| split.weight), Some(20), "what is configured has not changed");
    let mut later = Sim::by_pods();
    later.want(TEAL);
    later.until(30, "about to share", |sim| sim.size(TEAL) == 1);
    for _ in 0..10 {
        later.seen.pods.get_mut(OCHRE).unwrap().ready = 3;
        let step = later.decide();
        later.commit(&step);
        later.perform(&step.wanted);
        later.now = after(later.now, seconds(1));
        assert_eq!(later.serves(), OCHRE);
    }
    assert!(
        later.told().contains("1 pods of teal beside 3 ready ones of stable make 25%, more than 20%"),
        "{}",
        later.told()
    );
}

#[test]
fn a_health_gate_asks_for_the_pods_that_the_share_has_also_after_an_autoscaler_came() {
    for (replicas, share, scaled) in [(13, 8, 13), (21, 5, 21), (4, 20, 6), (3, 25, 5), (5, 17, 9), (4, 50, 8)] {
        let mut sim = Sim::by_pods();
        sim.seen.replicas = replicas;
        sim.seen.pods.insert(OCHRE.to_owned(), ready_pods(replicas, sim.now));
        sim.plan.stages = vec![stage("one", share)];
        sim.plan.stages[0].gates[0].check = GateCheck::Health(seconds(3));
        sim.want(TEAL).until(60, "the stage", |sim| sim.launch_began("one"));
        sim.seen.replicas = scaled;
        sim.until(60, &format!("{replicas} to {scaled} replicas at {share}%"), |sim| sim.stable() == TEAL);
    }
}

#[test]
fn a_promotion_by_pods_keeps_the_share_while_a_trigger_is_in_breach() {
    let mut sim = Sim::by_pods();
    sim.plan.triggers[0].lasting = seconds(300);
    sim.want(TEAL);
    sim.until(300, "the promotion", |sim| sim.state.launch.as_ref().is_some_and(|it| it.phase == Phase::Promoting));
    let share = sim.launch().weight;
    assert!(share > 0 && share < 100, "{share}");
    sim.say("errors", Verdict::Fail).run(60);
    assert_eq!((sim.launch().phase, sim.launch().weight), (Phase::Promoting, share));
    sim.say("errors", Verdict::Pass).until(120, "stable", |sim| sim.stable() == TEAL);
}
