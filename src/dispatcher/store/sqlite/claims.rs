//! Idempotency keys: claimed in two states, kept for 24 hours from the claim.

use super::{encode, schema::Failure};
use crate::{dispatcher::store::Idempotency, ids::NotificationId, limits};
use rusqlite::{Connection, OptionalExtension, params};

pub fn claim(
    connection: &Connection,
    producer: &str,
    key: &str,
    body_hash: [u8; 32],
    id: NotificationId,
    now_ms: u64,
) -> Result<Idempotency, Failure> {
    let alive_ms = encode::ms(now_ms.saturating_sub(limits::IDEMPOTENCY_S * 1000));
    let mut statement = connection.prepare_cached(
        "SELECT body_hash, id, done FROM claims
         WHERE producer = ?1 AND key = ?2 AND claimed_ms > ?3",
    )?;
    let held = statement
        .query_row(params![producer, key, alive_ms], |row| {
            let same_body = row.get_ref(0)?.as_blob()? == body_hash;
            Ok((same_body, encode::read_id(row, 1)?, row.get::<_, bool>(2)?))
        })
        .optional()?;
    match held {
        Some((false, ..)) => return Ok(Idempotency::Conflict),
        Some((true, id, true)) => return Ok(Idempotency::Done(id)),
        Some((true, id, false)) => return Ok(Idempotency::Pending(id)),
        None => {}
    }
    // REPLACE takes the place of one that ran out, with a new `sequence`: the table stays in order.
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO claims (producer, key, body_hash, id, done, claimed_ms)
         VALUES (?1, ?2, ?3, ?4, 0, ?5)",
    )?;
    statement.execute(params![
        producer,
        key,
        &body_hash[..],
        id.0.as_bytes(),
        encode::ms(now_ms)
    ])?;
    Ok(Idempotency::Claimed)
}

pub fn finish(connection: &Connection, producer: &str, key: &str) -> Result<(), Failure> {
    let mut statement =
        connection.prepare_cached("UPDATE claims SET done = 1 WHERE producer = ?1 AND key = ?2")?;
    statement.execute(params![producer, key])?;
    Ok(())
}

/// Only a claim that was not finished can be given back.
pub fn release(connection: &Connection, producer: &str, key: &str) -> Result<(), Failure> {
    let mut statement = connection
        .prepare_cached("DELETE FROM claims WHERE producer = ?1 AND key = ?2 AND done = 0")?;
    statement.execute(params![producer, key])?;
    Ok(())
}
