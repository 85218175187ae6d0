//! Who may decide: forgery, missing verbs, wildcards, another agent, edits, forged answers, and that nobody deletes a decision.

use anyhow::ensure;
use kube::Api;
use serde_json::json;
use sluice::api::{DecisionState, LaunchDecision};

use crate::cluster::{Cluster, PATIENCE, until};
use crate::common::{namespace, remove_namespace};
use crate::people::{bind, create, decision, kubectl, refused, role, role_on};

const CI: &str = "system:serviceaccount:default:ci";

#[tokio::test]
async fn nobody_decides_in_the_name_of_another_or_without_the_verb() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "rights").await?;
    // who may view or edit a namespace has Sluice's roles by aggregation
    for (role, user) in [("sluice-approver", "jane"), ("view", "bob"), ("edit", CI)] {
        bind(&cluster, &place, role, user).await?;
    }
    bind(&cluster, &place, "sluice-breakglass", "grace").await?;
    role(&cluster, &place, "own-decider", &["get"]).await?;
    bind(&cluster, &place, "own-decider", "omar").await?;

    let forged = refused(&cluster, &place, "jane", &decision("a", "d", "Abort", "grace")).await?;
    ensure!(forged.contains("spec.by is grace, but you are jane: nobody decides in the name of another"), "{forged}");
    let missing = refused(&cluster, &place, "omar", &decision("a", "d", "Abort", "omar")).await?;
    ensure!(missing.contains("ValidatingAdmissionPolicy 'sluice-decisions'"), "{missing}");
    ensure!(missing.contains("omar may not abort agentdeployment a: that takes the verb abort"), "{missing}");
    let viewer = refused(&cluster, &place, "bob", &decision("a", "d", "Abort", "bob")).await?;
    ensure!(viewer.contains("cannot create resource \"launchdecisions\""), "{viewer}");

    let looks = kubectl(&cluster, &place, "bob", &["get", "agd,launchdecisions"], None).await?;
    ensure!(looks.status.success(), "{}", String::from_utf8_lossy(&looks.stderr));

    // each role decides what it is for, and a ServiceAccount is a user like any other
    let mut with_gates = decision("a", "o", "Override", "jane");
    with_gates["spec"]["gates"] = json!(["success"]);
    let overrides = refused(&cluster, &place, "jane", &with_gates).await?;
    ensure!(overrides.contains("jane may not override agentdeployment a"), "{overrides}");
    with_gates["spec"]["by"] = json!("grace");
    create(&cluster, &place, "grace", &with_gates).await?;
    for verb in ["Abort", "Pause", "Resume", "Promote"] {
        let object = decision("a", &format!("jane-{}", verb.to_lowercase()), verb, "jane");
        let said = create(&cluster, &place, "jane", &object).await?;
        ensure!(!said.contains("Warning"), "{said}");
    }
    create(&cluster, &place, CI, &decision("a", "ci-pause", "Pause", CI)).await?;
    let resumes = refused(&cluster, &place, CI, &decision("a", "ci-resume", "Resume", CI)).await?;
    ensure!(resumes.contains("may not resume agentdeployment a"), "{resumes}");
    let elsewhere = refused(&cluster, "default", "jane", &decision("a", "d", "Abort", "jane")).await?;
    ensure!(elsewhere.contains("cannot create resource"), "{elsewhere}");
    remove_namespace(&cluster.client, &place).await
}

#[tokio::test]
async fn a_verb_that_a_wildcard_grants_is_warned_about() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "wildcard").await?;
    role(&cluster, &place, "own-wildcard", &["*"]).await?;
    bind(&cluster, &place, "own-wildcard", "wanda").await?;
    let said = create(&cluster, &place, "wanda", &decision("a", "d", "Abort", "wanda")).await?;
    ensure!(said.contains("Warning: ") && said.contains("created"), "{said}");
    ensure!(said.contains("wanda may abort agentdeployment a by a wildcard rule"), "{said}");
    ensure!(said.contains("override included: name the verbs in that rule"), "{said}");
    remove_namespace(&cluster.client, &place).await
}

#[tokio::test]
async fn a_verb_on_one_agent_is_none_on_another() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "another").await?;
    role_on(&cluster, &place, "own-a", &["get", "abort"], &["a"]).await?;
    bind(&cluster, &place, "own-a", "olga").await?;
    create(&cluster, &place, "olga", &decision("a", "d", "Abort", "olga")).await?;
    for other in ["b", "a-2"] {
        let said = refused(&cluster, &place, "olga", &decision(other, "e", "Abort", "olga")).await?;
        ensure!(
            said.contains(&format!("olga may not abort agentdeployment {other}: that takes the verb abort")),
            "{said}"
        );
    }
    remove_namespace(&cluster.client, &place).await
}

#[tokio::test]
async fn nobody_edits_a_decision_or_forges_its_answer() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "forge").await?;
    role(&cluster, &place, "own-strong", &["get", "abort", "pause"]).await?; // may even update decisions and their status
    bind(&cluster, &place, "own-strong", "mallory").await?;
    create(&cluster, &place, "mallory", &decision("absent", "d", "Pause", "mallory")).await?;

    for edit in
        [json!({"verb": "Abort"}), json!({"agent": "another"}), json!({"by": "jane"}), json!({"reason": "none"})]
    {
        let edit = json!({"spec": edit}).to_string();
        let patch = ["patch", "launchdecision", "d", "--type=merge", "-p", &edit];
        let output = kubectl(&cluster, &place, "mallory", &patch, None).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && said.contains("a decision is immutable: create another one"),
            "{edit}: {said}"
        );
    }

    let forged = json!({"status": {"state": "Applied", "reason": "trust me"}}).to_string();
    let patch = ["patch", "launchdecision", "d", "--subresource=status", "--type=merge", "-p", &forged];
    for user in ["mallory", "kubernetes-admin"] {
        let all: Vec<&str> =
            if user == "mallory" { patch.to_vec() } else { [&patch[..], &["--as-group=system:masters"]].concat() };
        let output = kubectl(&cluster, &place, user, &all, None).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("only Sluice answers a decision"), "{user}: {said}");
    }

    // status cannot be smuggled in at creation either; and no pass of an agent that is not there would ever answer
    let mut born_applied = decision("absent", "e", "Pause", "mallory");
    born_applied["status"] = json!({"state": "Applied", "reason": "trust me"});
    let born = ["create", "-f", "-", "-o", "jsonpath={.status.state}: {.status.reason}"];
    let output = kubectl(&cluster, &place, "mallory", &born, Some(&born_applied)).await?;
    ensure!(output.stdout == b"Pending: waiting for Sluice", "{output:?}");
    let decisions = Api::<LaunchDecision>::namespaced(cluster.client.clone(), &place);
    let ignored = |it: &LaunchDecision| it.status.as_ref().is_some_and(|it| it.state == DecisionState::Ignored);
    for name in ["d", "e"] {
        until(&decisions, name, "ignored", PATIENCE, ignored).await?;
    }
    let shown = cluster.kubectl(&["-n", &place, "get", "launchdecisions"]).await?;
    let words: Vec<&str> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(words == ["NAME", "AGENT", "VERB", "BY", "REVISION", "STATE", "REASON"], "{shown}");
    let why = format!("Ignored   there is no AgentDeployment absent in namespace {place}: see spec.agent");
    ensure!(shown.matches(&why).count() == 2, "{shown}");
    remove_namespace(&cluster.client, &place).await
}

/// Everybody who has a role of the chart, `edit` and `admin` by aggregation, against a decision that each may read.
#[tokio::test]
async fn no_role_of_the_chart_edits_or_deletes_evidence() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = namespace(&cluster.client, "evidence").await?;
    let bound =
        [("sluice-approver", "jane"), ("sluice-breakglass", "grace"), ("view", "bob"), ("edit", CI), ("admin", "ada")];
    for (role, user) in bound {
        bind(&cluster, &place, role, user).await?;
    }
    create(&cluster, &place, "jane", &decision("absent", "d", "Pause", "jane")).await?;
    let all = format!("/apis/sluice.dev/v1alpha1/namespaces/{place}/launchdecisions");
    let edit = json!({"metadata": {"labels": {"mine": "now"}}}).to_string();
    for (role, user) in bound {
        let looks = kubectl(&cluster, &place, user, &["get", "launchdecision", "d"], None).await?;
        ensure!(looks.status.success(), "{role}: {}", String::from_utf8_lossy(&looks.stderr));
        for (what, arguments) in [
            ("cannot delete resource", &["delete", "launchdecision", "d"][..]),
            ("cannot deletecollection resource", &["delete", "--raw", &all]),
            ("cannot patch resource", &["patch", "launchdecision", "d", "--type=merge", "-p", &edit]),
        ] {
            let output = kubectl(&cluster, &place, user, arguments, None).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success() && said.contains(what), "{role}: {arguments:?}: {said}");
        }
    }
    let left = cluster.kubectl(&["-n", &place, "get", "launchdecision", "d", "-o", "name"]).await?;
    ensure!(left == "launchdecision.sluice.dev/d\n", "{left}");
    remove_namespace(&cluster.client, &place).await
}
