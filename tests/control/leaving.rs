//! Leaving in good order, and at once.

use crate::rig::{Rig, Setup, cursors, routed, until};
use herald::{
    api::{LeaveReply, LeaveRequest, gateway_client::GatewayClient},
    bus::Topic,
    config::{Drain, Grpc},
    envelope::Fate,
    gateway::mailbox::{FromCore, ToCore},
    registry::{GatewayInfo, Registry, ShardClaim, ShardLease, Timings},
};
use std::sync::atomic::Ordering;
use tonic::{Code, Response, Status};

#[tokio::test]
async fn a_gateway_leaves_in_order_and_finishes_what_is_in_flight() {
    let rig = Rig::ready().await;
    let conn = rig.core().open(1, "ann", Some(cursors(1)));
    rig.core().synced(conn).await;
    rig.shutdown.cancel();
    rig.until_not_ready("draining").await;
    let mut order = Vec::new();
    rig.core()
        .expect("the drain", |message| match message {
            ToCore::StopAccepting => {
                order.push("stop accepting");
                None
            }
            ToCore::Leave(true) => {
                order.push("leave");
                None
            }
            ToCore::Evict { clients, .. } => {
                assert!(*clients >= 1);
                order.push("evict");
                Some(())
            }
            _ => None,
        })
        .await;
    assert_eq!(order, ["stop accepting", "leave", "evict"]);
    // Delivered while it leaves; the core answers after its last connection is gone.
    rig.route(Topic::InApp, vec![routed("ann", 1).into_record()])
        .await;
    let (ticket, id, _) = rig.core().delivered(1).await.remove(0);
    rig.core().say(FromCore::Closed {
        conn,
        user: "ann".parse().unwrap(),
    });
    rig.core().say(FromCore::Drained { core: 0 });
    rig.core().fate(ticket, Fate::Written, 1);
    rig.core()
        .expect("shutdown", |m| matches!(m, ToCore::Shutdown).then_some(()))
        .await;
    rig.until_fates(id, &[(Fate::Written, 1)]).await;
    rig.running.await.unwrap().unwrap();

    let ann = ["ann".parse().unwrap()];
    assert!(rig.shared.registry.lookup(&ann).await.unwrap()[0].is_empty());
    assert!(!rig.shared.registry.gateways().await.unwrap()[0].live);
    assert!(!rig.shared.registry.shards(4).await.unwrap()[0].live);
    let journal = rig.journal.lock().clone();
    let end = &journal[journal.len() - 3..];
    assert_eq!(
        end,
        ["unregistered ann", "release shard", "release gateway"]
    );
    let at = herald::bus::TopicPartition {
        topic: Topic::InApp,
        partition: 0,
    };
    let bus: herald::bus::SharedBus = rig.shared.bus.clone();
    assert_eq!(bus.committed("shard.0", at).await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_second_wish_to_leave_ends_at_once_and_still_gives_the_leases_back() {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    rig.shutdown.cancel();
    rig.core()
        .expect("the drain", |m| {
            matches!(m, ToCore::Evict { .. }).then_some(())
        })
        .await;
    rig.now.cancel();
    rig.running.await.unwrap().unwrap();
    assert!(!rig.shared.registry.gateways().await.unwrap()[0].live);
}

/// How many clients a core is to send away.
fn evicted(message: &ToCore) -> Option<u32> {
    match message {
        ToCore::Evict { clients, .. } => Some(*clients),
        _ => None,
    }
}

fn some_evicted(message: &ToCore) -> Option<u32> {
    evicted(message).filter(|clients| *clients > 0)
}

fn sibling(connections: u64, accepts_per_s: u32) -> GatewayInfo {
    GatewayInfo {
        grpc: String::new(),
        shard: None,
        connections,
        accepts_limit_per_s: accepts_per_s,
        spare_accepts_per_s: accepts_per_s,
        room: None,
        region: "local".parse().unwrap(),
        draining: false,
    }
}

/// A rig that operators can reach, among siblings whose leases last.
fn commanded() -> Setup {
    Setup {
        grpc: Some(Grpc {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            secret_file: None,
        }),
        timings: Timings {
            lease_ms: 600_000,
            ..Setup::default().timings
        },
        ..Setup::default()
    }
}

async fn ask(rig: &Rig, wish: &str) -> LeaveReply {
    ask_until(rig, wish, None).await.unwrap()
}

async fn ask_until(rig: &Rig, wish: &str, until_ms: Option<u64>) -> Result<LeaveReply, Status> {
    let url = format!("http://{}", rig.grpc.unwrap());
    let mut client = GatewayClient::connect(url).await.unwrap();
    let request = LeaveRequest {
        v: 1,
        wish: wish.to_owned(),
        deadline_ms: None,
        until_ms,
    };
    client.leave(request).await.map(Response::into_inner)
}

#[tokio::test]
async fn an_order_that_comes_after_its_time_is_refused_and_changes_nothing() {
    let mut setup = commanded();
    setup.drain.grace_ms = 3_600_000;
    let rig = Rig::ready_with(setup).await;
    let clock_ms = ask(&rig, "").await.clock_ms.unwrap();
    until("the clock goes on", async || {
        (ask(&rig, "").await.clock_ms > Some(clock_ms)).then_some(())
    })
    .await;
    let refused = ask_until(&rig, "drain", Some(clock_ms)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(refused.message().contains("too late"), "{refused}");
    assert_eq!(ask(&rig, "").await.phase, "serving");
    let in_time = ask_until(&rig, "drain", Some(clock_ms + 3_600_000)).await;
    assert_eq!(in_time.unwrap().phase, "grace");
    rig.leave().await;
}

#[tokio::test]
async fn a_host_takes_clients_only_once_the_load_balancer_has_seen_it() {
    let rig = Rig::ready().await;
    until("clients are taken", async || {
        (rig.lease().await.info.accepts_limit_per_s > 0).then_some(())
    })
    .await;
    rig.leave().await;
    // Here the balancer has not seen it yet.
    let drain = Drain {
        grace_ms: 3_600_000,
        ..Setup::default().drain
    };
    let rig = Rig::ready_with(Setup {
        drain,
        ..Setup::default()
    })
    .await;
    rig.core().open(1, "ann", None);
    let told = until("a lease renewed since", async || {
        let info = rig.lease().await.info;
        (info.connections == 1).then_some(info)
    })
    .await;
    assert_eq!((told.accepts_limit_per_s, told.spare_accepts_per_s), (0, 0));
    rig.leave().await;
}

#[tokio::test]
async fn clients_are_shared_with_a_host_that_takes_them_only_later() {
    let rig = Rig::ready_with(commanded()).await;
    let registry = &rig.shared.registry;
    four_users(&rig).await;
    let other = "gw-2".parse().unwrap();
    let info = sibling(2, 1_000);
    registry.acquire_gateway(&other, "p2", &info).await.unwrap();
    let joining = "gw-3".parse().unwrap();
    let info = sibling(0, 0);
    let owner = registry
        .acquire_gateway(&joining, "p3", &info)
        .await
        .unwrap();
    let answer = ask(&rig, "rebalance").await;
    assert_eq!(answer.phase, "rebalancing");
    assert_eq!(
        rig.core().expect("the share of gw-2", some_evicted).await,
        1
    );
    let info = sibling(0, 1_000);
    registry.renew_gateway(&owner, "p3", &info).await.unwrap();
    assert_eq!(
        rig.core().expect("the share of gw-3", some_evicted).await,
        2
    );
    rig.leave().await;
}

#[tokio::test]
async fn who_has_siblings_to_leave_to_and_then_none_sends_clients_away_all_the_same() {
    let mut setup = commanded();
    setup.drain.deadline_ms = 3_600_000;
    let rig = Rig::ready_with(setup).await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let registry = &rig.shared.registry;
    let other = "gw-2".parse().unwrap();
    // It stays, but is full.
    let mut info = sibling(2, 0);
    let owner = registry.acquire_gateway(&other, "p2", &info).await.unwrap();
    assert_eq!(ask(&rig, "drain").await.phase, "grace");
    assert_eq!(rig.core().expect("a first step", evicted).await, 0);
    // The whole fleet leaves.
    info.draining = true;
    registry.renew_gateway(&owner, "p2", &info).await.unwrap();
    assert_eq!(
        rig.core().expect("the window's share", some_evicted).await,
        1
    );
    rig.leave().await;
}

#[tokio::test]
async fn the_answer_to_an_order_shows_what_came_of_it_and_who_else_takes_clients() {
    let mut setup = commanded();
    // For as long as the test looks.
    setup.drain.grace_ms = 3_600_000;
    let rig = Rig::ready_with(setup).await;
    let registry = &rig.shared.registry;
    for (id, info) in [("gw-2", sibling(2, 1_000)), ("gw-3", sibling(0, 0))] {
        let id = id.parse().unwrap();
        registry.acquire_gateway(&id, "p", &info).await.unwrap();
    }
    let drained = ask(&rig, "drain").await;
    assert_eq!(drained.phase, "grace");
    assert_eq!(drained.siblings, Some(1));
    assert_eq!(drained.spare_per_s, Some(1_000));
    assert_eq!(ask(&rig, "stay").await.phase, "serving");
    assert_eq!(ask(&rig, "drain").await.phase, "grace");
    rig.registry.away.store(true, Ordering::Relaxed);
    let unknown = ask(&rig, "").await;
    assert_eq!((unknown.siblings, unknown.spare_per_s), (None, None));
    rig.registry.away.store(false, Ordering::Relaxed);
    rig.leave().await;
}

#[tokio::test]
async fn a_sibling_that_has_stopped_renewing_takes_nobody_though_its_lease_still_lives() {
    let mut setup = commanded();
    setup.timings.lease_ms = 6_000;
    let rig = Rig::ready_with(setup).await;
    let registry = &rig.shared.registry;
    let other = "gw-2".parse().unwrap();
    let info = sibling(2, 1_000);
    registry.acquire_gateway(&other, "p", &info).await.unwrap();
    assert_eq!(ask(&rig, "").await.siblings, Some(1));
    until("nobody takes clients", async || {
        (ask(&rig, "").await.siblings == Some(0)).then_some(())
    })
    .await;
    let leases = registry.gateways().await.unwrap();
    let lease = leases.iter().find(|lease| lease.owner.gateway == other);
    assert!(lease.unwrap().live, "not before its end");
    rig.leave().await;
}

#[tokio::test]
async fn who_had_siblings_when_it_began_to_leave_waits_for_one_that_comes_back() {
    let mut setup = commanded();
    setup.drain.grace_ms = 1_000;
    setup.drain.deadline_ms = 3_600_000;
    let rig = Rig::ready_with(setup).await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let registry = &rig.shared.registry;
    let other = "gw-2".parse().unwrap();
    let mut info = sibling(2, 1_000);
    let owner = registry.acquire_gateway(&other, "p2", &info).await.unwrap();
    assert_eq!(ask(&rig, "drain").await.phase, "grace");
    // The last one is forced to leave too, before this one has sent anybody away.
    info.draining = true;
    registry.renew_gateway(&owner, "p2", &info).await.unwrap();
    for _ in 0..3 {
        assert_eq!(rig.core().expect("a step", evicted).await, 0);
    }
    rig.leave().await;
}

async fn four_users(rig: &Rig) {
    for slot in 0..4 {
        rig.core().open(slot, &format!("u{slot}"), None);
    }
    until("four users", async || {
        (rig.metric("users") == 4.0).then_some(())
    })
    .await;
}

/// A host with four users that is being drained towards a sibling that takes them, up to its first step.
async fn draining(deadline_ms: u64) -> Rig {
    let mut setup = commanded();
    setup.drain.deadline_ms = deadline_ms;
    let rig = Rig::ready_with(setup).await;
    four_users(&rig).await;
    let other = "gw-2".parse().unwrap();
    let info = sibling(2, 1_000);
    let registry = &rig.shared.registry;
    registry.acquire_gateway(&other, "p2", &info).await.unwrap();
    assert_eq!(ask(&rig, "drain").await.phase, "grace");
    rig.core().expect("a first step", some_evicted).await;
    rig
}

async fn until_it_waits(rig: &Rig) {
    until("it says what it waits for", async || {
        let waits = ask(rig, "").await.waits;
        (waits.as_deref() == Some("the registry is away")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn with_the_registry_away_nobody_is_sent_away_and_it_goes_on_when_it_answers() {
    let rig = draining(3_600_000).await;
    rig.registry.away.store(true, Ordering::Relaxed);
    until_it_waits(&rig).await;
    assert_eq!(ask(&rig, "").await.rate_per_s, 0);
    assert_eq!(rig.metric("evicting_per_second"), 0.0);
    rig.core().take();
    for _ in 0..2 {
        assert_eq!(rig.core().expect("a step", evicted).await, 0);
    }
    rig.registry.away.store(false, Ordering::Relaxed);
    rig.core().expect("the next who go", some_evicted).await;
    assert_eq!(ask(&rig, "").await.waits, None);
    rig.leave().await;
}

#[tokio::test]
async fn with_the_registry_away_who_is_left_at_the_deadline_is_sent_away() {
    const ALL_AT_ONCE: u32 = 1_000_000;
    let rig = draining(6_000).await;
    rig.registry.away.store(true, Ordering::Relaxed);
    until_it_waits(&rig).await;
    let all = |message: &ToCore| evicted(message).filter(|clients| *clients > ALL_AT_ONCE);
    rig.core().expect("everyone", all).await;
    rig.leave().await;
}

#[tokio::test]
async fn a_drain_that_is_taken_back_shows_no_rate_any_more() {
    let rig = draining(3_600_000).await;
    until("a rate", async || {
        (rig.metric("evicting_per_second") > 0.0).then_some(())
    })
    .await;
    assert_eq!(ask(&rig, "stay").await.rate_per_s, 0);
    assert_eq!(rig.metric("evicting_per_second"), 0.0);
    rig.leave().await;
}

/// Another gateway takes all four shards; answers the first lease.
async fn take_every_shard(rig: &Rig) -> ShardLease {
    let registry = &rig.shared.registry;
    let other = "gw-2".parse().unwrap();
    let info = sibling(2, 1_000);
    let owner = registry.acquire_gateway(&other, "p2", &info).await.unwrap();
    let mut taken = Vec::new();
    for shard in 0..4 {
        let claim = ShardClaim::Exact {
            shard,
            former_epoch: Some(u64::MAX >> 12),
        };
        taken.push(registry.claim_shard(&owner, claim).await.unwrap());
    }
    taken.remove(0)
}

#[tokio::test]
async fn who_finds_all_shards_owned_sends_its_clients_away_and_takes_some_again_with_a_shard() {
    let rig = Rig::ready_with(commanded()).await;
    let taken = take_every_shard(&rig).await;
    rig.until_not_ready("shard").await;
    assert_eq!(ask(&rig, "").await.phase, "serving", "nobody is here");
    rig.core().open(1, "ann", None);
    rig.core().expect("ann goes", some_evicted).await;
    let told = ask(&rig, "").await;
    assert_eq!(told.phase, "draining");
    assert_eq!(told.reason.as_deref(), Some("no shard is free"));
    until("its lease says so", async || {
        rig.lease().await.info.draining.then_some(())
    })
    .await;
    assert_eq!(rig.metric("shardless_drains_total"), 1.0);
    // Nothing is to be taken back: it would stay without a shard.
    assert_eq!(ask(&rig, "stay").await.phase, "draining");
    let (_, body) = rig.status().await;
    assert!(body["reasons"]["draining"].is_null(), "{body}");

    let registry = &rig.shared.registry;
    registry.release_shard(&taken).await.unwrap();
    rig.core()
        .expect("newcomers are let in", |message| {
            matches!(message, ToCore::Leave(false)).then_some(())
        })
        .await;
    rig.until_ready().await;
    let told = ask(&rig, "").await;
    assert_eq!((told.phase.as_str(), told.reason), ("serving", None));
    assert_eq!(rig.metric("evicting_per_second"), 0.0);
    until("its lease says that too", async || {
        (!rig.lease().await.info.draining).then_some(())
    })
    .await;
    rig.leave().await;
}

#[tokio::test]
async fn without_a_shard_and_without_anybody_who_takes_clients_they_stay() {
    let mut setup = commanded();
    setup.drain.deadline_ms = 1_000;
    let rig = Rig::ready_with(setup).await;
    take_every_shard(&rig).await;
    rig.core().open(1, "ann", None);
    let registry = &rig.shared.registry;
    let other = "gw-2".parse().unwrap();
    let full = sibling(2, 0);
    registry.acquire_gateway(&other, "p2", &full).await.unwrap();
    until("it would send her away", async || {
        (ask(&rig, "").await.phase == "draining").then_some(())
    })
    .await;
    // Beyond a drain's deadline.
    for _ in 0..3 {
        assert_eq!(rig.core().expect("a step", evicted).await, 0);
    }
    rig.leave().await;
}
