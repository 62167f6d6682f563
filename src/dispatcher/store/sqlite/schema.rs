//! The file: its tables, how it is opened, and what its errors mean to a caller.
//!
//! Invariants:
//! * WAL with `synchronous=FULL`: a commit that returned is on the disk;
//! * tables that age are in the order of their arrival (by `sequence`, or by the time in a UUIDv7), so
//!   that retention removes from the front without an index of its own;
//! * `user_version` names the schema; a file of a later release is refused untouched, one of an earlier
//!   release is brought up to this one before anything is read;
//! * a file is of one namespace: another's users of the same names must not find each other's rows.

use crate::{dispatcher::store::StoreError, ids::Namespace, limits};
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use std::{path::Path, time::Duration};

/// Name of the file in the store's directory.
pub const FILE: &str = "store.sqlite";

/// Schema this release writes.
const SCHEMA: i64 = UPGRADES.len() as i64 + 1;
/// That of [`TABLES`]: a new file gets what later ones added by the steps that bring an old one there.
const TABLES_SCHEMA: i64 = 4;

/// How long a statement waits for another process that holds the file (`herald ctl`, a backup).
const BUSY: Duration = Duration::from_secs(5);

/// Distinct statements of the store: each is prepared once per connection.
const STATEMENTS: usize = 96;

/// `v` is the envelope version of the record that a row was made of, so that a later release can tell.
const TABLES: &str = "
-- One row per user ever met. `head` is the newest position, `lost` the newest one retention removed,
-- `region` the one that stored the user's first row.
CREATE TABLE users (
    user TEXT PRIMARY KEY,
    head INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0,
    region TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE TABLE inbox (
    sequence INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    pos INTEGER NOT NULL,
    prev INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    id BLOB NOT NULL,
    priority TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    collapse_key TEXT,
    content BLOB NOT NULL,
    stored_ms INTEGER NOT NULL,
    v INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE UNIQUE INDEX inbox_by_position ON inbox (user, pos);
CREATE UNIQUE INDEX inbox_by_id ON inbox (user, id, kind);
CREATE INDEX inbox_by_collapse_key ON inbox (user, collapse_key, pos) WHERE collapse_key IS NOT NULL;

-- Insert-only, apart from the inbox: a receipt may be of a broadcast, or of a row not yet stored.
CREATE TABLE receipts (
    sequence INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    id BLOB NOT NULL,
    stored_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX receipts_by_id ON receipts (user, id);

CREATE TABLE broadcasts (
    pos INTEGER PRIMARY KEY,
    prev INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    priority TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    collapse_key TEXT,
    content BLOB NOT NULL,
    stored_ms INTEGER NOT NULL,
    v INTEGER NOT NULL DEFAULT 1,
    kind INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX broadcasts_by_collapse_key ON broadcasts (collapse_key, pos) WHERE collapse_key IS NOT NULL;
CREATE TABLE broadcast_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    head INTEGER NOT NULL,
    lost INTEGER NOT NULL
) STRICT;
INSERT INTO broadcast_head VALUES (1, 0, 0);

-- What one gateway ('' : the dispatcher) said of one channel; the last four columns are of channels beside in-app.
-- `user` is '' for a broadcast; only there
-- `facet` is the rank, so that a gateway's counts stand side by side instead of replacing each other.
CREATE TABLE deliveries (
    id BLOB NOT NULL,
    user TEXT NOT NULL,
    channel TEXT NOT NULL,
    gateway TEXT NOT NULL,
    facet INTEGER NOT NULL,
    state TEXT NOT NULL,
    rank INTEGER NOT NULL,
    devices INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    began_ms INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    reference TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (id, user, channel, gateway, facet)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_user ON deliveries (user, id) WHERE user <> '';

CREATE TABLE claims (
    sequence INTEGER PRIMARY KEY,
    producer TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    id BLOB NOT NULL,
    done INTEGER NOT NULL,
    claimed_ms INTEGER NOT NULL,
    UNIQUE (producer, key)
) STRICT;

-- Addresses and devices of users, and the kind that says what an address is.
CREATE TABLE devices (
    user TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    updated_ms INTEGER NOT NULL,
    secret TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (user, id)
) STRICT, WITHOUT ROWID;
-- Those that are of one user at a time.
CREATE INDEX devices_by_address ON devices (address) WHERE kind <> 'email';

CREATE TABLE api_keys (
    hash BLOB PRIMARY KEY,
    producer TEXT NOT NULL,
    admin INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Whose file it is.
CREATE TABLE owner (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    namespace TEXT NOT NULL
) STRICT;
";

/// What schema 1 lacks.
const SINCE_1: &str = "
ALTER TABLE users ADD COLUMN region TEXT NOT NULL DEFAULT '';
ALTER TABLE inbox ADD COLUMN v INTEGER NOT NULL DEFAULT 1;
ALTER TABLE broadcasts ADD COLUMN v INTEGER NOT NULL DEFAULT 1;
ALTER TABLE broadcasts ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
CREATE TABLE owner (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    namespace TEXT NOT NULL
) STRICT;
";

/// What schema 2 lacks.
const SINCE_2: &str = "
ALTER TABLE deliveries ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN began_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN error TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN reference TEXT NOT NULL DEFAULT '';
CREATE TABLE devices (
    user TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (user, id)
) STRICT, WITHOUT ROWID;
";

/// What schema 3 lacks.
const SINCE_3: &str = "
ALTER TABLE devices ADD COLUMN secret TEXT NOT NULL DEFAULT '';
CREATE INDEX devices_by_address ON devices (address) WHERE kind <> 'email';
";

/// What schema 4 lacks.
const SINCE_4: &str = "
-- What users want, as JSON.
CREATE TABLE preferences (
    user TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What schema 5 lacks.
const SINCE_5: &str = "
-- What an operator did with records of dlq; `record` is the offset.
CREATE TABLE dead_letters (
    sequence INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL,
    record INTEGER NOT NULL,
    appended_ms INTEGER NOT NULL,
    handled TEXT NOT NULL,
    stored_ms INTEGER NOT NULL,
    UNIQUE (partition, record, appended_ms)
) STRICT;
";

/// What schema 6 lacks.
const SINCE_6: &str = "
-- Records that enter the bus when they are due; one that was taken may be on its way.
CREATE TABLE scheduled (
    id BLOB PRIMARY KEY,
    due_ms INTEGER NOT NULL,
    taken_until_ms INTEGER NOT NULL DEFAULT 0,
    topic TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    headers TEXT NOT NULL
) STRICT;
CREATE INDEX scheduled_by_time ON scheduled (due_ms);
";

/// What schema 7 lacks.
const SINCE_7: &str = "
-- E-mail addresses that are not sent to, in lower case.
CREATE TABLE suppressions (
    address TEXT PRIMARY KEY,
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What schema 8 lacks.
const SINCE_8: &str = "
-- Since when a device is in quarantine.
ALTER TABLE devices ADD COLUMN quarantined_ms INTEGER;
CREATE INDEX devices_in_quarantine ON devices (kind, user, id) WHERE quarantined_ms IS NOT NULL;
";

/// What schema 9 lacks.
const SINCE_9: &str = "
-- Broadcasts that users do not want to see any more. Insert-only.
CREATE TABLE dismissals (
    sequence INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    id BLOB NOT NULL,
    stored_ms INTEGER NOT NULL,
    UNIQUE (user, id)
) STRICT;
";

/// What schema 10 lacks.
const SINCE_10: &str = "
-- Users who are sent to together, and what is on its way to them.
CREATE TABLE segments (
    id BLOB PRIMARY KEY,
    producer TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE segment_users (
    segment BLOB NOT NULL,
    user TEXT NOT NULL,
    added_ms INTEGER NOT NULL,
    PRIMARY KEY (segment, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX segments_of_user ON segment_users (user);
CREATE TABLE segment_sends (
    sequence INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    segment BLOB NOT NULL,
    value BLOB NOT NULL,
    headers TEXT NOT NULL,
    users INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    after TEXT,
    state TEXT NOT NULL,
    taken_until_ms INTEGER NOT NULL,
    begun_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX segment_sends_running ON segment_sends (taken_until_ms) WHERE state = 'running';
";

/// What schema 11 lacks.
const SINCE_11: &str = "
-- Users who were to be forgotten; a later order of a user takes the place of the one before. Numbers are not used twice:
-- by them others find out what is new.
CREATE TABLE erasures (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL UNIQUE,
    id BLOB NOT NULL,
    below INTEGER NOT NULL,
    begun_ms INTEGER NOT NULL,
    proof TEXT
) STRICT;
CREATE INDEX erasures_open ON erasures (sequence) WHERE proof IS NULL;
";

/// What schema 12 has otherwise: an index in the order of time is written at its end, one by user anywhere, and there a
/// page goes to the disk for each row. Of in-app rows of the log the user's inbox and read marks tell the ids.
const SINCE_12: &str = "
DROP INDEX inbox_by_id;
CREATE UNIQUE INDEX inbox_by_id ON inbox (id, user, kind);
DROP INDEX inbox_by_position;
CREATE INDEX inbox_by_position ON inbox (user, pos, id);
DROP INDEX deliveries_by_user;
CREATE INDEX deliveries_by_user ON deliveries (user, id) WHERE user <> '' AND channel <> 'in_app';
";

/// From schema 1 on, each brings a file to the next schema.
const UPGRADES: [&str; 12] = [
    SINCE_1, SINCE_2, SINCE_3, SINCE_4, SINCE_5, SINCE_6, SINCE_7, SINCE_8, SINCE_9, SINCE_10,
    SINCE_11, SINCE_12,
];

/// What a piece of work on a connection can end in: SQLite's error, or ours.
#[derive(Debug)]
pub enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(error)
    }
}

impl Failure {
    /// A defect in what is stored or in what we were asked to store.
    pub fn corrupt(problem: impl Into<String>) -> Failure {
        Failure::Store(StoreError::Corrupt(problem.into()))
    }

    /// Names cause and fix for the operator.
    pub fn explain(self, file: &str) -> StoreError {
        let error = match self {
            Failure::Store(error) => return error,
            Failure::Sqlite(error) => error,
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                StoreError::Corrupt(format!(
                    "{file}: {error}. Stop the process, move {file}* aside and put a backup in their \
                     place, or save what can be read with `sqlite3 {file} .recover`"
                ))
            }
            Some(ErrorCode::DiskFull) => {
                StoreError::Unavailable(format!("{file}: the disk is full; free some space"))
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                StoreError::Unavailable(format!(
                    "{file}: {error}. The process's user must own the directory and be able to write \
                     there"
                ))
            }
            // Anything else SQLite says about the environment passes: busy, interrupted, I/O.
            Some(code) if code != ErrorCode::ConstraintViolation => {
                StoreError::Unavailable(format!("{file}: {error}"))
            }
            // A broken constraint, a value of the wrong type: what is in the file is not what we wrote.
            _ => StoreError::Corrupt(format!("{file}: {error}. This is a defect: report it")),
        }
    }
}

/// Opens the connection that writes, makes or checks the tables, and whose they are.
pub fn open_writer(path: &Path, namespace: &Namespace) -> Result<Connection, StoreError> {
    explained(path, || {
        let connection = open(path, limits::STORE_WRITER_CACHE_KIB)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "journal_size_limit", limits::STORE_WAL_BYTES)?;
        connection.pragma_update(None, "wal_autocheckpoint", limits::STORE_CHECKPOINT_PAGES)?;
        // What an upgrade sorts may be larger than memory.
        connection.pragma_update(None, "temp_store", "file")?;
        prepare_tables(&connection, namespace)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        Ok(connection)
    })
}

/// Opens a connection that can't write.
pub fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    explained(path, || {
        let connection = open(path, limits::STORE_READER_CACHE_KIB)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    })
}

fn explained(
    path: &Path,
    work: impl FnOnce() -> Result<Connection, Failure>,
) -> Result<Connection, StoreError> {
    work().map_err(|failure| failure.explain(&path.display().to_string()))
}

fn open(path: &Path, cache_kib: i64) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Else a bound LIMIT makes SQLite parse and plan the statement anew with every use of it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A negative size is in KiB.
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

fn prepare_tables(connection: &Connection, namespace: &Namespace) -> Result<(), Failure> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let from = match version {
        0 => {
            connection.execute_batch(TABLES)?;
            TABLES_SCHEMA
        }
        1..=SCHEMA => version,
        other => {
            return Err(Failure::corrupt(format!(
                "{} has schema {other}, this release knows {SCHEMA}: start the release that wrote it, or \
                 a later one",
                connection.path().unwrap_or(FILE)
            )));
        }
    };
    for upgrade in &UPGRADES[from as usize - 1..] {
        connection.execute_batch(upgrade)?;
    }
    connection.pragma_update(None, "user_version", SCHEMA)?;
    belong_to(connection, namespace)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// The first namespace that opens a file owns it.
fn belong_to(connection: &Connection, namespace: &Namespace) -> Result<(), Failure> {
    connection.execute(
        "INSERT INTO owner VALUES (1, ?1) ON CONFLICT DO NOTHING",
        [namespace.as_str()],
    )?;
    let owner: String =
        connection.query_row("SELECT namespace FROM owner", [], |row| row.get(0))?;
    match owner == namespace.as_str() {
        true => Ok(()),
        false => Err(Failure::Store(StoreError::Foreign {
            file: connection.path().unwrap_or(FILE).to_owned(),
            owner,
        })),
    }
}
