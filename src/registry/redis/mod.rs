//! The registry in Redis: what a fleet shares.
//!
//! Redis's own clock (`TIME`) judges every lease. What decides is a script on one key; what is merely
//! written or read goes in pipelines of bounded length. While Redis is away every call answers
//! [`RegistryError::Unavailable`] at once, and the link comes back by itself.

mod connections;
mod keys;
mod leases;
mod link;
mod quota;
mod scripts;
mod sends;
mod spend;
mod sweep;
mod writes;

use super::{
    FinisherLease, GatewayInfo, GatewayLease, Registration, Registry, RegistryError, Route,
    SendClaim, SendKey, ShardClaim, ShardLease, Spend, Spent, Swept, Timings,
    quota::{Admission, Draw, Drawn},
};
use crate::{
    config::{self, ConfigError},
    ids::{GatewayEpoch, GatewayId, Namespace, UserId},
    metrics::Metrics,
};
use async_trait::async_trait;
use keys::Keys;
use link::Link;
use std::{sync::Arc, time::Duration};
use tokio::task::AbortHandle;

/// What [`RedisRegistry::connect`] would refuse.
pub fn check(config: &config::Redis) -> Result<(), ConfigError> {
    link::check(config)
}

pub struct RedisRegistry {
    link: Arc<Link>,
    keeper: AbortHandle,
    keys: Keys,
    timings: Timings,
    /// Leases of a moment ago, for look-ups; the lock makes those who wait share one refresh.
    leases: tokio::sync::Mutex<Option<leases::Snapshot>>,
    sweeper: sweep::Progress,
}

impl RedisRegistry {
    /// Begins to connect, in the tokio runtime it is called in. A Redis that is down is no error here, a
    /// configuration that can't work is.
    pub fn connect(
        config: &config::Redis,
        namespace: &Namespace,
        metrics: &Metrics,
    ) -> Result<RedisRegistry, ConfigError> {
        RedisRegistry::connect_with(config, namespace, metrics, Timings::default())
    }

    /// With other timings, for tests that can't wait a minute.
    pub fn connect_with(
        config: &config::Redis,
        namespace: &Namespace,
        metrics: &Metrics,
        timings: Timings,
    ) -> Result<RedisRegistry, ConfigError> {
        let keys = Keys::new(namespace);
        let link = Link::open(config, keys.probed(), metrics)?;
        let keeper = tokio::spawn(link.clone().keep()).abort_handle();
        Ok(RedisRegistry {
            link,
            keeper,
            keys,
            timings,
            leases: tokio::sync::Mutex::new(None),
            sweeper: sweep::Progress::default(),
        })
    }
}

impl Drop for RedisRegistry {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[async_trait]
impl Registry for RedisRegistry {
    async fn acquire_gateway(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError> {
        self.acquire(id, holder, info).await
    }

    async fn renew_gateway(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError> {
        self.renew(owner, holder, info).await
    }

    async fn release_gateway(&self, owner: &GatewayEpoch) -> Result<(), RegistryError> {
        self.release(owner).await
    }

    async fn claim_shard(
        &self,
        owner: &GatewayEpoch,
        claim: ShardClaim,
    ) -> Result<ShardLease, RegistryError> {
        match claim {
            ShardClaim::Auto { shards } => self.claim_any(owner, shards).await,
            ShardClaim::Exact {
                shard,
                former_epoch,
            } => self.claim_one(owner, shard, former_epoch).await,
        }
    }

    async fn renew_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        self.renew_ownership(lease).await
    }

    async fn release_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        self.release_ownership(lease).await
    }

    async fn finish_shard(
        &self,
        finisher: &str,
        shard: u32,
    ) -> Result<FinisherLease, RegistryError> {
        self.hold_for_finishing(finisher, shard).await
    }

    async fn renew_finisher(&self, lease: &FinisherLease) -> Result<bool, RegistryError> {
        self.renew_hold(lease).await
    }

    async fn release_finisher(&self, lease: &FinisherLease) -> Result<(), RegistryError> {
        self.release_hold(lease).await
    }

    async fn lock_orders(&self, holder: &str, for_ms: u64) -> Result<(), RegistryError> {
        self.lock(holder, for_ms).await
    }

    async fn unlock_orders(&self, holder: &str) -> Result<(), RegistryError> {
        self.unlock(holder).await
    }

    async fn claim_send(
        &self,
        send: &SendKey,
        owner: &str,
        lease: Duration,
    ) -> Result<SendClaim, RegistryError> {
        self.claim(send, owner, lease).await
    }

    async fn finish_send(&self, send: &SendKey) -> Result<(), RegistryError> {
        self.finish(send).await
    }

    async fn release_send(&self, send: &SendKey, owner: &str) -> Result<(), RegistryError> {
        self.give_back(send, owner).await
    }

    async fn admit(&self, asked: &[Admission]) -> Result<Vec<bool>, RegistryError> {
        self.grant(asked).await
    }

    async fn draw(&self, draws: &[Draw]) -> Result<Vec<Drawn>, RegistryError> {
        self.take(draws).await
    }

    async fn spend(&self, spend: &Spend) -> Result<Spent, RegistryError> {
        self.pay(spend).await
    }

    async fn gateways(&self) -> Result<Vec<GatewayLease>, RegistryError> {
        Ok(self.read_gateways().await?.leases())
    }

    async fn shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError> {
        self.read_shards(count).await
    }

    async fn register(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        self.enter(owner, users).await
    }

    async fn unregister(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        self.remove(owner, users).await
    }

    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        self.find(users).await
    }

    async fn missing(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError> {
        self.absent(owner, users).await
    }

    async fn sweep(&self, budget: usize) -> Result<Swept, RegistryError> {
        self.sweep_lives(budget).await
    }

    fn healthy(&self) -> bool {
        self.link.healthy()
    }

    fn fault(&self) -> Option<String> {
        self.link.fault()
    }

    fn incarnation(&self) -> u64 {
        self.link.incarnation()
    }
}
