//! The standard metrics against a real Prometheus: every query is understood, and brings the right numbers.
//!
//! Needs `PROMETHEUS_BIN`, the path of a Prometheus v3 binary; without it the test fails rather than being skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy exempts test functions, not their helpers

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rust_decimal::Decimal;
use sluice::api::{MetricDefinition, Verdict, standard_metrics};
use sluice::launch::{Bounds, CheckName, Compare, Question};
use sluice::signals::{
    Client, Number, Query, Reading, RevisionKey, Sampler, SamplerMetrics, Source, Value, Watch, judge, parse_sources,
    preflight,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The metrics of one pod: `n` is how often it was scraped.
type Page = fn(n: u64) -> String;

/// A pod that can be scraped.
struct Pod {
    address: String,
    page: Arc<Mutex<Option<Page>>>,
}

impl Pod {
    async fn start(page: Page) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let page = Arc::new(Mutex::new(Some(page)));
        let shown = Arc::clone(&page);
        let scrapes = AtomicU64::new(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let page = *shown.lock().unwrap();
                let Some(page) = page else { continue }; // a dead pod hangs up
                let _ = stream.read(&mut [0; 4096]).await;
                let body = page(scrapes.fetch_add(1, Ordering::Relaxed));
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n";
                let _ =
                    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
            }
        });
        Self { address, page }
    }

    fn show(&self, page: Option<Page>) {
        *self.page.lock().unwrap() = page;
    }
}

/// An agent at work: ten runs and as much of everything else between two scrapes. No policy was ever bypassed.
fn busy(n: u64) -> String {
    let histogram = "gen_ai_client_operation_duration_seconds";
    let run = r#"gen_ai_operation_name="invoke_agent""#;
    let tool = r#"gen_ai_operation_name="execute_tool""#;
    let (one, two, five, eight, nine, ten) = (n, 2 * n, 5 * n, 8 * n, 9 * n, 10 * n);
    format!(
        r#"agent_runs_total{{outcome="success"}} {nine}
agent_runs_total{{outcome="error"}} {one}
{histogram}_bucket{{{run},le="1"}} {nine}
{histogram}_bucket{{{run},le="2"}} {ten}
{histogram}_bucket{{{run},le="+Inf"}} {ten}
{histogram}_sum{{{run}}} {ten}
{histogram}_count{{{run}}} {ten}
{histogram}_count{{{tool}}} {eight}
{histogram}_count{{{tool},error_type="invalid_arguments"}} {two}
agent_cost_usd_total {nine}
agent_safety_blocks_total{{rule="a"}} 2
agent_safety_blocks_total{{rule="b"}} 1
agent_outputs_total{{decision="allow"}} {nine}
agent_outputs_total{{decision="quarantine"}} {one}
agent_approval_wait_seconds_bucket{{le="60"}} {five}
agent_approval_wait_seconds_bucket{{le="120"}} {ten}
agent_approval_wait_seconds_bucket{{le="+Inf"}} {ten}
agent_approval_wait_seconds_count {ten}
agent_approval_backlog_age_seconds 42
agent_runs_in_flight 3
"#
    )
}

/// The same agent on another revision: half the age, nothing in flight, and the slow runs are beyond every bucket.
fn slow(n: u64) -> String {
    busy(n)
        .replace("backlog_age_seconds 42", "backlog_age_seconds 21")
        .replace("in_flight 3", "in_flight 0")
        .replace(&format!("le=\"2\"}} {}", 10 * n), &format!("le=\"2\"}} {}", 9 * n))
}

fn bypassing(_: u64) -> String {
    "agent_policy_bypasses_total 1\n".to_owned()
}

fn restarted(_: u64) -> String {
    "agent_policy_bypasses_total 0\n".to_owned()
}

/// A Prometheus that scrapes the pods every second; it ends with the value.
struct Prometheus {
    source: Source,
    dir: PathBuf,
    _process: tokio::process::Child,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    fn start(pods: &[(&Pod, &str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let binary = std::env::var("PROMETHEUS_BIN")
            .expect("PROMETHEUS_BIN must name a Prometheus v3 binary: `make test` builds one and sets it");
        let dir = std::env::temp_dir().join(format!("sluice-prometheus-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("prometheus.yml"), config(pods)).unwrap();
        let address = free_address();
        let process = run(&binary, &dir, &address);
        let source = parse_sources(&format!("[{{name: default, url: 'http://{address}'}}]")).unwrap().remove(0);
        Self { source, dir, _process: process }
    }

    /// The metric of a revision now.
    async fn reading(&self, metric: &MetricDefinition, key: &RevisionKey) -> Option<Reading> {
        let query = Query::compile(metric, Some(Duration::from_secs(30))).unwrap();
        let revisions = BTreeSet::from([key.revision.clone(), "5ab1e00000".to_owned()]);
        let text = query.text(&self.source, &BTreeSet::from([key.namespace.clone()]), &revisions);
        let answer = Client::new(self.source.clone()).unwrap().ask(&text, Timestamp::now()).await;
        match answer {
            Ok(answer) => {
                assert!(!answer.warned, "{text}");
                Some(answer.of(key).reading(metric))
            }
            // It is starting.
            Err(sluice::signals::ClientError::Refused | sluice::signals::ClientError::Status(503)) => None,
            Err(error) => panic!("{error}: {text}"),
        }
    }

    /// Waits until a reading is as it should be.
    async fn until(&self, metric: &str, key: &RevisionKey, fits: impl Fn(&Reading) -> bool) -> Reading {
        let metric = standard(metric);
        let mut last = None;
        for _ in 0..300 {
            last = self.reading(&metric, key).await;
            if let Some(reading) = last.as_ref().filter(|reading| fits(reading)) {
                return reading.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}: after 30s still {last:?}", metric.name);
    }
}

fn config(pods: &[(&Pod, &str, &str)]) -> String {
    let mut text =
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: agents\n  static_configs:\n"
            .to_owned();
    for (pod, agent, revision) in pods {
        let labels = match *revision {
            "" => "{}".to_owned(),
            revision => format!("{{namespace: support, agent: {agent}, revision: '{revision}'}}"),
        };
        writeln!(text, "  - {{targets: ['{}'], labels: {labels}}}", pod.address).unwrap();
    }
    text
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn run(binary: &str, dir: &Path, address: &str) -> tokio::process::Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    tokio::process::Command::new(binary)
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("PROMETHEUS_BIN={binary} cannot be started: {error}"))
}

fn standard(name: &str) -> MetricDefinition {
    standard_metrics().into_iter().find(|metric| metric.name == name).unwrap()
}

fn key(agent: &str, revision: &str) -> RevisionKey {
    RevisionKey { namespace: "support".to_owned(), agent: agent.to_owned(), revision: revision.to_owned() }
}

fn known(text: &str) -> Value {
    Value::Known(text.parse().unwrap())
}

fn at_most(metric: &str, high: &str) -> Question {
    Question {
        metric: standard(metric),
        window: Some(Duration::from_secs(30)),
        min_samples: 10,
        compare: Compare::Value,
        bounds: Bounds { low: None, high: Some(high.parse().unwrap()), floor: None },
    }
}

fn enough(reading: &Reading) -> bool {
    matches!(reading.samples, Some(Number::Exact(n)) if n >= Decimal::from(20))
}

#[tokio::test]
async fn every_standard_metric_brings_the_right_numbers() {
    let (first, second, stable) = (Pod::start(busy).await, Pod::start(busy).await, Pod::start(slow).await);
    let (dying, restarting) = (Pod::start(bypassing).await, Pod::start(bypassing).await);
    let prometheus = Prometheus::start(&[
        (&first, "refund", "0c0ffee000"),
        (&second, "refund", "0c0ffee000"),
        (&stable, "refund", "5ab1e00000"),
        (&dying, "dying", "0dead00000"),
        (&restarting, "restarting", "0a9a100000"),
        (&stable, "none", ""),
    ]);
    rates_and_quantiles(&prometheus).await;
    counts_and_gauges(&prometheus).await;
    events_outlive_their_pods(&prometheus, &dying, &restarting).await;
    a_preflight_names_what_is_missing(&prometheus).await;
    counts_and_gauges_tell_when_they_were_scraped(&prometheus).await;
    the_sampler_brings_it_to_a_verdict(&prometheus).await;
}

/// All of it is two pods' data: the shares are those of one, the numbers of events twice.
async fn rates_and_quantiles(prometheus: &Prometheus) {
    let canary = key("refund", "0c0ffee000");
    for (metric, value) in [
        ("success_rate", "0.9"),
        ("error_rate", "0.1"),
        ("latency_p95", "1.5"),
        ("tool_error_rate", "0.2"),
        ("cost_per_success", "1"),
        ("quarantine_rate", "0.1"),
        ("approval_wait_median", "60"),
    ] {
        let reading = prometheus.until(metric, &canary, |reading| enough(reading) && reading.pods == 2).await;
        assert_eq!(reading.value, known(value), "{metric}");
    }
    let stable = key("refund", "5ab1e00000");
    let beyond = prometheus.until("latency_p95", &stable, enough).await;
    assert_eq!(beyond.value, Value::Beyond(Decimal::TWO), "a tenth of the runs took longer than any bucket");
}

async fn counts_and_gauges(prometheus: &Prometheus) {
    let canary = key("refund", "0c0ffee000");
    for (metric, value) in [
        ("safety_blocks", known("6")),
        ("policy_bypasses", Value::Absent),
        ("unapproved_high_risk_actions", Value::Absent),
        ("approval_backlog_age", known("42")),
        ("runs_in_flight", known("6")),
    ] {
        let reading = prometheus.reading(&standard(metric), &canary).await.unwrap();
        let expected = Reading { value, samples: None, pods: 2 };
        assert_eq!(reading, expected, "{metric}");
    }
    let absent = prometheus.reading(&standard("policy_bypasses"), &canary).await.unwrap();
    let none = at_most("policy_bypasses", "0");
    assert_eq!(judge(&none, &absent, None, 2), (Verdict::Pass, "policy_bypasses 0 <= 0".to_owned()));
    assert_eq!(judge(&none, &absent, None, 3).0, Verdict::Insufficient, "one ready pod is not scraped");
    let covered: BTreeSet<String> = standard_metrics().into_iter().map(|metric| metric.name).collect();
    assert_eq!(covered.len(), 12, "a new standard metric belongs into the tables of this test");
}

async fn events_outlive_their_pods(prometheus: &Prometheus, dying: &Pod, restarting: &Pod) {
    let (dead, reborn) = (key("dying", "0dead00000"), key("restarting", "0a9a100000"));
    for key in [&dead, &reborn] {
        prometheus.until("policy_bypasses", key, |reading| reading.value == known("1")).await;
    }
    dying.show(None);
    restarting.show(Some(restarted));
    let gone = prometheus.until("policy_bypasses", &dead, |reading| reading.pods == 0).await;
    assert_eq!(gone.value, known("1"));
    assert_eq!(judge(&at_most("policy_bypasses", "0"), &gone, None, 0).0, Verdict::Fail);
    // Until the restarted container has been scraped.
    let mut raw = standard("policy_bypasses");
    let series = raw.count.take().unwrap().series;
    raw.gauge = Some(sluice::api::Gauge { series, across: sluice::api::Across::Max });
    let mut now = prometheus.reading(&raw, &reborn).await.unwrap();
    while now.value != known("0") {
        tokio::time::sleep(Duration::from_millis(100)).await;
        now = prometheus.reading(&raw, &reborn).await.unwrap();
    }
    let still = prometheus.reading(&standard("policy_bypasses"), &reborn).await.unwrap();
    assert_eq!(still.value, known("1"), "a reset counter does not undo what was seen");
}

/// Scrapes are a second apart: an answer is as old as the last one, and says so; of a counter that never counted too.
async fn counts_and_gauges_tell_when_they_were_scraped(prometheus: &Prometheus) {
    let client = Client::new(prometheus.source.clone()).unwrap();
    let asked = BTreeSet::from(["0c0ffee000".to_owned()]);
    for (metric, value, behind) in
        [("runs_in_flight", known("6"), 0), ("runs_in_flight", known("6"), 3), ("policy_bypasses", Value::Absent, 3)]
    {
        let metric = standard(metric);
        let query = Query::compile(&metric, None).unwrap();
        let at = Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(behind);
        let answer = client.ask(&query.text(client.source(), &support(), &asked), at).await.unwrap();
        let sample = answer.of(&key("refund", "0c0ffee000"));
        assert_eq!(sample.reading(&metric).value, value);
        let age = at.duration_since(sample.taken().unwrap()).as_secs_f64();
        let behind = std::time::Duration::from_secs(behind.unsigned_abs()).as_secs_f64();
        assert!(age >= behind && age <= behind + 4.0, "scraped {age}s before, asked {behind}s ahead");
    }
}

fn support() -> BTreeSet<String> {
    BTreeSet::from(["support".to_owned()])
}

async fn a_preflight_names_what_is_missing(prometheus: &Prometheus) {
    let client = Client::new(prometheus.source.clone()).unwrap();
    let query = Query::compile(&standard("policy_bypasses"), None).unwrap();
    let asked = BTreeSet::from(["0000000000".to_owned()]);
    let answer = client.ask(&query.text(client.source(), &support(), &asked), Timestamp::now()).await.unwrap();
    let said = preflight(client.source(), &answer, &key("refund", "0000000000")).unwrap();
    assert_eq!(said, "source default sees no pod of revision 0000000000: is it scraped?");

    let mut blind = prometheus.source.clone();
    "rev".clone_into(&mut blind.labels.revision);
    let answer = client.ask(&query.text(&blind, &support(), &asked), Timestamp::now()).await.unwrap();
    let said = preflight(&blind, &answer, &key("refund", "0000000000")).unwrap();
    assert!(said.contains("no series of up carry a revision (labels namespace, agent, rev)"), "{said}");
}

async fn the_sampler_brings_it_to_a_verdict(prometheus: &Prometheus) {
    let (wake, mut woken) = tokio::sync::mpsc::channel(8);
    let sources = vec![prometheus.source.clone()];
    let sampler = Arc::new(Sampler::new(sources, wake, SamplerMetrics::default(), Timestamp::now).unwrap());
    let ratio = Question { compare: Compare::RatioToStable, ..at_most("error_rate", "2") };
    let check = |name: &str| CheckName::Trigger(name.to_owned());
    let agent = ("support".to_owned(), "refund".to_owned());
    let watch = Watch {
        source: "default".to_owned(),
        interval: Duration::from_secs(1),
        canary: "0c0ffee000".to_owned(),
        stable: Some("5ab1e00000".to_owned()),
        draining: BTreeMap::new(),
        ready_pods: 2,
        questions: [(check("errors"), ratio), (check("slow"), at_most("latency_p95", "1.2"))].into(),
    };
    sampler.watch(agent.clone(), watch);
    let runner = Arc::clone(&sampler);
    let task = tokio::spawn(async move { runner.run(tokio_util::sync::CancellationToken::new()).await });
    while sampler.latest(&agent).len() < 2 {
        assert_eq!(woken.recv().await.as_ref(), Some(&agent));
    }
    let latest = sampler.latest(&agent);
    let slow = &latest[&check("slow")];
    assert_eq!(slow.verdict, Verdict::Fail);
    assert!(slow.message.starts_with("latency_p95 1.5s (n=") && slow.message.ends_with("> 1.2s"), "{slow:?}");
    let errors = &latest[&check("errors")];
    assert_eq!(errors.verdict, Verdict::Pass, "{errors:?}");
    assert!(errors.message.starts_with("error_rate canary=10% (n="), "{errors:?}");
    assert!(errors.message.ends_with("limit 20%"), "{errors:?}");
    task.abort();
}
