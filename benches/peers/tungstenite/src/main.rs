//! A push server as one writes it on tokio-tungstenite: a task per connection, which waits for its queue and its socket,
//! and a table of the queues.
//!
//! `push-tungstenite CLIENTS POSTS`: WebSocket clients at the first address, whose path ends with their number; at the
//! second, by HTTP, `POST /USER` and `POST /all` give everybody concerned the body as a text.
//!
//! Tuned as the library's documentation advises: a read buffer of 4 KiB, which it names for many connections that say
//! little (128 KiB otherwise), no gathering of writes, and a text whose bytes all connections share. A client that lets
//! its queue fill gets nothing more, and is closed when it has read what waits.

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use futures::{SinkExt, StreamExt};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::server::{Request, Response},
        protocol::WebSocketConfig,
    },
};

/// Texts that wait for one client.
const QUEUE: usize = 256;
const READ_BYTES: usize = 4096;
const BACKLOG: u32 = 4096;

/// Queues of all who are connected, by their number.
type Clients = Arc<Mutex<HashMap<u32, mpsc::Sender<Utf8Bytes>>>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut addresses = std::env::args().skip(1);
    let mut address = || -> Result<SocketAddr> {
        let text = addresses.next();
        Ok(text
            .context("usage: push-tungstenite CLIENTS POSTS")?
            .parse()?)
    };
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address()?)?;
    let listener = socket.listen(BACKLOG)?;
    let posts = TcpListener::bind(address()?).await?;
    let clients = Clients::default();
    let router = Router::new()
        .route("/{target}", post(push))
        .with_state(Arc::clone(&clients));
    tokio::spawn(async { axum::serve(posts, router).await });
    loop {
        let (stream, _) = listener.accept().await?;
        let clients = Arc::clone(&clients);
        // A connection that fails concerns nobody else.
        tokio::spawn(async move { drop(serve(stream, &clients).await) });
    }
}

#[expect(
    clippy::result_large_err,
    reason = "the callback's type is tungstenite's"
)]
async fn serve(stream: TcpStream, clients: &Clients) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut user = None;
    let read_path = |request: &Request, response: Response| {
        let last = request.uri().path().rsplit('/').next();
        user = last.and_then(|text| text.parse().ok());
        Ok(response)
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0);
    let socket = accept_hdr_async_with_config(stream, read_path, Some(config)).await?;
    let user = user.context("a path that ends with a number")?;
    let (sender, mut queue) = mpsc::channel(QUEUE);
    clients.lock().expect("no panics").insert(user, sender);
    let (mut to_client, mut from_client) = socket.split();
    loop {
        tokio::select! {
            text = queue.recv() => match text {
                Some(text) => to_client.send(Message::Text(text)).await?,
                None => break,
            },
            // Pings are answered by the library.
            said = from_client.next() => match said {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
        }
    }
    drop(queue);
    let mut clients = clients.lock().expect("no panics");
    // It may have come again meanwhile.
    if clients.get(&user).is_some_and(mpsc::Sender::is_closed) {
        clients.remove(&user);
    }
    Ok(())
}

async fn push(
    State(clients): State<Clients>,
    Path(target): Path<String>,
    text: String,
) -> StatusCode {
    let text = Utf8Bytes::from(text);
    let mut clients = clients.lock().expect("no panics");
    if target == "all" {
        clients.retain(|_, queue| queue.try_send(text.clone()).is_ok());
        return StatusCode::NO_CONTENT;
    }
    let queue = target.parse().ok().and_then(|user: u32| clients.get(&user));
    match queue.map(|queue| queue.try_send(text)) {
        Some(Ok(())) => StatusCode::NO_CONTENT,
        _ => StatusCode::NOT_FOUND,
    }
}
