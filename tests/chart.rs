//! What the Helm chart renders: permissions that are exactly those listed here, a restricted pod, checked values.
//!
//! Needs HELM, the path of Helm's binary; no cluster.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use sluice::controller::config::Config;

const CHART: &str = "charts/sluice";

/// Everything that can be switched on.
const EVERYTHING: &[&str] = &[
    "replicas=2",
    "image.tag=dev",
    "image.pullSecrets[0].name=registry",
    "sources[0].name=default",
    "sources[0].url=http://prometheus.monitoring.svc:9090",
    "sources[0].labels.namespace=namespace",
    "sources[0].labels.agent=agent",
    "sources[0].labels.revision=revision",
    "sources[0].presence=up",
    "sources[0].timeout=5s",
    "sources[0].bearerTokenFile=/var/run/prometheus/token",
    "volumes[0].name=token",
    "volumes[0].configMap.name=token",
    "volumeMounts[0].name=token",
    "volumeMounts[0].mountPath=/var/run/prometheus",
    "metrics.podMonitor.enabled=true",
    "metrics.podMonitor.labels.release=kube-prometheus",
    "metrics.prometheusRule.enabled=true",
    "metrics.prometheusRule.labels.release=kube-prometheus",
    "freeze[0].name=weekend",
    "freeze[0].schedule=0 18 * * FRI",
    "freeze[0].timeZone=Europe/Berlin",
    "freeze[0].duration=62h",
    "plans.allowed[0]=production",
    "plans.inline=Forbidden",
    "podLabels.team=platform",
    "podAnnotations.note=kept",
    "serviceAccount.annotations.note=kept",
    "priorityClassName=system-cluster-critical",
    "nodeSelector.disk=fast",
    "tolerations[0].operator=Exists",
];

/// What the controller may do in every namespace: API group, resource, verbs.
/// A permission is added here and in `templates/rbac.yaml`, in the change that needs it.
const CLUSTER_PERMISSIONS: &[(&str, &str, &[&str])] = &[
    ("sluice.dev", "agentdeployments", &["get", "list", "watch", "patch"]),
    ("sluice.dev", "agentdeployments/status", &["patch"]),
    ("sluice.dev", "launchplans", &["get", "list", "watch"]),
    ("sluice.dev", "agentdeployments/finalizers", &["update"]),
    ("sluice.dev", "launchdecisions", &["get", "list", "watch"]),
    ("sluice.dev", "launchdecisions/status", &["patch"]),
    ("apps", "deployments", &["get", "list", "watch", "create", "patch", "delete"]),
    ("apps", "controllerrevisions", &["get", "create", "delete"]),
    ("", "services", &["get", "list", "watch", "create", "patch", "delete"]),
    ("discovery.k8s.io", "endpointslices", &["list"]),
    ("", "resourcequotas", &["list"]),
    ("", "configmaps", &["get", "list", "watch", "create", "delete"]),
    ("", "serviceaccounts", &["get", "create", "patch"]),
    ("", "pods", &["list", "watch"]),
    ("policy", "poddisruptionbudgets", &["create", "patch", "delete"]),
    ("gateway.networking.k8s.io", "httproutes", &["get", "list", "watch", "create", "update", "delete"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

/// What it may do in its own namespace.
const OWN_PERMISSIONS: &[(&str, &str, &[&str])] = &[("coordination.k8s.io", "leases", &["get", "create", "update"])];

fn helm(arguments: &[&str]) -> anyhow::Result<Output> {
    let helm = std::env::var("HELM").ok().filter(|path| !path.is_empty());
    let helm = helm.context(
        "HELM is not set: this test needs Helm 4, such as HELM=/usr/local/bin/helm (`make programs` builds one)",
    )?;
    Command::new(&helm)
        .args(arguments)
        .current_dir(common::path("."))
        .output()
        .with_context(|| format!("could not run {helm}"))
}

/// Renders the chart with some values, as a list of objects.
fn render(values: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut arguments = vec!["template", "sluice", CHART, "--namespace", "sluice-system"];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    let output = helm(&arguments)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let objects = serde_norway::Deserializer::from_str(&text).map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// Why Helm refuses these values.
fn refusal(values: &[&str]) -> anyhow::Result<String> {
    let mut arguments = vec!["template", "sluice", CHART];
    arguments.extend_from_slice(values);
    let output = helm(&arguments)?;
    ensure!(!output.status.success(), "{values:?} was accepted");
    Ok(String::from_utf8(output.stderr)?)
}

fn only<'a>(objects: &'a [Value], kind: &str) -> anyhow::Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().with_context(|| format!("no {kind}"))?;
    ensure!(found.next().is_none(), "more than one {kind}");
    Ok(object)
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> anyhow::Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.next().with_context(|| format!("no {kind} {name}"))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Resource by resource, the verbs of a role.
fn permissions(role: &Value) -> anyhow::Result<BTreeMap<(String, String), BTreeSet<String>>> {
    let mut all = BTreeMap::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let key = (group.clone(), resource.clone());
                ensure!(
                    all.insert(key, texts(&rule["verbs"]).into_iter().collect()).is_none(),
                    "{resource} is listed twice"
                );
            }
        }
    }
    Ok(all)
}

fn expected(table: &[(&str, &str, &[&str])]) -> BTreeMap<(String, String), BTreeSet<String>> {
    table
        .iter()
        .map(|(group, resource, verbs)| {
            (((*group).to_owned(), (*resource).to_owned()), verbs.iter().map(|verb| (*verb).to_owned()).collect())
        })
        .collect()
}

#[test]
fn the_chart_passes_the_strict_lint() -> anyhow::Result<()> {
    for values in [&[] as &[&str], EVERYTHING] {
        let mut arguments = vec!["lint", "--strict", CHART];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        let output = helm(&arguments)?;
        ensure!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[test]
fn the_controller_may_do_what_is_listed_and_nothing_else() -> anyhow::Result<()> {
    for values in [&[] as &[&str], EVERYTHING] {
        let objects = render(values)?;
        assert_eq!(permissions(named(&objects, "ClusterRole", "sluice")?)?, expected(CLUSTER_PERMISSIONS));
        assert_eq!(permissions(only(&objects, "Role")?)?, expected(OWN_PERMISSIONS));
    }
    Ok(())
}

/// Roles of people: which verbs on agents and on decisions each has.
const PEOPLE: &[(&str, &[&str], &[&str])] = &[
    ("sluice-viewer", &["get", "list", "watch"], &["get", "list", "watch"]),
    ("sluice-editor", &["create", "update", "patch", "delete", "abort", "pause"], &["create"]),
    (
        "sluice-approver",
        &["get", "list", "watch", "abort", "pause", "resume", "retry", "promote"],
        &["get", "list", "watch", "create"],
    ),
    (
        "sluice-breakglass",
        &["get", "list", "watch", "abort", "pause", "resume", "retry", "promote", "override"],
        &["get", "list", "watch", "create"],
    ),
];

#[test]
fn people_may_do_what_their_role_is_for_and_nobody_edits_a_decision() -> anyhow::Result<()> {
    let objects = render(&[])?;
    for (name, agents, decisions) in PEOPLE {
        let may = permissions(named(&objects, "ClusterRole", name)?)?;
        for (resource, verbs) in [("agentdeployments", agents), ("launchdecisions", decisions)] {
            let found = may.get(&("sluice.dev".to_owned(), resource.to_owned()));
            let wanted: BTreeSet<_> = verbs.iter().map(|&verb| verb.to_owned()).collect();
            ensure!(found == Some(&wanted), "{name} on {resource}: {found:?}");
        }
    }
    let aggregated = |name: &str| -> anyhow::Result<Vec<String>> {
        let labels = named(&objects, "ClusterRole", name)?["metadata"]["labels"].as_object().cloned();
        Ok(labels.into_iter().flatten().map(|(key, _)| key).filter(|key| key.contains("aggregate-to")).collect())
    };
    assert_eq!(aggregated("sluice-viewer")?, ["rbac.authorization.k8s.io/aggregate-to-view"]);
    assert_eq!(aggregated("sluice-editor")?, ["rbac.authorization.k8s.io/aggregate-to-edit"]);
    ensure!(aggregated("sluice-approver")?.is_empty() && aggregated("sluice-breakglass")?.is_empty());
    Ok(())
}

#[test]
fn decisions_are_refused_when_the_policy_fails_and_the_warning_refuses_nobody() -> anyhow::Result<()> {
    let objects = render(&[])?;
    for (name, fails, actions) in [
        ("sluice-decisions", "Fail", json!(["Deny"])),
        ("sluice-answers", "Fail", json!(["Deny"])),
        ("sluice-wildcards", "Ignore", json!(["Warn", "Audit"])),
    ] {
        assert_eq!(named(&objects, "ValidatingAdmissionPolicy", name)?["spec"]["failurePolicy"], fails, "{name}");
        let binding = named(&objects, "ValidatingAdmissionPolicyBinding", name)?;
        assert_eq!((&binding["spec"]["policyName"], &binding["spec"]["validationActions"]), (&json!(name), &actions));
    }
    Ok(())
}

#[test]
fn no_permission_is_a_wildcard_and_none_reads_secrets() -> anyhow::Result<()> {
    for role in render(EVERYTHING)?.iter().filter(|object| !object["rules"].is_null()) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for field in ["apiGroups", "resources", "verbs"] {
                let words = texts(&rule[field]);
                ensure!(!words.is_empty() && !words.iter().any(|word| word.contains('*')), "{rule}");
                ensure!(!words.iter().any(|word| word.starts_with("secrets")), "{rule}");
            }
            let risky = ["escalate", "bind", "impersonate", "deletecollection"];
            ensure!(!texts(&rule["verbs"]).iter().any(|verb| risky.contains(&verb.as_str())), "{rule}");
        }
    }
    Ok(())
}

#[test]
fn the_roles_are_bound_to_the_controllers_account_alone() -> anyhow::Result<()> {
    let objects = render(&[])?;
    let account = only(&objects, "ServiceAccount")?;
    for (binding, role) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
        let binding = only(&objects, binding)?;
        assert_eq!(binding["roleRef"]["kind"], role);
        assert_eq!(binding["roleRef"]["name"], named(&objects, role, "sluice")?["metadata"]["name"]);
        let subject =
            json!({"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "sluice-system"});
        assert_eq!(binding["subjects"], json!([subject]));
    }
    let pod = &only(&objects, "Deployment")?["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    Ok(())
}

/// Pod Security Standard `restricted`, and a root file system that cannot be written.
#[test]
fn the_pod_is_restricted() -> anyhow::Result<()> {
    for values in [&[] as &[&str], EVERYTHING] {
        let objects = render(values)?;
        let pod = &only(&objects, "Deployment")?["spec"]["template"]["spec"];
        for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
            ensure!(pod[field].is_null(), "{field}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().context("no containers")? {
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], expected);
            ensure!(
                container["ports"].as_array().is_some_and(|ports| ports.iter().all(|port| port["hostPort"].is_null())),
                "host port"
            );
        }
        let volumes = pod["volumes"].as_array().context("no volumes")?;
        ensure!(volumes.iter().all(|volume| volume["configMap"].is_object()), "{volumes:?}");
    }
    Ok(())
}

#[test]
fn the_container_is_started_and_probed_as_the_binary_expects() -> anyhow::Result<()> {
    let objects = render(&["image.tag=dev"])?;
    let deployment = &only(&objects, "Deployment")?["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(deployment["replicas"], 1);
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(container["image"], "sluice.dev/sluice:dev");
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["args"], json!(["controller", "--config", "/etc/sluice/config.yaml"]));
    assert_eq!(container["ports"], json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}]));
    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/livez", "port": "http"}));
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "http"}));
    let named = |name: &str| container["env"].as_array().into_iter().flatten().find(|env| env["name"] == name);
    for (name, field) in [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace")] {
        let env = named(name).with_context(|| format!("no {name}"))?;
        assert_eq!(env["valueFrom"]["fieldRef"]["fieldPath"], field);
    }
    Ok(())
}

#[test]
fn an_empty_tag_is_the_version_and_a_digest_wins() -> anyhow::Result<()> {
    let image = |values: &[&str]| -> anyhow::Result<Value> {
        Ok(only(&render(values)?, "Deployment")?["spec"]["template"]["spec"]["containers"][0]["image"].clone())
    };
    assert_eq!(image(&[])?, concat!("sluice.dev/sluice:", env!("CARGO_PKG_VERSION")));
    let digest = format!("sha256:{}", "0".repeat(64));
    assert_eq!(image(&["image.tag=dev", &format!("image.digest={digest}")])?, format!("sluice.dev/sluice@{digest}"));
    Ok(())
}

#[test]
fn the_administrators_configuration_reaches_the_controller() -> anyhow::Result<()> {
    let objects = render(EVERYTHING)?;
    let text = only(&objects, "ConfigMap")?["data"]["config.yaml"].as_str().context("no config.yaml")?;
    let read = serde_norway::from_str::<Config>(text);
    ensure!(read.is_ok(), "the controller refuses it: {read:?}");
    let config: Value = serde_norway::from_str(text)?;
    let source = json!({
        "name": "default", "url": "http://prometheus.monitoring.svc:9090", "presence": "up", "timeout": "5s",
        "labels": {"namespace": "namespace", "agent": "agent", "revision": "revision"},
        "bearerTokenFile": "/var/run/prometheus/token",
    });
    let window = json!({"name": "weekend", "schedule": "0 18 * * FRI", "timeZone": "Europe/Berlin", "duration": "62h"});
    assert_eq!(config, json!({"sources": [source], "concurrency": 16, "freeze": [window]}));
    Ok(())
}

/// A freeze that cannot be understood would be no freeze: the controller does not start, and says what to mend.
#[test]
fn a_wrong_freeze_window_is_refused_at_start() -> anyhow::Result<()> {
    let wrong = |window: &str| -> anyhow::Result<String> {
        let file = std::env::temp_dir().join(format!("sluice-config-{}.yaml", std::process::id()));
        std::fs::write(&file, format!("freeze: [{window}]"))?;
        let refused = Config::read(&file).err().context("it was accepted")?;
        std::fs::remove_file(&file)?;
        Ok(refused.to_string())
    };
    for (window, words) in [
        (
            "{name: w, schedule: 0 25 * * *, duration: 1h}",
            "freeze[w].schedule: \"0 25 * * *\" is not a schedule of cron",
        ),
        ("{name: w, schedule: 0 0 31 2 *, duration: 1h}", "never comes"),
        (
            "{name: w, schedule: 0 1 * * *, timeZone: Mars/Olympus, duration: 1h}",
            "freeze[w].timeZone: \"Mars/Olympus\"",
        ),
        ("{name: w, schedule: 0 1 * * *, duration: 1s}", "freeze[w].duration must be from 1m to 2160h"),
        ("{name: w, schedule: 0 1 * * *, timezone: UTC, duration: 1h}", "unknown field `timezone`"),
    ] {
        let message = wrong(window)?;
        ensure!(message.contains(words), "{window}: {message}");
    }
    Ok(())
}

#[test]
fn the_plan_policy_is_there_unless_it_is_switched_off() -> anyhow::Result<()> {
    let on = render(&[])?;
    for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        let mut found = on.iter().filter(|object| object["kind"] == kind);
        ensure!(found.any(|object| object["metadata"]["name"] == "sluice-plans"), "no {kind}");
    }
    let off = render(&["plans.policy.enabled=false"])?;
    ensure!(!off.iter().any(|object| object["metadata"]["name"] == "sluice-plans"), "it is still there");
    Ok(())
}

#[test]
fn a_changed_configuration_restarts_the_controller() -> anyhow::Result<()> {
    let checksum = |values: &[&str]| -> anyhow::Result<Value> {
        let objects = render(values)?;
        Ok(only(&objects, "Deployment")?["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone())
    };
    assert_eq!(checksum(&[])?, checksum(&["logLevel=debug"])?);
    assert_ne!(checksum(&[])?, checksum(&["concurrency=2"])?);
    Ok(())
}

#[test]
fn a_disruption_budget_is_there_only_when_it_does_not_block_drains() -> anyhow::Result<()> {
    ensure!(only(&render(&[])?, "PodDisruptionBudget").is_err());
    assert_eq!(only(&render(EVERYTHING)?, "PodDisruptionBudget")?["spec"]["maxUnavailable"], 1);
    Ok(())
}

#[test]
fn monitoring_objects_are_off_until_asked_for() -> anyhow::Result<()> {
    let off = render(&[])?;
    for kind in ["PodMonitor", "PrometheusRule"] {
        ensure!(only(&off, kind).is_err(), "{kind}");
        only(&render(EVERYTHING)?, kind)?;
    }
    Ok(())
}

#[test]
fn every_alert_names_a_metric_of_sluice_and_says_what_to_do() -> anyhow::Result<()> {
    // where the metrics are registered: a list of their names beside it would be a second one to keep
    let registered = [include_str!("../src/controller/metrics.rs"), include_str!("../src/signals/metrics.rs")].concat();
    let known = |word: &str| {
        let name = word.trim_end_matches("_total").trim_end_matches("_bucket");
        registered.contains(&format!("\"{name}\""))
    };
    let objects = render(EVERYTHING)?;
    let rules = &only(&objects, "PrometheusRule")?["spec"]["groups"][0]["rules"];
    for rule in rules.as_array().context("no rules")? {
        let expression = rule["expr"].as_str().context("no expr")?;
        let mut words = expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("sluice_"));
        ensure!(words.all(known), "{expression}");
        ensure!(rule["annotations"]["description"].as_str().is_some_and(|text| text.len() > 100), "{rule}");
    }
    Ok(())
}

#[test]
fn wrong_values_are_refused_with_their_place() -> anyhow::Result<()> {
    for (values, place) in [
        (&["--set", "replicass=2"] as &[&str], "'replicass' not allowed"),
        (&["--set", "image.tags=dev"], "'tags' not allowed"),
        (&["--set-string", "replicas=two"], "/replicas"),
        (&["--set", "replicas=0"], "/replicas"),
        (&["--set", "image.pullPolicy=Sometimes"], "/image/pullPolicy"),
        (&["--set", "sources[0].name=default"], "/sources/0"),
        (&["--set", "sources[0].name=default", "--set", "sources[0].url=prometheus:9090"], "/sources/0/url"),
        (
            &["--set", "sources[0].name=a", "--set", "sources[0].url=http://a", "--set", "sources[0].lables.agent=x"],
            "'lables' not allowed",
        ),
        (&["--set", "freeze[0].name=weekend"], "/freeze/0"),
        (
            &["--set-json", r#"freeze=[{"name":"w","schedule":"0 0 18 * * FRI","duration":"62h"}]"#],
            "/freeze/0/schedule",
        ),
        (
            &["--set-json", r#"freeze=[{"name":"w","schedule":"0 18 * * FRI","duration":"62h","timezone":"UTC"}]"#],
            "'timezone' not allowed",
        ),
        (&["--set", "plans.inline=Never"], "/plans/inline"),
        (&["--set", "metrics.podMonitor.enabled=perhaps"], "/metrics/podMonitor/enabled"),
    ] {
        let message = refusal(values)?;
        ensure!(message.contains(place), "{values:?}: {place:?} is not in {message}");
    }
    Ok(())
}

/// Every value has its entry in the schema and the other way round: what the chart does not read is not offered.
#[test]
fn the_values_and_their_schema_name_the_same_keys() -> anyhow::Result<()> {
    fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        for (name, child) in value.as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            keys(child, &path, found);
            found.insert(path);
        }
    }
    fn declared(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            declared(child, &path, found);
            found.insert(path);
        }
    }
    let values: Value = serde_norway::from_str(&std::fs::read_to_string(common::path("charts/sluice/values.yaml"))?)?;
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(common::path("charts/sluice/values.schema.json"))?)?;
    let (mut written, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&values, "", &mut written);
    declared(&schema, "", &mut known);
    known.remove("/global"); // Helm's own
    // requests and limits are Kubernetes' maps, open to any resource
    written.retain(|path| !["/resources/requests/", "/resources/limits/"].iter().any(|open| path.starts_with(open)));
    assert_eq!(written, known);
    Ok(())
}

#[test]
fn the_charts_crds_are_the_generated_ones() -> anyhow::Result<()> {
    let files = |folder: &str| -> anyhow::Result<BTreeMap<String, String>> {
        std::fs::read_dir(common::path(folder))?
            .map(|entry| {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Ok((name, std::fs::read_to_string(path)?))
            })
            .collect()
    };
    ensure!(files("crds")? == files("charts/sluice/crds")?, "charts/sluice/crds is not crds: run `make generate`");
    Ok(())
}

#[test]
fn the_charts_version_is_the_binarys() -> anyhow::Result<()> {
    let chart: Value = serde_norway::from_str(&std::fs::read_to_string(common::path("charts/sluice/Chart.yaml"))?)?;
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    Ok(())
}
