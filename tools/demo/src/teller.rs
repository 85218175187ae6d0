//! Turns what is seen of a launch into lines, each told once.

use std::{collections::BTreeMap, time::Duration};

use demo::load::Snapshot;
use k8s_openapi::jiff::Timestamp;
use sluice::api::{Launch, Outcome, Phase, Verdict};

use crate::screen::{Line, Tone};

/// Traffic is told this often.
const TRAFFIC_EVERY: Duration = Duration::from_secs(4);

/// Remembers what was told of one launch.
pub(crate) struct Teller {
    began: Timestamp,
    canary: Option<String>,
    head: Option<(Phase, i32, i32)>,
    measuring: bool,
    justification: Option<String>,
    verdicts: BTreeMap<(i32, String), Verdict>,
    breaches: Vec<String>,
    last: Snapshot,
}

impl Teller {
    /// Times are told since `before` was taken, which was when the change was made.
    pub(crate) fn new(before: Snapshot) -> Self {
        Self {
            began: before.at,
            canary: None,
            head: None,
            measuring: false,
            justification: None,
            verdicts: BTreeMap::new(),
            breaches: Vec::new(),
            last: before,
        }
    }

    /// What is new in this version of the launch.
    pub(crate) fn launch(&mut self, launch: &Launch, now: Timestamp) -> Vec<Line> {
        let mut lines = Vec::new();
        self.canary = Some(launch.revision.clone());
        if launch.justification.is_some() && launch.justification != self.justification {
            self.justification.clone_from(&launch.justification);
            let passed = launch.justification.as_deref().unwrap_or_default();
            // One gate a line: "canary-1 passed: success: …; p95: …".
            let (stage, gates) = passed.split_once(": ").unwrap_or(("", passed));
            lines.push(Line::new(Tone::Good, format!("  {stage}")));
            lines.extend(gates.split("; ").map(|gate| Line::new(Tone::Good, format!("    {gate}"))));
        }
        self.head(launch, &mut lines);
        self.gates(launch, &mut lines);
        self.triggers(launch, &mut lines);
        lines.iter().map(|line| self.timed(line, now)).collect()
    }

    fn timed(&self, line: &Line, now: Timestamp) -> Line {
        Line::new(line.tone, format!("   {:>5.1}s  {}", seconds(self.began, now), line.text))
    }

    fn head(&mut self, launch: &Launch, lines: &mut Vec<Line>) {
        let head = (launch.phase, launch.stage, launch.weight);
        if self.head.is_none() {
            let instead = launch.stable.as_deref().unwrap_or("nothing");
            let text = format!("launch {}: {} in the place of {instead}", launch.id, launch.revision);
            lines.push(Line::new(Tone::Title, text));
        }
        if self.head != Some(head) {
            let entered = self.head.is_none_or(|(phase, stage, _)| phase != launch.phase || stage != launch.stage);
            self.head = Some(head);
            lines.extend(announce(launch, entered));
        }
        let measuring = launch.phase == Phase::Progressing && launch.began_at.is_some();
        if measuring && !self.measuring {
            lines.push(Line::new(Tone::Dim, format!("  {} % read back, canary ready: measuring", launch.weight)));
        }
        self.measuring = measuring;
    }

    fn gates(&mut self, launch: &Launch, lines: &mut Vec<Line>) {
        for gate in &launch.verdicts {
            let key = (launch.stage, gate.gate.clone());
            if self.verdicts.insert(key, gate.verdict) != Some(gate.verdict) {
                let tone = match gate.verdict {
                    Verdict::Pass => Tone::Good,
                    Verdict::Fail | Verdict::Error => Tone::Bad,
                    Verdict::Insufficient | Verdict::NotApplicable => Tone::Dim,
                };
                let text = format!("  gate {:<8} {:<12} {}", gate.gate, format!("{:?}", gate.verdict), gate.message);
                lines.push(Line::new(tone, text));
            }
        }
    }

    fn triggers(&mut self, launch: &Launch, lines: &mut Vec<Line>) {
        let breaches: Vec<String> = launch.breaches.iter().map(|breach| breach.trigger.clone()).collect();
        for name in breaches.iter().filter(|name| !self.breaches.contains(name)) {
            lines.push(Line::new(Tone::Bad, format!("  trigger {name} is in breach")));
        }
        for name in self.breaches.iter().filter(|name| !breaches.contains(name)) {
            if launch.phase == Phase::Progressing {
                lines.push(Line::new(Tone::Good, format!("  trigger {name} is in breach no more")));
            }
        }
        self.breaches = breaches;
    }

    /// Who answered since the last time this was told, if that was long ago.
    pub(crate) fn traffic(&mut self, load: &Snapshot) -> Option<Line> {
        let canary = self.canary.clone().filter(|_| seconds(self.last.at, load.at) >= TRAFFIC_EVERY.as_secs_f64())?;
        let since = std::mem::replace(&mut self.last, load.clone());
        let answered = load.answered() - since.answered();
        let lost = load.lost - since.lost;
        if answered + lost == 0 {
            return None;
        }
        let mut parts = Vec::new();
        for (revision, answers) in &load.revisions {
            let before = since.revisions.get(revision);
            let ok = answers.ok - before.map_or(0, |answers| answers.ok);
            let errors = answers.errors - before.map_or(0, |answers| answers.errors);
            if ok + errors == 0 {
                continue;
            }
            let role = if *revision == canary { "canary" } else { "stable" };
            let errors = if errors > 0 { format!(" + {errors} errors") } else { String::new() };
            parts.push(format!("{role} {ok} ok{errors}"));
        }
        // Stable first, whatever the hashes are.
        parts.sort_by(|a, b| b.cmp(a));
        let share = percent(load.answered_by(&canary) - since.answered_by(&canary), answered);
        let text = format!("  answers: {}; canary's share {share}; lost {lost}", parts.join(", "));
        Some(self.timed(&Line::new(if lost > 0 { Tone::Bad } else { Tone::Dim }, text), load.at))
    }
}

fn announce(launch: &Launch, entered: bool) -> Option<Line> {
    let why = launch.message.as_deref().or(launch.reason.as_deref()).unwrap_or("no message");
    let line = match launch.phase {
        Phase::Progressing if entered => {
            let weight = if launch.weight > 0 { format!(", still at {} %", launch.weight) } else { String::new() };
            let text = format!("stage {} ({}/{}){weight}", launch.stage_name, launch.stage + 1, launch.stages);
            Line::new(Tone::Title, text)
        }
        Phase::Promoting if entered => Line::new(Tone::Title, "promotion: the canary becomes stable"),
        Phase::Progressing | Phase::Promoting => Line::new(Tone::Plain, format!("  weight {} %", launch.weight)),
        Phase::Soaking if entered => Line::new(Tone::Good, format!("soak: the canary is stable; {why}")),
        Phase::RollingBack if entered => Line::new(Tone::Bad, format!("ROLLING BACK: {why}")),
        Phase::Soaking | Phase::RollingBack => return None,
        Phase::Complete => {
            let tone = if launch.outcome == Some(Outcome::Succeeded) { Tone::Good } else { Tone::Notice };
            let outcome = launch.outcome.map_or_else(|| "ended".to_owned(), |outcome| format!("{outcome:?}"));
            Line::new(tone, format!("{outcome}: {why}"))
        }
    };
    Some(line)
}

/// From one instant to a later one, in seconds.
pub(crate) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// `part` of `whole`, in percent with one decimal.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let tenths = (1_000 * part + whole / 2).checked_div(whole).unwrap_or_default();
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use sluice::api::{Breach, GateVerdict};

    use super::*;
    use crate::timeline::tests::{at, launch, snapshot};

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.trim()).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let mut teller = Teller::new(snapshot(at(0), 0, 0, 0));
        assert_eq!(teller.traffic(&snapshot(at(9_000), 360, 0, 0)), None, "no canary to speak of");
        let mut seen =
            Launch { phase: Phase::Progressing, outcome: None, weight: 0, began_at: None, message: None, ..launch() };
        assert_eq!(
            texts(&teller.launch(&seen, at(2_000))),
            ["2.0s  launch refund-agent-3: teal in the place of ochre", "2.0s  stage canary-1 (1/3)"]
        );
        assert!(teller.launch(&seen, at(2_100)).is_empty());

        seen.weight = 5;
        assert_eq!(texts(&teller.launch(&seen, at(2_200))), ["2.2s    weight 5 %"]);

        seen.began_at = Some(at(2_300));
        seen.verdicts = vec![GateVerdict {
            gate: "success".to_owned(),
            verdict: Verdict::Fail,
            message: "70.0% (14/20), at least 99%".to_owned(),
        }];
        seen.breaches = vec![Breach {
            trigger: "errors-doubled".to_owned(),
            since: at(4_900),
            first_seen: at(4_900),
            last_seen: at(4_900),
            interrupted: false,
        }];
        assert_eq!(
            texts(&teller.launch(&seen, at(5_000))),
            [
                "5.0s    5 % read back, canary ready: measuring",
                "5.0s    gate success  Fail         70.0% (14/20), at least 99%",
                "5.0s    trigger errors-doubled is in breach",
            ]
        );

        let ended = Launch { verdicts: Vec::new(), breaches: Vec::new(), ..launch() };
        assert_eq!(texts(&teller.launch(&ended, at(6_000))), ["6.0s  RolledBack: errors-doubled: 30.0% against 0.0%"]);
        assert!(teller.launch(&ended, at(6_100)).is_empty());
    }

    #[test]
    fn the_numbers_that_let_a_stage_be_left_are_told_gate_by_gate() {
        let mut teller = Teller::new(snapshot(at(0), 0, 0, 0));
        let first = Launch { phase: Phase::Progressing, outcome: None, began_at: None, ..launch() };
        teller.launch(&first, at(1_000));
        let justification = Some("canary-1 passed: success: 100% (n=16) >= 99%; p95: 28ms (n=80)".to_owned());
        let next = Launch { stage: 1, stage_name: "canary-2".to_owned(), justification, ..first };
        assert_eq!(
            texts(&teller.launch(&next, at(9_000))),
            [
                "9.0s    canary-1 passed",
                "9.0s      success: 100% (n=16) >= 99%",
                "9.0s      p95: 28ms (n=80)",
                "9.0s  stage canary-2 (2/3), still at 5 %",
            ]
        );
    }

    #[test]
    fn traffic_is_told_now_and_then_as_it_was_since_the_last_time() {
        let mut teller = Teller::new(snapshot(at(0), 100, 0, 0));
        teller.launch(&launch(), at(1_000));
        assert_eq!(teller.traffic(&snapshot(at(3_000), 220, 0, 0)), None);
        assert_eq!(
            teller.traffic(&snapshot(at(5_000), 284, 14, 6)).unwrap().text.trim(),
            "5.0s    answers: stable 184 ok, canary 14 ok + 6 errors; canary's share 9.8 %; lost 0"
        );
        let lost = Snapshot { lost: 2, ..snapshot(at(10_000), 484, 14, 6) };
        let line = teller.traffic(&lost).unwrap();
        assert_eq!((line.tone, line.text.ends_with("stable 200 ok; canary's share 0.0 %; lost 2")), (Tone::Bad, true));
    }

    #[test]
    fn percentages_have_one_decimal_and_no_division_by_zero() {
        assert_eq!((percent(1, 3), percent(0, 0), percent(5, 5)), ("33.3 %".into(), "0.0 %".into(), "100.0 %".into()));
    }
}
