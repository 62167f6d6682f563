//! The bus: durable, partitioned, ordered logs. Kafka in a fleet, SQLite in the standalone.
//!
//! Invariants both keep, checked by one suite of behaviour tests:
//! * `produce` returns after the record is durable (`acks=all`; a committed transaction), and never before;
//! * records of one partition are read in the order of their offsets, each at least once;
//! * a group's committed offset is the next one it will read; nothing is committed but by `commit`.

pub mod embedded;
mod header;
pub mod kafka;
pub mod low_water;
mod metrics;
mod partitioner;
pub mod progress;

pub use partitioner::partition_of;

pub use header::{HeaderName, name_of as header_name};

use crate::ids::Namespace;
use async_trait::async_trait;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use thiserror::Error;

/// Every topic Herald knows. Figures for each: [`Topic::spec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// What intake took, keyed by user; the generation is part of the name and of every position.
    Raw(u16),
    InApp,
    Critical,
    Push,
    Email,
    Sms,
    FanOut,
    FanOutAll,
    Broadcast,
    Delivery,
    /// Delay topic; the delay in seconds.
    Retry(u32),
    Dlq,
}

/// Delays that have a topic of their own, in seconds.
pub const RETRY_DELAYS_S: [u32; 11] = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];

/// The group that reads a shard, a gateway's or a finisher's: each goes on where the other stopped.
pub fn shard_group(shard: u32) -> String {
    format!("shard.{shard}")
}

/// How `ctl topics --apply` makes a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub partitions: u32,
    pub retention_ms: u64,
    pub message_bytes_max: u32,
}

impl Topic {
    /// Every topic of generation 1.
    pub fn all() -> Vec<Topic> {
        use Topic::*;
        let fixed = [
            Raw(1),
            InApp,
            Critical,
            Push,
            Email,
            Sms,
            FanOut,
            FanOutAll,
            Broadcast,
            Delivery,
            Dlq,
        ];
        fixed
            .into_iter()
            .chain(RETRY_DELAYS_S.into_iter().map(Retry))
            .collect()
    }

    /// That of this [`Topic::suffix`].
    pub fn named(suffix: &str) -> Option<Topic> {
        let mut topics = Topic::all().into_iter();
        topics.find(|topic| topic.suffix() == suffix)
    }

    /// Name without the namespace.
    pub fn suffix(self) -> String {
        match self {
            Topic::Raw(generation) => format!("raw.g{generation}"),
            Topic::InApp => "in_app".into(),
            Topic::Critical => "critical".into(),
            Topic::Push => "push".into(),
            Topic::Email => "email".into(),
            Topic::Sms => "sms".into(),
            Topic::FanOut => "fan_out".into(),
            Topic::FanOutAll => "fan_out_all".into(),
            Topic::Broadcast => "broadcast".into(),
            Topic::Delivery => "delivery".into(),
            Topic::Retry(s) if s % 3600 == 0 => format!("retry.{}h", s / 3600),
            Topic::Retry(s) if s % 60 == 0 => format!("retry.{}m", s / 60),
            Topic::Retry(s) => format!("retry.{s}s"),
            Topic::Dlq => "dlq".into(),
        }
    }

    pub fn name(self, namespace: &Namespace) -> String {
        format!("{namespace}.{}", self.suffix())
    }

    /// Partitions, retention and message size as published in the README.
    pub fn spec(self) -> TopicSpec {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let (partitions, retention_ms) = match self {
            Topic::Raw(_) => (32, 7 * DAY_MS),
            Topic::InApp | Topic::Critical | Topic::Push => (16, 3 * DAY_MS),
            Topic::Email => (8, 3 * DAY_MS),
            Topic::Sms => (4, 3 * DAY_MS),
            Topic::FanOut | Topic::Delivery => (16, 3 * DAY_MS),
            Topic::FanOutAll | Topic::Broadcast => (1, 7 * DAY_MS),
            Topic::Retry(delay_s) => (4, DAY_MS + u64::from(delay_s) * 1000),
            Topic::Dlq => (8, 14 * DAY_MS),
        };
        let message_bytes_max = match self {
            Topic::FanOut | Topic::Dlq => 2 << 20,
            _ => 1 << 20,
        };
        TopicSpec {
            partitions,
            retention_ms,
            message_bytes_max,
        }
    }
}

/// One record. Header names are ours and static on the way out; any name may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Bytes,
    pub headers: Vec<(HeaderName, Bytes)>,
}

impl Record {
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Record {
        Record {
            key: key.into(),
            value: value.into(),
            headers: Vec::new(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_ref())
    }

    /// `None` also where it is no text.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    /// Size as every bus counts it: key, value, and headers with what a header costs on the wire.
    pub fn bytes(&self) -> usize {
        const HEADER_OVERHEAD: usize = 10;
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| HEADER_OVERHEAD + name.len() + value.len())
            .sum();
        self.key.len() + self.value.len() + headers
    }

    /// Both buses refuse the same record, whatever a broker would take.
    pub fn check_size(&self, topic: Topic) -> Result<(), BusError> {
        let bytes = self.bytes();
        if bytes > topic.spec().message_bytes_max as usize {
            return Err(BusError::TooLarge { topic, bytes });
        }
        Ok(())
    }

    /// Replaces or adds a header.
    pub fn set(&mut self, name: &'static str, value: impl Into<Bytes>) {
        match self.headers.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.into(),
            None => self.headers.push((name.into(), value.into())),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: u32,
}

/// A record as read back.
#[derive(Clone, Debug)]
pub struct Consumed {
    pub at: TopicPartition,
    pub offset: u64,
    /// Broker's append time, Unix ms.
    pub appended_ms: u64,
    pub record: Record,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// By the hash of its key.
    Keyed(Topic),
    Exact(TopicPartition),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The group's committed offset, or the earliest record where there is none.
    Committed,
    /// This offset; behind the log's start means the start.
    At(u64),
}

/// What a consumer meets.
#[derive(Debug)]
pub enum Polled {
    /// At least one record; per partition in offset order.
    Records(Vec<Consumed>),
    /// Partitions came: state cached about them is void.
    Assigned(Vec<TopicPartition>),
    /// Partitions went: work on them must not be committed any more.
    Revoked(Vec<TopicPartition>),
    /// Nothing within the wait.
    Idle,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// Passes by itself: try again.
    #[error("the bus is away: {0}")]
    Unavailable(String),
    /// Never will: the record is larger than the topic takes.
    #[error("a record of {bytes} B is larger than {topic:?} takes")]
    TooLarge { topic: Topic, bytes: usize },
    /// Topics are missing or wrong: `herald ctl topics --apply`.
    #[error("topic {0} does not exist or lacks the partition: run `herald ctl topics --apply`")]
    NoTopic(String),
}

#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Appends and waits until durable. Records of one call to one partition keep their order.
    /// Answers offsets in the order of the input; the first error fails the call, and what stood
    /// before it may have been appended.
    async fn produce(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError>;

    /// Shares topics among the members of a group (as a topic, named without the namespace). Dropping the consumer leaves the group.
    async fn subscribe(&self, group: &str, topics: &[Topic])
    -> Result<Box<dyn Consumer>, BusError>;

    /// Takes exactly these partitions; commits go to `group`, which nobody subscribes with.
    async fn assign(
        &self,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<Box<dyn Consumer>, BusError>;

    /// Offset the next record of the partition will get.
    async fn end(&self, at: TopicPartition) -> Result<u64, BusError>;

    /// Offset of the group's next record, where it ever committed.
    async fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<u64>, BusError>;

    async fn partitions(&self, topic: Topic) -> Result<u32, BusError>;

    /// Whether the bus answered lately: for `/readyz` and degraded modes.
    fn healthy(&self) -> bool;
}

/// One reader. Not shared: whoever polls also commits.
#[async_trait]
pub trait Consumer: Send {
    /// Up to `records_max` records, or nothing after `wait`.
    async fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, BusError>;

    /// Nothing more comes of the partition until [`Consumer::resume`]: for one whose records are not due yet, not
    /// against pressure. What came of it already is the caller's.
    fn pause(&mut self, at: TopicPartition) -> Result<(), BusError>;

    /// Goes on behind what came last. A partition that was not paused just goes on.
    fn resume(&mut self, at: TopicPartition) -> Result<(), BusError>;

    /// Sets the group's offsets to `next` each and waits until the broker has them. A partition that
    /// was revoked meanwhile is left out.
    async fn commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<(), BusError>;

    /// Does what [`Consumer::commit`] does a step at a time, so that reading goes on meanwhile: begins it, or looks at
    /// how what was begun has ended. To be called until it is [`Commit::Done`]. For partitions assigned by hand: nobody
    /// else takes them over in between.
    async fn step_commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<Commit, BusError> {
        self.commit(next).await.map(|()| Commit::Done)
    }
}

/// How far a commit by steps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The broker has these offsets.
    Done,
    OnItsWay,
}

pub type SharedBus = Arc<dyn Bus>;
