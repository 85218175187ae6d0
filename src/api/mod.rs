//! The resources that users write and read: typed fields, the rules the API server checks, defaults, conditions.
//!
//! Field docs here are the users' reference (they become the CRD's descriptions). Nothing in this folder decides,
//! talks to a cluster or reads a clock.

mod agent;
mod amount;
pub mod conditions;
mod decision;
mod defaults;
mod freeze;
mod launch;
mod metrics;
mod people;
mod plan;
mod rules;
pub mod schema;
mod status;

pub use agent::*;
pub use amount::{Amount, AmountError, Unit};
pub use decision::*;
pub use defaults::*;
pub use freeze::FreezeWindow;
pub use launch::*;
pub use metrics::*;
pub use people::*;
pub use plan::*;
pub use status::*;

/// API group of every kind, and prefix of every label and annotation.
pub const GROUP: &str = "sluice.dev";
/// Label: name of the agent that an object or pod belongs to.
pub const AGENT_LABEL: &str = "sluice.dev/agent";
/// Label: hash of the revision that an object or pod belongs to.
pub const REVISION_LABEL: &str = "sluice.dev/revision";
/// Label: hash of the plan that a stored copy holds.
pub const PLAN_LABEL: &str = "sluice.dev/plan";
/// Label value of `app.kubernetes.io/managed-by` on everything Sluice owns.
pub const MANAGED_BY: &str = "sluice";

/// Field manager of what Sluice writes, status apart.
pub const FIELD_MANAGER: &str = "sluice";
/// Finalizer of an agent that shares a user's route: the route is put back before the agent goes.
pub const ROUTE_FINALIZER: &str = "sluice.dev/route";

/// Annotations that Sluice writes on a route (or Service) in the very write that changes its weight. On a user's route, where
/// several agents may meet, the agent's name comes before the word: `sluice.dev/<agent>.decision`.
pub mod annotations {
    /// Id of the launch that wrote the weight. On a Deployment: of the launch that its pods run for.
    pub const LAUNCH: &str = "sluice.dev/launch";
    /// Hash of the revision that the decision is about.
    pub const REVISION: &str = "sluice.dev/decided-revision";
    /// How the launch ends, such as `RolledBack`; absent while it climbs.
    pub const DECISION: &str = "sluice.dev/decision";
    /// Why, as `Reason: message`.
    pub const REASON: &str = "sluice.dev/reason";
    /// When the controller decided, RFC 3339.
    pub const DECIDED_AT: &str = "sluice.dev/decided-at";
    /// Epoch of the leader that wrote it.
    pub const EPOCH: &str = "sluice.dev/epoch";
    /// On the agent's Service while it selects two revisions' pods: the stable one, the canary, and the canary's share in percent.
    pub const SPLIT: &str = "sluice.dev/split";
    /// On a user's route: the backends, as they were written, of the rules that are shared now.
    pub const ORIGINAL: &str = "sluice.dev/original";
}

/// The first ten hexadecimal digits of a digest: long enough for the revisions of an agent, short enough for names.
pub fn short_hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().take(5).fold(String::with_capacity(10), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// The text, cut at `limit` characters: status fields are bounded, and a long cause must not make a write fail.
pub fn clip(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}
