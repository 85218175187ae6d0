//! What the cluster should look like, row by row: who gets which share, whom the agent's Service selects, what falls, what
//! counts as read back, and how many pods everybody has.

use super::*;
use crate::api::{Launch, RequestMatch};
use crate::launch::capacity::of_canary;
use crate::launch::wanted::{canary_share, read_back, wanted};

fn split(stable: &str, canary: &str, weight: i32) -> Shares {
    Shares::Split { stable: stable.to_owned(), canary: canary.to_owned(), weight }
}

fn low_risk() -> Vec<RequestMatch> {
    serde_json::from_str(r#"[{"headers": [{"name": "x-risk", "value": "low"}]}]"#).unwrap()
}

fn high_risk() -> Vec<RequestMatch> {
    serde_json::from_str(r#"[{"headers": [{"name": "x-risk", "value": "high"}]}]"#).unwrap()
}

fn matched(weight: i32, only: Vec<RequestMatch>) -> Shares {
    Shares::Matched { stable: OCHRE.to_owned(), canary: TEAL.to_owned(), weight, only }
}

fn route(shares: Shares) -> Route {
    Route::Seen { shares, programmed: Programmed::Yes }
}

/// A launch of teal beside ochre in this phase, with this weight, and what is seen of it.
fn launch(phase: Phase, weight: i32, route: Route, service: &str) -> Sim {
    let mut sim = scenarios::launched_to("two");
    let launch = sim.state.launch.as_mut().unwrap();
    (launch.phase, launch.weight) = (phase, weight);
    (sim.seen.route, sim.seen.service) = (route, Some(service.to_owned()));
    sim
}

impl Sim {
    fn edit(mut self, edit: impl FnOnce(&mut Launch)) -> Self {
        edit(self.state.launch.as_mut().unwrap());
        self
    }

    fn wants(&self) -> Wanted {
        wanted(&self.state, &self.plan, &self.seen)
    }
}

use Phase::{Complete, Progressing, Promoting, RollingBack, Soaking};

#[test]
fn a_share_is_read_back_when_the_api_server_holds_just_what_was_asked_for() {
    let at_rest = || route(Shares::AtRest);
    for (sim, expected, what) in vec![
        (launch(Progressing, 25, route(split(OCHRE, TEAL, 25)), OCHRE), true, "the share"),
        (launch(Progressing, 25, route(split(OCHRE, TEAL, 24)), OCHRE), false, "another share"),
        (launch(Progressing, 25, route(split(OCHRE, "mauve", 25)), OCHRE), false, "of another canary"),
        (launch(Progressing, 25, route(split("mauve", TEAL, 25)), OCHRE), false, "beside another stable"),
        (launch(Promoting, 100, route(split(OCHRE, TEAL, 100)), TEAL), true, "the Service has moved"),
        (launch(RollingBack, 0, route(split(OCHRE, TEAL, 0)), OCHRE), true, "nothing"),
        (launch(RollingBack, 0, route(split(OCHRE, TEAL, 0)), TEAL), false, "the Service still selects it"),
        (launch(RollingBack, 0, at_rest(), OCHRE), true, "at rest nobody has a share"),
        (launch(RollingBack, 0, at_rest(), TEAL), false, "at rest the Service's revision has everything"),
        (launch(Progressing, 25, at_rest(), OCHRE), false, "at rest there is no share"),
        (launch(Progressing, 25, Route::NotUsed, OCHRE), true, "there is no route"),
        (launch(Promoting, 100, Route::NotUsed, TEAL), true, "there is no route"),
        (launch(RollingBack, 0, Route::NotUsed, OCHRE), true, "the Service is back"),
        (launch(RollingBack, 0, Route::Missing, TEAL), false, "the Service is not back"),
        (launch(RollingBack, 0, Route::Unshared("no rule".into()), TEAL), false, "the Service is not back"),
        (launch(Progressing, 25, Route::Unusable("no".into()), OCHRE), false, "nothing can be read"),
        (launch(RollingBack, 0, route(Shares::Foreign("x".into())), OCHRE), false, "somebody else wrote it"),
    ] {
        assert_eq!(read_back(sim.launch(), &sim.seen), expected, "{what}");
    }
    for (seen, expected, what) in [
        (matched(25, low_risk()), true, "the share of what matches"),
        (matched(24, low_risk()), false, "another share of it"),
        (matched(25, high_risk()), false, "a share of something else"),
        (split(OCHRE, TEAL, 25), false, "a share of everything"),
    ] {
        let sim = launch(Progressing, 25, route(seen), OCHRE).edit(|launch| launch.only = low_risk());
        assert_eq!(read_back(sim.launch(), &sim.seen), expected, "{what}");
    }
    let sim = launch(Progressing, 25, route(matched(25, low_risk())), OCHRE);
    assert!(!read_back(sim.launch(), &sim.seen), "of what matches only, where everything is to be shared");
}

#[test]
fn the_share_that_a_canary_has_is_what_the_route_gives_it_and_without_one_what_the_service_does() {
    for (route, service, share) in [
        (route(split(OCHRE, TEAL, 25)), OCHRE, 25),
        (route(split(TEAL, "mauve", 25)), OCHRE, 75),
        (route(split(OCHRE, "mauve", 25)), TEAL, 0),
        (route(matched(30, low_risk())), OCHRE, 30),
        (route(Shares::Foreign("x".into())), OCHRE, 100),
        (route(Shares::AtRest), OCHRE, 0),
        (route(Shares::AtRest), TEAL, 100),
        (Route::NotUsed, TEAL, 100),
        (Route::Missing, OCHRE, 0),
    ] {
        let sim = launch(Progressing, 25, route, service);
        assert_eq!(canary_share(sim.launch(), &sim.seen), share, "{:?} {service}", sim.seen.route);
    }
}

#[test]
fn a_share_that_nobody_may_have_falls_before_anything_is_remembered() {
    for (sim, falls, what) in vec![
        (launch(Progressing, 25, route(split(OCHRE, TEAL, 25)), OCHRE), false, "as it should be"),
        (launch(Progressing, 25, route(split(OCHRE, TEAL, 5)), OCHRE), false, "it is to rise"),
        (launch(Progressing, 25, route(split(OCHRE, TEAL, 26)), OCHRE), true, "more than it may have"),
        (launch(Progressing, 25, route(split("mauve", TEAL, 25)), OCHRE), true, "mauve has 75 %"),
        (launch(Promoting, 70, route(split("mauve", TEAL, 60)), OCHRE), false, "mauve has 40 %"),
        (launch(Progressing, 25, route(matched(26, low_risk())), OCHRE), true, "more of what matches"),
        (launch(Progressing, 25, route(Shares::Foreign("x".into())), OCHRE), true, "who knows"),
        (launch(Progressing, 25, Route::NotUsed, TEAL), true, "the Service has moved too early"),
        (launch(Promoting, 100, Route::NotUsed, TEAL), false, "it may move"),
        (launch(Progressing, 25, Route::NotUsed, OCHRE), false, "stable may have everything"),
        (launch(RollingBack, 0, route(Shares::AtRest), OCHRE), true, "a rollback is always written"),
        (launch(Complete, 25, route(split(OCHRE, TEAL, 5)), OCHRE), true, "no launch runs"),
        (launch(Complete, 0, route(Shares::AtRest), OCHRE), false, "at rest"),
    ] {
        assert_eq!(sim.wants().falling, falls, "{what}");
    }
    for (seen, falls) in [
        (matched(25, low_risk()), false),
        (split(OCHRE, TEAL, 5), true), // a share of everything where only some requests may be shared
        (split(OCHRE, TEAL, 0), false),
    ] {
        let sim = launch(Progressing, 25, route(seen.clone()), OCHRE).edit(|launch| launch.only = low_risk());
        assert_eq!(sim.wants().falling, falls, "{seen:?}");
    }
}

#[test]
fn the_route_gets_the_share_of_the_launch_and_else_nothing() {
    let at_rest = || route(Shares::AtRest);
    let shared = || route(split(OCHRE, TEAL, 25));
    for (sim, shares, what) in vec![
        (launch(Progressing, 0, at_rest(), OCHRE), Shares::AtRest, "no share yet"),
        (launch(Progressing, 25, at_rest(), OCHRE), split(OCHRE, TEAL, 25), "a stage"),
        (launch(Promoting, 0, at_rest(), OCHRE), Shares::AtRest, "a trusted one before its pods are there"),
        (launch(Promoting, 100, shared(), OCHRE), split(OCHRE, TEAL, 100), "everything"),
        (launch(Promoting, 100, shared(), TEAL), Shares::AtRest, "the Service gives it everything"),
        (launch(RollingBack, 0, shared(), OCHRE), split(OCHRE, TEAL, 0), "taken back"),
        (launch(RollingBack, 25, shared(), OCHRE), split(OCHRE, TEAL, 25), "stable is dead"),
        (launch(RollingBack, 0, at_rest(), OCHRE), Shares::AtRest, "it never had any"),
        (launch(RollingBack, 0, at_rest(), TEAL), split(OCHRE, TEAL, 0), "sooner than the Service comes back"),
        (launch(RollingBack, 100, at_rest(), TEAL), Shares::AtRest, "stable is dead, and the Service stays"),
        (launch(Soaking, 100, shared(), TEAL), Shares::AtRest, "stable"),
    ] {
        assert_eq!(sim.wants().shares, Some(shares), "{what}");
    }
    let some = launch(Progressing, 25, at_rest(), OCHRE).edit(|launch| launch.only = low_risk());
    assert_eq!(some.wants().shares, Some(matched(25, low_risk())));
    let first = launch(Promoting, 100, at_rest(), TEAL).edit(|launch| launch.stable = None);
    assert_eq!(first.wants().shares, Some(Shares::AtRest), "a first deployment shares with nobody");
    assert_eq!(launch(Progressing, 25, Route::NotUsed, OCHRE).wants().shares, None);
}

#[test]
fn the_service_selects_stable_until_the_canary_has_everything() {
    let all = || route(split(OCHRE, TEAL, 100));
    let pending = Route::Seen { shares: split(OCHRE, TEAL, 100), programmed: Programmed::Pending };
    let promoting = |route: Route, service: &str| launch(Promoting, 100, route, service);
    for (sim, service, what) in vec![
        (launch(Progressing, 100, all(), OCHRE), OCHRE, "its gates have not passed"),
        (promoting(all(), OCHRE), TEAL, "read back"),
        (promoting(route(split(OCHRE, TEAL, 50)), OCHRE), OCHRE, "not read back"),
        (promoting(pending, OCHRE), OCHRE, "the gateway has not taken it"),
        (promoting(Route::Missing, OCHRE), OCHRE, "there is no route"),
        (launch(Promoting, 50, route(split(OCHRE, TEAL, 50)), OCHRE), OCHRE, "half of it"),
        (promoting(all(), OCHRE).edit(|launch| launch.held = true), OCHRE, "a deadline holds it"),
        (promoting(all(), TEAL).edit(|launch| launch.held = true), TEAL, "it has moved already"),
        (promoting(Route::NotUsed, OCHRE), TEAL, "without a gateway"),
        (promoting(all(), OCHRE).edit(|launch| launch.only = low_risk()), OCHRE, "of some requests only"),
        (launch(RollingBack, 100, route(Shares::AtRest), TEAL), TEAL, "stable is dead"),
        (launch(RollingBack, 0, route(Shares::AtRest), TEAL), OCHRE, "taken back"),
        (launch(RollingBack, 100, all(), OCHRE), OCHRE, "it never moved"),
        (launch(RollingBack, 25, route(split(OCHRE, TEAL, 25)), TEAL), OCHRE, "somebody else moved it"),
        (launch(Complete, 100, route(Shares::AtRest), TEAL), OCHRE, "no launch runs"),
    ] {
        assert_eq!(sim.wants().service.as_deref(), Some(service), "{what}");
    }
    let mut paused = promoting(all(), OCHRE);
    paused.seen.paused = true;
    assert_eq!(paused.wants().service.as_deref(), Some(OCHRE));
    let first = promoting(Route::Missing, OCHRE).edit(|launch| launch.stable = None);
    assert_eq!(first.wants().service.as_deref(), Some(TEAL), "a first deployment asks no gateway");
}

#[test]
fn objects_stay_of_what_runs_and_of_what_may_be_gone_back_to() {
    let mut sim = launch(Soaking, 0, route(Shares::AtRest), TEAL);
    sim.state.stable = Some(StableRevision { revision: TEAL.to_owned(), since: sim.now });
    let trusted = |revision: &str| TrustedRevision { revision: revision.to_owned(), since: sim.now };
    sim.state.trusted = ["a", "b", "c", "d"].map(trusted).into();
    sim.seen.history_limit = 2;
    let kept = |sim: &Sim| sim.wants().keep.into_iter().collect::<Vec<_>>();
    assert_eq!(kept(&sim), ["a", "b", "c", OCHRE, TEAL], "the former stable may come back");
    let sim = sim.edit(|launch| launch.phase = Complete);
    assert_eq!(kept(&sim), ["a", "b", "c", TEAL]);
}

#[test]
fn a_fall_carries_its_decision_and_a_success_none() {
    let ended = |outcome| {
        let sim = launch(Complete, 0, route(Shares::AtRest), OCHRE);
        let sim = sim.edit(|launch| (launch.outcome, launch.decided_at) = (outcome, Some(launch.started_at)));
        sim.wants().decision.map(|decision| decision.outcome)
    };
    assert_eq!(ended(Some(Outcome::RolledBack)), Some(Outcome::RolledBack));
    assert_eq!(ended(Some(Outcome::Superseded)), Some(Outcome::Superseded));
    assert_eq!((ended(Some(Outcome::Succeeded)), ended(None)), (None, None));
}

#[test]
fn a_canary_has_the_pods_of_its_stage_and_keeps_those_that_carry_its_traffic() {
    for (phase, weight, size, pods) in [
        (Progressing, 0, 0, 2),  // those of the stage come before its weight
        (Progressing, 50, 0, 4), // an edit lowered the stage, and the weight is still there
        (Promoting, 25, 2, 8),
        (Soaking, 100, 8, 8),
        (RollingBack, 50, 2, 4), // stable is dead: the canary carries it
        (RollingBack, 50, 6, 6),
        (RollingBack, 0, 3, 3), // they go when its runs have ended
        (RollingBack, 0, 0, 0),
        (Complete, 50, 3, 3),
    ] {
        let mut sim = launch(phase, weight, route(Shares::AtRest), OCHRE);
        sim.seen.replicas = 8;
        sim.seen.pods.insert(TEAL.to_owned(), Pods { size, ..Pods::default() });
        assert_eq!(of_canary(sim.launch(), &sim.plan, &sim.seen), pods, "{phase:?} at {weight}% on {size}");
    }
}
