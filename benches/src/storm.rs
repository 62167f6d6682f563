//! Half of the clients lose their connections at one moment and come back as fast as they can, with no regard to their
//! slot; a tenth of their number more wants in than the gateway has room for. How fast it takes them, what the others
//! are told, what it costs those who stayed, and what memory it takes.
//!
//! Those who stay and those who come back are two runs of the load tool, so that what the first get is theirs alone.

use crate::{
    Options,
    fleet::Fleet,
    memory::{PER_CORE, Seen},
    parts::Folder,
    swarm::{Scenario, remarks},
    table::short,
};
use anyhow::{Context, Result, ensure};
use herald::limits::ACCEPTS_PER_S;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm::report::{Latency, Report};

/// To those who stay, in a second.
const RATE: u32 = 500;
/// Seconds from everybody being there to the storm: what connecting left behind ends, then what is quiet is measured.
const SETTLING_S: u64 = 15;
const QUIET_S: u64 = 15;
/// After the last is back; the refused ask again meanwhile.
const AFTER: Duration = Duration::from_secs(10);
const STORM_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);

pub async fn run(options: &Options) -> Result<()> {
    eprintln!("storm: Redis, Kafka, dispatcher and gateway start");
    let folder = Folder::new()?;
    let half = options.clients / 2;
    let cores = options.clients.div_ceil(PER_CORE).max(2).to_string();
    let (soft, hard) = ((2 * half).to_string(), (4 * half).to_string());
    let more = [
        ("HERALD_GATEWAY__CORES", cores.as_str()),
        ("HERALD_GATEWAY__PIN", "false"),
        ("HERALD_GATEWAY__CONNECTIONS_SOFT", soft.as_str()),
        ("HERALD_GATEWAY__CONNECTIONS_HARD", hard.as_str()),
        ("HERALD_GATEWAY__HEARTBEAT_MS", "30000"),
        ("HERALD_GATEWAY__DEAD_AFTER_MS", "90000"),
    ];
    let mut fleet = Fleet::start_with(&folder, &more).await?;
    let mut stay = stay(&fleet, &folder, options, half)?;
    stay.everybody(&mut fleet.gateway).await?;
    let mut back = come_back(&fleet, &folder, half)?;
    back.as_many_as_come(&mut fleet.gateway).await?;
    let at_s = (SETTLING_S + QUIET_S) as f64;
    back.at(at_s - 1.0).await?;
    let before = Seen::of(&fleet).await?;
    back.at(at_s).await?;
    let began_unix_s = unix_s();
    let watched = watch(&fleet, 2 * half).await?;
    let ended_unix_s = unix_s();
    tokio::time::sleep(AFTER).await;
    let refused = fleet.doors.metric("herald_refused_total").await?;
    let after = Seen::of(&fleet).await?;

    // It ends by itself when what was posted has arrived.
    stay.post_no_more()?;
    let result = stay.finish().await?;
    let notes = remarks(&result, "those who stay");
    let missing = result["missing"].clone();
    let stayed: Report = serde_json::from_value(result)?;
    let between = |from, to| stayed.latency_between(from, to).context("nothing arrived");
    let quiet = between(began_unix_s - QUIET_S, began_unix_s)?;
    // A second is named by its end.
    let stormy = between(began_unix_s + 1, ended_unix_s + 2)?;
    let crowd = back.interrupt().await?;
    print(half, &cores, &watched, (&quiet, &stormy), &crowd, refused);
    print_memory([&before, &watched.most, &after]);
    for note in notes {
        println!("* {note}");
    }
    ensure!(missing == 0, "those who stayed miss {missing}");
    Ok(())
}

fn stay(fleet: &Fleet, folder: &Folder, options: &Options, clients: u32) -> Result<Scenario> {
    let text = format!(
        "about = 'Those who stay.'\nusers = {clients}\nconnect_rate = 4000\nduration_s = 3600\n\
         acknowledge = false\ntail = true\n[[send]]\nto = 'users'\nrate = {}.0\nsize = 200\n",
        options.rate_or(RATE)
    );
    let mut arguments = fleet.arguments(folder);
    arguments.push(format!("--watch=gateway={}", fleet.gateway.id()));
    // It ends when it is told to post no more.
    arguments.push("--hold-s=0".into());
    Scenario::start(folder, "stay", &text, None, arguments)
}

fn come_back(fleet: &Fleet, folder: &Folder, clients: u32) -> Result<Scenario> {
    let at_s = SETTLING_S + QUIET_S;
    let text = format!(
        "about = 'Those who come back.'\nusers = 1\nconnect_rate = 4000\nduration_s = 3600\n\
         [storm]\nat_s = {at_s}.0\nin_slot = false\n"
    );
    let mut arguments = fleet.clients(folder);
    let (first, last) = (clients + 1, 2 * clients + clients / 10);
    arguments.push(format!("--users={first}..{last}"));
    // Whoever is refused comes again after 5 s at the earliest.
    arguments.push("--give-up-s=4".into());
    Scenario::start(folder, "back", &text, None, arguments)
}

/// What was seen of the storm from outside.
struct Watched {
    /// Until as many as there is room for were in again.
    took: Duration,
    /// Accepted in its busiest second, in the mean.
    accepts_per_s: (f64, f64),
    /// When most memory was held.
    most: Seen,
}

async fn watch(fleet: &Fleet, room: u32) -> Result<Watched> {
    let began = Instant::now();
    let mut accepted = Vec::new();
    let mut most: Option<Seen> = None;
    let (mut busiest, mut has_begun) = (0.0_f64, false);
    loop {
        let samples = fleet.doors.metrics().await?;
        let (now, count) = (Instant::now(), samples.sum_of("herald_accepted_total"));
        accepted.push((now, count));
        let is_older = |(then, _): &&(Instant, f64)| now - *then >= Duration::from_secs(1);
        if let Some((then, before)) = accepted.iter().rev().find(is_older) {
            busiest = busiest.max((count - before) / (now - *then).as_secs_f64());
        }
        let seen = Seen::in_samples(&samples)?;
        if most.as_ref().is_none_or(|most| most.total() < seen.total()) {
            most = Some(seen);
        }
        let open = samples.sum_of("herald_connections_open");
        has_begun |= open < f64::from(room);
        if has_begun && open >= f64::from(room) {
            let took = began.elapsed();
            let mean = (count - accepted[0].1) / took.as_secs_f64();
            return Ok(Watched {
                took,
                accepts_per_s: (busiest, mean),
                most: most.context("it was looked at")?,
            });
        }
        ensure!(began.elapsed() < STORM_MAX, "{open} of {room} are back");
        tokio::time::sleep(LOOK).await;
    }
}

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn print(
    half: u32,
    cores: &str,
    watched: &Watched,
    (quiet, stormy): (&Latency, &Latency),
    crowd: &Value,
    refused: f64,
) {
    println!(
        "\n### {half} clients come back at once to {half} who stay, {} more than there is room for, {cores} core \
         threads\n",
        half / 10
    );
    println!("| | |\n|---|---|");
    let row = |what: &str, value: String| println!("| {what} | {value} |");
    let (busiest, mean) = watched.accepts_per_s;
    row("accepts allowed in a second", ACCEPTS_PER_S.to_string());
    row("accepted in the busiest second", format!("{busiest:.0}"));
    row("accepted in a second, mean", format!("{mean:.0}"));
    row(
        "until all had come for whom there is room, s",
        short(watched.took.as_secs_f64()),
    );
    let of = |pointer: &str| crowd.pointer(pointer).map_or("–".into(), Value::to_string);
    row("from lost to welcome, ms: median", of("/return_ms/p50"));
    row("99 %", of("/return_ms/p99"));
    row("answered 503 with Retry-After", of("/failures/HTTP 503"));
    row("503 without", of("/failures/HTTP 503 without Retry-After"));
    row("refused, by the gateway's count", short(refused));
    row("failed connects, and how", of("/failures"));
    row("closed, by code", of("/closes"));
    let ms = |latency: &Latency| {
        let (p50, p99, p999) = (latency.p50, latency.p99, latency.p999);
        format!(
            "{}, {}, {} ({})",
            short(p50),
            short(p99),
            short(p999),
            latency.count
        )
    };
    row(
        "to those who stay, quiet, ms: 50 %, 99 %, 99.9 % (how many)",
        ms(quiet),
    );
    row("the same while the others come back", ms(stormy));
    row("99 % against quiet, times", short(stormy.p99 / quiet.p99));
    for line in crowd["bottlenecks"].as_array().into_iter().flatten() {
        row(
            "the load tool of those who come back says",
            line.to_string(),
        );
    }
}

fn print_memory(seen: [&Seen; 3]) {
    println!("\n| memory, MiB | predicted | measured | off |\n|---|---|---|---|");
    for (when, seen) in ["before", "at most", "after"].iter().zip(seen) {
        let (predicted, measured) = (seen.predicted.values().sum::<f64>(), seen.total());
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        println!(
            "| {when} | {:.1} | {:.1} | {:+.1} % |",
            mib(predicted),
            mib(measured),
            (measured / predicted - 1.0) * 100.0
        );
    }
    println!();
}
