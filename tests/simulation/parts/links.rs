//! The registry: the product's embedded one, which keeps the same rules as the one in Redis, on virtual time.
//! It can forget, and every process has a link to it of its own that can be cut.

use super::clock::{Clock, Part};
use crate::plan::Broken;
use async_trait::async_trait;
use herald::{
    ids::{GatewayEpoch, GatewayId, UserId},
    registry::{
        CLAIMABLE_AFTER_MS, FinisherLease, GatewayInfo, GatewayLease, Registration, Registry,
        RegistryError, Route, SendClaim, SendKey, ShardClaim, ShardLease, Spend, Spent, Swept,
        Timings,
        embedded::EmbeddedRegistry,
        quota::{Admission, Draw, Drawn},
    },
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// What the registry did that a promise is about.
#[derive(Clone, Debug)]
pub enum Deed {
    GaveGateway(GatewayEpoch),
    /// Shard, its epoch, and the process that holds it.
    GaveShard(u32, u64, String),
    /// A sweep left so many fewer entries of this life, which has not ended.
    SweptLiving(GatewayEpoch, usize),
}

pub struct Redis {
    clock: Arc<Clock>,
    broken: Broken,
    tables: Mutex<Arc<EmbeddedRegistry>>,
    incarnation: AtomicU64,
    deeds: Mutex<Vec<Deed>>,
    /// Entries as written last: what a part of the registry's memory is.
    entered: Mutex<BTreeMap<(UserId, GatewayEpoch), u64>>,
}

impl Redis {
    pub fn new(clock: Arc<Clock>, broken: Broken) -> Redis {
        // At the beginning nobody could remember to have owned anything.
        let tables = Mutex::new(empty(&clock, 0, 0));
        Redis {
            clock,
            broken,
            tables,
            incarnation: AtomicU64::new(0),
            deeds: Mutex::default(),
            entered: Mutex::default(),
        }
    }

    /// It restarts without its data.
    pub fn forget(&self) {
        // Broken on purpose: a clock that begins anew, and with it the epochs.
        let begins = match self.broken {
            Broken::EpochsBeginAnew => self.clock.unix_ms(),
            _ => 0,
        };
        *self.tables.lock() = empty(&self.clock, begins, CLAIMABLE_AFTER_MS);
        self.entered.lock().clear();
        self.incarnation.fetch_add(1, Ordering::Relaxed);
    }

    /// It loses the entries that `lost` names, and nobody is told.
    pub fn lose(&self, lost: impl Fn(usize) -> bool) {
        let mut entered = self.entered.lock();
        let mut number = 0;
        entered.retain(|(user, owner), stamp| {
            number += 1;
            if lost(number) {
                self.remove(owner, user, *stamp);
            }
            !lost(number)
        });
    }

    pub fn take_deeds(&self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds.lock())
    }

    fn did(&self, deed: Deed) {
        self.deeds.lock().push(deed);
    }

    /// Entries held now of each gateway's present life.
    fn living(&self) -> BTreeMap<GatewayEpoch, usize> {
        let leases = at_once(self.tables().gateways()).expect("it always answers");
        let live = leases.into_iter().filter(|lease| lease.live);
        let mut entries: BTreeMap<GatewayEpoch, Vec<Registration>> =
            live.map(|lease| (lease.owner, Vec::new())).collect();
        for ((user, life), stamp) in self.entered.lock().iter() {
            if let Some(entries) = entries.get_mut(life) {
                entries.push(Registration {
                    user: user.clone(),
                    stamp: *stamp,
                });
            }
        }
        let held = entries.into_iter().map(|(owner, entries)| {
            let missing = at_once(self.tables().missing(&owner, &entries));
            let count = entries.len() - missing.expect("it always answers").len();
            (owner, count)
        });
        held.collect()
    }

    fn remove(&self, owner: &GatewayEpoch, user: &UserId, stamp: u64) {
        let entry = Registration {
            user: user.clone(),
            stamp,
        };
        let tables = self.tables();
        at_once(tables.unregister(owner, &[entry])).expect("it always answers");
    }

    fn tables(&self) -> Arc<EmbeddedRegistry> {
        self.tables.lock().clone()
    }

    /// Broken on purpose: what is swept of a gateway's earlier lives goes with what its present one entered.
    fn delete_blindly(&self) {
        let leases = at_once(self.tables().gateways()).expect("it always answers");
        let mut entered = self.entered.lock();
        let swept: BTreeSet<GatewayId> = entered
            .keys()
            .filter(|(_, owner)| {
                leases.iter().any(|lease| {
                    lease.owner.gateway == owner.gateway && lease.owner.epoch > owner.epoch
                })
            })
            .map(|(_, owner)| owner.gateway.clone())
            .collect();
        entered.retain(|(user, owner), stamp| {
            let goes = swept.contains(&owner.gateway);
            if goes {
                self.remove(owner, user, *stamp);
            }
            !goes
        });
    }
}

fn empty(
    clock: &Arc<Clock>,
    begins_unix_ms: u64,
    claimable_after_ms: u64,
) -> Arc<EmbeddedRegistry> {
    let clock = clock.clone();
    let timings = Timings {
        claimable_after_ms,
        ..Timings::default()
    };
    Arc::new(EmbeddedRegistry::with_clock(
        timings,
        Box::new(move || clock.unix_ms() - begins_unix_ms),
    ))
}

/// The embedded registry answers without waiting.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    futures::FutureExt::now_or_never(call).expect("an answer at once")
}

/// One process's way to the registry.
pub struct Link {
    redis: Arc<Redis>,
    /// Random per life of the process.
    holder: String,
    cut: AtomicBool,
    /// Broken on purpose: routes looked up before their rows were stored.
    early: Mutex<BTreeMap<UserId, Vec<Route>>>,
}

impl Link {
    pub fn new(redis: Arc<Redis>, holder: String) -> Link {
        Link {
            redis,
            holder,
            cut: AtomicBool::new(false),
            early: Mutex::default(),
        }
    }

    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The next look-up of these users is answered by what it is now.
    pub async fn look_up_early(&self, users: &[UserId]) {
        let Ok(routes) = self.lookup(users).await else {
            return;
        };
        let known = users.iter().cloned().zip(routes);
        self.early.lock().extend(known);
    }

    /// A link is cut or whole at the moment a call begins.
    async fn there(&self) -> Result<Arc<EmbeddedRegistry>, RegistryError> {
        let cut = self.is_cut();
        self.redis.clock.way(Part::Registry).await;
        match cut {
            true => Err(RegistryError::Unavailable("cut off".to_owned())),
            false => Ok(self.redis.tables()),
        }
    }

    async fn back<T>(&self, answer: Result<T, RegistryError>) -> Result<T, RegistryError> {
        self.redis.clock.way(Part::Registry).await;
        answer
    }
}

#[async_trait]
impl Registry for Link {
    async fn acquire_gateway(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError> {
        let tables = self.there().await?;
        let answer = tables.acquire_gateway(id, holder, info).await;
        if let Ok(owner) = &answer {
            self.redis.did(Deed::GaveGateway(owner.clone()));
        }
        self.back(answer).await
    }

    async fn renew_gateway(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.renew_gateway(owner, holder, info).await)
            .await
    }

    async fn release_gateway(&self, owner: &GatewayEpoch) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.release_gateway(owner).await).await
    }

    async fn claim_shard(
        &self,
        owner: &GatewayEpoch,
        claim: ShardClaim,
    ) -> Result<ShardLease, RegistryError> {
        let tables = self.there().await?;
        let answer = tables.claim_shard(owner, claim).await;
        if let Ok(lease) = &answer {
            let holder = self.holder.clone();
            self.redis
                .did(Deed::GaveShard(lease.shard, lease.epoch, holder));
        }
        self.back(answer).await
    }

    async fn renew_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.renew_shard(lease).await).await
    }

    async fn release_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.release_shard(lease).await).await
    }

    async fn finish_shard(
        &self,
        finisher: &str,
        shard: u32,
    ) -> Result<FinisherLease, RegistryError> {
        let tables = self.there().await?;
        let answer = tables.finish_shard(finisher, shard).await;
        if let Ok(lease) = &answer {
            let holder = finisher.to_owned();
            self.redis.did(Deed::GaveShard(shard, lease.epoch, holder));
        }
        self.back(answer).await
    }

    async fn renew_finisher(&self, lease: &FinisherLease) -> Result<bool, RegistryError> {
        let tables = self.there().await?;
        self.back(tables.renew_finisher(lease).await).await
    }

    async fn release_finisher(&self, lease: &FinisherLease) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.release_finisher(lease).await).await
    }

    async fn lock_orders(&self, holder: &str, for_ms: u64) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.lock_orders(holder, for_ms).await).await
    }

    async fn unlock_orders(&self, holder: &str) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.unlock_orders(holder).await).await
    }

    async fn claim_send(
        &self,
        _: &SendKey,
        _: &str,
        _: Duration,
    ) -> Result<SendClaim, RegistryError> {
        unreachable!("no channel but in-app")
    }

    async fn finish_send(&self, _: &SendKey) -> Result<(), RegistryError> {
        unreachable!("no channel but in-app")
    }

    async fn release_send(&self, _: &SendKey, _: &str) -> Result<(), RegistryError> {
        unreachable!("no channel but in-app")
    }

    async fn admit(&self, _: &[Admission]) -> Result<Vec<bool>, RegistryError> {
        unreachable!("nothing is limited")
    }

    async fn draw(&self, _: &[Draw]) -> Result<Vec<Drawn>, RegistryError> {
        unreachable!("nothing is limited")
    }

    async fn spend(&self, _: &Spend) -> Result<Spent, RegistryError> {
        unreachable!("in-app costs nothing")
    }

    async fn gateways(&self) -> Result<Vec<GatewayLease>, RegistryError> {
        let tables = self.there().await?;
        self.back(tables.gateways().await).await
    }

    async fn shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError> {
        let tables = self.there().await?;
        self.back(tables.shards(count).await).await
    }

    async fn register(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        let answer = tables.register(owner, users).await;
        if answer.is_ok() {
            let written = users
                .iter()
                .map(|entry| ((entry.user.clone(), owner.clone()), entry.stamp));
            self.redis.entered.lock().extend(written);
        }
        self.back(answer).await
    }

    async fn unregister(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        let tables = self.there().await?;
        self.back(tables.unregister(owner, users).await).await
    }

    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        let early: Option<Vec<_>> = {
            let mut early = self.early.lock();
            users.iter().map(|user| early.remove(user)).collect()
        };
        if let Some(routes) = early {
            return Ok(routes);
        }
        let tables = self.there().await?;
        self.back(tables.lookup(users).await).await
    }

    async fn missing(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError> {
        let tables = self.there().await?;
        self.back(tables.missing(owner, users).await).await
    }

    async fn sweep(&self, budget: usize) -> Result<Swept, RegistryError> {
        let tables = self.there().await?;
        let before = self.redis.living();
        let answer = tables.sweep(budget).await;
        if self.redis.broken == Broken::SweepBlindly {
            self.redis.delete_blindly();
        }
        for (owner, held) in self.redis.living() {
            let lost = before.get(&owner).map_or(0, |before| before - held);
            if lost > 0 {
                self.redis.did(Deed::SweptLiving(owner, lost));
            }
        }
        self.back(answer).await
    }

    fn healthy(&self) -> bool {
        !self.is_cut()
    }

    fn incarnation(&self) -> u64 {
        self.redis.incarnation.load(Ordering::Relaxed)
    }
}
