//! What is to be sent later enters the bus when it is due, as the record that intake made of it.
//!
//! Invariants:
//! * whoever takes a due one has it for a while, and it is gone only once the bus has it: a dispatcher that dies in
//!   between is followed by another, and what was produced twice is told by its id;
//! * what was taken once can't be cancelled any more: an answer that says so is never followed by a send.

use super::{
    erasure::Erasures,
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    store::{Scheduled, SharedStore},
    unix_ms,
};
use crate::{
    bus::{Record, Target},
    ids::NotificationId,
    limits,
};
use tokio_util::sync::CancellationToken;

pub struct Scheduler {
    pub store: SharedStore,
    pub outbox: Outbox,
    pub erasures: Erasures,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
}

impl Scheduler {
    pub async fn run(self, shutdown: CancellationToken) -> &'static str {
        while let Ok(entered) = self.enter_due().await {
            // More may be due already.
            if entered == limits::SCHEDULE_BATCH {
                continue;
            }
            let pause = tokio::time::sleep(limits::SCHEDULE_EVERY);
            if shutdown.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        "scheduler"
    }

    /// Answers how many.
    async fn enter_due(&self) -> Result<usize, Stopped> {
        let take = || {
            let now_ms = unix_ms();
            let until_ms = now_ms + limits::SCHEDULE_LEASE.as_millis() as u64;
            self.store
                .take_due(now_ms, until_ms, limits::SCHEDULE_BATCH)
        };
        let due = self.patience.until_done("take_due", take).await?;
        let ids: Vec<NotificationId> = due.iter().map(|one| one.id).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        self.erasures.known(&self.patience).await?;
        let wanted = |one: &Scheduled| !self.erasures.drops_record("schedule", &one.record);
        let record = |one: Scheduled| (Target::Keyed(one.topic), one.record);
        let records = due.into_iter().filter(wanted).map(record);
        let records: Vec<(Target, Record)> = records.collect();
        self.outbox.send(records).await?;
        self.patience
            .until_done("entered", || self.store.remove_scheduled(&ids))
            .await?;
        let counter = self.metrics.scheduled.with_label_values(&["entered"]);
        counter.inc_by(ids.len() as u64);
        Ok(ids.len())
    }
}
