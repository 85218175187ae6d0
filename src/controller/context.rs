//! Handles that a pass uses. No decisions live here; what is remembered can be lost at any time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::store::WriterDropped;
use kube::{Api, Client};
use tokio::sync::OnceCell;

use super::Error;
use super::caches::Caches;
use super::calls::Calls;
use super::error::NAMESPACE_ENDS;
use super::prepare::Prepared;
use crate::api::{AgentDeployment, State};
use crate::launch::{Plan, Window};
use crate::revision::Revision;
use crate::signals::Sampler;

/// Handles that a pass uses.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) calls: Calls,
    pub(crate) recorder: Recorder,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) clock: fn() -> Timestamp,
    /// The administrator's freeze windows.
    pub(crate) freeze: Vec<Window>,
    pub(crate) memory: Mutex<HashMap<Key, Memory>>,
    /// Our epoch is above all that were written when we began.
    pub(crate) begun: OnceCell<()>,
}

/// Trouble whose text changes is told again after so long.
const TOLD_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// Namespace and name of an agent.
pub(crate) type Key = (String, String);

/// What a pass may reuse of the last one. All of it is derived from the cluster, and may be forgotten.
#[derive(Default)]
pub(crate) struct Memory {
    /// The wanted revision, and what it was computed from.
    pub(crate) prepared: Option<Arc<Prepared>>,
    /// The plan of the running launch, as it is stored.
    pub(crate) plan: Option<Plan>,
    /// Revisions as they are stored, by hash; their contents never change.
    pub(crate) revisions: HashMap<String, Arc<Revision>>,
    /// The generation that our last write gave a Deployment, by revision: another one is somebody else's edit.
    pub(crate) applied: HashMap<String, i64>,
    /// Since when the canary of a launch that is taken back is seen without weight.
    pub(crate) gone_since: Option<Timestamp>,
    /// Failed passes in a row.
    pub(crate) failures: u32,
    /// What the last pass failed on, if a person must mend it.
    pub(crate) trouble: Option<(String, String)>,
    /// When that was told.
    pub(crate) told_at: Option<Timestamp>,
    /// A launch runs.
    pub(crate) launching: bool,
    /// The agent's namespace is being deleted: nothing is made in it before this instant.
    pub(crate) ends: Option<Timestamp>,
}

impl Memory {
    /// The status says this: whether a launch runs, however the rest of the pass ends.
    pub(crate) fn committed(&mut self, state: &State) {
        self.launching = state.running().is_some();
    }

    /// A pass was made whole. Returns whether status still shows trouble that is over.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.trouble.take().is_some()
    }

    /// A pass failed. Returns how many did in a row, and whether a launch runs.
    ///
    /// A text that changes with every failure, such as one with the port of a connection, is told once a minute: status must not
    /// change with every pass, for each change makes the next one.
    pub(crate) fn failed(&mut self, error: &Error, now: Timestamp) -> (u32, bool) {
        self.failures = self.failures.saturating_add(1);
        let trouble = error.mend().filter(|_| error.lasts(self.failures));
        let reason = |trouble: &Option<(String, String)>| trouble.as_ref().map(|(reason, _)| reason.clone());
        let told = self.told_at.is_some_and(|at| now.duration_since(at).abs() < TOLD_AGAIN);
        if !told || reason(&trouble) != reason(&self.trouble) {
            (self.trouble, self.told_at) = (trouble, Some(now));
        }
        (self.failures, self.launching)
    }
}

impl Context {
    /// Waits for the first listing of every watch, and until our epoch is above every one that was found in it.
    pub(crate) async fn ready(&self) -> Result<(), WriterDropped> {
        self.caches.ready().await?;
        self.begun.get_or_init(|| self.calls.leadership.above(self.caches.highest_epoch())).await;
        Ok(())
    }

    /// What is remembered of an agent, for one short look or change.
    pub(crate) fn remember<T>(&self, key: &Key, look: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        look(memory.entry(key.clone()).or_default())
    }

    /// Stops work on an agent whose namespace is being deleted, for a while. Returns whether that is what went wrong.
    pub(crate) fn ends(&self, key: &Key, error: &Error) -> bool {
        if error.namespace_ends() {
            let told = self.remember(key, |memory| memory.ends.replace(self.now() + NAMESPACE_ENDS));
            if told.is_none() {
                tracing::info!(
                    namespace = key.0,
                    agent = key.1,
                    "the namespace is being deleted: nothing more is made in it"
                );
            }
        }
        error.namespace_ends()
    }

    /// Forgets an agent that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.sampler.forget(key);
    }

    /// The agents of a namespace.
    pub(crate) fn agents(&self, namespace: &str) -> Api<AgentDeployment> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The wall clock, to the millisecond.
    pub(crate) fn now(&self) -> Timestamp {
        let now = (self.clock)();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_whose_text_changes_each_time_is_told_once_a_minute_and_other_trouble_at_once() {
        let mut memory = Memory::default();
        let lost = |why: &str| Error::LostRevision { revision: "r".to_owned(), why: why.to_owned() };
        let at = |second| Timestamp::from_second(second).unwrap();
        let told = |memory: &Memory| memory.trouble.clone().unwrap_or_default().1;
        for (second, why, shown) in
            [(0, "port 1", "port 1"), (1, "port 2", "port 1"), (59, "port 3", "port 1"), (61, "port 4", "port 4")]
        {
            memory.failed(&lost(why), at(second));
            assert!(told(&memory).contains(shown), "{second}: {}", told(&memory));
        }
        memory.failed(&Error::Taken("Service a".to_owned()), at(62));
        assert!(told(&memory).contains("Service a"), "{}", told(&memory));
        assert!(memory.succeeded(), "status shows it still");
        memory.failed(&lost("port 5"), at(63));
        assert!(told(&memory).contains("port 5"), "{}", told(&memory));
        memory.failed(&lost("port 6"), at(-9_999));
        assert!(told(&memory).contains("port 6"), "a clock that is set back does not keep an old text");
    }
}
