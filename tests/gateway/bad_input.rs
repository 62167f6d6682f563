//! What a client does wrong before it is open: each has its bounded cost, its answer and its count.

use crate::{on_both_engines, support::*};
use herald::config::Engine;
use std::{
    io::{Read, Write},
    net::Shutdown,
};

on_both_engines!(also_by_tls:
    a_request_that_is_none_is_answered_400,
    an_oversized_head_is_answered_431,
    an_unknown_path_is_answered_404,
    a_wrong_websocket_version_is_answered_426,
    a_half_closed_newcomer_is_let_go,
    a_half_closed_request_gets_its_answer,
    a_half_closed_websocket_is_gone_without_a_word,
    a_wrong_method_is_answered_405,
    an_unmasked_frame_is_closed_1002,
    text_that_is_not_utf8_is_closed_1007,
    a_message_over_the_limit_is_closed_1009,
    a_binary_message_is_closed_1003,
    too_many_messages_are_closed_4429,
    a_foreign_origin_is_answered_403_and_ours_is_not;
    // Their time does not leave room for a handshake on a busy machine.
    a_slow_request_is_answered_408,
    a_silent_client_is_let_go,
);

fn refused(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric(&format!("herald_refused_total{{cause=\"{cause}\"}}"))
}

fn a_request_that_is_none_is_answered_400(engine: Engine) {
    let gateway = Gateway::start(engine);
    let answer = exchange(gateway.address(), b"\x16\x03\x01 this is TLS\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(refused(&gateway, "malformed_request"), 1.0);
}

fn an_oversized_head_is_answered_431(engine: Engine) {
    let gateway = Gateway::start(engine);
    let head = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(9_000)
    );
    let answer = exchange(gateway.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(refused(&gateway, "head_too_big"), 1.0);
}

fn an_unknown_path_is_answered_404(engine: Engine) {
    let gateway = Gateway::start(engine);
    // `/` is an echo only where a conformance suite asked for it.
    for path in ["/", "/nowhere"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = exchange(gateway.address(), head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.ends_with(r#"{"error":"not_found"}"#), "{answer}");
    }
}

fn a_wrong_websocket_version_is_answered_426(engine: Engine) {
    let gateway = Gateway::start(engine);
    let head = "GET /connect HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = exchange(gateway.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Version: 13\r\n"), "{answer}");
}

fn a_slow_request_is_answered_408(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.handshake_ms = 100);
    let answer = exchange(gateway.address(), b"GET /connect HTTP/1.1\r\nHo");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(refused(&gateway, "request_timeout"), 1.0);
}

fn a_silent_client_is_let_go(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.handshake_ms = 100);
    assert_eq!(exchange(gateway.address(), b""), "");
    assert_eq!(refused(&gateway, "silent"), 1.0);
}

fn a_half_closed_newcomer_is_let_go(engine: Engine) {
    let gateway = Gateway::start(engine);
    let mut stream = tcp(gateway.address());
    stream.write_all(b"GET /connect HT").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), "");
    assert_eq!(refused(&gateway, "left"), 1.0);
}

fn a_half_closed_request_gets_its_answer(engine: Engine) {
    let gateway = Gateway::start(engine);
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    for (request, status) in [
        (head("/nowhere"), 404),
        (head("/sse/notifications"), 401),
        (head("/connect"), 426),
    ] {
        let mut stream = tcp(gateway.address());
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = read_to_end(&mut stream);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{answer}");
    }
    gateway.await_gone();
}

fn a_half_closed_websocket_is_gone_without_a_word(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let close = 0x88;
    let mut open = raw_client(&mut gateway);
    let mut proving = tcp(gateway.address());
    let upgrade = "GET /connect HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    proving.write_all(upgrade.as_bytes()).unwrap();
    for stream in [&mut open, &mut proving] {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        // The answer to the upgrade, which may be on its way yet, is text.
        assert!(!heard.contains(&close), "{heard:?}");
    }
    gateway.await_gone();
    assert_eq!(gateway.metric("herald_closed_total{code=\"left\"}"), 1.0);
    assert_eq!(refused(&gateway, "left"), 1.0);
}

fn a_wrong_method_is_answered_405(engine: Engine) {
    let gateway = Gateway::start(engine);
    let head = "POST /ws/notifications HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = exchange(gateway.address(), head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("Allow: GET, OPTIONS\r\n"), "{answer}");
}

/// An open connection, spoken to in raw frames.
fn raw_client(gateway: &mut Gateway) -> Stream {
    let mut client = gateway.connect("42");
    client.hear_type("welcome");
    gateway.opened();
    client.socket.into_inner()
}

/// Sends raw bytes and expects a close frame of this code.
fn expect_close(
    engine: Engine,
    adapt: impl FnOnce(&mut herald::config::Gateway),
    bytes: &[u8],
    code: u16,
) {
    let mut gateway = Gateway::with(engine, adapt);
    let mut stream = raw_client(&mut gateway);
    stream.write_all(bytes).unwrap();
    let mut heard = Vec::new();
    let [high, low] = code.to_be_bytes();
    let mut buffer = [0; 4096];
    let told = |heard: &[u8]| {
        let frames = heard.windows(4);
        frames
            .into_iter()
            .any(|w| w[0] == 0x88 && w[2..] == [high, low])
    };
    while !told(&heard) {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "ended without {code}: {heard:?}");
        heard.extend_from_slice(&buffer[..count]);
    }
    let label = format!("herald_closed_total{{code=\"{code}\"}}");
    assert_eq!(gateway.metric(&label), 1.0);
    gateway.expect("Closed", |message| {
        matches!(message, herald::gateway::mailbox::FromCore::Closed { .. }).then_some(())
    });
}

/// A masked frame with a mask of zeroes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..=125 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

fn an_unmasked_frame_is_closed_1002(engine: Engine) {
    expect_close(engine, |_| {}, &[0x81, 2, b'{', b'}'], 1002);
}

fn text_that_is_not_utf8_is_closed_1007(engine: Engine) {
    expect_close(engine, |_| {}, &frame(0x81, b"\xff\xfe"), 1007);
}

fn a_message_over_the_limit_is_closed_1009(engine: Engine) {
    let over = vec![b' '; herald::limits::CLIENT_MESSAGE_BYTES + 1];
    expect_close(engine, |_| {}, &frame(0x81, &over), 1009);
}

fn a_binary_message_is_closed_1003(engine: Engine) {
    expect_close(engine, |_| {}, &frame(0x82, b"x"), 1003);
}

fn too_many_messages_are_closed_4429(engine: Engine) {
    let pings = frame(0x81, br#"{"type":"ping"}"#).repeat(20);
    expect_close(engine, |cfg| cfg.client_messages_burst = 10, &pings, 4429);
}

fn a_foreign_origin_is_answered_403_and_ours_is_not(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| {
        cfg.origins = vec!["https://ours.example".into()]
    });
    let origin = |origin: &str| [bearer("42"), ("origin", origin.to_owned())];
    let connect = |headers: &[_]| Client::connect(gateway.address(), "/connect", headers);
    assert_eq!(connect(&origin("https://theirs.example")).err(), Some(403));
    assert!(connect(&origin("https://ours.example")).is_ok());

    let preflight = "OPTIONS /sse/ack HTTP/1.1\r\nHost: h\r\nOrigin: https://ours.example\r\n\
                     Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n";
    let answer = exchange(gateway.address(), preflight.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert!(
        answer.contains("Access-Control-Allow-Origin: https://ours.example\r\n"),
        "{answer}"
    );
}
