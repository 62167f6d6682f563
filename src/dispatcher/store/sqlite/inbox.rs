//! A user's rows: storing them in order.
//!
//! Invariants, kept inside one transaction:
//! * `prev` is the head the user had before the row; the row then is the head;
//! * (user, id) has one row per kind of row, the one stored first, and so of the lowest position;
//! * a position at or below the head that has no row is refused, unless retention removed it: it means
//!   that the broker began its offsets anew, and storing it would hide it from every cursor.

use super::{encode, schema::Failure};
use crate::{
    dispatcher::store::{Appended, NewRow, RowKind, StoreError, WentBack, rank},
    envelope::{Channel, Fate, VERSION},
    ids::{NotificationId, Region, UserId},
    position::Position,
};
use rusqlite::{Connection, OptionalExtension, params};

/// Stores rows in the order given.
pub fn append(
    connection: &Connection,
    rows: &[NewRow],
    region: &Region,
    now_ms: u64,
) -> Result<Vec<Appended>, Failure> {
    let numbered = rows.iter().enumerate();
    numbered
        .map(|(at, row)| append_one(connection, at, row, region, now_ms))
        .collect()
}

fn append_one(
    connection: &Connection,
    at: usize,
    row: &NewRow,
    region: &Region,
    now_ms: u64,
) -> Result<Appended, Failure> {
    let (head, lost) = heads(connection, &row.user)?;
    // Most rows are new, which only a place in the indices tells that has to be found anyway.
    let is_new = row.pos > head.max(lost) && insert(connection, row, head, now_ms)?;
    if !is_new {
        return former(connection, at, row, head, lost);
    }
    advance_head(connection, row, region)?;
    if row.kind == RowKind::Read {
        insert_receipts(connection, row, now_ms)?;
    }
    Ok(Appended::Stored { prev: head })
}

/// What a row becomes that can't be stored: it is there already, or retention removed it, or it went back.
fn former(
    connection: &Connection,
    at: usize,
    row: &NewRow,
    head: Position,
    lost: Position,
) -> Result<Appended, Failure> {
    if let Some(existing) = existing(connection, row)? {
        return Ok(existing);
    }
    if row.pos <= lost {
        // Read again after retention removed it: nobody waits for it any more.
        return Ok(Appended::Existing {
            pos: row.pos,
            prev: Position::START,
            written: true,
        });
    }
    Err(Failure::from(StoreError::from(WentBack {
        topic: "raw",
        row: at,
        pos: row.pos,
        head,
    })))
}

fn existing(connection: &Connection, row: &NewRow) -> Result<Option<Appended>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT pos, prev FROM inbox WHERE user = ?1 AND id = ?2 AND kind = ?3")?;
    let found = statement
        .query_row(
            params![
                row.user.as_str(),
                row.id.0.as_bytes(),
                encode::kind(row.kind)
            ],
            |row| {
                Ok((
                    encode::read_position(row, 0)?,
                    encode::read_position(row, 1)?,
                ))
            },
        )
        .optional()?;
    let Some((pos, prev)) = found else {
        return Ok(None);
    };
    Ok(Some(Appended::Existing {
        pos,
        prev,
        written: was_written(connection, &row.user, row.id)?,
    }))
}

/// A device of the user got it, by the delivery log.
fn was_written(
    connection: &Connection,
    user: &UserId,
    id: NotificationId,
) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM deliveries
         WHERE id = ?1 AND user = ?2 AND channel = ?3 AND rank >= ?4)",
    )?;
    let written = statement.query_row(
        params![
            id.0.as_bytes(),
            user.as_str(),
            Channel::InApp.as_str(),
            rank(Fate::Written)
        ],
        |row| row.get(0),
    )?;
    Ok(written)
}

/// Newest position of the user, and the newest one that retention removed.
pub fn heads(connection: &Connection, user: &UserId) -> Result<(Position, Position), Failure> {
    let mut statement =
        connection.prepare_cached("SELECT head, lost FROM users WHERE user = ?1")?;
    let found = statement
        .query_row([user.as_str()], |row| {
            Ok((
                encode::read_position(row, 0)?,
                encode::read_position(row, 1)?,
            ))
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// `false`: its position or its id has a row.
fn insert(
    connection: &Connection,
    row: &NewRow,
    prev: Position,
    now_ms: u64,
) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO inbox (user, pos, prev, kind, id, priority, created_ms, expires_ms, collapse_key,
                            content, stored_ms, v)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING",
    )?;
    let inserted = statement.execute(params![
        row.user.as_str(),
        encode::position(row.pos),
        encode::position(prev),
        encode::kind(row.kind),
        row.id.0.as_bytes(),
        row.priority.as_str(),
        encode::ms(row.created_ms),
        row.expires_ms.map(encode::ms),
        row.collapse_key,
        &row.content[..],
        encode::ms(now_ms),
        VERSION,
    ])?;
    Ok(inserted == 1)
}

fn advance_head(connection: &Connection, row: &NewRow, region: &Region) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO users (user, head, region) VALUES (?1, ?2, ?3)
         ON CONFLICT (user) DO UPDATE SET head = excluded.head",
    )?;
    statement.execute(params![
        row.user.as_str(),
        encode::position(row.pos),
        region.as_str()
    ])?;
    Ok(())
}

fn insert_receipts(connection: &Connection, mark: &NewRow, now_ms: u64) -> Result<(), Failure> {
    let ids: Vec<NotificationId> = serde_json::from_slice(&mark.content).map_err(|error| {
        Failure::corrupt(format!(
            "read mark {} does not hold a JSON list of ids ({error}); the router must refuse it",
            mark.id
        ))
    })?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO receipts (user, id, stored_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?;
    for id in ids {
        statement.execute(params![
            mark.user.as_str(),
            id.0.as_bytes(),
            encode::ms(now_ms)
        ])?;
    }
    Ok(())
}
