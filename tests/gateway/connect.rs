//! Ways in: each place of a token, and what keeps a client out.

use crate::{on_both_engines, support::*};
use herald::config::Engine;
use std::io::Write;
use tungstenite::protocol::frame::coding::CloseCode;

on_both_engines!(also_by_tls:
    a_token_in_the_authorization_header_opens,
    a_token_in_the_subprotocol_list_opens,
    a_token_in_the_query_opens,
    a_token_in_the_first_message_opens,
    cursors_are_handed_to_control,
    who_comes_back_may_say_how_long_it_was_away,
    a_wrong_token_in_the_header_is_answered_401,
    a_browser_with_a_wrong_token_is_told_by_a_close_code,
    an_old_token_may_come_back_with_a_new_one,
    a_request_in_single_bytes_is_understood;
    // Its time does not leave room for a handshake on a busy machine.
    who_does_not_authenticate_in_time_is_closed,
);

fn a_token_in_the_authorization_header_opens(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let welcome = client.hear();
    assert_eq!(welcome["type"], "welcome");
    let (conn, user, cursors) = gateway.opened();
    assert_eq!((user.as_str(), cursors), ("42", None));
    let name = welcome["connection"].as_str().unwrap();
    assert!(
        name.ends_with(&format!(".0-{}-{}", conn.slot, conn.reuse)),
        "{name}"
    );
    assert_eq!(
        gateway.cores.connection_name(conn),
        name,
        "as control lists it"
    );
    assert!(name.starts_with("gw-1."), "{name}");
}

fn a_token_in_the_subprotocol_list_opens(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let offers = format!("herald.v1, bearer.{}", token("42"));
    let headers = [("sec-websocket-protocol", offers)];
    let mut client = Client::connect(gateway.address(), "/connect", &headers).unwrap();
    assert_eq!(client.hear()["type"], "welcome");
    assert_eq!(gateway.opened().1.as_str(), "42");
}

fn a_token_in_the_query_opens(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let path = format!("/ws/notifications?token={}", token("42"));
    let mut client = Client::connect(gateway.address(), &path, &[]).unwrap();
    assert_eq!(client.hear()["type"], "welcome");
    assert_eq!(gateway.opened().1.as_str(), "42");
}

fn a_token_in_the_first_message_opens(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = Client::connect(gateway.address(), "/ws/notifications", &[]).unwrap();
    client.say(r#"{"type":"ping"}"#);
    assert_eq!(client.hear()["type"], "pong");
    client.say(r#"{"type":"ack","ids":[]}"#);
    assert_eq!(client.hear()["type"], "error");
    client.say(format!(r#"{{"type":"auth","token":"{}"}}"#, token("42")));
    assert_eq!(client.hear()["type"], "welcome");
    assert_eq!(gateway.opened().1.as_str(), "42");
}

fn cursors_are_handed_to_control(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let path = "/ws/notifications?cursors=user%3Alocal%3D1099511627783";
    let _client = Client::connect(gateway.address(), path, &[bearer("42")]).unwrap();
    let cursors = gateway.opened().2.unwrap();
    assert_eq!(cursors["user:local"].value(), 1_099_511_627_783);

    let wrong = "/ws/notifications?cursors=x";
    let refused = Client::connect(gateway.address(), wrong, &[bearer("42")]);
    assert_eq!(refused.err(), Some(400));
}

fn who_comes_back_may_say_how_long_it_was_away(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let address = gateway.address();
    let connect = |path: &str, headers: &[(&'static str, String)]| {
        Client::connect(address, path, headers).expect("it is let in")
    };
    let mut proving = connect("/connect?away_ms=2500", &[]);
    proving.say(format!(r#"{{"type":"auth","token":"{}"}}"#, token("42")));
    assert_eq!(proving.hear()["type"], "welcome");
    let bearer = [bearer("42")];
    // A night, and what is no time, are not counted.
    for away in ["1500", "36000000", "-1", "long"] {
        let mut client = connect(&format!("/connect?away_ms={away}"), &bearer);
        assert_eq!(client.hear()["type"], "welcome");
    }
    for _ in 0..5 {
        gateway.opened();
    }
    assert_eq!(gateway.metric("herald_reconnect_seconds_sum"), 4.0);
    assert_eq!(gateway.metric("herald_reconnect_seconds_count"), 2.0);
}

fn a_wrong_token_in_the_header_is_answered_401(engine: Engine) {
    let gateway = Gateway::start(engine);
    let headers = [("authorization", "Bearer x.y.z".to_owned())];
    let refused = Client::connect(gateway.address(), "/ws/notifications", &headers);
    assert_eq!(refused.err(), Some(401));
    assert_eq!(
        gateway.metric(r#"herald_refused_total{cause="malformed_token"}"#),
        1.0
    );
}

fn a_browser_with_a_wrong_token_is_told_by_a_close_code(engine: Engine) {
    let gateway = Gateway::start(engine);
    let path = "/ws/notifications?token=wrong";
    let mut client = Client::connect(gateway.address(), path, &[]).unwrap();
    assert_eq!(client.close_frame().code, CloseCode::from(4501));
}

fn an_old_token_may_come_back_with_a_new_one(engine: Engine) {
    let gateway = Gateway::start(engine);
    let old = token_until("42", now_unix_s() - 600);
    let path = format!("/ws/notifications?token={old}");
    let mut client = Client::connect(gateway.address(), &path, &[]).unwrap();
    assert_eq!(client.close_frame().code, CloseCode::from(4403));
}

fn who_does_not_authenticate_in_time_is_closed(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.handshake_ms = 100);
    let mut client = Client::connect(gateway.address(), "/ws/notifications", &[]).unwrap();
    assert_eq!(client.close_frame().code, CloseCode::from(4401));
    assert_eq!(
        gateway.metric(r#"herald_refused_total{cause="auth_timeout"}"#),
        1.0
    );
}

fn a_request_in_single_bytes_is_understood(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = tcp(gateway.address());
    let request = format!(
        "GET /ws/notifications HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {}\r\n\r\n",
        token("42")
    );
    // A masked `{"type":"ping"}` follows, also byte by byte; the mask is zero.
    let ping = br#"{"type":"ping"}"#;
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(&[0x81, 0x80 | ping.len() as u8, 0, 0, 0, 0]);
    bytes.extend_from_slice(ping);
    for byte in bytes {
        stream.write_all(&[byte]).unwrap();
    }
    let heard = read_until(&mut stream, "pong");
    assert!(heard.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{heard}");
    assert!(heard.contains("welcome"), "{heard}");
    gateway.opened();
}
