//! Leaving in good order.
//!
//! The order: not ready → the load balancer's grace → no more accepting → clients asked to come back
//! elsewhere, as fast as the siblings take them → every connection gone → outcomes in flight accepted and
//! committed → users, shard and lease given back. Each step is bounded in time, so that leaving always ends.

use super::{
    health::Cause,
    host::Host,
    pacing::{Pacer, Sibling},
};
use crate::{config::Drain, gateway::mailbox::ToCore, limits, registry::GatewayLease};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

/// One step of the pacing.
const STEP: Duration = Duration::from_secs(1);

/// From the wish to leave until every connection is gone.
pub async fn empty(host: &Arc<Host>, drain: Drain, drained: watch::Receiver<BTreeSet<u16>>) {
    tracing::info!(
        connections = host.table.connections(),
        "leaving: not ready from now on"
    );
    host.draining.store(true, Ordering::Relaxed);
    host.fails(Cause::Draining, "leaving: clients are sent elsewhere");
    tokio::time::sleep(Duration::from_millis(drain.grace_ms)).await;
    host.outboxes.send_all(|| ToCore::StopAccepting);
    host.outboxes.send_all(|| ToCore::Leave(true));
    let evictor = Evictor {
        host: host.clone(),
        drain,
        pacer: Pacer::default(),
        had_siblings: false,
        began: Instant::now(),
    };
    let all = host.outboxes.cores().count();
    let mut gone = drained.clone();
    tokio::select! {
        _ = gone.wait_for(|drained| drained.len() >= all) => {}
        () = evictor.run(drained) => {
            let left = host.table.connections();
            tracing::warn!(left, "connections were left when the drain ended: closed");
        }
    }
}

/// Sends clients away until it is told to stop, or all that remain were sent away at the deadline.
struct Evictor {
    host: Arc<Host>,
    drain: Drain,
    pacer: Pacer,
    /// There ever was a host to send them to.
    had_siblings: bool,
    began: Instant,
}

impl Evictor {
    async fn run(mut self, drained: watch::Receiver<BTreeSet<u16>>) {
        let mut steps = tokio::time::interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.began.elapsed() < self.limit() {
            steps.tick().await;
            let clients = self.rate().await;
            self.host.metrics.leaving.evicting.set(i64::from(clients));
            self.evict(clients, limits::EVICTED_BACK_WITHIN_MS, &drained.borrow());
        }
        // Whoever is left comes back as after a crash: spread over the slot, whatever siblings say.
        let slot_ms = self.host.metrics.leaving.slot_ms.get() as u32;
        self.evict(u32::MAX, slot_ms, &drained.borrow());
        tokio::time::sleep(limits::DRAIN_SLACK).await;
    }

    /// How long it may take. Alone there is nobody to spare: the window is all.
    fn limit(&self) -> Duration {
        Duration::from_millis(match self.had_siblings {
            true => self.drain.deadline_ms,
            false => self.drain.window_ms,
        })
    }

    /// Clients to send away in the coming second.
    async fn rate(&mut self) -> u32 {
        match tokio::time::timeout(STEP, self.host.registry.gateways()).await {
            Ok(Ok(leases)) => {
                let (siblings, leaving) = self.siblings(&leases);
                self.had_siblings |= !siblings.is_empty();
                if self.had_siblings {
                    return self.pacer.step(&siblings, leaving);
                }
            }
            // What was right a moment ago is not wrong yet; without news it is not raised.
            _ if self.had_siblings => return self.pacer.rate_per_s(),
            _ => {}
        }
        self.evenly()
    }

    /// Hosts of the region that could take clients, and how many leave now, this one included.
    fn siblings(&self, leases: &[GatewayLease]) -> (Vec<Sibling>, u32) {
        let siblings = self.host.siblings(leases);
        let sibling = |lease: &&GatewayLease| Sibling {
            limit_per_s: lease.info.accepts_limit_per_s,
            spare_per_s: lease.info.spare_accepts_per_s,
        };
        let leaving = leases.iter().filter(|lease| {
            lease.live && lease.info.draining && lease.owner.gateway != self.host.id
        });
        let leaving = 1 + leaving.count() as u32;
        (siblings.iter().map(sibling).collect(), leaving)
    }

    /// So many that all are gone at the end of the window.
    fn evenly(&self) -> u32 {
        let window = Duration::from_millis(self.drain.window_ms);
        let left_s = window.saturating_sub(self.began.elapsed()).as_secs().max(1);
        let share = self.host.table.connections().div_ceil(left_s);
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Newcomers come to all cores alike, so each core has its share of the clients.
    fn evict(&self, clients: u32, back_within_ms: u32, drained: &BTreeSet<u16>) {
        let outboxes = &self.host.outboxes;
        let cores: Vec<u16> = outboxes
            .cores()
            .filter(|core| !drained.contains(core))
            .collect();
        let share = clients.div_ceil(cores.len().max(1) as u32);
        for core in cores {
            let message = ToCore::Evict {
                clients: share,
                back_within_ms,
            };
            outboxes.send(core, message);
        }
    }
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
