//! What became of notifications: outcomes come from gateways by the stream (or in process), and from the
//! `delivery` topic when no dispatcher was reachable.
//!
//! Invariants:
//! * a batch is accepted only after everything in it is durable: in the store, or as a whole on
//!   `delivery`, where a tracker reads it later; taking it twice changes nothing;
//! * `not_here` and `read` outcomes become records of their own before the batch is accepted;
//! * a client speaks only of what its user has: marks and acknowledgements of other ids are dropped and
//!   counted. Rows are stored before anything is pushed, so a client never speaks too early.

mod read_marks;
mod reroute;
mod second_look;
mod topic;

use super::{
    erasure::Erasures,
    metrics::DispatcherMetrics,
    store::{SharedStore, StoreError},
};
use crate::{
    bus::{BusError, Record, SharedBus, Target, Topic},
    control::upstream::Accepted,
    envelope::{Fate, Outcome, outcomes_record},
    ids::{GatewayEpoch, NotificationId, Region, UserId},
    limits,
    position::Position,
    registry::SharedRegistry,
};
use parking_lot::Mutex;
use std::{collections::HashMap, time::Instant};
use thiserror::Error;

pub use second_look::SecondLook;
pub use topic::DeliveryTopic;

/// The batch is not durable: whoever sent it keeps it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TrackError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What came of ids that were to be marked read.
pub struct Marked {
    /// Of the mark; `None` when nothing was left to mark.
    pub id: Option<NotificationId>,
    /// The user does not have these, or not yet.
    pub unknown: Vec<NotificationId>,
}

pub struct Tracker {
    bus: SharedBus,
    store: SharedStore,
    registry: SharedRegistry,
    region: Region,
    erasures: Erasures,
    metrics: DispatcherMetrics,
    shard_epochs: Mutex<ShardEpochs>,
}

/// As a device's, of an inbox.
fn read_at(id: NotificationId, user: &UserId, at_ms: u64) -> Outcome {
    Outcome {
        id,
        user: Some(user.clone()),
        pos: Position::START,
        fate: Fate::Read,
        devices: 0,
        gateway: String::new(),
        at_ms,
        answered: Vec::new(),
    }
}

/// Who owns which shard, by the registry's word of a moment ago.
#[derive(Default)]
struct ShardEpochs {
    read_at: Option<Instant>,
    by_shard: HashMap<u32, u64>,
}

impl Tracker {
    pub fn new(
        bus: SharedBus,
        store: SharedStore,
        registry: SharedRegistry,
        region: Region,
        erasures: Erasures,
        metrics: DispatcherMetrics,
    ) -> Tracker {
        Tracker {
            bus,
            store,
            registry,
            region,
            erasures,
            metrics,
            shard_epochs: Mutex::default(),
        }
    }

    /// Accepts a gateway's batch; with the store away it goes to `delivery` as it is.
    pub async fn accept(
        &self,
        gateway: &GatewayEpoch,
        shard: Option<u32>,
        mut outcomes: Vec<Outcome>,
    ) -> Result<Accepted, TrackError> {
        // The word of whoever speaks, whatever the outcomes say.
        for outcome in &mut outcomes {
            outcome.gateway = gateway.to_string();
        }
        match self.apply(&outcomes).await {
            Err(TrackError::Store(error)) => {
                tracing::warn!(%error, "outcomes go to the delivery topic");
                self.set_aside(&outcomes).await?;
            }
            result => result?,
        }
        let shard_epoch = match shard {
            Some(shard) => self.shard_epoch(shard).await,
            None => None,
        };
        Ok(Accepted {
            shard_epoch,
            has_registry: self.registry.healthy(),
        })
    }

    /// Makes everything in a batch durable in its final place.
    pub async fn apply(&self, outcomes: &[Outcome]) -> Result<(), TrackError> {
        self.apply_from(outcomes, None).await
    }

    /// As [`Tracker::apply`], for what a finisher answers in the place of a shard's owner: nobody is looked
    /// for in that shard again. A gateway that takes it later tells its clients that they may be behind.
    pub async fn finish(&self, outcomes: &[Outcome], shard: u32) -> Result<(), TrackError> {
        self.apply_from(outcomes, Some(shard)).await
    }

    async fn apply_from(
        &self,
        outcomes: &[Outcome],
        finished: Option<u32>,
    ) -> Result<(), TrackError> {
        let left;
        let outcomes = match self.erasures.is_empty() {
            true => outcomes,
            false => {
                left = self.erasures.outcomes_left(outcomes.to_vec());
                &left
            }
        };
        // What became of a read mark is of no interest: its row is what counts. A probe has none.
        let is_kept =
            |outcome: &&Outcome| !read_marks::is_mark(outcome.id) && !outcome.is_of_a_probe();
        let logged: Vec<Outcome> = outcomes.iter().filter(is_kept).cloned().collect();
        // Also when there is nothing to keep: who asks by that whether outcomes are accepted means the store.
        let left_out = self.store.record(&logged).await?;
        let refused = &self.metrics.outcomes_refused;
        let counter = refused.with_label_values(&["not_the_users"]);
        counter.inc_by(left_out as u64);
        // After the log, which tells what the user has.
        let mut records = self.read_marks(outcomes).await?;
        records.extend(self.reroute(outcomes, finished).await?);
        if !records.is_empty() {
            self.produce(records).await?;
        }
        for outcome in outcomes.iter().filter(|outcome| !outcome.is_of_a_probe()) {
            let counter = &self.metrics.outcomes;
            counter.with_label_values(&[outcome.fate.as_str()]).inc();
        }
        Ok(())
    }

    /// Marks ids read for a user: durable on `raw` when it returns.
    pub async fn mark_read(
        &self,
        user: &UserId,
        ids: &[NotificationId],
        at_ms: u64,
    ) -> Result<Marked, TrackError> {
        let unread = self.unread_among(user, ids).await?;
        let read = self.store.read_among(user, ids).await?;
        let mut unknown = ids.to_vec();
        unknown.retain(|id| !unread.contains(id) && !read.contains(id));
        let Some((id, record)) = self.read_mark(user, &unread, at_ms) else {
            return Ok(Marked { id: None, unknown });
        };
        // At once, and not when the mark is stored: a channel whose turn comes in between is not needed.
        let read = unread.iter().map(|id| read_at(*id, user, at_ms));
        let read: Vec<Outcome> = read.collect();
        self.store.record(&read).await?;
        self.produce(vec![record]).await?;
        let id = Some(id);
        Ok(Marked { id, unknown })
    }

    async fn set_aside(&self, outcomes: &[Outcome]) -> Result<(), TrackError> {
        let mut by_user: HashMap<Option<UserId>, Vec<Outcome>> = HashMap::new();
        for outcome in outcomes {
            by_user
                .entry(outcome.user.clone())
                .or_default()
                .push(outcome.clone());
        }
        let records = by_user
            .values()
            .map(|outcomes| (Target::Keyed(Topic::Delivery), outcomes_record(outcomes)));
        self.produce(records.collect()).await
    }

    async fn produce(&self, records: Vec<(Target, Record)>) -> Result<(), TrackError> {
        let topics: Vec<Topic> = records
            .iter()
            .map(|(target, _)| match target {
                Target::Keyed(topic) => *topic,
                Target::Exact(at) => at.topic,
            })
            .collect();
        self.bus.produce(records).await?;
        for topic in topics {
            let counter = &self.metrics.records_out;
            counter.with_label_values(&[topic.suffix()]).inc();
        }
        Ok(())
    }

    /// A gateway cut off from the registry alone learns from it that its shard was taken.
    async fn shard_epoch(&self, shard: u32) -> Option<u64> {
        let fresh = {
            let epochs = self.shard_epochs.lock();
            let age = epochs.read_at.map(|at| at.elapsed());
            age.is_some_and(|age| age < limits::SHARD_EPOCHS_AGE)
        };
        if !fresh {
            self.read_shard_epochs().await;
        }
        self.shard_epochs.lock().by_shard.get(&shard).copied()
    }

    /// Keeps the former answer when the registry is away.
    async fn read_shard_epochs(&self) {
        let Ok(count) = self.bus.partitions(Topic::InApp).await else {
            return;
        };
        // Set before asking: the others need not ask the same.
        self.shard_epochs.lock().read_at = Some(Instant::now());
        match self.registry.shards(count).await {
            Ok(shards) => {
                let by_shard = shards.iter().map(|lease| (lease.shard, lease.epoch));
                self.shard_epochs.lock().by_shard = by_shard.collect();
            }
            Err(error) => tracing::debug!(%error, "shard epochs are those of before"),
        }
    }
}
