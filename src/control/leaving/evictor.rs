//! Asks clients to come back elsewhere, second by second, at the rate the siblings can take.

use super::pacing::{Pacer, Sibling};
use crate::{
    config::Drain,
    control::host::Host,
    gateway::mailbox::ToCore,
    limits,
    registry::{GatewayLease, RENEW_MS},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

/// What a host is now, its lease says by then.
const LEASES_TOLD: Duration = Duration::from_millis(2 * RENEW_MS);

pub(super) struct Evictor {
    host: Arc<Host>,
    drain: Drain,
    pacer: Pacer,
    /// There ever was a host to send them to, be it later.
    had_siblings: bool,
    began: Instant,
}

/// The region's other hosts, at one look.
struct Others {
    takers: Vec<Sibling>,
    /// Connections of the takers.
    connections: u64,
    /// There are hosts that stay, though they may not take clients now: full, or not seen yet.
    any_stays: bool,
    /// Hosts that leave now, this one included.
    leaving: u32,
}

impl Evictor {
    pub fn new(host: Arc<Host>, drain: Drain) -> Evictor {
        Evictor {
            host,
            drain,
            pacer: Pacer::default(),
            had_siblings: false,
            began: Instant::now(),
        }
    }

    /// Until it is dropped because nobody is left, or the deadline passed and all that remained were sent
    /// away at once.
    pub async fn everyone(mut self) {
        let mut steps = steps();
        while self.began.elapsed() < self.limit() {
            steps.tick().await;
            let clients = self.rate().await;
            self.evict(clients, limits::EVICTED_BACK_WITHIN_MS);
        }
        // Whoever is left comes back as after a crash: spread over the slot, whatever siblings say.
        let slot_s = self.host.metrics.leaving.slot_s.get();
        self.evict(u32::MAX, (slot_s * 1_000.0).round() as u32);
        tokio::time::sleep(limits::DRAIN_SLACK).await;
    }

    /// Until this host has no more than its share, or as many were sent away as it had too many: a balancer
    /// may send them back here. Not before a host that was ready when it began has become a taker.
    pub async fn down_to_the_mean(mut self) {
        let all_told = Duration::from_millis(self.drain.grace_ms) + LEASES_TOLD;
        let mut steps = steps();
        let (mut takers, mut budget) = (0, 0);
        loop {
            steps.tick().await;
            let is_told = self.began.elapsed() >= all_told;
            let Some(others) = self.look().await else {
                match is_told {
                    true => return,
                    false => continue,
                }
            };
            let hosts = others.takers.len() as u64 + 1;
            let own = self.host.table.connections();
            let mean = (own + others.connections).div_ceil(hosts);
            let excess = own.saturating_sub(mean);
            if others.takers.len() > takers {
                // The newcomer's share comes on top of what went to the others.
                takers = others.takers.len();
                budget = excess;
            }
            let most = u32::try_from(excess.min(budget)).unwrap_or(u32::MAX);
            if most == 0 && is_told {
                return;
            }
            let clients = self.paced(&others).min(most);
            budget -= u64::from(clients);
            self.evict(clients, limits::EVICTED_BACK_WITHIN_MS);
        }
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
        match self.look().await {
            Some(others) => {
                self.had_siblings |= others.any_stays;
                match self.had_siblings {
                    true => self.paced(&others),
                    false => self.evenly(),
                }
            }
            // What was right a moment ago is not wrong yet; without news it is not raised.
            None if self.had_siblings => self.pacer.rate_per_s(),
            None => self.evenly(),
        }
    }

    fn paced(&mut self, others: &Others) -> u32 {
        self.pacer.step(&others.takers, others.leaving)
    }

    /// `None` when the registry does not say.
    async fn look(&self) -> Option<Others> {
        let leases = self.host.leases().await?;
        let siblings = self.host.siblings(&leases);
        let taker = |lease: &&GatewayLease| Sibling {
            limit_per_s: lease.info.accepts_limit_per_s,
            spare_per_s: lease.info.spare_accepts_per_s,
        };
        let leaving = leases.iter().filter(|lease| {
            lease.live && lease.info.draining && lease.owner.gateway != self.host.id
        });
        Some(Others {
            takers: siblings.iter().map(taker).collect(),
            connections: siblings.iter().map(|lease| lease.info.connections).sum(),
            any_stays: self.host.staying(&leases).next().is_some(),
            leaving: 1 + leaving.count() as u32,
        })
    }

    /// So many that all are gone at the end of the window.
    fn evenly(&self) -> u32 {
        let window = Duration::from_millis(self.drain.window_ms);
        let left_s = window.saturating_sub(self.began.elapsed()).as_secs().max(1);
        let share = self.host.table.connections().div_ceil(left_s);
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Newcomers come to all cores alike, so each core has its share of the clients.
    fn evict(&self, clients: u32, back_within_ms: u32) {
        let host = &self.host;
        host.metrics.leaving.evicting.set(i64::from(clients));
        let progress = &host.leaving.progress;
        progress.send_modify(|progress| progress.rate_per_s = clients);
        let drained = host.leaving.drained.borrow().clone();
        let cores: Vec<u16> = host.outboxes.cores().collect();
        let cores: Vec<u16> = cores
            .into_iter()
            .filter(|core| !drained.contains(core))
            .collect();
        let share = clients.div_ceil(cores.len().max(1) as u32);
        for core in cores {
            let message = ToCore::Evict {
                clients: share,
                back_within_ms,
            };
            host.outboxes.send(core, message);
        }
    }
}

fn steps() -> tokio::time::Interval {
    let mut steps = tokio::time::interval(limits::DRAIN_STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    steps
}
