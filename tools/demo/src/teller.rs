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
    head: Option<(Phase, i32, i32)>,
    measuring: bool,
    verdicts: BTreeMap<(i32, String), Verdict>,
    breaches: Vec<String>,
    last: Snapshot,
}

impl Teller {
    /// Times are told since `before` was taken, which was when the change was made.
    pub(crate) fn new(before: Snapshot) -> Self {
        Self {
            began: before.at,
            head: None,
            measuring: false,
            verdicts: BTreeMap::new(),
            breaches: Vec::new(),
            last: before,
        }
    }

    /// What is new. The launch is the one this teller is about.
    pub(crate) fn tell(&mut self, launch: &Launch, load: &Snapshot) -> Vec<Line> {
        let mut lines = Vec::new();
        let ended = launch.phase == Phase::Complete && self.head.is_none_or(|head| head.0 != Phase::Complete);
        self.head(launch, &mut lines);
        self.gates(launch, &mut lines);
        self.triggers(launch, &mut lines);
        if ended || seconds(self.last.at, load.at) >= TRAFFIC_EVERY.as_secs_f64() {
            lines.extend(self.traffic(launch, load));
        }
        let at = seconds(self.began, load.at);
        for line in &mut lines {
            line.text = format!("   {at:>5.1}s  {}", line.text);
        }
        lines
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

    /// Who answered since the last time this was told.
    fn traffic(&mut self, launch: &Launch, load: &Snapshot) -> Option<Line> {
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
            let role = if *revision == launch.revision { "canary" } else { "stable" };
            let errors = if errors > 0 { format!(" + {errors} errors") } else { String::new() };
            parts.push(format!("{role} {ok} ok{errors}"));
        }
        // Stable first, whatever the hashes are.
        parts.sort_by(|a, b| b.cmp(a));
        let share = percent(load.answered_by(&launch.revision) - since.answered_by(&launch.revision), answered);
        let text = format!("  answers: {}; canary's share {share}; lost {lost}", parts.join(", "));
        Some(Line::new(if lost > 0 { Tone::Bad } else { Tone::Dim }, text))
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
        Phase::Progressing => Line::new(Tone::Plain, format!("  weight {} %: {why}", launch.weight)),
        Phase::Promoting if entered => Line::new(Tone::Good, format!("promoting: {why}")),
        Phase::Promoting => Line::new(Tone::Plain, format!("  weight {} %", launch.weight)),
        Phase::RollingBack if entered => Line::new(Tone::Bad, format!("ROLLING BACK: {why}")),
        Phase::RollingBack => return None,
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
        let mut seen = Launch { phase: Phase::Progressing, outcome: None, weight: 0, began_at: None, ..launch() };
        assert_eq!(
            texts(&teller.tell(&seen, &snapshot(at(2_000), 80, 0, 0))),
            ["2.0s  launch refund-agent-3: teal in the place of ochre", "2.0s  stage canary-1 (1/3)"]
        );
        assert!(teller.tell(&seen, &snapshot(at(2_100), 82, 0, 0)).is_empty());

        (seen.weight, seen.message) = (5, Some("capacity is ready".to_owned()));
        let raised = teller.tell(&seen, &snapshot(at(2_200), 84, 0, 0));
        assert_eq!(texts(&raised), ["2.2s    weight 5 %: capacity is ready"]);

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
        }];
        assert_eq!(
            texts(&teller.tell(&seen, &snapshot(at(5_000), 184, 14, 6))),
            [
                "5.0s    5 % read back, canary ready: measuring",
                "5.0s    gate success  Fail         70.0% (14/20), at least 99%",
                "5.0s    trigger errors-doubled is in breach",
                "5.0s    answers: stable 184 ok, canary 14 ok + 6 errors; canary's share 9.8 %; lost 0",
            ]
        );

        let ended = Launch { verdicts: Vec::new(), breaches: Vec::new(), ..launch() };
        let lines = teller.tell(&ended, &snapshot(at(6_000), 220, 15, 7));
        assert_eq!(
            texts(&lines),
            [
                "6.0s  RolledBack: errors-doubled: 30.0% against 0.0%",
                "6.0s    answers: stable 36 ok, canary 1 ok + 1 errors; canary's share 5.3 %; lost 0",
            ]
        );
        assert!(teller.tell(&ended, &snapshot(at(6_100), 220, 15, 7)).is_empty());
    }

    #[test]
    fn percentages_have_one_decimal_and_no_division_by_zero() {
        assert_eq!((percent(1, 3), percent(0, 0), percent(5, 5)), ("33.3 %".into(), "0.0 %".into(), "100.0 %".into()));
    }
}
