//! What a device gets by `sync` that has seen nothing of it: the second half of "acknowledged, or in the inbox
//! and returned by `sync`", by the client's own protocol and the way clients take.

use crate::{accounting::Accounts, inbox::Inbox};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use testbed::Fleet;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// Connections at once.
const AT_ONCE: usize = 8;
/// Beside those with something unacknowledged, every so manyth user is asked for.
const EVERY: usize = 20;
/// For all pages of one user.
const WITHIN: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// By user: what came, or why it did not.
pub type Returned = BTreeMap<String, Result<BTreeSet<String>, String>>;

pub async fn by_sync(fleet: &Fleet, port: u16, accounts: &Accounts) -> Returned {
    let open = accounts.unacknowledged.iter().map(|(_, user)| user.clone());
    let some = accounts.inboxes.all().step_by(EVERY);
    let users: BTreeSet<String> = open.chain(some.map(|(user, _)| user.clone())).collect();
    let asked = futures::stream::iter(users).map(async |user| {
        let (token, inbox) = (fleet.token(&user), accounts.inboxes.of(&user));
        let asking = all_after_the_start(port, &token, inbox);
        let got = tokio::time::timeout(WITHIN, asking).await;
        let got = got.unwrap_or_else(|_| Err("no complete answer in time".to_owned()));
        (user, got)
    });
    asked.buffer_unordered(AT_ONCE).collect().await
}

/// Page by page, from before the first row of each stream.
async fn all_after_the_start(
    port: u16,
    token: &str,
    inbox: &Inbox,
) -> Result<BTreeSet<String>, String> {
    let mut socket = connect(port, token).await?;
    let streams = inbox.heads.keys().map(|stream| (stream.clone(), json!(0)));
    let mut cursors = Value::Object(streams.collect());
    let mut ids = BTreeSet::new();
    loop {
        let frame = next_frame(&mut socket).await?;
        match frame["type"].as_str() {
            Some("welcome") => {}
            Some("sync") if frame["recovered"] == true => {
                let items = frame["items"].as_array().expect("a list").iter();
                ids.extend(items.filter_map(|item| item["id"].as_str().map(str::to_owned)));
                if frame["has_more"] != true {
                    return Ok(ids);
                }
                cursors = frame["cursors"].clone();
            }
            Some("sync" | "error") => return Err(frame.to_string()),
            _ => continue,
        }
        let sync = json!({ "type": "sync", "cursors": cursors, "limit": 50 });
        let sent = socket.send(Message::text(sync.to_string())).await;
        sent.map_err(|error| error.to_string())?;
    }
}

async fn connect(port: u16, token: &str) -> Result<Socket, String> {
    let url = format!("ws://127.0.0.1:{port}/ws/notifications");
    let mut request = url.into_client_request().expect("an address");
    let protocols = format!("herald.v1, bearer.{token}").parse();
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", protocols.expect("a header"));
    let connected = connect_async(request).await;
    Ok(connected.map_err(|error| error.to_string())?.0)
}

async fn next_frame(socket: &mut Socket) -> Result<Value, String> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection ended".to_owned()),
        }
    }
}
