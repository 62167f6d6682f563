//! One gateway process with as many connections as this machine has memory for, held for minutes: all registered in
//! a real Redis, all pinged and answering, in the second half of the time with notifications that come through the
//! dispatcher and a real Kafka.
//!
//! Cores are more than CPUs, for each thread has a descriptor table of its own. By TLS if asked (`--tls`): the full
//! handshake of 1.3 at first, sessions that resume for who comes again.

use crate::{
    Options,
    fleet::Fleet,
    memory::PER_CORE,
    parts::Folder,
    process::{Process, sibling},
    slabs,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    process::Command,
    time::{Duration, Instant},
};
use testbed::{certificates, free_port};

/// Below what a gateway shapes its accepts to.
const CONNECTS_PER_S: u32 = 4_000;
/// What two CPUs do of full handshakes, both ends and all else of a connect.
const TLS_CONNECTS_PER_S: u32 = 1_500;
/// Figures of `net.ipv4.tcp_mem` for each connection, in pages. A socket that holds anything counts with one, and both
/// ends are on this machine: all at once stay below the pressure, and below what a gateway refuses newcomers for.
const TCP_PAGES: [f64; 3] = [1.0, 2.0, 2.5];
/// Notifications a second.
const RATE: u32 = 500;
/// Until everyone was pinged, and the allocator has given back what the connects took.
const SETTLING: Duration = Duration::from_secs(60);

pub async fn run(options: &Options) -> Result<()> {
    ensure_tcp_memory(options.clients)?;
    eprintln!("scale: Redis, Kafka, dispatcher and gateway start");
    let folder = Folder::new()?;
    let cores = options.clients.div_ceil(PER_CORE).max(2).to_string();
    let soft = options.clients.to_string();
    let hard = (options.clients + options.clients / 5).to_string();
    let door = options.tls.then(|| Tls::new(&folder));
    let mut more = vec![
        ("HERALD_GATEWAY__CORES", cores.as_str()),
        ("HERALD_GATEWAY__PIN", "false"),
        ("HERALD_GATEWAY__CONNECTIONS_SOFT", soft.as_str()),
        ("HERALD_GATEWAY__CONNECTIONS_HARD", hard.as_str()),
        ("HERALD_GATEWAY__HEARTBEAT_MS", "30000"),
        ("HERALD_GATEWAY__DEAD_AFTER_MS", "90000"),
    ];
    more.extend(door.iter().flat_map(Tls::settings));
    let mut fleet = Fleet::start_with(&folder, &more).await?;
    fleet.gateway.settle().await?;
    let empty = Memory::of(&fleet)?;

    let result = folder.join("swarm.json");
    let mut swarm = swarm(options, &folder, &fleet, door.as_ref())?;
    swarm.drop_output();
    let began = Instant::now();
    let ramp = Duration::from_secs((60 + options.clients * 3 / connects_per_s(options)).into());
    while fleet.doors.metric("herald_connections_open").await? < f64::from(options.clients) {
        swarm.check()?;
        ensure!(
            began.elapsed() < ramp,
            "not everybody is in after {} s",
            ramp.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    fleet.doors.connected(options.clients).await?;
    let connected = began.elapsed();
    eprintln!("scale: everybody is in after {} s", connected.as_secs());
    tokio::time::sleep(SETTLING).await;
    let full = Memory::of(&fleet)?;
    let registered = fleet.redis_keys()?;
    let refused = fleet.doors.metrics().await?;
    let refused = refused.by_labels("herald_refused_total");
    let resting = Duration::from_secs(options.hold_s / 2).saturating_sub(SETTLING * 3 / 2);
    let cpu = fleet.gateway.cpu()?;
    tokio::time::sleep(resting).await;
    let idle = fleet.gateway.cpu()?.since(cpu);

    swarm
        .ended(Duration::from_secs(options.hold_s + 180))
        .await?;
    let end = Memory::of(&fleet)?;
    let text = std::fs::read_to_string(&result).context("no result of the swarm")?;
    let report: Value = serde_json::from_str(&text)?;
    let each = f64::from(options.clients);
    println!(
        "\n### {} connections{} in one gateway process, {cores} core threads, {} s\n",
        options.clients,
        if options.tls { " by TLS" } else { "" },
        options.hold_s
    );
    println!("| | |\n|---|---|");
    let row = |what: &str, value: String| println!("| {what} | {value} |");
    row("until all were in, s", connected.as_secs().to_string());
    row("keys in Redis when all were in", registered);
    row("refused by then", refused);
    row(
        "user memory of each (RSS of the process above an empty one's), B",
        format!("{:.0}", (full.resident - empty.resident) / each),
    );
    row(
        "RSS of the process, MiB",
        format!("{:.0}", full.resident / MIB),
    );
    row("RSS at the end, MiB", format!("{:.0}", end.resident / MIB));
    if let Some((before, after)) = empty.slabs.zip(full.slabs) {
        // Both ends of each are on this machine.
        let kernel = (after - before) / 2.0 / each;
        row(
            "kernel's objects of each, of the server's end, B",
            format!("{kernel:.0}"),
        );
        row(
            "both together, B",
            format!("{:.0}", kernel + (full.resident - empty.resident) / each),
        );
    }
    let seconds = resting.as_secs_f64();
    let per = |cpu: f64| format!("{:.3}", cpu / seconds / each);
    row(
        "CPU of each connection while nothing is sent, ping every 30 s, µs/s: process",
        per(idle.whole_us),
    );
    row("the same: core threads", per(idle.cores_us));
    for (what, pointer) in [
        ("connects tried", "/counters/connects"),
        ("connects that failed, and how", "/failures"),
        ("welcomes after a client's first", "/counters/reconnects"),
        ("syncs asked for", "/counters/syncs_asked"),
        ("of them refused, and what else was", "/errors"),
        ("gaps, by cause", "/gaps"),
        ("connected at the end", "/counters/connected"),
        ("pings answered", "/counters/pings_answered"),
        ("notifications posted", "/posted/accepted"),
        ("missing", "/missing"),
        ("received twice", "/repeated"),
        (
            "from when it was due to the client, ms: median",
            "/latency_ms/p50",
        ),
        ("99 %", "/latency_ms/p99"),
        ("99.9 %", "/latency_ms/p999"),
        ("longest", "/latency_ms/max"),
        ("where the load tool itself was the limit", "/bottlenecks"),
    ] {
        row(
            what,
            report.pointer(pointer).map_or("?".into(), Value::to_string),
        );
    }
    ensure!(
        report["ok"] == true,
        "the load tool is not content: {}",
        report["failures"]
    );
    Ok(())
}

const MIB: f64 = (1 << 20) as f64;

fn connects_per_s(options: &Options) -> u32 {
    let usual = match options.tls {
        true => TLS_CONNECTS_PER_S,
        false => CONNECTS_PER_S,
    };
    options.connects_per_s.unwrap_or(usual)
}

/// Otherwise the kernel drops what comes as soon as the clients have no CPU to read it.
fn ensure_tcp_memory(clients: u32) -> Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_mem";
    if !std::path::Path::new(path).exists() {
        eprintln!(
            "scale: this network namespace does not show {path}: nobody knows whether it is enough"
        );
        return Ok(());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {path}"))?;
    let pages: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
    let wanted = TCP_PAGES.map(|each| (each * f64::from(clients)).ceil());
    let is_enough = pages.len() == wanted.len() && pages[1] >= wanted[1] && pages[2] >= wanted[2];
    ensure!(
        is_enough,
        "{clients} connections with both ends here may hold more than TCP has on this machine (net.ipv4.tcp_mem is \
         {}); run: sysctl -w net.ipv4.tcp_mem='{} {} {}'",
        text.trim().replace('\t', " "),
        wanted[0],
        wanted[1],
        wanted[2]
    );
    Ok(())
}

fn swarm(options: &Options, folder: &Folder, fleet: &Fleet, tls: Option<&Tls>) -> Result<Process> {
    let doors = &fleet.doors;
    let rate = connects_per_s(options);
    let mut arguments = vec![
        "run".to_owned(),
        "unicast".into(),
        match tls {
            Some(tls) => format!("--url=wss://{}", tls.listen),
            None => format!("--url=ws://127.0.0.1:{}", doors.clients),
        },
        format!("--secret-file={}", folder.text("token.key")),
        format!("--clients={}", options.clients),
        format!("--connect-rate={rate}"),
        format!("--post-url=http://127.0.0.1:{}", doors.producers),
        format!("--api-key-file={}", folder.text("admin.key")),
        format!("--duration={}", options.hold_s),
        format!("--rate={}", options.rate_or(RATE)),
        format!("--set=send.0.from_s={}", options.hold_s / 2),
        format!("--watch=gateway={}", fleet.gateway.id()),
        format!("--json={}", folder.text("swarm.json")),
    ];
    if tls.is_some() {
        arguments.push(format!("--ca-file={}", folder.text("ca.pem")));
    }
    if let Some(page) = &options.html {
        arguments.push(format!("--html={}", page.display()));
    }
    let log = folder.join("swarm.log");
    Process::start(&sibling("swarm")?, &arguments, None, &log)
}

/// The client port by TLS.
struct Tls {
    listen: String,
    certificate: String,
    key: String,
}

impl Tls {
    fn new(folder: &Folder) -> Tls {
        certificates::make(&folder.join(""), &["gateway"]);
        Tls {
            listen: format!("127.0.0.1:{}", free_port()),
            certificate: folder.text("gateway.pem"),
            key: folder.text("gateway.key"),
        }
    }

    fn settings(&self) -> [(&'static str, &str); 3] {
        [
            ("HERALD_GATEWAY__TLS_LISTEN", &self.listen),
            ("HERALD_TLS__CERTIFICATE_FILE", &self.certificate),
            ("HERALD_TLS__KEY_FILE", &self.key),
        ]
    }
}

struct Memory {
    resident: f64,
    slabs: Option<f64>,
}

impl Memory {
    fn of(fleet: &Fleet) -> Result<Memory> {
        Ok(Memory {
            resident: fleet.gateway.resident_bytes()?,
            slabs: slabs::of_sockets().map(|bytes| bytes as f64),
        })
    }
}

impl Fleet {
    fn redis_keys(&self) -> Result<String> {
        let port = self.redis.port.to_string();
        let answer = Command::new("redis-cli")
            .args(["-p", &port, "DBSIZE"])
            .output();
        let answer = answer.context("redis-cli is installed with redis-server")?;
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }
}
