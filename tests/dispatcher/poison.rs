//! Records nobody can read, on every topic the dispatcher reads: each is counted and set aside with its
//! reason (or, of a later release, left alone), and what stands behind it is served. On both buses.

use crate::rig::{Rig, directory, outcome, rows};
use herald::{
    bus::{Record, SharedBus, Target, Topic, kafka::KafkaBus},
    config,
    dispatcher::store::sqlite::SqliteStore,
    envelope::{Fate, Head, Kind, Priority, outcomes_record},
    ids::NotificationId,
    metrics::Metrics,
    position::Position,
    registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::json;
use std::sync::Arc;
use testbed::kafka;

fn record(kind: Kind, key: &'static [u8], value: &'static [u8]) -> Record {
    let head = Head {
        kind,
        id: NotificationId::generate(),
        created_ms: 1,
        expires_ms: None,
        priority: Priority::Normal,
        region: "local".into(),
        again: false,
    };
    head.into_record(key, value)
}

fn with(mut record: Record, header: &'static str, value: &'static str) -> Record {
    record.set(header, value);
    record
}

/// Of every sort that can't be read under this kind; the value of a whole one is given.
fn malformed(kind: Kind, whole: &'static [u8]) -> Vec<Record> {
    vec![
        Record::new("42", "no headers"),
        Record::new("", ""),
        record(kind, b"42", b""),
        record(kind, b"42", b"{not json"),
        record(kind, b"42", b"\xff\xfe"),
        record(kind, b"42", b"7"),
        with(record(kind, b"42", whole), "id", "7"),
        with(record(kind, b"42", whole), "v", "one"),
        with(record(kind, b"42", whole), "created_ms", "-1"),
        with(record(kind, b"42", whole), "priority", "loud"),
    ]
}

/// Of a later release, or of another topic.
fn newer(kind: Kind) -> Vec<Record> {
    vec![
        with(record(kind, b"42", b"{}"), "v", "2"),
        with(record(kind, b"42", b"{}"), "kind", "hologram"),
        with(record(kind, b"42", b"{}"), "kind", "disconnect"),
    ]
}

const CONTENT: &[u8] = br#"{"type":"x","channels":["in_app"]}"#;
const LIST: &[u8] = br#"{"users":["42"],"content":{"type":"x","channels":["in_app"]}}"#;

async fn what_cannot_be_read_is_passed_over(rig: Rig) {
    let mut raw = malformed(Kind::Notification, CONTENT);
    raw.push(record(Kind::Notification, b"\xff", CONTENT));
    raw.push(record(Kind::Notification, b"", CONTENT));
    for mark in [
        &b""[..],
        b"{}",
        b"null",
        b"[7]",
        b"[\"7\"]",
        b"[\"",
        b"\xff",
    ] {
        raw.push(record(Kind::Read, b"42", mark));
    }
    let mut lists = malformed(Kind::Notification, LIST);
    lists.push(record(
        Kind::Notification,
        b"l",
        br#"{"users":[""],"content":{}}"#,
    ));
    let broadcasts = malformed(Kind::Broadcast, CONTENT);
    let unread = |value: &'static [u8]| Record {
        value: value.into(),
        ..outcomes_record(&[])
    };
    let outcomes = vec![
        Record::new("42", "no headers"),
        unread(b""),
        unread(b"{not json"),
        unread(b"[7]"),
        unread(br#"[{"id":"7"}]"#),
    ];
    let mut dead = 0;
    for (topic, bad, newer) in [
        (Topic::Raw(1), raw, newer(Kind::Notification)),
        (Topic::FanOut, lists, newer(Kind::Notification)),
        (Topic::FanOutAll, broadcasts, newer(Kind::Broadcast)),
        (
            Topic::Delivery,
            outcomes,
            vec![with(outcomes_record(&[]), "v", "2")],
        ),
    ] {
        dead += bad.len();
        let left_alone = newer.len();
        let records = bad.into_iter().chain(newer);
        let records = records.map(|record| (Target::Keyed(topic), record));
        rig.bus.produce(records.collect()).await.unwrap();

        // What stands behind them is served.
        let id = rig.post_to("42", "own").await;
        let list = json!({ "target": { "users": ["42"] }, "type": "x" });
        let all = json!({ "target": { "all": true }, "type": "x" });
        for body in [list, all] {
            rig.post(body).await;
        }
        let written = outcome(id, "42", Position::START, Fate::Written);
        let target = Target::Keyed(Topic::Delivery);
        let produced = vec![(target, outcomes_record(&[written]))];
        rig.bus.produce(produced).await.unwrap();
        for (group, topic) in [
            ("fan_out", Topic::FanOut),
            ("broadcast", Topic::FanOutAll),
            ("tracker", Topic::Delivery),
            ("router", Topic::Raw(1)),
        ] {
            rig.drained(group, topic).await;
        }
        assert_eq!(rig.count(Topic::Dlq).await, dead as u64, "{topic:?}");
        let counted = format!(
            "herald_unsupported_total{{topic=\"{}\"}} {left_alone}",
            topic.suffix()
        );
        let metrics = rig.metrics.render();
        assert!(metrics.contains(&counted), "{counted}");
    }
    for record in rig.all_records(Topic::Dlq).await {
        for name in ["dlq_reason", "dlq_topic", "dlq_partition", "dlq_offset"] {
            assert!(record.header(name).is_some(), "{name}: {record:?}");
        }
    }
    // Of every round the own one and the one of the list.
    assert_eq!(rows(&*rig.store, "42").await.len(), 8);
    let all = rig.call(Method::GET, "/v1/users/43/notifications", None);
    assert_eq!(all.await.body["items"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_passed_over_on_the_embedded_bus() {
    what_cannot_be_read_is_passed_over(Rig::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_passed_over_on_kafka() {
    let namespace = kafka::fresh_namespace();
    let topics: Vec<_> = Topic::all().into_iter().map(|topic| (topic, 1)).collect();
    kafka::create_topics(&kafka::brokers(), &namespace, &topics).await;
    let config = config::Kafka {
        brokers: kafka::brokers(),
        replication: 1,
        min_insync_replicas: 1,
        ..config::Kafka::default()
    };
    let metrics = Metrics::default();
    let bus: SharedBus = Arc::new(KafkaBus::connect(&config, &namespace, &metrics).unwrap());
    let dir = directory();
    let store = Arc::new(SqliteStore::open(dir.path(), &config::Node::default()).unwrap());
    let registry = Arc::new(EmbeddedRegistry::default());
    what_cannot_be_read_is_passed_over(Rig::over(dir, metrics, bus, registry, store).await).await;
}
