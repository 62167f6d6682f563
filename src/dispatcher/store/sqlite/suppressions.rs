//! E-mail addresses that are not sent to, in their order.

use super::{encode, schema::Failure};
use crate::dispatcher::suppression::Suppression;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// What was said last stands.
pub fn put(connection: &Connection, suppressions: &[Suppression]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO suppressions (address, cause, reason, at_ms) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for one in suppressions {
        statement.execute(params![
            one.address,
            one.cause.as_str(),
            one.reason,
            encode::ms(one.at_ms)
        ])?;
    }
    Ok(())
}

pub fn find(
    connection: &Connection,
    addresses: &[String],
) -> Result<Vec<Option<Suppression>>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT address, cause, reason, at_ms FROM suppressions WHERE address = ?1",
    )?;
    let found = addresses
        .iter()
        .map(|address| statement.query_row([address], read).optional());
    Ok(found.collect::<Result<_, _>>()?)
}

pub fn page(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> Result<Vec<Suppression>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT address, cause, reason, at_ms FROM suppressions WHERE address > ?1
         ORDER BY address LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, limit], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn remove(connection: &Connection, address: &str) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached("DELETE FROM suppressions WHERE address = ?1")?;
    Ok(statement.execute([address])? > 0)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Suppression> {
    Ok(Suppression {
        address: row.get(0)?,
        cause: encode::read_word(row, 1)?,
        reason: row.get(2)?,
        at_ms: encode::read_ms(row, 3)?,
    })
}
