//! The leases of a gateway, kept as `herald::control::ownership` keeps them.

use super::{GatewayDone, GatewayEvent};
use crate::{
    parts::Link,
    world::{Event, World},
};
use herald::{
    bus::{Topic, TopicPartition},
    ids::{GatewayEpoch, GatewayId},
    limits,
    registry::{GatewayInfo, Registry, RegistryError, ShardClaim, ShardLease},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub gateway: GatewayEpoch,
    pub shard: ShardLease,
}

#[derive(Clone, Default)]
pub struct Leases {
    id: Option<GatewayId>,
    holder: String,
    claim: Option<ShardClaim>,
    gateway: Option<GatewayEpoch>,
    shard: Option<ShardLease>,
    /// The last shard held: whoever remembers goes first.
    former: Option<ShardLease>,
    /// Epoch of our shard that a dispatcher has named.
    named: Option<(u32, u64)>,
}

/// What one step came to.
pub struct Kept {
    leases: Leases,
    owns: Owns,
    wait_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owns {
    /// As before.
    Unchanged,
    Now,
    No,
}

impl Leases {
    pub fn new(id: GatewayId, holder: String, claim: ShardClaim) -> Leases {
        Leases {
            id: Some(id),
            holder,
            claim: Some(claim),
            ..Leases::default()
        }
    }

    pub fn shard(&self) -> Option<u32> {
        self.shard.as_ref().map(|lease| lease.shard)
    }

    /// A dispatcher knows an owner after us.
    pub fn is_replaced(&self) -> bool {
        let named = self.named.zip(self.shard.as_ref());
        named.is_some_and(|((shard, epoch), lease)| shard == lease.shard && epoch > lease.epoch)
    }

    async fn step(mut self, link: &Link, mut info: GatewayInfo) -> Kept {
        let Some(gateway) = self.gateway.clone() else {
            return self.acquire(link, info).await;
        };
        if self.is_replaced() {
            self.shard = None;
            return self.kept(Owns::No, 1);
        }
        info.shard = self.shard();
        match self.shard.clone() {
            None => self.claim(link, gateway, info).await,
            Some(shard) => self.renew(link, gateway, shard, info).await,
        }
    }

    async fn acquire(mut self, link: &Link, info: GatewayInfo) -> Kept {
        let id = self.id.clone().expect("a gateway with an id");
        match link.acquire_gateway(&id, &self.holder, &info).await {
            Ok(gateway) => {
                self.gateway = Some(gateway);
                self.kept(Owns::Unchanged, 1)
            }
            Err(RegistryError::Held { wait_ms, .. }) => {
                self.kept(Owns::Unchanged, wait_ms.clamp(10, 1_000))
            }
            Err(_) => self.kept(Owns::Unchanged, limits::AWAY_RETRY.as_millis() as u64),
        }
    }

    async fn claim(mut self, link: &Link, gateway: GatewayEpoch, mut info: GatewayInfo) -> Kept {
        let claim = match self.claim.expect("a gateway with a claim") {
            ShardClaim::Exact { shard, .. } => ShardClaim::Exact {
                shard,
                former_epoch: self.former.as_ref().map(|lease| lease.epoch),
            },
            auto => auto,
        };
        match link.claim_shard(&gateway, claim).await {
            Ok(shard) => {
                self.shard = Some(shard.clone());
                info.shard = Some(shard.shard);
                match link.renew_gateway(&gateway, &self.holder, &info).await {
                    Ok(()) => {
                        self.former = Some(shard);
                        let wait_ms = herald::registry::RENEW_MS;
                        self.kept(Owns::Now, wait_ms)
                    }
                    Err(error) => self.not_renewed(error),
                }
            }
            Err(RegistryError::Lost { .. }) => self.lost(),
            Err(error) => {
                let wait_ms = match error {
                    RegistryError::Claimable { in_ms } => in_ms,
                    RegistryError::Held { wait_ms, .. } => wait_ms,
                    _ => 500,
                };
                match link.renew_gateway(&gateway, &self.holder, &info).await {
                    Err(RegistryError::Lost { .. }) => self.lost(),
                    _ => self.kept(Owns::Unchanged, wait_ms.clamp(10, 1_000)),
                }
            }
        }
    }

    async fn renew(
        mut self,
        link: &Link,
        gateway: GatewayEpoch,
        shard: ShardLease,
        info: GatewayInfo,
    ) -> Kept {
        if let Err(error) = link.renew_gateway(&gateway, &self.holder, &info).await {
            return self.not_renewed(error);
        }
        match link.renew_shard(&shard).await {
            Ok(()) => {
                self.former = Some(shard);
                self.kept(Owns::Now, herald::registry::RENEW_MS)
            }
            Err(RegistryError::Unavailable(_)) => {
                self.kept(Owns::Unchanged, limits::AWAY_RETRY.as_millis() as u64)
            }
            Err(_) => {
                self.shard = None;
                self.kept(Owns::No, 1)
            }
        }
    }

    fn not_renewed(self, error: RegistryError) -> Kept {
        match error {
            RegistryError::Unavailable(_) => {
                self.kept(Owns::Unchanged, limits::AWAY_RETRY.as_millis() as u64)
            }
            _ => self.lost(),
        }
    }

    fn lost(mut self) -> Kept {
        self.gateway = None;
        self.shard = None;
        self.kept(Owns::No, 1)
    }

    fn kept(self, owns: Owns, wait_ms: u64) -> Kept {
        Kept {
            leases: self,
            owns,
            wait_ms,
        }
    }
}

impl World {
    pub fn claim(&self, number: usize) -> ShardClaim {
        match self.plan.auto_shards {
            true => ShardClaim::Auto {
                shards: self.bus.shards,
            },
            false => ShardClaim::Exact {
                shard: number as u32,
                former_epoch: None,
            },
        }
    }

    pub fn keep(&mut self, number: usize, turn: u64) {
        let gateway = &self.gateways[number];
        if gateway.keeping || gateway.keep_turn != turn {
            return;
        }
        let (leases, link) = (gateway.leases.clone(), gateway.link());
        let info = self.info(number);
        self.gateways[number].keeping = true;
        self.own_call(number, async move {
            GatewayDone::Kept(Box::new(leases.step(&link, info).await))
        });
    }

    /// Something changed: the leases are looked after now.
    pub(super) fn keep_soon(&mut self, number: usize, after_ms: u64) {
        let owner = self.gateway_owner(number);
        let gateway = &mut self.gateways[number];
        gateway.keep_turn += 1;
        let keep = GatewayEvent::Keep(gateway.keep_turn);
        self.after(after_ms, owner, Event::Gateway(keep));
    }

    pub(super) fn kept(&mut self, number: usize, kept: Kept) {
        let gateway = &mut self.gateways[number];
        gateway.keeping = false;
        // Named while the step was on its way.
        let named = gateway.leases.named.max(kept.leases.named);
        gateway.leases = kept.leases;
        gateway.leases.named = named;
        if let Some(life) = &gateway.leases.gateway {
            gateway.identity.0 = life.clone();
        }
        match kept.owns {
            Owns::Unchanged => {}
            Owns::No => self.disown(number),
            Owns::Now => self.own(number),
        }
        let wait_ms = match self.gateways[number].leases.is_replaced() {
            true => 1,
            false => kept.wait_ms,
        };
        self.keep_soon(number, wait_ms);
    }

    /// A dispatcher named the epoch of a shard of ours.
    pub(super) fn name_epoch(&mut self, number: usize, shard: u32, epoch: u64) {
        let gateway = &mut self.gateways[number];
        let known = gateway.leases.named;
        if known.is_none_or(|known| known.0 != shard || known.1 < epoch) {
            gateway.leases.named = Some((shard, epoch));
            if gateway.leases.is_replaced() && !gateway.keeping {
                self.keep_soon(number, 0);
            }
        }
    }

    fn disown(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if gateway.ownership.take().is_some() {
            gateway.readers.clear();
            self.tell(None, || format!("gw-{number} knows that it lost its shard"));
        }
    }

    fn own(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let (Some(life), Some(shard)) = (&gateway.leases.gateway, &gateway.leases.shard) else {
            return;
        };
        let owned = Ownership {
            gateway: life.clone(),
            shard: shard.clone(),
        };
        if gateway.ownership.is_some() {
            return;
        }
        gateway.identity = (owned.gateway.clone(), Some(owned.shard.shard));
        gateway.ownership = Some(owned.clone());
        // Under a new epoch everyone is told when entered again; under the same one nobody is entered.
        let again = gateway.owned_as.replace(owned.gateway.clone()) == Some(owned.gateway.clone());
        self.tell(None, || {
            let (shard, epoch) = (owned.shard.shard, owned.shard.epoch);
            format!(
                "gw-{number} owns shard {shard} at epoch {epoch} as {}",
                owned.gateway
            )
        });
        if again {
            let everyone = self.gateways[number].conns.keys().copied().collect();
            self.tell_behind(number, everyone);
        }
        self.begin_to_read(number, owned.shard.shard);
    }

    fn begin_to_read(&mut self, number: usize, shard: u32) {
        let (owner, after_ms) = (self.gateway_owner(number), self.random_ms(5..100));
        let gateway = &mut self.gateways[number];
        gateway.readers.clear();
        gateway.reader_turn += 1;
        let turn = gateway.reader_turn;
        for topic in [Topic::Critical, Topic::InApp] {
            let at = TopicPartition {
                topic,
                partition: shard,
            };
            gateway.readers.insert(at, super::Reader::default());
        }
        let assigned = GatewayEvent::Assigned(turn);
        self.after(after_ms, owner, Event::Gateway(assigned));
    }
}
