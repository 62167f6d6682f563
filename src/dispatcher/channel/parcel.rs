//! A record of a channel's topic: a notification for one user, and what was tried so far.

use crate::{
    bus::{Consumed, Record, Topic},
    dispatcher::spending::OVER_BUDGET,
    envelope::{Channel, Content, EnvelopeError, Head, Kind, check_content_size},
    ids::{DeviceId, UserId},
};

#[derive(Clone, Debug)]
pub struct Parcel {
    pub head: Head,
    pub user: UserId,
    pub content: Content,
    /// Of the user, as the router knew it.
    pub locale: Option<String>,
    pub tried: Tried,
}

/// In the headers of a record that comes again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    pub attempts: u32,
    /// Unix ms of the first attempt; 0 before it.
    pub began_ms: u64,
    /// Devices that a provider took it for.
    pub sent: u32,
    /// Devices that are left to be tried; `None`: all that the user has.
    pub open: Option<Vec<DeviceId>>,
    /// It has met the end of a budget, and that was counted.
    pub over_budget: bool,
}

/// Why a record is no parcel.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// A later release wrote it.
    Unsupported(String),
    /// For `dlq`: a metric label from a closed list, and the reason in words.
    Malformed(&'static str, String),
}

impl Parcel {
    pub fn read(record: &Record) -> Result<Parcel, Unreadable> {
        let head = Head::read(record).map_err(|error| match error {
            EnvelopeError::Unsupported { .. } => Unreadable::Unsupported(error.to_string()),
            EnvelopeError::Malformed { .. } => Unreadable::Malformed("header", error.to_string()),
        })?;
        if head.kind != Kind::Notification {
            let what = format!("kind {} in a channel", head.kind);
            return Err(Unreadable::Unsupported(what));
        }
        let user = std::str::from_utf8(&record.key)
            .map_err(|error| Unreadable::Malformed("user", error.to_string()))?
            .parse::<UserId>()
            .map_err(|error| Unreadable::Malformed("user", error.to_string()))?;
        let too_large = |reason| Unreadable::Malformed("too_large", reason);
        check_content_size(&record.value).map_err(too_large)?;
        let content = serde_json::from_slice(&record.value)
            .map_err(|error| Unreadable::Malformed("value", error.to_string()))?;
        Ok(Parcel {
            head,
            user,
            content,
            locale: record.header_text("locale").map(str::to_owned),
            tried: Tried::read(record)?,
        })
    }

    /// Where a record of a delay topic belongs.
    pub fn channel(record: &Record) -> Option<Channel> {
        record.header_text("channel")?.parse().ok()
    }

    /// That channel's topic.
    pub fn topic(record: &Record) -> Option<Topic> {
        topic_of(Parcel::channel(record)?)
    }
}

impl Tried {
    fn read(record: &Record) -> Result<Tried, Unreadable> {
        let open = record.header("devices").map(|list| {
            let ids = std::str::from_utf8(list).map_err(|_| malformed("devices"))?;
            let ids = ids.split(',').map(str::parse::<DeviceId>);
            ids.collect::<Result<Vec<_>, _>>()
                .map_err(|_| malformed("devices"))
        });
        Ok(Tried {
            attempts: number(record, "attempts")?,
            began_ms: number(record, "began_ms")?,
            sent: number(record, "sent")?,
            open: open.transpose()?,
            over_budget: record.header(OVER_BUDGET).is_some(),
        })
    }

    /// The record as it came, with this said in its headers, and where it stood first.
    pub fn write(&self, consumed: &Consumed, channel: Channel) -> Record {
        let mut record = consumed.record.clone();
        record.set("channel", channel.as_str());
        record.set("attempts", self.attempts.to_string());
        record.set("began_ms", self.began_ms.to_string());
        record.set("sent", self.sent.to_string());
        if let Some(open) = &self.open {
            let ids: Vec<&str> = open.iter().map(DeviceId::as_str).collect();
            record.set("devices", ids.join(","));
        }
        if self.over_budget {
            record.set(OVER_BUDGET, "1");
        }
        if record.header("source").is_none() {
            let (topic, partition) = (consumed.at.topic.suffix(), consumed.at.partition);
            record.set("source", format!("{topic}/{partition}/{}", consumed.offset));
        }
        record
    }
}

/// In-app has none: its records go to shards.
pub fn topic_of(channel: Channel) -> Option<Topic> {
    match channel {
        Channel::InApp => None,
        Channel::Push => Some(Topic::Push),
        Channel::Email => Some(Topic::Email),
        Channel::Sms => Some(Topic::Sms),
    }
}

fn number<T: std::str::FromStr + Default>(
    record: &Record,
    header: &'static str,
) -> Result<T, Unreadable> {
    match record.header(header) {
        None => Ok(T::default()),
        Some(_) => record
            .header_text(header)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| malformed(header)),
    }
}

fn malformed(header: &'static str) -> Unreadable {
    Unreadable::Malformed("header", format!("header {header:?} can't be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus::TopicPartition, envelope::Priority, ids::NotificationId};

    fn consumed() -> Consumed {
        let head = Head {
            kind: Kind::Notification,
            id: NotificationId::generate(),
            created_ms: 5,
            expires_ms: None,
            priority: Priority::Normal,
            region: "local".into(),
            again: false,
        };
        let value = r#"{"type":"x","channels":["email"],"title":"t"}"#;
        Consumed {
            at: TopicPartition {
                topic: Topic::Email,
                partition: 3,
            },
            offset: 17,
            appended_ms: 5,
            record: head.into_record("42", value),
        }
    }

    #[test]
    fn what_was_tried_reads_back_and_the_rest_of_the_record_stays_as_it_came() {
        let first = consumed();
        assert_eq!(Parcel::read(&first.record).unwrap().tried, Tried::default());
        let tried = Tried {
            attempts: 2,
            began_ms: 9,
            sent: 1,
            open: Some(vec!["work".parse().unwrap(), "home".parse().unwrap()]),
            over_budget: true,
        };
        let record = tried.write(&first, Channel::Email);
        assert_eq!(record.value, first.record.value);
        assert_eq!(record.key, first.record.key);
        assert_eq!(Parcel::read(&record).unwrap().tried, tried);
        assert_eq!(Parcel::topic(&record), Some(Topic::Email));

        let mut later = first;
        (later.offset, later.record) = (99, record);
        let record = tried.write(&later, Channel::Email);
        assert_eq!(record.header("source"), Some(&b"email/3/17"[..]));
    }

    #[test]
    fn what_is_broken_is_named_and_what_is_newer_is_not_broken() {
        let with = |header: &'static str, value: &'static str| {
            let mut record = consumed().record;
            record.set(header, value);
            Parcel::read(&record).unwrap_err()
        };
        for (header, value) in [("attempts", "few"), ("devices", "a,,b"), ("sent", "-1")] {
            let error = with(header, value);
            assert!(
                matches!(error, Unreadable::Malformed("header", _)),
                "{error:?}"
            );
        }
        for (header, value) in [("v", "2"), ("kind", "read")] {
            let error = with(header, value);
            assert!(matches!(error, Unreadable::Unsupported(_)), "{error:?}");
        }
        let mut record = consumed().record;
        assert_eq!(Parcel::topic(&record), None);
        record.set("channel", "in_app");
        assert_eq!(Parcel::topic(&record), None);
    }
}
