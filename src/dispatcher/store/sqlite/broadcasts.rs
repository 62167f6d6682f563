//! The broadcast stream: one row for everyone, ordered like a user's stream.

use super::{
    encode::{self, row_columns},
    reading,
    schema::Failure,
};
use crate::{
    dispatcher::store::{NewBroadcast, Row, RowKind, RowsAfter, StoreError, WentBack},
    envelope::VERSION,
    ids::NotificationId,
    limits,
    position::Position,
};
use rusqlite::{Connection, OptionalExtension, params};

/// SQL of "a later broadcast has the same collapse key".
macro_rules! superseded {
    () => {
        "(broadcasts.collapse_key IS NOT NULL AND EXISTS (
            SELECT 1 FROM broadcasts AS later
            WHERE later.collapse_key = broadcasts.collapse_key AND later.pos > broadcasts.pos))"
    };
}

/// Stores it once, by position and by id; answers the position before `row.pos`. A re-produced record
/// of a stored id makes no row, and what is pushed for it stands after whatever is stored below it. `at` is
/// its place in the call.
pub fn append(
    connection: &Connection,
    at: usize,
    row: &NewBroadcast,
    now_ms: u64,
) -> Result<Position, Failure> {
    let (head, lost) = heads(connection)?;
    if row.pos <= head || is_stored(connection, row)? {
        let prev = prev_of(connection, row, lost)?;
        let went_back = || {
            Failure::from(StoreError::from(WentBack {
                topic: "fan_out_all",
                row: at,
                pos: row.pos,
                head,
            }))
        };
        return prev.ok_or_else(went_back);
    }
    let mut statement = connection.prepare_cached(
        "INSERT INTO broadcasts (pos, prev, id, priority, created_ms, expires_ms, collapse_key, content,
                                 stored_ms, v, kind)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    statement.execute(params![
        encode::position(row.pos),
        encode::position(head),
        row.id.0.as_bytes(),
        row.priority.as_str(),
        encode::ms(row.created_ms),
        row.expires_ms.map(encode::ms),
        row.collapse_key,
        &row.content[..],
        encode::ms(now_ms),
        VERSION,
        encode::kind(RowKind::Notification),
    ])?;
    let mut statement = connection.prepare_cached("UPDATE broadcast_head SET head = ?1")?;
    statement.execute([encode::position(row.pos)])?;
    Ok(head)
}

fn is_stored(connection: &Connection, row: &NewBroadcast) -> Result<bool, Failure> {
    Ok(position(connection, row.id)?.is_some())
}

/// Where the broadcast of an id stands.
pub fn position(connection: &Connection, id: NotificationId) -> Result<Option<Position>, Failure> {
    let mut statement = connection.prepare_cached("SELECT pos FROM broadcasts WHERE id = ?1")?;
    let found = statement.query_row([id.0.as_bytes()], |row| encode::read_position(row, 0));
    Ok(found.optional()?)
}

pub fn find(connection: &Connection, id: NotificationId) -> Result<Option<Row>, Failure> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", 0 FROM broadcasts WHERE id = ?1"
    ))?;
    let found = statement.query_row([id.0.as_bytes()], encode::read_row);
    Ok(found.optional()?)
}

/// `prev` of a record that makes no row now; `None` where another stands in its place, or should.
fn prev_of(
    connection: &Connection,
    row: &NewBroadcast,
    lost: Position,
) -> Result<Option<Position>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT id, prev FROM broadcasts WHERE pos = ?1")?;
    let at_position = statement
        .query_row([encode::position(row.pos)], |row| {
            Ok((encode::read_id(row, 0)?, encode::read_position(row, 1)?))
        })
        .optional()?;
    match at_position {
        Some((id, prev)) if id == row.id => return Ok(Some(prev)),
        None if row.pos <= lost || is_stored(connection, row)? => {}
        Some(_) | None => return Ok(None),
    }
    let mut statement =
        connection.prepare_cached("SELECT coalesce(max(pos), 0) FROM broadcasts WHERE pos < ?1")?;
    let below = statement.query_row([encode::position(row.pos)], |row| {
        encode::read_position(row, 0)
    })?;
    Ok(Some(below))
}

fn heads(connection: &Connection) -> Result<(Position, Position), Failure> {
    let mut statement = connection.prepare_cached("SELECT head, lost FROM broadcast_head")?;
    let heads = statement.query_row([], |row| {
        Ok((
            encode::read_position(row, 0)?,
            encode::read_position(row, 1)?,
        ))
    })?;
    Ok(heads)
}

pub fn after(
    connection: &Connection,
    after: Option<Position>,
    limit: usize,
) -> Result<RowsAfter, Failure> {
    let (head, lost) = heads(connection)?;
    let Some(after) = after else {
        return Ok(reading::newest_first(page(connection, None, limit)?, head));
    };
    // The zero stands for `read`: a broadcast is nobody's own.
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", 0, ",
        superseded!(),
        " FROM broadcasts WHERE pos > ?1 ORDER BY pos LIMIT ?2"
    ))?;
    let rows = statement.query(params![
        encode::position(after),
        limits::STORE_SCAN_ROWS as i64
    ])?;
    let (rows, covered) = reading::collect_unsuperseded(rows, after, head, limit)?;
    Ok(reading::page_after(rows, covered, after, head, lost))
}

pub fn page(
    connection: &Connection,
    before: Option<Position>,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let before = before.map_or(i64::MAX, encode::position);
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", 0 FROM broadcasts WHERE pos < ?1 AND NOT ",
        superseded!(),
        " ORDER BY pos DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![before, limit as i64], encode::read_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}
