//! What to do with one record: deliver it to the user's connections here, or say why not.
//!
//! Invariants:
//! * every record ends in exactly one of: a flight, an outcome, a dead letter, or nothing owed;
//! * flights are entered before their messages leave, so no fate comes too early;
//! * records of one batch reach a core in one message, in their order, with one wake.

use super::{
    flights::{Began, Flight, Settled, Waiter},
    host::Host,
};
use crate::{
    bus::Record,
    clock::unix_ms,
    envelope::{EnvelopeError, Fate, Head, Kind, Outcome, Routed, is_expired},
    gateway::mailbox::{ConnId, Delivery, ToCore},
    ids::{GatewayEpoch, NotificationId, UserId},
    position::Position,
    proto::{
        close::CloseCode,
        session::{Item, Ticket},
    },
};
use smallvec::SmallVec;
use std::sync::Arc;
use tokio::time::Instant;

/// A record nobody can read: its offset waits until it is on `dlq`.
#[derive(Debug)]
pub struct DeadLetter {
    pub record: Record,
    pub reason: String,
    pub waiter: Waiter,
}

/// What one poll brings about.
pub struct Batch<'a> {
    host: &'a Host,
    unix_ms: u64,
    per_core: Vec<Vec<Delivery>>,
    flights: Vec<(Ticket, Flight)>,
    settled: Vec<Settled>,
    closes: Vec<ConnId>,
    dead: Vec<DeadLetter>,
}

/// The parts of an outcome that a record gives.
struct Subject {
    id: NotificationId,
    user: Option<UserId>,
    pos: Position,
    answered: Vec<GatewayEpoch>,
}

impl<'a> Batch<'a> {
    pub fn new(host: &'a Host) -> Batch<'a> {
        Batch {
            host,
            unix_ms: unix_ms(),
            per_core: host.outboxes.cores().map(|_| Vec::new()).collect(),
            flights: Vec::new(),
            settled: Vec::new(),
            closes: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// Decides about one record. `waiter` learns what became of it.
    pub fn place(&mut self, record: &Record, waiter: Waiter) {
        match Routed::read(record) {
            Ok(routed) => self.routed(record, routed, waiter),
            Err(EnvelopeError::Unsupported { .. }) => self.unsupported(record, waiter),
            Err(EnvelopeError::Malformed { header, reason }) => {
                match Head::read(record).map(|head| head.kind) {
                    Ok(kind @ (Kind::Disconnect | Kind::Probe)) => {
                        self.command(kind, record, waiter);
                    }
                    Ok(Kind::Broadcast | Kind::Tagged | Kind::Erase) => {
                        self.unsupported(record, waiter);
                    }
                    _ => self.malformed(record, format!("{header}: {reason}"), waiter),
                }
            }
        }
    }

    /// As [`Batch::place`] of a record that went to every gateway: silent when the user is not here.
    pub fn place_if_here(&mut self, routed: Routed, user: &UserId) {
        match self.host.table.connections_of(user).is_empty() {
            true => self.count(routed.head.kind.as_str(), "absent"),
            false => self.deliver(routed, Waiter::Nobody),
        }
    }

    /// Sends what was decided. What is left are records nobody can read.
    pub fn send(self) -> Vec<DeadLetter> {
        self.host.flights.begin(self.flights);
        for (core, deliveries) in (0..).zip(self.per_core) {
            if !deliveries.is_empty() {
                self.host.outboxes.send(core, ToCore::Deliver(deliveries));
            }
        }
        for conn in self.closes {
            let close = ToCore::Close {
                conn,
                code: CloseCode::Disconnected,
                reason: "disconnected by an operator",
            };
            self.host.outboxes.send(conn.core, close);
        }
        self.host.settle(self.settled);
        self.dead
    }

    fn routed(&mut self, record: &Record, routed: Routed, waiter: Waiter) {
        let kind = routed.head.kind;
        match (kind, &routed.user) {
            (Kind::Notification | Kind::Read, Some(_)) => self.deliver(routed, waiter),
            (Kind::Notification | Kind::Read, None) => {
                self.malformed(record, "user: is missing".to_owned(), waiter);
            }
            (Kind::Disconnect | Kind::Probe, _) => self.command(kind, record, waiter),
            (Kind::Broadcast | Kind::Tagged | Kind::Erase, _) => self.unsupported(record, waiter),
        }
    }

    fn deliver(&mut self, mut routed: Routed, waiter: Waiter) {
        let kind = routed.head.kind.as_str();
        let subject = Subject {
            id: routed.head.id,
            user: routed.user.take(),
            pos: routed.pos,
            answered: std::mem::take(&mut routed.answered),
        };
        if is_expired(routed.head.expires_ms, self.unix_ms) {
            self.count(kind, "expired");
            return self.conclude(subject, Fate::Expired, waiter);
        }
        let conns = match &subject.user {
            Some(user) => self.host.table.connections_of(user),
            None => SmallVec::new(),
        };
        if conns.is_empty() {
            self.count(kind, "not_here");
            return self.conclude(subject, Fate::NotHere, waiter);
        }
        self.count(kind, "delivered");
        let stream = self.host.stream(&routed.stream);
        let item = Arc::new(Item::routed(&routed, stream));
        let ticket = self.host.flights.ticket();
        let sent = conns.len() as u32;
        self.per_core(ticket, &item, conns);
        let Subject {
            id,
            user,
            pos,
            answered,
        } = subject;
        let began = Began::of(&routed.head, Instant::now());
        let flight = Flight::new(id, user, pos, &answered, sent, waiter, began);
        self.flights.push((ticket, flight));
    }

    fn per_core(&mut self, ticket: Ticket, item: &Arc<Item>, conns: SmallVec<[ConnId; 2]>) {
        for conn in conns {
            let Some(deliveries) = self.per_core.get_mut(usize::from(conn.core)) else {
                continue;
            };
            match deliveries.last_mut() {
                Some(last) if last.ticket == ticket => last.conns.push(conn),
                _ => deliveries.push(Delivery {
                    ticket,
                    item: item.clone(),
                    conns: SmallVec::from_iter([conn]),
                }),
            }
        }
    }

    /// Records that ask something of the gateway itself; their offset waits for no outcome.
    fn command(&mut self, kind: Kind, record: &Record, waiter: Waiter) {
        match kind {
            Kind::Disconnect => {
                let Some(user) = user_of(record) else {
                    return self.malformed(record, "user: is missing".to_owned(), waiter);
                };
                let head = Head::read(record);
                if head.is_ok_and(|head| is_expired(head.expires_ms, self.unix_ms)) {
                    // Whoever is connected now came after it was meant.
                    self.count(kind.as_str(), "expired");
                } else {
                    self.closes.extend(self.host.table.connections_of(&user));
                    self.count(kind.as_str(), "done");
                }
            }
            _ => {
                self.probe(record);
                self.count(kind.as_str(), "done");
            }
        }
        self.settled.push(Settled {
            outcomes: SmallVec::new(),
            waiter,
            began: None,
        });
    }

    /// To our own connection on each core. There is no flight: the canary itself looks at what comes of it.
    fn probe(&mut self, record: &Record) {
        let Some(id) = record.header_text("id").and_then(|text| text.parse().ok()) else {
            return;
        };
        let conns = self.host.canary.give(id);
        let item = Arc::new(Item::probe(id));
        let ticket = self.host.flights.ticket();
        self.per_core(ticket, &item, conns.into());
    }

    /// A later release wrote it: said so where the record can be named, never a dead letter.
    fn unsupported(&mut self, record: &Record, waiter: Waiter) {
        self.count("unknown", "unsupported");
        let id = record.header_text("id").and_then(|text| text.parse().ok());
        match (id, user_of(record)) {
            (Some(id), user @ Some(_)) => {
                let pos = record.header_text("pos").and_then(|text| text.parse().ok());
                let subject = Subject {
                    id,
                    user,
                    pos: pos.and_then(Position::from_wire).unwrap_or_default(),
                    answered: Vec::new(),
                };
                self.conclude(subject, Fate::Unsupported, waiter);
            }
            _ => self.settled.push(Settled {
                outcomes: SmallVec::new(),
                waiter,
                began: None,
            }),
        }
    }

    fn malformed(&mut self, record: &Record, reason: String, waiter: Waiter) {
        self.count("unknown", "malformed");
        self.dead.push(DeadLetter {
            record: record.clone(),
            reason,
            waiter,
        });
    }

    /// An outcome without any device.
    fn conclude(&mut self, subject: Subject, fate: Fate, waiter: Waiter) {
        let answered = subject.answered.iter().map(GatewayEpoch::to_string);
        let outcome = Outcome {
            id: subject.id,
            user: subject.user,
            pos: subject.pos,
            fate,
            devices: 0,
            gateway: self.host.identity.borrow().0.to_string(),
            at_ms: self.unix_ms,
            answered: answered.collect(),
        };
        self.settled.push(Settled {
            outcomes: SmallVec::from_iter([outcome]),
            waiter,
            began: None,
        });
    }

    fn count(&self, kind: &str, result: &str) {
        let records = &self.host.metrics.records;
        records.with_label_values(&[kind, result]).inc();
    }
}

fn user_of(record: &Record) -> Option<UserId> {
    record.header_text("user")?.parse().ok()
}
