//! The store on Cassandra, for any number of dispatchers.
//!
//! A stream (a user's, or that of broadcasts under the name of nobody) lies in *buckets* of 30 days of the broker's
//! append time, each a partition of its own; positions never fall from a bucket to the next. `users` names a stream's
//! newest bucket and the head before it, and is written before the bucket's first row.
//!
//! Rows of one call for one user and one bucket are **one mutation**: rows, their index by id, collapse keys and head
//! have the same partition key, so a replica has all of it or nothing, and a reader never sees N+1 without N. Read
//! repair is off for these tables: it would copy single rows. What takes more than one bucket, or more than
//! [`CASSANDRA_BATCH_BYTES`](crate::limits::CASSANDRA_BATCH_BYTES), is written in order, each part at quorum before
//! the next.
//!
//! # One writer at a time, and two
//!
//! `prev` is read and then written, not compared and set. That leans on three things:
//! * all records of a user stand in one partition of `raw`, and a row is a pure function of its record and the rows
//!   before it;
//! * who takes over a partition begins at the committed offset, and everything before that is stored at quorum;
//! * heads are read at quorum and remembered no longer than the partition is assigned ([`Store::forget_heads`]).
//!
//! When two writers overlap (one was taken for dead and is not), both read the same records in the same order from
//! the same stored beginning, so both write the same cells, and it makes no difference whose stand. What could go back
//! (a stream's newest bucket, its head, the newest row of a collapse key) is written with a timestamp that rises with
//! it, so the older never wins.
//!
//! A writer that died may leave a mutation on fewer replicas than a quorum. Its successor reads the same records:
//! what stands at or above the first of them is taken from one read of the rows, and what is found there is
//! written again with what it says, and stands at quorum then. Until that happened a reader may see those rows once
//! and not the next time, and is told `recovered: false` the second time.
//!
//! # Reads without a quorum
//!
//! What a sync reads is asked of one replica when no quorum answers, and marked: [`RowsAfter::at_quorum`]. It stops at
//! the first hole that the one replica has. Writers never read so.

mod broadcasts;
mod bucket;
mod claims;
mod connect;
mod cql;
mod dead_letters;
mod delivery;
mod devices;
mod erasure;
mod heads;
mod inbox;
mod keys;
mod link;
mod plan;
mod preferences;
mod quarantine;
mod reading;
mod recent;
mod scheduled;
mod schema;
mod segments;
mod stream;
mod suppressions;
mod way;

use super::{
    ApiKey, Appended, Attempted, Cancelled, DeadLetterAt, DeliveryState, Entered, Handled,
    Idempotency, NewBroadcast, NewRow, Quarantined, Release, Row, RowsAfter, Scheduled, Store,
    StoreError, Unread,
};
use crate::{
    config::{DispatcherStore, Node},
    dispatcher::{
        devices::{Device, DeviceKind},
        preferences::Preferences,
        suppression::Suppression,
        unix_ms,
    },
    envelope::{Channel, Outcome},
    ids::{DeviceId, NotificationId, Region, UserId},
    limits,
    metrics::Metrics,
    position::Position,
};
use async_trait::async_trait;
use heads::Heads;
use link::{Level, Link};
use parking_lot::Mutex;
use recent::Recent;
use std::{future::Future, sync::Arc};
use uuid::Uuid;
use way::Way;

pub use connect::check;
pub use schema::migrate;

pub struct CassandraStore {
    way: Arc<Way>,
    heads: Heads,
    /// (notification, user) pairs that are in the indexes of the delivery log.
    indexed: Mutex<Recent<(Uuid, UserId), ()>>,
    looked: scheduled::Looked,
    region: Region,
    keeping: tokio::task::AbortHandle,
}

impl CassandraStore {
    /// Connects, and looks whether the keyspace has the schema of this release and belongs to this namespace.
    pub async fn open(
        config: &DispatcherStore,
        node: &Node,
        metrics: &Metrics,
    ) -> Result<CassandraStore, StoreError> {
        let way = Way::new(config, node, metrics);
        way.find().await?;
        Ok(CassandraStore::by(way, node))
    }

    /// As [`CassandraStore::open`]; but a cluster that is away is looked for until it is there, and every call fails
    /// meanwhile.
    pub async fn await_in_background(
        config: &DispatcherStore,
        node: &Node,
        metrics: &Metrics,
    ) -> Result<CassandraStore, StoreError> {
        let way = Way::new(config, node, metrics);
        match way.find().await {
            Ok(()) => {}
            Err(StoreError::Unavailable(why)) => way.is_missing(why),
            Err(refused) => return Err(refused),
        }
        Ok(CassandraStore::by(way, node))
    }

    fn by(way: Way, node: &Node) -> CassandraStore {
        let way = Arc::new(way);
        let kept = way.clone();
        let keeping = tokio::spawn(async move { kept.keep().await });
        CassandraStore {
            way,
            heads: Heads::default(),
            indexed: Mutex::new(Recent::new(limits::INDEXED_REMEMBERED)),
            looked: Default::default(),
            region: node.region.clone(),
            keeping: keeping.abort_handle(),
        }
    }

    /// Pending, unless the cluster that was awaited is not this process's: then why.
    pub fn refusal(&self) -> impl Future<Output = StoreError> + use<> {
        let way = self.way.clone();
        async move { way.refusal().await }
    }

    fn link(&self) -> Result<&Link, StoreError> {
        self.way.link()
    }
}

impl Drop for CassandraStore {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

#[async_trait]
impl Store for CassandraStore {
    async fn append(&self, rows: Vec<NewRow>) -> Result<Vec<Appended>, StoreError> {
        self.append_rows(&rows).await
    }

    async fn rows_after(
        &self,
        user: &UserId,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        self.stream_after(user.as_str(), after, limit).await
    }

    async fn page(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.stream_page(user.as_str(), before, limit).await
    }

    async fn row(&self, user: &UserId, id: NotificationId) -> Result<Option<Row>, StoreError> {
        self.row_by_id(user, id).await
    }

    async fn unread(&self, user: &UserId) -> Result<Unread, StoreError> {
        self.unread_of(user, unix_ms()).await
    }

    async fn unread_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let read = self.read_ids(Level::Quorum, user.as_str(), ids).await?;
        let mut unread = Vec::new();
        for id in ids.iter().filter(|id| !read.contains(*id)) {
            if self.has(user, *id).await? {
                unread.push(*id);
            }
        }
        Ok(unread)
    }

    async fn read_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let read = self.read_ids(Level::OrOne, user.as_str(), ids).await?;
        Ok(ids.iter().copied().filter(|id| read.contains(id)).collect())
    }

    async fn dismiss(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        self.dismiss_broadcasts(user.as_str(), ids).await
    }

    async fn dismissed_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let reader = self.link()?.reader(Level::OrOne);
        let dismissed = self.dismissals(&reader, user.as_str(), ids).await?;
        let is_dismissed = |id: &NotificationId| dismissed.contains(id);
        Ok(ids.iter().copied().filter(is_dismissed).collect())
    }

    async fn append_broadcasts(
        &self,
        rows: Vec<NewBroadcast>,
    ) -> Result<Vec<Position>, StoreError> {
        self.append_to_all(&rows).await
    }

    async fn broadcast_position(&self, id: NotificationId) -> Result<Option<Position>, StoreError> {
        self.position_of_broadcast(id).await
    }

    async fn broadcast(&self, id: NotificationId) -> Result<Option<Row>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        self.row_of(&reader, stream::BROADCASTS, id).await
    }

    async fn broadcasts_after(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        self.stream_after(stream::BROADCASTS, after, limit).await
    }

    async fn broadcast_page(
        &self,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.stream_page(stream::BROADCASTS, before, limit).await
    }

    async fn pending(
        &self,
        entries: &[(NotificationId, UserId, Channel)],
        at_ms: u64,
    ) -> Result<(), StoreError> {
        self.enter_pending(entries, at_ms).await
    }

    async fn record(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        self.record_outcomes(outcomes).await
    }

    async fn record_attempts(&self, attempts: &[Attempted]) -> Result<(), StoreError> {
        self.enter_attempts(attempts).await
    }

    async fn delivery(
        &self,
        id: NotificationId,
        user: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        match user {
            Some(user) => self.states_of(id, user.as_str(), limit).await,
            None => self.states_of_all(id, limit).await,
        }
    }

    async fn claim(
        &self,
        producer: &str,
        key: &str,
        body_hash: [u8; 32],
        id: NotificationId,
        now_ms: u64,
    ) -> Result<Idempotency, StoreError> {
        claims::claim(self.link()?, producer, key, body_hash, id, now_ms).await
    }

    async fn finish_claim(&self, producer: &str, key: &str) -> Result<(), StoreError> {
        claims::finish(self.link()?, producer, key).await
    }

    async fn release_claim(&self, producer: &str, key: &str) -> Result<(), StoreError> {
        claims::release(self.link()?, producer, key).await
    }

    async fn put_device(&self, device: Device) -> Result<Entered, StoreError> {
        devices::put(self.link()?, &device).await
    }

    async fn devices(&self, user: &UserId) -> Result<Vec<Device>, StoreError> {
        devices::of_user(self.link()?, user).await
    }

    async fn remove_device(&self, user: &UserId, id: &DeviceId) -> Result<bool, StoreError> {
        devices::remove(self.link()?, user, id).await
    }

    async fn remove_gone(&self, device: &Device) -> Result<bool, StoreError> {
        devices::remove_gone(self.link()?, device).await
    }

    async fn quarantine(&self, device: &Device, now_ms: u64) -> Result<bool, StoreError> {
        quarantine::put(self.link()?, device, now_ms).await
    }

    async fn quarantined(
        &self,
        kind: DeviceKind,
        after: Option<&(UserId, DeviceId)>,
        limit: usize,
    ) -> Result<Quarantined, StoreError> {
        quarantine::page(self.link()?, kind, after, limit).await
    }

    async fn release(&self, device: &Device, release: Release) -> Result<bool, StoreError> {
        quarantine::release(self.link()?, device, release).await
    }

    async fn put_preferences(
        &self,
        user: &UserId,
        preferences: &Preferences,
    ) -> Result<(), StoreError> {
        preferences::put(self.link()?, user, preferences).await
    }

    async fn switch_off(
        &self,
        user: &UserId,
        notification_type: &str,
        channel: Channel,
    ) -> Result<(), StoreError> {
        preferences::switch_off(self.link()?, user, notification_type, channel).await
    }

    async fn preferences(&self, users: &[UserId]) -> Result<Vec<Preferences>, StoreError> {
        preferences::of_users(self.link()?, users).await
    }

    async fn suppress(&self, suppressions: Vec<Suppression>) -> Result<(), StoreError> {
        suppressions::put(self.link()?, &suppressions).await
    }

    async fn suppressed(
        &self,
        addresses: &[String],
    ) -> Result<Vec<Option<Suppression>>, StoreError> {
        suppressions::find(self.link()?, addresses).await
    }

    async fn suppressions(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Suppression>, StoreError> {
        suppressions::page(self.link()?, after, limit).await
    }

    async fn unsuppress(&self, address: &str) -> Result<bool, StoreError> {
        suppressions::remove(self.link()?, address).await
    }

    async fn handle_dead_letter(
        &self,
        at: DeadLetterAt,
        handled: Handled,
    ) -> Result<(), StoreError> {
        dead_letters::put(self.link()?, at, handled).await
    }

    async fn handled_dead_letter(&self, at: DeadLetterAt) -> Result<Option<Handled>, StoreError> {
        dead_letters::find(self.link()?, at).await
    }

    async fn schedule(&self, scheduled: Scheduled) -> Result<(), StoreError> {
        scheduled::put(self.link()?, &scheduled).await
    }

    async fn scheduled(&self, id: NotificationId) -> Result<Option<Scheduled>, StoreError> {
        scheduled::find(self.link()?, id).await
    }

    async fn scheduled_due(&self, id: NotificationId) -> Result<Option<u64>, StoreError> {
        scheduled::due(self.link()?, id).await
    }

    async fn take_due(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: usize,
    ) -> Result<Vec<Scheduled>, StoreError> {
        scheduled::take_due(self.link()?, &self.looked, now_ms, until_ms, limit).await
    }

    async fn remove_scheduled(&self, ids: &[NotificationId]) -> Result<(), StoreError> {
        scheduled::remove(self.link()?, ids).await
    }

    async fn cancel_scheduled(&self, id: NotificationId) -> Result<Cancelled, StoreError> {
        scheduled::cancel(self.link()?, id).await
    }

    async fn put_api_key(&self, key: ApiKey) -> Result<(), StoreError> {
        keys::put(self.link()?, &key).await
    }

    async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        keys::by_hash(self.link()?, hash).await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        keys::all(self.link()?).await
    }

    fn forget_heads(&self) {
        self.heads.forget();
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn healthy(&self) -> bool {
        self.link().is_ok_and(Link::healthy)
    }

    fn missing(&self) -> Option<String> {
        self.link().err().map(|error| error.to_string())
    }
}
