//! A gateway with all clients is killed: how fast its siblings take them, and how long each was away.
//!
//! Behind real HAProxys with the shipped configuration, while notifications flow. The floor is what the
//! siblings' accept limits allow: connections ÷ their sum.

use crate::{Options, process::cpus};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use testbed::{Fleet, HaProxy, api::sum_of, child::Guarded, herald::binary};

/// Of each gateway: low, so that two survivors, the clients and the load balancers fit on one machine.
const ACCEPTS_PER_S: u32 = 1_000;
const HEARTBEAT_MS: u32 = 10_000;
/// Connections of one HAProxy: two sockets each, and a process has 20,000.
const PER_PROXY: u32 = 6_000;
const WAIT: Duration = Duration::from_secs(180);

pub async fn run(options: &Options) -> Result<()> {
    let clients = options.clients;
    let (accepts, heartbeat) = (ACCEPTS_PER_S.to_string(), HEARTBEAT_MS.to_string());
    let settings = [
        ("gateway.accepts_per_s", accepts.as_str()),
        ("gateway.heartbeat_ms", heartbeat.as_str()),
        ("gateway.proxy_trusted", "[\"127.0.0.0/8\"]"),
        ("log.level", "warn"),
    ];
    let mut fleet = Fleet::start(3, &settings).await;
    let proxies: Vec<HaProxy> = (0..clients.div_ceil(PER_PROXY))
        .map(|_| HaProxy::start(&fleet))
        .collect();
    // The one has all clients before the others come.
    for survivor in &mut fleet.gateways[1..] {
        survivor.process.signal(libc::SIGTERM);
        survivor.process.wait();
    }
    let swarm = swarm(&fleet, &proxies, clients);
    let here = async |n: usize| at(&fleet, n, "herald_connections_open ").await;
    reach("everyone is in", async || here(0).await >= clients as usize).await?;
    for n in 1..3 {
        fleet.gateways[n].process.start();
    }
    fleet.ready().await;
    // Its clients know the slot that two siblings ask for.
    let slot_ms = slot_ms(&fleet, clients).await?;
    tokio::time::sleep(Duration::from_millis(u64::from(HEARTBEAT_MS) + 1_000)).await;

    fleet.gateways[0].process.kill();
    let killed = Instant::now();
    let peaks = taken(&fleet, clients, killed).await?;
    let all_back = killed.elapsed();

    let output = tokio::task::spawn_blocking(move || swarm.output()).await?;
    let report: Value = serde_json::from_slice(&output.stdout).context("no result of the swarm")?;
    ensure!(
        report["missing"] == 0,
        "notifications are missing: {report:#}"
    );
    ensure!(report["ok"] == true, "{report:#}");
    print(&report, clients, slot_ms, &peaks, all_back);
    Ok(())
}

fn swarm(fleet: &Fleet, proxies: &[HaProxy], clients: u32) -> Guarded {
    let mut command = Command::new(binary("swarm"));
    for proxy in proxies {
        command.args(["--url", &proxy.ws_url()]);
    }
    let connect_rate = (ACCEPTS_PER_S * 9 / 10).to_string();
    command
        .args([
            "--users",
            &format!("1..{clients}"),
            "--connect-rate",
            &connect_rate,
        ])
        // From before the siblings come until after the last is back.
        .args([
            "--post-url",
            &fleet.api.url(""),
            "--rate",
            "50",
            "--count",
            "6000",
        ])
        .args(["--threads", &cpus().to_string(), "--give-up-s", "60"])
        .arg("--secret-file")
        .arg(fleet.token_file())
        .arg("--api-key-file")
        .arg(fleet.admin_key_file())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Guarded::spawn(command).expect("swarm starts")
}

async fn at(fleet: &Fleet, n: usize, name: &str) -> usize {
    sum_of(&fleet.api.metrics(fleet.gateways[n].admin_port).await, name)
}

async fn reach(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so().await {
        ensure!(began.elapsed() < WAIT, "after {WAIT:?}, still not: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// The window of the host that will vanish, once it is what two siblings ask for (and no less than the least).
async fn slot_ms(fleet: &Fleet, clients: u32) -> Result<usize> {
    const LEAST_MS: f64 = 5_000.0;
    let floor_ms = f64::from(clients) * 1_000.0 / f64::from(2 * ACCEPTS_PER_S);
    // 80 % of their limits, and a fifth is not worth telling.
    let most_ms = (floor_ms / 0.8).max(LEAST_MS) * 1.2;
    let mut slot_ms = 0;
    reach("the slot is that of two siblings", async || {
        slot_ms = at(fleet, 0, "herald_slot_ms ").await;
        slot_ms as f64 <= most_ms
    })
    .await?;
    Ok(slot_ms)
}

/// Until the survivors have everyone: the most connections each accepted in a second.
async fn taken(fleet: &Fleet, clients: u32, since: Instant) -> Result<[f64; 2]> {
    let mut seen: Vec<(Instant, [usize; 2])> = Vec::new();
    let mut peaks = [0.0_f64; 2];
    loop {
        let mut accepted = [0; 2];
        let mut open = 0;
        for (n, accepted) in (1..).zip(&mut accepted) {
            let metrics = fleet.api.metrics(fleet.gateways[n].admin_port).await;
            *accepted = sum_of(&metrics, "herald_accepted_total ");
            open += sum_of(&metrics, "herald_connections_open ");
        }
        let now = Instant::now();
        let second_ago = seen
            .iter()
            .rev()
            .find(|(then, _)| now - *then >= Duration::from_secs(1));
        if let Some((then, before)) = second_ago {
            for n in 0..2 {
                let per_s = (accepted[n] - before[n]) as f64 / (now - *then).as_secs_f64();
                peaks[n] = peaks[n].max(per_s);
            }
        }
        seen.push((now, accepted));
        if open >= clients as usize {
            return Ok(peaks);
        }
        ensure!(since.elapsed() < WAIT, "only {open} of {clients} came back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn print(report: &Value, clients: u32, slot_ms: usize, peaks: &[f64; 2], all_back: Duration) {
    let seconds = |ms: &Value| ms.as_f64().unwrap_or(f64::NAN) / 1_000.0;
    let back = &report["return_ms"];
    println!(
        "\n### kill -9 of a gateway with {clients} clients, two siblings at {ACCEPTS_PER_S} accepts/s each\n"
    );
    println!("| | unit | |");
    println!("|---|---|---|");
    let floor = f64::from(clients) / f64::from(2 * ACCEPTS_PER_S);
    println!("| floor: connections ÷ accept limits | s | {floor:.1} |");
    println!(
        "| slot told to clients | s | {:.1} |",
        slot_ms as f64 / 1_000.0
    );
    println!("| away, median | s | {:.1} |", seconds(&back["p50"]));
    println!("| away, longest | s | {:.1} |", seconds(&back["max"]));
    println!(
        "| until the last was back | s | {:.1} |",
        all_back.as_secs_f64()
    );
    println!(
        "| most accepted in a second, each sibling | 1/s | {:.0}, {:.0} |",
        peaks[0], peaks[1]
    );
    println!("| returns | | {} |", back["count"]);
    println!(
        "| notifications posted, missing | | {}, {} |",
        report["posted"]["accepted"], report["missing"]
    );
}
