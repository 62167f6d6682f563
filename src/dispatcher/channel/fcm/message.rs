//! A notification in the words of FCM.

use crate::{
    dispatcher::channel::{
        Message,
        push::{self, Options, Told},
    },
    limits,
};
use serde_json::{Map, Value, json};

/// The body of `messages:send`.
pub fn write(message: &Message<'_>, is_dry_run: bool) -> Result<Vec<u8>, String> {
    let options = Options::of(message)?;
    let mut told = Told::of(message);
    let notification = notification(message);
    let mut data = data(&told);
    if bytes(&notification) + bytes(&data) > limits::FCM_MESSAGE_BYTES {
        told.shorten();
        data = self::data(&told);
    }
    if bytes(&notification) + bytes(&data) > limits::FCM_MESSAGE_BYTES {
        let most = limits::FCM_MESSAGE_BYTES;
        return Err(format!("title and body have more than {most} bytes"));
    }
    let is_silent = notification.is_empty();
    let mut text = Map::new();
    text.insert("token".into(), message.device.address.clone().into());
    text.insert("data".into(), data.into());
    if !is_silent {
        text.insert("notification".into(), notification.into());
    }
    let blocks = [
        ("android", android(message), options.android),
        ("apns", apns(message, is_silent), options.apns),
        ("webpush", webpush(message), options.webpush),
    ];
    for (name, mut ours, theirs) in blocks {
        push::merge(&mut ours, theirs);
        text.insert(name.into(), ours.into());
    }
    let body = json!({ "validate_only": is_dry_run, "message": text });
    Ok(body.to_string().into_bytes())
}

fn notification(message: &Message<'_>) -> Map<String, Value> {
    let content = message.content;
    let parts = [("title", &content.title), ("body", &content.body)];
    let given = parts
        .into_iter()
        .filter_map(|(key, text)| Some((key.to_owned(), Value::from(text.as_deref()?))));
    given.collect()
}

/// All its values are texts.
fn data(told: &Told<'_>) -> Map<String, Value> {
    let mut data = Map::new();
    let mut put = |key: &str, value: String| data.insert(key.to_owned(), value.into());
    put("id", told.id.clone());
    put("type", told.notification_type.to_owned());
    put("priority", told.priority.as_str().to_owned());
    put("created_at", told.created_at.to_string());
    if let Some(data) = told.data {
        put("data", data.get().to_owned());
    }
    if told.truncated {
        put("truncated", "true".into());
    }
    data
}

/// As FCM counts: keys and values.
fn bytes(texts: &Map<String, Value>) -> usize {
    let value = |value: &Value| value.as_str().map_or(0, str::len);
    texts
        .iter()
        .map(|(key, text)| key.len() + value(text))
        .sum()
}

fn android(message: &Message<'_>) -> Map<String, Value> {
    let mut block = Map::new();
    let priority = match push::is_urgent(message.head.priority) {
        true => "HIGH",
        false => "NORMAL",
    };
    block.insert("priority".into(), priority.into());
    if let Some(ttl_s) = push::ttl_s(message.head) {
        let ttl_s = ttl_s.min(limits::PUSH_TTL_S);
        block.insert("ttl".into(), format!("{ttl_s}s").into());
    }
    if let Some(key) = &message.content.collapse_key {
        block.insert("collapse_key".into(), key.as_str().into());
    }
    block
}

/// What FCM hands on to Apple, for tokens that stand for its devices.
fn apns(message: &Message<'_>, is_silent: bool) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut put = |key: &str, value: String| headers.insert(key.to_owned(), value.into());
    let is_urgent = push::is_urgent(message.head.priority) && !is_silent;
    put("apns-priority", if is_urgent { "10" } else { "5" }.into());
    if let Some(at_ms) = message.head.expires_ms {
        put("apns-expiration", (at_ms / 1000).to_string());
    }
    if let Some(key) = &message.content.collapse_key {
        put("apns-collapse-id", push::topic(key));
    }
    let mut block = Map::new();
    if is_silent {
        put("apns-push-type", "background".into());
        let payload = json!({ "aps": { "content-available": 1 } });
        block.insert("payload".into(), payload);
    }
    block.insert("headers".into(), headers.into());
    block
}

fn webpush(message: &Message<'_>) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut put = |key: &str, value: String| headers.insert(key.to_owned(), value.into());
    put("Urgency", push::urgency(message.head.priority).into());
    if let Some(ttl_s) = push::ttl_s(message.head) {
        put("TTL", ttl_s.min(limits::PUSH_TTL_S).to_string());
    }
    if let Some(key) = &message.content.collapse_key {
        put("Topic", push::topic(key));
    }
    Map::from_iter([("headers".to_owned(), headers.into())])
}
