//! The tail hole: a hole shows only when a successor arrives, so connections that may have missed
//! something are told to sync once the cause has ended, paced.

use super::{
    link::Outboxes,
    metrics::ControlMetrics,
    table::{PARTS, Table},
};
use crate::{
    gateway::mailbox::{ConnId, ToCore},
    limits,
};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use rand::RngExt;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::Notify;

/// Why a connection may have missed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missed {
    /// Its user was not in the registry: the router took it for absent.
    Registry,
    /// A catch-up could not be answered completely.
    Dispatcher,
    /// Its core did not take messages.
    Core(u16),
    /// Broadcasts were not followed from before it connected.
    Broadcast,
    /// This host had no shard.
    Shard,
    /// A broadcast that may be theirs: it is left to whoever answers their sync.
    Tagged,
}

impl Missed {
    pub fn as_str(self) -> &'static str {
        match self {
            Missed::Registry => "registry",
            Missed::Dispatcher => "dispatcher",
            Missed::Core(_) => "core_full",
            Missed::Broadcast => "broadcast",
            Missed::Shard => "shard",
            Missed::Tagged => "tagged",
        }
    }
}

pub struct Behind {
    /// Connections whose cause has not ended. At most one entry per cause and connection.
    marked: Mutex<HashMap<Missed, HashSet<ConnId>>>,
    /// To be told; a connection may stand here twice, which costs it one needless frame.
    to_tell: Mutex<VecDeque<ConnId>>,
    round: Mutex<Round>,
    added: Notify,
    metrics: Arc<ControlMetrics>,
}

/// Everyone, of whom most have missed nothing: told while nobody waits who may have.
#[derive(Default)]
struct Round {
    to_tell: VecDeque<ConnId>,
    /// Another one follows when all of these are told: see [`Behind::tell_round`].
    is_asked: bool,
}

impl Behind {
    pub fn new(metrics: Arc<ControlMetrics>) -> Behind {
        Behind {
            marked: Mutex::default(),
            to_tell: Mutex::default(),
            round: Mutex::default(),
            added: Notify::new(),
            metrics,
        }
    }

    /// Remembers connections until the cause has ended.
    pub fn mark(&self, cause: Missed, conns: impl IntoIterator<Item = ConnId>) {
        self.marked.lock().entry(cause).or_default().extend(conns);
    }

    /// A connection is gone: nobody to tell.
    pub fn forget(&self, conn: ConnId) {
        for marked in self.marked.lock().values_mut() {
            marked.remove(&conn);
        }
    }

    /// The cause has ended for everyone marked with it.
    pub fn ended(&self, cause: Missed) {
        let marked = self.marked.lock().remove(&cause);
        if let Some(marked) = marked {
            self.tell(cause, marked);
        }
    }

    /// These may have missed something, and the cause has ended.
    pub fn tell(&self, cause: Missed, conns: impl IntoIterator<Item = ConnId>) {
        let mut to_tell = self.to_tell.lock();
        let before = to_tell.len();
        to_tell.extend(conns);
        self.count(cause, to_tell.len() - before);
    }

    /// Everyone connected here may have.
    pub fn tell_all(&self, cause: Missed, table: &Table) {
        for part in 0..PARTS {
            self.tell(cause, table.connections_in(part));
        }
    }

    /// As [`Behind::tell_all`] of what may come again and again, and after all others: while somebody of a round is still
    /// to be told, one round follows, however many are asked for. So nobody stands here more often than once for it.
    pub fn tell_round(&self, table: &Table) {
        let mut round = self.round.lock();
        match round.to_tell.is_empty() {
            true => self.begin(&mut round, table),
            false => round.is_asked = true,
        }
    }

    fn begin(&self, round: &mut Round, table: &Table) {
        round.is_asked = false;
        let conns = (0..PARTS).flat_map(|part| table.connections_in(part));
        round.to_tell.extend(conns);
        self.count(Missed::Tagged, round.to_tell.len());
    }

    fn count(&self, cause: Missed, count: usize) {
        if count > 0 {
            let behind = self.metrics.behind.with_label_values(&[cause.as_str()]);
            behind.inc_by(count as u64);
            self.added.notify_one();
        }
    }

    /// Tells for ever, [`limits::BEHIND_PER_S`] at most: each of them asks for a sync, and of those there are no more
    /// than dispatchers answer.
    pub async fn run(&self, outboxes: &Outboxes, table: &Table) {
        loop {
            let batch = self.take(self.told_per_s() as usize / 10, table);
            if batch.is_empty() {
                self.added.notified().await;
                continue;
            }
            for conn in batch {
                // Within its second each syncs at a moment of its own.
                let sync_after_ms = rand::rng().random_range(0..1000);
                let message = ToCore::Behind {
                    conn,
                    sync_after_ms,
                };
                outboxes.queue(conn.core, message);
            }
            outboxes.cores().for_each(|core| outboxes.ring(core));
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    fn told_per_s(&self) -> u32 {
        match self.metrics.jobs_waiting.get() > limits::BEHIND_WAITING as i64 {
            true => limits::BEHIND_BUSY_PER_S,
            false => limits::BEHIND_PER_S,
        }
    }

    /// The next ones, of a round only where the others are not so many.
    fn take(&self, count: usize, table: &Table) -> Vec<ConnId> {
        let mut batch: Vec<ConnId> = {
            let mut to_tell = self.to_tell.lock();
            let first = count.min(to_tell.len());
            to_tell.drain(..first).collect()
        };
        let mut round = self.round.lock();
        if round.is_asked && round.to_tell.is_empty() {
            self.begin(&mut round, table);
        }
        let rest = (count - batch.len()).min(round.to_tell.len());
        batch.extend(round.to_tell.drain(..rest));
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn conn(slot: u32) -> ConnId {
        ConnId {
            slot,
            core: 0,
            reuse: 0,
        }
    }

    fn with_connections(count: u32) -> (Behind, Table) {
        let table = Table::default();
        for slot in 0..count {
            table.open(&slot.to_string().parse().unwrap(), conn(slot));
        }
        let metrics = ControlMetrics::new(&Metrics::default());
        (Behind::new(Arc::new(metrics)), table)
    }

    #[test]
    fn who_missed_something_is_told_before_the_rest_of_a_round() {
        let (behind, table) = with_connections(10);
        behind.tell_round(&table);
        let mut told = behind.take(4, &table);
        assert_eq!(told.len(), 4);
        let missed = [conn(100), conn(101), conn(102)];
        behind.tell(Missed::Dispatcher, missed);
        assert_eq!(behind.take(2, &table), missed[..2]);
        let next = behind.take(4, &table);
        assert_eq!(next[0], missed[2]);
        told.extend(&next[1..]);
        told.extend(behind.take(100, &table));
        told.sort();
        let everyone: Vec<ConnId> = (0..10).map(conn).collect();
        assert_eq!(told, everyone);
    }

    #[test]
    fn one_round_follows_another_however_many_are_asked_for() {
        let (behind, table) = with_connections(3);
        // Others who are to be told make it no second one.
        behind.tell(Missed::Shard, [conn(0)]);
        behind.tell_round(&table);
        assert_eq!(behind.take(2, &table).len(), 2);
        for _ in 0..5 {
            behind.tell_round(&table);
        }
        assert_eq!(behind.take(100, &table).len(), 2);
        assert_eq!(behind.take(100, &table).len(), 3);
        assert_eq!(behind.take(100, &table), []);
    }
}
