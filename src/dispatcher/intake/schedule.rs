//! What is to be sent later: kept in the store as the record it will be, until then cancellable.

use super::{
    Durability, Intake,
    request::{Refusal, Submission},
    too_large,
};
use crate::{
    dispatcher::store::{Cancelled, Scheduled, StoreError},
    ids::NotificationId,
    limits,
};

/// What is only just over is sent at once.
pub fn check(schedule_at: Option<u64>, now_ms: u64) -> Result<(), Refusal> {
    let Some(at) = schedule_at else {
        return Ok(());
    };
    let latest = now_ms + limits::SCHEDULE_AHEAD.as_millis() as u64;
    let earliest = now_ms.saturating_sub(limits::SCHEDULE_LATE.as_millis() as u64);
    let days = limits::SCHEDULE_AHEAD.as_secs() / (24 * 3600);
    match at {
        at if at > latest => Err(format!("is more than {days} days ahead")),
        at if at < earliest => Err("is over: Unix ms, or RFC 3339".into()),
        _ => Ok(()),
    }
    .map_err(|problem: String| Refusal::field("schedule_at", problem))
}

impl Intake {
    pub(super) async fn keep(
        &self,
        id: NotificationId,
        submission: &Submission,
        due_ms: u64,
    ) -> Result<Durability, Refusal> {
        // It may be entered twice, by a dispatcher that dies in between.
        let (topic, record) = self.record(id, submission, true);
        record.check_size(topic).map_err(|_| too_large())?;
        let scheduled = Scheduled {
            id,
            due_ms,
            topic,
            record,
        };
        let kept = self.store.schedule(scheduled).await;
        kept.map_err(|_| Refusal::Away { part: "the store" })?;
        self.count("accepted");
        Ok(Durability::Stored)
    }

    pub async fn cancel(&self, id: NotificationId) -> Result<Cancelled, StoreError> {
        let cancelled = self.store.cancel_scheduled(id).await?;
        if cancelled == Cancelled::Yes {
            self.count("cancelled");
        }
        Ok(cancelled)
    }

    fn count(&self, result: &str) {
        let counter = &self.metrics.scheduled;
        counter.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_soon_enough_and_in_the_right_unit() {
        let (now_ms, day_ms) = (1_798_131_600_000, 24 * 3_600_000);
        assert!(check(None, now_ms).is_ok());
        for at in [now_ms - 60_000, now_ms, now_ms + 29 * day_ms] {
            assert!(check(Some(at), now_ms).is_ok(), "{at}");
        }
        for at in [0, now_ms / 1000, now_ms + 31 * day_ms, now_ms * 1000] {
            assert!(check(Some(at), now_ms).is_err(), "{at}");
        }
    }
}
