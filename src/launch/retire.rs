//! Afterwards: a revision without traffic keeps its pods for a moment, so that requests on their way are answered.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::step::Notes;
use super::time::after;
use crate::api::{RetiringRevision, State};

/// A revision keeps its pods for so long after its traffic is gone, so that requests on their way are answered.
pub const SETTLE: Duration = Duration::from_secs(10);

pub(super) fn lose_traffic(state: &mut State, revision: &str, now: Timestamp) {
    state.retiring.retain(|retiring| retiring.revision != revision);
    state.retiring.push(RetiringRevision { revision: revision.to_owned(), since: now });
}

/// Pods of a revision without traffic go after a moment.
pub(super) fn retire(state: &mut State, now: Timestamp, notes: &mut Notes) {
    state.retiring.retain(|retiring| now < after(retiring.since, SETTLE));
    notes.wakes.extend(state.retiring.iter().map(|retiring| after(retiring.since, SETTLE)));
}
