//! Between the messages of `herald.proto` and our own types; both ends of a call use the same code.

use crate::{
    api,
    bus::{HeaderName, Record, header_name},
    control::upstream::SyncReply,
    envelope::{Outcome, VERSION},
    position::{Cursors, Position},
};
use bytes::Bytes;
use thiserror::Error;

/// Which field of a message can't be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("field {0:?} can't be read")]
pub struct BadField(pub &'static str);

/// The gateway stands once in the batch, not in every outcome.
pub fn outcome_to_wire(outcome: &Outcome) -> api::Outcome {
    let user = outcome.user.as_ref();
    api::Outcome {
        id: outcome.id.to_string(),
        user: user.map_or_else(String::new, |user| user.as_str().to_owned()),
        pos: outcome.pos.value(),
        fate: outcome.fate.as_str().to_owned(),
        devices: outcome.devices,
        at_ms: outcome.at_ms,
        answered: outcome.answered.clone(),
    }
}

pub fn outcome_from_wire(wire: api::Outcome, gateway: &str) -> Result<Outcome, BadField> {
    let user = match wire.user.as_str() {
        "" => None,
        user => Some(user.parse().map_err(|_| BadField("user"))?),
    };
    Ok(Outcome {
        id: wire.id.parse().map_err(|_| BadField("id"))?,
        user,
        pos: Position::from_wire(wire.pos).ok_or(BadField("pos"))?,
        fate: wire.fate.parse().map_err(|()| BadField("fate"))?,
        devices: wire.devices,
        gateway: gateway.to_owned(),
        at_ms: wire.at_ms,
        answered: wire.answered,
    })
}

pub fn cursors_to_wire(cursors: &Cursors) -> std::collections::HashMap<String, u64> {
    let pairs = cursors.iter();
    pairs
        .map(|(stream, at)| (stream.clone(), at.value()))
        .collect()
}

pub fn cursors_from_wire(
    wire: std::collections::HashMap<String, u64>,
) -> Result<Cursors, BadField> {
    wire.into_iter()
        .map(|(stream, at)| Some((stream, Position::from_wire(at)?)))
        .collect::<Option<_>>()
        .ok_or(BadField("cursors"))
}

pub fn sync_reply_to_wire(reply: SyncReply) -> api::SyncReply {
    let range = |(from, to): (Position, Position)| api::Range {
        from: from.value(),
        to: to.value(),
    };
    api::SyncReply {
        items: reply.items.into_iter().map(Into::into).collect(),
        ranges: reply
            .ranges
            .into_iter()
            .map(|(stream, both)| (stream, range(both)))
            .collect(),
        cursors: cursors_to_wire(&reply.cursors),
        recovered: reply.recovered,
        has_more: reply.has_more,
        unsettled: reply.unsettled,
        v: u32::from(VERSION),
        ..api::SyncReply::default()
    }
}

pub fn sync_reply_from_wire(wire: api::SyncReply) -> Result<SyncReply, BadField> {
    let range = |range: api::Range| {
        Some((
            Position::from_wire(range.from)?,
            Position::from_wire(range.to)?,
        ))
    };
    Ok(SyncReply {
        items: wire.items.into_iter().map(Into::into).collect(),
        ranges: wire
            .ranges
            .into_iter()
            .map(|(stream, both)| Some((stream, range(both)?)))
            .collect::<Option<_>>()
            .ok_or(BadField("ranges"))?,
        cursors: cursors_from_wire(wire.cursors)?,
        recovered: wire.recovered,
        has_more: wire.has_more,
        unsettled: wire.unsettled,
    })
}

pub fn record_to_wire(record: Record) -> api::Record {
    let header = |(name, value): (HeaderName, Bytes)| api::Header {
        name: name.into_owned(),
        value: value.into(),
    };
    api::Record {
        key: record.key.into(),
        value: record.value.into(),
        headers: record.headers.into_iter().map(header).collect(),
    }
}

pub fn record_from_wire(wire: api::Record) -> Record {
    let headers = wire.headers.into_iter();
    Record {
        key: wire.key.into(),
        value: wire.value.into(),
        headers: headers
            .map(|header| (header_name(&header.name), header.value.into()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{envelope::Fate, ids::NotificationId};

    #[test]
    fn an_outcome_crosses_the_wire_unchanged() {
        let outcome = Outcome {
            id: NotificationId::generate(),
            user: None,
            pos: Position::new(1, 4).unwrap(),
            fate: Fate::NotHere,
            devices: 0,
            gateway: "gw-1.7".into(),
            at_ms: 3,
            answered: vec!["gw-2.9".into()],
        };
        let wire = outcome_to_wire(&outcome);
        assert_eq!(outcome_from_wire(wire, "gw-1.7"), Ok(outcome));
    }

    #[test]
    fn a_fate_of_a_later_release_is_named_as_unreadable() {
        let wire = api::Outcome {
            id: NotificationId::generate().to_string(),
            fate: "teleported".into(),
            ..Default::default()
        };
        assert_eq!(outcome_from_wire(wire, "gw-1.7"), Err(BadField("fate")));
    }

    #[test]
    fn a_sync_reply_crosses_the_wire_unchanged() {
        let at = |offset| Position::new(1, offset).unwrap();
        let reply = SyncReply {
            items: vec![Bytes::from_static(b"{}")],
            ranges: [("user:local".to_owned(), (Position::START, at(2)))].into(),
            cursors: [("user:local".to_owned(), at(2))].into(),
            recovered: false,
            has_more: false,
            unsettled: true,
        };
        let wire = sync_reply_to_wire(reply.clone());
        assert_eq!(sync_reply_from_wire(wire), Ok(reply));
    }
}
