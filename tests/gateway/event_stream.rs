//! Event streams and the `POST`s beside them.

use crate::{on_both_engines, support::*};
use bytes::Bytes;
use herald::{
    config::Engine,
    envelope::Fate,
    gateway::mailbox::{ConnId, FromCore, Post, ToCore},
    ids::NotificationId,
    position::{Cursors, Position},
    proto::close::CloseCode,
};
use std::{io::Write, net::Shutdown, time::Duration};

on_both_engines!(also_by_tls:
    a_stream_carries_items_with_the_cursors_they_lead_to,
    a_stream_comes_back_with_its_last_event_id,
    a_stream_without_a_valid_token_is_refused,
    a_stream_that_is_ended_for_good_is_told_so_and_does_not_begin_again,
    a_stream_that_may_come_back_is_told_so_and_keeps_its_cursors,
    an_end_is_told_behind_the_rest_of_an_event_partly_sent,
    an_end_is_waited_for_though_the_open_stream_was_due_for_something_before,
    a_stream_is_kept_alive_by_comments,
    a_stream_that_ends_is_told_to_control,
    posts_are_answered_by_control_on_one_connection,
    a_client_that_waits_to_be_asked_for_its_body_is_asked,
    a_post_that_says_nothing_sensible_is_answered_400,
    a_post_too_many_is_told_when_to_come_back,
    a_half_closed_post_gets_its_answer,
    a_half_closed_stream_gets_its_head_and_ends;
    // Its time does not leave room for a handshake on a busy machine.
    a_post_nobody_answers_gets_503,
);

fn stream(gateway: &Gateway, extra: &str) -> Stream {
    let mut stream = tcp(gateway.address());
    let request = format!(
        "GET /sse/notifications HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n{extra}\r\n",
        token("42")
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Control's answer to a sync: everything up to `at` is covered.
fn synced(conn: ConnId, at: u64) -> ToCore {
    ToCore::Synced {
        conn,
        frame: Bytes::from_static(br#"{"type":"sync"}"#),
        cursors: Cursors::from([("user:local".into(), Position::new(1, at).unwrap())]),
        complete: true,
    }
}

fn a_stream_carries_items_with_the_cursors_they_lead_to(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = stream(&gateway, "");
    let (conn, user, cursors) = gateway.opened();
    // Control is asked for a sync even without cursors: it is what gives the stream its first `id:`.
    assert_eq!((user.as_str(), cursors), ("42", Some(Cursors::new())));
    let heard = read_until(&mut stream, "event: welcome");
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
    assert!(
        heard.contains("Content-Type: text/event-stream\r\n"),
        "{heard}"
    );

    gateway.send(0, synced(conn, 6));
    let ticket = gateway.push(&item(7, r#"{"type":"notification","n":7}"#), &[conn]);
    assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
    let heard = read_until(&mut stream, r#""n":7}"#);
    let at = Position::new(1, 7).unwrap();
    assert!(heard.contains("event: notification\n"), "{heard}");
    assert!(heard.contains(&format!("id: user:local={at}\n")), "{heard}");
}

fn a_stream_comes_back_with_its_last_event_id(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let at = Position::new(1, 7).unwrap();
    let _stream = stream(&gateway, &format!("Last-Event-ID: user:local={at}\r\n"));
    let cursors = gateway.opened().2.unwrap();
    assert_eq!(cursors["user:local"], at);
}

fn a_stream_without_a_valid_token_is_refused(engine: Engine) {
    let gateway = Gateway::start(engine);
    let old = format!("?token={}", token_until("42", now_unix_s() - 600));
    for (query, body) in [
        ("", r#"{"error":"no_token"}"#),
        (
            "?token=wrong",
            r#"{"error":"malformed_token","code":4501,"come_back":false}"#,
        ),
        (&old, r#"{"error":"expired","code":4403,"come_back":true}"#),
    ] {
        let head = format!("GET /sse/notifications{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = exchange(gateway.address(), head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.ends_with(body), "{answer}");
    }
}

/// Ends the stream with the code and returns its last event, as lines.
fn last_event(
    gateway: &mut Gateway,
    stream: &mut Stream,
    conn: ConnId,
    code: CloseCode,
) -> Vec<String> {
    let reason = "why";
    gateway.send(0, ToCore::Close { conn, code, reason });
    gateway.closed(conn);
    let heard = read_to_end(stream);
    let events = heard.strip_suffix("\n\n").expect("whole events");
    let last = events.rsplit("\n\n").next().unwrap();
    last.lines().map(str::to_owned).collect()
}

fn a_stream_that_is_ended_for_good_is_told_so_and_does_not_begin_again(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut ended = stream(&gateway, "");
    let (conn, ..) = gateway.opened();
    let last = last_event(&mut gateway, &mut ended, conn, CloseCode::Disconnected);
    let data = r#"data: {"type":"close","code":4510,"reason":"why","come_back":false}"#;
    assert_eq!(last, ["event: close", "id: closed-4510", data]);
    assert_eq!(gateway.metric(r#"herald_closed_total{code="4510"}"#), 1.0);

    // A browser comes back all the same, with the last id it saw: this ends that.
    let heard = read_to_end(&mut stream(
        &gateway,
        "Last-Event-ID: closed-4510\r\nConnection: close\r\n",
    ));
    assert!(heard.starts_with("HTTP/1.1 204 "), "{heard}");
    assert!(heard.ends_with("\r\n\r\n"), "{heard}");
    let opened = |message: &FromCore| matches!(message, FromCore::Opened { .. });
    assert!(!gateway.told().iter().any(opened));
    // One that is opened anew has not been sent away.
    let _anew = stream(&gateway, "");
    gateway.opened();
}

fn a_stream_that_may_come_back_is_told_so_and_keeps_its_cursors(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = stream(&gateway, "");
    let (conn, ..) = gateway.opened();
    gateway.send(0, synced(conn, 6));
    let last = last_event(&mut gateway, &mut stream, conn, CloseCode::Restart);
    // No `id:`: the last one stays, and with it the cursors.
    let data = r#"data: {"type":"close","code":1012,"reason":"why","come_back":true}"#;
    assert_eq!(last, ["event: close", data]);
}

fn an_end_is_told_behind_the_rest_of_an_event_partly_sent(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = stream(&gateway, "");
    // Or the kernel would take all of it on the client's behalf.
    let small = socket2::SockRef::from(&stream.tcp);
    small.set_recv_buffer_size(8 * 1024).unwrap();
    let (conn, ..) = gateway.opened();
    gateway.send(0, synced(conn, 0));
    let pad = "x".repeat(8_000);
    let text = format!(r#"{{"type":"notification","pad":"{pad}"}}"#);
    let tickets: Vec<_> = (1..=400)
        .map(|pos| gateway.push(&item(pos, &text), &[conn]))
        .collect();
    let last = last_event(&mut gateway, &mut stream, conn, CloseCode::TooSlow);
    let data = r#"data: {"type":"close","code":4408,"reason":"why","come_back":true}"#;
    assert_eq!(last, ["event: close", data]);
    let unsent = tickets
        .iter()
        .filter(|ticket| gateway.fates(**ticket, 1)[0].0 == Fate::Deferred);
    assert!(unsent.count() > 0, "some were left");
}

fn an_end_is_waited_for_though_the_open_stream_was_due_for_something_before(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.heartbeat_ms = 100);
    let mut stream = stream(&gateway, "");
    let small = socket2::SockRef::from(&stream.tcp);
    small.set_recv_buffer_size(8 * 1024).unwrap();
    let (conn, ..) = gateway.opened();
    gateway.send(0, synced(conn, 0));
    let text = format!(r#"{{"type":"notification","pad":"{}"}}"#, "x".repeat(8_000));
    for pos in 1..=40 {
        gateway.push(&item(pos, &text), &[conn]);
    }
    let (code, reason) = (CloseCode::Restart, "why");
    gateway.send(0, ToCore::Close { conn, code, reason });
    gateway.closed(conn);
    // A client that is slow to read, while what was due comes.
    std::thread::sleep(Duration::from_millis(500));
    let heard = read_to_end(&mut stream);
    assert!(heard.ends_with("\n\n"), "whole events");
    assert!(heard.contains("event: close"), "and the last one");
}

fn a_stream_is_kept_alive_by_comments(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| cfg.heartbeat_ms = 100);
    let mut stream = stream(&gateway, "");
    gateway.opened();
    read_until(&mut stream, "\n\n:");
}

fn a_stream_that_ends_is_told_to_control(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let stream = stream(&gateway, "");
    let (conn, ..) = gateway.opened();
    drop(stream);
    gateway.closed(conn);
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST /sse/{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        token("42"),
        body.len()
    )
}

fn posted(gateway: &mut Gateway) -> (ConnId, Post) {
    gateway.expect("Post", |message| match message {
        FromCore::Post { conn, user, post } => {
            assert_eq!(user.as_str(), "42");
            let post = match post {
                Post::Ack(ids) => Post::Ack(ids.clone()),
                Post::Read(ids) => Post::Read(ids.clone()),
                Post::Sync { cursors, limit } => Post::Sync {
                    cursors: cursors.clone(),
                    limit: *limit,
                },
            };
            Some((*conn, post))
        }
        _ => None,
    })
}

fn posts_are_answered_by_control_on_one_connection(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = tcp(gateway.address());
    let id = NotificationId::generate();
    let ids = format!(r#"{{"ids":["{id}"]}}"#);
    for (path, body, expected, status, answer) in [
        ("ack", ids.as_str(), Post::Ack(vec![id]), 204, ""),
        ("read", ids.as_str(), Post::Read(vec![id]), 204, ""),
        (
            "sync",
            r#"{"limit":7}"#,
            Post::Sync {
                cursors: Cursors::new(),
                limit: 7,
            },
            200,
            r#"{"type":"sync"}"#,
        ),
    ] {
        stream.write_all(post(path, body).as_bytes()).unwrap();
        let (conn, post) = posted(&mut gateway);
        assert_eq!(post, expected);
        let body = Bytes::copy_from_slice(answer.as_bytes());
        gateway.send(0, ToCore::Answer { conn, status, body });
        let heard = read_until(&mut stream, &format!("\r\n\r\n{answer}"));
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
    }
}

fn a_client_that_waits_to_be_asked_for_its_body_is_asked(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = tcp(gateway.address());
    let body = r#"{"ids":[]}"#;
    let request = post("ack", body);
    let head = request.strip_suffix(body).unwrap();
    let head = head.replacen("Host: h", "Host: h\r\nExpect: 100-continue", 1);
    stream.write_all(head.as_bytes()).unwrap();
    let heard = read_until(&mut stream, "\r\n\r\n");
    assert!(heard.starts_with("HTTP/1.1 100 "), "{heard}");
    stream.write_all(body.as_bytes()).unwrap();
    let (conn, _) = posted(&mut gateway);
    let (status, body) = (204, Bytes::new());
    gateway.send(0, ToCore::Answer { conn, status, body });
    let heard = read_until(&mut stream, "\r\n\r\n");
    assert!(heard.starts_with("HTTP/1.1 204 "), "{heard}");
}

fn a_post_that_says_nothing_sensible_is_answered_400(engine: Engine) {
    let gateway = Gateway::start(engine);
    for body in ["", "[]", r#"{"ids":7}"#] {
        let answer = exchange(gateway.address(), post("ack", body).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

fn a_post_nobody_answers_gets_503(engine: Engine) {
    let gateway = Gateway::with(engine, |cfg| cfg.handshake_ms = 100);
    let answer = exchange(gateway.address(), post("ack", r#"{"ids":[]}"#).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

fn a_post_too_many_is_told_when_to_come_back(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = tcp(gateway.address());
    let request = post("ack", r#"{"ids":[]}"#);
    stream.write_all(request.as_bytes()).unwrap();
    let (conn, _) = posted(&mut gateway);
    let (status, body) = (429, Bytes::new());
    gateway.send(0, ToCore::Answer { conn, status, body });
    let heard = read_to_end(&mut stream);
    assert!(heard.starts_with("HTTP/1.1 429 "), "{heard}");
    assert!(heard.contains("Retry-After: 1\r\n"), "{heard}");
    let refused = r#"herald_refused_total{cause="rate_limited"}"#;
    assert_eq!(gateway.metric(refused), 1.0);
}

fn a_half_closed_post_gets_its_answer(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = tcp(gateway.address());
    let request = post("ack", r#"{"ids":[]}"#);
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (conn, _) = posted(&mut gateway);
    // Its end is known by now, or comes later: both are well.
    let (status, body) = (204, Bytes::new());
    gateway.send(0, ToCore::Answer { conn, status, body });
    let heard = read_to_end(&mut stream);
    assert!(heard.starts_with("HTTP/1.1 204 "), "{heard}");
    gateway.await_gone();
}

fn a_half_closed_stream_gets_its_head_and_ends(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut stream = stream(&gateway, "");
    stream.shutdown(Shutdown::Write).unwrap();
    let heard = read_to_end(&mut stream);
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
    assert!(heard.contains("event: welcome"), "{heard}");
    let last = r#"{"type":"close","code":1001,"reason":"your side has ended","come_back":true}"#;
    assert!(heard.ends_with(&format!("{last}\n\n")), "{heard}");
    let (conn, ..) = gateway.opened();
    gateway.closed(conn);
    gateway.await_gone();
}
