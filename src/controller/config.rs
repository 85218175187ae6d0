//! The administrator's configuration: a file, read once at start.

use std::path::Path;

use serde::Deserialize;

use super::plans;
use crate::api::FreezeWindow;
use crate::signals::Source;

/// What the administrator configures.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Metrics sources that agents may name.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Agents that are looked at at the same time.
    #[serde(default = "default_concurrency")]
    pub concurrency: u16,
    /// Times in which no launch of any agent goes forward, in the words of a plan's `freeze`.
    #[serde(default, deserialize_with = "windows")]
    pub freeze: Vec<FreezeWindow>,
}

/// As in a plan, but a misspelt key is refused here: no API server did it before.
fn windows<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<FreezeWindow>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Window {
        name: String,
        schedule: String,
        time_zone: Option<String>,
        duration: kube::core::Duration,
    }
    let windows = Vec::<Window>::deserialize(deserializer)?.into_iter();
    let window = |Window { name, schedule, time_zone, duration }| FreezeWindow { name, schedule, time_zone, duration };
    Ok(windows.map(window).collect())
}

fn default_concurrency() -> u16 {
    16
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read the configuration {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {path} is wrong: {problem}")]
    Wrong {
        /// The file.
        path: String,
        /// What, and the mend.
        problem: String,
    },
}

fn named_before(earlier: &[Source], source: &Source) -> bool {
    earlier.iter().any(|other| other.name == source.name)
}

impl Config {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name(), source })?;
        let config: Self = serde_norway::from_str(&text)
            .map_err(|error| ConfigError::Wrong { path: name(), problem: error.to_string() })?;
        if config.concurrency == 0 {
            let problem = "concurrency is 0: set 1 or more".to_owned();
            return Err(ConfigError::Wrong { path: name(), problem });
        }
        let twice = config.sources.iter().enumerate().find(|(i, source)| named_before(&config.sources[..*i], source));
        if let Some((_, source)) = twice {
            let problem = format!("two sources are named {:?}: rename one, agents choose sources by name", source.name);
            return Err(ConfigError::Wrong { path: name(), problem });
        }
        plans::parse(&config.freeze)
            .map_err(|error| ConfigError::Wrong { path: name(), problem: error.to_string() })?;
        Ok(config)
    }
}
