//! Manifests that must be accepted and refused, checked without a cluster; `tests/apiserver.rs` asks a real API server the same.
//!
//! A bad manifest says in `# expect:` lines what its error must contain: the field and the mend.

mod common;
#[path = "common/structural.rs"]
mod structural;

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use kube::core::cel::Validator;
use serde_json::Value;
use sluice::api::{AgentDeployment, LaunchDecision, LaunchPlan};
use sluice::launch::{Window, WrittenPlan, freeze_windows};

/// The schema of agents.
fn schema() -> anyhow::Result<Value> {
    schema_of("AgentDeployment")
}

/// The schema of a kind.
fn schema_of(kind: &str) -> anyhow::Result<Value> {
    let all = sluice::cli::crds();
    let crd = all.iter().find(|crd| crd.spec.names.kind == kind).with_context(|| format!("no kind {kind}"))?;
    Ok(serde_json::to_value(crd)?["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
}

/// Every kind with its schema.
fn schemas() -> anyhow::Result<Vec<(String, Value)>> {
    kinds().into_iter().map(|kind| Ok((kind.clone(), schema_of(&kind)?))).collect()
}

/// The schema of a manifest's kind.
fn schema_for(object: &Value) -> anyhow::Result<Value> {
    schema_of(object["kind"].as_str().unwrap_or_default())
}

/// Names of all kinds.
fn kinds() -> Vec<String> {
    sluice::cli::crds().into_iter().map(|crd| crd.spec.names.kind).collect()
}

/// Good manifests of one kind.
fn good(kind: &str) -> anyhow::Result<Vec<common::Manifest>> {
    Ok(common::good_manifests()?.into_iter().filter(|manifest| manifest.object["kind"] == kind).collect())
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
    for manifest in common::good_manifests()? {
        let (problems, _) = judge(&schema_for(&manifest.object)?, &manifest.object);
        ensure!(problems.is_empty(), "{}: {problems:#?}", manifest.file);
        let refused = match manifest.object["kind"].as_str() {
            Some("LaunchPlan") => serde_json::from_value::<LaunchPlan>(manifest.object).err(),
            Some("LaunchDecision") => serde_json::from_value::<LaunchDecision>(manifest.object).err(),
            _ => serde_json::from_value::<AgentDeployment>(manifest.object).err(),
        };
        ensure!(refused.is_none(), "{}: our types refuse what the schema accepts: {refused:?}", manifest.file);
    }
    Ok(())
}

#[test]
fn an_accepted_manifest_resolves_to_a_plan() -> anyhow::Result<()> {
    let plans = good("LaunchPlan")?.into_iter().map(|plan| serde_json::from_value::<LaunchPlan>(plan.object));
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    for manifest in good("AgentDeployment")? {
        let agent: AgentDeployment = serde_json::from_value(manifest.object)?;
        let name = agent.spec.launch.as_ref().and_then(|launch| launch.plan_ref.as_ref()).map(|plan| plan.name.clone());
        let named = plans.iter().find(|plan| plan.metadata.name == name && name.is_some()).map(|plan| &plan.spec);
        let plan = WrittenPlan::of(&agent.spec, named).and_then(|written| written.resolve());
        plan.with_context(|| format!("{} has no plan", manifest.file))?;
        for (place, window) in freeze_windows(&agent.spec, named) {
            Window::parse(&place, &window).with_context(|| manifest.file.clone())?;
        }
    }
    Ok(())
}

#[test]
fn bad_manifests_are_refused_with_the_field_and_the_mend() -> anyhow::Result<()> {
    for manifest in common::manifests("tests/manifests/bad")? {
        ensure!(!manifest.expect.is_empty(), "{} expects nothing: add a line `# expect: …`", manifest.file);
        let (problems, _) = judge(&schema_for(&manifest.object)?, &manifest.object);
        for text in &manifest.expect {
            let said = problems.iter().any(|problem| problem.contains(text.as_str()));
            ensure!(said, "{}: {text:?} is not in {problems:#?}", manifest.file);
        }
    }
    Ok(())
}

#[test]
fn every_rule_refuses_a_bad_manifest_and_sees_a_good_one() -> anyhow::Result<()> {
    for (kind, schema) in schemas()? {
        every_rule_of(&kind, &schema)?;
    }
    Ok(())
}

/// What a plan says inline it says in a LaunchPlan too: the rules of the two are one, and a bad case of either shows it.
fn every_rule_of(kind: &str, schema: &Value) -> anyhow::Result<()> {
    let mine = |object: &Value| object["kind"] == kind;
    let mut all = BTreeSet::new();
    rules(schema, None, "", &mut all);
    let inherited = inherited(kind, schema)?;
    all.retain(|rule| !inherited.contains(rule));
    all.retain(|(_, rule)| !rule.contains("oldSelf")); // an edit: `a_decision_is_never_edited`
    ensure!(
        kind != "AgentDeployment" || all.len() > 30,
        "only {} rules found: does this test still see them?",
        all.len()
    );

    let mut broken = BTreeSet::new();
    for manifest in common::manifests("tests/manifests/bad")?.iter().filter(|manifest| mine(&manifest.object)) {
        broken.extend(judge(schema, &manifest.object).1);
    }
    let unbroken: Vec<_> = all.difference(&broken).collect();
    ensure!(unbroken.is_empty(), "no bad manifest breaks: {unbroken:#?}");

    let mut seen = BTreeSet::new();
    for manifest in common::good_manifests()?.iter().filter(|manifest| mine(&manifest.object)) {
        rules(schema, Some(&manifest.object), "", &mut seen);
    }
    let unseen: Vec<_> = all.difference(&seen).collect();
    ensure!(unseen.is_empty(), "no good manifest has a place for: {unseen:#?}");
    Ok(())
}

#[test]
fn a_decision_is_never_edited() -> anyhow::Result<()> {
    let schema = schema_of("LaunchDecision")?;
    let before = good("LaunchDecision")?.pop().context("no decision")?.object;
    for (field, value) in [("by", "mallory"), ("reason", "another"), ("agent", "faq-agent"), ("verb", "Pause")] {
        let mut after = before.clone();
        after["spec"][field] = value.into();
        let Err(errors) = Validator::new().validate(&schema, &after, Some(&before)) else {
            anyhow::bail!("another {field} was accepted")
        };
        let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
        ensure!(messages.contains(&"a decision is immutable: create another one".to_owned()), "{field}: {messages:?}");
    }
    ensure!(Validator::new().validate(&schema, &before, Some(&before)).is_ok(), "what stays the same is no edit");
    Ok(())
}

/// Rules that stand in a type which is used in several places: they are broken and seen in one of them, which is the plan of
/// an agent. `tests/apiserver.rs` asks a real API server about the others.
fn inherited(kind: &str, schema: &Value) -> anyhow::Result<BTreeSet<Place>> {
    let mut all = BTreeSet::new();
    rules(schema, None, "", &mut all);
    let mut agents = BTreeSet::new();
    rules(&schema_of("AgentDeployment")?, None, "", &mut agents);
    let tighten = "spec.launch.tighten.";
    let elsewhere = |place: &str, rule: &str| {
        let inline = if kind == "LaunchPlan" { place.strip_prefix("spec.") } else { place.strip_prefix(tighten) };
        inline.is_some_and(|rest| agents.contains(&(format!("spec.launch.{rest}"), rule.to_owned())))
    };
    Ok(all.iter().filter(|(place, rule)| elsewhere(place, rule)).cloned().collect())
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
    schemas()?.iter().for_each(|(_, schema)| walk(schema, &mut silent));
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
    let mut open = Vec::new();
    for (kind, schema) in schemas()? {
        for part in ["spec", "status"] {
            walk(&schema["properties"][part], &format!("{kind}.{part}"), &mut open);
        }
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
    schemas()?.iter().for_each(|(_, schema)| walk(schema, &mut wrong));
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
    let sample = good("AgentDeployment")?.pop().context("no samples")?;
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
fn the_generated_crds_are_up_to_date() -> anyhow::Result<()> {
    let files = common::crd_files()?;
    ensure!(files.len() == sluice::cli::crds().len(), "{files:?}: run `make generate`");
    for file in files {
        let plural = file.file_stem().and_then(|stem| stem.to_str()).context("a file without name")?;
        let printed = sluice::cli::crd_yaml(Some(plural))?;
        ensure!(
            std::fs::read_to_string(&file)? == printed,
            "crds/{plural}.yaml is not what `sluice crd` prints: run `make generate`"
        );
    }
    Ok(())
}
