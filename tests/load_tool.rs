//! The load tool against real servers: each scenario it ships, each transport, each door for producers. It judges for
//! itself whether everything arrived, and says so by its exit status.

use serde_json::Value;
use std::process::{Command, Stdio};
use testbed::{Fleet, Standalone, certificates, child::Guarded, free_port, herald::binary};

/// Runs to its end and says what it reports.
async fn run(mut command: Command, arguments: &[&str]) -> Value {
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let swarm = Guarded::spawn(command).expect("the load tool starts");
    let output = tokio::task::spawn_blocking(|| swarm.output()).await;
    let output = output.expect("it is waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"));
    assert!(output.status.success(), "{arguments:?}: {report:#}\n{said}");
    assert_eq!(report["missing"], 0, "{arguments:?}: {report:#}");
    report
}

fn scenario(name: &str, url: &str) -> Command {
    let mut command = Command::new(binary("swarm"));
    command.args(["run", name, "--url", url]);
    command
}

fn posting(command: &mut Command, herald: &Standalone) {
    command.args(["--post-url", &herald.api.url("")]);
    command.arg("--api-key-file").arg(herald.file("admin.key"));
}

fn posted(report: &Value) -> u64 {
    report["posted"]["accepted"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scenario_that_is_shipped_runs_on_a_server_and_everything_arrives() {
    let herald = Standalone::start(&[]).await;
    let small = ["--clients", "60", "--duration", "4"];
    for (name, smaller) in [
        ("idle", &[][..]),
        ("unicast", &["--rate", "50"]),
        ("broadcast", &["--rate", "2"]),
        ("burst", &["--rate", "100"]),
        (
            "churn",
            &[
                "--set=churn.rate=20",
                "--set=churn.away_ms=100",
                "--rate=20",
            ],
        ),
        ("reconnect_storm", &["--set=storm.at_s=1", "--rate=20"]),
        (
            "slow_readers",
            &[
                "--set=slow.share=0.1",
                "--set=slow.from_s=0.5",
                "--set=slow.for_s=1.5",
                "--rate=5",
            ],
        ),
        (
            "mixed_day",
            &["--set=send.1.rate=1.0", "--set=churn.rate=5"],
        ),
    ] {
        let mut command = scenario(name, &herald.ws_url());
        command.arg("--secret-file").arg(herald.file("token.key"));
        if name != "idle" {
            posting(&mut command, &herald);
        }
        let report = run(command, &[&small[..], smaller].concat()).await;
        assert_eq!(posted(&report) > 0, name != "idle", "{name}: {report:#}");
        assert_eq!(report["clients"], 60, "{name}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_and_tls_carry_the_same_as_a_plain_websocket() {
    let made = tempfile::tempdir().expect("a temporary directory");
    certificates::make(made.path(), &["gateway"]);
    let file = |name: &str| made.path().join(name).to_str().unwrap().to_owned();
    let listen = format!("127.0.0.1:{}", free_port());
    let herald = Standalone::start(&[
        ("gateway.tls_listen", &listen),
        ("tls.certificate_file", &file("gateway.pem")),
        ("tls.key_file", &file("gateway.key")),
    ])
    .await;
    let plain = format!("http://127.0.0.1:{}", herald.client_port);
    let authority = format!("--ca-file={}", file("ca.pem"));
    for (url, transport) in [
        (plain, &["--sse"][..]),
        (format!("wss://{listen}"), &[&authority]),
        (format!("https://{listen}"), &["--sse", &authority]),
    ] {
        let mut command = scenario("churn", &url);
        command.arg("--secret-file").arg(herald.file("token.key"));
        posting(&mut command, &herald);
        let small = [
            "--clients=60",
            "--duration=4",
            "--rate=20",
            "--set=churn.rate=20",
            "--set=churn.away_ms=100",
        ];
        let report = run(command, &[&small[..], transport].concat()).await;
        assert!(posted(&report) > 0, "{report:#}");
        let resumed = report["counters"]["tls_resumed"].as_u64();
        assert_eq!(resumed > Some(0), url.contains("s://"), "{url}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_by_grpc_and_straight_into_kafka_arrives_too() {
    let fleet = Fleet::start(1, &[]).await;
    let grpc = format!("grpc://127.0.0.1:{}", fleet.dispatchers[0].grpc_port);
    let kafka = format!("kafka://{}/{}?shard=0", fleet.brokers, fleet.namespace);
    for door in [grpc, kafka] {
        let mut command = scenario("unicast", &fleet.ws_urls(0)[0]);
        command.arg("--secret-file").arg(fleet.token_file());
        command.args(["--post-url", &door]);
        if door.starts_with("grpc") {
            command.arg("--api-key-file").arg(fleet.admin_key_file());
        }
        let report = run(command, &["--clients=60", "--duration=4", "--rate=50"]).await;
        assert!(posted(&report) > 100, "{door}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_that_an_operator_ends_is_synced_unasked_and_not_opened_again() {
    let herald = Standalone::start(&[]).await;
    let url = format!("http://127.0.0.1:{}", herald.client_port);
    let mut command = scenario("idle", &url);
    command
        .arg("--secret-file")
        .arg(herald.file("token.key"))
        .args(["--sse", "--users=42..42", "--duration=4"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let swarm = Guarded::spawn(command).expect("the load tool starts");
    let output = tokio::task::spawn_blocking(|| swarm.output());
    herald
        .eventually("it is connected", async || {
            herald.api.fetch("/v1/users/42/presence").await["connected"] == true
        })
        .await;
    let request = reqwest::Client::new().post(herald.api.url("/v1/users/42/disconnect"));
    let answer = request.bearer_auth(herald.api_key()).send().await;
    assert_eq!(answer.expect("it answers").status().as_u16(), 202);
    let output = output.await.expect("it is waited for");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["closes"]["4510"], 1, "{report:#}");
    let counters = &report["counters"];
    for (name, count) in [("gave_up", 1), ("connects", 1), ("syncs_asked", 0)] {
        assert_eq!(counters[name], count, "{name}: {report:#}");
    }
}
