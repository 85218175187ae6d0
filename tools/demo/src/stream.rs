//! Streamed runs that are held open: did each reach its end, or was it broken on the way?
//!
//! Each has a connection of its own and is never retried. Knows nothing of Kubernetes or Sluice.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::load::{Config, REVISION_HEADER, Target};

/// The last line of a run that is whole.
const DONE: &str = "done";

/// What became of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The revision that it began on.
    pub revision: String,
    /// When its first line was there.
    pub began: Timestamp,
    /// When it ended, whole or not.
    pub ended: Timestamp,
    /// Why it is not whole, if it is not.
    pub broken: Option<String>,
}

/// Runs under way. Dropping them hangs up.
#[derive(Debug)]
pub struct Streams {
    /// Where each of them began.
    pub revisions: Vec<String>,
    runs: JoinSet<Run>,
}

impl Streams {
    /// Begins so many runs of so many seconds, and returns when each has told its first line. `config.url` is the agent's
    /// address without a path.
    ///
    /// # Errors
    /// One of them was not answered by the agent.
    pub async fn open(config: &Config, seconds: u64, count: usize) -> anyhow::Result<Self> {
        let url = format!("{}/runs/stream?seconds={seconds}", config.url.trim_end_matches('/'));
        let timeout = Duration::from_secs(seconds) + Duration::from_mins(1);
        let target = Target::new(&Config { url, timeout, ..config.clone() })?;
        let (tell, mut first) = mpsc::channel(count.max(1));
        let mut runs = JoinSet::new();
        for _ in 0..count {
            let answer = target.send().await?;
            let revision = answer.headers().get(REVISION_HEADER).and_then(|value| value.to_str().ok());
            let revision = revision.with_context(|| format!("{} by somebody else", answer.status()))?.to_owned();
            if !answer.status().is_success() {
                bail!("revision {revision} answered {}", answer.status());
            }
            runs.spawn(follow(answer, revision, tell.clone()));
        }
        drop(tell);
        let mut revisions = Vec::new();
        while let Some(revision) = first.recv().await {
            revisions.push(revision);
            if revisions.len() == count {
                break;
            }
        }
        anyhow::ensure!(revisions.len() == count, "{} of {count} runs told a first line", revisions.len());
        Ok(Self { revisions, runs })
    }

    /// Waits until all have ended, and says how.
    pub async fn ended(mut self) -> Vec<Run> {
        let mut ended = Vec::new();
        while let Some(run) = self.runs.join_next().await {
            ended.extend(run); // a panic is a bug that shows as a run too few
        }
        ended
    }
}

/// Reads a run to its end.
async fn follow(mut answer: reqwest::Response, revision: String, tell: mpsc::Sender<String>) -> Run {
    let (began, mut told) = (Timestamp::now(), Vec::new());
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                if told.is_empty() {
                    let _ = tell.send(revision.clone()).await;
                }
                told.extend_from_slice(&chunk);
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    let text = String::from_utf8_lossy(&told);
    let last = text.lines().last().unwrap_or_default();
    let broken = broken.or_else(|| (last != DONE).then(|| "it ended without being done".to_owned()));
    let broken = broken.map(|why| format!("{why} (its last line: {last:?})"));
    Run { revision, began, ended: Timestamp::now(), broken }
}
