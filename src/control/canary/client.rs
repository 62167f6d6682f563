//! The canary's connections: through the client port, as any client's, one to each core.

use super::Canary;
use crate::{
    control::host::Host,
    gateway::Cores,
    limits,
    proto::{proxy_header::Trusted, upgrade::SUBPROTOCOL},
};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use std::{io, net::SocketAddr, sync::Arc};
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, ClientRequestBuilder, Message, http::Uri, protocol::WebSocketConfig},
};

/// A PROXY header of version 2 by which a balancer speaks for itself: there is no client behind it.
const PROXY_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[derive(Debug, Error)]
enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] tungstenite::Error),
    #[error("no answer within {} s", limits::CANARY_CONNECT.as_secs())]
    Late,
}

/// Opens connections until every core has one, and again when one is lost. Runs until dropped.
pub async fn keep_connections(host: Arc<Host>) {
    let mut open = JoinSet::new();
    let mut pause = limits::CANARY_RECONNECT_MIN;
    loop {
        while open.try_join_next().is_some() {}
        if host.canary.state.lock().is_complete() {
            host.canary.missing.notified().await;
            pause = limits::CANARY_RECONNECT_MIN;
        }
        // Newcomers are refused then; what was open stays so.
        if !host.is_draining() {
            match connect(&host).await {
                Ok(socket) => drop(open.spawn(answer(socket))),
                Err(error) => refused(&host.canary, &error),
            }
        }
        // Which core a connection meets is the kernel's dice; with many cores most throws are in vain.
        tokio::time::sleep(pause).await;
        pause = (pause * 11 / 10).min(limits::CANARY_RECONNECT_MAX);
    }
}

fn refused(canary: &Canary, error: &ConnectError) {
    tracing::debug!(%error, "the canary can't connect");
    canary.state.lock().legs.refused();
}

async fn connect(host: &Host) -> Result<WebSocketStream<TcpStream>, ConnectError> {
    let cores = host.outboxes.link();
    let opened = tokio::time::timeout(limits::CANARY_CONNECT, open(host, cores)).await;
    cores.canary().expect(0);
    opened.unwrap_or(Err(ConnectError::Late))
}

async fn open(host: &Host, cores: &Cores) -> Result<WebSocketStream<TcpStream>, ConnectError> {
    let pass = cores.canary();
    let address = SocketAddr::new(pass.ip(), cores.local_addr().port());
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(pass.ip(), 0))?;
    pass.expect(socket.local_addr()?.port());
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let trusted = Trusted::new(&host.gateway().proxy_trusted);
    if trusted.is_ok_and(|trusted| trusted.contains(pass.ip())) {
        stream.write_all(PROXY_LOCAL).await?;
    }
    let uri: Uri = format!("ws://{address}/ws/notifications")
        .parse()
        .expect("an address makes a URI");
    let request = ClientRequestBuilder::new(uri)
        .with_sub_protocol(SUBPROTOCOL)
        .with_header(
            "authorization",
            format!("Bearer {}", pass.secret().expose()),
        );
    let config = WebSocketConfig::default().read_buffer_size(limits::CANARY_BUFFER_BYTES);
    let (socket, _) =
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
    Ok(socket)
}

/// What the canary looks at in a frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<&'a str>,
}

/// Acknowledges probes until the connection ends.
async fn answer(mut socket: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        if let Ok(Frame {
            kind: "probe",
            id: Some(id),
        }) = serde_json::from_str(&text)
        {
            let ack = json!({ "type": "ack", "ids": [id] });
            if socket.send(Message::text(ack.to_string())).await.is_err() {
                return;
            }
        }
    }
}
