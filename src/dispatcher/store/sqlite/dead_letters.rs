//! What was done with records of `dlq`.

use super::{encode, schema::Failure};
use crate::dispatcher::store::{DeadLetterAt, Handled};
use rusqlite::{Connection, OptionalExtension, params};

pub fn put(
    connection: &Connection,
    at: DeadLetterAt,
    handled: Handled,
    now_ms: u64,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO dead_letters (partition, record, appended_ms, handled, stored_ms)
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    statement.execute(params![
        at.partition,
        at.offset,
        encode::ms(at.appended_ms),
        handled.as_str(),
        encode::ms(now_ms)
    ])?;
    Ok(())
}

pub fn find(connection: &Connection, at: DeadLetterAt) -> Result<Option<Handled>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT handled FROM dead_letters WHERE partition = ?1 AND record = ?2 AND appended_ms = ?3",
    )?;
    let place = params![at.partition, at.offset, encode::ms(at.appended_ms)];
    let found = statement.query_row(place, |row| encode::read_word(row, 0));
    Ok(found.optional()?)
}
