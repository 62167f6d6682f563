//! The handshake and what only TLS has: versions, tickets, certificates, what goes wrong. That everything else
//! is as without it, the other files' behaviours show by running both ways.

use crate::{
    on_both_engines,
    stream::{CERTIFICATES, Stream, by_tls},
    support::*,
};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use herald::{
    config::{self, Engine},
    envelope::Fate,
    gateway::mailbox::{ConnId, FromCore},
    limits,
};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, client::Resumption, version};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

on_both_engines!(
    both_versions_are_spoken,
    a_session_resumes_on_its_host_in_either_version,
    a_session_resumes_on_another_host_that_shares_the_keys,
    a_session_of_an_unknown_key_gets_a_full_handshake,
    only_http_1_1_is_agreed_on,
    a_new_certificate_is_taken_while_connections_last,
    a_wrong_certificate_changes_nothing,
    a_handshake_in_single_bytes_is_understood,
    a_handshake_that_does_not_end_in_time_is_closed,
    a_plain_request_gets_an_alert,
    garbage_behind_the_handshake_ends_the_connection,
    new_traffic_keys_are_followed,
    a_message_of_tls_in_pieces_does_no_harm,
    what_tls_does_not_allow_ends_the_connection_and_no_other,
    new_keys_without_end_are_refused,
    empty_records_without_end_are_refused,
    new_keys_that_come_with_the_end_of_the_handshake_are_followed,
    padding_is_left_out,
    the_proxy_header_precedes_the_handshake,
    both_ports_serve_side_by_side_on_every_core,
    of_too_many_handshakes_the_oldest_give_way,
    an_item_of_many_records_arrives_whole,
);

const HEAD: &str = "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

fn gateway(engine: Engine, adapt: impl FnOnce(&mut config::Gateway)) -> Gateway {
    by_tls(|| ());
    Gateway::with(engine, adapt)
}

fn start(engine: Engine) -> Gateway {
    gateway(engine, |_| {})
}

fn certificate(name: &str) -> config::Tls {
    config::Tls {
        certificate_file: Some(CERTIFICATES.file(&format!("{name}.pem"))),
        key_file: Some(CERTIFICATES.file(&format!("{name}.key"))),
        ticket_keys_file: None,
    }
}

fn ticket_keys(keys: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> = keys.iter().map(|key| STANDARD.encode([*key; 32])).collect();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    file
}

fn start_with_keys(engine: Engine, keys: &Path) -> Gateway {
    by_tls(|| ());
    let tls = config::Tls {
        ticket_keys_file: Some(keys.to_owned()),
        ..certificate("gateway")
    };
    Gateway::with_tls(engine, |_| {}, false, &tls)
}

/// A client of one version, which remembers its sessions.
fn client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut config = CERTIFICATES.client_of(&[version]);
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

fn connect(gateway: &Gateway, config: &Arc<ClientConfig>) -> Stream {
    Stream::by_tls(plain_tcp(gateway.address()), config.clone())
}

/// One request by TLS; how the handshake went.
fn visit(gateway: &Gateway, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut stream = connect(gateway, config);
    stream.write_all(HEAD.as_bytes()).unwrap();
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    stream.tls.unwrap().handshake_kind().unwrap()
}

fn handshakes(gateway: &Gateway, kind: &str, version: &str) -> f64 {
    let labels = format!("{{kind=\"{kind}\",version=\"{version}\"}}");
    gateway.metric(&format!("herald_tls_handshakes_total{labels}"))
}

fn refused(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric(&format!("herald_refused_total{{cause=\"{cause}\"}}"))
}

const VERSIONS: [(&SupportedProtocolVersion, &str); 2] =
    [(&version::TLS13, "1.3"), (&version::TLS12, "1.2")];

fn both_versions_are_spoken(engine: Engine) {
    let gateway = start(engine);
    for (version, name) in VERSIONS {
        assert_eq!(visit(&gateway, &client(version)), HandshakeKind::Full);
        assert_eq!(handshakes(&gateway, "full", name), 1.0);
    }
    gateway.await_metric("herald_tls_sent_bytes_total", 1_000.0);
    gateway.await_metric("herald_tls_received_bytes_total", 500.0);
    let left_s = gateway.metric("herald_tls_certificate_expires_seconds");
    assert!((86_400.0..=172_800.0).contains(&left_s), "{left_s}");
}

fn a_session_resumes_on_its_host_in_either_version(engine: Engine) {
    let gateway = start(engine);
    for (version, name) in VERSIONS {
        let client = client(version);
        visit(&gateway, &client);
        assert_eq!(visit(&gateway, &client), HandshakeKind::Resumed);
        assert_eq!(handshakes(&gateway, "resumed", name), 1.0);
    }
}

fn a_session_resumes_on_another_host_that_shares_the_keys(engine: Engine) {
    for (version, _) in VERSIONS {
        let client = client(version);
        let (first, rotated) = (ticket_keys(&[1]), ticket_keys(&[2, 1]));
        visit(&start_with_keys(engine, first.path()), &client);
        let other = start_with_keys(engine, rotated.path());
        assert_eq!(other.metric("herald_tls_ticket_keys"), 2.0);
        assert_eq!(visit(&other, &client), HandshakeKind::Resumed);
    }
}

fn a_session_of_an_unknown_key_gets_a_full_handshake(engine: Engine) {
    for (version, _) in VERSIONS {
        let client = client(version);
        visit(&start(engine), &client);
        assert_eq!(visit(&start(engine), &client), HandshakeKind::Full);
    }
}

fn only_http_1_1_is_agreed_on(engine: Engine) {
    let gateway = start(engine);
    let offering = |protocols: &[&str]| {
        let mut config = CERTIFICATES.client();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        connect(&gateway, &Arc::new(config))
    };
    let mut both = offering(&["h2", "http/1.1"]);
    both.write_all(HEAD.as_bytes()).unwrap();
    read_to_end(&mut both);
    let agreed = both.tls.as_ref().unwrap().alpn_protocol();
    assert_eq!(agreed, Some(&b"http/1.1"[..]));

    let mut other = offering(&["h2"]);
    let error = other.read(&mut [0]).unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    gateway.await_metric(r#"herald_refused_total{cause="tls_no_protocol"}"#, 1.0);
}

/// What the gateway shows to a client that comes now.
fn shown(gateway: &Gateway) -> Vec<u8> {
    let mut stream = connect(gateway, &client(&version::TLS13));
    stream.write_all(HEAD.as_bytes()).unwrap();
    read_to_end(&mut stream);
    let tls = stream.tls.unwrap();
    tls.peer_certificates().unwrap()[0].to_vec()
}

fn a_new_certificate_is_taken_while_connections_last(engine: Engine) {
    let mut gateway = start(engine);
    let mut early = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    let before = shown(&gateway);
    let tls = gateway.tls.clone().unwrap();
    tls.reload(&certificate("other")).unwrap();
    assert_ne!(shown(&gateway), before);
    let ticket = gateway.push(&item(1, r#"{"type":"notification"}"#), &[conn]);
    assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
    early.hear_type("notification");
}

fn a_wrong_certificate_changes_nothing(engine: Engine) {
    let gateway = start(engine);
    let before = shown(&gateway);
    let tls = gateway.tls.as_ref().unwrap();
    let mismatched = config::Tls {
        key_file: Some(CERTIFICATES.file("other.key")),
        ..certificate("gateway")
    };
    let error = tls.reload(&mismatched).unwrap_err();
    assert_eq!(error.key, "tls.key_file", "{error}");
    assert!(error.problem.contains("is not the key of"), "{error}");
    let error = tls.reload(&certificate("missing")).unwrap_err();
    assert_eq!(error.key, "tls.certificate_file", "{error}");
    assert_eq!(shown(&gateway), before);
}

fn a_handshake_in_single_bytes_is_understood(engine: Engine) {
    let gateway = start(engine);
    let Stream { mut tcp, tls } = connect(&gateway, &client(&version::TLS13));
    let mut tls = tls.unwrap();
    tls.writer().write_all(HEAD.as_bytes()).unwrap();
    while tls.is_handshaking() || tls.wants_write() {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).unwrap();
        }
        for byte in flight {
            tcp.write_all(&[byte]).unwrap();
        }
        if tls.is_handshaking() {
            tls.read_tls(&mut tcp).unwrap();
            tls.process_new_packets().unwrap();
        }
    }
    let tls = Some(tls);
    let answer = read_to_end(&mut Stream { tcp, tls });
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

fn a_handshake_that_does_not_end_in_time_is_closed(engine: Engine) {
    let gateway = gateway(engine, |cfg| cfg.handshake_ms = 300);
    let mut begun = plain_tcp(gateway.address());
    begun.write_all(&[0x16, 0x03, 0x01]).unwrap();
    let mut silent = plain_tcp(gateway.address());
    for stream in [&mut begun, &mut silent] {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(refused(&gateway, "tls_handshake_timeout"), 1.0);
    assert_eq!(refused(&gateway, "silent"), 1.0);
}

fn a_plain_request_gets_an_alert(engine: Engine) {
    let gateway = start(engine);
    let mut stream = plain_tcp(gateway.address());
    stream.write_all(HEAD.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    const ALERT: u8 = 21;
    assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
    assert_eq!(refused(&gateway, "tls_not_tls"), 1.0);
    gateway.await_gone();
}

fn garbage_behind_the_handshake_ends_the_connection(engine: Engine) {
    let mut gateway = start(engine);
    let mut client = gateway.connect("42");
    client.hear_type("welcome");
    let (conn, ..) = gateway.opened();
    // A record that nobody has sealed.
    let mut tcp = &client.socket.get_ref().tcp;
    tcp.write_all(&[&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat())
        .unwrap();
    gateway.closed(conn);
    gateway.await_metric(r#"herald_closed_total{code="tls"}"#, 1.0);
    let broken = gateway.metric(r#"herald_tls_broken_total{cause="tls_decrypt"}"#);
    assert_eq!(broken, 1.0);
    // It is told by an alert.
    let end = client.socket.get_mut().read(&mut [0; 1024]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::InvalidData, "{end}");
}

fn new_traffic_keys_are_followed(engine: Engine) {
    let mut gateway = start(engine);
    let mut client = gateway.connect("42");
    client.hear_type("welcome");
    let (conn, ..) = gateway.opened();
    for pos in 1..=5 {
        let tls = client.socket.get_mut().tls.as_mut().unwrap();
        tls.refresh_traffic_keys().unwrap();
        client.say(r#"{"type":"ping"}"#);
        client.hear_type("pong");
        let ticket = gateway.push(&item(pos, r#"{"type":"notification"}"#), &[conn]);
        assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
        client.hear_type("notification");
    }
}

/// A record of TLS 1.3 as the client's next one.
fn seal(secrets: &mut rustls::ExtractedSecrets, kind: u8, payload: &[u8]) -> Vec<u8> {
    let (sequence, traffic) = &mut secrets.tx;
    let rustls::ConnectionTrafficSecrets::Aes128Gcm { key, iv } = traffic else {
        panic!("another suite");
    };
    let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap();
    let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
    for (byte, part) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= part;
    }
    *sequence += 1;
    let mut inner = [payload, &[kind]].concat();
    let length = (inner.len() as u16 + 16).to_be_bytes();
    let header = [0x17, 3, 3, length[0], length[1]];
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed =
        LessSafeKey::new(key).seal_in_place_append_tag(nonce, Aad::from(header), &mut inner);
    sealed.unwrap();
    [&header[..], &inner].concat()
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;
/// The message that announces new keys, and asks for none.
const NEW_KEYS: [u8; 5] = [24, 0, 0, 1, 0];

/// A client past its `welcome` that seals by itself from there on.
struct Sealer {
    tcp: TcpStream,
    secrets: rustls::ExtractedSecrets,
    conn: ConnId,
}

impl Sealer {
    fn connect(gateway: &mut Gateway) -> Sealer {
        let mut config = CERTIFICATES.client();
        config.enable_secret_extraction = true;
        let mut stream = connect(gateway, &Arc::new(config));
        let request = format!(
            "GET /connect?token={} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            token("42")
        );
        stream.write_all(request.as_bytes()).unwrap();
        read_until(&mut stream, "welcome");
        let (conn, ..) = gateway.opened();
        let tls = stream.tls.take().unwrap();
        #[allow(deprecated)]
        let secrets = tls.dangerous_extract_secrets().unwrap();
        Sealer {
            tcp: stream.tcp,
            secrets,
            conn,
        }
    }

    fn say(&mut self, kind: u8, payload: &[u8]) {
        let sealed = seal(&mut self.secrets, kind, payload);
        self.tcp.write_all(&sealed).unwrap();
    }
}

fn a_message_of_tls_in_pieces_does_no_harm(engine: Engine) {
    for pieces in [1, 3, 4] {
        let mut gateway = start(engine);
        let mut sealer = Sealer::connect(&mut gateway);
        let conn = sealer.conn;
        let (first, rest) = NEW_KEYS.split_at(pieces);
        sealer.say(HANDSHAKE, first);
        gateway.await_metric("herald_tls_received_bytes_total", 1.0);
        // What is said meanwhile is sealed beside the piece that waits.
        for pos in 1..=20 {
            let ticket = gateway.push(&item(pos, "{}"), &[conn]);
            assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
        }
        sealer.say(HANDSHAKE, rest);
        // By the new keys this is none of the client's.
        sealer.say(HANDSHAKE, &NEW_KEYS);
        gateway.closed(conn);
        assert_eq!(
            visit(&gateway, &client(&version::TLS13)),
            HandshakeKind::Full
        );
    }
}

fn what_tls_does_not_allow_ends_the_connection_and_no_other(engine: Engine) {
    let sealed =
        |kind: u8, payload: &'static [u8]| move |client: &mut Sealer| client.say(kind, payload);
    let plain =
        |record: &'static [u8]| move |client: &mut Sealer| client.tcp.write_all(record).unwrap();
    let mut gateway = start(engine);
    let mut other = gateway.connect("7");
    other.hear_type("welcome");
    gateway.opened();
    type Misbehaviour = Box<dyn Fn(&mut Sealer)>;
    let cases: [(&str, Misbehaviour); 13] = [
        // Nothing but padding.
        ("tls_unexpected", Box::new(sealed(0, &[]))),
        ("tls_unexpected", Box::new(sealed(99, b"x"))),
        // Change of ciphers, sealed and not.
        ("tls_unexpected", Box::new(sealed(20, &[1]))),
        ("tls_unexpected", Box::new(plain(&[20, 3, 3, 0, 1, 1]))),
        ("tls_unexpected", Box::new(plain(&[21, 3, 3, 0, 2, 1, 0]))),
        ("tls_unexpected", Box::new(sealed(ALERT, &[1]))),
        ("tls_unexpected", Box::new(sealed(HANDSHAKE, &[]))),
        // A hello, and more than one message.
        ("tls_unexpected", Box::new(sealed(HANDSHAKE, &[1, 0, 0, 0]))),
        (
            "tls_unexpected",
            Box::new(sealed(HANDSHAKE, &[24, 0, 0, 1, 0, 24])),
        ),
        (
            "tls_malformed",
            Box::new(sealed(HANDSHAKE, &[24, 0, 0, 1, 2])),
        ),
        ("tls_malformed", Box::new(plain(&[23, 3, 3, 0x41, 1]))),
        ("tls_alert", Box::new(sealed(ALERT, &[2, 40]))),
        (
            "tls_unexpected",
            Box::new(|client| {
                client.say(HANDSHAKE, &NEW_KEYS[..2]);
                client.say(APPLICATION, b"between the pieces");
            }),
        ),
    ];
    for (number, (cause, misbehave)) in cases.into_iter().enumerate() {
        let broken = format!(r#"herald_tls_broken_total{{cause="{cause}"}}"#);
        let before = gateway.metric(&broken);
        let mut client = Sealer::connect(&mut gateway);
        misbehave(&mut client);
        gateway.closed(client.conn);
        // Cores publish once per tick; it hangs here where another cause was counted.
        println!("case {number}: {cause}");
        gateway.await_metric(&broken, before + 1.0);
    }
    other.say(r#"{"type":"ping"}"#);
    other.hear_type("pong");
}

fn new_keys_without_end_are_refused(engine: Engine) {
    let mut gateway = start(engine);
    let mut client = gateway.connect("42");
    client.hear_type("welcome");
    let (conn, ..) = gateway.opened();
    let stream = client.socket.get_mut();
    for _ in 0..=limits::TLS_EMPTY_RECORDS {
        stream.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
    }
    client.say(r#"{"type":"ping"}"#);
    gateway.closed(conn);
    gateway.await_metric(r#"herald_tls_broken_total{cause="tls_misbehaved"}"#, 1.0);
}

fn empty_records_without_end_are_refused(engine: Engine) {
    let mut gateway = start(engine);
    let mut client = Sealer::connect(&mut gateway);
    for _ in 0..=limits::TLS_EMPTY_RECORDS {
        client.say(APPLICATION, &[]);
    }
    gateway.closed(client.conn);
    gateway.await_metric(r#"herald_tls_broken_total{cause="tls_misbehaved"}"#, 1.0);
}

fn new_keys_that_come_with_the_end_of_the_handshake_are_followed(engine: Engine) {
    let gateway = start(engine);
    let mut stream = connect(&gateway, &client(&version::TLS13));
    let tls = stream.tls.as_mut().unwrap();
    // Up to the client's last message, which waits to be sent.
    tls.write_tls(&mut stream.tcp).unwrap();
    while tls.is_handshaking() {
        tls.read_tls(&mut stream.tcp).unwrap();
        tls.process_new_packets().unwrap();
    }
    tls.refresh_traffic_keys().unwrap();
    tls.writer().write_all(HEAD.as_bytes()).unwrap();
    let mut together = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut together).unwrap();
    }
    stream.tcp.write_all(&together).unwrap();
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

fn padding_is_left_out(engine: Engine) {
    let mut gateway = start(engine);
    let mut client = Sealer::connect(&mut gateway);
    let text = br#"{"type":"ack","ids":["01890a5d-ac96-774b-bcce-b302099a8057"]}"#;
    let frame = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], &text[..]].concat();
    // Its kind stands before the padding.
    client.say(0, &[&frame[..], &[APPLICATION], &[0; 900]].concat());
    let acked = gateway.expect("Acked", |message| match message {
        FromCore::Acked { conn, ids, .. } => Some((*conn, ids.len())),
        _ => None,
    });
    assert_eq!(acked, (client.conn, 1));
    // So is the end of the connection.
    client.say(0, &[1, 0, ALERT, 0, 0]);
    gateway.closed(client.conn);
    gateway.await_gone();
    assert_eq!(gateway.metric(r#"herald_closed_total{code="tls"}"#), 0.0);
}

fn the_proxy_header_precedes_the_handshake(engine: Engine) {
    let gateway = gateway(engine, |cfg| cfg.proxy_trusted = vec!["127.0.0.1".into()]);
    let config = client(&version::TLS13);
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.1 4242 8443\r\n";
    let mut tcp = plain_tcp(gateway.address());
    tcp.write_all(header).unwrap();
    let mut stream = Stream::by_tls(tcp, config.clone());
    stream.write_all(HEAD.as_bytes()).unwrap();
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    // Without it there is no handshake.
    let error = connect(&gateway, &config).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    assert_eq!(refused(&gateway, "proxy_header_malformed"), 1.0);
}

fn both_ports_serve_side_by_side_on_every_core(engine: Engine) {
    let mut gateway = gateway(engine, |cfg| cfg.cores = 3);
    let mut clients: Vec<Client> = (0..48).map(|_| gateway.connect("42")).collect();
    let plain = gateway.cores.local_addr();
    for _ in &clients {
        let mut stream = plain_tcp(plain);
        stream.write_all(HEAD.as_bytes()).unwrap();
        assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 404 "));
    }
    let conns: Vec<_> = clients.iter().map(|_| gateway.opened().0).collect();
    assert!((0..3).all(|core| conns.iter().any(|conn| conn.core == core)));
    for conn in conns {
        let ticket = gateway.push(&item(1, r#"{"type":"notification"}"#), &[conn]);
        assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
    }
    for client in &mut clients {
        client.hear_type("notification");
    }
}

fn of_too_many_handshakes_the_oldest_give_way(engine: Engine) {
    const OVER: usize = 10;
    let gateway = gateway(engine, |cfg| cfg.handshake_ms = 60_000);
    let begin = |_| {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&[0x16]).unwrap();
        stream
    };
    let mut begun: Vec<TcpStream> = (0..limits::TLS_HANDSHAKES + OVER).map(begin).collect();
    // Whoever comes now is served, and one more has to go for it.
    assert_eq!(
        visit(&gateway, &client(&version::TLS13)),
        HandshakeKind::Full
    );
    gateway.await_metric(
        r#"herald_refused_total{cause="tls_handshakes_full"}"#,
        OVER as f64,
    );
    for stream in &mut begun[..OVER - 1] {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let young = begun.last_mut().unwrap();
    young.set_nonblocking(true).unwrap();
    let error = young.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

fn an_item_of_many_records_arrives_whole(engine: Engine) {
    let mut gateway = gateway(engine, |cfg| cfg.lanes_bytes = 4 << 20);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    let lengths = [1, 16_000, 16_384, 16_400, 70_000, 1_000_000];
    for (pos, length) in (1..).zip(lengths) {
        let text = format!(
            r#"{{"type":"notification","pad":"{}"}}"#,
            "x".repeat(length)
        );
        gateway.push(&item(pos, &text), &[conn]);
    }
    for length in lengths {
        let pad = client.hear_type("notification")["pad"]
            .as_str()
            .unwrap()
            .len();
        assert_eq!(pad, length);
    }
}
