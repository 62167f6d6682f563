//! Open connections: the product's sessions, and what the core threads do for them.

use super::{Arrival, GatewayDone};
use crate::{
    client::ClientEvent,
    world::{Done, Event, Owner, World, number_of},
};
use bytes::Bytes;
use herald::{
    control::upstream::{SyncReply, Upstream},
    envelope::Fate,
    gateway::mailbox::ConnId,
    ids::UserId,
    limits,
    position::Cursors,
    proto::{
        client::{cursors, frames},
        session::{Action, Framing, Item, Session, Ticket},
    },
};
use smallvec::SmallVec;
use std::{collections::BTreeSet, sync::Arc};

pub struct Conn {
    pub user: UserId,
    pub client: usize,
    pub generation: u32,
    session: Session,
    tick_at_ms: u64,
    /// The kernel takes nothing before.
    blocked_until_ms: u64,
    /// When the last bytes arrive: later ones don't overtake them.
    arrives_ms: u64,
    /// Asked to come back elsewhere.
    pub asked_to_leave: bool,
}

pub enum ConnEvent {
    Accept {
        client: usize,
        generation: u32,
        cursors: String,
    },
    /// The client's text; an empty one only shows that it lives.
    Said(ConnId, String),
    Left(ConnId),
    Tick(ConnId),
    Flush(ConnId),
    Deliver {
        conn: ConnId,
        item: Arc<Item>,
        ticket: Ticket,
    },
    Behind(ConnId),
    Slot(ConnId),
    Evict {
        conn: ConnId,
        after_ms: u32,
    },
}

impl World {
    pub fn conn_event(&mut self, owner: Owner, event: ConnEvent) {
        let Owner::Gateway(number, _) = owner else {
            unreachable!("a gateway's connection");
        };
        let (conn, event) = match event {
            ConnEvent::Accept {
                client,
                generation,
                cursors,
            } => return self.accept(number, client, generation, &cursors),
            ConnEvent::Deliver { conn, item, ticket } => {
                return match self.gateways[number].conns.contains_key(&conn) {
                    true => self.deliver(number, conn, &item, ticket),
                    false => self.fate(number, ticket, Fate::NotHere),
                };
            }
            ConnEvent::Said(conn, _)
            | ConnEvent::Left(conn)
            | ConnEvent::Tick(conn)
            | ConnEvent::Flush(conn)
            | ConnEvent::Behind(conn)
            | ConnEvent::Slot(conn)
            | ConnEvent::Evict { conn, .. } => (conn, event),
        };
        if !self.gateways[number].conns.contains_key(&conn) {
            return;
        }
        if let ConnEvent::Left(_) = event {
            return self.ended(number, conn);
        }
        let now = self.now();
        let random_ms = self.random_ms(0..1_000) as u32;
        let config = self.session.clone();
        let window = self.gateways[number].window;
        let mut actions = Vec::new();
        let session = self.session_of(number, conn);
        match event {
            ConnEvent::Said(_, text) => {
                session.heard(now);
                if !text.is_empty() {
                    session.receive(&text, now, &config, &mut actions);
                }
            }
            ConnEvent::Tick(_) => session.tick(now, &config, &mut actions),
            ConnEvent::Behind(_) => session.behind(random_ms, now),
            ConnEvent::Slot(_) => session.slot(window, &mut actions),
            ConnEvent::Evict { after_ms, .. } => {
                session.reconnect(after_ms, "the host is drained", &mut actions);
            }
            _ => {}
        }
        self.carry_out(number, conn, actions);
        self.flush(number, conn);
    }

    fn session_of(&mut self, number: usize, conn: ConnId) -> &mut Session {
        let conns = &mut self.gateways[number].conns;
        &mut conns.get_mut(&conn).expect("an open connection").session
    }

    fn accept(&mut self, number: usize, client: usize, generation: u32, presented: &str) {
        let (now, config) = (self.now(), self.session.clone());
        if self.gateways[number].draining {
            return self.client_later_of(client, generation, 1, ClientEvent::Broken);
        }
        self.ledger
            .accepts(number, self.clock.now_ms(), self.plan.accepts_per_s);
        let user = crate::world::user(self.plan.devices[client]);
        let presented = cursors::from_text(presented).expect("a client's cursors");
        let gateway = &mut self.gateways[number];
        gateway.slots += 1;
        let conn = ConnId {
            slot: gateway.slots,
            core: 0,
            reuse: 0,
        };
        let salt = (client as u32) << 8 | generation;
        let mut session = Session::new(Framing::WebSocket, u64::MAX, salt, now, &config);
        let mut actions = Vec::new();
        session.welcome("connection", gateway.window, &config, &mut actions);
        if !presented.is_empty() {
            session.sync_asked();
        }
        *gateway.opened.back_mut().expect("never empty") += 1;
        let opened = gateway.table.open(&user, conn);
        gateway.conns.insert(
            conn,
            Conn {
                user: user.clone(),
                client,
                generation,
                session,
                tick_at_ms: u64::MAX,
                blocked_until_ms: 0,
                arrives_ms: 0,
                asked_to_leave: false,
            },
        );
        self.tell(number_of(&user), || {
            format!("gw-{number} accepts device {client}")
        });
        let owner = self.gateway_owner(number);
        self.client_later_of(client, generation, 0, ClientEvent::Opened(owner, conn));
        self.carry_out(number, conn, actions);
        self.flush(number, conn);
        let catch_up = (!presented.is_empty()).then_some((presented, limits::SYNC_ITEMS));
        match (opened.registered, catch_up) {
            (false, catch_up) => {
                let arrival = Arrival {
                    conn,
                    registration: opened.registration,
                    catch_up,
                };
                self.arrives(number, arrival);
            }
            (true, Some((presented, limit))) => {
                self.catch_up(number, conn, &user, presented, limit);
            }
            (true, None) => {}
        }
    }

    fn arrives(&mut self, number: usize, arrival: Arrival) {
        self.gateways[number].arrivals.push(arrival);
        let owner = self.gateway_owner(number);
        self.after(1, owner, Event::Gateway(super::GatewayEvent::Register));
    }

    fn deliver(&mut self, number: usize, conn: ConnId, item: &Arc<Item>, ticket: Ticket) {
        let (now, config) = (self.now(), self.session.clone());
        let mut actions = Vec::new();
        let open = self.gateways[number]
            .conns
            .get_mut(&conn)
            .expect("an open connection");
        let blocked = open.blocked_until_ms > now.mono_ms;
        let direct = open.session.direct(item, now).filter(|_| !blocked);
        match direct.cloned() {
            Some(bytes) => {
                let written = bytes.len();
                open.session
                    .sent_directly(item, ticket, written, now, &mut actions);
                self.transmit(number, conn, bytes);
            }
            None => open
                .session
                .deliver(item, ticket, now, &config, &mut actions),
        }
        self.carry_out(number, conn, actions);
        self.flush(number, conn);
    }

    /// Whatever the session has to send, as far as the kernel takes it.
    fn flush(&mut self, number: usize, conn: ConnId) {
        let (now, config) = (self.now(), self.session.clone());
        loop {
            let Some(open) = self.gateways[number].conns.get_mut(&conn) else {
                return;
            };
            if open.blocked_until_ms > now.mono_ms {
                break;
            }
            let mut actions = Vec::new();
            let offered: Vec<u8> = {
                let mut slices = SmallVec::new();
                open.session.gather(now, &mut slices, &mut actions);
                slices.concat()
            };
            if offered.is_empty() {
                self.carry_out(number, conn, actions);
                break;
            }
            open.session
                .advance(offered.len(), now, &config, &mut actions);
            self.transmit(number, conn, offered.into());
            self.carry_out(number, conn, actions);
        }
        self.plan_tick(number, conn);
    }

    fn plan_tick(&mut self, number: usize, conn: ConnId) {
        let (now, config, owner) = (self.now(), self.session.clone(), self.gateway_owner(number));
        let Some(open) = self.gateways[number].conns.get_mut(&conn) else {
            return;
        };
        let due_ms = now.mono_ms + u64::from(open.session.due_in_ms(now, &config)).max(1);
        if open.tick_at_ms > due_ms || open.tick_at_ms <= now.mono_ms {
            open.tick_at_ms = due_ms;
            self.at(due_ms, owner, Event::Conn(ConnEvent::Tick(conn)));
        }
    }

    /// Bytes on their way to the client, in order.
    fn transmit(&mut self, number: usize, conn: ConnId, bytes: Bytes) {
        let now_ms = self.now_ms();
        let way_ms = self.random_ms(1..30);
        let open = self.gateways[number]
            .conns
            .get_mut(&conn)
            .expect("an open connection");
        open.arrives_ms = open.arrives_ms.max(now_ms + way_ms);
        let (client, generation) = (open.client, open.generation);
        let after_ms = open.arrives_ms - now_ms;
        self.client_later_of(client, generation, after_ms, ClientEvent::Bytes(bytes));
    }

    fn carry_out(&mut self, number: usize, conn: ConnId, actions: Vec<Action>) {
        for action in actions {
            let Some(open) = self.gateways[number].conns.get(&conn) else {
                if let Action::Fate { ticket, fate } = action {
                    self.fate(number, ticket, fate);
                }
                continue;
            };
            let user = open.user.clone();
            match action {
                Action::Fate { ticket, fate } => self.fate(number, ticket, fate),
                Action::Acked(ids) => self.said(number, &user, ids),
                Action::Sync { cursors, limit } => {
                    self.sync_asked(number, conn, &user, cursors, limit);
                }
                Action::Close { code, reason } => {
                    self.tell(number_of(&user), || {
                        format!(
                            "gw-{number} closes the connection: {} {reason}",
                            code.code()
                        )
                    });
                    self.ended(number, conn);
                }
                Action::Read(_)
                | Action::Authenticate { .. }
                | Action::Shed
                | Action::Refused(_) => {}
            }
        }
    }

    /// The connection is no more: what was unsent is reported.
    fn ended(&mut self, number: usize, conn: ConnId) {
        let gateway = &mut self.gateways[number];
        let Some(mut open) = gateway.conns.remove(&conn) else {
            return;
        };
        gateway.table.close(&open.user, conn);
        gateway.behind.remove(&conn);
        let mut actions = Vec::new();
        open.session.abandon(&mut actions);
        self.carry_out(number, conn, actions);
        let after_ms = self.random_ms(1..20);
        self.client_later_of(open.client, open.generation, after_ms, ClientEvent::Broken);
    }

    // ── catching up ────────────────────────────────────────────────────────────────────────────────────

    /// A catch-up of a user whose registry write is on the way waits for it.
    fn sync_asked(
        &mut self,
        number: usize,
        conn: ConnId,
        user: &UserId,
        cursors: Cursors,
        limit: usize,
    ) {
        match self.gateways[number].table.unregistered(user) {
            Some(registration) => {
                let arrival = Arrival {
                    conn,
                    registration,
                    catch_up: Some((cursors, limit)),
                };
                self.arrives(number, arrival);
            }
            None => self.catch_up(number, conn, user, cursors, limit),
        }
    }

    pub(super) fn catch_up(
        &mut self,
        number: usize,
        conn: ConnId,
        user: &UserId,
        asked: Cursors,
        limit: usize,
    ) {
        let gateway = &self.gateways[number];
        if !gateway.conns.contains_key(&conn) {
            return;
        }
        // Before the store is read: what is stored later must be able to reach this host.
        let reaches = gateway.reaches(user);
        let Some(dispatcher) = self.some_dispatcher() else {
            return self.synced(number, conn, asked, reaches, None);
        };
        let upstream = self.upstream(dispatcher);
        let lost = GatewayDone::Synced {
            conn,
            asked: asked.clone(),
            reaches,
            reply: None,
        };
        let user = user.clone();
        let job = Box::pin(async move {
            let reply = upstream.sync(&user, asked.clone(), limit).await.ok();
            Done::Gateway(GatewayDone::Synced {
                conn,
                asked,
                reaches,
                reply,
            })
        });
        let (runs_on, told) = (
            self.dispatcher_owner(dispatcher),
            self.gateway_owner(number),
        );
        let call = self.call(runs_on, told, Some(Done::Gateway(lost)), job);
        let wait_ms = limits::SYNC_WAIT.as_millis() as u64;
        self.after(wait_ms, told, Event::Timeout(call));
    }

    pub(super) fn synced(
        &mut self,
        number: usize,
        conn: ConnId,
        asked: Cursors,
        reaches: bool,
        reply: Option<SyncReply>,
    ) {
        if !self.gateways[number].conns.contains_key(&conn) {
            return;
        }
        let unsettled = reply.as_ref().is_some_and(|reply| reply.unsettled);
        let (frame, cursors, complete) = match reply {
            Some(mut reply) => {
                // Otherwise the end of the cause tells this connection, with everyone else it concerns.
                reply.recovered &= reaches;
                let frame = frames::sync(
                    &reply.items,
                    &reply.ranges,
                    &reply.cursors,
                    reply.recovered,
                    reply.has_more,
                );
                let complete = reply.recovered && !reply.has_more;
                (frame, reply.cursors, complete)
            }
            None => {
                self.gateways[number].behind.insert(conn);
                let frame = frames::sync(&[], &Default::default(), &asked, false, false);
                (frame, asked, false)
            }
        };
        let (now, heartbeat_ms) = (self.now(), self.session.heartbeat_ms);
        let mut actions = Vec::new();
        let session = self.session_of(number, conn);
        session.synced(&frame, &cursors, complete, &mut actions);
        if unsettled {
            session.behind(heartbeat_ms, now);
        }
        self.carry_out(number, conn, actions);
        self.flush(number, conn);
    }

    /// These may have missed something, and the cause has ended.
    pub(super) fn tell_behind(&mut self, number: usize, conns: BTreeSet<ConnId>) {
        let owner = self.gateway_owner(number);
        for conn in conns {
            let after_ms = self.random_ms(0..100);
            self.after(after_ms, owner, Event::Conn(ConnEvent::Behind(conn)));
        }
    }

    // ── what the world does to them ────────────────────────────────────────────────────────────────────

    /// The host is gone: most clients learn it from a reset, a few only from silence.
    pub fn connections_break(&mut self, number: usize) {
        let conns = std::mem::take(&mut self.gateways[number].conns);
        for conn in conns.into_values() {
            if self.random_ms(0..10) > 0 {
                let after_ms = self.random_ms(1..50);
                let (client, generation) = (conn.client, conn.generation);
                self.client_later_of(client, generation, after_ms, ClientEvent::Broken);
            }
        }
    }

    /// The device takes nothing from its socket for a while.
    pub fn stall(&mut self, client: usize, for_ms: u64) {
        let until_ms = self.now_ms() + for_ms;
        for number in 0..self.gateways.len() {
            let owner = self.gateway_owner(number);
            let conns = &mut self.gateways[number].conns;
            let stalled = conns.iter_mut().filter(|(_, conn)| conn.client == client);
            let stalled: Vec<ConnId> = stalled
                .map(|(id, conn)| {
                    conn.blocked_until_ms = until_ms;
                    *id
                })
                .collect();
            for conn in stalled {
                self.at(until_ms, owner, Event::Conn(ConnEvent::Flush(conn)));
            }
        }
    }
}
