//! What a user reads in each situation: the line of `kubectl get`, and every condition.

use super::scenarios::launched_to;
use super::*;
use crate::api::DecisionVerb;

/// The line, and under it each condition: `Ready True Serving: …`.
fn told(sim: &Sim) -> String {
    let line = crate::launch::summary(&sim.state, &sim.seen);
    let mut text = [line.stable, line.canary, line.stage, line.weight, line.verdict, line.reason].join(" | ");
    let mut conditions = Vec::new();
    crate::launch::conditions(&mut conditions, &sim.state, &sim.seen, Some(7), sim.now);
    for it in conditions {
        assert_eq!(it.observed_generation, Some(7));
        text.extend(["\n", &it.type_, " ", &it.status, " ", &it.reason, ": ", &it.message]);
    }
    text
}

type Situations = Vec<(&'static str, Sim)>;

fn without_a_launch() -> Situations {
    let mut all = Vec::new();
    let mut add = |name, sim: Sim| all.push((name, sim));

    add("nothing is there yet", Sim::fresh());
    let mut sim = Sim::fresh();
    sim.seen.paused = true;
    sim.run(1);
    add("paused from the beginning", sim);
    let mut sim = Sim::fresh();
    sim.broken.push(OCHRE);
    sim.run(3);
    add("a first deployment has no pods", sim.clone());
    sim.decides("a", DecisionVerb::Abort).run(5);
    add("a first deployment failed", sim);

    let stable = Sim::with_stable();
    add("at rest", stable.clone());
    let mut sim = stable.clone();
    sim.seen.replicas = 0;
    *sim.seen.pods.get_mut(OCHRE).unwrap() = Pods::default();
    add("scaled to nothing", sim);
    let mut sim = stable.clone();
    sim.seen.pods.get_mut(OCHRE).unwrap().ready = 0;
    add("no ready pod", sim);
    let mut sim = stable.clone();
    sim.seen.hostname_taken = Some("host name a.example is HTTPRoute b/x's".into());
    add("the host name is taken", sim);
    let mut sim = stable.clone();
    sim.seen.trouble = Some(("Forbidden".into(), "let Sluice write Services".into()));
    add("Sluice cannot write", sim);
    for (name, route) in [
        ("the route cannot be used", Route::Unusable("it has no rules".into())),
        ("the route names no backend of ours", Route::Unshared("no rule names the Service".into())),
        (
            "the gateway refuses",
            Route::Seen { shares: Shares::AtRest, programmed: Programmed::Refused("no port".into()) },
        ),
        (
            "no gateway answers",
            Route::Seen { shares: Shares::AtRest, programmed: Programmed::Silent("create it".into()) },
        ),
    ] {
        let mut sim = stable.clone();
        sim.seen.route = route;
        add(name, sim);
    }
    all
}

fn before_a_launch() -> Situations {
    let mut all = Vec::new();
    let mut add = |name, sim: Sim| all.push((name, sim));
    let stable = Sim::with_stable();
    let missing = WantedRevision::Unknown { reason: "ConfigMapMissing".into(), message: "create prompts".into() };
    let mut sim = stable.clone();
    sim.seen.wanted = missing;
    add("a ConfigMap is missing", sim);
    for (name, revision) in [("the plan of stable is missing", OCHRE), ("the plan of the next is missing", TEAL)] {
        let mut sim = stable.clone();
        let (revision, reason) = (revision.to_owned(), "PlanMissing".to_owned());
        sim.seen.wanted = WantedRevision::Refused { revision, reason, message: "create the plan".into() };
        add(name, sim);
    }
    let mut sim = stable.clone();
    sim.want(TEAL).run(1);
    add("an edit a moment ago", sim.clone());
    sim.seen.paused = true;
    add("an edit while the spec is paused", sim);
    let mut sim = stable.clone();
    sim.decides("p", DecisionVerb::Pause).run(1);
    sim.want(TEAL).run(1);
    add("an edit while a person pauses", sim);
    let mut sim = stable.clone();
    let until = after(sim.now, seconds(3600));
    sim.seen.freeze.open = Some(Frozen { window: "peak-week".into(), until });
    sim.want(TEAL).run(1);
    add("an edit in a freeze", sim.clone());
    let mut paused = sim.clone();
    paused.seen.paused = true;
    add("an edit in a freeze while the spec is paused", paused);
    let rejected = |revision: &str| crate::api::RejectedRevision {
        revision: revision.into(),
        at: stable.now,
        reason: "bypass: 1".into(),
    };
    for (name, revision) in
        [("an edit in a freeze after another was rejected", "mauve"), ("a rejected revision in a freeze", TEAL)]
    {
        let mut sim = sim.clone();
        sim.state.rejected.push(rejected(revision));
        add(name, sim);
    }
    sim.want(OCHRE);
    add("a freeze at rest", sim);

    all
}

fn in_a_launch() -> Situations {
    let mut all = Vec::new();
    let mut add = |name, sim: Sim| all.push((name, sim));
    let stable = Sim::with_stable();
    let mut sim = stable.clone();
    sim.broken.push(TEAL);
    sim.want(TEAL).run(6);
    sim.seen.pods.get_mut(TEAL).unwrap().refused = Some("exceeded quota: pods".into());
    add("a quota is in the way of a launch", sim.clone());
    sim.seen.pods.get_mut(TEAL).unwrap().refused = Some("denied by policy".into());
    add("a policy is in the way of a launch", sim);
    let mut sim = stable.clone();
    sim.seen.pods.get_mut(OCHRE).unwrap().ready = 3;
    sim.seen.pods.get_mut(OCHRE).unwrap().refused = Some("exceeded quota: pods".into());
    add("a quota is in the way of stable", sim);

    let mut sim = launched_to("two");
    sim.say("success", Verdict::Insufficient).run(20);
    add("a stage waits", sim.clone());
    let mut frozen = sim.clone();
    frozen.seen.freeze.open = Some(Frozen { window: "peak-week".into(), until: after(frozen.now, seconds(3600)) });
    frozen.run(1);
    add("a stage is frozen", frozen);
    let mut silent = sim.clone();
    silent.seen.route = Route::Seen {
        shares: Shares::Split { stable: OCHRE.into(), canary: TEAL.into(), weight: 25 },
        programmed: Programmed::Silent("create it".into()),
    };
    silent.run(1);
    add("no gateway answers a launch", silent);
    sim.plan.stages[1].deadline = seconds(30);
    sim.plan.stages[1].then = DeadlineOutcome::Pause;
    sim.run(20);
    add("a deadline holds", sim);
    let mut sim = launched_to("two");
    sim.broken.push(OCHRE);
    sim.settle();
    sim.say("bypass", Verdict::Fail).run(3);
    add("stable is dead", sim);
    let mut sim = launched_to("two");
    sim.say("bypass", Verdict::Fail).run(1);
    add("the weight has just fallen", sim.clone());
    sim.run(4);
    add("rolled back", sim.clone());
    let mut next = sim.clone();
    next.want("mauve").run(1);
    add("rolled back, and the next edit waits", next);
    sim.want(OCHRE).run(1);
    add("rolled back, and Git was reverted", sim);
    let mut sim = launched_to("three");
    sim.until(60, "100 %", |sim| sim.weight() == 100);
    add("a promotion", sim.clone());
    sim.until(60, "stable", |sim| sim.stable() == TEAL);
    add("launched", sim);
    let mut sim = stable.clone();
    sim.plan.soak = seconds(100);
    sim.want(TEAL).until(200, "soaking", |sim| sim.launch_began("soak"));
    add("soaking", sim.clone());
    sim.say("bypass", Verdict::Fail).run(5);
    add("taken back in the soak", sim);
    all
}

/// `told.txt` has what was read when a person last looked through it. `UPDATE=1` writes it anew: read the difference.
#[test]
fn in_each_situation_a_user_reads_what_is_going_on_and_the_mend() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/launch/tests/told.txt");
    let situations = [without_a_launch(), before_a_launch(), in_a_launch()].concat();
    let told: Vec<_> = situations.iter().map(|(name, sim)| format!("## {name}\n{}\n", told(sim))).collect();
    let text = told.join("\n");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap();
    for (told, expected) in text.split("## ").zip(known.split("## ")) {
        assert_eq!(told, expected);
    }
    assert_eq!(text, known);
}
