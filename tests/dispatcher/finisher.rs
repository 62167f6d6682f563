//! Shards that no gateway owns.

use crate::rig::{Rig, directory, eventually, run_dispatcher};
use herald::{
    bus::{
        Topic, TopicPartition,
        embedded::{EmbeddedBus, Options},
    },
    config::Node,
    dispatcher::store::sqlite::{FILE, SqliteStore},
    ids::GatewayEpoch,
    metrics::Metrics,
    registry::{RegistryError, ShardClaim, Timings, embedded::EmbeddedRegistry},
};
use std::{path::PathBuf, sync::Arc};

const IN_APP: TopicPartition = TopicPartition {
    topic: Topic::InApp,
    partition: 0,
};
const GROUP: &str = "shard.0";
const CLAIM: ShardClaim = ShardClaim::Exact {
    shard: 0,
    former_epoch: None,
};

/// Leases outlast the test; what was given back is finished at once.
async fn rig() -> (Rig, PathBuf) {
    let dir = directory();
    let file = dir.path().join(FILE);
    let metrics = Metrics::default();
    let bus = Arc::new(EmbeddedBus::open(dir.path(), Options::default(), &metrics).unwrap());
    let store = Arc::new(SqliteStore::open(dir.path(), &Node::default()).unwrap());
    let registry = Arc::new(EmbeddedRegistry::new(Timings {
        lease_ms: 600_000,
        claimable_after_ms: 0,
        finish_after_ms: 0,
        ..Timings::default()
    }));
    (Rig::over(dir, metrics, bus, registry, store).await, file)
}

/// A gateway that had shard 0 and these users, and is gone.
async fn gone(rig: &Rig, users: &[&str]) -> GatewayEpoch {
    let gateway = rig.gateway("gw-1", 0, users).await;
    let lease = rig.registry.claim_shard(&gateway, CLAIM).await.unwrap();
    rig.registry.release_shard(&lease).await.unwrap();
    rig.registry.release_gateway(&gateway).await.unwrap();
    gateway
}

async fn read_to_its_end(rig: &Rig) {
    eventually(|| async {
        let end = rig.bus.end(IN_APP).await.unwrap();
        let committed = rig.bus.committed(GROUP, IN_APP).await.unwrap();
        (committed == Some(end)).then_some(())
    })
    .await;
}

fn finished(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let line = "herald_finished_total{result=\"not_here\"} ";
    let value = text.lines().find_map(|text| text.strip_prefix(line));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_gateway_left_is_looked_for_where_the_user_is_now_by_one_of_two_dispatchers() {
    let (rig, _) = rig().await;
    let beside = Metrics::default();
    let (_, leaving, _) = run_dispatcher(&rig.bus, &rig.registry, &rig.store, None, &beside).await;
    gone(&rig, &["42", "43"]).await;
    rig.post_to("42", "one").await;
    rig.post_to("43", "for nobody").await;
    let left = rig.records(Topic::InApp, 0, 2).await;
    let first = left
        .iter()
        .find(|record| record.user == Some("42".parse().unwrap()));
    rig.gateway("gw-2", 1, &["42"]).await;

    let again = rig.records(Topic::InApp, 1, 1).await.remove(0);
    assert_eq!(Some(&again.frame), first.map(|record| &record.frame));
    assert_eq!(again.answered.len(), 1);
    read_to_its_end(&rig).await;
    assert_eq!(rig.bus.end(IN_APP).await.unwrap(), 2, "nothing goes round");

    // A router with an old view puts another one there, when the shard was long read.
    rig.post_to("43", "late").await;
    rig.records(Topic::InApp, 0, 3).await;
    read_to_its_end(&rig).await;
    assert_eq!(finished(&rig.metrics) + finished(&beside), 3);
    leaving.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finisher_that_can_not_go_on_yields_to_a_gateway_and_leaves_it_what_it_did_not_finish() {
    let (rig, file) = rig().await;
    let gateway = gone(&rig, &["42"]).await;
    rig.post_to("42", "one").await;
    rig.records(Topic::InApp, 0, 1).await;
    // The store takes nothing: what became of the record can't be written.
    let holder = rusqlite::Connection::open(file).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    eventually(|| async {
        let finishing = "herald_finishing_shards 1";
        rig.metrics.render().contains(finishing).then_some(())
    })
    .await;
    let wait = rig.registry.claim_shard(&gateway, CLAIM).await;
    assert!(matches!(wait, Err(RegistryError::Finishing { .. })));
    let lease = eventually(|| async { rig.registry.claim_shard(&gateway, CLAIM).await.ok() }).await;
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(rig.bus.committed(GROUP, IN_APP).await.unwrap(), None);
    assert_eq!(rig.registry.renew_shard(&lease).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_gateway_still_commits_is_left_to_it_though_its_lease_ended() {
    let (rig, _) = rig().await;
    gone(&rig, &["42"]).await;
    let start = [(IN_APP, herald::bus::Start::Committed)];
    let mut consumer = rig.bus.assign(GROUP, &start).await.unwrap();
    // The finisher looks twice and more while there is always something unread.
    for number in 0..40 {
        rig.post_to("42", &format!("number {number}")).await;
        rig.records(Topic::InApp, 0, number + 1).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        consumer.commit(&[(IN_APP, number as u64)]).await.unwrap();
    }
    assert!(!rig.registry.shards(1).await.unwrap()[0].live);
    assert_eq!(finished(&rig.metrics), 0);
}
