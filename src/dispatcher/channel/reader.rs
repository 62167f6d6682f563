//! The loop of one channel: it reads on while what it read before is at work, so that a provider that is slow delays what
//! goes by it alone. Each record is settled when its own attempts have ended, with those that ended meanwhile.
//!
//! Invariants:
//! * polls go on whatever waits for a provider, the store or the bus: the group is never left for want of them;
//! * what is out is bounded, and what is committed stays behind what is read by [`limits::CHANNEL_BEHIND`] and one poll at
//!   the most;
//! * what was revoked is not committed; what is out of it is finished all the same, and whoever reads it again meets its
//!   claims.

use super::{
    out::{Out, Partitions},
    worker::{ChannelWorker, Tried},
};
use crate::{
    bus::{BusError, Consumed, Consumer, Polled, Topic, TopicPartition},
    dispatcher::{
        channel::{out::Ticket, topic_of},
        patience::{BackOff, Patience, Stopped},
        reading::Reading,
        worker::{Failures, Reads, Surroundings},
    },
    limits,
};
use async_trait::async_trait;
use std::{collections::BTreeSet, panic::resume_unwind, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

pub struct ChannelReader {
    worker: Arc<ChannelWorker>,
    out: Out,
    /// What is tried, and who settles it. They outlive a consumer.
    at_work: JoinSet<()>,
    /// To whoever settles. As many as are [`Out`].
    tried: mpsc::UnboundedSender<(Tried, Ticket)>,
    /// Of the consumer of now: what it holds, and how far it is.
    held: BTreeSet<TopicPartition>,
    partitions: Partitions,
    /// What it paused, also of what went since: that would come back paused.
    paused: BTreeSet<TopicPartition>,
    /// Since when there has been no room.
    full_since: Option<Instant>,
    committed_at: Instant,
    back_off: BackOff,
}

#[async_trait]
impl Reads for ChannelReader {
    fn group(&self) -> &'static str {
        self.worker.channel.as_str()
    }

    fn topics(&self) -> Vec<Topic> {
        topic_of(self.worker.channel).into_iter().collect()
    }

    async fn consume(
        &mut self,
        consumer: &mut dyn Consumer,
        reading: &Reading,
        surroundings: &Surroundings,
    ) -> Result<BusError, Stopped> {
        // What is out is the former consumer's: this one goes on at the committed offset.
        (self.held, self.paused, self.partitions) = Default::default();
        let shutdown = &surroundings.shutdown;
        let read = self.read(consumer, reading, surroundings);
        let went = shutdown.run_until_cancelled(read).await;
        match went {
            Some(Ok(error)) => Ok(error),
            Some(Err(Stopped)) | None => {
                self.leave(consumer).await;
                Err(Stopped)
            }
        }
    }
}

impl ChannelReader {
    pub fn new(worker: ChannelWorker) -> ChannelReader {
        let worker = Arc::new(worker);
        let (tried, ended) = mpsc::unbounded_channel();
        let mut at_work = JoinSet::new();
        let settling = worker.clone();
        at_work.spawn(async move { settling.settle_as_they_end(ended).await });
        ChannelReader {
            out: worker.sender.out.clone(),
            worker,
            at_work,
            tried,
            held: BTreeSet::new(),
            partitions: Partitions::default(),
            paused: BTreeSet::new(),
            full_since: None,
            committed_at: Instant::now(),
            back_off: BackOff::new("commit"),
        }
    }

    /// Returns the error for which the consumer has to be replaced.
    async fn read(
        &mut self,
        consumer: &mut dyn Consumer,
        reading: &Reading,
        surroundings: &Surroundings,
    ) -> Result<BusError, Stopped> {
        let Surroundings { bus, patience, .. } = surroundings;
        let mut failures = Failures::default();
        loop {
            self.go_down_with_who_panicked();
            self.commit(consumer, reading, patience).await?;
            if self.waits_for_room().await {
                continue;
            }
            if let Err(error) = self.pause(self.full_since.is_some(), consumer) {
                return Ok(error);
            }
            match consumer.poll(self.records_max(), self.wait()).await {
                Ok(polled) => {
                    failures = Failures::default();
                    self.take(polled, reading);
                }
                Err(error) if failures.are_the_consumers(&error, bus.healthy()) => {
                    return Ok(error);
                }
                Err(error) => patience.wait(&mut failures.back_off, &error).await?,
            }
        }
    }

    /// Whether to look again before the next poll. What could be read is not paused for a moment without room: what came
    /// of it ahead would come anew.
    async fn waits_for_room(&mut self) -> bool {
        let is_full = self.out.is_full() || self.partitions.behind() >= limits::CHANNEL_BEHIND;
        self.out.crowd(is_full);
        if !is_full {
            self.full_since = None;
            return false;
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        let waits = since.elapsed() < limits::CONSUMER_WAIT;
        if waits {
            let _ = timeout(limits::CHANNEL_COMMIT_EVERY, self.out.ended()).await;
        }
        waits
    }

    /// All that it holds, so that polls bring rebalances and nothing that there is no room for; or nothing.
    fn pause(&mut self, is_so: bool, consumer: &mut dyn Consumer) -> Result<(), BusError> {
        for at in &self.held {
            match (is_so, self.paused.contains(at)) {
                (true, false) => {
                    consumer.pause(*at)?;
                    self.paused.insert(*at);
                }
                (false, true) => {
                    consumer.resume(*at)?;
                    self.paused.remove(at);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn records_max(&self) -> usize {
        self.out.room().clamp(1, limits::CHANNEL_BATCH)
    }

    /// As long as nothing has to be committed by then.
    fn wait(&self) -> Duration {
        match self.partitions.behind() {
            0 => limits::CONSUMER_WAIT,
            _ => limits::CHANNEL_COMMIT_EVERY,
        }
    }

    fn take(&mut self, polled: Polled, reading: &Reading) {
        match polled {
            Polled::Records(records) => self.begin(records),
            Polled::Assigned(partitions) => {
                reading.assigned(&partitions);
                self.held.extend(partitions);
            }
            Polled::Revoked(partitions) => {
                reading.revoked(&partitions);
                self.held.retain(|at| !partitions.contains(at));
                self.partitions.forget(&partitions);
            }
            Polled::Idle => {}
        }
    }

    fn begin(&mut self, records: Vec<Consumed>) {
        let tickets = records.into_iter().map(|record| {
            let ticket = self.partitions.start(&record, &self.out);
            (record, ticket)
        });
        let tickets: Vec<(Consumed, Ticket)> = tickets.collect();
        let (worker, tried) = (self.worker.clone(), self.tried.clone());
        self.at_work.spawn(async move {
            // Stopped: what was not tried is read again.
            let _ = worker.try_each(tickets, tried).await;
        });
    }

    /// What has settled by now, once in [`limits::CHANNEL_COMMIT_EVERY`].
    async fn commit(
        &mut self,
        consumer: &mut dyn Consumer,
        reading: &Reading,
        patience: &Patience,
    ) -> Result<(), Stopped> {
        if self.committed_at.elapsed() < limits::CHANNEL_COMMIT_EVERY {
            return Ok(());
        }
        self.committed_at = Instant::now();
        self.partitions.tell(reading);
        let next = self.partitions.uncommitted();
        if next.is_empty() {
            return Ok(());
        }
        match consumer.commit(&next).await {
            Ok(()) => {
                self.partitions.committed(&next);
                self.back_off = BackOff::new("commit");
                Ok(())
            }
            // With the next: polls go on in between.
            Err(error) => patience.wait(&mut self.back_off, &error).await,
        }
    }

    /// Nothing more is read; what is out has a bounded time to end.
    async fn leave(&mut self, consumer: &mut dyn Consumer) {
        let until = Instant::now() + limits::CHANNEL_LEAVE;
        while self.out.records() > 0 && Instant::now() < until {
            let _ = timeout_at(until, self.out.ended()).await;
        }
        let (channel, left) = (self.group(), self.out.records());
        if left > 0 {
            tracing::warn!(
                channel,
                left,
                "left what no provider answered: it is read again"
            );
        }
        let next = self.partitions.uncommitted();
        if next.is_empty() {
            return;
        }
        if let Err(error) = consumer.commit(&next).await {
            tracing::warn!(channel, %error, "what was sent last is read again");
        }
    }

    /// Whose records would stay out for ever.
    fn go_down_with_who_panicked(&mut self) {
        while let Some(ended) = self.at_work.try_join_next() {
            if let Err(error) = ended {
                resume_unwind(error.into_panic());
            }
        }
    }
}
