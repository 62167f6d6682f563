//! What the control tasks of one host share, and what all of them do with it.

use super::{
    Pace,
    behind::{Behind, Missed},
    canary::Canary,
    cut_off::CutOff,
    flights::{Flights, Settled, Speaker, Waiter},
    health::{Cause, Health},
    leaving::Leaving,
    link::Outboxes,
    metrics::ControlMetrics,
    outcomes::{Awaits, Identity, NamedEpoch, Outcomes, Reported},
    table::Table,
    upstream::SharedUpstream,
};
use crate::{
    bus::SharedBus,
    clock::unix_ms,
    config,
    envelope::Fate,
    gateway::mailbox::{ConnId, ToCore},
    ids::{GatewayEpoch, GatewayId, Region, UserId},
    limits,
    metrics::Metrics,
    position::Cursors,
    proto::client::frames,
    registry::{GatewayLease, ShardLease, SharedRegistry},
};
use arc_swap::{ArcSwap, Guard};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// What this host owns: records of the shard are its to answer, its users are entered under the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub gateway: GatewayEpoch,
    pub shard: ShardLease,
}

pub struct Host {
    pub id: GatewayId,
    /// Random per process: tells a restart from a renewal, or from a drain that was taken back.
    pub process: String,
    pub region: Region,
    pub gateway: ArcSwap<config::Gateway>,
    pub drain: config::Drain,
    /// `host:port` of our gRPC service, empty without one.
    pub grpc: String,
    pub pace: Pace,
    pub bus: SharedBus,
    pub registry: SharedRegistry,
    pub upstream: SharedUpstream,
    pub outboxes: Outboxes,
    pub table: Table,
    pub flights: Flights,
    pub outcomes: Outcomes,
    pub behind: Behind,
    pub health: Health,
    pub cut_off: Arc<CutOff>,
    pub canary: Arc<Canary>,
    pub metrics: Arc<ControlMetrics>,
    pub ownership: watch::Sender<Option<Ownership>>,
    /// Last known epoch and shard, also while they are lost: outcomes name them.
    pub identity: watch::Sender<Identity>,
    /// Highest epoch a dispatcher has named for a shard of ours.
    pub named_epoch: Arc<watch::Sender<NamedEpoch>>,
    /// The end of `broadcast` is noted: no later broadcast escapes this host.
    pub follows_broadcasts: watch::Sender<bool>,
    pub draining: AtomicBool,
    pub leaving: Leaving,
    /// Connections opened so far, and a second, lately.
    pub opened: AtomicU64,
    pub opened_per_s: AtomicU32,
    /// Gateways of the fleet whose leases were live when last looked at; 0 before that.
    pub live_gateways: AtomicU32,
    /// Stream names of this region, shared by all its items.
    pub streams: [Arc<str>; 2],
}

impl Host {
    /// Read when they are asked for: what a drain left behind, or a newcomer, shows at once.
    pub fn measure_table(self: &Arc<Self>, metrics: &Metrics) {
        let host = self.clone();
        metrics.computed("connections_open", "Authenticated connections", move || {
            host.table.connections() as i64
        });
        let host = self.clone();
        metrics.computed("users", "Users with an entry in the table", move || {
            host.table.users() as i64
        });
    }

    /// `[gateway]` as it is now.
    pub fn gateway(&self) -> Guard<Arc<config::Gateway>> {
        self.gateway.load()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Connections a second this host takes at most: none when it is full or leaves, or before the load
    /// balancer has seen that it is ready: who is sent away meanwhile would only return to where they were.
    pub fn accepts_limit_per_s(&self) -> u32 {
        let seen = Duration::from_millis(self.drain.grace_ms);
        match self.health.is_ready_for(seen) && self.room() > 0 {
            true => self.gateway().accepts_per_s,
            false => 0,
        }
    }

    /// Connections this host could hold on top, once it is sent them.
    pub fn room(&self) -> u64 {
        let memory = self.outboxes.link().memory();
        let most = (self.gateway().connections_soft as u64).min(memory.connections_max());
        match self.health.is_ready_for(Duration::ZERO) && !self.is_draining() {
            true => most.saturating_sub(self.table.connections()),
            false => 0,
        }
    }

    /// Of these, what it could take on top of what came lately.
    pub fn spare_accepts_per_s(&self) -> u32 {
        let used = self.opened_per_s.load(Ordering::Relaxed);
        self.accepts_limit_per_s().saturating_sub(used)
    }

    /// All gateways' leases; `None` when the registry does not say in time for a step of a drain.
    pub async fn leases(&self) -> Option<Vec<GatewayLease>> {
        let leases = self.registry.gateways();
        let leases = tokio::time::timeout(limits::DRAIN_STEP, leases).await;
        leases.ok()?.ok()
    }

    /// Other hosts of the region that take clients, by what they said lately.
    pub fn siblings<'a>(&self, leases: &'a [GatewayLease]) -> Vec<&'a GatewayLease> {
        let takes = |lease: &&GatewayLease| lease.info.accepts_limit_per_s > 0 && !lease.overdue;
        self.staying(leases).filter(takes).collect()
    }

    /// Other hosts of the region that live and do not leave, whether they take clients now or not.
    pub fn staying<'a>(
        &self,
        leases: &'a [GatewayLease],
    ) -> impl Iterator<Item = &'a GatewayLease> {
        leases.iter().filter(|lease| {
            lease.live
                && !lease.info.draining
                && lease.owner.gateway != self.id
                && lease.info.region == self.region
        })
    }

    /// Who says what an outcome says, now.
    pub fn speaker(&self) -> Speaker {
        Speaker {
            gateway: self.identity.borrow().0.to_string(),
            at_ms: unix_ms(),
        }
    }

    /// One text per stream name, for all items of it.
    pub fn stream(&self, name: &str) -> Arc<str> {
        let known = self.streams.iter().find(|known| known.as_ref() == name);
        known.cloned().unwrap_or_else(|| name.into())
    }

    /// Whether a catch-up may be called complete: whatever comes from now on reaches this host.
    pub fn reaches(&self, user: &UserId) -> Result<(), Missed> {
        if self.ownership.borrow().is_none() {
            return Err(Missed::Shard);
        }
        if !*self.follows_broadcasts.borrow() {
            return Err(Missed::Broadcast);
        }
        match self.table.is_registered(user) {
            true => Ok(()),
            false => Err(Missed::Registry),
        }
    }

    /// Hands settled deliveries to whoever waits for them.
    pub fn settle(&self, settled: impl IntoIterator<Item = Settled>) {
        let reported = settled.into_iter().filter_map(|settled| {
            let written = settled.outcomes.iter().any(|o| o.fate == Fate::Written);
            if let Some(began) = settled.began
                && written
                && !matches!(settled.waiter, Waiter::Nobody)
            {
                self.metrics.delivered(&began);
            }
            let awaits = match settled.waiter {
                Waiter::Offset(finished) if settled.outcomes.is_empty() => {
                    finished.done();
                    return None;
                }
                Waiter::Offset(finished) => Some(Awaits::Offset(finished)),
                Waiter::Nobody => None,
                Waiter::Call(call) => {
                    // A caller that gave up asks again through the bus.
                    let _ = call.send(settled.outcomes.into_vec());
                    return None;
                }
            };
            Some(Reported {
                outcomes: settled.outcomes,
                awaits,
            })
        });
        self.outcomes.submit(reported);
    }

    /// The `sync` frame of a catch-up that could not be answered: nothing is claimed to be covered.
    pub fn unanswered_sync(&self, conn: ConnId, cursors: Cursors) {
        let frame = frames::sync(&[], &Default::default(), &cursors, false, false);
        let message = ToCore::Synced {
            conn,
            frame,
            cursors,
            complete: false,
        };
        self.outboxes.send(conn.core, message);
        self.metrics.syncs.with_label_values(&["unanswered"]).inc();
    }

    pub fn fails(&self, cause: Cause, text: impl Into<String>) {
        self.health.fails(cause, text);
    }
}
