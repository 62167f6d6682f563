//! A device: the load tool's reading of the protocol's client rules, behind a connection.

use crate::{
    gateway::ConnEvent,
    plan::Broken,
    world::{Event, Owner, World, user},
};
use bytes::Bytes;
use herald::{gateway::mailbox::ConnId, ids::NotificationId, position::Position};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};
use swarm::{
    frame::ServerFrame,
    rules::{self, Context, Rules, Wish, come_back_after_ms},
};

/// Between two looks at what is due, where something may be; otherwise only silence is.
const DUE_SOON_MS: u64 = 300;
const DUE_LATER_MS: u64 = 5_000;
const CONNECT_WAIT_MS: u64 = 10_000;
const BACKOFF_MS: u64 = 500;

pub enum ClientEvent {
    Connect,
    /// The connection stands, or has not in time.
    Opened(Owner, ConnId),
    TooLate,
    Bytes(Bytes),
    Broken,
    Due,
    /// The server asked it to come back elsewhere.
    Leave(u64),
}

pub struct Client {
    pub user: usize,
    rules: Rules,
    random: SmallRng,
    pub generation: u32,
    attempt: u32,
    welcomed_ms: u64,
    connection: Option<(Owner, ConnId)>,
    /// Bytes leave in order.
    said_ms: u64,
    /// When it looks at what is due.
    due_ms: u64,
    /// Where it began: what stands before is the inbox's.
    floor: Option<Position>,
    cursor: Position,
    pub received: BTreeSet<NotificationId>,
    /// Copies that came live.
    copies: BTreeMap<NotificationId, u32>,
}

/// Of every client: it acknowledges, and waits for holes as a patient one does.
pub fn settings() -> rules::Settings {
    rules::Settings {
        run: "simulation".into(),
        acknowledge: true,
        events: false,
        tail: false,
        hole_wait_ms: 2_000,
        expect: None,
        slow_share: 0.0,
        slow_return: false,
    }
}

impl Client {
    pub fn new(number: usize, user: usize) -> Client {
        Client {
            user,
            rules: Rules::default(),
            random: SmallRng::seed_from_u64(number as u64),
            generation: 0,
            attempt: 0,
            welcomed_ms: 0,
            connection: None,
            said_ms: 0,
            due_ms: 0,
            floor: None,
            cursor: Position::START,
            received: BTreeSet::new(),
            copies: BTreeMap::new(),
        }
    }

    pub fn is_open(&self) -> bool {
        self.connection.is_some() && self.rules.is_welcomed()
    }

    pub fn welcomed_ms(&self) -> u64 {
        self.welcomed_ms
    }

    pub fn cursor(&self) -> Position {
        self.cursor
    }

    pub fn floor(&self) -> Option<Position> {
        self.floor
    }
}

impl World {
    pub fn client_later(&mut self, client: usize, after_ms: u64, event: ClientEvent) {
        let generation = self.clients[client].generation;
        self.client_later_of(client, generation, after_ms, event);
    }

    pub fn client_later_of(
        &mut self,
        client: usize,
        generation: u32,
        after_ms: u64,
        event: ClientEvent,
    ) {
        let event = Event::Client(client, generation, event);
        self.after(after_ms, Owner::World, event);
    }

    pub fn client_event(&mut self, client: usize, generation: u32, event: ClientEvent) {
        if self.clients[client].generation != generation {
            if let ClientEvent::Opened(owner, conn) = event {
                // Nobody waits for it any more: its end resets.
                self.after(5, owner, Event::Conn(ConnEvent::Left(conn)));
            }
            return;
        }
        match event {
            ClientEvent::Connect => self.connect(client),
            ClientEvent::Opened(owner, conn) => {
                self.clients[client].connection = Some((owner, conn));
                self.look_again(client, DUE_SOON_MS);
            }
            ClientEvent::TooLate if self.clients[client].connection.is_none() => {
                self.come_back(client, None);
            }
            ClientEvent::TooLate => {}
            ClientEvent::Bytes(bytes) => self.receive(client, &bytes),
            ClientEvent::Broken => self.come_back(client, None),
            ClientEvent::Leave(after_ms) => {
                self.hang_up(client);
                self.come_back(client, Some(after_ms));
            }
            ClientEvent::Due if self.clients[client].due_ms == self.now_ms() => {
                self.say_what_is_due(client);
            }
            ClientEvent::Due => {}
        }
    }

    /// By the balancer: the least connected of those it takes for ready, mostly.
    fn connect(&mut self, client: usize) {
        let ready = (0..self.gateways.len()).filter(|&number| self.gateways[number].is_ready());
        let mut ready: Vec<usize> = ready.collect();
        ready.sort_by_key(|&number| (self.gateways[number].conns.len(), number));
        let any = self.plan.devices.len() < 100 && self.random_ms(0..4) == 0;
        let chosen = match (ready.as_slice(), any) {
            ([], _) => None,
            (ready, true) => Some(ready[self.random_ms(0..ready.len() as u64) as usize]),
            (ready, false) => Some(ready[0]),
        };
        let Some(gateway) = chosen else {
            let after_ms = self.random_ms(500..1_500);
            return self.client_later(client, after_ms, ClientEvent::Connect);
        };
        let now_ms = self.now_ms();
        let one = &mut self.clients[client];
        one.rules.connecting(now_ms);
        let cursors = one.rules.cursors_text(&self.streams);
        let accept = ConnEvent::Accept {
            client,
            generation: one.generation,
            cursors,
        };
        let (owner, way_ms) = (self.gateway_owner(gateway), self.random_ms(1..40));
        self.after(way_ms, owner, Event::Conn(accept));
        self.client_later(client, CONNECT_WAIT_MS, ClientEvent::TooLate);
    }

    /// The connection is no more; another one follows.
    fn come_back(&mut self, client: usize, after_ms: Option<u64>) {
        let now_ms = self.now_ms();
        let one = &mut self.clients[client];
        one.connection = None;
        one.due_ms = 0;
        one.generation += 1;
        let (slot, attempt) = (one.rules.slot(), one.attempt);
        let after_ms = after_ms
            .unwrap_or_else(|| come_back_after_ms(slot, attempt, BACKOFF_MS, &mut one.random));
        one.attempt += 1;
        one.rules.connecting(now_ms);
        let user = one.user;
        self.tell(Some(user), || {
            format!("device {client} has no connection, comes back in {after_ms} ms")
        });
        self.client_later(client, after_ms, ClientEvent::Connect);
    }

    /// It leaves by itself, sometimes without a word.
    pub fn leave(&mut self, client: usize) {
        // A shorter story may do without the device.
        let Some(Some(_)) = self.clients.get(client).map(|one| one.connection) else {
            return;
        };
        if self.random_ms(0..3) > 0 {
            self.hang_up(client);
        }
        let after_ms = match self.random_ms(0..2) {
            0 => self.random_ms(1..150),
            _ => self.random_ms(1..3_000),
        };
        self.come_back(client, Some(after_ms));
    }

    fn hang_up(&mut self, client: usize) {
        if let Some((owner, conn)) = self.clients[client].connection {
            let way_ms = self.random_ms(1..40);
            self.after(way_ms, owner, Event::Conn(ConnEvent::Left(conn)));
        }
    }

    fn say_what_is_due(&mut self, client: usize) {
        let now_ms = self.now_ms();
        if self.clients[client].rules.is_dead(now_ms) {
            self.hang_up(client);
            return self.come_back(client, None);
        }
        let mut says = Vec::new();
        let one = &mut self.clients[client];
        let mut context = Context {
            settings: &self.client_settings,
            streams: &mut self.streams,
            tally: &mut self.tally,
            random: &mut one.random,
            roster: None,
            client: client as u32,
            now_ms,
        };
        one.rules.due(&mut context, &mut says);
        for say in says {
            self.say(client, say.json);
        }
        let one = &self.clients[client];
        let after_ms = match one.rules.is_syncing() || one.rules.has_hole() {
            true => DUE_SOON_MS,
            false => DUE_LATER_MS,
        };
        self.look_again(client, after_ms);
    }

    /// Unless it looks before.
    fn look_again(&mut self, client: usize, after_ms: u64) {
        let now_ms = self.now_ms();
        let one = &mut self.clients[client];
        if one.due_ms <= now_ms || one.due_ms > now_ms + after_ms {
            one.due_ms = now_ms + after_ms;
            self.client_later(client, after_ms, ClientEvent::Due);
        }
    }

    fn say(&mut self, client: usize, text: String) {
        let (now_ms, way_ms) = (self.now_ms(), self.random_ms(1..30));
        let one = &mut self.clients[client];
        let Some((owner, conn)) = one.connection else {
            return;
        };
        one.said_ms = one.said_ms.max(now_ms + way_ms);
        let at_ms = one.said_ms;
        let number = one.user;
        if text.contains("\"sync\"") {
            self.tell(Some(number), || format!("device {client} asks for a sync"));
        }
        self.at(at_ms, owner, Event::Conn(ConnEvent::Said(conn, text)));
    }

    fn receive(&mut self, client: usize, bytes: &[u8]) {
        let now_ms = self.now_ms();
        self.clients[client].rules.heard(now_ms);
        let mut rest = bytes;
        while let Some((opcode, payload, after)) = next_frame(rest) {
            rest = after;
            match opcode {
                0x1 => {
                    let text = std::str::from_utf8(payload).expect("frames are text");
                    self.take(client, text);
                }
                // A ping: any answer shows that the client lives.
                0x9 => self.say(client, String::new()),
                _ => {}
            }
        }
        assert!(rest.is_empty(), "bytes leave in whole frames here");
    }

    fn take(&mut self, client: usize, text: &str) {
        let mut frame = ServerFrame::parse(text).expect("a frame of ours");
        if self.plan.broken == Broken::CursorOverHoles && frame.prev.is_some() {
            frame.prev = Some(0);
        }
        let now_ms = self.now_ms();
        let false_before = self.tally.counters.syncs_false;
        let one = &mut self.clients[client];
        let was_welcomed = one.rules.is_welcomed();
        let mut context = Context {
            settings: &self.client_settings,
            streams: &mut self.streams,
            tally: &mut self.tally,
            random: &mut one.random,
            roster: None,
            client: client as u32,
            now_ms,
        };
        let wish = one.rules.receive(&frame, &mut context);
        if one.rules.is_welcomed() && !was_welcomed {
            one.attempt = 0;
            one.welcomed_ms = now_ms;
        }
        if self.tally.counters.syncs_false > false_before {
            let number = self.clients[client].user;
            let text = format!("device {client} was told recovered:true over a hole");
            self.ledger
                .violated("recovered over a hole", Some(number), text);
        }
        self.note(client, &frame);
        self.look_again(client, DUE_SOON_MS);
        if let Some(Wish::ReconnectAfter(after_ms)) = wish {
            // It leaves first and comes back then.
            self.client_later(client, 1, ClientEvent::Leave(after_ms));
        }
    }

    /// What came, for the promises.
    fn note(&mut self, client: usize, frame: &ServerFrame<'_>) {
        let one = &mut self.clients[client];
        let number = one.user;
        let items = frame.items.iter().chain([frame]);
        let ids: Vec<NotificationId> = items
            .filter(|item| item.kind == "notification")
            .filter_map(|item| item.id)
            .map(NotificationId)
            .collect();
        one.received.extend(ids.iter().copied());
        let live = frame.kind == "notification";
        if live {
            let copies = one.copies.entry(ids[0]).or_default();
            *copies += 1;
            let copies = *copies;
            self.ledger.repeated(client, number, ids[0], copies);
        }
        let cursors = self.clients[client].rules.cursors_text(&self.streams);
        let stream = format!("{}=", self.region.user_stream());
        let at = cursors
            .split(',')
            .find_map(|pair| pair.strip_prefix(stream.as_str()));
        let at = at.map(|text| {
            let value = text.parse().expect("a position");
            Position::from_wire(value).expect("a position")
        });
        self.tell(Some(number), || story_line(client, frame, at));
        if let Some(at) = at {
            self.moved(client, at);
        }
    }

    /// The cursor stands here: it has passed over nothing that the store has and the device has not.
    fn moved(&mut self, client: usize, at: Position) {
        let one = &mut self.clients[client];
        let before = one.cursor;
        if one.floor.is_none() {
            one.floor = Some(at);
        } else if at > before {
            let rows = self.rows.between(&user(one.user), before, at);
            let passed = rows
                .iter()
                .find(|(_, id, superseded)| !superseded && !one.received.contains(id));
            if let Some((pos, id, _)) = passed {
                let text = format!(
                    "the cursor of device {client} passed {} at {pos}, which it never received",
                    crate::world::id_name(*id)
                );
                self.ledger
                    .violated("the cursor passed over a hole", Some(one.user), text);
            }
        }
        one.cursor = at;
    }
}

fn story_line(client: usize, frame: &ServerFrame<'_>, at: Option<Position>) -> String {
    let at = at.map_or(0, Position::offset);
    match frame.kind.as_ref() {
        "notification" => {
            let id = frame.id.map(NotificationId).expect("it has an id");
            let (pos, prev) = (offset(frame.pos), offset(frame.prev));
            let name = crate::world::id_name(id);
            format!("device {client} receives {name} live (pos {pos} after {prev}): cursor {at}")
        }
        "sync" => {
            let names = frame.items.iter().filter_map(|item| item.id);
            let names: Vec<String> = names
                .map(|id| crate::world::id_name(NotificationId(id)))
                .collect();
            let recovered = frame.recovered;
            format!(
                "device {client} receives a sync of {names:?}, recovered:{recovered}: cursor {at}"
            )
        }
        "gap" => {
            let cause = frame.cause.as_deref().unwrap_or("none");
            format!("device {client} is told a gap ({cause}): cursor {at}")
        }
        kind => format!("device {client} receives {kind}"),
    }
}

fn offset(position: Option<u64>) -> u64 {
    let position = position.and_then(Position::from_wire);
    position.map_or(0, Position::offset)
}

/// Opcode and payload of the first frame, and what follows it. A server's frames are not masked.
fn next_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        126 => {
            let (length, rest) = rest.split_at(2);
            (
                usize::from(u16::from_be_bytes(length.try_into().ok()?)),
                rest,
            )
        }
        127 => {
            let (length, rest) = rest.split_at(8);
            (u64::from_be_bytes(length.try_into().ok()?) as usize, rest)
        }
        length => (usize::from(length), rest),
    };
    let (payload, rest) = rest.split_at(length);
    Some((first & 0xf, payload, rest))
}

impl World {
    pub fn random_ms(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random.random_range(range)
    }
}
