//! Removes what is stored of users who are to be forgotten, once every dispatcher drops what still comes.

use super::{super::unix_ms, proof::Proof};
use crate::{
    dispatcher::{
        metrics::DispatcherMetrics,
        patience::{Patience, Stopped},
        store::{Erasure, Removed, SharedStore},
    },
    limits,
};
use tokio_util::sync::CancellationToken;

/// Any number of dispatchers may have one: what one has removed, the other does not find.
pub struct Eraser {
    pub store: SharedStore,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
}

impl Eraser {
    pub async fn run(self, shutdown: CancellationToken) -> &'static str {
        while self.carry_out().await.is_ok() {
            let pause = tokio::time::sleep(limits::ERASURES_EVERY);
            if shutdown.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        "eraser"
    }

    async fn carry_out(&self) -> Result<(), Stopped> {
        let settled_ms = limits::ERASURE_AFTER.as_millis() as u64;
        let open = || {
            let begun_before_ms = unix_ms().saturating_sub(settled_ms);
            self.store
                .open_erasures(begun_before_ms, limits::ERASURES_AT_ONCE)
        };
        let open = self.patience.until_done("open_erasures", open).await?;
        for erasure in open {
            let removed = self.remove(&erasure).await?;
            let proof = Proof::new(&erasure, removed, unix_ms());
            let text = proof.to_json();
            let end = || self.store.end_erasure(&erasure, &text);
            self.patience.until_done("end_erasure", end).await?;
            self.metrics.erasures.inc();
            tracing::info!(id = %erasure.id, "a user was forgotten");
        }
        Ok(())
    }

    async fn remove(&self, erasure: &Erasure) -> Result<Removed, Stopped> {
        let mut removed = Removed::default();
        loop {
            let erase = || self.store.erase(erasure);
            let step = self.patience.until_done("erase", erase).await?;
            if step.is_nothing() {
                return Ok(removed);
            }
            removed.add(step);
        }
    }
}
