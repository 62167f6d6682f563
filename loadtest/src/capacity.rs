//! Whether this machine can hold the run, and how: threads with descriptor tables of their own, local
//! addresses with ports of their own. What is too low is named with the command that raises it.

use crate::sys;
use anyhow::{Context, Result, anyhow, bail};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
};

/// Descriptors a thread needs beside its clients: epoll, the lines of its courier, the process's own.
const SPARE: u64 = 200;
/// Fewer leave no room for a thread's clients.
const DESCRIPTORS_MIN: u64 = SPARE + 56;
/// Beside those of clients: the main one, the producer's, librdkafka's, look-ups of names.
const THREADS_SPARE: usize = 64;
const THREADS_MAX: usize = 1024;
/// Share of a range of ports that may be used; the last ones are slow to find.
const PORTS_PERCENT: u64 = 85;
/// Connections per address where addresses cost nothing (127.0.0.0/8): finding a port stays quick.
const PER_LOOPBACK_ADDRESS: u64 = 4_000;

/// How the run is spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub threads: usize,
    /// Empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
}

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Per table.
    pub descriptors: u64,
    /// Threads may have tables of their own.
    pub own_tables: bool,
    /// No limit of descriptors can be set above it.
    pub descriptors_max: u64,
    /// Descriptors of the whole machine: free, and the limit.
    pub files_free: u64,
    pub files_max: u64,
    pub ports: u64,
    pub cpus: usize,
}

impl Machine {
    pub fn look() -> Result<Machine> {
        let descriptors = sys::raise_descriptor_limit().context("can't read the limits")?;
        if descriptors < DESCRIPTORS_MIN {
            bail!(
                "a process may have {descriptors} descriptors here, {DESCRIPTORS_MIN} are the least; raise the limit \
                 in this shell, as root if it has to be: ulimit -n {DESCRIPTORS_MIN}"
            );
        }
        let numbers = |path: &str| -> Result<Vec<u64>> {
            let text = fs::read_to_string(path).with_context(|| format!("can't read {path}"))?;
            Ok(text.split_whitespace().flat_map(str::parse).collect())
        };
        let files = numbers("/proc/sys/fs/file-nr")?;
        let (used, files_max) = (files[0], *files.last().context("file-nr is empty")?);
        let range = numbers("/proc/sys/net/ipv4/ip_local_port_range")?;
        let probe = thread::Builder::new().spawn(sys::own_descriptor_table);
        let probe = probe.map_err(|error| no_thread(1, &error))?.join();
        Ok(Machine {
            descriptors,
            own_tables: matches!(probe, Ok(Ok(()))),
            descriptors_max: numbers("/proc/sys/fs/nr_open")?
                .first()
                .copied()
                .unwrap_or(u64::MAX),
            files_free: files_max.saturating_sub(used),
            files_max,
            ports: range[1].saturating_sub(range[0]) + 1,
            cpus: thread::available_parallelism().map_or(1, Into::into),
        })
    }

    /// `threads` 0: as many as it takes.
    pub fn plan(
        &self,
        clients: u32,
        threads: usize,
        sources: &[IpAddr],
        targets: &[SocketAddr],
    ) -> Result<Plan> {
        let clients = u64::from(clients);
        // Both ends of a connection to this machine are its own.
        let is_local = targets.iter().any(|target| target.ip().is_loopback());
        let files = clients * if is_local { 2 } else { 1 } + SPARE;
        if files > self.files_free {
            bail!(
                "{clients} connections need {files} descriptors, and this machine has {} left; raise its \
                 limit: sysctl -w fs.file-max={}",
                self.files_free,
                self.files_max + files
            );
        }
        Ok(Plan {
            threads: self.threads(clients, threads)?,
            sources: self.sources(clients, sources, targets)?,
        })
    }

    fn threads(&self, clients: u64, wanted: usize) -> Result<usize> {
        let per_table = self.descriptors.saturating_sub(SPARE).max(1);
        let tables = clients.div_ceil(per_table) as usize;
        let raise = self.raise(clients + SPARE);
        if tables > 1 && !self.own_tables {
            bail!(
                "{clients} connections need more than the {} descriptors a process may have here, and \
                 threads may not have tables of their own (unshare was refused); raise the limit in \
                 this shell: {raise}",
                self.descriptors
            );
        }
        if tables > THREADS_MAX {
            bail!(
                "{clients} connections need {tables} descriptor tables of {}, the most is \
                 {THREADS_MAX}; raise the limit in this shell: {raise}",
                self.descriptors
            );
        }
        if wanted != 0 && wanted < tables {
            bail!("--threads {wanted}: {clients} connections need {tables} descriptor tables");
        }
        let chosen = if wanted == 0 { self.cpus } else { wanted };
        Ok(chosen
            .clamp(tables, THREADS_MAX)
            .min(clients.max(1) as usize))
    }

    /// The command that sets a limit of so many descriptors.
    fn raise(&self, descriptors: u64) -> String {
        match descriptors > self.descriptors_max {
            true => format!("sysctl -w fs.nr_open={descriptors}; ulimit -n {descriptors}"),
            false => format!("ulimit -n {descriptors}"),
        }
    }

    fn sources(
        &self,
        clients: u64,
        given: &[IpAddr],
        targets: &[SocketAddr],
    ) -> Result<Vec<IpAddr>> {
        let per_source = (self.ports * PORTS_PERCENT / 100).max(1);
        // All may end up at one target when the others are down.
        let needed = clients.div_ceil(per_source);
        let loopback = targets.iter().all(|t| t.ip().is_loopback() && t.is_ipv4());
        if given.is_empty() && loopback {
            return Ok(loopback_addresses(clients.div_ceil(PER_LOOPBACK_ADDRESS)));
        }
        if given.len().max(1) as u64 >= needed {
            return Ok(given.to_vec());
        }
        bail!(
            "{clients} connections need {needed} local addresses of {per_source} ports each: give more \
             --source (ip addr add … dev lo), or more ports: \
             sysctl -w net.ipv4.ip_local_port_range='1024 65535'"
        );
    }
}

/// So many threads are needed, and one could not be started.
pub fn no_thread(threads: usize, error: &io::Error) -> anyhow::Error {
    let more = threads + THREADS_SPARE;
    anyhow!(
        "{threads} threads are needed and not all can be started ({error}); raise the limit in this shell, which counts \
         all that the user runs: ulimit -u {more}; or that of the control group (TasksMax={more} of a unit, a \
         container's limit of pids)"
    )
}

/// Other ones each time: ports of the last run stay taken for a minute.
fn loopback_addresses(count: u64) -> Vec<IpAddr> {
    if count <= 1 {
        return Vec::new();
    }
    // 127.n.x.y, n at random; neither x.0 nor x.255.
    let network = 0x7f00_0000 | u32::from(rand::random_range(1..=254u8)) << 16;
    let address = |n: u32| network | (n / 254) << 8 | (n % 254 + 1);
    (0..count.min(60_000) as u32)
        .map(|n| IpAddr::V4(Ipv4Addr::from(address(n))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const MACHINE: Machine = Machine {
        descriptors: 20_000,
        own_tables: true,
        descriptors_max: 1_048_576,
        files_free: 1_000_000,
        files_max: 1_000_000,
        ports: 28_000,
        cpus: 2,
    };

    fn local() -> Vec<SocketAddr> {
        vec!["127.0.0.1:8080".parse().unwrap()]
    }

    #[test]
    fn a_small_run_takes_what_there_is() {
        let plan = MACHINE.plan(1_000, 0, &[], &local()).unwrap();
        assert_eq!((plan.threads, plan.sources.len()), (2, 0));
        assert_eq!(MACHINE.plan(1, 0, &[], &local()).unwrap().threads, 1);
    }

    #[test]
    fn a_large_run_gets_tables_and_addresses_as_needed() {
        let plan = MACHINE.plan(100_000, 0, &[], &local()).unwrap();
        assert_eq!((plan.threads, plan.sources.len()), (6, 25));
        let distinct: BTreeSet<_> = plan.sources.iter().collect();
        assert_eq!(distinct.len(), 25);
        assert!(plan.sources.iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn limits_that_are_too_low_come_with_the_command_that_raises_them() {
        let shared = Machine {
            own_tables: false,
            ..MACHINE
        };
        let full = Machine {
            files_free: 5_000,
            ..MACHINE
        };
        let far = vec!["10.0.0.1:80".parse().unwrap()];
        let capped = Machine {
            descriptors_max: 20_000,
            ..shared
        };
        for (machine, targets, fix) in [
            (shared, local(), "shell: ulimit -n 50200"),
            (
                capped,
                local(),
                "shell: sysctl -w fs.nr_open=50200; ulimit -n 50200",
            ),
            (full, local(), "sysctl -w fs.file-max=1100200"),
            (MACHINE, far, "--source"),
        ] {
            let error = machine.plan(50_000, 0, &[], &targets).unwrap_err();
            assert!(error.to_string().contains(fix), "{error}");
        }
        let error = no_thread(8, &io::Error::from_raw_os_error(libc::EAGAIN)).to_string();
        assert!(
            error.contains("8 threads") && error.contains("ulimit -u 72"),
            "{error}"
        );
    }
}
