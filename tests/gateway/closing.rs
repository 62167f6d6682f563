//! Ends: by the client, by us, and by neither.

use crate::{on_both_engines, support::*};
use herald::{
    config::Engine,
    envelope::Fate,
    gateway::mailbox::{FromCore, ToCore},
    proto::close::CloseCode as Ours,
};
use std::io::{ErrorKind, Read, Write};
use tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

on_both_engines!(also_by_tls:
    a_client_that_closes_is_answered,
    a_close_of_ours_is_told_with_its_code,
    a_close_of_ours_that_is_not_answered_ends_all_the_same,
    a_client_that_half_closes_without_a_word_is_let_go_without_one,
    a_silent_client_is_dead_and_an_answering_one_is_not,
    a_token_that_expires_without_refresh_closes,
    a_token_refreshed_in_time_does_not,
    another_users_token_does_not_refresh,
    a_client_that_never_reads_is_closed_and_others_notice_nothing,
);

fn a_client_that_closes_is_answered(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    client.socket.close(Some(frame)).unwrap();
    gateway.closed(conn);
    assert_eq!(client.close_frame().code, CloseCode::Normal);
}

fn a_close_of_ours_is_told_with_its_code(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    gateway.send(
        0,
        ToCore::Close {
            conn,
            code: Ours::Disconnected,
            reason: "by an operator",
        },
    );
    gateway.closed(conn);
    let frame = client.close_frame();
    assert_eq!(frame.code, CloseCode::from(4510));
    assert_eq!(frame.reason.as_str(), "by an operator");
}

fn a_close_of_ours_that_is_not_answered_ends_all_the_same(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    client.hear_type("welcome");
    let (conn, ..) = gateway.opened();
    let close = ToCore::Close {
        conn,
        code: Ours::Disconnected,
        reason: "",
    };
    gateway.send(0, close);
    gateway.closed(conn);
    // Read as bytes: nobody answers the close frame, and the end comes after CLOSE_WAIT.
    let heard = read_to_end(client.socket.get_mut());
    assert!(!heard.is_empty());
    gateway.await_metric("herald_close_unanswered_total", 1.0);
}

fn a_client_that_half_closes_without_a_word_is_let_go_without_one(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    client.hear_type("welcome");
    let (conn, ..) = gateway.opened();
    let stream = client.socket.get_mut();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    gateway.closed(conn);
    assert_eq!(read_to_end(stream), "");
    assert_eq!(gateway.metric(r#"herald_closed_total{code="left"}"#), 1.0);
}

fn a_silent_client_is_dead_and_an_answering_one_is_not(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.heartbeat_ms = 100;
        cfg.dead_after_ms = 400;
    });
    let mut silent = tcp(gateway.address());
    let request = format!(
        "GET /connect HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {}\r\n\r\n",
        token("43")
    );
    silent.write_all(request.as_bytes()).unwrap();
    let (of_silent, ..) = gateway.opened();
    let mut answering = gateway.connect("42");
    let (of_answering, ..) = gateway.opened();
    // Reading answers pings: by the time of the twelfth, silence would have been dead thrice.
    let mut pings = 0;
    while pings < 12 {
        pings += u32::from(answering.socket.read().unwrap().is_ping());
    }
    gateway.closed(of_silent);
    assert_eq!(gateway.metric(r#"herald_closed_total{code="4404"}"#), 1.0);
    gateway.await_metric("herald_heartbeats_total", 13.0);
    let ticket = gateway.push(&item(1, "{}"), &[of_answering]);
    assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
}

/// Tokens are good for the leeway of 30 s beyond their end: these have passed it but for a second or two.
fn nearly_expired() -> String {
    token_until("42", now_unix_s() - 28)
}

fn a_token_that_expires_without_refresh_closes(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let path = format!("/connect?token={}", nearly_expired());
    let mut client = Client::connect(gateway.address(), &path, &[]).unwrap();
    let (conn, ..) = gateway.opened();
    assert!(client.hear_type("auth_expiring")["in_ms"].as_u64().unwrap() <= 2_000);
    assert_eq!(client.close_frame().code, CloseCode::from(4403));
    gateway.closed(conn);
}

fn a_token_refreshed_in_time_does_not(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let path = format!("/connect?token={}", nearly_expired());
    let mut client = Client::connect(gateway.address(), &path, &[]).unwrap();
    client.hear_type("auth_expiring");
    let (token, cursors) = (token("42"), r#"{"user:local":1099511627783}"#);
    client.say(format!(
        r#"{{"type":"auth","token":"{token}","cursors":{cursors}}}"#
    ));
    let asked = gateway.expect("Sync", |message| match message {
        FromCore::Sync { cursors, .. } => Some(cursors.clone()),
        _ => None,
    });
    assert_eq!(asked["user:local"].value(), 1_099_511_627_783);
    // Beyond the end of the first token it still answers.
    let end = now_unix_s() + 3;
    while now_unix_s() < end {
        client.say(r#"{"type":"ping"}"#);
        client.hear_type("pong");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn another_users_token_does_not_refresh(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    client.say(format!(r#"{{"type":"auth","token":"{}"}}"#, token("43")));
    assert_eq!(client.close_frame().code, CloseCode::from(4503));
    gateway.closed(conn);
}

fn a_client_that_never_reads_is_closed_and_others_notice_nothing(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.deferred_after_ms = 100;
        cfg.unwritable_close_ms = 700;
    });
    let mut stalled = gateway.connect("43");
    // Or the kernel would take all of it on the client's behalf.
    let small = socket2::SockRef::from(&stalled.socket.get_ref().tcp);
    small.set_recv_buffer_size(8 * 1024).unwrap();
    let (of_stalled, ..) = gateway.opened();
    let mut reading = gateway.connect("42");
    let (of_reading, ..) = gateway.opened();
    reading.hear_type("welcome");

    // More than its socket and the lanes take together; each is answered, most as deferred.
    let text = format!(r#"{{"type":"notification","pad":"{}"}}"#, "x".repeat(8_000));
    let mut tickets = Vec::new();
    for pos in 1..=400 {
        tickets.push(gateway.push(&item(pos, &text), &[of_stalled]));
        let ticket = gateway.push(&item(pos, r#"{"type":"notification"}"#), &[of_reading]);
        assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
        reading.hear_type("notification");
    }
    gateway.closed(of_stalled);
    assert_eq!(gateway.metric(r#"herald_closed_total{code="4408"}"#), 1.0);
    let fates: Vec<Fate> = tickets
        .iter()
        .map(|ticket| gateway.fates(*ticket, 1)[0].0)
        .collect();
    assert!(fates.contains(&Fate::Written) && fates.contains(&Fate::Deferred));
    assert!(gateway.metric("herald_shed_total") > 0.0);
    assert!(matches!(reading.socket.send(Message::text("{}")), Ok(())));
    reading.hear_type("error");

    // The kernel was not left with what nobody reads: the connection was reset.
    let from = std::time::Instant::now();
    while gateway.metric(r#"herald_connections{core="0"}"#) > 1.0 {
        assert!(from.elapsed() < DEADLINE);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut buffer = vec![0; 1 << 20];
    let end = loop {
        match stalled.socket.get_mut().read(&mut buffer) {
            Ok(read) if read > 0 => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
