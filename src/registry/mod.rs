//! The registry: which gateways live, which shard each owns, and where each user is connected.
//! Redis in a fleet, a table in the standalone; one suite of behaviour tests runs against both.
//!
//! Invariants (see `README.md`, "Ownership"):
//! * leases never expire as keys: `until` on the registry's own clock says whether one is live, and the
//!   epoch, which only rises, says whose word counts;
//! * a lapsed lease stays routable to its shard: the bus keeps the record and whoever owns the shard answers;
//! * a user's entry names `<gateway>.<epoch>`, so a late removal by an old life never erases a new one's;
//! * every script touches one key.

mod claim;
pub mod embedded;
pub mod quota;
pub mod redis;
mod sends;
mod spend;

use crate::ids::{GatewayEpoch, GatewayId, Region, UserId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use thiserror::Error;

use quota::{Admission, Draw, Drawn};

pub use sends::{SendClaim, SendKey};
pub use spend::{Spend, Spent};

/// What a gateway publishes with its lease, renewed with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayInfo {
    /// `host:port` of its gRPC service.
    pub grpc: String,
    /// `None` while it owns no shard.
    pub shard: Option<u32>,
    pub connections: u64,
    /// Connections a second it shapes accepting to; 0 while it takes none (full, leaving, or of an older
    /// release, which does not say).
    #[serde(default)]
    pub accepts_limit_per_s: u32,
    /// Of these, what it could take on top of what came lately.
    pub spare_accepts_per_s: u32,
    /// Connections it could hold on top, once the load balancer sends them: 0 while it is not ready or
    /// leaves. `None` from an older release, which does not say.
    #[serde(default)]
    pub room: Option<u64>,
    pub region: Region,
    /// It is draining: nobody should send clients there.
    pub draining: bool,
}

impl GatewayInfo {
    /// Connections it could hold on top. Of an older release it is known only whether it takes any.
    pub fn room(&self) -> u64 {
        match self.room {
            Some(room) => room,
            None if self.accepts_limit_per_s > 0 => u64::MAX,
            None => 0,
        }
    }
}

/// A gateway as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLease {
    pub owner: GatewayEpoch,
    /// Random per process: tells a restart from a renewal.
    pub holder: String,
    pub live: bool,
    /// Half of the lease is over, though it is renewed much sooner: its gateway has stopped, or lost the registry. What
    /// it published is of another time.
    pub overdue: bool,
    pub info: GatewayInfo,
}

/// Who owns a shard. A record produced to the shard's partition is answered by its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLease {
    pub shard: u32,
    pub owner: GatewayEpoch,
    /// Epoch of the shard's ownership; rises with every change of owner.
    pub epoch: u64,
    pub live: bool,
}

/// A dispatcher's hold of a shard that no gateway owns: it re-routes what waits there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinisherLease {
    pub shard: u32,
    /// Random per process, like a gateway's holder.
    pub finisher: String,
    /// Above that of every owner before: one of them that still acts learns that it was replaced.
    pub epoch: u64,
}

/// Which shard a gateway asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardClaim {
    /// The lowest free one below the count of partitions.
    Auto { shards: u32 },
    /// This one; `former_epoch` when this gateway remembers having owned it.
    Exact {
        shard: u32,
        former_epoch: Option<u64>,
    },
}

/// One place a user is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub gateway: GatewayEpoch,
    /// Shard of the gateway's lease (live or lapsed), `None` when the lease is unknown or shardless.
    pub shard: Option<u32>,
    pub grpc: Option<String>,
    pub live: bool,
}

impl Route {
    /// The registry came back empty: the user has been entered again and the gateway's lease has not, so that
    /// nobody can say which shard reaches the user.
    pub fn leads_nowhere_yet(&self) -> bool {
        self.shard.is_none() && self.grpc.is_none()
    }
}

/// Whether a connection of ours is still what the registry says, and the stamp to remove it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub user: UserId,
    /// Counter of the gateway, one per 0→1 transition; removal deletes only if it is still this.
    pub stamp: u64,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RegistryError {
    /// Passes by itself; ownership is kept meanwhile.
    #[error("the registry is away: {0}")]
    Unavailable(String),
    /// Somebody else holds it: a gateway id another process (`holder` is its random name), a shard another
    /// gateway. `until_ms` is on the registry's clock and moves while the holder renews.
    #[error("held by {holder}; free in {wait_ms} ms unless it renews")]
    Held {
        holder: String,
        until_ms: u64,
        wait_ms: u64,
    },
    /// A dispatcher finishes the shard. It has been told that a gateway wants it and yields with its next
    /// renewal; `wait_ms` is the rest of its lease.
    #[error("{finisher} finishes the shard and yields it within {wait_ms} ms")]
    Finishing { finisher: String, wait_ms: u64 },
    /// A higher epoch or a sweep took it from us.
    #[error("lost: the record is at epoch {epoch}")]
    Lost { epoch: u64 },
    /// No free shard below the count.
    #[error("no shard is free")]
    NoShard,
    /// The record is absent and nobody remembers: wait until this long from now.
    #[error("claimable in {in_ms} ms")]
    Claimable { in_ms: u64 },
}

/// Life of a lease without renewal, and how often its holder renews.
pub const LEASE_MS: u64 = 10_000;
pub const RENEW_MS: u64 = 3_000;
/// Leases of gateways that users are looked up by may be this old.
pub const LEASES_CACHED_MS: u64 = 1_000;
/// A lapsed lease is swept after this long.
pub const SWEEP_AFTER_MS: u64 = 60_000;
/// Wait before an absent record is granted to one that shows no former epoch.
pub const CLAIMABLE_AFTER_MS: u64 = 15_000;
/// A finisher leaves a shard to the gateways for this long after its lease ended, or became claimable.
pub const FINISH_AFTER_MS: u64 = 5_000;

/// The figures above, smaller in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub lease_ms: u64,
    pub sweep_after_ms: u64,
    /// 0 grants a claim on an absent record at once.
    pub claimable_after_ms: u64,
    pub finish_after_ms: u64,
    /// Gateways' leases that a lookup uses may be this old.
    pub leases_cached_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            lease_ms: LEASE_MS,
            sweep_after_ms: SWEEP_AFTER_MS,
            claimable_after_ms: CLAIMABLE_AFTER_MS,
            finish_after_ms: FINISH_AFTER_MS,
            leases_cached_ms: LEASES_CACHED_MS,
        }
    }
}

/// What one call of [`Registry::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Lapsed gateways whose record was raised.
    pub raised: usize,
    /// Users' entries of ended lives removed.
    pub deleted: usize,
    /// Nothing of ended lives is left; false when the budget ran out first.
    pub complete: bool,
}

#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Takes the lease of a gateway id under a new epoch = max(stored + 1, registry ms). `holder` is
    /// random per process. A lease that is live and another holder's: [`RegistryError::Held`].
    async fn acquire_gateway(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError>;

    /// Extends the lease and publishes `info`. A lapsed lease is simply extended under its epoch;
    /// [`RegistryError::Lost`] when it was swept or taken. An absent record (the registry came back
    /// empty) is re-created under the same epoch.
    async fn renew_gateway(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError>;

    /// Ends the lease at once; the record (and its epoch) stays.
    async fn release_gateway(&self, owner: &GatewayEpoch) -> Result<(), RegistryError>;

    async fn claim_shard(
        &self,
        owner: &GatewayEpoch,
        claim: ShardClaim,
    ) -> Result<ShardLease, RegistryError>;

    async fn renew_shard(&self, lease: &ShardLease) -> Result<(), RegistryError>;

    async fn release_shard(&self, lease: &ShardLease) -> Result<(), RegistryError>;

    /// A dispatcher takes a shard that no gateway owns, after the gateways had their time:
    /// [`RegistryError::Claimable`] says when, unless somebody renews. The last owner stays on record.
    async fn finish_shard(
        &self,
        finisher: &str,
        shard: u32,
    ) -> Result<FinisherLease, RegistryError>;

    /// `true` when a gateway wants the shard: the finisher yields it. An absent record is
    /// [`RegistryError::Lost`]: gateways claim first.
    async fn renew_finisher(&self, lease: &FinisherLease) -> Result<bool, RegistryError>;

    async fn release_finisher(&self, lease: &FinisherLease) -> Result<(), RegistryError>;

    /// Drains are ordered one at a time in the whole fleet, so that each is checked against what the last one
    /// did. The lock ends by itself `for_ms` later; its holder may take it again. Another holder's:
    /// [`RegistryError::Held`].
    async fn lock_orders(&self, holder: &str, for_ms: u64) -> Result<(), RegistryError>;

    /// Nothing happens to a lock that is another's by now.
    async fn unlock_orders(&self, holder: &str) -> Result<(), RegistryError>;

    /// Claims a send for the time of a lease. `owner` is random per attempt.
    async fn claim_send(
        &self,
        send: &SendKey,
        owner: &str,
        lease: Duration,
    ) -> Result<SendClaim, RegistryError>;

    /// A provider has taken it, whoever claims it by now.
    async fn finish_send(&self, send: &SendKey) -> Result<(), RegistryError>;

    /// No provider has taken it. Nothing happens to a claim that is another's by now.
    async fn release_send(&self, send: &SendKey, owner: &str) -> Result<(), RegistryError>;

    /// Which of these are within their users' limits, in the order asked.
    async fn admit(&self, asked: &[Admission]) -> Result<Vec<bool>, RegistryError>;

    /// Takes from rates, in the order asked.
    async fn draw(&self, draws: &[Draw]) -> Result<Vec<Drawn>, RegistryError>;

    /// Adds to what a channel spent on a day, or gives back; a cost of 0 only asks.
    async fn spend(&self, spend: &Spend) -> Result<Spent, RegistryError>;

    /// Every lease known, live or lapsed.
    async fn gateways(&self) -> Result<Vec<GatewayLease>, RegistryError>;

    /// Those that a gateway owned last; live while it does.
    async fn shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError>;

    /// Enters users (0→1 on this gateway), reverse index first. Idempotent; pipelined.
    async fn register(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError>;

    /// Removes entries whose stamp is not above the one given.
    async fn unregister(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError>;

    /// Routes of each user, in the order asked; lease data of the gateways may be up to 1 s old.
    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError>;

    /// Those of `users` that the registry does not hold as given: the gateway enters them again, and
    /// 1 − their share is the registry's accuracy. Ask and re-enter from the task that also removes, or a
    /// user who left in between is entered for good.
    async fn missing(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError>;

    /// Raises gateways lapsed for [`SWEEP_AFTER_MS`] to their next epoch, state swept, and only then removes
    /// entries of lower epochs, about `budget` at most. Any number of processes may sweep at once.
    async fn sweep(&self, budget: usize) -> Result<Swept, RegistryError>;

    /// Whether the registry answered lately, and takes writes.
    fn healthy(&self) -> bool;

    /// While it is not healthy: why, and what to do.
    fn fault(&self) -> Option<String> {
        (!self.healthy()).then(|| "it does not answer".to_owned())
    }

    /// Changes when the registry may have forgotten what was entered (it restarted, another server
    /// answers, a renewal found it empty): the gateway enters its users again, paced, and tells them they may be behind.
    fn incarnation(&self) -> u64;
}

pub type SharedRegistry = Arc<dyn Registry>;
