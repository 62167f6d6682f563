//! Forgetting users, and finding all there is of one.

use super::{
    SqliteStore, delivery, devices, encode, reading, scheduled, schema::Failure, suppressions,
};
use crate::{
    dispatcher::{
        store::{DeliveryState, Erasure, Forget, Mark, Removed, Row, Scheduled, StoreError},
        suppression::Suppression,
    },
    ids::{NotificationId, SegmentId, UserId},
    limits,
    position::Position,
};
use async_trait::async_trait;
use rusqlite::{Connection, params};
use uuid::Uuid;

#[async_trait]
impl Forget for SqliteStore {
    async fn begin_erasure(&self, erasure: &Erasure, now_ms: u64) -> Result<(), StoreError> {
        let erasure = erasure.clone();
        self.writer
            .write(move |connection| begin(connection, &erasure, now_ms))
            .await
    }

    async fn erasures_since(&self, mark: u64) -> Result<(Vec<Erasure>, u64), StoreError> {
        self.readers
            .read(move |connection| since(connection, mark))
            .await
    }

    async fn open_erasures(
        &self,
        begun_before_ms: u64,
        limit: usize,
    ) -> Result<Vec<Erasure>, StoreError> {
        self.readers
            .read(move |connection| open(connection, begun_before_ms, limit))
            .await
    }

    async fn erase(&self, erasure: &Erasure) -> Result<Removed, StoreError> {
        let erasure = erasure.clone();
        self.writer
            .write(move |connection| step(connection, &erasure))
            .await
    }

    async fn end_erasure(&self, erasure: &Erasure, proof: &str) -> Result<(), StoreError> {
        let (erasure, proof) = (erasure.clone(), proof.to_owned());
        self.writer
            .write(move |connection| end(connection, &erasure, &proof))
            .await
    }

    async fn erasure(
        &self,
        user: &UserId,
    ) -> Result<Option<(Erasure, Option<String>)>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| of_user(connection, &user))
            .await
    }

    async fn scheduled_for(&self, user: &UserId) -> Result<Vec<Scheduled>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| scheduled::of_user(connection, &user, None))
            .await
    }

    async fn rows_of(
        &self,
        user: &UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| reading::all_after(connection, &user, after, limit))
            .await
    }

    async fn deliveries_of(
        &self,
        user: &UserId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<(NotificationId, DeliveryState)>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| delivery::of_user(connection, &user, before, limit))
            .await
    }

    async fn marks_of(
        &self,
        user: &UserId,
        mark: Mark,
        after: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<NotificationId>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| marks(connection, &user, mark, after, limit))
            .await
    }

    async fn segments_of(&self, user: &UserId) -> Result<Vec<SegmentId>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| segments(connection, &user))
            .await
    }
}

fn marks(
    connection: &Connection,
    user: &UserId,
    mark: Mark,
    after: Option<NotificationId>,
    limit: usize,
) -> Result<Vec<NotificationId>, Failure> {
    let mut statement = connection.prepare_cached(match mark {
        Mark::Read => "SELECT id FROM receipts WHERE user = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        Mark::Dismissed => {
            "SELECT id FROM dismissals WHERE user = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
        }
    })?;
    let after = after.map_or(Uuid::nil(), |id| id.0);
    let values = params![user.as_str(), after.as_bytes(), limit as i64];
    let ids = statement.query_map(values, |row| encode::read_id(row, 0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

fn segments(connection: &Connection, user: &UserId) -> Result<Vec<SegmentId>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT segment FROM segment_users WHERE user = ?1")?;
    let ids = statement.query_map([user.as_str()], |row| encode::read_id(row, 0))?;
    let ids = ids.map(|id| id.map(|id| SegmentId(id.0)));
    Ok(ids.collect::<Result<_, _>>()?)
}

fn begin(connection: &Connection, erasure: &Erasure, now_ms: u64) -> Result<(), Failure> {
    let known = of_user(connection, &erasure.user)?;
    if known.is_some_and(|(known, _)| known.below >= erasure.below) {
        return Ok(());
    }
    // Always a new `sequence`: it is how others find out.
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO erasures (user, id, below, begun_ms) VALUES (?1, ?2, ?3, ?4)",
    )?;
    statement.execute(params![
        erasure.user.as_str(),
        erasure.id.0.as_bytes(),
        encode::position(erasure.below),
        encode::ms(now_ms)
    ])?;
    overwriting(connection, || {
        let mut statement = connection.prepare_cached("DELETE FROM preferences WHERE user = ?1")?;
        Ok(statement.execute([erasure.user.as_str()])?)
    })?;
    Ok(())
}

fn since(connection: &Connection, mark: u64) -> Result<(Vec<Erasure>, u64), Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, id, below, sequence FROM erasures WHERE sequence > ?1 ORDER BY sequence",
    )?;
    let mut rows = statement.query([encode::ms(mark)])?;
    let (mut erasures, mut next) = (Vec::new(), mark);
    while let Some(row) = rows.next()? {
        erasures.push(read(row)?);
        next = encode::read_ms(row, 3)?;
    }
    Ok((erasures, next))
}

fn open(
    connection: &Connection,
    begun_before_ms: u64,
    limit: usize,
) -> Result<Vec<Erasure>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user, id, below FROM erasures WHERE proof IS NULL AND begun_ms < ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![encode::ms(begun_before_ms), limit])?;
    let mut erasures = Vec::new();
    while let Some(row) = rows.next()? {
        erasures.push(read(row)?);
    }
    Ok(erasures)
}

fn of_user(
    connection: &Connection,
    user: &UserId,
) -> Result<Option<(Erasure, Option<String>)>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT user, id, below, proof FROM erasures WHERE user = ?1")?;
    let mut rows = statement.query([user.as_str()])?;
    match rows.next()? {
        None => Ok(None),
        Some(row) => Ok(Some((read(row)?, row.get(3)?))),
    }
}

fn end(connection: &Connection, erasure: &Erasure, proof: &str) -> Result<(), Failure> {
    let mut statement = connection
        .prepare_cached("UPDATE erasures SET proof = ?3 WHERE user = ?1 AND below = ?2")?;
    let below = encode::position(erasure.below);
    statement.execute(params![erasure.user.as_str(), below, proof])?;
    Ok(())
}

/// So many rows of each table at once: others want to write, too.
fn step(connection: &Connection, erasure: &Erasure) -> Result<Removed, Failure> {
    overwriting(connection, || {
        let user = erasure.user.as_str();
        let (id, below) = (erasure.id.0.as_bytes(), encode::position(erasure.below));
        let rows = limits::ERASE_ROWS as i64;
        let removed = |text: &str, bound: &dyn rusqlite::ToSql| -> Result<u64, Failure> {
            let mut statement = connection.prepare_cached(text)?;
            Ok(statement.execute(params![user, bound, rows])? as u64)
        };
        // By the rows that are removed below: without them those of the log are not found.
        let delivery_log = removed(
            "DELETE FROM deliveries WHERE user = ?1 AND id IN (
                SELECT id FROM inbox WHERE user = ?1 AND pos < ?2 ORDER BY pos LIMIT ?3)",
            &below,
        )? + removed(
            "DELETE FROM deliveries WHERE user = ?1 AND id IN (
                SELECT id FROM receipts WHERE user = ?1 AND id < ?2 ORDER BY id LIMIT ?3)",
            &id,
        )? + removed(
            "DELETE FROM deliveries WHERE (id, user, channel, gateway, facet) IN (
                SELECT id, user, channel, gateway, facet FROM deliveries
                WHERE user = ?1 AND user <> '' AND channel <> 'in_app' AND id < ?2 LIMIT ?3)",
            &id,
        )?;
        Ok(Removed {
            delivery_log,
            inbox: removed(
                "DELETE FROM inbox WHERE sequence IN (
                    SELECT sequence FROM inbox WHERE user = ?1 AND pos < ?2 ORDER BY pos LIMIT ?3)",
                &below,
            )?,
            read_marks: removed(
                "DELETE FROM receipts WHERE sequence IN (
                    SELECT sequence FROM receipts WHERE user = ?1 AND id < ?2 ORDER BY id LIMIT ?3)",
                &id,
            )?,
            dismissals: removed(
                "DELETE FROM dismissals WHERE sequence IN (
                    SELECT sequence FROM dismissals WHERE user = ?1 AND id < ?2 LIMIT ?3)",
                &id,
            )?,
            // Before the devices by which they are found.
            suppressions: unsuppress(connection, erasure)?,
            devices: removed(
                "DELETE FROM devices WHERE (user, id) IN (
                    SELECT user, id FROM devices WHERE user = ?1 AND updated_ms <= ?2 LIMIT ?3)",
                &encode::ms(erasure.id.unix_ms()),
            )?,
            segments: removed(
                "DELETE FROM segment_users WHERE (segment, user) IN (
                    SELECT segment, user FROM segment_users WHERE user = ?1 AND added_ms <= ?2 LIMIT ?3)",
                &encode::ms(erasure.id.unix_ms()),
            )?,
            scheduled: unschedule(connection, erasure)?,
        })
    })
}

fn unsuppress(connection: &Connection, erasure: &Erasure) -> Result<u64, Failure> {
    let held = devices::of_user(connection, &erasure.user)?;
    let mut removed = 0;
    for address in erasure.addresses(&held) {
        removed += u64::from(suppressions::remove(connection, &address)?);
        let mark = Suppression::erased(&address, erasure.id.unix_ms());
        suppressions::put(connection, &[mark])?;
    }
    Ok(removed)
}

fn unschedule(connection: &Connection, erasure: &Erasure) -> Result<u64, Failure> {
    let found = scheduled::of_user(connection, &erasure.user, Some(erasure.id))?;
    for one in &found {
        match one.without(&erasure.user) {
            Some(value) => scheduled::put_value(connection, one.id, &value)?,
            None => scheduled::remove(connection, &[one.id])?,
        }
    }
    Ok(found.len() as u64)
}

/// What is removed meanwhile is overwritten in the file, not only given up.
fn overwriting<T>(
    connection: &Connection,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    connection.pragma_update(None, "secure_delete", true)?;
    let done = work();
    connection.pragma_update(None, "secure_delete", false)?;
    done
}

fn read(row: &rusqlite::Row<'_>) -> Result<Erasure, Failure> {
    let user = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
    let user = user
        .parse()
        .map_err(|error| StoreError::Corrupt(format!("an erasure is of a bad user: {error}")))?;
    Ok(Erasure {
        user,
        id: encode::read_id(row, 1)?,
        below: encode::read_position(row, 2)?,
    })
}
