//! What only Kafka has: a broker that can be away, and topics somebody has to make.

use crate::{
    TOPICS, connect, kafka_config,
    suite::{assigned, at, numbered, produce, produce_to, read},
};
use herald::{
    bus::{
        Bus, BusError, Consumer, Polled, Record, SharedBus, Start, Target, Topic,
        kafka::{
            KafkaBus,
            topics::{self, Problem},
        },
    },
    config,
    ids::Namespace,
    metrics::Metrics,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use testbed::kafka::{self, KafkaBroker};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(90);
const READERS: usize = 12;

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let mut broker = KafkaBroker::start();
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&broker.brokers(), &namespace, &TOPICS).await;
    broker.kill();
    let bus: SharedBus = Arc::new(connect(broker.brokers(), &namespace));
    assert!(!bus.healthy());
    let record = vec![(Target::Keyed(Topic::Raw(1)), Record::new("k", "v"))];
    let away = |result: Option<BusError>| match result {
        Some(BusError::Unavailable(text)) => assert!(text.contains(&broker.brokers()), "{text}"),
        other => panic!("{other:?}"),
    };
    away(bus.produce(record.clone()).await.err());
    away(bus.end(at(Topic::Raw(1), 0)).await.err());
    away(bus.subscribe("g", &[Topic::Raw(1)]).await.err());
    broker.restart();
    until("the bus stays away", || bus.healthy()).await;
    produce(&bus, record).await;
}

/// Writes one record after the other until told to stop; answers what was acknowledged.
async fn write_until(bus: SharedBus, stop: Arc<AtomicBool>) -> Vec<(u64, u32)> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let record = numbered(number..number + 1).remove(0);
        let place = Target::Exact(at(Topic::InApp, 0));
        if let Ok(answer) = bus.produce(vec![(place, record)]).await {
            acknowledged.push((answer[0].1, number));
        }
        number += 1;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_broker_is_killed() {
    let mut broker = KafkaBroker::start();
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&broker.brokers(), &namespace, &TOPICS).await;
    let metrics = Metrics::default();
    let config = kafka_config(broker.brokers());
    let bus = KafkaBus::connect(&config, &namespace, &metrics).unwrap();
    let bus: SharedBus = Arc::new(bus);
    let shows = async |sample: &str| {
        let wanted = format!("herald_kafka_{sample}\n");
        until(sample, || metrics.render().contains(&wanted)).await;
    };
    let place = at(Topic::InApp, 0);
    // A reader and a member that live through it.
    let mut reader = assigned(&bus, place, Start::Committed).await;
    let mut member = bus.subscribe("workers", &[Topic::InApp]).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(bus.clone(), stop.clone()));
    let before = read(&mut reader, 50).await;
    reader.commit(&[(place, 50)]).await.unwrap();
    read(&mut member, 50).await;
    shows("brokers_up 1").await;
    broker.kill();
    until("the loss is not noticed", || !bus.healthy()).await;
    shows("brokers_up 0").await;
    let commit = reader.commit(&[(place, 50)]).await;
    assert!(
        matches!(commit, Err(BusError::Unavailable(_))),
        "{commit:?}"
    );
    broker.restart();
    until("the bus stays away", || bus.healthy()).await;
    until_more(&bus, 50).await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    shows("brokers_up 1").await;
    shows("producer_queue{unit=\"messages\"} 0").await;

    let end = bus.end(place).await.unwrap();
    let after = read(&mut reader, end as usize - 50).await;
    let all: Vec<_> = before.into_iter().chain(after).collect();
    for (n, consumed) in all.iter().enumerate() {
        assert_eq!(consumed.offset, n as u64);
    }
    for (offset, number) in acknowledged {
        assert_eq!(all[offset as usize].record.value, number.to_string());
    }
    // What was read and not committed lags.
    lag_shows(&mut reader, &metrics, end - 50).await;
    // The coordinator may still be on its way: a commit is asked again by whoever made it.
    let deadline = Instant::now() + PATIENCE;
    while reader.commit(&[(place, end)]).await.is_err() {
        assert!(Instant::now() < deadline, "commits stay away");
    }
    assert_eq!(bus.committed("by-hand", place).await, Ok(Some(end)));
    lag_shows(&mut reader, &metrics, 0).await;
    read(&mut member, end as usize - 50).await;
}

/// A reader's statistics come to it as it polls.
async fn lag_shows(reader: &mut Box<dyn Consumer>, metrics: &Metrics, lag: u64) {
    let labels = "group=\"by-hand\",partition=\"0\",topic=\"in_app\"";
    let wanted = format!("herald_kafka_consumer_lag{{{labels}}} {lag}\n");
    let deadline = Instant::now() + PATIENCE;
    while !metrics.render().contains(&wanted) {
        assert!(Instant::now() < deadline, "{wanted}{}", metrics.render());
        // An error is of the broker on its way back.
        let _ = reader.poll(1, Duration::from_millis(50)).await;
    }
}

/// Waits until so many records have come behind those there are; answers the end.
async fn until_more(bus: &SharedBus, records: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    let mut wanted = None;
    loop {
        assert!(Instant::now() < deadline, "producing does not resume");
        if let Ok(end) = bus.end(at(Topic::InApp, 0)).await
            && end >= *wanted.get_or_insert(end + records)
        {
            return end;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_of_a_frozen_broker_is_an_error() {
    let broker = KafkaBroker::start();
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&broker.brokers(), &namespace, &TOPICS).await;
    let bus = connect(broker.brokers(), &namespace);
    let place = at(Topic::InApp, 0);
    let mut reader = bus.assign("g", &[(place, Start::At(0))]).await.unwrap();
    until("the broker does not answer", || bus.healthy()).await;
    broker.freeze();
    until("the silence is not noticed", || !bus.healthy()).await;
    let polled = reader.poll(10, Duration::from_millis(50)).await;
    assert!(
        matches!(polled, Err(BusError::Unavailable(_))),
        "{polled:?}"
    );
    // A reader whose start is known asks the broker nothing, so it knows nothing of it.
    let another = bus.assign("g", &[(place, Start::At(0))]).await;
    assert!(another.is_ok() && !bus.healthy());
    broker.thaw();
    until("the bus stays away", || bus.healthy()).await;
    let polled = reader.poll(10, Duration::from_millis(50)).await;
    assert!(matches!(polled, Ok(Polled::Idle)), "{polled:?}");
}

/// Thawed, such a broker is fenced a moment: its answers to who asks for metadata name no broker at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_heard_of_no_broker_any_more_find_them_again() {
    let broker = KafkaBroker::start();
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&broker.brokers(), &namespace, &TOPICS).await;
    let bus: SharedBus = Arc::new(connect(broker.brokers(), &namespace));
    let place = at(Topic::InApp, 0);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(assigned(&bus, place, Start::At(0)).await);
    }
    readers.push(bus.subscribe("workers", &[Topic::InApp]).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(bus.clone(), stop.clone()));
    for reader in &mut readers {
        read(reader, 50).await;
    }
    for longer in [Duration::ZERO, Duration::from_secs(2)] {
        broker.freeze();
        until("the silence is not noticed", || !bus.healthy()).await;
        tokio::time::sleep(longer).await;
        broker.thaw();
        until_more(&bus, 50).await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let end = until_more(&bus, 0).await as usize;
    let all = readers.iter_mut().map(|reader| read(reader, end - 50));
    futures::future::join_all(all).await;
}

/// For longer than a client waits for an answer and the controller for the broker. Some clients of librdkafka got no
/// answers for minutes after that, and Kafka was away and back with every second for their process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stood_still_for_long_is_back_once_for_everyone() {
    let broker = KafkaBroker::start();
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&broker.brokers(), &namespace, &TOPICS).await;
    let buses: Vec<_> = (0..8)
        .map(|_| connect(broker.brokers(), &namespace))
        .collect();
    let all = || buses.iter().all(|bus| bus.healthy());
    until("the broker does not answer", all).await;
    broker.freeze();
    // Not for luck: so long a client waits for an answer, twice.
    tokio::time::sleep(2 * herald::limits::KAFKA_SOCKET).await;
    broker.thaw();
    until("the broker stays away", all).await;
    for bus in &buses {
        for _ in 0..10 {
            let end = bus.end(at(Topic::InApp, 0)).await;
            assert!(bus.healthy(), "{end:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn make(namespace: &Namespace, topic: Topic, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka::brokers())
        .create()
        .unwrap();
    let name = topic.name(namespace);
    let mut new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    for (setting, value) in settings {
        new = new.set(setting, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let made = admin.create_topics([&new], &options).await.unwrap();
    for result in made {
        result.unwrap();
    }
    kafka::until_served(&admin, &name, partitions as u32).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_and_differences_named() {
    let namespace = kafka::fresh_namespace();
    let config = kafka_config(kafka::brokers());
    // One of ours too small to grow, one that may grow, one kept too short.
    make(
        &namespace,
        Topic::Raw(1),
        3,
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await;
    make(
        &namespace,
        Topic::Push,
        2,
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await;
    make(&namespace, Topic::Dlq, 8, &[("retention.ms", "1000")]).await;

    let before = topics::check(&config, &namespace).await.unwrap();
    let missing = before.iter().filter(|d| d.problem == Problem::Missing);
    assert_eq!(missing.count(), Topic::all().len() - 3);

    let applied = topics::apply(&config, &namespace).await.unwrap();
    assert_eq!(applied.made.len(), Topic::all().len() - 3);
    assert_eq!(applied.grown, [(Topic::Push.name(&namespace), 16)]);
    let raw = Problem::Partitions {
        found: 3,
        wanted: 32,
    };
    assert!(applied.left.iter().any(|left| left.problem == raw));

    let after = topics::check(&config, &namespace).await.unwrap();
    assert_eq!(after, applied.left);
    let texts: Vec<String> = after.iter().map(ToString::to_string).collect();
    let dlq = Topic::Dlq.name(&namespace);
    assert!(texts.iter().any(|text| text.contains(&dlq)
        && text.contains("retention.ms is 1000, 1209600000 is needed")
        && text.contains("kafka-configs.sh")));
    assert!(!texts.iter().any(|text| text.contains("in_app")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_wants_a_certificate_and_a_password_gets_both_from_files() {
    let (broker, credentials) = KafkaBroker::start_guarded();
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&broker.brokers(), &namespace, &TOPICS).await;
    let file = |name: &str| Some(credentials.directory.path().join(name));
    std::fs::write(file("password").unwrap(), credentials.password).unwrap();
    let config = config::Kafka {
        security: "sasl_ssl".into(),
        sasl_mechanism: Some("SCRAM-SHA-512".into()),
        sasl_username: Some(credentials.username.into()),
        sasl_password_file: file("password"),
        ca_file: file("ca.pem"),
        cert_file: file("client.pem"),
        key_file: file("client.key"),
        ..kafka_config(credentials.brokers.clone())
    };
    let connect = |config| KafkaBus::connect(&config, &namespace, &Metrics::default()).unwrap();
    let bus: SharedBus = Arc::new(connect(config.clone()));
    produce_to(&bus, at(Topic::InApp, 0), numbered(0..3)).await;
    let mut reader = assigned(&bus, at(Topic::InApp, 0), Start::Committed).await;
    read(&mut reader, 3).await;

    std::fs::write(file("password").unwrap(), "wrong").unwrap();
    let stranger = connect(config.clone());
    let answer = stranger.partitions(Topic::InApp).await;
    assert!(
        matches!(answer, Err(BusError::Unavailable(_))),
        "{answer:?}"
    );
    // The file is mended and read again: the same clients get in.
    std::fs::write(file("password").unwrap(), credentials.password).unwrap();
    stranger.reload(&config).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while stranger.partitions(Topic::InApp).await.is_err() {
        assert!(
            Instant::now() < deadline,
            "the password that was read again is not used"
        );
    }
    produce_to(
        &(Arc::new(stranger) as SharedBus),
        at(Topic::InApp, 0),
        numbered(3..4),
    )
    .await;
}

/// Other programs write to Kafka too, and not all of them keep to UTF-8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_whose_name_is_not_utf8_does_not_end_the_reader() {
    let namespace = kafka::fresh_namespace();
    let topics = [(Topic::InApp, 1)];
    kafka::create_topics(&kafka::brokers(), &namespace, &topics).await;
    let bus = crate::connect(kafka::brokers(), &namespace);
    let producer: rdkafka::producer::FutureProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka::brokers())
        .create()
        .unwrap();
    let bytes = vec![0xff];
    // SAFETY: passed on as bytes; nothing between here and the broker looks at it as text.
    let name = unsafe { std::str::from_utf8_unchecked(&bytes) };
    let header = rdkafka::message::Header {
        key: name,
        value: Some("x"),
    };
    let topic = Topic::InApp.name(&namespace);
    let record = rdkafka::producer::FutureRecord::to(&topic)
        .key("42")
        .payload("v")
        .headers(rdkafka::message::OwnedHeaders::new().insert(header));
    producer
        .send(record, Duration::from_secs(20))
        .await
        .unwrap();
    let at = herald::bus::TopicPartition {
        topic: Topic::InApp,
        partition: 0,
    };
    let mut reader = bus.assign("readers", &[(at, Start::At(0))]).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        assert!(std::time::Instant::now() < deadline, "it never came");
        let polled = reader.poll(10, Duration::from_millis(100)).await.unwrap();
        if let Polled::Records(records) = polled {
            assert_eq!(records[0].record.value, "v");
            assert!(records[0].record.headers.is_empty());
            return;
        }
    }
}
