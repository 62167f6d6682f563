//! Records nobody can read go to `dlq` as they were, with where they stood and what is wrong with them.
//!
//! One record may be set aside more than once: after a crash, and when it stood on `broadcast`, by every
//! gateway, since none can know that another one will. All copies have the record's own key and so one
//! partition; `dlq_topic`, `dlq_partition` and `dlq_offset` together say which are of the same record.

use super::host::Host;
use crate::{
    bus::{BusError, Record, Target, Topic, TopicPartition},
    limits,
};
use bytes::Bytes;

/// Returns when it is durable, however long the bus is away.
pub async fn set_aside(
    host: &Host,
    at: TopicPartition,
    offset: u64,
    mut record: Record,
    reason: &str,
) {
    let topic = at.topic.suffix();
    tracing::warn!(%topic, partition = at.partition, offset, reason, "record set aside on dlq");
    record.set("dlq_reason", reason.to_owned());
    record.set("dlq_cause", "value");
    record.set("dlq_topic", topic);
    record.set("dlq_partition", at.partition.to_string());
    record.set("dlq_offset", offset.to_string());
    let target = Target::Keyed(Topic::Dlq);
    while let Err(error) = host.bus.produce(vec![(target, record.clone())]).await {
        tracing::debug!(%error, "dlq does not take a record");
        match error {
            // It was as large as its topic takes; where it stood says where to find the rest.
            BusError::TooLarge { .. } if !record.value.is_empty() => record.value = Bytes::new(),
            _ => tokio::time::sleep(limits::AWAY_RETRY).await,
        }
    }
}
