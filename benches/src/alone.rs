//! Kafka by itself: the same posts from the same load tool into the same topic, and one plain reader in the place of the
//! gateway. What a record takes from being posted to being read there, no gateway gives back.

use crate::parts::Server;
use anyhow::Result;
use herald::{
    bus::{Bus, Polled, Start, Topic, TopicPartition, kafka::KafkaBus},
    config,
    metrics::Metrics,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use swarm::rules::unix_us;
use tokio::task::JoinHandle;

const SHARD: TopicPartition = TopicPartition {
    topic: Topic::InApp,
    partition: 0,
};

/// Reads until it is dropped.
pub struct Reader {
    task: JoinHandle<()>,
    /// ms from the producer's time stamp to being read, since they were last taken.
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Reader {
    /// From the end of the shard that gateways read.
    pub async fn start(kafka: &Server) -> Result<Reader> {
        let settings = config::Kafka {
            brokers: format!("127.0.0.1:{}", kafka.port),
            ..config::Kafka::default()
        };
        let namespace = config::Node::default().namespace;
        let bus = KafkaBus::connect(&settings, &namespace, &Metrics::default())?;
        let end = bus.end(SHARD).await?;
        let mut consumer = bus.assign("bench", &[(SHARD, Start::At(end))]).await?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let task = tokio::spawn(async move {
            let _bus = bus;
            loop {
                match consumer.poll(512, Duration::from_millis(50)).await {
                    Ok(Polled::Records(records)) => {
                        let now_ms = unix_us() / 1_000;
                        let ages = records
                            .iter()
                            .map(|record| now_ms.saturating_sub(record.appended_ms));
                        into.lock().expect("nobody panics").extend(ages);
                    }
                    Ok(_) => {}
                    Err(error) => eprintln!("the plain reader of Kafka: {error}"),
                }
            }
        });
        Ok(Reader { task, seen })
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Ages {
        let mut ages = std::mem::take(&mut *self.seen.lock().expect("nobody panics"));
        ages.sort_unstable();
        Ages(ages)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sorted.
pub struct Ages(Vec<u64>);

impl Ages {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// ms.
    pub fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let index = (share * last as f64).round() as usize;
        self.0.get(index).map_or(0.0, |ms| *ms as f64)
    }
}
