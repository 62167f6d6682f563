//! Connections come and go: the registry learns of users, then clients learn what they missed.
//!
//! The ordering invariant: a router stores a row, *then* looks the user up; here the registry write is
//! awaited, *then* the store is read, *then* the client is answered. So a row that the answer lacks was
//! stored after the user could be looked up, and comes live. Live frames flow from the first moment.
//!
//! One task makes all registry calls about users, so a removal never overtakes an entry.

use super::{
    behind::Missed,
    host::{Host, Ownership},
    posts::{self, Job},
    table::PARTS,
};
use crate::{
    gateway::mailbox::ConnId,
    limits,
    position::Cursors,
    registry::{Registration, RegistryError},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

/// A connection whose user is not registered yet, or may not be.
#[derive(Debug)]
pub struct Arrival {
    pub conn: ConnId,
    pub registration: Registration,
    /// What to catch up on, and the most rows of an answer.
    pub catch_up: Option<(Cursors, usize)>,
}

pub struct Registrar {
    host: Arc<Host>,
    arrivals: mpsc::Receiver<Arrival>,
    jobs: mpsc::Sender<Job>,
    /// Under which epoch the table's flags hold.
    entered_as: Option<Ownership>,
    /// No call before this: the registry has just failed to answer.
    away_until: Option<Instant>,
    next_part: usize,
    /// Entries found owed in this round over the parts.
    owed: usize,
    comparison: Comparison,
}

/// Anti-entropy: where the comparison with the registry stands.
struct Comparison {
    /// The registry's incarnation that entries were written to.
    incarnation: u64,
    next_part: usize,
    /// Parts to be compared without waiting for their turn.
    at_once: usize,
    last: Instant,
    /// Between two parts.
    pause: Duration,
    asked: u64,
    missing: u64,
}

impl Comparison {
    fn new(incarnation: u64, round: Duration) -> Comparison {
        Comparison {
            incarnation,
            pause: round / PARTS as u32,
            next_part: 0,
            at_once: 0,
            last: Instant::now(),
            asked: 0,
            missing: 0,
        }
    }

    /// The part whose turn it is, if it is time for one.
    fn due(&mut self, incarnation: u64) -> Option<usize> {
        if incarnation != self.incarnation {
            // Another server, and then a renewal that finds nothing there, are one cause.
            if self.at_once == 0 {
                tracing::warn!("the registry may have forgotten: every user's entry is compared");
            }
            self.incarnation = incarnation;
            self.at_once = PARTS;
        }
        let turn = self.last.elapsed() >= self.pause;
        (turn || self.at_once > 0).then_some(self.next_part)
    }

    /// A part is done. Answers the accuracy when it was the last of a round.
    fn done(&mut self) -> Option<f64> {
        self.last = Instant::now();
        self.at_once = self.at_once.saturating_sub(1);
        self.next_part = (self.next_part + 1) % PARTS;
        if self.next_part > 0 {
            return None;
        }
        let (asked, missing) = (self.asked, self.missing);
        (self.asked, self.missing) = (0, 0);
        let held = asked.saturating_sub(missing);
        (asked > 0).then(|| held as f64 / asked as f64)
    }
}

impl Registrar {
    pub fn new(
        host: Arc<Host>,
        arrivals: mpsc::Receiver<Arrival>,
        jobs: mpsc::Sender<Job>,
    ) -> Registrar {
        let incarnation = host.registry.incarnation();
        let comparison = Comparison::new(incarnation, host.pace.anti_entropy);
        Registrar {
            host,
            arrivals,
            jobs,
            entered_as: None,
            away_until: None,
            next_part: 0,
            owed: 0,
            comparison,
        }
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        let mut scan = tokio::time::interval(self.host.pace.removal_after / PARTS as u32);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                taken = self.arrivals.recv_many(&mut batch, limits::REGISTER_BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    self.arrive(std::mem::take(&mut batch)).await;
                }
                _ = scan.tick() => self.scan().await,
            }
        }
    }

    /// Enters the users of new connections, then lets their catch-up begin.
    async fn arrive(&mut self, arrivals: Vec<Arrival>) {
        let mut entries: Vec<Registration> = arrivals
            .iter()
            .map(|arrival| arrival.registration.clone())
            .filter(|entry| !self.host.table.is_registered(&entry.user))
            .collect();
        entries.dedup();
        if !self.register(&entries).await {
            self.host.table.owe(&entries);
        }
        for arrival in arrivals {
            if let Some((cursors, limit)) = arrival.catch_up {
                let job = Job::Sync {
                    conn: arrival.conn,
                    user: arrival.registration.user,
                    cursors,
                    limit,
                };
                posts::enqueue(&self.host, &self.jobs, job);
            }
        }
    }

    /// Looks through the next part of the table: who is owed an entry, who is gone, what was lost.
    async fn scan(&mut self) {
        let owner = self.owner();
        let live = self.host.live_gateways.load(Ordering::Relaxed);
        let most = reentered_by_a_scan(live, self.host.pace.removal_after);
        let scan = self.host.table.scan(self.next_part, most);
        self.owed += scan.owed.len();
        self.unregister(owner.as_ref(), &scan.gone).await;
        if let Some(owner) = owner {
            self.register(&scan.owed).await;
            self.compare(&owner, most - scan.owed.len()).await;
        }
        self.next_part = (self.next_part + 1) % PARTS;
        if self.next_part == 0 {
            let metrics = &self.host.metrics;
            metrics.registrations_owed.set(self.owed as i64);
            self.owed = 0;
        }
    }

    /// Anti-entropy: what the registry lost is entered again. Every part once in
    /// [`Pace::anti_entropy`](super::Pace). When the registry may have forgotten, all of them: at least one a
    /// scan, and as many as have no more than `room` users, which is the pace at which the lost may be entered.
    async fn compare(&mut self, owner: &Ownership, mut room: usize) {
        while let Some(part) = self.comparison.due(self.host.registry.incarnation()) {
            let Some(compared) = self.compare_part(owner, part, room).await else {
                return;
            };
            room = room.saturating_sub(compared);
            if room == 0 {
                return;
            }
        }
    }

    /// Answers how many users it asked for. What was lost beyond `room` is left to the next scans.
    async fn compare_part(
        &mut self,
        owner: &Ownership,
        part: usize,
        mut room: usize,
    ) -> Option<usize> {
        let host = self.host.clone();
        let registered = host.table.registered_in(part);
        for entries in registered.chunks(limits::REGISTER_BATCH) {
            let call = host.registry.missing(&owner.gateway, entries);
            let missing = self.call("missing", call).await?;
            host.table.owe(&missing);
            self.comparison.asked += entries.len() as u64;
            self.comparison.missing += missing.len() as u64;
            host.metrics.comparison.missing.inc_by(missing.len() as u64);
            let now = room.min(missing.len());
            room -= now;
            self.register(&missing[..now]).await;
        }
        if let Some(accuracy) = self.comparison.done() {
            host.metrics.comparison.accuracy.set(accuracy);
        }
        Some(registered.len())
    }

    async fn register(&mut self, entries: &[Registration]) -> bool {
        let Some(owner) = self.owner() else {
            return false;
        };
        let host = self.host.clone();
        for entries in entries.chunks(limits::REGISTER_BATCH) {
            let call = host.registry.register(&owner.gateway, entries);
            if self.call("register", call).await.is_none() {
                return false;
            }
            host.metrics.registrations.inc_by(entries.len() as u64);
            let missed = host.table.confirm(entries);
            host.behind.tell(Missed::Registry, missed);
        }
        true
    }

    /// What can't be removed now is tried again at the next scan of its part.
    async fn unregister(&mut self, owner: Option<&Ownership>, gone: &[Registration]) {
        let host = self.host.clone();
        for gone in gone.chunks(limits::REGISTER_BATCH) {
            let removed = match owner {
                Some(owner) => {
                    let call = host.registry.unregister(&owner.gateway, gone);
                    self.call("unregister", call).await.is_some()
                }
                None => false,
            };
            if !removed {
                host.table.keep_for_removal(gone);
            }
        }
    }

    /// The present ownership. Under a new epoch everyone is owed an entry.
    fn owner(&mut self) -> Option<Ownership> {
        let owner = self.host.ownership.borrow().clone()?;
        let known = self.entered_as.as_ref();
        if known.is_none_or(|known| known.gateway != owner.gateway) {
            if known.is_some() {
                self.host.table.owe_everyone();
            }
            self.entered_as = Some(owner.clone());
        }
        Some(owner)
    }

    /// One registry call, bounded in time; after a failure the next ones fail at once for a while.
    async fn call<T>(
        &mut self,
        name: &str,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Option<T> {
        if self.away_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let error = match tokio::time::timeout(limits::REGISTRY_WAIT, call).await {
            Ok(Ok(answer)) => {
                self.away_until = None;
                return Some(answer);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::debug!(name, error, "registry call failed");
        self.away_until = Some(Instant::now() + limits::AWAY_RETRY);
        let errors = &self.host.metrics.registry_errors;
        errors.with_label_values(&[name]).inc();
        None
    }
}

/// This gateway's share of what the fleet may enter again, for one scan of a part.
fn reentered_by_a_scan(live_gateways: u32, round: Duration) -> usize {
    let per_round = limits::REENTERED_PER_S as f64 * round.as_secs_f64();
    let share = per_round / PARTS as f64 / f64::from(live_gateways.max(1));
    (share as usize).clamp(1, limits::REGISTER_BATCH)
}

/// Removes everyone still in the table from the registry: the process leaves.
pub async fn unregister_all(host: &Host, owner: &Ownership, within: Duration) {
    let removal = async {
        for part in 0..PARTS {
            for entries in host.table.take(part).chunks(limits::REGISTER_BATCH) {
                host.registry.unregister(&owner.gateway, entries).await?;
            }
        }
        Ok::<(), RegistryError>(())
    };
    if !matches!(tokio::time::timeout(within, removal).await, Ok(Ok(()))) {
        tracing::warn!("users could not be removed from the registry: the sweep does it later");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_enters_its_users_again_no_faster_than_a_registry_takes_them() {
        let round = limits::REMOVAL_AFTER;
        for gateways in 1..100 {
            let each = reentered_by_a_scan(gateways, round);
            let per_s = each * gateways as usize * PARTS / round.as_secs() as usize;
            assert!(per_s <= limits::REENTERED_PER_S, "{gateways}: {per_s}/s");
            assert!(each <= limits::REGISTER_BATCH);
            // 500,000 on each of 45 are back within five minutes.
            assert!(gateways > 45 || each * PARTS * 300 / round.as_secs() as usize > 500_000);
        }
    }
}
