//! What Sluice remembers and tells about an agent. This is all the memory there is: a new leader continues from here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RequestMatch, schema};

/// Status of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::never_null)]
pub struct AgentDeploymentStatus {
    /// Generation of the spec that this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready pods of all revisions together (for `scale`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of the agent's pods (for `scale`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub selector: Option<String>,
    /// The line that `kubectl get` prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Ready, Launched, Progressing, Stalled; Reconciling only while a launch is about to begin or runs (for kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// What the controller must remember.
    #[serde(flatten)]
    pub state: State,
}

/// What the decision core remembers between two passes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The revision that owns the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<StableRevision>,
    /// A new revision that is left alone for a moment, so that edits close together are one launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingRevision>,
    /// The running launch, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// Revisions that ended their soak (or had none) and were never rolled back since, newest first: going back to them passes no gates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub trusted: Vec<TrustedRevision>,
    /// Revisions that were rolled back, newest first: they get no traffic again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub rejected: Vec<RejectedRevision>,
    /// Revisions that lost their traffic and keep their pods for a moment, so that no request is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub retiring: Vec<RetiringRevision>,
    /// A person paused the agent, and nobody resumed it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<super::Pause>,
    /// Decisions that took effect (or none) and whose answer was not yet read back on them: none is obeyed twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub answers: Vec<super::Answer>,
}

impl State {
    /// The launch that runs: it has begun and has not ended. Its soak and its way back belong to it.
    pub fn running(&self) -> Option<&Launch> {
        self.launch.as_ref().filter(|launch| launch.phase != Phase::Complete)
    }
}

/// The revision that owns the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct StableRevision {
    /// Hash of the revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// When it became stable.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Timestamp,
}

/// A new revision that waits for its quiet time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PendingRevision {
    /// Hash of the revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// When it was first seen.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Timestamp,
}

/// A revision that was stable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct TrustedRevision {
    /// Hash of the revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// When it became stable for the last time.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Timestamp,
}

/// A revision that was rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RejectedRevision {
    /// Hash of the revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// When it was rolled back.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Timestamp,
    /// Why, with numbers.
    #[schemars(length(max = 512))]
    pub reason: String,
}

/// A revision whose traffic is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RetiringRevision {
    /// Hash of the revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// When its weight was seen to be gone.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Timestamp,
    /// It never had traffic: there are no runs to wait for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub idle: bool,
}

/// One attempt to make one revision stable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// Number of the launch, from 1.
    pub number: i64,
    /// `<agent>-<number>`: every log line, event and annotation of this launch carries it.
    #[schemars(length(max = 63))]
    pub id: String,
    /// The revision that is launched.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// The stable revision that it is compared with. Absent in a first deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub stable: Option<String>,
    /// The revision was trusted when the launch began: it passes no gates.
    #[serde(default)]
    pub trusted: bool,
    /// Hash of the plan that judges it.
    #[schemars(length(max = 63))]
    pub plan_hash: String,
    /// Where the launch is.
    pub phase: Phase,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it ended or is held: a word, such as the name of the trigger's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// The same in a sentence, with numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// The numbers that let the former stage be left: what justifies the weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub justification: Option<String>,
    /// Index of the stage, from 0.
    pub stage: i32,
    /// Name of the stage.
    #[schemars(length(max = 63))]
    pub stage_name: String,
    /// How many stages the plan has.
    pub stages: i32,
    /// Share of the traffic that the canary may have now, in percent.
    pub weight: i32,
    /// It is a share of the requests that match one of these; of all when empty.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub only: Vec<RequestMatch>,
    /// The share that was asked of the route or read back from it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedRoute>,
    /// Somebody else writes the route too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contest: Option<Contest>,
    /// The canary has had traffic.
    #[serde(default, skip_serializing_if = "is_false")]
    pub served: bool,
    /// Pods that the stable revision before this launch keeps at least, until the launch has ended: what it had when it began.
    pub stable_size: i32,
    /// When the launch began.
    #[schemars(schema_with = "schema::timestamp")]
    pub started_at: Timestamp,
    /// When the stage was entered; its deadline counts from here.
    #[schemars(schema_with = "schema::timestamp")]
    pub entered_at: Timestamp,
    /// When the stage's weight was read back with the canary ready: its windows count from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub began_at: Option<Timestamp>,
    /// Since when the agent is paused or frozen: deadlines stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub paused_at: Option<Timestamp>,
    /// Seconds that this stage was paused or frozen before; its deadline does not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paused_seconds: i64,
    /// The deadline passed and its outcome is `Pause`: a person must act.
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
    /// What the stage's gates say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub verdicts: Vec<GateVerdict>,
    /// When the verdicts' numbers were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub verdicts_at: Option<Timestamp>,
    /// Triggers that are in breach and whose time has not come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub breaches: Vec<Breach>,
    /// Container restarts of the canary that were seen, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub restarts: Vec<SeenRestart>,
    /// When the rollback was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub decided_at: Option<Timestamp>,
    /// When the sample that the decision rests on breached first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub breached_at: Option<Timestamp>,
    /// When the launch ended: the canary is stable, or its traffic was read back as gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::option_timestamp")]
    pub ended_at: Option<Timestamp>,
    /// What people decided about this launch: gates that they overruled, waits that they cut short. It stays with the launch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub interventions: Vec<super::Intervention>,
}

/// A share at a version of the route: one that is not there at a later version was overwritten by somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedRoute {
    /// The canary's share, in percent.
    pub weight: i32,
    /// Generation of the route.
    pub generation: i64,
    /// The share was there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_back: bool,
}

/// Somebody else writes the route whose traffic a launch shares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Contest {
    /// How often the share was overwritten. After the third time the launch gives way for a while.
    pub times: i32,
    /// When it was overwritten last, or was there again since.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Timestamp,
    /// The field manager that did it.
    #[schemars(length(max = 128))]
    pub by: String,
}

/// Where a launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    /// It climbs its stages.
    Progressing,
    /// All gates passed: the canary gets all the traffic and becomes stable.
    Promoting,
    /// It has all the traffic and is stable; triggers still return to the previous revision.
    Soaking,
    /// The canary loses its traffic.
    RollingBack,
    /// It has ended.
    Complete,
}

/// How a launch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Outcome {
    /// The revision became stable.
    Succeeded,
    /// A trigger, a gate or a deadline took it back: it will not launch again.
    RolledBack,
    /// A newer revision took its place.
    Superseded,
    /// The spec went back to the stable revision.
    Aborted,
    /// A first deployment failed; there was nothing to go back to.
    Failed,
}

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct GateVerdict {
    /// Name of the gate.
    #[schemars(length(max = 63))]
    pub gate: String,
    /// What it says.
    pub verdict: Verdict,
    /// Why, with numbers.
    #[schemars(length(max = 256))]
    pub message: String,
}

/// What a gate or trigger says about the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Verdict {
    /// Within bounds.
    Pass,
    /// Out of bounds.
    Fail,
    /// Not enough data yet.
    Insufficient,
    /// Could not be measured.
    Error,
    /// Does not apply: a comparison with stable when there is none.
    NotApplicable,
}

/// A trigger that is in breach.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Breach {
    /// Name of the trigger.
    #[schemars(length(max = 63))]
    pub trigger: String,
    /// When the breach began; moved forward by the gaps in which nothing could be measured.
    #[schemars(schema_with = "schema::timestamp")]
    pub since: Timestamp,
    /// When the breach was first seen, gaps or not.
    #[schemars(schema_with = "schema::timestamp")]
    pub first_seen: Timestamp,
    /// The last sample that was in breach.
    #[schemars(schema_with = "schema::timestamp")]
    pub last_seen: Timestamp,
    /// Nobody could say since then: that time does not count.
    #[serde(default, skip_serializing_if = "is_false")]
    pub interrupted: bool,
}

/// A container restart that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SeenRestart {
    /// Name of the pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// How many restarts the pod had then.
    pub count: i32,
    /// When it was seen.
    #[schemars(schema_with = "schema::timestamp")]
    pub at: Timestamp,
}

/// The line that `kubectl get` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The stable revision, or `-`.
    #[schemars(length(max = 63))]
    pub stable: String,
    /// The canary, or `-`.
    #[schemars(length(max = 63))]
    pub canary: String,
    /// `canary-1 2/4`, or how the last launch ended.
    #[schemars(length(max = 80))]
    pub stage: String,
    /// The canary's share, `5%`.
    #[schemars(length(max = 8))]
    pub weight: String,
    /// The worst verdict of the stage's gates.
    #[schemars(length(max = 16))]
    pub verdict: String,
    /// Why, with numbers.
    #[schemars(length(max = 512))]
    pub reason: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for this signature
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for this signature
fn is_false(flag: &bool) -> bool {
    !*flag
}
