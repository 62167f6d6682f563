//! `all`: one row for everyone, stored first, then produced to `broadcast` for whoever is online.
//!
//! The topic has one partition, so one worker of the fleet does this and the offset is the position in
//! the broadcast stream.

use super::{
    intake::GENERATION,
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    store::{NewBroadcast, SharedStore},
    unix_ms,
    worker::Work,
};
use crate::{
    bus::{Consumed, Target, Topic, TopicPartition},
    envelope::{Content, EnvelopeError, Head, Kind, Routed, is_expired},
    ids::Region,
    position::Position,
    proto::client::frames::{self, Place},
};
use async_trait::async_trait;

pub struct Broadcast {
    pub store: SharedStore,
    pub outbox: Outbox,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
    pub region: Region,
}

#[async_trait]
impl Work for Broadcast {
    fn group(&self) -> &'static str {
        "broadcast"
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::FanOutAll]
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<(), Stopped> {
        for consumed in records {
            match parse(consumed) {
                Ok((head, content, pos)) => self.publish(consumed, head, content, pos).await?,
                Err(NotPublished::Malformed(reason)) => {
                    self.outbox.dead_letter(consumed, "value", &reason).await?;
                }
                Err(NotPublished::Unsupported(what)) => {
                    let topic = consumed.at.topic.suffix();
                    tracing::warn!(%topic, what, "record of a later release left alone");
                    self.metrics.unsupported.with_label_values(&[topic]).inc();
                }
            }
        }
        Ok(())
    }
}

impl Broadcast {
    async fn publish(
        &self,
        consumed: &Consumed,
        head: Head,
        content: Content,
        pos: Position,
    ) -> Result<(), Stopped> {
        let stands_at = self
            .patience
            .until_done("find_broadcast", || self.store.broadcast_position(head.id))
            .await?;
        if stands_at.is_some_and(|at| at != pos) {
            // The lowest position wins, and one worker goes by position: that one was published. Asked of
            // every record, since one marked `again` may stand before the first.
            self.metrics.pushes.with_label_values(&["repeated"]).inc();
            return Ok(());
        }
        let row = NewBroadcast {
            pos,
            id: head.id,
            priority: head.priority,
            created_ms: head.created_ms,
            expires_ms: head.expires_ms,
            collapse_key: content.collapse_key.clone(),
            content: consumed.record.value.clone(),
        };
        let prev = self
            .patience
            .until_done("store_broadcast", || {
                self.store.append_broadcast(row.clone())
            })
            .await?;
        self.metrics
            .rows
            .with_label_values(&["broadcast", "stored"])
            .inc();
        if is_expired(head.expires_ms, unix_ms()) {
            self.metrics.pushes.with_label_values(&["expired"]).inc();
            return Ok(());
        }
        let stream = self.region.broadcast_stream();
        let place = Place {
            stream: &stream,
            pos,
            prev,
        };
        let frame = frames::notification(head.id, place, head.created_ms, &content, false);
        let routed = Routed {
            head,
            user: None,
            stream,
            pos,
            prev,
            collapse_key: content.collapse_key,
            answered: Vec::new(),
            frame,
        };
        let at = TopicPartition {
            topic: Topic::Broadcast,
            partition: 0,
        };
        self.metrics.pushes.with_label_values(&["broadcast"]).inc();
        self.outbox
            .send(vec![(Target::Exact(at), routed.into_record())])
            .await
    }
}

enum NotPublished {
    Malformed(String),
    Unsupported(String),
}

fn parse(consumed: &Consumed) -> Result<(Head, Content, Position), NotPublished> {
    let head = Head::read(&consumed.record).map_err(|error| match error {
        EnvelopeError::Unsupported { .. } => NotPublished::Unsupported(error.to_string()),
        EnvelopeError::Malformed { .. } => NotPublished::Malformed(error.to_string()),
    })?;
    if head.kind != Kind::Broadcast {
        let what = format!("kind {} in fan_out_all", head.kind);
        return Err(NotPublished::Unsupported(what));
    }
    let content = serde_json::from_slice(&consumed.record.value)
        .map_err(|error| NotPublished::Malformed(error.to_string()))?;
    let pos = Position::new(GENERATION, consumed.offset)
        .ok_or_else(|| NotPublished::Malformed("the offset does not fit a position".into()))?;
    Ok((head, content, pos))
}
