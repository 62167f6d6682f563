//! Sweeping what ended lives of gateways left behind.
//!
//! First the record of a gateway that lapsed long ago is raised, so that its old life can no longer enter
//! anyone; only then are the entries of lives below the record's epoch removed, by the reverse index. An
//! epoch read a moment ago is a safe bound, because epochs only rise.

use super::{
    super::{RegistryError, Swept},
    RedisRegistry, scripts,
};
use crate::{
    ids::{GatewayEpoch, UserId},
    limits,
};
use parking_lot::Mutex;
use std::{collections::HashMap, ops::Range};

/// Buckets asked for their length in one go: most lives were short and left most of them empty.
const BUCKETS_AT_ONCE: u32 = 512;

/// The bucket that each life's sweep has come to. Only a shortcut: without it the sweep begins anew.
#[derive(Default)]
pub(super) struct Progress(Mutex<HashMap<GatewayEpoch, u32>>);

impl RedisRegistry {
    pub(super) async fn sweep_lives(&self, budget: usize) -> Result<Swept, RegistryError> {
        let mut swept = Swept {
            raised: self.raise_lapsed().await?,
            deleted: 0,
            complete: true,
        };
        let mut ended = Vec::new();
        for record in self.read_gateways().await?.records() {
            let current = &record.lease.owner;
            let below = record.past.iter().filter(|epoch| **epoch < current.epoch);
            ended.extend(below.map(|epoch| GatewayEpoch {
                gateway: current.gateway.clone(),
                epoch: *epoch,
            }));
        }
        self.sweeper.0.lock().retain(|life, _| ended.contains(life));
        for life in ended {
            if !self.sweep_life(&life, budget, &mut swept).await? {
                swept.complete = false;
                break;
            }
        }
        Ok(swept)
    }

    async fn raise_lapsed(&self) -> Result<usize, RegistryError> {
        let mut raised = 0;
        for record in self.read_gateways().await?.records() {
            if record.lease.live || record.swept {
                continue;
            }
            let mut pipeline = redis::pipe();
            let key = self.keys.gateway(&record.lease.owner.gateway);
            scripts::eval(&mut pipeline, scripts::RAISE_GATEWAY, &key)
                .arg(self.timings.sweep_after_ms)
                .arg(limits::REGISTRY_PAST_LIVES);
            // The script looks at the record itself: it may be live again.
            raised += usize::from(self.decide("sweep", &pipeline).await? > 0);
        }
        Ok(raised)
    }

    /// False when the budget ran out before the life's last entry.
    async fn sweep_life(
        &self,
        life: &GatewayEpoch,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<bool, RegistryError> {
        let mut next = self.sweeper.0.lock().get(life).copied().unwrap_or(0);
        while next < limits::REGISTRY_BUCKETS {
            let end = limits::REGISTRY_BUCKETS.min(next + BUCKETS_AT_ONCE);
            for bucket in self.filled_buckets(life, next..end).await? {
                self.sweeper.0.lock().insert(life.clone(), bucket);
                if swept.deleted >= budget {
                    return Ok(false);
                }
                swept.deleted += self.empty_bucket(life, bucket).await?;
            }
            next = end;
        }
        let mut pipeline = redis::pipe();
        let key = self.keys.gateway(&life.gateway);
        scripts::eval(&mut pipeline, scripts::FORGET_LIFE, &key).arg(life.epoch);
        self.decide("sweep", &pipeline).await?;
        self.sweeper.0.lock().remove(life);
        Ok(true)
    }

    async fn filled_buckets(
        &self,
        life: &GatewayEpoch,
        buckets: Range<u32>,
    ) -> Result<Vec<u32>, RegistryError> {
        let mut pipeline = redis::pipe();
        for bucket in buckets.clone() {
            pipeline.hlen(self.keys.entered(life, bucket));
        }
        let lengths: Vec<usize> = self.link.query("sweep", &pipeline).await?;
        let filled = buckets.zip(lengths).filter(|(_, length)| *length > 0);
        Ok(filled.map(|(bucket, _)| bucket).collect())
    }

    /// Removes the bucket's users, about a hundred: their entries first, the index after them, so that a
    /// sweep that stops half-way finds the rest again.
    async fn empty_bucket(&self, life: &GatewayEpoch, bucket: u32) -> Result<usize, RegistryError> {
        let field = life.to_string();
        let index = self.keys.entered(life, bucket);
        let mut pipeline = redis::pipe();
        pipeline.hkeys(&index);
        let (users,): (Vec<String>,) = self.link.query("sweep", &pipeline).await?;
        for users in users.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = redis::pipe();
            for user in users {
                if let Ok(user) = user.parse::<UserId>() {
                    pipeline.hdel(self.keys.user(&user), &field).ignore();
                }
            }
            pipeline.hdel(&index, users).ignore();
            let () = self.link.query("sweep", &pipeline).await?;
        }
        Ok(users.len())
    }
}
