//! The last look before anything goes forward: a decision or a write that breaks a promise is refused and told of.
//!
//! It never stands in the way of a write that takes traffic from a canary.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, Key};
use super::metrics::{Metrics, PromiseLabel};
use super::{Error, commit};
use crate::api::{AgentDeployment, State};
use crate::launch::promises::{self, Broken, Decided, Kept, Rise};
use crate::launch::{Observation, Step, Wanted};

/// Tells of a decision that breaks a promise, and refuses it where it gives a canary more: what was remembered stays, and
/// the conditions tell.
pub(crate) async fn decision(
    ctx: &Context,
    key: &Key,
    agent: &AgentDeployment,
    decided: &Decided<'_>,
) -> Result<(), Error> {
    let Err(broken) = promises::of_a_decision(decided) else { return Ok(()) };
    report(&ctx.calls.metrics, key, &broken);
    let Some(Refusal { error, seen, held }) = refusal(decided, broken) else { return Ok(()) };
    commit::commit(ctx, agent, &seen, &held, decided.now).await?;
    Err(error)
}

/// What is committed and answered in place of a decision that is refused.
#[derive(Debug)]
struct Refusal {
    error: Error,
    /// What was seen, with the trouble that the conditions tell.
    seen: Observation,
    held: Step,
}

fn refusal(decided: &Decided<'_>, broken: Broken) -> Option<Refusal> {
    if decided.step.wanted.falling || !promises::raises(decided) {
        return None; // what goes down goes down, and what stays is no danger
    }
    let error = Error::Broken(broken);
    let seen = Observation { trouble: error.mend(), ..decided.seen.clone() };
    Some(Refusal { error, seen, held: held(decided.before) })
}

/// Refuses a write that gives a canary more traffic than the cluster justifies at this instant.
pub(crate) fn rise(ctx: &Context, key: &Key, rise: &Rise<'_>) -> Result<(), Error> {
    let kept: Kept = promises::of_a_rise(rise);
    kept.map_err(|broken| {
        report(&ctx.calls.metrics, key, &broken);
        Error::Broken(broken)
    })
}

fn report(metrics: &Metrics, key: &Key, broken: &Broken) {
    metrics.promises_broken.get_or_create(&PromiseLabel { promise: broken.promise }).inc();
    tracing::error!(
        namespace = key.0,
        agent = key.1,
        promise = broken.promise,
        why = broken.why,
        "a promise is broken"
    );
}

/// A step that changes nothing.
fn held(state: &State) -> Step {
    let wanted = Wanted {
        sizes: BTreeMap::new(),
        keep: BTreeSet::new(),
        shares: None,
        service: None,
        decision: None,
        falling: false,
    };
    Step { state: state.clone(), wanted, events: Vec::new(), wake_at: None }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::api::{AgentDeploymentSpec, StableRevision};
    use crate::launch::{self, Plan, Pods, Shares};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn plan() -> Plan {
        let template = r#"{"template": {"spec": {"containers": [{"name": "agent", "image": "a", "ports": [{"containerPort": 1}]}]}},
            "traffic": {"gateway": {"parentRefs": [{"name": "public"}]}}}"#;
        launch::basic(&serde_json::from_str::<AgentDeploymentSpec>(template).unwrap())
    }

    /// Ochre is stable, and the spec asks for teal.
    fn seen() -> Observation {
        let pods = Pods { size: 2, ready: 2, all_ready_since: Some(at(-100)), ..Pods::default() };
        let (pods, service) = ([("ochre".to_owned(), pods)].into(), Some("ochre".to_owned()));
        Observation { pods, service, ..Observation::calm("teal") }
    }

    /// Its launch has just begun, and its pods are made.
    fn launching(plan: &Plan) -> State {
        let since = at(-100);
        let stable = Some(StableRevision { revision: "ochre".to_owned(), since });
        let mut state = State { stable, ..State::default() };
        for second in 0..10 {
            state = launch::step(plan, &state, &seen(), at(second)).state;
        }
        assert!(state.launch.is_some(), "{state:?}");
        state
    }

    /// What becomes of the next decision after `damage`, and the promise that it breaks.
    fn refused(damage: impl Fn(&mut Step)) -> (Option<Refusal>, &'static str, State) {
        let (plan, seen) = (plan(), seen());
        let before = launching(&plan);
        let mut step = launch::step(&plan, &before, &seen, at(10));
        damage(&mut step);
        let decided = Decided { plan: &plan, before: &before, seen: &seen, now: at(10), step: &step };
        let broken = promises::of_a_decision(&decided).expect_err("a broken promise");
        let promise = broken.promise;
        (refusal(&decided, broken), promise, before)
    }

    fn teal(weight: i32) -> impl Fn(&mut Step) {
        move |step: &mut Step| {
            step.wanted.shares = Some(Shares::Split { stable: "ochre".to_owned(), canary: "teal".to_owned(), weight });
        }
    }

    #[test]
    fn a_decision_that_gives_too_much_is_refused_and_what_was_remembered_stays_and_is_told_as_stalled() {
        let (refusal, promise, before) = refused(teal(90));
        let Refusal { error, seen, held } = refusal.unwrap();
        assert_eq!((promise, error.reason()), ("WeightBound", "PromiseBroken"));
        assert_eq!(held.state, before);
        assert!(held.wanted.shares.is_none() && held.wanted.sizes.is_empty() && held.events.is_empty());
        let mut conditions = Vec::new();
        launch::conditions(&mut conditions, &held.state, &seen, Some(1), at(10));
        let stalled = conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
        assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "PromiseBroken"));
        let told = "Sluice refuses its own decision: promise WeightBound is broken: refund-agent-1: teal would get 90%";
        assert!(stalled.message.starts_with(told), "{}", stalled.message);
    }

    #[test]
    fn what_goes_back_or_stays_is_told_of_and_never_refused() {
        let falls = |step: &mut Step| {
            teal(90)(step);
            step.wanted.falling = true;
        };
        let stays = |step: &mut Step| step.wake_at = None;
        let (refusal, promise, _) = refused(falls);
        assert_eq!((refusal.is_none(), promise), (true, "WeightBound"));
        let (refusal, promise, _) = refused(stays);
        assert_eq!((refusal.is_none(), promise), (true, "EveryWaitEnds"));
    }

    #[test]
    fn each_broken_promise_is_counted_under_its_name() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let key = ("default".to_owned(), "refund-agent".to_owned());
        for promise in ["WeightBound", "Finality", "WeightBound"] {
            report(&metrics, &key, &Broken { promise, why: "it rises".to_owned() });
        }
        let mut told = String::new();
        prometheus_client::encoding::text::encode(&mut told, &registry).unwrap();
        assert!(told.contains(r#"sluice_promises_broken_total{promise="WeightBound"} 2"#), "{told}");
        assert!(told.contains(r#"sluice_promises_broken_total{promise="Finality"} 1"#), "{told}");
    }
}
