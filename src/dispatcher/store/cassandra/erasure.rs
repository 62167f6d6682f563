//! Forgetting users, and finding all there is of one.
//!
//! `erasures` says what is known of a user; `erasures_by_day` tells every dispatcher of it, `open_erasures` what is left to
//! be done. An erasure is entered in these two first: broken off in between, it is begun again. The row of a stream's
//! newest bucket and its head stay: without them the next row would begin another stream under the same positions.

use super::{
    CassandraStore, bucket,
    delivery::slice_of,
    devices,
    link::{Level, all},
    quarantine, scheduled,
    stream::{damaged, ms, position, value_of},
    suppressions, unix_ms,
};
use crate::{
    dispatcher::{
        store::{
            Cancelled, DeliveryState, Erasure, Forget, Mark, Removed, Row, Scheduled, StoreError,
        },
        suppression::Suppression,
    },
    ids::{NotificationId, SegmentId, UserId},
    limits,
    position::Position,
};
use async_trait::async_trait;
use uuid::Uuid;

const DAY_MS: i64 = 24 * 3_600_000;
/// Clocks of dispatchers may differ by so much, and so long may a write be on its way.
const LATE_MS: u64 = 60_000;

type Stored = (String, Uuid, i64);

#[async_trait]
impl Forget for CassandraStore {
    async fn begin_erasure(&self, erasure: &Erasure, now_ms: u64) -> Result<(), StoreError> {
        let known = self.erasure(&erasure.user).await?;
        if known.is_some_and(|(known, _)| known.below >= erasure.below) {
            return Ok(());
        }
        let (link, statements) = (self.link()?, &self.link()?.statements);
        let (user, at_ms) = (erasure.user.as_str(), ms(now_ms));
        let (id, below) = (erasure.id.0, value_of(erasure.below));
        let open = (at_ms, user, id, below);
        link.write(&statements.put_open_erasure, open).await?;
        let by_day = (at_ms / DAY_MS, at_ms, user, id, below);
        link.write(&statements.put_erasure_of_day, by_day).await?;
        link.write(&statements.remove_preferences, (user,)).await?;
        link.write(&statements.put_erasure, (user, id, below)).await
    }

    async fn erasures_since(&self, mark: u64) -> Result<(Vec<Erasure>, u64), StoreError> {
        let now_ms = unix_ms();
        let oldest = now_ms.saturating_sub(limits::RETENTION_S * 1000);
        let from_ms = ms(mark.saturating_sub(LATE_MS).max(oldest));
        let days = from_ms / DAY_MS..=ms(now_ms + LATE_MS) / DAY_MS;
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.erasures_of_day;
        let found = days.map(|day| reader.rows::<Stored>(statement, (day, from_ms)));
        let found = all(found.collect()).await?;
        let erasures = found.into_iter().flatten().map(read);
        Ok((erasures.collect::<Result<_, _>>()?, now_ms))
    }

    async fn open_erasures(
        &self,
        begun_before_ms: u64,
        limit: usize,
    ) -> Result<Vec<Erasure>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.open_erasures;
        let values = (
            ms(begun_before_ms),
            i32::try_from(limit).unwrap_or(i32::MAX),
        );
        let found = reader.rows::<Stored>(statement, values).await?;
        found.into_iter().map(read).collect()
    }

    /// All of it; told again, it finds nothing.
    async fn erase(&self, erasure: &Erasure) -> Result<Removed, StoreError> {
        Ok(Removed {
            inbox: self.erase_rows(erasure).await?,
            read_marks: self.erase_marks(erasure, Mark::Read).await?,
            dismissals: self.erase_marks(erasure, Mark::Dismissed).await?,
            delivery_log: self.erase_deliveries(erasure).await?,
            // Before the devices by which they are found.
            suppressions: self.unsuppress(erasure).await?,
            devices: self.erase_devices(erasure).await?,
            segments: self
                .leave_segments(&erasure.user, erasure.id.unix_ms())
                .await?,
            scheduled: self.unschedule(erasure).await?,
        })
    }

    async fn end_erasure(&self, erasure: &Erasure, proof: &str) -> Result<(), StoreError> {
        let (user, statements) = (erasure.user.as_str(), &self.link()?.statements);
        let known = self.erasure(&erasure.user).await?;
        if known.is_some_and(|(known, _)| known.below == erasure.below) {
            let values = (proof, user);
            self.link()?
                .write(&statements.prove_erasure, values)
                .await?;
        }
        let reader = self.link()?.reader(Level::Quorum);
        let open = reader.rows::<(i64, String, i64)>(&statements.all_open_erasures, ());
        for (begun_ms, name, below) in open.await? {
            if name == user && below <= value_of(erasure.below) {
                let values = (begun_ms, name);
                self.link()?
                    .write(&statements.remove_open_erasure, values)
                    .await?;
            }
        }
        Ok(())
    }

    async fn erasure(
        &self,
        user: &UserId,
    ) -> Result<Option<(Erasure, Option<String>)>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.erasure;
        let found = reader.first::<(Uuid, i64, Option<String>)>(statement, (user.as_str(),));
        let found = found.await?.map(|(id, below, proof)| {
            let erasure = Erasure {
                user: user.clone(),
                id: NotificationId(id),
                below: position(below)?,
            };
            Ok((erasure, proof))
        });
        found.transpose()
    }

    async fn scheduled_for(&self, user: &UserId) -> Result<Vec<Scheduled>, StoreError> {
        scheduled::of_user(self.link()?, user).await
    }

    async fn rows_of(
        &self,
        user: &UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.all_after(user.as_str(), after, limit).await
    }

    async fn deliveries_of(
        &self,
        user: &UserId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<(NotificationId, DeliveryState)>, StoreError> {
        self.latest_states(user, before, limit).await
    }

    async fn marks_of(
        &self,
        user: &UserId,
        mark: Mark,
        after: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<NotificationId>, StoreError> {
        let statement = match mark {
            Mark::Read => &self.link()?.statements.receipts_after,
            Mark::Dismissed => &self.link()?.statements.dismissals_after,
        };
        let reader = self.link()?.reader(Level::Quorum);
        let begun = after.map_or(i32::MIN, bucket::of_id);
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let mut ids = Vec::new();
        for month in months().filter(|month| *month >= begun) {
            let left = i32::try_from(limit - ids.len()).unwrap_or(i32::MAX);
            if left == 0 {
                break;
            }
            let values = (user.as_str(), month, after, left);
            let found = reader.rows::<(Uuid,)>(statement, values).await?;
            ids.extend(found.into_iter().map(|(id,)| NotificationId(id)));
        }
        Ok(ids)
    }

    async fn segments_of(&self, user: &UserId) -> Result<Vec<SegmentId>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let statement = &self.link()?.statements.segments_of_user;
        let found = reader.rows::<(Uuid, i64)>(statement, (user.as_str(),));
        Ok(found
            .await?
            .into_iter()
            .map(|(id, _)| SegmentId(id))
            .collect())
    }
}

impl CassandraStore {
    /// Rows last: what is broken off is found again.
    async fn erase_rows(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let (link, statements) = (self.link()?, &self.link()?.statements);
        let (user, below) = (erasure.user.as_str(), value_of(erasure.below));
        let reader = link.reader(Level::Quorum);
        let Some(newest) = self.newest_bucket(&reader, user).await? else {
            return Ok(0);
        };
        let mut erased = 0;
        for bucket in newest.buckets() {
            let mut from = 0;
            let mut is_any = false;
            loop {
                let values = (user, bucket, from, limits::CASSANDRA_PAGE as i32);
                let page = reader.rows::<(i64, i64, i32, Uuid)>(&statements.links_up, values);
                let page = page.await?;
                let is_last = page.len() < limits::CASSANDRA_PAGE;
                let older = page.into_iter().filter(|(pos, ..)| *pos < below);
                let older: Vec<(i64, i64, i32, Uuid)> = older.collect();
                let Some((last, ..)) = older.last() else {
                    break;
                };
                (from, is_any) = (last + 1, true);
                erased += older.len() as u64;
                let positions = older.iter().map(|(_, _, kind, id)| {
                    link.write(&statements.remove_position, (user, bucket, id, kind))
                });
                all(positions.collect()).await?;
                if is_last {
                    break;
                }
            }
            if is_any {
                // Their times are the positions.
                let values = (below - 1, user, bucket);
                link.write(&statements.remove_newest_of_keys, values)
                    .await?;
                let values = (user, bucket, below);
                link.write(&statements.remove_rows_below, values).await?;
            }
        }
        Ok(erased)
    }

    async fn erase_marks(&self, erasure: &Erasure, mark: Mark) -> Result<u64, StoreError> {
        let (link, statements) = (self.link()?, &self.link()?.statements);
        let (count_below, remove_below) = match mark {
            Mark::Read => (
                &statements.count_receipts_below,
                &statements.remove_receipts_below,
            ),
            Mark::Dismissed => (
                &statements.count_dismissals_below,
                &statements.remove_dismissals_below,
            ),
        };
        let reader = link.reader(Level::Quorum);
        let mut erased = 0;
        for month in months() {
            let values = (erasure.user.as_str(), month, erasure.id.0);
            let found = reader.first::<(i64,)>(count_below, values);
            let count = found.await?.map_or(0, |(count,)| count.max(0) as u64);
            if count > 0 {
                link.write(remove_below, values).await?;
            }
            erased += count;
        }
        Ok(erased)
    }

    /// The index last: what is broken off is found again.
    async fn erase_deliveries(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let (link, statements) = (self.link()?, &self.link()?.statements);
        let user = erasure.user.as_str();
        let reader = link.reader(Level::Quorum);
        let mut erased = 0;
        for month in months() {
            loop {
                let page = limits::CASSANDRA_PAGE as i32;
                let values = (user, month, erasure.id.0, page);
                let found = reader.rows::<(Uuid,)>(&statements.deliveries_of_user, values);
                let ids = found.await?;
                let forget = ids.iter().map(|(id,)| async move {
                    let facts = link.write(&statements.remove_facts, (id, user));
                    let slice = slice_of(&erasure.user);
                    let values = (id, slice, user);
                    let of_id = link.write(&statements.remove_user_of_delivery, values);
                    tokio::try_join!(facts, of_id)?;
                    let values = (user, month, id);
                    link.write(&statements.remove_delivery_of_user, values)
                        .await
                });
                all(forget.collect()).await?;
                erased += ids.len() as u64;
                if ids.len() < limits::CASSANDRA_PAGE {
                    break;
                }
            }
        }
        Ok(erased)
    }

    async fn unsuppress(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let held = devices::of_user(self.link()?, &erasure.user).await?;
        let mut removed = 0;
        for address in erasure.addresses(&held) {
            removed += u64::from(suppressions::remove(self.link()?, &address).await?);
            let mark = Suppression::erased(&address, erasure.id.unix_ms());
            suppressions::put_mark(self.link()?, &mark).await?;
        }
        Ok(removed)
    }

    /// With their names in quarantine, also of devices that had left it.
    async fn erase_devices(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let mut removed = 0;
        for device in devices::of_user(self.link()?, &erasure.user).await? {
            if erasure.covers_device(&device) && devices::remove_gone(self.link()?, &device).await?
            {
                quarantine::forget(self.link()?, &device).await?;
                removed += 1;
            }
        }
        let until_us = ms(erasure.id.unix_ms()) * 1_000;
        quarantine::forget_all(self.link()?, &erasure.user, until_us).await?;
        Ok(removed)
    }

    /// What was taken meanwhile is on its way, and is dropped there.
    async fn unschedule(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let mut erased = 0;
        for one in scheduled::of_user(self.link()?, &erasure.user).await? {
            if one.id >= erasure.id {
                continue;
            }
            let is_done = match one.without(&erasure.user) {
                Some(value) => scheduled::put_value(self.link()?, &one, &value).await?,
                None => scheduled::cancel(self.link()?, one.id).await? == Cancelled::Yes,
            };
            erased += u64::from(is_done);
        }
        Ok(erased)
    }
}

/// In which something of a user may be.
fn months() -> std::ops::RangeInclusive<i32> {
    let newest = bucket::newest(unix_ms());
    newest - limits::BUCKETS_BACK - 1..=newest
}

fn read((user, id, below): Stored) -> Result<Erasure, StoreError> {
    let user = user.parse();
    Ok(Erasure {
        user: user.map_err(|error| damaged(&format!("an erasure of a bad user: {error}")))?,
        id: NotificationId(id),
        below: position(below)?,
    })
}
