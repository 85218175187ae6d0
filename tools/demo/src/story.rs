//! The story: install, first release, good change, bad change, and what the witnesses say of it.

use std::time::Duration;

use anyhow::Context as _;
use demo::load::{Config as LoadConfig, Load, Snapshot, probe};
use demo::stream::{Run, Steady};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use sluice::api::{AgentDeployment, Launch, Outcome, Phase, conditions};

use crate::{
    Options,
    cluster::{Cluster, SLUICE_NAMESPACE},
    measure,
    screen::{Line, Screen, Tone},
    teller::{Teller, seconds},
    timeline::Rollback,
    watch::Watches,
};

/// The image that the example's manifest names.
pub(crate) const AGENT_IMAGE: &str = "sluice.dev/refund-agent:dev";

/// The Gateway that the example's manifest names.
pub(crate) const GATEWAY: &str = "{name: public, namespace: infra}";

pub(crate) const NAMESPACE: &str = "support";
const AGENT: &str = "refund-agent";
const HOSTNAME: &str = "refunds.example";

/// Nothing in the story takes so long.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long the load goes on after an end, so that what comes late is counted, too.
const AFTERMATH: Duration = Duration::from_secs(5);
/// How many seconds a streamed run takes, and how often one begins, while many changes are measured.
const STREAM: (u64, Duration) = (10, Duration::from_secs(2));

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
    if options.promotions + options.rollbacks > 0 {
        return story.many_changes(&load).await;
    }
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

/// A change of the agent's prompt.
#[derive(Clone, Copy)]
enum Change {
    /// A file of the example, with all that its launch does.
    Told(&'static str),
    /// A good prompt of this number, without a word.
    QuietlyGood(u32),
    /// A bad prompt of this number, without a word.
    QuietlyBad(u32),
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
        let (launch, _, _) = self.launch(Change::Told("prompt-2.yaml"), load).await?;
        ensure_ended(&launch, Outcome::Succeeded)?;
        tokio::time::sleep(AFTERMATH).await;
        self.table().await?;
        let now = load.snapshot();
        say(self.screen, if now.lost == 0 { Tone::Good } else { Tone::Bad }, &tally(&now));
        Ok(())
    }

    /// Many changes instead of the story's two, under steady load and streamed runs that outlast a change of weight.
    async fn many_changes(&self, load: &LoadConfig) -> anyhow::Result<()> {
        self.wait_for_runs().await?;
        let streams =
            Steady::start(&LoadConfig { url: self.options.gateway_url.clone(), ..load.clone() }, STREAM.0, STREAM.1)?;
        let load = Load::start(load)?;
        self.good_change(&load).await?;
        if self.options.promotions > 0 {
            self.many_good_changes(&load, self.options.promotions).await?;
        }
        let measured = self.many_bad_changes(load, self.options.rollbacks).await;
        let streams = streams.ended().await?;
        let broken: Vec<&Run> = streams.iter().filter(|run| run.broken.is_some()).collect();
        let tone = if broken.is_empty() { Tone::Good } else { Tone::Bad };
        let text = format!("streamed runs of {} s that broke: {} of {}", STREAM.0, broken.len(), streams.len());
        say(self.screen, tone, &text);
        for run in broken.iter().take(10) {
            say(self.screen, Tone::Bad, &format!("  {run:?}"));
        }
        measured?;
        anyhow::ensure!(broken.is_empty(), "{} streamed runs broke", broken.len());
        Ok(())
    }

    /// A revision that loses its traffic keeps its pods until its runs have ended.
    async fn wait_for_runs(&self) -> anyhow::Result<()> {
        let drain = r#"{"spec":{"drain":{"deadline":"1m"}}}"#;
        let patch = format!("patch agentdeployment {AGENT} -n {NAMESPACE} --type merge -p {drain}");
        say(self.screen, Tone::Plain, &self.cluster.kubectl(&patch).await?);
        Ok(())
    }

    /// Good changes one after the other, each when the one before has left nothing behind.
    async fn many_good_changes(&self, load: &Load, count: u32) -> anyhow::Result<()> {
        self.screen.act(3, &format!("{count} more good changes, one after the other"));
        let mut took = Vec::new();
        for number in 1..=count {
            self.until_at_rest().await?;
            let (launch, applied, before) = self.launch(Change::QuietlyGood(number), load).await?;
            ensure_ended(&launch, Outcome::Succeeded)?;
            let spent = seconds(applied, launch.ended_at.unwrap_or(applied));
            let lost = load.snapshot().lost - before.lost;
            let tone = if lost == 0 { Tone::Dim } else { Tone::Bad };
            say(
                self.screen,
                tone,
                &format!("{number:>3}/{count} {} is stable after {spent:.1} s; {lost} lost", launch.revision),
            );
            took.push(spent);
        }
        say(self.screen, Tone::Plain, &measure::row("applied → stable", &took, |span| format!("{span:.1} s")));
        self.reckon(&load.snapshot());
        Ok(())
    }

    async fn bad_change(&self, load: Load) -> anyhow::Result<Rollback> {
        self.screen.act(4, "A bad change: the prompt lets the agent guess amounts, and 30 % of its runs fail");
        let (launch, applied, before) = self.launch(Change::Told("prompt-3.yaml"), &load).await?;
        tokio::time::sleep(AFTERMATH).await;
        self.table().await?;
        let routes = self.watches.routes();
        let after = load.stop().await;
        ensure_ended(&launch, Outcome::RolledBack)?;
        Ok(Rollback { applied, launch, routes, before, after })
    }

    /// Bad changes one after the other, each when the one before has left nothing behind. What was measured is told
    /// even if one of them was not rolled back, which ends it.
    async fn many_bad_changes(&self, load: Load, count: u32) -> anyhow::Result<()> {
        self.screen.act(4, &format!("{count} bad changes, one after the other: 30 % of the runs of each fail"));
        self.until_at_rest().await?;
        let mut rollbacks = Vec::new();
        let mut problem = None;
        for number in 1..=count {
            match self.quiet_bad_change(number, &load).await {
                Ok(rollback) => {
                    let tone = if rollback.lost() == 0 { Tone::Dim } else { Tone::Bad };
                    say(self.screen, tone, &format!("{number:>3}/{count} {}", measure::line(&rollback)));
                    rollbacks.push(rollback);
                }
                Err(error) => {
                    problem = Some(error.context(format!("bad change {number} of {count}")));
                    break;
                }
            }
        }
        tokio::time::sleep(AFTERMATH).await;
        let load = load.stop().await;
        self.screen.act(5, "The rollbacks, as measured");
        say(self.screen, Tone::Plain, &format!("{} of {count} bad changes were rolled back", rollbacks.len()));
        say(self.screen, Tone::Plain, &measure::table(&rollbacks));
        self.reckon(&load);
        problem.map_or_else(|| ensure_none_lost(&load), Err)
    }

    async fn quiet_bad_change(&self, number: u32, load: &Load) -> anyhow::Result<Rollback> {
        let seen = self.watches.routes().len();
        let (launch, applied, before) = self.launch(Change::QuietlyBad(number), load).await?;
        ensure_ended(&launch, Outcome::RolledBack)?;
        self.until_at_rest().await?;
        // With the version before the change, from which the canary's weight rose.
        let routes = self.watches.routes().split_off(seen.saturating_sub(1));
        Ok(Rollback { applied, launch, routes, before, after: load.snapshot() })
    }

    /// Nothing is about to happen, and only stable has pods.
    async fn until_at_rest(&self) -> anyhow::Result<()> {
        let rest = self.until("the agent is at rest", |agent| {
            status(agent).is_some_and(|status| status.state.pending.is_none() && status.state.retiring.is_empty())
        });
        let stable = stable(&rest.await?).context("the agent has no stable revision")?;
        // A watch of kubectl's own.
        let others = format!("sluice.dev/agent={AGENT},sluice.dev/revision!={stable}");
        let wait = format!("wait --for=delete pod -n {NAMESPACE} -l {others} --timeout=60s");
        self.cluster.kubectl_quietly(&wait).await.map(drop)
    }

    fn end(&self, rollback: &Rollback) -> anyhow::Result<()> {
        self.screen.act(5, "The time line of the rollback, as measured");
        for line in rollback.lines() {
            self.screen.say(&line);
        }
        let load = &rollback.after;
        self.reckon(load);

        self.screen.act(6, "Where to look next");
        println!("   export KUBECONFIG={}", self.options.kubeconfig.display());
        if self.options.kubectl.is_absolute() {
            println!("   alias kubectl={}", self.options.kubectl.display()); // the one that was built is not in PATH
        }
        for (command, what) in [
            (format!("kubectl get agd -n {NAMESPACE}"), "the story in a line"),
            (format!("kubectl describe agd {AGENT} -n {NAMESPACE}"), "verdicts, conditions, events"),
            (format!("kubectl get httproute {AGENT} -n {NAMESPACE} -o yaml"), "the decision on the route"),
            (format!("kubectl logs -n {SLUICE_NAMESPACE} -l app.kubernetes.io/name=sluice"), "Sluice's own words"),
            ("kubectl apply -f examples/refund-agent/prompt-2.yaml".to_owned(), "mend it: back to stable"),
        ] {
            println!("   {command:<66} {}", self.screen.paint(Tone::Dim, what));
        }
        ensure_none_lost(load)
    }

    /// What became of all requests.
    fn reckon(&self, load: &Snapshot) {
        say(self.screen, if load.lost == 0 { Tone::Good } else { Tone::Bad }, &tally(load));
        for lost in load.losses.iter().take(10) {
            say(self.screen, Tone::Bad, &format!("  {lost}"));
        }
        if load.skipped > 0 {
            let text = format!("{} requests were not sent: too many were under way", load.skipped);
            say(self.screen, Tone::Notice, &text);
        }
    }

    /// Makes a change and follows its launch until it has ended.
    async fn launch(&self, change: Change, load: &Load) -> anyhow::Result<(Launch, Timestamp, Snapshot)> {
        let mut told = self.watches.launches(0).len();
        let last = self.watches.launches(0).last().map_or(0, |launch| launch.number);
        let before = load.snapshot();
        let mut teller = Teller::new(before.clone());
        let applied = Timestamp::now();
        let aloud = match change {
            Change::Told(file) => {
                say(self.screen, Tone::Plain, &self.cluster.apply(file).await?);
                true
            }
            Change::QuietlyGood(number) => {
                self.cluster.prompt(&format!("You refund customers. Be kind. Variant {number}."), "null").await?;
                false
            }
            Change::QuietlyBad(number) => {
                let faults = r#""{\"error_rate\": 0.3}\n""#;
                self.cluster.prompt(&format!("You refund customers. Be quick. Variant {number}."), faults).await?;
                false
            }
        };
        let tell = |lines: Vec<Line>| lines.iter().filter(|_| aloud).for_each(|line| self.screen.say(line));
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                let news = self.watches.launches(told);
                told += news.len();
                let current = news.into_iter().filter(|launch| launch.number > last);
                for launch in current {
                    tell(teller.launch(&launch, load.snapshot().at));
                    if launch.phase == Phase::Complete {
                        return launch;
                    }
                }
                tell(teller.traffic(&load.snapshot()).into_iter().collect());
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

fn ensure_ended(launch: &Launch, outcome: Outcome) -> anyhow::Result<()> {
    anyhow::ensure!(
        launch.outcome == Some(outcome),
        "launch {} ended as {:?} instead of {outcome:?}: {}",
        launch.id,
        launch.outcome,
        launch.message.as_deref().unwrap_or("no message")
    );
    Ok(())
}

fn ensure_none_lost(load: &Snapshot) -> anyhow::Result<()> {
    anyhow::ensure!(load.lost == 0, "{} requests were lost", load.lost);
    Ok(())
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

    fn path(file: &str) -> String {
        format!("{}/../../examples/refund-agent/{file}", env!("CARGO_MANIFEST_DIR"))
    }

    fn example<T: for<'de> k8s_openapi::serde::Deserialize<'de>>(file: &str) -> T {
        serde_norway::from_str(&std::fs::read_to_string(path(file)).unwrap()).unwrap()
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
        let text = std::fs::read_to_string(path("agent.yaml")).unwrap();
        assert_eq!((text.matches(GATEWAY).count(), text.matches(AGENT_IMAGE).count()), (1, 1), "what options replace");
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
