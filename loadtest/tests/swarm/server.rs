//! A small server that speaks the protocol by the book, and breaks it where a test asks for that.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};
use tungstenite::{
    Message, WebSocket,
    handshake::server::{Request, Response},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

pub const SECRET: &str = "swarm's own test secret, long enough";
const STREAM: &str = "user:test";

/// Shared by everything that serves one address.
#[derive(Default)]
pub struct World {
    users: BTreeMap<String, User>,
    /// (user, id) acknowledged by a device, as often as it was.
    pub acknowledged: Vec<(String, String)>,
    /// What clients presented when they connected.
    pub presented: Vec<Option<String>>,
    /// Clients that were new and were told where the stream stands.
    pub first_syncs: usize,
    /// Numbers of posts that are accepted and never delivered.
    pub lost_posts: BTreeSet<u64>,
    /// Numbers of posts that reach everybody, whoever they are for.
    pub stray_posts: BTreeSet<u64>,
    /// Posts are read and never answered; where they came from.
    pub never_answers: bool,
    pub unanswered: Vec<TcpStream>,
}

#[derive(Default)]
struct User {
    items: Vec<Value>,
    connections: Vec<Sender<Event>>,
}

enum Event {
    Say(Value),
    Close(u16),
}

#[derive(Clone)]
pub struct Server {
    pub address: String,
    pub world: Arc<Mutex<World>>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Server {
            address: listener.local_addr().expect("bound").to_string(),
            world: Arc::default(),
        };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                // A broken connection ends its thread; the client's side is what is tested.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        server
    }

    /// Stores a notification for a user; `live` also pushes it.
    pub fn send(&self, user: &str, live: bool, data: Value) {
        let mut world = self.world.lock().expect("no panics");
        let user = world.users.entry(user.into()).or_default();
        let prev = user.items.last().map_or(0, |item| position(item, "pos"));
        let item = json!({
            "type": "notification", "id": uuid::Uuid::now_v7().to_string(), "stream": STREAM,
            "pos": prev + 3, "prev": prev, "priority": "normal", "created_at": 1,
            "notification_type": "test", "data": data,
        });
        user.items.push(item.clone());
        if live {
            user.tell(|| Event::Say(item.clone()));
        }
    }

    /// Pushes the newest item once more.
    pub fn repeat(&self, user: &str) {
        let mut world = self.world.lock().expect("no panics");
        let user = world.users.get_mut(user).expect("known");
        let item = user.items.last().expect("there is one").clone();
        user.tell(|| Event::Say(item.clone()));
    }

    pub fn close(&self, user: &str, code: u16) {
        let mut world = self.world.lock().expect("no panics");
        let user = world.users.get_mut(user).expect("known");
        user.tell(|| Event::Close(code));
        user.connections.clear();
    }

    /// Waits until a condition of the world holds.
    pub fn wait(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !holds(&self.world.lock().expect("no panics")) {
            assert!(std::time::Instant::now() < deadline, "never: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut start = [0; 16];
        while stream.peek(&mut start)? < start.len() {
            thread::sleep(Duration::from_millis(1));
        }
        if start.starts_with(b"GET /ws") {
            self.serve_websocket(stream);
            return Ok(());
        }
        self.serve_http(stream)
    }

    // ── WebSocket ──────────────────────────────────────────────────────────────────────────────

    #[expect(
        clippy::result_large_err,
        reason = "the callback's type is tungstenite's"
    )]
    fn serve_websocket(&self, stream: TcpStream) {
        let (mut user, mut cursors) = (None, None);
        let read_head = |request: &Request, response: Response| {
            let token = request.headers().get("authorization");
            user = token.and_then(|token| subject(token.to_str().ok()?));
            let query = request.uri().query().unwrap_or_default();
            let mut pairs = query.split('&');
            let presented = pairs.find_map(|pair| pair.strip_prefix("cursors="));
            cursors = presented.map(str::to_owned);
            Ok(response)
        };
        let Ok(mut socket) = tungstenite::accept_hdr(stream, read_head) else {
            return;
        };
        let user = user.expect("a valid token");
        let wait = Some(Duration::from_millis(5));
        socket.get_ref().set_read_timeout(wait).expect("a timeout");
        let cursor = cursors.as_deref().map(|text| text.replace("%3D", "="));
        let cursor = cursor.and_then(|text| text.rsplit_once('=')?.1.parse().ok());
        self.world
            .lock()
            .expect("no panics")
            .presented
            .push(cursors);
        let events = self.connect(&user);
        let mut opening = vec![welcome()];
        opening.extend(cursor.map(|cursor| self.sync(&user, Some(cursor))));
        for frame in opening {
            let _ = socket.send(Message::text(frame.to_string()));
        }
        while self.turn(&user, &mut socket, &events).is_some() {}
    }

    fn turn(
        &self,
        user: &str,
        socket: &mut WebSocket<TcpStream>,
        events: &Receiver<Event>,
    ) -> Option<()> {
        for event in events.try_iter() {
            match event {
                Event::Say(frame) => socket.send(Message::text(frame.to_string())).ok()?,
                Event::Close(code) => {
                    let frame = CloseFrame {
                        code: CloseCode::from(code),
                        reason: "".into(),
                    };
                    socket.close(Some(frame)).ok()?;
                }
            }
        }
        match socket.read() {
            Ok(Message::Text(text)) => {
                if let Some(answer) = self.answer(user, &text) {
                    socket.send(Message::text(answer.to_string())).ok()?;
                }
                Some(())
            }
            Ok(_) => Some(()),
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => Some(()),
            Err(_) => None,
        }
    }

    fn connect(&self, user: &str) -> Receiver<Event> {
        let (sender, receiver) = channel();
        let mut world = self.world.lock().expect("no panics");
        let user = world.users.entry(user.into()).or_default();
        user.connections.push(sender);
        receiver
    }

    fn answer(&self, user: &str, text: &str) -> Option<Value> {
        let message: Value = serde_json::from_str(text).expect("a client writes JSON");
        match message["type"].as_str().expect("a type") {
            "ack" => {
                let ids = message["ids"].as_array().expect("ids");
                let ids = ids.iter().map(|id| id.as_str().expect("text").to_owned());
                let mut world = self.world.lock().expect("no panics");
                world
                    .acknowledged
                    .extend(ids.map(|id| (user.to_owned(), id)));
                None
            }
            "sync" => Some(self.sync(user, message["cursors"][STREAM].as_u64())),
            "ping" => Some(json!({"type": "pong"})),
            other => panic!("a client said {other}"),
        }
    }

    fn sync(&self, user: &str, after: Option<u64>) -> Value {
        let mut world = self.world.lock().expect("no panics");
        world.first_syncs += usize::from(after.is_none());
        let items = world.users.get(user).map_or(&[][..], |user| &user.items);
        let head = items.last().map_or(0, |item| position(item, "pos"));
        let from = after.unwrap_or(0);
        let items: Vec<_> = items.iter().filter(|i| position(i, "pos") > from).collect();
        json!({
            "type": "sync", "items": items, "range": {STREAM: {"from": from, "to": head}},
            "cursors": {STREAM: head}, "recovered": true, "has_more": false,
        })
    }

    // ── HTTP: events, the posts beside them, and a dispatcher's door ───────────────────────────

    fn serve_http(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let (head, body) = read_request(&mut stream)?;
            let header = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim().to_owned())
            };
            let user = header("Authorization:").and_then(|token| subject(&token));
            let target = head.split(' ').nth(1).unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            let (status, answer) = match (path, user) {
                ("/sse/notifications", Some(user)) => {
                    return self.serve_events(stream, &user, header("Last-Event-ID:"));
                }
                ("/sse/ack" | "/sse/sync", Some(user)) => match self.answer(&user, &body) {
                    Some(answer) => ("200 OK", answer.to_string()),
                    None => ("204 No Content", String::new()),
                },
                _ => {
                    let mut world = self.world.lock().expect("no panics");
                    if world.never_answers {
                        world.unanswered.push(stream);
                        return Ok(());
                    }
                    drop(world);
                    self.take_post(&body);
                    ("202 Accepted", json!({"id": "x"}).to_string())
                }
            };
            let length = answer.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{answer}"
            )?;
        }
    }

    fn take_post(&self, body: &str) {
        let body: Value = serde_json::from_str(body).expect("JSON");
        let data = body["data"].clone();
        let n = data["n"].as_u64().expect("a number");
        if self
            .world
            .lock()
            .expect("no panics")
            .lost_posts
            .contains(&n)
        {
            return;
        }
        let strays = self
            .world
            .lock()
            .expect("no panics")
            .stray_posts
            .contains(&n);
        match body["target"]["user"].as_str() {
            Some(user) if !strays => self.send(user, true, data),
            _ => {
                let world = self.world.lock().expect("no panics");
                let users: Vec<_> = world.users.keys().cloned().collect();
                drop(world);
                for user in users {
                    self.send(&user, true, data.clone());
                }
            }
        }
    }

    fn serve_events(
        &self,
        mut stream: TcpStream,
        user: &str,
        presented: Option<String>,
    ) -> io::Result<()> {
        let cursor = presented.as_deref().and_then(|text| text.rsplit_once('='));
        let cursor = cursor.and_then(|(_, at)| at.parse().ok());
        self.world
            .lock()
            .expect("no panics")
            .presented
            .push(presented);
        let events = self.connect(user);
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        // Nothing else than a sync can tell where the stream stands: it comes without cursors, too.
        for frame in [welcome(), self.sync(user, cursor)] {
            write_chunk(&mut stream, &format!("data: {frame}\n\n"))?;
        }
        for event in events {
            match event {
                Event::Say(frame) => write_chunk(&mut stream, &format!("data: {frame}\n\n"))?,
                Event::Close(code) => {
                    let last = json!({"type": "close", "code": code, "reason": ""});
                    let last = format!("event: close\ndata: {last}\n\n");
                    return write_chunk(&mut stream, &last);
                }
            }
        }
        Ok(())
    }
}

impl User {
    fn tell(&mut self, event: impl Fn() -> Event) {
        self.connections
            .retain(|connection| connection.send(event()).is_ok());
    }
}

fn position(item: &Value, field: &str) -> u64 {
    item[field].as_u64().expect("a position")
}

fn welcome() -> Value {
    json!({"type": "welcome", "connection": "c", "heartbeat_ms": 1_000,
        "slot": {"after_ms_min": 1, "after_ms_max": 50}})
}

fn subject(bearer: &str) -> Option<String> {
    let token = bearer.strip_prefix("Bearer ")?;
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    let claims = jsonwebtoken::decode::<Value>(token, &key, &Validation::new(Algorithm::HS256));
    Some(claims.ok()?.claims["sub"].as_str()?.to_owned())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn write_chunk(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

pub fn read_request(stream: &mut TcpStream) -> io::Result<(String, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..length]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse::<usize>().ok())?
        });
        let body = &bytes[end + 4..];
        if body.len() >= length.unwrap_or(0) {
            return Ok((head, String::from_utf8_lossy(body).into_owned()));
        }
    }
}
