//! Who leads: a pure rule over a Lease, after client-go's. No IO and no wall clock.
//!
//! Expiry is judged by when *we* saw the record change, on our own monotonic clock: another node's clock proves nothing.
//! The lease is for efficiency; the guards on every write are for safety.

use std::time::{Duration, Instant};

/// How long a record stands still before another may lead.
pub(crate) const LEASE: Duration = Duration::from_secs(12);
/// How long a leader acts after its last renewal.
pub(crate) const RENEW_WITHIN: Duration = Duration::from_secs(7);

/// The Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseView {
    /// Who holds it; empty when it was released.
    pub(crate) holder: String,
    /// Changes with every write of the holder.
    pub(crate) version: String,
    /// How often it changed hands.
    pub(crate) transitions: i32,
}

/// What to do with the Lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// There is none: create it, with this many transitions.
    Create(i32),
    /// It is ours: renew it.
    Renew,
    /// Its holder is gone, or was our own pod before a restart: take it over, with this many transitions.
    TakeOver(i32),
    /// Somebody else leads.
    Wait,
}

/// One candidate.
#[derive(Clone, Debug)]
pub(crate) struct Elector {
    identity: String,
    lease: Duration,
    renew_within: Duration,
    seen: Option<(LeaseView, Instant)>,
    /// Since when the Lease is not there, though it was.
    gone_since: Option<Instant>,
    led_since: Option<Instant>,
}

impl Elector {
    /// A candidate that leads for `renew_within` after each write, and takes over a record that stood still for `lease`.
    pub(crate) fn new(identity: &str, lease: Duration, renew_within: Duration) -> Self {
        debug_assert!(renew_within < lease, "a leader must stop before another may start");
        Self { identity: identity.to_owned(), lease, renew_within, seen: None, gone_since: None, led_since: None }
    }

    /// Decides what to do about the record that was read.
    pub(crate) fn step(&mut self, record: Option<LeaseView>, now: Instant) -> Act {
        let Some(record) = record else { return self.without_record(now) };
        self.gone_since = None;
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let ours = record.holder == self.identity;
        if !ours {
            self.led_since = None; // whoever is written there leads, or will
        }
        let act = if ours && self.led_since.is_some() {
            Act::Renew
        } else if ours || record.holder.is_empty() || now.duration_since(since) >= self.lease {
            Act::TakeOver(record.transitions.saturating_add(1))
        } else {
            Act::Wait
        };
        self.seen = Some((record, since));
        act
    }

    /// Somebody deleted the Lease, or there was none. A leader makes it again at once; whoever knows of another one waits as
    /// long as that one may lead.
    fn without_record(&mut self, now: Instant) -> Act {
        let since = *self.gone_since.get_or_insert(now);
        let held = self.seen.as_ref().is_some_and(|(seen, _)| !seen.holder.is_empty());
        if held && self.leads_until(now).is_none() && now.duration_since(since) < self.lease {
            return Act::Wait;
        }
        Act::Create(self.seen.as_ref().map_or(0, |(seen, _)| seen.transitions.saturating_add(1)))
    }

    /// Our write was accepted; it was begun at `begun`, and leadership counts from there.
    pub(crate) fn wrote(&mut self, begun: Instant) {
        self.led_since = Some(begun);
    }

    /// Until when we lead, if we do.
    pub(crate) fn leads_until(&self, now: Instant) -> Option<Instant> {
        self.led_since.map(|since| since + self.renew_within).filter(|until| now < *until)
    }
}

/// For the model check, whose clock stands still while everything else grows older.
#[cfg(test)]
impl Elector {
    /// The same candidate, this much later.
    pub(crate) fn aged(mut self, by: Duration) -> Self {
        self.seen = self.seen.map(|(record, since)| (record, since.checked_sub(by).unwrap()));
        self.gone_since = self.gone_since.map(|since| since.checked_sub(by).unwrap());
        self.led_since = self.led_since.map(|since| since.checked_sub(by).unwrap());
        self
    }

    /// All that its decisions depend on: what it saw and how long ago (longer than a lease is as long as one), and whether
    /// it led, and leads for how long.
    pub(crate) fn fingerprint(&self, now: Instant) -> (Option<(LeaseView, Duration)>, Option<Duration>) {
        let seen = self.seen.as_ref().map(|(record, since)| (record.clone(), (now - *since).min(self.lease)));
        (seen, self.led_since.map(|since| (now - since).min(self.renew_within)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(holder: &str, version: u32, transitions: i32) -> LeaseView {
        LeaseView { holder: holder.into(), version: version.to_string(), transitions }
    }

    #[test]
    fn an_absent_lease_is_created_and_a_released_one_taken_over() {
        let mut elector = Elector::new("a", LEASE, RENEW_WITHIN);
        assert_eq!(elector.step(None, Instant::now()), Act::Create(0));
        assert_eq!(elector.step(Some(record("", 1, 3)), Instant::now()), Act::TakeOver(4));
    }

    #[test]
    fn a_deleted_lease_is_made_again_by_its_leader_and_under_a_higher_number() {
        let (mut leader, mut candidate) =
            (Elector::new("a", LEASE, RENEW_WITHIN), Elector::new("b", LEASE, RENEW_WITHIN));
        let start = Instant::now();
        leader.step(None, start);
        leader.wrote(start);
        let held = Some(record("a", 1, 3));
        assert_eq!(leader.step(held.clone(), start), Act::Renew);
        assert_eq!(candidate.step(held, start), Act::Wait);
        assert_eq!(leader.step(None, start + Duration::from_secs(1)), Act::Create(4));
        assert_eq!(candidate.step(None, start + LEASE * 2), Act::Wait, "its leader may have renewed it a moment ago");
        assert_eq!(candidate.step(None, start + LEASE * 3), Act::Create(4));
    }

    #[test]
    fn a_leader_that_stood_still_does_not_lead_again_because_the_lease_is_gone() {
        let mut leader = Elector::new("a", LEASE, RENEW_WITHIN);
        let start = Instant::now();
        leader.step(Some(record("", 1, 3)), start);
        leader.wrote(start);
        leader.step(Some(record("a", 2, 4)), start);
        assert_eq!(leader.step(None, start + RENEW_WITHIN), Act::Wait);
    }

    #[test]
    fn who_sees_another_leader_leads_no_more() {
        let mut leader = Elector::new("a", LEASE, RENEW_WITHIN);
        let start = Instant::now();
        leader.step(None, start);
        leader.wrote(start);
        assert_eq!(leader.step(Some(record("b", 1, 0)), start), Act::Wait);
        assert_eq!(leader.leads_until(start), None);
    }

    #[test]
    fn a_pod_that_was_started_again_leads_at_once_and_under_a_higher_number() {
        let mut elector = Elector::new("a", LEASE, RENEW_WITHIN);
        let start = Instant::now();
        assert_eq!(elector.step(Some(record("a", 7, 3)), start), Act::TakeOver(4));
        elector.wrote(start);
        assert_eq!(elector.step(Some(record("a", 8, 4)), start + Duration::from_secs(2)), Act::Renew);
    }

    #[test]
    fn a_record_that_moves_is_never_taken_over_and_one_that_stands_still_is() {
        let mut elector = Elector::new("a", LEASE, RENEW_WITHIN);
        let start = Instant::now();
        for second in 0..60 {
            let now = start + Duration::from_secs(u64::from(second));
            assert_eq!(elector.step(Some(record("b", second, 0)), now), Act::Wait);
        }
        let now = start + Duration::from_secs(59);
        assert_eq!(
            elector.step(Some(record("b", 59, 0)), now + LEASE.saturating_sub(Duration::from_millis(1))),
            Act::Wait
        );
        assert_eq!(elector.step(Some(record("b", 59, 0)), now + LEASE), Act::TakeOver(1));
    }

    /// A lease in a pretended API server whose writes are guarded by version.
    #[derive(Default)]
    struct Server {
        record: Option<(String, u32, i32)>,
        writes: u32,
    }

    impl Server {
        fn read(&self) -> Option<LeaseView> {
            self.record.as_ref().map(|(holder, version, transitions)| record(holder, *version, *transitions))
        }

        fn write(&mut self, read: Option<&LeaseView>, holder: &str, transitions: i32) -> bool {
            if self.read().as_ref().map(|r| &r.version) != read.map(|r| &r.version) {
                return false;
            }
            self.writes += 1;
            self.record = Some((holder.into(), self.writes, transitions));
            true
        }
    }

    proptest! {
        /// Two candidates, each cut off, slow or stopped at random, and a Lease that is deleted once: they never lead at
        /// the same instant.
        #[test]
        fn two_never_lead_at_once(
            events in prop::collection::vec((0..2usize, 0..6u64, any::<bool>(), 0..12u64), 1..300),
            deleted in 0..300usize,
        ) {
            let mut server = Server::default();
            let names = ["a", "b"];
            let mut electors = names.map(|name| Elector::new(name, LEASE, RENEW_WITHIN));
            let mut now = Instant::now();
            for (index, (who, wait, lost, slow)) in events.into_iter().enumerate() {
                now += Duration::from_secs(wait);
                if index == deleted && electors.iter().all(|elector| elector.seen.is_some()) {
                    server.record = None; // who has just started, and knows of nobody, leads at once
                }
                let read = server.read();
                let begun = now;
                let act = electors[who].step(read.clone(), now);
                now += Duration::from_millis(slow * 100);
                let transitions = match act {
                    Act::Renew => read.as_ref().map(|r| r.transitions),
                    Act::Create(transitions) | Act::TakeOver(transitions) => Some(transitions),
                    Act::Wait => None,
                };
                if let Some(transitions) = transitions {
                    let written = server.write(read.as_ref(), names[who], transitions);
                    if written && !lost {
                        electors[who].wrote(begun);
                    }
                }
                let leaders = electors.iter().filter(|elector| elector.leads_until(now).is_some()).count();
                prop_assert!(leaders <= 1);
            }
        }
    }
}
