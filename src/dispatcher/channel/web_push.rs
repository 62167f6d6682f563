//! Web Push (RFC 8030): encrypted for the browser (RFC 8291), signed for its push service (VAPID, RFC 8292).
//!
//! Invariants:
//! * a subscription is an address that anybody may have chosen: only push services that `[web_push]` names are asked, by
//!   TLS, and no redirect is followed;
//! * a push service reads nothing of a notification but its size, its urgency and how long it is of use.

use super::{
    Answer, Message, Pace, Provider, REFUSED,
    gone::Usual,
    http,
    push::{self, Told},
    sealed::{Keys, TEXT_BYTES_MAX},
};
use crate::{
    config::{self, ConfigError, Secret},
    dispatcher::{
        devices::{Device, DeviceKind},
        unix_ms,
    },
    limits,
};
use async_trait::async_trait;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_ENCODING, LOCATION},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::Serialize;
use serde_json::json;
use std::{collections::HashMap, path::Path, time::Duration};

pub struct WebPush {
    client: Client,
    vapid: Vapid,
    hosts: Vec<String>,
    pace: Pace,
    usual: Usual,
}

impl WebPush {
    /// `None` without a key. Files that keys name are read.
    pub fn from_config(config: &config::WebPush) -> Result<Option<WebPush>, ConfigError> {
        config.check()?;
        let (Some(key_file), Some(contact)) = (&config.vapid_key_file, &config.contact) else {
            return Ok(None);
        };
        Ok(Some(WebPush {
            client: http::client("web_push", config.ca_file.as_deref(), config.at_once)?,
            vapid: Vapid::from_file(key_file, contact)?,
            hosts: config.hosts.clone(),
            pace: Pace {
                at_once: config.at_once,
                per_s: 0,
                timeout: Duration::from_millis(config.timeout_ms),
            },
            usual: Usual {
                percent_max: config.gone_percent_max,
                window: config.gone_window,
                suspects: "Is web_push.vapid_key_file the key that pages subscribed with, and who answers at web_push.hosts?",
            },
        }))
    }

    /// What a page subscribes with: `applicationServerKey`.
    pub fn public_key(&self) -> &str {
        &self.vapid.public_key
    }

    /// Whether it is an address of a push service that is named.
    pub fn accept(&self, address: &str) -> Result<(), String> {
        endpoint(address, &self.hosts).map(drop)
    }

    fn request(&self, message: &Message<'_>) -> Result<reqwest::RequestBuilder, Answer> {
        let Message {
            head,
            content,
            device,
            ..
        } = message;
        let (endpoint, _) = endpoint(&device.address, &self.hosts).map_err(Answer::unfit)?;
        let keys = keys(&device.secret).map_err(|problem| Answer::unfit(problem.to_owned()))?;
        let text = payload(message).ok_or_else(|| {
            Answer::unfit(format!(
                "title and body have more than {TEXT_BYTES_MAX} bytes"
            ))
        })?;
        let sealed = keys.seal(&text);
        let sealed = sealed.map_err(|error| Answer::unfit(error.to_string()))?;
        let longest = limits::PUSH_TTL_S;
        let ttl_s = push::ttl_s(head).map_or(longest, |ttl_s| ttl_s.min(longest));
        let authorization = self.vapid.authorization(&endpoint).map_err(Answer::unfit)?;
        let mut request = self
            .client
            .post(endpoint)
            .header("ttl", ttl_s)
            .header("urgency", push::urgency(head.priority))
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_ENCODING, "aes128gcm")
            .body(sealed);
        if let Some(key) = &content.collapse_key {
            request = request.header("topic", push::topic(key));
        }
        Ok(request)
    }
}

#[async_trait]
impl Provider for WebPush {
    fn name(&self) -> &str {
        "web_push"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::WebPush
    }

    /// As the configuration names it: what is below it has too many names.
    fn host(&self, device: &Device) -> &str {
        endpoint(&device.address, &self.hosts).map_or("", |(_, named)| named)
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn usual(&self) -> Option<Usual> {
        Some(self.usual)
    }

    async fn send(&self, message: &Message<'_>) -> Answer {
        let request = match self.request(message) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => http::away(&error),
        }
    }
}

async fn judge(response: Response) -> Answer {
    let status = response.status();
    let header = |name| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    if status.is_success() {
        let name = header(LOCATION).unwrap_or_default();
        return Answer::sent(&name);
    }
    let retry_after = http::retry_after(&response);
    let body = http::body(response, limits::PROVIDER_REASON_BYTES).await;
    let reason = http::reason(status, &body);
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Answer::Gone,
        StatusCode::TOO_MANY_REQUESTS => Answer::Transient {
            class: "throttled",
            reason,
            retry_after,
        },
        // Our key or our clock: the message is not to blame.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Answer::Transient {
            class: REFUSED,
            reason,
            retry_after,
        },
        status if status.is_server_error() => Answer::Transient {
            class: "provider_away",
            reason,
            retry_after,
        },
        StatusCode::PAYLOAD_TOO_LARGE => Answer::unfit(reason),
        _ => Answer::Permanent {
            class: "rejected",
            reason,
        },
    }
}

/// A push service's own URL: by TLS, at a host that is named or below it, on its port. And that name.
fn endpoint<'a>(text: &str, hosts: &'a [String]) -> Result<(Url, &'a str), String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
        return Err("is not https".into());
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default();
    let is_of = |named: &&String| {
        let (named, named_port) = host_and_port(named);
        let below = host.strip_suffix(named);
        below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            && port == Some(named_port)
    };
    match hosts.iter().find(is_of) {
        Some(named) => Ok((url, named.as_str())),
        None => Err(format!(
            "{host:?} is none of the push services that are named in web_push.hosts, or its port is another"
        )),
    }
}

/// `host` is on the port of https.
fn host_and_port(named: &str) -> (&str, u16) {
    let with_port = named
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    with_port.unwrap_or((named, 443))
}

/// What a page's service worker is given. `data` is left out, and said to be, where there is no room for it.
fn payload(message: &Message<'_>) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    struct Payload<'a> {
        #[serde(flatten)]
        told: Told<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<&'a str>,
    }
    let mut payload = Payload {
        told: Told::of(message),
        title: message.content.title.as_deref(),
        body: message.content.body.as_deref(),
    };
    let mut text = serde_json::to_vec(&payload).expect("plain data");
    if text.len() > TEXT_BYTES_MAX {
        payload.told.shorten();
        text = serde_json::to_vec(&payload).expect("plain data");
    }
    (text.len() <= TEXT_BYTES_MAX).then_some(text)
}

/// As they stand in a device: `<p256dh>.<auth>`.
pub fn keys(secret: &str) -> Result<Keys, &'static str> {
    let (p256dh, auth) = secret.split_once('.').unwrap_or((secret, ""));
    Keys::read(p256dh, auth)
}

/// Who we are to push services: they show it to nobody, and may write to `contact`.
struct Vapid {
    key: EncodingKey,
    public_key: String,
    contact: String,
    /// By origin: signed once in a while, as RFC 8292 has it.
    signed: Mutex<HashMap<String, (u64, String)>>,
}

impl Vapid {
    fn from_file(path: &Path, contact: &str) -> Result<Vapid, ConfigError> {
        const KEY: &str = "web_push.vapid_key_file";
        let pem = Secret::from_file(KEY, path)?;
        let refused = |error: String| {
            let problem = format!(
                "{} is no private key of P-256 in PKCS#8: {error}; make one by `openssl genpkey -algorithm EC \
                 -pkeyopt ec_paramgen_curve:P-256`",
                path.display()
            );
            ConfigError::new(KEY, problem)
        };
        let pem = format!("{}\n", pem.expose());
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| refused(error.to_string()))?;
        let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(signing, der.secret_pkcs8_der())
            .map_err(|error| refused(error.to_string()))?;
        Ok(Vapid {
            key: EncodingKey::from_ec_der(der.secret_pkcs8_der()),
            public_key: BASE64_URL_SAFE_NO_PAD.encode(pair.public_key()),
            contact: contact.to_owned(),
            signed: Mutex::default(),
        })
    }

    fn authorization(&self, endpoint: &Url) -> Result<String, String> {
        let origin = endpoint.origin().ascii_serialization();
        let now_s = unix_ms() / 1000;
        let mut signed = self.signed.lock();
        if let Some((until_s, text)) = signed.get(&origin)
            && now_s < *until_s
        {
            return Ok(text.clone());
        }
        let claims = json!({
            "aud": origin,
            "exp": now_s + limits::VAPID_S,
            "sub": self.contact,
        });
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key)
            .map_err(|error| error.to_string())?;
        let text = format!("vapid t={token}, k={}", self.public_key);
        if signed.len() >= limits::VAPID_ORIGINS {
            signed.clear();
        }
        // Half of its life: clocks differ.
        signed.insert(origin, (now_s + limits::VAPID_S / 2, text.clone()));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        let hosts = [
            "push.example.com",
            "notify.windows.com",
            "local.example:8443",
        ];
        hosts.map(str::to_owned).to_vec()
    }

    #[test]
    fn only_push_services_that_are_named_are_asked_and_only_by_tls() {
        for good in [
            "https://push.example.com/send/abc",
            "https://push.example.com:443/send/abc",
            "https://wns2-am3p.notify.windows.com/w/?token=x",
            "https://local.example:8443/x",
        ] {
            assert!(endpoint(good, &hosts()).is_ok(), "{good}");
        }
        for bad in [
            "http://push.example.com/send/abc",
            "https://evilpush.example.com/",
            "https://push.example.com.evil.example/",
            "https://push.example.com:8443/send/abc",
            "https://local.example/",
            "https://127.0.0.1/",
            "https://push.example.com@evil.example/",
            "https://me:secret@push.example.com/",
            "push.example.com",
            "",
        ] {
            assert!(endpoint(bad, &hosts()).is_err(), "{bad}");
        }
    }
}
