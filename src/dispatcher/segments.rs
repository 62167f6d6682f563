//! To a segment: its users a batch at a time, each a record of `raw` under the one id.
//!
//! Invariants:
//! * a batch is written down once the bus has it: a crash in between produces it again, which its id tells;
//! * a large segment leaves room for others: it goes at a bounded rate, whoever has it.

use super::{
    erasure::Erasures,
    intake::GENERATION,
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    store::{SegmentSend, SendProgress, SharedStore},
    unix_ms,
};
use crate::{
    bus::{Record, Target, Topic},
    envelope::Head,
    ids::UserId,
    limits,
};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub struct SegmentWorker {
    pub store: SharedStore,
    pub outbox: Outbox,
    pub erasures: Erasures,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
}

impl SegmentWorker {
    pub async fn run(self, shutdown: CancellationToken) -> &'static str {
        let working = async {
            while let Ok(worked) = self.take().await {
                if !worked {
                    tokio::time::sleep(limits::SCHEDULE_EVERY).await;
                }
            }
        };
        shutdown.run_until_cancelled(working).await;
        "segments"
    }

    /// Answers whether there was one.
    async fn take(&self) -> Result<bool, Stopped> {
        let take = || self.store.take_send(unix_ms(), lease_ms());
        let taken = self.patience.until_done("take_send", take).await?;
        let Some(send) = taken else { return Ok(false) };
        self.erasures.known(&self.patience).await?;
        self.spread(send).await?;
        Ok(true)
    }

    async fn spread(&self, mut send: SegmentSend) -> Result<(), Stopped> {
        let (began, before) = (Instant::now(), send.sent);
        loop {
            let page = || {
                let (segment, after) = (send.segment, send.after.as_ref());
                self.store
                    .segment_users(segment, after, limits::FAN_OUT_CHUNK)
            };
            let users = self.patience.until_done("segment_users", page).await?;
            self.outbox.send(self.records(&send, &users)).await?;
            send.sent += users.len() as u64;
            self.metrics.segment_users.inc_by(users.len() as u64);
            send.after = users.last().cloned().or(send.after);
            if users.len() < limits::FAN_OUT_CHUNK {
                send.state = self.end(&send).await?;
                // A name that nobody needs any more.
                send.after = None;
            }
            let advance = || self.store.advance_send(&send, lease_ms());
            let goes_on = self.patience.until_done("advance_send", advance).await?;
            if !goes_on || send.state != SendProgress::Running {
                return Ok(());
            }
            tokio::time::sleep_until(began + pace(&send, before)).await;
        }
    }

    /// A segment that was removed meanwhile did not get it to its end.
    async fn end(&self, send: &SegmentSend) -> Result<SendProgress, Stopped> {
        let segment = || self.store.segment(send.segment);
        if self
            .patience
            .until_done("segment", segment)
            .await?
            .is_some()
        {
            return Ok(SendProgress::Done);
        }
        let (id, sent, of) = (send.id, send.sent, send.users);
        tracing::warn!(%id, sent, of, "the segment was removed while it was sent to");
        Ok(SendProgress::Cancelled)
    }

    fn records(&self, send: &SegmentSend, users: &[UserId]) -> Vec<(Target, Record)> {
        let head = Head::read(&send.record).ok();
        let is_wanted = |user: &&UserId| {
            let dropped = head
                .as_ref()
                .is_some_and(|head| self.erasures.drops("segment", user, head, None));
            !dropped
        };
        let wanted = users.iter().filter(is_wanted);
        let record = wanted.map(|user| {
            let key = Bytes::copy_from_slice(user.as_str().as_bytes());
            let record = Record {
                key,
                ..send.record.clone()
            };
            (Target::Keyed(Topic::Raw(GENERATION)), record)
        });
        record.collect()
    }
}

/// When what was sent since the beginning may have been sent.
fn pace(send: &SegmentSend, before: u64) -> Duration {
    // It may have grown since it was accepted.
    match send.users.max(send.sent) < limits::SEGMENT_LARGE {
        true => Duration::ZERO,
        false => Duration::from_secs_f64((send.sent - before) as f64 / limits::SEGMENT_PER_S),
    }
}

fn lease_ms() -> u64 {
    unix_ms() + limits::SCHEDULE_LEASE.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NotificationId, SegmentId};

    #[test]
    fn a_large_segment_goes_at_its_rate_and_a_small_one_as_fast_as_it_can() {
        let send = |users, sent| SegmentSend {
            id: NotificationId::generate(),
            segment: SegmentId::generate(),
            record: Record::default(),
            users,
            sent,
            after: None,
            state: SendProgress::Running,
        };
        assert_eq!(pace(&send(99_999, 50_000), 0), Duration::ZERO);
        assert_eq!(pace(&send(100_000, 50_000), 0), Duration::from_secs(1));
        // What another dispatcher sent before took its time there.
        let went_on = send(1_000_000, 175_000);
        assert_eq!(pace(&went_on, 150_000), Duration::from_millis(500));
    }
}
