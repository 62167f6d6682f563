//! Producers' API keys, by their hash.

use super::{encode, schema::Failure};
use crate::dispatcher::store::ApiKey;
use rusqlite::{Connection, OptionalExtension, Row, params};

pub fn put(connection: &Connection, key: &ApiKey) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO api_keys (hash, producer, admin, created_ms) VALUES (?1, ?2, ?3, ?4)",
    )?;
    statement.execute(params![
        &key.hash[..],
        key.producer,
        key.admin,
        encode::ms(key.created_ms)
    ])?;
    Ok(())
}

pub fn by_hash(connection: &Connection, hash: &[u8; 32]) -> Result<Option<ApiKey>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT hash, producer, admin, created_ms FROM api_keys WHERE hash = ?1")?;
    Ok(statement.query_row([&hash[..]], read).optional()?)
}

/// In the order they were made.
pub fn all(connection: &Connection) -> Result<Vec<ApiKey>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT hash, producer, admin, created_ms FROM api_keys ORDER BY created_ms, producer",
    )?;
    let keys = statement.query_map([], read)?;
    Ok(keys.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        hash: row.get(0)?,
        producer: row.get(1)?,
        admin: row.get(2)?,
        created_ms: encode::read_ms(row, 3)?,
    })
}
