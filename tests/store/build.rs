//! Rows to store, short to write.

use herald::{
    dispatcher::{
        devices::{Device, DeviceKind},
        store::{
            Appended, Attempted, NewBroadcast, NewRow, RowKind, SendState, Sending, SharedStore,
            Store,
        },
    },
    envelope::{Channel, Fate, Outcome, Priority},
    ids::{NotificationId, UserId},
    position::Position,
};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn user(name: &str) -> UserId {
    name.parse().expect("a user id")
}

/// A position of generation 1.
pub fn at(offset: u64) -> Position {
    Position::new(1, offset).expect("a position")
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

pub fn row(user: &UserId, pos: Position) -> NewRow {
    NewRow {
        user: user.clone(),
        pos,
        kind: RowKind::Notification,
        id: NotificationId::generate(),
        priority: Priority::Normal,
        created_ms: now_ms(),
        appended_ms: now_ms(),
        expires_ms: None,
        collapse_key: None,
        content: format!("{{\"type\":\"test\",\"channels\":[],\"title\":\"{pos}\"}}").into(),
    }
}

pub fn collapsing(user: &UserId, pos: Position, key: &str) -> NewRow {
    NewRow {
        collapse_key: Some(key.into()),
        ..row(user, pos)
    }
}

pub fn read_mark(user: &UserId, pos: Position, ids: &[NotificationId]) -> NewRow {
    NewRow {
        kind: RowKind::Read,
        content: serde_json::to_vec(ids).expect("ids are JSON").into(),
        ..row(user, pos)
    }
}

pub fn broadcast(pos: Position) -> NewBroadcast {
    NewBroadcast {
        pos,
        id: NotificationId::generate(),
        priority: Priority::Normal,
        created_ms: now_ms(),
        appended_ms: now_ms(),
        expires_ms: None,
        collapse_key: None,
        content: "{\"type\":\"test\",\"channels\":[]}".into(),
    }
}

/// Stores one broadcast; answers `prev`.
pub async fn announce(store: &dyn Store, row: NewBroadcast) -> Position {
    let prevs = store.append_broadcasts(vec![row]).await;
    prevs.expect("it is stored")[0]
}

pub fn outcome(id: NotificationId, user: Option<&UserId>, fate: Fate) -> Outcome {
    Outcome {
        id,
        user: user.cloned(),
        pos: at(1),
        fate,
        devices: 1,
        gateway: "gw-1.7".into(),
        at_ms: 1_000,
        answered: Vec::new(),
    }
}

/// Stores rows at these offsets, one call each, and answers their ids.
pub async fn stored(store: &SharedStore, user: &UserId, offsets: &[u64]) -> Vec<NotificationId> {
    let mut ids = Vec::new();
    for &offset in offsets {
        let row = row(user, at(offset));
        ids.push(row.id);
        let answer = store.append(vec![row]).await.expect("stored");
        assert!(
            matches!(answer[..], [Appended::Stored { .. }]),
            "{answer:?}"
        );
    }
    ids
}

pub fn email(user: &UserId, id: &str, address: &str) -> Device {
    Device {
        user: user.clone(),
        id: id.parse().expect("a device id"),
        kind: DeviceKind::Email,
        address: address.into(),
        secret: String::new(),
        updated_ms: 5,
        quarantined_ms: None,
    }
}

pub fn browser(user: &UserId, id: &str, endpoint: &str) -> Device {
    Device {
        kind: DeviceKind::WebPush,
        secret: "key.auth".into(),
        ..email(user, id, endpoint)
    }
}

/// By e-mail, at 100 ms and its number.
pub fn attempted(id: NotificationId, user: &UserId, state: SendState, attempt: u32) -> Attempted {
    let at_ms = 100 + u64::from(attempt);
    Attempted {
        id,
        user: user.clone(),
        channel: Channel::Email,
        state,
        devices: u32::from(state == SendState::Sent),
        sending: Sending {
            attempts: attempt,
            began_ms: at_ms,
            ..Sending::default()
        },
        at_ms,
    }
}
