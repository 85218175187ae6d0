//! A share of some requests: a rule of its own beside the one that it was made from, which matches fewer requests.

use serde_json::{Map, Value, json};

use super::route::{BackendRef, HttpRouteRule};
use crate::api::{HeaderMatch, RequestMatch};

/// A rule like another one, for those of its requests that match `only`. `None` when there are none: the rule asks for
/// another value of the same header.
pub(super) fn narrower(
    rule: &HttpRouteRule,
    only: &[RequestMatch],
    backends: Vec<BackendRef>,
) -> Option<HttpRouteRule> {
    let everything = vec![json!({"path": {"type": "PathPrefix", "value": "/"}})];
    let written = rule.rest.get("matches").and_then(Value::as_array).filter(|matches| !matches.is_empty());
    let both =
        |written: &Value| only.iter().filter_map(|only| with_headers(written, &only.headers)).collect::<Vec<_>>();
    let matches: Vec<Value> = written.unwrap_or(&everything).iter().flat_map(both).collect();
    if matches.is_empty() {
        return None;
    }
    let mut rest = rule.rest.clone();
    rest.remove("name"); // names of rules are unique
    rest.insert("matches".to_owned(), Value::Array(matches));
    Some(HttpRouteRule { backend_refs: Some(backends), rest })
}

/// A match that asks for these headers too. `None` when it asks for one of them otherwise already.
fn with_headers(written: &Value, headers: &[HeaderMatch]) -> Option<Value> {
    let mut both: Map<String, Value> = written.as_object().cloned().unwrap_or_default();
    let mut all = both.get("headers").and_then(Value::as_array).cloned().unwrap_or_default();
    for HeaderMatch { name, value } in headers {
        let is_named = |header: &&Value| header["name"].as_str().is_some_and(|other| other.eq_ignore_ascii_case(name));
        match all.iter().find(is_named) {
            Some(header) if header["value"] == *value && header["type"].as_str().unwrap_or("Exact") == "Exact" => {}
            Some(_) => return None,
            None => all.push(json!({"type": "Exact", "name": name, "value": value})),
        }
    }
    both.insert("headers".to_owned(), Value::Array(all));
    Some(Value::Object(both))
}
