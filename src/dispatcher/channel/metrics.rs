//! What the channels count.

use super::Provider;
use crate::{
    envelope::{Channel, Priority},
    metrics::Metrics,
};
use prometheus::{HistogramVec, IntCounterVec};

#[derive(Clone, Debug)]
pub struct ChannelMetrics {
    /// Attempts at one device, by result.
    pub sends: IntCounterVec,
    pub send_s: HistogramVec,
    /// From the producer's request to the provider's answer.
    pub delivered_s: HistogramVec,
    pub claims: IntCounterVec,
    pub retries: IntCounterVec,
    /// Critical ones that were tried this often: somebody should know.
    pub many_attempts: IntCounterVec,
    /// Notifications that end without a send, by cause.
    pub failed: IntCounterVec,
    /// Parts of text messages that providers took.
    pub segments: IntCounterVec,
    /// What providers of text messages reported.
    pub reports: IntCounterVec,
    /// What came from a delay topic, by what followed; without retries that go on.
    pub fallbacks: IntCounterVec,
}

impl ChannelMetrics {
    pub fn new(metrics: &Metrics) -> ChannelMetrics {
        ChannelMetrics {
            sends: metrics.counters(
                "sends_total",
                "Attempts to send to one device, by result (sent, transient, permanent, gone, timeout) and priority.",
                &["channel", "provider", "priority", "result"],
            ),
            send_s: metrics.latencies(
                "send_seconds",
                "One attempt at a provider.",
                &["channel", "provider"],
            ),
            delivered_s: metrics.latencies(
                "delivered_seconds",
                "From the producer's request to the provider's answer, of what was sent.",
                &["channel", "priority"],
            ),
            claims: metrics.counters(
                "send_claims_total",
                "Claims before a send, by result (without: the registry was away).",
                &["channel", "result"],
            ),
            retries: metrics.counters(
                "send_retries_total",
                "Records put into a delay topic, by its delay in seconds.",
                &["channel", "delay_s"],
            ),
            many_attempts: many_attempts(metrics),
            failed: metrics.counters(
                "sends_failed_total",
                "Notifications that a channel gave up on, by class of the last error.",
                &["channel", "class"],
            ),
            segments: metrics.counters(
                "sms_segments_total",
                "Parts of text messages that providers took: what they are paid by.",
                &["provider"],
            ),
            reports: metrics.counters(
                "sms_reports_total",
                "Reports of providers on text messages, by status (delivered, undelivered, failed, sent, other, refused: not signed by the account).",
                &["provider", "status"],
            ),
            fallbacks: metrics.counters(
                "fallbacks_total",
                "Channels whose turn came later, by result (begins, acknowledged, switched_off, quiet, waits: outcomes are not all accepted).",
                &["channel", "result"],
            ),
        }
    }

    /// All of a provider's are there before its first: a rate sees only what grows.
    pub fn begin(&self, provider: &dyn Provider) {
        let (channel, name) = (provider.kind().channel().as_str(), provider.name());
        self.send_s.with_label_values(&[channel, name]);
        for priority in Priority::ALL.map(Priority::as_str) {
            self.delivered_s.with_label_values(&[channel, priority]);
            for result in RESULTS {
                let labels = [channel, name, priority, result];
                self.sends.with_label_values(&labels);
            }
        }
    }
}

/// What becomes of an attempt.
const RESULTS: [&str; 5] = ["sent", "transient", "permanent", "gone", "timeout"];

fn many_attempts(metrics: &Metrics) -> IntCounterVec {
    let attempts = metrics.counters(
        "critical_attempts_many_total",
        "Critical notifications that were tried ten times without success.",
        &["channel"],
    );
    for channel in [Channel::Push, Channel::Email, Channel::Sms] {
        attempts.with_label_values(&[channel.as_str()]);
    }
    attempts
}
