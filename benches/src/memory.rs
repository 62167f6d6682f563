//! The memory contract kept to: what the gateway predicted for so many connections, what it measures of itself, and
//! what the kernel's slabs say of its sockets.

use crate::{
    Options,
    fleet::Fleet,
    parts::Folder,
    process::{Process, sibling},
    slabs,
    standalone::Samples,
};
use anyhow::{Result, bail, ensure};
use herald::memory::Kind;
use std::{collections::BTreeMap, time::Duration};

/// More than CPUs: each has a descriptor table of its own, and one holds 20,000 on a small machine.
pub const PER_CORE: u32 = 12_000;
/// As much as the two may differ.
const TOLERANCE_PERCENT: f64 = 10.0;
/// Until everyone was pinged, and the allocator has given back what the connects took.
const SETTLING: Duration = Duration::from_secs(45);

pub async fn run(options: &Options) -> Result<()> {
    eprintln!("memory: Redis, Kafka, dispatcher and gateway start");
    let folder = Folder::new()?;
    let cores = options.clients.div_ceil(PER_CORE).max(2).to_string();
    let more = [
        ("HERALD_GATEWAY__CORES", cores.as_str()),
        ("HERALD_GATEWAY__PIN", "false"),
        // As it runs: everyone is pinged, and answers.
        ("HERALD_GATEWAY__HEARTBEAT_MS", "30000"),
        ("HERALD_GATEWAY__DEAD_AFTER_MS", "90000"),
    ];
    let fleet = Fleet::start_with(&folder, &more).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let empty = Seen::of(&fleet).await?;
    let slabs_before = slabs::of_sockets();

    let arguments = [
        format!(
            "--url=ws://127.0.0.1:{}/ws/notifications",
            fleet.doors.clients
        ),
        format!("--secret-file={}", folder.text("token.key")),
        format!("--users=1..{}", options.clients),
        "--connect-rate=4000".into(),
        "--hold-s=3600".into(),
    ];
    let swarm = Process::start(
        &sibling("swarm")?,
        &arguments,
        None,
        &folder.join("swarm.log"),
    )?;
    fleet.doors.connected(options.clients).await?;
    tokio::time::sleep(SETTLING).await;
    let full = Seen::of(&fleet).await?;
    let slabs = slabs_before
        .zip(slabs::of_sockets())
        .map(|(before, after)| {
            // Both ends are on this machine.
            after.saturating_sub(before) as f64 / 2.0
        });
    drop(swarm);
    print("nobody", &empty);
    print(
        &format!("{} connections, {cores} core threads", options.clients),
        &full,
    );
    if let Some(bytes) = slabs {
        let (each, counted) = (
            bytes / f64::from(options.clients),
            full.predicted["kernel_sockets"],
        );
        let off = off_percent(bytes, counted);
        println!(
            "\nBy the kernel's slabs its sockets take {each:.0} B each: {off:+.1} % off what is counted."
        );
        ensure!(
            off.abs() <= TOLERANCE_PERCENT,
            "the kernel takes {off:+.1} % more than is counted"
        );
    }
    let user = |by_kind: &BTreeMap<&str, f64>| -> f64 {
        let kernels = [Kind::KernelSockets, Kind::SocketBuffers].map(Kind::as_str);
        let own = by_kind.iter().filter(|(kind, _)| !kernels.contains(kind));
        own.map(|(_, bytes)| bytes).sum()
    };
    let added = user(&full.measured) - user(&empty.measured);
    println!(
        "\nUser memory added by each: {:.0} B.",
        added / f64::from(options.clients)
    );
    for (what, of) in [
        (
            "in all",
            &(|by_kind: &BTreeMap<&str, f64>| by_kind.values().sum())
                as &dyn Fn(&BTreeMap<&str, f64>) -> f64,
        ),
        ("of the process", &user),
    ] {
        let off = off_percent(of(&full.measured), of(&full.predicted));
        ensure!(
            off.abs() <= TOLERANCE_PERCENT,
            "measured is {off:+.1} % off the prediction {what}"
        );
    }
    Ok(())
}

/// Bytes by kind.
#[derive(Clone)]
pub struct Seen {
    pub predicted: BTreeMap<&'static str, f64>,
    pub measured: BTreeMap<&'static str, f64>,
}

impl Seen {
    pub fn total(&self) -> f64 {
        self.measured.values().sum()
    }

    pub async fn of(fleet: &Fleet) -> Result<Seen> {
        Seen::in_samples(&fleet.doors.metrics().await?)
    }

    pub fn in_samples(samples: &Samples) -> Result<Seen> {
        let (mut predicted, mut measured) = (BTreeMap::new(), BTreeMap::new());
        for kind in Kind::ALL.map(Kind::as_str) {
            for (family, into) in [
                ("herald_memory_predicted_bytes", &mut predicted),
                ("herald_memory_bytes", &mut measured),
            ] {
                let sample = format!("{family}{{kind=\"{kind}\"}}");
                into.insert(kind, samples.sum_of(&sample));
            }
        }
        if measured["process"] == 0.0 {
            bail!("the gateway measures nothing");
        }
        Ok(Seen {
            predicted,
            measured,
        })
    }
}

pub fn print(title: &str, seen: &Seen) {
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!("\n### Memory contract, {title}\n");
    println!("| kind | predicted, MiB | measured, MiB | off |");
    println!("|---|---|---|---|");
    let line = |kind: &str, predicted: f64, measured: f64| {
        let off = match predicted {
            0.0 => "–".to_owned(),
            _ => format!("{:+.1} %", off_percent(measured, predicted)),
        };
        println!(
            "| {kind} | {:.1} | {:.1} | {off} |",
            mib(predicted),
            mib(measured)
        );
    };
    for kind in Kind::ALL.map(Kind::as_str) {
        line(kind, seen.predicted[kind], seen.measured[kind]);
    }
    line(
        "total",
        seen.predicted.values().sum(),
        seen.measured.values().sum(),
    );
}

fn off_percent(measured: f64, predicted: f64) -> f64 {
    (measured / predicted - 1.0) * 100.0
}
