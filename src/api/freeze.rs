//! Freeze windows: times in which no launch goes forward. The words only; when a window is open is `launch/calendar.rs`.

use kube::KubeSchema;
use kube::core::Duration;
use serde::{Deserialize, Serialize};

use super::schema;

/// A time in which no launch goes forward: no launch begins, no weight rises, nothing becomes stable, and the deadlines
/// stand still. Going back is never frozen: triggers, failed gates with `onFail: Rollback`, a newer revision, and a launch
/// back to a trusted revision work as ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.duration) >= duration('1m') && duration(self.duration) <= duration('2160h')").message("a window lasts from 1m to 2160h (90 days): for longer than that use spec.paused").field_path(".duration"))]
pub struct FreezeWindow {
    /// Name of the window, such as `peak-week`: status says it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// When the window opens, as the five fields of cron, `minute hour day-of-month month day-of-week`: `0 18 * * FRI`. With
    /// both days given either of them opens it, as in cron.
    #[schemars(length(min = 9, max = 100), regex(pattern = r"^[-0-9A-Za-z*/,#?+]+( [-0-9A-Za-z*/,#?+]+){4}$"))]
    pub schedule: String,
    /// The time zone of the schedule, by its IANA name: `Europe/Berlin`. `UTC` when absent. A time that the clocks skip in
    /// spring opens the window when they jump; one that they show twice in autumn opens it the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][-+_0-9A-Za-z]*(/[-+_0-9A-Za-z]+)*$"))]
    pub time_zone: Option<String>,
    /// How long it stays open, in elapsed time: `62h`. From 1m to 2160h.
    #[schemars(schema_with = "schema::duration")]
    pub duration: Duration,
}
