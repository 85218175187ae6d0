//! The client of a Prometheus query API. It goes to the administrator's URL and nowhere else, once, for a bounded time
//! and a bounded answer.
//!
//! Errors never hold what was answered, where it was sent or what was sent with it: they are shown to users who may not
//! see any of that.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use prometheus_http_query::{Client as Queries, Error as QueriesError};
use reqwest::header::{AUTHORIZATION, HeaderValue};

use super::sample::{Answer, AnswerError};
use super::source::Source;

/// The largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;
/// Connecting takes no longer, whatever the query may take.
const CONNECT: Duration = Duration::from_secs(3);

/// A client of one source.
#[derive(Clone)]
pub struct Client {
    source: Source,
    queries: Queries,
}

/// Why a source did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made: at start only.
    #[error("metrics source {source_name:?}: {problem}")]
    Setup {
        /// Name of the source.
        source_name: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// No answer in time.
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    /// No connection.
    #[error("connection refused or not possible")]
    Refused,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// An answer that is none.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The answer could not be read.
    #[error("answer not understood: {0}")]
    NotUnderstood(#[from] AnswerError),
    /// The answer is larger than Sluice reads.
    #[error("answer larger than {} MiB", MAX_ANSWER >> 20)]
    TooLarge,
    /// The token could not be read.
    #[error("bearerTokenFile cannot be read or holds no token")]
    Token,
}

impl ClientError {
    /// A word for counters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Setup { .. } => "setup",
            Self::TimedOut(_) => "timeout",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Status(_) => "status",
            Self::NotUnderstood(_) => "answer",
            Self::TooLarge => "size",
            Self::Token => "token",
        }
    }
}

impl Client {
    /// Makes the client of a source. The process' TLS provider must have been installed before.
    pub fn new(source: Source) -> Result<Self, ClientError> {
        let queries = http(&source)
            .and_then(|http| {
                Queries::from(http, source.url.as_str()).map_err(|_| "url: not usable: correct it".to_owned())
            })
            .map_err(|problem| ClientError::Setup { source_name: source.name.clone(), problem })?;
        Ok(Self { source, queries })
    }

    /// The source it asks.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Asks a query, evaluated at an instant.
    pub async fn ask(&self, query: &str, at: Timestamp) -> Result<Answer, ClientError> {
        let timeout = self.source.timeout;
        let body =
            tokio::time::timeout(timeout, self.body(query, at)).await.map_err(|_| ClientError::TimedOut(timeout))??;
        Ok(Answer::parse(&body, &self.source.labels)?)
    }

    async fn body(&self, query: &str, at: Timestamp) -> Result<Vec<u8>, ClientError> {
        let timeout = self.source.timeout;
        let mut request = self
            .queries
            .query(query)
            .query("time", seconds(at))
            .timeout(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
        if let Some(token) = self.token().await? {
            request = request.header(AUTHORIZATION, token);
        }
        let mut response = request.post_raw().await.map_err(|error| match &error {
            QueriesError::Client(client) => failure(client.inner(), timeout),
            _ => ClientError::Broken,
        })?;
        if !response.status().is_success() {
            return Err(ClientError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failure(Some(&error), timeout))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(ClientError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn token(&self) -> Result<Option<HeaderValue>, ClientError> {
        let Some(file) = self.source.bearer_token_file.clone() else {
            return Ok(None);
        };
        let text = tokio::task::spawn_blocking(move || std::fs::read_to_string(file))
            .await
            .map_err(|_| ClientError::Token)?
            .map_err(|_| ClientError::Token)?;
        let token = text.trim();
        if token.is_empty() {
            return Err(ClientError::Token);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Our HTTP client: theirs has no time-outs, follows redirects and retries.
fn http(source: &Source) -> Result<reqwest::Client, String> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err("no TLS provider is installed in this process".to_owned());
    }
    let mut builder = reqwest::Client::builder()
        .timeout(source.timeout)
        .connect_timeout(CONNECT.min(source.timeout))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
    if let Some(file) = &source.ca_file {
        let wrong = |why: String| format!("caFile {}: {why}: it must hold PEM certificates", file.display());
        let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let trusted = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
        if trusted.is_empty() {
            return Err(wrong("no certificate found".to_owned()));
        }
        builder = builder.tls_certs_only(trusted);
    } else if source.url.scheme() == "http" {
        builder = builder.tls_certs_only([]); // no TLS, so no trust: an image without certificates is enough
    }
    let mend = "an https source needs caFile in an image without certificates";
    builder.build().map_err(|error| format!("the HTTP client cannot be made ({mend}): {error}"))
}

fn failure(error: Option<&reqwest::Error>, timeout: Duration) -> ClientError {
    match error {
        Some(error) if error.is_timeout() && error.is_connect() => ClientError::TimedOut(CONNECT.min(timeout)),
        Some(error) if error.is_timeout() => ClientError::TimedOut(timeout),
        Some(error) if error.is_connect() => ClientError::Refused,
        _ => ClientError::Broken,
    }
}

/// An instant as Prometheus reads it: seconds with milliseconds.
fn seconds(at: Timestamp) -> String {
    let millis = at.as_millisecond();
    format!("{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{RevisionKey, Sample};
    use super::super::testing::{Fake, Reply, vector};
    use super::*;
    use std::io::Write as _;

    const AT: &str = "2026-11-21T02:00:00.25Z";

    async fn ask(fake: &Fake, more: &str) -> Result<Answer, ClientError> {
        let client = Client::new(fake.source(more)).unwrap();
        client.ask("up{a=\"b\"} or c", AT.parse().unwrap()).await
    }

    fn http(status: u16, more: &'static str, body: &str) -> Reply {
        Reply::Http(status, more, body.to_owned())
    }

    #[tokio::test]
    async fn a_query_is_sent_with_its_instant_and_its_deadline() {
        let fake = Fake::of(&[("teal", "value", "4")]).await;
        let answer = ask(&fake, ", timeout: 2s").await.unwrap();
        let key =
            RevisionKey { namespace: "support".to_owned(), agent: "refund".to_owned(), revision: "teal".to_owned() };
        assert_ne!(answer.of(&key), Sample::default());
        let request = fake.requests().remove(0);
        assert!(request.starts_with("POST /api/v1/query HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("query=up%7Ba%3D%22b%22%7D+or+c&time=1795226400.250&timeout=2000ms"), "{request}");
        assert!(!request.to_ascii_lowercase().contains("authorization"), "{request}");
    }

    #[tokio::test]
    async fn every_fault_has_its_kind_and_tells_nothing_of_the_answer() {
        let fake = Fake::of(&[]).await;
        let redirect = "location: http://127.0.0.1:1/secret\r\n";
        for (reply, expected) in [
            (Reply::Hang, "timed out after 300ms"),
            (Reply::HangInside, "timed out after 300ms"),
            (Reply::Break, "the connection broke"),
            (http(500, "", "secret"), "HTTP status 500"),
            (http(401, "", "secret"), "HTTP status 401"),
            (http(422, "", r#"{"status":"error","error":"secret"}"#), "HTTP status 422"),
            (http(302, redirect, "secret"), "HTTP status 302"),
            (http(307, redirect, "secret"), "HTTP status 307"),
            (http(200, "", "<html>secret"), "answer not understood: it is not the answer of a Prometheus query API"),
            (
                http(200, "", r#"{"status":"error","error":"secret"}"#),
                "answer not understood: the source reports an error",
            ),
        ] {
            fake.set(reply.clone());
            let before = fake.requests().len();
            // Short only where nothing comes, so that a busy machine does not fail the test.
            let hangs = matches!(reply, Reply::Hang | Reply::HangInside);
            let more = if hangs { ", timeout: 300ms" } else { ", timeout: 30s" };
            let error = ask(&fake, more).await.unwrap_err();
            assert_eq!(error.to_string(), expected, "{reply:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            assert_eq!(fake.requests().len(), before + 1, "no retry, no redirect: {reply:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let fake = Fake::start(Reply::Endless).await;
        assert_eq!(ask(&fake, ", timeout: 30s").await, Err(ClientError::TooLarge));
    }

    #[tokio::test]
    async fn a_source_that_is_not_there_refuses() {
        let fake = Fake::of(&[]).await;
        let mut source = fake.source("");
        source.url = "http://127.0.0.1:1".parse().unwrap();
        let client = Client::new(source).unwrap();
        let refused = client.ask("up", AT.parse().unwrap()).await;
        assert_eq!(refused, Err(ClientError::Refused));
    }

    #[tokio::test]
    async fn the_token_is_read_for_each_query_and_never_shown() {
        let path = std::env::temp_dir().join(format!("sluice-token-{}", std::process::id()));
        let write = |text: &str| {
            std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        let fake = Fake::start(vector(&[])).await;
        let more = format!(", bearerTokenFile: {}", path.display());
        let client = Client::new(fake.source(&more)).unwrap();
        for token in ["first", "second"] {
            write(&format!("{token}\n"));
            client.ask("up", AT.parse().unwrap()).await.unwrap();
            let request = fake.requests().pop().unwrap();
            assert!(request.contains(&format!("authorization: Bearer {token}\r\n")), "{request}");
        }
        for wrong in ["", " \n", "two\nlines"] {
            write(wrong);
            let error = client.ask("up", AT.parse().unwrap()).await.unwrap_err();
            assert_eq!(error, ClientError::Token, "{wrong:?}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = client.ask("up", AT.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), "bearerTokenFile cannot be read or holds no token");
        assert_eq!(fake.requests().len(), 2, "nothing is asked without the token");
    }

    #[tokio::test]
    async fn a_wrong_ca_file_is_told_at_start() {
        let fake = Fake::of(&[]).await;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (more, expected) in [
            (", caFile: /nowhere".to_owned(), "caFile /nowhere: No such file"),
            (format!(", caFile: {file}"), "no certificate found: it must hold PEM certificates"),
        ] {
            let error = Client::new(fake.source(&more)).err().unwrap().to_string();
            assert!(error.starts_with("metrics source \"default\": caFile"), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}
