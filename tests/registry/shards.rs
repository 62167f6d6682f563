//! Ownership of shards.

use crate::subject::*;
use herald::registry::{RegistryError, ShardClaim, Timings};

const AUTO: ShardClaim = ShardClaim::Auto { shards: 3 };

pub async fn an_automatic_claim_takes_the_lowest_free_shard(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    for (id, shard) in [("gw-1", 0), ("gw-2", 1), ("gw-3", 2)] {
        let owner = started(&registry, id, None).await;
        let lease = registry.claim_shard(&owner, AUTO).await.unwrap();
        assert_eq!((lease.shard, lease.owner, lease.live), (shard, owner, true));
    }
    let shards = registry.shards(3).await.unwrap();
    let owned: Vec<u32> = shards.iter().map(|lease| lease.shard).collect();
    assert_eq!(owned, [0, 1, 2]);
    registry.release_shard(&shards[1]).await.unwrap();
    let newcomer = started(&registry, "gw-4", None).await;
    let lease = registry.claim_shard(&newcomer, AUTO).await.unwrap();
    assert_eq!(lease.shard, 1);
    assert!(lease.epoch > shards[1].epoch);
}

pub async fn a_claim_with_every_shard_held_says_so(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let claim = ShardClaim::Auto { shards: 1 };
    let owner = started(&registry, "gw-1", None).await;
    registry.claim_shard(&owner, claim).await.unwrap();
    let late = started(&registry, "gw-2", None).await;
    let refusal = registry.claim_shard(&late, claim).await;
    assert_eq!(refusal, Err(RegistryError::NoShard));
}

pub async fn a_held_shard_is_refused_with_its_owner_named(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", None).await;
    registry.claim_shard(&owner, exact(2)).await.unwrap();
    let late = started(&registry, "gw-2", None).await;
    match registry.claim_shard(&late, exact(2)).await {
        Err(RegistryError::Held {
            holder, wait_ms, ..
        }) => {
            assert_eq!(holder, owner.to_string());
            assert!((1..=LASTING.lease_ms).contains(&wait_ms));
        }
        answer => panic!("{answer:?}"),
    }
}

pub async fn the_shard_of_a_lapsed_owner_goes_to_whoever_claims_it(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let gone = started(&registry, "gw-1", None).await;
    let old = registry.claim_shard(&gone, exact(0)).await.unwrap();
    assert!(!registry.shards(1).await.unwrap()[0].live);
    let heir = started(&registry, "gw-2", None).await;
    let new = registry.claim_shard(&heir, exact(0)).await.unwrap();
    assert!(new.epoch > old.epoch);
    let epoch = new.epoch;
    assert_eq!(
        registry.renew_shard(&old).await,
        Err(RegistryError::Lost { epoch })
    );
    // The late release of the old owner takes nothing from the new one.
    registry.release_shard(&old).await.unwrap();
    assert_eq!(registry.renew_shard(&new).await, Ok(()));
}

pub async fn a_lapsed_owner_goes_on_when_nobody_claimed_its_shard(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", None).await;
    let lease = registry.claim_shard(&owner, exact(0)).await.unwrap();
    assert_eq!(registry.renew_shard(&lease).await, Ok(()));
    assert_eq!(registry.shards(1).await.unwrap()[0].epoch, lease.epoch);
}

pub async fn a_claim_on_an_absent_record_waits_until_it_is_claimable(subject: Subject) {
    let timings = Timings {
        claimable_after_ms: 300,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let owner = started(&registry, "gw-1", None).await;
    assert_eq!(
        registry.claim_shard(&owner, exact(0)).await,
        Err(RegistryError::Claimable { in_ms: 300 })
    );
    assert_eq!(registry.shards(1).await.unwrap(), []);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        assert!(tokio::time::Instant::now() < deadline, "never claimable");
        match registry.claim_shard(&owner, exact(0)).await {
            Err(RegistryError::Claimable { in_ms }) => {
                assert!(in_ms <= 300);
                tokio::time::sleep(std::time::Duration::from_millis(in_ms)).await;
            }
            granted => {
                assert!(granted.unwrap().live);
                return;
            }
        }
    }
}

pub async fn an_automatic_claim_makes_all_absent_records_wait_at_once(subject: Subject) {
    let timings = Timings {
        claimable_after_ms: 60_000,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let owner = started(&registry, "gw-1", None).await;
    let first = registry.claim_shard(&owner, AUTO).await;
    assert!(matches!(first, Err(RegistryError::Claimable { .. })));
    // Had the record been absent still, the wait would be whole.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    match registry.claim_shard(&owner, exact(2)).await {
        Err(RegistryError::Claimable { in_ms }) => assert!(in_ms < 60_000),
        answer => panic!("{answer:?}"),
    }
}

pub async fn a_claim_that_shows_a_former_epoch_is_granted_on_an_absent_record(subject: Subject) {
    let timings = Timings {
        claimable_after_ms: 60_000,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let stranger = started(&registry, "gw-2", None).await;
    let wait = registry.claim_shard(&stranger, exact(0)).await;
    assert!(matches!(wait, Err(RegistryError::Claimable { .. })));
    let owner = started(&registry, "gw-1", None).await;
    let lease = registry
        .claim_shard(&owner, remembered(0, 41))
        .await
        .unwrap();
    assert_eq!((lease.owner, lease.epoch), (owner, 41));
    let refusal = registry.claim_shard(&stranger, exact(0)).await;
    assert!(matches!(refusal, Err(RegistryError::Held { .. })));
}

pub async fn a_higher_former_epoch_replaces_a_lower_one(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let stale = started(&registry, "gw-1", None).await;
    let last = started(&registry, "gw-2", None).await;
    let low = registry
        .claim_shard(&stale, remembered(0, 41))
        .await
        .unwrap();
    let high = registry
        .claim_shard(&last, remembered(0, 42))
        .await
        .unwrap();
    assert_eq!(high.epoch, 42);
    assert_eq!(
        registry.renew_shard(&low).await,
        Err(RegistryError::Lost { epoch: 42 })
    );
    let again = registry.claim_shard(&stale, remembered(0, 41)).await;
    assert!(matches!(again, Err(RegistryError::Held { .. })));
}

pub async fn a_renewal_puts_an_absent_shard_record_back_under_its_epoch(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", None).await;
    let lease = registry.claim_shard(&owner, exact(1)).await.unwrap();
    let registry = subject.wiped(LASTING).await;
    assert_eq!(registry.renew_shard(&lease).await, Ok(()));
    assert_eq!(registry.shards(2).await.unwrap(), [lease]);
}

pub async fn a_restarted_gateway_takes_up_its_own_shard_before_a_lower_free_one(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let other = started(&registry, "gw-2", None).await;
    let lowest = registry.claim_shard(&other, AUTO).await.unwrap();
    let first_life = started(&registry, "gw-1", None).await;
    let old = registry.claim_shard(&first_life, AUTO).await.unwrap();
    assert_eq!(old.shard, 1);
    registry.release_shard(&lowest).await.unwrap();
    // Its old lease still runs, but the gateway's own lease says that the old life is over.
    let second_life = started(&registry, "gw-1", None).await;
    let new = registry.claim_shard(&second_life, AUTO).await.unwrap();
    assert_eq!(new.shard, 1);
    assert!(new.epoch > old.epoch);
}

pub async fn an_older_life_can_not_take_the_shard_from_a_newer_one(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let older = started(&registry, "gw-1", None).await;
    let newer = started(&registry, "gw-1", None).await;
    registry.claim_shard(&newer, exact(0)).await.unwrap();
    let refusal = registry.claim_shard(&older, exact(0)).await;
    assert!(matches!(refusal, Err(RegistryError::Held { .. })));
}

pub async fn a_claim_that_is_repeated_is_the_same_lease(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", None).await;
    let lease = registry.claim_shard(&owner, AUTO).await.unwrap();
    assert_eq!(registry.claim_shard(&owner, AUTO).await, Ok(lease.clone()));
    assert_eq!(registry.claim_shard(&owner, exact(0)).await, Ok(lease));
}

pub async fn a_released_shard_is_free_at_once(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", None).await;
    let lease = registry.claim_shard(&owner, exact(0)).await.unwrap();
    registry.release_shard(&lease).await.unwrap();
    let epoch = lease.epoch;
    assert_eq!(
        registry.renew_shard(&lease).await,
        Err(RegistryError::Lost { epoch })
    );
    let heir = started(&registry, "gw-2", None).await;
    let new = registry.claim_shard(&heir, exact(0)).await.unwrap();
    assert!(new.epoch > lease.epoch);
}

fn remembered(shard: u32, epoch: u64) -> ShardClaim {
    ShardClaim::Exact {
        shard,
        former_epoch: Some(epoch),
    }
}
