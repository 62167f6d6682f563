//! The embedded bus, whose next commit by steps can be lost on its way.

use async_trait::async_trait;
use herald::bus::{
    Bus, BusError, Commit, Consumer, Polled, Record, Start, Target, Topic, TopicPartition,
    embedded::EmbeddedBus,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub struct LosesCommits {
    pub real: Arc<EmbeddedBus>,
    /// Until one was lost.
    pub next: Arc<AtomicBool>,
}

struct Reader {
    real: Box<dyn Consumer>,
    loses_next: Arc<AtomicBool>,
}

#[async_trait]
impl Consumer for Reader {
    async fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, BusError> {
        self.real.poll(records_max, wait).await
    }

    fn pause(&mut self, at: TopicPartition) -> Result<(), BusError> {
        self.real.pause(at)
    }

    fn resume(&mut self, at: TopicPartition) -> Result<(), BusError> {
        self.real.resume(at)
    }

    async fn commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<(), BusError> {
        self.real.commit(next).await
    }

    async fn step_commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<Commit, BusError> {
        match self.loses_next.swap(false, Ordering::Relaxed) {
            true => Ok(Commit::OnItsWay),
            false => self.real.step_commit(next).await,
        }
    }
}

#[async_trait]
impl Bus for LosesCommits {
    async fn produce(
        &self,
        records: Vec<(Target, Record)>,
    ) -> Result<Vec<(TopicPartition, u64)>, BusError> {
        self.real.produce(records).await
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn Consumer>, BusError> {
        self.real.subscribe(group, topics).await
    }

    async fn assign(
        &self,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<Box<dyn Consumer>, BusError> {
        let real = self.real.assign(group, partitions).await?;
        let loses_next = self.next.clone();
        Ok(Box::new(Reader { real, loses_next }))
    }

    async fn end(&self, at: TopicPartition) -> Result<u64, BusError> {
        self.real.end(at).await
    }

    async fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<u64>, BusError> {
        self.real.committed(group, at).await
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, BusError> {
        self.real.partitions(topic).await
    }

    fn healthy(&self) -> bool {
        self.real.healthy()
    }
}
