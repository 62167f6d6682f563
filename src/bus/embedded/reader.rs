//! Reading: a few connections shared by all consumers, used off the async threads.

use super::{file, unavailable};
use crate::{
    bus::{BusError, Record},
    limits,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, types::Type};
use std::{path::PathBuf, sync::Arc};

/// Connections that are not in use. More may be open for a moment, as many as threads read at once.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// What to read of one partition.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) partition: u32,
    /// First offset wanted.
    pub(super) from: u64,
    /// First offset that may not be committed yet.
    pub(super) end: u64,
}

/// A record as it lies in the file.
pub(super) struct Stored {
    pub(super) offset: u64,
    pub(super) appended_ms: u64,
    pub(super) record: Record,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Readers {
        Readers {
            path,
            idle: Mutex::default(),
        }
    }

    /// Records of each span in offset order; together at most `records_max` and
    /// [`limits::BUS_POLL_BYTES`] (one more record is taken than fits, so there is always progress).
    /// The list may be shorter than `spans`: the rest was not looked at.
    pub(super) async fn records(
        self: &Arc<Self>,
        spans: Vec<Span>,
        records_max: usize,
    ) -> Result<Vec<Vec<Stored>>, BusError> {
        self.run(move |connection| {
            let mut found = Vec::with_capacity(spans.len());
            let (mut records, mut bytes) = (0, 0);
            for span in spans {
                if records >= records_max || bytes >= limits::BUS_POLL_BYTES {
                    break;
                }
                let stored = read(connection, span, records_max - records, &mut bytes)?;
                records += stored.len();
                found.push(stored);
            }
            Ok(found)
        })
        .await
    }

    /// The group's offset of each partition.
    pub(super) async fn committed(
        self: &Arc<Self>,
        group: String,
        partitions: Vec<u32>,
    ) -> Result<Vec<Option<u64>>, BusError> {
        self.run(move |connection| {
            let sql = "SELECT next FROM committed WHERE partition = ? AND consumers = ?";
            let mut statement = connection.prepare_cached(sql)?;
            let mut offset = |partition| {
                let row = statement.query_row(params![partition, group], |row| row.get(0));
                row.optional()
            };
            partitions.into_iter().map(&mut offset).collect()
        })
        .await
    }

    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BusError> {
        let readers = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let result = read(&connection)?;
            // After an error the connection is not kept: the next reader starts from a fresh one.
            readers.give_back(connection);
            Ok::<T, rusqlite::Error>(result)
        });
        task.await.map_err(unavailable)?.map_err(unavailable)
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        if let Some(connection) = self.idle.lock().pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        file::keep_plans(&connection)?;
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < limits::BUS_READERS_IDLE {
            idle.push(connection);
        }
    }
}

fn read(
    connection: &Connection,
    span: Span,
    records_max: usize,
    bytes: &mut usize,
) -> rusqlite::Result<Vec<Stored>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, appended_ms, key, headers, value FROM records
         WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
    )?;
    let mut rows = statement.query(params![
        file::row(span.partition, span.from),
        file::row(span.partition, span.end),
        records_max,
    ])?;
    let mut found = Vec::new();
    while *bytes < limits::BUS_POLL_BYTES
        && let Some(row) = rows.next()?
    {
        let stored = stored(row)?;
        *bytes += stored.record.bytes();
        found.push(stored);
    }
    Ok(found)
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    const HEADERS: usize = 3;
    let headers = file::decode_headers(row.get_ref(HEADERS)?.as_blob()?).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            HEADERS,
            Type::Blob,
            "the headers of a record are damaged: restore DIR/bus.db from a backup".into(),
        )
    })?;
    Ok(Stored {
        offset: file::offset(row.get(0)?),
        appended_ms: row.get(1)?,
        record: Record {
            key: Bytes::from(row.get::<_, Vec<u8>>(2)?),
            value: Bytes::from(row.get::<_, Vec<u8>>(4)?),
            headers,
        },
    })
}
