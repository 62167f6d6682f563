//! Sweeping what ended lives left.

use crate::subject::*;
use herald::registry::{Registration, SharedRegistry, Swept, Timings};

const NOTHING: Swept = Swept {
    raised: 0,
    deleted: 0,
    complete: true,
};

pub async fn a_live_gateway_is_left_alone(subject: Subject) {
    let timings = Timings {
        sweep_after_ms: 0,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    assert_eq!(registry.sweep(100).await, Ok(NOTHING));
    assert_eq!(lives(&registry, "ann").await, [owner]);
}

pub async fn a_gateway_that_lapsed_a_moment_ago_is_left_alone(subject: Subject) {
    let timings = Timings {
        lease_ms: 0,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    assert_eq!(registry.sweep(100).await, Ok(NOTHING));
    assert_eq!(lives(&registry, "ann").await, [owner]);
}

pub async fn a_lapsed_gateway_is_raised_once_and_its_entries_go(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    let entries = [entry("ann", 1), entry("bob", 2)];
    registry.register(&owner, &entries).await.unwrap();
    let swept = Swept {
        raised: 1,
        deleted: 2,
        complete: true,
    };
    assert_eq!(registry.sweep(100).await, Ok(swept));
    assert_eq!(routes(&registry, "ann").await, []);
    assert_eq!(registry.sweep(100).await, Ok(NOTHING));
}

pub async fn a_swept_gateway_still_shows_where_its_shard_was(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    // No budget: raised, but nothing is removed yet.
    let swept = registry.sweep(0).await.unwrap();
    assert_eq!((swept.raised, swept.complete), (1, false));
    let route = routes(&registry, "ann").await.remove(0);
    assert_eq!(
        (route.gateway, route.shard, route.live),
        (owner, Some(4), false)
    );
}

pub async fn a_sweep_stops_at_its_budget_and_goes_on_from_there(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    let entries: Vec<Registration> = (0..1_000)
        .map(|n| entry(&format!("user-{n}"), n + 1))
        .collect();
    registry.register(&owner, &entries).await.unwrap();
    let first = registry.sweep(300).await.unwrap();
    assert!((300..1_000).contains(&first.deleted), "{first:?}");
    assert!(!first.complete);
    let missing = registry.missing(&owner, &entries).await.unwrap();
    assert_eq!(missing.len(), first.deleted);
    assert_eq!(first.deleted + swept_to_the_end(&registry).await, 1_000);
    let missing = registry.missing(&owner, &entries).await.unwrap();
    assert_eq!(missing.len(), 1_000);
}

pub async fn a_released_gateway_is_swept_like_a_lapsed_one(subject: Subject) {
    let timings = Timings {
        sweep_after_ms: 0,
        ..LASTING
    };
    let registry = subject.registry(timings).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    registry.release_gateway(&owner).await.unwrap();
    let swept = registry.sweep(100).await.unwrap();
    assert_eq!((swept.raised, swept.deleted), (1, 1));
}

pub async fn the_sweep_of_an_old_life_leaves_the_new_one_alone(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let old = started(&registry, "gw-1", Some(4)).await;
    let entries = [entry("ann", 1), entry("bob", 2)];
    registry.register(&old, &entries).await.unwrap();
    let new = started(&registry, "gw-1", Some(4)).await;
    registry.register(&new, &[entry("ann", 1)]).await.unwrap();
    assert_eq!(swept_to_the_end(&registry).await, 2);
    assert_eq!(lives(&registry, "ann").await, [new]);
    assert_eq!(routes(&registry, "bob").await, []);
}

pub async fn two_sweepers_do_no_harm_to_each_other(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    let entries: Vec<Registration> = (0..500)
        .map(|n| entry(&format!("user-{n}"), n + 1))
        .collect();
    registry.register(&owner, &entries).await.unwrap();
    let (one, other) = tokio::join!(registry.sweep(1_000), registry.sweep(1_000));
    assert_eq!(one.unwrap().raised + other.unwrap().raised, 1);
    let missing = registry.missing(&owner, &entries).await.unwrap();
    assert_eq!(missing.len(), 500);
    assert_eq!(registry.sweep(1_000).await, Ok(NOTHING));
}

async fn swept_to_the_end(registry: &SharedRegistry) -> usize {
    let mut deleted = 0;
    for _ in 0..100 {
        let swept = registry.sweep(300).await.unwrap();
        deleted += swept.deleted;
        if swept.complete {
            return deleted;
        }
    }
    panic!("the sweep finds no end");
}
