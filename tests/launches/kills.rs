//! The operator is killed, and its successor continues from what is in the cluster. Other tests run meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use sluice::api::{Launch, Outcome, Phase};

use crate::cluster::{Agent, Manifest, PATIENCE, condition, launch, share, until};
use crate::history::History;
use crate::{half_fails, shared};

/// One at a time.
pub(crate) static KILLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_launch_goes_on_in_the_same_stage_after_the_operator_was_killed() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let stages = json!([
        {"name": "tenth", "traffic": 10, "minDuration": "30s"},
        {"name": "half", "traffic": 50, "minDuration": "1s"},
    ]);
    let agent = Agent::apply(&cluster, Manifest::example("killed")?.with("/spec/launch/stages", stages)).await?;
    agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(20).await?);
    agent.prompt("Be friendly.", &json!({})).await?;
    let before = agent.until_in_stage(2, "tenth").await?;
    let killing = KILLING.lock().await;
    let killed = cluster.kill_operator().await?;
    let began = Instant::now();
    let successor = cluster.leader().await?;
    println!("{successor} leads {:?} after {killed} was killed", began.elapsed());
    drop(killing);
    ensure!(successor != killed, "{killed} was not killed");

    let launch = agent.until_ended(2, Outcome::Succeeded).await?;
    ensure!(launch.revision == before.revision && launch.started_at == before.started_at, "{launch:?}");
    let starts: Vec<_> =
        history.launches().iter().filter(|l| l.stage_name == "tenth").filter_map(|l| l.began_at).collect();
    ensure!(starts.iter().all(|at| Some(*at) == before.began_at), "the stage began anew: {starts:?}");
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    let epochs = history.epochs();
    ensure!(epochs.len() > 1 && epochs.is_sorted(), "the successor writes under {epochs:?}");
    ensure!(history.shares(&launch.revision) == [0, 10, 50, 100, 0], "{:?}", history.shares(&launch.revision));
    let answers = load.stop().await;
    ensure!(answers.lost == 0 && answers.errors() == 0, "{:?}", answers.losses);
    agent.done().await
}

#[tokio::test]
async fn a_rollback_stands_though_the_operator_is_killed_at_the_breach_and_before_it_is_told() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, Manifest::example("halfway")?).await?;
    agent.until_first_stable().await?;
    let (history, load) = (History::of(&agent), agent.load(40).await?);
    let no_rollback_is_told = Refusal::of_rollbacks(&agent).await?;
    let killing = KILLING.lock().await;
    let aim = cluster.aim().await?;
    agent.prompt("Be generous.", &half_fails()).await?;
    agent.until("in breach", |agent| launch(agent).is_some_and(|launch| !launch.breaches.is_empty())).await?;
    aim.kill().await?;
    aim.until_restarted().await?;
    let aim = cluster.aim().await?;
    let decided = |route: &kube::api::DynamicObject| route.annotations().contains_key("sluice.dev/decision");
    until(&agent.routes(), &agent.name, "taken back", PATIENCE, decided).await?;
    let written = agent.routes().get(&agent.name).await?;
    aim.kill().await?;
    let told = history.launches().into_iter().filter(|launch| launch.number == 2 && launch.outcome.is_some()).count();
    ensure!(told == 0, "the status told of the rollback before the operator was killed");
    no_rollback_is_told.lift().await?;
    aim.until_restarted().await?;
    drop(killing);

    let launch = agent.until_ended(2, Outcome::RolledBack).await?;
    let bad = &launch.revision;
    let seen = agent.until("stalled", |agent| condition(agent, "Stalled").starts_with("True RevisionRejected")).await?;
    let rejected = seen.status.map(|status| status.state.rejected).unwrap_or_default();
    ensure!(rejected.first().is_some_and(|first| first.revision == *bad), "{rejected:?}");
    let route = agent.routes().get(&agent.name).await?;
    let reason = route.annotations().get("sluice.dev/reason").context("no reason")?;
    ensure!(
        written.annotations().get("sluice.dev/reason") == Some(reason),
        "decided again: {:?}",
        written.annotations()
    );
    let decided_at = written.annotations().get("sluice.dev/decided-at").and_then(|at| at.parse().ok());
    ensure!(launch.decided_at == decided_at, "decided again at {:?}, not {decided_at:?}", launch.decided_at);
    ensure!(*reason == format!("TriggerFired: {}", launch.message.clone().unwrap_or_default()), "{reason}: {launch:?}");
    ensure!(share(&route, bad) == 0, "{bad} has traffic");
    ensure!(history.shares(bad) == [0, 10, 0], "{:?}", history.shares(bad));
    history.ensure_bounded(&[("tenth", 10), ("half", 50)])?;
    let backward = |pair: &[Launch]| pair[0].phase == Phase::RollingBack && pair[1].phase == Phase::Progressing;
    ensure!(!history.launches().windows(2).any(backward), "the launch went forward again");
    let answers = load.stop().await;
    ensure!(answers.lost == 0, "{:?}", answers.losses);
    agent.done().await
}

/// The API server refuses every status that tells of a rollback, in one namespace: the operator is caught between its two
/// writes, the route's and the status'.
struct Refusal {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    name: String,
}

impl Refusal {
    async fn of_rollbacks(agent: &Agent) -> anyhow::Result<Self> {
        let client = agent.cluster.client.clone();
        let refusal =
            Self { policies: Api::all(client.clone()), bindings: Api::all(client), name: agent.namespace.clone() };
        let told = "has(object.status) && has(object.status.launch) && has(object.status.launch.outcome) && object.status.launch.outcome == 'RolledBack'";
        let policy = json!({
            "metadata": {"name": refusal.name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["sluice.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                    "resources": ["agentdeployments/status"],
                }]},
                "validations": [{"expression": format!("!({told})"), "message": "this test hears of no rollback"}],
            },
        });
        let binding = json!({
            "metadata": {"name": refusal.name},
            "spec": {
                "policyName": refusal.name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": agent.namespace}}},
            },
        });
        refusal.policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
        refusal.bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        refusal.until_refused(agent).await?;
        Ok(refusal)
    }

    /// Tries such a status until it is refused; nothing tells when a policy begins to hold.
    async fn until_refused(&self, agent: &Agent) -> anyhow::Result<()> {
        let began = Instant::now();
        let status = json!({"status": {"launch": {"outcome": "RolledBack"}}});
        let try_out = PatchParams { dry_run: true, ..PatchParams::default() };
        while agent.api().patch_status(&agent.name, &try_out, &Patch::Merge(&status)).await.is_ok() {
            ensure!(began.elapsed() < PATIENCE, "the policy does not hold");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn lift(self) -> anyhow::Result<()> {
        self.bindings.delete(&self.name, &DeleteParams::default()).await?;
        self.policies.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}
