//! An open connection: what it may receive, what waits to be sent, when it is dead. The same code for
//! WebSocket and SSE; only the framing of what leaves differs.

use super::close::CloseCode;
use crate::{
    envelope::{Fate, Kind, Priority},
    ids::NotificationId,
    position::{Cursors, Position},
};
use bytes::Bytes;

/// One encoded item, shared by every connection it goes to.
#[derive(Debug)]
pub struct Item {
    pub kind: Kind,
    pub id: NotificationId,
    /// Stream name, e.g. `user:local`.
    pub stream: std::sync::Arc<str>,
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

/// Identifies one delivery towards control: whose outcome it is.
pub type Ticket = u64;

/// How bytes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    WebSocket,
    Sse,
}

/// What the session asks of its surroundings.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Acked(Vec<NotificationId>),
    Read(Vec<NotificationId>),
    Sync {
        cursors: Cursors,
        limit: usize,
    },
    /// First authentication or a refresh; answer with [`Session::authenticated`] or a close.
    Authenticate {
        token: String,
        cursors: Option<Cursors>,
    },
    /// A delivery reached its end here.
    Fate {
        ticket: Ticket,
        fate: Fate,
    },
    Close {
        code: CloseCode,
        reason: &'static str,
    },
}
