//! What a core does between two waits.

use super::{
    accept::Door,
    conn::{Conn, State},
    context::Context,
    mailbox::ConnId,
    park::{Park, Token},
    slots::Slots,
    walk::Walks,
    wheel::{TICK_MS, Wheel},
};
use crate::{
    limits,
    sys::{Doorbell, EVENTS_MAX, Readiness, Ticker},
};
use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// One `recv`. A connection that fills it is read on after the others had their turn.
const BUFFER_BYTES: usize = 64 * 1024;

pub(super) struct Core {
    pub park: Park,
    ticker: Ticker,
    /// Only watched; kept open.
    _bell: Doorbell,
    pub door: Door,
    pub conns: Slots<Conn>,
    pub wheel: Wheel,
    /// The one receive buffer: no connection owns one.
    buffer: Box<[u8]>,
    /// Connections that may hold more bytes than were read.
    unread: VecDeque<ConnId>,
    /// Connections that have something to send at the end of the turn.
    touched: Vec<ConnId>,
    /// The set had more events than one turn takes.
    events_left: bool,
    /// Control may have written more than one turn takes.
    pub letters_left: bool,
    pub walks: Walks,
    /// Client sockets of all cores.
    pub population: Arc<AtomicUsize>,
    /// Sockets of our own canary among the connections: one, or a few while it looks for its core.
    pub canaries: usize,
    /// Connections that are only being told that memory is short.
    pub unwelcome: usize,
    /// Slab entries in the account of memory, and ticks until it is looked at again.
    entries: u32,
    look_in_ticks: u32,
    pub ended: bool,
    pub context: Context,
}

impl Core {
    pub fn new(
        park: Park,
        ticker: Ticker,
        bell: Doorbell,
        door: Door,
        population: Arc<AtomicUsize>,
        context: Context,
    ) -> Core {
        Core {
            park,
            ticker,
            _bell: bell,
            door,
            conns: Slots::new(),
            wheel: Wheel::new(context.now.mono_ms),
            buffer: vec![0; BUFFER_BYTES].into(),
            unread: VecDeque::new(),
            touched: Vec::new(),
            events_left: false,
            letters_left: true,
            walks: Walks::default(),
            population,
            canaries: 0,
            unwelcome: 0,
            entries: 0,
            look_in_ticks: 0,
            ended: false,
            context,
        }
    }

    pub async fn run(mut self) -> io::Result<()> {
        while !self.ended {
            if !self.has_more() {
                self.park.wait().await?;
            }
            self.turn()?;
        }
        self.hand_over_last();
        Ok(())
    }

    /// What was told last is told, if anybody still listens.
    fn hand_over_last(&mut self) {
        let until = Instant::now() + limits::LAST_WORDS;
        while !self.context.mail.hand_over() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Work that is known without asking the set. While control's queue is full only the set counts:
    /// control rings when there is room.
    fn has_more(&self) -> bool {
        let work = self.letters_left || !self.unread.is_empty() || self.walks.are_running();
        self.events_left || !self.touched.is_empty() || (self.context.has_room && work)
    }

    fn turn(&mut self) -> io::Result<()> {
        self.context.begin_turn();
        let events = self.park.take()?;
        self.events_left = events == EVENTS_MAX;
        for index in 0..events {
            match self.park.event(index) {
                (Token::Connection { index, reuse }, readiness) => {
                    self.socket_ready(index, reuse, readiness);
                }
                (Token::Listener(entrance), _) => self.accept(entrance)?,
                (Token::Doorbell, _) => {
                    self.context.mail.answered();
                    self.letters_left = true;
                }
                (Token::Ticker, _) => self.tick()?,
            }
        }
        if self.context.has_room {
            self.read_on();
            self.read_letters();
            self.walk();
        }
        self.bound_handshakes();
        self.flush_touched();
        self.hand_over()
    }

    fn socket_ready(&mut self, index: u32, reuse: u16, readiness: Readiness) {
        let Some(conn) = self.conns.tenant(index, reuse) else {
            return;
        };
        let id = ConnId {
            slot: index,
            core: self.context.core,
            reuse,
        };
        conn.ends |= readiness.ends();
        if readiness.writable() && conn.blocked {
            conn.blocked = false;
            conn.flush(id, &mut self.context);
        }
        if readiness.readable() {
            match self.may_read() {
                true => self.read(id),
                false => self.read_later(id),
            }
        }
        self.settle(id);
    }

    fn may_read(&self) -> bool {
        self.context.has_room && !self.context.mail.is_choked()
    }

    /// One `recv`, and what it means.
    fn read(&mut self, id: ConnId) {
        let Some(conn) = self.conns.tenant(id.slot, id.reuse) else {
            return;
        };
        let context = &mut self.context;
        match (&conn.wire.socket).read(&mut self.buffer) {
            Ok(0) => conn.peer_ended(id, context),
            Ok(count) => {
                context.stats.received_bytes += count as u64;
                conn.arrived(&mut self.buffer[..count], id, context);
                // An edge is told once: where more may lie, nobody will say so again.
                if count == BUFFER_BYTES || conn.ends {
                    self.read_later(id);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read_later(id),
            Err(_) => conn.lost("reset", id, context),
        }
    }

    fn read_later(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.tenant(id.slot, id.reuse)
            && !conn.unread
        {
            conn.unread = true;
            self.unread.push_back(id);
        }
    }

    /// One more `recv` for those that wait for one, in turn.
    fn read_on(&mut self) {
        for _ in 0..self.unread.len().min(EVENTS_MAX) {
            if !self.may_read() {
                return;
            }
            let Some(id) = self.unread.pop_front() else {
                return;
            };
            if let Some(conn) = self.conns.tenant(id.slot, id.reuse) {
                conn.unread = false;
                self.read(id);
                self.settle(id);
            }
        }
    }

    /// After anything was done with a connection: lists it to be flushed, sets its time, buries it.
    pub fn settle(&mut self, id: ConnId) {
        let Some(conn) = self.conns.tenant(id.slot, id.reuse) else {
            return;
        };
        debug_assert!(self.context.actions.is_empty());
        conn.account(id, &mut self.context);
        if matches!(conn.state, State::Gone) {
            conn.wire.leave(&mut self.context.channels);
            self.wheel.clear(&mut self.conns, id.slot);
            // Closes the socket, which also takes it out of the set.
            let Some(removed) = self.conns.remove(id.slot) else {
                return;
            };
            self.unwelcome -= usize::from(removed.unwelcome);
            match removed.canary {
                true => self.canaries -= 1,
                false => drop(self.population.fetch_sub(1, Ordering::Relaxed)),
            }
            return;
        }
        if !conn.touched && conn.wants_flush() {
            conn.touched = true;
            self.touched.push(id);
        }
        let due_ms = conn.due_ms(&self.context);
        self.wheel.bring_forward(&mut self.conns, id.slot, due_ms);
    }

    /// What this turn has left to send leaves together, one `writev` per connection.
    fn flush_touched(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(conn) = self.conns.tenant(id.slot, id.reuse) {
                conn.touched = false;
                if conn.wants_flush() {
                    conn.flush(id, &mut self.context);
                }
                self.settle(id);
            }
        }
    }

    fn tick(&mut self) -> io::Result<()> {
        self.ticker.silence();
        while let Some(index) = self.wheel.fire(&mut self.conns, self.context.now.mono_ms) {
            let Some((reuse, conn)) = self.conns.at(index) else {
                continue;
            };
            let id = ConnId {
                slot: index,
                core: self.context.core,
                reuse,
            };
            conn.fire(id, &mut self.context);
            self.settle(id);
        }
        self.walk_by_tick();
        self.publish();
        self.account();
        self.door.refill();
        match self.context.has_room {
            true => self.door.unmute(&self.park),
            false => Ok(()),
        }
    }

    fn publish(&mut self) {
        let clients = self.clients();
        let context = &mut self.context;
        context.stats.tls_sent_bytes += std::mem::take(&mut context.channels.scratch.sent_bytes);
        context.stats.publish(clients);
    }

    /// The slab as it is now; and one core, once a second, compares all that is held with the prediction.
    fn account(&mut self) {
        let entries = self.conns.end();
        let more = entries - std::mem::replace(&mut self.entries, entries);
        self.context.memory.add_entries(more.into());
        self.look_in_ticks = match self.look_in_ticks {
            0 => (1_000 / TICK_MS) as u32 - 1,
            left => left - 1,
        };
        if self.context.core == 0 && self.look_in_ticks == 0 {
            self.context.memory.look();
        }
    }

    /// Connections but for our own canary's.
    pub fn clients(&self) -> usize {
        self.conns.len() - self.canaries
    }

    fn hand_over(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.context.held_change) {
            0 => {}
            change => self.context.memory.add_held(change),
        }
        let had_room = self.context.has_room;
        self.context.has_room = self.context.mail.hand_over();
        match (had_room, self.context.has_room) {
            (true, false) => self.context.stats.stalled += 1,
            (false, true) => self.door.unmute(&self.park)?,
            _ => {}
        }
        Ok(())
    }
}
