//! Which ConfigMaps a revision names, and where. The same walk collects and rewrites them, so that the two cannot differ.
//!
//! Secrets are followed by name: nothing here reads or copies one.

use serde_json::{Map, Value};

use crate::api::ConfigSource;

/// A place that names a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Name of the ConfigMap.
    pub config_map: String,
    /// Where it is named, as a user would write it.
    pub field: String,
    /// The pods start without it.
    pub optional: bool,
    /// Keys that it names.
    pub keys: Vec<String>,
    /// A key may also be one of binary data: files may, environment variables may not.
    pub binary: bool,
}

/// Every place in a pod template and in `spec.config` that names a ConfigMap, in the order of the manifest.
pub fn references(template: &Value, config: &[ConfigSource]) -> Vec<Reference> {
    let mut found: Vec<_> = config
        .iter()
        .map(|source| Reference {
            config_map: source.config_map_ref.name.clone(),
            field: format!("spec.config[{}]", source.name),
            optional: false,
            keys: Vec::new(),
            binary: true,
        })
        .collect();
    each(&mut template.clone(), &mut |reference, _| found.push(reference));
    found
}

/// Replaces every ConfigMap's name in a pod template.
pub(super) fn rename(template: &mut Value, name: impl Fn(&str) -> String) {
    each(template, &mut |reference, source| {
        source.insert("name".to_owned(), name(&reference.config_map).into());
    });
}

/// What is done at every place.
type Visit<'a> = dyn FnMut(Reference, &mut Map<String, Value>) + 'a;

fn each(template: &mut Value, visit: &mut Visit<'_>) {
    let Some(spec) = template.get_mut("spec") else {
        return;
    };
    for (volume, place) in named(spec, "volumes", "spec.template.spec") {
        files(volume, &place, visit);
        let Some(projected) = volume.get_mut("projected") else {
            continue;
        };
        for (source, place) in named(projected, "sources", &format!("{place}.projected")) {
            files(source, &place, visit);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (container, place) in named(spec, list, "spec.template.spec") {
            environment(container, &place, visit);
        }
    }
}

/// A volume, or a source of a projected one.
fn files(volume: &mut Value, place: &str, visit: &mut Visit<'_>) {
    let keys = |source: &Map<String, Value>| match source.get("items") {
        Some(Value::Array(items)) => items.iter().filter_map(|item| word(item, "key")).collect(),
        _ => Vec::new(),
    };
    one(volume.get_mut("configMap"), &format!("{place}.configMap"), true, keys, visit);
}

fn environment(container: &mut Value, place: &str, visit: &mut Visit<'_>) {
    let key = |source: &Map<String, Value>| {
        source.get("key").and_then(Value::as_str).map(str::to_owned).into_iter().collect()
    };
    for (variable, place) in named(container, "env", place) {
        let source = variable.pointer_mut("/valueFrom/configMapKeyRef");
        one(source, &format!("{place}.valueFrom.configMapKeyRef"), false, key, visit);
    }
    for (source, place) in named(container, "envFrom", place) {
        let source = source.get_mut("configMapRef");
        one(source, &format!("{place}.configMapRef"), false, |_| Vec::new(), visit);
    }
}

fn one(
    source: Option<&mut Value>,
    field: &str,
    binary: bool,
    keys: impl Fn(&Map<String, Value>) -> Vec<String>,
    visit: &mut Visit<'_>,
) {
    let Some(source) = source.and_then(Value::as_object_mut) else {
        return;
    };
    let Some(name) = source.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
        return; // Kubernetes refuses it in the dry run
    };
    let reference = Reference {
        config_map: name.to_owned(),
        field: field.to_owned(),
        optional: source.get("optional").and_then(Value::as_bool).unwrap_or_default(),
        keys: keys(source),
        binary,
    };
    visit(reference, source);
}

/// The items of a list, each with its place: by name where it has one, else by index.
fn named<'a>(object: &'a mut Value, list: &str, place: &str) -> Vec<(&'a mut Value, String)> {
    let place = |index: usize, item: &Value| {
        let name = word(item, "name").unwrap_or_else(|| index.to_string());
        format!("{place}.{list}[{name}]")
    };
    match object.get_mut(list) {
        Some(Value::Array(items)) => items
            .iter_mut()
            .enumerate()
            .map(|(index, item)| {
                let place = place(index, item);
                (item, place)
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn word(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::ConfigMapRef;

    fn template() -> Value {
        json!({"spec": {
            "volumes": [
                {"name": "files", "configMap": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
                {"name": "mix", "projected": {"sources": [
                    {"secret": {"name": "hidden"}},
                    {"configMap": {"name": "b", "optional": true}},
                ]}},
                {"name": "secret", "secret": {"secretName": "hidden"}},
            ],
            "initContainers": [{"name": "init", "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "hidden"}}]}],
            "containers": [{"name": "agent", "env": [
                {"name": "PLAIN", "value": "x"},
                {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "d", "key": "mode"}}},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "t"}}},
            ]}],
            "ephemeralContainers": [{"name": "debug", "envFrom": [{"configMapRef": {"name": "e"}}]}],
        }})
    }

    fn source(name: &str, config_map: &str) -> ConfigSource {
        ConfigSource {
            name: name.to_owned(),
            config_map_ref: ConfigMapRef { name: config_map.to_owned() },
            mount_path: None,
        }
    }

    #[test]
    fn every_place_that_can_name_a_config_map_is_found_with_its_field() {
        let found = references(&template(), &[source("prompt", "z")]);
        let lines: Vec<_> = found
            .iter()
            .map(|r| format!("{} {} optional={} keys={:?}", r.config_map, r.field, r.optional, r.keys))
            .collect();
        assert_eq!(
            lines,
            [
                "z spec.config[prompt] optional=false keys=[]",
                "a spec.template.spec.volumes[files].configMap optional=false keys=[\"k\"]",
                "b spec.template.spec.volumes[mix].projected.sources[1].configMap optional=true keys=[]",
                "c spec.template.spec.initContainers[init].envFrom[0].configMapRef optional=false keys=[]",
                "d spec.template.spec.containers[agent].env[MODE].valueFrom.configMapKeyRef optional=false keys=[\"mode\"]",
                "e spec.template.spec.ephemeralContainers[debug].envFrom[0].configMapRef optional=false keys=[]",
            ]
        );
    }

    #[test]
    fn renaming_changes_every_config_map_and_no_secret() {
        let mut renamed = template();
        rename(&mut renamed, |name| format!("frozen-{name}"));
        let names: Vec<_> = references(&renamed, &[]).into_iter().map(|r| r.config_map).collect();
        assert_eq!(names, ["frozen-a", "frozen-b", "frozen-c", "frozen-d", "frozen-e"]);
        assert_eq!(renamed.to_string().matches("\"hidden\"").count(), 4);
    }

    #[test]
    fn a_template_of_the_wrong_shape_names_nothing() {
        for odd in [json!(null), json!([]), json!({"spec": 1}), json!({"spec": {"volumes": {}, "containers": [3]}})] {
            assert_eq!(references(&odd, &[]), []);
        }
    }
}
