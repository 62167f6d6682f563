//! The file of the spool: a SQLite table, because records leave it in another order than they came (critical
//! first). A log of our own would need compaction, checksums and the repair of torn ends; here they are given.
//!
//! A record's row id is `rank · 2⁵⁶ + sequence`: the table itself is the order of replay, and what is replayed
//! goes from one end of its range, which frees whole pages.
//!
//! A commit is one fsync, of SQLite's write-ahead log, which is folded into the file before it grows over
//! [`limits::SPOOL_LOG_PAGES`] and a transaction: an answer waits for the disk once, and a rollback journal
//! would make it wait four times.
//!
//! Removing needs room too, to fold what the log holds. So a reserve stands beside the file: given up when a
//! full disk lets nothing be removed, and nothing is taken before it is there again.

use super::place::{self, Place};
use crate::{
    api,
    bus::{Record, Topic},
    envelope::Priority,
    limits,
};
use prost::Message;
use rusqlite::{Connection, ErrorCode, params};
use std::{io, path::Path, time::Duration};

/// Bits of a row id that hold the sequence.
const SEQUENCE_BITS: u32 = 56;
/// What is not critical keeps one order, so that a user's notifications stay in theirs.
const RANKS: [i64; 2] = [0, 1];

pub struct File {
    connection: Connection,
    place: Place,
    has_reserve: bool,
    bytes_max: u64,
    page_bytes: u64,
    next: i64,
    pub records: u64,
}

/// A record that waits for the bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub(super) row: i64,
    pub topic: Topic,
    pub record: Record,
}

/// One that is to be kept.
pub struct Entry {
    pub priority: Priority,
    pub topic: Topic,
    /// Encoded by [`encode`].
    pub record: Vec<u8>,
}

pub fn encode(record: Record) -> Vec<u8> {
    api::convert::record_to_wire(record).encode_to_vec()
}

impl File {
    /// Makes directory and file where they are not there. Only one process may hold it.
    pub fn open(directory: &Path, bytes_max: u64) -> Result<File, rusqlite::Error> {
        let can_t_open = |error| failure(rusqlite::ffi::SQLITE_CANTOPEN, &error);
        place::make(directory).map_err(can_t_open)?;
        let connection = Connection::open(directory.join(place::DATABASE))?;
        connection.busy_timeout(Duration::from_millis(100))?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // On a full disk that would fail unseen, and the log grow beyond what the reserve can take.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS records
             (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, record BLOB NOT NULL)",
        )?;
        let page_bytes = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let records = connection.query_row("SELECT count(*) FROM records", [], |row| row.get(0))?;
        let mut next = 0;
        for rank in RANKS {
            let newest: Option<i64> = connection.query_row(
                "SELECT max(id) FROM records WHERE id < ?",
                [(rank + 1) << SEQUENCE_BITS],
                |row| row.get(0),
            )?;
            let sequence = newest.unwrap_or(0) & ((1 << SEQUENCE_BITS) - 1);
            next = next.max(sequence + 1);
        }
        let mut file = File {
            connection,
            place: Place::of_open(directory).map_err(can_t_open)?,
            has_reserve: false,
            bytes_max,
            page_bytes,
            next,
            records,
        };
        // A full disk does not keep from replaying; what is new is refused until there is room.
        let _ = file.keep_reserve();
        Ok(file)
    }

    /// Bytes of the file in use. What is free in it was given up by replay, and is used again.
    pub fn bytes(&self) -> Result<u64, rusqlite::Error> {
        let pages = |pragma| {
            self.connection
                .query_row(pragma, [], |row| row.get::<_, u64>(0))
        };
        let used = pages("PRAGMA page_count")? - pages("PRAGMA freelist_count")?;
        Ok(used * self.page_bytes)
    }

    /// One transaction, one fsync. Answers by entry whether it was kept: what finds no room for its priority
    /// is not, and takes no part.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Vec<bool>, rusqlite::Error> {
        self.keep_reserve()?;
        self.fold_long_log()?;
        let mut bytes = self.bytes()?;
        let disk = bytes.saturating_add(self.place.free_bytes());
        let mut next = self.next;
        let transaction = self.connection.unchecked_transaction()?;
        let mut insert = transaction
            .prepare_cached("INSERT INTO records (id, topic, record) VALUES (?, ?, ?)")?;
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            // A page more than it holds is the most it can take.
            let size = entry.record.len() as u64 + self.page_bytes;
            let room = room_for(entry.priority, self.bytes_max, disk);
            kept.push(bytes + size <= room);
            if bytes + size > room {
                continue;
            }
            bytes += size;
            let rank = RANKS[usize::from(entry.priority != Priority::Critical)];
            let row = (rank << SEQUENCE_BITS) | next;
            insert.execute(params![row, entry.topic.suffix(), entry.record])?;
            next += 1;
        }
        drop(insert);
        transaction.commit()?;
        self.records += (next - self.next) as u64;
        self.next = next;
        Ok(kept)
    }

    /// The first in the order of replay that are not of these topics, within [`limits::SPOOL_REPLAY_BYTES`]
    /// (one more than fits).
    pub fn first(
        &self,
        records_max: usize,
        but: &[Topic],
    ) -> Result<Vec<Waiting>, rusqlite::Error> {
        let but: Vec<String> = but.iter().map(|topic| topic.suffix()).collect();
        let mut statement = self.connection.prepare_cached(
            "SELECT id, topic, record FROM records
             WHERE instr(?2, ' ' || topic || ' ') = 0 ORDER BY id LIMIT ?1",
        )?;
        let but = format!(" {} ", but.join(" "));
        let mut rows = statement.query(params![records_max as i64, but])?;
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()?
            && bytes < limits::SPOOL_REPLAY_BYTES
        {
            let (topic, record): (String, Vec<u8>) = (row.get(1)?, row.get(2)?);
            bytes += record.len();
            let topic = Topic::all().into_iter().find(|one| one.suffix() == topic);
            let record = api::Record::decode(record.as_slice());
            let (Some(topic), Ok(record)) = (topic, record) else {
                return Err(rusqlite::Error::InvalidQuery);
            };
            waiting.push(Waiting {
                row: row.get(0)?,
                topic,
                record: api::convert::record_from_wire(record),
            });
        }
        Ok(waiting)
    }

    pub fn remove(&mut self, rows: &[i64]) -> Result<(), rusqlite::Error> {
        match self.fold_long_log().and_then(|()| self.remove_rows(rows)) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                self.has_reserve = false;
                self.place.give_up_reserve().map_err(|_| error)?;
                self.fold_log()?;
                self.remove_rows(rows)
            }
            removed => removed,
        }
    }

    /// Whether what is written here is found under the path by the next process.
    pub fn is_in_place(&self) -> bool {
        self.place.is_theirs()
    }

    /// Somebody removed the file: a copy of all it holds takes its place, to be opened once this is dropped.
    pub fn put_back(&self) -> Result<(), io::Error> {
        self.place.fill(|path| {
            let into = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
            let copied = self.connection.execute("VACUUM INTO ?", [into]);
            copied.map(drop).map_err(io::Error::other)
        })
    }

    /// An empty spool gives its disk back; a file of that name which is not this one is left alone.
    pub fn discard(self) -> io::Result<()> {
        assert_eq!(self.records, 0, "only what is empty may go");
        let is_in_place = self.is_in_place();
        drop(self.connection);
        match is_in_place {
            true => self.place.clear(),
            false => Ok(()),
        }
    }

    /// Does nothing, as far as the disk: whether it would take a record now.
    pub fn try_disk(&mut self) -> Result<(), rusqlite::Error> {
        self.keep_reserve()?;
        self.fold_long_log()?;
        let tries: u32 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))?;
        self.connection
            .pragma_update(None, "user_version", tries.wrapping_add(1) & 0xff)
    }

    fn keep_reserve(&mut self) -> Result<(), rusqlite::Error> {
        if !self.has_reserve {
            let kept = self.place.reserve();
            kept.map_err(|error| failure(rusqlite::ffi::SQLITE_FULL, &error))?;
            self.has_reserve = true;
        }
        Ok(())
    }

    fn remove_rows(&mut self, rows: &[i64]) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut removed = 0;
        for row in rows {
            removed += transaction
                .prepare_cached("DELETE FROM records WHERE id = ?")?
                .execute([row])?;
        }
        transaction.commit()?;
        self.records -= removed as u64;
        Ok(())
    }

    /// Before a transaction: so the log holds no more than these pages and those of one transaction.
    fn fold_long_log(&self) -> Result<(), rusqlite::Error> {
        let pages = |row: &rusqlite::Row<'_>| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?);
        let waiting = self
            .connection
            .query_row("PRAGMA wal_checkpoint(NOOP)", [], pages)?;
        match waiting < limits::SPOOL_LOG_PAGES {
            true => Ok(()),
            false => self.fold_log(),
        }
    }

    /// The log begins anew afterwards, in the room it has.
    fn fold_log(&self) -> Result<(), rusqlite::Error> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }
}

/// Whether the file can go on after this error as it is. Otherwise only a fresh look at it tells what it holds.
pub fn is_harmless(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory)
    )
}

/// Bytes up to which a priority may fill the spool: its share of what is allowed, or of what the disk takes where that
/// is less. Critical tries the disk to its end.
fn room_for(priority: Priority, bytes_max: u64, disk: u64) -> u64 {
    let percent = match priority {
        Priority::Critical => return bytes_max,
        Priority::High => limits::SPOOL_HIGH_PERCENT,
        Priority::Normal => limits::SPOOL_NORMAL_PERCENT,
        Priority::Low => limits::SPOOL_LOW_PERCENT,
    };
    bytes_max.min(disk) / 100 * percent
}

fn failure(code: i32, error: &io::Error) -> rusqlite::Error {
    let kind = rusqlite::ffi::Error::new(code);
    rusqlite::Error::SqliteFailure(kind, Some(error.to_string()))
}
