//! Gates: what must pass before a stage is left. What is not known never passes.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::forward::LOOK_SOON;
use super::time::{after, between, human};
use super::{CheckName, Gate, GateCheck, Measured, Observation, Pods, Question, Stage, by_pods, capacity, people};
use crate::api::{GateVerdict, Launch, OnFail, Verdict};

/// Verdicts whose kind has not changed are written again when their numbers are as old as a tenth of the stage's age,
/// within these bounds: a young stage is followed closely, an old one costs a write a minute.
const REFRESH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// Judges the gates of a stage that has begun and remembers the verdicts. Returns when to look again, if time alone can change one.
pub(super) fn judge(launch: &mut Launch, stage: &Stage, seen: &Observation, now: Timestamp) -> Option<Timestamp> {
    let began = launch.began_at?;
    let readings: Vec<_> = stage.gates.iter().map(|gate| (gate, read(gate, launch, began, seen, now))).collect();
    let wake = readings.iter().filter_map(|(_, (_, wake))| *wake).min();
    let verdicts = readings
        .into_iter()
        .map(|(gate, (reading, _))| (gate, people::overruled(launch, &gate.name, reading)))
        .map(|(gate, reading)| GateVerdict {
            gate: gate.name.clone(),
            verdict: reading.0,
            message: crate::api::clip(&reading.1, 256),
        })
        .collect();
    let retold = remember(launch, verdicts, began, now);
    wake.into_iter().chain(retold).min()
}

/// Whether every gate passes.
pub(super) fn all_pass(launch: &Launch) -> bool {
    launch.verdicts.iter().all(|gate| matches!(gate.verdict, Verdict::Pass | Verdict::NotApplicable))
}

/// A gate that fails and asks for a rollback, with its numbers.
pub(super) fn failed(launch: &Launch, stage: &Stage) -> Option<(String, String)> {
    let asks = |name: &str| stage.gates.iter().any(|gate| gate.name == name && gate.on_fail == OnFail::Rollback);
    let failed = launch.verdicts.iter().find(|gate| gate.verdict == Verdict::Fail && asks(&gate.gate))?;
    Some((failed.gate.clone(), failed.message.clone()))
}

/// The numbers that let the stage be left: the justification of the next weight.
pub(super) fn justification(launch: &Launch) -> String {
    let numbers: Vec<_> = launch.verdicts.iter().map(|gate| format!("{}: {}", gate.gate, gate.message)).collect();
    if numbers.is_empty() { "no gates".to_owned() } else { numbers.join("; ") }
}

type Reading = (Verdict, String);

fn read(
    gate: &Gate,
    launch: &Launch,
    began: Timestamp,
    seen: &Observation,
    now: Timestamp,
) -> (Reading, Option<Timestamp>) {
    match &gate.check {
        GateCheck::Health(lasting) => read_health(*lasting, began, launch, seen, now),
        GateCheck::Metric(question) => {
            let measured = seen.measured.get(&CheckName::Gate(launch.stage, gate.name.clone()));
            read_metric(question, began, measured, now)
        }
    }
}

/// A metric counts only when its data lies wholly after the stage began.
fn read_metric(
    question: &Question,
    began: Timestamp,
    measured: Option<&Measured>,
    now: Timestamp,
) -> (Reading, Option<Timestamp>) {
    let Some(measured) = measured else {
        return ((Verdict::Insufficient, "not measured yet".to_owned()), None); // the first answer wakes us
    };
    let covered = between(began, measured.sampled_at);
    let needed = question.window.unwrap_or_default();
    let early = measured.sampled_at <= began || covered < needed;
    if early && !matches!(measured.verdict, Verdict::Error | Verdict::NotApplicable) {
        let (message, due) = if needed.is_zero() {
            ("no sample since the stage began".to_owned(), after(now, LOOK_SOON))
        } else {
            let due = after(began, needed).max(after(now, Duration::from_secs(1)));
            (format!("{} of the {} window", human(covered), human(needed)), due)
        };
        return ((Verdict::Insufficient, message), Some(due));
    }
    ((measured.verdict, measured.message.clone()), None)
}

fn read_health(
    lasting: Duration,
    began: Timestamp,
    launch: &Launch,
    seen: &Observation,
    now: Timestamp,
) -> (Reading, Option<Timestamp>) {
    let none = Pods::default();
    let pods = seen.pods.get(&launch.revision).unwrap_or(&none);
    let alone = seen.by_pods.is_none() || launch.stable.is_none();
    let asked = if alone {
        capacity::canary_size(seen.replicas, launch.weight)
    } else {
        by_pods::needed(launch, launch.weight, seen)
    };
    let Some(since) = pods.all_ready_since.filter(|_| pods.ready >= asked.max(1)) else {
        // more pods than a moment ago are no failure of the canary: a scaler asked for them
        let verdict = if pods.ready > 0 && pods.failing == 0 { Verdict::Insufficient } else { Verdict::Fail };
        return ((verdict, format!("{}/{} pods ready", pods.ready, asked.max(pods.size))), None);
    };
    let since = since.max(began);
    let lasted = between(since, now);
    if lasted >= lasting {
        ((Verdict::Pass, format!("{} pods ready for {}", pods.ready, human(lasted.min(lasting)))), None)
    } else {
        let message = format!("{} pods ready for {} of {}", pods.ready, human(lasted), human(lasting));
        ((Verdict::Insufficient, message), Some(after(since, lasting)))
    }
}

/// Keeps the old numbers while no verdict changes its kind: status is not a place for measurements by the second.
/// Returns when the numbers of a gate that does not pass are to be told anew.
fn remember(launch: &mut Launch, verdicts: Vec<GateVerdict>, began: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let kinds =
        |list: &[GateVerdict]| -> Vec<_> { list.iter().map(|gate| (gate.gate.clone(), gate.verdict)).collect() };
    let same = kinds(&launch.verdicts) == kinds(&verdicts);
    let keep = (between(began, now) / 10).clamp(REFRESH.0, REFRESH.1);
    let fresh = launch.verdicts_at.is_some_and(|at| between(at, now) < keep);
    if !(same && fresh) && verdicts != launch.verdicts {
        launch.verdicts_at = Some(now);
        launch.verdicts = verdicts;
    }
    let waiting = launch.verdicts.iter().any(|gate| gate.verdict != Verdict::Pass);
    waiting.then(|| after(launch.verdicts_at.unwrap_or(now), keep).max(after(now, REFRESH.0)))
}
