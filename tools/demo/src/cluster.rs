//! What a user does to the cluster: `helm` and `kubectl`, run as printed.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::process::Command;

use crate::{Options, screen::Screen, story};

/// The programs, the repository and the screen that shows each command.
pub(crate) struct Cluster<'a> {
    options: &'a Options,
    screen: &'a Screen,
    repository: PathBuf,
}

/// Sluice's namespace.
pub(crate) const SLUICE_NAMESPACE: &str = "sluice-system";

impl<'a> Cluster<'a> {
    pub(crate) fn new(options: &'a Options, screen: &'a Screen) -> anyhow::Result<Self> {
        let repository = options
            .repository
            .canonicalize()
            .with_context(|| format!("no repository at {}", options.repository.display()))?;
        Ok(Self { options, screen, repository })
    }

    /// Installs Sluice from its chart, and waits until it is ready.
    pub(crate) async fn install(&self) -> anyhow::Result<()> {
        let (repository, tag) = split_image(&self.options.image)?;
        let chart = self.repository.join("charts/sluice");
        let mut arguments = ["upgrade", "--install", "sluice"].map(str::to_owned).to_vec();
        arguments.push(chart.display().to_string());
        arguments.extend(["--namespace", SLUICE_NAMESPACE, "--create-namespace"].map(str::to_owned));
        for value in [
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
            "sources[0].name=default".to_owned(),
            format!("sources[0].url={}", self.options.prometheus_url),
        ] {
            arguments.extend(["--set".to_owned(), value]);
        }
        arguments.extend(["--wait", "--timeout", "2m"].map(str::to_owned));
        self.screen.command(&format!(
            "helm upgrade --install sluice charts/sluice -n {SLUICE_NAMESPACE} --create-namespace --wait \
             --set sources[0].url={}",
            self.options.prometheus_url
        ));
        self.run(&self.options.helm, &arguments, "").await?;
        // The image may be another one under the same tag.
        self.kubectl_quietly(&format!("rollout restart deployment/sluice -n {SLUICE_NAMESPACE}")).await?;
        self.kubectl_quietly(&format!("rollout status deployment/sluice -n {SLUICE_NAMESPACE} --timeout=2m"))
            .await
            .map(drop)
    }

    /// Applies a manifest of `examples/refund-agent/` and returns what `kubectl` said.
    pub(crate) async fn apply(&self, file: &str) -> anyhow::Result<String> {
        let path = self.repository.join("examples/refund-agent").join(file);
        let manifest = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let gateway = format!("{{name: {}, namespace: {}}}", self.options.gateway_name, self.options.gateway_namespace);
        let manifest =
            manifest.replace(story::AGENT_IMAGE, &self.options.agent_image).replace(story::GATEWAY, &gateway);
        self.screen.command(&format!("kubectl apply -f examples/refund-agent/{file}"));
        self.run(&self.options.kubectl, &["apply", "-f", "-"], &manifest).await
    }

    /// Changes the agent's prompt, and the JSON value of its faults: `null` has none.
    pub(crate) async fn prompt(&self, text: &str, faults: &str) -> anyhow::Result<()> {
        let patch = format!(r#"{{"data": {{"prompt.txt": "{text}\n", "faults.json": {faults}}}}}"#);
        let arguments = ["patch", "configmap", "refund-prompts", "-n", story::NAMESPACE, "--type=merge", "-p", &patch];
        self.run(&self.options.kubectl, &arguments, "").await.map(drop)
    }

    /// Runs `kubectl` as shown.
    pub(crate) async fn kubectl(&self, arguments: &str) -> anyhow::Result<String> {
        self.screen.command(&format!("kubectl {arguments}"));
        self.kubectl_quietly(arguments).await
    }

    /// Runs `kubectl` for the demo's own use.
    pub(crate) async fn kubectl_quietly(&self, arguments: &str) -> anyhow::Result<String> {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        self.run(&self.options.kubectl, &arguments, "").await
    }

    async fn run(&self, program: &Path, arguments: &[impl AsRef<str>], input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments.iter().map(AsRef::as_ref)).env("KUBECONFIG", &self.options.kubeconfig);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("could not run {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            use tokio::io::AsyncWriteExt as _;
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = tokio::time::timeout(Duration::from_mins(3), child.wait_with_output())
            .await
            .with_context(|| format!("{} did not end within 3 minutes", program.display()))??;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        anyhow::ensure!(
            output.status.success(),
            "{} ended with {}:\n{}",
            program.display(),
            output.status,
            said(&output.stderr)
        );
        Ok(said(&output.stdout))
    }
}

/// `registry/name:tag` as the chart wants it.
fn split_image(image: &str) -> anyhow::Result<(&str, &str)> {
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).with_context(|| format!("image {image:?} has no tag"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_at_its_tag() {
        assert_eq!(split_image("sluice.dev/sluice:dev").unwrap(), ("sluice.dev/sluice", "dev"));
        assert_eq!(split_image("localhost:5000/sluice:1").unwrap(), ("localhost:5000/sluice", "1"));
        assert!(split_image("localhost:5000/sluice").is_err());
    }
}
