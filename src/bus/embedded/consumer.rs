//! One reader: its positions, its wake-up, and (in a group) its membership.

use super::{
    LogIndex, Shared,
    groups::{Change, MemberId},
    reader::Span,
};
use crate::bus::{BusError, Consumed, Consumer, Polled, Start, Topic, TopicPartition};
use async_trait::async_trait;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    group: String,
    /// `None`: partitions were assigned by hand and stay.
    member: Option<MemberId>,
    wake: Arc<Notify>,
    /// Next offset of each partition this consumer reads.
    positions: Vec<(LogIndex, u64)>,
    /// Came by a rebalance; where to start in them is not read yet.
    arrived: Vec<LogIndex>,
    /// Not read for now.
    paused: HashSet<LogIndex>,
    /// Whose turn it is to be read first, so that a busy partition doesn't starve the others.
    turn: usize,
}

impl EmbeddedConsumer {
    pub(super) fn subscribe(
        shared: Arc<Shared>,
        group: &str,
        topics: &[Topic],
    ) -> Result<EmbeddedConsumer, BusError> {
        let mut consumer = EmbeddedConsumer::new(shared, group);
        let shared = &consumer.shared;
        let joined =
            shared
                .groups
                .lock()
                .join(group, topics, consumer.wake.clone(), &shared.logs)?;
        consumer.member = Some(joined);
        Ok(consumer)
    }

    pub(super) async fn assign(
        shared: Arc<Shared>,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<EmbeddedConsumer, BusError> {
        let mut consumer = EmbeddedConsumer::new(shared, group);
        for (at, start) in partitions {
            let log = consumer.shared.logs.find(*at)?;
            let from = match start {
                Start::At(offset) => *offset,
                Start::Committed => {
                    let committed = consumer.shared.committed(group, vec![log]).await?;
                    committed[0].unwrap_or(0)
                }
            };
            consumer.place(log, from);
        }
        Ok(consumer)
    }

    fn new(shared: Arc<Shared>, group: &str) -> EmbeddedConsumer {
        EmbeddedConsumer {
            shared,
            group: group.to_owned(),
            member: None,
            wake: Arc::default(),
            positions: Vec::new(),
            arrived: Vec::new(),
            paused: HashSet::new(),
            turn: 0,
        }
    }

    fn place(&mut self, log: LogIndex, from: u64) {
        let known = &self.shared.logs.all[log];
        // Beyond the end the log is not the one the offset came from: read it all, as Kafka does.
        let from = if from > known.end() { 0 } else { from };
        known.readers.lock().push(self.wake.clone());
        self.positions.push((log, from));
    }

    fn remove(&mut self, log: LogIndex) {
        let mut readers = self.shared.logs.all[log].readers.lock();
        readers.retain(|reader| !Arc::ptr_eq(reader, &self.wake));
        self.positions.retain(|(other, _)| *other != log);
        self.arrived.retain(|other| *other != log);
        self.paused.remove(&log);
    }

    /// The next rebalance event, if there is one.
    async fn rebalance(&mut self) -> Result<Option<Polled>, BusError> {
        let Some(member) = self.member else {
            return Ok(None);
        };
        let change = self.shared.groups.lock().change(&self.group, member);
        match change {
            Some(Change::Revoked(logs)) => {
                for log in &logs {
                    self.remove(*log);
                }
                self.shared.metrics.rebalanced("revoked", logs.len());
                return Ok(Some(Polled::Revoked(self.places(&logs))));
            }
            Some(Change::Assigned(logs)) => self.arrived.extend(logs),
            None => {}
        }
        if self.arrived.is_empty() {
            return Ok(None);
        }
        // Kept in `arrived` until this works: a failed read is repeated by the next poll.
        let arrived = self.arrived.clone();
        let committed = self.shared.committed(&self.group, arrived.clone()).await?;
        self.arrived.clear();
        for (log, committed) in arrived.iter().zip(committed) {
            self.place(*log, committed.unwrap_or(0));
        }
        self.shared.metrics.rebalanced("assigned", arrived.len());
        Ok(Some(Polled::Assigned(self.places(&arrived))))
    }

    fn places(&self, logs: &[LogIndex]) -> Vec<TopicPartition> {
        logs.iter()
            .map(|log| self.shared.logs.all[*log].at)
            .collect()
    }

    async fn read(&mut self, records_max: usize) -> Result<Vec<Consumed>, BusError> {
        let (spans, readable) = self.readable();
        if spans.is_empty() || records_max == 0 {
            return Ok(Vec::new());
        }
        let found = self
            .shared
            .readers
            .records(spans.clone(), records_max)
            .await?;
        let mut records = Vec::new();
        for ((stored, span), place) in found.into_iter().zip(spans).zip(readable) {
            let (log, next) = &mut self.positions[place];
            let at = self.shared.logs.all[*log].at;
            // Nothing up to the end means the sweep was faster: go on behind it.
            *next = stored.last().map_or(span.end, |last| last.offset + 1);
            self.shared.metrics.consumed(at.topic, stored.len());
            records.extend(stored.into_iter().map(|stored| Consumed {
                at,
                offset: stored.offset,
                appended_ms: stored.appended_ms,
                record: stored.record,
            }));
            self.turn = place + 1;
        }
        Ok(records)
    }

    /// What has records to read, and the indexes of those positions, beginning with whose turn it is.
    fn readable(&self) -> (Vec<Span>, Vec<usize>) {
        let count = self.positions.len();
        let in_turn = (0..count).map(|step| (self.turn + step) % count);
        in_turn
            .filter_map(|place| {
                let (log, from) = self.positions[place];
                let known = &self.shared.logs.all[log];
                let end = known.end();
                let partition = known.id;
                (from < end && !self.paused.contains(&log)).then_some((
                    Span {
                        partition,
                        from,
                        end,
                    },
                    place,
                ))
            })
            .unzip()
    }

    async fn poll_within(
        &mut self,
        records_max: usize,
        wait: Duration,
    ) -> Result<Polled, BusError> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(event) = self.rebalance().await? {
                return Ok(event);
            }
            let records = self.read(records_max).await?;
            if !records.is_empty() {
                return Ok(Polled::Records(records));
            }
            // A wake-up that came since the look is kept by the notify: none is missed.
            if timeout_at(deadline, self.wake.notified()).await.is_err() {
                return Ok(Polled::Idle);
            }
        }
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, BusError> {
        let result = self.poll_within(records_max, wait).await;
        self.shared.metrics.count("poll", result)
    }

    fn pause(&mut self, at: TopicPartition) -> Result<(), BusError> {
        self.paused.insert(self.shared.logs.find(at)?);
        Ok(())
    }

    fn resume(&mut self, at: TopicPartition) -> Result<(), BusError> {
        self.paused.remove(&self.shared.logs.find(at)?);
        Ok(())
    }

    async fn commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<(), BusError> {
        let mut held = Vec::with_capacity(next.len());
        for (at, next) in next {
            let log = self
                .shared
                .metrics
                .count("commit", self.shared.logs.find(*at))?;
            let groups = self.shared.groups.lock();
            let member = self.member;
            if member.is_none_or(|member| groups.holds(&self.group, member, log)) {
                held.push((log, *next));
            }
        }
        let result = self.shared.writer.commit(&self.group, held).await;
        self.shared.metrics.count("commit", result)
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let logs: Vec<LogIndex> = self.positions.iter().map(|(log, _)| *log).collect();
        for log in logs {
            self.remove(log);
        }
        if let Some(member) = self.member {
            let mut groups = self.shared.groups.lock();
            groups.leave(&self.group, member, &self.shared.logs);
        }
    }
}
