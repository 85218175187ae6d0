//! Streamed runs that are held open: did each reach its end, or was it broken on the way?
//!
//! Each has a connection of its own and is never retried. Knows nothing of Kubernetes or Sluice.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

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
        let target = target(config, seconds)?;
        let (tell, mut first) = mpsc::channel(count.max(1));
        let mut runs = JoinSet::new();
        for _ in 0..count {
            let (answer, revision) = begin(&target).await?;
            runs.spawn(follow(answer, revision, Some(tell.clone())));
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

/// One run after the other, each begun a while after the one before, whoever answers it.
#[derive(Debug)]
pub struct Steady {
    stop: watch::Sender<bool>,
    runs: JoinHandle<Vec<Run>>,
}

impl Steady {
    /// Begins a run of so many seconds every now and then, until it is stopped. `config.url` is as for [`Streams::open`].
    ///
    /// # Errors
    /// The address cannot be one.
    pub fn start(config: &Config, seconds: u64, every: Duration) -> anyhow::Result<Self> {
        let target = target(config, seconds)?;
        let (stop, mut stopped) = watch::channel(false);
        let runs = tokio::spawn(async move {
            let mut runs = JoinSet::new();
            let mut turn = tokio::time::interval(every);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = turn.tick() => drop(runs.spawn(run(target.clone()))),
                    _ = stopped.changed() => return runs.join_all().await,
                }
            }
        });
        Ok(Self { stop, runs })
    }

    /// Begins no more, waits until all have ended, and says how.
    ///
    /// # Errors
    /// A run panicked: a bug.
    pub async fn ended(self) -> anyhow::Result<Vec<Run>> {
        let _ = self.stop.send(true);
        Ok(self.runs.await?)
    }
}

/// A run from its request to its end. One that nobody answered is broken too.
async fn run(target: Target) -> Run {
    let asked = Timestamp::now();
    match begin(&target).await {
        Ok((answer, revision)) => follow(answer, revision, None).await,
        Err(error) => {
            let broken = Some(format!("it did not begin: {error:#}"));
            Run { revision: String::new(), began: asked, ended: Timestamp::now(), broken }
        }
    }
}

fn target(config: &Config, seconds: u64) -> anyhow::Result<Target> {
    let url = format!("{}/runs/stream?seconds={seconds}", config.url.trim_end_matches('/'));
    let timeout = Duration::from_secs(seconds) + Duration::from_mins(1);
    Target::new(&Config { url, timeout, ..config.clone() })
}

/// The answer to a run's request, and the revision that gave it.
async fn begin(target: &Target) -> anyhow::Result<(reqwest::Response, String)> {
    let answer = target.send().await?;
    let revision = answer.headers().get(REVISION_HEADER).and_then(|value| value.to_str().ok());
    let revision = revision.with_context(|| format!("{} by somebody else", answer.status()))?.to_owned();
    if !answer.status().is_success() {
        bail!("revision {revision} answered {}", answer.status());
    }
    Ok((answer, revision))
}

/// Reads a run to its end.
async fn follow(mut answer: reqwest::Response, revision: String, tell: Option<mpsc::Sender<String>>) -> Run {
    let (began, mut told) = (Timestamp::now(), Vec::new());
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                if let Some(tell) = tell.as_ref().filter(|_| told.is_empty()) {
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
