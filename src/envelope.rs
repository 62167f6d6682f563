//! What crosses processes: records on the bus, and the outcomes that come back.
//!
//! Every record carries `v` and `kind` in its headers, so that a reader can set aside what it does not
//! know without parsing the value. Unknown headers are ignored; an unknown kind or a newer version is
//! [`EnvelopeError::Unsupported`], never a dead letter; anything else wrong is [`EnvelopeError::Malformed`].

use crate::{
    bus::Record,
    ids::{GatewayEpoch, NotificationId, UserId},
    limits,
    position::Position,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::str::FromStr;
use thiserror::Error;

/// Version written by this release; N and N−1 are read.
pub const VERSION: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Notification,
    Read,
    Disconnect,
    Probe,
    Broadcast,
    Erase,
    /// A broadcast to users with certain tags.
    Tagged,
}

/// Delivery tier; also the lane of a connection. Ordered from most to least urgent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    High,
    #[default]
    Normal,
    Low,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    InApp,
    Push,
    Email,
    Sms,
}

impl Channel {
    /// How many there are.
    pub const COUNT: usize = 4;
}

impl Priority {
    pub const ALL: [Priority; 4] = [
        Priority::Critical,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ];
}

macro_rules! text_form {
    ($type:ty { $($variant:ident => $text:literal),* $(,)? }) => {
        impl $type {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
        impl FromStr for $type {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok(Self::$variant),)* _ => Err(()) }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

text_form!(Kind {
    Notification => "notification", Read => "read", Disconnect => "disconnect",
    Probe => "probe", Broadcast => "broadcast", Erase => "erase", Tagged => "tagged",
});
text_form!(Priority { Critical => "critical", High => "high", Normal => "normal", Low => "low" });
text_form!(Channel { InApp => "in_app", Push => "push", Email => "email", Sms => "sms" });

/// What a producer asked to be shown; the value of a `raw` record and the body of an inbox row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Content {
    #[serde(rename = "type")]
    pub notification_type: String,
    #[serde(default)]
    pub priority: Priority,
    pub channels: Vec<Channel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Passed through untouched: never parsed twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// What its push notifications have beside: objects `android`, `apns` and `webpush`, in the words of FCM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// Of a broadcast: for users who have one of these only; none: for everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Seconds after `created_ms` at which it is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// Producer that posted it (the name of its API key).
    #[serde(default)]
    pub producer: String,
}

/// Whether intake may have made the content: what is stored has to fit a client's frame and a sync.
pub fn check_content_size(content: &[u8]) -> Result<(), String> {
    match content.len() <= limits::CONTENT_BYTES {
        true => Ok(()),
        false => Err(format!(
            "{} B of content, of {} at most",
            content.len(),
            limits::CONTENT_BYTES
        )),
    }
}

/// Headers every record of ours carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub id: NotificationId,
    /// Unix ms at which intake took it.
    pub created_ms: u64,
    /// Unix ms after which it is dropped unsent (with 2 s of tolerance).
    pub expires_ms: Option<u64>,
    pub priority: Priority,
    pub region: String,
    /// Re-produced (spool, fan-out, idempotency, replay): may have a row already.
    pub again: bool,
}

/// What a gateway needs of an `in_app`, `critical` or `broadcast` record beside the frame (its value).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    pub head: Head,
    /// Absent on a broadcast to everyone.
    pub user: Option<UserId>,
    /// Name of the stream the positions belong to.
    pub stream: String,
    pub pos: Position,
    pub prev: Position,
    pub collapse_key: Option<String>,
    /// Gateways that answered `not_here` for this record.
    pub answered: Vec<GatewayEpoch>,
    /// The final client frame, JSON text.
    pub frame: Bytes,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// A later release wrote it: answer `unsupported`, leave it be.
    #[error("unsupported {what} {value:?}")]
    Unsupported { what: &'static str, value: String },
    /// Dead letter, with this reason.
    #[error("header {header:?}: {reason}")]
    Malformed {
        header: &'static str,
        reason: &'static str,
    },
}

/// Times at which an item counts as expired are judged with this tolerance.
pub const EXPIRY_TOLERANCE_MS: u64 = 2_000;

pub fn is_expired(expires_ms: Option<u64>, unix_ms: u64) -> bool {
    expires_ms.is_some_and(|at| unix_ms > at.saturating_add(EXPIRY_TOLERANCE_MS))
}

impl Head {
    fn write(&self, record: &mut Record) {
        record.set("v", VERSION.to_string());
        record.set("kind", self.kind.as_str());
        record.set("id", self.id.to_string());
        record.set("created_ms", self.created_ms.to_string());
        if let Some(at) = self.expires_ms {
            record.set("expires_ms", at.to_string());
        }
        record.set("priority", self.priority.as_str());
        record.set("region", self.region.clone());
        if self.again {
            record.set("again", "1");
        }
    }

    pub fn read(record: &Record) -> Result<Head, EnvelopeError> {
        let version: u16 = parse(record, "v")?;
        if version == 0 || version > VERSION {
            return Err(EnvelopeError::Unsupported {
                what: "version",
                value: version.to_string(),
            });
        }
        let kind = text(record, "kind")?;
        let kind = kind.parse().map_err(|()| EnvelopeError::Unsupported {
            what: "kind",
            value: kind.chars().take(64).collect(),
        })?;
        Ok(Head {
            kind,
            id: parse(record, "id")?,
            created_ms: parse(record, "created_ms")?,
            expires_ms: parse_optional(record, "expires_ms")?,
            priority: parse_optional(record, "priority")?.unwrap_or_default(),
            region: optional(record, "region")?.unwrap_or_default().to_owned(),
            again: optional(record, "again")?.is_some(),
        })
    }

    /// A record for `raw` (key: the user), `fan_out` or `fan_out_all`.
    pub fn into_record(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Record {
        let mut record = Record::new(key, value);
        self.write(&mut record);
        record
    }
}

impl Routed {
    pub fn into_record(self) -> Record {
        let key = match &self.user {
            Some(user) => Bytes::copy_from_slice(user.as_str().as_bytes()),
            None => Bytes::new(),
        };
        let mut record = Record::new(key, self.frame);
        self.head.write(&mut record);
        record.set("stream", self.stream);
        record.set("pos", self.pos.to_string());
        record.set("prev", self.prev.to_string());
        if let Some(user) = self.user {
            record.set("user", user.as_str().to_owned());
        }
        if let Some(key) = self.collapse_key {
            record.set("collapse_key", key);
        }
        if !self.answered.is_empty() {
            let answered: Vec<_> = self.answered.iter().map(GatewayEpoch::to_string).collect();
            record.set("answered", answered.join(","));
        }
        record
    }

    pub fn read(record: &Record) -> Result<Routed, EnvelopeError> {
        let head = Head::read(record)?;
        let answered = match optional(record, "answered")? {
            None => Vec::new(),
            Some(list) => list
                .split(',')
                .map(|one| one.parse().map_err(|_| malformed("answered")))
                .collect::<Result<_, _>>()?,
        };
        Ok(Routed {
            user: parse_optional(record, "user")?,
            stream: text(record, "stream")?.to_owned(),
            pos: position(record, "pos")?,
            prev: position(record, "prev")?,
            collapse_key: optional(record, "collapse_key")?.map(str::to_owned),
            answered,
            frame: frame(record)?,
            head,
        })
    }
}

/// It is sent as text: a client would have to fail the connection over anything else.
fn frame(record: &Record) -> Result<Bytes, EnvelopeError> {
    match simdutf8::basic::from_utf8(&record.value) {
        Ok(text) if text.starts_with('{') && !text.contains(['\n', '\r']) => {
            Ok(record.value.clone())
        }
        _ => Err(EnvelopeError::Malformed {
            header: "value",
            reason: "is no frame: one line of JSON text",
        }),
    }
}

fn malformed(header: &'static str) -> EnvelopeError {
    EnvelopeError::Malformed {
        header,
        reason: "can't be read",
    }
}

fn optional<'a>(
    record: &'a Record,
    header: &'static str,
) -> Result<Option<&'a str>, EnvelopeError> {
    record
        .header(header)
        .map(|value| std::str::from_utf8(value).map_err(|_| malformed(header)))
        .transpose()
}

fn text<'a>(record: &'a Record, header: &'static str) -> Result<&'a str, EnvelopeError> {
    optional(record, header)?.ok_or(EnvelopeError::Malformed {
        header,
        reason: "is missing",
    })
}

fn parse<T: FromStr>(record: &Record, header: &'static str) -> Result<T, EnvelopeError> {
    text(record, header)?.parse().map_err(|_| malformed(header))
}

fn parse_optional<T: FromStr>(
    record: &Record,
    header: &'static str,
) -> Result<Option<T>, EnvelopeError> {
    optional(record, header)?
        .map(|value| value.parse().map_err(|_| malformed(header)))
        .transpose()
}

fn position(record: &Record, header: &'static str) -> Result<Position, EnvelopeError> {
    Position::from_wire(parse(record, header)?).ok_or(malformed(header))
}

/// What became of one notification for one user at one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub id: NotificationId,
    /// Absent for a broadcast: one outcome per gateway, counts only.
    pub user: Option<UserId>,
    pub pos: Position,
    pub fate: Fate,
    /// Devices (connections) this speaks of.
    pub devices: u32,
    /// `<gateway>.<epoch>` that says so.
    pub gateway: String,
    /// Unix ms at the gateway.
    pub at_ms: u64,
    /// With `not_here`: gateways that said so before, this one not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
}

impl Outcome {
    /// A gateway's own canary said it, of a probe: nobody's notification, so there is nothing to keep. No
    /// client speaks for nobody.
    pub fn is_of_a_probe(&self) -> bool {
        self.user.is_none() && self.fate.is_said_by_client()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The kernel took the whole frame for at least one device.
    Written,
    /// Still unsent after a second; the row is in the inbox.
    Deferred,
    NotHere,
    Unsupported,
    Expired,
    Collapsed,
    /// A device acknowledged it.
    Acked,
    /// A device marked it read; becomes a `read` record in the user's stream.
    Read,
}

impl Fate {
    /// A client said it, of an id that it named; everything else a gateway saw of a record it was given.
    pub fn is_said_by_client(self) -> bool {
        matches!(self, Fate::Acked | Fate::Read)
    }
}

text_form!(Fate {
    Written => "written", Deferred => "deferred", NotHere => "not_here", Unsupported => "unsupported",
    Expired => "expired", Collapsed => "collapsed", Acked => "acked", Read => "read",
});

/// Header `kind` of a record on `delivery`: not a [`Kind`], no gateway ever meets it.
const OUTCOMES: &str = "outcomes";

/// A record for `delivery`: outcomes of one user (or, with an empty key, of broadcasts).
pub fn outcomes_record(outcomes: &[Outcome]) -> Record {
    let user = outcomes.first().and_then(|outcome| outcome.user.as_ref());
    let key = user.map_or_else(Bytes::new, |user| {
        Bytes::copy_from_slice(user.as_str().as_bytes())
    });
    let value = serde_json::to_vec(outcomes).expect("outcomes are plain data");
    let mut record = Record::new(key, value);
    record.set("v", VERSION.to_string());
    record.set("kind", OUTCOMES);
    record
}

/// Reads what [`outcomes_record`] wrote.
pub fn read_outcomes(record: &Record) -> Result<Vec<Outcome>, EnvelopeError> {
    let version: u16 = parse(record, "v")?;
    let kind = text(record, "kind")?;
    if version == 0 || version > VERSION || kind != OUTCOMES {
        return Err(EnvelopeError::Unsupported {
            what: "kind",
            value: format!("{}.{version}", kind.chars().take(64).collect::<String>()),
        });
    }
    serde_json::from_slice(&record.value).map_err(|_| EnvelopeError::Malformed {
        header: "value",
        reason: "is no list of outcomes",
    })
}

/// Header `kind` of a record on `delivery`: not a [`Kind`], no gateway ever meets it.
const REMEMBERED: &str = "remembered";

/// Notifications of one user that went to where the user was last, because the registry did not answer. Once it
/// does, somebody has to look whether the user is elsewhere too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub user: UserId,
    pub ids: Vec<NotificationId>,
    /// Shards they went to.
    pub shards: Vec<u32>,
}

impl Remembered {
    /// A record for `delivery`.
    pub fn to_record(&self) -> Record {
        let key = Bytes::copy_from_slice(self.user.as_str().as_bytes());
        let value = serde_json::to_vec(self).expect("plain data");
        let mut record = Record::new(key, value);
        record.set("v", VERSION.to_string());
        record.set("kind", REMEMBERED);
        record
    }

    /// Whether a record of `delivery` is one of these, of whatever release.
    pub fn is(record: &Record) -> bool {
        record.header("kind") == Some(REMEMBERED.as_bytes())
    }

    pub fn read(record: &Record) -> Result<Remembered, EnvelopeError> {
        let version: u16 = parse(record, "v")?;
        if version == 0 || version > VERSION {
            return Err(EnvelopeError::Unsupported {
                what: "version",
                value: version.to_string(),
            });
        }
        serde_json::from_slice(&record.value).map_err(|_| EnvelopeError::Malformed {
            header: "value",
            reason: "does not say what went where",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed() -> Routed {
        Routed {
            head: Head {
                kind: Kind::Notification,
                id: NotificationId::generate(),
                created_ms: 5,
                expires_ms: Some(9),
                priority: Priority::High,
                region: "local".into(),
                again: false,
            },
            user: Some("42".parse().unwrap()),
            stream: "user:local".into(),
            pos: Position::new(1, 9).unwrap(),
            prev: Position::new(1, 2).unwrap(),
            collapse_key: Some("k".into()),
            answered: vec!["gw-1.7".parse().unwrap()],
            frame: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn a_routed_record_reads_back_what_was_written() {
        let original = routed();
        assert_eq!(Routed::read(&original.clone().into_record()), Ok(original));
    }

    #[test]
    fn an_unknown_header_is_ignored() {
        let mut record = routed().into_record();
        record.set("colour", "red");
        assert!(Routed::read(&record).is_ok());
    }

    #[test]
    fn an_unknown_kind_and_a_newer_version_are_unsupported_not_malformed() {
        for (header, value) in [("kind", "hologram"), ("v", "2")] {
            let mut record = routed().into_record();
            record.set(header, value);
            let error = Routed::read(&record).unwrap_err();
            assert!(
                matches!(error, EnvelopeError::Unsupported { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn outcomes_on_the_delivery_topic_read_back_what_was_written() {
        let outcome = Outcome {
            id: NotificationId::generate(),
            user: Some("42".parse().unwrap()),
            pos: Position::new(1, 9).unwrap(),
            fate: Fate::Written,
            devices: 2,
            gateway: "gw-1.7".into(),
            at_ms: 5,
            answered: Vec::new(),
        };
        let record = outcomes_record(std::slice::from_ref(&outcome));
        assert_eq!(record.key, "42");
        assert_eq!(read_outcomes(&record), Ok(vec![outcome]));
    }

    #[test]
    fn what_went_by_memory_reads_back_and_is_nothing_to_a_release_that_knows_outcomes_only() {
        let remembered = Remembered {
            user: "42".parse().unwrap(),
            ids: vec![NotificationId::generate()],
            shards: vec![3, 5],
        };
        let mut record = remembered.to_record();
        assert_eq!(record.key, "42");
        assert!(Remembered::is(&record) && !Remembered::is(&outcomes_record(&[])));
        assert_eq!(Remembered::read(&record), Ok(remembered));
        let error = read_outcomes(&record).unwrap_err();
        assert!(
            matches!(error, EnvelopeError::Unsupported { .. }),
            "{error}"
        );
        record.set("v", "2");
        let error = Remembered::read(&record).unwrap_err();
        assert!(
            matches!(error, EnvelopeError::Unsupported { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_value_that_no_client_could_take_is_malformed() {
        for value in [&b"{\xff}"[..], b"", b"null", b"{\n}"] {
            let mut record = routed().into_record();
            record.value = Bytes::from_static(value);
            let error = Routed::read(&record).unwrap_err();
            assert!(
                matches!(error, EnvelopeError::Malformed { .. }),
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_broken_header_is_malformed_and_named() {
        let mut record = routed().into_record();
        record.set("pos", "ten");
        assert_eq!(Routed::read(&record), Err(malformed("pos")));
    }
}
