//! What a revision is: everything that makes an agent behave as it does, frozen and named by its hash.
//!
//! **In the hash** (scheme `v1`): the pod template as the user wrote it, `spec.config` (names, ConfigMaps, mount paths), the
//! contents of every ConfigMap that either names, `spec.port` and `spec.health`. The annotation
//! `kubectl.kubernetes.io/restartedAt` is part of the template: a restart goes through the gates like any other change.
//! Whether an optional ConfigMap exists is in the hash too. **Not in it**: replicas, paused, launch, traffic, metrics, history
//! limit, names of agent and namespace, and what rendering adds.
//!
//! A revision that is stored is never rendered again: who finds one of its hash uses that. Nothing here talks to a cluster,
//! reads a Secret or a clock.

mod canonical;
mod error;
pub mod names;
mod references;
mod render;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use canonical::SCHEME;
pub use error::RevisionError;
pub use references::{Reference, references};
pub use render::MANAGED_BY_LABEL;

use crate::api::{AgentDeploymentSpec, short_hex};

/// A stored revision is smaller than this: etcd takes objects of 1.5 MiB, and an object is more than its data.
const LIMIT: usize = 900 * 1024;

/// What makes an agent behave as it does, ready to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// How it was hashed and rendered.
    pub scheme: String,
    /// Name of the agent.
    pub agent: String,
    /// Names the revision: the first ten digits of the digest.
    pub hash: String,
    /// SHA-256 of what the user wrote, in canonical form.
    pub digest: String,
    /// The port on which the pods serve.
    pub port: i32,
    /// The pod template that runs.
    pub template: Value,
    /// Contents of the ConfigMaps, by their names. One that is absent here was optional and did not exist.
    #[serde(default)]
    pub config: BTreeMap<String, FrozenConfig>,
    /// What the user wrote, in canonical form: with `config` it is all that the digest covers.
    pub source: Value,
}

/// Contents of a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenConfig {
    /// Text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, ByteString>,
}

impl From<&ConfigMap> for FrozenConfig {
    fn from(config_map: &ConfigMap) -> Self {
        Self {
            data: config_map.data.clone().unwrap_or_default(),
            binary_data: config_map.binary_data.clone().unwrap_or_default(),
        }
    }
}

/// The ConfigMaps that must be read before [`Revision::of`].
pub fn config_maps(spec: &AgentDeploymentSpec) -> Result<BTreeSet<String>, RevisionError> {
    let template = serde_json::to_value(&spec.template).map_err(RevisionError::Template)?;
    Ok(references(&template, &spec.config).into_iter().map(|reference| reference.config_map).collect())
}

impl Revision {
    /// Whether the user's template says as which ServiceAccount its pods run.
    pub fn names_account(&self) -> bool {
        let spec = &self.source["template"]["spec"];
        ["serviceAccountName", "serviceAccount"].iter().any(|field| !spec[field].is_null())
    }

    /// The revision that a spec asks for, given the ConfigMaps that exist of [`config_maps`]; others are ignored.
    pub fn of(
        agent: &str,
        spec: &AgentDeploymentSpec,
        config_maps: &BTreeMap<String, ConfigMap>,
    ) -> Result<Self, RevisionError> {
        let written = serde_json::to_value(&spec.template).map_err(RevisionError::Template)?;
        let template = canonical::template(written);
        let port = port(spec, &template)?;
        let config = freeze(&references(&template, &spec.config), config_maps)?;
        let source = source(spec, &template);
        let digest = digest(&source, &config);
        let hash = short_hex(&digest);
        let template = render::render(
            &template,
            &render::Rendering { agent, hash: &hash, port, config: &spec.config, health: spec.health.as_ref() },
        )?;
        let revision = Self {
            scheme: SCHEME.to_owned(),
            agent: agent.to_owned(),
            hash,
            digest: canonical::hex(&digest),
            port,
            template,
            config,
            source,
        };
        revision.within_limit()
    }

    /// The `data` of the ControllerRevision that stores it.
    pub fn to_data(&self) -> Value {
        json!(self)
    }

    /// Reads a stored revision back, and checks that its contents are those that its digest names.
    pub fn from_data(data: &Value) -> Result<Self, RevisionError> {
        let scheme = data.get("scheme").and_then(Value::as_str).unwrap_or_default();
        if scheme != SCHEME {
            return Err(RevisionError::Scheme(scheme.to_owned()));
        }
        let revision = Self::deserialize(data).map_err(RevisionError::Stored)?;
        let digest = digest(&revision.source, &revision.config);
        if revision.digest != canonical::hex(&digest) || revision.hash != short_hex(&digest) {
            return Err(RevisionError::Changed(revision.hash));
        }
        Ok(revision)
    }

    /// Name of the frozen copy of a ConfigMap.
    pub fn frozen_name(&self, config_map: &str) -> String {
        names::frozen_name(&self.agent, &self.hash, config_map)
    }

    /// `<agent>-<hash>`.
    pub fn name(&self) -> String {
        names::revision_name(&self.agent, &self.hash)
    }

    fn within_limit(self) -> Result<Self, RevisionError> {
        let size = self.to_data().to_string().len();
        if size < LIMIT {
            return Ok(self);
        }
        let largest = self.config.iter().max_by_key(|(_, config)| json!(config).to_string().len());
        Err(RevisionError::TooLarge {
            size: size.div_ceil(1024),
            limit: LIMIT / 1024,
            largest: largest.map(|(name, _)| name.clone()).unwrap_or_default(),
        })
    }
}

/// The port that serves: the spec's, else the template's first.
fn port(spec: &AgentDeploymentSpec, template: &Value) -> Result<i32, RevisionError> {
    let containers = template.pointer("/spec/containers").and_then(Value::as_array);
    let first = || containers.into_iter().flatten().flat_map(render::ports).next();
    spec.port.or_else(|| first().and_then(|port| i32::try_from(port).ok())).ok_or(RevisionError::NoPort)
}

/// Copies the contents of every ConfigMap that is named, and says what is missing.
fn freeze(
    references: &[Reference],
    config_maps: &BTreeMap<String, ConfigMap>,
) -> Result<BTreeMap<String, FrozenConfig>, RevisionError> {
    let mut frozen = BTreeMap::new();
    for reference in references {
        let Some(config_map) = config_maps.get(&reference.config_map) else {
            if reference.optional {
                continue;
            }
            return Err(RevisionError::ConfigMapMissing {
                config_map: reference.config_map.clone(),
                field: reference.field.clone(),
            });
        };
        let config = frozen.entry(reference.config_map.clone()).or_insert_with(|| FrozenConfig::from(config_map));
        let known =
            |key: &String| config.data.contains_key(key) || reference.binary && config.binary_data.contains_key(key);
        if let Some(key) = reference.keys.iter().find(|key| !reference.optional && !known(key)) {
            return Err(RevisionError::KeyMissing {
                config_map: reference.config_map.clone(),
                key: key.clone(),
                field: reference.field.clone(),
            });
        }
    }
    Ok(frozen)
}

/// What the user wrote, without nulls. `spec.config` is a map by name in Kubernetes' eyes, so its order means nothing.
fn source(spec: &AgentDeploymentSpec, template: &Value) -> Value {
    let mut source = json!({"template": template});
    for config in &spec.config {
        source["config"][&config.name]["configMap"] = json!(config.config_map_ref.name);
        if let Some(path) = &config.mount_path {
            source["config"][&config.name]["mountPath"] = json!(path);
        }
    }
    if let Some(port) = spec.port {
        source["port"] = json!(port);
    }
    if let Some(health) = &spec.health {
        source["health"] = json!(health);
    }
    source
}

fn digest(source: &Value, config: &BTreeMap<String, FrozenConfig>) -> [u8; 32] {
    canonical::digest(&json!({"configMaps": config, "source": source}))
}

#[cfg(test)]
mod tests;
