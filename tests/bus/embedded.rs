//! What only the embedded bus has: a file.

use crate::{
    embedded,
    suite::{assigned, at, numbered, produce_to, read},
};
use herald::{
    bus::{
        Bus, Record, Start, Target, Topic,
        embedded::{EmbeddedBus, OpenError, Options},
    },
    metrics::Metrics,
};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

const CHILD_DIRECTORY: &str = "HERALD_TEST_BUS_CHILD";

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let place = at(Topic::InApp, 0);
    let bus = embedded(&directory);
    produce_to(&bus, place, numbered(0..5)).await;
    let mut consumer = assigned(&bus, place, Start::Committed).await;
    consumer.commit(&[(place, 2)]).await.unwrap();
    drop(consumer);
    drop(bus);
    let bus = embedded(&directory);
    assert_eq!(bus.end(place).await, Ok(5));
    let mut consumer = assigned(&bus, place, Start::Committed).await;
    assert_eq!(read(&mut consumer, 3).await[0].offset, 2);
    assert_eq!(produce_to(&bus, place, numbered(5..6)).await, [5]);
}

#[tokio::test]
async fn a_directory_has_one_bus() {
    let directory = tempfile::tempdir().unwrap();
    let first = embedded(&directory);
    let second = EmbeddedBus::open(directory.path(), Options::default(), &Metrics::default());
    assert!(matches!(second.err(), Some(OpenError::Held(_))));
    drop(first);
    embedded(&directory);
}

#[tokio::test]
async fn partition_counts_stay_as_they_were_made() {
    let directory = tempfile::tempdir().unwrap();
    let open = |partitions_max| {
        let options = Options { partitions_max };
        EmbeddedBus::open(directory.path(), options, &Metrics::default()).unwrap()
    };
    assert_eq!(open(2).partitions(Topic::Raw(1)).await, Ok(2));
    assert_eq!(open(16).partitions(Topic::Raw(1)).await, Ok(2));
}

/// Not a test: the process that the next test kills. Writes, and prints each offset it was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by what_was_answered_outlives_kill_9"]
async fn a_child_that_writes_until_it_is_killed() {
    let directory = std::env::var(CHILD_DIRECTORY).expect("started by the test below");
    let directory = Path::new(&directory);
    let bus = EmbeddedBus::open(directory, Options::default(), &Metrics::default()).unwrap();
    let bus = std::sync::Arc::new(bus);
    let writers = (0..8).map(|writer| {
        let bus = bus.clone();
        tokio::spawn(async move {
            for n in 0u64.. {
                let record = Record::new("k", format!("{writer}/{n}"));
                let target = Target::Exact(at(Topic::InApp, writer % 4));
                let answer = bus.produce(vec![(target, record)]).await.unwrap();
                let (place, offset) = answer[0];
                println!("stored {} {offset} {writer}/{n}", place.partition);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn what_was_answered_outlives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("embedded_only::a_child_that_writes_until_it_is_killed")
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stored = Vec::new();
        for line in lines.map_while(Result::ok) {
            // The pipe may hold more lines when the kill comes: those were answered too.
            if let Some(text) = line.strip_prefix("stored ") {
                stored.push(text.to_owned());
            }
            if stored.len() == 300 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(stored.len() >= 300, "the child ended early");
        let bus = embedded(&directory);
        for text in stored {
            let mut parts = text.split(' ');
            let partition = parts.next().unwrap().parse().unwrap();
            let offset: u64 = parts.next().unwrap().parse().unwrap();
            let value = parts.next();
            let place = at(Topic::InApp, partition);
            let mut consumer = assigned(&bus, place, Start::At(offset)).await;
            let found = read(&mut consumer, 1).await.remove(0);
            assert_eq!(found.offset, offset);
            assert_eq!(std::str::from_utf8(&found.record.value).ok(), value);
        }
    }
}
