//! Outcomes that waited on the `delivery` topic because no dispatcher, or no store, was reachable.

use super::Tracker;
use crate::{
    bus::{Consumed, Topic},
    dispatcher::{
        metrics::DispatcherMetrics,
        outbox::Outbox,
        patience::{Patience, Stopped},
        worker::{Refused, Work},
    },
    envelope::{EnvelopeError, Remembered, read_outcomes},
};
use async_trait::async_trait;
use std::sync::Arc;

pub struct DeliveryTopic {
    pub tracker: Arc<Tracker>,
    pub outbox: Outbox,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
}

#[async_trait]
impl Work for DeliveryTopic {
    fn group(&self) -> &'static str {
        "tracker"
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Delivery]
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        let mut outcomes = Vec::new();
        // What went by memory is read by a group of its own, which waits for the registry.
        let outcomes_of = |consumed: &&Consumed| !Remembered::is(&consumed.record);
        for consumed in records.iter().filter(outcomes_of) {
            match read_outcomes(&consumed.record) {
                Ok(some) => outcomes.extend(some),
                Err(error @ EnvelopeError::Malformed { .. }) => {
                    self.outbox
                        .dead_letter(consumed, "value", &error.to_string())
                        .await?;
                }
                Err(error @ EnvelopeError::Unsupported { .. }) => {
                    let topic = consumed.at.topic.suffix();
                    tracing::warn!(%topic, %error, "record of a later release left alone");
                    self.metrics.unsupported.with_label_values(&[topic]).inc();
                }
            }
        }
        self.patience
            .until_done("outcomes", || self.tracker.apply(&outcomes))
            .await?;
        Ok(Vec::new())
    }
}
