//! Forgetting users.
//!
//! Invariants:
//! * an erasure is known for as long as anything of before it may come back; what it covers is never stored again;
//! * what is of after it is never removed, however late it is carried out.

use super::{DeliveryState, Row, Scheduled, StoreError};
use crate::{
    bus::Topic,
    dispatcher::{devices::Device, intake::List, suppression::addresses},
    envelope::{Content, Head, Outcome},
    ids::{NotificationId, SegmentId, UserId},
    position::Position,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

/// An order to forget everything of a user that is of before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    pub user: UserId,
    /// Of the order: what has a lower one was accepted before it.
    pub id: NotificationId,
    /// Where the order stands: records of `raw` below it are of before.
    pub below: Position,
}

impl Erasure {
    /// Whether a record is of before. `pos` is where it stood in `raw`: of what was produced again, that says nothing.
    pub fn covers(&self, head: &Head, pos: Option<Position>) -> bool {
        let is_older = head.id < self.id;
        match pos {
            Some(pos) => pos < self.below || (head.again && is_older),
            None => is_older,
        }
    }

    pub fn covers_outcome(&self, outcome: &Outcome) -> bool {
        match outcome.pos {
            Position::START => outcome.id < self.id,
            pos => pos < self.below,
        }
    }

    /// One that was entered since is the user's anew.
    pub fn covers_device(&self, device: &Device) -> bool {
        device.updated_ms <= self.id.unix_ms()
    }

    /// By which its reader ends the likes of it.
    pub fn covers_mail(&self, of: NotificationId) -> bool {
        of < self.id
    }

    /// Addresses that go with the devices of before: nobody has to know any more whether they are sent to.
    pub fn addresses(&self, held: &[Device]) -> Vec<String> {
        let (before, after): (Vec<&Device>, Vec<&Device>) =
            held.iter().partition(|device| self.covers_device(device));
        let gone = addresses(before);
        gone.difference(&addresses(after)).cloned().collect()
    }
}

impl Scheduled {
    /// Whether it is for this user, alone or in a list.
    pub fn is_for(&self, user: &UserId) -> bool {
        match self.topic {
            Topic::FanOut => self.list().is_some_and(|list| list.users.contains(user)),
            _ => self.record.key == user.as_str().as_bytes(),
        }
    }

    /// What it says; of a list, not to whom.
    pub fn content(&self) -> Option<Box<RawValue>> {
        match self.topic {
            Topic::FanOut => self.list().map(|list| list.content),
            _ => serde_json::from_slice(&self.record.value).ok(),
        }
    }

    /// Who sent it.
    pub fn producer(&self) -> Option<String> {
        let content: Content = serde_json::from_str(self.content()?.get()).ok()?;
        Some(content.producer)
    }

    /// What its record holds without this user; `None`: nobody is left.
    pub fn without(&self, user: &UserId) -> Option<Bytes> {
        if self.topic != Topic::FanOut {
            return None;
        }
        let mut list = self.list()?;
        list.users.retain(|one| one != user);
        let left = !list.users.is_empty();
        left.then(|| {
            serde_json::to_vec(&list)
                .expect("a list is plain data")
                .into()
        })
    }

    fn list(&self) -> Option<List> {
        serde_json::from_slice(&self.record.value).ok()
    }
}

/// What is kept of a user and an id, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Read, of what the user has and of broadcasts.
    Read,
    /// Broadcasts that the user does not want to see any more.
    Dismissed,
}

/// What one step removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub inbox: u64,
    pub read_marks: u64,
    pub dismissals: u64,
    pub delivery_log: u64,
    /// Of addresses of these devices.
    pub suppressions: u64,
    pub devices: u64,
    pub segments: u64,
    pub scheduled: u64,
}

impl Removed {
    pub fn add(&mut self, step: Removed) {
        self.inbox += step.inbox;
        self.read_marks += step.read_marks;
        self.dismissals += step.dismissals;
        self.delivery_log += step.delivery_log;
        self.suppressions += step.suppressions;
        self.devices += step.devices;
        self.segments += step.segments;
        self.scheduled += step.scheduled;
    }

    pub fn is_nothing(&self) -> bool {
        *self == Removed::default()
    }
}

#[async_trait]
pub trait Forget {
    /// From here on it is known, and what the user wants is gone. Told again, or after a later one, it changes nothing.
    async fn begin_erasure(&self, erasure: &Erasure, now_ms: u64) -> Result<(), StoreError>;

    /// Those that began since `mark` (at first 0), some of them perhaps told before; and the next mark.
    async fn erasures_since(&self, mark: u64) -> Result<(Vec<Erasure>, u64), StoreError>;

    /// Those that began before this moment and have not ended.
    async fn open_erasures(
        &self,
        begun_before_ms: u64,
        limit: usize,
    ) -> Result<Vec<Erasure>, StoreError>;

    /// One step of removing what is of before. The last one removes nothing.
    async fn erase(&self, erasure: &Erasure) -> Result<Removed, StoreError>;

    /// Everything is removed, as the proof says.
    async fn end_erasure(&self, erasure: &Erasure, proof: &str) -> Result<(), StoreError>;

    /// The user's latest one, and once it has ended its proof.
    async fn erasure(&self, user: &UserId)
    -> Result<Option<(Erasure, Option<String>)>, StoreError>;

    /// What is kept for later, of this user alone or in a list.
    async fn scheduled_for(&self, user: &UserId) -> Result<Vec<Scheduled>, StoreError>;

    /// Every row that is stored of the user above `after`, superseded ones too, ascending.
    async fn rows_of(
        &self,
        user: &UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Delivery states of the user's notifications below an id, newest first.
    async fn deliveries_of(
        &self,
        user: &UserId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<(NotificationId, DeliveryState)>, StoreError>;

    /// Ids that the user marked so, above one, ascending.
    async fn marks_of(
        &self,
        user: &UserId,
        mark: Mark,
        after: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<NotificationId>, StoreError>;

    /// Segments that the user is in.
    async fn segments_of(&self, user: &UserId) -> Result<Vec<SegmentId>, StoreError>;
}
