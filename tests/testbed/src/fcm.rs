//! Firebase Cloud Messaging as strict as its reference of HTTP v1 has it, and the token endpoint of the accounts that may
//! send. What becomes of a message, its registration token decides:
//!
//! | token | |
//! |---|---|
//! | `gone` | 404, `UNREGISTERED` |
//! | `bad` | 400, `INVALID_ARGUMENT`, the token's field named |
//! | `foreign` | 403, `SENDER_ID_MISMATCH` |
//! | `busy-N` | the first N: 429, `QUOTA_EXCEEDED`, `Retry-After: 1` |
//! | `away-N` | the first N: 503, `UNAVAILABLE` |
//! | `broken-N` | the first N: 500, `INTERNAL` |
//! | `apple-N` | the first N: 401, `THIRD_PARTY_AUTH_ERROR` |
//! | `lost` | 404 of no kind that FCM knows |
//! | else | 200 |
//!
//! Or all are answered as `gone` is ([`FcmServer::call_all_gone`]).

use crate::{
    certificates,
    https::{Https, Serving},
    locked,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as PathOf, State},
    http::{HeaderMap, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::post,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

const PROJECT: &str = "shop-1a2b3";
const EMAIL: &str = "herald@shop-1a2b3.iam.example";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

pub struct FcmServer {
    directory: TempDir,
    seen: Arc<Seen>,
    _serving: Serving,
}

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct ToApp {
    pub message: Value,
    pub is_dry_run: bool,
    pub version: Version,
}

struct Seen {
    origin: String,
    key: DecodingKey,
    /// Of a token.
    life: Mutex<Duration>,
    granted: Mutex<Vec<(String, Instant)>>,
    /// Exchanges that are refused from now on.
    failing: Mutex<usize>,
    exchanges: Mutex<usize>,
    taken: Mutex<Vec<ToApp>>,
    all_gone: Mutex<bool>,
    /// Requests in order, by registration token.
    asked: Mutex<Vec<String>>,
    /// What was wrong with requests.
    wrong: Mutex<Vec<String>>,
}

impl FcmServer {
    pub async fn start() -> FcmServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        certificates::make(directory.path(), &["server"]);
        let public =
            certificates::make_key(&directory.path().join("account.key"), certificates::RSA);
        let https = Https::bind(directory.path(), &["h2", "http/1.1"]).await;
        let seen = Arc::new(Seen {
            origin: format!("https://{}", https.address()),
            key: DecodingKey::from_rsa_pem(&public).expect("made"),
            life: Mutex::new(Duration::from_secs(3599)),
            granted: Mutex::default(),
            failing: Mutex::default(),
            exchanges: Mutex::default(),
            taken: Mutex::default(),
            all_gone: Mutex::default(),
            asked: Mutex::default(),
            wrong: Mutex::default(),
        });
        let server = FcmServer {
            directory,
            seen: seen.clone(),
            _serving: https.serve(pages(seen)),
        };
        server.write_account("service_account");
        server
    }

    pub fn url(&self) -> String {
        self.seen.origin.clone()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// As the console gives it out.
    pub fn service_account_file(&self) -> PathBuf {
        self.directory.path().join("account.json")
    }

    /// Writes it, as a key of this kind.
    pub fn write_account(&self, kind: &str) {
        let key = self.directory.path().join("account.key");
        let account = json!({
            "type": kind,
            "project_id": PROJECT,
            "private_key_id": "key-1",
            "private_key": std::fs::read_to_string(key).expect("made"),
            "client_email": EMAIL,
            "token_uri": format!("{}/token", self.seen.origin),
            "universe_domain": "googleapis.com",
        });
        std::fs::write(self.service_account_file(), account.to_string()).expect("a file");
    }

    /// Of tokens that are granted from now on.
    pub fn set_token_life(&self, life: Duration) {
        *locked(&self.seen.life) = life;
    }

    pub fn revoke_tokens(&self) {
        locked(&self.seen.granted).clear();
    }

    pub fn fail_exchanges(&self, count: usize) {
        *locked(&self.seen.failing) = count;
    }

    pub fn exchanges(&self) -> usize {
        *locked(&self.seen.exchanges)
    }

    /// As one that was asked in the wrong project's name.
    pub fn call_all_gone(&self, is_so: bool) {
        *locked(&self.seen.all_gone) = is_so;
    }

    pub fn taken(&self) -> Vec<ToApp> {
        locked(&self.seen.taken).clone()
    }

    /// Requests for a registration token, answered however.
    pub fn asked(&self, token: &str) -> usize {
        let asked = locked(&self.seen.asked);
        asked.iter().filter(|one| *one == token).count()
    }

    pub fn wrong(&self) -> Vec<String> {
        locked(&self.seen.wrong).clone()
    }
}

fn pages(seen: Arc<Seen>) -> Router {
    Router::new()
        .route("/token", post(exchange))
        .route("/v1/projects/{project}/{verb}", post(send))
        .with_state(seen)
}

async fn exchange(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: String) -> Response {
    *locked(&seen.exchanges) += 1;
    let left = {
        let mut failing = locked(&seen.failing);
        let left = *failing;
        *failing = left.saturating_sub(1);
        left
    };
    if left > 0 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match seen.grant(&headers, &body) {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            locked(&seen.wrong).push(problem.clone());
            let answer = json!({ "error": "invalid_grant", "error_description": problem });
            (StatusCode::BAD_REQUEST, Json(answer)).into_response()
        }
    }
}

impl Seen {
    fn grant(&self, headers: &HeaderMap, body: &str) -> Result<Value, String> {
        let form = "application/x-www-form-urlencoded";
        if headers
            .get(header::CONTENT_TYPE)
            .is_none_or(|kind| kind != form)
        {
            return Err("no form".into());
        }
        let field = |name: &str| {
            let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
            let mut values = pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value);
            values.next().ok_or(format!("no {name}"))
        };
        if field("grant_type")? != "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer" {
            return Err("another grant_type".into());
        }
        let assertion = field("assertion")?;
        let told = jsonwebtoken::decode_header(assertion).map_err(|error| error.to_string())?;
        if told.kid.as_deref() != Some("key-1") {
            return Err("another key".into());
        }
        let mut demanded = Validation::new(Algorithm::RS256);
        demanded.set_audience(&[format!("{}/token", self.origin)]);
        demanded.set_issuer(&[EMAIL]);
        demanded.set_required_spec_claims(&["aud", "exp", "iss"]);
        let claims = jsonwebtoken::decode::<Value>(assertion, &self.key, &demanded);
        let claims = claims.map_err(|error| error.to_string())?.claims;
        let number = |name: &str| claims[name].as_u64().ok_or(format!("no {name}"));
        let (iat, exp) = (number("iat")?, number("exp")?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        if exp > iat + 3600 || iat > now.expect("after 1970").as_secs() + 60 {
            return Err("exp is more than an hour after iat, or iat is not yet".into());
        }
        if claims["scope"] != SCOPE {
            return Err("another scope".into());
        }
        let life = *locked(&self.life);
        let mut granted = locked(&self.granted);
        let token = format!("ya29.{}-{:x}", granted.len(), rand::random::<u64>());
        granted.push((token.clone(), Instant::now() + life));
        Ok(json!({
            "access_token": token, "expires_in": life.as_secs(), "token_type": "Bearer"
        }))
    }

    fn is_let_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let granted = locked(&self.granted);
        let counts = |(token, until): &(String, Instant)| {
            Some(token.as_str()) == given && Instant::now() < *until
        };
        granted.iter().any(counts)
    }
}

async fn send(
    State(seen): State<Arc<Seen>>,
    PathOf((project, verb)): PathOf<(String, String)>,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if verb != "messages:send" || project != PROJECT {
        return failure(404, "NOT_FOUND", vec![]);
    }
    if !seen.is_let_in(&headers) {
        locked(&seen.wrong).push("no token that counts".into());
        return failure(401, "UNAUTHENTICATED", vec![]);
    }
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(_) => return failure(400, "INVALID_ARGUMENT", vec![]),
    };
    let message = &body["message"];
    let token = message["token"].as_str().unwrap_or_default().to_owned();
    let before = {
        let mut asked = locked(&seen.asked);
        asked.push(token.clone());
        asked.iter().filter(|one| **one == token).count()
    };
    if let Err(field) = check(&body) {
        locked(&seen.wrong).push(field.clone());
        return failure(400, "INVALID_ARGUMENT", vec![violation(&field)]);
    }
    if size(message) > 4_096 {
        locked(&seen.wrong).push("too large".into());
        return failure(400, "INVALID_ARGUMENT", vec![]);
    }
    let name = match *locked(&seen.all_gone) {
        true => "gone",
        false => &token,
    };
    if let Some(refusal) = by_name(name, before) {
        return refusal;
    }
    locked(&seen.taken).push(ToApp {
        message: message.clone(),
        is_dry_run: body["validate_only"] == true,
        version,
    });
    Json(json!({ "name": format!("projects/{PROJECT}/messages/{before}") })).into_response()
}

fn by_name(token: &str, before: usize) -> Option<Response> {
    let (word, count) = token.split_once('-').unwrap_or((token, ""));
    let is_among_the_first = count.parse().is_ok_and(|most: usize| before <= most);
    let of_fcm = |status, canonical, code| Some(failure(status, canonical, vec![fcm_error(code)]));
    match word {
        "gone" => of_fcm(404, "NOT_FOUND", "UNREGISTERED"),
        "bad" => {
            let details = vec![fcm_error("INVALID_ARGUMENT"), violation("message.token")];
            Some(failure(400, "INVALID_ARGUMENT", details))
        }
        "foreign" => of_fcm(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        "lost" => Some(failure(404, "NOT_FOUND", vec![])),
        _ if !is_among_the_first => None,
        "busy" => {
            let mut answer = failure(429, "RESOURCE_EXHAUSTED", vec![fcm_error("QUOTA_EXCEEDED")]);
            let headers = answer.headers_mut();
            headers.insert(header::RETRY_AFTER, "1".parse().expect("a value"));
            Some(answer)
        }
        "away" => of_fcm(503, "UNAVAILABLE", "UNAVAILABLE"),
        "broken" => of_fcm(500, "INTERNAL", "INTERNAL"),
        "apple" => of_fcm(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
        _ => None,
    }
}

fn failure(code: u16, status: &str, details: Vec<Value>) -> Response {
    let error = json!({
        "code": code, "message": "see details", "status": status, "details": details
    });
    let code = StatusCode::from_u16(code).expect("a status");
    (code, Json(json!({ "error": error }))).into_response()
}

fn fcm_error(code: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code
    })
}

fn violation(field: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{ "field": field, "description": "is not as it should be" }],
    })
}

/// What the reference says of a message's fields; names one that is not so.
fn check(body: &Value) -> Result<(), String> {
    let known = |at: &str, value: &Value, names: &[&str]| {
        let none = Map::new();
        let fields = value.as_object().unwrap_or(&none);
        match fields.keys().find(|key| !names.contains(&key.as_str())) {
            Some(key) => Err(format!("{at}{key}")),
            None => Ok(()),
        }
    };
    let message = &body["message"];
    known("", body, &["validate_only", "message"])?;
    let parts = [
        "token",
        "notification",
        "data",
        "android",
        "apns",
        "webpush",
    ];
    known("message.", message, &parts)?;
    known(
        "message.notification.",
        &message["notification"],
        &["title", "body", "image"],
    )?;
    let android = &message["android"];
    let names = ["priority", "ttl", "collapse_key", "notification", "data"];
    known("message.android.", android, &names)?;
    known("message.apns.", &message["apns"], &["headers", "payload"])?;
    let names = ["headers", "notification", "data"];
    known("message.webpush.", &message["webpush"], &names)?;
    for texts in [
        "/data",
        "/apns/headers",
        "/webpush/headers",
        "/notification",
    ] {
        if let Some(texts_of) = message.pointer(texts).and_then(Value::as_object)
            && let Some((key, _)) = texts_of.iter().find(|(_, value)| !value.is_string())
        {
            return Err(format!("message{}.{key}", texts.replace('/', ".")));
        }
    }
    let reserved = |key: &String| {
        key == "from"
            || key == "message_type"
            || key.starts_with("google")
            || key.starts_with("gcm")
    };
    if let Some(key) = message["data"]
        .as_object()
        .and_then(|data| data.keys().find(|key| reserved(key)))
    {
        return Err(format!("message.data.{key}"));
    }
    if !["NORMAL", "HIGH"].contains(&android["priority"].as_str().unwrap_or("NORMAL")) {
        return Err("message.android.priority".into());
    }
    let ttl = android["ttl"].as_str().unwrap_or("0s");
    let seconds = ttl.strip_suffix('s').and_then(|ttl| ttl.parse().ok());
    match seconds.is_some_and(|seconds: u64| seconds <= 2_419_200) {
        true => Ok(()),
        false => Err("message.android.ttl".into()),
    }
}

/// Keys and values of what an app gets.
fn size(message: &Value) -> usize {
    let of = |part: &str| {
        let texts = message[part].as_object().into_iter().flatten();
        let sizes = texts.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
        sizes.sum::<usize>()
    };
    of("notification") + of("data")
}
