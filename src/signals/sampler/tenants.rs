//! Agents of several teams share a source and their queries: what one team exports or asks must not blind another.

use super::super::testing::{Fake, Reply, body};
use super::super::turns::SLOTS;
use super::tests::{BAD, build, gate, key, question, watch};
use super::*;
use std::sync::Arc;

fn agent(namespace: &str, name: &str) -> AgentKey {
    (namespace.to_owned(), name.to_owned())
}

fn trigger() -> CheckName {
    CheckName::Trigger("success".to_owned())
}

/// Watches an agent's trigger on its success rate, so seldom that a test sees one round only unless it asks for more.
fn launch(sampler: &Sampler, key: AgentKey, canary: &str) {
    let questions = [(trigger(), question("success_rate", Compare::RatioToStable, "0.9"))].into();
    sampler.watch(key, Watch { questions, interval: Duration::from_hours(1), ..watch(canary) });
}

fn said(sampler: &Sampler, key: &AgentKey) -> Option<Measured> {
    sampler.latest(key).remove(&trigger())
}

/// Lets an interval pass and gives every query that is then due its result; tells how many there were.
fn round(sampler: &Sampler, result: impl Fn(&BTreeSet<String>) -> Result<Answer, ClientError>) -> usize {
    for watched in sampler.state().agents.values_mut() {
        watched.checks.values_mut().for_each(|check| check.due = Instant::now());
    }
    let mut asked = 0;
    loop {
        let begun = sampler.due().0;
        if begun.is_empty() {
            return asked;
        }
        asked += begun.len();
        for (ask, whom) in begun {
            let result = result(&whom.revisions);
            sampler.take(&Done { ask, whom, at: Timestamp::now(), took: Duration::ZERO, result });
        }
    }
}

#[allow(clippy::unnecessary_wraps)] // what a source gave
fn answer() -> Result<Answer, ClientError> {
    Ok(Answer::default())
}

/// The source's result while every query that names one of these revisions is too large for it.
fn without<'a>(bad: &'a [&'a str]) -> impl Fn(&BTreeSet<String>) -> Result<Answer, ClientError> + 'a {
    |revisions| if bad.iter().any(|bad| revisions.contains(*bad)) { Err(ClientError::Status(422)) } else { answer() }
}

/// Whether an agent's numbers are known, whatever they are.
fn answered(sampler: &Sampler, key: &AgentKey) -> bool {
    said(sampler, key).is_some_and(|said| said.verdict != Verdict::Error)
}

async fn idle() -> Arc<Sampler> {
    build(vec![Fake::of(&[]).await.source("")], 8).0
}

/// Sixteen agents in four namespaces, with the canaries `a0` to `d3`.
fn fleet(sampler: &Sampler) -> Vec<AgentKey> {
    let names = ["a", "b", "c", "d"].into_iter().flat_map(|team| (0..4).map(move |i| (team, format!("{team}{i}"))));
    names
        .map(|(team, name)| {
            launch(sampler, agent(team, &name), &name);
            agent(team, &name)
        })
        .collect()
}

#[tokio::test]
async fn a_bad_canary_is_seen_while_another_teams_series_break_every_query_that_names_them() {
    let seen: Vec<_> = BAD.iter().copied().chain([("ochre", "amount", "99"), ("ochre", "samples", "100")]).collect();
    let fake = Fake::start(Reply::Refuses("greedy", 422, body(&seen))).await;
    let (sampler, mut woken, _) = build(vec![fake.source("")], 64);
    let greedy = agent("growth", "greedy");
    launch(&sampler, greedy.clone(), "greedy");
    fleet(&sampler);
    launch(&sampler, key(), "teal");
    let runner = Arc::clone(&sampler);
    tokio::spawn(async move { runner.run(CancellationToken::new()).await });
    let breach = async {
        loop {
            let woken = woken.recv().await.unwrap();
            let said = said(&sampler, &woken).unwrap();
            if woken == key() && said.verdict == Verdict::Fail {
                break said;
            }
        }
    };
    let breach = tokio::time::timeout(Duration::from_secs(20), breach).await.unwrap();
    assert_eq!(breach.message, "success_rate canary=9% (n=100) stable=99% (n=100), at least 89.1%");
    let (asked, greedy) = (fake.requests(), said(&sampler, &greedy).unwrap());
    assert_eq!((greedy.verdict, greedy.message.as_str()), (Verdict::Error, "source default: HTTP status 422"));
    assert!(asked[0].contains("greedy") && asked[0].contains("teal"), "first all share one query: {}", asked[0]);
}

#[tokio::test]
async fn only_the_agent_whose_query_fails_is_without_numbers() {
    let sampler = idle().await;
    let fleet = fleet(&sampler);
    assert_eq!(round(&sampler, without(&[])), 1, "healthy agents share one query");
    round(&sampler, without(&["b2"]));
    for key in &fleet {
        assert_eq!(answered(&sampler, key), key.1 != "b2", "{key:?}");
    }
    assert_eq!(round(&sampler, without(&["b2"])), 5, "the halves that answered stay apart for now");
    for _ in 0..APART {
        round(&sampler, without(&["b2"]));
    }
    assert_eq!(round(&sampler, without(&["b2"])), 2, "the others share again, and stay without the one that fails");
    assert!(fleet.iter().all(|key| answered(&sampler, key) == (key.1 != "b2")));
}

#[tokio::test]
async fn once_it_is_mended_or_gone_one_query_serves_all_again() {
    for gone in [false, true] {
        let sampler = idle().await;
        let fleet = fleet(&sampler);
        round(&sampler, without(&["b2"]));
        if gone {
            sampler.forget(&agent("b", "b2"));
        }
        assert!(round(&sampler, without(&[])) > 1, "who was told apart proves itself first");
        for _ in 1..APART {
            round(&sampler, without(&[]));
        }
        assert_eq!(round(&sampler, without(&[])), 1);
        assert!(fleet.iter().all(|key| answered(&sampler, key) != (gone && key.1 == "b2")));
    }
}

#[tokio::test]
async fn an_agent_that_fails_alone_does_not_fail_those_that_come() {
    let sampler = idle().await;
    launch(&sampler, agent("growth", "greedy"), "greedy");
    assert_eq!(round(&sampler, without(&["greedy"])), 1);
    launch(&sampler, key(), "teal");
    assert_eq!(round(&sampler, without(&["greedy"])), 2);
    assert!(answered(&sampler, &key()));
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_an_agents_namespace_is_not_its_answer() {
    let sampler = idle().await;
    let (asked, late) = (agent("a", "x"), agent("b", "x"));
    launch(&sampler, asked.clone(), "same");
    let begun = sampler.due().0;
    launch(&sampler, late.clone(), "same"); // equal manifests have equal revisions
    for (ask, whom) in begun {
        sampler.take(&Done { ask, whom, at: Timestamp::now(), took: Duration::ZERO, result: answer() });
    }
    assert!(said(&sampler, &asked).is_some());
    assert_eq!(said(&sampler, &late), None);
    assert_eq!(round(&sampler, without(&[])), 1);
    assert!(said(&sampler, &late).is_some());
}

#[tokio::test]
async fn a_warning_about_one_agents_series_is_not_every_agents() {
    let sampler = idle().await;
    let fleet = fleet(&sampler);
    round(&sampler, |revisions| {
        let mut answer = Answer::default();
        answer.warned = revisions.contains("c1");
        Ok(answer)
    });
    assert!(fleet.iter().all(|key| answered(&sampler, key) == (key.1 != "c1")));
}

#[tokio::test]
async fn a_dead_source_does_not_multiply_its_queries_without_bound() {
    for teams in [1, 10, 300] {
        let sampler = idle().await;
        let key = |i: usize| agent(&format!("team-{}", i % teams), &format!("agent-{i}"));
        for i in 0..300 {
            launch(&sampler, key(i), &format!("c0ffee{i}"));
        }
        let dead = |_: &BTreeSet<String>| Err(ClientError::TimedOut(Duration::from_secs(5)));
        let most = (0..20).map(|_| round(&sampler, dead)).skip(1).max().unwrap();
        assert!(most <= MOST_PARTS + 1, "{teams} teams: {most} queries in a round");
        for _ in 0..=APART {
            round(&sampler, without(&[]));
            assert!((0..300).all(|i| answered(&sampler, &key(i))), "at once when it is back");
        }
        assert_eq!(round(&sampler, without(&[])), 1);
    }
}

#[tokio::test]
async fn what_no_revision_can_be_blamed_for_divides_nobody() {
    for error in [ClientError::Refused, ClientError::Token, ClientError::Status(401), ClientError::Status(429)] {
        let sampler = idle().await;
        let fleet = fleet(&sampler);
        for _ in 0..3 {
            assert_eq!(round(&sampler, |_| Err(error.clone())), 1, "{error}");
        }
        assert!(fleet.iter().all(|key| !answered(&sampler, key)));
    }
}

#[tokio::test]
async fn a_team_with_many_bad_agents_is_told_from_the_others_first() {
    let sampler = idle().await;
    let names: Vec<String> = (0..100).map(|i| format!("bad{i}")).collect();
    for name in &names {
        launch(&sampler, agent("c2", name), name);
    }
    let fleet = fleet(&sampler);
    let mut bad: Vec<&str> = names.iter().map(String::as_str).collect();
    (0..5).for_each(|_| _ = round(&sampler, without(&bad)));
    assert!(fleet.iter().all(|key| answered(&sampler, key)));
    bad.push("b2");
    round(&sampler, without(&bad));
    let blind: Vec<_> = fleet.iter().filter(|key| !answered(&sampler, key)).collect();
    assert!(blind.iter().all(|key| key.0 == "b"), "{blind:?}");
}

/// Watches an agent with so many queries of its own.
fn greedy(sampler: &Sampler, queries: u64) {
    let ask = |i: u64| {
        let window = Some(Duration::from_secs(100 + i));
        (gate(&format!("slow-{i}")), Question { window, ..question("success_rate", Compare::Value, "0.9") })
    };
    let questions = (0..queries).map(ask).collect();
    sampler.watch(agent("growth", "greedy"), Watch { questions, ..watch("greedy") });
}

fn finish(sampler: &Sampler, ask: Ask, whom: Whom) {
    sampler.take(&Done { ask, whom, at: Timestamp::now(), took: Duration::from_secs(4), result: answer() });
}

#[tokio::test]
async fn slow_queries_of_one_team_do_not_hold_anothers_back() {
    let sampler = idle().await;
    greedy(&sampler, 40);
    let mut under_way: Vec<_> = sampler.due().0.into_iter().collect();
    assert_eq!(under_way.len(), SLOTS);
    launch(&sampler, key(), "teal");
    assert_eq!(sampler.due().0.len(), 0, "no slot is free");
    let (ask, whom) = under_way.pop().unwrap();
    finish(&sampler, ask, whom);
    let (ask, whom) = sampler.due().0.pop_first().unwrap();
    assert_eq!(whom.namespaces, ["support".to_owned()].into(), "the other team is next");
    sampler.take(&Done { ask, whom, at: Timestamp::now(), took: Duration::from_millis(5), result: answer() });
    assert!(answered(&sampler, &key()));
    assert_eq!(sampler.due().0.len(), 0, "the last slot is not for who used more than a share");
    launch(&sampler, key(), "plum");
    assert_eq!(sampler.due().0.len(), 1, "so the other team never waits");
}

#[tokio::test]
async fn every_slow_query_has_its_turn() {
    let sampler = idle().await;
    greedy(&sampler, 40);
    let mut seen = BTreeSet::new();
    let mut under_way = Vec::new();
    for _ in 0..40 + SLOTS {
        under_way.extend(sampler.due().0);
        assert!(under_way.len() <= SLOTS);
        let (ask, whom) = under_way.remove(0);
        seen.insert(ask.clone());
        finish(&sampler, ask, whom);
        for watched in sampler.state().agents.values_mut() {
            watched.checks.values_mut().for_each(|check| check.due = check.due.min(Instant::now())); // so slow was it
        }
    }
    assert_eq!(seen.len(), 40, "though those that were asked are due again");
}
