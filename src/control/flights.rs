//! Deliveries on their way: from the ticket a core was given to the outcome a dispatcher is told.
//!
//! Invariants:
//! * a delivery settles once: when as many fates as devices have come, `deferred` counting as one; that is
//!   what lets its offset be committed. A device's first fate comes within a second, so a final one that
//!   follows a `deferred` practically never stands in for another device's first;
//! * what devices say after that is an outcome of its own, with the count so far, never an increment: a
//!   repeated report changes nothing;
//! * a core that never answers holds an offset for [`limits::FATE_WAIT`] at most.

use super::outcomes::Finished;
use crate::{
    envelope::{Fate, Head, Outcome, Priority},
    ids::{GatewayEpoch, NotificationId, UserId},
    limits,
    position::Position,
    proto::session::Ticket,
};
use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::{sync::oneshot, time::Instant};

/// Who waits for a delivery to settle.
#[derive(Debug)]
pub enum Waiter {
    /// An offset of the shard.
    Offset(Finished),
    /// A dispatcher's `Deliver` call.
    Call(oneshot::Sender<Vec<Outcome>>),
    /// Nobody: a broadcast, whose outcome is due after [`limits::BROADCAST_OUTCOME_AFTER`].
    Nobody,
}

/// Devices by what they said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    written: u32,
    deferred: u32,
    expired: u32,
    collapsed: u32,
    not_here: u32,
}

impl Counts {
    fn of(&mut self, fate: Fate) -> Option<&mut u32> {
        match fate {
            Fate::Written => Some(&mut self.written),
            Fate::Deferred => Some(&mut self.deferred),
            Fate::Expired => Some(&mut self.expired),
            Fate::Collapsed => Some(&mut self.collapsed),
            Fate::NotHere => Some(&mut self.not_here),
            Fate::Unsupported | Fate::Acked | Fate::Read => None,
        }
    }

    fn finals(&self) -> u32 {
        self.written + self.expired + self.collapsed + self.not_here
    }

    fn answered(&self) -> u32 {
        self.finals() + self.deferred
    }

    /// What to report: each fate that devices met, `nobody` when there was none but `not_here`.
    fn fates(&self, nobody: Fate) -> SmallVec<[(Fate, u32); 2]> {
        let met = [
            (Fate::Written, self.written),
            (Fate::Deferred, self.deferred),
            (Fate::Expired, self.expired),
            (Fate::Collapsed, self.collapsed),
        ];
        let fates: SmallVec<_> = met.into_iter().filter(|(_, count)| *count > 0).collect();
        match fates.is_empty() {
            true => SmallVec::from_slice(&[(nobody, 0)]),
            false => fates,
        }
    }
}

/// Where a record's time counts from.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    /// When it was taken from the bus.
    pub taken: Instant,
    /// When its producer's request was, in Unix ms.
    pub created_ms: u64,
    pub priority: Priority,
}

impl Began {
    pub fn of(head: &Head, taken: Instant) -> Began {
        Began {
            taken,
            created_ms: head.created_ms,
            priority: head.priority,
        }
    }
}

/// One record on its way to the devices of one user, or (without a user) to everyone here.
#[derive(Debug)]
pub struct Flight {
    id: NotificationId,
    user: Option<UserId>,
    pos: Position,
    answered: Vec<String>,
    /// Devices it was sent to.
    sent: u32,
    waiter: Option<Waiter>,
    began: Began,
    counts: Counts,
    reported: Counts,
}

impl Flight {
    pub fn new(
        id: NotificationId,
        user: Option<UserId>,
        pos: Position,
        answered: &[GatewayEpoch],
        sent: u32,
        waiter: Waiter,
        began: Began,
    ) -> Flight {
        Flight {
            id,
            user,
            pos,
            answered: answered.iter().map(GatewayEpoch::to_string).collect(),
            sent,
            waiter: Some(waiter),
            began,
            counts: Counts::default(),
            reported: Counts::default(),
        }
    }

    fn is_broadcast(&self) -> bool {
        self.user.is_none()
    }

    fn outcome(&self, fate: Fate, devices: u32, speaker: &Speaker) -> Outcome {
        Outcome {
            id: self.id,
            user: self.user.clone(),
            pos: self.pos,
            fate,
            devices,
            gateway: speaker.gateway.clone(),
            at_ms: speaker.at_ms,
            answered: match fate {
                Fate::NotHere => self.answered.clone(),
                _ => Vec::new(),
            },
        }
    }

    /// Settles: everything said so far, and who waited for it.
    fn settle(&mut self, speaker: &Speaker) -> Settled {
        self.reported = self.counts;
        let nobody = match self.is_broadcast() {
            // A broadcast to nobody is done; there is nobody to route it to again.
            true => Fate::Written,
            false => Fate::NotHere,
        };
        let fates = self.counts.fates(nobody);
        Settled {
            outcomes: fates
                .into_iter()
                .map(|(fate, devices)| self.outcome(fate, devices, speaker))
                .collect(),
            waiter: self.waiter.take().unwrap_or(Waiter::Nobody),
            began: Some(self.began),
        }
    }

    /// A broadcast's counts, when they changed since they were reported.
    fn recount(&mut self, speaker: &Speaker) -> Option<Settled> {
        (self.waiter.is_some() || self.reported != self.counts).then(|| self.settle(speaker))
    }
}

/// Who reports, and when.
pub struct Speaker {
    /// `<gateway>.<epoch>`
    pub gateway: String,
    pub at_ms: u64,
}

/// Outcomes to report, and who waits for their acceptance.
#[derive(Debug)]
pub struct Settled {
    pub outcomes: SmallVec<[Outcome; 1]>,
    pub waiter: Waiter,
    /// Of what was delivered.
    pub began: Option<Began>,
}

/// What a pass over old flights found.
#[derive(Default)]
pub struct Swept {
    pub settled: Vec<Settled>,
    pub unanswered: u64,
}

#[derive(Default)]
pub struct Flights {
    flights: Mutex<HashMap<Ticket, Flight>>,
    tickets: AtomicU64,
}

impl Flights {
    pub fn ticket(&self) -> Ticket {
        self.tickets.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters flights; before their messages are sent, or a fate could overtake them.
    pub fn begin(&self, flights: impl IntoIterator<Item = (Ticket, Flight)>) {
        self.flights.lock().extend(flights);
    }

    /// What `devices` of a ticket's devices met.
    pub fn fate(
        &self,
        ticket: Ticket,
        fate: Fate,
        devices: u32,
        speaker: &Speaker,
    ) -> Option<Settled> {
        let mut flights = self.flights.lock();
        let open = flights.len();
        let flight = flights.get_mut(&ticket)?;
        let count = flight.counts.of(fate)?;
        *count += devices;
        let count = *count;
        if flight.is_broadcast() {
            return None;
        }
        let settled = match flight.waiter.is_some() {
            true if flight.counts.answered() < flight.sent => return None,
            true => flight.settle(speaker),
            false => Settled {
                outcomes: SmallVec::from_iter([flight.outcome(fate, count, speaker)]),
                waiter: Waiter::Nobody,
                began: Some(flight.began),
            },
        };
        if flight.counts.finals() >= flight.sent || open > limits::TICKETS_OPEN {
            flights.remove(&ticket);
        }
        Some(settled)
    }

    /// Settles what waited too long for a core, reports broadcasts that are due, forgets what is old.
    pub fn sweep(&self, now: Instant, speaker: &Speaker) -> Swept {
        let mut swept = Swept::default();
        self.flights.lock().retain(|_, flight| {
            let age = now.saturating_duration_since(flight.began.taken);
            if flight.is_broadcast() {
                if age >= limits::BROADCAST_OUTCOME_AFTER {
                    swept.settled.extend(flight.recount(speaker));
                }
            } else if flight.waiter.is_some() && age >= limits::FATE_WAIT {
                flight.counts.deferred += flight.sent.saturating_sub(flight.counts.answered());
                swept.unanswered += 1;
                swept.settled.push(flight.settle(speaker));
            }
            age < limits::TICKET_LIFE
        });
        swept
    }

    /// Deliveries whose last fate is not known.
    pub fn open(&self) -> usize {
        self.flights.lock().len()
    }

    /// Deliveries somebody still waits for.
    pub fn unsettled(&self) -> usize {
        let flights = self.flights.lock();
        let waits = |flight: &&Flight| flight.waiter.is_some() && !flight.is_broadcast();
        flights.values().filter(waits).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaker() -> Speaker {
        Speaker {
            gateway: "gw-1.7".into(),
            at_ms: 5,
        }
    }

    fn began() -> Began {
        Began {
            taken: Instant::now(),
            created_ms: 5,
            priority: Priority::Normal,
        }
    }

    fn flying(sent: u32) -> (Flights, Ticket) {
        let flights = Flights::default();
        let ticket = flights.ticket();
        let (call, _) = oneshot::channel();
        let user = Some("42".parse().unwrap());
        let flight = Flight::new(
            NotificationId::generate(),
            user,
            Position::START,
            &[],
            sent,
            Waiter::Call(call),
            began(),
        );
        flights.begin([(ticket, flight)]);
        (flights, ticket)
    }

    fn said(settled: Option<Settled>) -> Vec<(Fate, u32)> {
        let outcomes = settled.map(|settled| settled.outcomes).unwrap_or_default();
        outcomes.iter().map(|o| (o.fate, o.devices)).collect()
    }

    #[test]
    fn a_delivery_settles_when_every_device_has_answered() {
        let (flights, ticket) = flying(3);
        assert_eq!(said(flights.fate(ticket, Fate::Written, 2, &speaker())), []);
        let settled = flights.fate(ticket, Fate::Collapsed, 1, &speaker());
        assert_eq!(said(settled), [(Fate::Written, 2), (Fate::Collapsed, 1)]);
        assert_eq!(flights.open(), 0);
    }

    #[test]
    fn deferred_lets_the_offset_go_and_the_later_fate_is_an_outcome_of_its_own() {
        let (flights, ticket) = flying(2);
        flights.fate(ticket, Fate::Written, 1, &speaker());
        let settled = flights.fate(ticket, Fate::Deferred, 1, &speaker());
        assert_eq!(said(settled), [(Fate::Written, 1), (Fate::Deferred, 1)]);
        assert_eq!((flights.unsettled(), flights.open()), (0, 1));
        let late = flights.fate(ticket, Fate::Written, 1, &speaker());
        assert_eq!(said(late), [(Fate::Written, 2)]);
        assert_eq!(flights.open(), 0);
    }

    #[test]
    fn connections_that_left_meanwhile_make_the_user_not_here_only_when_all_did() {
        let (flights, ticket) = flying(2);
        flights.fate(ticket, Fate::NotHere, 1, &speaker());
        let settled = flights.fate(ticket, Fate::Written, 1, &speaker());
        assert_eq!(said(settled), [(Fate::Written, 1)]);
        let (flights, ticket) = flying(2);
        let settled = flights.fate(ticket, Fate::NotHere, 2, &speaker());
        assert_eq!(said(settled), [(Fate::NotHere, 0)]);
    }

    #[test]
    fn a_core_that_never_answers_holds_an_offset_for_a_bounded_time() {
        let (flights, _) = flying(2);
        let before = flights.sweep(Instant::now(), &speaker());
        assert_eq!(before.settled.len(), 0);
        let mut after = flights.sweep(Instant::now() + limits::FATE_WAIT, &speaker());
        assert_eq!(said(after.settled.pop()), [(Fate::Deferred, 2)]);
        assert_eq!(after.unanswered, 1);
    }

    #[test]
    fn a_broadcast_is_one_outcome_with_counts_and_another_only_if_they_change() {
        let flights = Flights::default();
        let ticket = flights.ticket();
        let flight = Flight::new(
            NotificationId::generate(),
            None,
            Position::START,
            &[],
            0,
            Waiter::Nobody,
            began(),
        );
        flights.begin([(ticket, flight)]);
        assert!(flights.fate(ticket, Fate::Written, 9, &speaker()).is_none());
        assert!(flights.fate(ticket, Fate::Written, 0, &speaker()).is_none());
        let due = Instant::now() + limits::BROADCAST_OUTCOME_AFTER;
        let mut swept = flights.sweep(due, &speaker());
        assert_eq!(said(swept.settled.pop()), [(Fate::Written, 9)]);
        assert!(flights.sweep(due, &speaker()).settled.is_empty());
        flights.fate(ticket, Fate::Written, 1, &speaker());
        let mut swept = flights.sweep(due, &speaker());
        assert_eq!(said(swept.settled.pop()), [(Fate::Written, 10)]);
    }
}
