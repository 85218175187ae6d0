//! The annotations that ride on the write that changes a weight, or moves the agent's Service: who wrote it, and why it fell.
//!
//! They are in the same write as the weight, so that no crash, stale cache or deposed leader can part the two.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::api::{Outcome, annotations, clip};
use crate::launch::Decision;

/// The longest text of a reason, in characters: what status can hold.
const LONGEST: usize = 512;
/// The longest word of a reason.
const LONGEST_WORD: usize = 64;
/// Everything that a mark may write, and so takes away when it does not.
pub(super) const KEYS: [&str; 6] = [
    annotations::LAUNCH,
    annotations::REVISION,
    annotations::DECISION,
    annotations::REASON,
    annotations::DECIDED_AT,
    annotations::EPOCH,
];

/// No epoch is higher; the admission policy of the chart takes nine digits too.
pub const HIGHEST_EPOCH: i32 = 999_999_999;

/// Who writes a weight, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// Epoch of the leader.
    pub epoch: i64,
    /// Id of the launch. `None` at rest, outside any launch.
    pub launch: Option<&'a str>,
    /// The decision that takes the weight down. `None` while a launch climbs.
    pub decision: Option<&'a Decision>,
}

impl Mark<'_> {
    /// The annotations of this mark; those of [`annotations`] that are not among them must go.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([(annotations::EPOCH, self.epoch.to_string())]);
        if let Some(launch) = self.launch {
            all.insert(annotations::LAUNCH, clean(launch, LONGEST));
        }
        if let Some(decision) = self.decision {
            all.insert(annotations::LAUNCH, clean(&decision.launch, LONGEST));
            all.insert(annotations::REVISION, clean(&decision.revision, LONGEST));
            all.insert(annotations::DECISION, word(decision.outcome));
            all.insert(annotations::REASON, reason(decision));
            all.insert(annotations::DECIDED_AT, decision.at.to_string());
        }
        all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Reads the decision back from the annotations of a route or Service.
///
/// A damaged decision is still one, because it keeps a weight down: an outcome that cannot be read is `RolledBack`, a time
/// that cannot be read is 1970. Without launch and revision nobody can say what was decided, and there is none.
pub fn decision(found: &BTreeMap<String, String>) -> Option<Decision> {
    let outcome = Value::from(found.get(annotations::DECISION)?.as_str());
    let text = found.get(annotations::REASON).map(String::as_str).unwrap_or_default();
    let (reason, message) = text.split_once(": ").unwrap_or((text, ""));
    let at = found.get(annotations::DECIDED_AT).and_then(|at| at.parse().ok());
    Some(Decision {
        launch: clip(found.get(annotations::LAUNCH)?, 63),
        revision: found.get(annotations::REVISION)?.clone(),
        outcome: serde_json::from_value(outcome).unwrap_or(Outcome::RolledBack),
        reason: clip(reason, 64),
        message: clip(message, 512),
        at: at.unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// The epoch of the leader that wrote an object last. What no leader can have written is none.
pub fn epoch(found: &BTreeMap<String, String>) -> Option<i64> {
    found.get(annotations::EPOCH)?.parse().ok().filter(is_possible)
}

/// A leader must be able to rise above it: the highest that there is would lock all leaders out of what they write.
#[allow(clippy::trivially_copy_pass_by_ref)] // for filters
fn is_possible(epoch: &i64) -> bool {
    (1..i64::from(HIGHEST_EPOCH)).contains(epoch)
}

/// The highest epoch on a route that several agents may share, each with marks of its own.
pub fn highest_epoch(found: &BTreeMap<String, String>) -> Option<i64> {
    let word = |key: &str| Some(key.strip_prefix("sluice.dev/")?.rsplit_once('.')?.1 == "epoch");
    let of_an_agent = |key: &str| word(key).unwrap_or_default();
    let own = found.iter().filter(|(key, _)| of_an_agent(key)).filter_map(|(_, value)| value.parse::<i64>().ok());
    own.filter(is_possible).chain(epoch(found)).max()
}

/// The word of an outcome, the same as in status.
fn word(outcome: Outcome) -> String {
    let word = match outcome {
        Outcome::Succeeded => "Succeeded",
        Outcome::RolledBack => "RolledBack",
        Outcome::Superseded => "Superseded",
        Outcome::Aborted => "Aborted",
        Outcome::Failed => "Failed",
    };
    word.to_owned()
}

/// `Word: sentence`, on one line and not too long.
fn reason(decision: &Decision) -> String {
    let word: String = decision.reason.chars().filter(char::is_ascii_alphanumeric).take(LONGEST_WORD).collect();
    let room = LONGEST.saturating_sub(word.len() + 2);
    let message = clean(&decision.message, room);
    if message.is_empty() { word } else { format!("{word}: {message}") }
}

/// Without control characters and blanks at the ends, and cut to so many characters.
fn clean(text: &str, longest: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim();
    if line.chars().count() <= longest {
        return line.to_owned();
    }
    let kept: String = line.chars().take(longest.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decided(reason: &str, message: &str) -> Decision {
        Decision {
            launch: "refund-3".to_owned(),
            revision: "0123456789".to_owned(),
            outcome: Outcome::RolledBack,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: "2026-01-01T00:00:01.5Z".parse().unwrap(),
        }
    }

    fn read_back(decision_: &Decision) -> Option<Decision> {
        decision(&Mark { epoch: 7, launch: Some("other"), decision: Some(decision_) }.annotations())
    }

    #[test]
    fn a_user_reads_what_was_decided_and_why() {
        let decision = decided("ErrorsDoubled", "error_rate is 4.1%, above 2%");
        let all = Mark { epoch: 7, launch: Some("refund-3"), decision: Some(&decision) }.annotations();
        let lines: Vec<_> = all.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            lines,
            [
                "sluice.dev/decided-at=2026-01-01T00:00:01.5Z",
                "sluice.dev/decided-revision=0123456789",
                "sluice.dev/decision=RolledBack",
                "sluice.dev/epoch=7",
                "sluice.dev/launch=refund-3",
                "sluice.dev/reason=ErrorsDoubled: error_rate is 4.1%, above 2%",
            ]
        );
        assert!(all.keys().all(|key| KEYS.contains(&key.as_str())));
        assert_eq!(epoch(&all), Some(7));
    }

    #[test]
    fn what_no_leader_can_have_written_is_no_epoch() {
        let read = |text: &str| epoch(&BTreeMap::from([(annotations::EPOCH.to_owned(), text.to_owned())]));
        assert_eq!(["7", "999999998"].map(read), [Some(7), Some(999_999_998)]);
        assert_eq!(["", "0", "-1", "7.5", "1000000000", "999999999", "99999999999999999999"].map(read), [None; 7]);
    }

    #[test]
    fn while_a_launch_climbs_there_is_no_decision() {
        let climbing = Mark { epoch: 7, launch: Some("refund-3"), decision: None }.annotations();
        assert_eq!(climbing.len(), 2);
        assert_eq!(decision(&climbing), None);
        assert_eq!(Mark { epoch: 7, launch: None, decision: None }.annotations().len(), 1);
    }

    #[test]
    fn every_outcome_is_read_back() {
        for outcome in [Outcome::Succeeded, Outcome::RolledBack, Outcome::Superseded, Outcome::Aborted, Outcome::Failed]
        {
            assert_eq!(serde_json::to_value(outcome).unwrap(), *word(outcome));
            let decision = Decision { outcome, ..decided("Word", "why") };
            assert_eq!(read_back(&decision), Some(decision));
        }
    }

    #[test]
    fn a_damaged_decision_still_keeps_the_weight_down() {
        let mut all = Mark { epoch: 1, launch: None, decision: Some(&decided("Word", "why")) }.annotations();
        all.insert(annotations::DECISION.to_owned(), "?".to_owned());
        all.insert(annotations::DECIDED_AT.to_owned(), "yesterday".to_owned());
        all.remove(annotations::REASON);
        let read = decision(&all).unwrap();
        assert_eq!((read.outcome, read.at), (Outcome::RolledBack, Timestamp::UNIX_EPOCH));
        assert_eq!((read.reason.as_str(), read.message.as_str()), ("", ""));
        all.remove(annotations::REVISION);
        assert_eq!(decision(&all), None);
    }

    #[test]
    fn a_message_with_colons_and_new_lines_stays_one_message() {
        let read = read_back(&decided("Bad Word: x", " one: two\nthree: \u{7}four ")).unwrap();
        assert_eq!((read.reason.as_str(), read.message.as_str()), ("BadWordx", "one: two three:  four"));
    }

    proptest! {
        #[test]
        fn any_text_fits_and_is_read_back_the_same_the_second_time(word in "\\PC{0,80}", message in "(?s).{0,700}") {
            let written = decided(&word, &message);
            let text = reason(&written);
            prop_assert!(text.chars().count() <= LONGEST && !text.contains(char::is_control));
            let once = read_back(&written).unwrap();
            prop_assert_eq!(read_back(&once), Some(once));
        }
    }
}
