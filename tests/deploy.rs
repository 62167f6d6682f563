//! A fleet behind a real HAProxy while it is changed under load: a gateway drained and taken back, clients
//! shared anew, every gateway replaced in turn. Nothing is lost, and no gateway is asked for more than it
//! takes.

use serde_json::Value;
use std::{
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use testbed::{
    Fleet, HaProxy, PATIENCE,
    api::{Api, sum_of},
    child::Guarded,
    herald::binary,
};
use tokio_util::sync::CancellationToken;

/// Accepts a second of each gateway: low, so that pacing shows with few clients.
const ACCEPTS_PER_S: usize = 100;
const CLIENTS: usize = 450;

async fn users_at(fleet: &Fleet, n: usize) -> usize {
    let port = fleet.gateways[n].admin_port;
    sum_of(&fleet.api.metrics(port).await, "herald_connections_open ")
}

/// One look at what a gateway has accepted in its life so far.
struct Look {
    began: Instant,
    ended: Instant,
    accepted: usize,
}

/// Looks at a gateway's accepts until it is told to end; not while the process is away.
async fn watch(api: Api, port: u16, end: CancellationToken) -> Vec<Look> {
    let mut looks = Vec::new();
    while !end.is_cancelled() {
        let began = Instant::now();
        if let Some((200, metrics)) = api.admin(port, "metrics").await {
            looks.push(Look {
                began,
                ended: Instant::now(),
                accepted: sum_of(&metrics, "herald_accepted_total "),
            });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    looks
}

/// In no stretch of time more were accepted than the limit allows, and a second's worth that a gateway saves up while
/// nobody comes; its count may be half a second old.
fn judge(id: &str, looks: &[Look]) {
    let mut most = 0.0;
    for (n, first) in looks.iter().enumerate() {
        let rest = looks[n + 1..].iter();
        // A lower count is that of another life.
        for last in rest.take_while(|last| last.accepted >= first.accepted) {
            let accepted = (last.accepted - first.accepted) as f64;
            let seconds = (last.ended - first.began).as_secs_f64();
            let allowed = ACCEPTS_PER_S as f64 * (seconds + 1.0 + 0.5);
            assert!(
                accepted <= allowed,
                "{id} accepted {accepted} in {seconds} s"
            );
            if seconds >= 1.0 {
                most = f64::max(most, accepted / seconds);
            }
        }
    }
    println!("{id}: at most {most:.0} accepts a second, over a second or more, of {ACCEPTS_PER_S}");
}

/// Clients that follow the rules, and a numbered stream to them.
fn swarm(fleet: &Fleet, proxy: &HaProxy, posts: usize) -> Guarded {
    let mut command = fleet.swarm([proxy.ws_url()]);
    command
        .arg(format!("--users=1..{CLIENTS}"))
        .arg(format!("--count={posts}"))
        .args(["--connect-rate", "150", "--rate", "25", "--give-up-s", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Guarded::spawn(command).expect("swarm starts")
}

/// As an operator does it, from a shell.
async fn ctl(fleet: &Fleet, arguments: &[&str]) -> Value {
    let mut command = Command::new(binary("herald"));
    command.arg("ctl").args(arguments).arg("--json");
    command.env("HERALD_URL", fleet.api.url(""));
    command.env("HERALD_API_KEY_FILE", fleet.admin_key_file());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap().expect("it runs");
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{arguments:?}: {said}\n{}", fleet.logs());
    serde_json::from_slice(&stdout).expect("JSON")
}

/// Follows a drain to its end; in no second more are sent away than the others take together.
async fn drained(fleet: &Fleet, id: &str, others: usize) {
    fleet
        .eventually(&format!("{id} is empty"), PATIENCE * 2, async || {
            let answer = ctl(fleet, &["drain", id, "--status"]).await;
            let rate = answer["rate_per_s"].as_u64().unwrap() as usize;
            assert!(rate <= others * ACCEPTS_PER_S, "{answer:#}");
            usize::from(answer["phase"] != "empty")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_drained_rebalanced_and_replaced_under_load_and_nothing_is_lost() {
    let accepts = ACCEPTS_PER_S.to_string();
    let settings = [
        ("gateway.accepts_per_s", accepts.as_str()),
        ("gateway.proxy_trusted", "[\"127.0.0.0/8\"]"),
        // HAProxy looks once a second and believes the second answer.
        ("drain.grace_ms", "3000"),
    ];
    let mut fleet = Fleet::start(3, &settings).await;
    let proxy = HaProxy::start(&fleet);
    let swarm = swarm(&fleet, &proxy, 1_500);
    let all_in = async || {
        let mut here = 0;
        for n in 0..3 {
            here += users_at(&fleet, n).await;
        }
        CLIENTS.saturating_sub(here)
    };
    fleet.eventually("everyone is in", PATIENCE, all_in).await;

    let end = CancellationToken::new();
    let gateways = fleet.gateways.iter();
    let watches: Vec<_> = gateways
        .map(|gateway| tokio::spawn(watch(fleet.api.clone(), gateway.admin_port, end.clone())))
        .collect();

    // Drained by an operator: empty, alive, and nobody comes back to it.
    ctl(&fleet, &["drain", "gw-1"]).await;
    drained(&fleet, "gw-1", 2).await;
    assert_eq!(users_at(&fleet, 0).await, 0);
    fleet
        .eventually("everyone is in again", PATIENCE, all_in)
        .await;

    // Taken back, it is empty until clients are shared anew.
    ctl(&fleet, &["drain", "gw-1", "--cancel"]).await;
    fleet.ready().await;
    let mean = CLIENTS / 3;
    ctl(&fleet, &["rebalance"]).await;
    fleet
        .eventually("gw-1 has its share", PATIENCE * 2, async || {
            (mean * 8 / 10).saturating_sub(users_at(&fleet, 0).await)
        })
        .await;

    // A rolling deploy, one after the other.
    for n in 0..3 {
        fleet.gateways[n].process.signal(libc::SIGTERM);
        let status = fleet.gateways[n].process.wait();
        assert_eq!(status.code(), Some(0), "{}", fleet.logs());
        fleet.gateways[n].process.start();
        fleet.ready().await;
    }

    end.cancel();
    for (n, watch) in (1..).zip(watches) {
        let looks = watch.await.unwrap();
        assert!(looks.len() > 10, "hardly looked at");
        judge(&format!("gw-{n}"), &looks);
    }

    let output = tokio::task::spawn_blocking(move || swarm.output())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {said}\n{}", fleet.logs()));
    assert_eq!(report["missing"], 0, "{report:#}");
    assert_eq!(report["never_connected"], 0, "{report:#}");
    assert!(output.status.success(), "{report:#}\n{said}");
}

#[test]
fn the_shipped_haproxy_configuration_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/haproxy.cfg");
    let judged = Command::new("/usr/sbin/haproxy")
        .args(["-c", "-f", path])
        .output();
    let judged = judged.expect("haproxy is installed (apt-get install haproxy)");
    assert!(
        judged.status.success(),
        "{}",
        String::from_utf8_lossy(&judged.stderr)
    );
}
