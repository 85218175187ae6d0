//! The agent's frozen configuration: `prompt.txt`, and `faults.json` beside it.
//!
//! Both are read once, at start: a revision is what it was when it began. Neither file is required. A fault that
//! cannot be understood ends the process with the file, the key and what was expected; an agent that guessed would
//! make every test that uses it worthless.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

const DEFAULT_DIR: &str = "/etc/agent/prompt";
const DEFAULT_PROMPT: &str = "You refund customers. Look the order up, then refund exactly what it cost.";

/// What this revision was told, and what that makes it do wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The system prompt, as mounted.
    pub(crate) prompt: String,
    /// What the prompt does to the runs.
    pub(crate) faults: Faults,
}

/// What goes wrong, in the place of a model that would do it by itself. Probes never see any of it but `unready`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Faults {
    /// The share of runs that fail, 0 to 1.
    pub(crate) error_rate: f64,
    /// About how long a run takes.
    pub(crate) latency: Duration,
    /// The process exits with 1 after this many runs; 0 is at start.
    pub(crate) crash_after: Option<u64>,
    /// Readiness fails for ever.
    pub(crate) unready: bool,
    /// The share of runs that refund without asking the policy, 0 to 1.
    pub(crate) policy_bypass_rate: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            error_rate: 0.0,
            latency: Duration::from_millis(15),
            crash_after: None,
            unready: false,
            policy_bypass_rate: 0.0,
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error_rate, latency, crash_after, unready, policy_bypass_rate } = self;
        write!(f, "error_rate {error_rate}, latency_ms {}, crash_after ", latency.as_millis())?;
        match crash_after {
            Some(runs) => write!(f, "{runs}")?,
            None => f.write_str("never")?,
        }
        write!(f, ", unready {unready}, policy_bypass_rate {policy_bypass_rate}")
    }
}

/// Why the configuration was not understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    file: PathBuf,
    problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Where the configuration is mounted: `AGENT_PROMPT_DIR`, else `/etc/agent/prompt`.
pub(crate) fn dir() -> PathBuf {
    std::env::var_os("AGENT_PROMPT_DIR").map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from)
}

impl Config {
    /// Reads both files from `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self, ConfigError> {
        let prompt = read(&dir.join("prompt.txt"))?.unwrap_or_else(|| DEFAULT_PROMPT.to_owned());
        let file = dir.join("faults.json");
        let faults = match read(&file)? {
            Some(text) => Faults::parse(&text).map_err(|problem| ConfigError { file, problem })?,
            None => Faults::default(),
        };
        Ok(Self { prompt, faults })
    }

    /// The prompt's first line.
    pub(crate) fn prompt_title(&self) -> &str {
        self.prompt.lines().next().unwrap_or_default()
    }
}

fn read(file: &Path) -> Result<Option<String>, ConfigError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError { file: file.to_owned(), problem: format!("could not be read: {error}") }),
    }
}

impl Faults {
    fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let Value::Object(keys) = value else {
            return Err(format!("must be an object such as {{\"error_rate\": 0.3}}, found {value}"));
        };
        let mut faults = Self::default();
        for (key, value) in &keys {
            match key.as_str() {
                "error_rate" => faults.error_rate = share(key, value)?,
                "policy_bypass_rate" => faults.policy_bypass_rate = share(key, value)?,
                "latency_ms" => faults.latency = Duration::from_millis(whole(key, value)?),
                "crash_after" => faults.crash_after = Some(whole(key, value)?),
                "unready" => {
                    faults.unready = value.as_bool().ok_or_else(|| wrong(key, "must be true or false", value))?;
                }
                _ => {
                    return Err(format!(
                        "{key}: is not a fault; known are error_rate, latency_ms, crash_after, unready, \
                         policy_bypass_rate"
                    ));
                }
            }
        }
        Ok(faults)
    }
}

fn share(key: &str, value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| wrong(key, "must be a share from 0 to 1", value))
}

fn whole(key: &str, value: &Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| wrong(key, "must be a whole number, 0 or more", value))
}

fn wrong(key: &str, rule: &str, value: &Value) -> String {
    format!("{key}: {rule}, found {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_healthy() {
        assert_eq!(Faults::parse("{}"), Ok(Faults::default()));
        let nowhere = Config::load(Path::new("/nonexistent")).unwrap();
        assert_eq!((nowhere.prompt_title(), nowhere.faults), (DEFAULT_PROMPT, Faults::default()));
    }

    #[test]
    fn every_fault_is_read() {
        let text =
            r#"{"error_rate": 0.3, "latency_ms": 250, "crash_after": 7, "unready": true, "policy_bypass_rate": 1}"#;
        assert_eq!(
            Faults::parse(text),
            Ok(Faults {
                error_rate: 0.3,
                latency: Duration::from_millis(250),
                crash_after: Some(7),
                unready: true,
                policy_bypass_rate: 1.0,
            })
        );
    }

    #[test]
    fn a_fault_that_is_not_understood_is_refused_by_name() {
        for (text, message) in [
            (r#"{"error_rate": "30%"}"#, r#"error_rate: must be a share from 0 to 1, found "30%""#),
            (r#"{"error_rate": 30}"#, "error_rate: must be a share from 0 to 1, found 30"),
            (r#"{"policy_bypass_rate": -0.1}"#, "policy_bypass_rate: must be a share from 0 to 1, found -0.1"),
            (r#"{"latency_ms": 1.5}"#, "latency_ms: must be a whole number, 0 or more, found 1.5"),
            (r#"{"crash_after": null}"#, "crash_after: must be a whole number, 0 or more, found null"),
            (r#"{"unready": "yes"}"#, r#"unready: must be true or false, found "yes""#),
            ("[]", r#"must be an object such as {"error_rate": 0.3}, found []"#),
        ] {
            assert_eq!(Faults::parse(text), Err(message.to_owned()), "{text}");
        }
        let typo = Faults::parse(r#"{"eror_rate": 0.3}"#).unwrap_err();
        assert!(typo.starts_with("eror_rate: is not a fault"), "{typo}");
        let cut = Faults::parse(r#"{"error_rate": "#).unwrap_err();
        assert!(cut.starts_with("is not JSON: "), "{cut}");
    }
}
