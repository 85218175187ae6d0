//! What schemars cannot derive: durations, times, conditions and string maps, and schemas that accept no `null`.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// A `metav1.Duration` that cannot be negative: `90s`, `10m`, `1h30m`. Six digits at most before a unit: with more it
/// would overflow Go's durations in CEL, and panic in `kube::core::Duration`.
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 32, "pattern": r"^([0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h))+$"})
}

/// An instant, RFC 3339.
pub fn timestamp(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": 40})
}

/// A list of `metav1.Condition`, merged by type, with the bounds that Kubernetes documents.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 16,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the agent's state.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "Which aspect."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "Generation of the spec that it speaks about."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When the status changed last."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "Why, in a word."},
                "message": {"type": "string", "maxLength": 32768, "description": "The same in a sentence, with numbers."},
            },
        },
    })
}

/// The labels or annotations of a pod template.
pub fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 32768},
    })
}

/// An instant that may be absent.
pub fn option_timestamp(generator: &mut SchemaGenerator) -> Schema {
    timestamp(generator)
}

/// Takes `null` out of a schema: the API server then drops nulls before the rules look, so that null and absent are one.
/// (A rule that asks `has(self.x)` counts a null that the schema admits, which means absent to the controller.)
pub fn never_null(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        object.values_mut().for_each(strip_null);
        strip_null_here(object);
    }
}

fn strip_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(strip_null);
            strip_null_here(object);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_null),
        _ => {}
    }
}

fn strip_null_here(object: &mut Map<String, Value>) {
    let kept = |list: &Value| -> Option<Vec<Value>> {
        let null = |item: &Value| item.is_null() || item == "null" || *item == json!({"type": "null"});
        let list = list.as_array()?;
        list.iter().any(null).then(|| list.iter().filter(|item| !null(item)).cloned().collect())
    };
    if let Some(types) = object.get("type").and_then(kept) {
        object.insert("type".to_owned(), types.first().cloned().unwrap_or_default());
    }
    if let Some(words) = object.get("enum").and_then(kept) {
        object.insert("enum".to_owned(), Value::Array(words));
    }
    if let Some(Value::Object(only)) = object.get("anyOf").and_then(kept).and_then(|mut kinds| kinds.pop()) {
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value); // the field's own description wins
        }
    }
}
