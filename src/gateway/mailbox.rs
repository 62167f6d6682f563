//! What crosses between core threads and control: bounded queues with one wake per batch.

use crate::{
    config,
    envelope::Fate,
    ids::{GatewayId, NotificationId, UserId},
    position::Cursors,
    proto::{
        close::CloseCode,
        session::{Item, Ticket},
    },
};
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;

/// Address of a connection: core, slot of its slab, and how often the slot was used before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub slot: u32,
    pub core: u16,
    pub reuse: u16,
}

/// How connections are called towards clients and operators: `<gateway>.<start>.<core>-<slot>-<reuse>`. The
/// start of the process (Unix ms) tells them from those of an earlier life.
#[derive(Clone, Debug)]
pub struct ConnectionNames {
    gateway: GatewayId,
    started_unix_ms: u64,
}

impl ConnectionNames {
    pub fn new(gateway: GatewayId, started_unix_ms: u64) -> ConnectionNames {
        ConnectionNames {
            gateway,
            started_unix_ms,
        }
    }

    pub fn of(&self, conn: ConnId) -> String {
        let (gateway, started) = (&self.gateway, self.started_unix_ms);
        let ConnId { slot, core, reuse } = conn;
        format!("{gateway}.{started}.{core}-{slot}-{reuse}")
    }
}

/// Control to one core.
#[derive(Debug)]
pub enum ToCore {
    /// Push to connections of this core, in order. Each delivery is answered by one
    /// [`FromCore::Fate`] per ticket (final, or `Deferred` first and the final one later); a connection
    /// that is no more is `NotHere`.
    Deliver(Vec<Delivery>),
    /// To every open connection of this core. Those whose socket took it at once are told together, by one
    /// `Written` when the last was visited (also if there was none); slower ones by fates of their own.
    Broadcast { ticket: Ticket, item: Arc<Item> },
    /// Answer to [`FromCore::Sync`] (or to the cursors of [`FromCore::Opened`]): the whole `sync` frame as
    /// JSON text, the cursors it leads to, and whether it completes the catch-up (`recovered` and no more).
    Synced {
        conn: ConnId,
        frame: Bytes,
        cursors: Cursors,
        complete: bool,
    },
    /// Any other frame as JSON text (`read`, `slot`, `gap`, `error` …); never waits behind data.
    Control { conn: ConnId, frame: Bytes },
    /// The answer to a `POST /sse/…`.
    Answer {
        conn: ConnId,
        status: u16,
        body: Bytes,
    },
    /// May have missed something: `gap{cause:"behind"}` after this many ms, until a complete sync.
    Behind { conn: ConnId, sync_after_ms: u32 },
    Close {
        conn: ConnId,
        code: CloseCode,
        reason: &'static str,
    },
    /// New crash slot for everyone, told over one heartbeat.
    Slot {
        after_ms_min: u32,
        after_ms_max: u32,
    },
    /// `[gateway]` was read again; what of it may change does, for those who are connected too.
    Reload(Arc<config::Gateway>),
    /// Stop accepting (shutdown and close of the listener).
    StopAccepting,
    /// Leaving: newcomers are refused, and [`FromCore::Drained`] says when nobody is left. `false` takes it
    /// back.
    Leave(bool),
    /// Ask so many clients, evenly over the coming second, to come back elsewhere within `back_within_ms`
    /// (each by its own dice); close 1012 each. What an earlier order left over is forgotten.
    Evict { clients: u32, back_within_ms: u32 },
    /// Close what is left and end the thread.
    Shutdown,
}

#[derive(Debug)]
pub struct Delivery {
    pub ticket: Ticket,
    pub item: Arc<Item>,
    pub conns: SmallVec<[ConnId; 2]>,
}

/// A core to control.
#[derive(Debug)]
pub enum FromCore {
    /// Authenticated; answered by `Synced` when cursors were presented. The core has sent `welcome`.
    Opened {
        conn: ConnId,
        user: UserId,
        cursors: Option<Cursors>,
    },
    Closed {
        conn: ConnId,
        user: UserId,
    },
    Acked {
        conn: ConnId,
        user: UserId,
        ids: Vec<NotificationId>,
    },
    Read {
        conn: ConnId,
        user: UserId,
        ids: Vec<NotificationId>,
    },
    Sync {
        conn: ConnId,
        user: UserId,
        cursors: Cursors,
        limit: usize,
    },
    /// A `POST /sse/{ack,read,sync}` of an authenticated user (no open stream needed here); wants `Answer`.
    Post {
        conn: ConnId,
        user: UserId,
        post: Post,
    },
    /// What became of a delivery on this core: connections of the ticket that met this fate.
    /// Per ticket the devices of final fates add up to the connections it was sent to.
    Fate {
        ticket: Ticket,
        fate: Fate,
        devices: u32,
    },
    /// Our own canary's connection on this core: no user's, and in no other message.
    Canary {
        conn: ConnId,
        said: CanarySaid,
    },
    /// Every connection has been asked to leave and is gone.
    Drained {
        core: u16,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub enum CanarySaid {
    Opened,
    Acked(Vec<NotificationId>),
    Closed,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Post {
    Ack(Vec<NotificationId>),
    Read(Vec<NotificationId>),
    Sync { cursors: Cursors, limit: usize },
}
