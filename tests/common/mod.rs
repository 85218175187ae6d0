//! What the tests share: manifests with their expectations, a client from KUBECONFIG, namespaces, and waiting with a deadline.
#![allow(dead_code)] // every test file compiles this module for itself and uses a part of it

use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::request::Request;
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice::api::{AgentDeployment, LaunchDecision, LaunchPlan};

/// Field manager of everything that tests apply.
pub const MANAGER: &str = "sluice-tests";

/// A file of the repository.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A manifest, and what its `# expect:` lines say about the refusal.
#[derive(Debug)]
pub struct Manifest {
    /// Name of the file, for messages.
    pub file: String,
    /// The object.
    pub object: Value,
    /// Texts that the error must contain; none when the manifest is good.
    pub expect: Vec<String>,
}

/// All manifests of a folder, by name.
pub fn manifests(folder: &str) -> anyhow::Result<Vec<Manifest>> {
    let mut files = std::fs::read_dir(path(folder))
        .with_context(|| format!("could not read {folder}"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    ensure!(!files.is_empty(), "no manifests in {folder}");
    files.iter().map(|file| manifest(file)).collect()
}

fn manifest(file: &Path) -> anyhow::Result<Manifest> {
    let text = std::fs::read_to_string(file)?;
    let expect = text.lines().filter_map(|line| line.strip_prefix("# expect: "));
    Ok(Manifest {
        file: file.display().to_string(),
        object: serde_norway::from_str(&text).with_context(|| format!("{} is not YAML", file.display()))?,
        expect: expect.map(str::to_owned).collect(),
    })
}

/// Manifests that must be accepted: those for tests, and the samples for users.
pub fn good_manifests() -> anyhow::Result<Vec<Manifest>> {
    let mut all = manifests("tests/manifests/good")?;
    all.extend(manifests("config/samples")?);
    Ok(all)
}

/// A client of the cluster that KUBECONFIG names. A missing cluster fails a test instead of skipping it.
pub async fn client() -> anyhow::Result<Client> {
    let kubeconfig = std::env::var("KUBECONFIG").ok().filter(|path| !path.is_empty());
    ensure!(
        kubeconfig.is_some(),
        "KUBECONFIG is not set: this test needs an API server. `make test-cluster` brings one up, or: \
         .cluster/bin/cluster up --name test && . .cluster/test/env"
    );
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test of this process may have done it
    let mut config = kube::Config::infer().await.context("could not read KUBECONFIG")?;
    config.read_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).context("could not make a client of KUBECONFIG")
}

/// Applies the CRDs of the repository and waits until the API server serves them.
pub async fn apply_crds(client: &Client) -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(MANAGER).force().validation_strict();
    let mut all = Vec::new();
    for file in crd_files()? {
        let crd: CustomResourceDefinition = serde_norway::from_str(&std::fs::read_to_string(file)?)?;
        let applied =
            api.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await.context("the API server refuses the CRD")?;
        wait_for(&api, &applied.name_any(), "established", Duration::from_secs(30), conditions::is_crd_established())
            .await?;
        all.push(applied);
    }
    Ok(all)
}

/// The generated CRDs.
pub fn crd_files() -> anyhow::Result<Vec<PathBuf>> {
    let mut files =
        std::fs::read_dir(path("crds"))?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Makes a namespace with a name of its own, so that tests do not meet.
pub async fn namespace(client: &Client, prefix: &str) -> anyhow::Result<String> {
    let suffix = RandomState::new().hash_one(prefix) & 0xffff_ffff; // seeded at random for every RandomState
    let metadata = ObjectMeta { name: Some(format!("{prefix}-{suffix:08x}")), ..ObjectMeta::default() };
    let made = Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() })
        .await
        .context("could not make a namespace")?;
    Ok(made.name_any())
}

/// Removes a namespace, without waiting for the end of it.
pub async fn remove_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    Api::<Namespace>::all(client.clone()).delete(name, &DeleteParams::background()).await?;
    Ok(())
}

/// Creates an object of ours in a dry run, refusing unknown fields as `kubectl` does. The outer error is the test's, the inner the API server's.
pub async fn dry_run(client: &Client, namespace: &str, object: &Value) -> anyhow::Result<Result<Value, String>> {
    let params = PostParams { dry_run: true, field_manager: Some(MANAGER.to_owned()) };
    let mut object = object.clone();
    let url = match object["kind"].as_str() {
        Some("LaunchPlan") => LaunchPlan::url_path(&(), None),
        Some("LaunchDecision") => LaunchDecision::url_path(&(), Some(namespace)),
        _ => AgentDeployment::url_path(&(), Some(namespace)),
    };
    if object["kind"] == "LaunchDecision" && object["spec"]["by"].is_string() {
        object["spec"]["by"] = whoami(client).await?.into(); // nobody decides in the name of another
    }
    let mut request = Request::new(url).create(&params, serde_json::to_vec(&object)?)?;
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse()?;
    match client.request::<Value>(request).await {
        Ok(created) => Ok(Ok(created)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
        Err(other) => Err(other).context("the API server did not answer"),
    }
}

/// The name under which the API server knows us.
async fn whoami(client: &Client) -> anyhow::Result<String> {
    let api = Api::<SelfSubjectReview>::all(client.clone());
    let me = api.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = me.status.and_then(|status| status.user_info).and_then(|user| user.username);
    user.context("the API server does not say who we are")
}

/// Waits until a condition holds for an object; a watch, not a loop of reads.
pub async fn wait_for<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    deadline: Duration,
    condition: impl Condition<K>,
) -> anyhow::Result<K>
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    tokio::time::timeout(deadline, await_condition(api.clone(), name, condition))
        .await
        .map_err(|_| anyhow!("{name} is not {what} after {deadline:?}"))??
        .ok_or_else(|| anyhow!("{name} is gone, but should be {what}"))
}

/// A status in which every field is present.
pub fn full_status() -> Value {
    let at = "2026-11-21T02:00:00Z";
    let mut launch = serde_json::json!({
        "number": 42, "id": "refund-agent-42", "revision": "b20de4", "stable": "7f3c91", "trusted": true, "planHash": "44d0",
        "phase": "RollingBack", "outcome": "RolledBack", "reason": "errors-doubled", "message": "error_rate 2.1%", "justification": "replay passed",
        "stage": 1, "stageName": "canary-1", "stages": 4, "weight": 5, "served": true, "stableSize": 4, "match": [{"headers": [{"name": "x-risk", "value": "low"}]}],
        "startedAt": at, "enteredAt": at, "beganAt": at, "pausedAt": at, "pausedSeconds": 60, "held": true,
        "verdicts": [{"gate": "success", "verdict": "Insufficient", "message": "140/200 samples"}], "verdictsAt": at,
        "breaches": [{"trigger": "errors-doubled", "since": at, "firstSeen": at, "lastSeen": at, "interrupted": true}],
        "restarts": [{"pod": "refund-agent-1", "count": 2, "at": at}],
        "decidedAt": at, "breachedAt": at, "endedAt": at,
        "interventions": [{
            "verb": "Override", "stage": "canary-1", "planHash": "44d0", "holdsUnder": "45e1", "gate": "success", "by": "jane", "reason": "INC-412",
            "at": at,
        }],
    });
    launch["shared"] = serde_json::json!({"weight": 5, "generation": 7, "readBack": true});
    launch["contest"] = serde_json::json!({"times": 3, "at": at, "by": "argocd-controller"});
    serde_json::json!({
        "observedGeneration": 3, "replicas": 4, "selector": "sluice.dev/agent=refund-agent",
        "summary": {"stable": "7f3c91", "canary": "b20de4", "stage": "canary-1 2/4", "weight": "5%", "verdict": "Insufficient", "reason": "140/200"},
        "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3, "lastTransitionTime": at, "reason": "Serving", "message": "4/4"}],
        "stable": {"revision": "7f3c91", "since": at},
        "pending": {"revision": "c0ffee", "since": at},
        "trusted": [{"revision": "51ee02", "since": at}],
        "rejected": [{"revision": "bad001", "at": at, "reason": "errors-doubled"}],
        "retiring": [{"revision": "aaaaaa", "since": at, "idle": true}],
        "pause": {"by": "jane", "reason": "INC-412", "since": at},
        "answers": [{"uid": "0b5c", "name": "abort-x7k2p", "state": "Applied", "reason": "taken back", "at": at}],
        "launch": launch,
    })
}
