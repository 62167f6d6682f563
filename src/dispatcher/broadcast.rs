//! `all`: one row for everyone, stored first, then produced to `broadcast` for whoever is online.
//!
//! The topic has one partition, so one worker of the fleet does this and the offset is the position in
//! the broadcast stream.
//!
//! What is for users with certain tags only is a row as well; whose it is is decided when it is read ([`tags`]). Whoever is
//! online is told to look.
//!
//! [`tags`]: super::tags

use super::{
    intake::GENERATION,
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    store::{self, NewBroadcast, SharedStore, WentBack},
    templates::{RenderError, Subject, Templates},
    unix_ms,
    worker::{Refused, Work},
};
use crate::{
    bus::{Consumed, Target, Topic, TopicPartition},
    envelope::{
        Channel, Content, EnvelopeError, Head, Kind, Routed, check_content_size, is_expired,
    },
    ids::Region,
    position::Position,
    proto::client::frames::{self, Place},
};
use async_trait::async_trait;
use bytes::Bytes;

pub struct Broadcast {
    pub store: SharedStore,
    pub outbox: Outbox,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
    pub templates: Templates,
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

    /// Stored by one commit and produced at once: after an outage many wait, each for the ones before it.
    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        let mut news: Vec<News> = Vec::new();
        for consumed in records {
            match parse(consumed) {
                Ok(one) if self.is_repeated(&one.row, &news).await? => {
                    self.metrics.pushes.with_label_values(&["repeated"]).inc();
                }
                Ok(mut one) => {
                    if let Err(error) = one.show(&self.templates) {
                        self.outbox.unshown(consumed, &error).await?;
                    }
                    news.push(one);
                }
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
        let (prevs, refused) = self.store(&mut news).await?;
        self.publish(news, prevs).await?;
        Ok(refused)
    }
}

/// What one record asks for.
struct News {
    head: Head,
    content: Content,
    row: NewBroadcast,
}

impl Broadcast {
    /// The lowest position wins, and one worker goes by position: the one below is published, or about to be.
    /// Asked of every record, since one marked `again` may stand before the first.
    async fn is_repeated(&self, row: &NewBroadcast, news: &[News]) -> Result<bool, Stopped> {
        if news.iter().any(|earlier| earlier.row.id == row.id) {
            return Ok(true);
        }
        let stands_at = self
            .patience
            .until_done("find_broadcast", || self.store.broadcast_position(row.id))
            .await?;
        Ok(stands_at.is_some_and(|at| at != row.pos))
    }

    /// Answers `prev` of each; one that is refused is taken out, and so is what follows it.
    async fn store(&self, news: &mut Vec<News>) -> Result<(Vec<Position>, Vec<Refused>), Stopped> {
        let mut refused = Vec::new();
        while !news.is_empty() {
            let rows: Vec<NewBroadcast> = news.iter().map(|one| one.row.clone()).collect();
            let appended = self.patience.until_done("store_broadcast", || async {
                store::or_went_back(self.store.append_broadcasts(rows.clone()).await)
            });
            match appended.await? {
                Ok(prevs) => {
                    let counter = &self.metrics.rows;
                    let stored = counter.with_label_values(&["broadcast", "stored"]);
                    stored.inc_by(rows.len() as u64);
                    return Ok((prevs, refused));
                }
                Err(went_back) => {
                    let from = went_back.row;
                    refused.push(self.refuse(&news[from], &went_back));
                    news.truncate(from);
                }
            }
        }
        Ok((Vec::new(), refused))
    }

    fn refuse(&self, one: &News, why: &WentBack) -> Refused {
        let at = TopicPartition {
            topic: Topic::FanOutAll,
            partition: 0,
        };
        let counter = &self.metrics.refused;
        counter.with_label_values(&[at.topic.suffix()]).inc();
        Refused {
            at,
            offset: one.row.pos.offset(),
            why: why.to_string(),
        }
    }

    async fn publish(&self, news: Vec<News>, prevs: Vec<Position>) -> Result<(), Stopped> {
        let at = TopicPartition {
            topic: Topic::Broadcast,
            partition: 0,
        };
        let now_ms = unix_ms();
        let pushed = |result| self.metrics.pushes.with_label_values(&[result]).inc();
        let mut records = Vec::with_capacity(news.len());
        for (one, prev) in news.into_iter().zip(prevs) {
            if is_expired(one.head.expires_ms, now_ms) {
                pushed("expired");
                continue;
            }
            pushed(one.head.kind.as_str());
            let record = self.routed(one, prev).into_record();
            records.push((Target::Exact(at), record));
        }
        self.outbox.send(records).await
    }

    fn routed(&self, news: News, prev: Position) -> Routed {
        let News { head, content, row } = news;
        let stream = self.region.broadcast_stream();
        let place = Place {
            stream: &stream,
            pos: row.pos,
            prev,
        };
        let frame = match head.kind {
            // Gateways don't know whose it is, and show it to nobody.
            Kind::Tagged => Bytes::from_static(b"{}"),
            _ => frames::notification(head.id, place, head.created_ms, &content, false),
        };
        Routed {
            head,
            user: None,
            stream,
            pos: row.pos,
            prev,
            collapse_key: content.collapse_key,
            answered: Vec::new(),
            frame,
        }
    }
}

impl News {
    /// In the fallback language: it is one row for everyone.
    fn show(&mut self, templates: &Templates) -> Result<(), RenderError> {
        let subject = Subject {
            head: &self.head,
            user: None,
            content: &self.content,
        };
        let shown = templates.show(&subject, Channel::InApp, None)?;
        if let Some((content, json)) = shown.in_row()? {
            self.content = content;
            self.row.content = json;
        }
        Ok(())
    }
}

enum NotPublished {
    Malformed(String),
    Unsupported(String),
}

fn parse(consumed: &Consumed) -> Result<News, NotPublished> {
    let head = Head::read(&consumed.record).map_err(|error| match error {
        EnvelopeError::Unsupported { .. } => NotPublished::Unsupported(error.to_string()),
        EnvelopeError::Malformed { .. } => NotPublished::Malformed(error.to_string()),
    })?;
    if !matches!(head.kind, Kind::Broadcast | Kind::Tagged) {
        let what = format!("kind {} in fan_out_all", head.kind);
        return Err(NotPublished::Unsupported(what));
    }
    check_content_size(&consumed.record.value).map_err(NotPublished::Malformed)?;
    let content: Content = serde_json::from_slice(&consumed.record.value)
        .map_err(|error| NotPublished::Malformed(error.to_string()))?;
    let pos = Position::new(GENERATION, consumed.offset)
        .ok_or_else(|| NotPublished::Malformed("the offset does not fit a position".into()))?;
    let row = NewBroadcast {
        pos,
        id: head.id,
        priority: head.priority,
        created_ms: head.created_ms,
        appended_ms: consumed.appended_ms,
        expires_ms: head.expires_ms,
        collapse_key: content.collapse_key.clone(),
        content: consumed.record.value.clone(),
    };
    Ok(News { head, content, row })
}
