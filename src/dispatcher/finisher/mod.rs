//! Finishes shards that no gateway owns: what a dead gateway left there, and what a router with an old view
//! puts there afterwards, is looked for elsewhere.
//!
//! Invariants:
//! * a shard is read only while its lease is ours, and committed only after what followed from its records is
//!   durable: a hold that was lost causes re-reads, never loss;
//! * gateways go first: one that wants the shard gets it at the next renewal, one that still reads it (and so
//!   moves its committed offset) is left alone even if its lease lapsed;
//! * with the registry away nothing is claimed and nothing is read, for nobody could be looked for.

pub mod sight;

use super::{
    Shared,
    metrics::FinisherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    tracker::Tracker,
    unix_ms,
};
use crate::{
    bus::{
        BusError, Consumed, Consumer, Polled, SharedBus, Start, Topic, TopicPartition, shard_group,
    },
    envelope::{EnvelopeError, Fate, Kind, Outcome, Routed},
    ids::GatewayEpoch,
    limits,
    registry::{FinisherLease, RENEW_MS, RegistryError, SharedRegistry},
};
use sight::{Extent, Extents, Sight};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TOPICS: [Topic; 2] = [Topic::Critical, Topic::InApp];

/// What the finisher does its work with.
pub struct Means {
    pub tracker: Arc<Tracker>,
    pub outbox: Outbox,
    pub patience: Patience,
}

#[derive(Clone)]
pub struct Finisher {
    /// Random per process.
    name: Arc<str>,
    bus: SharedBus,
    registry: SharedRegistry,
    means: Arc<Means>,
    metrics: FinisherMetrics,
}

/// Why a shard is left before its end.
#[derive(Debug, Error)]
enum Left {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the process is leaving")]
    Stopped,
}

impl From<Stopped> for Left {
    fn from(_: Stopped) -> Left {
        Left::Stopped
    }
}

impl Finisher {
    pub(super) fn new(shared: &Shared, means: Means) -> Finisher {
        Finisher {
            name: Uuid::now_v7().to_string().into(),
            bus: shared.bus.clone(),
            registry: shared.registry.clone(),
            means: Arc::new(means),
            metrics: FinisherMetrics::new(&shared.all_metrics),
        }
    }

    /// Looks at every ownerless shard until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> &'static str {
        let mut sights: HashMap<u32, Sight> = HashMap::new();
        let mut finishing = JoinSet::new();
        let mut held = HashSet::new();
        while shutdown
            .run_until_cancelled(tokio::time::sleep(limits::FINISHER_EVERY))
            .await
            .is_some()
        {
            while let Some(ended) = finishing.try_join_next() {
                // A task that panicked has said so; its shard is looked at anew.
                if let Ok((shard, read)) = ended {
                    held.remove(&shard);
                    match sights.get_mut(&shard) {
                        Some(sight) if read => sight.was_read(Instant::now()),
                        // Yielded, or lost: whoever has it now begins to read.
                        _ => drop(sights.remove(&shard)),
                    }
                }
            }
            if finishing.is_empty() {
                held.clear();
            }
            let stuck = match self.look(&mut sights, &held).await {
                Ok(stuck) => stuck,
                // Both say so themselves when they go away.
                Err(error) => {
                    tracing::debug!(%error, "ownerless shards were not looked at");
                    continue;
                }
            };
            for shard in stuck {
                if finishing.len() < limits::FINISHING_AT_ONCE && held.insert(shard) {
                    let (finisher, shutdown) = (self.clone(), shutdown.clone());
                    finishing.spawn(async move { (shard, finisher.finish(shard, shutdown).await) });
                }
            }
        }
        // They give their shards back.
        while finishing.join_next().await.is_some() {}
        "finisher"
    }

    /// Shards without an owner, with records that nobody reads.
    async fn look(
        &self,
        sights: &mut HashMap<u32, Sight>,
        held: &HashSet<u32>,
    ) -> Result<Vec<u32>, Left> {
        let count = self.bus.partitions(Topic::InApp).await?;
        let leases = self.registry.shards(count).await?;
        let owned: HashSet<u32> = leases
            .iter()
            .filter(|lease| lease.live)
            .map(|lease| lease.shard)
            .collect();
        sights.retain(|shard, _| !owned.contains(shard));
        let mut stuck = Vec::new();
        for shard in (0..count).filter(|shard| !owned.contains(shard) && !held.contains(shard)) {
            let extents = self.extents(shard, sights.get(&shard)).await?;
            let now = Instant::now();
            let sight = sights
                .entry(shard)
                .or_insert_with(|| Sight::new(extents, now));
            if sight.moved_to(extents, now) {
                stuck.push(shard);
            }
        }
        Ok(stuck)
    }

    /// A partition that did not grow since it was read to its end needs no second question.
    async fn extents(&self, shard: u32, before: Option<&Sight>) -> Result<Extents, BusError> {
        let group = shard_group(shard);
        let mut extents = [Extent {
            committed: None,
            end: 0,
        }; TOPICS.len()];
        for (index, topic) in TOPICS.into_iter().enumerate() {
            let at = TopicPartition {
                topic,
                partition: shard,
            };
            let end = self.bus.end(at).await?;
            let known = before.map(|sight| sight.extents[index]);
            extents[index] = match known {
                Some(known) if known.is_read() && known.end == end => known,
                _ if end == 0 => Extent {
                    committed: None,
                    end,
                },
                _ => Extent {
                    committed: self.bus.committed(&group, at).await?,
                    end,
                },
            };
        }
        Ok(extents)
    }

    /// Holds one shard until it is read, wanted, lost, or the process leaves. Whether it was read to what can
    /// be read of it.
    async fn finish(&self, shard: u32, shutdown: CancellationToken) -> bool {
        let lease = match self.registry.finish_shard(&self.name, shard).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::debug!(shard, %error, "the shard is not ours to finish");
                return false;
            }
        };
        let epoch = lease.epoch;
        tracing::info!(shard, epoch, "finishes a shard that no gateway owns");
        self.metrics.holding.inc();
        let result = self.hold(&lease, shutdown).await;
        self.metrics.holding.dec();
        // One that was lost is not ours to release, and the registry knows.
        if let Err(error) = self.registry.release_finisher(&lease).await {
            tracing::debug!(shard, %error, "the shard was not given back: its lease lapses");
        }
        match result {
            Ok(read) => {
                let reason = if read { "read" } else { "wanted by a gateway" };
                tracing::info!(shard, epoch, reason, "gives the shard back");
                read
            }
            Err(error) => {
                tracing::warn!(shard, epoch, %error, "left the shard before its end");
                false
            }
        }
    }

    /// Renews while it reads. `false` when the shard is yielded.
    async fn hold(&self, lease: &FinisherLease, shutdown: CancellationToken) -> Result<bool, Left> {
        let stop = shutdown.child_token();
        let reading = self.read(lease, &stop);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                read = &mut reading => return read,
                () = tokio::time::sleep(Duration::from_millis(RENEW_MS)) => {}
            }
            match self.registry.renew_finisher(lease).await {
                // The batch at work had its time: it is read again by the gateway.
                Ok(true) if stop.is_cancelled() => return Ok(false),
                Ok(true) => stop.cancel(),
                // It takes nothing away by not answering.
                Ok(false) | Err(RegistryError::Unavailable(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Both partitions from the committed offsets to their ends. `false` when stopped before.
    async fn read(&self, lease: &FinisherLease, stop: &CancellationToken) -> Result<bool, Left> {
        let shard = lease.shard;
        let starts = TOPICS.map(|topic| {
            let at = TopicPartition {
                topic,
                partition: shard,
            };
            (at, Start::Committed)
        });
        let mut consumer = self.bus.assign(&shard_group(shard), &starts).await?;
        let mut idle_since = Instant::now();
        while !stop.is_cancelled() {
            if !self.registry.healthy() {
                tokio::time::sleep(limits::AWAY_RETRY).await;
                continue;
            }
            let polled = consumer
                .poll(limits::ROUTER_BATCH, limits::CONSUMER_WAIT)
                .await?;
            if let Polled::Records(records) = polled {
                self.batch(lease, consumer.as_mut(), &records).await?;
                idle_since = Instant::now();
            } else if idle_since.elapsed() >= limits::FINISHER_IDLE
                || self.extents(shard, None).await?.iter().all(|e| e.is_read())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn batch(
        &self,
        lease: &FinisherLease,
        consumer: &mut dyn Consumer,
        records: &[Consumed],
    ) -> Result<(), Left> {
        let mut outcomes = Vec::with_capacity(records.len());
        let mut next = HashMap::new();
        for consumed in records {
            next.insert(consumed.at, consumed.offset + 1);
            let result = match Routed::read(&consumed.record) {
                Ok(routed) => match self.not_here(lease, routed) {
                    Some(outcome) => {
                        outcomes.push(outcome);
                        "not_here"
                    }
                    // Meant for whoever owned the shard.
                    None => "command",
                },
                Err(EnvelopeError::Unsupported { .. }) => "unsupported",
                Err(error @ EnvelopeError::Malformed { .. }) => {
                    self.unreadable(consumed, &error).await?
                }
            };
            self.metrics.records.with_label_values(&[result]).inc();
        }
        let Means {
            patience, tracker, ..
        } = &*self.means;
        patience
            .until_done("finish", || tracker.finish(&outcomes, lease.shard))
            .await?;
        let next: Vec<_> = next.into_iter().collect();
        Ok(consumer.commit(&next).await?)
    }

    /// A record without a frame may be a command, as for a gateway.
    async fn unreadable(
        &self,
        consumed: &Consumed,
        error: &EnvelopeError,
    ) -> Result<&'static str, Left> {
        let kind = crate::envelope::Head::read(&consumed.record).map(|head| head.kind);
        if let Ok(Kind::Disconnect | Kind::Probe) = kind {
            return Ok("command");
        }
        let outbox = &self.means.outbox;
        outbox
            .dead_letter(consumed, "value", &error.to_string())
            .await?;
        Ok("dead_letter")
    }

    fn not_here(&self, lease: &FinisherLease, routed: Routed) -> Option<Outcome> {
        if !matches!(routed.head.kind, Kind::Notification | Kind::Read) {
            return None;
        }
        let answered = routed.answered.iter().map(GatewayEpoch::to_string);
        Some(Outcome {
            id: routed.head.id,
            user: Some(routed.user?),
            pos: routed.pos,
            fate: Fate::NotHere,
            devices: 0,
            // No gateway's name: none of them has answered, and the one that comes back may be asked.
            gateway: format!("(finisher).{}", lease.epoch),
            at_ms: unix_ms(),
            answered: answered.collect(),
        })
    }
}
