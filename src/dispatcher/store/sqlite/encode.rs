//! Our types as SQLite's values, both ways.

use crate::{
    dispatcher::store::{Row, RowKind},
    ids::NotificationId,
    position::Position,
};
use bytes::Bytes;
use rusqlite::types::Type;
use std::str::FromStr;
use uuid::Uuid;

/// Columns of a [`Row`] in the order [`read_row`] takes them; the query adds `read` as the tenth.
macro_rules! row_columns {
    () => {
        "pos, prev, kind, id, priority, created_ms, expires_ms, collapse_key, content"
    };
}
pub(super) use row_columns;

/// Below 2⁵³, so it fits.
pub fn position(pos: Position) -> i64 {
    pos.value() as i64
}

/// Times beyond the year 292 million don't occur; they would be stored as "the end of time".
pub fn ms(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

pub fn kind(kind: RowKind) -> i64 {
    match kind {
        RowKind::Notification => 0,
        RowKind::Read => 1,
    }
}

pub fn read_position(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Position> {
    let value = row.get::<_, i64>(column)?;
    u64::try_from(value)
        .ok()
        .and_then(Position::from_wire)
        .ok_or_else(|| damaged(column, Type::Integer, "no position"))
}

pub fn read_ms(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}

pub fn read_id(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<NotificationId> {
    let bytes = row.get_ref(column)?.as_blob()?;
    Uuid::from_slice(bytes)
        .map(NotificationId)
        .map_err(|_| damaged(column, Type::Blob, "no id"))
}

/// A text column whose type has a fixed set of words.
pub fn read_word<T: FromStr>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse()
        .map_err(|_| damaged(column, Type::Text, "an unknown word"))
}

/// Reads [`row_columns`] and `read`.
pub fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        pos: read_position(row, 0)?,
        prev: read_position(row, 1)?,
        kind: match row.get::<_, i64>(2)? {
            0 => RowKind::Notification,
            1 => RowKind::Read,
            _ => return Err(damaged(2, Type::Integer, "an unknown kind")),
        },
        id: read_id(row, 3)?,
        priority: read_word(row, 4)?,
        created_ms: read_ms(row, 5)?,
        expires_ms: row.get::<_, Option<i64>>(6)?.map(|at| at.max(0) as u64),
        collapse_key: row.get(7)?,
        content: Bytes::copy_from_slice(row.get_ref(8)?.as_blob()?),
        read: row.get(9)?,
    })
}

fn damaged(column: usize, kind: Type, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, what.to_owned().into())
}
