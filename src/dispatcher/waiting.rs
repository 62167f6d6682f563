//! Records that were read before they are due. Their partitions are paused, so that a worker goes on polling: it hears
//! of rebalances, and the other partitions go on. Nothing sleeps, and what waits here is at most one poll of each
//! partition.

use super::reading::Reading;
use crate::{
    bus::{BusError, Consumed, Consumer, TopicPartition},
    limits,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

#[derive(Default)]
pub struct Waiting {
    /// By partition, in the order of their offsets, each with the Unix ms at which it is due.
    held: BTreeMap<TopicPartition, VecDeque<(u64, Consumed)>>,
    /// Were paused when they were revoked.
    gone: BTreeSet<TopicPartition>,
}

impl Waiting {
    /// Takes out of `records` what is not due, and what comes behind it in its partition, and pauses those
    /// partitions.
    pub fn hold(
        &mut self,
        records: &mut Vec<Consumed>,
        due_ms: impl Fn(&Consumed) -> u64,
        consumer: &mut dyn Consumer,
        reading: &Reading,
    ) -> Result<(), BusError> {
        let now_ms = super::unix_ms();
        let mut left = Vec::with_capacity(records.len());
        for record in records.drain(..) {
            let (at, due_ms) = (record.at, due_ms(&record));
            match self.held.get_mut(&at) {
                Some(held) => held.push_back((due_ms, record)),
                None if due_ms <= now_ms => left.push(record),
                None => {
                    consumer.pause(at)?;
                    reading.waits(at, true);
                    self.held.insert(at, VecDeque::from([(due_ms, record)]));
                }
            }
        }
        *records = left;
        Ok(())
    }

    /// Takes what is due by now.
    pub fn due(&mut self, now_ms: u64) -> Vec<Consumed> {
        let mut due = Vec::new();
        for held in self.held.values_mut() {
            let count = held.iter().take_while(|(at, _)| *at <= now_ms).count();
            due.extend(held.drain(..count).map(|(_, record)| record));
        }
        due
    }

    /// Partitions of which nothing is held any more are read again.
    pub fn resume(
        &mut self,
        consumer: &mut dyn Consumer,
        reading: &Reading,
    ) -> Result<(), BusError> {
        let empty = self.held.iter().filter(|(_, held)| held.is_empty());
        let empty: Vec<TopicPartition> = empty.map(|(at, _)| *at).collect();
        for at in empty {
            consumer.resume(at)?;
            reading.waits(at, false);
            self.held.remove(&at);
        }
        Ok(())
    }

    /// Others have them now.
    pub fn forget(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if self.held.remove(at).is_some() {
                self.gone.insert(*at);
            }
        }
    }

    /// What was paused when it went would come back paused.
    pub fn came_back(
        &mut self,
        partitions: &[TopicPartition],
        consumer: &mut dyn Consumer,
    ) -> Result<(), BusError> {
        for at in partitions {
            if self.gone.remove(at) {
                consumer.resume(*at)?;
            }
        }
        Ok(())
    }

    /// Until something is due, as far as a poll may wait.
    pub fn until_due(&self, now_ms: u64) -> Duration {
        let heads = self.held.values().filter_map(|held| held.front());
        let next_ms = heads.map(|(at, _)| *at).min();
        next_ms.map_or(limits::CONSUMER_WAIT, |at| {
            Duration::from_millis(at.saturating_sub(now_ms)).min(limits::CONSUMER_WAIT)
        })
    }
}
