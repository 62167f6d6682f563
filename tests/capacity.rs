//! More connections in one gateway process than one descriptor table takes on a small host.

use std::process::{Command, Stdio};
use testbed::{Standalone, child::Guarded, herald::binary};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_five_thousand_connections_in_one_process_are_all_reached_by_a_broadcast() {
    // Several core threads, each with a descriptor table of its own, so that a limit of 20,000 holds no one up.
    let herald = Standalone::start(&[("gateway.cores", "4")]).await;
    let mut command = Command::new(binary("swarm"));
    command
        .args([
            "--url",
            &herald.ws_url(),
            "--users",
            "1..25000",
            "--connect-rate",
            "4000",
        ])
        .arg("--secret-file")
        .arg(herald.file("token.key"))
        .args([
            "--post-url",
            &herald.api.url(""),
            "--count",
            "1",
            "--to",
            "all",
            "--give-up-s",
            "60",
        ])
        .arg("--api-key-file")
        .arg(herald.file("admin.key"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let swarm = Guarded::spawn(command).expect("swarm starts");
    let output = tokio::task::spawn_blocking(move || swarm.output())
        .await
        .expect("it is waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {said}\n{}", herald.process.log()));
    assert_eq!(report["clients"], 25_000, "{report:#}");
    assert_eq!(report["missing"], 0, "{report:#}");
    assert_eq!(report["never_connected"], 0, "{report:#}");
    assert_eq!(report["posted"]["accepted"], 1, "{report:#}");
    assert!(output.status.success(), "{report:#}\n{said}");
}
