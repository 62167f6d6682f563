//! A push service as strict as RFC 8030, 8188, 8291 and 8292 let it be, and the browsers that subscribe with it. What
//! becomes of a message, the subscription's name decides:
//!
//! | name | |
//! |---|---|
//! | `gone` | 410 |
//! | `busy-N` | the first N are answered 429, `Retry-After: 1` |
//! | `away-N` | the first N are answered 503 |
//! | `full` | 413 |
//! | else | 201 |
//!
//! Or all are answered as `gone` is ([`PushService::call_all_gone`]).

use crate::{
    certificates,
    https::{Https, Serving},
    locked,
};
use axum::{
    Router,
    body::Bytes,
    extract::{Path as PathOf, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use web_push_native::{Auth, p256::SecretKey, p256::elliptic_curve::sec1::ToEncodedPoint};

pub struct PushService {
    address: SocketAddr,
    directory: TempDir,
    seen: Arc<Seen>,
    _serving: Serving,
}

/// A message as a browser reads it.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Of the subscription.
    pub name: String,
    pub content: Value,
    pub ttl_s: u64,
    pub urgency: String,
    pub topic: Option<String>,
}

#[derive(Default)]
struct Seen {
    origin: String,
    browsers: Mutex<BTreeMap<String, (SecretKey, Auth)>>,
    pushed: Mutex<Vec<Pushed>>,
    all_gone: Mutex<bool>,
    /// What was wrong with requests.
    wrong: Mutex<Vec<String>>,
    /// Requests in order, by name.
    asked: Mutex<Vec<String>>,
}

impl PushService {
    pub async fn start() -> PushService {
        let directory = tempfile::tempdir().expect("a temporary directory");
        certificates::make(directory.path(), &["server"]);
        let listener = Https::bind(directory.path(), &[]).await;
        let address = listener.address();
        let seen = Arc::new(Seen {
            origin: format!("https://{address}"),
            ..Seen::default()
        });
        let pages = Router::new()
            .route("/push/{name}", post(answer))
            .with_state(seen.clone());
        let serving = listener.serve(pages);
        PushService {
            address,
            directory,
            seen,
            _serving: serving,
        }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// With its port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// A browser subscribes: what it gives the page, as `PushSubscription.toJSON()` has it.
    pub fn subscribe(&self, name: &str) -> Value {
        let secret = SecretKey::from_slice(&rand::random::<[u8; 32]>()).expect("a scalar");
        let auth: [u8; 16] = rand::random();
        let public = secret.public_key().as_affine().to_encoded_point(false);
        let subscription = json!({
            "endpoint": format!("{}/push/{name}", self.seen.origin),
            "expirationTime": null,
            "keys": {
                "p256dh": BASE64_URL_SAFE_NO_PAD.encode(public.as_bytes()),
                "auth": BASE64_URL_SAFE_NO_PAD.encode(auth),
            },
        });
        let keys = (secret, Auth::from(auth));
        locked(&self.seen.browsers).insert(name.to_owned(), keys);
        subscription
    }

    /// As one that forgot everybody.
    pub fn call_all_gone(&self, is_so: bool) {
        *locked(&self.seen.all_gone) = is_so;
    }

    pub fn pushed(&self) -> Vec<Pushed> {
        locked(&self.seen.pushed).clone()
    }

    /// Requests of a subscription, answered however.
    pub fn asked(&self, name: &str) -> usize {
        let asked = locked(&self.seen.asked);
        asked.iter().filter(|one| *one == name).count()
    }

    pub fn wrong(&self) -> Vec<String> {
        locked(&self.seen.wrong).clone()
    }
}

async fn answer(
    State(seen): State<Arc<Seen>>,
    PathOf(name): PathOf<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    locked(&seen.asked).push(name.clone());
    let before = locked(&seen.asked)
        .iter()
        .filter(|one| **one == name)
        .count();
    let (word, count) = name.split_once('-').unwrap_or((name.as_str(), ""));
    let is_among_the_first = count.parse().is_ok_and(|most: usize| before <= most);
    match word {
        "gone" => return StatusCode::GONE.into_response(),
        _ if *locked(&seen.all_gone) => return StatusCode::GONE.into_response(),
        "full" => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        "busy" if is_among_the_first => {
            return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response();
        }
        "away" if is_among_the_first => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => {}
    }
    match seen.read(&name, &headers, &body) {
        Ok(pushed) => {
            locked(&seen.pushed).push(pushed);
            let location = format!("{}/message/{name}", seen.origin);
            (StatusCode::CREATED, [(header::LOCATION, location)]).into_response()
        }
        Err((status, problem)) => {
            locked(&seen.wrong).push(problem.clone());
            (status, problem).into_response()
        }
    }
}

impl Seen {
    fn read(
        &self,
        name: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Pushed, (StatusCode, String)> {
        let bad = |problem: &str| (StatusCode::BAD_REQUEST, problem.to_owned());
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.is_signed(text("authorization"))
            .map_err(|problem| (StatusCode::FORBIDDEN, problem))?;
        if text("content-encoding") != Some("aes128gcm") {
            return Err(bad("content-encoding is not aes128gcm"));
        }
        if body.len() > 4_096 {
            return Err(bad("more than 4,096 bytes"));
        }
        let ttl = text("ttl").and_then(|ttl| ttl.parse().ok());
        let urgency = text("urgency").unwrap_or("normal");
        if !["very-low", "low", "normal", "high"].contains(&urgency) {
            return Err(bad("urgency is none"));
        }
        let topic = text("topic").map(str::to_owned);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if topic
            .as_ref()
            .is_some_and(|topic| topic.len() > 32 || !topic.chars().all(plain))
        {
            return Err(bad("topic is not 32 characters of base64url"));
        }
        let browsers = locked(&self.browsers);
        let (secret, auth) = browsers.get(name).ok_or_else(|| bad("nobody subscribed"))?;
        let content = web_push_native::decrypt(body.to_vec(), secret, auth)
            .map_err(|error| bad(&error.to_string()))?;
        Ok(Pushed {
            name: name.to_owned(),
            content: serde_json::from_slice(&content).map_err(|error| bad(&error.to_string()))?,
            ttl_s: ttl.ok_or_else(|| bad("no ttl"))?,
            urgency: urgency.to_owned(),
            topic,
        })
    }

    /// By RFC 8292: for us, not for longer than a day, and by somebody who can be written to.
    fn is_signed(&self, authorization: Option<&str>) -> Result<(), String> {
        let given = authorization.and_then(|text| text.strip_prefix("vapid "));
        let given = given.ok_or("no vapid")?;
        let mut parts = given
            .split(',')
            .filter_map(|part| part.trim().split_once('='));
        let mut part = |name: &str| parts.find(|(key, _)| *key == name).map(|(_, value)| value);
        let (token, key) = part("t").zip(part("k")).ok_or("no t or no k")?;
        let key = BASE64_URL_SAFE_NO_PAD.decode(key);
        let key = key.map_err(|error| error.to_string())?;
        let point = match &key[..] {
            [4, point @ ..] if point.len() == 64 => point,
            _ => return Err("k is no point".into()),
        };
        let [x, y] = [&point[..32], &point[32..]].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let key = DecodingKey::from_ec_components(&x, &y).map_err(|error| error.to_string())?;
        let mut demanded = Validation::new(Algorithm::ES256);
        demanded.set_audience(&[&self.origin]);
        demanded.set_required_spec_claims(&["aud", "exp", "sub"]);
        let claims = jsonwebtoken::decode::<Value>(token, &key, &demanded);
        let claims = claims.map_err(|error| error.to_string())?.claims;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = now.expect("after 1970").as_secs();
        if claims["exp"]
            .as_u64()
            .is_none_or(|exp| exp > now_s + 24 * 3600)
        {
            return Err("exp is more than a day away".into());
        }
        let contact = claims["sub"].as_str().unwrap_or_default();
        match contact.starts_with("mailto:") || contact.starts_with("https:") {
            true => Ok(()),
            false => Err("sub is no way to write to anybody".into()),
        }
    }
}
