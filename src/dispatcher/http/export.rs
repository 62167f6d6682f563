//! All that is stored of a user, as one JSON document: for admin keys.
//!
//! It is sent as it is read, a page of the store at a time. One that breaks off is no JSON, so nobody takes it for whole.

use super::{
    Shared, devices, error::ApiError, extract::PathText, inbox::parse_user, notifications,
    producer::Admin, suppressions,
};
use crate::{
    dispatcher::{
        store::{DeliveryState, Mark, Row, RowKind, Scheduled, StoreError},
        suppression,
    },
    envelope::Priority,
    ids::{NotificationId, UserId},
    limits,
    position::Position,
};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

/// Pages that wait for a client who reads slowly.
const AHEAD: usize = 2;

pub async fn show(
    State(shared): State<Shared>,
    _: Admin,
    PathText(user): PathText,
) -> Result<Response, ApiError> {
    let user = parse_user(&user)?;
    // Before the first byte: an error of the store is still an answer.
    let beginning = beginning(&shared, &user).await?;
    let (pages, body) = channel(AHEAD);
    let writer = Export {
        shared,
        user,
        pages,
    };
    tokio::spawn(writer.run(beginning));
    let body = Body::from_stream(ReceiverStream::new(body));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

struct Export {
    shared: Shared,
    user: UserId,
    pages: Sender<Result<Bytes, StoreError>>,
}

/// The client has gone.
struct Gone;

async fn beginning(shared: &Shared, user: &UserId) -> Result<String, StoreError> {
    let users = [user.clone()];
    let (devices, segments, preferences, scheduled) = tokio::try_join!(
        shared.store.devices(user),
        shared.store.segments_of(user),
        shared.store.preferences(&users),
        shared.store.scheduled_for(user),
    )?;
    let addresses: Vec<String> = suppression::addresses(&devices).into_iter().collect();
    let suppressed = shared.store.suppressed(&addresses).await?;
    let suppressed = suppressed.iter().flatten().map(suppressions::describe);
    let suppressed: Vec<Value> = suppressed.collect();
    let devices: Vec<Value> = devices.iter().map(devices::describe).collect();
    let preferences = preferences.into_iter().next().unwrap_or_default();
    let text = json!({
        "user": user,
        "devices": devices,
        "suppressions": suppressed,
        "segments": segments,
        "preferences": preferences,
    });
    let mut text = text.to_string();
    text.pop();
    let mut list = List::new("scheduled");
    for one in &scheduled {
        list.add(&ExportedSchedule::of(one));
    }
    text.push_str(&list.take(true));
    Ok(text)
}

impl Export {
    async fn run(self, beginning: String) {
        let Ok(()) = self.send(beginning).await else {
            return;
        };
        // Whoever reads sees that it broke off.
        if let Err(error) = self.write().await {
            tracing::warn!(%error, "an export broke off");
            let _ = self.pages.send(Err(error)).await;
        }
    }

    async fn write(&self) -> Result<(), StoreError> {
        let _gone = self.lists().await?;
        Ok(())
    }

    async fn lists(&self) -> Result<Result<(), Gone>, StoreError> {
        for (name, mark) in [("read", Mark::Read), ("dismissed", Mark::Dismissed)] {
            if self.marks(name, mark).await?.is_err() {
                return Ok(Err(Gone));
            }
        }
        if self.inbox().await?.is_err() {
            return Ok(Err(Gone));
        }
        self.deliveries().await
    }

    async fn marks(&self, name: &str, mark: Mark) -> Result<Result<(), Gone>, StoreError> {
        let mut after = None;
        let mut list = List::new(name);
        loop {
            let (store, most) = (&self.shared.store, limits::PAGE_ITEMS);
            let ids = store.marks_of(&self.user, mark, after, most).await?;
            for id in &ids {
                list.add(&json!(id));
                after = Some(*id);
            }
            let is_last = ids.len() < most;
            if self.send(list.take(is_last)).await.is_err() {
                return Ok(Err(Gone));
            }
            if is_last {
                return Ok(Ok(()));
            }
        }
    }

    async fn inbox(&self) -> Result<Result<(), Gone>, StoreError> {
        let mut after = Position::START;
        let mut list = List::new("inbox");
        loop {
            let store = &self.shared.store;
            let rows = store.rows_of(&self.user, after, limits::PAGE_ITEMS).await?;
            for row in &rows {
                list.add(&ExportedRow::of(row));
                after = row.pos;
            }
            let is_last = rows.len() < limits::PAGE_ITEMS;
            if self.send(list.take(is_last)).await.is_err() {
                return Ok(Err(Gone));
            }
            if is_last {
                return Ok(Ok(()));
            }
        }
    }

    async fn deliveries(&self) -> Result<Result<(), Gone>, StoreError> {
        let mut before = None;
        let mut list = List::new("deliveries");
        loop {
            let store = &self.shared.store;
            let most = limits::PAGE_ITEMS;
            let mut states = store.deliveries_of(&self.user, before, most).await?;
            let is_last = states.len() < most;
            if !is_last {
                leave_last(&mut states);
            }
            before = states.last().map(|(id, _)| *id);
            for (id, state) in &states {
                let mut state = notifications::describe(state);
                state["id"] = json!(id);
                list.add(&state);
            }
            let mut text = list.take(is_last);
            if is_last {
                text.push('}');
            }
            if self.send(text).await.is_err() {
                return Ok(Err(Gone));
            }
            if is_last {
                return Ok(Ok(()));
            }
        }
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        let sent = self.pages.send(Ok(text.into()));
        sent.await.map_err(|_| Gone)
    }
}

/// Of the last notification there may be more on the next page, which begins with it then.
fn leave_last(states: &mut Vec<(NotificationId, DeliveryState)>) {
    let Some((last, _)) = states.last() else {
        return;
    };
    let last = *last;
    if states.iter().any(|(id, _)| *id != last) {
        states.retain(|(id, _)| *id != last);
    }
}

/// A list that is written a page at a time.
struct List {
    text: String,
    is_begun: bool,
}

impl List {
    fn new(name: &str) -> List {
        List {
            text: format!(",\"{name}\":["),
            is_begun: false,
        }
    }

    fn add(&mut self, item: &impl Serialize) {
        if self.is_begun {
            self.text.push(',');
        }
        self.is_begun = true;
        let text = serde_json::to_string(item).expect("an item is plain data");
        self.text.push_str(&text);
    }

    fn take(&mut self, is_last: bool) -> String {
        if is_last {
            self.text.push(']');
        }
        std::mem::take(&mut self.text)
    }
}

/// What it says is written as it came: a [`Value`] would change it, and can't hold every number of JSON.
#[derive(Serialize)]
struct ExportedRow<'a> {
    kind: &'static str,
    id: NotificationId,
    pos: Position,
    priority: Priority,
    created_at: u64,
    expires_at: Option<u64>,
    collapse_key: Option<&'a str>,
    read: bool,
    content: Option<Box<RawValue>>,
}

impl ExportedRow<'_> {
    fn of(row: &Row) -> ExportedRow<'_> {
        let text = String::from_utf8_lossy(&row.content).into_owned();
        ExportedRow {
            kind: match row.kind {
                RowKind::Notification => "notification",
                RowKind::Read => "read",
            },
            id: row.id,
            pos: row.pos,
            priority: row.priority,
            created_at: row.created_ms,
            expires_at: row.expires_ms,
            collapse_key: row.collapse_key.as_deref(),
            read: row.read,
            content: RawValue::from_string(text).ok(),
        }
    }
}

/// Of a list, not who else is on it.
#[derive(Serialize)]
struct ExportedSchedule {
    id: NotificationId,
    due_at: u64,
    content: Option<Box<RawValue>>,
}

impl ExportedSchedule {
    fn of(one: &Scheduled) -> ExportedSchedule {
        ExportedSchedule {
            id: one.id,
            due_at: one.due_ms,
            content: one.content(),
        }
    }
}
