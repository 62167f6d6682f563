//! What the server says: the JSON of one frame, read without copying. Unknown fields are ignored.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap};
use uuid::Uuid;

/// Every field any frame has; which of them are there, the `type` says.
#[derive(Debug, Deserialize)]
pub struct ServerFrame<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    pub id: Option<Uuid>,
    #[serde(borrow)]
    pub stream: Option<Cow<'a, str>>,
    pub pos: Option<u64>,
    pub prev: Option<u64>,
    #[serde(borrow)]
    pub priority: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    // sync
    #[serde(borrow, default)]
    pub items: Vec<ServerFrame<'a>>,
    #[serde(borrow, default)]
    pub range: BTreeMap<Cow<'a, str>, Range>,
    #[serde(borrow, default)]
    pub cursors: BTreeMap<Cow<'a, str>, u64>,
    #[serde(default)]
    pub recovered: bool,
    #[serde(default)]
    pub has_more: bool,
    // gap
    pub from: Option<u64>,
    pub to: Option<u64>,
    #[serde(borrow)]
    pub cause: Option<Cow<'a, str>>,
    pub sync_after_ms: Option<u64>,
    // welcome, slot, reconnect
    pub heartbeat_ms: Option<u64>,
    pub slot: Option<Slot>,
    pub after_ms_min: Option<u64>,
    pub after_ms_max: Option<u64>,
    pub after_ms: Option<u64>,
    // error, and close of a stream of events
    #[serde(borrow)]
    pub code: Option<Code<'a>>,
}

/// Of an error its name, of a close its number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Code<'a> {
    Number(u16),
    #[serde(borrow)]
    Name(Cow<'a, str>),
}

/// Positions `(from, to]`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Range {
    pub from: u64,
    pub to: u64,
}

/// When to come back should the host vanish.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Slot {
    pub after_ms_min: u64,
    pub after_ms_max: u64,
}

/// `data` of a notification this tool posted.
#[derive(Debug, Deserialize, serde::Serialize)]
pub struct Mark<'a> {
    /// Which run.
    #[serde(borrow)]
    pub swarm: Cow<'a, str>,
    /// Whose it is; not there: everybody's.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Cow<'a, str>>,
    /// Running number among those of the same target (the user's, or everybody's), from 1.
    pub n: u32,
    /// Unix µs at which the schedule wanted it sent.
    pub at_us: u64,
}

impl<'a> ServerFrame<'a> {
    pub fn parse(text: &'a str) -> Result<ServerFrame<'a>, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The mark of a notification of ours.
    pub fn mark(&self) -> Option<Mark<'a>> {
        let data = self.data?.get();
        if !data.contains("\"swarm\"") {
            return None;
        }
        serde_json::from_str(data).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read_with_its_mark() {
        let text = r#"{"type":"notification","id":"018f0000-0000-7000-8000-000000000001",
            "stream":"user:local","pos":9,"prev":4,"priority":"normal","created_at":1,"later":[1],
            "notification_type":"swarm","data":{"swarm":"r","to":"7","n":3,"at_us":77}}"#;
        let frame = ServerFrame::parse(text).unwrap();
        assert_eq!(
            (frame.kind.as_ref(), frame.pos, frame.prev),
            ("notification", Some(9), Some(4))
        );
        let mark = frame.mark().unwrap();
        assert_eq!((mark.to.as_deref(), mark.n, mark.at_us), (Some("7"), 3, 77));
    }

    #[test]
    fn a_code_is_a_name_or_a_number() {
        let code = |text| ServerFrame::parse(text).unwrap().code.unwrap();
        let close = code(r#"{"type":"close","code":4510,"reason":"x","come_back":false}"#);
        assert!(matches!(close, Code::Number(4510)), "{close:?}");
        let error = code(r#"{"type":"error","code":"unavailable","message":"x"}"#);
        assert!(
            matches!(&error, Code::Name(name) if name == "unavailable"),
            "{error:?}"
        );
    }

    #[test]
    fn a_sync_is_read_with_its_items_and_ranges() {
        let text = r#"{"type":"sync","items":[{"type":"read","ids":[],"stream":"s","pos":2,"prev":1}],
            "range":{"s":{"from":1,"to":2}},"cursors":{"s":2},"recovered":true,"has_more":false}"#;
        let frame = ServerFrame::parse(text).unwrap();
        assert_eq!(frame.items[0].pos, Some(2));
        assert_eq!((frame.range["s"].to, frame.cursors["s"]), (2, 2));
        assert!(frame.recovered && !frame.has_more);
    }
}
