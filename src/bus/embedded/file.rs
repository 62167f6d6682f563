//! The file: layout, and how records lie in it.
//!
//! A record's row id is `partition id · 2⁴⁰ + offset`, so the table itself is the index: a partition is
//! one contiguous range, appended to at its end and swept from its start.

use super::{Log, Logs, OpenError, Options};
use crate::bus::{HeaderName, Topic, TopicPartition, header_name};
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, config::DbConfig, params};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
    time::Duration,
};

/// Bits of a row id that hold the offset; the same width as in a position.
const OFFSET_BITS: u32 = 40;

/// Kept in `user_version`; a file with a higher one is left alone.
const LAYOUT: u32 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS partitions (
        id INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL, end INTEGER NOT NULL,
        UNIQUE (topic, number));
    CREATE TABLE IF NOT EXISTS records (
        id INTEGER PRIMARY KEY, appended_ms INTEGER NOT NULL,
        key BLOB NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS committed (
        partition INTEGER NOT NULL, consumers TEXT NOT NULL, next INTEGER NOT NULL,
        PRIMARY KEY (partition, consumers)) WITHOUT ROWID;";

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("bus.db")
}

/// Row id of a record.
pub(super) fn row(partition: u32, offset: u64) -> i64 {
    (i64::from(partition) << OFFSET_BITS) | offset as i64
}

/// Offset in a row id.
pub(super) fn offset(row: i64) -> u64 {
    row as u64 & ((1 << OFFSET_BITS) - 1)
}

/// Opens the file for writing, makes what is missing and reads where every partition ends.
pub(super) fn open(dir: &Path, options: Options) -> Result<(Connection, Logs), OpenError> {
    let path = path(dir);
    let problem = |error: rusqlite::Error| OpenError::Unusable {
        path: path.clone(),
        problem: error.to_string(),
    };
    let mut connection = Connection::open(&path).map_err(problem)?;
    let found = tune(&connection).map_err(problem)?;
    if found > LAYOUT {
        return Err(OpenError::Newer { path, found });
    }
    let logs = lay_out(&mut connection, options).map_err(problem)?;
    Ok((connection, logs))
}

/// Plans are made once: a bound LIMIT would else have SQLite parse the statement anew with every use.
pub(super) fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn tune(connection: &Connection) -> rusqlite::Result<u32> {
    keep_plans(connection)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn lay_out(connection: &mut Connection, options: Options) -> rusqlite::Result<Logs> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "user_version", LAYOUT)?;
    let mut logs = Logs {
        all: Vec::new(),
        topics: HashMap::new(),
    };
    for topic in Topic::all() {
        let wanted = topic.spec().partitions.min(options.partitions_max).max(1);
        let found = partitions(&transaction, topic)?;
        let rows = match found.is_empty() {
            true => make(&transaction, topic, wanted)?,
            false => found,
        };
        logs.topics
            .insert(topic, (logs.all.len(), rows.len() as u32));
        logs.all.extend(rows);
    }
    transaction.commit()?;
    Ok(logs)
}

fn partitions(connection: &Connection, topic: Topic) -> rusqlite::Result<Vec<Log>> {
    let mut statement = connection
        .prepare_cached("SELECT id, number, end FROM partitions WHERE topic = ? ORDER BY number")?;
    let rows = statement.query_map([topic.suffix()], |row| {
        Ok(log(topic, row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    rows.collect()
}

fn make(connection: &Connection, topic: Topic, partitions: u32) -> rusqlite::Result<Vec<Log>> {
    let mut statement = connection
        .prepare_cached("INSERT INTO partitions (topic, number, end) VALUES (?, ?, 0)")?;
    (0..partitions)
        .map(|number| {
            let id = statement.insert(params![topic.suffix(), number])?;
            Ok(log(topic, id as u32, number, 0))
        })
        .collect()
}

fn log(topic: Topic, id: u32, partition: u32, end: u64) -> Log {
    Log {
        id,
        at: TopicPartition { topic, partition },
        end: AtomicU64::new(end),
        readers: Mutex::default(),
    }
}

/// Headers as one blob: length and bytes of the name, length and bytes of the value, again and again.
pub(super) fn encode_headers(headers: &[(HeaderName, Bytes)]) -> Vec<u8> {
    let mut blob = Vec::new();
    for (name, value) in headers {
        for part in [name.as_bytes(), value] {
            blob.extend_from_slice(&(part.len() as u32).to_le_bytes());
            blob.extend_from_slice(part);
        }
    }
    blob
}

/// `None` for a blob this code didn't write: the file is damaged.
pub(super) fn decode_headers(blob: &[u8]) -> Option<Vec<(HeaderName, Bytes)>> {
    let mut rest = blob;
    let mut next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some((part, after.is_empty()))
    };
    let mut headers = Vec::new();
    let mut done = blob.is_empty();
    while !done {
        let (name, _) = next()?;
        let (value, last) = next()?;
        let name = header_name(std::str::from_utf8(name).ok()?);
        headers.push((name, Bytes::copy_from_slice(value)));
        done = last;
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_as_they_were_written() {
        let headers = vec![
            ("kind".into(), Bytes::from_static(b"notification")),
            ("".into(), Bytes::from_static(&[0, 255])),
            ("unusual".into(), Bytes::new()),
        ];
        let blob = encode_headers(&headers);
        assert_eq!(decode_headers(&blob), Some(headers));
        assert_eq!(decode_headers(&[]), Some(vec![]));
        assert_eq!(decode_headers(&blob[..blob.len() - 1]), None);
    }

    #[test]
    fn rows_of_a_partition_lie_together() {
        assert!(row(1, u64::from(u32::MAX)) < row(2, 0));
        assert_eq!(offset(row(7, 42)), 42);
    }
}
