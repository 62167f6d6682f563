//! Where users are connected.

use crate::subject::*;
use herald::registry::{Registration, RegistryError, Route};

pub async fn a_registered_user_is_found_at_every_gateway_that_entered_them(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let first = started(&registry, "gw-1", Some(4)).await;
    let second = started(&registry, "gw-2", Some(5)).await;
    registry.register(&first, &[entry("ann", 1)]).await.unwrap();
    registry
        .register(&second, &[entry("bob", 1), entry("ann", 2)])
        .await
        .unwrap();
    let route = |gateway: &_, shard| Route {
        gateway: Clone::clone(gateway),
        shard: Some(shard),
        grpc: Some(info(None).grpc),
        live: true,
    };
    let found = registry.lookup(&[user("bob"), user("ann")]).await.unwrap();
    let expected = [
        vec![route(&second, 5)],
        vec![route(&first, 4), route(&second, 5)],
    ];
    assert_eq!(found, expected);
}

pub async fn a_user_nobody_entered_has_no_route(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    assert_eq!(routes(&registry, "nobody").await, []);
    assert!(registry.lookup(&[]).await.unwrap().is_empty());
}

pub async fn a_lapsed_gateway_is_still_a_route_to_its_shard(subject: Subject) {
    let registry = subject.registry(LAPSING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    let route = routes(&registry, "ann").await.remove(0);
    assert_eq!(
        (route.gateway, route.shard, route.live),
        (owner, Some(4), false)
    );
}

pub async fn a_gateway_without_a_shard_is_a_route_without_one(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", None).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    let route = routes(&registry, "ann").await.remove(0);
    assert_eq!((route.shard, route.live), (None, true));
}

pub async fn the_newest_life_of_a_gateway_is_the_route(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let old = started(&registry, "gw-1", Some(4)).await;
    registry
        .register(&old, &[entry("ann", 1), entry("bob", 2)])
        .await
        .unwrap();
    let new = started(&registry, "gw-1", Some(4)).await;
    registry.register(&new, &[entry("ann", 1)]).await.unwrap();
    assert_eq!(lives(&registry, "ann").await, [new]);
    // Not back yet: the shard is the same, the life that held the user is over.
    let route = routes(&registry, "bob").await.remove(0);
    assert_eq!(
        (route.gateway, route.shard, route.live),
        (old, Some(4), false)
    );
}

pub async fn a_late_removal_by_an_old_life_leaves_the_entry_of_the_new_one(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let old = started(&registry, "gw-1", Some(4)).await;
    registry.register(&old, &[entry("ann", 1)]).await.unwrap();
    let new = started(&registry, "gw-1", Some(4)).await;
    registry.register(&new, &[entry("ann", 1)]).await.unwrap();
    registry.unregister(&old, &[entry("ann", 1)]).await.unwrap();
    assert_eq!(lives(&registry, "ann").await, [new]);
}

pub async fn a_removal_with_an_old_stamp_does_nothing(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    registry.register(&owner, &[entry("ann", 2)]).await.unwrap();
    registry
        .unregister(&owner, &[entry("ann", 1)])
        .await
        .unwrap();
    assert_eq!(lives(&registry, "ann").await, std::slice::from_ref(&owner));
    registry
        .unregister(&owner, &[entry("ann", 2)])
        .await
        .unwrap();
    assert_eq!(routes(&registry, "ann").await, []);
}

pub async fn a_removal_takes_an_earlier_stamp_of_the_same_life_with_it(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
    // What was to replace it never came.
    registry
        .unregister(&owner, &[entry("ann", 2)])
        .await
        .unwrap();
    assert_eq!(routes(&registry, "ann").await, []);
}

pub async fn registering_again_changes_nothing(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    for _ in 0..2 {
        registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
        assert_eq!(lives(&registry, "ann").await, std::slice::from_ref(&owner));
    }
}

pub async fn user_ids_with_odd_characters_are_kept_apart(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    let long = "\u{1f642}".repeat(32);
    let odd = [
        "a:b",
        "a%3Ab",
        "a b",
        "{a}b",
        "*",
        "a?b[c]",
        "\u{fc}",
        "\u{1f642}",
        "...",
        "-",
        "%",
        "%25",
        "\"'\\",
        "42",
        "042",
        "gw-1.5",
        &long,
    ];
    for (stamp, id) in (1..).zip(odd) {
        let entries = [entry(id, stamp)];
        registry.register(&owner, &entries).await.unwrap();
        assert_eq!(
            lives(&registry, id).await,
            std::slice::from_ref(&owner),
            "{id}"
        );
    }
    for (stamp, id) in (1..).zip(odd) {
        let entries = [entry(id, stamp)];
        assert_eq!(registry.missing(&owner, &entries).await, Ok(vec![]), "{id}");
        registry.unregister(&owner, &entries).await.unwrap();
        assert_eq!(routes(&registry, id).await, [], "{id}");
    }
}

pub async fn ten_thousand_users_go_in_and_out_in_batches(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    let entries: Vec<Registration> = (0..10_000)
        .map(|n| entry(&format!("user-{n}"), n + 1))
        .collect();
    let users: Vec<_> = entries.iter().map(|entry| entry.user.clone()).collect();
    registry.register(&owner, &entries).await.unwrap();
    let found = registry.lookup(&users).await.unwrap();
    assert_eq!(found.len(), users.len());
    assert!(found.iter().all(|routes| routes.len() == 1));
    assert_eq!(registry.missing(&owner, &entries).await, Ok(vec![]));
    let (half, rest) = entries.split_at(5_000);
    registry.unregister(&owner, half).await.unwrap();
    assert_eq!(registry.missing(&owner, &entries).await.unwrap(), half);
    registry.unregister(&owner, rest).await.unwrap();
    let found = registry.lookup(&users).await.unwrap();
    assert!(found.iter().all(Vec::is_empty));
}

pub async fn missing_names_exactly_those_that_are_not_as_given(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let owner = started(&registry, "gw-1", Some(4)).await;
    let other = started(&registry, "gw-2", Some(5)).await;
    let there = entry("ann", 1);
    registry
        .register(&owner, &[there.clone(), entry("bob", 1)])
        .await
        .unwrap();
    registry.register(&other, &[entry("cem", 1)]).await.unwrap();
    let asked = [there, entry("bob", 2), entry("cem", 1), entry("dan", 1)];
    let missing = registry.missing(&owner, &asked).await.unwrap();
    assert_eq!(missing, asked[1..]);
    registry.register(&owner, &missing).await.unwrap();
    assert_eq!(registry.missing(&owner, &asked).await, Ok(vec![]));
}

pub async fn a_life_that_was_replaced_can_enter_nobody(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let old = started(&registry, "gw-1", Some(4)).await;
    let new = started(&registry, "gw-1", Some(4)).await;
    let refusal = registry.register(&old, &[entry("ann", 1)]).await;
    assert_eq!(refusal, Err(RegistryError::Lost { epoch: new.epoch }));
    assert_eq!(routes(&registry, "ann").await, []);
}
