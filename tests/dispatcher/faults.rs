//! Parts that are away: what is refused, what waits, what goes on.

use crate::{
    rig::{Rig, directory, eventually, outcome, readiness, rows},
    switched::Switched,
};
use herald::{
    bus::{
        SharedBus, Topic,
        embedded::{EmbeddedBus, Options},
    },
    config,
    dispatcher::store::sqlite::{FILE, SqliteStore},
    envelope::Fate,
    metrics::Metrics,
    registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::json;
use std::sync::{Arc, atomic::Ordering};

use testbed::redis::RedisServer;

#[tokio::test(flavor = "multi_thread")]
async fn with_the_bus_away_it_starts_degraded_refuses_and_recovers_by_itself() {
    let dir = directory();
    let metrics = Metrics::default();
    let switched = Switched::off(dir.path(), &metrics);
    let store = Arc::new(SqliteStore::open(dir.path(), &config::Node::default()).unwrap());
    let registry = Arc::new(EmbeddedRegistry::default());
    let bus: SharedBus = switched.clone();
    let rig = Rig::over(dir, metrics, bus, registry, store).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    let (status, body) = readiness(&rig).await;
    assert_eq!((status, &body["ready"]), (200, &json!(true)));
    assert!(body["degraded"]["bus"].is_string(), "{body}");

    let post = || {
        let body = json!({ "target": { "user": "42" }, "type": "x" });
        rig.call_as(
            &rig.key,
            Method::POST,
            "/v1/notifications",
            Some(body),
            Some("k"),
        )
    };
    let refused = post().await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.body["error"]["code"], "unavailable");
    let retry_after_s: u32 = refused.retry_after.unwrap().parse().unwrap();
    assert!((5..=30).contains(&retry_after_s));

    switched.turn(true);
    assert_eq!(post().await.status, 202);
    rig.records(Topic::InApp, 0, 1).await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
    assert_eq!(readiness(&rig).await.0, 200);
    // What it reads ends before where it stands: degraded, with the worker and the topic named.
    switched.remade.store(true, Ordering::Relaxed);
    let slow = eventually(|| async {
        let (status, body) = readiness(&rig).await;
        assert_eq!(status, 200);
        body["degraded"]["router"].as_str().map(str::to_owned)
    })
    .await;
    assert!(slow.contains("raw.g1 partition"), "{slow}");
    switched.remade.store(false, Ordering::Relaxed);
    eventually(|| async {
        let body = readiness(&rig).await.1;
        (body["degraded"] == json!({})).then_some(())
    })
    .await;
    // Once it was ready, a bus that goes away makes it degraded: nobody else would do better.
    switched.turn(false);
    let (status, body) = readiness(&rig).await;
    assert_eq!(status, 200);
    let named = body["degraded"]["bus"].as_str().unwrap_or_default();
    assert!(named.contains("check the brokers"), "{body}");
    // Who reads stays a member of its group: a second one would wait until the broker gives the first up.
    eventually(|| async {
        let metrics = rig.metrics.render();
        let tried = metrics
            .lines()
            .find(|line| line.starts_with("herald_retries_total{step=\"consume\"}"));
        tried
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .filter(|tried: &u64| *tried > 8)
    })
    .await;
    let joined = switched.joined.load(Ordering::Relaxed);
    switched.turn(true);
    assert_eq!(notify_again(&rig).await, 202);
    rig.records(Topic::InApp, 0, 2).await;
    rig.routed().await;
    assert_eq!(switched.joined.load(Ordering::Relaxed), joined);
}

async fn notify_again(rig: &Rig) -> u16 {
    let body = json!({ "target": { "user": "42" }, "type": "x" });
    let path = "/v1/notifications";
    let answer = rig.call_as(&rig.key, Method::POST, path, Some(body), Some("again"));
    answer.await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_records_wait_and_outcomes_go_to_the_delivery_topic() {
    let dir = directory();
    let file = dir.path().join(FILE);
    let metrics = Metrics::default();
    let bus = Arc::new(EmbeddedBus::open(dir.path(), Options::default(), &metrics).unwrap());
    let store = Arc::new(SqliteStore::open(dir.path(), &config::Node::default()).unwrap());
    let registry = Arc::new(EmbeddedRegistry::default());
    let rig = Rig::over(dir, metrics, bus, registry, store).await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;

    // Somebody else holds the file for writing, longer than the store waits for it.
    let holder = rusqlite::Connection::open(file).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = rig.post_to("42", "two").await;
    let written = outcome(id, "42", pos, Fate::Written);
    let reply = rig.report(&gateway, Some(0), vec![written]).await;
    assert_eq!(reply.sequence, 7);
    assert_eq!(rig.count(Topic::Delivery).await, 1);
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);

    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    rig.routed().await;
    let ids: Vec<_> = rows(&*rig.store, "42")
        .await
        .iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(ids, [id, waiting]);
    eventually(|| async {
        let body = rig
            .get(&format!("/v1/notifications/{id}/delivery?user=42"))
            .await;
        (body["states"][0]["state"] == "written").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_registry_away_users_are_pushed_to_where_they_were_and_looked_for_where_nobody_knows()
 {
    let mut redis = RedisServer::start();
    let rig = Rig::on_redis(&redis).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    rig.post_to("42", "one").await;
    rig.records(Topic::InApp, 0, 1).await;
    assert!(rig.sync("42", &[]).await.recovered);

    redis.kill();
    rig.post_to("42", "two").await;
    rig.records(Topic::InApp, 0, 2).await;
    rig.post_to("43", "nobody knows where").await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "43").await.len(), 1);
    let asked = rig.records(Topic::Broadcast, 0, 1).await;
    assert_eq!(asked[0].user, Some("43".parse().unwrap()));
    let metrics = rig.metrics.render();
    assert!(
        metrics.contains("herald_lookups_total{source=\"last_known\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("herald_lookups_total{source=\"unknown\"} 1"));
    eventually(|| async { (!rig.registry.healthy()).then_some(()) }).await;
    // A gateway that can't be known to be registered may miss live frames.
    assert!(!rig.sync("42", &[]).await.recovered);
    assert_eq!(rig.get("/v1/users/42").await["routes"], json!(null));
    let (_, body) = readiness(&rig).await;
    let named = body["degraded"]["registry"].as_str().unwrap_or_default();
    assert!(named.contains("redis.url"), "{body}");
}
