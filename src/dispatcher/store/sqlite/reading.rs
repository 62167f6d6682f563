//! Reading a user's rows: sync after a cursor, pages of the inbox, what is unread.
//!
//! A row is *superseded* when a later row of its user has the same collapse key. Every read looks at a
//! bounded number of rows; where that cuts a sync short, `covered` says how far it got.

use super::{
    encode::{self, row_columns},
    inbox,
    schema::Failure,
};
use crate::{
    dispatcher::store::{Row, RowsAfter, Unread},
    envelope::EXPIRY_TOLERANCE_MS,
    ids::{NotificationId, UserId},
    limits,
    position::Position,
};
use rusqlite::{Connection, OptionalExtension, params};

/// SQL of "a later row of the same collapse key exists" for a row of `inbox`.
macro_rules! superseded {
    () => {
        "(inbox.collapse_key IS NOT NULL AND EXISTS (
            SELECT 1 FROM inbox AS later WHERE later.user = inbox.user
            AND later.collapse_key = inbox.collapse_key AND later.pos > inbox.pos))"
    };
}

/// SQL of "the user has read it" for a row of `inbox`.
macro_rules! read {
    () => {
        "EXISTS (SELECT 1 FROM receipts WHERE receipts.user = inbox.user AND receipts.id = inbox.id)"
    };
}

pub fn rows_after(
    connection: &Connection,
    user: &UserId,
    after: Option<Position>,
    limit: usize,
) -> Result<RowsAfter, Failure> {
    let (head, lost) = inbox::heads(connection, user)?;
    let Some(after) = after else {
        return Ok(newest_first(newest(connection, user, limit)?, head));
    };
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", ",
        read!(),
        ", ",
        superseded!(),
        " FROM inbox WHERE user = ?1 AND pos > ?2 ORDER BY pos LIMIT ?3"
    ))?;
    let rows = statement.query(params![
        user.as_str(),
        encode::position(after),
        limits::STORE_SCAN_ROWS as i64
    ])?;
    let (rows, covered) = collect_unsuperseded(rows, after, head, limit)?;
    Ok(page_after(rows, covered, after, head, lost))
}

/// Takes up to `limit` rows that nothing superseded, from rows in the order of positions that have
/// `superseded` as their last column; says up to where they cover the stream.
pub fn collect_unsuperseded(
    mut found: rusqlite::Rows<'_>,
    after: Position,
    head: Position,
    limit: usize,
) -> Result<(Vec<Row>, Position), Failure> {
    let mut rows = Vec::new();
    let mut covered = after;
    let mut looked_at = 0;
    while let Some(row) = found.next()? {
        looked_at += 1;
        if !row.get::<_, bool>(10)? {
            if rows.len() == limit {
                return Ok((rows, covered));
            }
            rows.push(encode::read_row(row)?);
        }
        covered = encode::read_position(row, 0)?;
    }
    if looked_at < limits::STORE_SCAN_ROWS {
        covered = head;
    }
    Ok((rows, covered))
}

/// The answer to a cursor. One above the head is of another store's life: nothing can be promised.
pub fn page_after(
    rows: Vec<Row>,
    covered: Position,
    after: Position,
    head: Position,
    lost: Position,
) -> RowsAfter {
    RowsAfter {
        rows,
        covered,
        has_more: covered < head,
        head,
        at_quorum: true,
        complete: after >= lost && after <= head,
    }
}

/// The answer without a cursor, from rows in falling order.
pub fn newest_first(mut rows: Vec<Row>, head: Position) -> RowsAfter {
    rows.reverse();
    RowsAfter {
        rows,
        covered: head,
        has_more: false,
        head,
        at_quorum: true,
        complete: true,
    }
}

fn newest(connection: &Connection, user: &UserId, limit: usize) -> Result<Vec<Row>, Failure> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", ",
        read!(),
        " FROM inbox WHERE user = ?1 AND NOT ",
        superseded!(),
        " ORDER BY pos DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![user.as_str(), limit as i64], encode::read_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn all_after(
    connection: &Connection,
    user: &UserId,
    after: Position,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", ",
        read!(),
        " FROM inbox WHERE user = ?1 AND pos > ?2 ORDER BY pos LIMIT ?3"
    ))?;
    let values = params![user.as_str(), encode::position(after), limit as i64];
    let rows = statement.query_map(values, encode::read_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn page(
    connection: &Connection,
    user: &UserId,
    before: Option<Position>,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let before = before.map_or(i64::MAX, encode::position);
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", ",
        read!(),
        " FROM inbox WHERE user = ?1 AND pos < ?2 AND kind = 0 AND NOT ",
        superseded!(),
        " ORDER BY pos DESC LIMIT ?3"
    ))?;
    let rows = statement.query_map(
        params![user.as_str(), before, limit as i64],
        encode::read_row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn row(
    connection: &Connection,
    user: &UserId,
    id: NotificationId,
) -> Result<Option<Row>, Failure> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        row_columns!(),
        ", ",
        read!(),
        " FROM inbox WHERE user = ?1 AND id = ?2 ORDER BY kind LIMIT 1"
    ))?;
    let found = statement.query_row(params![user.as_str(), id.0.as_bytes()], encode::read_row);
    Ok(found.optional()?)
}

/// Whether the user was there when a broadcast went out makes no difference, as in the inbox page: the store is not
/// told of users who only ever connected, and a count that falls when the first row comes would be odd.
pub fn unread(connection: &Connection, user: &UserId, now_ms: u64) -> Result<Unread, Failure> {
    let alive_ms = encode::ms(now_ms.saturating_sub(EXPIRY_TOLERANCE_MS));
    let mut statement = connection.prepare_cached(concat!(
        "SELECT count(*) FROM (
            SELECT user, pos, kind, id, expires_ms, collapse_key FROM inbox
            WHERE user = ?1 ORDER BY pos DESC LIMIT ?2
         ) AS inbox
         WHERE kind = 0 AND (expires_ms IS NULL OR expires_ms >= ?3) AND NOT ",
        superseded!(),
        " AND NOT ",
        read!()
    ))?;
    let own: i64 = statement.query_row(
        params![user.as_str(), limits::UNREAD_ROWS as i64, alive_ms],
        |row| row.get(0),
    )?;
    let mut statement = connection.prepare_cached(
        "SELECT id FROM (
            SELECT pos, id, expires_ms, collapse_key FROM broadcasts ORDER BY pos DESC LIMIT ?2
         ) AS newest
         WHERE (expires_ms IS NULL OR expires_ms >= ?3)
         AND NOT (collapse_key IS NOT NULL AND EXISTS (
            SELECT 1 FROM broadcasts AS later
            WHERE later.collapse_key = newest.collapse_key AND later.pos > newest.pos))
         AND NOT EXISTS (SELECT 1 FROM receipts WHERE user = ?1 AND id = newest.id)
         AND NOT EXISTS (SELECT 1 FROM dismissals WHERE user = ?1 AND id = newest.id)
         ORDER BY pos DESC",
    )?;
    let values = params![user.as_str(), limits::UNREAD_BROADCASTS as i64, alive_ms];
    let broadcasts = statement.query_map(values, |row| encode::read_id(row, 0))?;
    Ok(Unread {
        own: own as u64,
        broadcasts: broadcasts.collect::<Result<_, _>>()?,
    })
}

/// The user has it: a notification of the inbox, a broadcast, or one whose fate is logged already (a record
/// may reach a gateway before its row is stored). CASE looks no further than the first that is true.
pub fn has(connection: &Connection, user: &UserId, id: NotificationId) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT CASE
         WHEN EXISTS (SELECT 1 FROM inbox WHERE user = ?1 AND id = ?2 AND kind = 0) THEN 1
         WHEN EXISTS (SELECT 1 FROM broadcasts WHERE id = ?2) THEN 1
         ELSE EXISTS (SELECT 1 FROM deliveries WHERE id = ?2 AND user = ?1) END",
    )?;
    Ok(statement.query_row(params![user.as_str(), id.0.as_bytes()], |row| row.get(0))?)
}

pub fn unread_among(
    connection: &Connection,
    user: &UserId,
    ids: &[NotificationId],
) -> Result<Vec<NotificationId>, Failure> {
    let read = read_among(connection, user, ids)?;
    let mut unread = Vec::new();
    for id in ids {
        if !read.contains(id) && has(connection, user, *id)? {
            unread.push(*id);
        }
    }
    Ok(unread)
}

pub fn read_among(
    connection: &Connection,
    user: &UserId,
    ids: &[NotificationId],
) -> Result<Vec<NotificationId>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM receipts WHERE user = ?1 AND id = ?2)")?;
    let mut read = Vec::new();
    for id in ids {
        if statement.query_row(params![user.as_str(), id.0.as_bytes()], |row| row.get(0))? {
            read.push(*id);
        }
    }
    Ok(read)
}
