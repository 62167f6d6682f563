//! The client frame of a stored row.

use crate::{
    dispatcher::store::{Row, RowKind},
    ids::NotificationId,
    proto::client::frames::{self, Place},
};
use bytes::Bytes;

/// The content was valid when it was stored: an error is a damaged store.
pub fn of_row(row: &Row, stream: &str) -> Result<Bytes, serde_json::Error> {
    let place = Place {
        stream,
        pos: row.pos,
        prev: row.prev,
    };
    Ok(match row.kind {
        RowKind::Notification => {
            let content = serde_json::from_slice(&row.content)?;
            frames::notification(row.id, place, row.created_ms, &content, row.read)
        }
        RowKind::Read => {
            let ids: Vec<NotificationId> = serde_json::from_slice(&row.content)?;
            frames::read(&ids, place)
        }
    })
}
