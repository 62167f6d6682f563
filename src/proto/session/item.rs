//! One encoded item, shared by every connection it goes to.

use crate::{
    envelope::{self, Kind, Priority, Routed},
    ids::NotificationId,
    position::Position,
    proto::{client::frames, frame},
};
use bytes::Bytes;
use std::sync::Arc;

#[derive(Debug)]
pub struct Item {
    pub kind: Kind,
    pub id: NotificationId,
    /// Stream name, e.g. `user:local`.
    pub stream: Arc<str>,
    pub pos: Position,
    pub prev: Position,
    pub lane: Priority,
    pub expires_ms: Option<u64>,
    pub collapse_key: Option<Box<str>>,
    /// WebSocket header and JSON text in one piece.
    ws: Bytes,
    /// Where the JSON text starts in `ws` (2, 4 or 10).
    json_at: u8,
}

impl Item {
    /// Encodes the WebSocket frame, once for all its receivers.
    #[expect(
        clippy::too_many_arguments,
        reason = "one per field, and every caller has them all at hand"
    )]
    pub fn new(
        kind: Kind,
        id: NotificationId,
        stream: Arc<str>,
        pos: Position,
        prev: Position,
        lane: Priority,
        expires_ms: Option<u64>,
        collapse_key: Option<Box<str>>,
        json: Bytes,
    ) -> Item {
        // The router writes one line already; a record of another producer may not.
        let json = frames::one_line(json);
        let ws = frame::encode(frame::TEXT, &json);
        Item {
            kind,
            id,
            stream,
            pos,
            prev,
            lane,
            expires_ms,
            collapse_key,
            json_at: (ws.len() - json.len()) as u8,
            ws,
        }
    }

    /// `stream` is the record's name, interned by the caller.
    pub fn routed(routed: &Routed, stream: Arc<str>) -> Item {
        Item::new(
            routed.head.kind,
            routed.head.id,
            stream,
            routed.pos,
            routed.prev,
            routed.head.priority,
            routed.head.expires_ms,
            routed.collapse_key.as_deref().map(Box::from),
            routed.frame.clone(),
        )
    }

    /// For a gateway's own canary, which acknowledges it by its id.
    pub fn probe(id: NotificationId) -> Item {
        let json = frames::probe(id);
        let (start, lane) = (Position::START, Priority::Critical);
        let stream = "probe".into();
        Item::new(
            Kind::Probe,
            id,
            stream,
            start,
            start,
            lane,
            None,
            None,
            json,
        )
    }

    /// The frame as a WebSocket client receives it.
    pub fn ws(&self) -> &Bytes {
        &self.ws
    }

    pub fn json(&self) -> &[u8] {
        &self.ws[usize::from(self.json_at)..]
    }

    pub fn is_expired(&self, unix_ms: u64) -> bool {
        envelope::is_expired(self.expires_ms, unix_ms)
    }
}
