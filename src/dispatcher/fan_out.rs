//! Lists: one record of `fan_out` becomes one record of `raw` per user, under the same id.
//!
//! A crash in the middle re-reads the list and produces again; every record is marked `again`, so the
//! router finds the rows that exist.

use super::{
    erasure::Erasures,
    intake::{GENERATION, List},
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    worker::{Refused, Work},
};
use crate::{
    bus::{Consumed, Record, Target, Topic},
    envelope::{EnvelopeError, Head, Kind, check_content_size},
    ids::UserId,
    limits,
};
use async_trait::async_trait;
use bytes::Bytes;

pub struct FanOut {
    pub outbox: Outbox,
    pub erasures: Erasures,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
}

#[async_trait]
impl Work for FanOut {
    fn group(&self) -> &'static str {
        "fan_out"
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::FanOut]
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        self.erasures.known(&self.patience).await?;
        for consumed in records {
            match parse(&consumed.record) {
                Ok((head, list)) => self.spread(head, list).await?,
                Err(NotSpread::Malformed(reason)) => {
                    self.outbox.dead_letter(consumed, "value", &reason).await?;
                }
                Err(NotSpread::Unsupported(what)) => {
                    let topic = consumed.at.topic.suffix();
                    tracing::warn!(%topic, what, "record of a later release left alone");
                    self.metrics.unsupported.with_label_values(&[topic]).inc();
                }
            }
        }
        Ok(Vec::new())
    }
}

impl FanOut {
    async fn spread(&self, head: Head, list: List) -> Result<(), Stopped> {
        // One buffer, shared by the records of every user.
        let content = Bytes::from(String::from(Box::<str>::from(list.content)));
        for users in list.users.chunks(limits::FAN_OUT_CHUNK) {
            let left = users.iter().filter(|user| {
                let erasures = &self.erasures;
                !erasures.drops("fan_out", user, &head, None)
            });
            let records = left.map(|user| one(&head, user, &content));
            self.outbox.send(records.collect()).await?;
        }
        Ok(())
    }
}

fn one(head: &Head, user: &UserId, content: &Bytes) -> (Target, Record) {
    let head = Head {
        again: true,
        ..head.clone()
    };
    let key = Bytes::copy_from_slice(user.as_str().as_bytes());
    (
        Target::Keyed(Topic::Raw(GENERATION)),
        head.into_record(key, content.clone()),
    )
}

enum NotSpread {
    Malformed(String),
    Unsupported(String),
}

fn parse(record: &Record) -> Result<(Head, List), NotSpread> {
    let head = Head::read(record).map_err(|error| match error {
        EnvelopeError::Unsupported { .. } => NotSpread::Unsupported(error.to_string()),
        EnvelopeError::Malformed { .. } => NotSpread::Malformed(error.to_string()),
    })?;
    if head.kind != Kind::Notification {
        return Err(NotSpread::Unsupported(format!(
            "kind {} in fan_out",
            head.kind
        )));
    }
    let list: List = serde_json::from_slice(&record.value)
        .map_err(|error| NotSpread::Malformed(error.to_string()))?;
    check_content_size(list.content.get().as_bytes()).map_err(NotSpread::Malformed)?;
    Ok((head, list))
}
