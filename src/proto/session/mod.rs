//! An open connection: what it may receive, what waits to be sent, when it is dead. The same code for
//! WebSocket and SSE; only the framing of what leaves differs.
//!
//! Invariants:
//! * an idle connection owns no heap memory here (an SSE one: its cursors); what only a busy one needs is
//!   boxed in [`Lanes`] and freed when everything is sent;
//! * one that is behind stays so until a complete sync that was asked for afterwards ([`CatchUp`]);
//! * after a [`Action::Close`] nothing is asked of the surroundings any more, and after [`Session::finish`]
//!   nothing but its bytes leaves.
//!
//! A WebSocket client is dead after `dead_after_ms` of silence. An SSE client can't answer: its heartbeat
//! comment makes the kernel send, and the connection is dead when the write fails (the gateway sets
//! `TCP_USER_TIMEOUT` to `dead_after_ms`) or nothing was taken for `unwritable_close_ms`.

mod catch_up;
mod clock;
mod incoming;
mod item;
mod outgoing;
mod outlet;
#[cfg(test)]
mod tests;
mod time;

pub use catch_up::CatchUp;
pub use clock::{Stamp, spread};
pub use item::Item;
pub use outlet::Outlet;

use super::{
    Now,
    client::{
        ErrorCode,
        frames::{self, Slot},
    },
    close::CloseCode,
    lanes::Lanes,
    sse::Tracked,
};
use crate::{
    config::{self, Secret},
    envelope::Fate,
    ids::{NotificationId, Region},
    limits::SYNC_ITEMS,
    position::{Cursors, Position},
};
use bytes::Bytes;
use std::sync::Arc;

/// Identifies one delivery towards control: whose outcome it is.
pub type Ticket = u64;

/// How bytes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    WebSocket,
    Sse,
}

/// What the session asks of its surroundings.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Acked(Vec<NotificationId>),
    Read(Vec<NotificationId>),
    /// Answer with [`Session::synced`], also when nothing could be read (`recovered:false`).
    Sync {
        cursors: Cursors,
        limit: usize,
    },
    /// A refresh; answer with [`Session::refreshed`] or a close.
    Authenticate {
        token: Secret,
        cursors: Option<Cursors>,
    },
    /// What became of a delivery here: one first fate each (`Deferred` or a final one), and after
    /// `Deferred` at most one final one.
    Fate {
        ticket: Ticket,
        fate: Fate,
    },
    /// An item was dropped for want of room (its fate is told apart): to be counted.
    Shed,
    /// A client frame was answered with `error`: to be counted.
    Refused(ErrorCode),
    Close {
        code: CloseCode,
        reason: &'static str,
    },
}

/// What all sessions of a core share.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Named in `gap` frames of cause `behind`, which concern the user's stream.
    pub user_stream: Arc<str>,
    pub heartbeat_ms: u32,
    pub dead_after_ms: u32,
    pub deferred_after_ms: u32,
    pub unwritable_close_ms: u32,
    pub messages_per_s: u32,
    pub messages_burst: u32,
    pub lanes_bytes: usize,
}

impl SessionConfig {
    pub fn new(gateway: &config::Gateway, region: &Region) -> SessionConfig {
        // A day is beyond every sane setting, and far within what a `Stamp` can tell.
        let ms = |ms: u64| ms.min(24 * 3_600_000) as u32;
        SessionConfig {
            user_stream: region.user_stream().into(),
            heartbeat_ms: ms(gateway.heartbeat_ms),
            dead_after_ms: ms(gateway.dead_after_ms),
            deferred_after_ms: ms(gateway.deferred_after_ms),
            unwritable_close_ms: ms(gateway.unwritable_close_ms),
            messages_per_s: gateway.client_messages_per_s,
            messages_burst: gateway.client_messages_burst,
            lanes_bytes: gateway.lanes_bytes,
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Session {
    lanes: Option<Box<Lanes>>,
    /// SSE only: the cursors of a client that can't present any but the last `id:`.
    tracked: Option<Box<Tracked>>,
    expires_unix_s: u32,
    heard: Stamp,
    ping_due: Stamp,
    /// When the client's allowance is whole again: a token bucket in four bytes.
    allowance_whole: Stamp,
    behind_due: Stamp,
    salt: u32,
    framing: Framing,
    catch_up: CatchUp,
    behind_told: bool,
    expiry_told: bool,
    closing: bool,
}

/// Exists half a million times.
const _: () = assert!(size_of::<Session>() <= 48);

impl Session {
    /// `salt` differs between connections (a hash of its address will do) and spreads what they do.
    pub fn new(
        framing: Framing,
        expires_unix_s: u64,
        salt: u32,
        now: Now,
        cfg: &SessionConfig,
    ) -> Session {
        let start = Stamp::at(now);
        let mut session = Session {
            lanes: None,
            tracked: None,
            expires_unix_s: 0,
            heard: start,
            ping_due: start,
            allowance_whole: start,
            behind_due: start,
            salt,
            framing,
            catch_up: CatchUp::default(),
            behind_told: false,
            expiry_told: false,
            closing: false,
        };
        session.refreshed(expires_unix_s);
        session.schedule_ping(now, cfg);
        session
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    fn close(&mut self, code: CloseCode, reason: &'static str, actions: &mut Vec<Action>) {
        if !self.closing {
            self.closing = true;
            actions.push(Action::Close { code, reason });
        }
    }
}
