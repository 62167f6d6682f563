//! What the spool counts.

use crate::metrics::Metrics;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

#[derive(Clone, Debug)]
pub struct SpoolMetrics {
    /// 1 while notifications go to the spool.
    pub active: IntGauge,
    /// 1 while the disk takes nothing.
    pub failing: IntGauge,
    pub records: IntGauge,
    pub bytes: IntGauge,
    pub replayed: IntCounter,
    pub refused: IntCounterVec,
    pub missing: IntGaugeVec,
    /// Its files were removed while in use.
    pub put_back: IntCounter,
    direct: IntCounterVec,
}

impl SpoolMetrics {
    pub fn new(metrics: &Metrics) -> SpoolMetrics {
        SpoolMetrics {
            active: metrics.gauge(
                "spool_active",
                "1 while the bus is away and notifications go to the spool.",
            ),
            failing: metrics.gauge(
                "spool_failing",
                "1 while nothing can be spooled: the disk fails, or is full.",
            ),
            records: metrics.gauge("spool_records", "Records that wait in the spool."),
            bytes: metrics.gauge("spool_bytes", "Bytes of the spool's file in use."),
            replayed: metrics.counter(
                "spool_replayed_total",
                "Records of the spool that the bus has.",
            ),
            refused: metrics.counters(
                "spool_refused_total",
                "Notifications the spool did not take, by priority and cause.",
                &["priority", "cause"],
            ),
            missing: metrics.gauges(
                "spool_topic_missing",
                "1 while records of the spool wait for this topic, which does not exist.",
                &["topic"],
            ),
            put_back: metrics.counter(
                "spool_put_back_total",
                "Times the spool's files were removed while in use, and put back.",
            ),
            direct: metrics.counters(
                "direct_total",
                "Critical notifications handed straight to gateways while the bus is away, by result.",
                &["result"],
            ),
        }
    }

    pub fn count_direct(&self, result: &str, users: usize) {
        let counter = self.direct.with_label_values(&[result]);
        counter.inc_by(users as u64);
    }
}
