//! The measured time line of a rollback, from three witnesses: the load generator, the agent's status, the API server.

use demo::load::{Answers, Snapshot};
use k8s_openapi::jiff::Timestamp;
use sluice::api::{Launch, annotations};

use crate::{
    screen::{Line, Tone},
    teller::{percent, seconds},
    watch::RouteSeen,
};

/// Something that happened, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) what: String,
    pub(crate) witness: &'static str,
}

/// How long the parts of a rollback took, in seconds. What was not seen is absent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spans {
    /// From the command to the launch; Sluice's quiet time is in it.
    pub(crate) applied_to_launch: f64,
    pub(crate) first_bad_to_zero: Option<f64>,
    pub(crate) breach_to_zero: Option<f64>,
    pub(crate) decision_to_zero: Option<f64>,
    /// 0 if the canary answered nothing after weight 0.
    pub(crate) zero_to_last: Option<f64>,
}

/// What is known of one rolled-back launch.
pub(crate) struct Rollback {
    /// When the bad change was applied.
    pub(crate) applied: Timestamp,
    /// The launch, ended.
    pub(crate) launch: Launch,
    /// The route's versions, oldest first.
    pub(crate) routes: Vec<RouteSeen>,
    /// All requests before the change was applied.
    pub(crate) before: Snapshot,
    /// All requests, some seconds after the end.
    pub(crate) after: Snapshot,
}

impl Rollback {
    fn answers(&self) -> Option<&Answers> {
        self.after.revisions.get(&self.launch.revision)
    }

    /// The write that took the canary's traffic away.
    fn weight_zero(&self) -> Option<&RouteSeen> {
        let revision = &self.launch.revision;
        self.routes
            .windows(2)
            .find(|pair| pair[1].at >= self.applied && pair[0].share(revision) > 0 && pair[1].share(revision) == 0)
            .map(|pair| &pair[1])
    }

    /// When Sluice decided, in its own words: on the route, in the very write that set the weight to 0, else in the
    /// status.
    fn decided(&self) -> Option<Moment> {
        let note = self.weight_zero().and_then(|route| route.annotations.get(annotations::DECIDED_AT));
        let what = match self.launch.reason.as_deref() {
            Some("TriggerFired") => "the trigger fires: rollback is decided".to_owned(),
            reason => format!("rollback is decided: {}", reason.unwrap_or("no reason given")),
        };
        match note.and_then(|text| text.parse().ok()) {
            Some(at) => Some(Moment { at, what, witness: "HTTPRoute, sluice.dev/decided-at" }),
            None => self.launch.decided_at.map(|at| Moment { at, what, witness: "Sluice, status.launch.decidedAt" }),
        }
    }

    /// What happened, in order.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        let launch = &self.launch;
        let load = "load generator";
        let moment = |at: Option<Timestamp>, what: String, witness| at.map(|at| Moment { at, what, witness });
        let answers = self.answers();
        let mut moments: Vec<Moment> = [
            moment(Some(self.applied), "the bad prompt is applied".to_owned(), "kubectl"),
            moment(Some(launch.started_at), format!("launch {} begins", launch.id), "Sluice, status.launch.startedAt"),
            moment(
                launch.began_at,
                format!("{}: its weight is read back, the canary is ready", launch.stage_name),
                "Sluice, status.launch.beganAt",
            ),
            moment(answers.map(|answers| answers.first), "first answer by the canary".to_owned(), load),
            moment(answers.and_then(|answers| answers.first_error), "first bad answer".to_owned(), load),
            moment(launch.breached_at, "first sample in breach".to_owned(), "Sluice, status.launch.breachedAt"),
            self.decided(),
            moment(
                self.weight_zero().map(|route| route.at),
                "weight 0 is accepted by the API server".to_owned(),
                "a watch on the HTTPRoute",
            ),
            moment(answers.and_then(|answers| answers.last_error), "last bad answer".to_owned(), load),
            moment(answers.map(|answers| answers.last), "last answer by the canary".to_owned(), load),
            moment(
                launch.ended_at,
                "the launch ends: its traffic is read back as gone".to_owned(),
                "Sluice, status.launch.endedAt",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        moments.sort_by_key(|moment| moment.at);
        moments
    }

    pub(crate) fn spans(&self) -> Spans {
        let zero = self.weight_zero().map(|route| route.at);
        let answers = self.answers();
        let to_zero = |from: Option<Timestamp>| Some(seconds(from?, zero?));
        Spans {
            applied_to_launch: seconds(self.applied, self.launch.started_at),
            first_bad_to_zero: to_zero(answers.and_then(|answers| answers.first_error)),
            breach_to_zero: to_zero(self.launch.breached_at),
            decision_to_zero: to_zero(self.decided().map(|decided| decided.at)),
            zero_to_last: zero.map(|zero| answers.map_or(0.0, |answers| seconds(zero, answers.last).max(0.0))),
        }
    }

    /// The canary's own failures.
    pub(crate) fn bad_answers(&self) -> u64 {
        self.answers().map_or(0, |answers| answers.errors)
    }

    /// Requests lost since the change, whoever lost them.
    pub(crate) fn lost(&self) -> u64 {
        self.after.lost - self.before.lost
    }

    /// The time line, and what the bad release cost. Zero is the first bad answer.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let zero = self.answers().and_then(|answers| answers.first_error).unwrap_or(self.applied);
        let mut lines: Vec<Line> = self
            .moments()
            .iter()
            .map(|moment| {
                let bad = moment.at == zero && moment.at != self.applied;
                let text = format!("   {:>+8.3} s  {:<55} {}", seconds(zero, moment.at), moment.what, moment.witness);
                Line::new(if bad { Tone::Bad } else { Tone::Plain }, text)
            })
            .collect();
        lines.push(Line::new(Tone::Plain, ""));
        let spans = self.spans();
        let last = match spans.zero_to_last {
            Some(late) if late > 0.0 => Some(format!("weight 0 to the canary's last answer: {late:.3} s")),
            Some(_) => Some("the canary answered nothing after weight 0".to_owned()),
            None => None,
        };
        let spans = [
            spans.decision_to_zero.map(|span| format!("decision to weight 0: {span:.3} s")),
            spans.first_bad_to_zero.map(|span| format!("first bad answer to weight 0: {span:.3} s")),
            last,
        ];
        lines.extend(spans.into_iter().flatten().map(|span| Line::new(Tone::Good, format!("   {span}"))));
        let why = self.launch.message.as_deref().unwrap_or("no message");
        lines.push(Line::new(Tone::Plain, format!("   why: {why}")));
        let all = self.after.answered() - self.before.answered();
        let (bad, canary) = (self.bad_answers(), self.after.answered_by(&self.launch.revision));
        lines.push(Line::new(
            Tone::Plain,
            format!(
                "   since the change: {all} answers, {canary} by the bad revision ({}), {bad} of them bad ({} of all)",
                percent(canary, all),
                percent(bad, all)
            ),
        ));
        lines
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(crate) fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    /// A rolled-back launch of `teal` in the place of `ochre`.
    pub(crate) fn launch() -> Launch {
        // As the API server would send it, so that a field that is added to the status breaks nothing here.
        let launch = serde_json::json!({
            "number": 3, "id": "refund-agent-3", "revision": "teal", "stable": "ochre", "planHash": "44d0",
            "phase": "Complete", "outcome": "RolledBack",
            "reason": "TriggerFired", "message": "errors-doubled: 30.0% against 0.0%",
            "stage": 0, "stageName": "canary-1", "stages": 3, "weight": 5, "stableSize": 3,
            "startedAt": at(1_000), "enteredAt": at(1_000), "beganAt": at(3_000),
            "decidedAt": at(9_100), "breachedAt": at(6_000), "endedAt": at(9_800),
        });
        serde_json::from_value(launch).unwrap()
    }

    /// Answers of `ochre` (all good) and `teal`.
    pub(crate) fn snapshot(now: Timestamp, stable: u64, ok: u64, errors: u64) -> Snapshot {
        let answers = |ok, errors| Answers {
            ok,
            errors,
            first: at(3_100),
            last: at(9_300),
            first_error: (errors > 0).then(|| at(4_500)),
            last_error: (errors > 0).then(|| at(9_200)),
            took: std::time::Duration::from_secs(1),
        };
        let mut revisions = BTreeMap::from([("ochre".to_owned(), answers(stable, 0))]);
        if ok + errors > 0 {
            revisions.insert("teal".to_owned(), answers(ok, errors));
        }
        let sent = stable + ok + errors;
        Snapshot { started: at(0), at: now, sent, in_flight: 0, skipped: 0, revisions, lost: 0, losses: Vec::new() }
    }

    fn route(millis: i64, canary: u64, decided_at: Option<Timestamp>) -> RouteSeen {
        RouteSeen {
            at: at(millis),
            backends: vec![("refund-agent-ochre".to_owned(), 100 - canary), ("refund-agent-teal".to_owned(), canary)],
            annotations: decided_at
                .map(|at| (annotations::DECIDED_AT.to_owned(), at.to_string()))
                .into_iter()
                .collect(),
        }
    }

    pub(crate) fn rollback() -> Rollback {
        Rollback {
            applied: at(0),
            launch: launch(),
            routes: vec![route(500, 0, None), route(2_900, 5, None), route(9_150, 0, Some(at(9_123)))],
            before: snapshot(at(0), 200, 0, 0),
            after: snapshot(at(12_000), 600, 14, 6),
        }
    }

    #[test]
    fn moments_are_in_order_and_name_their_witness() {
        let moments = rollback().moments();
        let whats: Vec<&str> = moments.iter().map(|moment| moment.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "the bad prompt is applied",
                "launch refund-agent-3 begins",
                "canary-1: its weight is read back, the canary is ready",
                "first answer by the canary",
                "first bad answer",
                "first sample in breach",
                "the trigger fires: rollback is decided",
                "weight 0 is accepted by the API server",
                "last bad answer",
                "last answer by the canary",
                "the launch ends: its traffic is read back as gone",
            ]
        );
        // What the route says goes before what the status says.
        assert_eq!((moments[6].at, moments[6].witness), (at(9_123), "HTTPRoute, sluice.dev/decided-at"));
    }

    #[test]
    fn zero_is_the_first_bad_answer() {
        let lines: Vec<String> = rollback().lines().into_iter().map(|line| line.text).collect();
        assert!(lines[0].starts_with("     -4.500 s  the bad prompt"), "{lines:#?}");
        assert!(lines[4].starts_with("     +0.000 s  first bad answer"), "{lines:#?}");
        assert_eq!(
            lines[lines.len() - 5..],
            [
                "   decision to weight 0: 0.027 s",
                "   first bad answer to weight 0: 4.650 s",
                "   weight 0 to the canary's last answer: 0.150 s",
                "   why: errors-doubled: 30.0% against 0.0%",
                "   since the change: 420 answers, 20 by the bad revision (4.8 %), 6 of them bad (1.4 % of all)",
            ]
        );
    }

    #[test]
    fn a_canary_that_was_silent_before_weight_0_gives_no_negative_time() {
        let late = route(9_500, 0, Some(at(9_480)));
        let rollback = Rollback { routes: vec![route(2_900, 5, None), late], ..rollback() };
        let lines: Vec<String> = rollback.lines().into_iter().map(|line| line.text).collect();
        assert!(lines.contains(&"   the canary answered nothing after weight 0".to_owned()), "{lines:#?}");
    }

    #[test]
    fn what_was_not_seen_is_left_out() {
        let blind = Rollback { routes: Vec::new(), after: snapshot(at(12_000), 600, 0, 0), ..rollback() };
        let whats: Vec<String> = blind.moments().into_iter().map(|moment| moment.what).collect();
        assert!(whats.iter().all(|what| !what.contains("answer") && !what.contains("weight 0")), "{whats:?}");
        assert!(whats.contains(&"the trigger fires: rollback is decided".to_owned()), "{whats:?}");
        assert!(!blind.lines().is_empty());
    }
}
