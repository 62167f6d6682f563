//! What the providers of the channel `push` have in common: how long a notification is of use, how urgent it is, and what
//! its producer wants beside.

use super::Message;
use crate::{
    dispatcher::unix_ms,
    envelope::{Head, Priority},
};
use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

/// Seconds that are left of its life; `None`: it has no end.
pub fn ttl_s(head: &Head) -> Option<u64> {
    let left_ms = head.expires_ms.map(|at_ms| at_ms.saturating_sub(unix_ms()));
    left_ms.map(|ms| ms / 1000)
}

/// Whether a device is to be woken for it.
pub fn is_urgent(priority: Priority) -> bool {
    matches!(priority, Priority::Critical | Priority::High)
}

/// As RFC 8030 has it.
pub fn urgency(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical | Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

/// 32 characters of base64url for any collapse key: of a hash, for a key may be longer.
pub fn topic(collapse_key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, collapse_key.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..24])
}

/// `push` of a request, in the words of FCM: what is given there wins over what we would say.
#[derive(Debug, Default, Deserialize)]
pub struct Options {
    #[serde(default)]
    pub android: Map<String, Value>,
    #[serde(default)]
    pub apns: Map<String, Value>,
    #[serde(default)]
    pub webpush: Map<String, Value>,
}

impl Options {
    pub fn of(message: &Message<'_>) -> Result<Options, String> {
        let Some(push) = &message.content.push else {
            return Ok(Options::default());
        };
        serde_json::from_str(push.get()).map_err(|error| format!("push: {error}"))
    }
}

/// Objects are merged, all else is replaced.
pub fn merge(ours: &mut Map<String, Value>, theirs: Map<String, Value>) {
    for (key, value) in theirs {
        match (ours.get_mut(&key), value) {
            (Some(Value::Object(ours)), Value::Object(theirs)) => merge(ours, theirs),
            (_, value) => {
                ours.insert(key, value);
            }
        }
    }
}

/// What an application is told of a notification, however it comes.
#[derive(Serialize)]
pub struct Told<'a> {
    pub id: String,
    #[serde(rename = "type")]
    pub notification_type: &'a str,
    pub priority: Priority,
    pub created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// `data` was left out: there was no room for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl<'a> Told<'a> {
    pub fn of(message: &Message<'a>) -> Told<'a> {
        let Message { head, content, .. } = message;
        Told {
            id: head.id.to_string(),
            notification_type: &content.notification_type,
            priority: head.priority,
            created_at: head.created_ms,
            data: content.data.as_deref(),
            truncated: false,
        }
    }

    /// As little as there can be: without `data`, if there was any.
    pub fn shorten(&mut self) {
        self.truncated = self.data.take().is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_producer_gives_wins_and_what_it_leaves_out_stays() {
        let Value::Object(mut ours) = json!({ "a": { "x": 1, "y": 2 }, "b": 3 }) else {
            unreachable!("an object");
        };
        let Value::Object(theirs) = json!({ "a": { "y": 5 }, "b": { "z": 6 }, "c": null }) else {
            unreachable!("an object");
        };
        merge(&mut ours, theirs);
        let merged = json!({ "a": { "x": 1, "y": 5 }, "b": { "z": 6 }, "c": null });
        assert_eq!(Value::Object(ours), merged);
    }

    #[test]
    fn a_topic_fits_whatever_the_collapse_key_is() {
        let topics = ["k", &"k".repeat(128), "ü/ \\n"].map(topic);
        assert!(topics.iter().all(|topic| topic.len() == 32));
        assert_ne!(topics[0], topics[1]);
    }
}
