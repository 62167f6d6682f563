//! Sending clients elsewhere: because the process ends, because an operator empties the host, to share them
//! anew with a host that joined, or because all shards are owned and nothing reaches them here.
//!
//! The order of an end: not ready → the load balancer's grace → no more accepting → clients asked to come
//! back elsewhere, as fast as the siblings take them → every connection gone → outcomes in flight accepted
//! and committed → users, shard and lease given back. Each step is bounded in time, so that leaving always
//! ends.

mod evictor;
pub mod pacing;
pub mod slot;

pub use slot::keep_slot;

use super::{health::Cause, host::Host};
use crate::{config::Drain, gateway::mailbox::ToCore, limits};
use evictor::Evictor;
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};

/// What is wanted of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    #[default]
    Stay,
    /// Down to the mean of the region's hosts; newcomers stay welcome.
    Rebalance,
    /// Empty, but alive: it takes clients again when it is to stay after all. `None`: the configured
    /// deadline.
    Drain { deadline_ms: Option<u64> },
    /// Empty, then the process ends. Final.
    Exit,
}

/// A wish that does not go with the present one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unwished {
    #[error("the process is ending")]
    Ending,
    #[error("the host is being drained: cancel that first")]
    Draining,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Serving,
    /// Not ready; the load balancer is given time to notice.
    Grace,
    Draining,
    /// Nobody is left.
    Empty,
    Rebalancing,
}

/// How far it is. Who is left, the table knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being fulfilled.
    pub wish: Wish,
    pub phase: Phase,
    /// Connections when it began.
    pub began_with: u64,
    /// Clients sent away in this second.
    pub rate_per_s: u32,
    /// What it waits for: nobody is sent away meanwhile.
    pub waits: Option<&'static str>,
    /// Why it leaves though nobody wished it.
    pub reason: Option<&'static str>,
}

/// The wish, and what came of it.
#[derive(Default)]
pub struct Leaving {
    wish: watch::Sender<Wish>,
    /// Since when there is no shard for this host, once that has lasted while it had clients.
    shardless: watch::Sender<Option<Instant>>,
    progress: watch::Sender<Progress>,
    /// Changes with every phase: the lease tells it to the siblings at once.
    phases: watch::Sender<()>,
    /// Cores without a connection.
    drained: watch::Sender<BTreeSet<u16>>,
    /// Since when newcomers are sent elsewhere.
    since: Mutex<Option<Instant>>,
}

impl Leaving {
    pub fn wish(&self, wish: Wish) -> Result<(), Unwished> {
        let mut result = Ok(());
        self.wish.send_if_modified(|present| {
            result = match (*present, wish) {
                (Wish::Exit, Wish::Exit) => Ok(()),
                (Wish::Exit, _) => Err(Unwished::Ending),
                (Wish::Drain { .. }, Wish::Rebalance) => Err(Unwished::Draining),
                _ => Ok(()),
            };
            let changes = result.is_ok() && *present != wish;
            if changes {
                *present = wish;
            }
            changes
        });
        result
    }

    pub fn is_ending(&self) -> bool {
        *self.wish.borrow() == Wish::Exit
    }

    /// No shard is to be had, since then: clients here get nothing live.
    pub fn no_shard_since(&self, since: Instant) {
        self.shardless.send_if_modified(|present| {
            let is_news = present.is_none();
            present.get_or_insert(since);
            is_news
        });
    }

    /// Clients are welcome again.
    pub fn has_shard(&self) {
        self.shardless
            .send_if_modified(|present| present.take().is_some());
    }

    pub fn phases(&self) -> watch::Receiver<()> {
        self.phases.subscribe()
    }

    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Until the present wish shows in the progress.
    pub async fn taken_up(&self) {
        let mut progress = self.progress.subscribe();
        let shows = progress.wait_for(|progress| progress.wish == *self.wish.borrow());
        let _ = shows.await;
    }

    /// Until nobody is left.
    pub async fn emptied(&self) {
        let mut progress = self.progress.subscribe();
        let empty = progress.wait_for(|progress| progress.phase == Phase::Empty);
        let _ = empty.await;
    }

    /// A core says that it has no connection.
    pub fn core_drained(&self, core: u16) {
        self.drained.send_modify(|drained| {
            drained.insert(core);
        });
    }

    fn begin(&self, wish: Wish, phase: Phase, host: &Host) {
        let is_wished = matches!(wish, Wish::Drain { .. } | Wish::Exit);
        let leaves = matches!(phase, Phase::Grace | Phase::Draining);
        self.progress.send_replace(Progress {
            wish,
            phase,
            began_with: host.table.connections(),
            reason: (leaves && !is_wished).then_some("no shard is free"),
            ..Progress::default()
        });
        self.phases.send_replace(());
    }

    fn is_empty_now(&self) {
        let progress = &self.progress;
        progress.send_modify(|progress| progress.phase = Phase::Empty);
        self.phases.send_replace(());
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Serving => "serving",
            Phase::Grace => "grace",
            Phase::Draining => "draining",
            Phase::Empty => "empty",
            Phase::Rebalancing => "rebalancing",
        })
    }
}

/// Fulfils one wish after the other. Runs until dropped.
pub async fn run(host: Arc<Host>) {
    let mut wishes = host.leaving.wish.subscribe();
    let mut shardless = host.leaving.shardless.subscribe();
    loop {
        let wish = *wishes.borrow_and_update();
        let since = *shardless.borrow_and_update();
        // Who is to leave anyway leaves as was wished.
        let stays = matches!(wish, Wish::Stay | Wish::Rebalance);
        tokio::select! {
            () = fulfil(&host, wish, since.filter(|_| stays)) => {}
            _ = wishes.changed() => {}
            _ = shardless.changed(), if stays => {}
        }
    }
}

/// Ends only by being dropped: what is fulfilled lasts until the next wish, or the next news of the shard.
async fn fulfil(host: &Arc<Host>, wish: Wish, shardless: Option<Instant>) {
    if let Some(since) = shardless {
        leave_without_shard(host, wish, since).await;
        return std::future::pending().await;
    }
    match wish {
        Wish::Stay => {
            take_clients_again(host);
            host.leaving.begin(wish, Phase::Serving, host);
        }
        Wish::Rebalance => {
            take_clients_again(host);
            host.leaving.begin(wish, Phase::Rebalancing, host);
            Evictor::new(host.clone(), host.drain)
                .down_to_the_mean()
                .await;
            // Another wish may have come meanwhile; it stands.
            host.leaving.wish.send_if_modified(|present| {
                let done = *present == Wish::Rebalance;
                if done {
                    *present = Wish::Stay;
                }
                done
            });
        }
        Wish::Drain { deadline_ms } => {
            let deadline_ms = deadline_ms.unwrap_or(host.drain.deadline_ms);
            let drain = Drain {
                deadline_ms,
                ..host.drain
            };
            leave(host, drain, wish).await;
        }
        Wish::Exit => leave(host, host.drain, wish).await,
    }
    std::future::pending().await
}

/// If it was leaving: a drain was taken back, or there is a shard.
fn take_clients_again(host: &Host) {
    if host.leaving.since.lock().take().is_some() {
        tracing::info!("stays after all: takes clients again");
        host.draining.store(false, Ordering::Relaxed);
        host.outboxes.send_all(|| ToCore::Leave(false));
        host.leaving.drained.send_modify(BTreeSet::clear);
        host.health.works(Cause::Draining);
    }
}

/// From the wish to leave until every connection is gone.
async fn leave(host: &Arc<Host>, drain: Drain, wish: Wish) {
    let since = *host.leaving.since.lock().get_or_insert_with(Instant::now);
    let connections = host.table.connections();
    tracing::info!(connections, "leaving: not ready from now on");
    host.fails(Cause::Draining, "leaving: clients are sent elsewhere");
    let evictor = Evictor::new(host.clone(), drain);
    empty(host, evictor, wish, since).await;
}

/// The other hosts own all shards: what is for the clients here goes to them.
async fn leave_without_shard(host: &Arc<Host>, wish: Wish, since: Instant) {
    let connections = host.table.connections();
    tracing::warn!(
        connections,
        "all shards are owned, and nothing live reaches the clients here: they are sent to the gateways that own one. \
         Stop a gateway, or add partitions to `in_app` and `critical`; with a shard it takes clients again by itself"
    );
    host.metrics.leaving.shardless.inc();
    *host.leaving.since.lock() = Some(since);
    // A drain that was taken back; the shard keeps it from being ready.
    host.health.works(Cause::Draining);
    let evictor = Evictor::unhurried(host.clone());
    empty(host, evictor, wish, since).await;
}

/// Until every connection is gone; `since` then nobody is sent here.
async fn empty(host: &Arc<Host>, mut evictor: Evictor, wish: Wish, since: Instant) {
    let leaving = &host.leaving;
    host.draining.store(true, Ordering::Relaxed);
    leaving.begin(wish, Phase::Grace, host);
    evictor.look_ahead().await;
    tokio::time::sleep_until(since + Duration::from_millis(host.drain.grace_ms)).await;
    if wish == Wish::Exit {
        host.outboxes.send_all(|| ToCore::StopAccepting);
    }
    host.outboxes.send_all(|| ToCore::Leave(true));
    leaving.begin(wish, Phase::Draining, host);
    let all = host.outboxes.cores().count();
    let mut gone = leaving.drained.subscribe();
    tokio::select! {
        _ = gone.wait_for(|drained| drained.len() >= all) => {}
        () = evictor.everyone() => {
            let left = host.table.connections();
            tracing::warn!(left, "connections were left when the drain ended: closed");
        }
    }
    leaving.is_empty_now();
}

/// Until what cores said last has been reported; bounded.
pub async fn settle(host: &Host) {
    let until = Instant::now() + limits::DRAIN_FINISH;
    while Instant::now() < until && !(host.flights.unsettled() == 0 && host.outcomes.is_idle()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ends the core threads. Answers when each has been told, or will not listen.
pub async fn end_cores(host: &Host) {
    host.outboxes.send_all(|| ToCore::Shutdown);
    let until = Instant::now() + limits::REGISTRY_WAIT;
    while Instant::now() < until && !host.outboxes.is_empty() {
        tokio::time::sleep(limits::CORE_RETRY).await;
    }
}
