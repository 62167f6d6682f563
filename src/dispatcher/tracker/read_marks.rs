//! Reading on one device reaches the others: a mark is a record of `raw`, so it takes a position in the
//! user's stream and a device that was off learns of it by sync.

use super::{TrackError, Tracker};
use crate::{
    bus::{Record, Target, Topic},
    dispatcher::{intake::GENERATION, store::StoreError, tags},
    envelope::{Fate, Head, Kind, Outcome, Priority},
    ids::{NotificationId, UserId},
    limits,
};
use aws_lc_rs::digest;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Ids of marks are UUIDs of version 8; those of notifications are of version 7.
const MARK_VERSION: usize = 8;

pub(super) fn is_mark(id: NotificationId) -> bool {
    id.0.get_version_num() == MARK_VERSION
}

/// Made of what is marked and when, so that a batch reported twice makes the same id and so one row. The
/// time stands in front, as in a UUIDv7: ids stay in the order of time.
fn mark_id(user: &UserId, ids: &[NotificationId], at_ms: u64) -> NotificationId {
    let mut text = digest::Context::new(&digest::SHA256);
    text.update(user.as_str().as_bytes());
    for id in ids {
        text.update(id.0.as_bytes());
    }
    let hash = text.finish();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&at_ms.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&hash.as_ref()[..10]);
    NotificationId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

impl Tracker {
    /// The marks a batch asks for, few per user.
    pub(super) async fn read_marks(
        &self,
        outcomes: &[Outcome],
    ) -> Result<Vec<(Target, Record)>, TrackError> {
        let mut by_user: BTreeMap<&UserId, (BTreeSet<NotificationId>, u64)> = BTreeMap::new();
        for outcome in outcomes {
            if let (Fate::Read, Some(user)) = (outcome.fate, &outcome.user) {
                let (ids, at_ms) = by_user.entry(user).or_default();
                ids.insert(outcome.id);
                *at_ms = outcome.at_ms.max(*at_ms);
            }
        }
        let mut records = Vec::with_capacity(by_user.len());
        for (user, (ids, at_ms)) in by_user {
            let ids: Vec<NotificationId> = ids.into_iter().collect();
            // A mark is a client's frame too, however many waited on `delivery`.
            for ids in ids.chunks(limits::CLIENT_IDS) {
                let ids = self.unread_among(user, ids).await?;
                let mark = self.read_mark(user, &ids, at_ms);
                records.extend(mark.map(|(_, record)| record));
            }
        }
        Ok(records)
    }

    /// Without what was read before or is not the user's. Decided here, before a record is made: the router stores
    /// every mark it reads.
    pub(super) async fn unread_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let unread = self.store.unread_among(user, ids).await?;
        tags::without_others(&self.store, user, unread).await
    }

    /// The record of a mark; `None` when there is nothing to mark.
    pub(super) fn read_mark(
        &self,
        user: &UserId,
        ids: &[NotificationId],
        at_ms: u64,
    ) -> Option<(NotificationId, (Target, Record))> {
        if ids.is_empty() {
            return None;
        }
        let id = mark_id(user, ids, at_ms);
        let head = Head {
            kind: Kind::Read,
            id,
            created_ms: at_ms,
            expires_ms: None,
            priority: Priority::Normal,
            region: self.region.to_string(),
            again: false,
        };
        let key = Bytes::copy_from_slice(user.as_str().as_bytes());
        let value = serde_json::to_vec(ids).expect("ids are plain data");
        let record = head.into_record(key, value);
        Some((id, (Target::Keyed(Topic::Raw(GENERATION)), record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reported_twice_has_one_id_and_is_told_from_a_notification() {
        let user: UserId = "42".parse().unwrap();
        let ids = [NotificationId::generate(), NotificationId::generate()];
        let mark = mark_id(&user, &ids, 7);
        assert_eq!(mark, mark_id(&user, &ids, 7));
        assert_ne!(mark, mark_id(&user, &ids[..1], 7));
        assert!(is_mark(mark) && !is_mark(ids[0]));
    }

    #[test]
    fn marks_are_in_the_order_of_time() {
        let user: UserId = "42".parse().unwrap();
        let ids = [NotificationId::generate()];
        assert!(mark_id(&user, &ids, 1_000) < mark_id(&user, &ids, 2_000));
    }
}
