//! Retention: removes what is older than its time, a bounded step after another, oldest first.
//!
//! A step looks only at the front of each table, so a sweep that finds nothing costs next to nothing.

use super::{encode, schema::Failure};
use crate::{
    dispatcher::suppression::{BEHIND_MARKS, MARK},
    limits,
};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// Removes up to [`limits::STORE_SWEEP_ROWS`] of each table; answers how many it removed in all.
pub fn step(connection: &Connection, now_ms: u64) -> Result<usize, Failure> {
    let kept_from_ms = now_ms.saturating_sub(limits::RETENTION_S * 1000);
    let claims_from_ms = now_ms.saturating_sub(limits::IDEMPOTENCY_S * 1000);
    Ok(inbox(connection, kept_from_ms)?
        + broadcasts(connection, kept_from_ms)?
        + front(connection, "receipts", "stored_ms", kept_from_ms)?
        + front(connection, "dismissals", "stored_ms", kept_from_ms)?
        + segments(connection, kept_from_ms)?
        + front(connection, "segment_sends", "begun_ms", kept_from_ms)?
        + front(connection, "dead_letters", "stored_ms", kept_from_ms)?
        + erasures(connection, kept_from_ms)?
        + front(connection, "claims", "claimed_ms", claims_from_ms)?
        + deliveries(connection, kept_from_ms)?)
}

/// The rows of the front that are old, and the mark of what their users lost.
fn inbox(connection: &Connection, kept_from_ms: u64) -> Result<usize, Failure> {
    let mut statement = connection.prepare_cached(
        "WITH front AS (SELECT user, pos, stored_ms FROM inbox ORDER BY sequence LIMIT ?1)
         UPDATE users SET lost = max(lost, gone.pos)
         FROM (SELECT user, max(pos) AS pos FROM front WHERE stored_ms < ?2 GROUP BY user) AS gone
         WHERE users.user = gone.user",
    )?;
    let rows = limits::STORE_SWEEP_ROWS as i64;
    statement.execute(params![rows, encode::ms(kept_from_ms)])?;
    front(connection, "inbox", "stored_ms", kept_from_ms)
}

fn broadcasts(connection: &Connection, kept_from_ms: u64) -> Result<usize, Failure> {
    let mut statement = connection.prepare_cached(
        "WITH front AS (SELECT pos, stored_ms FROM broadcasts ORDER BY pos LIMIT ?1)
         UPDATE broadcast_head SET lost = max(lost, gone.pos)
         FROM (SELECT coalesce(max(pos), 0) AS pos FROM front WHERE stored_ms < ?2) AS gone",
    )?;
    let kept_from_ms = encode::ms(kept_from_ms);
    let rows = limits::STORE_SWEEP_ROWS as i64;
    statement.execute(params![rows, kept_from_ms])?;
    let mut statement = connection.prepare_cached(
        "DELETE FROM broadcasts WHERE stored_ms < ?2
         AND pos IN (SELECT pos FROM broadcasts ORDER BY pos LIMIT ?1)",
    )?;
    Ok(statement.execute(params![rows, kept_from_ms])?)
}

/// With the marks of their addresses, which are older.
fn erasures(connection: &Connection, kept_from_ms: u64) -> Result<usize, Failure> {
    let erasures = front(connection, "erasures", "begun_ms", kept_from_ms)?;
    if erasures == 0 {
        return Ok(0);
    }
    let mut statement = connection.prepare_cached(
        "DELETE FROM suppressions WHERE address >= ?1 AND address < ?2 AND at_ms < ?3",
    )?;
    let values = params![MARK, BEHIND_MARKS, encode::ms(kept_from_ms)];
    let marks = statement.execute(values)?;
    Ok(erasures + marks)
}

/// Of the oldest segment its users, and itself after the last of them: its id says when it was made.
fn segments(connection: &Connection, kept_from_ms: u64) -> Result<usize, Failure> {
    let rows = limits::STORE_SWEEP_ROWS;
    let mut removed = 0;
    while removed < rows {
        let mut oldest =
            connection.prepare_cached("SELECT id, created_ms FROM segments ORDER BY id LIMIT 1")?;
        let oldest = oldest.query_row([], |row| {
            Ok((row.get::<_, [u8; 16]>(0)?, encode::read_ms(row, 1)?))
        });
        let Some((id, created_ms)) = oldest.optional()? else {
            break;
        };
        if created_ms >= kept_from_ms {
            break;
        }
        let left = rows - removed;
        let mut users = connection.prepare_cached(
            "DELETE FROM segment_users WHERE segment = ?1 AND user IN (
                SELECT user FROM segment_users WHERE segment = ?1 LIMIT ?2)",
        )?;
        let users = users.execute(params![id, left as i64])?;
        removed += users;
        if users < left {
            let mut segment = connection.prepare_cached("DELETE FROM segments WHERE id = ?1")?;
            removed += segment.execute([id])?;
        }
    }
    Ok(removed)
}

/// Old rows among the first of a table that is in the order of its `sequence`.
fn front(
    connection: &Connection,
    table: &str,
    time: &str,
    kept_from_ms: u64,
) -> Result<usize, Failure> {
    let mut statement = connection.prepare_cached(&format!(
        "DELETE FROM {table} WHERE {time} < ?2
         AND sequence IN (SELECT sequence FROM {table} ORDER BY sequence LIMIT ?1)"
    ))?;
    let rows = limits::STORE_SWEEP_ROWS as i64;
    Ok(statement.execute(params![rows, encode::ms(kept_from_ms)])?)
}

/// The log is in the order of its ids, and their first 48 bits are the time.
fn deliveries(connection: &Connection, kept_from_ms: u64) -> Result<usize, Failure> {
    let mut oldest_kept = [0; 16];
    oldest_kept[..6].copy_from_slice(&kept_from_ms.to_be_bytes()[2..]);
    let oldest_kept = Uuid::from_bytes(oldest_kept);
    let mut statement = connection.prepare_cached(
        "DELETE FROM deliveries WHERE (id, user, channel, gateway, facet) IN (
            SELECT id, user, channel, gateway, facet FROM deliveries WHERE id < ?2
            ORDER BY id LIMIT ?1)",
    )?;
    let rows = limits::STORE_SWEEP_ROWS as i64;
    Ok(statement.execute(params![rows, oldest_kept.as_bytes()])?)
}
