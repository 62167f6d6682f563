//! What either bus counts. Labels are topics without the namespace, calls and causes: all bounded.

use super::{BusError, Topic};
use crate::metrics::Metrics;
use prometheus::{IntCounterVec, IntGauge};

#[derive(Clone, Debug)]
pub(super) struct BusMetrics {
    produced: IntCounterVec,
    consumed: IntCounterVec,
    refused: IntCounterVec,
    rebalanced: IntCounterVec,
    pub(super) healthy: IntGauge,
}

impl BusMetrics {
    pub(super) fn new(metrics: &Metrics) -> BusMetrics {
        BusMetrics {
            produced: produced(metrics),
            consumed: metrics.counters(
                "bus_consumed_total",
                "Records read, repeats included, by topic.",
                &["topic"],
            ),
            refused: metrics.counters(
                "bus_failed_calls_total",
                "Calls of the bus that failed, by call and cause (unavailable passes by itself; too_large and no_topic never do).",
                &["call", "cause"],
            ),
            rebalanced: metrics.counters(
                "bus_rebalanced_partitions_total",
                "Partitions that came to or left group members of this process, by kind.",
                &["kind"],
            ),
            healthy: metrics.gauge("bus_healthy", "1 while the bus answers, else 0."),
        }
    }

    pub(super) fn produced(&self, topic: Topic, records: usize) {
        self.produced
            .with_label_values(&[&topic.suffix()])
            .inc_by(records as u64);
    }

    pub(super) fn consumed(&self, topic: Topic, records: usize) {
        self.consumed
            .with_label_values(&[&topic.suffix()])
            .inc_by(records as u64);
    }

    /// `kind` is `assigned` or `revoked`.
    pub(super) fn rebalanced(&self, kind: &'static str, partitions: usize) {
        self.rebalanced
            .with_label_values(&[kind])
            .inc_by(partitions as u64);
    }

    /// Counts a failure on its way out.
    pub(super) fn count<T>(
        &self,
        call: &'static str,
        result: Result<T, BusError>,
    ) -> Result<T, BusError> {
        if let Err(error) = &result {
            let cause = match error {
                BusError::Unavailable(_) => "unavailable",
                BusError::TooLarge { .. } => "too_large",
                BusError::NoTopic(_) => "no_topic",
            };
            self.refused.with_label_values(&[call, cause]).inc();
        }
        result
    }
}

/// The topic somebody has to look after is there before its first record: a rate sees only what grows.
fn produced(metrics: &Metrics) -> IntCounterVec {
    let produced = metrics.counters(
        "bus_produced_total",
        "Records made durable, by topic.",
        &["topic"],
    );
    produced.with_label_values(&[&Topic::Dlq.suffix()]);
    produced
}
