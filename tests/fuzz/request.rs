use super::{Damage, answers_once, fuzz};
use herald::proto::{
    request::parse,
    upgrade::{Asked, Rules, decide},
};
use proptest::prelude::*;

fn targets() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        Just("/ws/notifications"),
        Just("/connect"),
        Just("/sse/notifications"),
        Just("/sse/ack"),
        Just("/sse/sync"),
        Just("/"),
        Just("http://h/connect"),
        Just("/%2e%"),
    ];
    (path, "(\\?(token|cursors|x)=[a-z0-9.%:=,&]{0,20})?")
        .prop_map(|(path, query)| format!("{path}{query}"))
}

fn headers() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => prop_oneof![
            Just("Host: h"),
            Just("Connection: keep-alive, Upgrade"),
            Just("Upgrade: websocket"),
            Just("Sec-WebSocket-Version: 13"),
            Just("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            Just("Sec-WebSocket-Protocol: herald.v1, bearer.a.b.c"),
            Just("Authorization: Bearer token"),
            Just("Origin: https://app.example"),
            Just("Content-Length: 12"),
            Just("Transfer-Encoding: chunked"),
            Just("Last-Event-ID: user:local=1"),
        ].prop_map(str::to_owned),
        1 => "[A-Za-z-]{1,12}: ?[ -~]{0,24}",
    ]
}

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        4 => Just("GET"),
        2 => Just("POST"),
        1 => Just("OPTIONS"),
        1 => Just("HEAD"),
        1 => Just("PATCH"),
    ];
    let lines = prop::collection::vec(headers(), 0..9);
    (method, targets(), 0..3u8, lines).prop_map(|(method, target, minor, lines)| {
        let mut head = format!("{method} {target} HTTP/1.{minor}\r\nHost: h\r\n");
        for line in lines {
            head.push_str(&line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    })
}

#[test]
fn a_request_is_understood_the_same_however_it_is_cut() {
    let rules = Rules::new(&["https://app.example".into()], true).unwrap();
    let inputs = prop_oneof![
        4 => (heads(), Damage::any()).prop_map(|(bytes, damage)| damage.apply(bytes)),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    fuzz((inputs, "[ -~]{0,20}"), |(mut bytes, tail)| {
        bytes.extend(tail.bytes());
        if let Err(error) = parse(&bytes) {
            let answer = error.answer().encode(&Default::default());
            prop_assert!(answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 5"));
        }
        answers_once(&bytes, |prefix| match parse(prefix) {
            Ok(None) => None,
            Ok(Some(request)) => Some(Ok((request.head_bytes, decide(&request, &rules)))),
            Err(error) => Some(Err(error)),
        })
    });
}

/// What an answer says must not open a way to say more.
#[test]
fn nothing_a_client_sends_becomes_a_header_of_ours() {
    let rules = Rules::new(&["*".into()], false).unwrap();
    fuzz((heads(), Damage::any()), |(head, damage)| {
        let bytes = damage.apply(head);
        let Ok(Some(request)) = parse(&bytes) else {
            return Ok(());
        };
        let decision = decide(&request, &rules);
        let answer = match &decision.asked {
            Asked::WebSocket { response, .. } | Asked::Echo { response } => response.clone(),
            Asked::Sse { head, .. } => head.clone(),
            Asked::Plain(answer) => answer.encode(&decision.reply),
            Asked::Post { .. } => return Ok(()),
        };
        let mut storage = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut storage);
        prop_assert!(
            parsed
                .parse(&answer)
                .is_ok_and(|status| status.is_complete())
        );
        let ours = [
            "Cache-Control",
            "Upgrade",
            "Connection",
            "Sec-WebSocket-Accept",
            "Content-Type",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Version",
            "Access-Control-Allow-Origin",
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
            "Content-Length",
            "Access-Control-Max-Age",
            "Vary",
            "Allow",
            "WWW-Authenticate",
            "X-Accel-Buffering",
        ];
        for header in parsed.headers.iter() {
            prop_assert!(ours.contains(&header.name), "{}", header.name);
        }
        Ok(())
    });
}
