//! Where intake keeps notifications while the bus does not take them: a file on this host's disk.
//!
//! Invariants:
//! * what [`Spool::append`] answered with `Ok` was synced to the disk, and stays until the bus has it;
//! * a record leaves the file only after `acks=all`. A crash in between replays it once more; it is marked
//!   `again`, so the router finds the row that exists;
//! * whoever removes its files while they are in use loses nothing: `writer`;
//! * while the mode lasts nobody waits for the bus: only the replay tries it;
//! * records of a topic that does not exist wait for it; all others go past them.

mod direct;
mod file;
mod metrics;
mod place;
mod replay;
mod writer;

use super::{gateways::Gateways, patience::Seldom, store::SharedStore};
use crate::{
    bus::{Record, Topic},
    config,
    envelope::Priority,
    held::{Held, HeldError},
    limits,
    metrics::Metrics,
    registry::SharedRegistry,
};
use file::{Entry, File, Waiting};
use metrics::SpoolMetrics;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use writer::{Call, Writer};

pub use direct::Direct;
pub use replay::Replay;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SpoolError {
    /// What has less weight than the room that is left. Nothing of it was kept.
    #[error("the spool has no room left for {0} notifications")]
    Full(Priority),
    /// The disk. Whether it was kept is not known.
    #[error("the spool can't be used: {0}")]
    Failed(String),
}

/// Why there is none.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Held(#[from] HeldError),
    #[error(transparent)]
    Unusable(#[from] SpoolError),
}

impl SpoolError {
    fn unusable(directory: &Path, error: &impl Display) -> SpoolError {
        let place = directory.display();
        SpoolError::Failed(format!(
            "{place}: {error}; spool.path has to be a directory of its own that can be written, on a disk with room"
        ))
    }

    /// Label of a metric.
    fn cause(&self) -> &'static str {
        match self {
            SpoolError::Full(_) => "full",
            SpoolError::Failed(_) => "disk",
        }
    }
}

/// What keeps it from taking anything.
#[derive(Default)]
struct Fault {
    why: Option<String>,
    is_said: bool,
    seldom: Seldom,
}

/// Dropping it finishes what was handed over.
pub struct Spool {
    calls: Option<mpsc::Sender<Call>>,
    thread: Option<JoinHandle<()>>,
    records: watch::Receiver<u64>,
    /// The bus is away: notifications go here without asking it.
    active: watch::Sender<bool>,
    /// Topics that were not there, and when they are tried again.
    missing: Mutex<BTreeMap<Topic, Instant>>,
    /// Why it took nothing the last time.
    fault: Mutex<Fault>,
    metrics: SpoolMetrics,
    directory: PathBuf,
    bytes_max: u64,
}

impl Spool {
    pub fn open(config: &config::Spool, metrics: &Metrics) -> Result<Arc<Spool>, OpenError> {
        let held = Held::take(&config.path, "spool.lock")?;
        let metrics = SpoolMetrics::new(metrics);
        let unusable = |error: &dyn Display| SpoolError::unusable(&config.path, &error);
        let file = File::open(&config.path, config.bytes_max).map_err(|error| unusable(&error))?;
        let (calls, inbox) = mpsc::channel(limits::SPOOL_QUEUE);
        let (told, records) = watch::channel(file.records);
        if file.records > 0 {
            tracing::info!(
                records = file.records,
                "the spool holds records of an earlier run: they are replayed"
            );
        }
        let writer = Writer {
            directory: config.path.clone(),
            bytes_max: config.bytes_max,
            file: Some(file),
            held,
            homeless: None,
            records: told,
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || writer.run(inbox))
            .map_err(|error| unusable(&error))?;
        Ok(Arc::new(Spool {
            calls: Some(calls),
            thread: Some(thread),
            records,
            active: watch::Sender::new(false),
            missing: Mutex::default(),
            fault: Mutex::default(),
            metrics,
            directory: config.path.clone(),
            bytes_max: config.bytes_max,
        }))
    }

    /// Returns once the record is on the disk. The router will look its id up: it must be marked `again`.
    pub async fn append(
        &self,
        priority: Priority,
        topic: Topic,
        record: Record,
    ) -> Result<(), SpoolError> {
        let entry = Entry {
            priority,
            topic,
            record: file::encode(record),
        };
        let result = self
            .told(self.call(|answer| Call::Append(entry, answer)))
            .await;
        if let Err(error) = &result {
            let labels = [priority.as_str(), error.cause()];
            self.metrics.refused.with_label_values(&labels).inc();
        }
        result
    }

    /// Tries the disk now and then, so that one that fails is known before it is needed, and one that works
    /// again while nobody sends anything.
    async fn try_for_ever(&self) {
        loop {
            let _ = self.told(self.call(Call::Try)).await;
            tokio::time::sleep(limits::SPOOL_TRY_EVERY).await;
        }
    }

    /// Whether the disk fails is kept. One that hangs fails too.
    async fn told(
        &self,
        done: impl Future<Output = Result<(), SpoolError>>,
    ) -> Result<(), SpoolError> {
        let done = tokio::time::timeout(limits::SPOOL_WAIT, done).await;
        let done = done.unwrap_or_else(|_| {
            let error = format!("no fsync within {} s", limits::SPOOL_WAIT.as_secs());
            Err(SpoolError::unusable(&self.directory, &error))
        });
        let fault = match &done {
            Err(SpoolError::Failed(why)) => Some(why.clone()),
            Ok(()) | Err(SpoolError::Full(_)) => None,
        };
        self.metrics.failing.set(i64::from(fault.is_some()));
        self.fault.lock().is_now(fault);
        done
    }

    /// Why it takes nothing, whatever its priority, and how to mend that.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().why.clone()
    }

    pub fn is_active(&self) -> bool {
        *self.active.borrow()
    }

    /// Topics that do not exist, though records wait for them.
    pub fn missing(&self) -> Vec<Topic> {
        self.missing.lock().keys().copied().collect()
    }

    /// Records that wait for the bus.
    pub fn records(&self) -> u64 {
        *self.records.borrow()
    }

    /// Of its bound, in percent.
    pub fn filled(&self) -> u64 {
        self.metrics.bytes.get() as u64 * 100 / self.bytes_max
    }

    /// Returns as soon as notifications go here.
    pub async fn activated(&self) {
        // The sender is ours: it can't be gone.
        let _ = self.active.subscribe().wait_for(|active| *active).await;
    }

    /// The bus did not take a record in time.
    pub fn activate(&self, error: &impl Display) {
        if !self.active.send_replace(true) {
            self.metrics.active.set(1);
            tracing::warn!(
                %error,
                spool = %self.directory.display(),
                "the bus takes nothing: notifications are spooled and replayed when it is back; look after Kafka, this ends by itself"
            );
        }
    }

    fn deactivate(&self) {
        if self.active.send_replace(false) {
            self.metrics.active.set(0);
            let records = self.records();
            tracing::info!(
                records,
                "the bus takes records again: the spool is replayed"
            );
        }
    }

    /// The way for what is critical.
    pub fn direct(
        &self,
        registry: SharedRegistry,
        store: SharedStore,
        gateways: Gateways,
    ) -> Direct {
        Direct::start(registry, store, gateways, self.metrics.clone())
    }

    async fn first(&self, records_max: usize, but: &[Topic]) -> Result<Vec<Waiting>, SpoolError> {
        self.call(|answer| Call::First(records_max, but.to_vec(), answer))
            .await
    }

    async fn remove(&self, rows: Vec<i64>) -> Result<(), SpoolError> {
        self.call(|answer| Call::Remove(rows, answer)).await
    }

    async fn call<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, SpoolError>>) -> Call,
    ) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        let calls = self.calls.as_ref().expect("taken only by drop");
        let ended = |_| SpoolError::Failed("its thread ended".into());
        calls
            .send(call(answer))
            .await
            .map_err(|_| SpoolError::Failed("its thread ended".into()))?;
        answered.await.map_err(ended)?
    }
}

impl Fault {
    /// On a disk that is almost full a small record may fit between two others: not each of them is said.
    fn is_now(&mut self, why: Option<String>) {
        match &why {
            Some(why) if !self.is_said && self.seldom.is_due() => {
                tracing::warn!("the spool can't be used: {why}");
                self.is_said = true;
            }
            None if self.is_said => {
                tracing::info!("the spool can be used again");
                self.is_said = false;
            }
            _ => {}
        }
        self.why = why;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the spool's thread panicked: what it had not answered is not kept");
        }
    }
}
