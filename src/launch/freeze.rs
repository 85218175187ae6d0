//! A freeze: in it nothing goes forward, and everything that goes back stays live. When a window is open is `calendar.rs`.

use k8s_openapi::jiff::Timestamp;

use super::Observation;
use super::step::Notes;

/// The freeze windows of an agent, as seen at one instant. Without windows it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Freeze {
    /// The window that is open.
    pub open: Option<Frozen>,
    /// When a window opens next, or when all that are open have closed.
    pub changes_at: Option<Timestamp>,
}

/// An open window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frozen {
    /// Name of the window; of several the one that closes last.
    pub window: String,
    /// When this one and all that follow it without a break have closed.
    pub until: Timestamp,
}

impl Frozen {
    /// In words for users.
    pub(super) fn words(&self) -> String {
        format!("frozen by window {} until {:.0}", self.window, self.until)
    }
}

/// The window that holds a launch, if one does. A launch back to a trusted revision goes back, and is never frozen.
pub(super) fn holds(trusted: bool, seen: &Observation) -> Option<&Frozen> {
    seen.freeze.open.as_ref().filter(|_| !trusted)
}

/// A launch that runs or waits is looked at when the windows change.
pub(super) fn wake(seen: &Observation, notes: &mut Notes) {
    notes.wakes.extend(seen.freeze.changes_at);
}
