//! Moves records from the delay topics back to their channels, each when its delay is over on the broker's clock.
//!
//! A record that is moved twice (a crash before the commit) is sent once: its claim says so. Each is looked at first: it may
//! not be wanted any more, or not now.

use super::super::{
    channel::Parcel,
    erasure::Erasures,
    fallback::{Check, Due},
    outbox::Outbox,
    patience::{Patience, Stopped},
    worker::{Refused, Work},
};
use crate::{
    bus::{Consumed, RETRY_DELAYS_S, Target, Topic},
    limits,
};
use async_trait::async_trait;

pub struct Delayed {
    pub outbox: Outbox,
    pub erasures: Erasures,
    pub patience: Patience,
    pub check: Check,
}

#[async_trait]
impl Work for Delayed {
    fn group(&self) -> &'static str {
        "retry"
    }

    fn topics(&self) -> Vec<Topic> {
        RETRY_DELAYS_S.into_iter().map(Topic::Retry).collect()
    }

    fn records_max(&self) -> usize {
        limits::RETRY_BATCH
    }

    fn due_ms(&self, record: &Consumed) -> u64 {
        match record.at.topic {
            Topic::Retry(delay_s) => record.appended_ms + u64::from(delay_s) * 1000,
            _ => 0,
        }
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        self.erasures.known(&self.patience).await?;
        let mut moved = Vec::with_capacity(records.len());
        let mut due = Vec::new();
        for consumed in records {
            if self.erasures.drops_record("retry", &consumed.record) {
                continue;
            }
            if let Some(link) = Due::read(consumed) {
                due.push(link);
                continue;
            }
            match Parcel::topic(&consumed.record) {
                Some(topic) => moved.push((Target::Keyed(topic), consumed.record.clone())),
                None => {
                    let reason = "its header `channel` names none";
                    self.outbox.dead_letter(consumed, "header", reason).await?;
                }
            }
        }
        if !due.is_empty() {
            moved.extend(self.check.decide(due).await?);
        }
        self.outbox.send(moved).await?;
        Ok(Vec::new())
    }
}
