//! The registry of the standalone: a table in this process, by the same rules as in Redis.
//!
//! Nothing outlives the process: its connections don't either. Epochs rise over restarts because a new one
//! is at least the Unix time in ms.

mod sends;
mod tables;

use super::{
    FinisherLease, GatewayInfo, GatewayLease, Registration, Registry, RegistryError, Route,
    SendClaim, SendKey, ShardClaim, ShardLease, Spend, Spent, Swept, Timings,
    claim::{self, Seen, Tries},
    quota::{Admission, Draw, Drawn},
};
use crate::{
    clock::unix_ms,
    ids::{GatewayEpoch, GatewayId, UserId},
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::time::Duration;
use tables::{GatewayRecord, Hold, ShardRecord, State, Tables};

/// Unix ms; it may go back.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

pub struct EmbeddedRegistry {
    timings: Timings,
    tables: Mutex<Tables>,
}

impl EmbeddedRegistry {
    pub fn new(timings: Timings) -> EmbeddedRegistry {
        EmbeddedRegistry::with_clock(timings, Box::new(unix_ms))
    }

    /// `clock` answers Unix ms; leases and epochs follow it.
    pub fn with_clock(timings: Timings, clock: Clock) -> EmbeddedRegistry {
        EmbeddedRegistry {
            timings,
            tables: Mutex::new(Tables::new(clock)),
        }
    }
}

impl Default for EmbeddedRegistry {
    /// A record that is absent here was never there: nobody could remember to have owned it, so that a
    /// claim need not wait.
    fn default() -> Self {
        EmbeddedRegistry::new(Timings {
            claimable_after_ms: 0,
            ..Timings::default()
        })
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn acquire_gateway(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        let mut past = Vec::new();
        let mut stored = 0;
        if let Some(record) = tables.gateways.get_mut(id) {
            if record.state == State::Held && record.until_ms > now_ms && record.holder != holder {
                return Err(RegistryError::Held {
                    holder: record.holder.clone(),
                    until_ms: record.until_ms,
                    wait_ms: record.until_ms - now_ms,
                });
            }
            record.end_life();
            (past, stored) = (std::mem::take(&mut record.past), record.epoch);
        }
        let record = GatewayRecord {
            epoch: now_ms.max(stored + 1),
            holder: holder.to_owned(),
            state: State::Held,
            until_ms: now_ms + self.timings.lease_ms,
            info: info.clone(),
            past,
        };
        let owner = GatewayEpoch {
            gateway: id.clone(),
            epoch: record.epoch,
        };
        tables.gateways.insert(id.clone(), record);
        Ok(owner)
    }

    async fn renew_gateway(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        let until_ms = tables.now_ms() + self.timings.lease_ms;
        let mut past = Vec::new();
        if let Some(record) = tables.gateways.get_mut(&owner.gateway) {
            let same = record.epoch == owner.epoch
                && record.holder == holder
                && record.state == State::Held;
            if record.epoch >= owner.epoch && !same {
                return Err(RegistryError::Lost {
                    epoch: record.epoch,
                });
            }
            if !same {
                record.end_life();
            }
            past = std::mem::take(&mut record.past);
        }
        let record = GatewayRecord {
            epoch: owner.epoch,
            holder: holder.to_owned(),
            state: State::Held,
            until_ms,
            info: info.clone(),
            past,
        };
        tables.gateways.insert(owner.gateway.clone(), record);
        Ok(())
    }

    async fn release_gateway(&self, owner: &GatewayEpoch) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        if let Some(record) = tables.gateways.get_mut(&owner.gateway)
            && record.epoch == owner.epoch
            && record.state == State::Held
        {
            record.state = State::Released;
            record.until_ms = now_ms;
        }
        Ok(())
    }

    async fn claim_shard(
        &self,
        owner: &GatewayEpoch,
        claim: ShardClaim,
    ) -> Result<ShardLease, RegistryError> {
        let mut tables = self.tables.lock();
        let shards = match claim {
            ShardClaim::Exact {
                shard,
                former_epoch,
            } => return tables.claim(owner, shard, former_epoch, self.timings),
            ShardClaim::Auto { shards } => shards,
        };
        let now_ms = tables.now_ms();
        let seen: Vec<Seen> = (0..shards)
            .map(|shard| tables.seen(shard, now_ms))
            .collect();
        let mut tries = Tries::default();
        for shard in claim::order(owner, &seen) {
            if let Some(done) = tries.add(tables.claim(owner, shard, None, self.timings)) {
                return done;
            }
        }
        Err(tries.nothing_free())
    }

    async fn renew_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        if let Some(record @ ShardRecord::Owned { epoch, .. }) = tables.shards.get(&lease.shard) {
            let same = record.is_held_by(&lease.owner, lease.epoch);
            if *epoch >= lease.epoch && !same {
                return Err(RegistryError::Lost { epoch: *epoch });
            }
        }
        tables.own(&lease.owner, lease.shard, lease.epoch, self.timings);
        Ok(())
    }

    async fn release_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        if let Some(record) = tables.shards.get_mut(&lease.shard)
            && record.is_held_by(&lease.owner, lease.epoch)
        {
            record.release(now_ms);
        }
        Ok(())
    }

    async fn finish_shard(
        &self,
        finisher: &str,
        shard: u32,
    ) -> Result<FinisherLease, RegistryError> {
        self.tables.lock().finish(finisher, shard, self.timings)
    }

    async fn renew_finisher(&self, lease: &FinisherLease) -> Result<bool, RegistryError> {
        let mut tables = self.tables.lock();
        let until = tables.now_ms() + self.timings.lease_ms;
        match tables.shards.get_mut(&lease.shard) {
            Some(ShardRecord::Owned {
                epoch,
                hold: Hold::Finishing { finisher, wanted },
                until_ms,
                ..
            }) if *epoch == lease.epoch && *finisher == lease.finisher => {
                *until_ms = until;
                Ok(*wanted)
            }
            Some(ShardRecord::Owned { epoch, .. }) => Err(RegistryError::Lost { epoch: *epoch }),
            _ => Err(RegistryError::Lost { epoch: 0 }),
        }
    }

    async fn release_finisher(&self, lease: &FinisherLease) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        if let Some(record) = tables.shards.get_mut(&lease.shard)
            && record.is_finished_by(&lease.finisher, lease.epoch)
        {
            record.release(now_ms);
        }
        Ok(())
    }

    async fn lock_orders(&self, holder: &str, for_ms: u64) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        if let Some((other, until_ms)) = &tables.orders
            && *until_ms > now_ms
            && other != holder
        {
            return Err(RegistryError::Held {
                holder: other.clone(),
                until_ms: *until_ms,
                wait_ms: until_ms - now_ms,
            });
        }
        tables.orders = Some((holder.to_owned(), now_ms + for_ms));
        Ok(())
    }

    async fn unlock_orders(&self, holder: &str) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        tables.orders.take_if(|(other, _)| other == holder);
        Ok(())
    }

    async fn claim_send(
        &self,
        send: &SendKey,
        owner: &str,
        lease: Duration,
    ) -> Result<SendClaim, RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        Ok(tables.sends.claim(send, owner, lease, now_ms))
    }

    async fn finish_send(&self, send: &SendKey) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        tables.sends.finish(send, now_ms);
        Ok(())
    }

    async fn release_send(&self, send: &SendKey, owner: &str) -> Result<(), RegistryError> {
        self.tables.lock().sends.release(send, owner);
        Ok(())
    }

    async fn admit(&self, asked: &[Admission]) -> Result<Vec<bool>, RegistryError> {
        let mut tables = self.tables.lock();
        let now_us = tables.now_ms() * 1000;
        Ok(tables.tally.admit(asked, now_us))
    }

    async fn draw(&self, draws: &[Draw]) -> Result<Vec<Drawn>, RegistryError> {
        let mut tables = self.tables.lock();
        let now_us = tables.now_ms() * 1000;
        Ok(tables.tally.draw(draws, now_us))
    }

    async fn spend(&self, spend: &Spend) -> Result<Spent, RegistryError> {
        let mut tables = self.tables.lock();
        let total = tables.spent.entry((spend.channel, spend.day)).or_default();
        let spent = spend.onto(*total);
        *total = spent.total;
        // Of a day that is over nobody asks any more.
        tables.spent.retain(|(_, day), _| *day + 1 >= spend.day);
        Ok(spent)
    }

    async fn gateways(&self) -> Result<Vec<GatewayLease>, RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        Ok(tables
            .leases(now_ms, self.timings.lease_ms)
            .into_values()
            .collect())
    }

    async fn shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        let owned = tables
            .shards
            .range(..count)
            .filter_map(|(shard, record)| match record {
                ShardRecord::Waiting { .. } => None,
                ShardRecord::Owned {
                    owner,
                    epoch,
                    hold,
                    until_ms,
                } => Some(ShardLease {
                    shard: *shard,
                    owner: owner.clone()?,
                    epoch: *epoch,
                    live: *hold == Hold::Held && *until_ms > now_ms,
                }),
            });
        Ok(owned.collect())
    }

    async fn register(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        if let Some(record) = tables.gateways.get(&owner.gateway)
            && record.epoch > owner.epoch
        {
            return Err(RegistryError::Lost {
                epoch: record.epoch,
            });
        }
        for entry in users {
            tables.enter(owner, entry);
        }
        Ok(())
    }

    async fn unregister(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        let mut tables = self.tables.lock();
        for entry in users {
            let stored = tables.stamp(owner, &entry.user);
            if stored.is_some_and(|stamp| stamp <= entry.stamp) {
                tables.remove(owner, &entry.user);
            }
        }
        Ok(())
    }

    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        let leases = tables.leases(now_ms, self.timings.lease_ms);
        let routes = users.iter().map(|user| {
            let entries = tables.users.get(user).into_iter().flatten();
            let lives = entries.map(|entry| entry.owner.clone());
            claim::routes(lives, |gateway| leases.get(gateway))
        });
        Ok(routes.collect())
    }

    async fn missing(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError> {
        let tables = self.tables.lock();
        let absent = |entry: &&Registration| tables.stamp(owner, &entry.user) != Some(entry.stamp);
        Ok(users.iter().filter(absent).cloned().collect())
    }

    async fn sweep(&self, budget: usize) -> Result<Swept, RegistryError> {
        let mut tables = self.tables.lock();
        let now_ms = tables.now_ms();
        let raised = tables.raise(now_ms, self.timings);
        let ended: Vec<GatewayEpoch> = tables
            .gateways
            .iter()
            .flat_map(|(gateway, record)| {
                record.past.iter().map(|epoch| GatewayEpoch {
                    gateway: gateway.clone(),
                    epoch: *epoch,
                })
            })
            .collect();
        let mut swept = Swept {
            raised,
            deleted: 0,
            complete: true,
        };
        for owner in ended {
            let left = budget.saturating_sub(swept.deleted);
            swept.deleted += tables.delete(&owner, left);
            swept.complete &= tables.forget(&owner);
        }
        Ok(swept)
    }

    fn healthy(&self) -> bool {
        true
    }

    fn incarnation(&self) -> u64 {
        0
    }
}
