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
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
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
    /// Another round follows when all of these are told: see [`Behind::tell_round`].
    is_round_asked: AtomicBool,
    added: Notify,
    metrics: Arc<ControlMetrics>,
}

impl Behind {
    pub fn new(metrics: Arc<ControlMetrics>) -> Behind {
        Behind {
            marked: Mutex::default(),
            to_tell: Mutex::default(),
            is_round_asked: AtomicBool::new(false),
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
        let count = to_tell.len() - before;
        if count > 0 {
            let behind = self.metrics.behind.with_label_values(&[cause.as_str()]);
            behind.inc_by(count as u64);
            self.added.notify_one();
        }
    }

    /// Everyone connected here may have.
    pub fn tell_all(&self, cause: Missed, table: &Table) {
        for part in 0..PARTS {
            self.tell(cause, table.connections_in(part));
        }
    }

    /// As [`Behind::tell_all`] of what may come again and again: while somebody is still to be told, one round follows,
    /// however many are asked for. So nobody stands here more often than once for it.
    pub fn tell_round(&self, table: &Table) {
        if self.to_tell.lock().is_empty() {
            return self.tell_all(Missed::Tagged, table);
        }
        self.is_round_asked.store(true, Ordering::Release);
        self.added.notify_one();
    }

    /// Tells for ever, [`limits::BEHIND_PER_S`] at most: each of them asks for a sync, and of those there are no more
    /// than dispatchers answer.
    pub async fn run(&self, outboxes: &Outboxes, table: &Table) {
        loop {
            let batch = self.take(self.told_per_s() as usize / 10);
            if batch.is_empty() {
                if self.is_round_asked.swap(false, Ordering::AcqRel) {
                    self.tell_all(Missed::Tagged, table);
                    continue;
                }
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

    fn take(&self, count: usize) -> Vec<ConnId> {
        let mut to_tell = self.to_tell.lock();
        let count = count.min(to_tell.len());
        to_tell.drain(..count).collect()
    }
}
