//! The part of the API server's schema checks that needs no API server, with its words: types, bounds, patterns, unknown
//! fields and duplicate keys. It prunes nulls and fills in defaults as the API server does, before the rules look.

use kube::core::cel::Validator;
use serde_json::{Map, Value, json};

/// Prepares an object as the API server does, and says what is wrong with it.
pub fn check(schema: &Value, object: &Value) -> (Value, Vec<String>) {
    let mut prepared = object.clone();
    prepare(schema, &mut prepared);
    let mut problems = Vec::new();
    // metadata and the type are Kubernetes' own and not in our schema
    let ours = prepared
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !["apiVersion", "kind", "metadata"].contains(&key.as_str()));
    let ours = Value::Object(ours.map(|(key, value)| (key.clone(), value.clone())).collect());
    walk(schema, &ours, "", &mut problems);
    (prepared, problems)
}

fn prepare(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, property) in properties(schema) {
                let nullable = property["nullable"] == true;
                if !nullable && object.get(name).is_some_and(Value::is_null) {
                    object.remove(name);
                }
                if let (None, Some(default)) = (object.get(name), property.get("default")) {
                    object.insert(name.clone(), default.clone());
                }
                if let Some(child) = object.get_mut(name) {
                    prepare(property, child);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prepare(&schema["items"], item)),
        _ => {}
    }
}

/// The properties that a schema declares.
pub fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn walk(schema: &Value, value: &Value, path: &str, problems: &mut Vec<String>) {
    let kinds = kinds(schema);
    let kind = kind(value);
    let fits = kinds.is_empty() || kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number");
    if !fits {
        let wanted = kinds.join(",");
        problems
            .push(format!("{path}: Invalid value: \"{kind}\": {path} in body must be of type {wanted}: \"{kind}\""));
        return;
    }
    if let Some(words) = schema["enum"].as_array().filter(|words| !words.contains(value)) {
        let words: Vec<_> = words.iter().map(Value::to_string).collect();
        problems.push(format!("{path}: Unsupported value: {value}: supported values: {}", words.join(", ")));
    }
    match value {
        Value::Object(object) => walk_object(schema, object, path, problems),
        Value::Array(items) => walk_array(schema, items, path, problems),
        Value::String(text) => check_text(schema, text, path, problems),
        Value::Number(number) => check_number(schema, number.as_f64().unwrap_or(f64::NAN), path, problems),
        Value::Bool(_) | Value::Null => {}
    }
}

fn kinds(schema: &Value) -> Vec<&str> {
    if schema["x-kubernetes-int-or-string"] == true {
        return vec!["integer", "string"];
    }
    schema["type"].as_str().into_iter().collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn walk_object(schema: &Value, object: &Map<String, Value>, path: &str, problems: &mut Vec<String>) {
    let join = |name: &str| {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) && !["apiVersion", "kind", "metadata"].contains(&name) {
            problems.push(format!("{}: Required value", join(name)));
        }
    }
    if schema["maxProperties"].as_u64().is_some_and(|max| object.len() as u64 > max) {
        problems.push(format!(
            "{path}: Too many: {}: must have at most {} items",
            object.len(),
            schema["maxProperties"]
        ));
    }
    for (name, value) in object {
        let additional = &schema["additionalProperties"];
        match schema["properties"].get(name) {
            Some(property) => walk(property, value, &join(name), problems),
            None if additional.is_object() => walk(additional, value, &join(name), problems),
            None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => problems.push(format!("unknown field \"{}\"", join(name))),
        }
    }
}

fn walk_array(schema: &Value, items: &[Value], path: &str, problems: &mut Vec<String>) {
    if schema["maxItems"].as_u64().is_some_and(|max| items.len() as u64 > max) {
        problems.push(format!("{path}: Too many: {}: must have at most {} items", items.len(), schema["maxItems"]));
    }
    if schema["minItems"].as_u64().is_some_and(|min| (items.len() as u64) < min) {
        let min = &schema["minItems"];
        problems
            .push(format!("{path}: Invalid value: {}: {path} in body should have at least {min} items", items.len()));
    }
    let key = |item: &Value| -> Value {
        let names = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Value::Object(names.map(|name| (name.to_owned(), item[name].clone())).collect())
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let same = |other: &Value| key(other) == key(item);
        if schema["x-kubernetes-list-type"] == "map" && items[..index].iter().any(same) {
            problems.push(format!("{path}: Duplicate value: {}", key(item)));
        }
        if schema["x-kubernetes-list-type"] == "set" && items[..index].contains(item) {
            problems.push(format!("{path}: Duplicate value: {item}"));
        }
        walk(&schema["items"], item, &path, problems);
    }
}

fn check_text(schema: &Value, text: &str, path: &str, problems: &mut Vec<String>) {
    let length = text.chars().count() as u64;
    if schema["maxLength"].as_u64().is_some_and(|max| length > max) {
        problems.push(format!("{path}: Too long: may not be more than {} bytes", schema["maxLength"]));
    }
    if schema["minLength"].as_u64().is_some_and(|min| length < min) {
        problems.push(format!("{path} in body should be at least {} chars long", schema["minLength"]));
    }
    let Some(pattern) = schema["pattern"].as_str() else {
        return;
    };
    // the regular expressions of CEL are those of the API server
    let rule =
        json!({"type": "string", "x-kubernetes-validations": [{"rule": format!("self.matches({})", json!(pattern))}]});
    if Validator::new().validate(&rule, &json!(text), None).is_err() {
        problems.push(format!("{path}: Invalid value: {text:?}: {path} in body should match '{pattern}'"));
    }
}

fn check_number(schema: &Value, number: f64, path: &str, problems: &mut Vec<String>) {
    if let Some(max) = schema["maximum"].as_f64().filter(|max| number > *max) {
        problems.push(format!("{path}: Invalid value: {number}: {path} in body should be less than or equal to {max}"));
    }
    if let Some(min) = schema["minimum"].as_f64().filter(|min| number < *min) {
        problems
            .push(format!("{path}: Invalid value: {number}: {path} in body should be greater than or equal to {min}"));
    }
}
