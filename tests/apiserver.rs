//! What only a real API server can say: that it accepts the CRD, and that it accepts and refuses manifests as we expect.
//!
//! Needs KUBECONFIG; a control plane without nodes is enough.

mod common;
#[path = "apiserver/plans.rs"]
mod plans;

use anyhow::{Context as _, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use sluice::api::AgentDeployment;

/// What client-side `kubectl apply` can carry in its annotation.
const ANNOTATION_LIMIT: usize = 262_144;

async fn server(prefix: &str) -> anyhow::Result<(Client, String)> {
    let client = common::client().await?;
    common::apply_crds(&client).await?;
    let namespace = common::namespace(&client, prefix).await?;
    Ok((client, namespace))
}

#[tokio::test]
async fn the_api_server_accepts_the_crd_and_its_rules() -> anyhow::Result<()> {
    let client = common::client().await?;
    for crd in common::apply_crds(&client).await? {
        let conditions = crd.status.unwrap_or_default().conditions.unwrap_or_default();
        let broken: Vec<_> =
            conditions.iter().filter(|c| c.type_ == "NonStructuralSchema" && c.status == "True").collect();
        ensure!(broken.is_empty(), "the schema is not structural: {broken:?}");
    }
    Ok(())
}

#[test]
fn the_crd_fits_into_the_annotation_of_client_side_apply() -> anyhow::Result<()> {
    for file in common::crd_files()? {
        let crd: serde_json::Value = serde_norway::from_str(&std::fs::read_to_string(&file)?)?;
        let size = serde_json::to_string(&crd)?.len();
        ensure!(size < ANNOTATION_LIMIT, "{}: {size} bytes", file.display());
    }
    Ok(())
}

#[tokio::test]
async fn good_manifests_and_samples_are_accepted() -> anyhow::Result<()> {
    let (client, namespace) = server("good").await?;
    for manifest in common::good_manifests()? {
        let answer = common::dry_run(&client, &namespace, &manifest.object).await?;
        ensure!(answer.is_ok(), "{}: {}", manifest.file, answer.unwrap_err());
    }
    common::remove_namespace(&client, &namespace).await
}

#[tokio::test]
async fn bad_manifests_are_refused_with_the_field_and_the_mend() -> anyhow::Result<()> {
    let (client, namespace) = server("bad").await?;
    let mut wrong = Vec::new();
    for manifest in common::manifests("tests/manifests/bad")? {
        match common::dry_run(&client, &namespace, &manifest.object).await? {
            Ok(_) => wrong.push(format!("{} was accepted", manifest.file)),
            Err(message) => wrong.extend(
                manifest
                    .expect
                    .iter()
                    .filter(|text| !message.contains(text.as_str()))
                    .map(|text| format!("{}: {text:?} is not in {message:?}", manifest.file)),
            ),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    common::remove_namespace(&client, &namespace).await
}

/// Transcript 2.
#[tokio::test]
async fn shares_that_fall_are_refused_in_words_that_name_both_stages() -> anyhow::Result<()> {
    let (client, namespace) = server("transcript").await?;
    let bad = common::manifests("tests/manifests/bad")?;
    let manifest = bad.iter().find(|m| m.file.ends_with("/shares-fall.yaml")).context("shares-fall.yaml is gone")?;
    let message = common::dry_run(&client, &namespace, &manifest.object).await?.err().context("it was accepted")?;
    let words = r#"stage "canary-2" is not above "canary-1" (25): shares must rise; reorder the stages or raise it"#;
    ensure!(
        message.contains(r#""refund-agent" is invalid: spec.launch.stages"#) && message.contains(words),
        "{message}"
    );
    common::remove_namespace(&client, &namespace).await
}

#[tokio::test]
async fn a_pod_template_is_kept_whole() -> anyhow::Result<()> {
    let (client, namespace) = server("template").await?;
    let good = common::manifests("tests/manifests/good")?;
    let manifest =
        good.iter().find(|m| m.file.ends_with("/whole-pod-template.yaml")).context("the manifest is gone")?;
    let created = common::dry_run(&client, &namespace, &manifest.object).await?.map_err(anyhow::Error::msg)?;
    let mut written = manifest.object["spec"].clone();
    written["replicas"] = serde_json::json!(1); // the one default of the schema: `scale` needs the field
    ensure!(created["spec"] == written, "written {written}\nread {}", created["spec"]);
    let typed: AgentDeployment = serde_json::from_value(created.clone())?;
    ensure!(serde_json::to_value(&typed.spec)? == created["spec"], "our types lose a part of it");
    common::remove_namespace(&client, &namespace).await
}

#[tokio::test]
async fn a_full_status_comes_back_as_it_was_written() -> anyhow::Result<()> {
    let (client, namespace) = server("status").await?;
    let api: Api<AgentDeployment> = Api::namespaced(client.clone(), &namespace);
    let good = common::manifests("config/samples")?;
    let sample = good.into_iter().rfind(|it| it.object["kind"] == "AgentDeployment").context("no samples")?;
    let agent = serde_json::from_value(sample.object)?;
    let created = api.create(&PostParams::default(), &agent).await?;
    let status = common::full_status();
    let patch = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "AgentDeployment", "status": status});
    let params = PatchParams::apply("sluice/status").force().validation_strict();
    let written = api.patch_status(&created.name_any(), &params, &Patch::Apply(&patch)).await?;
    ensure!(serde_json::to_value(&written.status)? == status, "{:#?}", written.status);
    common::remove_namespace(&client, &namespace).await
}
