//! From what the user wrote to the pod template that runs: defaults are applied here, once, and stored in the revision.
//!
//! Part of scheme `v1`: a stored revision runs as it was rendered, so that an upgrade of Sluice restarts no pod.
//!
//! No request is lost when a pod leaves its Service, because every container with ports sleeps before it stops: five
//! seconds, or half of `terminationGracePeriodSeconds` where that is less (Kubernetes refuses a sleep beyond it; a grace of
//! 0 or 1 s leaves no time, and there is no sleep).

use serde_json::{Map, Value, json};

use super::RevisionError;
use super::names::{config_volume, frozen_name};
use super::references::rename;
use crate::api::{AGENT_LABEL, ConfigSource, Health, MANAGED_BY, REVISION_LABEL};

/// Label that says who manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// How long a container serves on after its pod was told to stop.
const SLEEP_SECONDS: i64 = 5;
/// What Kubernetes grants when the template says nothing.
const GRACE_SECONDS: i64 = 30;

/// What a template is rendered for.
pub(super) struct Rendering<'a> {
    pub agent: &'a str,
    pub hash: &'a str,
    pub port: i32,
    pub config: &'a [ConfigSource],
    pub health: Option<&'a Health>,
}

/// The pod template that runs.
pub(super) fn render(template: &Value, of: &Rendering<'_>) -> Result<Value, RevisionError> {
    let mut template = template.clone();
    rename(&mut template, |name| frozen_name(of.agent, of.hash, name));
    label(object(&mut template, "metadata", "spec.template")?, of)?;
    let spec = object(&mut template, "spec", "spec.template")?;
    if !spec.contains_key("serviceAccountName") && !spec.contains_key("serviceAccount") {
        spec.insert("serviceAccountName".to_owned(), of.agent.into());
    }
    for source in of.config {
        mount(spec, source, of)?;
    }
    sleep_before_stop(spec, of.port);
    let agent = first_container(spec)?;
    if let Some(health) = of.health {
        probe(agent, health, of.port);
    }
    tell(agent, of)?;
    Ok(template)
}

/// The user's labels and ours; ours win, because Sluice finds its pods by them.
fn label(metadata: &mut Map<String, Value>, of: &Rendering<'_>) -> Result<(), RevisionError> {
    let labels = object_in(metadata, "labels", "spec.template.metadata")?;
    for (label, value) in [(AGENT_LABEL, of.agent), (REVISION_LABEL, of.hash), (MANAGED_BY_LABEL, MANAGED_BY)] {
        labels.insert(label.to_owned(), value.into());
    }
    Ok(())
}

/// Mounts a frozen copy, read-only, on the first container.
fn mount(spec: &mut Map<String, Value>, source: &ConfigSource, of: &Rendering<'_>) -> Result<(), RevisionError> {
    let Some(path) = &source.mount_path else {
        return Ok(());
    };
    let volume = config_volume(&source.name);
    let volumes = list(spec, "volumes", "spec.template.spec")?;
    if volumes.iter().any(|other| other["name"] == *volume) {
        return Err(RevisionError::VolumeTaken { volume, config: source.name.clone() });
    }
    let frozen = frozen_name(of.agent, of.hash, &source.config_map_ref.name);
    volumes.push(json!({"name": volume, "configMap": {"name": frozen}}));

    let agent = first_container(spec)?;
    let container = agent.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mounts = list(agent, "volumeMounts", "spec.template.spec.containers[0]")?;
    let same = |other: &Value| {
        other["mountPath"].as_str().is_some_and(|other| other.trim_end_matches('/') == path.trim_end_matches('/'))
    };
    if mounts.iter().any(same) {
        return Err(RevisionError::MountTaken { config: source.name.clone(), path: path.clone(), container });
    }
    mounts.push(json!({"name": volume, "mountPath": path, "readOnly": true}));
    Ok(())
}

/// Containers that serve go on serving until their pod has left every load balancer.
fn sleep_before_stop(spec: &mut Map<String, Value>, port: i32) {
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(GRACE_SECONDS);
    let seconds = SLEEP_SECONDS.min(grace / 2);
    let Some(Value::Array(containers)) = spec.get_mut("containers") else {
        return;
    };
    if seconds < 1 {
        return;
    }
    let declared = containers.iter().any(|container| ports(container).any(|other| other == i64::from(port)));
    for (index, container) in containers.iter_mut().enumerate() {
        let serves = ports(container).next().is_some() || index == 0 && !declared;
        let Some(container) = container.as_object_mut().filter(|_| serves) else {
            continue;
        };
        let lifecycle = container.entry("lifecycle").or_insert_with(|| json!({}));
        if let Some(lifecycle) = lifecycle.as_object_mut() {
            lifecycle.entry("preStop").or_insert_with(|| json!({"sleep": {"seconds": seconds}}));
        }
    }
}

/// TCP ports of a container.
pub(super) fn ports(container: &Value) -> impl Iterator<Item = i64> {
    let ports = container.get("ports").and_then(Value::as_array);
    ports
        .into_iter()
        .flatten()
        .filter(|port| port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| port.get("containerPort").and_then(Value::as_i64))
}

/// HTTP probes where the agent's container has none: ready within a second or two of being so, unready within six,
/// restarted after half a minute without an answer, but not before it has had five minutes to start.
fn probe(agent: &mut Map<String, Value>, health: &Health, port: i32) {
    let get = |path: &Option<String>, default: &str| json!({"path": path.as_deref().unwrap_or(default), "port": port});
    let (live, ready) = (get(&health.liveness_path, "/healthz"), get(&health.readiness_path, "/readyz"));
    if !agent.contains_key("readinessProbe") {
        let probe = json!({"httpGet": ready, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3});
        agent.insert("readinessProbe".to_owned(), probe);
    }
    if agent.contains_key("livenessProbe") {
        return;
    }
    if !agent.contains_key("startupProbe") {
        let probe = json!({"httpGet": live, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 300});
        agent.insert("startupProbe".to_owned(), probe);
    }
    let probe = json!({"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3});
    agent.insert("livenessProbe".to_owned(), probe);
}

/// Tells the agent who it is, unless the user did. First in the list, so that the user's variables may refer to them.
fn tell(agent: &mut Map<String, Value>, of: &Rendering<'_>) -> Result<(), RevisionError> {
    let env = list(agent, "env", "spec.template.spec.containers[0]")?;
    for (name, value) in [("SLUICE_REVISION", of.hash), ("SLUICE_AGENT", of.agent)] {
        if !env.iter().any(|variable| variable["name"] == name) {
            env.insert(0, json!({"name": name, "value": value}));
        }
    }
    Ok(())
}

fn first_container(spec: &mut Map<String, Value>) -> Result<&mut Map<String, Value>, RevisionError> {
    list(spec, "containers", "spec.template.spec")?
        .first_mut()
        .ok_or(RevisionError::NoContainer)?
        .as_object_mut()
        .ok_or_else(|| malformed("spec.template.spec", "containers[0]", "an object"))
}

fn object<'a>(value: &'a mut Value, key: &str, place: &str) -> Result<&'a mut Map<String, Value>, RevisionError> {
    let fields = value.as_object_mut().ok_or_else(|| malformed("spec", "template", "an object"))?;
    object_in(fields, key, place)
}

fn object_in<'a>(
    fields: &'a mut Map<String, Value>,
    key: &str,
    place: &str,
) -> Result<&'a mut Map<String, Value>, RevisionError> {
    let value = fields.entry(key).or_insert_with(|| json!({}));
    value.as_object_mut().ok_or_else(|| malformed(place, key, "an object"))
}

fn list<'a>(fields: &'a mut Map<String, Value>, key: &str, place: &str) -> Result<&'a mut Vec<Value>, RevisionError> {
    let value = fields.entry(key).or_insert_with(|| json!([]));
    value.as_array_mut().ok_or_else(|| malformed(place, key, "a list"))
}

fn malformed(place: &str, key: &str, wanted: &'static str) -> RevisionError {
    RevisionError::Malformed { field: format!("{place}.{key}"), wanted }
}
