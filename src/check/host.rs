//! What the kernel of this host says of itself, read below a root that is another one in tests.

use crate::memory::budget;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Descriptors of a thread that are looked through for a listener: it is made early, but a server may have opened hundreds of
/// files before. A gateway of a million connections is not looked through to its end.
const EARLY_DESCRIPTORS: usize = 4_096;
/// State of a socket in /proc/net/tcp.
const LISTENS: &str = "0A";

pub struct Host {
    root: PathBuf,
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    inode: u64,
}

/// A limit of this process, of which one without end is `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Descriptors,
    LockedMemory,
    Threads,
}

impl Limit {
    /// Its line in /proc/self/limits.
    fn name(self) -> &'static str {
        match self {
            Limit::Descriptors => "Max open files",
            Limit::LockedMemory => "Max locked memory",
            Limit::Threads => "Max processes",
        }
    }
}

impl Host {
    pub fn new(root: &Path) -> Host {
        Host {
            root: root.to_owned(),
        }
    }

    pub fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path.trim_start_matches('/'))).ok()?;
        Some(text.trim().to_owned())
    }

    /// Every number of a file that holds nothing else.
    pub fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        let text = self.text(path)?;
        text.split_whitespace()
            .map(|word| word.parse().ok())
            .collect()
    }

    /// `net.core.somaxconn`, by its name.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls(name)?.first().copied()
    }

    pub fn sysctls(&self, name: &str) -> Option<Vec<u64>> {
        self.numbers(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// The hard limit, which a process may take.
    pub fn limit(&self, limit: Limit) -> Option<u64> {
        let text = self.text("proc/self/limits")?;
        let rest = text
            .lines()
            .find_map(|line| line.strip_prefix(limit.name()))?;
        match rest.split_whitespace().nth(1)? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    }

    /// Major and minor.
    pub fn kernel(&self) -> Option<(u32, u32)> {
        let release = self.text("proc/sys/kernel/osrelease")?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// The sockets that listen on this port, of whatever address.
    pub fn listeners(&self, port: u16) -> Vec<Listener> {
        let tables = ["proc/net/tcp", "proc/net/tcp6"].map(|table| self.root.join(table));
        let tables = tables.iter().filter_map(|table| File::open(table).ok());
        tables
            .flat_map(|table| {
                // Those that listen stand before the connections, of which there may be a million.
                let lines = BufReader::new(table).lines().skip(1);
                let listeners = lines.map_while(|line| listener(&line.ok()?));
                listeners
                    .filter(|listener| listener.address.port() == port)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Name of a process that has it, and its number; `None`: it is not to be seen.
    pub fn holder(&self, listener: Listener) -> Option<(String, u32)> {
        let link = PathBuf::from(format!("socket:[{}]", listener.inode));
        let holds = |task: &PathBuf| {
            let descriptors = entries(&task.join("fd")).take(EARLY_DESCRIPTORS);
            let mut links = descriptors.filter_map(|fd| fs::read_link(fd).ok());
            links.any(|found| found == link)
        };
        // Each thread may have a table of its own.
        self.processes()
            .find(|(_, process)| entries(&process.join("task")).any(|task| holds(&task)))
            .map(|(pid, process)| (name(&process), pid))
    }

    pub fn runs(&self, program: &str) -> bool {
        self.processes()
            .any(|(_, process)| name(&process) == program)
    }

    fn processes(&self) -> impl Iterator<Item = (u32, PathBuf)> {
        let all = entries(&self.root.join("proc"));
        all.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
            .filter(|(pid, _)| *pid != std::process::id())
    }

    /// Thousandths of a CPU, of this process's control groups.
    pub fn group_cpus_milli(&self) -> Option<u64> {
        budget::group_cpus_milli(&self.root)
    }

    /// The least limit of threads of this process's control groups.
    pub fn group_threads(&self) -> Option<u64> {
        budget::least_group_limit(&self.root, "pids", "pids.max")
    }

    /// The least limit of memory of this process's control groups.
    pub fn group_memory(&self) -> Option<u64> {
        budget::group_limit(&self.root)
    }

    pub fn granted_memory(&self) -> u64 {
        budget::granted(&self.root)
    }

    pub fn tcp_bytes_max(&self) -> u64 {
        budget::tcp_bytes_max(&self.root)
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn name(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// A line of /proc/net/tcp; `None`: the socket does not listen.
fn listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (address, port) = local.split_once(':')?;
    // Words of the machine, as they stand in memory.
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?.to_ne_bytes()),
        _ => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (*state == LISTENS).then(|| Listener {
        address: SocketAddr::new(ip, port),
        inode: inode.parse().unwrap_or(0),
    })
}
