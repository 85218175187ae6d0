//! The annotations that ride on the write that changes a weight, or moves the agent's Service: who wrote it, and why it fell.
//!
//! They are in the same write as the weight, so that no crash, stale cache or deposed leader can part the two.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;

use crate::api::{FIELD_MANAGER, Outcome, annotations, clip};
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

/// Marks on an object that an apply which does not say them would leave there: something else than an apply of Sluice's wrote
/// them too. Earlier builds did. A decision that stays is taken for one about the launch that is written beside it.
pub fn unpruned(live: &impl ResourceExt, said: &BTreeMap<String, String>) -> Vec<&'static str> {
    let ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    };
    let others =
        || live.managed_fields().iter().filter(|entry| !ours(entry)).filter_map(|entry| entry.fields_v1.as_ref());
    let marked = |fields: &FieldsV1, key: &str| {
        fields.0.pointer("/f:metadata/f:annotations").is_some_and(|marks| marks.get(format!("f:{key}")).is_some())
    };
    let stays = |key: &str| !said.contains_key(key) && live.annotations().contains_key(key);
    KEYS.into_iter().filter(|key| stays(key) && others().any(|fields| marked(fields, key))).collect()
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
    use k8s_openapi::api::core::v1::Service;
    use proptest::prelude::*;
    use serde_json::json;

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
    fn marks_that_an_apply_does_not_take_away_are_those_that_something_else_wrote_too() {
        let fields = json!({"f:metadata": {"f:annotations": {"f:sluice.dev/decision": {}, "f:sluice.dev/launch": {}}}});
        let by = |manager: &str, operation: &str| -> Service {
            let entry =
                json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields});
            let marks = json!({"sluice.dev/decision": "Aborted", "sluice.dev/launch": "a-1", "sluice.dev/epoch": "3"});
            let metadata = json!({"name": "a", "annotations": marks, "managedFields": [entry]});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let climbing = Mark { epoch: 4, launch: Some("a-2"), decision: None }.annotations();
        assert_eq!(unpruned(&by("sluice", "Update"), &climbing), ["sluice.dev/decision"]);
        assert_eq!(unpruned(&by("kubectl-edit", "Apply"), &climbing), ["sluice.dev/decision"]);
        assert!(unpruned(&by("sluice", "Apply"), &climbing).is_empty());
        let decision = decided("Word", "why");
        let falling = Mark { epoch: 4, launch: None, decision: Some(&decision) }.annotations();
        assert!(unpruned(&by("sluice", "Update"), &falling).is_empty(), "it is said anew");
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
