//! What the configuration asks of the host, compared with what the host says.

use super::host::{Host, Limit};
use crate::{
    config::{Engine, Gateway},
    limits::{LISTEN_BACKLOG, MEMORY_BUDGET_PERCENT, RECEIVE_BUFFER_BYTES},
    memory::{Contract, budget},
    sys,
};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// Descriptors of a table that are no clients: files, pipes, what talks to Redis, Kafka and dispatchers.
const DESCRIPTORS_SPARE: u64 = 512;
/// Threads beside the cores: control, librdkafka's (one for each broker), look-ups of names.
const THREADS_SPARE: u64 = 128;
/// Clock sources that are read without a system call; a core reads the clock twice a turn.
const CLOCKS: [&str; 5] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
    "pvclock",
];
/// Name of our processes.
const PROGRAM: &str = "herald";

/// Something that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stands against what is configured; otherwise it is advice.
    pub is_serious: bool,
    pub what: String,
    pub why: &'static str,
    pub mend: String,
}

pub struct Needs {
    pub connections: u64,
    connections_hard: u64,
    pub cores: u64,
    pub budget_bytes: u64,
    pub contract: Contract,
    gateway: Gateway,
    /// Key and address of what listens.
    listens: Vec<(&'static str, SocketAddr)>,
}

impl Needs {
    /// For as many as the soft limit allows, or as are asked about.
    pub fn new(
        gateway: &Gateway,
        admin: SocketAddr,
        connections: Option<u64>,
        host: &Host,
    ) -> Needs {
        let cores = match gateway.cores {
            0 => sys::cpus().map_or(1, |cpus| cpus.len()),
            cores => cores,
        };
        let budget_bytes = budget::share(gateway.memory_bytes_max, host.granted_memory());
        let hard = gateway.connections_hard as u64;
        Needs {
            connections: connections.unwrap_or(gateway.connections_soft as u64),
            connections_hard: connections.map_or(hard, |asked| asked + asked / 5),
            cores: cores as u64,
            budget_bytes,
            contract: Contract::new(gateway, cores, host.tcp_bytes_max()),
            gateway: gateway.clone(),
            listens: [
                ("gateway.listen", Some(gateway.listen)),
                ("gateway.tls_listen", gateway.tls_listen),
                ("admin.listen", Some(admin)),
            ]
            .into_iter()
            .filter_map(|(key, address)| Some((key, address?)))
            .collect(),
        }
    }

    pub fn findings(&self, host: &Host) -> Vec<Finding> {
        let looks: [fn(&Needs, &Host, &mut Vec<Finding>); 13] = [
            Needs::listen,
            Needs::memory,
            Needs::descriptors,
            Needs::threads,
            Needs::cpus,
            Needs::conntrack,
            Needs::io_uring,
            Needs::backlog,
            Needs::tcp_memory,
            Needs::tcp_hash,
            Needs::socket_buffers,
            Needs::ports,
            Needs::clock,
        ];
        let mut findings = Vec::new();
        for look in looks {
            look(self, host, &mut findings);
        }
        findings.sort_by_key(|finding| !finding.is_serious);
        findings
    }

    /// A gateway that runs has its own addresses.
    fn listen(&self, host: &Host, findings: &mut Vec<Finding>) {
        for &(key, address) in &self.listens {
            let mut listeners = host.listeners(address.port()).into_iter();
            let Some(listener) = listeners.find(|listener| clash(address, listener.address)) else {
                continue;
            };
            let holder = host.holder(listener);
            let (by, is_serious) = match holder {
                Some((name, _)) if name == PROGRAM => continue,
                Some((name, pid)) => (format!("by {name}, process {pid}"), true),
                // It may be the gateway that this host runs.
                None => (
                    "by a process that this user can't see".into(),
                    !host.runs(PROGRAM),
                ),
            };
            // One of IPv6 alone leaves the other to us.
            let is_certain = listener.address.is_ipv4() == address.is_ipv4();
            findings.push(Finding {
                is_serious: is_serious && is_certain,
                what: format!(
                    "{key}: {address} is taken {by}, which listens on {}",
                    listener.address
                ),
                why: "the gateway does not start where it can't listen",
                mend: format!("end that process, or set {key} to another port"),
            });
        }
    }

    /// Cores beyond the quota are stopped all together, each period anew.
    fn cpus(&self, host: &Host, findings: &mut Vec<Finding>) {
        let (cores, milli) = (self.cores, host.group_cpus_milli());
        let Some(milli) = milli.filter(|milli| *milli < cores * 1_000) else {
            return;
        };
        let granted = milli as f64 / 1_000.0;
        findings.push(Finding {
            is_serious: false,
            what: format!("gateway.cores: {cores} are to run, the control group grants {granted:.2} CPUs"),
            why: "when they have used them up all are stopped until the next period, and what they hold waits as long",
            mend: format!(
                "CPUQuota={}% in the unit (the container's limit of CPUs: {cores}), or gateway.cores = {}",
                cores * 100,
                (milli / 1_000).max(1)
            ),
        });
    }

    fn memory(&self, host: &Host, findings: &mut Vec<Finding>) {
        let idle = self.contract.idle(self.connections).total();
        let worst = self
            .contract
            .worst(self.connections, self.budget_bytes)
            .total();
        let budget_bytes = self.budget_bytes;
        let (configured, granted) = (self.gateway.memory_bytes_max, host.granted_memory());
        let grants = match host.group_memory() {
            Some(_) => "the control group grants",
            None => "the machine has",
        };
        let is_configured = configured != 0 && configured <= granted;
        let source = match is_configured {
            true => "gateway.memory_bytes_max allows",
            false => grants,
        };
        let give = |bytes: u64| match is_configured {
            true => format!("set gateway.memory_bytes_max = {bytes}"),
            false => {
                let all = mib(bytes / MEMORY_BUDGET_PERCENT * 100);
                format!("give the host (MemoryMax= of the unit, the container's limit) {all}")
            }
        };
        if configured > granted {
            let (is, has) = (mib(configured), mib(granted));
            findings.push(Finding {
                is_serious: false,
                what: format!("memory: gateway.memory_bytes_max is {is}, {grants} {has}"),
                why: "newcomers may fill all that is granted, with nothing left for anything else",
                mend: format!(
                    "set gateway.memory_bytes_max = 0: {MEMORY_BUDGET_PERCENT} % of what is granted"
                ),
            });
        }
        if idle > budget_bytes {
            let fit = self.contract.connections_max(budget_bytes);
            findings.push(Finding {
                is_serious: true,
                what: format!(
                    "memory: {} idle connections take {}, {source} {}",
                    self.connections,
                    mib(idle),
                    mib(budget_bytes)
                ),
                why: "newcomers beyond the budget are refused with 503",
                mend: format!("{}, or gateway.connections_soft = {fit}", give(idle)),
            });
        } else if worst > budget_bytes {
            findings.push(Finding {
                is_serious: false,
                what: format!("memory: with everything at its bound at once it would be {}, {source} {}", mib(worst), mib(budget_bytes)),
                why: "newcomers are refused with 503 while it is so; those who are connected stay within their bounds",
                mend: format!("{}, or lower gateway.connections_soft", give(worst)),
            });
        }
    }

    fn descriptors(&self, host: &Host, findings: &mut Vec<Finding>) {
        let tables = if self.gateway.own_fd_table {
            self.cores
        } else {
            1
        };
        // The kernel spreads newcomers by their addresses, not evenly.
        let uneven = if tables > 1 {
            self.connections_hard / tables / 10
        } else {
            0
        };
        let needed = self.connections_hard / tables + uneven + DESCRIPTORS_SPARE;
        let of = if tables > 1 {
            "each core's table"
        } else {
            "the table"
        };
        let why = "at the end of its table a core answers 503";
        if let Some(limit) = host
            .limit(Limit::Descriptors)
            .filter(|limit| *limit < needed)
        {
            findings.push(Finding {
                is_serious: true,
                what: format!("descriptors: {of} needs {needed}, the limit is {limit}"),
                why,
                mend: format!(
                    "LimitNOFILE={needed} in the unit (in a shell: ulimit -n {needed}), or more gateway.cores"
                ),
            });
        }
        if let Some(most) = host.sysctl("fs.nr_open").filter(|most| *most < needed) {
            findings.push(mended_by(
                "fs.nr_open",
                most,
                needed,
                true,
                "no limit of descriptors can be set above it",
            ));
        }
        let all = self.connections_hard + DESCRIPTORS_SPARE;
        if let Some(most) = host.sysctl("fs.file-max").filter(|most| *most < all) {
            findings.push(mended_by(
                "fs.file-max",
                most,
                all,
                true,
                "files of the whole host: above it accepting fails",
            ));
        }
        if let Some(most) = host
            .sysctl("fs.epoll.max_user_watches")
            .filter(|most| *most < all)
        {
            findings.push(mended_by(
                "fs.epoll.max_user_watches",
                most,
                all,
                true,
                "a connection that can't be watched is closed at once",
            ));
        }
    }

    fn threads(&self, host: &Host, findings: &mut Vec<Finding>) {
        let needed = self.cores + THREADS_SPARE;
        let limits = [host.group_threads(), host.limit(Limit::Threads)];
        if let Some(limit) = limits
            .into_iter()
            .flatten()
            .min()
            .filter(|limit| *limit < needed)
        {
            findings.push(Finding {
                is_serious: true,
                what: format!("threads: {needed} are needed, the limit is {limit}"),
                why: "a core that can't start its thread ends the start",
                mend: format!("TasksMax={needed} in the unit (the container's limit of pids), LimitNPROC={needed}"),
            });
        }
    }

    /// A table of connections exists as soon as the module is loaded, and counts when a rule uses it.
    fn conntrack(&self, host: &Host, findings: &mut Vec<Finding>) {
        let needed = self.connections_hard / 4 * 5;
        let name = "net.netfilter.nf_conntrack_max";
        let Some(most) = host.sysctl(name).filter(|most| *most < needed) else {
            return;
        };
        let is_used = host
            .sysctl("net.netfilter.nf_conntrack_count")
            .is_some_and(|count| count > 0);
        let why = "a full table drops newcomers without a word (nf_conntrack: table full); better still are rules \
                   that do not track the clients' port (notrack)";
        findings.push(mended_by(name, most, needed, is_used, why));
    }

    fn io_uring(&self, host: &Host, findings: &mut Vec<Finding>) {
        let is_demanded = self.gateway.engine == Engine::Uring;
        if self.gateway.engine == Engine::Epoll {
            return;
        }
        if let Some(disabled @ 1..) = host.sysctl("kernel.io_uring_disabled") {
            findings.push(Finding {
                is_serious: is_demanded,
                what: format!("kernel.io_uring_disabled is {disabled}"),
                why: match is_demanded {
                    true => "gateway.engine = \"uring\" does not start",
                    false => "cores run on epoll",
                },
                mend: "sysctl -w kernel.io_uring_disabled=0, or gateway.engine = \"epoll\"".into(),
            });
        }
        // Later kernels count rings to the control group.
        let is_counted = host.kernel().is_some_and(|kernel| kernel < (5, 12));
        let needed = self.cores * 64 * 1024;
        let limit = host
            .limit(Limit::LockedMemory)
            .filter(|limit| *limit < needed);
        if let Some(limit) = limit.filter(|_| is_counted) {
            findings.push(Finding {
                is_serious: is_demanded,
                what: format!(
                    "locked memory: {needed} bytes are needed for rings, the limit is {limit}"
                ),
                why: "before Linux 5.12 rings count as locked memory",
                mend: format!(
                    "LimitMEMLOCK={needed} in the unit (in a shell: ulimit -l {})",
                    needed / 1024
                ),
            });
        }
    }

    fn backlog(&self, host: &Host, findings: &mut Vec<Finding>) {
        let needed = LISTEN_BACKLOG as u64;
        let why = "a burst of newcomers above it is dropped, and they try again after a second";
        for name in ["net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"] {
            if let Some(most) = host.sysctl(name).filter(|most| *most < needed) {
                findings.push(mended_by(name, most, needed, false, why));
            }
        }
    }

    fn tcp_memory(&self, host: &Host, findings: &mut Vec<Finding>) {
        // A socket that holds anything counts with a page, however small the frame is.
        let pages = self.connections;
        let Some(figures) = host.sysctls("net.ipv4.tcp_mem") else {
            return;
        };
        let [low, pressure, most] = figures[..] else {
            return;
        };
        if pressure < pages {
            findings.push(Finding {
                is_serious: most < pages,
                what: format!("net.ipv4.tcp_mem is {low} {pressure} {most}; one frame to everyone takes {pages} pages"),
                why: "above the second figure the kernel narrows windows, above the third it drops",
                mend: format!("sysctl -w net.ipv4.tcp_mem='{pages} {} {}'", pages * 4 / 3, pages * 2),
            });
        }
    }

    /// Each packet that comes in looks its connection up. With eight in a bucket that was a tenth of what an idle
    /// gateway's CPU did (benches/RESULTS.md).
    fn tcp_hash(&self, host: &Host, findings: &mut Vec<Finding>) {
        let needed = self.connections.next_power_of_two();
        let name = "net.ipv4.tcp_ehash_entries";
        // One that is negative is of another namespace, which is not seen from here.
        let Some(buckets) = host
            .sysctl(name)
            .filter(|buckets| buckets * 2 < self.connections)
        else {
            return;
        };
        findings.push(Finding {
            is_serious: false,
            what: format!("{name} is {buckets}, for {} connections", self.connections),
            why: "connections that share a bucket are walked through, out of the CPU's cache, for each packet",
            mend: format!("thash_entries={needed} on the kernel's command line, and a reboot: it can't be set later"),
        });
    }

    fn socket_buffers(&self, host: &Host, findings: &mut Vec<Finding>) {
        let send = self.gateway.send_buffer_bytes as u64;
        for (name, needed) in [
            ("net.core.wmem_max", send),
            ("net.core.rmem_max", RECEIVE_BUFFER_BYTES as u64),
        ] {
            if let Some(most) = host.sysctl(name).filter(|most| *most < needed) {
                findings.push(mended_by(
                    name,
                    most,
                    needed,
                    false,
                    "buffers of sockets are cut to it: less is on its way on long paths",
                ));
            }
        }
    }

    /// What goes out takes a port of the range; it must not be the clients'.
    fn ports(&self, host: &Host, findings: &mut Vec<Finding>) {
        let Some(range) = host.sysctls("net.ipv4.ip_local_port_range") else {
            return;
        };
        let [first, last] = range[..] else {
            return;
        };
        let mut reserved = host
            .text("proc/sys/net/ipv4/ip_local_reserved_ports")
            .unwrap_or_default();
        for &(key, address) in &self.listens {
            let port = u64::from(address.port());
            if !(first..=last).contains(&port) || holds(&reserved, port) {
                continue;
            }
            if !reserved.is_empty() {
                reserved.push(',');
            }
            reserved += &port.to_string();
            findings.push(Finding {
                is_serious: false,
                what: format!(
                    "port {port} of {key} lies in net.ipv4.ip_local_port_range, {first} to {last}"
                ),
                why: "an outgoing connection may hold it when the gateway starts",
                mend: format!("sysctl -w net.ipv4.ip_local_reserved_ports={reserved}"),
            });
        }
    }

    fn clock(&self, host: &Host, findings: &mut Vec<Finding>) {
        let directory = "sys/devices/system/clocksource/clocksource0";
        let Some(current) = host.text(&format!("{directory}/current_clocksource")) else {
            return;
        };
        if CLOCKS.contains(&current.as_str()) {
            return;
        }
        let available = host
            .text(&format!("{directory}/available_clocksource"))
            .unwrap_or_default();
        let better = available
            .split_whitespace()
            .find(|name| CLOCKS.contains(name));
        findings.push(Finding {
            is_serious: false,
            what: format!("the clock source is {current}"),
            why: "reading the clock is a system call then, and cores do it with every turn",
            mend: match better {
                Some(name) => format!("echo {name} > /{directory}/current_clocksource"),
                None => "this machine offers no better one: choose another type, or another hypervisor's clock".into(),
            },
        });
    }
}

fn mended_by(name: &str, is: u64, needed: u64, is_serious: bool, why: &'static str) -> Finding {
    Finding {
        is_serious,
        what: format!("{name} is {is}, {needed} is needed"),
        why,
        mend: format!("sysctl -w {name}={needed}"),
    }
}

/// Whether both can't be listened on.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (one, other) = (one.ip(), other.ip());
    // An IPv6 socket of all addresses takes IPv4 too, unless it is told not to.
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one == other || covers(one, other) || covers(other, one)
}

/// `8080,9148-9150`
fn holds(ports: &str, port: u64) -> bool {
    ports.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let within = first.trim().parse().ok().zip(last.trim().parse().ok());
        within.is_some_and(|(first, last): (u64, u64)| (first..=last).contains(&port))
    })
}

/// For people.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests;
