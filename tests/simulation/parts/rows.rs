//! The store: rows of the inbox by user and position, and the furthest any gateway got with each. By the rules
//! that `herald::dispatcher::store` states and its SQLite keeps.

use super::clock::{Clock, Part};
use async_trait::async_trait;
use herald::{
    dispatcher::{
        devices::{Device, DeviceKind},
        preferences::Preferences,
        store::{
            ApiKey, Appended, Attempted, Cancelled, DeadLetterAt, DeliveryState, Entered, Erasure,
            Forget, Handled, Idempotency, Mark, NewBroadcast, NewRow, Quarantined, Release,
            Removed, Row, RowsAfter, Scheduled, Segment, SegmentSend, Segments, Store, StoreError,
            Unread, rank, state,
        },
        suppression::Suppression,
    },
    envelope::{Channel, Fate, Outcome},
    ids::{DeviceId, NotificationId, SegmentId, UserId},
    position::Position,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

pub struct Rows {
    clock: Arc<Clock>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    inbox: BTreeMap<UserId, BTreeMap<Position, Row>>,
    /// Furthest of what each gateway said.
    log: BTreeMap<(NotificationId, UserId), BTreeMap<String, Outcome>>,
}

impl Rows {
    pub fn new(clock: Arc<Clock>) -> Rows {
        Rows {
            clock,
            tables: Mutex::default(),
        }
    }

    /// Position and id of the user's rows in `(after, to]`, and whether a later one has superseded it.
    pub fn between(
        &self,
        user: &UserId,
        after: Position,
        to: Position,
    ) -> Vec<(Position, NotificationId, bool)> {
        let tables = self.tables.lock();
        let Some(rows) = tables.inbox.get(user) else {
            return Vec::new();
        };
        let wanted = rows.values().filter(|row| row.pos > after && row.pos <= to);
        wanted
            .map(|row| (row.pos, row.id, is_superseded(rows, row)))
            .collect()
    }

    pub fn head(&self, user: &UserId) -> Position {
        self.tables.lock().head(user)
    }

    pub fn has(&self, user: &UserId, id: NotificationId) -> bool {
        self.tables.lock().find(user, id).is_some()
    }

    async fn there(&self) {
        self.clock.way(Part::Store).await;
    }

    async fn back(&self) {
        self.clock.way(Part::Store).await;
    }
}

impl Tables {
    fn head(&self, user: &UserId) -> Position {
        let rows = self.inbox.get(user);
        rows.and_then(|rows| rows.last_key_value())
            .map_or(Position::START, |(pos, _)| *pos)
    }

    fn find(&self, user: &UserId, id: NotificationId) -> Option<&Row> {
        self.inbox.get(user)?.values().find(|row| row.id == id)
    }

    fn append(&mut self, new: NewRow) -> Appended {
        if let Some(row) = self.find(&new.user, new.id) {
            return Appended::Existing {
                pos: row.pos,
                prev: row.prev,
                written: self.is_written(&new.user, new.id),
            };
        }
        let prev = self.head(&new.user);
        assert!(new.pos > prev, "rows of a user come in order");
        let row = Row {
            pos: new.pos,
            prev,
            kind: new.kind,
            id: new.id,
            priority: new.priority,
            created_ms: new.created_ms,
            expires_ms: new.expires_ms,
            collapse_key: new.collapse_key,
            content: new.content,
            read: false,
        };
        self.inbox.entry(new.user).or_default().insert(new.pos, row);
        Appended::Stored { prev }
    }

    fn is_written(&self, user: &UserId, id: NotificationId) -> bool {
        let said = self.log.get(&(id, user.clone())).into_iter().flatten();
        said.into_iter()
            .any(|(_, outcome)| rank(outcome.fate) >= rank(Fate::Written))
    }

    fn record(&mut self, outcome: &Outcome) {
        let Some(user) = &outcome.user else { return };
        let said = self.log.entry((outcome.id, user.clone())).or_default();
        match said.get_mut(&outcome.gateway) {
            Some(known) if rank(known.fate) >= rank(outcome.fate) => {}
            _ => {
                said.insert(outcome.gateway.clone(), outcome.clone());
            }
        }
    }
}

fn is_superseded(rows: &BTreeMap<Position, Row>, row: &Row) -> bool {
    row.collapse_key.is_some()
        && rows
            .values()
            .any(|later| later.pos > row.pos && later.collapse_key == row.collapse_key)
}

/// Nobody is forgotten here.
#[async_trait]
impl Forget for Rows {
    async fn begin_erasure(&self, _: &Erasure, _: u64) -> Result<(), StoreError> {
        unreachable!("nobody is forgotten")
    }
    async fn erasures_since(&self, mark: u64) -> Result<(Vec<Erasure>, u64), StoreError> {
        Ok((Vec::new(), mark))
    }
    async fn open_erasures(&self, _: u64, _: usize) -> Result<Vec<Erasure>, StoreError> {
        unreachable!("nobody is forgotten")
    }
    async fn erase(&self, _: &Erasure) -> Result<Removed, StoreError> {
        unreachable!("nobody is forgotten")
    }
    async fn end_erasure(&self, _: &Erasure, _: &str) -> Result<(), StoreError> {
        unreachable!("nobody is forgotten")
    }
    async fn erasure(&self, _: &UserId) -> Result<Option<(Erasure, Option<String>)>, StoreError> {
        unreachable!("nobody is forgotten")
    }
    async fn scheduled_for(&self, _: &UserId) -> Result<Vec<Scheduled>, StoreError> {
        unreachable!("nobody asks for all of a user")
    }
    async fn rows_of(&self, _: &UserId, _: Position, _: usize) -> Result<Vec<Row>, StoreError> {
        unreachable!("nobody asks for all of a user")
    }
    async fn deliveries_of(
        &self,
        _: &UserId,
        _: Option<NotificationId>,
        _: usize,
    ) -> Result<Vec<(NotificationId, DeliveryState)>, StoreError> {
        unreachable!("nobody looks at the log")
    }
    async fn marks_of(
        &self,
        _: &UserId,
        _: Mark,
        _: Option<NotificationId>,
        _: usize,
    ) -> Result<Vec<NotificationId>, StoreError> {
        unreachable!("nobody asks for all of a user")
    }
    async fn segments_of(&self, _: &UserId) -> Result<Vec<SegmentId>, StoreError> {
        unreachable!("nobody asks for all of a user")
    }
}

/// There are none here.
#[async_trait]
impl Segments for Rows {
    async fn make_segment(&self, _: &Segment) -> Result<(), StoreError> {
        unreachable!("there are no segments")
    }
    async fn segment(&self, _: SegmentId) -> Result<Option<Segment>, StoreError> {
        unreachable!("there are no segments")
    }
    async fn add_to_segment(&self, _: SegmentId, _: &[UserId], _: u64) -> Result<(), StoreError> {
        unreachable!("there are no segments")
    }
    async fn segment_size(&self, _: SegmentId) -> Result<u64, StoreError> {
        unreachable!("there are no segments")
    }
    async fn segment_users(
        &self,
        _: SegmentId,
        _: Option<&UserId>,
        _: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        unreachable!("there are no segments")
    }
    async fn count_in_segment(&self, _: SegmentId, _: &[UserId]) -> Result<u64, StoreError> {
        unreachable!("there are no segments")
    }
    async fn is_sent_to(&self, _: SegmentId) -> Result<bool, StoreError> {
        unreachable!("there are no segments")
    }
    async fn remove_segment(&self, _: SegmentId) -> Result<bool, StoreError> {
        unreachable!("there are no segments")
    }
    async fn begin_send(&self, _: &SegmentSend, _: u64) -> Result<(), StoreError> {
        unreachable!("there are no segments")
    }
    async fn segment_send(&self, _: NotificationId) -> Result<Option<SegmentSend>, StoreError> {
        unreachable!("there are no segments")
    }
    async fn take_send(&self, _: u64, _: u64) -> Result<Option<SegmentSend>, StoreError> {
        unreachable!("there are no segments")
    }
    async fn advance_send(&self, _: &SegmentSend, _: u64) -> Result<bool, StoreError> {
        unreachable!("there are no segments")
    }
    async fn cancel_send(&self, _: NotificationId) -> Result<Cancelled, StoreError> {
        unreachable!("there are no segments")
    }
}

#[async_trait]
impl Store for Rows {
    async fn append(&self, rows: Vec<NewRow>) -> Result<Vec<Appended>, StoreError> {
        self.there().await;
        let appended = {
            let mut tables = self.tables.lock();
            rows.into_iter().map(|row| tables.append(row)).collect()
        };
        self.back().await;
        Ok(appended)
    }

    async fn rows_after(
        &self,
        user: &UserId,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        self.there().await;
        let answer = {
            let tables = self.tables.lock();
            let empty = BTreeMap::new();
            let rows = tables.inbox.get(user).unwrap_or(&empty);
            let head = tables.head(user);
            let from = after.unwrap_or(Position::START);
            let mut wanted: Vec<Row> = rows
                .values()
                .filter(|row| row.pos > from && !is_superseded(rows, row))
                .cloned()
                .collect();
            let has_more = wanted.len() > limit;
            match after {
                None => drop(wanted.drain(..wanted.len().saturating_sub(limit))),
                Some(_) => wanted.truncate(limit),
            }
            let covered = match wanted.last() {
                Some(last) if has_more && after.is_some() => last.pos,
                _ => head.max(from),
            };
            RowsAfter {
                rows: wanted,
                covered,
                has_more: has_more && after.is_some(),
                head,
                at_quorum: true,
                complete: true,
            }
        };
        self.back().await;
        Ok(answer)
    }

    async fn page(
        &self,
        _: &UserId,
        _: Option<Position>,
        _: usize,
    ) -> Result<Vec<Row>, StoreError> {
        unreachable!("nobody opens the inbox")
    }

    async fn row(&self, user: &UserId, id: NotificationId) -> Result<Option<Row>, StoreError> {
        self.there().await;
        let row = self.tables.lock().find(user, id).cloned();
        self.back().await;
        Ok(row)
    }

    async fn unread(&self, _: &UserId) -> Result<Unread, StoreError> {
        unreachable!("nobody counts the unread")
    }

    async fn unread_among(
        &self,
        _: &UserId,
        _: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        unreachable!("nobody marks as read")
    }

    async fn read_among(
        &self,
        _: &UserId,
        _: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        unreachable!("there are no broadcasts to mark")
    }

    async fn dismiss(
        &self,
        _: &UserId,
        _: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        unreachable!("there are no broadcasts to dismiss")
    }

    async fn dismissed_among(
        &self,
        _: &UserId,
        _: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        unreachable!("there are no broadcasts to dismiss")
    }

    async fn append_broadcasts(&self, _: Vec<NewBroadcast>) -> Result<Vec<Position>, StoreError> {
        unreachable!("nothing is posted to all")
    }

    async fn broadcast_position(&self, _: NotificationId) -> Result<Option<Position>, StoreError> {
        unreachable!("nothing is posted to all")
    }

    async fn broadcast(&self, _: NotificationId) -> Result<Option<Row>, StoreError> {
        unreachable!("nothing is posted to all")
    }

    async fn broadcasts_after(
        &self,
        after: Option<Position>,
        _: usize,
    ) -> Result<RowsAfter, StoreError> {
        Ok(RowsAfter {
            rows: Vec::new(),
            covered: after.unwrap_or(Position::START),
            has_more: false,
            head: Position::START,
            at_quorum: true,
            complete: true,
        })
    }

    async fn broadcast_page(&self, _: Option<Position>, _: usize) -> Result<Vec<Row>, StoreError> {
        unreachable!("nobody opens the inbox")
    }

    async fn pending(
        &self,
        _: &[(NotificationId, UserId, Channel)],
        _: u64,
    ) -> Result<(), StoreError> {
        // Below every other state: it changes no decision.
        self.there().await;
        Ok(())
    }

    async fn record(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        self.there().await;
        {
            let mut tables = self.tables.lock();
            outcomes.iter().for_each(|outcome| tables.record(outcome));
        }
        self.back().await;
        Ok(0)
    }

    async fn delivery(
        &self,
        id: NotificationId,
        user: Option<&UserId>,
        _: usize,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        self.there().await;
        let user = user.expect("asked of one user").clone();
        let furthest = {
            let tables = self.tables.lock();
            let said = tables.log.get(&(id, user.clone()));
            let outcomes = said.into_iter().flat_map(|said| said.values());
            outcomes.max_by_key(|outcome| rank(outcome.fate)).cloned()
        };
        self.back().await;
        let shown = furthest.map(|outcome| DeliveryState {
            user: Some(user),
            channel: Channel::InApp,
            state: state(outcome.fate).to_owned(),
            devices: outcome.devices,
            gateway: outcome.gateway,
            updated_ms: outcome.at_ms,
            sending: Default::default(),
        });
        Ok(shown.into_iter().collect())
    }

    async fn record_attempts(&self, _: &[Attempted]) -> Result<(), StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn claim(
        &self,
        _: &str,
        _: &str,
        _: [u8; 32],
        _: NotificationId,
        _: u64,
    ) -> Result<Idempotency, StoreError> {
        unreachable!("producers have no keys")
    }

    async fn finish_claim(&self, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("producers have no keys")
    }

    async fn release_claim(&self, _: &str, _: &str) -> Result<(), StoreError> {
        unreachable!("producers have no keys")
    }

    async fn put_device(&self, _: Device) -> Result<Entered, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn devices(&self, _: &UserId) -> Result<Vec<Device>, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn remove_device(&self, _: &UserId, _: &DeviceId) -> Result<bool, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn remove_gone(&self, _: &Device) -> Result<bool, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn quarantine(&self, _: &Device, _: u64) -> Result<bool, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn quarantined(
        &self,
        _: DeviceKind,
        _: Option<&(UserId, DeviceId)>,
        _: usize,
    ) -> Result<Quarantined, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn release(&self, _: &Device, _: Release) -> Result<bool, StoreError> {
        unreachable!("no channel but in-app")
    }

    async fn put_preferences(&self, _: &UserId, _: &Preferences) -> Result<(), StoreError> {
        unreachable!("nobody wants anything else")
    }

    async fn switch_off(&self, _: &UserId, _: &str, _: Channel) -> Result<(), StoreError> {
        unreachable!("nobody reads mails")
    }

    async fn preferences(&self, users: &[UserId]) -> Result<Vec<Preferences>, StoreError> {
        Ok(vec![Preferences::default(); users.len()])
    }

    async fn suppress(&self, _: Vec<Suppression>) -> Result<(), StoreError> {
        unreachable!("no mails")
    }

    async fn suppressed(&self, _: &[String]) -> Result<Vec<Option<Suppression>>, StoreError> {
        unreachable!("no mails")
    }

    async fn suppressions(
        &self,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<Suppression>, StoreError> {
        unreachable!("no mails")
    }

    async fn unsuppress(&self, _: &str) -> Result<bool, StoreError> {
        unreachable!("no mails")
    }

    async fn handle_dead_letter(&self, _: DeadLetterAt, _: Handled) -> Result<(), StoreError> {
        unreachable!("no operator")
    }

    async fn handled_dead_letter(&self, _: DeadLetterAt) -> Result<Option<Handled>, StoreError> {
        unreachable!("no operator")
    }

    async fn schedule(&self, _: Scheduled) -> Result<(), StoreError> {
        unreachable!("all is sent at once")
    }

    async fn scheduled(&self, _: NotificationId) -> Result<Option<Scheduled>, StoreError> {
        unreachable!("all is sent at once")
    }

    async fn scheduled_due(&self, _: NotificationId) -> Result<Option<u64>, StoreError> {
        unreachable!("all is sent at once")
    }

    async fn take_due(&self, _: u64, _: u64, _: usize) -> Result<Vec<Scheduled>, StoreError> {
        unreachable!("all is sent at once")
    }

    async fn remove_scheduled(&self, _: &[NotificationId]) -> Result<(), StoreError> {
        unreachable!("all is sent at once")
    }

    async fn cancel_scheduled(&self, _: NotificationId) -> Result<Cancelled, StoreError> {
        unreachable!("all is sent at once")
    }

    async fn put_api_key(&self, _: ApiKey) -> Result<(), StoreError> {
        unreachable!("producers have no keys")
    }

    async fn api_key(&self, _: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        unreachable!("producers have no keys")
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        unreachable!("producers have no keys")
    }

    fn forget_heads(&self) {}

    fn healthy(&self) -> bool {
        true
    }
}
