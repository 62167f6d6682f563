//! Claims on sends: who hands a notification to a provider now, and what was handed over.
//!
//! Invariants:
//! * of all who claim the same send, one at a time has it, until it finishes or releases it, or its lease ends: a
//!   process that died holds a send up no longer than that, and suppresses none;
//! * what was finished is not granted again for [`limits::SEND_DONE`](crate::limits::SEND_DONE).

use crate::{
    envelope::Channel,
    ids::{DeviceId, NotificationId, UserId},
};

/// One notification for one device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SendKey {
    pub channel: Channel,
    pub id: NotificationId,
    pub user: UserId,
    pub device: DeviceId,
}

/// Answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendClaim {
    Ours,
    /// Another's, whose lease ends in this time unless it finishes before.
    Pending {
        wait_ms: u64,
    },
    /// A provider has taken it.
    Done,
}
