//! Bad days: what can go wrong around a launch, each with the outcome that a user is promised, the words that tell the
//! mend, and a stable revision that serves all the time.
//!
//! Needs a whole cluster, see `common/cluster.rs`. The tests are about different agents and do not disturb each other.

#[path = "common/cluster.rs"]
mod cluster;
mod common;
#[path = "bad_days/day.rs"]
mod day;
#[path = "bad_days/fake.rs"]
mod fake;

#[path = "bad_days/metrics.rs"]
mod metrics;
#[path = "bad_days/releases.rs"]
mod releases;
#[path = "bad_days/rivals.rs"]
mod rivals;
#[path = "bad_days/surroundings.rs"]
mod surroundings;
#[path = "bad_days/tampering.rs"]
mod tampering;
