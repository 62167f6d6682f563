//! Asks clients to come back elsewhere, second by second, at the rate the siblings can take.

use super::pacing::{Pacer, Sibling};
use crate::{
    config::Drain,
    control::host::Host,
    gateway::mailbox::ToCore,
    limits,
    registry::{GatewayLease, LEASE_MS, RENEW_MS},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};

/// Who has nobody to send clients to any more waits so long for one that restarts.
const BACK_WITHIN: Duration = Duration::from_millis(LEASE_MS);
/// What a host is now, its lease says by then.
const LEASES_TOLD: Duration = Duration::from_millis(2 * RENEW_MS);

pub(super) struct Evictor {
    host: Arc<Host>,
    drain: Drain,
    /// Nobody is sent away for the sake of time.
    is_unhurried: bool,
    pacer: Pacer,
    began: Instant,
    /// When a host was last seen that stays, be it full or not ready yet: somebody to send clients to, be it later.
    seen_one: Option<Instant>,
    /// When the registry last said who the others are.
    heard: Option<Instant>,
    /// Since when clients leave evenly, because there is nobody.
    evenly_since: Option<Instant>,
}

/// The region's other hosts, at one look.
struct Others {
    takers: Vec<Sibling>,
    /// Connections of the takers.
    connections: u64,
    /// There are hosts that stay, though they may not take clients now: full, or not seen yet.
    any_stays: bool,
    /// Hosts that send clients away now, this one included.
    leaving: u32,
}

impl Evictor {
    pub fn new(host: Arc<Host>, drain: Drain) -> Evictor {
        Evictor {
            host,
            drain,
            is_unhurried: false,
            pacer: Pacer::default(),
            began: Instant::now(),
            seen_one: None,
            heard: None,
            evenly_since: None,
        }
    }

    /// Without a deadline, and for as long as others take them: elsewhere clients would find nobody, and here they
    /// have their inbox.
    pub fn unhurried(host: Arc<Host>) -> Evictor {
        let drain = host.drain;
        let mut evictor = Evictor::new(host, drain);
        evictor.is_unhurried = true;
        evictor
    }

    /// Whether there is somebody to send clients to, before the first is sent: whoever leaves meanwhile may be back.
    pub async fn look_ahead(&mut self) {
        let others = self.look().await;
        if others.is_some_and(|others| others.any_stays) {
            self.seen_one = Some(Instant::now());
        }
    }

    /// Until it is dropped because nobody is left, or the deadline passed and all that remained were sent
    /// away at once.
    pub async fn everyone(mut self) {
        self.began = Instant::now();
        // The load balancer's time does not count.
        self.seen_one = self.seen_one.map(|_| self.began);
        let mut steps = steps();
        loop {
            steps.tick().await;
            if !self.is_unhurried && Instant::now() >= self.end() {
                break;
            }
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
                if is_told {
                    return;
                }
                self.evict(0, limits::EVICTED_BACK_WITHIN_MS);
                continue;
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

    /// When it is over. Where nobody stays there is nobody to spare: the window is all.
    fn end(&self) -> Instant {
        let deadline = self.began + Duration::from_millis(self.drain.deadline_ms);
        let window = Duration::from_millis(self.drain.window_ms);
        match self.evenly_since {
            None => deadline,
            Some(since) if self.seen_one.is_some() => deadline.min(since + window),
            Some(since) => since + window,
        }
    }

    /// Clients to send away in the coming second.
    async fn rate(&mut self) -> u32 {
        match self.look().await {
            None => self.blindly(),
            Some(others) if others.any_stays => {
                self.seen_one = Some(Instant::now());
                self.evenly_since = None;
                self.paced(&others)
            }
            // A fleet that leaves as a whole, or one that restarts.
            Some(_) if self.seen_one.is_some_and(|at| at.elapsed() < BACK_WITHIN) => 0,
            Some(_) if self.is_unhurried => 0,
            Some(_) => self.evenly(),
        }
    }

    /// The same when the registry does not say: on old figures clients would be sent to hosts that have died or are
    /// full by now, and that could not enter them.
    fn blindly(&mut self) -> u32 {
        if !self.is_unhurried && (self.evenly_since.is_some() || self.is_alone()) {
            return self.evenly();
        }
        // Who was there counts as there: they renew once it answers.
        self.seen_one = Some(Instant::now());
        let heard = self.heard.map(|at| at.elapsed());
        if heard.is_some_and(|age| age < limits::DRAIN_FIGURES) {
            return self.pacer.step_blindly();
        }
        self.waits_for_registry(true);
        self.pacer.pause()
    }

    /// Nobody else stayed when the registry last answered.
    fn is_alone(&self) -> bool {
        match self.heard {
            Some(_) => self.seen_one.is_none(),
            None => self.host.live_gateways.load(Ordering::Relaxed) <= 1,
        }
    }

    /// Shown, and said once.
    fn waits_for_registry(&self, waits: bool) {
        let waits = waits.then_some("the registry is away");
        let progress = &self.host.leaving.progress;
        let changes = progress.send_if_modified(|progress| {
            let changes = progress.waits != waits;
            progress.waits = waits;
            changes
        });
        match waits {
            Some(_) if changes => tracing::warn!(
                "the registry is away, so nobody knows who takes clients: none are sent away until it answers, or the drain's deadline"
            ),
            None if changes => tracing::info!("the registry answers: clients are sent away again"),
            _ => {}
        }
    }

    fn paced(&mut self, others: &Others) -> u32 {
        self.pacer.step(&others.takers, others.leaving)
    }

    /// `None` when the registry does not say.
    async fn look(&mut self) -> Option<Others> {
        let leases = self.host.leases().await?;
        self.heard = Some(Instant::now());
        self.waits_for_registry(false);
        let siblings = self.host.siblings(&leases);
        let taker = |lease: &&GatewayLease| Sibling {
            limit_per_s: lease.info.accepts_limit_per_s,
            spare_per_s: lease.info.spare_accepts_per_s,
            room: lease.info.room(),
        };
        // Those that send clients: one that is empty takes no part.
        let leaving = leases.iter().filter(|lease| {
            lease.live
                && lease.info.draining
                && lease.info.connections > 0
                && lease.info.region == self.host.region
                && lease.owner.gateway != self.host.id
        });
        Some(Others {
            takers: siblings.iter().map(taker).collect(),
            connections: siblings.iter().map(|lease| lease.info.connections).sum(),
            any_stays: self.host.staying(&leases).next().is_some(),
            leaving: 1 + leaving.count() as u32,
        })
    }

    /// So many that all are gone at the end of the window.
    fn evenly(&mut self) -> u32 {
        let since = *self.evenly_since.get_or_insert_with(Instant::now);
        let window = Duration::from_millis(self.drain.window_ms);
        let left_s = window.saturating_sub(since.elapsed()).as_secs().max(1);
        let share = self.host.table.connections().div_ceil(left_s);
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Newcomers come to all cores alike, so each core has its share of the clients.
    fn evict(&self, clients: u32, back_within_ms: u32) {
        let host = &self.host;
        self.show_rate(clients.min(u32::try_from(host.table.connections()).unwrap_or(u32::MAX)));
        let drained = host.leaving.drained.borrow().clone();
        let cores: Vec<u16> = host.outboxes.cores().collect();
        let cores: Vec<u16> = cores
            .into_iter()
            .filter(|core| !drained.contains(core))
            .collect();
        let count = cores.len().max(1) as u32;
        for (nth, core) in (0..).zip(cores) {
            let message = ToCore::Evict {
                // Together no more than `clients`: there may be no room for one more.
                clients: clients / count + u32::from(nth < clients % count),
                back_within_ms,
            };
            host.outboxes.send(core, message);
        }
    }

    fn show_rate(&self, rate_per_s: u32) {
        let host = &self.host;
        host.metrics.leaving.evicting.set(i64::from(rate_per_s));
        let progress = &host.leaving.progress;
        progress.send_modify(|progress| progress.rate_per_s = rate_per_s);
    }
}

/// Whoever ends or overrules it: nobody is sent away any more.
impl Drop for Evictor {
    fn drop(&mut self) {
        self.show_rate(0);
        let progress = &self.host.leaving.progress;
        progress.send_modify(|progress| progress.waits = None);
    }
}

fn steps() -> tokio::time::Interval {
    let mut steps = tokio::time::interval(limits::DRAIN_STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    steps
}
