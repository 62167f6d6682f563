//! The shard consumer: reads this host's partitions of `critical` and `in_app`, one reader each, so that a
//! backlog of the second never stands before the first.
//!
//! Invariants:
//! * only while the shard is ours; what was read before it was lost is never committed after;
//! * a partition is not polled while [`limits::SHARD_IN_FLIGHT`] of its records are in flight;
//! * commits follow the low-water, from the task that polls, once in [`limits::COMMIT_EVERY`]; records go on
//!   while the broker writes one down.

use super::{
    dead_letters,
    flights::Waiter,
    health::Cause,
    host::{Host, Ownership},
    outcomes::{Finished, Flow},
    place::{Batch, DeadLetter},
};
use crate::{
    bus::{
        BusError, Commit, Consumed, Consumer, Polled, Start, Topic, TopicPartition,
        progress::Progress, shard_group,
    },
    limits,
};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Position of a reader that has read nothing yet.
const UNKNOWN: u64 = u64::MAX;

/// Both are read through the partition with the shard's number.
const TOPICS: [Topic; 2] = [Topic::Critical, Topic::InApp];

/// Follows the ownership until `stop`: then finishes what is in flight, commits and returns.
pub async fn run(host: Arc<Host>, stop: CancellationToken) {
    let mut ownership = host.ownership.subscribe();
    while !stop.is_cancelled() {
        let owned = ownership.borrow_and_update().clone();
        let lost = CancellationToken::new();
        let readers = owned.clone().map(|owned| {
            let (host, lost, stop) = (host.clone(), lost.clone(), stop.clone());
            tokio::spawn(read_shard(host, owned, lost, stop))
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = ownership.changed() => {
                    if changed.is_err() || *ownership.borrow() != owned {
                        lost.cancel();
                        break;
                    }
                }
            }
        }
        if let Some(readers) = readers {
            // A reader that panicked has said so; the next ownership starts anew.
            let _ = readers.await;
        }
    }
}

async fn read_shard(
    host: Arc<Host>,
    owned: Ownership,
    lost: CancellationToken,
    stop: CancellationToken,
) {
    let assigned = Arc::new(Mutex::new(HashSet::new()));
    let readers = TOPICS.map(|topic| {
        let position = Arc::new(AtomicU64::new(UNKNOWN));
        let at = TopicPartition {
            topic,
            partition: owned.shard.shard,
        };
        let reader = Reader {
            host: host.clone(),
            at,
            flow: Arc::default(),
            position: position.clone(),
            committed: None,
            committed_at: Instant::now(),
            stop: stop.clone(),
            assigned: assigned.clone(),
        };
        let measuring = measure_lag(host.clone(), at, position);
        let reading = reader.run(&lost);
        async move {
            tokio::select! {
                () = reading => {}
                () = measuring => {}
            }
        }
    });
    futures::future::join_all(readers).await;
}

/// Beside the reader, never in its way: the broker's answer may take a while. Runs until dropped.
async fn measure_lag(host: Arc<Host>, at: TopicPartition, position: Arc<AtomicU64>) {
    let gauge = host.metrics.lag.with_label_values(&[label(at.topic)]);
    let mut progress = Progress::default();
    loop {
        tokio::time::sleep(limits::COMMIT_EVERY).await;
        let next = position.load(Ordering::Relaxed);
        let next = (next != UNKNOWN).then_some(next);
        let Ok(end) = host.bus.end(at).await else {
            continue;
        };
        if let Some(next) = next {
            let lag = end.saturating_sub(next);
            gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
        let cause = lag_cause(at.topic);
        match progress.look(next, end, Instant::now().into_std()) {
            Some(slow) => {
                let (topic, partition) = (label(at.topic), at.partition);
                host.fails(cause, format!("{topic} partition {partition}: {slow}"));
            }
            None => host.health.works(cause),
        }
    }
}

struct Reader {
    host: Arc<Host>,
    at: TopicPartition,
    flow: Arc<Flow>,
    /// Offset of the next record to read.
    position: Arc<AtomicU64>,
    /// What the broker is known to have.
    committed: Option<u64>,
    committed_at: Instant,
    stop: CancellationToken,
    /// Topics whose reader stands: with both, the shard is served.
    assigned: Arc<Mutex<HashSet<Topic>>>,
}

impl Reader {
    async fn run(mut self, lost: &CancellationToken) {
        while !lost.is_cancelled() && !self.stop.is_cancelled() {
            tokio::select! {
                biased;
                () = lost.cancelled() => break,
                error = self.read() => match error {
                    Ok(()) => break,
                    Err(error) => self.away(&error).await,
                }
            }
            // A new consumer starts at the committed offset: what was in flight is read again.
            self.flow = Arc::default();
            self.committed = None;
        }
        self.flow = Arc::default();
        self.measure();
        self.host.health.works(lag_cause(self.at.topic));
        self.host.health.works(Cause::Topic);
    }

    /// One consumer's life. Returns when it is time to leave and everything is committed.
    async fn read(&mut self) -> Result<(), BusError> {
        let partition = self.at.partition;
        let group = shard_group(partition);
        let start = [(self.at, Start::Committed)];
        let mut consumer = self.host.bus.assign(&group, &start).await?;
        self.assigned.lock().insert(self.at.topic);
        if self.assigned.lock().len() == TOPICS.len() {
            self.host.health.works(Cause::Shard);
            self.host.health.works(Cause::Topic);
        }
        tracing::info!(topic = label(self.at.topic), partition, %group, "reads its shard");
        while !self.stop.is_cancelled() {
            if self.flow.in_flight() >= limits::SHARD_IN_FLIGHT {
                self.wait_for_room().await;
            } else {
                let polled = consumer
                    .poll(limits::SHARD_POLL, limits::SHARD_WAIT)
                    .await?;
                if let Polled::Records(records) = polled {
                    self.take(&records);
                }
            }
            if self.committed_at.elapsed() >= limits::COMMIT_EVERY {
                self.step_commit(consumer.as_mut()).await?;
            }
            self.measure();
        }
        self.finish(consumer.as_mut()).await
    }

    fn take(&mut self, records: &[Consumed]) {
        let mut batch = Batch::new(&self.host);
        for consumed in records {
            if !self.flow.start(consumed.offset) {
                continue;
            }
            let finished = Finished {
                flow: self.flow.clone(),
                offset: consumed.offset,
            };
            batch.place(&consumed.record, Waiter::Offset(finished));
        }
        let dead = batch.send();
        if !dead.is_empty() {
            tokio::spawn(set_aside(self.host.clone(), self.at, dead));
        }
        if let Some(last) = records.last() {
            self.position.store(last.offset + 1, Ordering::Relaxed);
            self.host.canary.read(self.at, last.offset + 1);
        }
    }

    async fn wait_for_room(&self) {
        self.host.canary.has_no_room(self.at);
        tokio::select! {
            () = self.flow.moved.notified() => {}
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(limits::COMMIT_EVERY) => {}
        }
    }

    async fn step_commit(&mut self, consumer: &mut dyn Consumer) -> Result<(), BusError> {
        self.committed_at = Instant::now();
        let next = self.flow.next();
        if let Some(offset) = next
            && next != self.committed
            && consumer.step_commit(&[(self.at, offset)]).await? == Commit::Done
        {
            self.committed = next;
        }
        Ok(())
    }

    fn measure(&self) {
        let in_flight = &self.host.metrics.in_flight;
        let gauge = in_flight.with_label_values(&[label(self.at.topic)]);
        gauge.set(self.flow.in_flight() as i64);
    }

    /// Leaving: nothing more is read; what is in flight is given a bounded time to be accepted.
    async fn finish(&mut self, consumer: &mut dyn Consumer) -> Result<(), BusError> {
        let until = Instant::now() + limits::DRAIN_FINISH;
        while self.flow.in_flight() > 0 && Instant::now() < until {
            let _ = tokio::time::timeout_at(until, self.flow.moved.notified()).await;
        }
        if self.flow.in_flight() > 0 {
            let left = self.flow.in_flight();
            tracing::warn!(
                topic = label(self.at.topic),
                left,
                "left with records in flight: they are read again"
            );
        }
        // Also what was begun: whether it worked is not known.
        match self.flow.next() {
            Some(offset) => consumer.commit(&[(self.at, offset)]).await,
            None => Ok(()),
        }
    }

    async fn away(&self, error: &BusError) {
        self.assigned.lock().remove(&self.at.topic);
        if let BusError::NoTopic(_) = error {
            self.host.fails(Cause::Topic, error.to_string());
        }
        tracing::debug!(topic = label(self.at.topic), %error, "the shard can't be read");
        tokio::select! {
            () = tokio::time::sleep(limits::AWAY_RETRY) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

fn lag_cause(topic: Topic) -> Cause {
    match topic {
        Topic::Critical => Cause::CriticalLag,
        _ => Cause::InAppLag,
    }
}

fn label(topic: Topic) -> &'static str {
    match topic {
        Topic::Critical => "critical",
        _ => "in_app",
    }
}

/// Only a record that is on `dlq` lets its offset go.
async fn set_aside(host: Arc<Host>, at: TopicPartition, dead: Vec<DeadLetter>) {
    for letter in dead {
        if let Waiter::Offset(finished) = letter.waiter {
            let (offset, reason) = (finished.offset, &letter.reason);
            dead_letters::set_aside(&host, at, offset, letter.record, reason).await;
            finished.done();
        }
    }
}
