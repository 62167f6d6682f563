//! The promises, looked at after each event and at the end.

use crate::{
    parts::{Bus, Deed},
    world::{World, id_name, number_of},
};
use herald::{
    bus::{Topic, TopicPartition},
    envelope::Routed,
    ids::{GatewayId, NotificationId, UserId},
    limits,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which one.
    pub promise: &'static str,
    /// Whose story tells it.
    pub user: Option<usize>,
    pub text: String,
}

#[derive(Default)]
pub struct Ledger {
    pub violation: Option<Violation>,
    /// What was answered 202.
    pub accepted: Vec<(UserId, NotificationId)>,
    epochs: BTreeMap<GatewayId, u64>,
    shard_epochs: BTreeMap<u32, BTreeMap<u64, String>>,
    /// Offsets whose outcome was accepted.
    outcomes: BTreeMap<TopicPartition, BTreeSet<u64>>,
    accepts: BTreeMap<usize, VecDeque<u64>>,
    pub accepts_in_window_max: usize,
    read_to: BTreeMap<TopicPartition, u64>,
    pub copies_max: u32,
    copies_bound: u32,
}

/// Accepts are counted over this long.
const ACCEPTS_WINDOW_MS: u64 = 5_000;

impl Ledger {
    pub fn new(copies_bound: u32) -> Ledger {
        Ledger {
            copies_bound,
            ..Ledger::default()
        }
    }

    pub fn violated(&mut self, promise: &'static str, user: Option<usize>, text: String) {
        self.violation.get_or_insert(Violation {
            promise,
            user,
            text,
        });
    }

    /// Epochs rise and never repeat, and a sweep takes nothing that lives.
    pub fn did(&mut self, deed: Deed) {
        match deed {
            Deed::SweptLiving(owner, lost) => {
                let text = format!("{lost} users of {owner} were swept");
                self.violated("a sweep takes nothing that lives", None, text);
            }
            Deed::GaveGateway(owner) => {
                let highest = self.epochs.entry(owner.gateway.clone()).or_default();
                if owner.epoch <= *highest {
                    let text = format!("{owner} after epoch {highest}");
                    return self.violated("epochs rise and never repeat", None, text);
                }
                *highest = owner.epoch;
            }
            Deed::GaveShard(shard, epoch, holder) => {
                let known = self.shard_epochs.entry(shard).or_default();
                let again = known.insert(epoch, holder.clone());
                if let Some(before) = again.filter(|before| *before != holder) {
                    let text = format!("shard {shard} at epoch {epoch}: {before}, then {holder}");
                    self.violated("epochs rise and never repeat", None, text);
                }
            }
        }
    }

    pub fn outcome_accepted(&mut self, at: TopicPartition, offset: u64) {
        self.outcomes.entry(at).or_default().insert(offset);
    }

    /// A finisher dealt with everything before `next`.
    pub fn finished(&mut self, at: TopicPartition, next: u64) {
        self.outcomes.entry(at).or_default().extend(0..next);
    }

    /// Nobody commits past a record whose outcome was not accepted.
    pub fn commits(&mut self, at: TopicPartition, next: u64, who: &str) {
        let accepted = self.outcomes.entry(at).or_default();
        if let Some(offset) = (0..next).find(|offset| !accepted.contains(offset)) {
            let (topic, partition) = (at.topic.suffix(), at.partition);
            let text = format!(
                "{who} commits {topic} {partition} to {next}, and the outcome of {offset} was never accepted"
            );
            self.violated("a commit waits for the outcome", None, text);
        }
    }

    /// A re-route ends.
    pub fn produced(&mut self, bus: &Bus, at: TopicPartition) {
        let read_to = self.read_to.entry(at).or_default();
        let records = bus.read(at, *read_to, usize::MAX);
        *read_to += records.len() as u64;
        if at.topic == Topic::Broadcast {
            return;
        }
        for one in records {
            let routed = Routed::read(&one.record).expect("written by the router");
            if routed.answered.len() > limits::HOPS {
                let user = routed.user.as_ref().and_then(number_of);
                let hops = routed.answered.len();
                let text = format!("{} is on hop {hops}", id_name(routed.head.id));
                self.violated("a re-route ends after three hops", user, text);
            }
        }
    }

    pub fn accepts(&mut self, gateway: usize, now_ms: u64, limit_per_s: u32) {
        let accepts = self.accepts.entry(gateway).or_default();
        accepts.push_back(now_ms);
        while accepts
            .front()
            .is_some_and(|at_ms| at_ms + ACCEPTS_WINDOW_MS <= now_ms)
        {
            accepts.pop_front();
        }
        let count = accepts.len();
        self.accepts_in_window_max = self.accepts_in_window_max.max(count);
        if count as u64 * 1_000 > u64::from(limit_per_s) * ACCEPTS_WINDOW_MS {
            let text = format!(
                "gw-{gateway} took {count} clients within {ACCEPTS_WINDOW_MS} ms, at a limit of {limit_per_s}/s"
            );
            self.violated("no gateway is stampeded", None, text);
        }
    }

    /// Repeats on the wire are bounded.
    pub fn repeated(&mut self, client: usize, user: usize, id: NotificationId, copies: u32) {
        self.copies_max = self.copies_max.max(copies);
        if copies > self.copies_bound {
            let text = format!(
                "device {client} received {} {copies} times live",
                id_name(id)
            );
            self.violated("repeats are bounded", Some(user), text);
        }
    }
}

impl World {
    /// All has settled: nothing accepted is lost, and everybody knows everything.
    pub fn look_at_the_end(&mut self) {
        for (user, id) in std::mem::take(&mut self.ledger.accepted) {
            if !self.rows.has(&user, id) {
                let text = format!("{} is not in the inbox of {user}", id_name(id));
                self.ledger
                    .violated("nothing accepted is lost", number_of(&user), text);
            }
        }
        for client in 0..self.clients.len() {
            let one = &self.clients[client];
            let user = crate::world::user(one.user);
            if !one.is_open() {
                let text = format!("device {client} has no connection");
                self.ledger
                    .violated("everybody comes back", Some(one.user), text);
                continue;
            }
            let from = one.floor().unwrap_or_default();
            let head = self.rows.head(&user);
            let missing = self.rows.between(&user, from, head);
            let missing = missing
                .into_iter()
                .find(|(_, id, superseded)| !superseded && !one.received.contains(id));
            if let Some((pos, id, _)) = missing {
                let text = format!(
                    "device {client} is connected and never received {} (pos {})",
                    id_name(id),
                    pos.offset()
                );
                self.ledger.violated(
                    "who is connected gets everything, or is told",
                    Some(one.user),
                    text,
                );
            } else if one.cursor() < head {
                let text = format!(
                    "the cursor of device {client} is {}, the head {}",
                    one.cursor().offset(),
                    head.offset()
                );
                self.ledger
                    .violated("cursors agree with the store", Some(one.user), text);
            }
        }
    }
}
