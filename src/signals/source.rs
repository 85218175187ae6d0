//! Whom Sluice may ask for numbers: the administrator's list of metrics sources.
//!
//! Only these URLs are ever called; an agent names a source and cannot bring one. What is read here is checked once, so
//! that nothing behind it meets a bad label or a bad URL. Must not call anything.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::selector::{Selector, is_label};

/// A source answers within so long when nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Labels that the queries need for themselves.
pub(super) const PART_LABEL: &str = "sluice_part";

/// A metrics source, checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Source {
    /// The name by which agents choose it.
    pub name: String,
    /// Base URL of the Prometheus query API.
    pub url: reqwest::Url,
    /// Which labels tell whose a series is.
    pub labels: Labels,
    /// The series that every scraped pod has, with value 1. `up` when absent.
    pub presence: Selector,
    /// A query takes no longer.
    pub timeout: Duration,
    /// File with a bearer token, read for each query so that rotation needs no restart.
    pub bearer_token_file: Option<PathBuf>,
    /// File with the PEM certificates that are trusted; an https url needs it, for the image has none.
    pub ca_file: Option<PathBuf>,
}

/// The labels of a target that tell whose its series are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Labels {
    /// Holds the agent's namespace.
    pub namespace: String,
    /// Holds the agent's name.
    pub agent: String,
    /// Holds the revision's hash.
    pub revision: String,
    /// Holds the pod's name. Needed only when one pod has several presence series (two ports, two jobs):
    /// it is then counted once.
    pub pod: Option<String>,
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            namespace: "namespace".to_owned(),
            agent: "agent".to_owned(),
            revision: "revision".to_owned(),
            pod: None,
        }
    }
}

/// What the administrator got wrong: the field and the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A field of a source.
    #[error("metrics source {source_name:?}: {field}: {problem}")]
    Field {
        /// Name of the source.
        source_name: String,
        /// The field.
        field: &'static str,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// Two sources have one name.
    #[error("metrics source {0:?} is configured twice: rename one, agents choose sources by name")]
    Twice(String),
    /// The text is not a list of sources.
    #[error("metrics sources: {0}")]
    Yaml(String),
}

/// A source as it stands in the configuration.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    name: String,
    url: String,
    #[serde(default)]
    labels: Labels,
    presence: Option<String>,
    timeout: Option<kube::core::Duration>,
    bearer_token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

/// Reads a YAML list of sources.
pub fn parse_sources(yaml: &str) -> Result<Vec<Source>, SourceError> {
    let sources: Vec<Source> = serde_norway::from_str(yaml).map_err(|error| SourceError::Yaml(error.to_string()))?;
    for (i, source) in sources.iter().enumerate() {
        if sources[..i].iter().any(|other| other.name == source.name) {
            return Err(SourceError::Twice(source.name.clone()));
        }
    }
    Ok(sources)
}

impl TryFrom<Written> for Source {
    type Error = SourceError;

    fn try_from(written: Written) -> Result<Self, SourceError> {
        let name = written.name.clone();
        let wrong = |field, problem: String| SourceError::Field { source_name: name.clone(), field, problem };
        if written.name.is_empty() || written.name.len() > 63 {
            return Err(wrong("name", "must have 1 to 63 characters: rename it".to_owned()));
        }
        check_labels(&written.labels).map_err(|problem| wrong("labels", problem))?;
        let presence = written.presence.as_deref().unwrap_or("up");
        Ok(Self {
            url: check_url(&written.url).map_err(|problem| wrong("url", problem))?,
            presence: Selector::parse(presence).map_err(|error| wrong("presence", error.to_string()))?,
            timeout: check_timeout(written.timeout).map_err(|problem| wrong("timeout", problem))?,
            name: written.name,
            labels: written.labels,
            bearer_token_file: written.bearer_token_file,
            ca_file: written.ca_file,
        })
    }
}

fn check_url(text: &str) -> Result<reqwest::Url, String> {
    let url = reqwest::Url::parse(text)
        .map_err(|error| format!("not a URL ({error}): write one such as http://prometheus.monitoring:9090"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with http:// or https:// and name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no credentials: use bearerTokenFile".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end before '?' and '#': Sluice adds the path of the query API itself".to_owned());
    }
    Ok(url)
}

fn check_timeout(written: Option<kube::core::Duration>) -> Result<Duration, String> {
    let timeout = written.as_ref().map_or(DEFAULT_TIMEOUT, crate::api::span);
    if (Duration::from_millis(100)..=Duration::from_mins(1)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("must be between 100ms and 1m: 5s suits most".to_owned())
    }
}

fn check_labels(labels: &Labels) -> Result<(), String> {
    let mut seen: Vec<&str> = vec![PART_LABEL, "le"];
    for label in [&labels.namespace, &labels.agent, &labels.revision].into_iter().chain(&labels.pod) {
        if !is_label(label) {
            return Err(format!(
                "{label:?} is not a label's name: write letters, digits and '_', not beginning with a digit or '__'"
            ));
        }
        if seen.contains(&label.as_str()) {
            return Err(format!(
                "{label:?} is used twice or belongs to the query itself: give each part its own label"
            ));
        }
        seen.push(label);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_url_are_enough() {
        let source = &parse_sources("- {name: default, url: 'http://prometheus:9090'}").unwrap()[0];
        assert_eq!(source.url.as_str(), "http://prometheus:9090/");
        assert_eq!(source.labels, Labels::default());
        assert_eq!(source.presence.to_string(), "up");
        assert_eq!(source.timeout, Duration::from_secs(5));
        assert_eq!((&source.bearer_token_file, &source.ca_file), (&None, &None));
    }

    #[test]
    fn everything_can_be_said() {
        let yaml = r#"
- name: mimir
  url: https://mimir.example/prometheus
  labels: {namespace: k8s_namespace, agent: app, revision: rev, pod: pod}
  presence: up{job="agents"}
  timeout: 1.5s
  bearerTokenFile: /var/run/token
  caFile: /etc/ca.pem
"#;
        let source = &parse_sources(yaml).unwrap()[0];
        assert_eq!(source.labels.agent, "app");
        assert_eq!(source.labels.pod.as_deref(), Some("pod"));
        assert_eq!(source.presence.to_string(), r#"up{job="agents"}"#);
        assert_eq!(source.timeout, Duration::from_millis(1500));
        assert_eq!(source.bearer_token_file, Some("/var/run/token".into()));
    }

    #[test]
    fn a_wrong_source_is_refused_with_the_field_and_the_mend() {
        for (fields, expected) in [
            ("url: prometheus", "url: not a URL"),
            ("url: 'ftp://a'", "url: must begin with http://"),
            ("url: 'http://user:secret@a'", "url: must hold no credentials: use bearerTokenFile"),
            ("url: 'http://a/?x=1'", "url: must end before '?'"),
            ("url: 'http://a', timeout: 0s", "timeout: must be between 100ms and 1m"),
            ("url: 'http://a', timeout: -5s", "timeout: must be between"),
            ("url: 'http://a', timeout: 5", "timeout"),
            ("url: 'http://a', presence: 'count(up)'", "presence: \"count(up)\" is not a series"),
            ("url: 'http://a', labels: {agent: 'a-b'}", "labels: \"a-b\" is not a label's name"),
            ("url: 'http://a', labels: {agent: namespace}", "is used twice"),
            ("url: 'http://a', labels: {revision: le}", "belongs to the query itself"),
            ("url: 'http://a', labels: {agnet: x}", "unknown field `agnet`"),
            ("url: 'http://a', token: x", "unknown field `token`"),
            ("labels: {}", "missing field `url`"),
        ] {
            let error = parse_sources(&format!("- {{name: default, {fields}}}")).unwrap_err().to_string();
            assert!(error.contains(expected), "{fields}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let twice = "[{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]";
        assert_eq!(parse_sources(twice), Err(SourceError::Twice("a".to_owned())));
    }
}
