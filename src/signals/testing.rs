//! A metrics source that answers as a test wants it to. In this process, on loopback.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::source::{Source, parse_sources};

/// What the source does with the next requests.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Status, more headers, body.
    Http(u16, &'static str, String),
    /// Answers like `vector`, but only when told so.
    Held(Arc<Notify>, String),
    /// Refuses every query that names this revision with this status, and answers all others with this body.
    Refuses(&'static str, u16, String),
    /// Takes the request and never answers.
    Hang,
    /// Sends headers and a part of the body, then nothing.
    HangInside,
    /// Closes the connection in the middle of the answer.
    Break,
    /// Sends a body without end.
    Endless,
}

/// The source.
pub(super) struct Fake {
    url: String,
    reply: Arc<Mutex<Reply>>,
    requests: watch::Receiver<Vec<String>>,
}

impl Fake {
    pub(super) async fn start(reply: Reply) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default(); // another test was first
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let reply = Arc::new(Mutex::new(reply));
        let (seen, requests) = watch::channel(Vec::new());
        let replies = Arc::clone(&reply);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&replies), seen.clone()));
            }
        });
        Self { url, reply, requests }
    }

    /// A source that answers with these rows: revision, part, value.
    pub(super) async fn of(rows: &[(&str, &str, &str)]) -> Self {
        Self::start(vector(rows)).await
    }

    pub(super) fn set(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// The configured source, with more fields.
    pub(super) fn source(&self, more: &str) -> Source {
        let yaml = format!("[{{name: default, url: '{}'{more}}}]", self.url);
        parse_sources(&yaml).unwrap().remove(0)
    }

    /// All requests so far, head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }

    /// Waits until there were so many requests.
    pub(super) async fn asked(&self, times: usize) {
        let mut requests = self.requests.clone();
        requests.wait_for(|seen| seen.len() >= times).await.unwrap();
    }
}

/// The answer with these rows of agent `support/refund`: revision, part, value.
pub(super) fn vector(rows: &[(&str, &str, &str)]) -> Reply {
    Reply::Http(200, "", body(rows))
}

/// The body of that answer.
pub(super) fn body(rows: &[(&str, &str, &str)]) -> String {
    let rows: Vec<String> = rows
        .iter()
        .map(|(revision, part, value)| {
            format!(r#"{{"metric":{{"namespace":"support","agent":"refund","revision":"{revision}","sluice_part":"{part}"}},"value":[1,"{value}"]}}"#)
        })
        .collect();
    format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#, rows.join(","))
}

async fn serve(mut stream: TcpStream, reply: Arc<Mutex<Reply>>, seen: watch::Sender<Vec<String>>) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    seen.send_modify(|requests| requests.push(request.clone()));
    let reply = match reply.lock().unwrap().clone() {
        Reply::Refuses(named, status, _) if request.contains(named) => Reply::Http(status, "", String::new()),
        Reply::Refuses(_, _, body) => Reply::Http(200, "", body),
        other => other,
    };
    let head = |status: u16, more: &str| format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{more}\r\n");
    match reply {
        Reply::Hang => std::future::pending::<()>().await,
        Reply::Held(until, body) => {
            until.notified().await;
            let length = format!("content-length: {}\r\n", body.len());
            let _ = stream.write_all((head(200, &length) + &body).as_bytes()).await;
        }
        Reply::HangInside => {
            let text = head(200, "content-length: 100\r\n") + "{";
            let _ = stream.write_all(text.as_bytes()).await;
            std::future::pending::<()>().await;
        }
        Reply::Break => {
            let text = head(200, "content-length: 100\r\n") + "{";
            let _ = stream.write_all(text.as_bytes()).await;
        }
        Reply::Endless => {
            let _ = stream.write_all(head(200, "").as_bytes()).await;
            while stream.write_all(&[b' '; 1 << 13]).await.is_ok() {}
        }
        Reply::Refuses(..) => {} // one of the others by now
        Reply::Http(status, more, body) => {
            let length = format!("content-length: {}\r\n{more}", body.len());
            let _ = stream.write_all((head(status, &length) + &body).as_bytes()).await;
        }
    }
}

/// Reads a request to its end.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}
