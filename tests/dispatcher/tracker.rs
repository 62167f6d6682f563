//! What gateways report, and what follows from it.

use crate::rig::{Rig, eventually, outcome, rows};
use herald::{
    bus::{Target, Topic},
    dispatcher::store::RowKind,
    envelope::{Fate, Outcome, outcomes_record},
    ids::NotificationId,
    position::Position,
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_in_the_store_when_they_are_answered() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;
    for (fate, state) in [
        (Fate::Deferred, "deferred"),
        (Fate::Written, "written"),
        (Fate::Deferred, "written"),
        (Fate::Acked, "delivered"),
    ] {
        let reply = rig
            .report(&gateway, None, vec![outcome(id, "42", pos, fate)])
            .await;
        assert_eq!((reply.sequence, reply.shard_epoch), (7, 0));
        let body = rig
            .get(&format!("/v1/notifications/{id}/delivery?user=42"))
            .await;
        assert_eq!(body["states"][0]["state"], state);
        assert_eq!(body["states"][0]["gateway"], gateway.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_gateways_own_probe_is_accepted_and_leaves_nothing() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &[]).await;
    let probe = Outcome {
        id: NotificationId::generate(),
        user: None,
        pos: Position::START,
        fate: Fate::Acked,
        devices: 1,
        gateway: gateway.to_string(),
        at_ms: 5,
        answered: Vec::new(),
    };
    rig.report(&gateway, Some(0), vec![probe.clone()]).await;
    let kept = rig.store.delivery(probe.id, None, 8).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(rig.count(Topic::Delivery).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_the_epoch_of_the_gateways_shard() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &[]).await;
    let claim = herald::registry::ShardClaim::Exact {
        shard: 0,
        former_epoch: Some(1),
    };
    let lease = rig.registry.claim_shard(&gateway, claim).await.unwrap();
    let reply = rig.report(&gateway, Some(0), Vec::new()).await;
    assert_eq!(reply.shard_epoch, lease.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_moved_is_looked_for_where_nobody_answered_yet() {
    let rig = Rig::start().await;
    let first = rig.gateway("gw-1", 0, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let routed = rig.records(Topic::InApp, 0, 1).await.remove(0);
    rig.unregister(&first, &["42"]).await;
    let second = rig.gateway("gw-2", 1, &["42"]).await;

    let not_here = outcome(id, "42", routed.pos, Fate::NotHere);
    rig.report(&first, Some(0), vec![not_here.clone()]).await;
    let again = rig.records(Topic::InApp, 1, 1).await.remove(0);
    assert_eq!((again.pos, again.prev), (routed.pos, routed.prev));
    assert_eq!(again.frame, routed.frame);
    assert_eq!(again.answered, std::slice::from_ref(&first));

    // It is not there either, and there is nobody left to ask.
    let mut not_here_either = not_here;
    not_here_either.answered = vec![first.to_string()];
    rig.report(&second, Some(1), vec![not_here_either.clone()])
        .await;
    assert_eq!(rig.count(Topic::InApp).await, 2);

    // After three hops nobody is asked, wherever the user is.
    rig.gateway("gw-3", 2, &["42"]).await;
    not_here_either.answered = vec!["gw-7.1".into(), "gw-8.1".into(), "gw-9.1".into()];
    rig.report(&second, Some(1), vec![not_here_either]).await;
    assert_eq!(rig.count(Topic::InApp).await, 2);
    let metrics = rig.metrics.render();
    for result in ["rerouted", "absent", "hops"] {
        assert!(metrics.contains(&format!("herald_reroutes_total{{result=\"{result}\"}} 1")));
    }
}

/// After a `kill -9` the registry still names the user at the gateway's former life, whose shard the new
/// life reads: without memory of who answered, the record would go round for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_life_left_in_the_registry_never_sends_a_record_round() {
    let rig = Rig::start().await;
    let former = rig.gateway("gw-1", 0, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let routed = rig.records(Topic::InApp, 0, 1).await.remove(0);
    rig.registry.release_gateway(&former).await.unwrap();
    let present = rig.gateway("gw-1", 0, &[]).await;
    let not_here = outcome(id, "42", routed.pos, Fate::NotHere);
    rig.report(&present, Some(0), vec![not_here]).await;
    assert_eq!(rig.count(Topic::InApp).await, 1);
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_reroutes_total{result=\"absent\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_takes_a_position_and_reaches_the_other_gateways_and_sync() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    rig.gateway("gw-2", 1, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let routed = rig.records(Topic::InApp, 1, 1).await.remove(0);
    let read = outcome(id, "42", routed.pos, Fate::Read);
    rig.report(&gateway, Some(0), vec![read.clone()]).await;

    let mark = rig.records(Topic::InApp, 1, 2).await.remove(1);
    let frame: Value = serde_json::from_slice(&mark.frame).unwrap();
    assert_eq!(frame["type"], "read");
    assert_eq!(frame["ids"], json!([id]));
    assert_eq!(
        (mark.prev, frame["prev"].as_u64()),
        (routed.pos, Some(routed.pos.value()))
    );
    // Reported once more (the answer was lost): no second mark.
    rig.report(&gateway, Some(0), vec![read]).await;
    rig.routed().await;
    let rows = rows(&*rig.store, "42").await;
    let kinds: Vec<RowKind> = rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [RowKind::Notification, RowKind::Read]);
    assert!(rows[0].read);

    let reply = rig.sync("42", &[("user:local", routed.pos.value())]).await;
    let item: Value = serde_json::from_slice(&reply.items[0]).unwrap();
    assert_eq!(
        (&item["type"], &item["pos"]),
        (&json!("read"), &json!(mark.pos))
    );
    assert_eq!(reply.cursors["user:local"], mark.pos.value());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_of_ids_that_are_not_theirs_is_dropped_and_counted() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &["42", "43"]).await;
    let id = rig.post_to("42", "one").await;
    rig.routed().await;
    let made_up = NotificationId::generate();
    let start = Position::START;
    let said = vec![
        outcome(made_up, "42", start, Fate::Read),
        outcome(made_up, "42", start, Fate::Acked),
        outcome(id, "43", start, Fate::Read),
        outcome(id, "43", start, Fate::Acked),
    ];
    rig.report(&gateway, Some(0), said).await;
    let body = json!({ "ids": [made_up] });
    let answer = rig
        .call(Method::POST, "/v1/users/42/read", Some(body))
        .await;
    assert_eq!(answer.status, 404, "{}", answer.body);

    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
    assert_eq!(rows(&*rig.store, "43").await.len(), 0);
    let path = format!("/v1/notifications/{made_up}/delivery");
    assert_eq!(rig.call(Method::GET, &path, None).await.status, 404);
    let path = format!("/v1/notifications/{id}/delivery?user=43");
    assert_eq!(rig.call(Method::GET, &path, None).await.status, 404);
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_outcomes_refused_total{cause=\"not_the_users\"} 4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_waited_on_the_delivery_topic_are_taken() {
    let rig = Rig::start().await;
    let id = rig.post_to("42", "one").await;
    rig.routed().await;
    let mut written = outcome(id, "42", Position::new(1, 0).unwrap(), Fate::Written);
    written.gateway = "gw-1.7".into();
    let record = outcomes_record(&[written]);
    let target = Target::Keyed(Topic::Delivery);
    rig.bus.produce(vec![(target, record)]).await.unwrap();
    eventually(|| async {
        let body = rig
            .get(&format!("/v1/notifications/{id}/delivery?user=42"))
            .await;
        (body["states"][0]["state"] == "written").then_some(())
    })
    .await;
    rig.drained("tracker", Topic::Delivery).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_gateway_says_holds_nothing_up() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;
    let wire = |fate: &str| herald::api::Outcome {
        fate: fate.into(),
        ..herald::api::convert::outcome_to_wire(&outcome(id, "42", pos, Fate::Written))
    };
    let batch = herald::api::OutcomeBatch {
        v: 1,
        sequence: 3,
        gateway: gateway.to_string(),
        shard: None,
        outcomes: vec![wire("teleported"), wire("written")],
    };
    let mut client = rig.dispatcher().await;
    let replies = client.outcomes(tokio_stream::iter([batch])).await.unwrap();
    let reply = replies.into_inner().message().await.unwrap().unwrap();
    assert_eq!(reply.sequence, 3);
    let body = rig
        .get(&format!("/v1/notifications/{id}/delivery?user=42"))
        .await;
    assert_eq!(body["states"][0]["state"], "written");
}
