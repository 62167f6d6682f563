//! What concerns every connection: several cores, broadcasts, slots, drain, shutdown, back-pressure.

use crate::{on_both_engines, support::*};
use herald::{
    config::Engine,
    envelope::Fate,
    gateway::mailbox::{FromCore, ToCore},
    limits,
};
use std::collections::BTreeSet;
use tungstenite::{Message, protocol::frame::coding::CloseCode};

on_both_engines!(also_by_tls:
    several_cores_share_one_port_and_each_serves_its_own,
    a_broadcast_reaches_everyone_on_every_core,
    a_new_slot_is_told_to_all_and_to_newcomers,
    a_new_slot_is_told_to_one_after_the_other_over_a_heartbeat,
    a_drain_asks_everyone_to_leave_and_says_when_all_are_gone,
    as_many_are_evicted_as_were_asked_for,
    a_draining_core_refuses_newcomers_until_it_stays_after_all,
    accepting_stops_for_good,
    a_shutdown_ends_all_and_tells_control,
    a_full_control_queue_stops_reading_and_loses_nothing,
    an_echo_returns_messages_without_limits_on_the_rate,
);

fn several_cores_share_one_port_and_each_serves_its_own(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.cores = 4);
    let mut clients: Vec<Client> = (0..64).map(|_| gateway.connect("42")).collect();
    let conns: Vec<_> = clients.iter().map(|_| gateway.opened().0).collect();
    let cores: BTreeSet<u16> = conns.iter().map(|conn| conn.core).collect();
    assert!(cores.len() > 1, "64 connections over 4 cores: {cores:?}");
    for conn in conns {
        let ticket = gateway.push(&item(1, r#"{"type":"notification"}"#), &[conn]);
        assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
    }
    for client in &mut clients {
        client.hear_type("notification");
    }
    // Both ends of each are descriptors of this process, in the test's table and in the cores'.
    assert!(gateway.metric("herald_descriptors") >= 128.0);
}

fn a_broadcast_reaches_everyone_on_every_core(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.cores = 2);
    let mut clients: Vec<Client> = (0..300).map(|_| gateway.connect("42")).collect();
    for client in &mut clients {
        gateway.opened();
        // Whoever is written to in the turn of the broadcast gets it behind that, and is told of apart.
        client.hear_type("welcome");
    }
    let ticket = gateway.ticket();
    let item = item(1, r#"{"type":"notification"}"#);
    for core in 0..2 {
        let item = item.clone();
        gateway.send(core, ToCore::Broadcast { ticket, item });
    }
    for client in &mut clients {
        client.hear_type("notification");
    }
    let fates = gateway.fates(ticket, 300);
    assert!(
        fates.iter().all(|(fate, _)| *fate == Fate::Written),
        "{fates:?}"
    );
    // Each core speaks once of all that took it at once.
    assert_eq!(fates.len(), 2, "{fates:?}");
}

fn a_new_slot_is_told_to_all_and_to_newcomers(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.heartbeat_ms = 500);
    let mut early = gateway.connect("42");
    gateway.opened();
    gateway.send(
        0,
        ToCore::Slot {
            after_ms_min: 100,
            after_ms_max: 900,
        },
    );
    let slot = early.hear_type("slot");
    assert_eq!(
        (&slot["after_ms_min"], &slot["after_ms_max"]),
        (&100.into(), &900.into())
    );
    let mut late = gateway.connect("42");
    assert_eq!(late.hear_type("welcome")["slot"]["after_ms_max"], 900);
}

fn a_new_slot_is_told_to_one_after_the_other_over_a_heartbeat(engine: Engine) {
    // At least a tick of 50 ms for each: the last of them is told 15 s after the first.
    let mut gateway = Gateway::with(engine, |cfg| cfg.heartbeat_ms = 60_000);
    let mut clients: Vec<Client> = (0..300)
        .map(|_| {
            let client = gateway.connect("42");
            gateway.opened();
            client
        })
        .collect();
    gateway.send(
        0,
        ToCore::Slot {
            after_ms_min: 100,
            after_ms_max: 900,
        },
    );
    clients[0].hear_type("slot");
    // What was told before would stand before the answer.
    let last = clients.last_mut().expect("there are some");
    last.say(r#"{"type":"ping"}"#);
    let heard: Vec<String> =
        std::iter::repeat_with(|| last.hear()["type"].as_str().unwrap().to_owned())
            .take_while(|kind| kind != "pong")
            .collect();
    assert!(!heard.contains(&"slot".to_owned()), "{heard:?}");
}

fn drained(gateway: &mut Gateway) {
    gateway.expect("Drained", |message| {
        matches!(message, FromCore::Drained { core: 0 }).then_some(())
    });
}

fn a_drain_asks_everyone_to_leave_and_says_when_all_are_gone(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let clients: Vec<Client> = (0..20).map(|_| gateway.connect("42")).collect();
    let conns: Vec<_> = clients.iter().map(|_| gateway.opened().0).collect();
    gateway.send(0, ToCore::StopAccepting);
    gateway.send(0, ToCore::Leave(true));
    gateway.send(0, evict(u32::MAX));
    for mut client in clients {
        let reconnect = client.hear_type("reconnect");
        assert_eq!(reconnect["reason"], "drain");
        assert!(reconnect["after_ms"].as_u64().unwrap() <= 200);
        assert_eq!(client.close_frame().code, CloseCode::Restart);
    }
    for conn in conns {
        gateway.closed(conn);
    }
    drained(&mut gateway);
}

fn evict(clients: u32) -> ToCore {
    ToCore::Evict {
        clients,
        back_within_ms: 200,
    }
}

fn as_many_are_evicted_as_were_asked_for(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let _clients: Vec<Client> = (0..20).map(|_| gateway.connect("42")).collect();
    for _ in 0..20 {
        gateway.opened();
    }
    for round in 1..=2 {
        gateway.send(0, evict(5));
        gateway.await_metric("herald_closed_total{code=\"1012\"}", f64::from(round * 5));
    }
    // The rest stays, and newcomers are welcome.
    gateway.connect("42");
    gateway.opened();
    assert_eq!(gateway.metric("herald_closed_total{code=\"1012\"}"), 10.0);
}

fn a_draining_core_refuses_newcomers_until_it_stays_after_all(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    gateway.send(0, ToCore::Leave(true));
    drained(&mut gateway);
    let refused = Client::connect(gateway.address(), "/connect", &[bearer("42")]);
    assert_eq!(refused.err(), Some(503));
    gateway.send(0, ToCore::Leave(false));
    let from = std::time::Instant::now();
    while Client::connect(gateway.address(), "/connect", &[bearer("42")]).is_err() {
        assert!(from.elapsed() < DEADLINE);
    }
}

fn accepting_stops_for_good(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.cores = 2);
    let mut client = gateway.connect("42");
    gateway.opened();
    for core in 0..2 {
        gateway.send(core, ToCore::StopAccepting);
    }
    let from = std::time::Instant::now();
    while std::net::TcpStream::connect(gateway.address()).is_ok() {
        assert!(from.elapsed() < DEADLINE);
    }
    // Who is in stays in.
    client.say(r#"{"type":"ping"}"#);
    client.hear_type("pong");
}

fn a_shutdown_ends_all_and_tells_control(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    gateway.send(0, ToCore::Shutdown);
    gateway.closed(conn);
    let code = loop {
        match client.socket.read().unwrap() {
            Message::Close(frame) => break frame.unwrap().code,
            _ => continue,
        }
    };
    assert_eq!(code, CloseCode::Away);
    gateway.cores.join();
}

fn a_full_control_queue_stops_reading_and_loses_nothing(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.client_messages_per_s = 1_000_000;
        cfg.client_messages_burst = 1_000_000;
    });
    let mut client = gateway.connect("42");
    gateway.opened();
    // One more than the queue holds; a reader of a thread of its own, so that nothing blocks the client.
    let total = limits::CONTROL_INBOX + 1_000;
    let saying = std::thread::spawn(move || {
        for _ in 0..total {
            client
                .socket
                .write(Message::text(r#"{"type":"ack","ids":[]}"#))
                .unwrap();
        }
        client.socket.flush().unwrap();
        client
    });
    gateway.await_metric("herald_core_stalled_total", 1.0);
    for _ in 0..total {
        gateway.expect("Acked", |message| {
            matches!(message, FromCore::Acked { .. }).then_some(())
        });
    }
    let mut client = saying.join().unwrap();
    client.say(r#"{"type":"ping"}"#);
    client.hear_type("pong");
}

fn an_echo_returns_messages_without_limits_on_the_rate(engine: Engine) {
    let gateway = Gateway::with_conformance(engine, |cfg| cfg.client_messages_burst = 1, true);
    let mut client = Client::connect(gateway.address(), "/", &[]).unwrap();
    for n in 0..100 {
        let message = match n % 2 {
            0 => Message::text(format!("text {n}")),
            _ => Message::binary(vec![n; 10_000]),
        };
        client.socket.send(message.clone()).unwrap();
        assert_eq!(client.socket.read().unwrap(), message);
    }
}
