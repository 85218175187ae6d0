//! Annotations `sluice.dev/*` on routes and Services, against real users and ServiceAccounts: each has a login of its own, a
//! certificate or a token, and nobody is impersonated.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use sluice::api::AgentDeployment;

use crate::cluster::{Cluster, Manifest, PATIENCE, SYSTEM, http_routes, until};
use crate::common::{namespace, remove_namespace};
use crate::login::Login;

/// Sluice's ServiceAccount, as its chart names it.
fn sluice() -> String {
    format!("system:serviceaccount:{SYSTEM}:sluice")
}

/// A namespace in which users may do everything that a namespace has.
struct Place {
    cluster: Cluster,
    namespace: String,
    logins: BTreeMap<String, Login>,
}

impl Place {
    async fn make(cluster: &Cluster, prefix: &str) -> anyhow::Result<Self> {
        let namespace = namespace(&cluster.client, prefix).await?;
        let everybody = json!([
            {"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"},
            {"kind": "ServiceAccount", "name": "gateway", "namespace": namespace},
            {"kind": "ServiceAccount", "name": "default", "namespace": SYSTEM},
            {"kind": "ServiceAccount", "name": "sluice", "namespace": SYSTEM},
        ]);
        let role = json!({"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"});
        let binding = json!({"metadata": {"name": "everything"}, "roleRef": role, "subjects": everybody});
        let bindings = Api::<RoleBinding>::namespaced(cluster.client.clone(), &namespace);
        bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        let mut logins = vec![Login::user(cluster, "alice").await?];
        for (of, name) in [(&*namespace, "gateway"), (SYSTEM, "default"), (SYSTEM, "sluice")] {
            logins.push(Login::account(cluster, of, name).await?);
        }
        let logins = logins.into_iter().map(|login| (login.name.clone(), login)).collect();
        let place = Self { cluster: cluster.clone(), namespace, logins };
        place.until_fenced().await?;
        Ok(place)
    }

    /// Tries to forge until that is refused: nothing tells when a policy that was just installed begins to hold.
    async fn until_fenced(&self) -> anyhow::Result<()> {
        let (api, began) = (self.of("alice", "Service").await?, std::time::Instant::now());
        let mut forged = bare("Service", "try");
        forged["metadata"]["annotations"] = json!({"sluice.dev/epoch": "1"});
        let forged: DynamicObject = serde_json::from_value(forged)?;
        let try_out = PostParams { dry_run: true, ..PostParams::default() };
        while api.create(&try_out, &forged).await.is_ok() {
            ensure!(began.elapsed() < PATIENCE, "the policy does not hold");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn login(&self, user: &str) -> anyhow::Result<&Login> {
        self.logins.get(user).with_context(|| format!("{user} has no login"))
    }

    /// Routes and Services as this user sees them.
    async fn of(&self, user: &str, kind: &str) -> anyhow::Result<Api<DynamicObject>> {
        let kind = match kind {
            "HTTPRoute" => http_routes(),
            _ => kube::api::ApiResource::erase::<Service>(&()),
        };
        Ok(Api::namespaced_with(self.login(user)?.client().await?, &self.namespace, &kind))
    }

    /// A route or Service as Sluice writes it, under epoch 7.
    async fn marked(&self, kind: &str, name: &str, owner: Option<&AgentDeployment>) -> anyhow::Result<DynamicObject> {
        let mut object = bare(kind, name);
        object["metadata"]["annotations"] = json!({
            "sluice.dev/epoch": "7", "sluice.dev/launch": "a-2", "sluice.dev/decision": "RolledBack", "team": "support",
        });
        if let Some(owner) = owner {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment", "name": owner.name_any(),
                "uid": owner.uid(), "controller": true,
            }]);
        }
        let api = self.of(&sluice(), kind).await?;
        Ok(api.create(&PostParams::default(), &serde_json::from_value(object)?).await?)
    }

    async fn end(self) -> anyhow::Result<()> {
        remove_namespace(&self.cluster.client, &self.namespace).await
    }
}

/// A route or Service of nobody.
fn bare(kind: &str, name: &str) -> Value {
    match kind {
        "HTTPRoute" => json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name},
            "spec": {"hostnames": [format!("{name}.example")], "rules": [{"backendRefs": [{"name": name, "port": 80}]}]},
        }),
        _ => json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}),
    }
}

/// Merges annotations into an object; null removes one.
async fn annotate(api: &Api<DynamicObject>, name: &str, annotations: Value) -> kube::Result<DynamicObject> {
    let patch = json!({"metadata": {"annotations": annotations}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await
}

/// It was refused, in these words.
fn refused<T>(answer: kube::Result<T>, words: &str) -> anyhow::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) => {
            ensure!(status.message.contains(words), "{words:?} is not in {:?}", status.message);
            Ok(())
        }
        Err(other) => Err(other.into()),
        Ok(_) => anyhow::bail!("it was accepted"),
    }
}

const ONLY_SLUICE: &str = "only Sluice writes them";

#[tokio::test]
async fn nobody_but_sluice_writes_its_annotations_and_everything_else_is_free() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = Place::make(&cluster, "fence").await?;
    let account = format!("system:serviceaccount:{SYSTEM}:default");
    for kind in ["HTTPRoute", "Service"] {
        place.marked(kind, "a", None).await?;
        for user in ["alice", account.as_str()] {
            let theirs = place.of(user, kind).await?;
            for wish in [
                json!({"sluice.dev/epoch": "8"}),
                json!({"sluice.dev/epoch": null}),
                json!({"sluice.dev/decision": null}),
                json!({"sluice.dev/reason": "mine"}),
            ] {
                let answer = annotate(&theirs, "a", wish.clone()).await;
                refused(answer, ONLY_SLUICE).with_context(|| format!("{user} wrote {wish} on a {kind}"))?;
            }
            annotate(&theirs, "a", json!({"team": user})).await.with_context(|| format!("{user} and {kind}"))?;
        }
        let admin = Api::<DynamicObject>::namespaced_with(
            cluster.client.clone(),
            &place.namespace,
            &match kind {
                "HTTPRoute" => http_routes(),
                _ => kube::api::ApiResource::erase::<Service>(&()),
            },
        );
        refused(annotate(&admin, "a", json!({"sluice.dev/epoch": "9"})).await, ONLY_SLUICE)?;

        let alice = place.of("alice", kind).await?;
        let mut whole: DynamicObject = serde_json::from_value(bare(kind, "a"))?;
        whole.metadata.resource_version = alice.get("a").await?.resource_version();
        if kind == "Service" {
            whole.data["spec"] = alice.get("a").await?.data["spec"].clone();
        }
        refused(alice.replace("a", &PostParams::default(), &whole).await, ONLY_SLUICE)?;
        let mut forged = bare(kind, "forged");
        forged["metadata"]["annotations"] = json!({"sluice.dev/epoch": "1"});
        refused(alice.create(&PostParams::default(), &serde_json::from_value(forged)?).await, ONLY_SLUICE)?;
        alice.create(&PostParams::default(), &serde_json::from_value(bare(kind, "plain"))?).await?;

        apply_keeps_them(&place, kind).await?;
        alice.delete("a", &DeleteParams::default()).await?;
    }
    place.end().await
}

/// A manifest from Git, without our annotations: client-side and server-side apply work, and take nothing away.
async fn apply_keeps_them(place: &Place, kind: &str) -> anyhow::Result<()> {
    for side in ["--server-side=false", "--server-side=true"] {
        let mut manifest = bare(kind, "a");
        manifest["metadata"]["annotations"] = json!({"from": "git"});
        let arguments = ["apply", side, "--force-conflicts=true", "-f", "-"];
        let arguments: Vec<&str> =
            arguments.into_iter().filter(|word| *word != "--force-conflicts=true" || side.ends_with("true")).collect();
        place.login("alice")?.done(&place.namespace, &arguments, Some(&manifest)).await?;
        let found = place.of("alice", kind).await?.get("a").await?;
        ensure!(found.annotations().get("sluice.dev/epoch").map(String::as_str) == Some("7"), "{:?}", found.metadata);
        ensure!(found.annotations().get("from").map(String::as_str) == Some("git"), "{:?}", found.metadata);
    }
    Ok(())
}

#[tokio::test]
async fn not_even_sluice_lets_an_epoch_fall_or_vanish() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = Place::make(&cluster, "epochs").await?;
    let agents = Api::<AgentDeployment>::namespaced(cluster.client.clone(), &place.namespace);
    let mut agent = Manifest::smallest()?.with("/spec/paused", json!(true)).0;
    agent["metadata"]["namespace"] = json!(place.namespace);
    let agent = agents.create(&PostParams::default(), &serde_json::from_value(agent)?).await?;
    for kind in ["HTTPRoute", "Service"] {
        let ours = place.of(&sluice(), kind).await?;
        place.marked(kind, "owned", Some(&agent)).await?;
        place.marked(kind, "adopted", None).await?;
        for name in ["owned", "adopted"] {
            refused(
                annotate(&ours, name, json!({"sluice.dev/epoch": "6"})).await,
                "a newer leader of Sluice has written",
            )?;
            refused(annotate(&ours, name, json!({"sluice.dev/epoch": "junk"})).await, "a newer leader")?;
            annotate(&ours, name, json!({"sluice.dev/epoch": "7", "sluice.dev/decision": null})).await?;
            annotate(&ours, name, json!({"sluice.dev/epoch": "10"})).await?;
        }
        refused(
            annotate(&ours, "owned", json!({"sluice.dev/epoch": null})).await,
            "must stay while an AgentDeployment",
        )?;
        annotate(&ours, "adopted", json!({"sluice.dev/epoch": null, "sluice.dev/launch": null})).await?; // it is given back
    }
    place.end().await
}

#[tokio::test]
async fn gateways_and_the_garbage_collector_are_not_in_the_fences_way() -> anyhow::Result<()> {
    let cluster = Cluster::with_sluice().await?;
    let place = Place::make(&cluster, "others").await?;
    place.marked("HTTPRoute", "a", None).await?;
    let gateway = place.of(&format!("system:serviceaccount:{}:gateway", place.namespace), "HTTPRoute").await?;
    let answer = json!({
        "parentRef": {"name": "public"}, "controllerName": "example.com/gateway",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-11-21T00:00:00Z"}],
    });
    let status = json!({"status": {"parents": [answer]}});
    gateway.patch_status("a", &PatchParams::default(), &Patch::Merge(&status)).await?;

    let agents = Api::<AgentDeployment>::namespaced(cluster.client.clone(), &place.namespace);
    let mut agent = Manifest::smallest()?.with("/spec/paused", json!(true)).0;
    agent["metadata"]["namespace"] = json!(place.namespace);
    let agent = agents.create(&PostParams::default(), &serde_json::from_value(agent)?).await?;
    place.marked("Service", "orphan", Some(&agent)).await?;
    agents.delete(&agent.name_any(), &DeleteParams::orphan()).await?;
    let services = Api::<Service>::namespaced(cluster.client.clone(), &place.namespace);
    let orphaned = |service: &Service| service.owner_references().is_empty();
    let orphan = until(&services, "orphan", "an orphan", PATIENCE, orphaned).await?;
    ensure!(orphan.annotations().contains_key("sluice.dev/epoch"), "{:?}", orphan.metadata);
    place.end().await
}
