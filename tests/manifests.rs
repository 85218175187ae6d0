//! Manifests that must be accepted and refused, checked without a cluster; `tests/apiserver.rs` asks a real API server the same.
//!
//! A bad manifest says in `# expect:` lines what its error must contain: the field and the mend.

mod common;
#[path = "common/structural.rs"]
mod structural;

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use kube::CustomResourceExt as _;
use kube::core::cel::Validator;
use serde_json::Value;
use sluice::api::AgentDeployment;

fn schema() -> anyhow::Result<Value> {
    let crd = serde_json::to_value(AgentDeployment::crd())?;
    Ok(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
}

/// A rule and the place in the schema where it stands, such as `spec.launch.stages[].gates[]`.
type Place = (String, String);

/// All that is wrong with an object, in the API server's words, and the rules that it breaks.
fn judge(schema: &Value, object: &Value) -> (Vec<String>, BTreeSet<Place>) {
    let (prepared, mut problems) = structural::check(schema, object);
    let mut broken = BTreeSet::new();
    if let Err(errors) = Validator::new().validate(schema, &prepared, None) {
        for error in errors {
            problems.push(format!("{}: Invalid value: {}", error.field_path, error.message));
            broken.insert((without_indexes(&error.field_path), error.rule));
        }
    }
    (problems, broken)
}

fn without_indexes(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = match c {
                '[' => true,
                ']' => false,
                _ => inside,
            };
            !inside || *c == '['
        })
        .collect()
}

/// Every rule of a schema that an object reaches; of the whole schema without an object.
fn rules(schema: &Value, object: Option<&Value>, path: &str, found: &mut BTreeSet<Place>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let place = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
        found.insert((place, rule["rule"].as_str().unwrap_or_default().to_owned()));
    }
    for (name, property) in structural::properties(schema) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match object {
            Some(object) => object.get(name).into_iter().for_each(|child| rules(property, Some(child), &path, found)),
            None => rules(property, None, &path, found),
        }
    }
    if schema["items"].is_object() {
        let path = format!("{path}[]");
        match object {
            Some(object) => {
                object
                    .as_array()
                    .into_iter()
                    .flatten()
                    .for_each(|child| rules(&schema["items"], Some(child), &path, found));
            }
            None => rules(&schema["items"], None, &path, found),
        }
    }
}

#[test]
fn good_manifests_and_samples_are_accepted() -> anyhow::Result<()> {
    let schema = schema()?;
    for manifest in common::good_manifests()? {
        let (problems, _) = judge(&schema, &manifest.object);
        ensure!(problems.is_empty(), "{}: {problems:#?}", manifest.file);
        let typed = serde_json::from_value::<AgentDeployment>(manifest.object);
        ensure!(typed.is_ok(), "{}: our types refuse what the schema accepts: {typed:?}", manifest.file);
    }
    Ok(())
}

#[test]
fn an_accepted_manifest_resolves_to_a_plan() -> anyhow::Result<()> {
    for manifest in common::good_manifests()? {
        let agent: AgentDeployment = serde_json::from_value(manifest.object)?;
        sluice::launch::resolve(&agent.spec).with_context(|| format!("{} has no plan", manifest.file))?;
    }
    Ok(())
}

#[test]
fn bad_manifests_are_refused_with_the_field_and_the_mend() -> anyhow::Result<()> {
    let schema = schema()?;
    for manifest in common::manifests("tests/manifests/bad")? {
        ensure!(!manifest.expect.is_empty(), "{} expects nothing: add a line `# expect: …`", manifest.file);
        let (problems, _) = judge(&schema, &manifest.object);
        for text in &manifest.expect {
            let said = problems.iter().any(|problem| problem.contains(text.as_str()));
            ensure!(said, "{}: {text:?} is not in {problems:#?}", manifest.file);
        }
    }
    Ok(())
}

#[test]
fn every_rule_refuses_a_bad_manifest_and_sees_a_good_one() -> anyhow::Result<()> {
    let schema = schema()?;
    let mut all = BTreeSet::new();
    rules(&schema, None, "", &mut all);
    ensure!(all.len() > 30, "only {} rules found: does this test still see them?", all.len());

    let mut broken = BTreeSet::new();
    for manifest in common::manifests("tests/manifests/bad")? {
        broken.extend(judge(&schema, &manifest.object).1);
    }
    let unbroken: Vec<_> = all.difference(&broken).collect();
    ensure!(unbroken.is_empty(), "no bad manifest breaks: {unbroken:#?}");

    let mut seen = BTreeSet::new();
    for manifest in common::good_manifests()? {
        rules(&schema, Some(&manifest.object), "", &mut seen);
    }
    let unseen: Vec<_> = all.difference(&seen).collect();
    ensure!(unseen.is_empty(), "no good manifest has a place for: {unseen:#?}");
    Ok(())
}

#[test]
fn every_rule_says_what_is_wrong_in_words() -> anyhow::Result<()> {
    fn walk(schema: &Value, silent: &mut Vec<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            if rule["message"].is_null() && rule["messageExpression"].is_null() {
                silent.push(rule.to_string());
            }
        }
        structural::properties(schema).for_each(|(_, property)| walk(property, silent));
        if schema["items"].is_object() {
            walk(&schema["items"], silent);
        }
    }
    let mut silent = Vec::new();
    walk(&schema()?, &mut silent);
    ensure!(silent.is_empty(), "{silent:#?}");
    Ok(())
}

/// What is not bounded makes the rules' estimated cost explode, and the object grow until etcd refuses it.
#[test]
fn every_list_text_and_map_of_the_schema_is_bounded() -> anyhow::Result<()> {
    fn walk(schema: &Value, path: &str, open: &mut Vec<String>) {
        let needs = match schema["type"].as_str() {
            Some("array") => "maxItems",
            Some("string") if schema["enum"].is_null() && schema["format"] != "date-time" => "maxLength",
            Some("object") if schema["additionalProperties"].is_object() => "maxProperties",
            _ if schema["x-kubernetes-int-or-string"] == true => "maxLength",
            _ => "",
        };
        if !needs.is_empty() && schema[needs].is_null() {
            open.push(format!("{path}: {needs}"));
        }
        for (name, property) in structural::properties(schema) {
            walk(property, &format!("{path}.{name}"), open);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                walk(&schema[inner], &format!("{path}.{inner}"), open);
            }
        }
    }
    let schema = schema()?;
    let mut open = Vec::new();
    for part in ["spec", "status"] {
        walk(&schema["properties"][part], part, &mut open);
    }
    ensure!(open.is_empty(), "{open:#?}");
    Ok(())
}

#[test]
fn a_revision_gets_no_default_from_the_schema_and_no_null() -> anyhow::Result<()> {
    fn walk(schema: &Value, path: &str, found: &mut Vec<String>) {
        for (name, property) in structural::properties(schema) {
            let path = format!("{path}.{name}");
            // what is judged may have defaults: a plan is resolved and hashed with them; what runs may not
            let plan = path.starts_with("spec.launch.") || path.starts_with("spec.metrics.");
            let size = path == "spec.replicas"; // live, and `scale` fails without it
            if !property["default"].is_null() && !plan && !size {
                found.push(format!("{path}: default"));
            }
            if property["nullable"] == true {
                found.push(format!("{path}: nullable"));
            }
            walk(property, &path, found);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{path}[]"), found);
        }
    }
    let mut found = Vec::new();
    walk(&schema()?["properties"]["spec"], "spec", &mut found);
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// YAML 1.1 reads `Off`, `no` or `y` as a boolean.
#[test]
fn enum_words_are_words_in_every_yaml() -> anyhow::Result<()> {
    fn walk(schema: &Value, wrong: &mut Vec<String>) {
        let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let boolean = ["y", "n", "yes", "no", "on", "off", "null"];
        // the status of a condition is Kubernetes' own enum, and nobody writes it by hand
        wrong.extend(words.filter(|word| boolean.contains(&word.to_ascii_lowercase().as_str())).map(str::to_owned));
        structural::properties(schema).for_each(|(_, property)| walk(property, wrong));
        if schema["items"].is_object() {
            walk(&schema["items"], wrong);
        }
    }
    let mut wrong = Vec::new();
    walk(&schema()?, &mut wrong);
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

/// What the status schema does not declare is pruned, and a new leader would not know of it.
#[test]
fn a_full_status_survives_the_schema_and_our_types() -> anyhow::Result<()> {
    fn missing(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
        for (name, property) in structural::properties(schema) {
            let path = format!("{path}.{name}");
            match value.get(name) {
                Some(child) => missing(property, child, &path, found),
                None => found.push(path),
            }
        }
        if schema["items"].is_object() {
            missing(&schema["items"], &value[0], &format!("{path}[]"), found);
        }
    }
    let schema = schema()?;
    let sample = common::manifests("config/samples")?.pop().context("no samples")?;
    let mut object = sample.object;
    object["status"] = common::full_status();
    let (problems, _) = judge(&schema, &object);
    ensure!(problems.is_empty(), "{problems:#?}");
    let mut absent = Vec::new();
    missing(&schema["properties"]["status"], &object["status"], "status", &mut absent);
    ensure!(absent.is_empty(), "`full_status` lacks {absent:#?}");
    let typed: AgentDeployment = serde_json::from_value(object.clone())?;
    ensure!(serde_json::to_value(&typed.status)? == object["status"], "{:#?}", typed.status);
    Ok(())
}

#[test]
fn the_generated_crd_is_up_to_date() -> anyhow::Result<()> {
    let written = std::fs::read_to_string(common::path("crds/agentdeployments.yaml"))?;
    ensure!(
        written == sluice::cli::crd_yaml()?,
        "crds/agentdeployments.yaml is not what `sluice crd` prints: run `make generate`"
    );
    Ok(())
}
