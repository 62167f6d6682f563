//! Apple's push service as strict as its documentation has it: HTTP/2 by TLS, a provider's token on every request. What
//! becomes of a message, the device token decides, which is the hex of one of these words:
//!
//! | word | |
//! |---|---|
//! | `gone` | 410, `Unregistered`, as of now |
//! | `was-gone` | 410, `Unregistered`, as of 1970 |
//! | `bad` | 400, `BadDeviceToken` |
//! | `foreign` | 400, `DeviceTokenNotForTopic` |
//! | `busy-N` | the first N: 429, `TooManyRequests` |
//! | `broken-N` | the first N: 500, `InternalServerError` |
//! | `away-N` | the first N: 503, `ServiceUnavailable` |
//! | `slow…` | 200, once it is released |
//! | `silent-N` | the first N get no answer |
//! | else | 200 |
//!
//! Or all are answered as `bad` is ([`ApnsServer::call_all_bad`]).

use crate::{certificates, https, locked};
use axum::{
    body::Bytes,
    http::{HeaderMap, Method, Request, Response, StatusCode},
};
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::server::TlsStream;

const TEAM: &str = "TEAM123456";
const KEY: &str = "KEY1234567";
const TOPIC: &str = "com.example.shop";

pub struct ApnsServer {
    address: SocketAddr,
    directory: TempDir,
    seen: Arc<Seen>,
    accepting: AbortHandle,
}

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct ToDevice {
    pub word: String,
    pub headers: BTreeMap<String, String>,
    pub payload: Value,
}

struct Seen {
    key: Mutex<DecodingKey>,
    /// Streams of a connection at the same time.
    streams: u32,
    taken: Mutex<Vec<ToDevice>>,
    all_bad: Mutex<bool>,
    asked: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
    /// Provider tokens that came, and those that count no more.
    tokens: Mutex<BTreeSet<String>>,
    ended: Mutex<BTreeSet<String>>,
    connections: Mutex<usize>,
    /// Streams that are open now and the most that ever were, by connection.
    open: Mutex<BTreeMap<usize, (u32, u32)>>,
    /// Connections up to this number say goodbye, or break off.
    leaving: watch::Sender<usize>,
    broken: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

impl ApnsServer {
    pub async fn start() -> ApnsServer {
        ApnsServer::with_streams(1_000).await
    }

    pub async fn with_streams(streams: u32) -> ApnsServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        certificates::make(directory.path(), &["server"]);
        let acceptor = https::acceptor(directory.path(), &["h2"]);
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = tcp.local_addr().expect("it listens");
        let seen = Arc::new(Seen {
            key: Mutex::new(make_key(directory.path())),
            streams,
            taken: Mutex::default(),
            all_bad: Mutex::default(),
            asked: Mutex::default(),
            wrong: Mutex::default(),
            tokens: Mutex::default(),
            ended: Mutex::default(),
            connections: Mutex::default(),
            open: Mutex::default(),
            leaving: watch::Sender::new(0),
            broken: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        let by = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let (acceptor, seen) = (acceptor.clone(), by.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        seen.serve(stream).await;
                    }
                });
            }
        });
        ApnsServer {
            address,
            directory,
            seen,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Key, its id, team, topic.
    pub fn key_file(&self) -> PathBuf {
        self.directory.path().join("provider.p8")
    }

    pub fn account(&self) -> [&'static str; 3] {
        [KEY, TEAM, TOPIC]
    }

    /// Another one in the place of the first, which counts no more.
    pub fn replace_key(&self) {
        *locked(&self.seen.key) = make_key(self.directory.path());
    }

    /// Tokens that were seen count no more.
    pub fn end_tokens(&self) {
        let tokens = locked(&self.seen.tokens).clone();
        locked(&self.seen.ended).extend(tokens);
    }

    /// All connections of now are to end, after what they have begun.
    pub fn say_goodbye(&self) {
        let so_far = self.connections();
        self.seen.leaving.send_replace(so_far);
    }

    /// All connections of now break off.
    pub fn break_off(&self) {
        let so_far = self.connections();
        self.seen.broken.send_replace(so_far);
    }

    /// What is slow is answered, now and later.
    pub fn release(&self) {
        self.seen.released.send_replace(true);
    }

    pub fn connections(&self) -> usize {
        *locked(&self.seen.connections)
    }

    /// The most streams that a connection ever had open.
    pub fn streams_most(&self) -> u32 {
        let open = locked(&self.seen.open);
        open.values().map(|(_, most)| *most).max().unwrap_or(0)
    }

    /// Streams that are open now.
    pub fn streams_open(&self) -> u32 {
        let open = locked(&self.seen.open);
        open.values().map(|(now, _)| now).sum()
    }

    pub fn tokens(&self) -> usize {
        locked(&self.seen.tokens).len()
    }

    /// As one of the other environment.
    pub fn call_all_bad(&self, is_so: bool) {
        *locked(&self.seen.all_bad) = is_so;
    }

    pub fn taken(&self) -> Vec<ToDevice> {
        locked(&self.seen.taken).clone()
    }

    /// Requests for a device, answered however.
    pub fn asked(&self, word: &str) -> usize {
        let asked = locked(&self.seen.asked);
        asked.iter().filter(|one| *one == word).count()
    }

    pub fn wrong(&self) -> Vec<String> {
        locked(&self.seen.wrong).clone()
    }
}

impl Drop for ApnsServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.break_off();
    }
}

/// The device token that stands for a word.
pub fn device_token(word: &str) -> String {
    word.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn word(token: &str) -> Option<String> {
    let bytes = (0..token.len()).step_by(2).map(|at| {
        let pair = token.get(at..at + 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

/// `provider.p8`; answers with its public half.
fn make_key(directory: &Path) -> DecodingKey {
    let public = certificates::make_key(&directory.join("provider.p8"), certificates::P256);
    DecodingKey::from_ec_pem(&public).expect("made")
}

type Refusal = (u16, &'static str);

impl Seen {
    async fn serve(self: Arc<Self>, stream: TlsStream<TcpStream>) {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(self.streams);
        let shaken: Result<Connection<_, Bytes>, _> = builder.handshake(stream).await;
        let Ok(mut connection) = shaken else { return };
        let number = {
            let mut connections = locked(&self.connections);
            *connections += 1;
            *connections
        };
        let (mut leaving, mut broken) = (self.leaving.subscribe(), self.broken.subscribe());
        let mut stays = true;
        loop {
            tokio::select! {
                _ = broken.wait_for(|up_to| number <= *up_to) => return,
                _ = leaving.wait_for(|up_to| number <= *up_to), if stays => {
                    stays = false;
                    connection.graceful_shutdown();
                }
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, answer))) => {
                        tokio::spawn(self.clone().answer(number, request, answer));
                    }
                    Some(Err(_)) | None => return,
                },
            }
        }
    }

    async fn answer(
        self: Arc<Self>,
        connection: usize,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        let open = Open::new(&self, connection);
        let (head, mut stream) = request.into_parts();
        let mut body = Vec::new();
        while let Some(part) = stream.data().await {
            // Its client gave it up.
            let Ok(part) = part else { return };
            let _ = stream.flow_control().release_capacity(part.len());
            body.extend_from_slice(&part);
        }
        let token = head.uri.path().strip_prefix("/3/device/");
        let word = token.and_then(word).unwrap_or_default();
        let before = {
            let mut asked = locked(&self.asked);
            asked.push(word.clone());
            asked.iter().filter(|one| **one == word).count()
        };
        let judged = match head.method == Method::POST {
            true => self.judge(&word, before, &head.headers, &body),
            false => Err((405, "MethodNotAllowed")),
        };
        let (kind, count) = word.split_once('-').unwrap_or((&word, ""));
        if kind == "silent" && count.parse().is_ok_and(|most: usize| before <= most) {
            std::future::pending::<()>().await;
        }
        if kind.starts_with("slow") {
            let mut released = self.released.subscribe();
            let _ = released.wait_for(|is_so| *is_so).await;
        }
        let id = head.headers.get("apns-id").cloned();
        let mut response = Response::builder();
        if let Some(id) = id {
            response = response.header("apns-id", id);
        }
        // Before the client knows: it may ask for the next at once.
        drop(open);
        let status = |code: u16| StatusCode::from_u16(code).expect("a status");
        match judged {
            Ok(payload) => {
                let taken = ToDevice {
                    word,
                    headers: texts(&head.headers),
                    payload,
                };
                let response = response.status(status(200)).body(()).expect("a response");
                if respond.send_response(response, true).is_ok() {
                    locked(&self.taken).push(taken);
                }
            }
            Err((code, reason)) => {
                let mut said = json!({ "reason": reason });
                if code == 410 {
                    said["timestamp"] = json!(if word == "was-gone" {
                        5
                    } else {
                        now_s() * 1000 + 999
                    });
                }
                let response = response.status(status(code)).body(()).expect("a response");
                if let Ok(mut stream) = respond.send_response(response, false) {
                    let _ = stream.send_data(said.to_string().into(), true);
                }
            }
        }
    }

    fn judge(
        &self,
        word: &str,
        before: usize,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Value, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.let_in(text("authorization"))?;
        let strange = self.check(&text, body);
        if let Err((code, reason)) = strange {
            locked(&self.wrong).push(format!("{code} {reason}"));
            return Err((code, reason));
        }
        let (kind, count) = word.split_once('-').unwrap_or((word, ""));
        let is_among_the_first = count.parse().is_ok_and(|most: usize| before <= most);
        match kind {
            "" => return Err((400, "BadDeviceToken")),
            "gone" | "was" => return Err((410, "Unregistered")),
            "bad" => return Err((400, "BadDeviceToken")),
            _ if *locked(&self.all_bad) => return Err((400, "BadDeviceToken")),
            "foreign" => return Err((400, "DeviceTokenNotForTopic")),
            "busy" if is_among_the_first => return Err((429, "TooManyRequests")),
            "broken" if is_among_the_first => return Err((500, "InternalServerError")),
            "away" if is_among_the_first => return Err((503, "ServiceUnavailable")),
            _ => {}
        }
        serde_json::from_slice(body).map_err(|_| (400, "PayloadEmpty"))
    }

    fn let_in(&self, authorization: Option<&str>) -> Result<(), Refusal> {
        let token = authorization.and_then(|text| text.strip_prefix("bearer "));
        let token = token.ok_or((403, "MissingProviderToken"))?;
        if locked(&self.ended).contains(token) {
            return Err((403, "ExpiredProviderToken"));
        }
        let invalid = (403, "InvalidProviderToken");
        let head = jsonwebtoken::decode_header(token).map_err(|_| invalid)?;
        let mut demanded = Validation::new(Algorithm::ES256);
        demanded.set_issuer(&[TEAM]);
        demanded.set_required_spec_claims(&["iss"]);
        demanded.validate_exp = false;
        let claims = jsonwebtoken::decode::<Value>(token, &locked(&self.key), &demanded);
        let claims = claims.map_err(|_| invalid)?.claims;
        let made_s = claims["iat"].as_u64().ok_or(invalid)?;
        if head.kid.as_deref() != Some(KEY) || made_s > now_s() + 60 {
            return Err(invalid);
        }
        if made_s + 3600 < now_s() {
            return Err((403, "ExpiredProviderToken"));
        }
        locked(&self.tokens).insert(token.to_owned());
        Ok(())
    }

    /// What the documentation says of headers and payload.
    fn check<'a>(
        &self,
        text: &impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
    ) -> Result<(), Refusal> {
        match text("apns-topic") {
            None => return Err((400, "MissingTopic")),
            Some(TOPIC) => {}
            Some(_) => return Err((400, "TopicDisallowed")),
        }
        let kind = text("apns-push-type").unwrap_or("alert");
        if !["alert", "background"].contains(&kind) {
            return Err((400, "InvalidPushType"));
        }
        let priority = text("apns-priority").unwrap_or("10");
        let allowed: &[&str] = match kind {
            "background" => &["1", "5"],
            _ => &["1", "5", "10"],
        };
        if !allowed.contains(&priority) {
            return Err((400, "BadPriority"));
        }
        if text("apns-expiration").is_some_and(|at| at.parse::<u64>().is_err()) {
            return Err((400, "BadExpirationDate"));
        }
        if text("apns-collapse-id").is_some_and(|id| id.len() > 64) {
            return Err((400, "BadCollapseId"));
        }
        let is_uuid = |id: &str| uuid::Uuid::parse_str(id).is_ok_and(|read| read.to_string() == id);
        if !text("apns-id").is_none_or(is_uuid) {
            return Err((400, "BadMessageId"));
        }
        if body.len() > 4_096 {
            return Err((413, "PayloadTooLarge"));
        }
        let payload: Value = serde_json::from_slice(body).unwrap_or_default();
        match payload["aps"].is_object() {
            true => Ok(()),
            false => Err((400, "PayloadEmpty")),
        }
    }
}

/// A stream, as long as it has no answer.
struct Open<'a> {
    seen: &'a Seen,
    connection: usize,
}

impl<'a> Open<'a> {
    fn new(seen: &'a Seen, connection: usize) -> Open<'a> {
        let mut open = locked(&seen.open);
        let (now, most) = open.entry(connection).or_default();
        *now += 1;
        *most = (*most).max(*now);
        Open { seen, connection }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some((now, _)) = locked(&self.seen.open).get_mut(&self.connection) {
            *now -= 1;
        }
    }
}

fn texts(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)));
    pairs.collect()
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}
