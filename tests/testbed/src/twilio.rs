//! Twilio's API for text messages as strict as its reference has it: `Messages.json`, and the callbacks by which it
//! reports. What becomes of a message, the number it goes to decides. The first five are those of Twilio's own test
//! credentials; of the others N is a digit:
//!
//! | number | |
//! |---|---|
//! | `+15005550001` | 400, 21211: no number |
//! | `+15005550002` | 400, 21612: no way there |
//! | `+15005550003` | 400, 21408: a country that the account does not send to |
//! | `+15005550004` | 400, 21610: said STOP |
//! | `+15005550009` | 400, 21614: takes no text messages |
//! | `+4366001N…` | the first N: 429, 20429, `Retry-After: 1` |
//! | `+4366002N…` | the first N: 503, 20503 |
//! | `+4366003N…` | the first N: 401, 20003 |
//! | `+4366004N…` | the first N: taken, and never answered |
//! | else | 201 |

use crate::{
    certificates,
    https::{Https, Serving},
    locked,
};
use axum::{
    Json, Router,
    extract::{Path as PathOf, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempDir;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub struct TwilioServer {
    directory: TempDir,
    seen: Arc<Seen>,
    url: String,
    _serving: Serving,
}

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct TextMessage {
    pub sid: String,
    pub to: String,
    /// What came in the request.
    pub fields: BTreeMap<String, String>,
}

struct Seen {
    account_sid: String,
    /// Whether nobody is served.
    down: AtomicBool,
    taken: Mutex<Vec<TextMessage>>,
    /// Requests in order, by number.
    asked: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
}

impl TwilioServer {
    pub async fn start() -> TwilioServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        certificates::make(directory.path(), &["server"]);
        let https = Https::bind(directory.path(), &["h2", "http/1.1"]).await;
        let seen = Arc::new(Seen {
            account_sid: format!("AC{:032x}", rand::random::<u128>()),
            down: AtomicBool::default(),
            taken: Mutex::default(),
            asked: Mutex::default(),
            wrong: Mutex::default(),
        });
        let server = TwilioServer {
            url: format!("https://{}", https.address()),
            seen: seen.clone(),
            _serving: https.serve(pages(seen)),
            directory,
        };
        server.write_tokens(TOKEN);
        server
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn account_sid(&self) -> String {
        self.seen.account_sid.clone()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub fn token_file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    pub fn write_tokens(&self, text: &str) {
        std::fs::write(self.token_file(), text).expect("a file");
    }

    /// 503 for everybody, or no longer.
    pub fn set_down(&self, down: bool) {
        self.seen.down.store(down, Ordering::SeqCst);
    }

    pub fn taken(&self) -> Vec<TextMessage> {
        locked(&self.seen.taken).clone()
    }

    /// Requests, answered however.
    pub fn asked(&self) -> usize {
        locked(&self.seen.asked).len()
    }

    pub fn wrong(&self) -> Vec<String> {
        locked(&self.seen.wrong).clone()
    }

    /// Reports to a dispatcher, which stands behind a proxy at the URL that it gave. Answers its answer.
    pub async fn report(
        &self,
        message: &TextMessage,
        status: &str,
        error: Option<u32>,
        dispatcher: SocketAddr,
    ) -> u16 {
        let url = &message.fields["StatusCallback"];
        let pairs = self.pairs(message, status, error);
        let signature = sign(url, &pairs);
        post_report(url, &pairs, Some(&signature), dispatcher).await
    }

    pub fn pairs(
        &self,
        message: &TextMessage,
        status: &str,
        error: Option<u32>,
    ) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        let mut put = |key: &str, value: &str| pairs.insert(key.to_owned(), value.to_owned());
        put("AccountSid", &self.seen.account_sid);
        put("ApiVersion", "2010-04-01");
        put("To", &message.to);
        put("MessageSid", &message.sid);
        put("SmsSid", &message.sid);
        put("MessageStatus", status);
        put("SmsStatus", status);
        if let Some(from) = message.fields.get("From") {
            put("From", from);
        }
        if let Some(error) = error {
            put("ErrorCode", &error.to_string());
        }
        pairs
    }
}

/// As a proxy would hand it on. Answers the status.
pub async fn post_report(
    url: &str,
    pairs: &BTreeMap<String, String>,
    signature: Option<&str>,
    dispatcher: SocketAddr,
) -> u16 {
    let path = url.splitn(4, '/').nth(3).expect("a URL has a path");
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish();
    let mut request = reqwest::Client::new()
        .post(format!("http://{dispatcher}/{path}"))
        .header("content-type", "application/x-www-form-urlencoded");
    if let Some(signature) = signature {
        request = request.header("x-twilio-signature", signature);
    }
    let answer = request.body(body).send().await;
    answer.expect("a dispatcher answers").status().as_u16()
}

/// By another implementation than the one under test.
pub fn sign(url: &str, pairs: &BTreeMap<String, String>) -> String {
    let told = pairs.iter().map(|(key, value)| format!("{key}{value}"));
    let text = format!("{url}{}", told.collect::<String>());
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha1", "-binary", "-hmac", TOKEN])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut input = openssl.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = openssl.wait_with_output().expect("it ends");
    BASE64_STANDARD.encode(output.stdout)
}

fn pages(seen: Arc<Seen>) -> Router {
    let path = "/2010-04-01/Accounts/{account}/Messages.json";
    Router::new().route(path, post(send)).with_state(seen)
}

async fn send(
    State(seen): State<Arc<Seen>>,
    PathOf(account): PathOf<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let fields: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let to = fields.get("To").cloned().unwrap_or_default();
    let before = {
        let mut asked = locked(&seen.asked);
        asked.push(to.clone());
        asked.iter().filter(|one| **one == to).count()
    };
    if seen.down.load(Ordering::SeqCst) {
        return failure(503, 20503);
    }
    if account != seen.account_sid || !seen.is_let_in(&headers) {
        locked(&seen.wrong).push("no account, or another token".into());
        return failure(401, 20003);
    }
    if let Err((code, problem)) = check(&headers, &fields) {
        locked(&seen.wrong).push(problem);
        return failure(400, code);
    }
    let fate = fate(&to, before);
    if let Fate::Refused(status, code) = fate {
        return failure(status, code);
    }
    let message = TextMessage {
        sid: format!("SM{:032x}", rand::random::<u128>()),
        to,
        fields,
    };
    locked(&seen.taken).push(message.clone());
    if let Fate::Unanswered = fate {
        std::future::pending::<()>().await;
    }
    (StatusCode::CREATED, Json(shown(&seen, &message))).into_response()
}

fn shown(seen: &Seen, message: &TextMessage) -> Value {
    json!({
        "account_sid": seen.account_sid, "api_version": "2010-04-01", "body": message.fields["Body"],
        "direction": "outbound-api", "error_code": null, "error_message": null, "num_media": "0",
        "num_segments": "1", "price": null, "price_unit": "USD", "sid": message.sid, "status": "queued",
        "to": message.to, "from": message.fields.get("From"),
    })
}

enum Fate {
    Taken,
    Refused(u16, u32),
    Unanswered,
}

fn fate(to: &str, before: usize) -> Fate {
    match to {
        "+15005550001" => return Fate::Refused(400, 21211),
        "+15005550002" => return Fate::Refused(400, 21612),
        "+15005550003" => return Fate::Refused(400, 21408),
        "+15005550004" => return Fate::Refused(400, 21610),
        "+15005550009" => return Fate::Refused(400, 21614),
        _ => {}
    }
    let rest = to.strip_prefix("+436600").unwrap_or("00");
    let digit = |at: usize| usize::from(rest.as_bytes()[at] - b'0');
    match digit(0) {
        _ if before > digit(1) => Fate::Taken,
        1 => Fate::Refused(429, 20429),
        2 => Fate::Refused(503, 20503),
        3 => Fate::Refused(401, 20003),
        4 => Fate::Unanswered,
        _ => Fate::Taken,
    }
}

fn failure(status: u16, code: u32) -> Response {
    let body = json!({
        "code": code, "message": "see more_info", "status": status,
        "more_info": format!("https://www.twilio.com/docs/errors/{code}"),
    });
    let status = StatusCode::from_u16(status).expect("a status");
    let mut answer = (status, Json(body)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, "1".parse().expect("a value"));
    }
    answer
}

impl Seen {
    fn is_let_in(&self, headers: &HeaderMap) -> bool {
        let login = format!("{}:{TOKEN}", self.account_sid);
        let expected = format!("Basic {}", BASE64_STANDARD.encode(login));
        let given = headers.get(header::AUTHORIZATION);
        given.is_some_and(|given| given.as_bytes() == expected.as_bytes())
    }
}

/// What the reference says of the parameters; the code of what is not so, and what it is.
fn check(headers: &HeaderMap, fields: &BTreeMap<String, String>) -> Result<(), (u32, String)> {
    let wrong = |code: u32, problem: String| Err((code, problem));
    let form = "application/x-www-form-urlencoded";
    if headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind != form)
    {
        return wrong(20001, "no form".into());
    }
    let known = [
        "To",
        "From",
        "MessagingServiceSid",
        "Body",
        "StatusCallback",
        "ValidityPeriod",
    ];
    if let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        return wrong(20001, format!("{key} is no parameter"));
    }
    let value = |key: &str| fields.get(key).map(String::as_str).unwrap_or_default();
    let digits = value("To").strip_prefix('+').unwrap_or_default();
    let is_number = (2..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0');
    if !is_number {
        return wrong(21211, format!("To {:?}", value("To")));
    }
    if fields.contains_key("From") == fields.contains_key("MessagingServiceSid") {
        return wrong(21603, "not one of From and MessagingServiceSid".into());
    }
    match value("Body").chars().count() {
        0 => return wrong(21602, "no Body".into()),
        1..=1600 => {}
        _ => return wrong(21617, "a Body of more than 1,600 characters".into()),
    }
    if let Some(period) = fields.get("ValidityPeriod")
        && !period.parse().is_ok_and(|s: u32| (1..=36_000).contains(&s))
    {
        return wrong(21624, format!("ValidityPeriod {period:?}"));
    }
    if let Some(url) = fields.get("StatusCallback")
        && !(url.starts_with("https://") && url.len() <= 4_000)
    {
        return wrong(21609, format!("StatusCallback {url:?}"));
    }
    Ok(())
}
