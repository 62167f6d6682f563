//! A user's inbox: notifications and broadcasts in one list, newest first, and reading them.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, QueryPairs, Whole, parse_limit},
    notifications::parse_id,
    producer::Producer,
};
use crate::{
    dispatcher::{
        intake::{fields::Fields, request::Refusal},
        store::Row,
        tags, unix_ms,
    },
    envelope::{Content, Priority, is_expired},
    ids::{IdError, NotificationId, UserId},
    limits,
    position::Position,
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use std::iter::Peekable;

#[derive(Deserialize)]
pub struct PageQuery {
    limit: Option<String>,
    cursor: Option<String>,
}

/// Where the next page starts, in both streams: `<user position>.<broadcast position>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PageCursor {
    user: Option<Position>,
    broadcast: Option<Position>,
}

#[derive(Serialize)]
pub struct Page {
    items: Vec<Item>,
    unread: u64,
    next: Option<String>,
}

pub async fn page(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
    QueryPairs(query): QueryPairs<PageQuery>,
) -> Result<Json<Page>, ApiError> {
    let user = parse_user(&user)?;
    let limit = parse_limit(query.limit.as_deref(), limits::SYNC_ITEMS)?;
    let cursor = match query.cursor.as_deref() {
        None => PageCursor::default(),
        Some(text) => PageCursor::parse(text)
            .ok_or_else(|| Refusal::field("cursor", "was not given by us"))?,
    };
    // One more than asked tells whether there is a next page.
    let (own, broadcasts, unread) = tokio::try_join!(
        shared.store.page(&user, cursor.user, limit + 1),
        shared.store.broadcast_page(cursor.broadcast, limit + 1),
        shared.newest_tags.unread(&shared.store, &user),
    )?;
    let mut merged = merge(own, broadcasts, cursor);
    let page: Vec<Entry> = merged.by_ref().take(limit).collect();
    let has_more = merged.next().is_some();
    let next = match page.last() {
        Some(last) if has_more => Some(last.cursor.to_string()),
        _ => None,
    };
    let broadcasts = page.iter().filter(|entry| entry.is_broadcast);
    let broadcasts: Vec<&Row> = broadcasts.map(|entry| &entry.row).collect();
    let seen = tags::seen(&shared.store, &user, &broadcasts).await?;
    let left_out = [&seen.dismissed, seen.hidden.ids()].concat();
    let node = &shared.node;
    let streams = [node.region.user_stream(), node.region.broadcast_stream()];
    let now_ms = unix_ms();
    let items = page
        .iter()
        .filter(|entry| !is_expired(entry.row.expires_ms, now_ms))
        .filter(|entry| !left_out.contains(&entry.row.id))
        .filter_map(|entry| describe(entry, &streams, &seen.read))
        .collect();
    Ok(Json(Page {
        items,
        unread,
        next,
    }))
}

/// Answers when the mark is durable; it shows once the router stored it.
pub async fn read(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let user = parse_user(&user)?;
    let ids = ids_of(&body)?;
    let marked = shared.tracker.mark_read(&user, &ids, unix_ms()).await?;
    if marked.unknown.len() == ids.len() {
        let message = "the user has none of these, or they are not routed yet: try again";
        return Err(ApiError::not_found(message));
    }
    let answer = json!({ "id": marked.id, "unknown": marked.unknown });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The user does not see these broadcasts any more: neither in the inbox nor by sync, and they count as seen.
pub async fn dismiss(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
    Whole(body): Whole,
) -> Result<Json<Value>, ApiError> {
    let user = parse_user(&user)?;
    let mut ids = ids_of(&body)?;
    let theirs = tags::without_others(&shared.store, &user, ids.clone()).await?;
    let dismissed = shared.store.dismiss(&user, &theirs).await?;
    if dismissed.is_empty() {
        let message =
            "none of these is a broadcast to the user, or they are not published yet: try again";
        return Err(ApiError::not_found(message));
    }
    ids.retain(|id| !dismissed.contains(id));
    Ok(Json(json!({ "unknown": ids })))
}

fn ids_of(body: &[u8]) -> Result<Vec<NotificationId>, ApiError> {
    let given: Vec<String> = Fields::read(body)?.demand("ids", "a list of strings")?;
    if given.is_empty() || given.len() > limits::CLIENT_IDS {
        let problem = format!("has 1 to {} ids", limits::CLIENT_IDS);
        return Err(Refusal::field("ids", problem).into());
    }
    let mut ids = Vec::with_capacity(given.len());
    for (at, id) in given.iter().enumerate() {
        ids.push(parse_id(&format!("ids[{at}]"), id)?);
    }
    Ok(ids)
}

pub fn parse_user(text: &str) -> Result<UserId, ApiError> {
    let user = text.parse();
    user.map_err(|error: IdError| Refusal::field("user", error.to_string()).into())
}

/// A row of the merged list and the cursor just below it.
struct Entry {
    row: Row,
    is_broadcast: bool,
    cursor: PageCursor,
}

/// Newest first by creation (within a millisecond by id, which intake gives in order), each stream in the
/// order of its positions.
fn merge(own: Vec<Row>, broadcasts: Vec<Row>, start: PageCursor) -> impl Iterator<Item = Entry> {
    let mut own = own.into_iter().peekable();
    let mut broadcasts = broadcasts.into_iter().peekable();
    let mut cursor = start;
    let created = |rows: &mut Peekable<std::vec::IntoIter<Row>>| {
        rows.peek().map(|row| (row.created_ms, row.id))
    };
    std::iter::from_fn(move || {
        let is_broadcast = created(&mut broadcasts) > created(&mut own);
        let row = match is_broadcast {
            true => broadcasts.next()?,
            false => own.next()?,
        };
        match is_broadcast {
            true => cursor.broadcast = Some(row.pos),
            false => cursor.user = Some(row.pos),
        }
        Some(Entry {
            row,
            is_broadcast,
            cursor,
        })
    })
}

/// A row as an inbox shows it.
#[derive(Serialize)]
struct Item {
    id: NotificationId,
    stream: String,
    pos: Position,
    priority: Priority,
    created_at: u64,
    notification_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// As it came, byte for byte: only its producer knows what its numbers and names mean.
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    read: bool,
}

fn describe(
    entry: &Entry,
    [user_stream, broadcast_stream]: &[String; 2],
    read: &[NotificationId],
) -> Option<Item> {
    let row = &entry.row;
    let content: Content = serde_json::from_slice(&row.content)
        .inspect_err(|error| tracing::error!(%error, id = %row.id, "a stored row can't be read"))
        .ok()?;
    let empty = || RawValue::from_string("{}".into()).expect("JSON");
    let stream = match entry.is_broadcast {
        true => broadcast_stream,
        false => user_stream,
    };
    Some(Item {
        id: row.id,
        stream: stream.clone(),
        pos: row.pos,
        priority: row.priority,
        created_at: row.created_ms,
        notification_type: content.notification_type,
        title: content.title,
        body: content.body,
        data: content.data.unwrap_or_else(empty),
        collapse_key: content.collapse_key,
        expires_at: row.expires_ms,
        read: row.read || read.contains(&row.id),
    })
}

impl PageCursor {
    fn parse(text: &str) -> Option<PageCursor> {
        let position = |text: &str| match text {
            "" => Some(None),
            text => Position::from_wire(text.parse().ok()?).map(Some),
        };
        let (user, broadcast) = text.split_once('.')?;
        Some(PageCursor {
            user: position(user)?,
            broadcast: position(broadcast)?,
        })
    }
}

impl std::fmt::Display for PageCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |at: Option<Position>| at.map_or_else(String::new, |at| at.to_string());
        write!(f, "{}.{}", text(self.user), text(self.broadcast))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_cursor_reads_back_what_it_writes() {
        for text in [".", "1099511627776.", ".1099511627776", "5.7"] {
            assert_eq!(PageCursor::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(PageCursor::parse("5"), None);
        assert_eq!(PageCursor::parse("a.b"), None);
    }
}
