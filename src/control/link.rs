//! Control's end of the queues to the core threads.
//!
//! Invariants:
//! * nothing here waits for a core: what a full inbox does not take stays in that core's own backlog;
//! * a backlog that does not move for [`limits::CORE_FULL_SHED`], or outgrows [`limits::CORE_BACKLOG`],
//!   is shed (given back to the caller to be accounted for), except what ends or answers something: of
//!   that there is one end and one answer for each connection of the core at most;
//! * messages to one core keep their order.

use crate::{
    gateway::{
        Cores, Full,
        mailbox::{ConnId, ToCore},
    },
    limits,
};
use hashbrown::HashSet;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::{sync::Notify, time::Instant};

/// A core that did not take its messages: what to account for.
#[derive(Debug)]
pub enum Relief {
    /// These were dropped.
    Shed { core: u16, messages: Vec<ToCore> },
    /// The backlog that had been shed from is empty: the core takes messages again.
    Recovered { core: u16 },
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<(Instant, ToCore)>,
    /// Connections whose end is waiting: to be ended twice is nothing more.
    ending: HashSet<ConnId>,
    has_shed: bool,
}

pub struct Outboxes {
    link: Cores,
    backlogs: Vec<Mutex<Backlog>>,
    backlogged: Notify,
}

impl Outboxes {
    pub fn new(link: Cores) -> Outboxes {
        let backlogs = (0..link.len()).map(|_| Mutex::default()).collect();
        Outboxes {
            link,
            backlogs,
            backlogged: Notify::new(),
        }
    }

    pub fn cores(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.backlogs.len() as u16
    }

    /// What `welcome` called it.
    pub fn connection_name(&self, conn: ConnId) -> String {
        self.link.connection_name(conn)
    }

    /// Queues a message and wakes the core.
    pub fn send(&self, core: u16, message: ToCore) {
        self.queue(core, message);
        self.link.ring(core);
    }

    /// To every core; `message` makes one for each.
    pub fn send_all(&self, message: impl Fn() -> ToCore) {
        for core in self.cores() {
            self.send(core, message());
        }
    }

    /// Queues without waking: [`Outboxes::ring`] follows at the end of the batch.
    pub fn queue(&self, core: u16, message: ToCore) {
        let Some(backlog) = self.backlogs.get(usize::from(core)) else {
            return;
        };
        let mut backlog = backlog.lock();
        let refused = match backlog.waiting.is_empty() {
            true => self
                .link
                .send(core, message)
                .err()
                .map(|Full(message)| message),
            false => Some(message),
        };
        if let Some(message) = refused {
            if let ToCore::Close { conn, .. } = &message
                && !backlog.ending.insert(*conn)
            {
                return;
            }
            backlog.waiting.push_back((Instant::now(), message));
            self.backlogged.notify_one();
        }
    }

    pub fn ring(&self, core: u16) {
        self.link.ring(core);
    }

    /// What is known of the cores beside the queues to them.
    pub fn link(&self) -> &Cores {
        &self.link
    }

    /// Every core took every message.
    pub fn is_empty(&self) -> bool {
        self.backlogs.iter().all(|b| b.lock().waiting.is_empty())
    }

    /// Waits until a backlog exists, then retries all. Called in a loop by one task.
    pub async fn relieve(&self) -> Vec<Relief> {
        if self.is_empty() {
            self.backlogged.notified().await;
        }
        tokio::time::sleep(limits::CORE_RETRY).await;
        self.cores()
            .flat_map(|core| self.relieve_core(core))
            .collect()
    }

    fn relieve_core(&self, core: u16) -> Vec<Relief> {
        let mut backlog = self.backlogs[usize::from(core)].lock();
        if backlog.waiting.is_empty() {
            return Vec::new();
        }
        let mut moved = false;
        while let Some((since, message)) = backlog.waiting.pop_front() {
            if let Err(Full(message)) = self.link.send(core, message) {
                backlog.waiting.push_front((since, message));
                break;
            }
            moved = true;
            if backlog.waiting.is_empty() {
                backlog.ending.clear();
            }
        }
        if moved {
            self.link.ring(core);
        }
        let mut relief = Vec::new();
        let messages = overdue(&mut backlog.waiting);
        if !messages.is_empty() {
            backlog.has_shed = true;
            relief.push(Relief::Shed { core, messages });
        }
        if backlog.waiting.is_empty() && std::mem::take(&mut backlog.has_shed) {
            relief.push(Relief::Recovered { core });
        }
        relief
    }
}

/// Takes out what waited too long or is too much, leaving what must arrive.
fn overdue(waiting: &mut VecDeque<(Instant, ToCore)>) -> Vec<ToCore> {
    let excess = waiting.len().saturating_sub(limits::CORE_BACKLOG);
    let mut shed = Vec::new();
    let mut kept = VecDeque::new();
    for (index, (since, message)) in std::mem::take(waiting).into_iter().enumerate() {
        let late = index < excess || since.elapsed() > limits::CORE_FULL_SHED;
        match late && may_be_shed(&message) {
            true => shed.push(message),
            false => kept.push_back((since, message)),
        }
    }
    *waiting = kept;
    shed
}

/// Ends and answers are never shed: there are few of them, and nobody would repeat them.
fn may_be_shed(message: &ToCore) -> bool {
    match message {
        ToCore::Deliver(_)
        | ToCore::Broadcast { .. }
        | ToCore::Synced { .. }
        | ToCore::Control { .. }
        | ToCore::Behind { .. }
        | ToCore::Slot { .. } => true,
        ToCore::Answer { .. }
        | ToCore::Close { .. }
        | ToCore::StopAccepting
        | ToCore::Reload(_)
        | ToCore::Leave(_)
        | ToCore::Evict { .. }
        | ToCore::Shutdown => false,
    }
}
