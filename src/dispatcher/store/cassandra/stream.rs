//! A stream of rows: where it ends, and what a row of it is as it is stored.

use super::{CassandraStore, link::Reader, unix_ms};
use crate::{
    dispatcher::store::{NewBroadcast, NewRow, Row, RowKind, StoreError},
    envelope::Priority,
    ids::NotificationId,
    limits,
    position::Position,
};
use bytes::Bytes;
use scylla::DeserializeRow;
use std::ops::RangeInclusive;
use uuid::Uuid;

/// The stream of broadcasts. No user has this name: theirs have no control characters (and a key may not be empty).
pub const BROADCASTS: &str = "\u{1}";

/// By how much clocks of dispatchers may differ where a row's end by its time is judged.
const SKEW_MS: u64 = 24 * 3600 * 1000;

/// What `users` says of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Newest {
    pub bucket: i32,
    /// Head before the bucket's first row.
    pub before: Position,
}

impl Newest {
    /// Buckets in which rows may be that have not ended by their time, newest last.
    pub fn buckets(self) -> RangeInclusive<i32> {
        self.bucket.saturating_sub(limits::BUCKETS_BACK)..=self.bucket
    }
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub pos: Position,
    /// A row stands there.
    pub is_row: bool,
}

/// A row to store, of whichever stream.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub pos: Position,
    pub kind: RowKind,
    pub id: NotificationId,
    pub priority: Priority,
    pub created_ms: u64,
    pub appended_ms: u64,
    pub expires_ms: Option<u64>,
    pub collapse_key: Option<&'a str>,
    pub content: &'a Bytes,
}

impl<'a> From<&'a NewRow> for Entry<'a> {
    fn from(row: &'a NewRow) -> Entry<'a> {
        Entry {
            pos: row.pos,
            kind: row.kind,
            id: row.id,
            priority: row.priority,
            created_ms: row.created_ms,
            appended_ms: row.appended_ms,
            expires_ms: row.expires_ms,
            collapse_key: row.collapse_key.as_deref(),
            content: &row.content,
        }
    }
}

impl<'a> From<&'a NewBroadcast> for Entry<'a> {
    fn from(row: &'a NewBroadcast) -> Entry<'a> {
        Entry {
            pos: row.pos,
            kind: RowKind::Notification,
            id: row.id,
            priority: row.priority,
            created_ms: row.created_ms,
            appended_ms: row.appended_ms,
            expires_ms: row.expires_ms,
            collapse_key: row.collapse_key.as_deref(),
            content: &row.content,
        }
    }
}

/// A row as the statements `rows_up`, `rows_down` and `row_at` give it.
#[derive(DeserializeRow)]
pub struct StoredRow {
    pos: i64,
    prev: i64,
    kind: i32,
    id: Uuid,
    priority: String,
    created_ms: i64,
    expires_ms: Option<i64>,
    pub collapse_key: Option<String>,
    content: Bytes,
}

impl StoredRow {
    pub fn into_row(self) -> Result<Row, StoreError> {
        let priority = self.priority.parse();
        Ok(Row {
            pos: position(self.pos)?,
            prev: position(self.prev)?,
            kind: row_kind(self.kind)?,
            id: NotificationId(self.id),
            priority: priority.map_err(|_| damaged(&format!("a priority {:?}", self.priority)))?,
            created_ms: self.created_ms.max(0) as u64,
            expires_ms: self.expires_ms.map(|at_ms| at_ms.max(0) as u64),
            collapse_key: self.collapse_key,
            content: self.content,
            read: false,
        })
    }
}

pub fn position(value: i64) -> Result<Position, StoreError> {
    let taken = u64::try_from(value).ok().and_then(Position::from_wire);
    taken.ok_or_else(|| damaged(&format!("{value} as a position")))
}

/// Below 2⁵³, so it fits.
pub fn value_of(pos: Position) -> i64 {
    pos.value() as i64
}

pub fn ms(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

pub fn kind_value(kind: RowKind) -> i32 {
    match kind {
        RowKind::Notification => 0,
        RowKind::Read => 1,
    }
}

pub fn row_kind(value: i32) -> Result<RowKind, StoreError> {
    match value {
        0 => Ok(RowKind::Notification),
        1 => Ok(RowKind::Read),
        other => Err(damaged(&format!("a row of kind {other}"))),
    }
}

pub fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("Cassandra holds {what}"))
}

impl CassandraStore {
    /// `None`: the stream never had a row.
    pub(super) async fn newest_bucket(
        &self,
        reader: &Reader<'_>,
        stream: &str,
    ) -> Result<Option<Newest>, StoreError> {
        let statement = &reader.statements().stream;
        let found = reader.first::<(i32, i64)>(statement, (stream,)).await?;
        found
            .map(|(bucket, before)| {
                let before = position(before)?;
                Ok(Newest { bucket, before })
            })
            .transpose()
    }

    /// The newest position below `before`; without a row there, what the stream's end is known to be.
    pub(super) async fn head_below(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        newest: Newest,
        before: Option<Position>,
    ) -> Result<End, StoreError> {
        let statement = &reader.statements().newest_below;
        let limit = before.map_or(i64::MAX, value_of);
        for bucket in newest.buckets().rev() {
            let found = reader.first::<(i64,)>(statement, (stream, bucket, limit));
            if let Some((pos,)) = found.await? {
                return Ok(End {
                    pos: position(pos)?,
                    is_row: true,
                });
            }
        }
        let ended = self.ended_head(reader, stream, newest).await?;
        Ok(End {
            pos: ended.unwrap_or(newest.before),
            is_row: false,
        })
    }

    /// Head of a stream whose rows have all ended by their time. A young head without its row is being written, or
    /// stands on fewer replicas than a quorum: it says nothing yet.
    async fn ended_head(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        newest: Newest,
    ) -> Result<Option<Position>, StoreError> {
        let statement = &reader.statements().head;
        let values = (stream, newest.bucket);
        let Some((pos, stored_ms)) = reader.first::<(i64, i64)>(statement, values).await? else {
            return Ok(None);
        };
        let ends_ms = stored_ms.max(0) as u64 + limits::RETENTION_S * 1000;
        match ends_ms < unix_ms() + SKEW_MS {
            true => position(pos).map(Some),
            false => Ok(None),
        }
    }
}
