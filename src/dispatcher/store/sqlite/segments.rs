//! Segments, and what is on its way to them.

use super::{SqliteStore, encode, schema::Failure};
use crate::{
    bus::Record,
    dispatcher::{
        store::{Cancelled, Segment, SegmentSend, Segments, StoreError, headers},
        unix_ms,
    },
    ids::{NotificationId, SegmentId, UserId},
    limits,
};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

const COLUMNS: &str = "id, segment, value, headers, users, sent, after, state";

#[async_trait]
impl Segments for SqliteStore {
    async fn make_segment(&self, segment: &Segment) -> Result<(), StoreError> {
        let segment = segment.clone();
        self.writer
            .write(move |connection| {
                let mut statement = connection.prepare_cached(
                    "INSERT INTO segments (id, producer, created_ms) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO NOTHING",
                )?;
                let created_ms = encode::ms(segment.created_ms);
                let id = segment.id.0.as_bytes();
                statement.execute(params![id, segment.producer, created_ms])?;
                Ok(())
            })
            .await
    }

    async fn segment(&self, id: SegmentId) -> Result<Option<Segment>, StoreError> {
        self.readers
            .read(move |connection| {
                // One that has ended is not there, however much of it is.
                let mut statement = connection.prepare_cached(
                    "SELECT producer, created_ms FROM segments WHERE id = ?1 AND created_ms >= ?2",
                )?;
                let kept_from_ms = unix_ms().saturating_sub(limits::RETENTION_S * 1000);
                let values = params![id.0.as_bytes(), encode::ms(kept_from_ms)];
                let found = statement.query_row(values, |row| {
                    Ok(Segment {
                        id,
                        producer: row.get(0)?,
                        created_ms: encode::read_ms(row, 1)?,
                    })
                });
                Ok(found.optional()?)
            })
            .await
    }

    async fn add_to_segment(
        &self,
        id: SegmentId,
        users: &[UserId],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let users = users.to_vec();
        self.writer
            .write(move |connection| {
                // Of one that is gone meanwhile nobody would ever remove them.
                let mut statement = connection.prepare_cached(
                    "INSERT INTO segment_users (segment, user, added_ms)
                     SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM segments WHERE id = ?1)
                     ON CONFLICT DO UPDATE SET added_ms = excluded.added_ms",
                )?;
                for user in &users {
                    let added_ms = encode::ms(now_ms);
                    statement.execute(params![id.0.as_bytes(), user.as_str(), added_ms])?;
                }
                Ok(())
            })
            .await
    }

    async fn segment_size(&self, id: SegmentId) -> Result<u64, StoreError> {
        self.readers
            .read(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT count(*) FROM segment_users WHERE segment = ?1")?;
                let count: i64 = statement.query_row([id.0.as_bytes()], |row| row.get(0))?;
                Ok(count as u64)
            })
            .await
    }

    async fn count_in_segment(&self, id: SegmentId, users: &[UserId]) -> Result<u64, StoreError> {
        let users = users.to_vec();
        self.readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT count(*) FROM segment_users WHERE segment = ?1 AND user = ?2",
                )?;
                let mut count = 0;
                for user in &users {
                    let values = params![id.0.as_bytes(), user.as_str()];
                    let found: i64 = statement.query_row(values, |row| row.get(0))?;
                    count += found as u64;
                }
                Ok(count)
            })
            .await
    }

    async fn segment_users(
        &self,
        id: SegmentId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        let after = after.map_or(String::new(), |user| user.as_str().to_owned());
        self.readers
            .read(move |connection| users(connection, id, &after, limit))
            .await
    }

    async fn is_sent_to(&self, id: SegmentId) -> Result<bool, StoreError> {
        self.readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM segment_sends
                        WHERE state = 'running' AND segment = ?1)",
                )?;
                Ok(statement.query_row([id.0.as_bytes()], |row| row.get(0))?)
            })
            .await
    }

    async fn remove_segment(&self, id: SegmentId) -> Result<bool, StoreError> {
        self.writer
            .write(move |connection| {
                let id = id.0.as_bytes();
                connection.execute("DELETE FROM segment_users WHERE segment = ?1", [id])?;
                Ok(connection.execute("DELETE FROM segments WHERE id = ?1", [id])? > 0)
            })
            .await
    }

    async fn begin_send(&self, send: &SegmentSend, from_ms: u64) -> Result<(), StoreError> {
        let send = send.clone();
        self.writer
            .write(move |connection| begin(connection, &send, from_ms))
            .await
    }

    async fn segment_send(&self, id: NotificationId) -> Result<Option<SegmentSend>, StoreError> {
        self.readers
            .read(move |connection| find(connection, id))
            .await
    }

    async fn take_send(
        &self,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<SegmentSend>, StoreError> {
        // Most of the time nothing is, and a look keeps the disk out of it.
        let waits = self
            .readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM segment_sends
                        WHERE state = 'running' AND taken_until_ms <= ?1)",
                )?;
                Ok(statement.query_row([encode::ms(now_ms)], |row| row.get::<_, bool>(0))?)
            })
            .await?;
        if !waits {
            return Ok(None);
        }
        self.writer
            .write(move |connection| take(connection, now_ms, until_ms))
            .await
    }

    async fn advance_send(&self, send: &SegmentSend, until_ms: u64) -> Result<bool, StoreError> {
        let send = send.clone();
        self.writer
            .write(move |connection| {
                let mut statement = connection.prepare_cached(
                    "UPDATE segment_sends SET sent = ?2, after = ?3, state = ?4, taken_until_ms = ?5
                     WHERE id = ?1 AND state = 'running'",
                )?;
                let changed = statement.execute(params![
                    send.id.0.as_bytes(),
                    encode::ms(send.sent),
                    send.after.as_ref().map(UserId::as_str),
                    send.state.as_str(),
                    encode::ms(until_ms),
                ])?;
                Ok(changed > 0)
            })
            .await
    }

    async fn cancel_send(&self, id: NotificationId) -> Result<Cancelled, StoreError> {
        self.writer
            .write(move |connection| {
                let mut statement = connection.prepare_cached(
                    "UPDATE segment_sends SET state = 'cancelled', after = NULL
                     WHERE id = ?1 AND state = 'running'",
                )?;
                if statement.execute([id.0.as_bytes()])? > 0 {
                    return Ok(Cancelled::Yes);
                }
                Ok(match find(connection, id)? {
                    Some(_) => Cancelled::TooLate,
                    None => Cancelled::Unknown,
                })
            })
            .await
    }
}

fn users(
    connection: &Connection,
    id: SegmentId,
    after: &str,
    limit: usize,
) -> Result<Vec<UserId>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT user FROM segment_users WHERE segment = ?1 AND user > ?2 ORDER BY user LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![id.0.as_bytes(), after, limit])?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        users.push(encode::read_word(row, 0)?);
    }
    Ok(users)
}

fn begin(connection: &Connection, send: &SegmentSend, from_ms: u64) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO segment_sends (id, segment, value, headers, users, sent, state, taken_until_ms, begun_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 'running', ?7, ?6) ON CONFLICT DO NOTHING",
    )?;
    statement.execute(params![
        send.id.0.as_bytes(),
        send.segment.0.as_bytes(),
        &send.record.value[..],
        headers::write(&send.record),
        encode::ms(send.users),
        encode::ms(send.id.unix_ms()),
        encode::ms(from_ms),
    ])?;
    Ok(())
}

fn find(connection: &Connection, id: NotificationId) -> Result<Option<SegmentSend>, Failure> {
    let text = format!("SELECT {COLUMNS} FROM segment_sends WHERE id = ?1");
    let mut statement = connection.prepare_cached(&text)?;
    let mut rows = statement.query([id.0.as_bytes()])?;
    rows.next()?.map(read).transpose()
}

fn take(
    connection: &Connection,
    now_ms: u64,
    until_ms: u64,
) -> Result<Option<SegmentSend>, Failure> {
    let text = format!(
        "UPDATE segment_sends SET taken_until_ms = ?2 WHERE id IN (
            SELECT id FROM segment_sends WHERE state = 'running' AND taken_until_ms <= ?1
            ORDER BY id LIMIT 1)
         RETURNING {COLUMNS}"
    );
    let mut statement = connection.prepare_cached(&text)?;
    let mut rows = statement.query([encode::ms(now_ms), encode::ms(until_ms)])?;
    let taken = rows.next()?.map(read).transpose()?;
    // To its end, or the change is not made.
    while rows.next()?.is_some() {}
    Ok(taken)
}

fn read(row: &Row<'_>) -> Result<SegmentSend, Failure> {
    let headers = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
    let headers = headers::read(headers).ok_or_else(|| {
        StoreError::Corrupt("a send to a segment has headers that can't be read".into())
    })?;
    let segment = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
    let segment = Uuid::from_slice(segment)
        .map_err(|_| StoreError::Corrupt("a send has no id of a segment".into()))?;
    let after: Option<String> = row.get(6)?;
    let after = after.map(|user| user.parse()).transpose();
    Ok(SegmentSend {
        id: encode::read_id(row, 0)?,
        segment: SegmentId(segment),
        record: Record {
            key: Bytes::new(),
            value: Bytes::copy_from_slice(
                row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?,
            ),
            headers,
        },
        users: encode::read_ms(row, 4)?,
        sent: encode::read_ms(row, 5)?,
        after: after.map_err(|error| {
            StoreError::Corrupt(format!("a send stands at a bad user: {error}"))
        })?,
        state: encode::read_word(row, 7)?,
    })
}
