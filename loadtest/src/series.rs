//! The run second by second: what the clients did, what the server and this tool used meanwhile.

use crate::{
    hdr,
    procfs::{Machine, Process, Usage, own_threads},
    producer::{self, Ledger},
    tally::Counters,
};
use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    str::FromStr,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

const THREADS: [&str; 2] = [FLOCKS, producer::THREAD];
/// How the names of threads of clients begin.
pub const FLOCKS: &str = "flock-";
/// Name of this process among those that are watched.
pub const CLIENT: &str = "swarm";
/// A thread that ran so large a part of a second could hardly do more.
const BUSY: f64 = 0.9;
/// A thread that waited for a CPU so large a part of a second was late with what it saw.
const STARVED: f64 = 0.1;

/// `NAME=PID`, or a PID alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').unwrap_or(("server", text));
        let pid = pid
            .parse()
            .map_err(|_| format!("expected NAME=PID, not {text:?}"))?;
        if name == CLIENT || name.is_empty() {
            return Err(format!("{name:?} can't be a server's name"));
        }
        Ok(Watched {
            name: name.to_owned(),
            pid,
        })
    }
}

/// One second. Numbers are those of the second unless they say otherwise.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Second {
    pub unix_s: u64,
    /// At its end.
    pub connected: u64,
    pub connects: u64,
    pub welcomes: u64,
    pub received: u64,
    pub bytes: u64,
    pub posted: u64,
    /// µs; of what arrived in it.
    #[serde(with = "hdr::text")]
    pub latency: Histogram<u64>,
    /// By process.
    pub usage: BTreeMap<String, Usage>,
    /// Of the whole machine, at its end.
    pub machine_cpus: f64,
    pub available_bytes: u64,
    pub slab_bytes: u64,
    pub tcp_bytes: u64,
    /// The most of a CPU that one of the tool's threads used, and waited for one in vain.
    pub thread_ran: f64,
    pub thread_waited: f64,
}

impl Second {
    /// The second after it, in which nothing happened.
    pub fn still(&self) -> Second {
        Second {
            unix_s: self.unix_s + 1,
            connects: 0,
            welcomes: 0,
            received: 0,
            bytes: 0,
            posted: 0,
            latency: hdr::rough(),
            ..self.clone()
        }
    }

    pub fn add(&mut self, other: &Second) {
        self.connected += other.connected;
        self.connects += other.connects;
        self.welcomes += other.welcomes;
        self.received += other.received;
        self.bytes += other.bytes;
        self.posted += other.posted;
        self.latency.add(&other.latency).expect("it grows");
        for (name, usage) in &other.usage {
            let sum = self.usage.entry(name.clone()).or_default();
            sum.cpus += usage.cpus;
            sum.resident_bytes += usage.resident_bytes;
        }
        self.machine_cpus += other.machine_cpus;
        self.available_bytes += other.available_bytes;
        self.slab_bytes += other.slab_bytes;
        self.tcp_bytes += other.tcp_bytes;
        self.thread_ran = self.thread_ran.max(other.thread_ran);
        self.thread_waited = self.thread_waited.max(other.thread_waited);
    }
}

/// Looks once a second.
pub struct Recorder {
    watched: Vec<Watched>,
    looked: Instant,
    /// That of the last look.
    second: u64,
    counters: Counters,
    posted: u64,
    processes: BTreeMap<String, Process>,
    machine: Machine,
    threads: BTreeMap<String, crate::procfs::Thread>,
    pub seconds: Vec<Second>,
    /// Seconds in which the producer's thread was short of CPU time.
    pub producer_short: usize,
}

impl Recorder {
    pub fn new(servers: &[Watched]) -> Result<Recorder> {
        let mut watched = servers.to_vec();
        watched.push(Watched {
            name: CLIENT.into(),
            pid: std::process::id(),
        });
        let mut processes = BTreeMap::new();
        for one in &watched {
            let Some(process) = Process::look(one.pid) else {
                bail!("--watch {}={}: there is no such process", one.name, one.pid);
            };
            processes.insert(one.name.clone(), process);
        }
        Ok(Recorder {
            watched,
            looked: Instant::now(),
            second: unix_s(),
            counters: Counters::default(),
            posted: 0,
            processes,
            machine: Machine::look(),
            threads: own_threads(&THREADS),
            seconds: Vec::new(),
            producer_short: 0,
        })
    }

    /// Once in each second of the clock, so that those of several hosts stand side by side.
    pub fn is_due(&self) -> bool {
        self.second != unix_s()
    }

    /// `counters` and `posted` are those since the start; `latency` is that since the last look.
    pub fn look(&mut self, counters: &Counters, posted: u64, latency: Histogram<u64>) {
        let length_s = self.looked.elapsed().as_secs_f64().max(0.001);
        (self.looked, self.second) = (Instant::now(), unix_s());
        let usage = self.usage(length_s);
        let (machine, before) = (Machine::look(), self.machine);
        self.machine = machine;
        let (thread_ran, thread_waited) = self.busiest(length_s);
        let before_it = self.counters;
        let welcomes = |of: &Counters| of.ever_connected + of.reconnects;
        self.seconds.push(Second {
            unix_s: self.second,
            connected: counters.connected,
            connects: counters.connects - before_it.connects,
            welcomes: welcomes(counters) - welcomes(&before_it),
            received: counters.received - before_it.received,
            bytes: counters.bytes - before_it.bytes,
            posted: posted - self.posted,
            latency,
            usage,
            machine_cpus: machine.busy.saturating_sub(before.busy).as_secs_f64() / length_s,
            available_bytes: machine.available_bytes,
            slab_bytes: machine.slab_bytes,
            tcp_bytes: machine.tcp_bytes,
            thread_ran,
            thread_waited,
        });
        (self.counters, self.posted) = (*counters, posted);
    }

    /// Of those that are still there.
    fn usage(&mut self, length_s: f64) -> BTreeMap<String, Usage> {
        let mut all = BTreeMap::new();
        for one in &self.watched {
            let Some(now) = Process::look(one.pid) else {
                continue;
            };
            let before = self.processes.insert(one.name.clone(), now);
            let used = now.cpu.saturating_sub(before.unwrap_or_default().cpu);
            let usage = Usage {
                cpus: used.as_secs_f64() / length_s,
                resident_bytes: now.resident_bytes,
            };
            all.insert(one.name.clone(), usage);
        }
        all
    }

    fn busiest(&mut self, length_s: f64) -> (f64, f64) {
        let threads = own_threads(&THREADS);
        let (mut ran, mut waited) = (0.0_f64, 0.0_f64);
        for (name, now) in &threads {
            let before = self.threads.get(name).copied().unwrap_or_default();
            let it_ran = now.ran.saturating_sub(before.ran).as_secs_f64() / length_s;
            let it_waited = now.waited.saturating_sub(before.waited).as_secs_f64() / length_s;
            if name.starts_with(FLOCKS) {
                (ran, waited) = (ran.max(it_ran), waited.max(it_waited));
            } else if it_ran > BUSY || it_waited > STARVED {
                self.producer_short += 1;
            }
        }
        self.threads = threads;
        (ran, waited)
    }
}

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// How late posts left, and for want of what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    pub due: u64,
    /// 99 % of them left within it.
    pub lag_ms: f64,
    /// For want of answers.
    pub held_back: u64,
    /// Later than they should, and not for that.
    pub late: u64,
    /// Seconds in which the producer's thread was short of CPU time.
    pub producer_short: usize,
}

impl Lateness {
    pub fn of(ledger: &Ledger, producer_short: usize) -> Lateness {
        Lateness {
            due: ledger.due,
            lag_ms: ledger.lag_us.value_at_quantile(0.99) as f64 / 1_000.0,
            held_back: ledger.held_back,
            late: ledger.late,
            producer_short,
        }
    }

    /// More than one in a hundred.
    fn is_more(&self, count: u64) -> bool {
        count * 100 > self.due
    }
}

/// Why figures of the run may be the tool's and not the server's (empty: they are the server's), and what is known of
/// it beside.
pub fn bottlenecks(seconds: &[Second], cpus: usize, posts: Lateness) -> (Vec<String>, Vec<String>) {
    let (mut found, mut remarks) = (Vec::new(), Vec::new());
    let of_all = seconds.len().max(1);
    let mut often = |count: usize, text: &str| {
        // A tenth of the run, or two seconds of a short one.
        if count >= (of_all / 10).max(2) {
            found.push(format!("{text} in {count} of {of_all} seconds"));
        }
    };
    let count = |is: &dyn Fn(&Second) -> bool| seconds.iter().filter(|second| is(second)).count();
    often(
        count(&|second| second.thread_ran > BUSY),
        "one of the tool's threads used more than 90 % of a CPU",
    );
    often(
        count(&|second| second.thread_waited > STARVED),
        "one of the tool's threads waited for a CPU more than 10 % of the time",
    );
    often(
        count(&|second| second.machine_cpus > cpus as f64 * 0.95),
        "this machine had no CPU time left",
    );
    often(
        posts.producer_short,
        "the thread that posts was short of CPU time",
    );
    let had_cpu = found.is_empty();
    let lag_ms = posts.lag_ms;
    if posts.is_more(posts.late) || (posts.is_more(posts.held_back) && !had_cpu) {
        found.push(format!(
            "posts left late: 99 % within {lag_ms:.1} ms of their moment"
        ));
    } else if posts.is_more(posts.held_back) {
        remarks.push(format!(
            "{} of {} posts left late or never (99 % of those that left: within {lag_ms:.1} ms of their moment) because the \
             server had not answered the {} before them; the tool's threads had CPU time",
            posts.held_back, posts.due, producer::IN_FLIGHT
        ));
    }
    (found, remarks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(thread_ran: f64) -> Second {
        Second {
            unix_s: 1,
            connected: 2,
            connects: 0,
            welcomes: 0,
            received: 3,
            bytes: 0,
            posted: 0,
            latency: hdr::rough(),
            usage: BTreeMap::from([("server".into(), Usage::default())]),
            machine_cpus: 0.5,
            available_bytes: 0,
            slab_bytes: 0,
            tcp_bytes: 0,
            thread_ran,
            thread_waited: 0.0,
        }
    }

    #[test]
    fn a_server_is_named_and_must_be_there() {
        assert_eq!("7".parse::<Watched>().unwrap().name, "server");
        assert_eq!("gateway=7".parse::<Watched>().unwrap().pid, 7);
        assert!("gateway".parse::<Watched>().is_err());
        assert!("swarm=7".parse::<Watched>().is_err());
        let gone = Watched {
            name: "gateway".into(),
            pid: u32::MAX,
        };
        let error = Recorder::new(&[gone]).err().expect("refused").to_string();
        assert!(error.contains("--watch gateway="), "{error}");
    }

    #[test]
    fn a_second_holds_what_came_since_the_one_before() {
        let mut recorder = Recorder::new(&[]).unwrap();
        let mut counters = Counters::default();
        for received in [5, 12] {
            counters.received = received;
            recorder.look(&counters, received * 2, hdr::rough());
        }
        let received: Vec<_> = recorder
            .seconds
            .iter()
            .map(|s| (s.received, s.posted))
            .collect();
        assert_eq!(received, [(5, 10), (7, 14)]);
        assert!(recorder.seconds[1].usage[CLIENT].resident_bytes > 0);
    }

    #[test]
    fn seconds_of_two_hosts_add_up() {
        let (mut one, mut two) = (second(0.1), second(0.2));
        two.latency.saturating_record(9);
        one.add(&two);
        assert_eq!((one.connected, one.received, one.latency.len()), (4, 6, 1));
    }

    #[test]
    fn a_tool_that_was_at_its_limit_says_so() {
        let quiet: Vec<_> = (0..10).map(|_| second(0.2)).collect();
        let on_time = Lateness {
            due: 1_000,
            lag_ms: 50.0,
            late: 10,
            ..Lateness::default()
        };
        assert_eq!(bottlenecks(&quiet, 2, on_time), (vec![], vec![]));
        let busy: Vec<_> = (0..10).map(|_| second(0.95)).collect();
        assert!(bottlenecks(&busy, 2, on_time).0[0].contains("90 %"));
        let late = Lateness {
            late: 11,
            ..on_time
        };
        assert!(bottlenecks(&quiet, 2, late).0[0].contains("50"));
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_the_tools_limit_unless_the_tool_was_short_of_cpu() {
        let quiet: Vec<_> = (0..10).map(|_| second(0.2)).collect();
        let held_back = Lateness {
            due: 1_000,
            lag_ms: 50.0,
            held_back: 400,
            ..Lateness::default()
        };
        let (found, remarks) = bottlenecks(&quiet, 2, held_back);
        assert_eq!((found.len(), remarks.len()), (0, 1));
        assert!(
            remarks[0].starts_with("400 of 1000 posts left late or never"),
            "{remarks:?}"
        );
        let short = Lateness {
            producer_short: 9,
            ..held_back
        };
        let (found, remarks) = bottlenecks(&quiet, 2, short);
        assert_eq!((found.len(), remarks.len()), (2, 0), "{found:?}");
    }
}
