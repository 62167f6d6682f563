//! The delivery canary: whether a notification that is routed here would reach a client, tried all the
//! time. A probe goes into this gateway's own shard, is read, handed to every core, written to a connection
//! of ours on that core, acknowledged by it, and its outcome accepted by a dispatcher.
//!
//! `rounds` (sending probes, asking the shared parts, judging) → [`legs`] (what is stuck, pure) → `client`
//! (the connections). What happens to a probe on its way is told here by whoever sees it.
//!
//! Invariants:
//! * the canary is nobody: no user, not in the table, the registry, or any count of clients;
//! * one probe a partition waits to be read, and one outcome of a core to be accepted, whatever is stuck;
//! * nothing waits for the canary: no offset, no drain.

mod client;
mod legs;
mod rounds;

pub use rounds::run;

use super::{
    host::{Host, Ownership},
    outcomes::{Awaits, Reported},
};
use crate::{
    bus::{Topic, TopicPartition},
    clock::unix_ms,
    envelope::{Fate, Outcome},
    gateway::mailbox::{CanarySaid, ConnId, ToCore},
    ids::NotificationId,
    limits,
    metrics::Metrics,
    position::Position,
    proto::close::CloseCode,
};
use legs::{Legs, TOPICS};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::{collections::VecDeque, sync::Arc, time::Instant};
use tokio::sync::Notify;

pub struct Canary {
    state: Mutex<State>,
    /// A core has no connection of ours.
    missing: Notify,
}

struct State {
    legs: Legs,
    /// Whose shard the legs are about; `None`: nothing is judged.
    serving: Option<Ownership>,
    /// The last probes, by number.
    probes: VecDeque<(NotificationId, u64)>,
    sent: u64,
    cores: Vec<Core>,
}

struct Core {
    conn: Option<ConnId>,
    /// An outcome of it is not accepted yet.
    reporting: bool,
    /// When the last whole round ended; before the first, when the process began.
    whole_at: Instant,
}

/// A core's part of one round, while its outcome is on the way.
pub struct Round {
    canary: Arc<Canary>,
    core: u16,
}

impl Round {
    /// A dispatcher has the outcome: the round is whole.
    pub fn accepted(self) {
        let mut state = self.canary.state.lock();
        state.legs.accepted();
        let core = &mut state.cores[usize::from(self.core)];
        core.reporting = false;
        core.whole_at = Instant::now();
    }

    /// It is safe on `delivery`, but no dispatcher has taken it.
    pub fn set_aside(self) {
        let mut state = self.canary.state.lock();
        state.cores[usize::from(self.core)].reporting = false;
    }
}

impl Canary {
    pub fn new(cores: usize) -> Arc<Canary> {
        let core = |_| Core {
            conn: None,
            reporting: false,
            whole_at: Instant::now(),
        };
        Arc::new(Canary {
            state: Mutex::new(State {
                legs: Legs::new(cores),
                serving: None,
                probes: VecDeque::new(),
                sent: 0,
                cores: (0..cores).map(core).collect(),
            }),
            missing: Notify::new(),
        })
    }

    /// Its age is read when it is asked for: it grows while nothing else moves.
    pub fn measure(self: &Arc<Self>, metrics: &Metrics) {
        let canary = self.clone();
        let help = "Since a probe last went the whole round by this core, or since the start";
        metrics.computed_each("canary_age_seconds", help, "core", move || {
            let state = canary.state.lock();
            let ages = state.cores.iter().map(|core| core.whole_at.elapsed());
            ages.map(|age| age.as_secs_f64()).collect()
        });
    }

    /// A partition of ours was read up to `next`.
    pub fn read(&self, at: TopicPartition, next: u64) {
        let mut state = self.state.lock();
        if state.is_about(at) {
            state.legs.read(topic_index(at.topic), next);
        }
    }

    /// It is not read because too much of it is in flight.
    pub fn has_no_room(&self, at: TopicPartition) {
        let mut state = self.state.lock();
        if state.is_about(at) {
            state.legs.has_no_room(topic_index(at.topic));
        }
    }

    /// A probe was read: where to deliver it. Nowhere, if it is of a former owner of the shard.
    pub fn give(&self, probe: NotificationId) -> Vec<ConnId> {
        let mut state = self.state.lock();
        let Some(number) = state.number(probe) else {
            return Vec::new();
        };
        let conns: Vec<ConnId> = state.cores.iter().filter_map(|core| core.conn).collect();
        for conn in &conns {
            state.legs.given(conn.core, number);
        }
        conns
    }
}

impl State {
    fn is_about(&self, at: TopicPartition) -> bool {
        let serving = self.serving.as_ref();
        serving.is_some_and(|owned| owned.shard.shard == at.partition)
    }

    fn number(&self, probe: NotificationId) -> Option<u64> {
        let known = self.probes.iter().find(|(id, _)| *id == probe);
        known.map(|(_, number)| *number)
    }

    /// A new probe, known from now on. The oldest is forgotten: what still comes of it says nothing.
    fn number_new(&mut self, probe: NotificationId) {
        self.sent += 1;
        self.probes.push_back((probe, self.sent));
        if self.probes.len() > limits::CANARY_PROBES {
            self.probes.pop_front();
        }
    }

    fn is_complete(&self) -> bool {
        self.cores.iter().all(|core| core.conn.is_some())
    }
}

/// What a core says of our connection there; answers with the outcome to report.
pub fn hear(host: &Host, conn: ConnId, said: CanarySaid) -> Option<Reported> {
    match said {
        CanarySaid::Opened => opened(host, conn),
        CanarySaid::Closed => closed(&host.canary, conn),
        CanarySaid::Acked(ids) => return acknowledged(host, conn, &ids),
    }
    None
}

/// The kernel chooses the core: one that has a connection already needs no second.
fn opened(host: &Host, conn: ConnId) {
    let mut state = host.canary.state.lock();
    let core = &mut state.cores[usize::from(conn.core)];
    if core.conn.is_none() {
        core.conn = Some(conn);
        return state.legs.opened(conn.core);
    }
    drop(state);
    let close = ToCore::Close {
        conn,
        code: CloseCode::GoingAway,
        reason: "this core has one",
    };
    host.outboxes.send(conn.core, close);
}

fn closed(canary: &Canary, conn: ConnId) {
    let mut state = canary.state.lock();
    let core = &mut state.cores[usize::from(conn.core)];
    if core.conn == Some(conn) {
        core.conn = None;
        state.legs.closed(conn.core);
        canary.missing.notify_one();
    }
}

fn acknowledged(host: &Host, conn: ConnId, ids: &[NotificationId]) -> Option<Reported> {
    let mut state = host.canary.state.lock();
    let known = ids
        .iter()
        .filter_map(|id| Some((*id, state.number(*id)?)))
        .max_by_key(|(_, number)| *number);
    let (id, number) = known?;
    state.legs.acknowledged(conn.core, number);
    state.serving.as_ref()?;
    let core = &mut state.cores[usize::from(conn.core)];
    if std::mem::replace(&mut core.reporting, true) {
        return None;
    }
    state.legs.reported();
    let outcome = Outcome {
        id,
        user: None,
        pos: Position::START,
        fate: Fate::Acked,
        devices: 1,
        gateway: host.identity.borrow().0.to_string(),
        at_ms: unix_ms(),
        answered: Vec::new(),
    };
    Some(Reported {
        outcomes: SmallVec::from_iter([outcome]),
        awaits: Some(Awaits::Round(Round {
            canary: host.canary.clone(),
            core: conn.core,
        })),
    })
}

/// The partitions a probe is put into, in the order of [`legs`].
const PROBED: [Topic; TOPICS] = [Topic::Critical, Topic::InApp];

fn topic_index(topic: Topic) -> usize {
    usize::from(topic != Topic::Critical)
}
