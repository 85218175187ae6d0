//! The canonical form that is hashed: the same meaning gives the same text, in every version of Sluice.
//!
//! Everything here is frozen. A change is a new scheme beside `v1`, never an edit of it; the golden hashes hold us to that.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Names the canonical form and the way a revision is rendered.
pub const SCHEME: &str = "v1";

/// What every hashed text begins with.
const PREFIX: &str = "sluice/revision/v1\n";

/// Fields that Kubernetes holds as a map or a plain struct, so that it cannot tell `{}` from absent. All other empty
/// objects have a meaning of their own (`emptyDir: {}`, `labelSelector: {}`) and stay.
const SAME_WHEN_EMPTY: [&str; 8] =
    ["annotations", "labels", "limits", "matchLabels", "metadata", "nodeSelector", "requests", "resources"];

/// Takes out of a pod template what Kubernetes cannot tell from absent: nulls, empty lists, empty maps.
///
/// When in doubt it keeps a field: two hashes for one meaning cost a launch, one hash for two would lose a change.
pub fn template(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter_map(|(key, value)| {
                let value = template(value);
                (!absent(&key, &value)).then_some((key, value))
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(template).collect(),
        leaf => leaf,
    }
}

fn absent(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty() && SAME_WHEN_EMPTY.contains(&key),
        _ => false,
    }
}

/// JSON with sorted keys and no white space, whatever the features of `serde_json`.
pub fn text(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                separate(index, text);
                write(&Value::from(key.as_str()), text);
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(index, text);
                write(item, text);
            }
            text.push(']');
        }
        leaf => text.push_str(&leaf.to_string()),
    }
}

fn separate(index: usize, text: &mut String) {
    if index > 0 {
        text.push(',');
    }
}

/// SHA-256 of a document in canonical form.
pub fn digest(document: &Value) -> [u8; 32] {
    Sha256::digest(format!("{PREFIX}{}", text(document)).as_bytes()).into()
}

/// All hexadecimal digits of a digest.
pub fn hex(digest: &[u8]) -> String {
    digest.chunks(5).map(crate::api::short_hex).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Any JSON, with field names that the canonical form treats in its own way among them.
    pub fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~é\n\"]{0,6}".prop_map(Value::from),
        ];
        let key = prop_oneof!["[a-z]{1,3}", proptest::sample::select(SAME_WHEN_EMPTY.to_vec()).prop_map(str::to_owned)];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn the_text_is_sorted_json_without_white_space() {
        let value: Value = serde_json::from_str(r#"{"b": [1, 2.5, "é\n\""], "a": {"z": null, "y": true}}"#).unwrap();
        assert_eq!(text(&value), r#"{"a":{"y":true,"z":null},"b":[1,2.5,"é\n\""]}"#);
    }

    #[test]
    fn what_kubernetes_cannot_tell_from_absent_is_absent() {
        let written = json!({
            "metadata": {"creationTimestamp": null, "labels": {}},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {}}, "env": [], "command": null}]},
        });
        assert_eq!(template(written), json!({"spec": {"containers": [{"name": "a"}]}}));
    }

    #[test]
    fn empty_objects_and_strings_that_mean_something_stay() {
        let written =
            json!({"volumes": [{"name": "tmp", "emptyDir": {}}], "labelSelector": {}, "storageClassName": ""});
        assert_eq!(template(written.clone()), written);
    }

    #[test]
    fn a_digest_has_sixty_four_digits() {
        let digits = hex(&digest(&json!({})));
        assert_eq!(digits.len(), 64);
        assert!(digits.starts_with(&crate::api::short_hex(&digest(&json!({})))));
    }

    proptest! {
        #[test]
        fn the_text_means_the_same_as_the_value(value in any_json()) {
            prop_assert_eq!(serde_json::from_str::<Value>(&text(&value)).unwrap(), value);
        }

        #[test]
        fn the_canonical_template_is_its_own_canonical_template(value in any_json()) {
            let once = template(value);
            prop_assert_eq!(template(once.clone()), once);
        }
    }
}
