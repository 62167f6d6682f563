//! Core threads, seen from outside: what they are called, where they run, whose descriptors they see, and what
//! becomes of them where the kernel grants less.

use std::{collections::BTreeSet, fs};
use testbed::{Client, Herald, Standalone, threads};

/// The cores of a process, each with a set of CPUs it may run on.
fn cores(herald: &Herald) -> Vec<(String, String)> {
    let threads = threads::named(herald.pid(), "core-").into_iter();
    let mut cores: Vec<_> = threads
        .map(|(thread, name)| (name, cpus(herald.pid(), thread)))
        .collect();
    cores.sort();
    cores
}

fn cpus(pid: u32, thread: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status"));
    let status = status.expect("the thread runs");
    let mut lines = status.lines();
    let allowed = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.expect("the kernel says it").trim().to_owned()
}

/// Cores that see the bus's file, which is open before they start.
fn cores_that_see_the_bus(herald: &Herald) -> usize {
    let sees = |thread| {
        let open = fs::read_dir(format!("/proc/{}/task/{thread}/fd", herald.pid()));
        let mut targets = open.expect("the thread runs").filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            Some(target.ends_with("bus.db"))
        });
        targets.any(|is_bus| is_bus)
    };
    let threads = threads::named(herald.pid(), "core-").into_iter();
    threads.filter(|(thread, _)| sees(*thread)).count()
}

async fn delivers(herald: &Standalone) {
    let client = Client::start(vec![herald.ws_url()], herald.token("42"));
    let id = herald.api.notify("42", "Hello").await.unwrap();
    herald
        .eventually("it delivers", async || client.times(&id) >= 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_core_has_a_name_a_cpu_and_a_descriptor_table_of_its_own() {
    let herald = Standalone::start(&[("gateway.pin", "true")]).await;
    let cores = cores(&herald.process);
    let names: Vec<&str> = cores.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["core-0", "core-1"]);
    let host = cpus(herald.process.pid(), herald.process.pid() as i32);
    let apart: BTreeSet<&str> = cores.iter().map(|(_, cpus)| cpus.as_str()).collect();
    // One CPU each; two cores share one only where there is no other.
    assert!(
        apart.iter().all(|cpus| cpus.parse::<u32>().is_ok()),
        "{cores:?}"
    );
    assert!(
        apart.len() == 2 || host.parse::<u32>().is_ok(),
        "{cores:?}, {host}"
    );
    assert_eq!(cores_that_see_the_bus(&herald.process), 0);
    delivers(&herald).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cores_may_share_the_cpus_and_the_descriptor_table_of_the_process() {
    let settings = [("gateway.own_fd_table", "false"), ("gateway.pin", "false")];
    let herald = Standalone::start(&settings).await;
    let host = cpus(herald.process.pid(), herald.process.pid() as i32);
    let cores = cores(&herald.process);
    assert!(
        cores.iter().all(|(_, cpus)| *cpus == host),
        "{cores:?}, {host}"
    );
    assert_eq!(cores_that_see_the_bus(&herald.process), 2);
    let metrics = herald.metrics().await;
    assert!(metrics.contains("herald_descriptor_tables_shared_total 0\n"));
    delivers(&herald).await;
}

/// As the filter of a container does it.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_kernel_refuses_io_uring_and_own_tables_it_warns_and_delivers_without() {
    let mut herald = Standalone::prepare(&[]);
    let forbidden = [libc::SYS_io_uring_setup, libc::SYS_unshare];
    herald.process.confinement.forbid(&forbidden);
    herald.run().await;
    let log = herald.process.log();
    for warning in [
        "the kernel does not grant io_uring: cores run on epoll",
        "does a seccomp filter forbid unshare?",
    ] {
        assert!(log.contains(warning), "{warning}\n{log}");
    }
    let metrics = herald.metrics().await;
    assert!(metrics.contains("herald_engine{engine=\"epoll\"} 1\n"));
    assert!(metrics.contains("herald_descriptor_tables_shared_total 2\n"));
    assert_eq!(cores_that_see_the_bus(&herald.process), 2);
    delivers(&herald).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_insists_on_io_uring_where_it_is_refused_gets_no_start_and_is_told_how() {
    let mut herald = Standalone::prepare(&[("gateway.engine", "uring")]);
    let forbidden = [libc::SYS_io_uring_setup];
    herald.process.confinement.forbid(&forbidden);
    herald.process.start();
    assert_eq!(herald.process.wait().code(), Some(1));
    let log = herald.process.log();
    assert!(log.contains("gateway.engine = \"uring\""), "{log}");
    assert!(log.contains("io_uring_disabled"), "{log}");
}
