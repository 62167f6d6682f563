//! What a record of `raw` means. A pure function of the record and where it stands: no clock, limit or
//! preference takes part, so re-reading it makes the same row.

use crate::{
    bus::{Consumed, Topic, partition_of},
    dispatcher::store::{Erasure, NewRow, RowKind},
    envelope::{Channel, Content, EnvelopeError, Head, Kind, check_content_size},
    ids::{IdError, NotificationId, UserId},
    position::Position,
};

/// A record that can be routed.
#[derive(Debug)]
pub struct Parsed {
    pub user: UserId,
    pub pos: Position,
    pub head: Head,
    pub what: What,
    /// Broker's append time, Unix ms.
    pub appended_ms: u64,
}

#[derive(Debug)]
pub enum What {
    Notification(Content),
    /// A read mark: these ids are read.
    Read(Vec<NotificationId>),
}

/// Why a record can't be routed.
#[derive(Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// A later release wrote it.
    Unsupported(String),
    /// For `dlq`: a metric label from a closed list, and the reason in words.
    Malformed(&'static str, String),
}

/// `partitions` is how many the topic has, which never changes.
pub fn parse(consumed: &Consumed, partitions: u32) -> Result<Parsed, Unroutable> {
    let head = head(consumed)?;
    let what = match head.kind {
        Kind::Notification => What::Notification(value(consumed)?),
        Kind::Read => What::Read(value(consumed)?),
        kind => return Err(Unroutable::Unsupported(format!("kind {kind} in raw"))),
    };
    let user = user(consumed)?;
    is_in_place(consumed, partitions)?;
    Ok(Parsed {
        user,
        pos: position(consumed)?,
        head,
        what,
        appended_ms: consumed.appended_ms,
    })
}

/// An order to forget a user.
pub fn is_erasure(consumed: &Consumed) -> bool {
    consumed.record.header_text("kind") == Some(Kind::Erase.as_str())
}

/// Of a record that is one.
pub fn erasure(consumed: &Consumed, partitions: u32) -> Result<Erasure, Unroutable> {
    let head = head(consumed)?;
    let user = user(consumed)?;
    is_in_place(consumed, partitions)?;
    Ok(Erasure {
        user,
        id: head.id,
        below: position(consumed)?,
    })
}

fn head(consumed: &Consumed) -> Result<Head, Unroutable> {
    Head::read(&consumed.record).map_err(|error| match error {
        EnvelopeError::Unsupported { .. } => Unroutable::Unsupported(error.to_string()),
        EnvelopeError::Malformed { .. } => Unroutable::Malformed("header", error.to_string()),
    })
}

fn user(consumed: &Consumed) -> Result<UserId, Unroutable> {
    std::str::from_utf8(&consumed.record.key)
        .map_err(|error| Unroutable::Malformed("user", error.to_string()))?
        .parse()
        .map_err(|error: IdError| Unroutable::Malformed("user", error.to_string()))
}

/// Elsewhere its offset says nothing about the order of the user's stream.
fn is_in_place(consumed: &Consumed, partitions: u32) -> Result<(), Unroutable> {
    let (stands, belongs) = (
        consumed.at.partition,
        partition_of(&consumed.record.key, partitions),
    );
    if stands == belongs {
        return Ok(());
    }
    let reason = format!(
        "stands in partition {stands}, its key belongs to {belongs} of {partitions}: was it produced with another \
         partitioner than murmur2?"
    );
    Err(Unroutable::Malformed("partition", reason))
}

fn value<T: serde::de::DeserializeOwned>(consumed: &Consumed) -> Result<T, Unroutable> {
    check_content_size(&consumed.record.value)
        .map_err(|reason| Unroutable::Malformed("too_large", reason))?;
    serde_json::from_slice(&consumed.record.value)
        .map_err(|error| Unroutable::Malformed("value", error.to_string()))
}

fn position(consumed: &Consumed) -> Result<Position, Unroutable> {
    let generation = match consumed.at.topic {
        Topic::Raw(generation) => generation,
        topic => {
            let reason = format!("{} has no positions", topic.suffix());
            return Err(Unroutable::Malformed("position", reason));
        }
    };
    Position::new(generation, consumed.offset).ok_or_else(|| {
        let reason = format!("offset {} does not fit a position", consumed.offset);
        Unroutable::Malformed("position", reason)
    })
}

impl Parsed {
    /// The row the record makes; a notification that in-app has no part in makes none.
    pub fn row(&self, value: &bytes::Bytes) -> Option<NewRow> {
        let (kind, collapse_key) = match &self.what {
            What::Notification(content) if content.channels.contains(&Channel::InApp) => {
                (RowKind::Notification, content.collapse_key.clone())
            }
            What::Notification(_) => return None,
            What::Read(_) => (RowKind::Read, None),
        };
        Some(NewRow {
            user: self.user.clone(),
            pos: self.pos,
            kind,
            id: self.head.id,
            priority: self.head.priority,
            created_ms: self.head.created_ms,
            appended_ms: self.appended_ms,
            expires_ms: self.head.expires_ms,
            collapse_key,
            content: value.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{Record, TopicPartition},
        envelope::Priority,
        limits,
    };

    const PARTITIONS: u32 = 32;

    fn consumed(record: Record) -> Consumed {
        Consumed {
            at: TopicPartition {
                topic: Topic::Raw(1),
                partition: partition_of(&record.key, PARTITIONS),
            },
            offset: 9,
            appended_ms: 5,
            record,
        }
    }

    fn record(kind: Kind, key: &str, value: &str) -> Record {
        let head = Head {
            kind,
            id: NotificationId::generate(),
            created_ms: 5,
            expires_ms: None,
            priority: Priority::Normal,
            region: "local".into(),
            again: false,
        };
        head.into_record(key.to_owned(), value.to_owned())
    }

    #[test]
    fn the_position_is_that_of_the_record() {
        let record = record(
            Kind::Notification,
            "42",
            r#"{"type":"x","channels":["in_app"]}"#,
        );
        let parsed = parse(&consumed(record), PARTITIONS).unwrap();
        assert_eq!(Some(parsed.pos), Position::new(1, 9));
        assert!(parsed.row(&bytes::Bytes::new()).is_some());
    }

    #[test]
    fn without_in_app_there_is_no_row() {
        let record = record(
            Kind::Notification,
            "42",
            r#"{"type":"x","channels":["push"]}"#,
        );
        let parsed = parse(&consumed(record), PARTITIONS).unwrap();
        assert!(parsed.row(&bytes::Bytes::new()).is_none());
    }

    #[test]
    fn a_record_in_another_partition_than_its_keys_is_malformed() {
        let value = r#"{"type":"x","channels":["in_app"]}"#;
        let mut moved = consumed(record(Kind::Notification, "42", value));
        moved.at.partition = (moved.at.partition + 1) % PARTITIONS;
        let Err(Unroutable::Malformed(cause, reason)) = parse(&moved, PARTITIONS) else {
            panic!("it was taken");
        };
        assert_eq!(cause, "partition");
        assert!(reason.contains("murmur2"), "{reason}");
    }

    #[test]
    fn what_is_broken_is_named_and_what_is_newer_is_not_broken() {
        let label = |record| match parse(&consumed(record), PARTITIONS).unwrap_err() {
            Unroutable::Malformed(label, _) => label,
            Unroutable::Unsupported(_) => "unsupported",
        };
        let good = r#"{"type":"x","channels":["in_app"]}"#;
        assert_eq!(label(Record::new("42", good)), "header");
        assert_eq!(label(record(Kind::Notification, "", good)), "user");
        assert_eq!(label(record(Kind::Notification, "42", "{")), "value");
        let title = "t".repeat(limits::CONTENT_BYTES);
        let large = format!(r#"{{"type":"x","channels":["in_app"],"title":"{title}"}}"#);
        for kind in [Kind::Notification, Kind::Read] {
            assert_eq!(label(record(kind, "42", &large)), "too_large");
        }
        assert_eq!(label(record(Kind::Probe, "42", good)), "unsupported");
        let mut newer = record(Kind::Notification, "42", good);
        newer.set("v", "2");
        assert_eq!(label(newer), "unsupported");
    }
}
