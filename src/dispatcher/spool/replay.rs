//! From the spool to the bus once it takes records again: critical first, then by age, at a bounded pace.
//! The same attempts are how the end of the mode is found out.
//!
//! A topic that does not exist holds its own records only: it is tried again now and then, and the operator is
//! told.

use super::{Spool, file::Waiting};
use crate::{
    bus::{BusError, SharedBus, Target, Topic},
    dispatcher::{
        erasure::Erasures,
        intake,
        outbox::Outbox,
        patience::{Patience, Stopped},
    },
    limits,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub struct Replay {
    pub spool: Arc<Spool>,
    pub bus: SharedBus,
    pub outbox: Outbox,
    pub erasures: Erasures,
    pub patience: Patience,
}

impl Replay {
    /// Runs until `shutdown`; what is left then is replayed by the next start on this host.
    pub async fn run(self, shutdown: CancellationToken) -> &'static str {
        let replaying = async {
            loop {
                self.spool.has_work().await;
                let pause = match self.step().await {
                    Ok(pause) => pause,
                    Err(Stopped) => return,
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = replaying => {}
            () = self.spool.try_for_ever() => {}
            () = shutdown.cancelled() => {}
        }
        "spool"
    }

    /// Hands one batch to the bus; answers the pause to the next.
    async fn step(&self) -> Result<Duration, Stopped> {
        let records_max = match self.spool.is_active() {
            true => 1,
            false => limits::SPOOL_REPLAY_BATCH,
        };
        let but = self.spool.waited_for();
        let first = || self.spool.first(records_max, &but);
        let batch = self.patience.until_done("spool_read", first).await?;
        if batch.is_empty() {
            self.try_without_records().await;
            return Ok(limits::SPOOL_PROBE_EVERY);
        }
        let taken = match self.produce(&batch).await? {
            Ok(()) => batch,
            Err(BusError::NoTopic(_)) => self.by_topic(batch).await?,
            Err(error) => {
                tracing::debug!(%error, "the spool waits for the bus");
                return Ok(limits::SPOOL_PROBE_EVERY);
            }
        };
        if taken.is_empty() {
            return Ok(limits::SPOOL_PROBE_EVERY);
        }
        self.spool.deactivate();
        self.remove(&taken).await
    }

    /// Nothing could be kept, or what is there waits for its topic: so the bus is asked something else, but not
    /// before the first records of a mode that just began had their time to reach the disk.
    async fn try_without_records(&self) {
        if !self.spool.is_active() {
            return;
        }
        tokio::time::sleep(limits::SPOOL_PROBE_EVERY).await;
        let raw = Topic::Raw(intake::GENERATION);
        if self.spool.records() == 0 || !self.spool.missing().is_empty() {
            let answers = self.bus.partitions(raw).await.is_ok();
            if answers && self.bus.healthy() {
                self.spool.deactivate();
            }
        }
    }

    async fn produce(&self, batch: &[Waiting]) -> Result<Result<(), BusError>, Stopped> {
        self.erasures.known(&self.patience).await?;
        let wanted = batch.iter().filter(|waiting| {
            let erasures = &self.erasures;
            !erasures.drops_record("spool", &waiting.record)
        });
        let records: Vec<_> = wanted
            .map(|waiting| (Target::Keyed(waiting.topic), waiting.record.clone()))
            .collect();
        match self.bus.produce(records.clone()).await {
            // It sets aside what no topic takes; the others go.
            Err(BusError::TooLarge { .. }) => self.outbox.send(records).await.map(Ok),
            result => Ok(result.map(drop)),
        }
    }

    /// Answers those the bus has now.
    async fn by_topic(&self, batch: Vec<Waiting>) -> Result<Vec<Waiting>, Stopped> {
        let mut topics: BTreeMap<Topic, Vec<Waiting>> = BTreeMap::new();
        for waiting in batch {
            topics.entry(waiting.topic).or_default().push(waiting);
        }
        let mut taken = Vec::new();
        for (topic, waiting) in topics {
            match self.produce(&waiting).await? {
                Ok(()) => taken.extend(waiting),
                Err(BusError::NoTopic(_)) => self.spool.is_missing(topic),
                Err(error) => tracing::debug!(%error, "the spool waits for the bus"),
            }
        }
        Ok(taken)
    }

    /// Answers the pause that keeps the pace.
    async fn remove(&self, taken: &[Waiting]) -> Result<Duration, Stopped> {
        let rows: Vec<i64> = taken.iter().map(|waiting| waiting.row).collect();
        let remove = || self.spool.remove(rows.clone());
        self.patience.until_done("spool_remove", remove).await?;
        self.spool.metrics.replayed.inc_by(taken.len() as u64);
        for waiting in taken {
            self.spool.is_there(waiting.topic);
        }
        if self.spool.records() == 0 {
            tracing::info!("the spool is empty: everything in it is on the bus");
        }
        let bytes: usize = taken.iter().map(|waiting| waiting.record.bytes()).sum();
        let by_records = taken.len() as f64 / limits::SPOOL_REPLAY_PER_S as f64;
        let by_bytes = bytes as f64 / limits::SPOOL_REPLAY_BYTES_PER_S as f64;
        Ok(Duration::from_secs_f64(by_records.max(by_bytes)))
    }
}

impl Spool {
    /// Topics that are not there, and not yet to be tried again.
    fn waited_for(&self) -> Vec<Topic> {
        let now = Instant::now();
        let missing = self.missing.lock();
        let waited_for = missing.iter().filter(|(_, again)| **again > now);
        waited_for.map(|(topic, _)| *topic).collect()
    }

    fn is_missing(&self, topic: Topic) {
        let again = Instant::now() + limits::SPOOL_TOPIC_EVERY;
        if self.missing.lock().insert(topic, again).is_none() {
            let topic = topic.suffix();
            self.metrics.missing.with_label_values(&[&topic]).set(1);
            tracing::warn!(
                topic,
                "a topic does not exist: what is spooled for it waits, everything else is replayed; make it by `herald ctl topics --apply`"
            );
        }
    }

    fn is_there(&self, topic: Topic) {
        if self.missing.lock().remove(&topic).is_some() {
            let topic = topic.suffix();
            self.metrics.missing.with_label_values(&[&topic]).set(0);
            tracing::info!(
                topic,
                "the topic is there: what was spooled for it is replayed"
            );
        }
    }

    /// Returns when there is something to replay, or the bus to be tried.
    async fn has_work(&self) {
        let mut records = self.records.clone();
        tokio::select! {
            _ = records.wait_for(|records| *records > 0) => {}
            () = self.activated() => {}
        }
    }
}
