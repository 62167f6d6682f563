//! The broker: logs, and what groups have committed. Records of one call become durable one after the other,
//! so that a producer that dies in between leaves a part of them.

use super::clock::{Clock, Part};
use async_trait::async_trait;
use herald::bus::{
    self, BusError, Consumed, Consumer, Record, Start, Target, Topic, TopicPartition, partition_of,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

pub struct Bus {
    clock: Arc<Clock>,
    pub raw_partitions: u32,
    pub shards: u32,
    logs: Mutex<Logs>,
}

#[derive(Default)]
struct Logs {
    records: BTreeMap<TopicPartition, Vec<(u64, Record)>>,
    committed: BTreeMap<(String, TopicPartition), u64>,
    /// Grown since the world looked last.
    grown: Vec<TopicPartition>,
}

impl Bus {
    pub fn new(clock: Arc<Clock>, raw_partitions: u32, shards: u32) -> Bus {
        Bus {
            clock,
            raw_partitions,
            shards,
            logs: Mutex::default(),
        }
    }

    pub fn append(&self, target: Target, record: Record) -> (TopicPartition, u64) {
        let at = match target {
            Target::Exact(at) => at,
            Target::Keyed(topic) => TopicPartition {
                topic,
                partition: partition_of(&record.key, self.partitions_of(topic)),
            },
        };
        let mut logs = self.logs.lock();
        let log = logs.records.entry(at).or_default();
        log.push((self.clock.unix_ms(), record));
        let offset = log.len() as u64 - 1;
        logs.grown.push(at);
        (at, offset)
    }

    pub fn read(&self, at: TopicPartition, from: u64, records_max: usize) -> Vec<Consumed> {
        let logs = self.logs.lock();
        let log = logs.records.get(&at).into_iter().flatten();
        (0..)
            .zip(log)
            .skip(from as usize)
            .take(records_max)
            .map(|(offset, (appended_ms, record))| Consumed {
                at,
                offset,
                appended_ms: *appended_ms,
                record: record.clone(),
            })
            .collect()
    }

    pub fn length(&self, at: TopicPartition) -> u64 {
        let logs = self.logs.lock();
        logs.records.get(&at).map_or(0, |log| log.len() as u64)
    }

    pub fn commit(&self, group: &str, at: TopicPartition, next: u64) {
        let key = (group.to_owned(), at);
        self.logs.lock().committed.insert(key, next);
    }

    pub fn committed_by(&self, group: &str, at: TopicPartition) -> Option<u64> {
        let key = (group.to_owned(), at);
        self.logs.lock().committed.get(&key).copied()
    }

    pub fn take_grown(&self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.logs.lock().grown)
    }

    fn partitions_of(&self, topic: Topic) -> u32 {
        match topic {
            Topic::Raw(_) => self.raw_partitions,
            Topic::InApp | Topic::Critical => self.shards,
            _ => 1,
        }
    }
}

#[async_trait]
impl bus::Bus for Bus {
    async fn produce(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        let mut places = Vec::with_capacity(records.len());
        for (target, record) in records {
            self.clock.way(Part::Bus).await;
            places.push(self.append(target, record));
        }
        self.clock.way(Part::Bus).await;
        Ok(places)
    }

    async fn subscribe(&self, _: &str, _: &[Topic]) -> Result<Box<dyn Consumer>, BusError> {
        unreachable!("the world reads for the consumers")
    }

    async fn assign(
        &self,
        _: &str,
        _: &[(TopicPartition, Start)],
    ) -> Result<Box<dyn Consumer>, BusError> {
        unreachable!("the world reads for the consumers")
    }

    async fn end(&self, at: TopicPartition) -> Result<u64, BusError> {
        Ok(self.length(at))
    }

    async fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<u64>, BusError> {
        Ok(self.committed_by(group, at))
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, BusError> {
        Ok(self.partitions_of(topic))
    }

    fn healthy(&self) -> bool {
        true
    }
}
