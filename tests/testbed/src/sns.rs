//! Amazon SNS as its documentation has it: it signs messages by a certificate that lies on its host, posts them, and is
//! visited to confirm a subscription. It listens on this machine; the host is in its certificate, and in its URLs.

use crate::{
    certificates,
    https::{Https, Serving},
    locked,
};
use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

const HOST: &str = "sns.eu-central-1.amazonaws.com";
const CERTIFICATE: &str = "/SimpleNotificationService-7ff5318490ec183fbaddaa2a969abfda.pem";
/// A certificate of somebody else, on the same host.
const FOREIGN: &str = "/SimpleNotificationService-00000000000000000000000000000000.pem";

pub struct SnsServer {
    directory: TempDir,
    address: SocketAddr,
    seen: Arc<Seen>,
    _serving: Serving,
}

struct Seen {
    certificate: Vec<u8>,
    foreign: Vec<u8>,
    /// Whether nobody is served.
    down: Mutex<bool>,
    fetched: Mutex<usize>,
    /// Topics and tokens of subscriptions that were confirmed.
    confirmed: Mutex<Vec<(String, String)>>,
    wrong: Mutex<Vec<String>>,
}

impl SnsServer {
    pub async fn start() -> SnsServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        certificates::make(path, &[]);
        let issue = |name: &str, others: &str| {
            certificates::issue(path, name, certificates::RSA_KEY, others);
            std::fs::read(path.join(format!("{name}.pem"))).expect("made")
        };
        issue("server", &format!("DNS:{HOST}"));
        let seen = Arc::new(Seen {
            certificate: issue("signing", "DNS:sns.amazonaws.com"),
            foreign: issue("foreign", "DNS:ses.amazonaws.com"),
            down: Mutex::default(),
            fetched: Mutex::default(),
            confirmed: Mutex::default(),
            wrong: Mutex::default(),
        });
        let https = Https::bind(path, &["h2", "http/1.1"]).await;
        SnsServer {
            address: https.address(),
            _serving: https.serve(pages(seen.clone())),
            directory,
            seen,
        }
    }

    /// That is dialled in the place of its host.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A topic of this name.
    pub fn topic(&self, name: &str) -> String {
        format!("arn:aws:sns:eu-central-1:123456789012:{name}")
    }

    /// 503 for everybody, or no longer.
    pub fn set_down(&self, down: bool) {
        *locked(&self.seen.down) = down;
    }

    /// Times that its certificate was asked for.
    pub fn fetched(&self) -> usize {
        *locked(&self.seen.fetched)
    }

    pub fn confirmed(&self) -> Vec<(String, String)> {
        locked(&self.seen.confirmed).clone()
    }

    pub fn wrong(&self) -> Vec<String> {
        locked(&self.seen.wrong).clone()
    }

    /// What was published to a topic, signed in this version.
    pub fn notification(&self, topic: &str, version: &str, text: &str) -> Value {
        let mut message = begun("Notification", topic, version, text);
        message["UnsubscribeURL"] = format!("https://{HOST}/?Action=Unsubscribe").into();
        self.sign(message)
    }

    /// With the subject that a publisher gave.
    pub fn notification_about(&self, topic: &str, subject: &str, text: &str) -> Value {
        let mut message = begun("Notification", topic, "2", text);
        message["Subject"] = subject.into();
        self.sign(message)
    }

    /// Of this type, with a token and where to go with it.
    pub fn of_subscription(&self, kind: &str, topic: &str, token: &str) -> Value {
        let url =
            format!("https://{HOST}/?Action=ConfirmSubscription&TopicArn={topic}&Token={token}");
        self.of_subscription_at(kind, topic, token, &url)
    }

    pub fn of_subscription_at(&self, kind: &str, topic: &str, token: &str, url: &str) -> Value {
        let mut message = begun(kind, topic, "1", "You have chosen.\nTo confirm, visit.");
        message["Token"] = token.into();
        message["SubscribeURL"] = url.into();
        self.sign(message)
    }

    /// By another certificate of the same host, which is not of SNS.
    pub fn sign_by_another(&self, mut message: Value) -> Value {
        message["SigningCertURL"] = format!("https://{HOST}{FOREIGN}").into();
        let key = self.directory.path().join("foreign.key");
        message["Signature"] = signature(&message, &key).into();
        message
    }

    fn sign(&self, mut message: Value) -> Value {
        let key = self.directory.path().join("signing.key");
        message["Signature"] = signature(&message, &key).into();
        message
    }
}

fn begun(kind: &str, topic: &str, version: &str, text: &str) -> Value {
    json!({
        "Type": kind,
        "MessageId": uuid::Uuid::now_v7(),
        "TopicArn": topic,
        "Message": text,
        "Timestamp": format!("{:.3}", Timestamp::now()),
        "SignatureVersion": version,
        "SigningCertURL": format!("https://{HOST}{CERTIFICATE}"),
    })
}

/// By another program than the one under test.
fn signature(message: &Value, key: &Path) -> String {
    let names: &[&str] = match message["Type"].as_str() {
        Some("Notification") => &[
            "Message",
            "MessageId",
            "Subject",
            "Timestamp",
            "TopicArn",
            "Type",
        ],
        _ => &[
            "Message",
            "MessageId",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ],
    };
    let given = names
        .iter()
        .filter_map(|name| Some((name, message[*name].as_str()?)));
    let text: String = given
        .map(|(name, value)| format!("{name}\n{value}\n"))
        .collect();
    let directory = key.parent().expect("a file in a directory");
    let file = tempfile::NamedTempFile::new_in(directory).expect("a file");
    std::fs::write(file.path(), text).expect("a file");
    let digest = match message["SignatureVersion"].as_str() {
        Some("1") => "sha1",
        _ => "sha256",
    };
    let (key, file) = (key.display(), file.path().display());
    let signed = certificates::openssl(directory, &format!("dgst -{digest} -sign {key} {file}"));
    BASE64_STANDARD.encode(signed)
}

fn pages(seen: Arc<Seen>) -> Router {
    Router::new()
        .route(CERTIFICATE, get(certificate))
        .route(
            FOREIGN,
            get(async |State(seen): State<Arc<Seen>>| seen.foreign.clone()),
        )
        .route("/", get(confirm))
        .with_state(seen)
}

async fn certificate(State(seen): State<Arc<Seen>>) -> Response {
    *locked(&seen.fetched) += 1;
    match *locked(&seen.down) {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => seen.certificate.clone().into_response(),
    }
}

async fn confirm(
    State(seen): State<Arc<Seen>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let value = |name: &str| {
        let found = pairs.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    if *locked(&seen.down) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let host = headers.get(header::HOST);
    if host.is_some_and(|host| host != HOST) {
        locked(&seen.wrong).push("another host".into());
    }
    match (
        value("Action").as_deref(),
        value("TopicArn"),
        value("Token"),
    ) {
        (Some("ConfirmSubscription"), Some(topic), Some(token)) => {
            locked(&seen.confirmed).push((topic, token));
            "<ConfirmSubscriptionResponse/>".into_response()
        }
        _ => {
            locked(&seen.wrong).push(query);
            StatusCode::BAD_REQUEST.into_response()
        }
    }
}
