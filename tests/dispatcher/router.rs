//! From `raw` to the gateways' shards.

use crate::rig::{Rig, directory, eventually, outcome, readiness, rows};
use herald::{
    bus::{Record, SharedBus, Start, Target, Topic, TopicPartition, partition_of},
    config,
    dispatcher::store::{NewRow, RowKind, sqlite::SqliteStore},
    envelope::{Fate, Head, Kind, Priority},
    ids::NotificationId,
    limits,
    position::Position,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use testbed::free_port;

fn frame(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_reaches_each_gateway_that_holds_the_user_once() {
    let rig = Rig::start().await;
    rig.gateway("gw-1", 0, &["42", "43"]).await;
    rig.gateway("gw-2", 1, &["42"]).await;
    let id = rig
        .post(json!({
            "target": { "user": "42" }, "type": "order", "title": "t", "body": "b",
            "data": { "n": 1.5 }, "collapse_key": "k", "ttl_s": 60
        }))
        .await;
    let row = eventually(|| async { rows(&*rig.store, "42").await.pop() }).await;
    for shard in [0, 1] {
        let routed = rig.records(Topic::InApp, shard, 1).await.remove(0);
        assert_eq!(
            (routed.head.id, routed.pos, routed.prev),
            (id, row.pos, row.prev)
        );
        assert_eq!(routed.user, Some("42".parse().unwrap()));
        assert_eq!(routed.collapse_key.as_deref(), Some("k"));
        let text = String::from_utf8(routed.frame.to_vec()).unwrap();
        assert!(text.contains("{\"n\":1.5}"), "{text}");
        let frame = frame(&routed.frame);
        assert_eq!(frame["type"], "notification");
        assert_eq!(frame["stream"], "user:local");
        assert_eq!(frame["ttl_ms"], 60_000);
        assert_eq!(frame["pos"], row.pos.value());
    }
    rig.routed().await;
    assert_eq!(rig.count(Topic::InApp).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_user_are_a_chain_in_the_order_of_raw() {
    let rig = Rig::start().await;
    for n in 0..200 {
        rig.post_to(if n % 3 == 0 { "b" } else { "a" }, &n.to_string())
            .await;
    }
    rig.routed().await;
    for user in ["a", "b"] {
        let mut prev = Position::START;
        for row in rows(&*rig.store, user).await {
            assert_eq!(row.prev, prev);
            assert!(row.pos > prev);
            prev = row.pos;
        }
    }
    assert_eq!(rows(&*rig.store, "a").await.len(), 133);
}

/// Of a relay that nobody listens at.
fn email() -> config::Email {
    config::Email {
        relay: Some(format!("127.0.0.1:{}", free_port())),
        from: Some("no-reply@shop.example".into()),
        ..config::Email::default()
    }
}

/// Channel and state of each.
fn states(delivery: &Value) -> Vec<(&str, &str)> {
    let mut states = Vec::new();
    for state in delivery["states"].as_array().unwrap() {
        let text = |name: &str| state[name].as_str().unwrap();
        states.push((text("channel"), text("state")));
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn critical_has_its_own_topic_and_goes_by_every_channel_there_is() {
    let rig = Rig::with_email(&email()).await;
    rig.gateway("gw-1", 2, &["42"]).await;
    let id = rig
        .post(json!({ "target": { "user": "42" }, "type": "alarm", "priority": "critical" }))
        .await;
    let routed = rig.records(Topic::Critical, 2, 1).await.remove(0);
    let expires_ms = routed.head.expires_ms.unwrap();
    assert_eq!(expires_ms - routed.head.created_ms, 24 * 3600 * 1000);
    rig.routed().await;
    for (topic, records) in [(Topic::Push, 0), (Topic::Email, 1), (Topic::Sms, 0)] {
        assert_eq!(rig.count(topic).await, records, "{topic:?}");
    }
    let body = rig
        .get(&format!("/v1/notifications/{id}/delivery?user=42"))
        .await;
    assert_eq!(body["states"].as_array().unwrap().len(), 4);
    for state in body["states"].as_array().unwrap() {
        let unreached = ["push", "sms"].contains(&state["channel"].as_str().unwrap());
        assert_eq!(state["error"] == "not_configured", unreached, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn high_starts_with_its_first_channel_and_the_others_are_visibly_pending() {
    let rig = Rig::with_email(&email()).await;
    let id = rig
        .post(json!({
            "target": { "user": "42" }, "type": "x", "priority": "high",
            "channels": ["email", "in_app"]
        }))
        .await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
    assert_eq!(rig.count(Topic::Email).await, 0);
    let body = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
    assert_eq!(states(&body), [("email", "pending"), ("in_app", "pending")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_nothing_sends_by_has_failed_at_once() {
    let rig = Rig::start().await;
    let id = rig
        .post(json!({
            "target": { "user": "42" }, "type": "x", "priority": "critical",
            "channels": ["in_app", "push", "email", "sms"]
        }))
        .await;
    rig.routed().await;
    for topic in [Topic::Push, Topic::Email, Topic::Sms] {
        assert_eq!(rig.count(topic).await, 0, "{topic:?}");
    }
    let body = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
    let expected = [
        ("email", "failed"),
        ("in_app", "pending"),
        ("push", "failed"),
        ("sms", "failed"),
    ];
    assert_eq!(states(&body), expected);
    let email = &body["states"][0];
    assert_eq!(
        (&email["error"], &email["attempts"]),
        (&json!("not_configured"), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_not_pushed_again_and_makes_no_second_row() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let routed = rig.records(Topic::InApp, 0, 1).await.remove(0);
    rig.report(
        &gateway,
        Some(0),
        vec![outcome(id, "42", routed.pos, Fate::Written)],
    )
    .await;
    let mut again = rig.all_records(Topic::Raw(1)).await.remove(0);
    again.set("again", "1");
    let target = Target::Keyed(Topic::Raw(1));
    rig.bus.produce(vec![(target, again)]).await.unwrap();
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
    assert_eq!(rig.count(Topic::InApp).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_read_again_reaches_the_second_gateway_though_the_first_has_written_it() {
    let mut rig = Rig::start().await;
    let first = rig.gateway("gw-1", 0, &["42"]).await;
    rig.gateway("gw-2", 1, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;
    rig.records(Topic::InApp, 1, 1).await;
    rig.report(&first, Some(0), vec![outcome(id, "42", pos, Fate::Written)])
        .await;
    rig.routed().await;
    rig.stop().await;
    read_again(&rig.bus).await;
    rig.restart().await;
    let again = rig.records(Topic::InApp, 1, 2).await;
    assert!(again.iter().all(|one| (one.head.id, one.pos) == (id, pos)));
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
}

/// As after a death before the commit.
async fn read_again(bus: &SharedBus) {
    let topic = Topic::Raw(1);
    for partition in 0..bus.partitions(topic).await.unwrap() {
        let at = TopicPartition { topic, partition };
        let start = [(at, Start::At(0))];
        let mut router = bus.assign("router", &start).await.unwrap();
        router.commit(&[(at, 0)]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_record_is_set_aside_with_its_reason_and_blocks_nobody() {
    let rig = Rig::start().await;
    let head = Head {
        kind: Kind::Notification,
        id: NotificationId::generate(),
        created_ms: 1,
        expires_ms: None,
        priority: Priority::Normal,
        region: "local".into(),
        again: false,
    };
    let target = Target::Keyed(Topic::Raw(1));
    let mut newer = head.clone().into_record("42", "{}");
    newer.set("v", "9");
    let broken = [
        (target, Record::new("42", "no headers")),
        (target, head.into_record("42", "{not json")),
        (target, newer),
    ];
    rig.bus.produce(broken.to_vec()).await.unwrap();
    rig.post_to("42", "whole").await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
    assert_eq!(rig.count(Topic::Dlq).await, 2);
    let dead = rig.all_records(Topic::Dlq).await;
    assert_eq!(dead[0].value, "no headers");
    assert_eq!(dead[1].value, "{not json");
    for record in &dead {
        assert_eq!(record.header("dlq_topic"), Some(&b"raw.g1"[..]));
        for name in ["dlq_reason", "dlq_partition", "dlq_offset"] {
            assert!(record.header(name).is_some(), "{name}");
        }
    }
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_unsupported_total{topic=\"raw.g1\"} 1"));
    assert!(metrics.contains("herald_dead_letters_total{cause=\"value\",topic=\"raw.g1\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_restarts_in_the_middle_doubles_and_loses_nothing() {
    let mut rig = Rig::start().await;
    rig.gateway("gw-1", 0, &["42"]).await;
    let mut ids = Vec::new();
    for n in 0..300 {
        ids.push(rig.post_to("42", &n.to_string()).await);
        if n % 100 == 50 {
            rig.restart().await;
        }
    }
    rig.routed().await;
    let rows = rows(&*rig.store, "42").await;
    let stored: Vec<NotificationId> = rows.iter().map(|row| row.id).collect();
    assert_eq!(stored, ids);
    let pushed = rig.records(Topic::InApp, 0, 300).await;
    for row in &rows {
        let copies: Vec<_> = pushed.iter().filter(|one| one.head.id == row.id).collect();
        assert!(!copies.is_empty(), "{} was never pushed", row.id);
        assert!(
            copies
                .iter()
                .all(|one| (one.pos, one.prev) == (row.pos, row.prev))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_one_row_with_positions_of_its_own_stream() {
    let rig = Rig::start().await;
    let all = json!({ "target": { "all": true }, "type": "news", "title": "n" });
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(rig.post(all.clone()).await);
    }
    let records = rig.records(Topic::Broadcast, 0, 3).await;
    let mut prev = Position::START;
    for (record, id) in records.iter().zip(&ids) {
        assert_eq!((record.head.id, record.prev), (*id, prev));
        assert_eq!(record.user, None);
        let frame = frame(&record.frame);
        assert_eq!(frame["stream"], "all:local");
        prev = record.pos;
    }
    rig.drained("broadcast", Topic::FanOutAll).await;
    assert_eq!(rig.count(Topic::Broadcast).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_under_a_key_that_stayed_pending_is_published_once() {
    let rig = Rig::start().await;
    let all = json!({ "target": { "all": true }, "type": "news" });
    let posts = (0..10).map(|_| {
        rig.call_as(
            &rig.key,
            Method::POST,
            "/v1/notifications",
            Some(all.clone()),
            Some("news-1"),
        )
    });
    futures::future::join_all(posts).await;
    rig.drained("broadcast", Topic::FanOutAll).await;
    assert_eq!(rig.count(Topic::Broadcast).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_that_waited_are_published_in_their_order_and_a_repeat_among_them_is_not() {
    let rig = Rig::start().await;
    let head = || Head {
        kind: Kind::Broadcast,
        id: NotificationId::generate(),
        created_ms: 1,
        expires_ms: None,
        priority: Priority::Normal,
        region: "local".into(),
        again: false,
    };
    let heads = [head(), head(), head()];
    let records = [0, 1, 0, 2, 1].map(|n: usize| {
        let content = r#"{"type":"news","channels":["in_app"]}"#;
        let record = heads[n].clone().into_record("all", content);
        (Target::Keyed(Topic::FanOutAll), record)
    });
    rig.bus.produce(records.to_vec()).await.unwrap();
    let published = rig.records(Topic::Broadcast, 0, 3).await;
    let mut prev = Position::START;
    for (record, head) in published.iter().zip(&heads) {
        assert_eq!((record.head.id, record.prev), (head.id, prev));
        prev = record.pos;
    }
    rig.drained("broadcast", Topic::FanOutAll).await;
    assert_eq!(rig.count(Topic::Broadcast).await, 3);
}

const CONTENT: &str = r#"{"type":"x","channels":["in_app"]}"#;

fn head() -> Head {
    Head {
        kind: Kind::Notification,
        id: NotificationId::generate(),
        created_ms: 1,
        expires_ms: None,
        priority: Priority::Normal,
        region: "local".into(),
        again: false,
    }
}

/// The partition of `raw` that a user belongs to.
async fn place(rig: &Rig, user: &str) -> TopicPartition {
    let topic = Topic::Raw(1);
    let partitions = rig.bus.partitions(topic).await.unwrap();
    TopicPartition {
        topic,
        partition: partition_of(user.as_bytes(), partitions),
    }
}

/// Users of other partitions, one of each.
async fn users_elsewhere(rig: &Rig, user: &str) -> Vec<String> {
    let mut taken = vec![place(rig, user).await];
    let mut users = Vec::new();
    for n in 0..40 {
        let user = format!("elsewhere-{n}");
        let at = place(rig, &user).await;
        if !taken.contains(&at) {
            taken.push(at);
            users.push(user);
        }
    }
    users
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_another_partition_than_its_keys_is_set_aside_and_blocks_nobody() {
    let rig = Rig::start().await;
    for title in ["1", "2", "3"] {
        rig.post_to("42", title).await;
    }
    rig.routed().await;
    let own = place(&rig, "42").await;
    for user in users_elsewhere(&rig, "42").await {
        let at = place(&rig, &user).await;
        assert_ne!(at, own);
        let misplaced = head().into_record("42", CONTENT);
        rig.bus
            .produce(vec![(Target::Exact(at), misplaced)])
            .await
            .unwrap();
        rig.post_to(&user, "behind it").await;
    }
    rig.routed().await;
    let users = users_elsewhere(&rig, "42").await;
    for user in &users {
        assert_eq!(rows(&*rig.store, user).await.len(), 1, "{user}");
    }
    assert_eq!(rows(&*rig.store, "42").await.len(), 3);
    let dead = rig.all_records(Topic::Dlq).await;
    assert_eq!(dead.len(), users.len());
    let reason = String::from_utf8(dead[0].header("dlq_reason").unwrap().to_vec()).unwrap();
    assert!(
        reason.contains(&format!("belongs to {} of", own.partition)),
        "{reason}"
    );
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_dead_letters_total{cause=\"partition\",topic=\"raw.g1\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_went_back_holds_its_own_partition_only_and_readyz_names_it() {
    let mut rig = Rig::start().await;
    let stored_before = NewRow {
        user: "42".parse().unwrap(),
        pos: Position::new(1, 1_000).unwrap(),
        kind: RowKind::Notification,
        id: NotificationId::generate(),
        priority: Priority::Normal,
        created_ms: 1,
        appended_ms: 1,
        expires_ms: None,
        collapse_key: None,
        content: CONTENT.into(),
    };
    rig.store.append(vec![stored_before]).await.unwrap();
    let own = place(&rig, "42").await;
    let at_once = ["43", "42", "44"].map(|user| {
        let record = head().into_record(user, CONTENT);
        (Target::Keyed(Topic::Raw(1)), record)
    });
    rig.bus.produce(at_once.to_vec()).await.unwrap();
    let users = users_elsewhere(&rig, "42").await;
    for round in 0..3 {
        for user in &users {
            rig.post_to(user, &round.to_string()).await;
        }
        rig.post_to("42", &round.to_string()).await;
    }
    for user in &users {
        eventually(|| async { (rows(&*rig.store, user).await.len() == 3).then_some(()) }).await;
    }
    let named = eventually(|| async {
        let (status, body) = readiness(&rig).await;
        assert_eq!(status, 200);
        body["degraded"]["router"].as_str().map(str::to_owned)
    })
    .await;
    let expected = format!("raw.g1 partition {} stands", own.partition);
    assert!(named.contains(&expected), "{named}");
    assert!(named.contains("with the offsets it had"), "{named}");
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_partitions_refused_total{topic=\"raw.g1\"} 1"));

    // Nothing of it was passed over: it is all there for a store that takes it.
    rig.stop().await;
    let dir = directory();
    rig.store = Arc::new(SqliteStore::open(dir.path(), &config::Node::default()).unwrap());
    rig.restart().await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_intake_would_not_take_is_set_aside_on_every_way_in() {
    let rig = Rig::start().await;
    let title = "t".repeat(limits::SYNC_BYTES);
    let large = format!(r#"{{"type":"x","channels":["in_app"],"title":"{title}"}}"#);
    let list = format!(r#"{{"users":["42","43"],"content":{large}}}"#);
    let all = Head {
        kind: Kind::Broadcast,
        ..head()
    };
    let records = vec![
        (Topic::Raw(1), head().into_record("42", large.clone())),
        (Topic::FanOut, head().into_record("list", list)),
        (Topic::FanOutAll, all.into_record("all", large)),
    ];
    let records = records.into_iter();
    let records = records.map(|(topic, record)| (Target::Keyed(topic), record));
    rig.bus.produce(records.collect()).await.unwrap();
    rig.post_to("42", "behind it").await;
    rig.drained("fan_out", Topic::FanOut).await;
    rig.drained("broadcast", Topic::FanOutAll).await;
    rig.routed().await;
    assert_eq!(rig.count(Topic::Dlq).await, 3);
    let reply = rig.sync("42", &[("user:local", 0), ("all:local", 0)]).await;
    assert_eq!((reply.items.len(), reply.has_more), (1, false));
}
