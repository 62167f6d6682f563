//! Where notifications live: inbox rows by user and position, the delivery log, broadcasts, keys.
//! SQLite on one host, Cassandra for any number of dispatchers: both keep what is promised here.
//!
//! Invariants:
//! * a row's `prev` is the user's head at the moment the row is stored, written with it; rows of one call
//!   for one user become visible together and in order: nobody reads N+1 without N;
//! * (user, id) has at most one row: the lowest stored position wins;
//! * every write that returned is durable.

pub mod cassandra;
mod erasure;
mod error;
mod headers;
mod segments;
pub mod sqlite;

use super::{
    devices::{Device, DeviceKind},
    preferences::Preferences,
    suppression::Suppression,
};
use crate::{
    bus::{Record, Topic},
    envelope::{Channel, Fate, Outcome, Priority},
    ids::{DeviceId, NotificationId, UserId},
    position::Position,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{str::FromStr, sync::Arc};

pub use erasure::{Erasure, Forget, Mark, Removed};
pub use error::{StoreError, WentBack, or_went_back};
pub use segments::{Segment, SegmentSend, Segments, SendProgress};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    Notification,
    /// A read mark: `content` is the JSON list of ids it marks; it has a position like any row.
    Read,
}

/// A row to store. Its position is that of its record.
#[derive(Clone, Debug)]
pub struct NewRow {
    pub user: UserId,
    pub pos: Position,
    pub kind: RowKind,
    pub id: NotificationId,
    pub priority: Priority,
    pub created_ms: u64,
    /// Broker's append time of its record: what a store may divide rows by.
    pub appended_ms: u64,
    pub expires_ms: Option<u64>,
    pub collapse_key: Option<String>,
    /// JSON of [`crate::envelope::Content`], or the ids of a read mark.
    pub content: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    Stored {
        prev: Position,
    },
    /// (user, id) was there: the router pushes again only if it was never written to a device.
    Existing {
        pos: Position,
        prev: Position,
        written: bool,
    },
}

/// A row as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub pos: Position,
    pub prev: Position,
    pub kind: RowKind,
    pub id: NotificationId,
    pub priority: Priority,
    pub created_ms: u64,
    pub expires_ms: Option<u64>,
    pub collapse_key: Option<String>,
    pub content: Bytes,
    pub read: bool,
}

/// Rows after a cursor, ascending, and what they cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsAfter {
    pub rows: Vec<Row>,
    /// Every row in `(after, covered]` is in `rows`, or superseded by a later one of its collapse key.
    pub covered: Position,
    pub has_more: bool,
    /// The user's newest position.
    pub head: Position,
    /// The read was at quorum (always, in SQLite).
    pub at_quorum: bool,
    /// Nothing between the cursor and the first row was lost to retention.
    pub complete: bool,
}

/// What a user has not read, of what is neither superseded nor expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Notifications of the user stream.
    pub own: u64,
    /// Broadcasts that are not dismissed either, newest first; for whom they are is not looked at.
    pub broadcasts: Vec<NotificationId>,
}

/// A broadcast (`all`): one row for everyone, in a stream of its own.
#[derive(Clone, Debug)]
pub struct NewBroadcast {
    pub pos: Position,
    pub id: NotificationId,
    pub priority: Priority,
    pub created_ms: u64,
    /// As of a [`NewRow`].
    pub appended_ms: u64,
    pub expires_ms: Option<u64>,
    pub collapse_key: Option<String>,
    pub content: Bytes,
}

/// State of one channel of one notification for one user, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryState {
    pub user: Option<UserId>,
    pub channel: Channel,
    /// In-app: pending, written, deferred, expired, collapsed, delivered (acknowledged), read. Else: pending, sent,
    /// failed, skipped; undelivered and delivered where providers report it.
    pub state: String,
    pub devices: u32,
    pub gateway: String,
    pub updated_ms: u64,
    /// What the channel's worker did; nothing of in-app.
    pub sending: Sending,
}

/// How a channel's worker fared with a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    pub attempts: u32,
    /// Unix ms of the first attempt; 0 without one.
    pub began_ms: u64,
    /// Class of what went wrong last; empty if nothing did.
    pub error: String,
    /// The provider's own name for what it took.
    pub reference: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SendState {
    /// It will be tried again.
    Pending,
    /// It will not.
    Failed,
    /// It did not have to be sent.
    Skipped,
    /// A provider took it for at least one device.
    Sent,
    /// It reports that it gave up what it had taken.
    GivenUp,
    /// It reports that nobody was reached.
    Undelivered,
    /// It reports that somebody was.
    Delivered,
}

impl SendState {
    pub fn as_str(self) -> &'static str {
        match self {
            SendState::Pending => PENDING,
            SendState::Failed => "failed",
            SendState::Skipped => "skipped",
            SendState::Sent => "sent",
            SendState::GivenUp => "failed",
            SendState::Undelivered => "undelivered",
            SendState::Delivered => "delivered",
        }
    }

    /// Stored, so never to be changed; `pending` is 0 in every channel.
    pub fn rank(self) -> u8 {
        match self {
            SendState::Pending => 0,
            SendState::Failed | SendState::Skipped => 1,
            SendState::Sent => 2,
            SendState::GivenUp | SendState::Undelivered => 3,
            SendState::Delivered => 4,
        }
    }
}

/// What the delivery log is told after an attempt, in sums over all attempts: told twice, it says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub id: NotificationId,
    pub user: UserId,
    pub channel: Channel,
    pub state: SendState,
    /// Devices that a provider took it for.
    pub devices: u32,
    pub sending: Sending,
    pub at_ms: u64,
}

/// What became of a device that was to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    Created,
    Replaced,
    /// Not entered: the user has [`limits::DEVICES`](crate::limits::DEVICES).
    Full,
}

/// Devices in quarantine, in an order of the store's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantined {
    pub devices: Vec<Device>,
    /// What to go on after; `None` at the end. A page may be shorter than asked, and have a next.
    pub next: Option<(UserId, DeviceId)>,
}

/// How a device leaves quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is sent to again.
    Restored,
    Removed,
}

/// Answer to an idempotency claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// The key is ours now, with this id.
    Claimed,
    /// Somebody claimed it and may not have finished: produce the same id again, marked `again`.
    Pending(NotificationId),
    Done(NotificationId),
    /// Same key, another body.
    Conflict,
}

/// A notification that is to be sent later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    pub id: NotificationId,
    /// Unix ms.
    pub due_ms: u64,
    /// What intake made of it, and where that goes.
    pub topic: Topic,
    pub record: Record,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    Yes,
    /// It was taken for sending.
    TooLate,
    /// It is not scheduled: it never was, or it was sent.
    Unknown,
}

/// Where a record of `dlq` stands, and when it got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterAt {
    pub partition: u32,
    pub offset: u64,
    /// Unix ms.
    pub appended_ms: u64,
}

/// What an operator did with a record of `dlq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    Replayed,
    Dropped,
}

impl Handled {
    pub fn as_str(self) -> &'static str {
        match self {
            Handled::Replayed => "replayed",
            Handled::Dropped => "dropped",
        }
    }
}

impl FromStr for Handled {
    type Err = ();

    fn from_str(text: &str) -> Result<Handled, ()> {
        let all = [Handled::Replayed, Handled::Dropped];
        all.into_iter().find(|one| one.as_str() == text).ok_or(())
    }
}

/// A producer's key as stored: only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Name of the producer, shown in logs and rows.
    pub producer: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    pub admin: bool,
    pub created_ms: u64,
}

#[async_trait]
pub trait Store: Forget + Segments + Send + Sync + 'static {
    /// Stores rows in the order given, atomically per user. A `Read` row also marks its ids read.
    async fn append(&self, rows: Vec<NewRow>) -> Result<Vec<Appended>, StoreError>;

    /// Sync: at most `limit` rows above `after`, ascending. `None`: the newest `limit`.
    async fn rows_after(
        &self,
        user: &UserId,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError>;

    /// Inbox page: notifications below `before`, newest first.
    async fn page(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    async fn row(&self, user: &UserId, id: NotificationId) -> Result<Option<Row>, StoreError>;

    /// Looks at the newest [`limits::UNREAD_ROWS`](crate::limits::UNREAD_ROWS) rows of the user and at the newest
    /// [`limits::UNREAD_BROADCASTS`](crate::limits::UNREAD_BROADCASTS) broadcasts, and at no content.
    async fn unread(&self, user: &UserId) -> Result<Unread, StoreError>;

    /// Which of these ids the user may mark read: those the user has ([`Store::record`]) and has not read.
    async fn unread_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError>;

    /// Which of these ids the user has read (broadcasts included).
    async fn read_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError>;

    /// The user does not want to see these broadcasts any more; what is none is left out. Answers which were.
    async fn dismiss(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError>;

    /// Which of these the user dismissed.
    async fn dismissed_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError>;

    /// Stores broadcasts in their order, all or none; answers `prev` of each. Idempotent by position.
    async fn append_broadcasts(&self, rows: Vec<NewBroadcast>)
    -> Result<Vec<Position>, StoreError>;

    /// Where the broadcast of this id stands: a record that was produced twice makes one row.
    async fn broadcast_position(&self, id: NotificationId) -> Result<Option<Position>, StoreError>;

    async fn broadcast(&self, id: NotificationId) -> Result<Option<Row>, StoreError>;

    async fn broadcasts_after(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError>;

    /// What a sync reads of both streams: [`Store::rows_after`] and [`Store::broadcasts_after`].
    async fn streams_after(
        &self,
        user: &UserId,
        user_after: Option<Position>,
        all_after: Option<Position>,
        limit: usize,
    ) -> Result<(RowsAfter, RowsAfter), StoreError> {
        tokio::try_join!(
            self.rows_after(user, user_after, limit),
            self.broadcasts_after(all_after, limit),
        )
    }

    /// Broadcasts below `before`, newest first.
    async fn broadcast_page(
        &self,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Enters `pending` for channels of accepted work; never overwrites a later state. In-app it is what stored rows are
    /// by themselves. Whoever hands a record to a gateway before that does this first: a client may acknowledge it at once.
    async fn pending(
        &self,
        entries: &[(NotificationId, UserId, Channel)],
        at_ms: u64,
    ) -> Result<(), StoreError>;

    /// Merges outcomes into the delivery log. States only move forward:
    /// pending < not_here < deferred < written < delivered < read. What a client said of an id that its user
    /// does not have is left out; answers how many those were. A user has what is in the inbox, every
    /// broadcast, and what the log holds of the user already.
    async fn record(&self, outcomes: &[Outcome]) -> Result<usize, StoreError>;

    /// Enters what channels' workers did, and what providers report afterwards. A later attempt or report replaces an
    /// earlier one, and a state only moves forward: pending < failed or skipped < sent < given up or undelivered <
    /// delivered. A report may come first: what an attempt says beside its state is entered all the same.
    async fn record_attempts(&self, attempts: &[Attempted]) -> Result<(), StoreError>;

    /// States of a notification, of one user or (up to `limit`) of all.
    async fn delivery(
        &self,
        id: NotificationId,
        user: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<DeliveryState>, StoreError>;

    /// Claims `(producer, key)` for 24 h in two states.
    async fn claim(
        &self,
        producer: &str,
        key: &str,
        body_hash: [u8; 32],
        id: NotificationId,
        now_ms: u64,
    ) -> Result<Idempotency, StoreError>;

    /// The claimed id is durable on the bus.
    async fn finish_claim(&self, producer: &str, key: &str) -> Result<(), StoreError>;

    /// Gives a claim back: nothing was produced under it.
    async fn release_claim(&self, producer: &str, key: &str) -> Result<(), StoreError>;

    /// Enters a device, in the place of the one that has its id. An address that is of one user at a time
    /// ([`DeviceKind::is_of_one_user`](super::devices::DeviceKind::is_of_one_user)) is taken from whoever had it.
    async fn put_device(&self, device: Device) -> Result<Entered, StoreError>;

    /// In the order of their ids.
    async fn devices(&self, user: &UserId) -> Result<Vec<Device>, StoreError>;

    /// Whether it was there.
    async fn remove_device(&self, user: &UserId, id: &DeviceId) -> Result<bool, StoreError>;

    /// Removes a device that its provider knows no more, unless it was entered anew since it was read.
    async fn remove_gone(&self, device: &Device) -> Result<bool, StoreError>;

    /// Puts a device in quarantine, unless it is there, or was entered anew since it was read. Entered anew it leaves.
    async fn quarantine(&self, device: &Device, now_ms: u64) -> Result<bool, StoreError>;

    /// Those of a kind that are in quarantine.
    async fn quarantined(
        &self,
        kind: DeviceKind,
        after: Option<&(UserId, DeviceId)>,
        limit: usize,
    ) -> Result<Quarantined, StoreError>;

    /// Lets a device out, unless it has left or entered quarantine since it was read.
    async fn release(&self, device: &Device, release: Release) -> Result<bool, StoreError>;

    /// Enters what a user wants, in the place of all that was entered before.
    async fn put_preferences(
        &self,
        user: &UserId,
        preferences: &Preferences,
    ) -> Result<(), StoreError>;

    /// Switches a type off, beside what was entered before ([`Preferences::switch_off`]): of several at once none is
    /// lost.
    async fn switch_off(
        &self,
        user: &UserId,
        notification_type: &str,
        channel: Channel,
    ) -> Result<(), StoreError>;

    /// Of each of the users, in the order asked; of one who said nothing the default.
    async fn preferences(&self, users: &[UserId]) -> Result<Vec<Preferences>, StoreError>;

    /// Enters addresses that are not sent to; what was said of one last stands.
    async fn suppress(&self, suppressions: Vec<Suppression>) -> Result<(), StoreError>;

    /// Of each of the addresses ([`normal`](super::suppression::normal)), in the order asked.
    async fn suppressed(
        &self,
        addresses: &[String],
    ) -> Result<Vec<Option<Suppression>>, StoreError>;

    /// Up to `limit` of them after this address, in an order of the store's own.
    async fn suppressions(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Suppression>, StoreError>;

    /// Whether it was there.
    async fn unsuppress(&self, address: &str) -> Result<bool, StoreError>;

    /// Notes what was done with a record of `dlq`, for as long as that keeps it; what was noted first stays.
    async fn handle_dead_letter(
        &self,
        at: DeadLetterAt,
        handled: Handled,
    ) -> Result<(), StoreError>;

    async fn handled_dead_letter(&self, at: DeadLetterAt) -> Result<Option<Handled>, StoreError>;

    /// Keeps it until it is due. Told twice, it is kept once.
    async fn schedule(&self, scheduled: Scheduled) -> Result<(), StoreError>;

    /// While it is kept.
    async fn scheduled(&self, id: NotificationId) -> Result<Option<Scheduled>, StoreError>;

    /// When it is due, while it is kept; without its contents.
    async fn scheduled_due(&self, id: NotificationId) -> Result<Option<u64>, StoreError>;

    /// Takes up to `limit` of those that are due and that nobody has taken, or not finished in time, the earliest
    /// first: until then nobody else is given them.
    async fn take_due(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: usize,
    ) -> Result<Vec<Scheduled>, StoreError>;

    /// The bus has them.
    async fn remove_scheduled(&self, ids: &[NotificationId]) -> Result<(), StoreError>;

    /// Only of what was never taken.
    async fn cancel_scheduled(&self, id: NotificationId) -> Result<Cancelled, StoreError>;

    async fn put_api_key(&self, key: ApiKey) -> Result<(), StoreError>;

    async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError>;

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError>;

    /// Drops caches of heads: partitions were assigned anew.
    fn forget_heads(&self);

    /// Other dispatchers have it too: while it is away, none does better than this one.
    fn is_shared(&self) -> bool {
        false
    }

    fn healthy(&self) -> bool;

    /// Why there has been no way to it since the start.
    fn missing(&self) -> Option<String> {
        None
    }
}

pub type SharedStore = Arc<dyn Store>;

/// State of a channel nobody has reported on.
pub const PENDING: &str = "pending";

/// Name of a fate in the delivery log.
pub fn state(fate: Fate) -> &'static str {
    match fate {
        Fate::Acked => "delivered",
        other => other.as_str(),
    }
}

/// Rank of a fate in the delivery log; a state of a lower rank never replaces a higher one.
pub fn rank(fate: Fate) -> u8 {
    match fate {
        Fate::NotHere | Fate::Unsupported => 1,
        Fate::Deferred => 2,
        Fate::Expired | Fate::Collapsed => 3,
        Fate::Written => 4,
        Fate::Acked => 5,
        Fate::Read => 6,
    }
}
