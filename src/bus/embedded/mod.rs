//! The bus of the standalone: partitioned logs in one SQLite file.
//!
//! Invariants:
//! * one writer thread owns the only writing connection; what it answers was committed with
//!   `synchronous=FULL`, so it outlives `kill -9` and a power cut;
//! * calls that wait together share one transaction and its fsync;
//! * a partition's `end` rises only after the transaction that wrote the records, so a reader never
//!   sees an offset that may yet vanish;
//! * partition counts never change once the file is made: positions depend on them;
//! * a group's partition has one holder; the next one gets it after the holder polled its `Revoked`.

mod consumer;
mod file;
mod groups;
mod reader;
mod writer;

use super::{
    Bus, BusError, Consumer, Record, Start, Target, Topic, TopicPartition, metrics::BusMetrics,
    partitioner,
};
use crate::{
    held::{Held, HeldError},
    metrics::Metrics,
};
use async_trait::async_trait;
use consumer::EmbeddedConsumer;
use groups::Groups;
use parking_lot::Mutex;
use reader::Readers;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use thiserror::Error;
use tokio::sync::Notify;
use writer::Writer;

/// How the file is made. An existing file keeps what it was made with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Upper bound of the partitions of a topic: one host needs no more readers than it has cores.
    pub partitions_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { partitions_max: 4 }
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    #[error(transparent)]
    Held(#[from] HeldError),
    #[error(
        "{path} was made by a newer Herald (layout {found}): use that version, or another directory"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("can't use {path}: {problem}")]
    Unusable { path: PathBuf, problem: String },
}

/// The embedded bus. Everything in it ends when it and its consumers are dropped.
pub struct EmbeddedBus {
    shared: Arc<Shared>,
}

/// What the bus and its consumers hold together. The order of fields is the order of closing: the
/// writer finishes first, the directory is let go last.
struct Shared {
    writer: Writer,
    readers: Arc<Readers>,
    logs: Arc<Logs>,
    groups: Mutex<Groups>,
    metrics: BusMetrics,
    _held: Held,
}

/// One partition as the process knows it.
struct Log {
    id: u32,
    at: TopicPartition,
    /// Offset the next record gets; everything below it is committed.
    end: AtomicU64,
    /// Consumers to wake when it rises: as many as read this partition.
    readers: Mutex<Vec<Arc<Notify>>>,
}

/// Index into [`Logs`].
type LogIndex = usize;

struct Logs {
    all: Vec<Log>,
    /// First log and partition count of each topic.
    topics: HashMap<Topic, (LogIndex, u32)>,
}

impl EmbeddedBus {
    /// Opens or makes `DIR/bus.db`; blocks for as long as SQLite needs to recover the file.
    pub fn open(dir: &Path, options: Options, metrics: &Metrics) -> Result<EmbeddedBus, OpenError> {
        let held = Held::take(dir, "bus.lock")?;
        let (connection, logs) = file::open(dir, options)?;
        let logs = Arc::new(logs);
        let metrics = BusMetrics::new(metrics);
        Ok(EmbeddedBus {
            shared: Arc::new(Shared {
                writer: Writer::start(connection, logs.clone(), metrics.healthy.clone()),
                readers: Arc::new(Readers::new(file::path(dir))),
                logs,
                groups: Mutex::default(),
                metrics,
                _held: held,
            }),
        })
    }

    async fn produce_checked(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        let logs = &self.shared.logs;
        let mut placed = Vec::with_capacity(records.len());
        for (target, record) in records {
            let log = match target {
                Target::Keyed(topic) => logs.keyed(topic, &record.key)?,
                Target::Exact(at) => logs.find(at)?,
            };
            record.check_size(logs.all[log].at.topic)?;
            placed.push((log, record));
        }
        let places: Vec<TopicPartition> = placed.iter().map(|(log, _)| logs.all[*log].at).collect();
        let offsets = self.shared.writer.append(placed).await?;
        for at in &places {
            self.shared.metrics.produced(at.topic, 1);
        }
        Ok(places.into_iter().zip(offsets).collect())
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn produce(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        let result = self.produce_checked(records).await;
        self.shared.metrics.count("produce", result)
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn Consumer>, BusError> {
        let consumer = EmbeddedConsumer::subscribe(self.shared.clone(), group, topics);
        Ok(Box::new(self.shared.metrics.count("subscribe", consumer)?))
    }

    async fn assign(
        &self,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<Box<dyn Consumer>, BusError> {
        let consumer = EmbeddedConsumer::assign(self.shared.clone(), group, partitions).await;
        Ok(Box::new(self.shared.metrics.count("assign", consumer)?))
    }

    async fn end(&self, at: TopicPartition) -> Result<u64, BusError> {
        let log = self
            .shared
            .metrics
            .count("end", self.shared.logs.find(at))?;
        Ok(self.shared.logs.all[log].end())
    }

    async fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<u64>, BusError> {
        let log = self
            .shared
            .metrics
            .count("committed", self.shared.logs.find(at))?;
        let found = self.shared.committed(group, vec![log]).await;
        Ok(self.shared.metrics.count("committed", found)?[0])
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, BusError> {
        let found = self.shared.logs.topic(topic);
        Ok(self.shared.metrics.count("partitions", found)?.1)
    }

    fn healthy(&self) -> bool {
        self.shared.metrics.healthy.get() == 1
    }
}

impl Shared {
    async fn committed(
        &self,
        group: &str,
        logs: Vec<LogIndex>,
    ) -> Result<Vec<Option<u64>>, BusError> {
        let ids = logs.iter().map(|log| self.logs.all[*log].id).collect();
        self.readers.committed(group.to_owned(), ids).await
    }
}

impl Log {
    fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Called by the writer once the records below `end` are committed.
    fn publish(&self, end: u64) {
        self.end.store(end, Ordering::Release);
        for reader in &*self.readers.lock() {
            reader.notify_one();
        }
    }
}

impl Logs {
    fn topic(&self, topic: Topic) -> Result<(LogIndex, u32), BusError> {
        let found = self.topics.get(&topic).copied();
        found.ok_or_else(|| BusError::NoTopic(topic.suffix()))
    }

    fn find(&self, at: TopicPartition) -> Result<LogIndex, BusError> {
        let (first, partitions) = self.topic(at.topic)?;
        if at.partition >= partitions {
            return Err(BusError::NoTopic(format!(
                "{} partition {}",
                at.topic.suffix(),
                at.partition
            )));
        }
        Ok(first + at.partition as usize)
    }

    fn keyed(&self, topic: Topic, key: &[u8]) -> Result<LogIndex, BusError> {
        let (first, partitions) = self.topic(topic)?;
        Ok(first + partitioner::partition_of(key, partitions) as usize)
    }
}

fn unavailable(error: impl std::fmt::Display) -> BusError {
    BusError::Unavailable(format!("embedded bus: {error}"))
}
