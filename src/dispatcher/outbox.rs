//! What the dispatcher's workers append to the bus: waits while it is away, counts by topic, and never
//! lets one impossible record hold the others.

use super::{
    metrics::DispatcherMetrics,
    patience::{Patience, Stopped},
    templates::RenderError,
};
use crate::{
    bus::{BusError, Consumed, Record, SharedBus, Target, Topic},
    envelope::Channel,
};

#[derive(Clone)]
pub struct Outbox {
    bus: SharedBus,
    patience: Patience,
    metrics: DispatcherMetrics,
}

impl Outbox {
    pub fn new(bus: SharedBus, patience: Patience, metrics: DispatcherMetrics) -> Outbox {
        Outbox {
            bus,
            patience,
            metrics,
        }
    }

    /// How many partitions the topic spreads its keys over.
    pub async fn partitions(&self, topic: Topic) -> Result<u32, Stopped> {
        self.patience
            .until_done("partitions", || self.bus.partitions(topic))
            .await
    }

    /// Returns when all are durable, in order per partition. A record larger than its topic takes goes
    /// to `dlq` without its value: the row it came from is stored, only this way of delivery ends.
    pub async fn send(&self, records: Vec<(Target, Record)>) -> Result<(), Stopped> {
        if records.is_empty() || self.append(&records).await? {
            return Ok(());
        }
        for (target, record) in records {
            if !self.append(&[(target, record.clone())]).await? {
                self.set_aside_oversized(target, record).await?;
            }
        }
        Ok(())
    }

    /// Sets a record aside on `dlq` as it was, with where it stood and what is wrong with it. `cause` is
    /// the metric's label, from a closed list.
    pub async fn dead_letter(
        &self,
        consumed: &Consumed,
        cause: &'static str,
        reason: &str,
    ) -> Result<(), Stopped> {
        let topic = consumed.at.topic.suffix();
        tracing::warn!(
            %topic,
            partition = consumed.at.partition,
            offset = consumed.offset,
            cause,
            reason,
            "record set aside on dlq"
        );
        let counter = &self.metrics.dead_letters;
        counter.with_label_values(&[topic.as_str(), cause]).inc();
        let mut record = consumed.record.clone();
        record.set("dlq_reason", reason.to_owned());
        record.set("dlq_cause", cause);
        record.set("dlq_topic", topic);
        record.set("dlq_partition", consumed.at.partition.to_string());
        record.set("dlq_offset", consumed.offset.to_string());
        self.send(vec![(Target::Keyed(Topic::Dlq), record)]).await
    }

    /// Sets a record aside whose in-app text could not be made.
    pub async fn unshown(&self, consumed: &Consumed, error: &RenderError) -> Result<(), Stopped> {
        let mut consumed = consumed.clone();
        consumed.record.set("channel", Channel::InApp.as_str());
        consumed.record.set("said", error.reason.clone());
        self.dead_letter(&consumed, "template", &error.to_string())
            .await
    }

    /// Whether all were taken; `false`: one of them is too large and nothing is said about the others.
    async fn append(&self, records: &[(Target, Record)]) -> Result<bool, Stopped> {
        let taken = self
            .patience
            .until_done("produce", || async {
                match self.bus.produce(records.to_vec()).await {
                    Ok(_) => Ok(true),
                    Err(BusError::TooLarge { .. }) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?;
        if taken {
            for (target, _) in records {
                let topic = topic_of(target).suffix();
                self.metrics.records_out.with_label_values(&[topic]).inc();
            }
        }
        Ok(taken)
    }

    async fn set_aside_oversized(&self, target: Target, mut record: Record) -> Result<(), Stopped> {
        let topic = topic_of(&target).suffix();
        let bytes = record.value.len();
        tracing::warn!(%topic, bytes, "record is larger than its topic takes");
        let counter = &self.metrics.dead_letters;
        counter
            .with_label_values(&[topic.as_str(), "too_large"])
            .inc();
        record.value = bytes::Bytes::new();
        record.set("dlq_reason", format!("{bytes} B are too large for {topic}"));
        record.set("dlq_cause", "too_large");
        record.set("dlq_topic", topic);
        self.append(&[(Target::Keyed(Topic::Dlq), record)]).await?;
        Ok(())
    }
}

fn topic_of(target: &Target) -> Topic {
    match target {
        Target::Keyed(topic) => *topic,
        Target::Exact(at) => at.topic,
    }
}
