//! The store in one SQLite file: for the standalone, and for a dispatcher without Cassandra.
//!
//! One thread writes ([`writer`]), a few connections read ([`readers`]); both keep their statements
//! prepared. The modules beside them are the tables, one topic each.

mod broadcasts;
mod claims;
mod dead_letters;
mod delivery;
mod devices;
mod dismissals;
mod encode;
mod erasure;
mod inbox;
mod keys;
mod preferences;
mod readers;
mod reading;
mod scheduled;
mod schema;
mod segments;
mod suppressions;
mod sweep;
mod writer;

use super::{
    ApiKey, Appended, Attempted, Cancelled, DeadLetterAt, DeliveryState, Entered, Handled,
    Idempotency, NewBroadcast, NewRow, Quarantined, Release, Row, RowsAfter, Scheduled, Store,
    StoreError, Unread,
};
use crate::{
    config::Node,
    dispatcher::{
        devices::{Device, DeviceKind},
        preferences::Preferences,
        suppression::Suppression,
        unix_ms,
    },
    envelope::{Channel, Outcome},
    ids::{DeviceId, NotificationId, Region, UserId},
    position::Position,
};
use async_trait::async_trait;
use readers::Readers;
use std::path::Path;
use writer::Writer;

pub use schema::FILE;

/// Open as long as it lives; dropping it waits for writes on their way.
#[derive(Debug)]
pub struct SqliteStore {
    /// Closed before the writer: of several connections that close at once none is the last, and only the
    /// last brings the log into the file.
    readers: Readers,
    writer: Writer,
    region: Region,
}

impl SqliteStore {
    /// Opens [`FILE`] in `dir`, making both where they are missing, for the namespace and the region of
    /// this deployment.
    pub fn open(dir: &Path, node: &Node) -> Result<SqliteStore, StoreError> {
        std::fs::create_dir_all(dir).map_err(|error| {
            StoreError::Unavailable(format!("can't make {}: {error}", dir.display()))
        })?;
        let path = dir.join(FILE);
        let writing = schema::open_writer(&path, &node.namespace)?;
        Ok(SqliteStore {
            region: node.region.clone(),
            readers: Readers::open(&path)?,
            writer: Writer::start(writing)?,
        })
    }

    /// One step of retention as of `now_ms`; answers how many rows it removed. It also happens by
    /// itself, while there is writing.
    pub async fn sweep(&self, now_ms: u64) -> Result<usize, StoreError> {
        self.writer
            .write(move |connection| sweep::step(connection, now_ms))
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn append(&self, rows: Vec<NewRow>) -> Result<Vec<Appended>, StoreError> {
        let region = self.region.clone();
        self.writer
            .write(move |connection| inbox::append(connection, &rows, &region, unix_ms()))
            .await
    }

    async fn rows_after(
        &self,
        user: &UserId,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| reading::rows_after(connection, &user, after, limit))
            .await
    }

    async fn page(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| reading::page(connection, &user, before, limit))
            .await
    }

    async fn row(&self, user: &UserId, id: NotificationId) -> Result<Option<Row>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| reading::row(connection, &user, id))
            .await
    }

    async fn unread(&self, user: &UserId) -> Result<Unread, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| reading::unread(connection, &user, unix_ms()))
            .await
    }

    async fn unread_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let (user, ids) = (user.clone(), ids.to_vec());
        self.readers
            .read(move |connection| reading::unread_among(connection, &user, &ids))
            .await
    }

    async fn read_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let (user, ids) = (user.clone(), ids.to_vec());
        self.readers
            .read(move |connection| reading::read_among(connection, &user, &ids))
            .await
    }

    async fn dismiss(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let (user, ids) = (user.clone(), ids.to_vec());
        self.writer
            .write(move |connection| dismissals::put(connection, &user, &ids, unix_ms()))
            .await
    }

    async fn dismissed_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let (user, ids) = (user.clone(), ids.to_vec());
        self.readers
            .read(move |connection| dismissals::among(connection, &user, &ids))
            .await
    }

    async fn append_broadcasts(
        &self,
        rows: Vec<NewBroadcast>,
    ) -> Result<Vec<Position>, StoreError> {
        self.writer
            .write(move |connection| {
                let stored = rows.iter();
                stored
                    .enumerate()
                    .map(|(at, row)| broadcasts::append(connection, at, row, unix_ms()))
                    .collect()
            })
            .await
    }

    async fn broadcast_position(&self, id: NotificationId) -> Result<Option<Position>, StoreError> {
        self.readers
            .read(move |connection| broadcasts::position(connection, id))
            .await
    }

    async fn broadcast(&self, id: NotificationId) -> Result<Option<Row>, StoreError> {
        self.readers
            .read(move |connection| broadcasts::find(connection, id))
            .await
    }

    async fn broadcasts_after(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        self.readers
            .read(move |connection| broadcasts::after(connection, after, limit))
            .await
    }

    /// In one snapshot, for one change of threads: every connect comes by here.
    async fn streams_after(
        &self,
        user: &UserId,
        user_after: Option<Position>,
        all_after: Option<Position>,
        limit: usize,
    ) -> Result<(RowsAfter, RowsAfter), StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| {
                let rows = reading::rows_after(connection, &user, user_after, limit)?;
                let broadcasts = broadcasts::after(connection, all_after, limit)?;
                Ok((rows, broadcasts))
            })
            .await
    }

    async fn broadcast_page(
        &self,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.readers
            .read(move |connection| broadcasts::page(connection, before, limit))
            .await
    }

    async fn pending(
        &self,
        entries: &[(NotificationId, UserId, Channel)],
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.writer
            .write(move |connection| delivery::pending(connection, &entries, at_ms))
            .await
    }

    async fn record(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        let outcomes = outcomes.to_vec();
        self.writer
            .write(move |connection| delivery::record(connection, &outcomes))
            .await
    }

    async fn record_attempts(&self, attempts: &[Attempted]) -> Result<(), StoreError> {
        let attempts = attempts.to_vec();
        self.writer
            .write(move |connection| delivery::record_attempts(connection, &attempts))
            .await
    }

    async fn delivery(
        &self,
        id: NotificationId,
        user: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        let user = user.cloned();
        self.readers
            .read(move |connection| delivery::of_notification(connection, id, user.as_ref(), limit))
            .await
    }

    async fn claim(
        &self,
        producer: &str,
        key: &str,
        body_hash: [u8; 32],
        id: NotificationId,
        now_ms: u64,
    ) -> Result<Idempotency, StoreError> {
        let (producer, key) = (producer.to_owned(), key.to_owned());
        self.writer
            .write(move |connection| {
                claims::claim(connection, &producer, &key, body_hash, id, now_ms)
            })
            .await
    }

    async fn finish_claim(&self, producer: &str, key: &str) -> Result<(), StoreError> {
        let (producer, key) = (producer.to_owned(), key.to_owned());
        self.writer
            .write(move |connection| claims::finish(connection, &producer, &key))
            .await
    }

    async fn release_claim(&self, producer: &str, key: &str) -> Result<(), StoreError> {
        let (producer, key) = (producer.to_owned(), key.to_owned());
        self.writer
            .write(move |connection| claims::release(connection, &producer, &key))
            .await
    }

    async fn put_device(&self, device: Device) -> Result<Entered, StoreError> {
        self.writer
            .write(move |connection| devices::put(connection, &device))
            .await
    }

    async fn devices(&self, user: &UserId) -> Result<Vec<Device>, StoreError> {
        let user = user.clone();
        self.readers
            .read(move |connection| devices::of_user(connection, &user))
            .await
    }

    async fn remove_device(&self, user: &UserId, id: &DeviceId) -> Result<bool, StoreError> {
        let (user, id) = (user.clone(), id.clone());
        self.writer
            .write(move |connection| devices::remove(connection, &user, &id))
            .await
    }

    async fn remove_gone(&self, device: &Device) -> Result<bool, StoreError> {
        let device = device.clone();
        self.writer
            .write(move |connection| devices::remove_gone(connection, &device))
            .await
    }

    async fn quarantine(&self, device: &Device, now_ms: u64) -> Result<bool, StoreError> {
        let device = device.clone();
        self.writer
            .write(move |connection| devices::quarantine(connection, &device, now_ms))
            .await
    }

    async fn quarantined(
        &self,
        kind: DeviceKind,
        after: Option<&(UserId, DeviceId)>,
        limit: usize,
    ) -> Result<Quarantined, StoreError> {
        let after = after.cloned();
        self.readers
            .read(move |connection| devices::quarantined(connection, kind, after.as_ref(), limit))
            .await
    }

    async fn release(&self, device: &Device, release: Release) -> Result<bool, StoreError> {
        let device = device.clone();
        self.writer
            .write(move |connection| devices::release(connection, &device, release))
            .await
    }

    async fn put_preferences(
        &self,
        user: &UserId,
        preferences: &Preferences,
    ) -> Result<(), StoreError> {
        let (user, preferences) = (user.clone(), preferences.clone());
        self.writer
            .write(move |connection| preferences::put(connection, &user, &preferences))
            .await
    }

    async fn switch_off(
        &self,
        user: &UserId,
        notification_type: &str,
        channel: Channel,
    ) -> Result<(), StoreError> {
        let (user, of_type) = (user.clone(), notification_type.to_owned());
        self.writer
            .write(move |connection| preferences::switch_off(connection, &user, &of_type, channel))
            .await
    }

    async fn preferences(&self, users: &[UserId]) -> Result<Vec<Preferences>, StoreError> {
        let users = users.to_vec();
        self.readers
            .read(move |connection| preferences::of_users(connection, &users))
            .await
    }

    async fn suppress(&self, suppressions: Vec<Suppression>) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| suppressions::put(connection, &suppressions))
            .await
    }

    async fn suppressed(
        &self,
        addresses: &[String],
    ) -> Result<Vec<Option<Suppression>>, StoreError> {
        let addresses = addresses.to_vec();
        self.readers
            .read(move |connection| suppressions::find(connection, &addresses))
            .await
    }

    async fn suppressions(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Suppression>, StoreError> {
        let after = after.unwrap_or_default().to_owned();
        self.readers
            .read(move |connection| suppressions::page(connection, &after, limit))
            .await
    }

    async fn unsuppress(&self, address: &str) -> Result<bool, StoreError> {
        let address = address.to_owned();
        self.writer
            .write(move |connection| suppressions::remove(connection, &address))
            .await
    }

    async fn handle_dead_letter(
        &self,
        at: DeadLetterAt,
        handled: Handled,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| dead_letters::put(connection, at, handled, unix_ms()))
            .await
    }

    async fn handled_dead_letter(&self, at: DeadLetterAt) -> Result<Option<Handled>, StoreError> {
        self.readers
            .read(move |connection| dead_letters::find(connection, at))
            .await
    }

    async fn schedule(&self, scheduled: Scheduled) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| scheduled::put(connection, &scheduled))
            .await
    }

    async fn scheduled(&self, id: NotificationId) -> Result<Option<Scheduled>, StoreError> {
        self.readers
            .read(move |connection| scheduled::find(connection, id))
            .await
    }

    async fn scheduled_due(&self, id: NotificationId) -> Result<Option<u64>, StoreError> {
        self.readers
            .read(move |connection| scheduled::due(connection, id))
            .await
    }

    async fn take_due(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: usize,
    ) -> Result<Vec<Scheduled>, StoreError> {
        // Most of the time nothing is, and a look keeps the disk out of it.
        let is_due = self
            .readers
            .read(move |connection| scheduled::is_due(connection, now_ms))
            .await?;
        if !is_due {
            return Ok(Vec::new());
        }
        self.writer
            .write(move |connection| scheduled::take_due(connection, now_ms, until_ms, limit))
            .await
    }

    async fn remove_scheduled(&self, ids: &[NotificationId]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.writer
            .write(move |connection| scheduled::remove(connection, &ids))
            .await
    }

    async fn cancel_scheduled(&self, id: NotificationId) -> Result<Cancelled, StoreError> {
        self.writer
            .write(move |connection| scheduled::cancel(connection, id))
            .await
    }

    async fn put_api_key(&self, key: ApiKey) -> Result<(), StoreError> {
        self.writer
            .write(move |connection| keys::put(connection, &key))
            .await
    }

    async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let hash = *hash;
        self.readers
            .read(move |connection| keys::by_hash(connection, &hash))
            .await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.readers.read(keys::all).await
    }

    /// Heads are read in the transaction that stores the row; nothing is remembered outside the file.
    fn forget_heads(&self) {}

    fn healthy(&self) -> bool {
        self.writer.healthy() && self.readers.healthy()
    }
}
