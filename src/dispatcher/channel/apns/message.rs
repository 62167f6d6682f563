//! A notification in the words of APNs.

use crate::{
    dispatcher::channel::{
        Message,
        push::{self, Options, Told},
    },
    limits,
};
use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Without our token. `host` is that of the server, `topic` the app's.
pub fn write(
    message: &Message<'_>,
    host: &str,
    topic: &str,
) -> Result<Request<Full<Bytes>>, String> {
    let mut options = Options::of(message)?.apns;
    let payload = take_object(&mut options, "payload")?;
    let asked = take_object(&mut options, "headers")?;
    // For FCM alone.
    options.remove("fcm_options");
    if let Some(key) = options.keys().next() {
        return Err(format!(
            "push.apns.{key} is nothing that APNs takes: headers and payload"
        ));
    }
    let (payload, is_silent) = self::payload(message, payload)?;
    let mut headers = headers(message, topic, is_silent);
    for (name, value) in asked {
        let value = value.as_str().map(str::to_owned);
        let value = value.ok_or_else(|| format!("push.apns.headers.{name} is no string"))?;
        let name = name.to_ascii_lowercase();
        let is_topic = name == "apns-topic" && is_of_app(&value, topic);
        let known = [
            "apns-priority",
            "apns-expiration",
            "apns-collapse-id",
            "apns-push-type",
        ];
        match known.iter().find(|known| **known == name) {
            Some(known) => headers.push((known, value)),
            None if is_topic => headers.push(("apns-topic", value)),
            None => {
                let problem = "is none of: apns-priority, apns-expiration, apns-collapse-id, \
                               apns-push-type, apns-topic (of the app)";
                return Err(format!("push.apns.headers.{name} {problem}"));
            }
        }
    }
    let url = format!("https://{host}/3/device/{}", message.device.address);
    let request = Request::post(url).body(Full::new(payload));
    let mut request = request.map_err(|error| error.to_string())?;
    for (name, value) in headers {
        let value = HeaderValue::try_from(value);
        let value = value.map_err(|error| format!("push.apns.headers.{name}: {error}"))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

/// The app itself, or a part of it: `com.example.shop.voip`.
fn is_of_app(topic: &str, app: &str) -> bool {
    let part = topic.strip_prefix(app);
    part.is_some_and(|part| part.is_empty() || part.starts_with('.'))
}

fn take_object(of: &mut Map<String, Value>, key: &str) -> Result<Map<String, Value>, String> {
    match of.remove(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(format!("push.apns.{key} is no object")),
    }
}

/// The later of two of a name counts.
fn headers(message: &Message<'_>, topic: &str, is_silent: bool) -> Vec<(&'static str, String)> {
    let (push_type, priority) = match is_silent {
        true => ("background", "5"),
        false if push::is_urgent(message.head.priority) => ("alert", "10"),
        false => ("alert", "5"),
    };
    let mut headers = vec![
        ("apns-topic", topic.to_owned()),
        ("apns-push-type", push_type.to_owned()),
        ("apns-priority", priority.to_owned()),
        ("apns-id", name(message).to_string()),
    ];
    if let Some(at_ms) = message.head.expires_ms {
        headers.push(("apns-expiration", (at_ms / 1000).to_string()));
    }
    if let Some(key) = &message.content.collapse_key {
        headers.push(("apns-collapse-id", push::topic(key)));
    }
    headers
}

/// The same however often it is sent: of the notification and the device.
fn name(message: &Message<'_>) -> Uuid {
    let device = message.device;
    let parts = format!("{}\n{}\n{}", message.head.id, device.user, device.id);
    let digest = digest::digest(&digest::SHA256, parts.as_bytes());
    let bytes = digest.as_ref()[..16].try_into().expect("16 bytes");
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// And whether a user sees and hears nothing of it.
fn payload(message: &Message<'_>, mut asked: Map<String, Value>) -> Result<(Bytes, bool), String> {
    #[derive(Serialize)]
    struct Payload<'a> {
        aps: Map<String, Value>,
        #[serde(flatten)]
        told: Told<'a>,
        #[serde(flatten)]
        asked: Map<String, Value>,
    }
    let mut alert = Map::new();
    let parts = [
        ("title", &message.content.title),
        ("body", &message.content.body),
    ];
    for (key, text) in parts {
        if let Some(text) = text {
            alert.insert(key.into(), text.as_str().into());
        }
    }
    let mut aps = Map::new();
    if !alert.is_empty() {
        aps.insert("alert".into(), alert.into());
    }
    match asked.remove("aps") {
        None | Some(Value::Null) => {}
        Some(Value::Object(asked)) => push::merge(&mut aps, asked),
        Some(_) => return Err("push.apns.payload.aps is no object".into()),
    }
    let seen = ["alert", "badge", "sound"].map(|key| aps.get(key));
    let is_silent = seen.iter().flatten().all(|value| value.is_null());
    if is_silent {
        aps.insert("content-available".into(), json!(1));
    }
    let ours = ["id", "type", "priority", "created_at", "data", "truncated"];
    if let Some(key) = ours.iter().find(|key| asked.contains_key(**key)) {
        return Err(format!("push.apns.payload.{key} is what Herald says there"));
    }
    let mut payload = Payload {
        aps,
        told: Told::of(message),
        asked,
    };
    let most = limits::APNS_PAYLOAD_BYTES;
    let mut text = serde_json::to_vec(&payload).map_err(|error| error.to_string())?;
    if text.len() > most {
        payload.told.shorten();
        text = serde_json::to_vec(&payload).map_err(|error| error.to_string())?;
    }
    match text.len() <= most {
        true => Ok((text.into(), is_silent)),
        false => Err(format!(
            "title, body and push.apns.payload have more than {most} bytes"
        )),
    }
}
