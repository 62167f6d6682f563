//! The one producer of the process. Every call hands its records over in order and waits for all.

use super::{
    brokers::Brokers,
    link::Link,
    metrics::{Reports, Role},
    settings::refused,
};
use crate::{
    bus::{BusError, Record, Topic, TopicPartition},
    config::ConfigError,
    limits,
};
use arc_swap::ArcSwap;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{
        FutureProducer, FutureRecord, Producer as _,
        future_producer::{Delivery, DeliveryFuture},
    },
};
use std::sync::Arc;
use tokio::time::{Instant, sleep};

pub(super) struct Producer {
    current: ArcSwap<Current>,
}

struct Current {
    client: FutureProducer<Reports>,
    brokers: Arc<Brokers>,
}

/// A record and where it goes.
pub(super) struct Placed {
    pub(super) topic: Topic,
    /// Name with the namespace.
    pub(super) name: String,
    /// `None`: by the key.
    pub(super) partition: Option<i32>,
    pub(super) record: Record,
}

impl Producer {
    pub(super) fn new(link: &Link) -> Result<Producer, ConfigError> {
        let producer = make(link).map_err(|error| refused(&error))?;
        Ok(Producer {
            current: ArcSwap::from_pointee(producer),
        })
    }

    /// Offsets in the order of the records. Waits for the fate of all of them also when one failed: a
    /// repetition then comes behind what is still under way.
    pub(super) async fn send(
        &self,
        records: &[Placed],
        link: &Link,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        let producer = self.current.load_full();
        producer.brokers.ensure(producer.client.client());
        let mut waiting = Vec::with_capacity(records.len());
        let mut refused = None;
        for placed in records {
            match enqueue(&producer.client, placed).await {
                Ok(delivery) => waiting.push(delivery),
                Err(error) => {
                    refused = Some((placed, error));
                    break;
                }
            }
        }
        let mut answers = Vec::with_capacity(records.len());
        let mut failed = None;
        for (delivery, placed) in waiting.into_iter().zip(records) {
            match settle(delivery).await {
                Ok(delivery) => answers.push(place(placed, &delivery)),
                Err(error) => failed = failed.or(Some((placed, error))),
            }
        }
        let Some((placed, error)) = failed.or(refused) else {
            return Ok(answers);
        };
        self.replace_if_dead(&producer, link);
        Err(link.failed_at(placed.topic, placed.record.bytes(), &error))
    }

    /// After a fatal error (a broker that lost the producer's state) this client refuses everything for
    /// ever; a new one begins a new series.
    fn replace_if_dead(&self, dead: &Arc<Current>, link: &Link) {
        let Some((code, reason)) = dead.client.client().fatal_error() else {
            return;
        };
        match make(link) {
            Ok(fresh) => {
                // Only one of the calls that met the error puts the new one in.
                let fresh = Arc::new(fresh);
                let before = self.current.compare_and_swap(dead, fresh);
                if Arc::ptr_eq(&before, dead) {
                    tracing::warn!(%code, reason, "the Kafka producer was replaced");
                    let dead = dead.clone();
                    link.close_aside(move || drop(dead));
                }
            }
            Err(error) => tracing::error!(%error, "can't make a new Kafka producer"),
        }
    }
}

fn make(link: &Link) -> Result<Current, KafkaError> {
    let reports = link.reports(Role::Producer);
    let brokers = reports.brokers().clone();
    let client = link.settings.producer().create_with_context(reports)?;
    Ok(Current { client, brokers })
}

/// A full queue is waited for, as long as any record may take.
async fn enqueue(
    producer: &FutureProducer<Reports>,
    placed: &Placed,
) -> Result<DeliveryFuture, KafkaError> {
    let deadline = Instant::now() + limits::KAFKA_CALL;
    let mut record = kafka_record(placed);
    loop {
        let (error, back) = match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err(refused) => refused,
        };
        let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
        if !full || Instant::now() >= deadline {
            return Err(error);
        }
        record = back;
        sleep(limits::KAFKA_QUEUE_PAUSE).await;
    }
}

fn kafka_record(placed: &Placed) -> FutureRecord<'_, [u8], [u8]> {
    let Record {
        key,
        value,
        headers,
    } = &placed.record;
    let mut kafka_headers = OwnedHeaders::new_with_capacity(headers.len());
    for (name, value) in headers {
        kafka_headers = kafka_headers.insert(Header {
            key: name,
            value: Some(&value[..]),
        });
    }
    let record = FutureRecord::to(&placed.name)
        .key(&key[..])
        .payload(&value[..])
        .headers(kafka_headers);
    match placed.partition {
        Some(partition) => record.partition(partition),
        None => record,
    }
}

async fn settle(delivery: DeliveryFuture) -> Result<Delivery, KafkaError> {
    match delivery.await {
        Ok(result) => result.map_err(|(error, _)| error),
        // The producer went away under it, and the record with it.
        Err(_) => Err(KafkaError::Canceled),
    }
}

fn place(placed: &Placed, delivery: &Delivery) -> (TopicPartition, u64) {
    let at = TopicPartition {
        topic: placed.topic,
        partition: delivery.partition as u32,
    };
    (at, delivery.offset as u64)
}
