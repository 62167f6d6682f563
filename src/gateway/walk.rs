//! What concerns every connection of a core, done in slices: a broadcast as fast as the rest allows, a new
//! slot over a heartbeat, an eviction evenly over its second.
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
    eviction: Eviction,
    /// Leaving, and control was not told yet that nobody is left.
    leaving: bool,
}

/// One item on its way to everyone.
pub(super) struct Broadcast {
    ticket: Ticket,
    item: Arc<Item>,
    at: u32,
    /// Connections whose socket took it whole at once.
    written: u32,
}

/// Clients asked to come back elsewhere.
#[derive(Default)]
struct Eviction {
    /// Where the next is looked for; the walk goes round, so that nobody is asked before all others were.
    at: u32,
    /// Still to be asked in this second, and its ticks that are left.
    clients: u32,
    ticks: u32,
    back_within_ms: u32,
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

    pub fn leave(&mut self, leaving: bool) {
        self.leaving = leaving;
        self.eviction = Eviction::default();
    }

    pub fn evict(&mut self, clients: u32, back_within_ms: u32) {
        self.eviction = Eviction {
            at: self.eviction.at,
            clients,
            ticks: (1_000 / TICK_MS) as u32,
            back_within_ms,
        };
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
            true => {
                self.walks.broadcasts.push_front(broadcast);
                // Whoever waits for this CPU carries what is for one user: it goes before what is for everyone.
                std::thread::yield_now();
            }
            false => self
                .context
                .mail
                .fate(broadcast.ticket, Fate::Written, broadcast.written),
        }
    }

    /// A tick's share of the paced walks.
    pub fn walk_by_tick(&mut self) {
        self.tell_slot_by_tick();
        self.evict_by_tick();
        if self.walks.leaving && self.clients() == 0 {
            self.walks.leaving = false;
            let core = self.context.core;
            self.context.mail.tell(FromCore::Drained { core });
        }
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

    /// A tick's share of those to ask. Looks at every slot once at most.
    fn evict_by_tick(&mut self) {
        let eviction = &mut self.walks.eviction;
        let mut share = eviction.clients.div_ceil(eviction.ticks.max(1));
        eviction.clients -= share;
        eviction.ticks = eviction.ticks.saturating_sub(1);
        let (mut at, within_ms) = (eviction.at, eviction.back_within_ms);
        let end = self.conns.end();
        let mut unseen = end;
        while share > 0 && unseen > 0 {
            let index = if at < end { at } else { 0 };
            at = index + 1;
            unseen -= 1;
            self.visit(index, |conn, id, context| {
                if ask_to_leave(conn, id, within_ms, context) {
                    share -= 1;
                }
            });
        }
        self.walks.eviction.at = at;
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
fn ask_to_leave(conn: &mut Conn, id: ConnId, back_within_ms: u32, context: &mut Context) -> bool {
    let ending = Ending::Ours(CloseCode::Restart, "drain");
    match &mut conn.state {
        _ if conn.canary => return false,
        State::Open(open) => {
            let after_ms = rand::random_range(0..=back_within_ms);
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
