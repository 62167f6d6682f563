//! From the spool to the bus once it takes records again: critical first, then by age, at a bounded pace.
//! The same attempts are how the end of the mode is found out.

use super::{Spool, file::Waiting};
use crate::{
    bus::{BusError, SharedBus, Target},
    dispatcher::{
        outbox::Outbox,
        patience::{Patience, Stopped},
    },
    limits,
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Runs until `shutdown`; what is left then is replayed by the next start on this host.
pub async fn run(
    spool: Arc<Spool>,
    bus: SharedBus,
    outbox: Outbox,
    patience: Patience,
    shutdown: CancellationToken,
) -> &'static str {
    let replaying = async {
        loop {
            spool.has_work().await;
            let pause = match step(&spool, &bus, &outbox, &patience).await {
                Ok(pause) => pause,
                Err(Stopped) => return,
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = replaying => {}
        () = shutdown.cancelled() => {}
    }
    "spool"
}

/// Hands one batch to the bus; answers the pause to the next.
async fn step(
    spool: &Spool,
    bus: &SharedBus,
    outbox: &Outbox,
    patience: &Patience,
) -> Result<Duration, Stopped> {
    let records_max = match spool.is_active() {
        true => 1,
        false => limits::SPOOL_REPLAY_BATCH,
    };
    let first = || spool.first(records_max);
    let batch = patience.until_done("spool_read", first).await?;
    if batch.is_empty() {
        // Nothing could be kept, so there is nothing to try the bus with.
        if bus.healthy() {
            spool.deactivate();
        }
        return Ok(limits::SPOOL_PROBE_EVERY);
    }
    let rows: Vec<i64> = batch.iter().map(|waiting| waiting.row).collect();
    let bytes: usize = batch.iter().map(|waiting| waiting.record.bytes()).sum();
    let records: Vec<_> = batch.into_iter().map(Waiting::into_target).collect();
    match bus.produce(records.clone()).await {
        Ok(_) => {}
        // It sets aside what no topic takes; the others go.
        Err(BusError::TooLarge { .. }) => outbox.send(records).await?,
        Err(error) => {
            tracing::debug!(%error, "the spool waits for the bus");
            return Ok(limits::SPOOL_PROBE_EVERY);
        }
    }
    spool.deactivate();
    let replayed = rows.len();
    let remove = || spool.remove(rows.clone());
    patience.until_done("spool_remove", remove).await?;
    spool.metrics.replayed.inc_by(replayed as u64);
    if spool.records() == 0 {
        tracing::info!("the spool is empty: everything in it is on the bus");
    }
    let by_records = replayed as f64 / limits::SPOOL_REPLAY_PER_S as f64;
    let by_bytes = bytes as f64 / limits::SPOOL_REPLAY_BYTES_PER_S as f64;
    Ok(Duration::from_secs_f64(by_records.max(by_bytes)))
}

impl Spool {
    /// Returns when there is something to replay, or the bus to be tried.
    async fn has_work(&self) {
        let mut records = self.records.clone();
        tokio::select! {
            _ = records.wait_for(|records| *records > 0) => {}
            () = self.activated() => {}
        }
    }
}

impl Waiting {
    fn into_target(self) -> (Target, crate::bus::Record) {
        (Target::Keyed(self.topic), self.record)
    }
}
