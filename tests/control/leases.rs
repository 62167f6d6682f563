//! Leases: held by another, lost, replaced.

use crate::rig::{Rig, Setup, Shared, cursors, until};
use herald::{
    config::Shard,
    control::ControlError,
    registry::{GatewayInfo, Registry, ShardClaim},
};
use std::{sync::atomic::Ordering, time::Duration};

fn info() -> GatewayInfo {
    GatewayInfo {
        grpc: String::new(),
        shard: None,
        connections: 0,
        accepts_limit_per_s: 5_000,
        spare_accepts_per_s: 0,
        room: None,
        region: "local".parse().unwrap(),
        draining: false,
    }
}

#[tokio::test]
async fn a_swept_gateway_takes_a_new_epoch_and_enters_its_users_again() {
    let rig = Rig::ready().await;
    let conn = rig.core().open(1, "ann", Some(cursors(1)));
    rig.core().synced(conn).await;
    let before = rig.lease().await.owner;
    // Cut off for longer than a sweeper is patient.
    rig.registry.away.store(true, Ordering::Relaxed);
    until("the sweep", async || {
        let swept = rig.shared.registry.sweep(1_000).await.unwrap();
        (swept.raised > 0).then_some(())
    })
    .await;
    rig.shared.registry.sweep(1_000).await.unwrap();
    rig.registry.away.store(false, Ordering::Relaxed);
    let ann = ["ann".parse().unwrap()];
    let route = until("a new entry", async || {
        let mut routes = rig.shared.registry.lookup(&ann).await.unwrap();
        routes[0]
            .pop()
            .filter(|route| route.gateway.epoch > before.epoch)
    })
    .await;
    assert_eq!(route.gateway, rig.lease().await.owner);
    // The router took the user for absent meanwhile.
    rig.core().behind(conn).await;
    rig.until_ready().await;
    rig.leave().await;
}

#[tokio::test]
async fn a_shard_is_not_ours_while_users_may_be_looked_up_by_leases_without_it() {
    let setup = Setup {
        leases_cached: Duration::from_secs(3_600),
        ..Setup::default()
    };
    let rig = Rig::start(setup).await;
    until("the lease shows the shard", async || {
        let leases = rig.shared.registry.gateways().await.unwrap();
        leases.iter().find_map(|lease| lease.info.shard)
    })
    .await;
    rig.core().open(1, "ann", Some(cursors(1)));
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    rig.until_not_ready("shard").await;
    // Nobody is entered, so that nobody is called up to date whom a router may take for absent.
    let ann = ["ann".parse().unwrap()];
    let routes = rig.shared.registry.lookup(&ann).await.unwrap();
    assert_eq!(routes, [vec![]]);
    rig.leave().await;
}

#[tokio::test]
async fn an_unclean_restart_waits_for_its_own_lease_and_says_so() {
    let setup = Setup::default();
    let shared = Shared::new(setup.timings);
    let id = setup.id.parse().unwrap();
    let dead = shared
        .registry
        .acquire_gateway(&id, "a dead process", &info())
        .await
        .unwrap();
    let rig = Rig::start(Setup {
        shared: Some(shared),
        ..setup
    })
    .await;
    rig.until_not_ready("lease").await;
    let (_, body) = rig.status().await;
    let reason = body["reasons"]["lease"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("acquired") || reason.contains("a dead process"),
        "{reason}"
    );
    rig.until_ready().await;
    assert!(rig.lease().await.owner.epoch > dead.epoch);
    rig.leave().await;
}

#[tokio::test]
async fn a_start_under_the_id_of_a_living_gateway_is_refused_and_the_holder_named() {
    let setup = Setup::default();
    let shared = Shared::new(setup.timings);
    let id = setup.id.parse().unwrap();
    let registry = shared.registry.clone();
    let alive = registry
        .acquire_gateway(&id, "the living one", &info())
        .await
        .unwrap();
    let renewing = tokio::spawn(async move {
        loop {
            registry
                .renew_gateway(&alive, "the living one", &info())
                .await
                .unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let rig = Rig::start(Setup {
        shared: Some(shared),
        ..setup
    })
    .await;
    let error = rig.running.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused(refused) if refused.holder == "the living one"),
        "{error}"
    );
    renewing.abort();
}

#[tokio::test]
async fn a_dispatcher_that_knows_a_later_owner_of_the_shard_ends_ours() {
    let rig = Rig::ready().await;
    let conn = rig.core().open(1, "ann", Some(cursors(1)));
    rig.core().synced(conn).await;
    // Redis is out of our reach, but not out of the reach of the one who replaced us.
    rig.registry.away.store(true, Ordering::Relaxed);
    *rig.dispatcher.shard_epoch.lock() = Some(u64::MAX >> 8);
    rig.core().say(herald::gateway::mailbox::FromCore::Acked {
        conn,
        user: "ann".parse().unwrap(),
        ids: vec![herald::ids::NotificationId::generate()],
    });
    rig.until_not_ready("shard").await;
    *rig.dispatcher.shard_epoch.lock() = None;
    rig.registry.away.store(false, Ordering::Relaxed);
    rig.leave().await;
}

#[tokio::test]
async fn a_gateway_without_a_free_shard_is_not_ready_and_says_so() {
    let setup = Setup::default();
    let shared = Shared::new(setup.timings);
    let other = shared
        .registry
        .acquire_gateway(&"gw-2".parse().unwrap(), "x", &info())
        .await
        .unwrap();
    for shard in 0..4 {
        let claim = ShardClaim::Exact {
            shard,
            former_epoch: Some(1),
        };
        shared.registry.claim_shard(&other, claim).await.unwrap();
    }
    let registry = shared.registry.clone();
    let rig = Rig::start(Setup {
        shared: Some(shared),
        ..setup
    })
    .await;
    until("the reason", async || {
        let (_, body) = rig.status().await;
        let reason = body["reasons"]["shard"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        reason.contains("all 4 shards are owned").then_some(())
    })
    .await;
    let lease = registry.shards(4).await.unwrap().remove(2);
    registry.release_shard(&lease).await.unwrap();
    rig.until_ready().await;
    rig.leave().await;
}

#[tokio::test]
async fn a_shard_beyond_the_topics_partitions_ends_the_start_and_names_the_key() {
    let setup = Setup {
        shard: Shard::Fixed(99),
        ..Setup::default()
    };
    let rig = Rig::start(setup).await;
    let ended = rig.running.await.unwrap();
    let Err(ControlError::Config(error)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.key, "gateway.shard");
    assert!(error.problem.contains("99 is not allowed"), "{error}");
    let left = rig.shared.registry.gateways().await.unwrap();
    assert!(left.iter().all(|lease| !lease.live), "{left:?}");
}
