//! The load generator: real requests at a fixed rate, and an honest count of what became of each.
//!
//! It is an *open* loop: a slow answer does not slow the next request down, so that a stall cannot hide the requests
//! it would have hurt. It never retries. (The HTTP client below it does one thing of its own that cannot be turned
//! off: a request that waited for a kept connection which turned out closed, and of which no byte was written, goes
//! to a new connection. Nothing was lost there.)
//!
//! Every request ends as exactly one of:
//!
//! * **ok**: a 2xx that carries the agent's header `x-agent-revision`, read to its last byte;
//! * **agent error**: any other status with that header: the agent's own failure, not the launch machinery's;
//! * **lost**: everything else, see [`Cause`]. A gateway's own 502, 503 and 504 are here, for they lack the header.
//!
//! This module knows nothing of Kubernetes or Sluice.

use std::{
    collections::BTreeMap,
    error::Error as _,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use reqwest::{Client, StatusCode, Url, header};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};

/// The header by which the agent says which revision answered.
pub const REVISION_HEADER: &str = "x-agent-revision";

/// Losses are counted for ever; the details of only so many are kept.
const LOSSES_KEPT: usize = 1_000;

/// What to send, where, and how often.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to, for example `http://127.0.0.1:8000/run`. Plain HTTP.
    pub url: String,
    /// The Host header, if it is not the URL's: the hostname of the gateway's route.
    pub host: Option<String>,
    /// One more header, such as a route's rules match.
    pub header: Option<(String, String)>,
    /// Requests per second, 1 to 1000.
    pub rate: u32,
    /// How many kept-alive connections take turns.
    pub kept_connections: usize,
    /// Each so-many-th request opens a connection of its own; 0 is never.
    pub fresh_every: u64,
    /// A request without a whole answer after this long is lost.
    pub timeout: Duration,
    /// Kept connections are given up after this long unused. It must be well below the idle time-out of the server
    /// (Traefik: 180 s), or the server's closing races with a request, and that request counts as lost.
    pub idle_timeout: Duration,
    /// Above so many requests under way, ticks are skipped (and counted in [`Snapshot::skipped`]).
    pub max_in_flight: usize,
}

impl Config {
    /// 40 requests per second to `url`, a quarter of them on fresh connections.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            host: None,
            header: None,
            rate: 40,
            kept_connections: 4,
            fresh_every: 4,
            timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            max_in_flight: 512,
        }
    }

    /// The same with this Host header.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.header = Some((name.into(), value.into()));
        self
    }
}

/// Why a request counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// No connection could be made, or none in time.
    Connect,
    /// No whole answer within the time-out.
    TimeOut,
    /// The connection ended before the answer did: a reset, an end of file, half a body.
    Broken,
    /// Somebody answered with this status, but not the agent.
    NotTheAgent(u16),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::TimeOut => f.write_str("time-out"),
            Self::Broken => f.write_str("connection broken"),
            Self::NotTheAgent(status) => write!(f, "answered {status} by a gateway, not the agent"),
        }
    }
}

/// One lost request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When it was sent.
    pub sent: Timestamp,
    /// When it was known to be lost.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// Whether it had a connection of its own.
    pub fresh: bool,
    /// The client's words.
    pub detail: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = if self.fresh { "fresh" } else { "kept" };
        write!(f, "{:.3} {} on a {connection} connection", self.at, self.cause)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// What one revision answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// Answers with a 2xx.
    pub ok: u64,
    /// The agent's own failures.
    pub errors: u64,
    /// When its first answer was there, good or bad.
    pub first: Timestamp,
    /// When its latest answer was there, good or bad.
    pub last: Timestamp,
    /// When its first failure was there.
    pub first_error: Option<Timestamp>,
    /// When its latest failure was there.
    pub last_error: Option<Timestamp>,
    /// The time that all its answers took together.
    pub took: Duration,
}

impl Answers {
    /// All answers, good and bad.
    pub fn total(&self) -> u64 {
        self.ok + self.errors
    }

    /// How long an answer took on average.
    pub fn mean(&self) -> Duration {
        let total = u32::try_from(self.total()).unwrap_or(u32::MAX);
        self.took.checked_div(total).unwrap_or_default()
    }
}

/// What became of every request so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When the load began.
    pub started: Timestamp,
    /// When this was taken.
    pub at: Timestamp,
    /// Requests sent: those answered, lost, and under way.
    pub sent: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Ticks without a request, because too many were under way.
    pub skipped: u64,
    /// Answers by revision.
    pub revisions: BTreeMap<String, Answers>,
    /// How many requests were lost.
    pub lost: u64,
    /// The first thousand of them.
    pub losses: Vec<Lost>,
}

impl Snapshot {
    fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            at: now,
            sent: 0,
            in_flight: 0,
            skipped: 0,
            revisions: BTreeMap::new(),
            lost: 0,
            losses: Vec::new(),
        }
    }

    /// Answers of all revisions.
    pub fn answered(&self) -> u64 {
        self.revisions.values().map(Answers::total).sum()
    }

    /// How many requests were answered by `revision`, good or bad.
    pub fn answered_by(&self, revision: &str) -> u64 {
        self.revisions.get(revision).map_or(0, Answers::total)
    }

    /// The agents' own failures, of all revisions.
    pub fn errors(&self) -> u64 {
        self.revisions.values().map(|answers| answers.errors).sum()
    }

    /// Losses by cause, of those whose details were kept.
    pub fn losses_by_cause(&self) -> BTreeMap<Cause, u64> {
        let mut by_cause = BTreeMap::new();
        for lost in &self.losses {
            *by_cause.entry(lost.cause).or_default() += 1;
        }
        by_cause
    }

    fn record(&mut self, sent: Timestamp, took: Duration, fresh: bool, end: End) {
        self.in_flight -= 1;
        let at = Timestamp::now();
        match end {
            End::Answered { revision, ok } => {
                let answers = self.revisions.entry(revision).or_insert_with(|| Answers {
                    ok: 0,
                    errors: 0,
                    first: at,
                    last: at,
                    first_error: None,
                    last_error: None,
                    took: Duration::ZERO,
                });
                // Under the lock, so that times rise in the order of the records.
                answers.last = at;
                answers.took += took;
                if ok {
                    answers.ok += 1;
                } else {
                    answers.errors += 1;
                    answers.first_error.get_or_insert(at);
                    answers.last_error = Some(at);
                }
            }
            End::Lost { cause, detail } => {
                self.lost += 1;
                if self.losses.len() < LOSSES_KEPT {
                    self.losses.push(Lost { sent, at, cause, fresh, detail });
                }
            }
        }
    }
}

enum End {
    Answered { revision: String, ok: bool },
    Lost { cause: Cause, detail: String },
}

/// Load that is running. Dropping it cuts off the requests under way; [`Load::stop`] waits for them.
#[derive(Debug)]
pub struct Load {
    state: Arc<Mutex<Snapshot>>,
    stop: watch::Sender<bool>,
    pacer: JoinHandle<()>,
}

impl Load {
    /// Starts to send. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The configuration makes no sense: the URL, the Host header or the rate.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let target = Arc::new(Target::new(config)?);
        let state = Arc::new(Mutex::new(Snapshot::new(Timestamp::now())));
        let (stop, stopped) = watch::channel(false);
        let max_in_flight = u64::try_from(config.max_in_flight)?;
        let pacer = tokio::spawn(pace(target, state.clone(), config.rate, max_in_flight, stopped));
        Ok(Self { state, stop, pacer })
    }

    /// What became of every request so far.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = lock(&self.state).clone();
        snapshot.at = Timestamp::now();
        snapshot
    }

    /// Sends no more, waits for the requests under way (at most the time-out), and says what became of all.
    pub async fn stop(mut self) -> Snapshot {
        self.stop.send_replace(true);
        // It ends by itself; a panic in it is a bug that shows as requests in flight for ever.
        let _ = (&mut self.pacer).await;
        self.snapshot()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.pacer.abort();
    }
}

async fn pace(
    target: Arc<Target>,
    state: Arc<Mutex<Snapshot>>,
    rate: u32,
    max_in_flight: u64,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    // After a stall of this machine: no burst, which would be a load that nobody asked for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut requests = JoinSet::new();
    let mut number: u64 = 0;
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            _ = ticks.tick() => {}
        }
        // The set is emptied as it goes, or it would keep every finished task.
        while requests.try_join_next().is_some() {}
        {
            let mut state = lock(&state);
            if state.in_flight >= max_in_flight {
                state.skipped += 1;
                continue;
            }
            state.sent += 1;
            state.in_flight += 1;
        }
        number += 1;
        requests.spawn(request(target.clone(), state.clone(), number));
    }
    while requests.join_next().await.is_some() {}
}

async fn request(target: Arc<Target>, state: Arc<Mutex<Snapshot>>, number: u64) {
    let (client, fresh) = target.client(number);
    let (sent, began) = (Timestamp::now(), Instant::now());
    let end = match target.ask(client).await {
        Ok(end) => end,
        Err(error) => lost(&error),
    };
    lock(&state).record(sent, began.elapsed(), fresh, end);
}

/// Sends one request on a connection of its own, and says which revision answered it well. Counted nowhere.
///
/// # Errors
/// There was no good answer by the agent.
pub async fn probe(config: &Config) -> anyhow::Result<String> {
    let target = Target::new(config)?;
    match target.ask(&target.fresh).await? {
        End::Answered { revision, ok: true } => Ok(revision),
        End::Answered { revision, ok: false } => anyhow::bail!("revision {revision} answered with an error"),
        End::Lost { cause, detail } => anyhow::bail!("{cause}: {detail}"),
    }
}

/// Where requests go, and the connections they go on.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: Url,
    host: Option<header::HeaderValue>,
    header: Option<(header::HeaderName, header::HeaderValue)>,
    kept: Vec<Client>,
    fresh: Client,
    fresh_every: u64,
}

impl Target {
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let url = Url::parse(&config.url).with_context(|| format!("load: {:?} is not a URL", config.url))?;
        anyhow::ensure!(url.scheme() == "http", "load: {url} is not plain http");
        anyhow::ensure!((1..=1_000).contains(&config.rate), "load: a rate of {} per second", config.rate);
        anyhow::ensure!(config.kept_connections > 0, "load: no kept connection to send on");
        let host = config
            .host
            .as_deref()
            .map(header::HeaderValue::from_str)
            .transpose()
            .context("load: the host cannot be a header")?;
        let named = |(name, value): &(String, String)| anyhow::Ok((name.parse()?, value.parse()?));
        let header = config.header.as_ref().map(named).transpose().context("load: no such header can be sent")?;
        let kept = (0..config.kept_connections).map(|_| client(config, 1)).collect::<Result<_, _>>()?;
        Ok(Self { url, host, header, kept, fresh: client(config, 0)?, fresh_every: config.fresh_every })
    }

    fn client(&self, number: u64) -> (&Client, bool) {
        if self.fresh_every > 0 && number.is_multiple_of(self.fresh_every) {
            return (&self.fresh, true);
        }
        let turn = usize::try_from(number).unwrap_or_default() % self.kept.len();
        (&self.kept[turn], false)
    }

    /// Sends one request on a connection of its own; the body is not read yet.
    pub(crate) async fn send(&self) -> reqwest::Result<reqwest::Response> {
        self.post(&self.fresh).await
    }

    async fn post(&self, client: &Client) -> reqwest::Result<reqwest::Response> {
        let mut request = client.post(self.url.clone());
        if let Some(host) = &self.host {
            request = request.header(header::HOST, host.clone());
        }
        if let Some((name, value)) = &self.header {
            request = request.header(name, value);
        }
        request.send().await
    }

    async fn ask(&self, client: &Client) -> reqwest::Result<End> {
        let answer = self.post(client).await?;
        let status = answer.status();
        let revision =
            answer.headers().get(REVISION_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        // Half an answer is none.
        let body = answer.bytes().await?;
        Ok(match revision {
            Some(revision) => End::Answered { revision, ok: status.is_success() },
            None => not_the_agent(status, &body),
        })
    }
}

fn not_the_agent(status: StatusCode, body: &[u8]) -> End {
    let detail = String::from_utf8_lossy(body).trim().chars().take(80).collect();
    End::Lost { cause: Cause::NotTheAgent(status.as_u16()), detail }
}

/// A client of its own has a pool of its own: `idle` kept connections (0: each request opens and closes one).
fn client(config: &Config, idle: usize) -> anyhow::Result<Client> {
    // The TLS provider must exist even though only plain HTTP is spoken; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .tls_certs_only([])
        .timeout(config.timeout)
        .connect_timeout(config.timeout * 4 / 5)
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(config.idle_timeout)
        .build()
        .context("load: could not make the HTTP client")
}

fn lost(error: &reqwest::Error) -> End {
    // Connecting first: it can time out, too, and whoever looks for the loss must know which packets to look for.
    let cause = if error.is_connect() {
        Cause::Connect
    } else if error.is_timeout() {
        Cause::TimeOut
    } else {
        Cause::Broken
    };
    // The last cause says it best ("Connection reset by peer"); those above only say that there was one.
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        detail = error.to_string();
        source = error.source();
    }
    End::Lost { cause, detail }
}

/// A poisoned lock guards plain counts here: whatever is in them is whole.
fn lock(state: &Mutex<Snapshot>) -> MutexGuard<'_, Snapshot> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket, TcpStream},
        time::timeout,
    };

    use super::*;

    const TEAL: &str = "HTTP/1.1 200 OK\r\nx-agent-revision: teal\r\ncontent-length: 2\r\n\r\nok";
    const OCHRE_ERROR: &str =
        "HTTP/1.1 500 Internal Server Error\r\nx-agent-revision: ochre\r\ncontent-length: 2\r\n\r\n{}";
    const GATEWAY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 19\r\n\r\nno available server";
    const STRANGER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    const HALF: &str = "HTTP/1.1 200 OK\r\nx-agent-revision: teal\r\ncontent-length: 200\r\n\r\nha";

    /// What the server does with a connection's requests, in order; the last is repeated.
    #[derive(Clone, Copy)]
    enum Act {
        Say(&'static str),
        SayAndClose(&'static str),
        Reset,
        Hang,
    }

    struct Server {
        url: String,
        connections: Arc<AtomicUsize>,
        requests: Arc<AtomicUsize>,
        hosts: Arc<Mutex<Vec<String>>>,
    }

    /// Each request, counted over all connections, gets the next act.
    async fn serve(acts: &'static [Act]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            url: format!("http://{}/run", listener.local_addr().unwrap()),
            connections: Arc::default(),
            requests: Arc::default(),
            hosts: Arc::default(),
        };
        let (connections, requests, hosts) =
            (server.connections.clone(), server.requests.clone(), server.hosts.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(stream, acts, requests.clone(), hosts.clone()));
            }
        });
        server
    }

    async fn connection(
        mut stream: TcpStream,
        acts: &[Act],
        requests: Arc<AtomicUsize>,
        hosts: Arc<Mutex<Vec<String>>>,
    ) {
        while let Some(head) = head(&mut stream).await {
            let number = requests.fetch_add(1, Ordering::SeqCst);
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
            hosts.lock().unwrap().push(host);
            match acts[number.min(acts.len() - 1)] {
                Act::Say(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                Act::SayAndClose(answer) => return stream.write_all(answer.as_bytes()).await.unwrap(),
                Act::Reset => return stream.set_zero_linger().unwrap(),
                Act::Hang => tokio::time::sleep(Duration::from_mins(1)).await,
            }
        }
    }

    async fn head(stream: &mut TcpStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await.ok()?;
            head.push(byte);
        }
        Some(String::from_utf8(head).unwrap())
    }

    fn config(server: &Server) -> Config {
        Config { rate: 200, timeout: Duration::from_millis(300), ..Config::new(&server.url) }
    }

    async fn until(load: &Load, enough: impl Fn(&Snapshot) -> bool) {
        for _ in 0..500 {
            if enough(&load.snapshot()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still {:?}", load.snapshot());
    }

    async fn finished(config: &Config, requests: u64) -> Snapshot {
        let load = Load::start(config).unwrap();
        until(&load, |now| now.sent >= requests).await;
        let snapshot = load.stop().await;
        let accounted = snapshot.answered() + snapshot.lost;
        assert_eq!((snapshot.in_flight, snapshot.sent), (0, accounted), "{snapshot:?}");
        snapshot
    }

    #[tokio::test]
    async fn answers_are_counted_by_revision_and_outcome() {
        const ACTS: &[Act] = &[Act::Say(TEAL), Act::Say(OCHRE_ERROR), Act::Say(OCHRE_ERROR), Act::Say(TEAL)];
        let server = serve(ACTS).await;
        // Slowly, so that the answers come in the order of the requests.
        let config = Config { rate: 50, ..Config::new(&server.url) }.host("refunds.example");
        let snapshot = finished(&config, 20).await;
        assert_eq!((snapshot.lost, snapshot.errors()), (0, 2), "{snapshot:?}");
        let (teal, ochre) = (&snapshot.revisions["teal"], &snapshot.revisions["ochre"]);
        assert_eq!((teal.ok, teal.errors, teal.first_error), (snapshot.sent - 2, 0, None));
        assert_eq!((ochre.ok, ochre.errors), (0, 2));
        assert_eq!((ochre.first_error, ochre.last_error), (Some(ochre.first), Some(ochre.last)));
        assert!(snapshot.started < teal.first && teal.first < ochre.first && ochre.last < teal.last, "{snapshot:?}");
        assert!(server.hosts.lock().unwrap().iter().all(|host| host == "refunds.example"));
    }

    async fn lost_as(acts: &'static [Act], cause: Cause) -> Snapshot {
        let server = serve(acts).await;
        let snapshot = finished(&config(&server), 5).await;
        assert_eq!((snapshot.lost, snapshot.answered()), (snapshot.sent, 0), "{snapshot:?}");
        assert_eq!(snapshot.losses_by_cause(), BTreeMap::from([(cause, snapshot.sent)]), "{snapshot:?}");
        assert!(snapshot.losses.iter().all(|lost| snapshot.started <= lost.sent && lost.sent <= lost.at));
        // No retries: the server saw each request once.
        assert_eq!(u64::try_from(server.requests.load(Ordering::SeqCst)).unwrap(), snapshot.sent);
        snapshot
    }

    #[tokio::test]
    async fn a_gateways_own_answer_is_a_loss() {
        let snapshot = lost_as(&[Act::Say(GATEWAY)], Cause::NotTheAgent(503)).await;
        assert_eq!(snapshot.losses[0].detail, "no available server");
    }

    #[tokio::test]
    async fn a_good_answer_by_a_stranger_is_a_loss() {
        lost_as(&[Act::Say(STRANGER)], Cause::NotTheAgent(200)).await;
    }

    #[tokio::test]
    async fn a_reset_is_a_loss() {
        lost_as(&[Act::Reset], Cause::Broken).await;
    }

    #[tokio::test]
    async fn half_an_answer_is_a_loss() {
        lost_as(&[Act::SayAndClose(HALF)], Cause::Broken).await;
    }

    #[tokio::test]
    async fn a_time_out_is_a_loss() {
        let snapshot = lost_as(&[Act::Hang], Cause::TimeOut).await;
        let waited = snapshot.losses[0].at.duration_since(snapshot.losses[0].sent);
        assert!(waited.as_millis() >= 300, "{waited}");
    }

    #[tokio::test]
    async fn a_time_out_within_the_body_is_a_loss() {
        lost_as(&[Act::Say(HALF)], Cause::TimeOut).await;
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_loss() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/run", listener.local_addr().unwrap());
        drop(listener);
        let snapshot = finished(&Config { rate: 200, ..Config::new(url) }, 5).await;
        assert_eq!(snapshot.losses_by_cause(), BTreeMap::from([(Cause::Connect, snapshot.sent)]));
    }

    #[tokio::test]
    async fn a_connection_that_is_not_made_in_time_is_told_from_an_answer_that_does_not_come() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let nobody_accepts = socket.listen(1).unwrap();
        let address = nobody_accepts.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(stream.unwrap()); // until the queue is full
        }
        let config = Config::new(format!("http://{address}/run"));
        let snapshot = finished(&Config { rate: 200, timeout: Duration::from_millis(300), ..config }, 5).await;
        assert_eq!(snapshot.losses_by_cause(), BTreeMap::from([(Cause::Connect, snapshot.sent)]), "{snapshot:?}");
    }

    #[tokio::test]
    async fn one_reset_among_good_answers_is_one_loss() {
        let server = serve(&[Act::Say(TEAL), Act::Say(TEAL), Act::Reset, Act::Say(TEAL)]).await;
        let snapshot = finished(&config(&server), 20).await;
        assert_eq!((snapshot.lost, snapshot.answered()), (1, snapshot.sent - 1), "{snapshot:?}");
    }

    #[tokio::test]
    async fn connections_are_kept_and_fresh_as_asked() {
        let server = serve(&[Act::Say(TEAL)]).await;
        let config = Config { rate: 50, kept_connections: 2, fresh_every: 5, ..Config::new(&server.url) };
        let snapshot = finished(&config, 20).await;
        let fresh = usize::try_from(snapshot.sent / 5).unwrap();
        assert_eq!(server.connections.load(Ordering::SeqCst), 2 + fresh, "{snapshot:?}");
    }

    #[tokio::test]
    async fn slow_answers_do_not_slow_the_load_down() {
        let server = serve(&[Act::Hang]).await;
        let load = Load::start(&Config { rate: 100, ..Config::new(&server.url) }).unwrap();
        until(&load, |now| now.in_flight >= 30).await;
        assert!(load.snapshot().answered() + load.snapshot().lost == 0);
    }

    #[tokio::test]
    async fn too_many_under_way_are_skipped_and_counted() {
        let server = serve(&[Act::Hang]).await;
        let load = Load::start(&Config { max_in_flight: 3, ..config(&server) }).unwrap();
        until(&load, |now| now.skipped >= 3).await;
        assert!(load.snapshot().in_flight <= 3);
    }

    #[tokio::test]
    async fn a_probe_says_who_answered_well() {
        let server = serve(&[Act::Say(TEAL), Act::Say(OCHRE_ERROR), Act::Say(GATEWAY)]).await;
        let config = config(&server);
        assert_eq!(probe(&config).await.unwrap(), "teal");
        assert_eq!(probe(&config).await.unwrap_err().to_string(), "revision ochre answered with an error");
        let gateway = probe(&config).await.unwrap_err().to_string();
        assert_eq!(gateway, "answered 503 by a gateway, not the agent: no available server");
    }

    #[tokio::test]
    async fn nonsense_is_refused_at_the_start() {
        for (config, message) in [
            (Config::new("refunds"), "is not a URL"),
            (Config::new("https://refunds.example"), "is not plain http"),
            (Config { rate: 0, ..Config::new("http://127.0.0.1") }, "a rate of 0"),
            (Config::new("http://127.0.0.1").host("a\nb"), "cannot be a header"),
        ] {
            let error = Load::start(&config).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
