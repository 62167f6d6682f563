//! Leases of gateway ids.

use crate::subject::*;
use herald::registry::{RegistryError, Timings};
use std::time::{Duration, Instant};

pub async fn epochs_rise_with_every_life(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let mut last = 0;
    for _ in 0..5 {
        let owner = started(&registry, "gw-1", None).await;
        assert!(owner.epoch > last);
        last = owner.epoch;
    }
}

pub async fn epochs_rise_even_after_the_registry_came_back_empty(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let before = started(&registry, "gw-1", None).await;
    // The next millisecond on the registry's clock: two starts are never this close.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let registry = subject.wiped(LASTING).await;
    let after = started(&registry, "gw-1", None).await;
    assert!(after.epoch > before.epoch);
}

pub async fn a_held_id_is_refused_with_the_holder_named_and_the_wait_stated(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    started(&registry, "gw-1", None).await;
    let refusal = registry
        .acquire_gateway(&gateway("gw-1"), "another process", &info(None))
        .await;
    let Err(error @ RegistryError::Held { .. }) = refusal else {
        panic!("{refusal:?}");
    };
    assert!(error.to_string().contains("process of gw-1"), "{error}");
    let RegistryError::Held {
        wait_ms, until_ms, ..
    } = error
    else {
        unreachable!()
    };
    assert!((1..=LASTING.lease_ms).contains(&wait_ms));
    assert!(until_ms > wait_ms);
}

pub async fn a_restart_after_kill_9_gets_its_id_when_the_lease_has_run_out(subject: Subject) {
    let timings = Timings {
        lease_ms: 400,
        ..LASTING
    };
    let begun = Instant::now();
    let registry = subject.registry(timings).await;
    let old = started(&registry, "gw-1", None).await;
    loop {
        let answer = registry
            .acquire_gateway(&gateway("gw-1"), "the restarted process", &info(None))
            .await;
        match answer {
            Err(RegistryError::Held { wait_ms, .. }) => {
                assert!(wait_ms <= timings.lease_ms);
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            }
            granted => {
                assert!(granted.unwrap().epoch > old.epoch);
                // The two clocks may differ by their rounding.
                assert!(begun.elapsed() >= Duration::from_millis(timings.lease_ms - 2));
                return;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "still held");
    }
}

pub async fn a_process_that_lost_its_epoch_takes_a_new_one_without_waiting(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let first = started(&registry, "gw-1", None).await;
    let second = started(&registry, "gw-1", None).await;
    assert!(second.epoch > first.epoch);
}

pub async fn a_lapsed_lease_goes_on_under_its_epoch(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", None).await;
    assert!(!registry.gateways().await.unwrap()[0].live);
    let renewed = registry
        .renew_gateway(&owner, &holder("gw-1"), &info(Some(3)))
        .await;
    assert_eq!(renewed, Ok(()));
    let lease = registry.gateways().await.unwrap().remove(0);
    assert_eq!((lease.owner, lease.info), (owner, info(Some(3))));
}

pub async fn an_older_life_learns_that_it_was_replaced(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let old = started(&registry, "gw-1", None).await;
    let new = registry
        .acquire_gateway(&gateway("gw-1"), "another process", &info(None))
        .await
        .unwrap();
    let renewed = registry
        .renew_gateway(&old, &holder("gw-1"), &info(None))
        .await;
    assert_eq!(renewed, Err(RegistryError::Lost { epoch: new.epoch }));
    // Nor does its late release end the new lease.
    registry.release_gateway(&old).await.unwrap();
    let renewed = registry
        .renew_gateway(&new, "another process", &info(None))
        .await;
    assert_eq!(renewed, Ok(()));
}

pub async fn a_swept_lease_is_lost_and_the_next_epoch_lies_above_the_swept_one(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", None).await;
    assert_eq!(registry.sweep(100).await.unwrap().raised, 1);
    let renewed = registry
        .renew_gateway(&owner, &holder("gw-1"), &info(None))
        .await;
    let swept_at = owner.epoch + 1;
    assert_eq!(renewed, Err(RegistryError::Lost { epoch: swept_at }));
    assert!(started(&registry, "gw-1", None).await.epoch > swept_at);
}

pub async fn a_released_id_is_free_at_once(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let old = started(&registry, "gw-1", None).await;
    registry.release_gateway(&old).await.unwrap();
    assert!(!registry.gateways().await.unwrap()[0].live);
    let new = registry
        .acquire_gateway(&gateway("gw-1"), "another process", &info(None))
        .await
        .unwrap();
    assert!(new.epoch > old.epoch);
}

pub async fn a_renewal_that_comes_after_the_release_does_not_revive_the_lease(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", None).await;
    registry.release_gateway(&owner).await.unwrap();
    let renewed = registry
        .renew_gateway(&owner, &holder("gw-1"), &info(None))
        .await;
    let epoch = owner.epoch;
    assert_eq!(renewed, Err(RegistryError::Lost { epoch }));
}

pub async fn a_renewal_puts_an_absent_record_back_under_its_epoch(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(2)).await;
    let registry = subject.wiped(LASTING).await;
    assert_eq!(registry.gateways().await.unwrap(), []);
    registry
        .renew_gateway(&owner, &holder("gw-1"), &info(Some(2)))
        .await
        .unwrap();
    let lease = registry.gateways().await.unwrap().remove(0);
    assert!(lease.live);
    assert_eq!(lease.owner, owner);
    let refusal = registry
        .acquire_gateway(&gateway("gw-1"), "another process", &info(None))
        .await;
    assert!(matches!(refusal, Err(RegistryError::Held { .. })));
}

pub async fn what_a_gateway_publishes_is_seen_with_its_lease(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let first = started(&registry, "gw-1", Some(1)).await;
    let second = started(&registry, "gw-2", None).await;
    let mut draining = info(None);
    draining.draining = true;
    registry
        .renew_gateway(&second, &holder("gw-2"), &draining)
        .await
        .unwrap();
    let leases = registry.gateways().await.unwrap();
    let seen: Vec<_> = leases
        .iter()
        .map(|lease| (&lease.owner, lease.holder.clone(), lease.live, &lease.info))
        .collect();
    let expected = [
        (&first, holder("gw-1"), true, &info(Some(1))),
        (&second, holder("gw-2"), true, &draining),
    ];
    assert_eq!(seen, expected);
}

pub async fn one_orders_at_a_time_and_a_lock_ends_by_itself(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    registry.lock_orders("d-1", 60_000).await.unwrap();
    let refusal = registry.lock_orders("d-2", 60_000).await;
    let Err(RegistryError::Held {
        holder, wait_ms, ..
    }) = refusal
    else {
        panic!("{refusal:?}");
    };
    assert_eq!(holder, "d-1");
    assert!((1..=60_000).contains(&wait_ms));
    // Nobody gives back what is another's.
    registry.unlock_orders("d-2").await.unwrap();
    assert!(registry.lock_orders("d-2", 60_000).await.is_err());
    registry.unlock_orders("d-1").await.unwrap();
    registry.lock_orders("d-2", 1).await.unwrap();
    until("the lock of d-2 ended", async || {
        registry.lock_orders("d-1", 60_000).await.is_ok()
    })
    .await;
}

pub async fn a_lease_that_is_not_renewed_for_half_its_time_is_overdue_and_lives(subject: Subject) {
    let timings = Timings {
        lease_ms: 4_000,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let owner = started(&registry, "gw-1", None).await;
    let lease = async || registry.gateways().await.unwrap().remove(0);
    assert!(!lease().await.overdue);
    until("it is overdue", async || {
        let lease = lease().await;
        lease.overdue && lease.live
    })
    .await;
    let (holder, info) = (holder("gw-1"), info(None));
    let renewed = registry.renew_gateway(&owner, &holder, &info);
    renewed.await.unwrap();
    assert!(!lease().await.overdue);
}
