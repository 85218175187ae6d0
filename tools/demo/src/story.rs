//! The story: install, first release, good change, bad change, and what the witnesses say of it.

use std::time::Duration;

use anyhow::Context as _;
use demo::load::{Config as LoadConfig, Load, Snapshot, probe};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use sluice::api::{AgentDeployment, Launch, Outcome, Phase, conditions};

use crate::{
    Options,
    cluster::{Cluster, SLUICE_NAMESPACE},
    screen::{Line, Screen, Tone},
    teller::Teller,
    timeline::Rollback,
    watch::Watches,
};

/// The image that the example's manifest names.
pub(crate) const AGENT_IMAGE: &str = "sluice.dev/refund-agent:dev";

const NAMESPACE: &str = "support";
const AGENT: &str = "refund-agent";
const HOSTNAME: &str = "refunds.example";

/// Nothing in the story takes so long.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long the load goes on after an end, so that what comes late is counted, too.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Tells it all. An error is a story that went another way.
pub(crate) async fn tell(options: &Options, screen: &Screen) -> anyhow::Result<()> {
    let cluster = Cluster::new(options, screen)?;
    let client = client(options).await?;
    let mut load = LoadConfig::new(format!("{}/run", options.gateway_url.trim_end_matches('/'))).host(HOSTNAME);
    load.rate = options.rate;

    screen.act(1, "Install Sluice");
    cluster
        .kubectl_quietly(&format!(
            "delete agentdeployment {AGENT} -n {NAMESPACE} --ignore-not-found --cascade=foreground"
        ))
        .await
        .ok();
    cluster.install().await?;
    let pods = cluster.kubectl_quietly(&format!("get pods -n {SLUICE_NAMESPACE}")).await?;
    say(screen, Tone::Plain, &pods);

    let watches = Watches::start(&client, NAMESPACE, AGENT);
    let story = Story { options, screen, cluster, watches };
    story.first_release(&load).await?;
    let load = Load::start(&load)?;
    story.good_change(&load).await?;
    let rollback = story.bad_change(load).await?;
    story.end(&rollback)
}

/// Admits only the cluster of the options, never another that happens to be configured.
async fn client(options: &Options) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

struct Story<'a> {
    options: &'a Options,
    screen: &'a Screen,
    cluster: Cluster<'a>,
    watches: Watches,
}

impl Story<'_> {
    async fn first_release(&self, load: &LoadConfig) -> anyhow::Result<()> {
        self.screen.act(2, "Deploy the agent: its first release has nothing to be compared with");
        for file in ["namespace.yaml", "prompt-1.yaml", "agent.yaml"] {
            say(self.screen, Tone::Plain, &self.cluster.apply(file).await?);
        }
        let agent = self.until("the first release is stable", |agent| {
            status(agent).is_some_and(|status| {
                conditions::is_true(&status.conditions, conditions::LAUNCHED)
                    && conditions::is_true(&status.conditions, conditions::READY)
            })
        });
        let agent = agent.await?;
        let stable = stable(&agent).context("the agent is launched and has no stable revision")?;
        self.until_served(load, &stable).await?;
        self.table().await?;
        say(
            self.screen,
            Tone::Good,
            &format!(
                "stable {stable} answers at {} as {HOSTNAME}; {} requests per second from now on",
                self.options.gateway_url, load.rate
            ),
        );
        Ok(())
    }

    async fn good_change(&self, load: &Load) -> anyhow::Result<()> {
        self.screen.act(3, "A good change: the prompt asks for a friendly sentence");
        let (launch, _, _) = self.launch("prompt-2.yaml", load).await?;
        anyhow::ensure!(
            launch.outcome == Some(Outcome::Succeeded),
            "the good change ended as {:?}: {}",
            launch.outcome,
            launch.message.unwrap_or_default()
        );
        tokio::time::sleep(AFTERMATH).await;
        self.table().await?;
        let now = load.snapshot();
        say(self.screen, if now.lost == 0 { Tone::Good } else { Tone::Bad }, &tally(&now));
        Ok(())
    }

    async fn bad_change(&self, load: Load) -> anyhow::Result<Rollback> {
        self.screen.act(4, "A bad change: the prompt lets the agent guess amounts, and 30 % of its runs fail");
        let (launch, applied, before) = self.launch("prompt-3.yaml", &load).await?;
        tokio::time::sleep(AFTERMATH).await;
        self.table().await?;
        let routes = self.watches.routes();
        let after = load.stop().await;
        anyhow::ensure!(
            launch.outcome == Some(Outcome::RolledBack),
            "the bad change ended as {:?}: {}",
            launch.outcome,
            launch.message.unwrap_or_default()
        );
        Ok(Rollback { applied, launch, routes, before, after })
    }

    fn end(&self, rollback: &Rollback) -> anyhow::Result<()> {
        self.screen.act(5, "The time line of the rollback, as measured");
        for line in rollback.lines() {
            self.screen.say(&line);
        }
        let load = &rollback.after;
        say(self.screen, if load.lost == 0 { Tone::Good } else { Tone::Bad }, &tally(load));
        for lost in load.losses.iter().take(10) {
            say(self.screen, Tone::Bad, &format!("  {lost}"));
        }
        if load.skipped > 0 {
            let text = format!("{} requests were not sent: too many were under way", load.skipped);
            say(self.screen, Tone::Notice, &text);
        }

        self.screen.act(6, "Where to look next");
        println!("   export KUBECONFIG={}", self.options.kubeconfig.display());
        for (command, what) in [
            (format!("kubectl get agd -n {NAMESPACE}"), "the story in a line"),
            (format!("kubectl describe agd {AGENT} -n {NAMESPACE}"), "verdicts, conditions, events"),
            (format!("kubectl get httproute {AGENT} -n {NAMESPACE} -o yaml"), "the decision on the route"),
            (format!("kubectl logs -n {SLUICE_NAMESPACE} -l app.kubernetes.io/name=sluice"), "Sluice's own words"),
            ("kubectl apply -f examples/refund-agent/prompt-2.yaml".to_owned(), "mend it: back to stable"),
        ] {
            println!("   {command:<66} {}", self.screen.paint(Tone::Dim, what));
        }
        anyhow::ensure!(load.lost == 0, "{} requests were lost", load.lost);
        Ok(())
    }

    /// Applies a prompt and tells its launch until it has ended.
    async fn launch(&self, prompt: &str, load: &Load) -> anyhow::Result<(Launch, Timestamp, Snapshot)> {
        let mut told = self.watches.launches(0).len();
        let last = self.watches.launches(0).last().map_or(0, |launch| launch.number);
        let before = load.snapshot();
        let mut teller = Teller::new(before.clone());
        let applied = Timestamp::now();
        say(self.screen, Tone::Plain, &self.cluster.apply(prompt).await?);
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                let news = self.watches.launches(told);
                told += news.len();
                let current = news.into_iter().filter(|launch| launch.number > last);
                for launch in current {
                    for line in teller.launch(&launch, load.snapshot().at) {
                        self.screen.say(&line);
                    }
                    if launch.phase == Phase::Complete {
                        return launch;
                    }
                }
                if let Some(line) = teller.traffic(&load.snapshot()) {
                    self.screen.say(&line);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        match ended.await {
            Ok(launch) => Ok((launch, applied, before)),
            Err(_) => Err(self.impatient("the launch has ended").await),
        }
    }

    async fn until(&self, what: &str, done: impl Fn(&AgentDeployment) -> bool) -> anyhow::Result<AgentDeployment> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(agent) = self.watches.agent().filter(&done) {
                    return agent;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        match waited.await {
            Ok(agent) => Ok(agent),
            Err(_) => Err(self.impatient(what).await),
        }
    }

    /// The gateway knows the route and its pods: twenty answers in a row.
    async fn until_served(&self, load: &LoadConfig, stable: &str) -> anyhow::Result<()> {
        let mut last = String::new();
        let waited = tokio::time::timeout(PATIENCE, async {
            let mut in_a_row = 0;
            while in_a_row < 20 {
                match probe(load).await {
                    Ok(revision) if revision == stable => in_a_row += 1,
                    Ok(revision) => (in_a_row, last) = (0, format!("revision {revision:?} answered")),
                    Err(problem) => (in_a_row, last) = (0, format!("{problem:#}")),
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        });
        match waited.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.impatient(&format!("the gateway serves {stable} (last: {last})")).await),
        }
    }

    /// What a person would look at first when nothing happens.
    async fn impatient(&self, what: &str) -> anyhow::Error {
        let agent = match self.watches.agent() {
            None => "there is no such AgentDeployment, or it cannot be read".to_owned(),
            Some(agent) => describe(&agent),
        };
        let mut seen = vec![agent];
        for look in [
            format!("get pods -n {NAMESPACE}"),
            format!("get pods -n {SLUICE_NAMESPACE}"),
            format!("logs -n {SLUICE_NAMESPACE} deploy/sluice --tail=10"),
        ] {
            let said = self.cluster.kubectl_quietly(&look).await.unwrap_or_else(|error| format!("{error:#}"));
            seen.push(format!("$ kubectl {look}\n{said}"));
        }
        anyhow::anyhow!("waited {} s until {what}; now:\n{}", PATIENCE.as_secs(), seen.join("\n"))
    }

    /// What `kubectl get` tells of the agent.
    async fn table(&self) -> anyhow::Result<()> {
        let table = self.cluster.kubectl(&format!("get agd -n {NAMESPACE}")).await?;
        say(self.screen, Tone::Plain, &table);
        Ok(())
    }
}

fn status(agent: &AgentDeployment) -> Option<&sluice::api::AgentDeploymentStatus> {
    // A status that speaks about an older spec says nothing about this one.
    agent.status.as_ref().filter(|status| status.observed_generation == agent.metadata.generation)
}

fn stable(agent: &AgentDeployment) -> Option<String> {
    Some(agent.status.as_ref()?.state.stable.as_ref()?.revision.clone())
}

fn describe(agent: &AgentDeployment) -> String {
    let Some(status) = &agent.status else {
        return "the agent has no status: does Sluice run?".to_owned();
    };
    let mut lines: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| {
            format!("{} {} {}: {}", condition.type_, condition.status, condition.reason, condition.message)
        })
        .collect();
    if let Some(summary) = &status.summary {
        lines.push(format!("{} {} {}: {}", summary.stage, summary.weight, summary.verdict, summary.reason));
    }
    lines.join("\n")
}

fn tally(load: &Snapshot) -> String {
    format!(
        "requests lost: {} of {} ({} answers, {} of them the agent's own errors)",
        load.lost,
        load.sent,
        load.answered(),
        load.errors()
    )
}

fn say(screen: &Screen, tone: Tone, text: &str) {
    for line in text.lines() {
        screen.say(&Line::new(tone, format!("   {line}")));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn example<T: for<'de> k8s_openapi::serde::Deserialize<'de>>(file: &str) -> T {
        let path = format!("{}/../../examples/refund-agent/{file}", env!("CARGO_MANIFEST_DIR"));
        serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn the_examples_agent_is_the_one_of_the_story() {
        let agent: AgentDeployment = example("agent.yaml");
        assert_eq!(
            (agent.metadata.name.as_deref(), agent.metadata.namespace.as_deref()),
            (Some(AGENT), Some(NAMESPACE))
        );
        assert_eq!(agent.spec.template.spec.containers[0].image, AGENT_IMAGE);
        let gateway = agent.spec.traffic.clone().unwrap().gateway.unwrap();
        assert_eq!(gateway.hostnames, [HOSTNAME]);
        let plan = sluice::launch::resolve(&agent.spec).unwrap();
        let shares: Vec<i32> = plan.stages.iter().map(|stage| stage.weight).collect();
        assert_eq!((shares.as_slice(), plan.triggers.len()), (&[5, 25, 50][..], 2));
    }

    #[test]
    fn only_the_last_prompt_is_bad() {
        let keys = |file| {
            let prompt: ConfigMap = example(file);
            assert_eq!(prompt.metadata.name.as_deref(), Some("refund-prompts"), "{file}");
            prompt.data.unwrap().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys("prompt-1.yaml"), ["prompt.txt"]);
        assert_eq!(keys("prompt-2.yaml"), ["prompt.txt"]);
        assert_eq!(keys("prompt-3.yaml"), ["faults.json", "prompt.txt"]);
    }
}
