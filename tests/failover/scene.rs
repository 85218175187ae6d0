//! An agent under load while its operators come and go, and what must hold at every version of its route.
//!
//! Its metric comes from a source of this process, so that a breach begins when the test says so.

use anyhow::ensure;
use demo::load::Load;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::json;
use sluice::api::Phase;

use crate::cluster::{Agent, Cluster, Manifest, PATIENCE, faulty_address, share, until};
use crate::fake::{Fake, Mood};
use crate::history::{History, Seen};

/// A canary's weight is 0 within so many seconds, whatever became of the leader.
const PROMISED: f64 = 20.0;

/// An agent whose first revision is stable.
pub struct Scene {
    pub agent: Agent,
    pub history: History,
    load: Load,
    fake: Fake,
    series: String,
}

impl Scene {
    /// One stage at half of the traffic that lasts this long, and a trigger that fires with the first bad sample.
    pub async fn set(cluster: &Cluster, name: &str, lasting: &str) -> anyhow::Result<Self> {
        let fake = Fake::get(faulty_address()?)?;
        let series = format!("{name}_of_{}_total", std::process::id());
        let quality =
            json!({"name": "quality", "ratio": {"good": format!("{series}{{result=\"good\"}}"), "total": series}});
        let bad = json!({"name": "quality", "window": "2s", "minSamples": 5, "value": {"below": "50%"}});
        let manifest = Manifest::example(name)?
            .with("/spec/metrics", json!({"sourceRef": {"name": "faulty"}, "interval": "1s", "define": [quality]}))
            .with("/spec/launch/stages", json!([{"name": "half", "traffic": 50, "minDuration": lasting}]))
            .with("/spec/launch/triggers", json!([{"name": "bad-quality", "metric": bad}]));
        let agent = Agent::apply(cluster, manifest).await?;
        fake.set(&series, &agent.namespace, &agent.name, Mood::Good(1.0));
        Self::begin(agent, fake, series).await
    }

    /// The same with other stages and triggers, judged by the cluster's Prometheus.
    pub async fn measured(cluster: &Cluster, manifest: Manifest) -> anyhow::Result<Self> {
        let agent = Agent::apply(cluster, manifest).await?;
        Self::begin(agent, Fake::get(faulty_address()?)?, "nothing".to_owned()).await
    }

    async fn begin(agent: Agent, fake: Fake, series: String) -> anyhow::Result<Self> {
        let history = History::of(&agent);
        agent.until_first_stable().await?;
        let load = agent.load(30).await?;
        Ok(Self { agent, history, load, fake, series })
    }

    /// From now on the canary is bad, or good again.
    pub fn quality(&self, share: f64) {
        self.fake.set(&self.series, &self.agent.namespace, &self.agent.name, Mood::Good(share));
    }

    /// Edits the prompt, and waits until the new revision has its share. Returns the revision.
    pub async fn launch(&self) -> anyhow::Result<String> {
        self.agent.prompt("Be friendly.", &json!({})).await?;
        Ok(self.agent.until_in_stage(2, "half").await?.revision)
    }

    /// Waits until the canary of the launch has so much, and it is told why if it is nothing. Returns when that was seen.
    pub async fn until_weight(&self, revision: &str, wanted: i64) -> anyhow::Result<Timestamp> {
        let there =
            |route: &DynamicObject| share(route, revision) == wanted && (wanted > 0 || decision(route).is_some());
        let what = format!("at {wanted}% for {revision}");
        match until(&self.agent.routes(), &self.agent.name, &what, PATIENCE, there).await {
            Ok(_) => Ok(Timestamp::now()),
            Err(error) => Err(error.context(self.agent.story().await)),
        }
    }

    /// Every version of the route has one will behind it: epochs never fall, a canary that lost its share never gets one
    /// again, what was decided stays as it was decided, and no launch that goes back goes forward.
    pub fn ensure_one_will(&self, revision: &str) -> anyhow::Result<()> {
        let (mut epoch, mut before, mut fell, mut decided) = (0, 0, false, None);
        for version in self.history.versions() {
            let Seen::Route(route) = version.seen else { continue };
            let (number, now) = (version.number, share(&route, revision));
            let written = route.annotations().get("sluice.dev/epoch").map_or(Ok(0), |epoch| epoch.parse::<u64>())?;
            ensure!(written >= epoch, "version {number}: the epoch falls from {epoch} to {written}");
            fell |= now == 0 && before > 0;
            ensure!(!(fell && now > 0), "version {number}: {revision} has {now}% again, under epoch {written}");
            let said = decision(&route).filter(|said| said[0].ends_with("-2"));
            ensure!(decided.is_none() || said == decided, "version {number}: {decided:?} became {said:?}");
            ensure!(said.is_none() || now == 0, "version {number}: {now}% for {revision} beside {said:?}");
            (epoch, before, decided) = (written, now, said);
        }
        self.history.ensure_bounded(&[("half", 50), ("tenth", 10)])?;
        let launches = self.history.launches();
        let back = |phase: Phase| matches!(phase, Phase::RollingBack | Phase::Complete);
        let forward = launches
            .windows(2)
            .find(|pair| pair[0].number == pair[1].number && back(pair[0].phase) && !back(pair[1].phase));
        ensure!(forward.is_none(), "it went forward again: {forward:?}");
        Ok(())
    }

    /// No request was lost; the namespace goes.
    pub async fn end(self) -> anyhow::Result<()> {
        let answers = self.load.stop().await;
        ensure!(
            answers.lost == 0,
            "{} of {} requests were lost: {:?}",
            answers.lost,
            answers.answered(),
            answers.losses
        );
        self.agent.done().await
    }
}

/// Launch, outcome, reason and instant of the decision on a route.
fn decision(route: &DynamicObject) -> Option<[String; 4]> {
    let said = |key: &str| route.annotations().get(&format!("sluice.dev/{key}")).cloned();
    Some([said("launch")?, said("decision")?, said("reason")?, said("decided-at")?])
}

/// Prints what was measured, and holds it against the promise.
pub fn within_promise(what: &str, from: Timestamp, taken: Timestamp, done: Timestamp) -> anyhow::Result<()> {
    let (lease, all) = (taken.duration_since(from).as_secs_f64(), done.duration_since(from).as_secs_f64());
    println!("MEASURED {what}: Lease taken over after {lease:.2} s, done after {all:.2} s"); // shown with --nocapture
    ensure!(all <= PROMISED, "{what}: {all:.2} s, promised are {PROMISED} s");
    Ok(())
}
