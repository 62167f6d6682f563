//! The loop every consumer of the dispatcher runs: read a batch, do its work, commit, read on.
//!
//! Invariant: an offset is committed only after the work on everything before it is durable. A crash in
//! between re-reads records, so all work is idempotent by position or by (id, user).

use super::{
    health::Health,
    patience::{BackOff, Patience, Stopped},
    reading::Reading,
};
use crate::{
    bus::{BusError, Consumed, Consumer, Polled, SharedBus, Topic, TopicPartition},
    ids::Namespace,
    limits,
};
use async_trait::async_trait;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[async_trait]
pub trait Work: Send {
    /// Group id without the namespace; the name in logs.
    fn group(&self) -> &'static str;

    fn topics(&self) -> Vec<Topic>;

    /// Partitions came anew: forget what was cached about them.
    fn assigned(&mut self) {}

    /// Returns when every record is dealt with durably.
    async fn batch(&mut self, records: &[Consumed]) -> Result<(), Stopped>;
}

/// What every loop needs.
#[derive(Clone)]
pub struct Surroundings {
    pub bus: SharedBus,
    /// Prefix of the group's id.
    pub namespace: Namespace,
    pub patience: Patience,
    /// Learns of a worker that does not move.
    pub health: Arc<Health>,
    pub shutdown: CancellationToken,
}

/// Runs until `shutdown`; answers the name of the group. A bus that is away is waited for.
pub async fn run(mut work: impl Work, surroundings: Surroundings) -> &'static str {
    let (bus, health) = (surroundings.bus.clone(), surroundings.health.clone());
    let reading = Reading::default();
    let watching = reading.clone().watch(work.group(), bus, health);
    tokio::select! {
        () = read(&mut work, &surroundings, &reading) => {}
        () = watching => {}
    }
    work.group()
}

async fn read(work: &mut impl Work, surroundings: &Surroundings, reading: &Reading) {
    let Surroundings {
        bus,
        namespace,
        patience,
        shutdown,
        ..
    } = surroundings;
    let group = format!("{namespace}.{}", work.group());
    let topics = work.topics();
    let mut back_off = BackOff::new("consume");
    while !shutdown.is_cancelled() {
        let subscribed = patience
            .until_done("subscribe", || bus.subscribe(&group, &topics))
            .await;
        let Ok(mut consumer) = subscribed else { break };
        reading.begins();
        let began = Instant::now();
        let consumed = consume(work, consumer.as_mut(), reading, patience, shutdown).await;
        reading.ends();
        let Ok(error) = consumed else { break };
        // A consumer that met an error is replaced: the committed offset is where it goes on.
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

/// Returns the error that ended the consumer. A batch that was read is finished, whoever leaves.
async fn consume(
    work: &mut impl Work,
    consumer: &mut dyn Consumer,
    reading: &Reading,
    patience: &Patience,
    shutdown: &CancellationToken,
) -> Result<BusError, Stopped> {
    loop {
        let polled = tokio::select! {
            () = shutdown.cancelled() => return Err(Stopped),
            polled = consumer.poll(limits::ROUTER_BATCH, limits::CONSUMER_WAIT) => polled,
        };
        match polled {
            Ok(Polled::Records(records)) => {
                work.batch(&records).await?;
                commit(consumer, &records, patience).await?;
                reading.finished(&records);
            }
            Ok(Polled::Assigned(partitions)) => {
                work.assigned();
                reading.assigned(&partitions);
            }
            Ok(Polled::Revoked(partitions)) => reading.revoked(&partitions),
            Ok(Polled::Idle) => {}
            Err(error) => return Ok(error),
        }
    }
}

async fn commit(
    consumer: &mut dyn Consumer,
    records: &[Consumed],
    patience: &Patience,
) -> Result<(), Stopped> {
    let next = next_offsets(records);
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
