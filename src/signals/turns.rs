//! Whose query is next at a source. Namespaces pay for their queries with time, so that the slow queries of one team delay
//! that team. Must not know what is asked, or when it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// So many queries are under way at a source at once.
pub(super) const SLOTS: usize = 4;
/// Nobody owes more, so that a team whose queries are quick again is soon served like the others.
const MOST_OWED: Duration = Duration::from_mins(1);
/// Owing so much is nothing yet: quick queries are never put back.
const FREE: Duration = Duration::from_secs(1);

/// Until when each namespace has used its share of each source: one query at a time.
#[derive(Default)]
pub(super) struct Turns(BTreeMap<(String, String), Instant>);

impl Turns {
    /// A query took so long; the namespaces that it was for pay for it together.
    pub(super) fn pay(&mut self, source: &str, namespaces: &BTreeSet<String>, took: Duration, now: Instant) {
        self.0.retain(|_, until| *until > now); // what was paid for is forgotten: nobody saves up
        let each = took / u32::try_from(namespaces.len()).unwrap_or(u32::MAX).max(1);
        for namespace in namespaces {
            let until = self.0.entry((source.to_owned(), namespace.clone())).or_insert(now);
            *until = (*until + each).min(now + MOST_OWED);
        }
    }

    /// The turn of a query, the smallest first: that of its namespace that used the source least. `None` while that is
    /// within its share.
    pub(super) fn of(&self, source: &str, namespaces: &BTreeSet<String>, now: Instant) -> Option<Instant> {
        let turn = |namespace: &String| self.0.get(&(source.to_owned(), namespace.clone())).copied();
        namespaces.iter().map(|namespace| turn(namespace).filter(|until| *until > now + FREE)).min().flatten()
    }

    /// Whether a query with this turn may begin: the last slot is for those within their share.
    pub(super) fn may_begin(turn: Option<Instant>, under_way: usize) -> bool {
        under_way + usize::from(turn.is_some()) < SLOTS
    }
}
