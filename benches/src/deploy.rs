//! Gateways come and go behind real HAProxys while notifications flow: one with all clients is killed, then all
//! three are replaced in turn. How fast the others take the clients, and how long that takes.
//!
//! The floor is what accept limits allow: connections ÷ the sum of the others' limits.

use crate::{Options, process::cpus};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};
use testbed::{Fleet, HaProxy, api::sum_of, child::Guarded};

/// Of each gateway: low, so that three, the clients and the load balancers fit on one machine.
const ACCEPTS_PER_S: u32 = 1_000;
const HEARTBEAT_MS: u32 = 10_000;
const GRACE_MS: u32 = 5_000;
/// Connections of one HAProxy: two sockets each, and a process has 20,000.
const PER_PROXY: u32 = 6_000;
const POSTS_PER_S: u32 = 50;
const WAIT: Duration = Duration::from_secs(180);

pub async fn run(options: &Options) -> Result<()> {
    let clients = options.clients;
    let settings = [
        ("gateway.accepts_per_s", ACCEPTS_PER_S.to_string()),
        ("gateway.heartbeat_ms", HEARTBEAT_MS.to_string()),
        ("gateway.proxy_trusted", "[\"127.0.0.0/8\"]".to_owned()),
        ("drain.grace_ms", GRACE_MS.to_string()),
        ("log.level", "warn".to_owned()),
        ("gateway.engine", "auto".to_owned()),
    ];
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (*key, &value[..]))
        .collect();
    let mut fleet = Fleet::start(3, &settings).await;
    let proxies: Vec<HaProxy> = (0..clients.div_ceil(PER_PROXY))
        .map(|_| HaProxy::start(&fleet))
        .collect();
    // The one has all clients before the others come.
    for n in 1..3 {
        leave(&mut fleet, n).await?;
    }
    let swarm = swarm(&fleet, &proxies, clients);
    reach("everyone is in", async || {
        open(&fleet, 0).await >= clients as usize
    })
    .await?;
    for n in 1..3 {
        fleet.gateways[n].process.start();
    }
    fleet.ready().await;
    let slot_s = slot_s(&fleet, clients).await?;
    // Every client has been told.
    tokio::time::sleep(Duration::from_millis(u64::from(HEARTBEAT_MS) + 1_000)).await;

    let watch = Watch::start(&fleet);
    let (killed, killed_ms) = (Instant::now(), unix_ms());
    fleet.gateways[0].process.kill();
    let survivors = async || open(&fleet, 1).await + open(&fleet, 2).await;
    reach("everyone is back", async || {
        survivors().await >= clients as usize
    })
    .await?;
    let (all_back, all_back_ms) = (killed.elapsed(), unix_ms());
    let crash_peaks = watch.stop();

    fleet.gateways[0].process.start();
    fleet.ready().await;
    let watch = Watch::start(&fleet);
    let mut replaced = Vec::new();
    // The one that came last has nobody yet.
    for n in [1, 2, 0] {
        let held = open(&fleet, n).await;
        let began = Instant::now();
        leave(&mut fleet, n).await?;
        replaced.push((n + 1, held, began.elapsed()));
        fleet.gateways[n].process.start();
        fleet.ready().await;
    }
    let deploy_peaks = watch.stop();

    let output = tokio::task::spawn_blocking(move || swarm.output()).await?;
    let report: Value = serde_json::from_slice(&output.stdout).context("no result of the swarm")?;
    ensure!(report["ok"] == true, "{report:#}");
    let away = away_s(&accounting(&fleet), killed_ms, all_back_ms)?;
    print_crash(&away, slot_s, &crash_peaks, all_back);
    print_deploy(&report, &replaced, &deploy_peaks);
    Ok(())
}

fn swarm(fleet: &Fleet, proxies: &[HaProxy], clients: u32) -> Guarded {
    let mut command = fleet.swarm(proxies.iter().map(HaProxy::ws_url));
    // From before the others come until after the last change.
    let posts = 240 * POSTS_PER_S;
    command
        .arg(format!("--users=1..{clients}"))
        .arg(format!("--connect-rate={}", ACCEPTS_PER_S * 9 / 10))
        .arg(format!("--rate={POSTS_PER_S}"))
        .arg(format!("--count={posts}"))
        .arg(format!("--threads={}", cpus()))
        .arg("--give-up-s=60")
        .arg("--accounting")
        .arg(accounting(fleet))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Guarded::spawn(command).expect("swarm starts")
}

/// Where the swarm leaves what each client went through.
fn accounting(fleet: &Fleet) -> PathBuf {
    fleet.dir.path().join("accounting")
}

async fn open(fleet: &Fleet, n: usize) -> usize {
    let port = fleet.gateways[n].admin_port;
    sum_of(&fleet.api.metrics(port).await, "herald_connections_open ")
}

async fn leave(fleet: &mut Fleet, n: usize) -> Result<()> {
    let process = &mut fleet.gateways[n].process;
    process.signal(libc::SIGTERM);
    reach("it has left", async || !process.is_running()).await?;
    process.wait();
    Ok(())
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
async fn slot_s(fleet: &Fleet, clients: u32) -> Result<f64> {
    const LEAST_S: f64 = 5.0;
    let floor_s = f64::from(clients) / f64::from(2 * ACCEPTS_PER_S);
    // 80 % of their limits, and a fifth is not worth telling.
    let most_s = (floor_s / 0.8).max(LEAST_S) * 1.2;
    let mut slot_s = 0.0;
    reach("the slot is that of two siblings", async || {
        let metrics = fleet.api.metrics(fleet.gateways[0].admin_port).await;
        let told = metrics
            .lines()
            .find_map(|line| line.strip_prefix("herald_slot_seconds "));
        slot_s = told.and_then(|told| told.parse().ok()).unwrap_or(f64::MAX);
        slot_s <= most_s
    })
    .await?;
    Ok(slot_s)
}

/// Watches how many connections each gateway accepts.
struct Watch {
    peaks: Arc<Mutex<Vec<f64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn start(fleet: &Fleet) -> Watch {
        let ports: Vec<u16> = fleet
            .gateways
            .iter()
            .map(|gateway| gateway.admin_port)
            .collect();
        let peaks = Arc::new(Mutex::new(vec![0.0_f64; ports.len()]));
        let (api, kept) = (fleet.api.clone(), peaks.clone());
        let task = tokio::spawn(async move {
            let mut seen: Vec<Vec<(Instant, usize)>> = vec![Vec::new(); ports.len()];
            loop {
                for (n, port) in ports.iter().enumerate() {
                    let answer = api.admin(*port, "metrics").await;
                    let accepted =
                        answer.map_or(0, |(_, text)| sum_of(&text, "herald_accepted_total "));
                    if let Some(per_s) = rate(&mut seen[n], accepted) {
                        let mut peaks = kept.lock().expect("nobody panics with it");
                        peaks[n] = peaks[n].max(per_s);
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Watch { peaks, task }
    }

    /// The most that each accepted in a second.
    fn stop(self) -> Vec<f64> {
        self.task.abort();
        self.peaks.lock().expect("nobody panics with it").clone()
    }
}

/// Accepted a second, over the last second or a little more; `None` before one has passed.
fn rate(seen: &mut Vec<(Instant, usize)>, accepted: usize) -> Option<f64> {
    let now = Instant::now();
    if seen.last().is_some_and(|(_, before)| *before > accepted) {
        // Another process, which counts anew.
        seen.clear();
    }
    let second_ago = seen
        .iter()
        .rev()
        .find(|(then, _)| now - *then >= Duration::from_secs(1));
    let per_s =
        second_ago.map(|(then, before)| (accepted - before) as f64 / (now - *then).as_secs_f64());
    seen.push((now, accepted));
    per_s
}

/// How long each client was away that lost its connection between these two moments; in order.
fn away_s(accounting: &Path, from_ms: u64, to_ms: u64) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for line in std::fs::read_to_string(accounting.join("devices"))?.lines() {
        let device: Value = serde_json::from_str(line)?;
        let connections = device["connections"].as_array().context("no connections")?;
        for pair in connections.windows(2) {
            let (lost, back) = (&pair[0]["to_unix_ms"], &pair[1]["from_unix_ms"]);
            let (lost, back) = lost.as_u64().zip(back.as_u64()).context("no times")?;
            if (from_ms..=to_ms).contains(&lost) {
                all.push(back.saturating_sub(lost) as f64 / 1_000.0);
            }
        }
    }
    ensure!(!all.is_empty(), "nobody was away");
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn print_crash(away_s: &[f64], slot_s: f64, peaks: &[f64], all_back: Duration) {
    let clients = away_s.len();
    println!(
        "\n### kill -9 of a gateway with {clients} clients; two others at {ACCEPTS_PER_S} accepts/s each\n"
    );
    println!("| | unit | |");
    println!("|---|---|---|");
    let floor_s = clients as f64 / f64::from(2 * ACCEPTS_PER_S);
    println!("| floor: connections ÷ accept limits | s | {floor_s:.1} |");
    println!("| slot that clients knew | s | {slot_s:.1} |");
    println!("| away, median | s | {:.1} |", away_s[clients / 2]);
    println!("| away, longest | s | {:.1} |", away_s[clients - 1]);
    println!(
        "| until the last was back | s | {:.1} |",
        all_back.as_secs_f64()
    );
    let (second, third) = (peaks[1], peaks[2]);
    println!("| most accepted in a second, each of the others | 1/s | {second:.0}, {third:.0} |");
}

fn print_deploy(report: &Value, replaced: &[(usize, usize, Duration)], peaks: &[f64]) {
    println!(
        "\n### three gateways replaced in turn, grace {} s\n",
        GRACE_MS / 1_000
    );
    println!("| | clients | floor, s | SIGTERM to end, s | most accepted in a second, 1/s |");
    println!("|---|---|---|---|---|");
    for (n, held, took) in replaced {
        let floor_s = *held as f64 / f64::from(2 * ACCEPTS_PER_S);
        let (took_s, peak) = (took.as_secs_f64(), peaks[n - 1]);
        println!("| gw-{n} | {held} | {floor_s:.1} | {took_s:.1} | {peak:.0} |");
    }
    let (posted, missing) = (&report["posted"]["accepted"], &report["missing"]);
    println!(
        "\nPosted {posted} meanwhile, missing {missing}, repeated on the wire {}.",
        report["repeated"]
    );
}
