//! Where verdicts come from: metrics sources asked outside the reconcile loop, and their answers judged.
//!
//! The way of a number: `source` says whom to ask, `query` what to ask, `prometheus` asks, `sample` reads the
//! answer, `judge` makes it a verdict, `sampler` runs all of it. Nothing here decides what a verdict means for a
//! launch (that is `launch/`), and nothing here talks to the Kubernetes API.

mod judge;
mod metrics;
mod prometheus;
mod query;
mod sample;
mod sampler;
mod selector;
mod source;
#[cfg(test)]
mod testing;
mod turns;

pub use judge::judge;
pub use metrics::SamplerMetrics;
pub use prometheus::{Client, ClientError};
pub use query::{Part, Query, QueryError};
pub use sample::{Answer, AnswerError, Number, Reading, RevisionKey, Sample, Value, preflight};
pub use sampler::{AgentKey, Now, Sampler, Watch};
pub use selector::{Selector, SelectorError};
pub use source::{Labels, Source, SourceError, parse_sources};
