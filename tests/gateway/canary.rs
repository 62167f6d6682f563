//! Our own canary: let in whatever the limits are, and counted nowhere.

use crate::{on_both_engines, support::*};
use herald::{
    config::Engine,
    gateway::mailbox::{CanarySaid, ConnId, FromCore, ToCore},
    ids::NotificationId,
    proto::session::Item,
};
use serde_json::json;
use std::{net::TcpStream, sync::Arc};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

on_both_engines!(
    a_canary_is_let_in_above_the_limits_and_counted_nowhere,
    a_canary_behind_a_trusted_address_sends_a_proxy_header,
    a_canary_acknowledges_probes_and_control_hears_it_apart_from_clients,
    a_drain_does_not_wait_for_the_canary,
    without_the_secret_of_this_start_nobody_is_a_canary,
);

/// From a port that control has named.
fn announced(gateway: &Gateway) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let pass = gateway.cores.canary();
    let any_port = std::net::SocketAddr::new(pass.ip(), 0);
    socket.bind(&any_port.into()).unwrap();
    let own = socket.local_addr().unwrap().as_socket().unwrap();
    pass.expect(own.port());
    socket.connect(&gateway.address().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn upgrade(gateway: &Gateway, stream: TcpStream, secret: &str) -> Option<WebSocket<TcpStream>> {
    let url = format!("ws://{}/ws/notifications", gateway.address());
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {secret}").parse().unwrap();
    request.headers_mut().insert("authorization", token);
    tungstenite::client(request, stream)
        .ok()
        .map(|(socket, _)| socket)
}

fn canary(gateway: &Gateway) -> WebSocket<TcpStream> {
    let secret = gateway.cores.canary().secret().expose().to_owned();
    let stream = announced(gateway);
    upgrade(gateway, stream, &secret).expect("it is let in")
}

/// The next word of the canary's connection.
fn said(gateway: &mut Gateway) -> (ConnId, CanarySaid) {
    gateway.expect("a word of the canary", |message| match message {
        FromCore::Canary { conn, said } => {
            let said = match said {
                CanarySaid::Acked(ids) => CanarySaid::Acked(ids.clone()),
                CanarySaid::Opened => CanarySaid::Opened,
                CanarySaid::Closed => CanarySaid::Closed,
            };
            Some((*conn, said))
        }
        _ => None,
    })
}

fn a_canary_is_let_in_above_the_limits_and_counted_nowhere(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.connections_soft = 1;
        cfg.connections_hard = 1;
    });
    let _client = gateway.connect("1");
    let (_, user, _) = gateway.opened();
    assert_eq!(user.as_str(), "1");
    let socket = canary(&gateway);
    let (conn, opened) = said(&mut gateway);
    assert_eq!(opened, CanarySaid::Opened);
    gateway.await_metric("herald_connections{core=\"0\"}", 1.0);
    assert_eq!(gateway.metric("herald_accepted_total"), 1.0);
    assert_eq!(
        gateway.metric("herald_opened_total{framing=\"websocket\"}"),
        1.0
    );
    drop(socket);
    assert_eq!(said(&mut gateway), (conn, CanarySaid::Closed));
    let metrics = gateway.metrics.render();
    let mut ends = metrics
        .lines()
        .filter(|line| line.starts_with("herald_closed_total{"));
    assert!(ends.all(|line| line.ends_with(" 0")), "{metrics}");
    assert!(!metrics.contains("herald_refused_total{"), "{metrics}");
}

fn a_canary_behind_a_trusted_address_sends_a_proxy_header(engine: Engine) {
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.proxy_trusted = vec!["127.0.0.0/8".into()];
    });
    let secret = gateway.cores.canary().secret().expose().to_owned();
    let mut stream = announced(&gateway);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    std::io::Write::write_all(&mut stream, local).unwrap();
    let _socket = upgrade(&gateway, stream, &secret).expect("it is let in");
    assert_eq!(said(&mut gateway).1, CanarySaid::Opened);
}

fn a_canary_acknowledges_probes_and_control_hears_it_apart_from_clients(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut socket = canary(&gateway);
    let (conn, _) = said(&mut gateway);
    let id = NotificationId::generate();
    gateway.push(&Arc::new(Item::probe(id)), &[conn]);
    let Message::Text(text) = socket.read().unwrap() else {
        panic!("no text");
    };
    let probe: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(probe, json!({ "type": "probe", "id": id.to_string() }));
    let ack = json!({ "type": "ack", "ids": [id.to_string()] });
    socket.send(Message::text(ack.to_string())).unwrap();
    assert_eq!(said(&mut gateway), (conn, CanarySaid::Acked(vec![id])));
    // A client's message is counted after it, the probe's never was.
    let mut client = gateway.connect("42");
    client.say(json!({ "type": "ping" }).to_string());
    gateway.await_metric("herald_received_total", 1.0);
    assert_eq!(gateway.metric("herald_received_total"), 1.0);
    assert_eq!(gateway.metric("herald_sent_total"), 0.0);
}

fn a_drain_does_not_wait_for_the_canary(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut socket = canary(&gateway);
    let (conn, _) = said(&mut gateway);
    gateway.send(0, ToCore::Leave(true));
    let evict = ToCore::Evict {
        clients: 5,
        back_within_ms: 0,
    };
    gateway.send(0, evict);
    gateway.expect("Drained", |message| {
        matches!(message, FromCore::Drained { core: 0 }).then_some(())
    });
    // It was not asked to leave either: it goes on answering.
    gateway.push(&Arc::new(Item::probe(NotificationId::generate())), &[conn]);
    assert!(matches!(socket.read().unwrap(), Message::Text(_)));
}

fn without_the_secret_of_this_start_nobody_is_a_canary(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let stream = announced(&gateway);
    assert!(upgrade(&gateway, stream, &"0".repeat(64)).is_none());
    // The secret from another port is no token.
    let secret = gateway.cores.canary().secret().expose().to_owned();
    gateway.cores.canary().expect(0);
    let headers = [("authorization", format!("Bearer {secret}"))];
    let refused = Client::connect(gateway.address(), "/ws/notifications", &headers);
    assert_eq!(refused.err(), Some(401));
    let told = gateway.told();
    assert!(told.is_empty(), "{told:?}");
}
