//! Broadcasts: from the noted end on, to everyone, one outcome per gateway.

use crate::rig::{Rig, Setup, Shared, position, routed};
use herald::{
    bus::{Bus, Record, Target, Topic, TopicPartition},
    envelope::{Fate, Kind},
    gateway::mailbox::{ConnId, ToCore},
    ids::NotificationId,
};
use std::collections::HashMap;

const BROADCAST: TopicPartition = TopicPartition {
    topic: Topic::Broadcast,
    partition: 0,
};

fn broadcast(offset: u64) -> (NotificationId, Record) {
    let mut routed = routed("nobody", offset);
    routed.user = None;
    routed.head.kind = Kind::Broadcast;
    routed.stream = "all:local".into();
    (routed.head.id, routed.into_record())
}

async fn next(core: &crate::rig::Core) -> (u64, NotificationId, String) {
    core.expect("a broadcast", |message| match message {
        ToCore::Broadcast { ticket, item } => Some((*ticket, item.id, item.stream.to_string())),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_gateway_reads_broadcasts_from_the_end_it_noted_and_reports_one_outcome_with_counts() {
    let setup = Setup {
        cores: 2,
        ..Setup::default()
    };
    let shared = Shared::new(setup.timings);
    let (_, before) = broadcast(1);
    shared
        .bus
        .produce(vec![(Target::Exact(BROADCAST), before)])
        .await
        .unwrap();
    let rig = Rig::ready_with(Setup {
        shared: Some(shared),
        ..setup
    })
    .await;
    let (id, record) = broadcast(2);
    rig.shared
        .bus
        .produce(vec![(Target::Exact(BROADCAST), record)])
        .await
        .unwrap();
    let (ticket, first, stream) = next(&rig.cores[0]).await;
    assert_eq!((first, stream.as_str()), (id, "all:local"));
    assert_eq!(next(&rig.cores[1]).await.0, ticket);
    rig.cores[0].fate(ticket, Fate::Written, 70);
    rig.cores[1].fate(ticket, Fate::Written, 20);
    rig.cores[1].fate(ticket, Fate::Deferred, 3);
    rig.until_fates(id, &[(Fate::Written, 90), (Fate::Deferred, 3)])
        .await;
    {
        let reported = rig.dispatcher.reported.lock();
        assert!(
            reported
                .iter()
                .all(|o| o.user.is_none() && o.pos == position(2))
        );
    }
    rig.leave().await;
}

#[tokio::test]
async fn of_a_broadcast_to_tags_everyone_is_told_to_look_and_once_more_of_those_that_follow() {
    let rig = Rig::ready().await;
    let conns: Vec<ConnId> = (1..=2_000)
        .map(|slot| rig.core().open(slot, &format!("{slot}"), None))
        .collect();
    crate::rig::until("users", async || {
        (rig.metric("users") == 2_000.0).then_some(())
    })
    .await;
    let tagged = |offset| {
        let mut routed = routed("nobody", offset);
        routed.user = None;
        routed.head.kind = Kind::Tagged;
        routed.stream = "all:local".into();
        routed.frame = "{}".into();
        (Target::Exact(BROADCAST), routed.into_record())
    };
    let records = (1..=20).map(tagged).collect();
    rig.shared.bus.produce(records).await.unwrap();
    let mut told: HashMap<ConnId, usize> = HashMap::new();
    while told.values().filter(|times| **times >= 2).count() < conns.len() {
        let conn = rig.core().expect("who is told", |message| match message {
            ToCore::Behind { conn, .. } => Some(*conn),
            ToCore::Broadcast { .. } => panic!("it was sent to everyone"),
            _ => None,
        });
        *told.entry(conn.await).or_default() += 1;
    }
    let delivered = rig.metric(r#"records_total{kind="tagged",result="delivered"}"#);
    assert_eq!(delivered, 20.0);
    let told = rig.metric(r#"behind_total{cause="tagged"}"#);
    assert!(told < 20.0 * 2_000.0, "{told}: a round for each");
    rig.leave().await;
}

#[tokio::test]
async fn a_record_for_one_user_on_broadcast_is_delivered_where_the_user_is_and_else_nothing_is_said()
 {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    crate::rig::until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let (absent, present) = (routed("nobody", 1), routed("ann", 2));
    let (absent_id, present_id) = (absent.head.id, present.head.id);
    let records = [absent, present].map(|r| (Target::Exact(BROADCAST), r.into_record()));
    rig.shared.bus.produce(records.into()).await.unwrap();
    let (ticket, id, _) = rig.core().delivered(1).await.remove(0);
    assert_eq!(id, present_id);
    rig.core().fate(ticket, Fate::Written, 1);
    rig.until_fates(present_id, &[(Fate::Written, 1)]).await;
    assert_eq!(rig.fates(absent_id), []);
    rig.leave().await;
}

#[tokio::test]
async fn a_broadcast_nobody_can_read_goes_to_dlq_as_it_was_and_holds_no_other() {
    let rig = Rig::ready().await;
    let (_, mut broken) = broadcast(1);
    broken.set("pos", "ten");
    let mut nobodys = routed("nobody", 2);
    nobodys.user = None;
    let (id, good) = broadcast(3);
    let records = [broken.clone(), nobodys.into_record(), good];
    let records = records.map(|record| (Target::Exact(BROADCAST), record));
    rig.shared.bus.produce(records.into()).await.unwrap();
    assert_eq!(next(rig.core()).await.1, id);
    let mut dead = crate::rig::until("two dead letters", async || {
        let dead = rig.read_all(Topic::Dlq).await;
        (dead.len() == 2).then_some(dead)
    })
    .await;
    fn header<'r>(record: &'r Record, name: &str) -> &'r str {
        std::str::from_utf8(record.header(name).unwrap()).unwrap()
    }
    dead.sort_by_key(|record| header(record, "dlq_offset").to_owned());
    let reasons = ["pos: can't be read", "user: is missing"];
    for ((record, offset), reason) in dead.iter().zip(["0", "1"]).zip(reasons) {
        assert_eq!(header(record, "dlq_topic"), "broadcast");
        assert_eq!(header(record, "dlq_partition"), "0");
        assert_eq!(header(record, "dlq_offset"), offset);
        assert_eq!(header(record, "dlq_reason"), reason);
    }
    assert_eq!((&dead[0].key, &dead[0].value), (&broken.key, &broken.value));
    let malformed = rig.metric(r#"records_total{kind="unknown",result="malformed"}"#);
    assert_eq!(malformed, 2.0);
    rig.leave().await;
}
