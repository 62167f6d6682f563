//! Server frames as JSON text. Each is one line (what Server-Sent Events need) and begins with its type.

use super::ErrorCode;
use crate::{
    envelope::{Content, Priority},
    ids::NotificationId,
    position::{Cursors, Position},
    proto::close::CloseCode,
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Where an item stands in its stream.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub stream: &'a str,
    pub pos: Position,
    pub prev: Position,
}

/// Why a range of a stream does not arrive as items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// Superseded by a later item of the same collapse key: the cursor advances over the range.
    Collapsed,
    /// Of no use any more: the cursor advances over the range.
    Expired,
    /// Dropped for want of room: sync.
    Pressure,
    /// The gateway may have missed something: sync.
    Behind,
}

impl GapCause {
    pub fn as_str(self) -> &'static str {
        match self {
            GapCause::Collapsed => "collapsed",
            GapCause::Expired => "expired",
            GapCause::Pressure => "pressure",
            GapCause::Behind => "behind",
        }
    }

    /// Whether the client's cursor may advance over the range.
    pub fn covers(self) -> bool {
        matches!(self, GapCause::Collapsed | GapCause::Expired)
    }
}

/// A `gap` frame's content: the range `(from, to]`, or an empty one for `behind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap<'a> {
    pub stream: &'a str,
    pub from: Position,
    pub to: Position,
    pub dropped: u32,
    pub cause: GapCause,
    /// Told with `pressure` and `behind`: wait this long, then sync.
    pub sync_after_ms: Option<u32>,
}

/// The window in which to come back should the host vanish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slot {
    pub after_ms_min: u32,
    pub after_ms_max: u32,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Welcome {
        connection: &'a str,
        heartbeat_ms: u32,
        slot: Slot,
    },
    Notification {
        id: NotificationId,
        stream: &'a str,
        pos: Position,
        prev: Position,
        priority: Priority,
        created_at: u64,
        notification_type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        collapse_key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<&'a str>,
        data: &'a RawValue,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        read: bool,
    },
    Read {
        ids: &'a [NotificationId],
        stream: &'a str,
        pos: Position,
        prev: Position,
    },
    Gap {
        stream: &'a str,
        from: Position,
        to: Position,
        dropped: u32,
        cause: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        sync_after_ms: Option<u32>,
    },
    Slot {
        after_ms_min: u32,
        after_ms_max: u32,
    },
    AuthExpiring {
        in_ms: u64,
    },
    Reconnect {
        after_ms: u32,
        reason: &'a str,
    },
    Close {
        code: u16,
        reason: &'a str,
        come_back: bool,
    },
    Error {
        code: &'static str,
        message: &'a str,
    },
}

fn render(frame: &Frame) -> Bytes {
    serde_json::to_vec(frame)
        .expect("strings and integers can be written")
        .into()
}

pub fn welcome(connection: &str, heartbeat_ms: u32, slot: Slot) -> Bytes {
    render(&Frame::Welcome {
        connection,
        heartbeat_ms,
        slot,
    })
}

/// The one rendering of a notification: by the router when it is pushed, by sync when it is read.
/// `read` is told in sync items only. `data` is passed through, never parsed again.
pub fn notification(
    id: NotificationId,
    place: Place,
    created_ms: u64,
    content: &Content,
    read: bool,
) -> Bytes {
    let frame = render(&Frame::Notification {
        id,
        stream: place.stream,
        pos: place.pos,
        prev: place.prev,
        priority: content.priority,
        created_at: created_ms,
        notification_type: &content.notification_type,
        ttl_ms: content.ttl_s.map(|ttl_s| u64::from(ttl_s) * 1_000),
        collapse_key: content.collapse_key.as_deref(),
        title: content.title.as_deref(),
        body: content.body.as_deref(),
        data: content.data.as_deref().unwrap_or(empty_object()),
        read,
    });
    one_line(frame)
}

/// A read mark: an item of the user's stream with a position of its own.
pub fn read(ids: &[NotificationId], place: Place) -> Bytes {
    render(&Frame::Read {
        ids,
        stream: place.stream,
        pos: place.pos,
        prev: place.prev,
    })
}

/// Rows after the cursors, from items that are rendered already. `ranges` are `(from, to]` per stream.
pub fn sync(
    items: &[Bytes],
    ranges: &BTreeMap<String, (Position, Position)>,
    cursors: &Cursors,
    recovered: bool,
    has_more: bool,
) -> Bytes {
    #[derive(Serialize)]
    struct Range {
        from: Position,
        to: Position,
    }
    #[derive(Serialize)]
    struct Tail<'a> {
        range: BTreeMap<&'a str, Range>,
        cursors: &'a Cursors,
        recovered: bool,
        has_more: bool,
    }
    let tail = Tail {
        range: ranges
            .iter()
            .map(|(stream, &(from, to))| (stream.as_str(), Range { from, to }))
            .collect(),
        cursors,
        recovered,
        has_more,
    };
    let length: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut json = Vec::with_capacity(length + 256);
    json.extend_from_slice(br#"{"type":"sync","items":["#);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend_from_slice(item);
    }
    json.extend_from_slice(b"],");
    let tail = serde_json::to_vec(&tail).expect("strings and integers can be written");
    // Without its opening brace: the object began above.
    json.extend_from_slice(&tail[1..]);
    json.into()
}

pub fn gap(gap: Gap) -> Bytes {
    render(&Frame::Gap {
        stream: gap.stream,
        from: gap.from,
        to: gap.to,
        dropped: gap.dropped,
        cause: gap.cause.as_str(),
        sync_after_ms: gap.sync_after_ms,
    })
}

pub fn slot(slot: Slot) -> Bytes {
    render(&Frame::Slot {
        after_ms_min: slot.after_ms_min,
        after_ms_max: slot.after_ms_max,
    })
}

pub fn auth_expiring(in_ms: u64) -> Bytes {
    render(&Frame::AuthExpiring { in_ms })
}

pub fn reconnect(after_ms: u32, reason: &str) -> Bytes {
    render(&Frame::Reconnect { after_ms, reason })
}

/// The last frame of an event stream; a WebSocket has a close frame instead.
pub fn close(code: CloseCode, reason: &str) -> Bytes {
    render(&Frame::Close {
        code: code.code(),
        reason,
        come_back: code.comes_back(),
    })
}

pub fn error(code: ErrorCode, message: &str) -> Bytes {
    render(&Frame::Error {
        code: code.as_str(),
        message,
    })
}

/// To a gateway's own canary only.
pub fn probe(id: NotificationId) -> Bytes {
    format!(r#"{{"type":"probe","id":"{id}"}}"#).into()
}

pub fn pong() -> Bytes {
    Bytes::from_static(br#"{"type":"pong"}"#)
}

/// A producer's `data` may be laid out over lines. A raw line break in JSON is white space only (in a
/// string it is escaped), so a space in its place says the same, and an SSE `data:` line holds it.
pub fn one_line(json: Bytes) -> Bytes {
    if !json.iter().any(|b| matches!(b, b'\n' | b'\r')) {
        return json;
    }
    json.iter()
        .map(|&b| if matches!(b, b'\n' | b'\r') { b' ' } else { b })
        .collect()
}

fn empty_object() -> &'static RawValue {
    serde_json::from_str("{}").expect("an empty object")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn value(frame: &Bytes) -> Value {
        serde_json::from_slice(frame).unwrap()
    }

    fn content(json: Value) -> Content {
        serde_json::from_str(&json.to_string()).unwrap()
    }

    fn p(offset: u64) -> Position {
        Position::new(1, offset).unwrap()
    }

    fn place() -> Place<'static> {
        Place {
            stream: "user:local",
            pos: p(9),
            prev: p(7),
        }
    }

    #[test]
    fn a_notification_carries_its_place_and_what_the_producer_gave() {
        let id = NotificationId::generate();
        let content = content(json!({
            "type": "order", "priority": "high", "channels": ["in_app"], "title": "T",
            "body": "a \"quote\"", "data": {"n": 1}, "collapse_key": "k", "ttl_s": 3, "producer": "shop",
        }));
        assert_eq!(
            value(&notification(id, place(), 5, &content, true)),
            json!({
                "type": "notification", "id": id.to_string(), "stream": "user:local",
                "pos": p(9).value(), "prev": p(7).value(), "priority": "high", "created_at": 5,
                "notification_type": "order", "ttl_ms": 3000, "collapse_key": "k", "title": "T",
                "body": "a \"quote\"", "data": {"n": 1}, "read": true,
            })
        );
    }

    #[test]
    fn what_a_producer_left_out_is_absent_and_data_is_an_empty_object() {
        let content = content(json!({"type": "order", "channels": []}));
        let frame = value(&notification(
            NotificationId::generate(),
            place(),
            5,
            &content,
            false,
        ));
        assert_eq!(frame["data"], json!({}));
        for absent in ["ttl_ms", "collapse_key", "title", "body", "read"] {
            assert_eq!(frame.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn data_is_passed_through_to_the_byte_but_on_one_line() {
        let mut content = content(json!({"type": "order", "channels": []}));
        let data = "{\"big\": 12345678901234567890123, \n\t\"e\":1e2,\r\n\"s\":\"a\\nb\"}";
        content.data = Some(RawValue::from_string(data.into()).unwrap());
        let frame = notification(NotificationId::generate(), place(), 5, &content, false);
        let text = std::str::from_utf8(&frame).unwrap();
        let expected =
            "\"data\":{\"big\": 12345678901234567890123,  \t\"e\":1e2,  \"s\":\"a\\nb\"}";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_sync_concatenates_what_is_rendered_already() {
        let items = [
            Bytes::from_static(br#"{"type":"read","ids":[]}"#),
            Bytes::from_static(br#"{"type":"notification"}"#),
        ];
        let ranges = BTreeMap::from([("user:local".to_owned(), (p(1), p(9)))]);
        let cursors = Cursors::from([("user:local".to_owned(), p(9))]);
        assert_eq!(
            value(&sync(&items, &ranges, &cursors, true, false)),
            json!({
                "type": "sync", "items": [{"type": "read", "ids": []}, {"type": "notification"}],
                "range": {"user:local": {"from": p(1).value(), "to": p(9).value()}},
                "cursors": {"user:local": p(9).value()}, "recovered": true, "has_more": false,
            })
        );
        assert_eq!(
            value(&sync(&[], &BTreeMap::new(), &Cursors::new(), false, false)),
            json!({
                "type": "sync", "items": [], "range": {}, "cursors": {}, "recovered": false,
                "has_more": false,
            })
        );
    }

    #[test]
    fn the_other_frames_have_the_shapes_of_the_protocol() {
        let id = NotificationId::generate();
        let window = Slot {
            after_ms_min: 0,
            after_ms_max: 5,
        };
        let told = Gap {
            stream: "user:local",
            from: p(1),
            to: p(4),
            dropped: 3,
            cause: GapCause::Pressure,
            sync_after_ms: Some(10),
        };
        let quiet = Gap {
            cause: GapCause::Expired,
            sync_after_ms: None,
            ..told
        };
        let (one, four) = (p(1).value(), p(4).value());
        let expected = [
            (
                welcome("gw-1.7.0-1-2", 30_000, window),
                json!({"type": "welcome", "connection": "gw-1.7.0-1-2", "heartbeat_ms": 30000,
                    "slot": {"after_ms_min": 0, "after_ms_max": 5}}),
            ),
            (
                read(&[id], place()),
                json!({"type": "read", "ids": [id.to_string()], "stream": "user:local",
                    "pos": p(9).value(), "prev": p(7).value()}),
            ),
            (
                gap(told),
                json!({"type": "gap", "stream": "user:local", "from": one, "to": four,
                    "dropped": 3, "cause": "pressure", "sync_after_ms": 10}),
            ),
            (
                gap(quiet),
                json!({"type": "gap", "stream": "user:local", "from": one, "to": four,
                    "dropped": 3, "cause": "expired"}),
            ),
            (
                slot(window),
                json!({"type": "slot", "after_ms_min": 0, "after_ms_max": 5}),
            ),
            (
                auth_expiring(7),
                json!({"type": "auth_expiring", "in_ms": 7}),
            ),
            (
                reconnect(7, "drain"),
                json!({"type": "reconnect", "after_ms": 7, "reason": "drain"}),
            ),
            (
                error(ErrorCode::TooManyIds, "m"),
                json!({"type": "error", "code": "too_many_ids", "message": "m"}),
            ),
            (pong(), json!({"type": "pong"})),
        ];
        for (frame, json) in expected {
            assert!(frame.starts_with(b"{\"type\":\""));
            assert_eq!(value(&frame), json);
        }
    }
}
