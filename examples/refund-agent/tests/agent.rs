//! The agent as its users meet it: a process with a configuration folder, HTTP, and signals.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: clippy's exemption covers only the test functions"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(name: &str, faults: Option<&str>) -> Command {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("refund-agent-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("prompt.txt"), "Refund exactly what the order cost.\n").unwrap();
    if let Some(faults) = faults {
        fs::write(dir.join("faults.json"), faults).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_refund-agent"));
    command
        .env("AGENT_PROMPT_DIR", dir)
        .env("AGENT_LISTEN", "127.0.0.1:0")
        .env("HOSTNAME", "refund-agent-7f3c91-x")
        .env("SLUICE_REVISION", "7f3c91");
    command
}

fn start(name: &str, faults: Option<&str>) -> Running {
    let mut child = command(name, faults).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.split("listens on ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    // The rest of its output must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Running { child, address }
}

/// One request on its own connection, which the server may not keep.
fn ask(address: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    send(&mut stream, method, path, "close");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

fn send(stream: &mut TcpStream, method: &str, path: &str, connection: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: refunds.example\r\nConnection: {connection}\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
}

fn terminate(agent: &Running) {
    let status = Command::new("kill").arg("-TERM").arg(agent.child.id().to_string()).status().unwrap();
    assert!(status.success());
}

fn exit_code(agent: &mut Running) -> Option<i32> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if let Some(status) = agent.child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the agent did not exit");
}

#[test]
fn a_run_answers_who_it_is_and_what_it_cost() {
    let agent = start("healthy", None);
    for method in ["GET", "POST"] {
        let (status, answer) = ask(&agent.address, method, "/run");
        assert_eq!(status, 200, "{answer}");
        for part in
            ["x-agent-revision: 7f3c91", r#""outcome":"success""#, r#""who":"refund-agent-7f3c91-x""#, "cost_usd"]
        {
            assert!(answer.contains(part), "no {part} in {answer}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/nowhere"] {
        let (status, answer) = ask(&agent.address, "GET", path);
        assert_eq!(status, if path == "/nowhere" { 404 } else { 200 }, "{answer}");
        assert!(answer.contains("x-agent-revision: 7f3c91"), "{answer}");
    }
}

#[test]
fn a_bad_prompt_fails_runs_and_not_probes() {
    let agent = start("errors", Some(r#"{"error_rate": 1}"#));
    let (status, answer) = ask(&agent.address, "POST", "/run");
    assert_eq!(status, 500);
    assert!(answer.contains("x-agent-revision: 7f3c91") && answer.contains(r#""outcome":"error""#), "{answer}");
    assert_eq!(ask(&agent.address, "GET", "/healthz").0, 200);
    assert_eq!(ask(&agent.address, "GET", "/readyz").0, 200);
}

#[test]
fn a_streamed_run_tells_its_steps_and_ends_whole_after_sigterm() {
    let mut agent = start("stream", None);
    let mut stream = TcpStream::connect(&agent.address).unwrap();
    send(&mut stream, "POST", "/runs/stream?seconds=5", "close");
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().starts_with("step 1 of 5")));
    let (_, page) = ask(&agent.address, "GET", "/metrics");
    assert!(page.contains("agent_runs_in_flight 1"), "{page}");
    terminate(&agent);
    assert!(lines.any(|line| line.unwrap() == "done"), "the run was cut");
    assert_eq!(exit_code(&mut agent), Some(0));
    let agent = start("stream-too-long", None);
    assert_eq!(ask(&agent.address, "GET", "/runs/stream?seconds=long").0, 400);
}

#[test]
fn unready_fails_readiness_alone() {
    let agent = start("unready", Some(r#"{"unready": true}"#));
    assert_eq!(ask(&agent.address, "GET", "/readyz").0, 503);
    assert_eq!(ask(&agent.address, "GET", "/healthz").0, 200);
    assert_eq!(ask(&agent.address, "GET", "/run").0, 200);
}

#[test]
fn it_crashes_after_as_many_runs_as_asked_or_at_start() {
    let mut agent = start("crash", Some(r#"{"crash_after": 2}"#));
    assert_eq!(ask(&agent.address, "GET", "/run").0, 200);
    assert_eq!(ask(&agent.address, "GET", "/run").0, 200);
    assert_eq!(exit_code(&mut agent), Some(1));

    let output = command("crash-at-start", Some(r#"{"crash_after": 0}"#)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("crash_after is 0"), "{output:?}");
}

#[test]
fn malformed_faults_end_the_start_and_name_the_key() {
    let output = command("malformed", Some(r#"{"error_rate": "lots"}"#)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(r#"faults.json: error_rate: must be a share from 0 to 1, found "lots""#), "{message}");
}

#[test]
fn sigterm_lets_runs_finish_and_serves_latecomers() {
    let mut agent = start("drain", Some(r#"{"latency_ms": 4000}"#));
    let mut idle = TcpStream::connect(&agent.address).unwrap();
    send(&mut idle, "GET", "/healthz", "keep-alive");
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).unwrap() > 0);

    let mut under_way = TcpStream::connect(&agent.address).unwrap();
    send(&mut under_way, "POST", "/run", "keep-alive");
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    terminate(&agent);
    std::thread::sleep(Duration::from_millis(300));

    // Who still comes is served, told that it is ready, and asked to use another connection next.
    assert_eq!(ask(&agent.address, "GET", "/readyz").0, 200);
    let mut latecomer = TcpStream::connect(&agent.address).unwrap();
    send(&mut latecomer, "GET", "/healthz", "keep-alive");
    let mut answer = String::new();
    latecomer.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");

    let mut answer = String::new();
    under_way.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""outcome":"success""#), "{answer}");
    // The idle connection is closed in good order: an end of file, no reset.
    assert_eq!(idle.read(&mut buffer).unwrap(), 0);
    assert_eq!(exit_code(&mut agent), Some(0));
    assert!(asked.elapsed() >= Duration::from_secs(3), "stopped after {:?}", asked.elapsed());
}
