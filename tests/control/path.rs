//! A record of the shard: to the cores, and what becomes of it to the dispatcher.

use crate::rig::{Rig, Setup, routed, until};
use herald::{
    bus::Topic,
    envelope::{Fate, Kind, Priority},
    gateway::mailbox::ToCore,
    proto::close::CloseCode,
};

#[tokio::test]
async fn a_record_reaches_the_users_connections_and_its_outcome_the_dispatcher() {
    let rig = Rig::ready_with(Setup {
        cores: 2,
        ..Setup::default()
    })
    .await;
    let first = rig.cores[0].open(1, "ann", None);
    let second = rig.cores[0].open(2, "ann", None);
    let third = rig.cores[1].open(1, "ann", None);
    until("three connections", async || {
        let (_, body) = rig.ask("connections/ann").await;
        (body["connections"].as_array().unwrap().len() == 3).then_some(())
    })
    .await;
    let (_, body) = rig.ask("connections/ann").await;
    let mut names: Vec<String> = serde_json::from_value(body["connections"].clone()).unwrap();
    names.sort();
    assert_eq!(names, ["gw-1.7.0-1-0", "gw-1.7.0-2-0", "gw-1.7.1-1-0"]);
    let routed = routed("ann", 1);
    let id = routed.head.id;
    rig.route(Topic::InApp, vec![routed.into_record()]).await;

    let on_first = rig.cores[0].deliveries().await;
    let ticket = on_first[0].0;
    assert_eq!(on_first, [(ticket, id, vec![first, second])]);
    assert_eq!(rig.cores[1].deliveries().await, [(ticket, id, vec![third])]);

    rig.cores[0].fate(ticket, Fate::Written, 2);
    assert_eq!(rig.committed(Topic::InApp).await, None);
    rig.cores[1].fate(ticket, Fate::Written, 1);
    rig.until_fates(id, &[(Fate::Written, 3)]).await;
    rig.until_committed(Topic::InApp, 1).await;
    rig.leave().await;
}

#[tokio::test]
async fn records_of_one_poll_reach_a_core_in_one_message_in_their_order() {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    rig.core().open(2, "bob", None);
    until("two users", async || {
        (rig.metric("users") == 2.0).then_some(())
    })
    .await;
    let records: Vec<_> = (0..40)
        .map(|n| routed(["ann", "bob"][n as usize % 2], n))
        .collect();
    let ids: Vec<_> = records.iter().map(|routed| routed.head.id).collect();
    let records = records.into_iter().map(|routed| routed.into_record());
    rig.route(Topic::InApp, records.collect()).await;
    let deliveries = rig.core().delivered(40).await;
    let delivered: Vec<_> = deliveries.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(delivered, ids);
    rig.leave().await;
}

#[tokio::test]
async fn a_user_who_is_not_here_is_answered_with_those_who_answered_before() {
    let rig = Rig::ready().await;
    let mut routed = routed("nobody", 1);
    routed.answered = vec!["gw-9.7".parse().unwrap()];
    let id = routed.head.id;
    rig.route(Topic::Critical, vec![routed.into_record()]).await;
    rig.until_fates(id, &[(Fate::NotHere, 0)]).await;
    let lease = rig.lease().await;
    {
        let reported = rig.dispatcher.reported.lock();
        assert_eq!(reported[0].answered, ["gw-9.7"]);
        assert_eq!(reported[0].gateway, lease.owner.to_string());
    }
    rig.until_committed(Topic::Critical, 1).await;
    rig.leave().await;
}

#[tokio::test]
async fn an_expired_record_is_not_delivered_and_said_to_be_expired() {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    let mut old = routed("ann", 1);
    old.head.expires_ms = Some(1);
    let (old_id, fresh) = (old.head.id, routed("ann", 2));
    let fresh_id = fresh.head.id;
    rig.route(Topic::InApp, vec![old.into_record(), fresh.into_record()])
        .await;
    assert_eq!(rig.core().delivered(1).await[0].1, fresh_id);
    rig.until_fates(old_id, &[(Fate::Expired, 0)]).await;
    rig.leave().await;
}

#[tokio::test]
async fn a_record_nobody_can_read_goes_to_dlq_as_it_was_and_blocks_nothing() {
    let rig = Rig::ready().await;
    let mut broken = routed("ann", 1).into_record();
    broken.set("pos", "ten");
    broken.set("colour", "red");
    let good = routed("nobody", 2);
    let id = good.head.id;
    rig.route(Topic::InApp, vec![broken.clone(), good.into_record()])
        .await;
    rig.until_fates(id, &[(Fate::NotHere, 0)]).await;
    rig.until_committed(Topic::InApp, 2).await;
    let dead = rig.read_all(Topic::Dlq).await;
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0].key, &dead[0].value), (&broken.key, &broken.value));
    let header = |name| std::str::from_utf8(dead[0].header(name).unwrap()).unwrap();
    assert_eq!(header("pos"), "ten");
    assert_eq!(header("colour"), "red");
    assert_eq!(header("dlq_reason"), "pos: can't be read");
    assert_eq!(header("dlq_topic"), "in_app");
    assert_eq!((header("dlq_partition"), header("dlq_offset")), ("0", "0"));
    assert_eq!(
        rig.metric(r#"records_total{kind="unknown",result="malformed"}"#),
        1.0
    );
    rig.leave().await;
}

#[tokio::test]
async fn a_record_of_a_later_release_is_unsupported_and_never_a_dead_letter() {
    let rig = Rig::ready().await;
    let newer = routed("ann", 1);
    let id = newer.head.id;
    let mut newer = newer.into_record();
    newer.set("v", "2");
    let mut unnamed = routed("ann", 2).into_record();
    unnamed.set("kind", "hologram");
    unnamed.headers.retain(|(name, _)| name != "id");
    rig.route(Topic::InApp, vec![newer, unnamed]).await;
    rig.until_fates(id, &[(Fate::Unsupported, 0)]).await;
    rig.until_committed(Topic::InApp, 2).await;
    assert!(rig.read_all(Topic::Dlq).await.is_empty());
    rig.leave().await;
}

#[tokio::test]
async fn a_read_mark_is_delivered_to_every_device_like_any_item() {
    let rig = Rig::ready().await;
    let conn = rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let mut read = routed("ann", 1);
    read.head.kind = Kind::Read;
    read.head.priority = Priority::High;
    rig.route(Topic::InApp, vec![read.into_record()]).await;
    let item = rig
        .core()
        .expect("a delivery", |message| match message {
            ToCore::Deliver(deliveries) => Some(deliveries[0].item.clone()),
            _ => None,
        })
        .await;
    assert_eq!((item.kind, item.lane), (Kind::Read, Priority::High));
    assert_eq!(conn, rig.core().conn(1));
    rig.leave().await;
}

#[tokio::test]
async fn a_disconnect_closes_the_users_connections() {
    let rig = Rig::ready().await;
    let conn = rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let mut record = routed("ann", 1).into_record();
    record.set("kind", "disconnect");
    record
        .headers
        .retain(|(name, _)| !matches!(name.as_ref(), "pos" | "prev" | "stream"));
    rig.route(Topic::InApp, vec![record]).await;
    rig.core()
        .expect("a close", |message| match message {
            ToCore::Close { conn: to, code, .. } => {
                assert_eq!((*to, *code), (conn, CloseCode::Disconnected));
                Some(())
            }
            _ => None,
        })
        .await;
    rig.until_committed(Topic::InApp, 1).await;
    rig.leave().await;
}
