//! How far a worker has come, beside its loop: what `/readyz` tells of one that does not move.

use super::{health::Health, worker::Refused};
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

type Held = BTreeMap<TopicPartition, Place>;

/// How far the worker has come in a partition that it holds.
#[derive(Clone, Default)]
struct Place {
    /// The offset it goes on with, where it has finished any.
    next: Option<u64>,
    /// Why it stands: a record of it was refused.
    refused: Option<String>,
    /// Its next record is not due yet.
    waits: bool,
}

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
        self.change(|held| held.extend(partitions.iter().map(|at| (*at, Place::default()))));
    }

    pub fn revoked(&self, partitions: &[TopicPartition]) {
        self.change(|held| held.retain(|at, _| !partitions.contains(at)));
    }

    pub fn finished(&self, records: &[Consumed]) {
        self.change(|held| {
            for record in records {
                held.entry(record.at).or_default().next = Some(record.offset + 1);
            }
        });
    }

    /// All below this is finished, or as many records as there are below it.
    pub fn came_to(&self, at: TopicPartition, next: u64) {
        self.change(|held| held.entry(at).or_default().next = Some(next));
    }

    pub fn waits(&self, at: TopicPartition, waits: bool) {
        self.change(|held| held.entry(at).or_default().waits = waits);
    }

    pub fn refused(&self, refused: Vec<Refused>) {
        for Refused { at, offset, why } in refused {
            let (topic, partition) = (at.topic.suffix(), at.partition);
            tracing::error!(%topic, partition, offset, "the partition stands: {why}");
            self.change(|held| held.entry(at).or_default().refused = Some(why));
        }
    }

    /// Takes out what belongs to partitions that stand. It is not finished: it comes again once they are
    /// assigned anew.
    pub fn leave_standing(&self, records: &mut Vec<Consumed>) {
        self.change(|held| {
            let stands =
                |at: &TopicPartition| held.get(at).is_some_and(|place| place.refused.is_some());
            records.retain(|record| !stands(&record.at));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.0.lock().as_mut() {
            change(held);
        }
    }

    /// Tells `health` what it sees. Runs until dropped.
    pub async fn watch(
        self,
        group: &'static str,
        bus: SharedBus,
        is_said: impl Fn() -> bool,
        health: Arc<Health>,
    ) {
        let mut progress = BTreeMap::new();
        let mut without = Duration::ZERO;
        loop {
            tokio::time::sleep(limits::PROGRESS_EVERY).await;
            // That a part is away is said already, and nothing is known meanwhile.
            if is_said() {
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

/// The first partition that stands, else the first that is slow, and why.
async fn look(
    progress: &mut BTreeMap<TopicPartition, Progress>,
    held: &Held,
    bus: &SharedBus,
) -> Option<String> {
    let mut standing = held
        .iter()
        .filter_map(|(at, place)| Some((at, place.refused.as_ref()?)));
    if let Some((at, why)) = standing.next() {
        let others = match standing.count() {
            0 => String::new(),
            others => format!(" ({others} more of this worker's stand)"),
        };
        let (topic, partition) = (at.topic.suffix(), at.partition);
        return Some(format!(
            "{topic} partition {partition} stands{others}: {why}"
        ));
    }
    // Records that wait on purpose say nothing of their reader.
    progress.retain(|at, _| held.get(at).is_some_and(|place| !place.waits));
    let mut slow = None;
    for (at, Place { next, .. }) in held.iter().filter(|(_, place)| !place.waits) {
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
