//! More connections in one gateway process than one descriptor table takes on a small host.

use std::{
    process::{Command, Stdio},
    time::Duration,
};
use testbed::{Standalone, api::sum_of, child::Guarded, herald::binary};

const CONNECTIONS: usize = 25_000;
/// Below them; a table of its own per core thread stays below it.
const DESCRIPTORS_MAX: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_five_thousand_connections_in_one_process_are_all_reached_by_a_broadcast() {
    let mut herald = Standalone::prepare(&[("gateway.cores", "4")]);
    herald.process.confinement.descriptors_max(DESCRIPTORS_MAX);
    herald.run().await;
    let limits = format!("/proc/{}/limits", herald.process.pid());
    let limits = std::fs::read_to_string(limits).expect("it runs");
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let bound = DESCRIPTORS_MAX.to_string();
    let bounds = limit
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter(|word| *word == bound);
    assert_eq!(bounds.count(), 2, "soft and hard: {limits}");
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
    let waiting = tokio::task::spawn_blocking(move || swarm.output());
    // Its clients leave when all have what they came for.
    let mut most = 0;
    while !waiting.is_finished() {
        most = sum_of(&herald.metrics().await, "herald_descriptors ").max(most);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let output = waiting.await.expect("it is waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {said}\n{}", herald.process.log()));
    assert!(most > CONNECTIONS, "{most} descriptors at most");
    assert_eq!(report["clients"], CONNECTIONS, "{report:#}");
    assert_eq!(report["missing"], 0, "{report:#}");
    assert_eq!(report["never_connected"], 0, "{report:#}");
    assert_eq!(report["posted"]["accepted"], 1, "{report:#}");
    assert!(output.status.success(), "{report:#}\n{said}");
}
