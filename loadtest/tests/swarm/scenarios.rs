//! Scenarios as they are run: clients that leave, break off, stop reading; results of several hosts; the page.

use crate::{
    server::{SECRET, Server},
    tls,
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};
use tempfile::TempDir;

struct Run {
    child: Child,
    dir: TempDir,
}

/// Starts a scenario (its text) against a server.
fn run(server: &Server, scenario: &str, arguments: &[&str]) -> Run {
    let target = format!("ws://{}", server.address);
    start(
        server,
        Some(scenario),
        &[&["--target", &target], arguments].concat(),
    )
}

fn start(server: &Server, scenario: Option<&str>, arguments: &[&str]) -> Run {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarm"));
    if let Some(text) = scenario {
        command.arg("run").arg(file("scenario.toml", text));
    }
    command
        .arg("--secret-file")
        .arg(file("secret", SECRET))
        .args(["--post-url", &format!("http://{}", server.address)])
        .arg("--api-key-file")
        .arg(file("key", "k"))
        .arg("--json")
        .arg(dir.path().join("result"))
        .arg("--html")
        .arg(dir.path().join("page"))
        .args(["--backoff-ms", "20", "--hole-wait-ms", "50"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Run {
        child: command.spawn().expect("the tool starts"),
        dir,
    }
}

impl Run {
    fn end(&mut self) -> (ExitStatus, Value) {
        let status = self.child.wait().expect("it ends");
        let result = std::fs::read_to_string(self.result()).expect("written");
        (status, serde_json::from_str(&result).expect("JSON"))
    }

    fn result(&self) -> PathBuf {
        self.dir.path().join("result")
    }

    fn page(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("page")).expect("written")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const HEAD: &str = "about = 'a test'\nusers = 4\nduration_s = 2\n";
const TO_USERS: &str = "[[send]]\nrate = 20.0\nsize = 5\n";
const TO_ALL: &str = "[[send]]\nto = 'all'\nrate = 5.0\nsize = 5\n";

#[test]
fn clients_that_leave_come_back_and_get_everything() {
    let server = Server::start();
    let churn = "[churn]\nrate = 10.0\naway_ms = 50\n";
    let mut run = run(&server, &format!("{HEAD}{TO_USERS}{churn}"), &[]);
    let (status, result) = run.end();
    assert!(status.success(), "{result:#}");
    let counters = &result["counters"];
    assert!(counters["left"].as_u64() > Some(5), "{result:#}");
    assert!(counters["reconnects"].as_u64() > Some(5), "{result:#}");
    assert_eq!(result["posted"]["accepted"], 40);
    assert_eq!(
        result["return_ms"],
        json!(null),
        "who leaves on purpose was not lost"
    );
}

#[test]
fn nothing_is_expected_of_clients_that_are_still_away_as_they_were_told() {
    let server = Server::start();
    let long = "[churn]\nrate = 10.0\naway_ms = 60_000\n";
    let scenario = format!("{HEAD}{TO_ALL}{long}");
    let mut run = run(&server, &scenario, &["--give-up-s", "1"]);
    let (status, result) = run.end();
    assert!(status.success(), "{result:#}");
    assert!(result["away"].as_u64() > Some(0), "{result:#}");
    assert_eq!(
        (&result["unsynced"], &result["missing"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn why_nobody_gets_in_is_said_while_they_try() {
    let server = Server::start();
    let front = tls::Front::start(&server.address);
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = port.local_addr().expect("bound").to_string();
    drop(port);
    for (url, why) in [
        (format!("wss://{}", front.address), "--ca-file"),
        (format!("ws://{closed}"), "connection refused"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).expect("written");
        let child = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .args(["run", "idle", "--clients", "2", "--target", &url])
            .arg("--secret-file")
            .arg(secret)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        let mut run = Run { child, dir };
        let lines = BufReader::new(run.child.stderr.take().expect("piped")).lines();
        let said = lines
            .map_while(Result::ok)
            .find(|line| line.contains("does not get in"));
        let said = said.expect("the reason");
        assert!(said.contains(why) && said.contains("127.0.0.1:"), "{said}");
    }
}

#[test]
fn a_storm_breaks_every_connection_once_and_all_return() {
    let server = Server::start();
    let storm = "[storm]\nat_s = 1.0\n";
    let mut run = run(&server, &format!("{HEAD}{TO_USERS}{storm}"), &[]);
    let (status, result) = run.end();
    assert!(status.success(), "{result:#}");
    assert_eq!(result["counters"]["left"], 4);
    assert_eq!(result["return_ms"]["count"], 4);
    let windows = result["windows"].as_array().expect("windows");
    assert_eq!(windows[1]["name"], "since the storm");
}

#[test]
fn clients_that_stop_reading_and_read_again_get_everything_and_have_no_latency() {
    let server = Server::start();
    let slow = "[slow]\nshare = 0.5\nfor_s = 1.0\n";
    let mut run = run(&server, &format!("{HEAD}{TO_ALL}{slow}"), &[]);
    let (status, result) = run.end();
    assert!(status.success(), "{result:#}");
    assert_eq!(result["counters"]["unique_own"], 40);
    assert_eq!(result["latency_ms"]["count"], 20);
    assert_eq!(result["stalled"], 0);
}

#[test]
fn nothing_is_expected_of_clients_that_never_read_again() {
    let server = Server::start();
    let slow = "[slow]\nshare = 0.5\n";
    let mut run = run(&server, &format!("{HEAD}{TO_ALL}{slow}"), &[]);
    let (status, result) = run.end();
    assert!(status.success(), "{result:#}");
    assert_eq!(
        (&result["stalled"], &result["missing"]),
        (&json!(2), &json!(0))
    );
}

#[test]
fn the_page_needs_nothing_but_itself_and_shows_the_run() {
    let server = Server::start();
    let mut run = run(&server, &format!("{HEAD}{TO_USERS}"), &["--duration", "3"]);
    let (status, result) = run.end();
    assert!(status.success(), "{result:#}");
    let page = run.page();
    for foreign in ["http:", "https:", "src=", "<script", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.matches("<svg").count() >= 5, "{page}");
    assert!(page.contains("a test") && page.contains("Everything arrived"));
    assert!(result["series"].as_array().expect("seconds").len() >= 2);
}

#[test]
fn results_of_swarms_that_share_a_run_are_joined() {
    let server = Server::start();
    let url = format!("ws://{}", server.address);
    // The second number is accepted and reaches nobody: of either.
    server.world.lock().unwrap().lost_posts.insert(2);
    let common = ["--url", &url, "--run", "shared"];
    let listening = ["--users", "1..2", "--expect", "2", "--count", "0"];
    let mut one = start(&server, None, &[&common[..], &listening].concat());
    server.wait("all asked", |world| world.first_syncs == 2);
    let posting = [
        "--users",
        "3..4",
        "--count",
        "3",
        "--to",
        "all",
        "--give-up-s",
        "1",
    ];
    let mut two = start(&server, None, &[&common[..], &posting].concat());
    let (status, result) = two.end();
    assert_eq!((status.code(), &result["missing"]), (Some(1), &json!(2)));
    let (status, result) = one.end();
    assert!(status.success(), "{result:#}");

    let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .arg("merge")
        .args([one.result(), two.result()])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let merged: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&merged["clients"], &merged["missing"]),
        (&json!(4), &json!(4))
    );
    assert_eq!(merged["latency_ms"]["count"], 8);

    // By another name it is the same file, and a copy has the same users.
    let dir = tempfile::tempdir().expect("a directory");
    let (link, copy) = (dir.path().join("link"), dir.path().join("copy"));
    std::os::unix::fs::symlink(one.result(), &link).expect("linked");
    std::fs::copy(one.result(), &copy).expect("copied");
    for (again, why) in [(link, "the same file"), (copy, "--users")] {
        let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .arg("merge")
            .args([&one.result(), &again])
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let name = again.display().to_string();
        assert!(said.contains(why) && said.contains(&name), "{said}");
    }
}

#[test]
fn runs_that_are_not_the_same_are_not_joined() {
    let server = Server::start();
    let results: Vec<Run> = (0..2)
        .map(|_| {
            let mut run = run(&server, HEAD, &["--duration", "1"]);
            run.end();
            run
        })
        .collect();
    let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .arg("merge")
        .args(results.iter().map(Run::result))
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--run"));
}

#[test]
fn what_nobody_knows_is_refused_by_name_with_status_64() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("wrong.toml");
    std::fs::write(&file, format!("{HEAD}spead = 3\n")).expect("written");
    let file = file.display().to_string();
    for (arguments, named) in [
        (vec!["run", "nothing"], "nothing"),
        (vec!["run", &file], "spead"),
        (vec!["run", "idle", "--set", "durations=3"], "durations"),
        (vec!["run", "idle", "--clients", "many"], "--clients"),
        (vec!["run", "unicast"], "--post-url"),
        (vec!["run", "idle", "--duration", "0"], "duration_s"),
        (
            vec!["run", "idle", "--duration", "9", "--set", "storm.at_s=9.0"],
            "storm.at_s",
        ),
        (
            vec!["run", "idle", "--watch", "a=1", "--watch", "a=2"],
            "--watch",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .args(&arguments)
            .args(["--target", "ws://127.0.0.1:1", "--secret-file", "none"])
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}

#[test]
fn tls_is_spoken_and_sessions_are_resumed() {
    let server = Server::start();
    let front = tls::Front::start(&server.address);
    let url = format!("wss://{}", front.address);
    let authority = front.authority();
    let churn = "[churn]\nrate = 20.0\naway_ms = 20\n";
    for transport in ["websocket", "events"] {
        let scenario = format!("transport = '{transport}'\n{HEAD}{TO_USERS}{churn}");
        let arguments = ["--target", &url, "--ca-file", &authority];
        let (status, result) = start(&server, Some(&scenario), &arguments).end();
        assert!(status.success(), "{transport}: {result:#}");
        let counters = &result["counters"];
        // Nobody has a session before the first time, whatever others have got.
        let (full, clients) = (counters["tls_full"].as_u64(), result["clients"].as_u64());
        assert!(full >= clients, "{result:#}");
        assert!(counters["tls_resumed"].as_u64() > Some(5), "{result:#}");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = Server::start();
    let front = tls::Front::start(&server.address);
    let url = format!("wss://{}", front.address);
    let scenario = HEAD.to_owned();
    let arguments = ["--target", &url, "--duration", "1", "--give-up-s", "1"];
    let (status, result) = start(&server, Some(&scenario), &arguments).end();
    assert_eq!(status.code(), Some(1), "{result:#}");
    assert_eq!(result["never_connected"], 4);
    let (status, result) = start(
        &server,
        Some(&scenario),
        &[&arguments[..], &["--insecure"]].concat(),
    )
    .end();
    assert!(status.success(), "{result:#}");
}
