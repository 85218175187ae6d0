//! The hash and the rendering, held to committed values: a change here re-hashes or restarts agents that run.

use proptest::prelude::*;

use super::canonical::tests::any_json;
use super::*;

const REFUND: &str = "
replicas: 4
template:
  metadata: {labels: {team: support}, annotations: {note: x}}
  spec:
    containers:
    - name: agent
      image: registry.example/refund-agent@sha256:0123
      ports: [{name: http, containerPort: 8080}]
      env:
      - {name: MODE, valueFrom: {configMapKeyRef: {name: modes, key: mode}}}
      volumeMounts: [{name: tmp, mountPath: /tmp}]
    - {name: proxy, image: proxy:1}
    volumes:
    - {name: tmp, emptyDir: {}}
    - {name: extra, configMap: {name: extras, optional: true}}
config:
- {name: prompt, configMapRef: {name: refund-prompts}, mountPath: /etc/agent/prompt}
- {name: policy, configMapRef: {name: production-policy}}
health: {readinessPath: /ready}
";

const SMALLEST: &str =
    "template: {spec: {containers: [{name: agent, image: 'agent:1', ports: [{containerPort: 8080}]}]}}";

fn spec(yaml: &str) -> AgentDeploymentSpec {
    serde_norway::from_str(yaml).unwrap()
}

fn config_map(data: &Value) -> ConfigMap {
    serde_json::from_value(json!({"data": data})).unwrap()
}

fn existing() -> BTreeMap<String, ConfigMap> {
    let texts = [
        ("refund-prompts", json!({"system.txt": "Refund politely.\n"})),
        ("production-policy", json!({"policy.yaml": "limit: 300"})),
        ("modes", json!({"mode": "careful"})),
    ];
    let mut all: BTreeMap<_, _> = texts.iter().map(|(name, data)| ((*name).to_owned(), config_map(data))).collect();
    let bytes = BTreeMap::from([("logo".to_owned(), ByteString(vec![0, 159, 146, 150]))]);
    all.entry("refund-prompts".to_owned()).and_modify(|prompts| prompts.binary_data = Some(bytes));
    all
}

fn of(yaml: &str) -> Revision {
    Revision::of("refund-agent", &spec(yaml), &existing()).unwrap()
}

fn refused(yaml: &str) -> String {
    Revision::of("refund-agent", &spec(yaml), &existing()).unwrap_err().to_string()
}

/// The smallest agent with more fields in its template's spec, or in its container.
fn with(pod: &Value, container: &Value) -> AgentDeploymentSpec {
    let mut all: Value = serde_norway::from_str(SMALLEST).unwrap();
    let mut merge = |at: &str, fields: &Value| {
        let target = all.pointer_mut(at).and_then(Value::as_object_mut).unwrap();
        target.extend(fields.as_object().unwrap().clone());
    };
    merge("/template/spec/containers/0", container);
    merge("/template/spec", pod);
    serde_json::from_value(all).unwrap()
}

fn rendered(pod: &Value, container: &Value) -> Value {
    Revision::of("a", &with(pod, container), &existing()).unwrap().template
}

fn hash(spec: &AgentDeploymentSpec) -> String {
    Revision::of("a", spec, &existing()).unwrap().hash
}

// ---- the hash

#[test]
fn an_upgrade_of_sluice_rehashes_nothing() {
    let health = SMALLEST.to_owned() + "\nhealth: {}";
    let port = SMALLEST.to_owned() + "\nport: 9090";
    for (yaml, golden) in [
        (REFUND, "90ad935e40aa307c5f672640c8b7ff3eb074a7923231d0c018ec5088cbd8eda9"),
        (SMALLEST, "fa2713a2115bdfc3e6192c1a5ba41cdb69e735f20d9e9a140b564bc91d86d24b"),
        (&health, "6d39cbcf1a5dd853fd893f56baadf292267d570276e7b693f828bde3daccc406"),
        (&port, "547cd46bc86ee0beda6788a7df168c66bab712bce2439eca2eb15eea1010be8b"),
    ] {
        assert_eq!(of(yaml).digest, golden, "{yaml}");
    }
}

#[test]
fn the_hash_is_the_beginning_of_the_digest_and_names_no_agent() {
    let one = of(REFUND);
    let other = Revision::of("other", &spec(REFUND), &existing()).unwrap();
    assert_eq!((one.hash.len(), one.digest.len()), (10, 64));
    assert!(one.digest.starts_with(&one.hash));
    assert_eq!(one.hash, other.hash);
    assert_ne!(one.template, other.template);
}

#[test]
fn what_does_not_change_the_agents_behaviour_does_not_change_the_hash() {
    let before = of(REFUND).hash;
    for more in [
        "paused: true",
        "revisionHistoryLimit: 9",
        "traffic: {gateway: {parentRefs: [{name: public}]}}",
        "launch: {stages: [{name: all, traffic: 0}]}",
        "metrics: {interval: 5s}",
    ] {
        assert_eq!(of(&format!("{REFUND}{more}\n")).hash, before, "{more}");
    }
    assert_eq!(of(&REFUND.replace("replicas: 4", "replicas: 9")).hash, before);
    assert_eq!(of(&REFUND.replace("replicas: 4", "port: null")).hash, before);
    assert_eq!(
        of(&REFUND.replace("{name: proxy, image: proxy:1}", "{image: proxy:1, name: proxy, args: [], env: null}")).hash,
        before
    );
}

#[test]
fn the_order_of_config_does_not_change_the_hash() {
    let mut turned = spec(REFUND);
    turned.config.reverse();
    let turned = Revision::of("refund-agent", &turned, &existing()).unwrap();
    assert_eq!(turned.hash, of(REFUND).hash);
}

#[test]
fn what_changes_the_agents_behaviour_changes_the_hash() {
    let mut seen = BTreeSet::from([of(REFUND).hash]);
    for (old, new) in [
        ("refund-agent@sha256:0123", "refund-agent@sha256:0124"),
        ("/etc/agent/prompt", "/etc/agent/prompts"),
        ("{name: policy,", "{name: rules,"),
        ("{name: refund-prompts}", "{name: production-policy}"),
        ("{readinessPath: /ready}", "{readinessPath: /readyz}"),
        ("{readinessPath: /ready}", "{}"),
        ("health: {readinessPath: /ready}", "port: 8080"),
        ("emptyDir: {}", "emptyDir: {medium: Memory}"),
        ("team: support", "team: sales"),
        ("note: x", "note: y"),
        ("note: x", "kubectl.kubernetes.io/restartedAt: 2026-01-01T00:00:00Z"),
    ] {
        assert!(REFUND.contains(old), "{old}");
        assert!(seen.insert(of(&REFUND.replace(old, new)).hash), "{old} -> {new}");
    }
}

#[test]
fn the_order_of_a_list_changes_the_hash() {
    let args = |args: Value| hash(&with(&json!({}), &json!({"args": args})));
    assert_ne!(args(json!(["a", "b"])), args(json!(["b", "a"])));
}

#[test]
fn contents_change_the_hash_whoever_names_them() {
    let hash = |name: &str, data: Value| {
        let mut existing = existing();
        existing.insert(name.to_owned(), config_map(&data));
        Revision::of("refund-agent", &spec(REFUND), &existing).unwrap().hash
    };
    let before = of(REFUND).hash;
    assert_eq!(hash("unrelated", json!({"a": "b"})), before);
    assert_eq!(hash("modes", json!({"mode": "careful"})), before);
    let mut seen = BTreeSet::from([before]);
    for (name, data) in [
        ("production-policy", json!({"policy.yaml": "limit: 301"})),
        ("modes", json!({"mode": "bold"})),
        ("refund-prompts", json!({"system.txt": "Refund politely.\n"})), // its bytes are gone
        ("extras", json!({})),                                           // an optional one appears
    ] {
        assert!(seen.insert(hash(name, data)), "{name}");
    }
}

/// JSON text with the keys of every object in reverse order.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().rev().map(|(key, value)| format!("{}:{}", json!(key), reversed(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(reversed).collect::<Vec<_>>().join(", ")),
        leaf => leaf.to_string(),
    }
}

/// An explicit null in every object.
fn with_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let null = ("null".to_owned(), Value::Null); // longer than any generated key, so that it replaces none
            fields.iter().map(|(key, value)| (key.clone(), with_nulls(value))).chain([null]).collect()
        }
        Value::Array(items) => items.iter().map(with_nulls).collect(),
        leaf => leaf.clone(),
    }
}

fn leaves(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Object(fields) => fields.iter_mut().flat_map(|(_, value)| leaves(value)).collect(),
        Value::Array(items) => items.iter_mut().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

fn change(leaf: &mut Value) {
    *leaf = match &*leaf {
        Value::Bool(flag) => json!(!flag),
        Value::Number(number) => json!(number.as_i64().unwrap().wrapping_add(1)),
        Value::String(text) => json!(format!("{text}x")),
        _ => json!("x"),
    };
}

proptest! {
    #[test]
    fn the_order_of_keys_and_explicit_nulls_never_matter(extra in any_json()) {
        let spec = with(&json!({"extra": extra}), &json!({"extra": extra}));
        let turned = serde_json::from_str(&reversed(&json!(spec))).unwrap();
        prop_assert_eq!(hash(&spec), hash(&turned));
        let nulls = with_nulls(&extra);
        prop_assert_eq!(hash(&spec), hash(&with(&json!({"extra": nulls}), &json!({"extra": nulls}))));
    }

    #[test]
    fn any_change_of_a_leaf_changes_the_hash(extra in any_json(), which in any::<proptest::sample::Index>()) {
        let extra = canonical::template(json!({"kept": extra, "leaf": 1}));
        let mut changed = extra.clone();
        let mut all = leaves(&mut changed);
        let index = which.index(all.len());
        change(all[index]);
        prop_assert_ne!(hash(&with(&json!({"extra": extra}), &json!({}))), hash(&with(&json!({"extra": changed}), &json!({}))));
    }

    #[test]
    fn a_stored_revision_is_read_back_whole(extra in any_json()) {
        let revision = Revision::of("a", &with(&json!({"extra": extra}), &json!({})), &existing()).unwrap();
        let stored: Value = serde_json::from_str(&revision.to_data().to_string()).unwrap();
        prop_assert_eq!(Revision::from_data(&stored).unwrap(), revision);
    }
}

// ---- storing

#[test]
fn a_revision_with_text_and_bytes_is_read_back_whole() {
    let revision = of(REFUND);
    assert_eq!(revision.config["refund-prompts"].binary_data["logo"].0, [0, 159, 146, 150]);
    assert!(!revision.config.contains_key("extras"));
    assert_eq!(Revision::from_data(&revision.to_data()).unwrap(), revision);
}

#[test]
fn what_is_stored_holds_no_null_that_an_api_server_could_drop() {
    assert!(!of(REFUND).to_data().to_string().contains("null"));
    assert!(!of(SMALLEST).to_data().to_string().contains("null"));
}

#[test]
fn a_stored_revision_that_was_changed_is_refused() {
    let mut data = of(REFUND).to_data();
    data["config"]["modes"]["data"]["mode"] = json!("bold");
    let error = Revision::from_data(&data).unwrap_err();
    assert!(matches!(error, RevisionError::Changed(_)), "{error}");
    data["scheme"] = json!("v2");
    let error = Revision::from_data(&data).unwrap_err();
    assert!(matches!(&error, RevisionError::Scheme(scheme) if scheme == "v2"), "{error}");
    assert!(Revision::from_data(&json!({"scheme": "v1"})).is_err());
    assert!(Revision::from_data(&json!(null)).is_err());
}

// ---- what is missing or wrong

#[test]
fn the_config_maps_to_read_are_known_beforehand() {
    let names = config_maps(&spec(REFUND)).unwrap();
    assert_eq!(Vec::from_iter(names), ["extras", "modes", "production-policy", "refund-prompts"]);
}

#[test]
fn an_error_names_the_field_and_the_mend() {
    for (old, new, message) in [
        (
            "{name: refund-prompts}",
            "{name: refund-prompt}",
            r#"ConfigMap "refund-prompt" (spec.config[prompt]) does not exist: create it, or remove the reference"#,
        ),
        (
            "name: extras, optional: true",
            "name: extras",
            r#"ConfigMap "extras" (spec.template.spec.volumes[extra].configMap) does not exist: create it, or remove the reference"#,
        ),
        (
            "key: mode}",
            "key: mood}",
            r#"ConfigMap "modes" has no key "mood" (spec.template.spec.containers[agent].env[MODE].valueFrom.configMapKeyRef): add the key, or correct the reference"#,
        ),
        (
            "{name: tmp, emptyDir: {}}",
            "{name: sluice-prompt, emptyDir: {}}",
            "spec.template.spec.volumes[sluice-prompt] has the name that spec.config[prompt] needs: rename the volume, or the config",
        ),
        (
            "mountPath: /tmp",
            "mountPath: /etc/agent/prompt/",
            r#"spec.config[prompt].mountPath "/etc/agent/prompt" is taken on container "agent": choose another path, or remove the other mount"#,
        ),
        (
            "ports: [{name: http, containerPort: 8080}]",
            "ports: [{containerPort: 53, protocol: UDP}]",
            "the agent's Service needs a port: set spec.port, or name a TCP containerPort in the template",
        ),
        (
            "volumeMounts: [{name: tmp, mountPath: /tmp}]",
            "volumeMounts: {}",
            "spec.template.spec.containers[0].volumeMounts is not a list: correct the template",
        ),
    ] {
        assert!(REFUND.contains(old), "{old}");
        assert_eq!(refused(&REFUND.replace(old, new)), message);
    }
}

#[test]
fn an_optional_key_may_be_missing_and_a_file_may_be_bytes() {
    let optional = REFUND.replace("key: mode}", "key: mood, optional: true}");
    assert_eq!(of(&optional).config["modes"].data.len(), 1);
    let volume = |key: &str| {
        let volume =
            json!({"name": "v", "configMap": {"name": "refund-prompts", "items": [{"key": key, "path": "p"}]}});
        Revision::of("a", &with(&json!({"volumes": [volume]}), &json!({})), &existing())
    };
    assert!(volume("logo").is_ok());
    assert_eq!(volume("logos").unwrap_err().reason(), "ConfigMapKeyMissing");
    let variable = json!({"name": "V", "valueFrom": {"configMapKeyRef": {"name": "refund-prompts", "key": "logo"}}});
    let variable = Revision::of("a", &with(&json!({}), &json!({"env": [variable]})), &existing());
    assert_eq!(variable.unwrap_err().reason(), "ConfigMapKeyMissing");
}

#[test]
fn a_revision_that_no_object_can_hold_is_refused() {
    let mut large = existing();
    large.insert("modes".to_owned(), config_map(&json!({"mode": "x".repeat(900 * 1024)})));
    let error = Revision::of("a", &spec(REFUND), &large).unwrap_err();
    assert_eq!(error.reason(), "RevisionTooLarge");
    assert!(error.to_string().contains("(largest: \"modes\"), and at most 900 KiB"), "{error}");
}

// ---- rendering

#[test]
fn a_user_reads_what_runs() {
    let revision = of(REFUND);
    let hash = &revision.hash;
    let frozen = |name: &str| format!("refund-agent-{hash}-{name}");
    let sleep = json!({"preStop": {"sleep": {"seconds": 5}}});
    let live = json!({"path": "/healthz", "port": 8080});
    let expected = json!({
        "metadata": {
            "labels": {
                "team": "support", "sluice.dev/agent": "refund-agent", "sluice.dev/revision": hash,
                "app.kubernetes.io/managed-by": "sluice",
            },
            "annotations": {"note": "x"},
        },
        "spec": {
            "serviceAccountName": "refund-agent",
            "containers": [{
                "name": "agent",
                "image": "registry.example/refund-agent@sha256:0123",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [
                    {"name": "SLUICE_AGENT", "value": "refund-agent"},
                    {"name": "SLUICE_REVISION", "value": hash},
                    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": frozen("modes"), "key": "mode"}}},
                ],
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "sluice-prompt", "mountPath": "/etc/agent/prompt", "readOnly": true},
                ],
                "lifecycle": sleep,
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
                "startupProbe": {"httpGet": live, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 300},
                "livenessProbe": {"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
            }, {
                "name": "proxy", "image": "proxy:1",
            }],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "extra", "configMap": {"name": frozen("extras"), "optional": true}},
                {"name": "sluice-prompt", "configMap": {"name": frozen("refund-prompts")}},
            ],
        },
    });
    assert_eq!(revision.template, expected);
}

#[test]
fn an_upgrade_of_sluice_renders_nothing_anew() {
    assert_eq!(
        canonical::hex(&canonical::digest(&of(REFUND).template)),
        "1e59ccda6eadf440248bf44482b660afbb5089662f417044717df20b05d65223"
    );
    assert_eq!(
        canonical::hex(&canonical::digest(&of(SMALLEST).template)),
        "396251c945eeacd6bcb48056972a381c5dea307b012ea39135da7a3d872b687d"
    );
}

#[test]
fn what_the_user_says_wins_over_defaults() {
    let own = json!({
        "readinessProbe": {"exec": {"command": ["true"]}},
        "livenessProbe": {"exec": {"command": ["true"]}},
        "env": [{"name": "SLUICE_AGENT", "value": "me"}],
        "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}},
    });
    let mut spec = with(&json!({"serviceAccount": "old-style"}), &own);
    spec.health = Some(crate::api::Health::default());
    let template = Revision::of("a", &spec, &existing()).unwrap().template;
    let container = &template["spec"]["containers"][0];
    assert_eq!(template["spec"].get("serviceAccountName"), None);
    for field in ["readinessProbe", "livenessProbe", "lifecycle"] {
        assert_eq!(container[field], own[field]);
    }
    assert_eq!(container.get("startupProbe"), None);
    let env: Vec<_> = container["env"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(env, ["SLUICE_REVISION", "SLUICE_AGENT"]);
}

#[test]
fn probes_are_added_only_where_the_agent_asks_for_them() {
    let container = &of(SMALLEST).template["spec"]["containers"][0];
    assert!(["readinessProbe", "livenessProbe", "startupProbe"].iter().all(|probe| container.get(probe).is_none()));
}

#[test]
fn a_serving_container_sleeps_before_it_stops_but_never_longer_than_half_its_grace() {
    let sleep = |pod: Value| {
        let template = rendered(&pod, &json!({"lifecycle": {"postStart": {"sleep": {"seconds": 1}}}}));
        let lifecycle = &template["spec"]["containers"][0]["lifecycle"];
        assert_eq!(lifecycle["postStart"]["sleep"]["seconds"], 1);
        lifecycle.pointer("/preStop/sleep/seconds").and_then(Value::as_i64)
    };
    for (grace, seconds) in [(60, Some(5)), (10, Some(5)), (9, Some(4)), (2, Some(1)), (1, None), (0, None)] {
        assert_eq!(sleep(json!({"terminationGracePeriodSeconds": grace})), seconds, "{grace}");
    }
    assert_eq!(sleep(json!({})), Some(5));
}

#[test]
fn the_first_container_sleeps_when_no_container_names_the_port() {
    let yaml = "port: 9000\ntemplate: {spec: {containers: [{name: a, image: 'a:1'}, {name: b, image: 'b:1', ports: [{containerPort: PORT}]}]}}";
    let sleeps = |port: &str| {
        let containers = of(&yaml.replace("PORT", port)).template["spec"]["containers"].clone();
        [0, 1].map(|index| containers[index].get("lifecycle").is_some())
    };
    assert_eq!(sleeps("8080"), [true, true]);
    assert_eq!(sleeps("9000"), [false, true]);
}

#[test]
fn our_labels_win_because_pods_are_found_by_them() {
    let yaml = SMALLEST
        .replace("{spec:", "{metadata: {labels: {sluice.dev/agent: other, app.kubernetes.io/managed-by: Helm}}, spec:");
    let labels = of(&yaml).template["metadata"]["labels"].clone();
    assert_eq!(labels["sluice.dev/agent"], "refund-agent");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "sluice");
}

#[test]
fn fields_newer_than_this_sluice_are_carried() {
    let template = rendered(&json!({"fromTheFuture": {"a": [1]}}), &json!({"alsoNew": true}));
    assert_eq!(template["spec"]["fromTheFuture"], json!({"a": [1]}));
    assert_eq!(template["spec"]["containers"][0]["alsoNew"], true);
}

#[test]
fn the_port_is_the_specs_or_the_templates_first() {
    assert_eq!(of(SMALLEST).port, 8080);
    assert_eq!(of(&format!("{SMALLEST}\nport: 9090")).port, 9090);
}
