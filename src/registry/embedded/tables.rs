//! The tables and what one step does to them.

use super::{
    super::{
        FinisherLease, GatewayInfo, GatewayLease, Registration, RegistryError, ShardLease, Timings,
        claim::Seen, quota::Tally,
    },
    Clock,
    sends::Sends,
};
use crate::{
    envelope::Channel,
    ids::{GatewayEpoch, GatewayId, UserId},
    limits,
};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) struct Tables {
    clock: Clock,
    last_ms: u64,
    pub(super) gateways: BTreeMap<GatewayId, GatewayRecord>,
    pub(super) shards: BTreeMap<u32, ShardRecord>,
    /// Per user the lives of gateways it is connected to.
    pub(super) users: HashMap<UserId, SmallVec<[Entry; 1]>>,
    /// The same the other way round, for the sweep.
    pub(super) entered: HashMap<GatewayEpoch, HashSet<UserId>>,
    /// Who orders, and until when at most.
    pub(super) orders: Option<(String, u64)>,
    pub(super) sends: Sends,
    pub(super) tally: Tally,
    /// By channel and day.
    pub(super) spent: BTreeMap<(Channel, u32), u64>,
}

pub(super) struct Entry {
    pub(super) owner: GatewayEpoch,
    stamp: u64,
}

// One per connected user, in the map itself: users of several gateways are few.
const _: () = assert!(size_of::<(UserId, SmallVec<[Entry; 1]>)>() <= 64);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Held,
    Released,
    Swept,
}

/// How a shard is held.
#[derive(PartialEq, Eq)]
pub(super) enum Hold {
    Held,
    Released,
    /// By a dispatcher.
    Finishing {
        finisher: String,
        wanted: bool,
    },
}

pub(super) struct GatewayRecord {
    pub(super) epoch: u64,
    pub(super) holder: String,
    pub(super) state: State,
    pub(super) until_ms: u64,
    pub(super) info: GatewayInfo,
    /// Epochs of ended lives whose entries may still be there.
    pub(super) past: Vec<u64>,
}

pub(super) enum ShardRecord {
    /// Absent, but a claim without a former epoch has begun to wait.
    Waiting { claimable_at_ms: u64 },
    Owned {
        /// The gateway that owns it or did so last.
        owner: Option<GatewayEpoch>,
        epoch: u64,
        hold: Hold,
        until_ms: u64,
    },
}

impl GatewayRecord {
    /// Remembers the life for the sweep; a swept record was raised and remembers it already.
    pub(super) fn end_life(&mut self) {
        if self.state != State::Swept {
            if self.past.len() >= limits::REGISTRY_PAST_LIVES {
                self.past.remove(0);
            }
            self.past.push(self.epoch);
        }
    }
}

impl Tables {
    pub(super) fn new(clock: Clock) -> Tables {
        Tables {
            clock,
            last_ms: 0,
            gateways: BTreeMap::new(),
            shards: BTreeMap::new(),
            users: HashMap::new(),
            entered: HashMap::new(),
            orders: None,
            sends: Sends::default(),
            tally: Tally::default(),
            spent: BTreeMap::new(),
        }
    }

    /// Unix ms that never goes back.
    pub(super) fn now_ms(&mut self) -> u64 {
        self.last_ms = self.last_ms.max((self.clock)());
        self.last_ms
    }

    pub(super) fn leases(&self, now_ms: u64, lease_ms: u64) -> BTreeMap<GatewayId, GatewayLease> {
        let lease = |(gateway, record): (&GatewayId, &GatewayRecord)| {
            let owner = GatewayEpoch {
                gateway: gateway.clone(),
                epoch: record.epoch,
            };
            let lease = GatewayLease {
                owner,
                holder: record.holder.clone(),
                live: record.state == State::Held && record.until_ms > now_ms,
                overdue: record.until_ms < now_ms + lease_ms / 2,
                info: record.info.clone(),
            };
            (gateway.clone(), lease)
        };
        self.gateways.iter().map(lease).collect()
    }

    pub(super) fn seen(&self, shard: u32, now_ms: u64) -> Seen {
        match self.shards.get(&shard) {
            None => Seen::Absent,
            Some(ShardRecord::Waiting { claimable_at_ms }) if *claimable_at_ms > now_ms => {
                Seen::Absent
            }
            Some(ShardRecord::Waiting { .. }) => Seen::Free {
                owner: None,
                epoch: 0,
            },
            Some(ShardRecord::Owned {
                owner,
                epoch,
                hold,
                until_ms,
            }) => {
                let (owner, epoch) = (owner.clone(), *epoch);
                match (hold, owner) {
                    (Hold::Held, Some(owner)) if *until_ms > now_ms => Seen::Held { owner, epoch },
                    (Hold::Finishing { .. }, owner) if *until_ms > now_ms => {
                        Seen::Finishing { owner, epoch }
                    }
                    (_, owner) => Seen::Free { owner, epoch },
                }
            }
        }
    }

    pub(super) fn claim(
        &mut self,
        owner: &GatewayEpoch,
        shard: u32,
        former_epoch: Option<u64>,
        timings: Timings,
    ) -> Result<ShardLease, RegistryError> {
        let now_ms = self.now_ms();
        let epoch = match (self.shards.get_mut(&shard), former_epoch) {
            // Who remembers goes on, under what it remembers: a higher memory can still replace it.
            (None | Some(ShardRecord::Waiting { .. }), Some(former)) => former,
            (Some(ShardRecord::Owned { epoch, .. }), Some(former)) if former > *epoch => former,
            (None, None) if timings.claimable_after_ms == 0 => now_ms,
            (None, None) => {
                let record = ShardRecord::Waiting {
                    claimable_at_ms: now_ms + timings.claimable_after_ms,
                };
                self.shards.insert(shard, record);
                return Err(RegistryError::Claimable {
                    in_ms: timings.claimable_after_ms,
                });
            }
            (Some(ShardRecord::Waiting { claimable_at_ms }), None) => {
                match claimable_at_ms.saturating_sub(now_ms) {
                    0 => now_ms,
                    in_ms => return Err(RegistryError::Claimable { in_ms }),
                }
            }
            (Some(record), _) => record.next_epoch(owner, now_ms)?,
        };
        Ok(self.own(owner, shard, epoch, timings))
    }

    pub(super) fn own(
        &mut self,
        owner: &GatewayEpoch,
        shard: u32,
        epoch: u64,
        timings: Timings,
    ) -> ShardLease {
        let record = ShardRecord::Owned {
            owner: Some(owner.clone()),
            epoch,
            hold: Hold::Held,
            until_ms: self.now_ms() + timings.lease_ms,
        };
        self.shards.insert(shard, record);
        ShardLease {
            shard,
            owner: owner.clone(),
            epoch,
            live: true,
        }
    }

    /// Gateways go first, whatever is waited for: a renewal, an owner that remembers, another finisher.
    pub(super) fn finish(
        &mut self,
        finisher: &str,
        shard: u32,
        timings: Timings,
    ) -> Result<FinisherLease, RegistryError> {
        let now_ms = self.now_ms();
        let record = self.shards.entry(shard).or_insert(ShardRecord::Waiting {
            claimable_at_ms: now_ms + timings.claimable_after_ms,
        });
        let (last, stored, until_ms) = match record {
            ShardRecord::Waiting { claimable_at_ms } => (None, 0, *claimable_at_ms),
            ShardRecord::Owned {
                owner,
                epoch,
                until_ms,
                ..
            } => (owner.clone(), *epoch, *until_ms),
        };
        let again = record.is_finished_by(finisher, stored);
        let free_ms = until_ms + timings.finish_after_ms;
        if free_ms > now_ms && !again {
            let in_ms = free_ms - now_ms;
            return Err(RegistryError::Claimable { in_ms });
        }
        let epoch = match again {
            true => stored,
            false => now_ms.max(stored + 1),
        };
        *record = ShardRecord::Owned {
            owner: last,
            epoch,
            hold: Hold::Finishing {
                finisher: finisher.to_owned(),
                wanted: again && record.is_wanted(),
            },
            until_ms: now_ms + timings.lease_ms,
        };
        Ok(FinisherLease {
            shard,
            finisher: finisher.to_owned(),
            epoch,
        })
    }

    pub(super) fn stamp(&self, owner: &GatewayEpoch, user: &UserId) -> Option<u64> {
        let mut entries = self.users.get(user)?.iter();
        let entry = entries.find(|entry| entry.owner == *owner);
        entry.map(|entry| entry.stamp)
    }

    pub(super) fn enter(&mut self, owner: &GatewayEpoch, entry: &Registration) {
        let user = &entry.user;
        self.entered
            .entry(owner.clone())
            .or_default()
            .insert(user.clone());
        let entries = self.users.entry(user.clone()).or_default();
        entries.retain(|entry| entry.owner != *owner);
        entries.push(Entry {
            owner: owner.clone(),
            stamp: entry.stamp,
        });
    }

    pub(super) fn remove(&mut self, owner: &GatewayEpoch, user: &UserId) {
        if let Some(entries) = self.users.get_mut(user) {
            entries.retain(|entry| entry.owner != *owner);
            if entries.is_empty() {
                self.users.remove(user);
            }
        }
        if let Some(users) = self.entered.get_mut(owner) {
            users.remove(user);
            if users.is_empty() {
                self.entered.remove(owner);
            }
        }
    }

    /// Raises the records that lapsed long ago; from then on their entries may go.
    pub(super) fn raise(&mut self, now_ms: u64, timings: Timings) -> usize {
        let mut raised = 0;
        for record in self.gateways.values_mut() {
            let lapsed = record.until_ms.saturating_add(timings.sweep_after_ms) <= now_ms;
            if record.state != State::Swept && lapsed {
                record.end_life();
                record.state = State::Swept;
                record.epoch += 1;
                raised += 1;
            }
        }
        raised
    }

    pub(super) fn delete(&mut self, owner: &GatewayEpoch, budget: usize) -> usize {
        let entered = self.entered.get(owner).into_iter().flatten();
        let users: Vec<UserId> = entered.take(budget).cloned().collect();
        for user in &users {
            self.remove(owner, user);
        }
        users.len()
    }

    /// An ended life without entries needs no sweep any more. False while it has some.
    pub(super) fn forget(&mut self, owner: &GatewayEpoch) -> bool {
        let done = !self.entered.contains_key(owner);
        if done && let Some(record) = self.gateways.get_mut(&owner.gateway) {
            record.past.retain(|epoch| *epoch != owner.epoch);
        }
        done
    }
}

impl ShardRecord {
    pub(super) fn is_held_by(&self, life: &GatewayEpoch, at: u64) -> bool {
        let ShardRecord::Owned {
            owner, epoch, hold, ..
        } = self
        else {
            return false;
        };
        *epoch == at && owner.as_ref() == Some(life) && *hold == Hold::Held
    }

    pub(super) fn is_finished_by(&self, name: &str, at: u64) -> bool {
        let ShardRecord::Owned { epoch, hold, .. } = self else {
            return false;
        };
        *epoch == at && matches!(hold, Hold::Finishing { finisher, .. } if finisher == name)
    }

    fn is_wanted(&self) -> bool {
        let ShardRecord::Owned { hold, .. } = self else {
            return false;
        };
        matches!(hold, Hold::Finishing { wanted: true, .. })
    }

    pub(super) fn release(&mut self, now_ms: u64) {
        if let ShardRecord::Owned { hold, until_ms, .. } = self {
            *hold = Hold::Released;
            *until_ms = now_ms;
        }
    }

    /// Epoch under which `claimant` may take the record that somebody wrote. One that is being finished is
    /// marked as wanted.
    pub(super) fn next_epoch(
        &mut self,
        claimant: &GatewayEpoch,
        now_ms: u64,
    ) -> Result<u64, RegistryError> {
        let ShardRecord::Owned {
            owner,
            epoch,
            hold,
            until_ms,
        } = self
        else {
            return Ok(now_ms);
        };
        let live = *until_ms > now_ms;
        match (hold, owner) {
            (Hold::Held, Some(owner)) if owner == claimant => return Ok(*epoch),
            (Hold::Held, Some(owner)) if live => {
                // The gateway's own lease has fenced its older lives off.
                let older_life = owner.gateway == claimant.gateway && owner.epoch < claimant.epoch;
                if !older_life {
                    return Err(RegistryError::Held {
                        holder: owner.to_string(),
                        until_ms: *until_ms,
                        wait_ms: *until_ms - now_ms,
                    });
                }
            }
            (Hold::Finishing { finisher, wanted }, _) if live => {
                *wanted = true;
                return Err(RegistryError::Finishing {
                    finisher: finisher.clone(),
                    wait_ms: *until_ms - now_ms,
                });
            }
            _ => {}
        }
        Ok(now_ms.max(*epoch + 1))
    }
}
