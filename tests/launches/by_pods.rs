//! No gateway: callers inside the cluster use the agent's Service, and the canary's share is that of its pods.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde_json::{Value, json};
use sluice::api::{AgentDeployment, Launch, Outcome, Phase, REVISION_LABEL};
use tokio::task::JoinSet;

use crate::cluster::{Agent, Manifest, PATIENCE, SYSTEM, condition, launch, most_fail, stable, until, until_none};
use crate::kills::KILLING;
use crate::login::Login;
use crate::people::{bind, decide};
use crate::shared;

/// Four pods allow a fifth (one pod) and a half (four).
const PLAN: [(&str, i32); 2] = [("fifth", 20), ("half", 50)];

/// The example's agent without a gateway.
fn by_pods(name: &str) -> anyhow::Result<Manifest> {
    let success = json!({"name": "success_rate", "window": "3s", "minSamples": 5, "value": {"atLeast": "99%"}});
    let gates = json!([{"name": "success", "metric": success}]);
    let stages: Vec<Value> = PLAN
        .iter()
        .map(|(name, share)| json!({"name": name, "traffic": share, "minDuration": "4s", "gates": gates}))
        .collect();
    let manifest = Manifest::example(name)?.with("/spec/traffic", json!({"replicas": {}}));
    Ok(manifest.with("/spec/replicas", json!(4)).with("/spec/launch/stages", json!(stages)))
}

/// One stage of a fifth that lasts.
fn holding(name: &str) -> anyhow::Result<Manifest> {
    Ok(by_pods(name)?.with("/spec/launch/stages", json!([{"name": "fifth", "traffic": 20, "minDuration": "1h"}])))
}

/// A version of something that makes the share.
#[derive(Clone, Debug)]
enum Seen {
    Agent(Box<AgentDeployment>),
    /// The revision that the agent's Service selects; `None`: the pods of all.
    Service(Option<String>),
    /// How many pods a revision's Deployment asks for.
    Size(String, i32),
}

/// Every version of the agent, of its Service and of its Deployments, in the order in which the API server accepted them.
struct Watched {
    versions: Arc<Mutex<Vec<(u64, Seen)>>>,
    _watches: JoinSet<()>,
}

impl Watched {
    fn of(agent: &Agent) -> Self {
        let versions = Arc::<Mutex<Vec<(u64, Seen)>>>::default();
        let (mut watches, name) = (JoinSet::new(), agent.name.clone());
        let named = move |found: String| found == name;
        let is_agents = named.clone();
        watches.spawn(follow(agent.api(), versions.clone(), |agent| Some(Seen::Agent(Box::new(agent)))));
        watches.spawn(follow(agent.all::<Service>(), versions.clone(), move |service| {
            let selector = is_agents(service.name_any()).then(|| service.spec.and_then(|spec| spec.selector))??;
            Some(Seen::Service(selector.get(REVISION_LABEL).cloned()))
        }));
        watches.spawn(follow(agent.all::<Deployment>(), versions.clone(), |deployment| {
            let revision = deployment.labels().get(REVISION_LABEL)?.clone();
            Some(Seen::Size(revision, deployment.spec.and_then(|spec| spec.replicas)?))
        }));
        Self { versions, _watches: watches }
    }

    fn versions(&self) -> Vec<Seen> {
        let mut all = self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, seen)| seen).collect()
    }

    /// What the Service selected, one after the other.
    fn selected(&self) -> Vec<String> {
        let selected = self.versions().into_iter().filter_map(|version| match version {
            Seen::Service(selected) => Some(selected.unwrap_or_else(|| "both".to_owned())),
            _ => None,
        });
        let mut all: Vec<String> = selected.collect();
        all.dedup();
        all
    }

    /// Promise 1 at every version of every object: what selector and sizes make of the canary's share is at most what the
    /// status said *before*, and its stage's; and no other revision has pods while the Service selects all.
    fn ensure_bounded(&self, plan: &[(&str, i32)]) -> anyhow::Result<()> {
        let (mut known, mut both, mut last): (Option<Launch>, bool, i32) = (None, false, 0);
        let mut sizes = BTreeMap::<String, i32>::new();
        for version in self.versions() {
            let told = format!("{version:?}");
            match version {
                Seen::Agent(agent) => {
                    known = launch(&agent).cloned();
                    continue; // it makes no share
                }
                Seen::Service(selected) => both = selected.is_none(),
                Seen::Size(revision, size) => drop(sizes.insert(revision, size)),
            }
            let Some(launch) = known.as_ref().filter(|_| both) else {
                last = 0;
                ensure!(!both, "everybody is selected, and no launch is known");
                continue;
            };
            let stable = launch.stable.clone().context("everybody is selected in a first deployment")?;
            let size = |revision: &String| sizes.get(revision).copied().unwrap_or(0);
            let (old, new) = (size(&stable), size(&launch.revision));
            let share = (100 * new + old + new - 1) / (old + new).max(1);
            let staged = plan.iter().find(|(name, _)| *name == launch.stage_name).map_or(0, |(_, share)| *share);
            let allowed = match launch.phase {
                Phase::Progressing => staged.min(launch.weight),
                Phase::Promoting => launch.weight.max(last),
                Phase::RollingBack => last,
                Phase::Soaking | Phase::Complete => 0,
            };
            ensure!(share <= allowed, "{new} beside {old} are {share}%, and {allowed}% were allowed, after {told}");
            let others = sizes.iter().filter(|(revision, _)| **revision != stable && **revision != launch.revision);
            ensure!(others.clone().all(|(_, size)| *size == 0), "{:?} have a share too", others.collect::<Vec<_>>());
            last = share;
        }
        Ok(())
    }
}

async fn follow<K>(api: Api<K>, into: Arc<Mutex<Vec<(u64, Seen)>>>, read: impl Fn(K) -> Option<Seen>)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let mut objects = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(object) = objects.next().await {
        let Ok(object) = object else { continue };
        let number = object.meta().resource_version.as_ref().and_then(|version| version.parse().ok());
        let seen = read(object);
        into.lock().unwrap_or_else(PoisonError::into_inner).extend(number.zip(seen));
    }
}

#[tokio::test]
async fn pods_make_the_shares_of_a_good_and_of_a_bad_revision_and_no_request_is_lost() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, by_pods("podwise")?).await?;
    let first = agent.until_first_stable().await?;
    let watched = Watched::of(&agent);
    let (load, kept) = (agent.load_inside("podwise", 40, false).await?, agent.load_inside("podwise", 20, true).await?);
    agent.prompt("Refund what was paid. Be friendly.", &json!({})).await?;
    let mut shares = Vec::new();
    for (stage, share) in PLAN {
        let second = agent.until_in_stage(2, stage).await?.revision;
        let begun = load.snapshot();
        agent.until("in the next stage", |agent| launch(agent).is_some_and(|it| it.stage_name != stage)).await?;
        let passed = load.snapshot();
        let answers = |revision: &str| passed.answered_by(revision) - begun.answered_by(revision);
        let (old, new) = (answers(&first), answers(&second));
        let real = 100 * new / (old + new).max(1);
        ensure!(old + new >= 100 && real.abs_diff(share.unsigned_abs().into()) <= 14, "{old}:{new} at {share}%");
        shares.push(format!("{real}% of {} at {share}%", old + new));
    }
    let second = agent.until_ended(2, Outcome::Succeeded).await?.revision;
    ensure!(watched.selected() == [&first, "both", &first, "both", &second], "{:?}", watched.selected());
    agent.until_sized(&first, 0).await?;
    ensure!(agent.size(&second).await? == 4);

    agent.prompt("Be generous.", &most_fail()).await?;
    let launch = agent.until_ended(3, Outcome::RolledBack).await?;
    let bad = launch.revision.clone();
    let fell = agent.all::<Service>().get("podwise").await?;
    let told = fell.annotations();
    let is = |key: &str, value: &str| told.get(key).is_some_and(|found| found.starts_with(value));
    ensure!(is("sluice.dev/decision", "RolledBack") && is("sluice.dev/decided-revision", &bad), "{told:?}");
    ensure!(
        is("sluice.dev/reason", "TriggerFired: errors-doubled") && !told.contains_key("sluice.dev/split"),
        "{told:?}"
    );
    let last: Vec<String> = watched.selected().split_off(4);
    ensure!(last == [&*second, "both", &second] || last == [&*second, "both", &second, "both", &second], "{last:?}");
    agent.until_sized(&bad, 0).await?;
    watched.ensure_bounded(&PLAN)?;
    ensure!(stable(&agent.now().await?) == Some(&*second) && agent.routes().get_opt("podwise").await?.is_none());

    let (answers, kept) = (load.stop().await, kept.stop().await);
    println!(
        "by pods: {}; {} requests, {} lost, {} failed; on kept connections {}, {} lost, {} failed",
        shares.join(", "),
        answers.sent,
        answers.lost,
        answers.errors(),
        kept.sent,
        kept.lost,
        kept.errors()
    );
    agent.ensure_none_lost(&answers).await?;
    agent.ensure_none_lost(&kept).await?;
    let errors = |revision: &str| answers.revisions.get(revision).map_or(0, |answers| answers.errors);
    ensure!(answers.errors() == errors(&bad) && errors(&bad) > 0, "{:?}", answers.revisions);
    agent.done().await
}

#[tokio::test]
async fn a_share_that_pods_cannot_make_is_refused_before_anything_moves() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let stages = json!([{"name": "canary-1", "traffic": 5}, {"name": "half", "traffic": 50}]);
    let agent = Agent::apply(&cluster, by_pods("unreachable")?.with("/spec/launch/stages", stages)).await?;
    let first = agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    let told = agent.until("stalled", |agent| condition(agent, "Stalled").starts_with("True PlanInvalid")).await?;
    let mend = "traffic 5 of stage canary-1 cannot be made of pods: 4 replicas allow 20, 34, 43, 50; set one of these";
    let (stalled, launched) = (condition(&told, "Stalled"), condition(&told, "Launched"));
    ensure!(stalled.contains(mend) && launched.starts_with("False PlanInvalid"), "{stalled}; {launched}");
    ensure!(condition(&told, "Ready").starts_with("True Serving 4/4"), "{}", condition(&told, "Ready"));
    let deployments = agent.all::<Deployment>().list(&ListParams::default()).await?.items;
    ensure!(deployments.len() == 1, "a second revision was made: {deployments:?}");
    agent.edit(|manifest| *manifest = manifest.clone().with("/spec/launch/stages/0/traffic", json!(20))).await?;
    let second = agent.until_ended(2, Outcome::Succeeded).await?;
    ensure!(second.stable.as_deref() == Some(&*first), "{second:?}");
    agent.until("fine", |agent| condition(agent, "Stalled").starts_with("False")).await?;
    agent.done().await
}

/// Whether a Service selects the pods of one revision alone.
fn narrow(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|it| it.contains_key(REVISION_LABEL))
}

#[tokio::test]
async fn an_agent_in_deletion_that_somebody_else_holds_serves_from_stables_pods_alone() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("stays")?).await?;
    let first = agent.until_first_stable().await?;
    agent.edit(|manifest| manifest.0["metadata"]["finalizers"] = json!(["example.com/backup"])).await?;
    let (watched, load) = (Watched::of(&agent), agent.load_inside("stays", 20, false).await?);
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "fifth").await?;
    agent.api().delete("stays", &DeleteParams::default()).await?;
    agent.until_ended(2, Outcome::Aborted).await?;
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    ensure!(watched.selected() == [&first, "both", &first], "{:?}", watched.selected());
    agent.edit(|manifest| manifest.0["metadata"]["finalizers"] = json!([])).await?;
    until_none(&agent.all::<Service>(), "sluice.dev/agent=stays").await?;
    agent.done().await
}

/// Ports of a Service as a person would tell them.
fn ports(service: &Service) -> Vec<String> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let told = |name: &Option<String>| name.clone().unwrap_or_default();
    ports.map(|it| format!("{} {}/{}", told(&it.name), it.port, it.protocol.as_deref().unwrap_or("TCP"))).collect()
}

/// `kubectl edit` of a Service: other ports than Sluice's, under another manager.
async fn replace_ports(agent: &Agent, service: &str, ports: Value) -> anyhow::Result<()> {
    let edit = json!([{"op": "replace", "path": "/spec/ports", "value": ports}]);
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    let edit = Patch::<()>::Json(serde_json::from_value(edit)?);
    agent.all::<Service>().patch(service, &by_hand, &edit).await?;
    Ok(())
}

#[tokio::test]
async fn ports_that_somebody_else_writes_are_put_back_and_hold_up_no_rollback() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("ported")?).await?;
    bind(&cluster, &agent.namespace, "sluice-approver", "jane").await?;
    let first = agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "fifth").await?.revision;
    replace_ports(&agent, "ported", json!([{"name": "http", "port": 8080, "targetPort": 8080}])).await?;
    decide(&agent, "stop", "Abort", &json!({})).await?;
    agent.until_ended(2, Outcome::RolledBack).await?;
    let services = agent.all::<Service>();
    let right = |service: &Service| ports(service) == ["http 80/TCP"];
    let fell = services.get("ported").await?;
    ensure!(narrow(&fell) && right(&fell), "{fell:?}");
    agent.until_sized(&canary, 0).await?;

    let (http, metrics) = (json!({"name": "http", "port": 80, "targetPort": 8080}), json!({"name": "m", "port": 9090}));
    let udp = json!({"name": "http", "port": 80, "targetPort": 8080, "protocol": "UDP"});
    for edited in [json!([http, metrics]), json!([udp])] {
        for service in ["ported".to_owned(), format!("ported-{first}")] {
            replace_ports(&agent, &service, edited.clone()).await?;
            until(&services, &service, "as it was", PATIENCE, right).await?;
        }
    }
    let stalled = condition(&agent.now().await?, "Stalled");
    ensure!(stalled.starts_with("True RevisionRejected"), "{stalled}"); // and nothing is refused
    agent.done().await
}

/// A slice of a Service that names a pod: as one that its controller has not followed up yet.
fn late_slice(service: &str, pod: &Pod) -> anyhow::Result<EndpointSlice> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("no address")?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": "late", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": pod.name_any()}}],
        "ports": [{"name": "http", "port": 8080}],
    }))?)
}

#[tokio::test]
async fn pods_stay_while_endpoint_slices_of_the_agents_service_still_name_them() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("late")?).await?;
    bind(&cluster, &agent.namespace, "sluice-approver", "jane").await?;
    agent.until_first_stable().await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "fifth").await?.revision;
    let of_canary = ListParams::default().labels(&format!("{REVISION_LABEL}={canary}"));
    let pods = agent.all::<Pod>().list(&of_canary).await?.items;
    let slice = late_slice("late", pods.first().context("no pod")?)?;
    agent.all::<EndpointSlice>().create(&PostParams::default(), &slice).await?;
    decide(&agent, "stop", "Abort", &json!({})).await?;
    agent.until_ended(2, Outcome::RolledBack).await?;
    let served = |agent: &AgentDeployment| condition(agent, "Stalled").starts_with("True PodsServed");
    let told = condition(&agent.until("told", served).await?, "Stalled");
    ensure!(told.contains("for Service late, whose EndpointSlices lag behind its selector, sends to them"), "{told}");
    ensure!(agent.size(&canary).await? == 1, "its pod was taken away");
    agent.all::<EndpointSlice>().delete("late", &DeleteParams::default()).await?;
    agent.until_sized(&canary, 0).await?;
    agent.done().await
}

#[tokio::test]
async fn replicas_and_sizes_that_change_in_mid_stage_never_make_a_larger_share() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("resized")?).await?;
    let first = agent.until_first_stable().await?;
    let (watched, load) = (Watched::of(&agent), agent.load_inside("resized", 40, false).await?);
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "fifth").await?.revision;
    let scale = async |replicas: i32| {
        let patch = json!({"spec": {"replicas": replicas}});
        agent.api().patch_scale("resized", &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    scale(8).await?;
    agent.until_sized(&first, 8).await?;
    agent.until_sized(&canary, 2).await?;
    scale(4).await?;
    let ready = |agent: &AgentDeployment| agent.status.as_ref().is_some_and(|status| status.replicas == Some(10));
    agent.until("at 10 ready pods", ready).await?; // stable does not shrink beside a canary that has a share
    watched.ensure_bounded(&PLAN)?;
    ensure!(watched.selected() == [&first, "both"], "{:?}", watched.selected());

    // A person takes pods from stable: the canary's share would be a third.
    let name = format!("resized-{first}");
    let patch = json!({"spec": {"replicas": 4}});
    agent.all::<Deployment>().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let services = agent.all::<Service>();
    until(&services, "resized", "of stable alone", PATIENCE, narrow).await?;
    until(&services, "resized", "shared again", PATIENCE, |service| !narrow(service)).await?;
    let after = agent.until_in_stage(2, "fifth").await?;
    ensure!(after.phase == Phase::Progressing && after.weight == 20, "{after:?}");
    ensure!(watched.selected() == [&first, "both", &first, "both"], "{:?}", watched.selected());
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}

/// What was stored of stable is gone: its pods are there, and the Service is turned to them all the same. What that write says
/// of its launch is not in the way of the next one.
#[tokio::test]
async fn a_launch_is_taken_back_to_a_stable_whose_stored_revision_is_lost_and_the_next_one_shares() -> anyhow::Result<()>
{
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("forgotten")?).await?;
    bind(&cluster, &agent.namespace, "sluice-approver", "jane").await?;
    let first = agent.until_first_stable().await?;
    let watched = Watched::of(&agent);
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "fifth").await?;
    let (stored, name) = (agent.all::<ControllerRevision>(), format!("forgotten-{first}"));
    let killing = KILLING.lock().await;
    stored.delete(&name, &DeleteParams::default()).await?;
    cluster.kill_operator().await?; // who has read it remembers it
    decide(&agent, "stop", "Abort", &json!({})).await?;
    agent.until_ended(2, Outcome::RolledBack).await?;
    drop(killing);
    let lost = |agent: &AgentDeployment| condition(agent, "Stalled").starts_with("True LostRevision");
    agent.until("told of", lost).await?;
    agent.prompt("Refund what was paid.", &json!({})).await?; // as the condition says
    until(&stored, &name, "stored again", PATIENCE, |_| true).await?;
    agent.prompt("Third.", &json!({})).await?;
    agent.until_in_stage(3, "fifth").await?;
    ensure!(watched.selected() == [&first, "both", &first, "both"], "{:?}", watched.selected());
    let marks = agent.all::<Service>().get("forgotten").await?.annotations().clone();
    ensure!(!marks.contains_key("sluice.dev/decision"), "{marks:?}");
    agent.done().await
}

/// Earlier builds wrote decisions by another kind of write, which no apply takes away.
#[tokio::test]
async fn a_decision_that_an_earlier_build_left_on_the_service_does_not_hold_up_the_next_launch() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("upgraded")?).await?;
    let first = agent.until_first_stable().await?;
    let sluice = Login::account(&cluster, SYSTEM, "sluice").await?.client().await?;
    let decision = json!({
        "sluice.dev/decision": "Aborted", "sluice.dev/launch": "upgraded-0", "sluice.dev/decided-revision": "0123456789",
        "sluice.dev/reason": "Aborted: by jane", "sluice.dev/decided-at": Timestamp::now().to_string(),
    });
    let services = Api::<Service>::namespaced(sluice, &agent.namespace);
    let by_merge = PatchParams { field_manager: Some("sluice".to_owned()), ..PatchParams::default() };
    let left = json!({"metadata": {"annotations": decision}});
    services.patch("upgraded", &by_merge, &Patch::Merge(&left)).await?;
    agent.prompt("Second.", &json!({})).await?;
    let canary = agent.until_in_stage(2, "fifth").await?.revision;
    let shared = agent.all::<Service>().get("upgraded").await?;
    let marks = shared.annotations();
    ensure!(!narrow(&shared) && marks.get("sluice.dev/split") == Some(&format!("{first} {canary} 20")), "{marks:?}");
    let decided = ["decision", "decided-revision", "reason", "decided-at"];
    ensure!(!decided.iter().any(|word| marks.contains_key(&format!("sluice.dev/{word}"))), "{marks:?}");
    agent.done().await
}

#[tokio::test]
async fn the_successor_of_a_killed_operator_takes_a_share_by_pods_back() -> anyhow::Result<()> {
    let (_turn, cluster) = shared().await?;
    let agent = Agent::apply(&cluster, holding("orphaned")?).await?;
    let first = agent.until_first_stable().await?;
    let (watched, load) = (Watched::of(&agent), agent.load_inside("orphaned", 20, false).await?);
    agent.prompt("Second.", &json!({})).await?;
    agent.until_in_stage(2, "fifth").await?;
    let killing = KILLING.lock().await;
    cluster.kill_operator().await?;
    agent.prompt("Refund what was paid.", &json!({})).await?; // the spec goes back to stable meanwhile
    agent.until_ended(2, Outcome::Aborted).await?;
    drop(killing);
    ensure!(watched.selected() == [&first, "both", &first], "{:?}", watched.selected());
    watched.ensure_bounded(&PLAN)?;
    let answers = load.stop().await;
    agent.ensure_all_well(&answers).await?;
    agent.done().await
}
