//! Leases of gateways and shards.

use super::{
    super::{
        FinisherLease, GatewayInfo, GatewayLease, RegistryError, ShardLease, claim, claim::Seen,
    },
    RedisRegistry, scripts,
};
use crate::{
    ids::{GatewayEpoch, GatewayId},
    limits,
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// All gateways' records at one moment.
#[derive(Clone)]
pub(super) struct Snapshot {
    read_at: Instant,
    /// `None`: looked for and not there, so that it is looked for again only with the next reading.
    gateways: Arc<HashMap<GatewayId, Option<GatewayRecord>>>,
}

pub(super) struct GatewayRecord {
    pub(super) lease: GatewayLease,
    pub(super) swept: bool,
    /// Epochs of ended lives that wait to be swept.
    pub(super) past: Vec<u64>,
}

impl Snapshot {
    pub(super) fn records(&self) -> impl Iterator<Item = &GatewayRecord> {
        self.gateways.values().flatten()
    }

    pub(super) fn lease(&self, id: &GatewayId) -> Option<&GatewayLease> {
        let record = self.gateways.get(id)?.as_ref()?;
        Some(&record.lease)
    }

    pub(super) fn leases(&self) -> Vec<GatewayLease> {
        let mut leases: Vec<_> = self.records().map(|record| record.lease.clone()).collect();
        leases.sort_by(|a, b| a.owner.cmp(&b.owner));
        leases
    }
}

impl RedisRegistry {
    pub(super) async fn acquire(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError> {
        let mut pipeline = redis::pipe();
        // The set first: a record that it does not name would be found by nobody.
        pipeline
            .cmd("SADD")
            .arg(self.keys.gateways())
            .arg(id.as_str())
            .ignore();
        scripts::eval(
            &mut pipeline,
            scripts::ACQUIRE_GATEWAY,
            &self.keys.gateway(id),
        )
        .arg(holder)
        .arg(encode(info))
        .arg(self.timings.lease_ms)
        .arg(limits::REGISTRY_PAST_LIVES);
        let epoch = self.decide("acquire_gateway", &pipeline).await?;
        Ok(GatewayEpoch {
            gateway: id.clone(),
            epoch,
        })
    }

    pub(super) async fn renew(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        // Again and again, since Redis may have been emptied: that the name was not there tells.
        pipeline
            .cmd("SADD")
            .arg(self.keys.gateways())
            .arg(owner.gateway.as_str());
        let key = self.keys.gateway(&owner.gateway);
        scripts::eval(&mut pipeline, scripts::RENEW_GATEWAY, &key)
            .arg(owner.epoch)
            .arg(holder)
            .arg(encode(info))
            .arg(self.timings.lease_ms)
            .arg(limits::REGISTRY_PAST_LIVES);
        let (added, reply): (u64, _) = self.link.query("renew_gateway", &pipeline).await?;
        if added > 0 {
            self.link.has_forgotten();
        }
        scripts::outcome(reply).map(drop)
    }

    pub(super) async fn release(&self, owner: &GatewayEpoch) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.gateway(&owner.gateway);
        scripts::eval(&mut pipeline, scripts::RELEASE_GATEWAY, &key).arg(owner.epoch);
        self.decide("release_gateway", &pipeline).await.map(drop)
    }

    pub(super) async fn claim_one(
        &self,
        owner: &GatewayEpoch,
        shard: u32,
        former_epoch: Option<u64>,
    ) -> Result<ShardLease, RegistryError> {
        let mut pipeline = redis::pipe();
        let former = former_epoch.map(|epoch| epoch.to_string());
        scripts::eval(&mut pipeline, scripts::CLAIM_SHARD, &self.keys.shard(shard))
            .arg(owner.gateway.as_str())
            .arg(owner.epoch)
            .arg(former.unwrap_or_default())
            .arg(self.timings.lease_ms)
            .arg(self.timings.claimable_after_ms);
        let epoch = self.decide("claim_shard", &pipeline).await?;
        Ok(ShardLease {
            shard,
            owner: owner.clone(),
            epoch,
            live: true,
        })
    }

    pub(super) async fn claim_any(
        &self,
        owner: &GatewayEpoch,
        count: u32,
    ) -> Result<ShardLease, RegistryError> {
        let (now_ms, records) = self.shard_records(count).await?;
        let seen: Vec<Seen> = records.iter().map(|record| record.seen(now_ms)).collect();
        let mut tries = claim::Tries::default();
        for shard in claim::order(owner, &seen) {
            if let Some(done) = tries.add(self.claim_one(owner, shard, None).await) {
                return done;
            }
        }
        Err(tries.nothing_free())
    }

    pub(super) async fn renew_ownership(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.shard(lease.shard);
        scripts::eval(&mut pipeline, scripts::RENEW_SHARD, &key)
            .arg(lease.owner.gateway.as_str())
            .arg(lease.owner.epoch)
            .arg(lease.epoch)
            .arg(self.timings.lease_ms);
        self.decide("renew_shard", &pipeline).await.map(drop)
    }

    pub(super) async fn release_ownership(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.shard(lease.shard);
        scripts::eval(&mut pipeline, scripts::RELEASE_SHARD, &key)
            .arg(lease.owner.gateway.as_str())
            .arg(lease.owner.epoch)
            .arg(lease.epoch);
        self.decide("release_shard", &pipeline).await.map(drop)
    }

    pub(super) async fn hold_for_finishing(
        &self,
        finisher: &str,
        shard: u32,
    ) -> Result<FinisherLease, RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.shard(shard);
        scripts::eval(&mut pipeline, scripts::FINISH_SHARD, &key)
            .arg(finisher)
            .arg(self.timings.lease_ms)
            .arg(self.timings.claimable_after_ms)
            .arg(self.timings.finish_after_ms);
        let epoch = self.decide("finish_shard", &pipeline).await?;
        Ok(FinisherLease {
            shard,
            finisher: finisher.to_owned(),
            epoch,
        })
    }

    /// Whether a gateway wants it.
    pub(super) async fn renew_hold(&self, lease: &FinisherLease) -> Result<bool, RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.shard(lease.shard);
        scripts::eval(&mut pipeline, scripts::RENEW_FINISHER, &key)
            .arg(&lease.finisher)
            .arg(lease.epoch)
            .arg(self.timings.lease_ms);
        let wanted = self.decide("renew_finisher", &pipeline).await?;
        Ok(wanted > 0)
    }

    pub(super) async fn release_hold(&self, lease: &FinisherLease) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.shard(lease.shard);
        scripts::eval(&mut pipeline, scripts::RELEASE_FINISHER, &key)
            .arg(&lease.finisher)
            .arg(lease.epoch);
        self.decide("release_finisher", &pipeline).await.map(drop)
    }

    pub(super) async fn lock(&self, holder: &str, for_ms: u64) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        scripts::eval(&mut pipeline, scripts::LOCK_ORDERS, &self.keys.orders())
            .arg(holder)
            .arg(for_ms);
        self.decide("lock_orders", &pipeline).await.map(drop)
    }

    pub(super) async fn unlock(&self, holder: &str) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        scripts::eval(&mut pipeline, scripts::UNLOCK_ORDERS, &self.keys.orders()).arg(holder);
        self.decide("unlock_orders", &pipeline).await.map(drop)
    }

    pub(super) async fn read_shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError> {
        let (now_ms, records) = self.shard_records(count).await?;
        let leases = (0..).zip(records).filter_map(|(shard, record)| {
            Some(ShardLease {
                shard,
                live: record.live(now_ms),
                epoch: record.epoch,
                owner: record.owner?,
            })
        });
        Ok(leases.collect())
    }

    /// Every gateway's record, read now.
    pub(super) async fn read_gateways(&self) -> Result<Snapshot, RegistryError> {
        self.read_gateways_and(std::iter::empty()).await
    }

    async fn read_gateways_and(
        &self,
        needed: impl Iterator<Item = &GatewayId>,
    ) -> Result<Snapshot, RegistryError> {
        let read_at = Instant::now();
        let mut members = redis::pipe();
        members.cmd("SMEMBERS").arg(self.keys.gateways());
        let (ids,): (Vec<String>,) = self.link.query("gateways", &members).await?;
        let ids: Vec<GatewayId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        let mut gateways: HashMap<_, _> = needed.map(|id| (id.clone(), None)).collect();
        for ids in ids.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = redis::pipe();
            pipeline.cmd("TIME");
            for id in ids {
                pipeline
                    .cmd("HMGET")
                    .arg(self.keys.gateway(id))
                    .arg(&["epoch", "holder", "state", "until", "info", "past"]);
            }
            let answers: Vec<redis::Value> = self.link.query("gateways", &pipeline).await?;
            let (now_ms, rows) = timed(answers)?;
            for (id, row) in ids.iter().zip(rows) {
                // A record that a newer version wrote in another way is no lease to us.
                let record = gateway_record(id, row, now_ms, self.timings.lease_ms);
                gateways.insert(id.clone(), record);
            }
        }
        Ok(Snapshot {
            read_at,
            gateways: Arc::new(gateways),
        })
    }

    /// The leases as they were a moment ago, or now if one of `needed` was not looked for then.
    pub(super) async fn cached_gateways<'a>(
        &self,
        needed: impl Iterator<Item = &'a GatewayId> + Clone,
    ) -> Result<Snapshot, RegistryError> {
        let age_max = Duration::from_millis(self.timings.leases_cached_ms);
        let mut cached = self.leases.lock().await;
        if let Some(snapshot) = &*cached {
            let mut needed = needed.clone();
            let fresh = snapshot.read_at.elapsed() < age_max;
            if fresh && needed.all(|id| snapshot.gateways.contains_key(id)) {
                return Ok(snapshot.clone());
            }
        }
        let snapshot = self.read_gateways_and(needed).await?;
        *cached = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Runs a pipeline whose last command is a lease script.
    pub(super) async fn decide(
        &self,
        operation: &'static str,
        pipeline: &redis::Pipeline,
    ) -> Result<u64, RegistryError> {
        let (reply,) = self.link.query(operation, pipeline).await?;
        scripts::outcome(reply)
    }

    async fn shard_records(&self, count: u32) -> Result<(u64, Vec<ShardRecord>), RegistryError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        for shard in 0..count {
            pipeline
                .cmd("HMGET")
                .arg(self.keys.shard(shard))
                .arg(&["gateway", "life", "epoch", "state", "until"]);
        }
        let answers: Vec<redis::Value> = self.link.query("shards", &pipeline).await?;
        let (now_ms, rows) = timed(answers)?;
        Ok((now_ms, rows.map(shard_record).collect()))
    }
}

#[derive(Default)]
struct ShardRecord {
    owner: Option<GatewayEpoch>,
    epoch: u64,
    state: String,
    until_ms: u64,
}

impl ShardRecord {
    fn live(&self, now_ms: u64) -> bool {
        self.state == "held" && self.until_ms > now_ms
    }

    fn seen(&self, now_ms: u64) -> Seen {
        match self.state.as_str() {
            "" => Seen::Absent,
            "waiting" if self.until_ms > now_ms => Seen::Absent,
            "finishing" if self.until_ms > now_ms => Seen::Finishing {
                owner: self.owner.clone(),
                epoch: self.epoch,
            },
            _ => match &self.owner {
                Some(owner) if self.live(now_ms) => Seen::Held {
                    owner: owner.clone(),
                    epoch: self.epoch,
                },
                owner => Seen::Free {
                    owner: owner.clone(),
                    epoch: self.epoch,
                },
            },
        }
    }
}

fn encode(info: &GatewayInfo) -> String {
    serde_json::to_string(info).expect("plain fields are JSON")
}

/// Splits off the leading answer to `TIME`, as ms.
fn timed(
    answers: Vec<redis::Value>,
) -> Result<(u64, impl Iterator<Item = redis::Value>), RegistryError> {
    let mut answers = answers.into_iter();
    let time = answers.next().unwrap_or(redis::Value::Nil);
    let (seconds, micros): (u64, u64) = redis::from_redis_value(time)
        .map_err(|error| RegistryError::Unavailable(error.to_string()))?;
    Ok((seconds * 1_000 + micros / 1_000, answers))
}

/// `None` when the record is absent or can't be read.
fn gateway_record(
    id: &GatewayId,
    row: redis::Value,
    now_ms: u64,
    lease_ms: u64,
) -> Option<GatewayRecord> {
    type Row = (u64, String, String, u64, String, Option<String>);
    let (epoch, holder, state, until_ms, info, past): Row = redis::from_redis_value(row).ok()?;
    let owner = GatewayEpoch {
        gateway: id.clone(),
        epoch,
    };
    let past = past.unwrap_or_default();
    Some(GatewayRecord {
        swept: state == "swept",
        lease: GatewayLease {
            owner,
            holder,
            live: state == "held" && until_ms > now_ms,
            overdue: until_ms < now_ms + lease_ms / 2,
            info: serde_json::from_str(&info).ok()?,
        },
        past: past
            .split(',')
            .filter_map(|life| life.parse().ok())
            .collect(),
    })
}

fn shard_record(row: redis::Value) -> ShardRecord {
    type Row = (
        Option<String>,
        Option<u64>,
        Option<u64>,
        Option<String>,
        Option<u64>,
    );
    let Ok(row) = redis::from_redis_value::<Row>(row) else {
        return ShardRecord::default();
    };
    let (gateway, life, epoch, state, until_ms) = row;
    let owner = gateway.and_then(|gateway| gateway.parse().ok()).zip(life);
    ShardRecord {
        owner: owner.map(|(gateway, epoch)| GatewayEpoch { gateway, epoch }),
        epoch: epoch.unwrap_or(0),
        state: state.unwrap_or_default(),
        until_ms: until_ms.unwrap_or(0),
    }
}
