//! A client that follows the protocol's rules, on an independent WebSocket implementation: contiguous
//! cursors, sync on a hole that lasts, resume after a break, an acknowledgement for each item, repeats
//! counted but not shown.

use futures::{SinkExt, StreamExt};
use herald::position::{ContiguousCursor, Position};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

/// A hole that lasts this long asks for a sync.
const HOLE_PATIENCE: Duration = Duration::from_millis(300);
/// Shorter than a real client's, so that tests are quick.
const COME_BACK: Duration = Duration::from_millis(200);

/// Plain, or TLS.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Socket = WebSocketStream<Box<dyn Transport>>;

/// What one device saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Notifications by id, with how often the wire brought each.
    pub times: BTreeMap<String, u32>,
    /// How often each came as a live `notification` frame (not by sync).
    pub live: BTreeMap<String, u32>,
    pub titles: BTreeMap<String, String>,
    pub read: BTreeSet<String>,
    /// Those of which a live `read` frame told (not a sync).
    pub read_live: BTreeSet<String>,
    pub connects: u32,
    pub syncs: u32,
    /// What the last sync said.
    pub recovered: Option<bool>,
    pub close_codes: Vec<u16>,
    /// Where it is or was last connected.
    pub url: String,
    pub open: bool,
}

#[derive(Default)]
struct Streams {
    cursors: BTreeMap<String, ContiguousCursor>,
}

/// Where a client shows its token.
#[derive(Clone, Copy)]
enum Shows {
    /// In the list of subprotocols, as a browser does.
    Protocol,
    /// By `?token=`, for clients that can't set a header.
    Address,
}

/// What a test wants of a client.
enum Order {
    Say(Value),
    /// Break the connection, and come back at the next address.
    Move,
}

pub struct Client {
    pub seen: Arc<Mutex<Seen>>,
    streams: Arc<Mutex<Streams>>,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
}

impl Client {
    /// Connects to the first of `urls` that takes it, for ever, until dropped.
    pub fn start(urls: Vec<String>, token: String) -> Client {
        Client::run(urls, token, Shows::Protocol, None)
    }

    /// As [`Client::start`], with the token in the address.
    pub fn start_by_address(urls: Vec<String>, token: String) -> Client {
        Client::run(urls, token, Shows::Address, None)
    }

    /// By TLS, to addresses of `wss://`.
    pub fn start_by_tls(urls: Vec<String>, token: String, config: ClientConfig) -> Client {
        let connector = TlsConnector::from(Arc::new(config));
        Client::run(urls, token, Shows::Protocol, Some(connector))
    }

    fn run(urls: Vec<String>, token: String, shows: Shows, tls: Option<TlsConnector>) -> Client {
        let (seen, streams) = (
            Arc::<Mutex<Seen>>::default(),
            Arc::<Mutex<Streams>>::default(),
        );
        let (orders, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        let device = Device {
            seen: seen.clone(),
            streams: streams.clone(),
            token,
            shows,
            tls,
        };
        let task = tokio::spawn(async move {
            for turn in 0.. {
                let url = &urls[turn % urls.len()];
                device.live_once(url, &mut inbox).await;
                device.seen.lock().unwrap().open = false;
                tokio::time::sleep(COME_BACK).await;
            }
        });
        Client {
            seen,
            streams,
            orders,
            task,
        }
    }

    /// Sends a frame of the test's own.
    pub fn send(&self, frame: Value) {
        self.orders
            .send(Order::Say(frame))
            .expect("the client runs");
    }

    /// Breaks the connection without a word; it comes back at the next address.
    pub fn move_on(&self) {
        self.orders.send(Order::Move).expect("the client runs");
    }

    pub fn cursors(&self) -> BTreeMap<String, Position> {
        let streams = self.streams.lock().unwrap();
        streams
            .cursors
            .iter()
            .map(|(name, cursor)| (name.clone(), cursor.position()))
            .collect()
    }

    pub fn has_hole(&self) -> bool {
        self.streams
            .lock()
            .unwrap()
            .cursors
            .values()
            .any(ContiguousCursor::has_hole)
    }

    /// Live, as soon as another device has read it.
    pub fn was_told_of_read(&self, id: &str) -> bool {
        self.seen.lock().unwrap().read_live.contains(id)
    }

    pub fn is_open(&self) -> bool {
        self.seen.lock().unwrap().open
    }

    /// How often the wire brought this id live.
    pub fn live(&self, id: &str) -> u32 {
        self.seen.lock().unwrap().live.get(id).copied().unwrap_or(0)
    }

    /// How often the wire brought this id.
    pub fn times(&self, id: &str) -> u32 {
        self.seen
            .lock()
            .unwrap()
            .times
            .get(id)
            .copied()
            .unwrap_or(0)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Device {
    seen: Arc<Mutex<Seen>>,
    streams: Arc<Mutex<Streams>>,
    token: String,
    shows: Shows,
    tls: Option<TlsConnector>,
}

impl Device {
    async fn live_once(&self, url: &str, orders: &mut tokio::sync::mpsc::UnboundedReceiver<Order>) {
        let Some(mut socket) = self.connect(url).await else {
            return;
        };
        self.seen.lock().unwrap().url = url.to_owned();
        let mut hole_since: Option<Instant> = None;
        let mut sync_due: Option<Instant> = None;
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        loop {
            let outgoing = tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.take(&text, &mut sync_due),
                    Some(Ok(Message::Close(frame))) => {
                        let code = frame.map_or(1005, |frame| frame.code.into());
                        self.seen.lock().unwrap().close_codes.push(code);
                        continue;
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return,
                },
                Some(order) = orders.recv() => match order {
                    Order::Say(frame) => vec![frame],
                    Order::Move => return,
                },
                _ = clock.tick() => self.look_for_holes(&mut hole_since, &mut sync_due),
            };
            for frame in outgoing {
                if socket.send(Message::text(frame.to_string())).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn connect(&self, url: &str) -> Option<Socket> {
        let (address, protocols) = match self.shows {
            Shows::Protocol => (url.to_owned(), format!("herald.v1, bearer.{}", self.token)),
            Shows::Address => (
                format!("{url}?token={}", self.token),
                "herald.v1".to_owned(),
            ),
        };
        let mut request = address.into_client_request().expect("a valid address");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocols.parse().unwrap());
        let address = request.uri().authority().expect("an address").to_string();
        let connecting = async {
            let stream = self.reach(&address).await.ok()?;
            let upgraded = tokio_tungstenite::client_async(request, stream).await;
            upgraded.ok().map(|(socket, _)| socket)
        };
        tokio::time::timeout(Duration::from_secs(10), connecting)
            .await
            .ok()?
    }

    async fn reach(&self, address: &str) -> std::io::Result<Box<dyn Transport>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = stream.peer_addr()?.ip().into();
        Ok(Box::new(tls.connect(name, stream).await?))
    }

    /// One frame from the server; answers with the frames to send.
    fn take(&self, text: &str, sync_due: &mut Option<Instant>) -> Vec<Value> {
        let frame: Value = serde_json::from_str(text).expect("the server sends JSON");
        let mut acknowledge = Vec::new();
        match frame["type"].as_str().unwrap_or_default() {
            "welcome" => {
                let mut seen = self.seen.lock().unwrap();
                seen.open = true;
                seen.connects += 1;
                return vec![self.sync()];
            }
            "notification" | "read" => self.item(&frame, true, &mut acknowledge),
            "sync" => {
                self.synced(&frame, &mut acknowledge);
                if frame["has_more"] == true {
                    return vec![json!({ "type": "ack", "ids": acknowledge }), self.sync()];
                }
            }
            "gap" => match frame["cause"].as_str() {
                Some("collapsed" | "expired") => {
                    let mut streams = self.streams.lock().unwrap();
                    let stream = frame["stream"].as_str().unwrap().to_owned();
                    let cursor = streams.cursors.entry(stream).or_default();
                    cursor.cover(position(&frame["from"]), position(&frame["to"]));
                }
                _ => {
                    let wait = Duration::from_millis(frame["sync_after_ms"].as_u64().unwrap_or(0));
                    *sync_due = Some(Instant::now() + wait);
                }
            },
            _ => {}
        }
        match acknowledge.is_empty() {
            true => Vec::new(),
            false => vec![json!({ "type": "ack", "ids": acknowledge })],
        }
    }

    fn item(&self, item: &Value, live: bool, acknowledge: &mut Vec<String>) {
        let mut streams = self.streams.lock().unwrap();
        let stream = item["stream"]
            .as_str()
            .expect("an item names its stream")
            .to_owned();
        let cursor = streams.cursors.entry(stream).or_default();
        cursor.advance(position(&item["prev"]), position(&item["pos"]));
        drop(streams);
        let mut seen = self.seen.lock().unwrap();
        if item["type"] == "read" {
            let ids = item["ids"].as_array().expect("a list");
            let ids = ids.iter().filter_map(Value::as_str).map(str::to_owned);
            let ids: Vec<String> = ids.collect();
            if live {
                seen.read_live.extend(ids.iter().cloned());
            }
            seen.read.extend(ids);
            return;
        }
        let id = item["id"].as_str().expect("an id").to_owned();
        *seen.times.entry(id.clone()).or_default() += 1;
        if live {
            *seen.live.entry(id.clone()).or_default() += 1;
        }
        let title = item["title"].as_str().unwrap_or_default().to_owned();
        seen.titles.insert(id.clone(), title);
        acknowledge.push(id);
    }

    fn synced(&self, frame: &Value, acknowledge: &mut Vec<String>) {
        for item in frame["items"].as_array().expect("a list") {
            self.item(item, false, acknowledge);
        }
        let recovered = frame["recovered"] == true;
        let mut streams = self.streams.lock().unwrap();
        for (stream, range) in frame["range"].as_object().expect("a map") {
            let cursor = streams.cursors.entry(stream.clone()).or_default();
            cursor.cover(position(&range["from"]), position(&range["to"]));
        }
        for (stream, at) in frame["cursors"].as_object().expect("a map") {
            let cursor = streams.cursors.entry(stream.clone()).or_default();
            let at = position(at);
            if !recovered || cursor.position() == Position::START {
                let from = cursor.position();
                cursor.cover(from, at);
            }
        }
        let mut seen = self.seen.lock().unwrap();
        seen.syncs += 1;
        seen.recovered = Some(recovered);
    }

    fn look_for_holes(
        &self,
        hole_since: &mut Option<Instant>,
        sync_due: &mut Option<Instant>,
    ) -> Vec<Value> {
        let now = Instant::now();
        let hole = {
            let streams = self.streams.lock().unwrap();
            streams.cursors.values().any(ContiguousCursor::has_hole)
        };
        if !hole {
            *hole_since = None;
        } else if now - *hole_since.get_or_insert(now) > HOLE_PATIENCE {
            *hole_since = None;
            return vec![self.sync()];
        }
        if sync_due.is_some_and(|due| due <= now) {
            *sync_due = None;
            return vec![self.sync()];
        }
        Vec::new()
    }

    fn sync(&self) -> Value {
        let streams = self.streams.lock().unwrap();
        let known = streams
            .cursors
            .iter()
            .filter(|(_, cursor)| cursor.position() > Position::START);
        let cursors: BTreeMap<_, _> = known
            .map(|(name, cursor)| (name, cursor.position()))
            .collect();
        json!({ "type": "sync", "cursors": cursors })
    }
}

fn position(value: &Value) -> Position {
    Position::from_wire(value.as_u64().expect("a position")).expect("a position")
}
