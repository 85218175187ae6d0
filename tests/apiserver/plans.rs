//! Which plans a namespace may use: the chart's admission policy, asked by a real API server.
//!
//! Needs HELM besides KUBECONFIG: the policy is rendered from the chart.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize as _;
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, LaunchPlan};

use crate::{common, server};

/// The chart's policy, bound to one namespace under a name of its own.
struct Policy {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    name: String,
}

impl Policy {
    async fn of_chart(client: &Client, namespace: &str, values: &[&str]) -> anyhow::Result<Self> {
        let helm = std::env::var("HELM").context("HELM is not set: `. .cluster/NAME/env` sets it")?;
        let mut arguments = vec!["template", namespace, "charts/sluice", "--show-only", "templates/plan-policy.yaml"];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        let output = std::process::Command::new(helm).args(arguments).current_dir(common::path(".")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let objects = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
        let mut objects = objects.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|object| !object.is_null());
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(objects.next().context("no policy")?)?;
        let mut binding = objects.next().context("no binding")?;
        binding["spec"]["matchResources"] =
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}});
        let name = policy.metadata.name.clone().context("a policy without name")?;
        let made = Self { policies: Api::all(client.clone()), bindings: Api::all(client.clone()), name };
        made.policies.create(&PostParams::default(), &policy).await?;
        made.bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        Ok(made)
    }

    async fn remove(self, client: &Client, namespace: &str) -> anyhow::Result<()> {
        let written = self.policies.get(&self.name).await?;
        let warnings = written.status.and_then(|status| status.type_checking).and_then(|it| it.expression_warnings);
        ensure!(warnings.is_none_or(|warnings| warnings.is_empty()), "the policy's expressions do not type-check");
        self.bindings.delete(&self.name, &DeleteParams::default()).await?;
        self.policies.delete(&self.name, &DeleteParams::default()).await?;
        common::remove_namespace(client, namespace).await
    }
}

fn agent(launch: &Value) -> Value {
    let containers = json!([{"name": "agent", "image": "a", "ports": [{"containerPort": 8080}]}]);
    let mut agent = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment", "metadata": {"name": "refund-agent"},
        "spec": {"template": {"spec": {"containers": containers}}},
    });
    if !launch.is_null() {
        agent["spec"]["launch"] = launch.clone();
    }
    agent
}

fn named(plan: &str) -> Value {
    json!({"planRef": {"name": plan}})
}

fn inline() -> Value {
    json!({"stages": [{"name": "mine", "traffic": 0}]})
}

async fn annotate(client: &Client, namespace: &str, annotations: &Value) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    Api::<Namespace>::all(client.clone()).patch(namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Tries until the policy refuses; nothing tells when a policy begins to hold, or when it hears of a namespace.
async fn until_refused(client: &Client, namespace: &str, agent: &Value) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        let mut asked = agent.clone();
        asked["metadata"]["name"] = json!("asked"); // one that exists would be refused for that
        if let Err(message) = common::dry_run(client, namespace, &asked).await? {
            return Ok(message);
        }
        ensure!(began.elapsed() < Duration::from_mins(1), "the policy does not hold");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_namespace_says_which_plans_its_agents_may_use() -> anyhow::Result<()> {
    let (client, namespace) = server("plans").await?;
    let policy = Policy::of_chart(&client, &namespace, &[]).await?;
    for launch in [inline(), named("production"), named("basic"), Value::Null] {
        let answer = common::dry_run(&client, &namespace, &agent(&launch)).await?;
        ensure!(answer.is_ok(), "without annotations everything is allowed: {answer:?}");
    }
    let notes = json!({"sluice.dev/allowed-plans": "production, careful", "sluice.dev/inline-plans": "Forbidden"});
    annotate(&client, &namespace, &notes).await?;

    let written = until_refused(&client, &namespace, &agent(&inline())).await?;
    let words = format!(
        "spec.launch: namespace {namespace} forbids plans of an agent's own: remove stages, triggers, stageDefaults, soak and canary \
         and name a LaunchPlan in spec.launch.planRef; allowed are production, careful"
    );
    ensure!(written.contains(&words), "{written}");
    let triggers = json!({"triggers": []});
    ensure!(common::dry_run(&client, &namespace, &agent(&triggers)).await?.is_err(), "no triggers are a plan too");
    for (launch, plan) in [(named("fast"), "fast"), (Value::Null, "basic"), (json!({}), "basic")] {
        let message = common::dry_run(&client, &namespace, &agent(&launch)).await?.err().context("it was accepted")?;
        let words = format!(
            "spec.launch.planRef: namespace {namespace} does not allow the plan {plan}: name one of production, careful"
        );
        ensure!(message.contains(&words), "{message}");
    }
    let tight = json!({"planRef": {"name": "careful"}, "tighten": {"stages": [{"name": "a", "minDuration": "1h"}]},
        "freeze": [{"name": "w", "schedule": "0 18 * * FRI", "duration": "62h"}]});
    for launch in [named("production"), tight] {
        let answer = common::dry_run(&client, &namespace, &agent(&launch)).await?;
        ensure!(answer.is_ok(), "{answer:?}");
    }
    policy.remove(&client, &namespace).await
}

#[tokio::test]
async fn an_agent_whose_plan_does_not_change_is_not_asked_again() -> anyhow::Result<()> {
    let (client, namespace) = server("plans-kept").await?;
    let agents: Api<AgentDeployment> = Api::namespaced(client.clone(), &namespace);
    agents.create(&PostParams::default(), &serde_json::from_value(agent(&inline()))?).await?;
    let policy = Policy::of_chart(&client, &namespace, &[]).await?;
    annotate(&client, &namespace, &json!({"sluice.dev/inline-plans": "Forbidden"})).await?;
    until_refused(&client, &namespace, &agent(&inline())).await?;

    let edit = async |patch: Value| agents.patch("refund-agent", &PatchParams::default(), &Patch::Merge(patch)).await;
    edit(json!({"spec": {"replicas": 3}})).await.context("replicas")?;
    edit(json!({"spec": {"paused": true}, "metadata": {"labels": {"team": "support"}}})).await.context("paused")?;
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    agents.patch_scale("refund-agent", &PatchParams::default(), &scale).await.context("scale")?;
    let other = edit(json!({"spec": {"launch": {"stages": [{"name": "other", "traffic": 0}]}}})).await;
    let message = other.err().context("another plan of its own was accepted")?.to_string();
    ensure!(message.contains("forbids plans of an agent's own"), "{message}");
    edit(json!({"spec": {"launch": {"stages": null, "planRef": {"name": "basic"}}}})).await.context("the mend")?;
    edit(json!({"spec": {"replicas": 4}})).await.context("an edit of an agent with an allowed plan")?;
    policy.remove(&client, &namespace).await
}

#[tokio::test]
async fn the_charts_values_say_what_holds_where_a_namespace_says_nothing() -> anyhow::Result<()> {
    let (client, namespace) = server("plans-values").await?;
    let values = ["plans.allowed[0]=production", "plans.allowed[1]=basic", "plans.inline=Forbidden"];
    let policy = Policy::of_chart(&client, &namespace, &values).await?;
    let written = until_refused(&client, &namespace, &agent(&inline())).await?;
    ensure!(written.contains("allowed are production, basic"), "{written}");
    ensure!(common::dry_run(&client, &namespace, &agent(&named("fast"))).await?.is_err(), "fast was accepted");
    ensure!(common::dry_run(&client, &namespace, &agent(&Value::Null)).await?.is_ok(), "basic was refused");
    annotate(&client, &namespace, &json!({"sluice.dev/allowed-plans": "fast"})).await?;
    until_refused(&client, &namespace, &agent(&named("production"))).await?;
    ensure!(common::dry_run(&client, &namespace, &agent(&named("fast"))).await?.is_ok(), "the annotation wins");
    policy.remove(&client, &namespace).await
}

#[tokio::test]
async fn kubectl_shows_a_plan_in_a_line() -> anyhow::Result<()> {
    let (client, namespace) = server("plans-shown").await?;
    let plans: Api<LaunchPlan> = Api::all(client.clone());
    let spec = json!({"stages": [{"name": "tenth", "traffic": 10}, {"name": "half", "traffic": 50}]});
    let plan = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "LaunchPlan", "metadata": {"name": namespace}, "spec": spec});
    plans.create(&PostParams::default(), &serde_json::from_value(plan)?).await?;
    let kubectl = std::env::var("KUBECTL").context("KUBECTL is not set: `. .cluster/NAME/env` sets it")?;
    let output = std::process::Command::new(kubectl).args(["get", "launchplan", &namespace]).output()?;
    let table = String::from_utf8(output.stdout)?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    ensure!(lines.next() == Some(vec!["NAME", "FIRST", "TRAFFIC", "LAST", "AGE"]), "{table}");
    ensure!(lines.next().is_some_and(|row| row[1..4] == ["tenth", "10", "half"]), "{table}");
    plans.delete(&namespace, &DeleteParams::default()).await?;
    common::remove_namespace(&client, &namespace).await
}
