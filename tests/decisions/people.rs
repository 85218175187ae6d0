//! People with roles, and what they type.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use sluice::api::{DecisionState, LaunchDecision};

use crate::cluster::{Agent, Cluster, PATIENCE, until};

/// Binds a ClusterRole of the chart to a user, in one namespace.
pub async fn bind(cluster: &Cluster, namespace: &str, role: &str, user: &str) -> anyhow::Result<()> {
    let subject = match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((of, name)) => json!({"kind": "ServiceAccount", "name": name, "namespace": of}),
        None => json!({"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}),
    };
    let name = format!("{role}-{}", user.rsplit(':').next().unwrap_or(user));
    let kind = if role.starts_with("own-") { "Role" } else { "ClusterRole" };
    let binding: RoleBinding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}, "subjects": [subject],
    }))?;
    let api = Api::<RoleBinding>::namespaced(cluster.client.clone(), namespace);
    api.create(&PostParams::default(), &binding).await?;
    match kind {
        "ClusterRole" => until_known(cluster, namespace, role, user).await,
        _ => Ok(()),
    }
}

/// Waits until the API server grants what a role of the chart is for. It aggregates roles and follows bindings in its own time,
/// and tells nobody when it has: it can only be asked.
async fn until_known(cluster: &Cluster, namespace: &str, role: &str, user: &str) -> anyhow::Result<()> {
    let verb = if role == "view" { "get" } else { "create" };
    let decisions = json!({"namespace": namespace, "verb": verb, "group": "sluice.dev", "resource": "launchdecisions"});
    let asked: SubjectAccessReview =
        serde_json::from_value(json!({"spec": {"user": user, "resourceAttributes": decisions}}))?;
    let reviews = Api::<SubjectAccessReview>::all(cluster.client.clone());
    let began = Instant::now();
    while !reviews.create(&PostParams::default(), &asked).await?.status.is_some_and(|status| status.allowed) {
        ensure!(began.elapsed() < PATIENCE, "{user} may not {verb} launchdecisions as {role}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Makes a Role of these verbs on agents, with the right to decide.
pub async fn role(cluster: &Cluster, namespace: &str, name: &str, verbs: &[&str]) -> anyhow::Result<()> {
    role_on(cluster, namespace, name, verbs, &[]).await
}

/// The same on agents of these names only.
pub async fn role_on(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    verbs: &[&str],
    agents: &[&str],
) -> anyhow::Result<()> {
    let role: Role = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
        "rules": [
            {"apiGroups": ["sluice.dev"], "resources": ["agentdeployments"], "resourceNames": agents, "verbs": verbs},
            {"apiGroups": ["sluice.dev"], "resources": ["launchdecisions", "launchdecisions/status"],
             "verbs": ["get", "create", "update", "patch"]},
        ],
    }))?;
    Api::<Role>::namespaced(cluster.client.clone(), namespace).create(&PostParams::default(), &role).await?;
    Ok(())
}

/// A decision by somebody about an agent.
pub fn decision(agent: &str, name: &str, verb: &str, by: &str) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "LaunchDecision", "metadata": {"name": name},
        "spec": {"agent": agent, "verb": verb, "by": by, "reason": "wrong refunds"},
    })
}

/// `kubectl` as somebody, in a namespace.
pub async fn kubectl(
    cluster: &Cluster,
    namespace: &str,
    user: &str,
    arguments: &[&str],
    input: Option<&Value>,
) -> anyhow::Result<Output> {
    let all: Vec<&str> = ["-n", namespace, "--as", user].into_iter().chain(arguments.iter().copied()).collect();
    let input = input.map(Value::to_string);
    cluster.run("KUBECTL", &all, input.as_deref()).await
}

/// What `kubectl create` prints to somebody; an error when it is refused.
pub async fn create(cluster: &Cluster, namespace: &str, user: &str, object: &Value) -> anyhow::Result<String> {
    let output = kubectl(cluster, namespace, user, &["create", "-f", "-"], Some(object)).await?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// Why the API server refuses something.
pub async fn refused(cluster: &Cluster, namespace: &str, user: &str, object: &Value) -> anyhow::Result<String> {
    match create(cluster, namespace, user, object).await {
        Ok(said) => Err(anyhow!("{object} was accepted: {said}")),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Jane decides about an agent that answers to her, and the answer comes: `Applied: …`.
pub async fn decide(agent: &Agent, name: &str, verb: &str, more: &Value) -> anyhow::Result<String> {
    let mut object = decision(&agent.name, name, verb, "jane");
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    create(&agent.cluster, &agent.namespace, "jane", &object).await?;
    answer(agent, name).await
}

/// What became of a decision.
pub async fn answer(agent: &Agent, name: &str) -> anyhow::Result<String> {
    let answered = |decision: &LaunchDecision| {
        decision.status.as_ref().is_some_and(|status| status.state != DecisionState::Pending)
    };
    match until(&agent.all::<LaunchDecision>(), name, "answered", PATIENCE, answered).await {
        Ok(decision) => {
            Ok(decision.status.map(|status| format!("{:?}: {}", status.state, status.reason)).unwrap_or_default())
        }
        Err(error) => Err(anyhow!("{error}\n{}", agent.story().await)),
    }
}
