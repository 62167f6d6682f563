//! Segments: users who are sent to together, as a producer uploaded them; and what is on its way to them.
//!
//! Invariants:
//! * a segment ends [`RETENTION_S`](crate::limits::RETENTION_S) after it was made, with all that is in it;
//! * the order of a segment's users stays: whoever goes on behind a user meets all that come after it. Users who are
//!   added while a send is at work may be met or not;
//! * a send is at work in one place at a time, and goes on where the last batch that was written down ended.

use super::{Cancelled, StoreError};
use crate::{
    bus::Record,
    envelope::Content,
    ids::{NotificationId, SegmentId, UserId},
};
use async_trait::async_trait;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub id: SegmentId,
    pub producer: String,
    pub created_ms: u64,
}

/// A notification to a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSend {
    pub id: NotificationId,
    pub segment: SegmentId,
    /// For `raw`, but for the user.
    pub record: Record,
    /// Users of the segment when it was accepted.
    pub users: u64,
    pub sent: u64,
    /// The last user it went to.
    pub after: Option<UserId>,
    pub state: SendProgress,
}

impl SegmentSend {
    /// Who sent it.
    pub fn producer(&self) -> Option<String> {
        let content: Content = serde_json::from_slice(&self.record.value).ok()?;
        Some(content.producer)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProgress {
    Running,
    Done,
    Cancelled,
}

impl SendProgress {
    pub fn as_str(self) -> &'static str {
        match self {
            SendProgress::Running => "running",
            SendProgress::Done => "done",
            SendProgress::Cancelled => "cancelled",
        }
    }
}

impl FromStr for SendProgress {
    type Err = ();

    fn from_str(text: &str) -> Result<SendProgress, ()> {
        use SendProgress::{Cancelled, Done, Running};
        let all = [Running, Done, Cancelled];
        all.into_iter().find(|one| one.as_str() == text).ok_or(())
    }
}

#[async_trait]
pub trait Segments {
    async fn make_segment(&self, segment: &Segment) -> Result<(), StoreError>;

    async fn segment(&self, id: SegmentId) -> Result<Option<Segment>, StoreError>;

    /// Adds those who are not in it.
    async fn add_to_segment(
        &self,
        id: SegmentId,
        users: &[UserId],
        now_ms: u64,
    ) -> Result<(), StoreError>;

    /// How many users it has.
    async fn segment_size(&self, id: SegmentId) -> Result<u64, StoreError>;

    /// How many of these are in it.
    async fn count_in_segment(&self, id: SegmentId, users: &[UserId]) -> Result<u64, StoreError>;

    /// Up to `limit` users behind this one, in their order.
    async fn segment_users(
        &self,
        id: SegmentId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError>;

    /// Whether a send to it is not at its end.
    async fn is_sent_to(&self, id: SegmentId) -> Result<bool, StoreError>;

    /// With all that is in it; whether it was there.
    async fn remove_segment(&self, id: SegmentId) -> Result<bool, StoreError>;

    /// Nobody takes it before `from_ms`. Told twice, it begins once.
    async fn begin_send(&self, send: &SegmentSend, from_ms: u64) -> Result<(), StoreError>;

    async fn segment_send(&self, id: NotificationId) -> Result<Option<SegmentSend>, StoreError>;

    /// Takes one that runs and that nobody has, for a while.
    async fn take_send(
        &self,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<SegmentSend>, StoreError>;

    /// Writes down how far it is, and keeps it for a while longer. `false`: it was cancelled.
    async fn advance_send(&self, send: &SegmentSend, until_ms: u64) -> Result<bool, StoreError>;

    /// The batch that is at work still goes.
    async fn cancel_send(&self, id: NotificationId) -> Result<Cancelled, StoreError>;
}
