//! Everything the core may look at, and everything it may ask for. Plain values: no client, no clock, no floats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::{ByPods, Freeze};
use crate::api::{DecisionVerb, Outcome, RequestMatch, State, Verdict};

/// What was seen of the cluster in one pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// Name of the agent.
    pub agent: String,
    /// The revision that the spec asks for.
    pub wanted: WantedRevision,
    /// Pods that all the traffic needs.
    pub replicas: i32,
    /// The agent is paused.
    pub paused: bool,
    /// The freeze windows, at the instant of this pass.
    pub freeze: Freeze,
    /// How long runs may take on a revision without traffic. `None`: they are not waited for.
    pub drain: Option<Duration>,
    /// How many trusted revisions are kept.
    pub history_limit: usize,
    /// Pods by revision hash. A revision without objects is absent.
    pub pods: BTreeMap<String, Pods>,
    /// The agent's route.
    pub route: Route,
    /// Which version of the route it is.
    pub route_version: RouteVersion,
    /// Since when this operator sees that the canary of a launch that is taken back has no weight any more, see [`gone_since`].
    ///
    /// [`gone_since`]: super::gone_since
    pub gone_since: Option<Timestamp>,
    /// The agent's Service makes the shares, by the pods that it selects: `route` is what it says.
    pub by_pods: Option<ByPods>,
    /// Which revision the agent's Service selects, if it exists and selects one; stable when it selects both.
    pub service: Option<String>,
    /// A decision that was written on the route or the Service together with a weight.
    pub decision: Option<Decision>,
    /// Another route gets the requests that the agent's route asks for: which, and the mend.
    pub hostname_taken: Option<String>,
    /// Why the namespace's quotas cannot hold the canary beside stable once it has all the traffic. Asked before a launch has moved
    /// anything, see [`to_come`].
    ///
    /// [`to_come`]: super::to_come
    pub no_room: Option<String>,
    /// What the last pass could not do and a person must mend: a word for conditions, and the mend.
    pub trouble: Option<(String, String)>,
    /// What the metrics say of the canary, by gate (of the current stage) and by trigger; and of revisions without traffic.
    pub measured: BTreeMap<CheckName, Measured>,
    /// Runs that both revisions answered, when the metrics of a gate or trigger count them.
    pub runs: Option<Runs>,
    /// What people decided, as far as it was not answered yet.
    pub people: People,
}

/// What people decided about the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct People {
    /// When the agent was created: no older decision is about it.
    pub agent_made_at: Timestamp,
    /// Decisions without an answer, in any order.
    pub given: Vec<Given>,
    /// Decisions by UID that are gone, or whose answer was read back on them.
    pub settled: BTreeSet<String>,
    /// Some could not be read: look again soon.
    pub unread: bool,
    /// A person's pause in words, once the core has found it in what it remembers.
    pub paused: Option<String>,
}

impl Default for People {
    fn default() -> Self {
        Self {
            agent_made_at: Timestamp::UNIX_EPOCH,
            given: Vec::new(),
            settled: BTreeSet::new(),
            unread: false,
            paused: None,
        }
    }
}

/// A `LaunchDecision` as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Given {
    /// UID of the decision.
    pub uid: String,
    /// Name of the decision.
    pub name: String,
    /// When it was created.
    pub made_at: Timestamp,
    /// What is decided.
    pub verb: DecisionVerb,
    /// Who decides; the API server has proved it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The revision that it is bound to.
    pub revision: Option<String>,
    /// The gates that it overrules.
    pub gates: Vec<String>,
}

/// Runs that the two revisions of a launch answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Runs {
    /// Of the canary.
    pub canary: i64,
    /// Of stable.
    pub stable: i64,
    /// Where the data begins.
    pub from: Timestamp,
}

/// The revision that the spec asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WantedRevision {
    /// The hash; Kubernetes accepts its template.
    Known(String),
    /// It is known but cannot be launched: the template is refused, the plan is missing or wrong. Reason and message with
    /// the mend.
    Refused {
        /// Hash of the revision.
        revision: String,
        /// A word for conditions.
        reason: String,
        /// What to mend.
        message: String,
    },
    /// It cannot be known: a ConfigMap is missing. Reason and message with the mend.
    Unknown {
        /// A word for conditions.
        reason: String,
        /// What to mend.
        message: String,
    },
}

/// The pods of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pods {
    /// How many the Deployment asks for.
    pub size: i32,
    /// How many are ready and not being deleted.
    pub ready: i32,
    /// How many are not ready although they were, or are in trouble; pods that are new and start are not among them.
    pub failing: i32,
    /// Since when all of `size` are ready without interruption. `None` when they are not.
    pub all_ready_since: Option<Timestamp>,
    /// Container restarts by pod.
    pub restarts: BTreeMap<String, i32>,
    /// The container that restarted most, and how it ended last.
    pub restarted: Option<String>,
    /// A container waits in `CrashLoopBackOff`: which.
    pub crash_loop: Option<String>,
    /// A container's image cannot be pulled: which, and why.
    pub image_pull: Option<String>,
    /// Pods that Kubernetes refuses to make: why (a quota, an admission policy).
    pub refused: Option<String>,
}

/// The agent's route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// The agent has no gateway.
    NotUsed,
    /// It should have a route, and has none yet.
    Missing,
    /// It cannot be read or used: why.
    Unusable(String),
    /// A user's route that gives no revision a share, and cannot: it does not exist, no rule of it names the agent's Service,
    /// or it has no room. Why, and the mend.
    Unshared(String),
    /// The route, as the API server holds it.
    Seen {
        /// Who gets the traffic.
        shares: Shares,
        /// Whether the gateway has taken this very version of it.
        programmed: Programmed,
    },
}

/// A version of the route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteVersion {
    /// Rises with every change of its spec, whoever makes it.
    pub generation: i64,
    /// Who wrote its rules last, when it was not Sluice.
    pub rules_by: Option<String>,
}

/// Who gets the traffic of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shares {
    /// The agent's Service gets everything.
    AtRest,
    /// Two revision Services, with the canary's share in percent.
    Split {
        /// Hash of the stable revision.
        stable: String,
        /// Hash of the canary.
        canary: String,
        /// The canary's share, 0 to 100.
        weight: i32,
    },
    /// Two revision Services share the requests that match; the agent's Service gets all others.
    Matched {
        /// Hash of the stable revision.
        stable: String,
        /// Hash of the canary.
        canary: String,
        /// The canary's share of what matches, 0 to 100.
        weight: i32,
        /// Which requests match.
        only: Vec<RequestMatch>,
    },
    /// Something that Sluice did not write.
    Foreign(String),
}

/// Whether the gateway has taken the route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Programmed {
    /// Accepted and resolved, for the current generation.
    Yes,
    /// Not yet answered for the current generation.
    Pending,
    /// A gateway never said anything about it: which, and the mend.
    Silent(String),
    /// Refused, and why.
    Refused(String),
}

/// A decision as it is written on the route: no crash and no stale cache can undo it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Id of the launch.
    pub launch: String,
    /// Hash of the revision that is taken back.
    pub revision: String,
    /// How the launch ends.
    pub outcome: Outcome,
    /// A word for conditions.
    pub reason: String,
    /// Why, with numbers.
    pub message: String,
    /// When it was decided.
    pub at: Timestamp,
}

/// Names a gate of the current stage, a trigger, or a revision that is drained.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheckName {
    /// A gate of the stage with this index.
    Gate(i32, String),
    /// A trigger.
    Trigger(String),
    /// Whether no run is under way on a revision without traffic.
    Drained(String),
}

/// What a metric says of the canary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Measured {
    /// The verdict.
    pub verdict: Verdict,
    /// The numbers behind it.
    pub message: String,
    /// The instant of the sample; the data ends here.
    pub sampled_at: Timestamp,
}

/// What one pass decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to remember.
    pub state: State,
    /// What the cluster should look like now.
    pub wanted: Wanted,
    /// What users and logs are told, in order.
    pub events: Vec<Event>,
    /// When to look again if nothing happens before; always later than `now`.
    pub wake_at: Option<Timestamp>,
}

/// What the cluster should look like now. The shell makes it so, and decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Size of each revision that should have objects. A revision that is not named has its pods taken away.
    pub sizes: BTreeMap<String, i32>,
    /// Revisions whose objects are kept, with or without pods.
    pub keep: BTreeSet<String>,
    /// Who should get the route's traffic. `None` when the agent has no gateway, or must not be touched.
    pub shares: Option<Shares>,
    /// Which revision the agent's Service should select.
    pub service: Option<String>,
    /// The decision that a falling weight carries.
    pub decision: Option<Decision>,
    /// The canary's weight falls: act first, remember after.
    pub falling: bool,
}

/// Something that users and logs are told once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// A word.
    pub reason: &'static str,
    /// A sentence with numbers.
    pub message: String,
    /// A warning, not a note.
    pub warning: bool,
}
