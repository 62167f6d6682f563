//! The lease of the gateway id and the shard: taken at start, renewed, taken anew when lost.
//!
//! Invariants:
//! * an ownership is published only after the registry has shown the shard with the gateway's lease for as long as a
//!   router may go by older leases: one that finds a user here can reach this host, and whoever catches up from then
//!   on misses nothing that was looked up before;
//! * a registry that does not answer takes nothing away: the last ownership is kept, nothing new claimed;
//! * a lost gateway lease means a new epoch, and every user is entered again under it.

use super::{
    ControlError,
    behind::Missed,
    health::Cause,
    host::{Host, Ownership},
};
use crate::{
    bus::Topic,
    config::{ConfigError, Shard},
    ids::GatewayEpoch,
    limits,
    registry::{GatewayInfo, RegistryError, ShardClaim, ShardLease},
};
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Another process lives under our gateway id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "the gateway id {id} is in use: process {holder} keeps renewing its lease. Stop it, or set another gateway.id"
)]
pub struct Refused {
    pub id: String,
    pub holder: String,
}

/// After so many renewals seen, the holder of our id is not one that died.
const RENEWALS_OF_ANOTHER: u32 = 3;

pub struct Keeper {
    host: Arc<Host>,
    gateway: Option<GatewayEpoch>,
    shard: Option<ShardLease>,
    /// The last shard held, and its epoch: whoever remembers goes first.
    former: Option<ShardLease>,
    /// From when on no router goes by a lease of ours without the shard.
    seen_from: Option<Instant>,
    /// Epoch under which an ownership was published last.
    owned_as: Option<GatewayEpoch>,
    /// Another holder's `until_ms` when last seen, and how often it moved.
    other: (u64, u32),
    /// Since when all shards are owned, or the configured one.
    shardless_since: Option<Instant>,
}

/// When to go on, or why not.
type Next = Result<Duration, ControlError>;

impl Keeper {
    pub fn new(host: Arc<Host>) -> Keeper {
        // 0 is a shard, and somebody else's until one is owned.
        host.metrics.shard.set(-1);
        Keeper {
            host,
            gateway: None,
            shard: None,
            former: None,
            seen_from: None,
            owned_as: None,
            other: (0, 0),
            shardless_since: None,
        }
    }

    /// Keeps the leases until `stop`, then gives them back.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ControlError> {
        let mut named = self.host.named_epoch.subscribe();
        let mut phases = self.host.leaving.phases();
        loop {
            let wait = tokio::select! {
                () = stop.cancelled() => break,
                wait = self.step() => wait?,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                // A dispatcher named a higher epoch of our shard: look at once.
                _ = named.changed() => {}
                // Who sends clients here, or takes ours, reads it in the lease.
                _ = phases.changed() => {}
            }
        }
        self.release().await;
        Ok(())
    }

    async fn step(&mut self) -> Next {
        let Some(gateway) = self.gateway.clone() else {
            return self.acquire().await;
        };
        let named = *self.host.named_epoch.borrow();
        if let (Some(shard), Some((number, epoch))) = (&self.shard, named)
            && number == shard.shard
            && epoch > shard.epoch
        {
            tracing::warn!(
                shard = number,
                epoch,
                "a dispatcher knows a later owner of our shard"
            );
            self.lose_shard();
        }
        match self.shard.clone() {
            None => self.claim(gateway).await,
            Some(shard) => Ok(self.renew(gateway, shard).await),
        }
    }

    async fn acquire(&mut self) -> Next {
        let host = self.host.clone();
        let info = self.info();
        let call = host
            .registry
            .acquire_gateway(&host.id, &host.process, &info);
        match bounded(call).await {
            Ok(gateway) => {
                tracing::info!(%gateway, "lease acquired");
                self.host.metrics.epoch.set(gateway.epoch as i64);
                self.host
                    .identity
                    .send_modify(|identity| identity.0 = gateway.clone());
                self.gateway = Some(gateway);
                // From here on it is the shard that is waited for.
                host.health.works(Cause::Lease);
                Ok(Duration::ZERO)
            }
            Err(RegistryError::Held {
                holder,
                until_ms,
                wait_ms,
            }) => self.held(holder, until_ms, wait_ms),
            Err(error) => {
                self.failed("acquire_gateway");
                let fix = "check redis.url; it goes on by itself when the registry answers";
                host.fails(Cause::Lease, format!("no lease yet: {error}: {fix}"));
                Ok(limits::AWAY_RETRY)
            }
        }
    }

    /// An unclean restart waits for its own old lease; a holder that renews is another process.
    fn held(&mut self, holder: String, until_ms: u64, wait_ms: u64) -> Next {
        let id = &self.host.id;
        let (seen, renewals) = self.other;
        let renewals = renewals + u32::from(seen != 0 && until_ms > seen);
        self.other = (until_ms, renewals);
        if renewals >= RENEWALS_OF_ANOTHER {
            return Err(Refused {
                id: id.to_string(),
                holder,
            }
            .into());
        }
        self.host.fails(
            Cause::Lease,
            format!(
                "the gateway id {id} is held by process {holder}: waiting for its lease to end"
            ),
        );
        Ok(Duration::from_millis(wait_ms.clamp(10, 1_000)))
    }

    async fn claim(&mut self, gateway: GatewayEpoch) -> Next {
        let host = self.host.clone();
        let shards = match host.bus.partitions(Topic::InApp).await {
            Ok(shards) => shards,
            Err(error) => {
                host.fails(
                    Cause::Shard,
                    format!("the shards can't be counted: {error}; it goes on by itself when the bus answers"),
                );
                self.renew_gateway(&gateway).await;
                return Ok(limits::AWAY_RETRY);
            }
        };
        let claim = match (host.gateway().shard, &self.former) {
            (Shard::Auto, _) => ShardClaim::Auto { shards },
            (Shard::Fixed(shard), _) if shard >= shards => {
                return self.beyond(&gateway, shard, shards).await;
            }
            (Shard::Fixed(shard), former) => ShardClaim::Exact {
                shard,
                former_epoch: former.as_ref().map(|lease| lease.epoch),
            },
        };
        match bounded(host.registry.claim_shard(&gateway, claim)).await {
            Ok(lease) => Ok(self.publish(gateway, lease).await),
            Err(error) => {
                let wait = self.unclaimed(error, shards);
                // The lease lives on while a shard is waited for.
                self.renew_gateway(&gateway).await;
                Ok(wait)
            }
        }
    }

    /// The topic has fewer partitions than the configuration counts on: wrong from the start, or made anew.
    async fn beyond(&mut self, gateway: &GatewayEpoch, shard: u32, shards: u32) -> Next {
        let problem = format!(
            "{shard} is not allowed: `in_app` has {shards} partitions. Set \"auto\" or 0 to {}, or add partitions to `in_app` and `critical`",
            shards.saturating_sub(1)
        );
        let error = ConfigError::new("gateway.shard", problem);
        if self.former.is_none() {
            self.release().await;
            return Err(error.into());
        }
        self.host.fails(Cause::Shard, error.to_string());
        self.renew_gateway(gateway).await;
        Ok(limits::AWAY_RETRY)
    }

    /// Says why there is no shard yet; answers when to try again.
    fn unclaimed(&mut self, error: RegistryError, shards: u32) -> Duration {
        match error {
            RegistryError::NoShard | RegistryError::Held { .. } => self.others_own_it(),
            // Nobody knows.
            RegistryError::Unavailable(_) => {}
            // It is on its way.
            _ => self.shardless_since = None,
        }
        let (text, wait_ms) = match error {
            RegistryError::NoShard => (
                format!(
                    "all {shards} shards are owned: add partitions to `in_app` and `critical`, or stop a gateway"
                ),
                1_000,
            ),
            RegistryError::Claimable { in_ms } => (
                "the registry knows no owner: waiting for one that remembers".to_owned(),
                in_ms,
            ),
            RegistryError::Held {
                holder, wait_ms, ..
            } => (format!("the shard is held by {holder}"), wait_ms),
            RegistryError::Finishing { .. } => (
                "a dispatcher finishes the shard: it yields within seconds".to_owned(),
                limits::AWAY_RETRY.as_millis() as u64,
            ),
            RegistryError::Lost { epoch } => {
                self.lose_gateway(epoch);
                ("the gateway's lease was lost".to_owned(), 0)
            }
            RegistryError::Unavailable(_) => {
                self.failed("claim_shard");
                (format!("no shard yet: {error}"), 500)
            }
        };
        self.host.fails(Cause::Shard, text);
        Duration::from_millis(wait_ms.clamp(10, 1_000))
    }

    /// Nothing that is posted now reaches the clients here, for as long as the others live.
    fn others_own_it(&mut self) {
        let since = *self.shardless_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= limits::SHARDLESS_CLIENTS && self.host.table.connections() > 0 {
            self.host.leaving.no_shard_since(since);
        }
    }

    /// The shard is ours: shown with the lease, then published to this process.
    async fn publish(&mut self, gateway: GatewayEpoch, shard: ShardLease) -> Duration {
        self.shard = Some(shard.clone());
        if !self.renew_gateway(&gateway).await {
            // Claimed, but nobody could be routed here: the next step renews both and publishes.
            return limits::AWAY_RETRY;
        }
        self.own_once_seen(gateway, shard)
    }

    /// The lease shows the shard, from now on at the latest. Answers when to go on.
    fn own_once_seen(&mut self, gateway: GatewayEpoch, shard: ShardLease) -> Duration {
        let now = Instant::now();
        let seen_from = now + self.host.pace.leases_cached;
        let seen_from = *self.seen_from.get_or_insert(seen_from);
        if now < seen_from {
            return seen_from - now;
        }
        self.own(gateway, shard);
        self.host.pace.renew
    }

    fn own(&mut self, gateway: GatewayEpoch, shard: ShardLease) {
        tracing::info!(%gateway, shard = shard.shard, epoch = shard.epoch, "owns its shard");
        self.host.metrics.shard.set(i64::from(shard.shard));
        self.former = Some(shard.clone());
        self.shardless_since = None;
        let identity = (gateway.clone(), Some(shard.shard));
        self.host.identity.send_replace(identity);
        self.host.ownership.send_replace(Some(Ownership {
            gateway: gateway.clone(),
            shard,
        }));
        self.host.leaving.has_shard();
        // Under a new epoch everyone is told when entered again; under the same one nobody is entered.
        if self.owned_as.replace(gateway.clone()) == Some(gateway) {
            self.host.behind.tell_all(Missed::Shard, &self.host.table);
        }
    }

    async fn renew(&mut self, gateway: GatewayEpoch, shard: ShardLease) -> Duration {
        if !self.renew_gateway(&gateway).await {
            return match self.gateway {
                Some(_) => limits::AWAY_RETRY,
                None => Duration::ZERO,
            };
        }
        match bounded(self.host.registry.renew_shard(&shard)).await {
            Ok(()) => {
                if self.host.ownership.borrow().is_none() {
                    return self.own_once_seen(gateway, shard);
                }
            }
            Err(RegistryError::Unavailable(_)) => {
                self.failed("renew_shard");
                return limits::AWAY_RETRY;
            }
            Err(error) => {
                tracing::warn!(shard = shard.shard, %error, "shard lost");
                self.lose_shard();
                return Duration::ZERO;
            }
        }
        self.host.pace.renew
    }

    /// `false` when it was not renewed; the lease may be lost then.
    async fn renew_gateway(&mut self, gateway: &GatewayEpoch) -> bool {
        let info = self.info();
        let call = self
            .host
            .registry
            .renew_gateway(gateway, &self.host.process, &info);
        match bounded(call).await {
            Ok(()) => true,
            Err(RegistryError::Unavailable(_)) => {
                self.failed("renew_gateway");
                false
            }
            Err(error) => {
                let epoch = match error {
                    RegistryError::Lost { epoch } => epoch,
                    _ => gateway.epoch,
                };
                self.lose_gateway(epoch);
                false
            }
        }
    }

    fn lose_gateway(&mut self, epoch: u64) {
        tracing::warn!(
            epoch,
            "the gateway's lease was taken or swept: a new epoch follows"
        );
        self.gateway = None;
        self.host.metrics.epoch.set(0);
        self.host
            .fails(Cause::Lease, "the lease was lost: acquiring a new one");
        self.lose_shard();
    }

    fn lose_shard(&mut self) {
        self.shard = None;
        self.seen_from = None;
        self.host.metrics.shard.set(-1);
        self.host.ownership.send_replace(None);
        self.host
            .fails(Cause::Shard, "the shard was lost: claiming one");
    }

    async fn release(&mut self) {
        let giving_back = async {
            if let Some(shard) = self.shard.take() {
                self.host.registry.release_shard(&shard).await?;
            }
            if let Some(gateway) = self.gateway.take() {
                self.host.registry.release_gateway(&gateway).await?;
            }
            Ok::<(), RegistryError>(())
        };
        match tokio::time::timeout(limits::REGISTRY_WAIT, giving_back).await {
            Ok(Ok(())) => tracing::info!("leases released"),
            Ok(Err(error)) => tracing::warn!(%error, "leases were not released: they lapse"),
            Err(_) => tracing::warn!("leases were not released in time: they lapse"),
        }
    }

    fn info(&self) -> GatewayInfo {
        GatewayInfo {
            grpc: self.host.grpc.clone(),
            shard: self.shard.as_ref().map(|lease| lease.shard),
            connections: self.host.table.connections(),
            accepts_limit_per_s: self.host.accepts_limit_per_s(),
            spare_accepts_per_s: self.host.spare_accepts_per_s(),
            room: Some(self.host.room()),
            region: self.host.region.clone(),
            draining: self.host.is_draining(),
        }
    }

    fn failed(&self, call: &str) {
        let errors = &self.host.metrics.registry_errors;
        errors.with_label_values(&[call]).inc();
    }
}

async fn bounded<T>(
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    tokio::time::timeout(limits::REGISTRY_WAIT, call)
        .await
        .unwrap_or_else(|_| Err(RegistryError::Unavailable("no answer in time".to_owned())))
}
