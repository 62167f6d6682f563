//! What the kernel says of processes and of this machine.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, time::Duration};

/// Ticks of `/proc/PID/stat` and `/proc/stat`, which are 100 a second on every Linux of today.
const TICK: Duration = Duration::from_millis(10);

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Of all its threads, ended ones too.
    pub cpu: Duration,
    pub resident_bytes: u64,
}

impl Process {
    /// `None` when there is none of this number.
    pub fn look(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        Some(Process {
            cpu: cpu_of(&stat)?,
            resident_bytes: statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096,
        })
    }
}

/// The name may hold blanks and brackets: fields are counted from behind it.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

/// The machine at one moment, in bytes and CPU time since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub busy: Duration,
    pub available_bytes: u64,
    /// Of the kernel's small objects: sockets, files, epoll entries.
    pub slab_bytes: u64,
    /// Data in sockets' buffers.
    pub tcp_bytes: u64,
}

impl Machine {
    pub fn look() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let meminfo = read("/proc/meminfo");
        let of_memory = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or(0) * 1024
        };
        Machine {
            busy: busy_of(&read("/proc/stat")).unwrap_or_default(),
            available_bytes: of_memory("MemAvailable:"),
            slab_bytes: of_memory("Slab:"),
            tcp_bytes: tcp_pages(&read("/proc/net/sockstat")) * 4096,
        }
    }
}

/// user nice system idle iowait irq softirq steal: all but idle and iowait.
fn busy_of(stat: &str) -> Option<Duration> {
    let numbers = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let numbers = numbers.enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    let ticks: u64 = numbers
        .take(6)
        .filter_map(|(_, text)| text.parse::<u64>().ok())
        .sum();
    Some(TICK * u32::try_from(ticks).ok()?)
}

fn tcp_pages(sockstat: &str) -> u64 {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"));
    let pages = line.and_then(|line| line.rsplit_once("mem "));
    pages
        .and_then(|(_, pages)| pages.trim().parse().ok())
        .unwrap_or(0)
}

/// A thread of this process: how long it ran, and how long it waited for a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    pub ran: Duration,
    pub waited: Duration,
}

/// This process's threads whose names start with one of these.
pub fn own_threads(prefixes: &[&str]) -> BTreeMap<String, Thread> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        let is_asked_for = prefixes.iter().any(|prefix| name.starts_with(prefix));
        let schedstat = read("schedstat");
        let mut ns = schedstat
            .split(' ')
            .filter_map(|text| text.trim().parse().ok());
        if let (true, Some(ran), Some(waited)) = (is_asked_for, ns.next(), ns.next()) {
            let thread = Thread {
                ran: Duration::from_nanos(ran),
                waited: Duration::from_nanos(waited),
            };
            threads.insert(name, thread);
        }
    }
    threads
}

/// Whether this process was started with SIGHUP ignored, as nohup does.
pub fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&status).is_some_and(|ignored| ignored & 1 != 0)
}

/// Bit n - 1 is signal n.
fn ignored_signals(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// What a process used in a second: shares of one CPU, and memory.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Usage {
    pub cpus: f64,
    pub resident_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_threads_are_seen() {
        let own = Process::look(std::process::id()).unwrap();
        assert!(own.resident_bytes > 1 << 20);
        assert_eq!(Process::look(u32::MAX), None);
        let name = "seen-by-the-test";
        let thread = std::thread::Builder::new().name(name.into());
        let (told, tell) = std::sync::mpsc::channel::<()>();
        let waiting = thread.spawn(move || tell.recv()).unwrap();
        // A thread names itself when it begins.
        while own_threads(&["seen-by"]).is_empty() {
            std::thread::yield_now();
        }
        drop(told);
        let _ = waiting.join();
    }

    #[test]
    fn ignored_signals_are_read_of_their_mask() {
        let status = "SigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored_signals(status), Some(0x1001));
        assert_eq!(ignored_signals("Name:\tswarm\n"), None);
    }

    #[test]
    fn fields_are_found_behind_a_name_with_brackets() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        let stat = "cpu  100 0 50 9000 10 0 50 0 0 0\ncpu0 1 2";
        assert_eq!(busy_of(stat), Some(Duration::from_secs(2)));
        let sockstat =
            "sockets: used 9\nTCP: inuse 7 orphan 0 tw 3 alloc 9 mem 4\nUDP: inuse 1 mem 0\n";
        assert_eq!(tcp_pages(sockstat), 4);
    }
}
