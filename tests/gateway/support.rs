//! A gateway with the test in control's place, and clients for it.

use crate::stream::{CERTIFICATES, is_by_tls};
use arc_swap::ArcSwap;
use herald::{
    auth::{Verifier, mint_hs256, mint_hs256_at},
    config::{self, Engine, Secret},
    envelope::{Kind, Priority},
    gateway::{
        self, Cores, Inbox, Tls,
        mailbox::{ConnId, Delivery, FromCore, ToCore},
    },
    ids::{NotificationId, UserId},
    metrics::Metrics,
    position::{Cursors, Position},
    proto::session::{Item, Ticket},
};
use smallvec::SmallVec;
use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tungstenite::{Message, WebSocket, client::IntoClientRequest, protocol::CloseFrame};

const SECRET: &str = "a secret of this test, long enough";
/// Nothing here takes that long unless it never happens.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub use crate::stream::Stream;

pub struct Gateway {
    pub cores: Cores,
    /// Where a test's clients come by TLS.
    pub tls: Option<Arc<Tls>>,
    pub metrics: Metrics,
    inbox: Inbox,
    told: VecDeque<FromCore>,
    tickets: Ticket,
}

impl Gateway {
    pub fn start(engine: Engine) -> Gateway {
        Gateway::with(engine, |_| {})
    }

    pub fn with(engine: Engine, adapt: impl FnOnce(&mut config::Gateway)) -> Gateway {
        Gateway::with_conformance(engine, adapt, false)
    }

    pub fn with_conformance(
        engine: Engine,
        adapt: impl FnOnce(&mut config::Gateway),
        echo: bool,
    ) -> Gateway {
        let tls = config::Tls {
            certificate_file: Some(CERTIFICATES.file("gateway.pem")),
            key_file: Some(CERTIFICATES.file("gateway.key")),
            ticket_keys_file: None,
        };
        Gateway::with_tls(engine, adapt, echo, &tls)
    }

    /// With this certificate, where the test runs by TLS.
    pub fn with_tls(
        engine: Engine,
        adapt: impl FnOnce(&mut config::Gateway),
        echo: bool,
        tls: &config::Tls,
    ) -> Gateway {
        let mut cfg = config::Gateway {
            listen: ([127, 0, 0, 1], 0).into(),
            tls_listen: is_by_tls().then(|| ([127, 0, 0, 1], 0).into()),
            cores: 1,
            engine,
            pin: false,
            accepts_per_s: 100_000,
            ..config::Gateway::default()
        };
        adapt(&mut cfg);
        let metrics = Metrics::default();
        let verifier = Arc::new(ArcSwap::from_pointee(Verifier::hs256(&secret())));
        let conformance = config::Conformance { echo };
        let region = "local".parse().unwrap();
        let tls = Tls::from_config(&cfg, tls, &metrics).unwrap();
        let kept = tls.clone();
        let (cores, inbox) =
            gateway::start(&cfg, conformance, verifier, kept, &region, &metrics).unwrap();
        let gateway = Gateway {
            cores,
            tls,
            metrics,
            inbox,
            told: VecDeque::new(),
            tickets: 0,
        };
        let name = match engine {
            Engine::Uring => "uring",
            _ => "epoll",
        };
        let claimed = format!("herald_engine{{engine=\"{name}\"}}");
        assert_eq!(gateway.metric(&claimed), 1.0, "it is the engine asked for");
        gateway
    }

    /// Where the test's clients connect.
    pub fn address(&self) -> SocketAddr {
        let tls = self.cores.tls_addr();
        tls.unwrap_or_else(|| self.cores.local_addr())
    }

    /// A sample of the metrics, by its name with labels; 0 when there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let sample = text.lines().find_map(|line| line.strip_prefix(name));
        sample.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Waits until a metric has reached a value (cores publish once per tick).
    pub fn await_metric(&self, name: &str, at_least: f64) {
        let from = Instant::now();
        while self.metric(name) < at_least {
            assert!(
                from.elapsed() < DEADLINE,
                "{name}\n{}",
                self.metrics.render()
            );
            std::thread::yield_now();
        }
    }

    /// Waits until no client socket is held any more.
    pub fn await_gone(&self) {
        let from = Instant::now();
        while self.metric("herald_connections{core=\"0\"}") > 0.0 {
            assert!(from.elapsed() < DEADLINE, "a connection stays");
            std::thread::yield_now();
        }
    }

    pub fn send(&self, core: u16, message: ToCore) {
        self.cores.send(core, message).unwrap();
        self.cores.ring(core);
    }

    /// What the cores have told that nobody has asked for yet.
    fn hear(&mut self) {
        let mut messages = Vec::new();
        if self.inbox.take(&mut messages) == 0 {
            std::thread::yield_now();
        }
        self.told.extend(messages);
    }

    /// All that was told and not asked for, in order.
    pub fn told(&mut self) -> Vec<FromCore> {
        self.hear();
        self.told.drain(..).collect()
    }

    /// The first message that `wanted` takes; others stay for later.
    pub fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(&FromCore) -> Option<T>) -> T {
        let from = Instant::now();
        loop {
            let found = self.told.iter().enumerate();
            let found = found
                .filter_map(|(at, message)| Some((at, wanted(message)?)))
                .next();
            if let Some((at, value)) = found {
                self.told.remove(at);
                return value;
            }
            assert!(
                from.elapsed() < DEADLINE,
                "no {what}; told: {:?}",
                self.told
            );
            self.hear();
        }
    }

    pub fn opened(&mut self) -> (ConnId, UserId, Option<Cursors>) {
        self.expect("Opened", |message| match message {
            FromCore::Opened {
                conn,
                user,
                cursors,
            } => Some((*conn, user.clone(), cursors.clone())),
            _ => None,
        })
    }

    pub fn closed(&mut self, of: ConnId) {
        self.expect("Closed", |message| {
            matches!(message, FromCore::Closed { conn, .. } if *conn == of).then_some(())
        });
    }

    /// Fates of a ticket until they speak of so many devices, as (fate, devices).
    pub fn fates(&mut self, of: Ticket, devices: u32) -> Vec<(herald::envelope::Fate, u32)> {
        let mut fates = Vec::new();
        while fates.iter().map(|(_, count)| count).sum::<u32>() < devices {
            fates.push(self.expect("Fate", |message| match message {
                FromCore::Fate {
                    ticket,
                    fate,
                    devices,
                } if *ticket == of => Some((*fate, *devices)),
                _ => None,
            }));
        }
        fates
    }

    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    /// Pushes an item to connections of one core.
    pub fn push(&mut self, item: &Arc<Item>, conns: &[ConnId]) -> Ticket {
        let ticket = self.ticket();
        let delivery = Delivery {
            ticket,
            item: item.clone(),
            conns: SmallVec::from_slice(conns),
        };
        self.send(conns[0].core, ToCore::Deliver(vec![delivery]));
        ticket
    }

    pub fn connect(&self, user: &str) -> Client {
        Client::connect(self.address(), "/ws/notifications", &[bearer(user)]).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for core in 0..self.cores.len() as u16 {
            self.send(core, ToCore::Shutdown);
        }
        // A core ends only when what it told was taken.
        let from = Instant::now();
        let cores = self.cores.clone();
        let joined = std::thread::spawn(move || cores.join());
        while !joined.is_finished() {
            self.hear();
            assert!(from.elapsed() < DEADLINE, "a core does not end");
        }
    }
}

pub fn now_unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub fn token(user: &str) -> String {
    mint_hs256(
        &secret(),
        &user.parse().unwrap(),
        Duration::from_secs(3_600),
    )
}

/// With any end, also one that has passed.
pub fn token_until(user: &str, expires_unix_s: u64) -> String {
    let user = user.parse().unwrap();
    mint_hs256_at(
        &secret(),
        &user,
        expires_unix_s - 60,
        Duration::from_secs(60),
    )
}

fn secret() -> Secret {
    Secret::new(SECRET)
}

pub fn bearer(user: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", token(user)))
}

pub fn item(pos: u64, json: &str) -> Arc<Item> {
    item_of(pos, json, Priority::Normal)
}

pub fn item_of(pos: u64, json: &str, lane: Priority) -> Arc<Item> {
    Arc::new(Item::new(
        Kind::Notification,
        NotificationId::generate(),
        "user:local".into(),
        Position::new(1, pos).unwrap(),
        Position::new(1, pos - 1).unwrap(),
        lane,
        None,
        None,
        json.to_owned().into(),
    ))
}

/// An independent WebSocket client, blocking.
pub struct Client {
    pub socket: WebSocket<Stream>,
}

impl Client {
    /// Fails with the status of a refused upgrade.
    pub fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Client, u16> {
        Client::over(tcp(address), path, headers)
    }

    /// The same over a connection that is there already.
    pub fn over(
        stream: Stream,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Client, u16> {
        let url = format!("ws://{}{path}", stream.tcp.peer_addr().unwrap());
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub fn say(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).unwrap();
    }

    /// The next text message.
    pub fn hear(&mut self) -> serde_json::Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next text message of this type; the others are passed over.
    pub fn hear_type(&mut self, kind: &str) -> serde_json::Value {
        loop {
            let message = self.hear();
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Reads on to the close frame, and to the end behind it.
    pub fn close_frame(&mut self) -> CloseFrame {
        let frame = loop {
            match self.socket.read().unwrap() {
                Message::Close(frame) => break frame.expect("a code"),
                _ => continue,
            }
        };
        self.await_end();
        frame
    }

    /// The handshake is complete and the server has closed.
    pub fn await_end(&mut self) {
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A way in whose reads end with the test's deadline.
pub fn tcp(address: SocketAddr) -> Stream {
    Stream::connect(address)
}

pub fn plain_tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends raw bytes and returns what comes until the server closes.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = tcp(address);
    stream.write_all(bytes).unwrap();
    read_to_end(&mut stream)
}

pub fn read_to_end(stream: &mut impl Read) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the bytes contain `what`.
pub fn read_until(stream: &mut impl Read, what: &str) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains(what) {
        match stream.read(&mut buffer).unwrap() {
            0 => panic!("ended before {what:?}: {}", String::from_utf8_lossy(&heard)),
            count => heard.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}
