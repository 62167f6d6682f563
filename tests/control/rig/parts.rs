//! The dispatcher and the registry as a test plays them.

use super::Journal;
use async_trait::async_trait;
use herald::{
    control::upstream::{Accepted, SyncReply, Upstream, UpstreamError},
    envelope::Outcome,
    ids::{GatewayEpoch, GatewayId, UserId},
    position::Cursors,
    registry::{
        FinisherLease, GatewayInfo, GatewayLease, Registration, Registry, RegistryError, Route,
        SendClaim, SendKey, ShardClaim, ShardLease, Spend, Spent, Swept,
        embedded::EmbeddedRegistry,
        quota::{Admission, Draw, Drawn},
    },
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The dispatcher a test plays.
pub struct Dispatcher {
    pub(super) journal: Journal,
    pub reported: Mutex<Vec<Outcome>>,
    /// How many outcomes each batch had.
    pub batches: Mutex<Vec<usize>>,
    /// Holds the answers to batches back.
    pub busy: AtomicBool,
    pub away: AtomicBool,
    /// Holds syncs back.
    pub slow: AtomicBool,
    pub has_registry: AtomicBool,
    pub shard_epoch: Mutex<Option<u64>>,
    pub reply: Mutex<SyncReply>,
}

#[async_trait]
impl Upstream for Dispatcher {
    async fn report(
        &self,
        _: &GatewayEpoch,
        _: Option<u32>,
        outcomes: Vec<Outcome>,
    ) -> Result<Accepted, UpstreamError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(UpstreamError::Unavailable("a test says so".into()));
        }
        self.batches.lock().push(outcomes.len());
        self.reported.lock().extend(outcomes);
        while self.busy.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Accepted {
            shard_epoch: *self.shard_epoch.lock(),
            has_registry: self.has_registry.load(Ordering::Relaxed),
        })
    }

    async fn sync(&self, user: &UserId, _: Cursors, _: usize) -> Result<SyncReply, UpstreamError> {
        while self.slow.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.away.load(Ordering::Relaxed) {
            return Err(UpstreamError::Unavailable("a test says so".into()));
        }
        self.journal.lock().push(format!("sync {user}"));
        Ok(self.reply.lock().clone())
    }

    async fn accepts(&self, _: &GatewayEpoch) -> bool {
        self.healthy()
    }

    fn health(&self) -> Result<(), UpstreamError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(UpstreamError::Unavailable("a test says so".into())),
            false => Ok(()),
        }
    }
}

/// The embedded registry, that a test can make slow, or unreachable.
pub struct Faulty {
    pub real: Arc<EmbeddedRegistry>,
    pub(super) journal: Journal,
    pub away: AtomicBool,
    pub slow: AtomicBool,
    pub incarnation: AtomicU64,
    /// Users whose entries were compared.
    pub compared: AtomicU64,
}

impl Faulty {
    async fn gate(&self) -> Result<(), RegistryError> {
        while self.slow.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match self.away.load(Ordering::Relaxed) {
            true => Err(RegistryError::Unavailable("a test says so".into())),
            false => Ok(()),
        }
    }

    fn note(&self, what: &str, users: &[Registration]) {
        let mut journal = self.journal.lock();
        journal.extend(users.iter().map(|entry| format!("{what} {}", entry.user)));
    }
}

#[async_trait]
impl Registry for Faulty {
    async fn acquire_gateway(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError> {
        self.gate().await?;
        self.real.acquire_gateway(id, holder, info).await
    }
    async fn renew_gateway(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.renew_gateway(owner, holder, info).await
    }
    async fn release_gateway(&self, owner: &GatewayEpoch) -> Result<(), RegistryError> {
        self.journal.lock().push("release gateway".into());
        self.real.release_gateway(owner).await
    }
    async fn claim_shard(
        &self,
        owner: &GatewayEpoch,
        claim: ShardClaim,
    ) -> Result<ShardLease, RegistryError> {
        self.gate().await?;
        self.real.claim_shard(owner, claim).await
    }
    async fn renew_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.renew_shard(lease).await
    }
    async fn release_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        self.journal.lock().push("release shard".into());
        self.real.release_shard(lease).await
    }
    async fn finish_shard(
        &self,
        finisher: &str,
        shard: u32,
    ) -> Result<FinisherLease, RegistryError> {
        self.real.finish_shard(finisher, shard).await
    }
    async fn renew_finisher(&self, lease: &FinisherLease) -> Result<bool, RegistryError> {
        self.real.renew_finisher(lease).await
    }
    async fn release_finisher(&self, lease: &FinisherLease) -> Result<(), RegistryError> {
        self.real.release_finisher(lease).await
    }
    async fn lock_orders(&self, holder: &str, for_ms: u64) -> Result<(), RegistryError> {
        self.real.lock_orders(holder, for_ms).await
    }
    async fn unlock_orders(&self, holder: &str) -> Result<(), RegistryError> {
        self.real.unlock_orders(holder).await
    }
    async fn claim_send(
        &self,
        send: &SendKey,
        owner: &str,
        lease: Duration,
    ) -> Result<SendClaim, RegistryError> {
        self.real.claim_send(send, owner, lease).await
    }
    async fn finish_send(&self, send: &SendKey) -> Result<(), RegistryError> {
        self.real.finish_send(send).await
    }
    async fn release_send(&self, send: &SendKey, owner: &str) -> Result<(), RegistryError> {
        self.real.release_send(send, owner).await
    }
    async fn admit(&self, asked: &[Admission]) -> Result<Vec<bool>, RegistryError> {
        self.real.admit(asked).await
    }
    async fn draw(&self, draws: &[Draw]) -> Result<Vec<Drawn>, RegistryError> {
        self.real.draw(draws).await
    }

    async fn spend(&self, spend: &Spend) -> Result<Spent, RegistryError> {
        self.real.spend(spend).await
    }
    async fn gateways(&self) -> Result<Vec<GatewayLease>, RegistryError> {
        self.gate().await?;
        self.real.gateways().await
    }
    async fn shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError> {
        self.real.shards(count).await
    }
    async fn register(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.register(owner, users).await?;
        self.note("registered", users);
        Ok(())
    }
    async fn unregister(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.unregister(owner, users).await?;
        self.note("unregistered", users);
        Ok(())
    }
    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        self.real.lookup(users).await
    }
    async fn missing(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError> {
        self.gate().await?;
        let missing = self.real.missing(owner, users).await?;
        self.compared
            .fetch_add(users.len() as u64, Ordering::Relaxed);
        Ok(missing)
    }
    async fn sweep(&self, budget: usize) -> Result<Swept, RegistryError> {
        self.real.sweep(budget).await
    }
    fn healthy(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }
    fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }
}
