//! The bus of a fleet: Apache Kafka, by librdkafka.
//!
//! Invariants:
//! * a record is answered after `acks=all`, by an idempotent producer; the retries of one never
//!   overtake another of its partition;
//! * offsets move by [`Consumer::commit`] only: auto-commit and auto-store are off;
//! * a partition that was revoked is given up after its member polled the `Revoked`: until then no
//!   other member reads it;
//! * the broker may be away at any time, also at start: calls answer `Unavailable` within about 2 s,
//!   and everything goes on by itself when it is back.

mod brokers;
mod commit;
mod consumer;
mod link;
mod metrics;
mod producer;
mod settings;
pub mod topics;

use super::{Bus, BusError, Consumer, Record, Start, Target, Topic, TopicPartition};
use crate::{
    config::{self, ConfigError},
    ids::Namespace,
    metrics::Metrics,
};
use async_trait::async_trait;
use consumer::KafkaConsumer;
use link::Link;
use producer::{Placed, Producer};
use std::sync::Arc;

/// What [`KafkaBus::connect`] would refuse of the configuration.
pub fn check(config: &config::Kafka) -> Result<(), ConfigError> {
    settings::Settings::new(config).map(drop)
}

/// One connection to Kafka, with the one producer of the process. Topics and groups stand under the
/// namespace.
pub struct KafkaBus {
    producer: Producer,
    link: Arc<Link>,
}

impl KafkaBus {
    /// Fails only by configuration: the broker is reached for in the background.
    pub fn connect(
        config: &config::Kafka,
        namespace: &Namespace,
        metrics: &Metrics,
    ) -> Result<KafkaBus, ConfigError> {
        let link = Link::connect(config, namespace, metrics)?;
        let producer = Producer::new(&link)?;
        Ok(KafkaBus { producer, link })
    }

    /// Takes over user and password as they are now; everything else of `[kafka]` needs a restart.
    pub fn reload(&self, config: &config::Kafka) -> Result<(), ConfigError> {
        self.link.settings.reload(config)
    }

    /// Finds the place of each record; a keyed one gets its partition from librdkafka.
    async fn place(&self, target: Target, record: Record) -> Result<Placed, BusError> {
        let (topic, partition) = match target {
            Target::Keyed(topic) => {
                self.link.known_partitions(topic).await?;
                (topic, None)
            }
            Target::Exact(at) => {
                self.link.find(at).await?;
                (at.topic, Some(at.partition as i32))
            }
        };
        record.check_size(topic)?;
        Ok(Placed {
            topic,
            name: self.link.name(topic),
            partition,
            record,
        })
    }

    async fn produce_placed(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        let mut placed = Vec::with_capacity(records.len());
        for (target, record) in records {
            placed.push(self.place(target, record).await?);
        }
        let answers = self.producer.send(&placed, &self.link).await?;
        for (at, _) in &answers {
            self.link.metrics.bus.produced(at.topic, 1);
        }
        Ok(answers)
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn produce(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        let result = self.produce_placed(records).await;
        self.link.metrics.bus.count("produce", result)
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn Consumer>, BusError> {
        let consumer = KafkaConsumer::subscribe(self.link.clone(), group, topics).await;
        Ok(Box::new(
            self.link.metrics.bus.count("subscribe", consumer)?,
        ))
    }

    async fn assign(
        &self,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<Box<dyn Consumer>, BusError> {
        let consumer = KafkaConsumer::assign(self.link.clone(), group, partitions).await;
        Ok(Box::new(self.link.metrics.bus.count("assign", consumer)?))
    }

    async fn end(&self, at: TopicPartition) -> Result<u64, BusError> {
        let end = self.link.end(at).await;
        self.link.metrics.bus.count("end", end)
    }

    async fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<u64>, BusError> {
        let committed = commit::committed(&self.link, group, at).await;
        self.link.metrics.bus.count("committed", committed)
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, BusError> {
        let partitions = self.link.count_partitions(topic).await;
        self.link.metrics.bus.count("partitions", partitions)
    }

    fn healthy(&self) -> bool {
        self.link.health.is_well()
    }
}
