//! Who is let in: limits of connections and of the accept rate, and load balancers that are believed.

use crate::{on_both_engines, support::*};
use herald::{
    config::{self, Engine},
    gateway::mailbox::ToCore,
    limits,
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

on_both_engines!(also_by_tls:
    above_the_soft_limit_a_client_is_told_when_to_come_back,
    newcomers_above_the_rate_wait_and_are_served;
    above_the_hard_limit_the_socket_is_closed,
    a_limit_that_was_read_again_counts_for_the_next_newcomer,
    a_trusted_balancer_is_believed_in_either_version,
    a_trusted_balancer_has_to_send_its_header,
    a_header_that_never_ends_costs_its_sender_the_connection_in_time,
    a_header_longer_than_any_is_refused_before_its_end,
    a_header_of_a_stranger_is_a_malformed_request,
    a_header_in_pieces_is_understood,
    a_full_descriptor_table_answers_503,
);

const HEAD: &str = "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

fn refused(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric(&format!("herald_refused_total{{cause=\"{cause}\"}}"))
}

fn above_the_soft_limit_a_client_is_told_when_to_come_back(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.connections_soft = 2);
    let first = gateway.connect("1");
    let (conn, ..) = gateway.opened();
    let _second = gateway.connect("2");
    let answer = exchange(gateway.address(), HEAD.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let after = answer.split("Retry-After: ").nth(1).unwrap();
    let after: u32 = after.split("\r\n").next().unwrap().parse().unwrap();
    assert!((5..=30).contains(&after), "{after}");
    assert_eq!(refused(&gateway, "soft_limit"), 1.0);

    // Whoever leaves makes room.
    drop(first);
    gateway.closed(conn);
    let from = Instant::now();
    while Client::connect(gateway.address(), "/connect", &[bearer("3")]).is_err() {
        assert!(from.elapsed() < DEADLINE);
    }
}

fn above_the_hard_limit_the_socket_is_closed(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| {
        cfg.connections_soft = 1;
        cfg.connections_hard = 1;
    });
    let _first = gateway.connect("1");
    assert_eq!(exchange(gateway.address(), b""), "");
    assert_eq!(refused(&gateway, "hard_limit"), 1.0);
}

fn a_limit_that_was_read_again_counts_for_the_next_newcomer(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.connections_soft = 1);
    let mut first = gateway.connect("1");
    gateway.opened();
    let answer = exchange(gateway.address(), HEAD.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let reread = config::Gateway {
        connections_soft: 10,
        heartbeat_ms: 500,
        ..config::Gateway::default()
    };
    gateway.send(0, ToCore::Reload(Arc::new(reread)));
    let from = Instant::now();
    while !exchange(gateway.address(), HEAD.as_bytes()).starts_with("HTTP/1.1 404 ") {
        assert!(from.elapsed() < DEADLINE);
    }
    first.say(r#"{"type":"ping"}"#);
    first.hear_type("pong");
}

fn newcomers_above_the_rate_wait_and_are_served(engine: Engine) {
    // One newcomer per tick of 50 ms.
    let mut gateway = Gateway::with(engine, |cfg| cfg.accepts_per_s = 20);
    let clients: Vec<Client> = (0..10).map(|_| gateway.connect("42")).collect();
    for _ in &clients {
        gateway.opened();
    }
    gateway.await_metric("herald_accepts_paused_total", 1.0);
    gateway.await_metric("herald_accepted_total", 10.0);
}

/// What comes back from a peer at `127.0.0.1` when its networks are trusted.
fn through_balancer(engine: Engine, trusted: &str, bytes: &[u8]) -> (String, Gateway) {
    let gateway = Gateway::with(engine, |cfg| cfg.proxy_trusted = vec![trusted.into()]);
    let answer = exchange(gateway.address(), bytes);
    (answer, gateway)
}

/// Version 2, TCP over IPv4, from 192.0.2.1:4242.
fn version_2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 1, 0x10, 0x92, 0x1f, 0x90]);
    header
}

const VERSION_1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 4242 8080\r\n";

fn a_trusted_balancer_is_believed_in_either_version(engine: Engine) {
    for header in [VERSION_1.to_vec(), version_2()] {
        let bytes = [&header, HEAD.as_bytes()].concat();
        let (answer, _) = through_balancer(engine, "127.0.0.0/8", &bytes);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}

fn a_trusted_balancer_has_to_send_its_header(engine: Engine) {
    let (answer, gateway) = through_balancer(engine, "127.0.0.1", HEAD.as_bytes());
    assert_eq!(answer, "");
    assert_eq!(refused(&gateway, "proxy_header_malformed"), 1.0);
}

/// Nothing of it, and all but its last byte: the time is that of the whole handshake.
fn a_header_that_never_ends_costs_its_sender_the_connection_in_time(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| {
        cfg.proxy_trusted = vec!["127.0.0.1".into()];
        cfg.handshake_ms = 200;
    });
    let begun = version_2();
    for begun in [&[][..], &begun[..begun.len() - 1]] {
        assert_eq!(exchange(gateway.address(), begun), "");
    }
    gateway.await_metric("herald_refused_total{cause=\"proxy_header_timeout\"}", 2.0);
    assert_eq!(refused(&gateway, "proxy_header_malformed"), 0.0);
    // Whoever sends it in time is served.
    let bytes = [&begun, HEAD.as_bytes()].concat();
    let answer = exchange(gateway.address(), &bytes);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

fn a_header_longer_than_any_is_refused_before_its_end(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.proxy_trusted = vec!["127.0.0.1".into()]);
    // It announces 64 KiB, and one line has no end; neither is waited for.
    let mut long = version_2();
    long[14..16].copy_from_slice(&[0xff, 0xff]);
    long.resize(limits::PROXY_HEADER_BYTES, 0);
    assert_eq!(exchange(gateway.address(), &long), "");
    gateway.await_metric("herald_refused_total{cause=\"proxy_header_too_big\"}", 1.0);
    let line = [&b"PROXY UNKNOWN "[..], &[b'x'; 93]].concat();
    assert_eq!(exchange(gateway.address(), &line), "");
    gateway.await_metric(
        "herald_refused_total{cause=\"proxy_header_malformed\"}",
        1.0,
    );
}

fn a_header_of_a_stranger_is_a_malformed_request(engine: Engine) {
    let bytes = [&version_2(), HEAD.as_bytes()].concat();
    let (answer, gateway) = through_balancer(engine, "10.0.0.0/8", &bytes);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(refused(&gateway, "malformed_request"), 1.0);
}

fn a_header_in_pieces_is_understood(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.proxy_trusted = vec!["127.0.0.1".into()]);
    for header in [VERSION_1.to_vec(), version_2()] {
        let mut stream = tcp(gateway.address());
        for byte in [&header, HEAD.as_bytes()].concat() {
            stream.write_all(&[byte]).unwrap();
        }
        let answer = read_to_end(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}

fn a_full_descriptor_table_answers_503(engine: Engine) {
    let engine = match engine {
        Engine::Uring => "uring",
        _ => "epoll",
    };
    // The gateway raises its soft limit to the hard one, so the hard one has to be small: in a process of
    // its own, or the clients' table would be full first.
    let itself = std::env::current_exe().unwrap();
    let command = format!(
        "ulimit -n 60; exec '{}' admission::with_a_small_table --exact --ignored --nocapture",
        itself.display()
    );
    let mut server = Command::new("sh")
        .args(["-c", &command])
        .env("HERALD_TEST_ENGINE", engine)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix(LISTENING)?.parse().ok());
    let address = address.expect("it listens");

    let held: Vec<Stream> = (0..80).map(|_| tcp(address)).collect();
    let answer = exchange(address, HEAD.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: "), "{answer}");
    drop(held);
    // Once there is room again, whoever comes is served.
    let from = Instant::now();
    while !exchange(address, HEAD.as_bytes()).starts_with("HTTP/1.1 404 ") {
        assert!(from.elapsed() < DEADLINE);
    }
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

const LISTENING: &str = "listening on ";

#[test]
#[ignore = "the server of a_full_descriptor_table_answers_503"]
fn with_a_small_table() {
    let engine = match std::env::var("HERALD_TEST_ENGINE").as_deref() {
        Ok("uring") => Engine::Uring,
        _ => Engine::Epoll,
    };
    let gateway = Gateway::start(engine);
    println!("\n{LISTENING}{}", gateway.address());
    // Until the other side has seen enough.
    let _ = std::io::stdin().read(&mut [0]);
    assert!(refused(&gateway, "descriptors") >= 1.0);
}
