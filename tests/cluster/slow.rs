//! A cluster that answers, and far too slowly.

use crate::{ONE_CLUSTER, USERS, WAIT, World};
use futures::StreamExt;
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// 72 MB as posted; a reader may have fetched 16 MiB ahead ([`herald::limits::KAFKA_PREFETCH_KIB`]).
const NOTIFICATIONS: usize = 9_000;
const BODY_BYTES: usize = 8_000;
/// Beside what is fetched ahead: a batch at work, answers on their way, the allocator's reserve.
const MORE_BYTES_MAX: u64 = 96 << 20;
/// Of each second the nodes stand still for so long.
const STILL: Duration = Duration::from_millis(900);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three nodes of Cassandra: `make cluster`"]
async fn what_a_slow_cluster_does_not_take_waits_in_kafka_and_not_in_memory() {
    let _alone = ONE_CLUSTER.lock().await;
    let world = World::start().await;
    let _clients = world.clients().await;
    let before = world.resident_bytes();
    let (is_posted, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowed = async {
        while !is_posted.load(Ordering::Relaxed) {
            world.nodes.iter().for_each(|node| node.freeze());
            tokio::time::sleep(STILL).await;
            world.nodes.iter().for_each(|node| node.thaw());
            tokio::time::sleep(Duration::from_secs(1) - STILL).await;
            most.fetch_max(world.resident_bytes(), Ordering::Relaxed);
        }
    };
    let posted = async {
        world.post_large().await;
        is_posted.store(true, Ordering::Relaxed);
    };
    tokio::join!(slowed, posted);
    let uncommitted = world.fleet.uncommitted().await;
    let waiting: usize = uncommitted.iter().map(|place| place.records).sum();
    let more = most.load(Ordering::Relaxed).saturating_sub(before);
    println!(
        "{waiting} of {NOTIFICATIONS} waited in Kafka; two dispatchers held {} MB more than before, of {} MB posted",
        more >> 20,
        (NOTIFICATIONS * BODY_BYTES) >> 20,
    );
    assert!(waiting > 0, "it was not too slow");
    assert!(more < MORE_BYTES_MAX, "{more} B");

    let left = async || world.fleet.uncommitted().await.len();
    world
        .fleet
        .eventually("all is stored", WAIT * 3, left)
        .await;
    world.store_is_named(false).await;
}

impl World {
    async fn post_large(&self) {
        let text = "x".repeat(BODY_BYTES);
        let posts = futures::stream::iter(0..NOTIFICATIONS).map(|n| {
            let user = format!("u{}", n % USERS);
            let body = json!({ "target": { "user": user }, "type": "test", "body": text });
            async move {
                let dispatcher = &self.fleet.dispatchers[n % 2];
                dispatcher.api.post(&body).await.expect("accepted")
            }
        });
        posts.buffer_unordered(64).for_each(async |_| {}).await;
    }

    /// Of both dispatchers.
    fn resident_bytes(&self) -> u64 {
        let dispatchers = self.fleet.dispatchers.iter();
        dispatchers
            .map(|one| resident_bytes(one.process.pid()))
            .sum()
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number of kB") << 10
}
