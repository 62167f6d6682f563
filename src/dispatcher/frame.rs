//! The client frame of a stored row, rendered once; every gateway and device gets these bytes.

use crate::{
    dispatcher::store::{Row, RowKind},
    envelope::{Content, Priority},
    ids::NotificationId,
    position::Position,
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

/// Where an item stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub stream: &'a str,
    pub pos: Position,
    pub prev: Position,
}

/// What a frame says of a notification beside its content.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub id: NotificationId,
    pub priority: Priority,
    pub created_ms: u64,
    pub read: bool,
}

#[derive(Serialize)]
struct NotificationFrame<'a> {
    #[serde(rename = "type")]
    frame_type: &'static str,
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
}

#[derive(Serialize)]
struct ReadFrame<'a> {
    #[serde(rename = "type")]
    frame_type: &'static str,
    ids: &'a [NotificationId],
    stream: &'a str,
    pos: Position,
    prev: Position,
}

pub fn notification(facts: Facts, content: &Content, place: Place<'_>) -> Bytes {
    let no_data = RawValue::from_string("{}".to_owned()).expect("an object");
    encode(&NotificationFrame {
        frame_type: "notification",
        id: facts.id,
        stream: place.stream,
        pos: place.pos,
        prev: place.prev,
        priority: facts.priority,
        created_at: facts.created_ms,
        notification_type: &content.notification_type,
        ttl_ms: content.ttl_s.map(|ttl_s| u64::from(ttl_s) * 1000),
        collapse_key: content.collapse_key.as_deref(),
        title: content.title.as_deref(),
        body: content.body.as_deref(),
        data: content.data.as_deref().unwrap_or(&no_data),
        read: facts.read,
    })
}

pub fn read_mark(ids: &[NotificationId], place: Place<'_>) -> Bytes {
    encode(&ReadFrame {
        frame_type: "read",
        ids,
        stream: place.stream,
        pos: place.pos,
        prev: place.prev,
    })
}

/// The frame of a row as stored. The content was valid when it was stored: an error is a damaged store.
pub fn of_row(row: &Row, stream: &str) -> Result<Bytes, serde_json::Error> {
    let place = Place {
        stream,
        pos: row.pos,
        prev: row.prev,
    };
    Ok(match row.kind {
        RowKind::Notification => {
            let facts = Facts {
                id: row.id,
                priority: row.priority,
                created_ms: row.created_ms,
                read: row.read,
            };
            notification(facts, &serde_json::from_slice(&row.content)?, place)
        }
        RowKind::Read => {
            let ids: Vec<NotificationId> = serde_json::from_slice(&row.content)?;
            read_mark(&ids, place)
        }
    })
}

fn encode(frame: &impl Serialize) -> Bytes {
    serde_json::to_vec(frame)
        .expect("frames are plain data")
        .into()
}
