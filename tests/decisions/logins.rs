//! The same rights with logins of their own, as people and CI have them: certificates and tokens, and who impersonates.

use anyhow::ensure;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::common::{namespace, remove_namespace};
use crate::login::Login;
use crate::people::{bind, decision};

const CREATE: [&str; 3] = ["create", "-f", "-"];

/// What nobody may do to a decision of his own, whoever he is.
async fn leaves_its_decision_alone(login: &Login, place: &str, name: &str) -> anyhow::Result<()> {
    let forged = json!({"status": {"state": "Applied", "reason": "trust me"}}).to_string();
    let edited = json!({"spec": {"verb": "Abort"}}).to_string();
    for arguments in [
        &["patch", "launchdecision", name, "--subresource=status", "--type=merge", "-p", &forged][..],
        &["patch", "launchdecision", name, "--type=merge", "-p", &edited],
        &["delete", "launchdecision", name],
    ] {
        let said = login.refused(place, arguments, None).await?;
        ensure!(said.contains("Forbidden") && said.contains(&login.name), "{said}");
    }
    Ok(())
}

/// It is not even heard as another; without `--raw` kubectl fails at asking what the cluster has.
async fn may_not_pose_as(login: &Login, place: &str, user: &str) -> anyhow::Result<()> {
    let all = format!("/apis/sluice.dev/v1alpha1/namespaces/{place}/launchdecisions");
    let arguments = ["create", "--raw", &all, "-f", "-", "--as", user];
    let said = login.refused(place, &arguments, Some(&decision("a", "posed", "Abort", user))).await?;
    let words = format!("User \"{}\" cannot impersonate", login.name);
    ensure!(said.contains(&words), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_service_account_decides_with_its_own_token_and_forges_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "token").await?;
    let ci = Login::account(&cluster, &place, "ci").await?;
    bind(&cluster, &place, "edit", &ci.name).await?;

    let own = decision("a", "own", "Pause", &ci.name);
    let said = ci.done(&place, &CREATE, Some(&own)).await?;
    ensure!(said == "launchdecision.sluice.dev/own created\n", "{said}");
    let forged = ci.refused(&place, &CREATE, Some(&decision("a", "forged", "Pause", "jane"))).await?;
    let words = format!("spec.by is jane, but you are {}: nobody decides in the name of another", ci.name);
    ensure!(forged.contains(&words), "{forged}");
    let resumes = ci.refused(&place, &CREATE, Some(&decision("a", "resume", "Resume", &ci.name))).await?;
    ensure!(resumes.contains(&format!("{} may not resume agentdeployment a", ci.name)), "{resumes}");
    may_not_pose_as(&ci, &place, "jane").await?;
    leaves_its_decision_alone(&ci, &place, "own").await?;
    remove_namespace(&cluster.client, &place).await
}

#[tokio::test]
async fn a_user_decides_with_a_certificate_and_forges_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "certificate").await?;
    let erin = Login::user(&cluster, "erin").await?;
    let stranger = erin.refused(&place, &CREATE, Some(&decision("a", "d", "Abort", "erin"))).await?;
    ensure!(stranger.contains("User \"erin\" cannot create resource \"launchdecisions\""), "{stranger}");
    bind(&cluster, &place, "sluice-approver", "erin").await?;

    let said = erin.done(&place, &CREATE, Some(&decision("a", "own", "Abort", "erin"))).await?;
    ensure!(said == "launchdecision.sluice.dev/own created\n", "{said}");
    let forged = erin.refused(&place, &CREATE, Some(&decision("a", "forged", "Abort", "grace"))).await?;
    ensure!(forged.contains("spec.by is grace, but you are erin: nobody decides in the name of another"), "{forged}");
    let mut overrides = decision("a", "override", "Override", "erin");
    overrides["spec"]["gates"] = json!(["success"]);
    let overrides = erin.refused(&place, &CREATE, Some(&overrides)).await?;
    ensure!(overrides.contains("erin may not override agentdeployment a"), "{overrides}");
    leaves_its_decision_alone(&erin, &place, "own").await?;
    remove_namespace(&cluster.client, &place).await
}

/// The right to impersonate jane, and nobody else.
async fn let_impersonate_jane(cluster: &Cluster, place: &str, user: &str) -> anyhow::Result<()> {
    let rules =
        json!([{"apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate"]}]);
    let role: ClusterRole = serde_json::from_value(json!({"metadata": {"name": place}, "rules": rules}))?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": place},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": place},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }))?;
    Api::<ClusterRole>::all(cluster.client.clone()).create(&PostParams::default(), &role).await?;
    Api::<ClusterRoleBinding>::all(cluster.client.clone()).create(&PostParams::default(), &binding).await?;
    Ok(())
}

/// Whoever may impersonate jane has her rights, no more, and decides in her name only.
#[tokio::test]
async fn who_impersonates_is_checked_and_recorded_as_whom_they_impersonate() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "deputy").await?;
    let deputy = Login::user(&cluster, "deputy").await?;
    let_impersonate_jane(&cluster, &place, "deputy").await?;
    bind(&cluster, &place, "sluice-approver", "jane").await?;
    bind(&cluster, &place, "sluice-breakglass", "deputy").await?;
    let as_jane = [&CREATE[..], &["--as", "jane"]].concat();
    let gates = |mut object: Value| {
        object["spec"]["gates"] = json!(["success"]);
        object
    };

    deputy.done(&place, &as_jane, Some(&decision("a", "for-jane", "Abort", "jane"))).await?;
    let by = ["get", "launchdecision", "for-jane", "-o", "jsonpath={.spec.by}"];
    ensure!(deputy.done(&place, &by, None).await? == "jane", "another is recorded");
    let hides = deputy.refused(&place, &as_jane, Some(&decision("a", "d", "Abort", "deputy"))).await?;
    ensure!(hides.contains("spec.by is deputy, but you are jane: nobody decides in the name of another"), "{hides}");
    let more = deputy.refused(&place, &as_jane, Some(&gates(decision("a", "d", "Override", "jane")))).await?;
    ensure!(more.contains("jane may not override agentdeployment a"), "the deputy's own right counted: {more}");

    // without impersonating it is the deputy, with the deputy's own rights
    let poses = deputy.refused(&place, &CREATE, Some(&decision("a", "d", "Abort", "jane"))).await?;
    ensure!(poses.contains("spec.by is jane, but you are deputy: nobody decides in the name of another"), "{poses}");
    deputy.done(&place, &CREATE, Some(&gates(decision("a", "own", "Override", "deputy")))).await?;
    may_not_pose_as(&deputy, &place, "grace").await?;

    Api::<ClusterRoleBinding>::all(cluster.client.clone()).delete(&place, &DeleteParams::default()).await?;
    Api::<ClusterRole>::all(cluster.client.clone()).delete(&place, &DeleteParams::default()).await?;
    remove_namespace(&cluster.client, &place).await
}
