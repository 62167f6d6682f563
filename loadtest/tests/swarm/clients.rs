//! Clients as the flags make them: the verdict, its result, and what a server sees of its clients.

use crate::server::{SECRET, Server};
use clap::Parser;
use serde_json::{Value, json};
use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use swarm::options::Options;
use tempfile::TempDir;

struct Run {
    child: Child,
    dir: TempDir,
}

/// Starts the tool against a server, as users 1 to 3 unless told otherwise.
fn swarm(server: &Server, arguments: &[&str]) -> Run {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let child = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .arg("--url")
        .arg(format!("ws://{}", server.address))
        .arg("--secret-file")
        .arg(file("secret", SECRET))
        .arg("--json")
        .arg(dir.path().join("result"))
        .arg("--accounting")
        .arg(dir.path().join("accounting"))
        .args(["--backoff-ms", "20", "--hole-wait-ms", "50"])
        .args(if arguments.contains(&"--users") {
            &[][..]
        } else {
            &["--users", "1..3"]
        })
        .args(if arguments.contains(&"--post-url") {
            vec!["--api-key-file".into(), file("key", "k")]
        } else {
            Vec::new()
        })
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tool starts");
    Run { child, dir }
}

impl Run {
    fn told(&self, signal: &str) {
        let mut kill = Command::new("kill");
        let told = kill.arg(signal).arg(self.child.id().to_string()).status();
        assert!(told.expect("kill is there").success());
    }

    /// Its exit status, JSON result and receipts.
    fn end(&mut self) -> (ExitStatus, Value, Vec<Value>) {
        let status = self.child.wait().expect("it ends");
        let result = self.read("result");
        let result = serde_json::from_str(&result).expect("JSON");
        (status, result, self.lines("accounting/receipts"))
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).expect("written")
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = self.read(name);
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn everybody_asked_where_the_stream_stands(server: &Server, clients: usize) {
    server.wait("all asked", |world| world.first_syncs == clients);
}

#[test]
fn everything_is_received_acknowledged_and_accounted_for_on_each_device() {
    for transport in [&[][..], &["--sse"]] {
        let server = Server::start();
        let mut run = swarm(
            &server,
            &[transport, &["--devices", "2", "--expect", "4"]].concat(),
        );
        everybody_asked_where_the_stream_stands(&server, 6);
        for _ in 0..4 {
            for user in ["1", "2", "3"] {
                server.send(user, true, json!({}));
            }
        }
        server.wait("acknowledged", |world| world.acknowledged.len() >= 24);
        let (status, result, accounting) = run.end();
        assert!(status.success(), "{result:#}");
        assert_eq!(result["counters"]["unique"], 24, "{transport:?}");
        assert_eq!(
            (&result["missing"], &result["ok"]),
            (&json!(0), &json!(true))
        );
        assert_eq!(accounting.len(), 24);
        // On a stream of events it comes unasked.
        let asked = if transport.is_empty() { 6 } else { 0 };
        assert_eq!(result["counters"]["syncs_asked"], asked, "{transport:?}");
        let of_device = |receipt: &&Value| receipt["user"] == "2" && receipt["first"] == "live";
        assert_eq!(accounting.iter().filter(of_device).count(), 8);
    }
}

#[test]
fn a_hole_is_noticed_and_healed_by_sync() {
    for transport in [&[][..], &["--sse"]] {
        let server = Server::start();
        let mut run = swarm(
            &server,
            &[transport, &["--users", "1..1", "--expect", "3"]].concat(),
        );
        everybody_asked_where_the_stream_stands(&server, 1);
        server.send("1", true, json!({}));
        server.wait("the first one came", |world| !world.acknowledged.is_empty());
        server.send("1", false, json!({}));
        server.send("1", true, json!({}));
        let (status, result, accounting) = run.end();
        assert!(status.success(), "{result:#}");
        let counters = &result["counters"];
        assert_eq!(
            (&counters["holes_seen"], &counters["holes_healed"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(counters["by_sync"], 1, "{transport:?}: {accounting:?}");
        assert_eq!(result["holes_open"], 0);
    }
}

#[test]
fn clients_come_back_with_their_cursors_and_catch_up() {
    for transport in [&[][..], &["--sse"]] {
        let server = Server::start();
        let mut run = swarm(
            &server,
            &[transport, &["--users", "1..1", "--expect", "2"]].concat(),
        );
        everybody_asked_where_the_stream_stands(&server, 1);
        server.send("1", true, json!({}));
        server.wait("the first one came", |world| !world.acknowledged.is_empty());
        server.close("1", 1012);
        server.send("1", false, json!({}));
        let (status, result, _) = run.end();
        assert!(status.success(), "{result:#}");
        assert_eq!(result["counters"]["reconnects"], 1, "{transport:?}");
        assert_eq!(result["closes"]["1012"], 1, "{transport:?}: {result:#}");
        assert_eq!(result["counters"]["by_sync"], 1);
        let world = server.world.lock().unwrap();
        assert_eq!(world.presented.len(), 2);
        assert!(world.presented[1].is_some(), "{:?}", world.presented);
    }
}

#[test]
fn what_never_arrives_is_counted_named_and_decides_the_exit_status() {
    let server = Server::start();
    let mut run = swarm(&server, &["--expect", "2", "--give-up-s", "1"]);
    everybody_asked_where_the_stream_stands(&server, 3);
    for user in ["1", "2", "3"] {
        server.send(user, true, json!({}));
    }
    server.send("2", true, json!({}));
    let (status, result, _) = run.end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(result["missing"], 2);
    let missing = result["missing_examples"].as_array().unwrap();
    let users: Vec<_> = missing.iter().map(|one| one["user"].as_str()).collect();
    assert_eq!(users, [Some("1"), Some("3")]);
}

#[test]
fn a_run_that_only_listens_is_given_up_though_something_still_arrives() {
    let server = Server::start();
    let one = ["--users", "1..1", "--expect", "100000", "--give-up-s", "1"];
    let mut run = swarm(&server, &one);
    everybody_asked_where_the_stream_stands(&server, 1);
    while run.child.try_wait().expect("it is ours").is_none() {
        server.send("1", true, json!({}));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (status, result, accounting) = run.end();
    assert_eq!(status.code(), Some(1), "{result:#}");
    assert!(!accounting.is_empty() && accounting.len() < 100_000);
}

#[test]
fn repeats_are_counted_and_not_taken_for_news() {
    let server = Server::start();
    let mut run = swarm(&server, &["--users", "1..1", "--expect", "2"]);
    everybody_asked_where_the_stream_stands(&server, 1);
    server.send("1", true, json!({}));
    server.repeat("1");
    server.wait("both acknowledged", |world| world.acknowledged.len() >= 2);
    server.send("1", true, json!({}));
    let (status, result, accounting) = run.end();
    assert!(status.success(), "{result:#}");
    assert_eq!((&result["repeated"], accounting.len()), (&json!(1), 2));
}

#[test]
fn a_client_that_is_told_to_stay_away_does() {
    for (transport, code) in [(&[][..], 4501), (&["--sse"], 4510)] {
        let server = Server::start();
        let one = ["--users", "1..1", "--expect", "1", "--give-up-s", "1"];
        let mut run = swarm(&server, &[transport, &one].concat());
        everybody_asked_where_the_stream_stands(&server, 1);
        server.close("1", code);
        let (status, result, _) = run.end();
        assert_eq!(status.code(), Some(1));
        assert_eq!(
            result["counters"]["gave_up"], 1,
            "{transport:?}: {result:#}"
        );
        assert_eq!(result["closes"][code.to_string()], 1, "{transport:?}");
        assert_eq!(server.world.lock().unwrap().presented.len(), 1);
    }
}

#[test]
fn what_it_posts_itself_is_expected_at_every_device_of_the_target() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let mut run = swarm(
        &server,
        &[
            "--devices",
            "2",
            "--post-url",
            &url,
            "--count",
            "40",
            "--rate",
            "400",
            "--to",
            "mixed",
        ],
    );
    let (status, result, _) = run.end();
    assert!(status.success(), "{result:#}");
    assert_eq!(result["posted"]["accepted"], 40);
    // 36 to one user each, 4 to all three; two devices each.
    assert_eq!(result["counters"]["unique_own"], 36 * 2 + 4 * 6);
    assert_eq!(result["latency_ms"]["count"], 36 * 2 + 4 * 6);
}

#[test]
fn told_that_it_is_enough_it_posts_no_more_and_waits_for_what_it_posted() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let many = ["--count", "1000000", "--rate", "200", "--priority", "mixed"];
    let mut run = swarm(&server, &[&["--post-url", &url][..], &many].concat());
    server.wait("some came", |world| world.acknowledged.len() >= 20);
    run.told("-TERM");
    let (status, result, receipts) = run.end();
    assert!(status.success(), "{result:#}");
    let remark = result["remarks"][0].as_str();
    assert!(
        remark.is_some_and(|remark| remark.starts_with("a signal ended this run")),
        "{result:#}"
    );
    assert_eq!(result["posted"]["accepted"], receipts.len());
    let posts = run.lines("accounting/posts");
    assert_eq!(posts.len(), receipts.len());
    let priorities = ["low", "normal", "high", "critical"];
    assert!(
        posts
            .iter()
            .all(|post| priorities.contains(&post["priority"].as_str().unwrap()))
    );
}

#[test]
fn a_post_that_was_accepted_and_lost_is_named() {
    let server = Server::start();
    server.world.lock().unwrap().lost_posts.insert(7);
    let url = format!("http://{}", server.address);
    let mut run = swarm(
        &server,
        &[
            "--users",
            "5..5",
            "--post-url",
            &url,
            "--count",
            "10",
            "--rate",
            "400",
            "--give-up-s",
            "1",
        ],
    );
    let (status, result, _) = run.end();
    assert_eq!(status.code(), Some(1));
    let expected = json!([{"user": "5", "device": 0, "to": "user", "n": 7}]);
    assert_eq!(result["missing_examples"], expected);
}

#[test]
fn what_reaches_somebody_else_is_counted_as_that_and_decides_the_exit_status() {
    let server = Server::start();
    server.world.lock().unwrap().stray_posts.insert(1);
    let url = format!("http://{}", server.address);
    let mut run = swarm(&server, &["--post-url", &url, "--count", "1"]);
    let (status, result, _) = run.end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(result["counters"]["misdelivered"], 2, "{result:#}");
    assert_eq!(
        (&result["missing"], &result["repeated"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(result["latency_ms"]["count"], 1);
}

#[test]
fn posts_to_a_server_that_answers_none_are_given_up_together_and_lengthen_no_run() {
    let server = Server::start();
    server.world.lock().unwrap().never_answers = true;
    let url = format!("http://{}", server.address);
    let many = ["--count", "3000", "--rate", "3000", "--give-up-s", "1"];
    let mut run = swarm(&server, &[&["--post-url", &url][..], &many].concat());
    let (status, result, _) = run.end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(result["posted"]["due"], 3_000);
    let refused = result["posted"]["refused"].as_object().expect("reasons");
    let of = |begin: &str| -> u64 {
        let found = refused.iter().filter(|(why, _)| why.starts_with(begin));
        found
            .map(|(_, count)| count.as_u64().expect("a count"))
            .sum()
    };
    // As many as may be on their way at once; the others never had room.
    assert_eq!((of("no answer"), of("never left")), (1_024, 1_976));
    assert_eq!(run.lines("accounting/posts").len(), 1_024);
}

#[test]
fn a_signal_ends_a_run_whose_posts_are_never_answered() {
    let server = Server::start();
    server.world.lock().unwrap().never_answers = true;
    let url = format!("http://{}", server.address);
    let hold = ["--count", "1000000", "--hold-s", "3600", "--give-up-s", "1"];
    for signal in ["-TERM", "-HUP"] {
        let mut run = swarm(&server, &[&["--post-url", &url][..], &hold].concat());
        let before = server.world.lock().unwrap().unanswered.len();
        server.wait("some posts came", |world| {
            world.unanswered.len() > before + 5
        });
        run.told(signal);
        let (status, result, _) = run.end();
        assert_eq!(status.code(), Some(1), "{signal}");
        assert!(result["posted"]["due"].as_u64() > Some(5), "{signal}");
    }
}

#[test]
fn a_thread_that_panics_ends_the_run_with_its_reason() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let url = format!("--url=ws://{}", server.address);
    let post_url = format!("--post-url=http://{}", server.address);
    let secret = format!("--secret-file={}", file("secret", SECRET));
    let key = format!("--api-key-file={}", file("key", "k"));
    let mut options =
        Options::parse_from(["swarm", &url, &post_url, &secret, &key, "--users=1..2"]);
    // What the command line would not let pass: no clock goes so far.
    let mut sending = options.sending();
    sending.rate = 1e-300;
    options.load.sendings = vec![sending];
    let error = swarm::run::run(&options).expect_err("the producer panics");
    let error = error.to_string();
    assert!(error.starts_with("thread \"producer\" panicked"), "{error}");
}

#[test]
fn outputs_that_cannot_be_written_are_named_before_anybody_connects() {
    let server = Server::start();
    for flag in ["--json", "--html", "--accounting"] {
        let dir = tempfile::tempdir().expect("a directory");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).expect("written");
        // Below a file there is no place.
        let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .arg(format!("--url=ws://{}", server.address))
            .arg(format!("--secret-file={}", secret.display()))
            .arg(format!("{flag}={}/result", secret.display()))
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(flag) && said.contains("secret"), "{said}");
    }
    assert_eq!(server.world.lock().unwrap().presented.len(), 0);
}

#[test]
fn a_result_that_nobody_reads_any_more_is_no_panic() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .arg(format!("--url=ws://{}", server.address))
        .arg(format!("--secret-file={}", secret.display()))
        .args(["--users", "1..2", "--hold-s", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    drop(child.stderr.take());
    let mut result = String::new();
    let mut out = child.stdout.take().expect("piped");
    out.read_to_string(&mut result).expect("text");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}: {result}");
    assert!(result.contains("\"ok\": true"), "{result}");
}

#[test]
fn a_run_that_cannot_be_set_up_says_why_and_exits_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .args(["--url", "ws://127.0.0.1:1", "--secret-file", "/nonexistent"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent"), "{said}");
}
