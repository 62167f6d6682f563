use super::*;
use std::{collections::BTreeMap, fs};
use tempfile::TempDir;

/// What is written in a host's /proc and /sys, by path; sysctls by their names.
struct Written(BTreeMap<String, String>);

const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";

/// As it is without a configuration.
fn admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9150))
}

impl Written {
    /// A host of 32 GB that has all that half a million connections on 8 cores need.
    fn good() -> Written {
        let mut written = Written(BTreeMap::new());
        written.file("proc/meminfo", "MemTotal:       33554432 kB\n");
        written.file("proc/self/cgroup", "0::/herald\n");
        written.file("sys/fs/cgroup/herald/pids.max", "4096\n");
        written.file("sys/fs/cgroup/herald/memory.max", "max\n");
        written.limits(1_048_576, 4_096);
        written.file(CLOCK, "tsc\n");
        for (name, value) in [
            ("kernel.osrelease", "6.12.3-1-amd64"),
            ("kernel.io_uring_disabled", "0"),
            ("fs.nr_open", "1048576"),
            ("fs.file-max", "9223372036854775807"),
            ("fs.epoll.max_user_watches", "7000000"),
            ("net.core.somaxconn", "4096"),
            ("net.ipv4.tcp_max_syn_backlog", "4096"),
            ("net.core.wmem_max", "212992"),
            ("net.core.rmem_max", "212992"),
            ("net.ipv4.tcp_mem", "383901\t511868\t767802"),
            ("net.ipv4.ip_local_port_range", "32768\t60999"),
            ("net.ipv4.ip_local_reserved_ports", ""),
        ] {
            written.sysctl(name, value);
        }
        written
    }

    fn file(&mut self, path: &str, text: &str) {
        self.0.insert(path.to_owned(), text.to_owned());
    }

    fn sysctl(&mut self, name: &str, value: &str) {
        self.file(&format!("proc/sys/{}", name.replace('.', "/")), value);
    }

    fn limits(&mut self, descriptors: u64, threads: u64) {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max processes             {threads}                 {threads}                 processes\n\
             Max open files            1024                 {descriptors}              files\n\
             Max locked memory         65536                65536                bytes\n"
        );
        self.file("proc/self/limits", &text);
    }

    fn host(&self) -> (TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in &self.0 {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::new(root.path());
        (root, host)
    }

    fn findings(&self, adapt: impl FnOnce(&mut Gateway)) -> Vec<Finding> {
        let mut gateway = Gateway {
            cores: 8,
            ..Gateway::default()
        };
        adapt(&mut gateway);
        let (_root, host) = self.host();
        Needs::new(&gateway, admin(), None, &host).findings(&host)
    }

    /// The only finding with this change, and whether it is serious.
    fn finding(change: impl FnOnce(&mut Written), adapt: impl FnOnce(&mut Gateway)) -> Finding {
        let mut written = Written::good();
        change(&mut written);
        let mut findings = written.findings(adapt);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        findings.remove(0)
    }
}

#[test]
fn a_host_that_has_all_it_takes_differs_in_nothing() {
    assert_eq!(Written::good().findings(|_| {}), []);
}

/// One key at a time: what is said, what mends it, and how much it weighs.
#[test]
fn each_key_that_is_too_low_is_named_with_the_command_that_mends_it() {
    for (name, value, mend, is_serious) in [
        ("fs.nr_open", "20000", "sysctl -w fs.nr_open=83012", true),
        (
            "fs.file-max",
            "100000",
            "sysctl -w fs.file-max=600512",
            true,
        ),
        (
            "fs.epoll.max_user_watches",
            "100000",
            "sysctl -w fs.epoll.max_user_watches=600512",
            true,
        ),
        (
            "net.core.somaxconn",
            "128",
            "sysctl -w net.core.somaxconn=4096",
            false,
        ),
        (
            "net.ipv4.tcp_max_syn_backlog",
            "512",
            "sysctl -w net.ipv4.tcp_max_syn_backlog=4096",
            false,
        ),
        (
            "net.core.wmem_max",
            "16384",
            "sysctl -w net.core.wmem_max=49152",
            false,
        ),
        (
            "net.core.rmem_max",
            "16384",
            "sysctl -w net.core.rmem_max=65536",
            false,
        ),
        (
            "net.netfilter.nf_conntrack_max",
            "262144",
            "sysctl -w net.netfilter.nf_conntrack_max=750000",
            false,
        ),
        (
            "kernel.io_uring_disabled",
            "2",
            "sysctl -w kernel.io_uring_disabled=0",
            false,
        ),
    ] {
        let finding = Written::finding(|written| written.sysctl(name, value), |_| {});
        assert!(finding.what.contains(name), "{finding:?}");
        assert!(finding.mend.contains(mend), "{finding:?}");
        assert_eq!(finding.is_serious, is_serious, "{finding:?}");
    }
}

#[test]
fn a_table_of_descriptors_that_is_too_small_for_a_core_is_serious() {
    let finding = Written::finding(|written| written.limits(20_000, 4_096), |_| {});
    assert!(
        finding.is_serious && finding.what.contains("20000"),
        "{finding:?}"
    );
    // More cores have more tables.
    let mut small = Written::good();
    small.limits(20_000, 4_096);
    assert_eq!(small.findings(|gateway| gateway.cores = 40), []);
    // Cores that share one need room for everyone in it.
    let shared = Written::good().findings(|gateway| gateway.own_fd_table = false);
    assert_eq!(shared, []);
    let shared = small.findings(|gateway| gateway.own_fd_table = false);
    assert!(shared[0].what.contains("600512"), "{shared:?}");
}

#[test]
fn a_full_table_of_tracked_connections_is_serious_where_one_is_in_use() {
    let tracked = |written: &mut Written| {
        written.sysctl("net.netfilter.nf_conntrack_max", "262144");
        written.sysctl("net.netfilter.nf_conntrack_count", "17");
    };
    assert!(Written::finding(tracked, |_| {}).is_serious);
}

#[test]
fn an_engine_that_is_insisted_on_and_not_granted_is_serious() {
    let disabled = |written: &mut Written| written.sysctl("kernel.io_uring_disabled", "2");
    let finding = Written::finding(disabled, |gateway| gateway.engine = Engine::Uring);
    assert!(finding.is_serious);
    let mut written = Written::good();
    disabled(&mut written);
    assert_eq!(
        written.findings(|gateway| gateway.engine = Engine::Epoll),
        []
    );
    // Locked memory counts on old kernels only.
    let old = |written: &mut Written| written.sysctl("kernel.osrelease", "5.10.0-32-amd64");
    let finding = Written::finding(old, |_| {});
    assert!(finding.mend.contains("LimitMEMLOCK=524288"), "{finding:?}");
}

#[test]
fn a_control_group_with_less_memory_than_the_connections_take_is_serious() {
    let limited = |bytes: &'static str| {
        move |written: &mut Written| written.file("sys/fs/cgroup/herald/memory.max", bytes)
    };
    let finding = Written::finding(limited("1073741824"), |_| {});
    assert!(finding.is_serious, "{finding:?}");
    assert!(
        finding.mend.contains("gateway.connections_soft = "),
        "{finding:?}"
    );
    // Enough for them while they are idle.
    let finding = Written::finding(limited("6442450944"), |_| {});
    assert!(!finding.is_serious, "{finding:?}");
    assert!(finding.what.contains("at its bound"), "{finding:?}");
}

#[test]
fn a_budget_above_what_the_host_grants_is_pointed_out_and_does_not_count() {
    const GIB: u64 = 1 << 30;
    let budget = |bytes: u64| move |gateway: &mut Gateway| gateway.memory_bytes_max = bytes;
    let mut written = Written::good();
    written.file("sys/fs/cgroup/herald/memory.max", "1073741824");
    let findings = written.findings(budget(8 * GIB));
    let told = |what: &str| findings.iter().any(|finding| finding.what.contains(what));
    assert!(told("gateway.memory_bytes_max is 8192 MiB"), "{findings:?}");
    assert!(told("the control group grants 1024 MiB"), "{findings:?}");
    assert!(findings[0].is_serious, "{findings:?}");
    // Where it is what stands in the way, it is what to change.
    let finding = Written::finding(|_| {}, budget(GIB));
    assert!(
        finding.mend.contains("set gateway.memory_bytes_max = "),
        "{finding:?}"
    );
}

#[test]
fn fewer_threads_than_cores_take_is_serious() {
    let group = |written: &mut Written| written.file("sys/fs/cgroup/herald/pids.max", "64\n");
    assert!(
        Written::finding(group, |_| {})
            .mend
            .contains("TasksMax=136")
    );
    let user = |written: &mut Written| written.limits(1_048_576, 64);
    assert!(Written::finding(user, |_| {}).is_serious);
}

#[test]
fn memory_of_tcp_that_one_frame_to_everyone_exhausts_is_serious() {
    let tcp = |figures: &'static str| {
        move |written: &mut Written| written.sysctl("net.ipv4.tcp_mem", figures)
    };
    // The worst of socket buffers follows from it: nothing else differs.
    assert!(Written::finding(tcp("20000 30000 40000"), |_| {}).is_serious);
    assert!(!Written::finding(tcp("20000 30000 600000"), |_| {}).is_serious);
}

#[test]
fn a_hash_table_of_few_buckets_for_so_many_is_pointed_out() {
    let buckets = |figure: &'static str| {
        move |written: &mut Written| written.sysctl("net.ipv4.tcp_ehash_entries", figure)
    };
    let finding = Written::finding(buckets("131072"), |_| {});
    assert!(
        finding.mend.starts_with("thash_entries=524288 "),
        "{finding:?}"
    );
    for enough_or_unseen in ["262144", "-262144"] {
        let mut written = Written::good();
        buckets(enough_or_unseen)(&mut written);
        assert_eq!(written.findings(|_| {}), []);
    }
}

#[test]
fn a_port_that_an_outgoing_connection_may_take_is_pointed_out() {
    let range = |written: &mut Written| {
        written.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        written.sysctl("net.ipv4.ip_local_reserved_ports", "9092,9150-9151");
    };
    let finding = Written::finding(range, |_| {});
    assert!(
        finding.mend.ends_with("=9092,9150-9151,8080"),
        "{finding:?}"
    );
    let admin_only = |written: &mut Written| {
        range(written);
        written.sysctl("net.ipv4.ip_local_reserved_ports", "8080");
    };
    let finding = Written::finding(admin_only, |_| {});
    assert!(finding.what.contains("9150 of admin.listen"), "{finding:?}");
    let mut reserved = Written::good();
    range(&mut reserved);
    reserved.sysctl("net.ipv4.ip_local_reserved_ports", "8000-8100,9150");
    assert_eq!(reserved.findings(|_| {}), []);
}

/// In /proc/net/tcp: address and port in hexadecimal, and the state, of which 0A listens.
fn sockets(lines: &[(&str, &str)]) -> String {
    let mut text =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n".to_owned();
    for (local, state) in lines {
        text += &format!(
            "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 77 1\n"
        );
    }
    text
}

#[test]
fn an_address_that_somebody_else_listens_on_is_named_with_its_key() {
    for (local, key) in [
        ("0100007F:1F90", "gateway.listen"),
        ("00000000:1F90", "gateway.listen"),
        ("0100007F:23BE", "admin.listen"),
    ] {
        let taken = |written: &mut Written| {
            let table = sockets(&[("0100007F:0016", "0A"), (local, "0A")]);
            written.file("proc/net/tcp", &table);
        };
        let finding = Written::finding(taken, |_| {});
        assert!(finding.is_serious, "{finding:?}");
        assert!(finding.what.starts_with(key), "{finding:?}");
    }
    // Connections, other ports, and other addresses are not in the way.
    let mut free = Written::good();
    let others = [
        ("0200007F:23BE", "0A"),
        ("0100007F:1F91", "0A"),
        ("0100007F:1F90", "01"),
    ];
    free.file("proc/net/tcp", &sockets(&others));
    assert_eq!(free.findings(|_| {}), []);
    // Of IPv6 it may leave IPv4 alone.
    let any = |written: &mut Written| {
        let any = format!("{}:1F90", "0".repeat(32));
        written.file("proc/net/tcp6", &sockets(&[(&any, "0A")]));
    };
    let finding = Written::finding(any, |_| {});
    assert!(
        !finding.is_serious && finding.what.contains("[::]:8080"),
        "{finding:?}"
    );
    // A gateway of this host that this user can't look into.
    let ours = |written: &mut Written| {
        written.file("proc/net/tcp", &sockets(&[("00000000:1F90", "0A")]));
        written.file("proc/4000000000/comm", "herald\n");
    };
    assert!(!Written::finding(ours, |_| {}).is_serious);
}

#[test]
fn more_cores_than_the_control_group_grants_are_pointed_out() {
    let quota = |text: &'static str| {
        move |written: &mut Written| written.file("sys/fs/cgroup/herald/cpu.max", text)
    };
    let finding = Written::finding(quota("250000 100000"), |_| {});
    assert!(finding.what.contains("8 are to run") && finding.what.contains("2.50 CPUs"));
    assert!(finding.mend.contains("CPUQuota=800%"), "{finding:?}");
    assert!(finding.mend.ends_with("gateway.cores = 2"), "{finding:?}");
    for enough in ["800000 100000", "max 100000"] {
        let mut written = Written::good();
        quota(enough)(&mut written);
        assert_eq!(written.findings(|_| {}), []);
    }
}

#[test]
fn a_clock_that_costs_system_calls_is_pointed_out_with_a_better_one() {
    let slow = |written: &mut Written| {
        written.file(CLOCK, "hpet\n");
        let available = CLOCK.replace("current", "available");
        written.file(&available, "hpet acpi_pm tsc\n");
    };
    let finding = Written::finding(slow, |_| {});
    assert!(finding.mend.starts_with("echo tsc > /sys/"), "{finding:?}");
}

#[test]
fn a_host_that_says_nothing_is_not_blamed() {
    let mut silent = Written(BTreeMap::new());
    silent.file("proc/meminfo", "MemTotal:       33554432 kB\n");
    silent.sysctl("net.ipv4.tcp_mem", "383901 511868 767802");
    assert_eq!(silent.findings(|_| {}), []);
}

/// On a host where nothing was set.
#[test]
fn the_shipped_sysctls_leave_nothing_to_be_said() {
    let mut written = Written::good();
    for (name, value) in [
        ("net.core.somaxconn", "128"),
        ("net.ipv4.tcp_max_syn_backlog", "128"),
        ("net.ipv4.tcp_mem", "1000 2000 3000"),
        ("net.ipv4.ip_local_port_range", "1024 65535"),
        ("net.netfilter.nf_conntrack_max", "262144"),
        ("net.netfilter.nf_conntrack_count", "17"),
        ("kernel.io_uring_disabled", "2"),
    ] {
        written.sysctl(name, value);
    }
    assert_eq!(written.findings(|_| {}).len(), 7);
    let shipped = include_str!("../../../tuning/sysctl.d/60-herald.conf");
    for line in shipped
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (name, value) = line.split_once('=').expect("a key and its value");
        written.sysctl(name.trim().trim_start_matches('-'), value.trim());
    }
    assert_eq!(written.findings(|_| {}), []);
}
