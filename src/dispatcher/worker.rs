//! The loop that the consumers of the dispatcher run: read a batch, do its work, commit, read on. The channels have one of their
//! own, within the same life ([`Reads`]).
//!
//! Invariants:
//! * an offset is committed only after the work on everything before it is durable. A crash in between re-reads
//!   records, so all work is idempotent by position or by (id, user);
//! * a record that is not due yet holds its own partition only, which is not read meanwhile;
//! * a record that is refused holds its own partition only, which stands until it is assigned anew.

use super::{
    health::Health,
    patience::{BackOff, Patience, Stopped},
    reading::Reading,
    unix_ms,
    waiting::Waiting,
};
use crate::{
    bus::{BusError, Consumed, Consumer, Polled, SharedBus, Topic, TopicPartition},
    limits,
    registry::SharedRegistry,
};
use async_trait::async_trait;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[async_trait]
pub trait Work: Send {
    /// Its group; the name in logs.
    fn group(&self) -> &'static str;

    fn topics(&self) -> Vec<Topic>;

    /// Partitions came anew: forget what was cached about them.
    fn assigned(&mut self) {}

    /// Returns when every record is dealt with durably, but for those that are refused and what follows them
    /// in their partitions.
    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped>;

    /// Records of one batch at most.
    fn records_max(&self) -> usize {
        limits::ROUTER_BATCH
    }

    /// Unix ms before which the record is left alone. In a partition what comes later is due later.
    fn due_ms(&self, _record: &Consumed) -> u64 {
        0
    }

    /// How long others need to take what the last batch put on them.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// The registry, for one that stands still without it. That it is away is said already.
    fn waits_for(&self) -> Option<SharedRegistry> {
        None
    }
}

/// A record that waiting does not help: an operator has to look.
#[derive(Debug)]
pub struct Refused {
    pub at: TopicPartition,
    pub offset: u64,
    pub why: String,
}

impl Refused {
    /// It, or behind it in its partition.
    fn holds(&self, record: &Consumed) -> bool {
        record.at == self.at && record.offset >= self.offset
    }
}

/// What every loop needs.
#[derive(Clone)]
pub struct Surroundings {
    pub bus: SharedBus,
    pub patience: Patience,
    /// Learns of a worker that does not move.
    pub health: Arc<Health>,
    pub shutdown: CancellationToken,
}

/// What a consumer is for, while there is one.
#[async_trait]
pub trait Reads: Send {
    /// See [`Work::group`].
    fn group(&self) -> &'static str;

    fn topics(&self) -> Vec<Topic>;

    /// See [`Work::waits_for`].
    fn waits_for(&self) -> Option<SharedRegistry> {
        None
    }

    /// Returns the error for which the consumer has to be replaced; with [`Stopped`], when the process leaves, all that was
    /// read is finished as far as it will be.
    ///
    /// While the bus is away the consumer stays. One in its place would be another member of the group, and the
    /// broker, once back, would wait for the first, which could not say that it left, until its session ends.
    async fn consume(
        &mut self,
        consumer: &mut dyn Consumer,
        reading: &Reading,
        surroundings: &Surroundings,
    ) -> Result<BusError, Stopped>;
}

/// Reads a batch, and the next when its work is done.
struct Batches<W>(W);

#[async_trait]
impl<W: Work> Reads for Batches<W> {
    fn group(&self) -> &'static str {
        self.0.group()
    }

    fn topics(&self) -> Vec<Topic> {
        self.0.topics()
    }

    fn waits_for(&self) -> Option<SharedRegistry> {
        self.0.waits_for()
    }

    async fn consume(
        &mut self,
        consumer: &mut dyn Consumer,
        reading: &Reading,
        surroundings: &Surroundings,
    ) -> Result<BusError, Stopped> {
        consume(&mut self.0, consumer, reading, surroundings).await
    }
}

/// Runs until `shutdown`; answers the name of the group. A bus that is away is waited for.
pub async fn run(work: impl Work, surroundings: Surroundings) -> &'static str {
    run_reader(Batches(work), surroundings).await
}

/// See [`run`].
pub async fn run_reader(mut reader: impl Reads, surroundings: Surroundings) -> &'static str {
    let (bus, health) = (surroundings.bus.clone(), surroundings.health.clone());
    let registry = reader.waits_for();
    let is_said = || {
        let registry_answers = registry.as_ref().is_none_or(|one| one.healthy());
        !surroundings.bus.healthy() || !registry_answers
    };
    let reading = Reading::default();
    let watching = reading.clone().watch(reader.group(), bus, is_said, health);
    tokio::select! {
        () = read(&mut reader, &surroundings, &reading) => {}
        () = watching => {}
    }
    reader.group()
}

async fn read(reader: &mut impl Reads, surroundings: &Surroundings, reading: &Reading) {
    let Surroundings {
        bus,
        patience,
        shutdown,
        ..
    } = surroundings;
    let group = reader.group();
    let topics = reader.topics();
    let mut back_off = BackOff::new("consume");
    while !shutdown.is_cancelled() {
        let subscribed = patience
            .until_done("subscribe", || bus.subscribe(group, &topics))
            .await;
        let Ok(mut consumer) = subscribed else { break };
        reading.begins();
        let began = Instant::now();
        let consumed = reader
            .consume(consumer.as_mut(), reading, surroundings)
            .await;
        reading.ends();
        let Ok(error) = consumed else { break };
        // It goes on at the committed offset.
        drop(consumer);
        if began.elapsed() > limits::STEP_RETRY_MAX {
            // It did work: this is another failure.
            back_off = BackOff::new("consume");
        }
        if patience.wait(&mut back_off, &error).await.is_err() {
            break;
        }
    }
}

/// See [`Reads::consume`]. A batch that was read is finished, whoever leaves.
async fn consume(
    work: &mut impl Work,
    consumer: &mut dyn Consumer,
    reading: &Reading,
    surroundings: &Surroundings,
) -> Result<BusError, Stopped> {
    let Surroundings {
        bus,
        patience,
        shutdown,
        ..
    } = surroundings;
    let mut failures = Failures::default();
    let mut waiting = Waiting::default();
    loop {
        let due = waiting.due(unix_ms());
        if !due.is_empty() {
            finish(work, consumer, reading, patience, due).await?;
        }
        if let Err(error) = waiting.resume(consumer, reading) {
            return Ok(error);
        }
        let wait = waiting.until_due(unix_ms());
        let polled = tokio::select! {
            () = shutdown.cancelled() => return Err(Stopped),
            polled = consumer.poll(work.records_max(), wait) => polled,
        };
        if polled.is_ok() {
            failures = Failures::default();
        }
        match polled {
            Ok(Polled::Records(mut records)) => {
                reading.leave_standing(&mut records);
                let due_ms = |record: &Consumed| work.due_ms(record);
                if let Err(error) = waiting.hold(&mut records, due_ms, consumer, reading) {
                    return Ok(error);
                }
                if records.is_empty() {
                    continue;
                }
                finish(work, consumer, reading, patience, records).await?;
                if !work.pause().is_zero() {
                    tokio::select! {
                        () = shutdown.cancelled() => return Err(Stopped),
                        () = tokio::time::sleep(work.pause()) => {}
                    }
                }
            }
            Ok(Polled::Assigned(partitions)) => {
                work.assigned();
                reading.assigned(&partitions);
                if let Err(error) = waiting.came_back(&partitions, consumer) {
                    return Ok(error);
                }
            }
            Ok(Polled::Revoked(partitions)) => {
                waiting.forget(&partitions);
                reading.revoked(&partitions);
            }
            Ok(Polled::Idle) => {}
            Err(error) if failures.are_the_consumers(&error, bus.healthy()) => return Ok(error),
            Err(error) => patience.wait(&mut failures.back_off, &error).await?,
        }
    }
}

/// Does the work on records and commits them, but for those that are refused.
async fn finish(
    work: &mut impl Work,
    consumer: &mut dyn Consumer,
    reading: &Reading,
    patience: &Patience,
    mut records: Vec<Consumed>,
) -> Result<(), Stopped> {
    let refused = work.batch(&records).await?;
    records.retain(|record| !refused.iter().any(|refused| refused.holds(record)));
    commit(consumer, &records, patience).await?;
    reading.finished(&records);
    reading.refused(refused);
    Ok(())
}

/// What a consumer failed at without a success in between.
pub(super) struct Failures {
    pub back_off: BackOff,
    /// The last one was met with the bus well.
    with_bus: bool,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures {
            back_off: BackOff::new("consume"),
            with_bus: false,
        }
    }
}

impl Failures {
    /// It fails for ever, or again though the bus is well: with the first the bus may just have come back.
    pub fn are_the_consumers(&mut self, error: &BusError, healthy: bool) -> bool {
        let again = std::mem::replace(&mut self.with_bus, healthy) && healthy;
        again || !matches!(error, BusError::Unavailable(_))
    }
}

async fn commit(
    consumer: &mut dyn Consumer,
    records: &[Consumed],
    patience: &Patience,
) -> Result<(), Stopped> {
    let next = next_offsets(records);
    if next.is_empty() {
        return Ok(());
    }
    let mut back_off = BackOff::new("commit");
    while let Err(error) = consumer.commit(&next).await {
        patience.wait(&mut back_off, &error).await?;
    }
    Ok(())
}

fn next_offsets(records: &[Consumed]) -> Vec<(TopicPartition, u64)> {
    let mut next = BTreeMap::new();
    for record in records {
        next.insert(record.at, record.offset + 1);
    }
    next.into_iter().collect()
}
