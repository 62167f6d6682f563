//! What every bus does.

use bytes::Bytes;
use herald::bus::{
    self, BusError, Consumed, Consumer, Polled, Record, SharedBus, Start, Target, Topic,
    TopicPartition,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// More than a loaded machine needs for anything here.
const PATIENCE: Duration = Duration::from_secs(60);
/// One wait inside a loop that has [`PATIENCE`].
const WAIT: Duration = Duration::from_millis(200);

pub fn at(topic: Topic, partition: u32) -> TopicPartition {
    TopicPartition { topic, partition }
}

pub fn numbered(range: std::ops::Range<u32>) -> Vec<Record> {
    range
        .map(|number| Record::new("key", number.to_string()))
        .collect()
}

fn number(consumed: &Consumed) -> u32 {
    let text = std::str::from_utf8(&consumed.record.value).unwrap();
    text.parse().unwrap()
}

/// A broker that has just started may need a second attempt.
pub async fn produce(
    bus: &SharedBus,
    records: Vec<(Target, Record)>,
) -> Vec<(TopicPartition, u64)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bus.produce(records.clone()).await {
            Err(BusError::Unavailable(_)) if Instant::now() < deadline => {}
            result => return result.unwrap(),
        }
    }
}

pub async fn produce_to(bus: &SharedBus, place: TopicPartition, records: Vec<Record>) -> Vec<u64> {
    let records = records.into_iter().map(|r| (Target::Exact(place), r));
    let answers = produce(bus, records.collect()).await;
    assert!(answers.iter().all(|(found, _)| *found == place));
    answers.into_iter().map(|(_, offset)| offset).collect()
}

/// Reads until there are as many records; what else a consumer meets is passed over.
pub async fn read(consumer: &mut Box<dyn Consumer>, records: usize) -> Vec<Consumed> {
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    while found.len() < records {
        assert!(
            Instant::now() < deadline,
            "{} of {records} records came",
            found.len()
        );
        match consumer.poll(records - found.len(), WAIT).await {
            Ok(Polled::Records(records)) => found.extend(records),
            Ok(_) | Err(BusError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    found
}

pub async fn assigned(bus: &SharedBus, place: TopicPartition, start: Start) -> Box<dyn Consumer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bus.assign("by-hand", &[(place, start)]).await {
            Err(BusError::Unavailable(_)) if Instant::now() < deadline => {}
            result => return result.unwrap(),
        }
    }
}

/// Nothing comes. A broker on a loaded machine may count as away for a moment before that.
async fn idle(consumer: &mut Box<dyn Consumer>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.poll(10, WAIT).await {
            Ok(Polled::Idle) => return,
            Err(BusError::Unavailable(_)) if Instant::now() < deadline => {}
            other => panic!("{other:?} instead of silence"),
        }
    }
}

pub async fn offsets_are_answered_in_the_order_of_the_input(bus: &SharedBus) {
    let places = [at(Topic::InApp, 0), at(Topic::InApp, 1)];
    let records = (0..20).map(|n| (Target::Exact(places[n % 2]), Record::new("k", "v")));
    let answers = produce(bus, records.collect()).await;
    for (n, (place, offset)) in answers.into_iter().enumerate() {
        assert_eq!((place, offset), (places[n % 2], n as u64 / 2));
    }
    assert_eq!(bus.produce(Vec::new()).await, Ok(Vec::new()));
}

pub async fn records_of_a_partition_are_read_in_the_order_of_their_offsets(bus: &SharedBus) {
    let place = at(Topic::InApp, 2);
    for call in 0..10 {
        produce_to(bus, place, numbered(call * 50..(call + 1) * 50)).await;
    }
    let mut consumer = assigned(bus, place, Start::At(0)).await;
    let found = read(&mut consumer, 500).await;
    for (n, consumed) in found.iter().enumerate() {
        assert_eq!((consumed.at, consumed.offset), (place, n as u64));
        assert_eq!(number(consumed), n as u32);
    }
}

pub async fn a_record_is_read_as_it_was_written(bus: &SharedBus) {
    let now_ms = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since.as_millis() as u64
    };
    let place = at(Topic::InApp, 0);
    let mut full = Record::new("a key", vec![0, 159, 146, 150]);
    full.set("kind", "notification");
    full.set("raw", vec![255, 0]);
    full.set("empty", Bytes::new());
    let empty = Record::default();
    let before_ms = now_ms();
    produce_to(bus, place, vec![full.clone(), empty.clone()]).await;
    let after_ms = now_ms();
    let mut consumer = assigned(bus, place, Start::At(0)).await;
    let found = read(&mut consumer, 2).await;
    assert_eq!(found[0].record, full);
    assert_eq!(found[1].record, empty);
    for consumed in found {
        assert!((before_ms..=after_ms).contains(&consumed.appended_ms));
    }
}

pub async fn a_key_stays_in_its_partition(bus: &SharedBus) {
    let partitions = bus.partitions(Topic::Raw(1)).await.unwrap();
    let keys: Vec<String> = (0..200)
        .map(|n| format!("user-{n}"))
        .chain([String::new()])
        .collect();
    let records = keys.iter().map(|key| {
        let record = Record::new(key.clone(), "v");
        (Target::Keyed(Topic::Raw(1)), record)
    });
    let answers = produce(bus, records.collect()).await;
    let mut used = BTreeSet::new();
    for (key, (place, _)) in keys.iter().zip(answers) {
        assert_eq!(
            place.partition,
            bus::partition_of(key.as_bytes(), partitions)
        );
        used.insert(place.partition);
    }
    assert_eq!(used.len(), partitions as usize);
}

pub async fn the_end_is_the_offset_of_the_next_record(bus: &SharedBus) {
    let place = at(Topic::Broadcast, 0);
    assert_eq!(bus.end(place).await, Ok(0));
    produce_to(bus, place, numbered(0..3)).await;
    assert_eq!(bus.end(place).await, Ok(3));
    assert_eq!(produce_to(bus, place, numbered(3..4)).await, [3]);
}

pub async fn a_reader_starts_at_the_offset_it_asks_for(bus: &SharedBus) {
    let place = at(Topic::InApp, 3);
    produce_to(bus, place, numbered(0..10)).await;
    let mut middle = assigned(bus, place, Start::At(6)).await;
    assert_eq!(read(&mut middle, 1).await[0].offset, 6);
    // From the end on only what comes later is read.
    let mut late = assigned(bus, place, Start::At(10)).await;
    idle(&mut late).await;
    produce_to(bus, place, numbered(10..11)).await;
    assert_eq!(number(&read(&mut late, 1).await[0]), 10);
}

pub async fn what_was_not_committed_is_read_again(bus: &SharedBus) {
    let place = at(Topic::InApp, 0);
    produce_to(bus, place, numbered(0..10)).await;
    let mut first = assigned(bus, place, Start::Committed).await;
    assert_eq!(read(&mut first, 10).await.len(), 10);
    first.commit(&[(place, 4)]).await.unwrap();
    drop(first);
    assert_eq!(bus.committed("by-hand", place).await, Ok(Some(4)));
    let mut second = assigned(bus, place, Start::Committed).await;
    let again = read(&mut second, 6).await;
    assert_eq!(number(&again[0]), 4);
    assert_eq!(number(&again[5]), 9);
}

pub async fn a_group_goes_on_where_it_committed(bus: &SharedBus) {
    let place = at(Topic::Broadcast, 0);
    produce_to(bus, place, numbered(0..8)).await;
    let mut first = bus.subscribe("workers", &[Topic::Broadcast]).await.unwrap();
    read(&mut first, 8).await;
    first.commit(&[(place, 5)]).await.unwrap();
    drop(first);
    let mut second = bus.subscribe("workers", &[Topic::Broadcast]).await.unwrap();
    assert_eq!(number(&read(&mut second, 1).await[0]), 5);
}

pub async fn a_group_without_a_commit_starts_at_the_beginning(bus: &SharedBus) {
    let place = at(Topic::Broadcast, 0);
    produce_to(bus, place, numbered(0..3)).await;
    assert_eq!(bus.committed("fresh", place).await, Ok(None));
    let mut fresh = bus.subscribe("fresh", &[Topic::Broadcast]).await.unwrap();
    assert_eq!(number(&read(&mut fresh, 3).await[0]), 0);
    assert_eq!(bus.committed("fresh", place).await, Ok(None));
}

pub async fn groups_do_not_see_each_other(bus: &SharedBus) {
    let place = at(Topic::Broadcast, 0);
    produce_to(bus, place, numbered(0..2)).await;
    let mut one = bus.subscribe("one", &[Topic::Broadcast]).await.unwrap();
    let mut other = bus.subscribe("other", &[Topic::Broadcast]).await.unwrap();
    assert_eq!(read(&mut one, 2).await.len(), 2);
    one.commit(&[(place, 2)]).await.unwrap();
    assert_eq!(read(&mut other, 2).await.len(), 2);
    assert_eq!(bus.committed("other", place).await, Ok(None));
}

/// A member and what it was told it holds.
struct Member {
    consumer: Box<dyn Consumer>,
    held: BTreeSet<TopicPartition>,
    /// Values seen, by partition.
    seen: BTreeMap<TopicPartition, Vec<u32>>,
}

impl Member {
    async fn join(bus: &SharedBus) -> Member {
        Member {
            consumer: bus.subscribe("routers", &[Topic::Raw(1)]).await.unwrap(),
            held: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }

    /// One poll; checks that what it is told fits together.
    async fn turn(&mut self) {
        match self.consumer.poll(100, Duration::from_millis(20)).await {
            Ok(Polled::Assigned(places)) => {
                for place in places {
                    assert!(self.held.insert(place), "{place:?} came twice");
                }
            }
            Ok(Polled::Revoked(places)) => {
                for place in places {
                    assert!(
                        self.held.remove(&place),
                        "{place:?} went without having come"
                    );
                }
            }
            Ok(Polled::Records(records)) => {
                for consumed in records {
                    assert!(
                        self.held.contains(&consumed.at),
                        "a record of {:?}",
                        consumed.at
                    );
                    let seen = self.seen.entry(consumed.at).or_default();
                    seen.push(number(&consumed));
                }
            }
            Ok(Polled::Idle) | Err(BusError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lets the members poll until each holds as many partitions, and no two the same.
async fn settle(members: &mut [&mut Member], each: usize) {
    let deadline = Instant::now() + PATIENCE;
    while members.iter().any(|member| member.held.len() != each) {
        assert!(Instant::now() < deadline, "the partitions were not shared");
        for member in members.iter_mut() {
            member.turn().await;
        }
    }
    let mut all: Vec<_> = members.iter().flat_map(|m| m.held.iter()).collect();
    let held = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), held, "a partition has two holders");
}

pub async fn members_share_the_partitions_and_are_told(bus: &SharedBus) {
    let mut first = Member::join(bus).await;
    settle(&mut [&mut first], 4).await;
    let mut second = Member::join(bus).await;
    settle(&mut [&mut first, &mut second], 2).await;
    for partition in 0..4 {
        produce_to(bus, at(Topic::Raw(1), partition), numbered(0..5)).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while first.seen.len() + second.seen.len() < 4 {
        assert!(Instant::now() < deadline, "not every partition was read");
        first.turn().await;
        second.turn().await;
    }
    drop(second);
    settle(&mut [&mut first], 4).await;
}

pub async fn a_commit_leaves_out_what_was_revoked(bus: &SharedBus) {
    let mut first = Member::join(bus).await;
    settle(&mut [&mut first], 4).await;
    let before = first.held.clone();
    let mut second = Member::join(bus).await;
    settle(&mut [&mut first, &mut second], 2).await;
    let stale: Vec<_> = before.iter().map(|place| (*place, 7)).collect();
    first.consumer.commit(&stale).await.unwrap();
    for place in before {
        let expected = first.held.contains(&place).then_some(7);
        assert_eq!(bus.committed("routers", place).await, Ok(expected));
    }
}

pub async fn a_waiting_reader_is_woken_by_a_record(bus: &SharedBus) {
    let place = at(Topic::InApp, 1);
    let mut consumer = assigned(bus, place, Start::At(0)).await;
    let (polled, _) = tokio::join!(consumer.poll(10, PATIENCE), async {
        // The reader goes first and finds nothing.
        tokio::task::yield_now().await;
        produce_to(bus, place, numbered(0..1)).await
    });
    match polled.unwrap() {
        Polled::Records(records) => assert_eq!(number(&records[0]), 0),
        other => panic!("{other:?} instead of the record"),
    }
}

pub async fn a_poll_takes_no_more_than_it_was_asked_for(bus: &SharedBus) {
    let places = [at(Topic::InApp, 0), at(Topic::InApp, 1)];
    for place in places {
        produce_to(bus, place, numbered(0..20)).await;
    }
    let from = places.map(|place| (place, Start::At(0)));
    let mut consumer = bus.assign("by-hand", &from).await.unwrap();
    let mut found = 0;
    let deadline = Instant::now() + PATIENCE;
    while found < 40 {
        assert!(Instant::now() < deadline, "{found} of 40 records came");
        if let Ok(Polled::Records(records)) = consumer.poll(3, WAIT).await {
            assert!((1..=3).contains(&records.len()));
            found += records.len();
        }
    }
}

pub async fn silence_is_idle(bus: &SharedBus) {
    let mut consumer = assigned(bus, at(Topic::InApp, 0), Start::Committed).await;
    idle(&mut consumer).await;
    assert!(bus.healthy());
}

pub async fn a_record_of_the_largest_size_passes_and_a_larger_one_is_refused(bus: &SharedBus) {
    for topic in [Topic::InApp, Topic::FanOut] {
        let bytes_max = topic.spec().message_bytes_max as usize;
        // Random: nothing may pass because it was compressed.
        let value: Vec<u8> = (0..bytes_max).map(|_| rand::random()).collect();
        let largest = Record::new("", value.clone());
        assert_eq!(largest.bytes(), bytes_max);
        let place = at(topic, 0);
        produce_to(bus, place, vec![largest.clone()]).await;
        let too_large = Record::new("k", value);
        let refused = bus.produce(vec![(Target::Exact(place), too_large)]).await;
        let bytes = bytes_max + 1;
        assert_eq!(refused, Err(BusError::TooLarge { topic, bytes }));
        let mut consumer = assigned(bus, place, Start::At(0)).await;
        assert_eq!(read(&mut consumer, 1).await[0].record, largest);
        assert_eq!(bus.end(place).await, Ok(1));
    }
}

pub async fn what_does_not_exist_is_named(bus: &SharedBus) {
    let missing = Topic::Raw(7);
    let no_topic = |error: BusError, name: &str| match error {
        BusError::NoTopic(text) => assert!(text.contains(name), "{text}"),
        other => panic!("{other}"),
    };
    let record = Record::new("k", "v");
    let to_missing = vec![(Target::Keyed(missing), record.clone())];
    no_topic(bus.produce(to_missing).await.unwrap_err(), "raw.g7");
    let beyond = vec![(Target::Exact(at(Topic::InApp, 99)), record)];
    no_topic(
        bus.produce(beyond).await.unwrap_err(),
        "in_app partition 99",
    );
    no_topic(bus.partitions(missing).await.unwrap_err(), "raw.g7");
    no_topic(bus.end(at(missing, 0)).await.unwrap_err(), "raw.g7");
    let joined = bus.subscribe("g", &[missing]).await;
    no_topic(joined.err().unwrap(), "raw.g7");
    let taken = bus.assign("g", &[(at(missing, 0), Start::Committed)]).await;
    no_topic(taken.err().unwrap(), "raw.g7");
}

pub async fn thousands_of_callers_at_once_are_all_answered(bus: &SharedBus) {
    const CALLERS: u32 = 4_000;
    let callers = (0..CALLERS).map(|n| {
        let bus = bus.clone();
        tokio::spawn(async move {
            let record = Record::new(format!("user-{}", n % 100), n.to_string());
            produce(&bus, vec![(Target::Keyed(Topic::Raw(1)), record)]).await[0]
        })
    });
    let mut places = BTreeSet::new();
    for caller in callers.collect::<Vec<_>>() {
        assert!(
            places.insert(caller.await.unwrap()),
            "an offset given twice"
        );
    }
    let from: Vec<_> = (0..4)
        .map(|p| (at(Topic::Raw(1), p), Start::At(0)))
        .collect();
    let mut consumer = bus.assign("by-hand", &from).await.unwrap();
    let found = read(&mut consumer, CALLERS as usize).await;
    let values: BTreeSet<u32> = found.iter().map(number).collect();
    assert_eq!(values.len(), CALLERS as usize);
    for consumed in found {
        assert!(places.contains(&(consumed.at, consumed.offset)));
    }
}

pub async fn a_paused_partition_is_silent_and_goes_on_where_it_stopped(bus: &SharedBus) {
    let (paused, other) = (at(Topic::InApp, 0), at(Topic::InApp, 1));
    produce_to(bus, paused, numbered(0..50)).await;
    let mut consumer = assigned_both(bus, paused, other).await;
    // The others were fetched with these.
    let first = read(&mut consumer, 5).await;
    consumer.pause(paused).unwrap();
    idle(&mut consumer).await;

    produce_to(bus, paused, numbered(50..60)).await;
    produce_to(bus, other, numbered(0..3)).await;
    let of_other = read(&mut consumer, 3).await;
    assert!(of_other.iter().all(|consumed| consumed.at == other));
    idle(&mut consumer).await;

    consumer.resume(paused).unwrap();
    let rest = read(&mut consumer, 55).await;
    let offsets: Vec<u64> = first.iter().chain(&rest).map(|one| one.offset).collect();
    assert_eq!(offsets, (0..60).collect::<Vec<u64>>());
}

async fn assigned_both(
    bus: &SharedBus,
    one: TopicPartition,
    other: TopicPartition,
) -> Box<dyn Consumer> {
    let places = [(one, Start::At(0)), (other, Start::At(0))];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bus.assign("by-hand", &places).await {
            Err(BusError::Unavailable(_)) if Instant::now() < deadline => {}
            result => return result.unwrap(),
        }
    }
}
