//! What concerns every connection of a core, done in slices: a broadcast as fast as the rest allows, a new
//! slot over a heartbeat, a drain evenly over its window.
//!
//! Invariants:
//! * a walk keeps its place by slot, and entries never move: nobody who was there at its start and stays
//!   is left out, nobody is met twice;
//! * between two slices the core looks at its sockets and its letters, so a broadcast delays a unicast by
//!   one slice at most.

use super::{
    conn::{Conn, State},
    context::Context,
    core::Core,
    mailbox::{ConnId, FromCore},
    open::{Ending, Open, Party},
    proving::Proving,
    wheel::TICK_MS,
};
use crate::{
    envelope::Fate,
    limits::WALKS_WAITING,
    proto::{
        close::CloseCode,
        session::{Item, Ticket},
    },
};
use std::{collections::VecDeque, sync::Arc};

/// Slots visited by a broadcast between two looks at everything else: about a millisecond of writing.
const SLICE: u32 = 128;

#[derive(Default)]
pub(super) struct Walks {
    broadcasts: VecDeque<Broadcast>,
    /// Next slot to be told of the new window.
    slot_at: Option<u32>,
    drain: Option<Drain>,
}

/// One item on its way to everyone.
pub(super) struct Broadcast {
    ticket: Ticket,
    item: Arc<Item>,
    at: u32,
    /// Connections whose socket took it whole at once.
    written: u32,
}

struct Drain {
    at: u32,
    until_ms: u64,
    /// Control was told that nobody is left.
    told: bool,
}

impl Broadcast {
    pub fn new(ticket: Ticket, item: Arc<Item>) -> Broadcast {
        Broadcast {
            ticket,
            item,
            at: 0,
            written: 0,
        }
    }
}

impl Walks {
    pub fn are_full(&self) -> bool {
        self.broadcasts.len() >= WALKS_WAITING
    }

    /// There is a walk to go on with at once.
    pub fn are_running(&self) -> bool {
        !self.broadcasts.is_empty()
    }

    pub fn broadcast(&mut self, broadcast: Broadcast) {
        self.broadcasts.push_back(broadcast);
    }

    /// From the start again, if an earlier change is still being told.
    pub fn tell_slot(&mut self) {
        self.slot_at = Some(0);
    }

    pub fn drain(&mut self, until_ms: u64) {
        self.drain = Some(Drain {
            at: 0,
            until_ms,
            told: false,
        });
    }
}

impl Core {
    /// One slice of the oldest broadcast.
    pub fn walk(&mut self) {
        let Some(mut broadcast) = self.walks.broadcasts.pop_front() else {
            return;
        };
        self.context.broadcast = Some((broadcast.ticket, broadcast.written));
        let end = self.conns.end();
        let slice_end = end.min(broadcast.at + SLICE);
        while broadcast.at < slice_end {
            let index = broadcast.at;
            broadcast.at += 1;
            self.visit(index, |conn, id, context| {
                let State::Open(Open {
                    party: Party::User(_),
                    ..
                }) = &conn.state
                else {
                    return;
                };
                let (ticket, item) = (broadcast.ticket, &broadcast.item);
                Open::deliver(conn, item, ticket, id, context);
            });
        }
        if let Some((_, written)) = self.context.broadcast.take() {
            broadcast.written = written;
        }
        match broadcast.at < end {
            true => self.walks.broadcasts.push_front(broadcast),
            false => self
                .context
                .mail
                .fate(broadcast.ticket, Fate::Written, broadcast.written),
        }
    }

    /// A tick's share of the paced walks.
    pub fn walk_by_tick(&mut self) {
        self.tell_slot_by_tick();
        self.drain_by_tick();
    }

    fn tell_slot_by_tick(&mut self) {
        let Some(at) = self.walks.slot_at else {
            return;
        };
        let ticks = self.context.settings.gateway.heartbeat_ms / TICK_MS;
        let share = self.conns.end().div_ceil(ticks.max(1) as u32);
        let end = self.conns.end().min(at + share);
        for index in at..end {
            self.visit(index, |conn, id, context| {
                if let State::Open(open) = &mut conn.state {
                    open.session.slot(context.slot, &mut context.actions);
                    Open::carry_out(conn, id, context);
                }
            });
        }
        self.walks.slot_at = (end < self.conns.end()).then_some(end);
    }

    /// So many that the rest leaves evenly in the ticks that are left.
    fn drain_by_tick(&mut self) {
        let Some(mut drain) = self.walks.drain.take() else {
            return;
        };
        let left_ms = drain.until_ms.saturating_sub(self.context.now.mono_ms);
        let ticks = (left_ms / TICK_MS).max(1) as usize;
        let mut share = self.conns.len().div_ceil(ticks);
        while share > 0 && drain.at < self.conns.end() {
            let index = drain.at;
            drain.at += 1;
            self.visit(index, |conn, id, context| {
                if ask_to_leave(conn, id, context) {
                    share -= 1;
                }
            });
        }
        if self.conns.len() == 0 && !drain.told {
            drain.told = true;
            let core = self.context.core;
            self.context.mail.tell(FromCore::Drained { core });
        }
        self.walks.drain = Some(drain);
    }

    fn visit(&mut self, index: u32, mut act: impl FnMut(&mut Conn, ConnId, &mut Context)) {
        if let Some((reuse, conn)) = self.conns.at(index) {
            let id = ConnId {
                slot: index,
                core: self.context.core,
                reuse,
            };
            act(conn, id, &mut self.context);
            self.settle(id);
        }
    }
}

/// `reconnect` and close 1012; false if there was nobody to ask: who has yet to send a request will be
/// refused when it comes.
fn ask_to_leave(conn: &mut Conn, id: ConnId, context: &mut Context) -> bool {
    let ending = Ending::Ours(CloseCode::Restart, "drain");
    match &mut conn.state {
        State::Open(open) => {
            let slot = context.slot;
            let after_ms = rand::random_range(slot.after_ms_min..=slot.after_ms_max);
            open.session
                .reconnect(after_ms, "drain", &mut context.actions);
            Open::carry_out(conn, id, context);
            Open::end(conn, ending, id, context);
        }
        State::Proving(_) => Proving::end(conn, ending, id, context),
        _ => return false,
    }
    true
}
