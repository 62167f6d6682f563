//! How far a worker has come, beside its loop: what `/readyz` tells of one that does not move.

use super::health::Health;
use crate::{
    bus::{Consumed, SharedBus, TopicPartition, progress::Progress},
    limits,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Partitions the worker holds, and the offset it goes on with in each, where it has finished any.
type Held = BTreeMap<TopicPartition, Option<u64>>;

/// `None` without a consumer.
#[derive(Clone, Default)]
pub struct Reading(Arc<Mutex<Option<Held>>>);

impl Reading {
    pub fn begins(&self) {
        *self.0.lock() = Some(BTreeMap::new());
    }

    pub fn ends(&self) {
        *self.0.lock() = None;
    }

    pub fn assigned(&self, partitions: &[TopicPartition]) {
        self.change(|held| held.extend(partitions.iter().map(|at| (*at, None))));
    }

    pub fn revoked(&self, partitions: &[TopicPartition]) {
        self.change(|held| held.retain(|at, _| !partitions.contains(at)));
    }

    pub fn finished(&self, records: &[Consumed]) {
        self.change(|held| {
            for record in records {
                held.insert(record.at, Some(record.offset + 1));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.0.lock().as_mut() {
            change(held);
        }
    }

    /// Tells `health` what it sees. Runs until dropped.
    pub async fn watch(self, group: &'static str, bus: SharedBus, health: Arc<Health>) {
        let mut progress = BTreeMap::new();
        let mut without = Duration::ZERO;
        loop {
            tokio::time::sleep(limits::PROGRESS_EVERY).await;
            // That the bus is away is said already, and nothing is known meanwhile.
            if !bus.healthy() {
                continue;
            }
            let held = self.0.lock().clone();
            without = match held {
                None => without + limits::PROGRESS_EVERY,
                Some(_) => Duration::ZERO,
            };
            let slow = match &held {
                Some(held) => look(&mut progress, held, &bus).await,
                None if without >= limits::READER_HALTED => {
                    Some("can't read its topics: run `herald ctl topics --check`".to_owned())
                }
                None => continue,
            };
            health.worker(group, slow);
        }
    }
}

/// The first partition that is slow, and why.
async fn look(
    progress: &mut BTreeMap<TopicPartition, Progress>,
    held: &Held,
    bus: &SharedBus,
) -> Option<String> {
    progress.retain(|at, _| held.contains_key(at));
    let mut slow = None;
    for (at, next) in held {
        let Ok(end) = bus.end(*at).await else {
            continue;
        };
        let seen = progress.entry(*at).or_default();
        if let Some(why) = seen.look(*next, end, Instant::now()) {
            let (topic, partition) = (at.topic.suffix(), at.partition);
            slow.get_or_insert_with(|| format!("{topic} partition {partition}: {why}"));
        }
    }
    slow
}
