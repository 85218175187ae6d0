//! A metrics source that misbehaves on purpose: a server of Prometheus' query API in this process, on the address at which
//! pods reach the host. What it does is set for each agent, so that tests do not disturb each other.
//!
//! An agent is recognised by its series: every test gives its metric a series name of its own. Threads and not tasks,
//! because it serves all tests, and each of them has a runtime of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};

/// How the source answers the questions about one agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    /// Many events, this share of them good (stable) or good (canary): both the same.
    Good(f64),
    /// No answer before any time-out.
    Slow,
    /// This HTTP status, without a body.
    Status(u16),
    /// A redirect to somewhere else on this server, where everything would be fine.
    Redirect,
    /// Every number is `NaN`.
    NotANumber,
    /// A good answer without any row.
    Empty,
    /// Every row twice, under a label that was not asked for.
    Twice,
    /// The connection is closed without an answer.
    Broken,
    /// Something that is no JSON.
    Garbage,
    /// `status: error`, as Prometheus says it when a query cannot be executed.
    Failed,
    /// Events of all revisions, but the canary's label is empty.
    Nameless,
}

#[derive(Clone, Debug)]
struct Subject {
    namespace: String,
    agent: String,
    mood: Mood,
    /// Revisions that were asked about, in order of their first question.
    asked: Vec<String>,
    /// Questions so far.
    questions: u64,
}

/// The server; there is one for all tests of the process.
#[derive(Clone, Debug)]
pub struct Fake {
    subjects: Arc<Mutex<BTreeMap<String, Subject>>>,
}

static FAKE: OnceLock<Result<Fake, String>> = OnceLock::new();

impl Fake {
    /// The server, started with the first call.
    pub fn get(address: SocketAddr) -> anyhow::Result<Self> {
        FAKE.get_or_init(|| Self::serve(address).map_err(|error| format!("{error:#}"))).clone().map_err(|e| anyhow!(e))
    }

    fn serve(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("could not listen on {address}: does another run of these tests go on?"))?;
        let fake = Self { subjects: Arc::default() };
        let serving = fake.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let fake = serving.clone();
                std::thread::spawn(move || fake.answer(connection));
            }
        });
        Ok(fake)
    }

    /// From now on, questions that name `series` are about this agent and are answered in this mood.
    pub fn set(&self, series: &str, namespace: &str, agent: &str, mood: Mood) {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let subject = subjects.entry(series.to_owned()).or_insert_with(|| Subject {
            namespace: namespace.to_owned(),
            agent: agent.to_owned(),
            mood,
            asked: Vec::new(),
            questions: 0,
        });
        subject.mood = mood;
    }

    /// How often it was asked about a series.
    pub fn questions(&self, series: &str) -> u64 {
        let subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        subjects.get(series).map_or(0, |subject| subject.questions)
    }

    fn subject(&self, query: &str) -> Option<Subject> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, subject) = subjects.iter_mut().find(|(series, _)| query.contains(series.as_str()))?;
        subject.questions += 1;
        for revision in revisions(query) {
            if !subject.asked.contains(&revision) {
                subject.asked.push(revision);
            }
        }
        Some(subject.clone())
    }

    /// One request for each connection. What goes wrong here shows as an error of the source, which is what it is for.
    fn answer(&self, mut connection: TcpStream) {
        let Some((path, body)) = request(&connection) else { return };
        let query = unescape(&body);
        let subject = self.subject(&query);
        let mood = subject.as_ref().map_or(Mood::Empty, |subject| subject.mood);
        let elsewhere = path.starts_with("/elsewhere");
        let (status, more, body) = match (mood, &subject) {
            (Mood::Slow, _) => {
                std::thread::sleep(Duration::from_secs(20));
                return;
            }
            (Mood::Broken, _) => return,
            (Mood::Status(status), _) => (status, String::new(), String::new()),
            (Mood::Redirect, _) if !elsewhere => (307, format!("Location: /elsewhere{path}\r\n"), String::new()),
            (Mood::Garbage, _) => (200, String::new(), "<html>please log in</html>".to_owned()),
            (Mood::Failed, _) => (
                422,
                String::new(),
                r#"{"status":"error","errorType":"execution","error":"too many samples"}"#.to_owned(),
            ),
            (_, Some(subject)) => (200, String::new(), vector(subject, &query)),
            (_, None) => {
                (200, String::new(), r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#.to_owned())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\n{more}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()));
    }
}

/// The rows of an answer about one agent.
fn vector(subject: &Subject, query: &str) -> String {
    let good = if let Mood::Good(share) = subject.mood { share } else { 1.0 };
    let mut rows = Vec::new();
    for revision in revisions(query) {
        let revision = if subject.mood == Mood::Nameless { String::new() } else { revision };
        for (part, number) in [("amount", 1000.0 * good), ("samples", 1000.0), ("value", 1000.0 * good), ("pods", 9.0)]
        {
            if !query.contains(&format!("\"{part}\"")) {
                continue;
            }
            let number = if subject.mood == Mood::NotANumber { "NaN".to_owned() } else { number.to_string() };
            let row = |more: &str| {
                format!(
                    r#"{{"metric":{{"namespace":"{}","agent":"{}","revision":"{revision}","sluice_part":"{part}"{more}}},"value":[1,"{number}"]}}"#,
                    subject.namespace, subject.agent
                )
            };
            match subject.mood {
                Mood::Empty => {}
                Mood::Twice => rows.extend([row(r#","replica":"a""#), row(r#","replica":"b""#)]),
                _ => rows.push(row("")),
            }
        }
    }
    format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#, rows.join(","))
}

/// The revisions that a query asks about: `revision=~"a|b"`.
fn revisions(query: &str) -> BTreeSet<String> {
    let parts = query.split("revision=~\"").skip(1).filter_map(|rest| rest.split('"').next());
    parts.flat_map(|list| list.split('|')).map(str::to_owned).collect()
}

/// Path and body of a request.
fn request(connection: &TcpStream) -> Option<(String, String)> {
    connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, String::from_utf8(body).ok()?))
}

/// The text behind `application/x-www-form-urlencoded`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let number = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(number.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
