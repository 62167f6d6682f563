//! A bus that comes and goes.

use async_trait::async_trait;
use herald::{
    bus::{
        Bus, BusError, Consumer, Polled, Record, Start, Target, Topic, TopicPartition,
        embedded::{EmbeddedBus, Options},
    },
    metrics::Metrics,
};
use parking_lot::Mutex;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// The embedded bus behind a switch.
pub struct Switched {
    bus: EmbeddedBus,
    away: Arc<AtomicBool>,
    /// Members that ever joined a group.
    pub joined: AtomicUsize,
    /// A topic that does not exist.
    lost: Mutex<Option<Topic>>,
    /// Every partition ends at 0, as one of a topic that was deleted and made again.
    pub remade: AtomicBool,
}

impl Switched {
    pub fn off(dir: &Path, metrics: &Metrics) -> Arc<Switched> {
        Arc::new(Switched {
            bus: EmbeddedBus::open(dir, Options::default(), metrics).unwrap(),
            away: Arc::new(AtomicBool::new(true)),
            joined: AtomicUsize::new(0),
            lost: Mutex::default(),
            remade: AtomicBool::new(false),
        })
    }

    pub fn turn(&self, on: bool) {
        self.away.store(!on, Ordering::Relaxed);
    }

    pub fn lose(&self, topic: Option<Topic>) {
        *self.lost.lock() = topic;
    }

    fn check(&self) -> Result<(), BusError> {
        check(&self.away)
    }
}

fn check(away: &AtomicBool) -> Result<(), BusError> {
    match away.load(Ordering::Relaxed) {
        true => Err(BusError::Unavailable("switched off".into())),
        false => Ok(()),
    }
}

struct Member {
    consumer: Box<dyn Consumer>,
    away: Arc<AtomicBool>,
}

#[async_trait]
impl Consumer for Member {
    async fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, BusError> {
        check(&self.away)?;
        self.consumer.poll(records_max, wait).await
    }

    fn pause(&mut self, at: TopicPartition) -> Result<(), BusError> {
        self.consumer.pause(at)
    }

    fn resume(&mut self, at: TopicPartition) -> Result<(), BusError> {
        self.consumer.resume(at)
    }

    async fn commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<(), BusError> {
        check(&self.away)?;
        self.consumer.commit(next).await
    }
}

#[async_trait]
impl Bus for Switched {
    async fn produce(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        self.check()?;
        let lost = *self.lost.lock();
        let to_lost = |(target, _): &(Target, Record)| match target {
            Target::Keyed(topic) => Some(*topic) == lost,
            Target::Exact(at) => Some(at.topic) == lost,
        };
        match records.iter().find(|record| to_lost(record)) {
            Some(_) => Err(BusError::NoTopic("lost".into())),
            None => self.bus.produce(records).await,
        }
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn Consumer>, BusError> {
        self.check()?;
        let consumer = self.bus.subscribe(group, topics).await?;
        self.joined.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Member {
            consumer,
            away: self.away.clone(),
        }))
    }

    async fn assign(
        &self,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<Box<dyn Consumer>, BusError> {
        self.bus.assign(group, partitions).await
    }

    async fn end(&self, at: TopicPartition) -> Result<u64, BusError> {
        match self.remade.load(Ordering::Relaxed) {
            true => Ok(0),
            false => self.bus.end(at).await,
        }
    }

    async fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<u64>, BusError> {
        self.bus.committed(group, at).await
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, BusError> {
        self.check()?;
        self.bus.partitions(topic).await
    }

    fn healthy(&self) -> bool {
        self.check().is_ok()
    }
}
