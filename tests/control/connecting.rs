//! A client comes: the registry first, then the store, then the answer; live frames meanwhile.

use crate::rig::{Rig, Setup, cursors, routed, until};
use herald::{
    bus::Topic,
    control::upstream::SyncReply,
    gateway::mailbox::{FromCore, ToCore},
    ids::UserId,
    limits,
    registry::{Registration, Registry},
};
use std::{sync::atomic::Ordering, time::Duration};

fn at(journal: &[String], what: &str) -> Option<usize> {
    journal.iter().position(|line| line == what)
}

#[tokio::test]
async fn the_store_is_read_only_after_the_registry_write() {
    let rig = Rig::ready().await;
    rig.registry.slow.store(true, Ordering::Relaxed);
    let conn = rig.core().open(1, "ann", Some(cursors(3)));
    // Live frames flow from the first moment.
    until("the table", async || {
        let (_, body) = rig.ask("connections/ann").await;
        (body["connections"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    rig.route(Topic::InApp, vec![routed("ann", 4).into_record()])
        .await;
    rig.core().delivered(1).await;
    assert!(rig.journal.lock().is_empty());
    rig.registry.slow.store(false, Ordering::Relaxed);
    let (complete, frame) = rig.core().synced(conn).await;
    assert!(complete);
    assert_eq!(frame["recovered"], true);
    let journal = rig.journal.lock().clone();
    assert!(at(&journal, "registered ann").unwrap() < at(&journal, "sync ann").unwrap());
    rig.leave().await;
}

#[tokio::test]
async fn a_sync_asked_for_before_the_registry_write_is_done_waits_for_it() {
    let rig = Rig::ready().await;
    rig.registry.slow.store(true, Ordering::Relaxed);
    let conn = rig.core().open(1, "ann", None);
    rig.core().say(FromCore::Sync {
        conn,
        user: "ann".parse().unwrap(),
        cursors: cursors(3),
        limit: 10,
    });
    rig.registry.slow.store(false, Ordering::Relaxed);
    assert!(rig.core().synced(conn).await.0);
    let journal = rig.journal.lock().clone();
    assert!(at(&journal, "registered ann").unwrap() < at(&journal, "sync ann").unwrap());
    rig.leave().await;
}

#[tokio::test]
async fn a_second_device_needs_no_registry_write_and_no_cursors_no_sync() {
    let rig = Rig::ready().await;
    let first = rig.core().open(1, "ann", Some(cursors(1)));
    rig.core().synced(first).await;
    rig.core().open(2, "ann", None);
    let third = rig.core().open(3, "ann", Some(cursors(1)));
    rig.core().synced(third).await;
    let journal = rig.journal.lock().clone();
    let count = |what: &str| journal.iter().filter(|line| *line == what).count();
    assert_eq!((count("registered ann"), count("sync ann")), (1, 2));
    rig.leave().await;
}

#[tokio::test]
async fn a_user_gone_for_a_while_leaves_the_registry_and_one_who_returns_does_not() {
    let rig = Rig::ready().await;
    let user = "ann".parse().unwrap();
    let conn = rig.core().open(1, "ann", Some(cursors(1)));
    rig.core().synced(conn).await;
    rig.core().say(FromCore::Closed { conn, user });
    let conn = rig.core().open(2, "ann", Some(cursors(1)));
    rig.core().synced(conn).await;
    let ann = ["ann".parse().unwrap()];
    assert_eq!(rig.shared.registry.lookup(&ann).await.unwrap()[0].len(), 1);
    rig.core().say(FromCore::Closed {
        conn,
        user: ann[0].clone(),
    });
    until("the removal", async || {
        let routes = rig.shared.registry.lookup(&ann).await.unwrap();
        routes[0].is_empty().then_some(())
    })
    .await;
    let journal = rig.journal.lock().clone();
    assert_eq!(
        journal
            .iter()
            .filter(|line| *line == "registered ann")
            .count(),
        1
    );
    rig.leave().await;
}

#[tokio::test]
async fn with_the_registry_away_recovered_is_not_said_and_the_client_is_told_when_it_is_back() {
    let rig = Rig::ready().await;
    rig.registry.away.store(true, Ordering::Relaxed);
    let conn = rig.core().open(1, "ann", Some(cursors(3)));
    let (complete, frame) = rig.core().synced(conn).await;
    assert!(!complete);
    assert_eq!(frame["recovered"], false);
    until("degraded, not unready", async || {
        let (code, body) = rig.status().await;
        (code == 200 && body["degraded"].get("registry").is_some()).then_some(())
    })
    .await;
    rig.registry.away.store(false, Ordering::Relaxed);
    rig.core().behind(conn).await;
    rig.core().say(FromCore::Sync {
        conn,
        user: "ann".parse().unwrap(),
        cursors: cursors(3),
        limit: 50,
    });
    assert!(rig.core().synced(conn).await.0);
    rig.leave().await;
}

#[tokio::test]
async fn without_a_dispatcher_a_catch_up_claims_nothing_and_the_client_is_told_when_one_answers() {
    let rig = Rig::ready().await;
    rig.dispatcher.away.store(true, Ordering::Relaxed);
    let conn = rig.core().open(1, "ann", Some(cursors(3)));
    let (complete, frame) = rig.core().synced(conn).await;
    assert!(!complete);
    assert_eq!(frame["recovered"], false);
    assert_eq!(frame["cursors"]["user:local"], (1u64 << 40) + 3);
    rig.dispatcher.away.store(false, Ordering::Relaxed);
    rig.core().behind(conn).await;
    rig.leave().await;
}

#[tokio::test]
async fn while_many_syncs_wait_few_are_told_to_ask_for_another() {
    const BEHIND: u32 = 2_000;
    let waiting = BEHIND..BEHIND + 2 * limits::BEHIND_WAITING as u32;
    let rig = Rig::ready().await;
    rig.dispatcher.away.store(true, Ordering::Relaxed);
    for slot in 0..BEHIND {
        rig.core().open(slot, &format!("{slot}"), Some(cursors(3)));
    }
    let told = |message: &ToCore| matches!(message, ToCore::Behind { .. });
    until("all are answered in vain", async || {
        let unanswered = rig.metric("syncs_total{result=\"unanswered\"}");
        (unanswered == f64::from(BEHIND)).then_some(())
    })
    .await;
    rig.dispatcher.slow.store(true, Ordering::Relaxed);
    for slot in waiting {
        rig.core().open(slot, &format!("{slot}"), Some(cursors(3)));
    }
    until("a long queue", async || {
        let waiting = rig.metric("syncs_waiting");
        (waiting > limits::BEHIND_WAITING as f64).then_some(())
    })
    .await;
    rig.dispatcher.away.store(false, Ordering::Relaxed);
    rig.core()
        .expect("one is told", |message| told(message).then_some(()))
        .await;
    // What is told at once where nobody waits is hundreds.
    let more = rig.core().take().iter().filter(|m| told(m)).count();
    assert!(more < limits::BEHIND_PER_S as usize / 20, "{more}");

    rig.dispatcher.slow.store(false, Ordering::Relaxed);
    for _ in more + 1..BEHIND as usize {
        rig.core()
            .expect("all are told", |message| told(message).then_some(()))
            .await;
    }
    rig.leave().await;
}

#[tokio::test]
async fn a_catch_up_that_a_dispatcher_could_not_vouch_for_leaves_the_client_behind() {
    let rig = Rig::ready().await;
    *rig.dispatcher.reply.lock() = SyncReply {
        unsettled: true,
        ..SyncReply::default()
    };
    let conn = rig.core().open(1, "ann", Some(cursors(3)));
    let (complete, frame) = rig.core().synced(conn).await;
    assert!(!complete);
    assert_eq!(frame["recovered"], false);
    rig.core().behind(conn).await;
    rig.leave().await;
}

#[tokio::test]
async fn a_start_without_registry_and_dispatcher_is_not_ready_says_why_and_recovers_by_itself() {
    let rig = Rig::start(Setup {
        registry_away: true,
        dispatcher_away: true,
        ..Setup::default()
    })
    .await;
    for reason in ["lease", "registry", "dispatcher"] {
        rig.until_not_ready(reason).await;
    }
    let conn = rig.core().open(1, "ann", Some(cursors(3)));
    assert!(!rig.core().synced(conn).await.0);
    rig.registry.away.store(false, Ordering::Relaxed);
    rig.dispatcher.away.store(false, Ordering::Relaxed);
    rig.until_ready().await;
    rig.core().behind(conn).await;
    let stray = rig.core().take();
    assert!(
        !stray
            .iter()
            .any(|message| matches!(message, ToCore::Close { .. }))
    );
    rig.leave().await;
}

#[tokio::test]
async fn what_the_registry_lost_is_found_and_entered_again_and_the_accuracy_says_so() {
    let rig = Rig::ready_with(Setup {
        anti_entropy: Duration::from_millis(640),
        ..Setup::default()
    })
    .await;
    for (slot, user) in (1..).zip(["ann", "ben", "cid", "dan"]) {
        let conn = rig.core().open(slot, user, Some(cursors(1)));
        rig.core().synced(conn).await;
    }
    let accuracy = "registry_accuracy";
    // The round under way may have passed some of them before they came, and counts fewer: it has to be over.
    let compared = || rig.registry.compared.load(Ordering::Relaxed);
    let before = compared();
    until("a look at everyone", async || {
        (compared() >= before + 8 && rig.metric(accuracy) == 1.0).then_some(())
    })
    .await;
    // Behind the gateway's back.
    let owner = rig.lease().await.owner;
    let user = "ben".parse().unwrap();
    let lost = [Registration { user, stamp: 2 }];
    let all = (1..=4).map(|stamp| Registration {
        stamp,
        ..lost[0].clone()
    });
    let all: Vec<_> = all.collect();
    rig.shared.registry.unregister(&owner, &all).await.unwrap();
    let ben = [lost[0].user.clone()];
    until("a round that found it", async || {
        (rig.metric(accuracy) == 0.75).then_some(())
    })
    .await;
    until("the entry", async || {
        let routes = rig.shared.registry.lookup(&ben).await.unwrap();
        (!routes[0].is_empty()).then_some(())
    })
    .await;
    until("a round that found nothing", async || {
        (rig.metric(accuracy) == 1.0).then_some(())
    })
    .await;
    assert_eq!(rig.metric("registrations_total"), 5.0);
    rig.leave().await;
}

#[tokio::test]
async fn what_a_registry_forgot_is_entered_again_without_waiting_for_the_turn_of_each_part() {
    // A turn of all parts takes longer than anybody here waits.
    let rig = Rig::ready_with(Setup {
        removal_after: Duration::from_secs(96),
        ..Setup::default()
    })
    .await;
    let names: Vec<String> = (1..=40).map(|n| format!("user-{n}")).collect();
    for (slot, name) in (1..).zip(&names) {
        let conn = rig.core().open(slot, name, Some(cursors(1)));
        rig.core().synced(conn).await;
    }
    let owner = rig.lease().await.owner;
    let users: Vec<UserId> = names.iter().map(|name| name.parse().unwrap()).collect();
    let entries = (1..=40).flat_map(|stamp| {
        let of_stamp = move |user: &UserId| Registration {
            user: user.clone(),
            stamp,
        };
        users.iter().map(of_stamp)
    });
    let entries: Vec<_> = entries.collect();
    let registry = &rig.shared.registry;
    registry.unregister(&owner, &entries).await.unwrap();
    rig.registry.incarnation.fetch_add(1, Ordering::Relaxed);
    until("all entries", async || {
        let routes = registry.lookup(&users).await.unwrap();
        routes
            .iter()
            .all(|of_user| !of_user.is_empty())
            .then_some(())
    })
    .await;
    rig.leave().await;
}
