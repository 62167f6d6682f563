//! What connections may cost: one that does not read, all of them together, and one more.

use crate::{on_both_engines, support::*};
use herald::{
    config::{self, Engine},
    envelope::Priority,
    gateway::mailbox::{ConnId, Delivery, ToCore},
    limits,
    memory::contract::KERNEL_SOCKET_BYTES,
    position::Cursors,
};
use std::{fs, process::Command, time::Instant};

on_both_engines!(
    also_by_tls: where_one_more_would_not_stay_within_the_budget_it_is_told_when_to_come_back,
    a_budget_that_is_changed_counts_for_the_next_newcomer_and_drops_nobody,
    a_client_that_stops_reading_costs_256_kb_at_most,
    a_sync_that_nobody_reads_stays_within_it_too;
    while_the_sockets_of_the_host_hold_nearly_all_they_may_newcomers_are_told_when_to_come_back,
    when_the_share_of_what_waits_is_used_up_the_low_goes_first_and_then_who_grows,
);

const STALLED_BYTES_MAX: u64 = 256_000;

fn where_one_more_would_not_stay_within_the_budget_it_is_told_when_to_come_back(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.memory_bytes_max = 1 << 20);
    let head = "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = exchange(gateway.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: "), "{answer}");
    assert_eq!(
        gateway.metric("herald_refused_total{cause=\"memory\"}"),
        1.0
    );

    // Those that take their time to be told do not add up.
    let silent: Vec<_> = (0..limits::REFUSED_AT_ONCE + 10)
        .map(|_| tcp(gateway.address()))
        .collect();
    gateway.await_metric("herald_refused_total{cause=\"memory_unanswered\"}", 10.0);
    drop(silent);
}

fn a_budget_that_is_changed_counts_for_the_next_newcomer_and_drops_nobody(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    gateway.opened();
    let with = |bytes: u64| {
        let cfg = config::Gateway {
            memory_bytes_max: bytes,
            ..config::Gateway::default()
        };
        gateway.cores.memory().reload(&cfg);
        let head = "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        exchange(gateway.address(), head.as_bytes())
    };
    let refused = with(1 << 20);
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("Retry-After: "), "{refused}");
    let answered = with(1 << 40);
    assert!(answered.starts_with("HTTP/1.1 404 "), "{answered}");
    assert_eq!(
        gateway.metric("herald_refused_total{cause=\"memory\"}"),
        1.0
    );
    client.say(r#"{"type":"ping"}"#);
    client.hear_type("pong");
}

fn while_the_sockets_of_the_host_hold_nearly_all_they_may_newcomers_are_told_when_to_come_back(
    engine: Engine,
) {
    let host = tempfile::tempdir().unwrap();
    for (path, text) in [
        (
            "proc/self/net/sockstat",
            "TCP: inuse 9 orphan 0 tw 0 alloc 9 mem 999\n",
        ),
        ("proc/sys/net/ipv4/tcp_mem", "500 750 1000\n"),
    ] {
        let path = host.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let gateway = Gateway::start(engine);
    let head = "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let told = |look: &dyn Fn()| {
        look();
        let answer = exchange(gateway.address(), head.as_bytes());
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: ")
    };
    // Its core looks at this host once a second, and finds room.
    let from = Instant::now();
    while !told(&|| gateway.cores.memory().look_below(host.path())) {
        assert!(from.elapsed() < DEADLINE);
    }
    assert!(gateway.metric("herald_refused_total{cause=\"tcp_memory\"}") > 0.0);
    while told(&|| {}) {
        assert!(from.elapsed() < DEADLINE);
    }
}

/// Kernel memory of the gateway's end of the connection, by its own account: what is queued both ways and what
/// is set aside for more.
fn kernel_bytes(gateway: &Gateway, client: &Client) -> u64 {
    let (from, to) = (
        gateway.address(),
        client.socket.get_ref().tcp.local_addr().unwrap(),
    );
    let listed = Command::new("ss")
        .args(["-tmnH", "state", "established"])
        .args(["src", &from.to_string(), "dst", &to.to_string()])
        .output()
        .expect("ss is installed (apt-get install iproute2)");
    let text = String::from_utf8(listed.stdout).unwrap();
    let (_, figures) = text
        .split_once("skmem:(")
        .unwrap_or_else(|| panic!("{text:?}"));
    let figure = |name: &str| -> u64 {
        let mut fields = figures.split([',', ')']);
        let number = fields.find_map(|field| field.strip_prefix(name)?.parse().ok());
        number.unwrap_or_else(|| panic!("{name} in {figures}"))
    };
    let waiting = figure("w").max(figure("t"));
    figure("r") + waiting + figure("f") + KERNEL_SOCKET_BYTES
}

fn lanes_bytes(gateway: &Gateway) -> u64 {
    gateway.metric("herald_memory_bytes{kind=\"lanes\"}") as u64
}

fn notification(bytes: usize) -> String {
    format!(r#"{{"type":"notification","x":"{}"}}"#, "x".repeat(bytes))
}

/// One batch of the same item, which its core has taken when this returns.
fn push_batch(gateway: &mut Gateway, conn: ConnId, lane: Priority, bytes: usize) {
    let item = item_of(1, &notification(bytes), lane);
    let delivery = |gateway: &mut Gateway| Delivery {
        ticket: gateway.ticket(),
        item: item.clone(),
        conns: [conn].into_iter().collect(),
    };
    let batch = (0..BATCH).map(|_| delivery(gateway)).collect();
    let taken = gateway.ticket();
    gateway.send(0, ToCore::Deliver(batch));
    // Nobody has this address: it is answered when what came before has been done.
    let conn = ConnId {
        slot: u32::MAX - 1,
        ..conn
    };
    gateway.send(
        0,
        ToCore::Deliver(vec![Delivery {
            ticket: taken,
            item,
            conns: [conn].into_iter().collect(),
        }]),
    );
    gateway.fates(taken, 1);
}

const BATCH: usize = 16;

/// The most that a client cost at any time, and the kernel's share of that at its highest.
#[derive(Default)]
struct Stall {
    bytes: u64,
    kernel_bytes: u64,
}

/// Pushes to a client that does not read until its lanes take no more.
fn stall(gateway: &mut Gateway, client: &Client, conn: ConnId, bytes: usize) -> Stall {
    let (mut most, from) = (Stall::default(), Instant::now());
    loop {
        let is_full = gateway.metric("herald_shed_total") > 0.0;
        push_batch(gateway, conn, Priority::Normal, bytes);
        let in_kernel = kernel_bytes(gateway, client);
        most.kernel_bytes = most.kernel_bytes.max(in_kernel);
        most.bytes = most.bytes.max(in_kernel + lanes_bytes(gateway));
        if is_full {
            return most;
        }
        assert!(from.elapsed() < DEADLINE, "nothing is shed");
    }
}

fn a_client_that_stops_reading_costs_256_kb_at_most(engine: Engine) {
    for bytes in [100, 500, 4_000, 32_000] {
        let mut gateway = Gateway::start(engine);
        let client = gateway.connect("42");
        let (conn, ..) = gateway.opened();
        let cost = stall(&mut gateway, &client, conn, bytes).bytes;
        println!("items of {bytes} B: {cost} B");
        assert!(cost <= STALLED_BYTES_MAX, "{cost} B by items of {bytes} B");
        // It was full indeed: the lanes, and the kernel beside them.
        assert!(
            cost > limits::LANES_BYTES as u64 / 2,
            "{cost} B by items of {bytes} B"
        );
    }
}

fn a_sync_that_nobody_reads_stays_within_it_too(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    let stalled = stall(&mut gateway, &client, conn, 4_000);
    let answer = |gateway: &Gateway| {
        let frame = format!(
            r#"{{"type":"sync","x":"{}"}}"#,
            "x".repeat(limits::SYNC_BYTES)
        )
        .into();
        let cursors = Cursors::new();
        gateway.send(
            0,
            ToCore::Synced {
                conn,
                frame,
                cursors,
                complete: true,
            },
        );
    };
    answer(&gateway);
    push_batch(&mut gateway, conn, Priority::Normal, 4_000);
    // The kernel may have got rid of a part by now, or not: that is the other side's to say.
    let in_kernel = kernel_bytes(&gateway, &client).max(stalled.kernel_bytes);
    let cost = in_kernel + lanes_bytes(&gateway);
    println!("with a sync: {cost} B, {in_kernel} B of it in the kernel");
    assert!(cost > limits::SYNC_BYTES as u64, "{cost} B");
    assert!(cost <= STALLED_BYTES_MAX, "{cost} B");

    // One more is more than it may leave unread.
    answer(&gateway);
    gateway.closed(conn);
}

fn when_the_share_of_what_waits_is_used_up_the_low_goes_first_and_then_who_grows(engine: Engine) {
    const BUDGET_BYTES: u64 = 400 << 20;
    // One connection alone could take more than the share of all.
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.memory_bytes_max = BUDGET_BYTES;
        cfg.lanes_bytes = *limits::LANES_BYTES_ALLOWED.end();
        cfg.deferred_after_ms = 20_000;
    });
    let share = BUDGET_BYTES / 100 * limits::LANES_PERCENT;
    let clients: Vec<_> = (0..2).map(|_| gateway.connect("42")).collect();
    let conns: Vec<_> = clients.iter().map(|_| gateway.opened().0).collect();
    let batch_bytes = (BATCH * 33_000) as u64;
    for (lane, percent) in [
        (Priority::Low, limits::LANES_LOW_PERCENT),
        (Priority::Normal, limits::LANES_NORMAL_PERCENT),
        (Priority::High, limits::LANES_HIGH_PERCENT),
    ] {
        let from = Instant::now();
        let mut before = u64::MAX;
        // Until neither of the two grows any more.
        while before != lanes_bytes(&gateway) {
            before = lanes_bytes(&gateway);
            for &conn in &conns {
                push_batch(&mut gateway, conn, lane, 32_000);
            }
            assert!(from.elapsed() < DEADLINE);
        }
        let bound = share / 100 * percent;
        assert!(
            (bound..bound + batch_bytes).contains(&before),
            "{lane:?}: {before} of {bound}"
        );
    }
    let from = Instant::now();
    while gateway.metric("herald_crowded_out_total") == 0.0 {
        push_batch(&mut gateway, conns[0], Priority::Critical, 32_000);
        assert!(lanes_bytes(&gateway) <= share + batch_bytes);
        assert!(from.elapsed() < DEADLINE);
    }
    gateway.closed(conns[0]);
    assert!(lanes_bytes(&gateway) < share);
}
