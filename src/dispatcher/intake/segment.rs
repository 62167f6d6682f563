//! To a segment: kept in the store as what is sent to each of its users, until the last of them has it.

use super::{
    Durability, Intake,
    audience::Audience,
    request::{Refusal, Submission},
    too_large,
};
use crate::{
    dispatcher::store::{SegmentSend, SendProgress},
    ids::{NotificationId, SegmentId},
    limits,
};

const AWAY: Refusal = Refusal::Away { part: "the store" };

impl Intake {
    /// A segment is its producer's own, and there when it is sent to.
    pub(super) async fn check_segment(
        &self,
        producer: &str,
        submission: &Submission,
    ) -> Result<(), Refusal> {
        let Audience::Segment(segment) = submission.audience else {
            return Ok(());
        };
        let found = self.store.segment(segment).await.map_err(|_| AWAY)?;
        let found = found.filter(|segment| segment.producer == producer);
        let Some(segment) = found else {
            return Err(Refusal::field("target.segment", "is no segment of yours"));
        };
        let ends_ms = segment.created_ms + limits::RETENTION_S * 1000;
        match submission.schedule_at.is_some_and(|at| at >= ends_ms) {
            true => Err(Refusal::field(
                "schedule_at",
                "is when the segment has ended",
            )),
            false => Ok(()),
        }
    }

    pub(super) async fn send_to_segment(
        &self,
        id: NotificationId,
        segment: SegmentId,
        submission: &Submission,
        from_ms: u64,
    ) -> Result<Durability, Refusal> {
        let (topic, record) = self.record(id, submission, true);
        record.check_size(topic).map_err(|_| too_large())?;
        let send = SegmentSend {
            id,
            segment,
            record,
            users: self.store.segment_size(segment).await.map_err(|_| AWAY)?,
            sent: 0,
            after: None,
            state: SendProgress::Running,
        };
        let begun = self.store.begin_send(&send, from_ms).await;
        begun.map_err(|_| AWAY)?;
        Ok(Durability::Stored)
    }
}
