//! Redis away, back, and other than it was. Only on Redis.

use crate::subject::*;
use herald::{
    metrics::Metrics,
    registry::{Registry, RegistryError},
};
use testbed::redis::{RedisServer, fresh_namespace};

#[tokio::test]
async fn a_redis_that_was_killed_is_unavailable_and_comes_back_by_itself() {
    let mut server = RedisServer::start();
    let metrics = Metrics::default();
    let registry = open(&impatient(server.url()), &metrics);
    let owner = registry
        .acquire_gateway(&gateway("gw-1"), "process", &info(Some(0)))
        .await
        .unwrap();
    assert!(registry.healthy());
    let before = registry.incarnation();

    server.kill();
    let entries = [entry("ann", 1)];
    until("unavailable", async || {
        let answer = registry.register(&owner, &entries).await;
        matches!(answer, Err(RegistryError::Unavailable(_)))
    })
    .await;
    assert!(!registry.healthy());
    // While it is known to be away no call tries it: all are refused out of hand, and counted.
    for _ in 0..100 {
        let answer = registry.lookup(&[user("ann")]).await;
        assert!(matches!(answer, Err(RegistryError::Unavailable(_))));
    }
    let text = metrics.render();
    assert!(text.contains("herald_registry_up 0"), "{text}");
    let away = r#"herald_registry_errors_total{cause="away",operation="lookup"} 100"#;
    assert!(text.contains(away), "{text}");

    server.restart();
    until("healthy again", async || registry.healthy()).await;
    assert!(registry.incarnation() > before, "another server answers");
    // It came back empty: the renewal puts the record back, the gateway enters its users again.
    registry
        .renew_gateway(&owner, "process", &info(Some(0)))
        .await
        .unwrap();
    let missing = registry.missing(&owner, &entries).await.unwrap();
    assert_eq!(missing, entries);
    registry.register(&owner, &missing).await.unwrap();
    let found = registry.lookup(&[user("ann")]).await.unwrap();
    assert_eq!(found[0][0].gateway, owner);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_timeout_and_is_used_again_when_it_answers() {
    let server = RedisServer::start();
    let registry = open(&impatient(server.url()), &Metrics::default());
    assert_eq!(registry.gateways().await, Ok(vec![]));
    let before = registry.incarnation();
    server.freeze();
    let answer = registry.gateways().await;
    assert!(matches!(answer, Err(RegistryError::Unavailable(_))));
    assert!(!registry.healthy());
    server.thaw();
    until("healthy again", async || registry.healthy()).await;
    assert_eq!(registry.gateways().await, Ok(vec![]));
    assert_eq!(registry.incarnation(), before, "it is the same server");
}

#[tokio::test]
async fn a_redis_that_was_emptied_while_it_runs_is_noticed_by_the_next_renewal() {
    let server = RedisServer::start();
    let registry = open(&impatient(server.url()), &Metrics::default());
    let owner = registry
        .acquire_gateway(&gateway("gw-1"), "process", &info(Some(0)))
        .await
        .unwrap();
    let info = info(Some(0));
    let renew = async || {
        let renewed = registry.renew_gateway(&owner, "process", &info);
        renewed.await.unwrap();
        registry.incarnation()
    };
    let before = renew().await;
    assert_eq!(renew().await, before);
    server.raw(&["FLUSHALL"]);
    assert!(renew().await > before);
}

#[tokio::test]
async fn a_redis_that_answers_and_refuses_writes_is_away_until_it_takes_them() {
    type Change = fn(&RedisServer);
    let refusals: [(Change, Change, &str); 4] = [
        (
            |server| drop(server.raw(&["CONFIG", "SET", "maxmemory", "1"])),
            |server| drop(server.raw(&["CONFIG", "SET", "maxmemory", "0"])),
            "raise maxmemory",
        ),
        (
            |server| drop(server.raw(&["CONFIG", "SET", "min-replicas-to-write", "1"])),
            |server| drop(server.raw(&["CONFIG", "SET", "min-replicas-to-write", "0"])),
            "lower min-replicas-to-write",
        ),
        (
            |server| drop(server.raw(&["REPLICAOF", "127.0.0.1", "1"])),
            |server| drop(server.raw(&["REPLICAOF", "NO", "ONE"])),
            "point redis.url at the primary",
        ),
        (
            RedisServer::can_not_save,
            RedisServer::can_save_again,
            "free its disk",
        ),
    ];
    let each = refusals.map(|(refuse, take, fix)| async move {
        let server = RedisServer::start();
        let metrics = Metrics::default();
        let registry = open(&impatient(server.url()), &metrics);
        let starting = registry
            .acquire_gateway(&gateway("gw-1"), "process", &info(Some(0)))
            .await;
        let owner = starting.unwrap();
        let before = registry.incarnation();
        refuse(&server);
        // Nobody writes: those who only look users up have to know as well.
        until("away without a call", async || !registry.healthy()).await;
        let fault = registry.fault().unwrap();
        assert!(fault.contains(fix), "{fault}");
        let found = registry.lookup(&[user("ann")]).await;
        assert!(
            matches!(found, Err(RegistryError::Unavailable(_))),
            "{found:?}"
        );
        assert!(metrics.render().contains("herald_registry_up 0"));
        take(&server);
        until("healthy again", async || registry.healthy()).await;
        assert_eq!(registry.fault(), None);
        registry.register(&owner, &[entry("ann", 1)]).await.unwrap();
        assert!(metrics.render().contains("herald_registry_up 1"));
        assert_eq!(registry.incarnation(), before, "nothing was forgotten");
    });
    futures::future::join_all(each).await;
}

#[tokio::test]
async fn a_refused_write_is_known_with_its_answer_and_one_that_is_taken_does_not_end_it() {
    let server = RedisServer::start();
    let registry = open(&impatient(server.url()), &Metrics::default());
    let owner = registry
        .acquire_gateway(&gateway("gw-1"), "process", &info(Some(0)))
        .await
        .unwrap();
    server.raw(&["CONFIG", "SET", "maxmemory", "1"]);
    let entered = registry.register(&owner, &[entry("ann", 1)]).await;
    assert!(
        matches!(entered, Err(RegistryError::Unavailable(_))),
        "{entered:?}"
    );
    assert!(!registry.healthy());
    // Memory that is just about full takes one and refuses the next.
    server.raw(&["CONFIG", "RESETSTAT"]);
    server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
    until("healthy again", async || registry.healthy()).await;
    let written = server.raw(&["INFO", "commandstats"]);
    let calls = written.split("cmdstat_hset:calls=").nth(1).unwrap();
    let calls: u64 = calls.split(',').next().unwrap().parse().unwrap();
    assert!(calls >= 3, "{written}");
}

#[tokio::test]
async fn an_idle_registry_notices_that_redis_went_away() {
    let mut server = RedisServer::start();
    let registry = open(&impatient(server.url()), &Metrics::default());
    assert_eq!(registry.gateways().await, Ok(vec![]));
    server.kill();
    until("unhealthy without a call", async || !registry.healthy()).await;
}

#[tokio::test]
async fn a_start_without_redis_succeeds_and_the_registry_follows() {
    let mut server = RedisServer::start();
    server.kill();
    let registry = open(&impatient(server.url()), &Metrics::default());
    assert!(!registry.healthy());
    match registry.gateways().await {
        Err(RegistryError::Unavailable(why)) => assert!(why.contains("127.0.0.1"), "{why}"),
        answer => panic!("{answer:?}"),
    }
    server.restart();
    until("healthy", async || registry.healthy()).await;
    assert_eq!(registry.gateways().await, Ok(vec![]));
}

#[tokio::test]
async fn leases_of_lookups_are_a_moment_old_but_a_new_gateway_is_known_at_once() {
    let mut timings = LASTING;
    timings.leases_cached_ms = 60_000;
    let url = RedisServer::shared().url();
    let registry = std::sync::Arc::new(connect(&url, &fresh_namespace(), timings));
    let registry: herald::registry::SharedRegistry = registry;
    let first = started(&registry, "gw-1", Some(1)).await;
    registry.register(&first, &[entry("ann", 1)]).await.unwrap();
    assert_eq!(routes(&registry, "ann").await[0].shard, Some(1));
    registry
        .renew_gateway(&first, &holder("gw-1"), &info(Some(2)))
        .await
        .unwrap();
    assert_eq!(routes(&registry, "ann").await[0].shard, Some(1));
    let second = started(&registry, "gw-2", Some(3)).await;
    registry
        .register(&second, &[entry("bob", 1)])
        .await
        .unwrap();
    assert_eq!(routes(&registry, "bob").await[0].shard, Some(3));
    // That reading brought the first one up to date as well.
    assert_eq!(routes(&registry, "ann").await[0].shard, Some(2));
}
