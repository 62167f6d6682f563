//! What the kernel of this host says of itself, read below a root that is another one in tests.

use crate::memory::budget;
use std::{
    fs,
    path::{Path, PathBuf},
};

pub struct Host {
    root: PathBuf,
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
