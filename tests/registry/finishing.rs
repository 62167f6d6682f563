//! Shards that no gateway owns, held by a dispatcher meanwhile.

use crate::{orders::interleavings, subject::*};
use herald::{
    ids::GatewayEpoch,
    registry::{FinisherLease, RegistryError, ShardClaim, ShardLease, SharedRegistry, Timings},
};

/// A shard whose owner left.
async fn left_behind(registry: &SharedRegistry, id: &str, shard: u32) -> ShardLease {
    let owner = started(registry, id, None).await;
    let lease = registry.claim_shard(&owner, exact(shard)).await.unwrap();
    registry.release_shard(&lease).await.unwrap();
    lease
}

pub async fn a_shard_whose_owner_is_gone_is_held_by_one_finisher_at_a_time(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let gone = left_behind(&registry, "gw-1", 0).await;
    let held = registry.finish_shard("d-1", 0).await.unwrap();
    assert!(held.epoch > gone.epoch);
    let refusal = registry.finish_shard("d-2", 0).await;
    assert!(matches!(refusal, Err(RegistryError::Claimable { in_ms }) if in_ms > 0));
    // An answer that was lost is asked for again.
    assert_eq!(registry.finish_shard("d-1", 0).await, Ok(held.clone()));
    assert_eq!(registry.renew_finisher(&held).await, Ok(false));
    // Whoever still takes itself for the owner learns of it, and no gateway counts as one.
    assert!(!registry.shards(1).await.unwrap()[0].live);
    let epoch = held.epoch;
    let lost = registry.renew_shard(&gone).await;
    assert_eq!(lost, Err(RegistryError::Lost { epoch }));
    registry.release_finisher(&held).await.unwrap();
    let next = registry.finish_shard("d-2", 0).await.unwrap();
    assert!(next.epoch > held.epoch);
    let lost = registry.renew_finisher(&held).await;
    assert!(matches!(lost, Err(RegistryError::Lost { .. })));
}

pub async fn a_live_owner_and_the_time_after_its_lease_are_respected(subject: Subject) {
    let timings = Timings {
        finish_after_ms: 60_000,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let gone = left_behind(&registry, "gw-1", 0).await;
    let refusal = registry.finish_shard("d-1", 0).await;
    assert!(matches!(refusal, Err(RegistryError::Claimable { in_ms }) if in_ms <= 60_000));
    let lease = registry.claim_shard(&gone.owner, exact(0)).await.unwrap();
    let refusal = registry.finish_shard("d-1", 0).await;
    assert!(matches!(refusal, Err(RegistryError::Claimable { in_ms }) if in_ms > 60_000));
    assert_eq!(registry.renew_shard(&lease).await, Ok(()));
}

pub async fn a_finisher_claims_an_absent_record_after_the_gateways_had_their_time(
    subject: Subject,
) {
    let timings = Timings {
        claimable_after_ms: 30,
        finish_after_ms: 60_000,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let refusal = registry.finish_shard("d-1", 0).await;
    assert!(matches!(refusal, Err(RegistryError::Claimable { in_ms }) if in_ms > 30));
    // For a gateway the time began with it.
    let owner = started(&registry, "gw-1", None).await;
    until("claimable", async || {
        registry.claim_shard(&owner, exact(0)).await.is_ok()
    })
    .await;
}

pub async fn a_gateway_that_wants_the_shard_gets_it_when_the_finisher_yields(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    left_behind(&registry, "gw-1", 0).await;
    let held = registry.finish_shard("d-1", 0).await.unwrap();
    let heir = started(&registry, "gw-2", None).await;
    for _ in 0..2 {
        let wait = registry.claim_shard(&heir, exact(0)).await;
        let finisher = "d-1".to_owned();
        match wait {
            Err(RegistryError::Finishing { finisher: who, .. }) => assert_eq!(who, finisher),
            answer => panic!("{answer:?}"),
        }
        assert_eq!(registry.renew_finisher(&held).await, Ok(true));
    }
    registry.release_finisher(&held).await.unwrap();
    let lease = registry.claim_shard(&heir, exact(0)).await.unwrap();
    assert!(lease.epoch > held.epoch);
    let lost = registry.renew_finisher(&held).await;
    let epoch = lease.epoch;
    assert_eq!(lost, Err(RegistryError::Lost { epoch }));
    // Its late release takes nothing from the new owner.
    registry.release_finisher(&held).await.unwrap();
    assert_eq!(registry.renew_shard(&lease).await, Ok(()));
}

pub async fn a_shard_that_was_finished_goes_back_to_its_last_owner(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    left_behind(&registry, "gw-1", 2).await;
    let held = registry.finish_shard("d-1", 2).await.unwrap();
    let auto = ShardClaim::Auto { shards: 3 };
    let back = started(&registry, "gw-1", None).await;
    let wait = registry.claim_shard(&back, auto).await;
    assert!(matches!(wait, Err(RegistryError::Finishing { .. })));
    registry.release_finisher(&held).await.unwrap();
    let lease = registry.claim_shard(&back, auto).await.unwrap();
    assert_eq!(lease.shard, 2);
}

pub async fn a_free_shard_is_taken_before_one_that_is_being_finished(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    left_behind(&registry, "gw-1", 0).await;
    left_behind(&registry, "gw-2", 1).await;
    let held = registry.finish_shard("d-1", 0).await.unwrap();
    let auto = ShardClaim::Auto { shards: 2 };
    let newcomer = started(&registry, "gw-3", None).await;
    let lease = registry.claim_shard(&newcomer, auto).await.unwrap();
    assert_eq!(lease.shard, 1);
    assert_eq!(registry.renew_finisher(&held).await, Ok(false));
    // With nothing else left, it is asked to yield.
    let late = started(&registry, "gw-4", None).await;
    let wait = registry.claim_shard(&late, auto).await;
    assert!(matches!(wait, Err(RegistryError::Finishing { .. })));
    assert_eq!(registry.renew_finisher(&held).await, Ok(true));
}

pub async fn a_finisher_learns_that_a_gateway_came_back_with_the_registry_empty(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    left_behind(&registry, "gw-1", 0).await;
    let held = registry.finish_shard("d-1", 0).await.unwrap();
    let registry = subject.wiped(LASTING).await;
    let lost = registry.renew_finisher(&held).await;
    assert_eq!(lost, Err(RegistryError::Lost { epoch: 0 }));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Finish(usize),
    /// Renews, and yields when a gateway wants the shard.
    RenewFinisher(usize),
    Kill(usize),
    Claim,
    Renew,
}

const FIRST: [Step; 2] = [Step::Finish(0), Step::RenewFinisher(0)];
const SECOND: [Step; 2] = [Step::Finish(1), Step::RenewFinisher(1)];
const GATEWAY: [Step; 2] = [Step::Claim, Step::Renew];
const FAULT: [Step; 1] = [Step::Kill(0)];

pub async fn every_order_of_claims_yields_and_a_kill_leaves_one_owner_at_a_time(subject: Subject) {
    let orders = interleavings(&[&FIRST, &SECOND, &GATEWAY, &FAULT]);
    assert_eq!(orders.len(), 630);
    for timings in [LASTING, LAPSING] {
        let registry = subject.registry(timings).await;
        let gone = started(&registry, "gw-1", None).await;
        let heir = started(&registry, "gw-2", None).await;
        let base = timings.lease_ms.min(1) as u32 * 1_000;
        for (number, order) in (base..).zip(&orders) {
            let mut world = World::new(registry.clone(), number, &gone, &heir).await;
            for step in order {
                world.step(*step).await;
                world.check(order).await;
            }
            world.settle(order, timings).await;
        }
    }
}

/// One shard, two finishers, a gateway that wants it.
struct World {
    registry: SharedRegistry,
    shard: u32,
    heir: GatewayEpoch,
    finishers: [Option<FinisherLease>; 2],
    killed: [bool; 2],
    owned: Option<ShardLease>,
    /// The highest granted so far.
    epoch: u64,
}

impl World {
    async fn new(
        registry: SharedRegistry,
        shard: u32,
        gone: &GatewayEpoch,
        heir: &GatewayEpoch,
    ) -> World {
        let lease = registry.claim_shard(gone, exact(shard)).await.unwrap();
        registry.release_shard(&lease).await.unwrap();
        World {
            registry,
            shard,
            heir: heir.clone(),
            finishers: [None, None],
            killed: [false; 2],
            owned: None,
            epoch: lease.epoch,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Kill(n) => self.killed[n] = true,
            Step::Finish(n) | Step::RenewFinisher(n) if self.killed[n] => {}
            Step::Finish(n) => {
                let name = format!("d-{n}");
                let granted = self.registry.finish_shard(&name, self.shard).await;
                if let Ok(lease) = granted {
                    assert!(lease.epoch > self.epoch);
                    self.epoch = lease.epoch;
                    self.finishers[n] = Some(lease);
                }
            }
            Step::RenewFinisher(n) => {
                let Some(lease) = self.finishers[n].clone() else {
                    return;
                };
                match self.registry.renew_finisher(&lease).await {
                    Ok(false) => {}
                    Ok(true) => {
                        self.registry.release_finisher(&lease).await.unwrap();
                        self.finishers[n] = None;
                    }
                    Err(_) => self.finishers[n] = None,
                }
            }
            Step::Claim => {
                let claim = self.registry.claim_shard(&self.heir, exact(self.shard));
                if let Ok(lease) = claim.await {
                    assert!(lease.epoch > self.epoch || self.owned.as_ref() == Some(&lease));
                    self.epoch = lease.epoch;
                    self.owned = Some(lease);
                }
            }
            Step::Renew => {
                if let Some(lease) = &self.owned
                    && self.registry.renew_shard(lease).await.is_err()
                {
                    self.owned = None;
                }
            }
        }
    }

    /// Of all that take themselves for the holder, the registry agrees with one at most.
    async fn check(&self, order: &[Step]) {
        let mut holders = 0;
        for lease in self.finishers.iter().flatten() {
            holders += u32::from(self.registry.renew_finisher(lease).await.is_ok());
        }
        if let Some(lease) = &self.owned {
            holders += u32::from(self.registry.renew_shard(lease).await.is_ok());
        }
        assert!(holders <= 1, "{order:?}");
    }

    /// The gateway asks on, whoever lives renews: the gateway owns the shard, unless the holder was killed and
    /// its lease has not run out.
    async fn settle(&mut self, order: &[Step], timings: Timings) {
        for step in [
            Step::Renew,
            Step::Claim,
            Step::RenewFinisher(0),
            Step::RenewFinisher(1),
            Step::Claim,
        ] {
            self.step(step).await;
            self.check(order).await;
        }
        let waits = self.killed[0] && self.finishers[0].is_some() && timings.lease_ms > 0;
        assert!(self.owned.is_some() || waits, "{order:?}");
    }
}
