//! Schema fragments that schemars cannot derive: durations, amounts, times and the open pod template.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A `metav1.Duration` that cannot be negative: `90s`, `10m`, `1h30m`.
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 32, "pattern": r"^([0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h))+$"})
}

/// An instant, RFC 3339.
pub fn timestamp(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": 40})
}

/// A list of `metav1.Condition`, merged by type.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>();
    json_schema!({
        "type": "array", "items": item, "maxItems": 16,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The labels or annotations of a pod template.
pub fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64, "nullable": true,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// An instant that may be absent.
pub fn option_timestamp(generator: &mut SchemaGenerator) -> Schema {
    timestamp(generator)
}
