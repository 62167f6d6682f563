//! What is to be sent later.

use super::{encode, schema::Failure};
use crate::{
    bus::{Record, Topic},
    dispatcher::store::{Cancelled, Scheduled, StoreError, headers},
    ids::{NotificationId, UserId},
};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

pub fn put(connection: &Connection, scheduled: &Scheduled) -> Result<(), Failure> {
    let record = &scheduled.record;
    let mut statement = connection.prepare_cached(
        "INSERT INTO scheduled (id, due_ms, topic, key, value, headers)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
    )?;
    statement.execute(params![
        scheduled.id.0.as_bytes(),
        encode::ms(scheduled.due_ms),
        scheduled.topic.suffix(),
        &record.key[..],
        &record.value[..],
        headers::write(record)
    ])?;
    Ok(())
}

pub fn find(connection: &Connection, id: NotificationId) -> Result<Option<Scheduled>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, due_ms, topic, key, value, headers FROM scheduled WHERE id = ?1",
    )?;
    let mut rows = statement.query([id.0.as_bytes()])?;
    rows.next()?.map(read).transpose()
}

pub fn due(connection: &Connection, id: NotificationId) -> Result<Option<u64>, Failure> {
    let mut statement = connection.prepare_cached("SELECT due_ms FROM scheduled WHERE id = ?1")?;
    let found = statement.query_row([id.0.as_bytes()], |row| encode::read_ms(row, 0));
    Ok(found.optional()?)
}

pub fn is_due(connection: &Connection, now_ms: u64) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM scheduled WHERE due_ms <= ?1 AND taken_until_ms <= ?1)",
    )?;
    Ok(statement.query_row([encode::ms(now_ms)], |row| row.get(0))?)
}

pub fn take_due(
    connection: &Connection,
    now_ms: u64,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<Scheduled>, Failure> {
    let mut statement = connection.prepare_cached(
        "UPDATE scheduled SET taken_until_ms = ?2 WHERE id IN (
            SELECT id FROM scheduled WHERE due_ms <= ?1 AND taken_until_ms <= ?1
            ORDER BY due_ms, id LIMIT ?3)
         RETURNING id, due_ms, topic, key, value, headers",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![encode::ms(now_ms), encode::ms(until_ms), limit])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        due.push(read(row)?);
    }
    // They come in no order.
    due.sort_by_key(|one| (one.due_ms, one.id));
    Ok(due)
}

pub fn remove(connection: &Connection, ids: &[NotificationId]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached("DELETE FROM scheduled WHERE id = ?1")?;
    for id in ids {
        statement.execute([id.0.as_bytes()])?;
    }
    Ok(())
}

/// For this user alone, or in a list; only those below an id.
pub fn of_user(
    connection: &Connection,
    user: &UserId,
    below: Option<NotificationId>,
) -> Result<Vec<Scheduled>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, due_ms, topic, key, value, headers FROM scheduled
         WHERE id < ?2 AND (key = ?1 OR topic = 'fan_out') ORDER BY due_ms",
    )?;
    let below = below.map_or(Uuid::max(), |id| id.0);
    let mut rows = statement.query(params![user.as_str().as_bytes(), below.as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let one = read(row)?;
        if one.is_for(user) {
            found.push(one);
        }
    }
    Ok(found)
}

pub fn put_value(connection: &Connection, id: NotificationId, value: &[u8]) -> Result<(), Failure> {
    let mut statement =
        connection.prepare_cached("UPDATE scheduled SET value = ?2 WHERE id = ?1")?;
    statement.execute(params![id.0.as_bytes(), value])?;
    Ok(())
}

pub fn cancel(connection: &Connection, id: NotificationId) -> Result<Cancelled, Failure> {
    let mut statement =
        connection.prepare_cached("DELETE FROM scheduled WHERE id = ?1 AND taken_until_ms = 0")?;
    if statement.execute([id.0.as_bytes()])? > 0 {
        return Ok(Cancelled::Yes);
    }
    Ok(match find(connection, id)? {
        Some(_) => Cancelled::TooLate,
        None => Cancelled::Unknown,
    })
}

fn read(row: &Row<'_>) -> Result<Scheduled, Failure> {
    let damaged = |what: &str| {
        Failure::from(StoreError::Corrupt(format!(
            "a scheduled notification has {what}"
        )))
    };
    let topic = row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?;
    let headers = row.get_ref(5)?.as_str().map_err(rusqlite::Error::from)?;
    let headers = headers::read(headers).ok_or_else(|| damaged("headers that can't be read"))?;
    let bytes = |column| -> rusqlite::Result<Bytes> {
        Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
    };
    Ok(Scheduled {
        id: encode::read_id(row, 0)?,
        due_ms: encode::read_ms(row, 1)?,
        topic: Topic::named(topic).ok_or_else(|| damaged("no topic of this release"))?,
        record: Record {
            key: bytes(3)?,
            value: bytes(4)?,
            headers,
        },
    })
}
