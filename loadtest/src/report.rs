//! What the run came to: the JSON result, the accounting, the progress line.

use crate::{
    flock::Last,
    producer::Ledger,
    roster::Roster,
    tally::{Counters, Tally},
};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Missing deliveries named in the result; the others are only counted.
const EXAMPLES_MAX: usize = 20;

#[derive(Debug, Serialize)]
pub struct Report {
    /// Nothing is missing, no hole is open, everybody is there.
    pub ok: bool,
    pub run: String,
    pub seconds: f64,
    pub clients: u32,
    /// Never welcomed at all.
    pub never_connected: u64,
    /// Deliveries that must have happened and did not.
    pub missing: u64,
    pub missing_examples: Vec<Missing>,
    /// Devices with a hole that was still open at the end.
    pub holes_open: u64,
    /// Devices that were still waiting for a sync, and so can't tell whether they have everything.
    pub unsynced: u64,
    pub repeated: u64,
    pub posted: Option<Posted>,
    pub counters: Counters,
    pub latency_ms: Option<Latency>,
    pub connect_ms: Option<Latency>,
    /// From the loss of an open connection to the next `welcome`.
    pub return_ms: Option<Latency>,
    pub closes: BTreeMap<String, u64>,
    pub failures: BTreeMap<String, u64>,
    pub gaps: BTreeMap<String, u64>,
    pub errors: BTreeMap<String, u64>,
    /// The longest one of this tool's threads did not look at its sockets: a latency near it is its own.
    pub away_ms_max: f64,
    /// The most this tool had in memory, per client.
    pub memory_bytes_per_client: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    pub user: String,
    pub device: u32,
    /// "user" or "all", and the number; or how many a device has short of `--expect`.
    pub to: &'static str,
    pub n: u64,
}

#[derive(Debug, Serialize)]
pub struct Posted {
    pub due: u64,
    pub accepted: u64,
    pub repeated: u64,
    pub refused: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    fn of(microseconds: &Histogram<u64>) -> Option<Latency> {
        let ms = |us: u64| us as f64 / 1_000.0;
        (!microseconds.is_empty()).then(|| Latency {
            count: microseconds.len(),
            mean: microseconds.mean() / 1_000.0,
            p50: ms(microseconds.value_at_quantile(0.5)),
            p90: ms(microseconds.value_at_quantile(0.9)),
            p99: ms(microseconds.value_at_quantile(0.99)),
            p999: ms(microseconds.value_at_quantile(0.999)),
            max: ms(microseconds.max()),
        })
    }
}

/// What was wanted of the run.
pub struct Wanted<'a> {
    pub run: &'a str,
    pub roster: &'a Roster,
    pub ledger: Option<&'a Ledger>,
    pub expect: Option<u64>,
    pub elapsed: Duration,
}

impl Report {
    pub fn new(wanted: &Wanted<'_>, tally: &Tally, lasts: &[Last]) -> Report {
        let mut missing = MissingList::default();
        for last in lasts {
            missing.add(wanted, last);
        }
        let count = |is: fn(&Last) -> bool| lasts.iter().filter(|last| is(last)).count() as u64;
        let never_connected = count(|last| !last.ever_welcomed);
        let holes_open = count(|last| last.has_hole);
        let unsynced = count(|last| last.ever_welcomed && last.is_syncing);
        let faults = tally.counters.syncs_false + tally.counters.sse_ids_ahead;
        let all_well = missing.count + never_connected + holes_open + unsynced + faults == 0;
        Report {
            ok: all_well && tally.counters.gave_up == 0,
            run: wanted.run.to_owned(),
            seconds: wanted.elapsed.as_secs_f64(),
            clients: wanted.roster.clients(),
            never_connected,
            missing: missing.count,
            missing_examples: missing.examples,
            holes_open,
            unsynced,
            repeated: tally.counters.repeated(),
            posted: wanted.ledger.map(|ledger| Posted {
                due: ledger.due,
                accepted: ledger.accepted,
                repeated: ledger.repeated,
                refused: ledger.refused.clone(),
            }),
            counters: tally.counters,
            latency_ms: Latency::of(&tally.latency_us),
            connect_ms: Latency::of(&tally.connect_us),
            return_ms: Latency::of(&tally.return_us),
            closes: tally.closes.clone(),
            failures: tally.failures.clone(),
            gaps: tally.gaps.clone(),
            errors: tally.errors.clone(),
            away_ms_max: tally.away_max.as_secs_f64() * 1_000.0,
            memory_bytes_per_client: peak_resident_bytes()
                / u64::from(wanted.roster.clients().max(1)),
        }
    }
}

#[derive(Default)]
struct MissingList {
    count: u64,
    examples: Vec<Missing>,
}

impl MissingList {
    fn add(&mut self, wanted: &Wanted<'_>, last: &Last) {
        let user = last.number / wanted.roster.devices();
        let mut found = Vec::new();
        if let Some(ledger) = wanted.ledger {
            let to_user = ledger.to_user.get(&user).into_iter().flat_map(|n| n.iter());
            let to_user = to_user.filter(|&n| !last.own.contains(n));
            found.extend(to_user.map(|n| ("user", u64::from(n))));
            let to_all = ledger.to_all.iter().filter(|&n| !last.all.contains(n));
            found.extend(to_all.map(|n| ("all", u64::from(n))));
            self.count += found.len() as u64;
        }
        let short = wanted
            .expect
            .map_or(0, |expect| expect.saturating_sub(last.unique));
        if short > 0 {
            self.count += short;
            found.push(("short of --expect", short));
        }
        let room = EXAMPLES_MAX - self.examples.len();
        let named = found.into_iter().take(room).map(|(to, n)| Missing {
            user: wanted.roster.user(user),
            device: last.number % wanted.roster.devices(),
            to,
            n,
        });
        self.examples.extend(named);
    }
}

/// The most memory this process had.
fn peak_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// On a terminal one line that changes; elsewhere a line now and then. All of it on stderr.
pub struct Progress {
    is_terminal: bool,
    last: Instant,
    last_unique: u64,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            is_terminal: io::stderr().is_terminal(),
            last: Instant::now(),
            last_unique: 0,
        }
    }

    /// Something worth a line of its own.
    pub fn say(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}swarm: {text}");
    }

    pub fn show(&mut self, clients: u32, counters: &Counters, ledger: Option<(u64, u64)>) {
        let every = Duration::from_millis(if self.is_terminal { 250 } else { 5_000 });
        let since = self.last.elapsed();
        if since < every {
            return;
        }
        let per_s = (counters.unique - self.last_unique) as f64 / since.as_secs_f64();
        (self.last, self.last_unique) = (Instant::now(), counters.unique);
        let posted = ledger.map_or(String::new(), |(accepted, expected)| {
            let waiting = expected.saturating_sub(counters.unique_own);
            format!(" · {accepted} posted, {waiting} on the way")
        });
        let holes = counters.holes_seen - counters.holes_healed;
        let syncing = match counters.syncing {
            0 => String::new(),
            count => format!(", {count} syncing"),
        };
        let line = format!(
            "{}/{clients} connected{syncing}{posted} · {} received, {per_s:.0}/s · {} repeated · {holes} holes · \
             {} reconnects",
            counters.connected,
            counters.unique,
            counters.repeated(),
            counters.reconnects
        );
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
            let _ = io::stderr().flush();
        } else {
            eprintln!("swarm: {line}");
        }
    }

    pub fn end(&self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}
