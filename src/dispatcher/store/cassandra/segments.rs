//! Segments, and what is on its way to them.
//!
//! A segment's users lie in slices, one behind the other. Whether a send runs, is done or was cancelled is told by a
//! condition, never by a look before.

use super::{
    CassandraStore,
    delivery::slice_of,
    link::{Level, all, contended, is_applied},
    stream::{damaged, ms},
};
use crate::{
    bus::Record,
    dispatcher::store::{
        Cancelled, Segment, SegmentSend, Segments, SendProgress, StoreError, headers,
    },
    ids::{NotificationId, SegmentId, UserId},
    limits,
};
use async_trait::async_trait;
use bytes::Bytes;
use scylla::DeserializeRow;
use uuid::Uuid;

/// As many parts as the users of one notification have.
const SLICES: i32 = limits::DELIVERY_SLICES as i32;

#[derive(DeserializeRow)]
struct Stored {
    segment: Uuid,
    value: Vec<u8>,
    headers: String,
    users: i64,
    sent: i64,
    after: Option<String>,
    state: String,
    taken_until_ms: i64,
}

#[async_trait]
impl Segments for CassandraStore {
    async fn make_segment(&self, segment: &Segment) -> Result<(), StoreError> {
        let values = (segment.id.0, &segment.producer, ms(segment.created_ms));
        self.link()?
            .write(&self.link()?.statements.put_segment, values)
            .await
    }

    async fn segment(&self, id: SegmentId) -> Result<Option<Segment>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.segment;
        let found = reader.first::<(String, i64)>(statement, (id.0,)).await?;
        Ok(found.map(|(producer, created_ms)| Segment {
            id,
            producer,
            created_ms: created_ms.max(0) as u64,
        }))
    }

    async fn add_to_segment(
        &self,
        id: SegmentId,
        users: &[UserId],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let statements = &self.link()?.statements;
        let add = users.iter().map(|user| async move {
            let name = user.as_str();
            // Where it is first: what is forgotten is found by it.
            let of_user = (name, id.0, ms(now_ms));
            self.link()?
                .write(&statements.put_segment_of_user, of_user)
                .await?;
            let values = (id.0, slice_of(user), name);
            self.link()?
                .write(&statements.put_segment_user, values)
                .await
        });
        all(add.collect()).await.map(drop)
    }

    async fn segment_size(&self, id: SegmentId) -> Result<u64, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.count_segment_users;
        let counts = (0..SLICES).map(|slice| reader.first::<(i64,)>(statement, (id.0, slice)));
        let counts = all(counts.collect()).await?;
        Ok(counts
            .into_iter()
            .flatten()
            .map(|(count,)| count.max(0) as u64)
            .sum())
    }

    async fn count_in_segment(&self, id: SegmentId, users: &[UserId]) -> Result<u64, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.segment_user;
        let found = users.iter().map(|user| {
            let values = (id.0, slice_of(user), user.as_str());
            reader.first::<(String,)>(statement, values)
        });
        let found = all(found.collect()).await?;
        Ok(found.iter().flatten().count() as u64)
    }

    async fn segment_users(
        &self,
        id: SegmentId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.segment_users;
        let (first, mut behind) = match after {
            None => (0, ""),
            Some(user) => (slice_of(user), user.as_str()),
        };
        let mut users = Vec::new();
        for slice in first..SLICES {
            let left = i32::try_from(limit - users.len()).unwrap_or(i32::MAX);
            if left == 0 {
                break;
            }
            let values = (id.0, slice, behind, left);
            for (name,) in reader.rows::<(String,)>(statement, values).await? {
                let user = name.parse();
                users.push(
                    user.map_err(|error| damaged(&format!("a bad user in a segment: {error}")))?,
                );
            }
            behind = "";
        }
        Ok(users)
    }

    async fn is_sent_to(&self, id: SegmentId) -> Result<bool, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.running_sends;
        let running = reader.rows::<(Uuid,)>(statement, ()).await?;
        let sends = running
            .into_iter()
            .map(|(send,)| self.stored_send(NotificationId(send)));
        let is_open = |stored: &Stored| {
            stored.segment == id.0 && stored.state == SendProgress::Running.as_str()
        };
        let sends = all(sends.collect()).await?;
        Ok(sends.iter().flatten().any(is_open))
    }

    async fn remove_segment(&self, id: SegmentId) -> Result<bool, StoreError> {
        let statements = &self.link()?.statements;
        let was_there = self.segment(id).await?.is_some();
        loop {
            let users = self.segment_users(id, None, limits::FAN_OUT_CHUNK).await?;
            if users.is_empty() {
                break;
            }
            let remove = users.iter().map(|user| self.leave_segment(id, user));
            all(remove.collect()).await?;
        }
        self.link()?
            .write(&statements.remove_segment, (id.0,))
            .await?;
        Ok(was_there)
    }

    async fn begin_send(&self, send: &SegmentSend, from_ms: u64) -> Result<(), StoreError> {
        let statements = &self.link()?.statements;
        let record = &send.record;
        let values = (
            send.id.0,
            send.segment.0,
            &record.value[..],
            headers::write(record),
            ms(send.users),
            ms(from_ms),
        );
        let begun = self.link()?.compare_and_set(&statements.put_send, values);
        begun.await?;
        self.link()?
            .write(&statements.put_running_send, (send.id.0,))
            .await
    }

    async fn segment_send(&self, id: NotificationId) -> Result<Option<SegmentSend>, StoreError> {
        let found = self.stored_send(id).await?;
        found.map(|stored| stored.into_send(id)).transpose()
    }

    async fn take_send(
        &self,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<SegmentSend>, StoreError> {
        let statements = &self.link()?.statements;
        let reader = self.link()?.reader(Level::Quorum);
        let running = reader
            .rows::<(Uuid,)>(&statements.running_sends, ())
            .await?;
        for id in running.into_iter().map(|(id,)| NotificationId(id)) {
            let stored = self.stored_send(id).await?;
            let is_open = |stored: &&Stored| stored.state == SendProgress::Running.as_str();
            let Some(open) = stored.as_ref().filter(is_open) else {
                let gone = self.link()?.write(&statements.remove_running_send, (id.0,));
                gone.await?;
                continue;
            };
            if open.taken_until_ms > ms(now_ms) {
                continue;
            }
            let values = (ms(until_ms), id.0, open.taken_until_ms);
            let taken = self.link()?.compare_and_set(&statements.take_send, values);
            if is_applied(&taken.await?)? {
                return stored.map(|stored| stored.into_send(id)).transpose();
            }
        }
        Ok(None)
    }

    async fn advance_send(&self, send: &SegmentSend, until_ms: u64) -> Result<bool, StoreError> {
        let values = (
            ms(send.sent),
            send.after.as_ref().map(UserId::as_str),
            send.state.as_str(),
            ms(until_ms),
            send.id.0,
        );
        let statement = &self.link()?.statements.advance_send;
        let advanced = self.link()?.compare_and_set(statement, values);
        is_applied(&advanced.await?)
    }

    async fn cancel_send(&self, id: NotificationId) -> Result<Cancelled, StoreError> {
        for _ in 0..limits::CASSANDRA_CAS_ATTEMPTS {
            match self.segment_send(id).await? {
                None => return Ok(Cancelled::Unknown),
                Some(send) if send.state != SendProgress::Running => return Ok(Cancelled::TooLate),
                Some(_) => {}
            }
            let statement = &self.link()?.statements.cancel_send;
            let cancelled = self.link()?.compare_and_set(statement, (id.0,));
            if is_applied(&cancelled.await?)? {
                return Ok(Cancelled::Yes);
            }
        }
        Err(contended("a send to a segment"))
    }
}

impl CassandraStore {
    async fn stored_send(&self, id: NotificationId) -> Result<Option<Stored>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.send;
        reader.first::<Stored>(statement, (id.0,)).await
    }

    async fn leave_segment(&self, id: SegmentId, user: &UserId) -> Result<(), StoreError> {
        let statements = &self.link()?.statements;
        let values = (id.0, slice_of(user), user.as_str());
        let of_segment = self.link()?.write(&statements.remove_segment_user, values);
        of_segment.await?;
        let values = (user.as_str(), id.0);
        let of_user = self
            .link()?
            .write(&statements.remove_segment_of_user, values);
        of_user.await
    }

    /// Those that the user was added to by this moment; answers how many.
    pub(super) async fn leave_segments(
        &self,
        user: &UserId,
        until_ms: u64,
    ) -> Result<u64, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.segments_of_user;
        let found = reader.rows::<(Uuid, i64)>(statement, (user.as_str(),));
        let found = found.await?.into_iter();
        let older = found.filter(|(_, added_ms)| *added_ms <= ms(until_ms));
        let leave = older.map(|(id, _)| self.leave_segment(SegmentId(id), user));
        Ok(all(leave.collect()).await?.len() as u64)
    }
}

impl Stored {
    fn into_send(self, id: NotificationId) -> Result<SegmentSend, StoreError> {
        let headers = headers::read(&self.headers)
            .ok_or_else(|| damaged("a send to a segment with headers that can't be read"))?;
        let after = self.after.map(|user| user.parse()).transpose();
        let state = self.state.parse();
        Ok(SegmentSend {
            id,
            segment: SegmentId(self.segment),
            record: Record {
                key: Bytes::new(),
                value: self.value.into(),
                headers,
            },
            users: self.users.max(0) as u64,
            sent: self.sent.max(0) as u64,
            after: after.map_err(|error| damaged(&format!("a send at a bad user: {error}")))?,
            state: state.map_err(|()| damaged("a send in a state of no name"))?,
        })
    }
}
