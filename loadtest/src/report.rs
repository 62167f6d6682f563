//! What the run came to: the result, as JSON and as what tables and pages are made of.

use crate::{
    flock::Last,
    hdr,
    options::Load,
    producer::Ledger,
    roster::Roster,
    series::{CLIENT, Lateness, Second, bottlenecks},
    table,
    tally::{Counters, Tally},
};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Missing deliveries named in the result; the others are only counted.
const EXAMPLES_MAX: usize = 20;

#[derive(Debug, Deserialize, Serialize)]
pub struct Report {
    /// Nothing is missing, no hole is open, everybody is there.
    pub ok: bool,
    pub run: String,
    /// Empty: by flags.
    pub scenario: String,
    pub about: String,
    /// Whose results are in it.
    pub hosts: Vec<String>,
    /// Whose clients these are, of each host that made them up; hosts that share a run have none in common.
    #[serde(default)]
    pub users: Vec<Users>,
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
    /// Devices that did not read at the end, as the scenario has it: nothing is expected of them.
    pub stalled: u64,
    /// Devices that were away at the end, as the scenario has it: nothing is expected of them either.
    #[serde(default)]
    pub away: u64,
    pub repeated: u64,
    pub posted: Option<Posted>,
    pub counters: Counters,
    pub latency_ms: Option<Latency>,
    /// By tier, of what this tool posted.
    pub latency_ms_by_priority: BTreeMap<String, Latency>,
    pub connect_ms: Option<Latency>,
    /// From the loss of an open connection to the next `welcome`.
    pub return_ms: Option<Latency>,
    /// How late posts left, counted from their moment.
    pub lag_ms: Option<Latency>,
    /// Parts of the run by themselves.
    pub windows: Vec<Window>,
    pub closes: BTreeMap<String, u64>,
    pub failures: BTreeMap<String, u64>,
    pub gaps: BTreeMap<String, u64>,
    pub errors: BTreeMap<String, u64>,
    /// Why figures may be this tool's and not the server's; empty: they are the server's.
    pub bottlenecks: Vec<String>,
    /// What else is known of the run that figures lean on.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// The longest one of this tool's threads did not look at its sockets: a latency near it is its own.
    pub away_ms_max: f64,
    /// The most this tool had in memory while the run went on, per client.
    pub memory_bytes_per_client: u64,
    /// Unix second at which everybody was there.
    pub began_unix_s: Option<u64>,
    pub to_all: ToAll,
    pub histograms_us: Histograms,
    pub series: Vec<Second>,
}

/// A prefix and the numbers behind it, both ends included.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Users {
    pub prefix: String,
    pub first: u64,
    pub last: u64,
}

/// What must be known of other hosts' clients to judge a notification to everybody.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct ToAll {
    /// Numbers this host posted, from..=to.
    pub posted: Vec<(u32, u32)>,
    /// Numbers from..=to, and how many of this host's clients have each.
    pub received: Vec<(u32, u32, u64)>,
}

/// As all HdrHistogram libraries read them: base64 of V2, in µs.
#[derive(Debug, Deserialize, Serialize)]
pub struct Histograms {
    #[serde(with = "hdr::text")]
    pub latency: Histogram<u64>,
    #[serde(with = "hdr::text")]
    pub low: Histogram<u64>,
    #[serde(with = "hdr::text")]
    pub normal: Histogram<u64>,
    #[serde(with = "hdr::text")]
    pub high: Histogram<u64>,
    #[serde(with = "hdr::text")]
    pub critical: Histogram<u64>,
    #[serde(with = "hdr::text")]
    pub connect: Histogram<u64>,
    #[serde(rename = "return", with = "hdr::text")]
    pub back: Histogram<u64>,
    #[serde(with = "hdr::text")]
    pub lag: Histogram<u64>,
}

/// Unix seconds, the last one not included.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub struct Window {
    pub name: String,
    pub from_unix_s: u64,
    pub to_unix_s: u64,
    pub latency_ms: Option<Latency>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Missing {
    pub user: String,
    pub device: u32,
    /// "user" or "all", and the number; or how many a device has short of `--expect`.
    pub to: String,
    pub n: u64,
}

/// Posts and what became of them; those that are refused or given up are of no client, and are not missing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Posted {
    pub due: u64,
    pub accepted: u64,
    pub repeated: u64,
    pub refused: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
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
    pub fn of(microseconds: &Histogram<u64>) -> Option<Latency> {
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

/// What was wanted of the run, and what it went with.
pub struct Wanted<'a> {
    pub run: &'a str,
    pub load: &'a Load,
    pub roster: &'a Roster,
    pub ledger: Option<&'a Ledger>,
    pub expect: Option<u64>,
    pub elapsed: Duration,
    pub began_unix_s: Option<u64>,
    pub producer_short: usize,
}

impl Report {
    /// Posts that were refused or given up.
    pub fn refused(&self) -> u64 {
        self.posted.as_ref().map_or(0, Posted::refused)
    }

    pub fn new(wanted: &Wanted<'_>, tally: Tally, lasts: &[Last], series: Vec<Second>) -> Report {
        let mut missing = MissingList::default();
        for last in lasts.iter().filter(|last| !last.is_excused()) {
            missing.add(wanted, last);
        }
        let count = |is: fn(&Last) -> bool| lasts.iter().filter(|last| is(last)).count() as u64;
        let never_connected = count(|last| !last.ever_welcomed);
        let holes_open = count(|last| last.has_hole && !last.is_excused());
        let unsynced = count(|last| last.ever_welcomed && last.is_syncing && !last.is_excused());
        let counters = tally.counters;
        let faults = counters.syncs_false + counters.sse_ids_ahead + counters.misdelivered;
        let posted = wanted.ledger.map(Posted::of);
        let refused = posted.as_ref().map_or(0, Posted::refused);
        let all_well =
            missing.count + never_connected + holes_open + unsynced + faults + refused == 0;
        let clients = wanted.roster.clients();
        let lag = wanted
            .ledger
            .map_or_else(hdr::exact, |ledger| ledger.lag_us.clone());
        let lateness = wanted
            .ledger
            .map(|ledger| Lateness::of(ledger, wanted.producer_short));
        let (bottlenecks, remarks) = bottlenecks(&series, cpus(), lateness.unwrap_or_default());
        let mut report = Report {
            ok: all_well && counters.gave_up == 0,
            run: wanted.run.to_owned(),
            scenario: wanted.load.scenario.clone(),
            about: wanted.load.about.clone(),
            hosts: vec![host()],
            users: wanted.roster.range().into_iter().collect(),
            seconds: wanted.elapsed.as_secs_f64(),
            clients,
            never_connected,
            missing: missing.count,
            missing_examples: missing.examples,
            holes_open,
            unsynced,
            stalled: count(|last| last.is_stalled),
            away: count(|last| last.is_sent_away),
            repeated: counters.repeated(),
            posted,
            counters,
            latency_ms: None,
            latency_ms_by_priority: BTreeMap::new(),
            connect_ms: None,
            return_ms: None,
            lag_ms: None,
            windows: wanted.load.windows(wanted.began_unix_s),
            closes: tally.closes,
            failures: tally.failures,
            gaps: tally.gaps,
            errors: tally.errors,
            bottlenecks,
            remarks,
            away_ms_max: tally.away_max.as_secs_f64() * 1_000.0,
            memory_bytes_per_client: table::peaks(&series).get(CLIENT).unwrap_or(&0)
                / u64::from(clients.max(1)),
            began_unix_s: wanted.began_unix_s,
            to_all: ToAll {
                posted: wanted
                    .ledger
                    .map_or_else(Vec::new, |ledger| ledger.to_all.ranges().to_vec()),
                received: received(lasts),
            },
            histograms_us: Histograms::of(
                tally.latency_us,
                tally.by_priority_us,
                tally.connect_us,
                tally.return_us,
                lag,
            ),
            series,
        };
        report.summarize();
        report
    }

    /// Percentiles of the histograms.
    pub fn summarize(&mut self) {
        let of = &self.histograms_us;
        self.latency_ms = Latency::of(&of.latency);
        self.connect_ms = Latency::of(&of.connect);
        self.return_ms = Latency::of(&of.back);
        self.lag_ms = Latency::of(&of.lag);
        let tiers = [
            ("low", &of.low),
            ("normal", &of.normal),
            ("high", &of.high),
            ("critical", &of.critical),
        ];
        let tiers = tiers
            .into_iter()
            .filter_map(|(name, of)| Some((name.to_owned(), Latency::of(of)?)));
        self.latency_ms_by_priority = tiers.collect();
        let mut windows = std::mem::take(&mut self.windows);
        for window in &mut windows {
            window.latency_ms = self.latency_between(window.from_unix_s, window.to_unix_s);
        }
        self.windows = windows;
    }

    /// Of what arrived between two Unix seconds, the last one not included.
    pub fn latency_between(&self, from_unix_s: u64, to_unix_s: u64) -> Option<Latency> {
        let mut sum = hdr::rough();
        let within = |second: &&Second| (from_unix_s..to_unix_s).contains(&second.unix_s);
        for second in self.series.iter().filter(within) {
            sum.add(&second.latency).expect("same bounds");
        }
        Latency::of(&sum)
    }
}

impl Histograms {
    fn of(
        latency: Histogram<u64>,
        [low, normal, high, critical]: [Histogram<u64>; 4],
        connect: Histogram<u64>,
        back: Histogram<u64>,
        lag: Histogram<u64>,
    ) -> Histograms {
        Histograms {
            latency,
            low,
            normal,
            high,
            critical,
            connect,
            back,
            lag,
        }
    }
}

impl Posted {
    fn of(ledger: &Ledger) -> Posted {
        Posted {
            due: ledger.due,
            accepted: ledger.accepted,
            repeated: ledger.repeated,
            refused: ledger.refused.clone(),
        }
    }

    fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl Load {
    /// Parts of the run worth a figure of their own.
    fn windows(&self, began_unix_s: Option<u64>) -> Vec<Window> {
        let Some(began) = began_unix_s else {
            return Vec::new();
        };
        let end = began + self.duration_s.unwrap_or(u64::from(u32::MAX));
        let mut windows = Vec::new();
        let mut add = |name: &str, from: u64, to: u64| {
            if from < to {
                windows.push(Window {
                    name: name.to_owned(),
                    from_unix_s: from,
                    to_unix_s: to,
                    latency_ms: None,
                });
            }
        };
        if let Some(storm) = &self.storm {
            let at = began + storm.at_s as u64;
            add("before the storm", began, at);
            add("since the storm", at, end);
        }
        if let Some(slow) = &self.slow {
            let from = began + slow.from_s as u64;
            let to = slow.for_s.map_or(end, |for_s| from + for_s as u64);
            add("before some stop reading", began, from);
            add("while some don't read", from, to);
            add("since all read again", to, end);
        }
        windows
    }
}

/// How many clients have each of the numbers to all, run by run.
fn received(lasts: &[Last]) -> Vec<(u32, u32, u64)> {
    let mut steps: BTreeMap<u32, i64> = BTreeMap::new();
    for &(first, last) in lasts.iter().flat_map(|last| last.all.ranges()) {
        *steps.entry(first).or_default() += 1;
        *steps.entry(last.saturating_add(1)).or_default() -= 1;
    }
    let (mut runs, mut clients, mut from) = (Vec::new(), 0_i64, 0);
    for (at, step) in steps {
        if clients > 0 && at > from {
            runs.push((from, at - 1, clients as u64));
        }
        (clients, from) = (clients + step, at);
    }
    runs
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
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
            to: to.to_owned(),
            n,
        });
        self.examples.extend(named);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Numbers;

    fn last(numbers: &[u32]) -> Last {
        let mut all = Numbers::default();
        for &number in numbers {
            all.insert(number);
        }
        Last {
            number: 0,
            own: Numbers::default(),
            all,
            unique: 0,
            has_hole: false,
            cursors: String::new(),
            is_syncing: false,
            is_stalled: false,
            is_sent_away: false,
            ever_welcomed: true,
        }
    }

    #[test]
    fn numbers_to_all_are_counted_by_the_clients_that_have_them() {
        let lasts = [last(&[1, 2, 3, 4]), last(&[1, 2, 4]), last(&[2])];
        assert_eq!(
            received(&lasts),
            [(1, 1, 2), (2, 2, 3), (3, 3, 1), (4, 4, 2)]
        );
        assert_eq!(received(&[last(&[])]), []);
    }
}
