//! Conditions: one place that sets them, so that transition times move only on a transition.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Stable serves.
pub const READY: &str = "Ready";
/// The wanted revision is stable.
pub const LAUNCHED: &str = "Launched";
/// A launch runs.
pub const PROGRESSING: &str = "Progressing";
/// A person must act.
pub const STALLED: &str = "Stalled";
/// The same as Progressing, under the name that kstatus reads; present only while true.
pub const RECONCILING: &str = "Reconciling";

/// Sets a condition: keeps `lastTransitionTime` while the status stays, and the list sorted by type.
pub fn set(conditions: &mut Vec<Condition>, new: (&str, bool, &str, &str), generation: Option<i64>, now: Timestamp) {
    let (type_, status, reason, message) = new;
    let status = if status { "True" } else { "False" };
    let before = conditions.iter().find(|c| c.type_ == type_ && c.status == status);
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: super::clip(message, 1024),
        observed_generation: generation,
        last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
    };
    conditions.retain(|c| c.type_ != type_);
    conditions.push(condition);
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Removes a condition.
pub fn clear(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|c| c.type_ != type_);
}

/// Whether a condition is `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_when_the_status_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        set(&mut conditions, (READY, true, "Serving", "3/3"), Some(1), at(10));
        set(&mut conditions, (READY, true, "Serving", "2/3"), Some(2), at(20));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert_eq!(conditions[0].message, "2/3");
        set(&mut conditions, (READY, false, "NoPods", "0/3"), Some(2), at(30));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert_eq!(conditions.len(), 1);
    }
}
