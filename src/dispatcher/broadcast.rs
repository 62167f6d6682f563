//! `all`: one row for everyone, stored first, then produced to `broadcast` for whoever is online.
//!
//! The topic has one partition, so one worker of the fleet does this and the offset is the position in
//! the broadcast stream.

use super::{
    intake::GENERATION,
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    store::{NewBroadcast, SharedStore, StoreError},
    unix_ms,
    worker::Work,
};
use crate::{
    bus::{Consumed, Target, Topic, TopicPartition},
    envelope::{Content, EnvelopeError, Head, Kind, Routed, is_expired},
    ids::{NotificationId, Region},
    limits,
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
        if head.again && self.stands_elsewhere(head.id, pos).await? {
            // The lowest position wins: that record was published, or is published before this one.
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

    /// Whether the id was stored at another position. Repetitions come within the life of an
    /// idempotency claim, so the newest rows are where it would stand.
    async fn stands_elsewhere(&self, id: NotificationId, pos: Position) -> Result<bool, Stopped> {
        self.patience
            .until_done("find_broadcast", || async {
                let page = self.store.broadcast_page(None, limits::BROADCAST_LOOK_BACK);
                let found = page.await?.iter().any(|row| row.id == id && row.pos != pos);
                Ok::<bool, StoreError>(found)
            })
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
