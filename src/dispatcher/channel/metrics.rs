//! What the channels count.

use super::Provider;
use crate::{
    envelope::{Channel, Priority},
    metrics::Metrics,
};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

#[derive(Clone, Debug)]
pub struct ChannelMetrics {
    /// Attempts at one device, by result.
    pub sends: IntCounterVec,
    pub send_s: HistogramVec,
    /// At a provider now.
    pub open: IntGaugeVec,
    /// From the producer's request to the provider's answer.
    pub delivered_s: HistogramVec,
    /// Devices that their provider called gone.
    pub gone: IntCounterVec,
    /// Whether it does so more often than usual.
    pub gone_unusual: IntGaugeVec,
    pub claims: IntCounterVec,
    pub retries: IntCounterVec,
    /// Critical ones that were tried this often: somebody should know.
    pub many_attempts: IntCounterVec,
    /// What a notification's last attempts led to.
    pub results: IntCounterVec,
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
            open: metrics.gauges(
                "sends_open",
                "Attempts that a provider has not answered yet.",
                &["channel", "provider"],
            ),
            delivered_s: metrics.latencies(
                "delivered_seconds",
                "From the producer's request to the provider's answer, of what was sent.",
                &["channel", "priority"],
            ),
            gone: metrics.counters(
                "devices_gone_total",
                "Devices that their provider called gone, by what became of them (forgotten, quarantined).",
                &["provider", "result"],
            ),
            gone_unusual: metrics.gauges(
                "devices_gone_unusual",
                "1 while a provider calls more devices gone than is usual: they are put in quarantine, not deleted.",
                &["provider"],
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
            results: results(metrics),
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
                "Channels whose turn came later, by result (begins, acknowledged, collapsed, switched_off, quiet, waits: outcomes are not all accepted).",
                &["channel", "result"],
            ),
        }
    }

    /// All of a provider's are there before its first: a rate sees only what grows.
    pub fn begin(&self, provider: &dyn Provider) {
        let (channel, name) = (provider.kind().channel().as_str(), provider.name());
        self.send_s.with_label_values(&[channel, name]);
        self.open.with_label_values(&[channel, name]);
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

/// Channels that a worker sends by.
const SENT_BY: [Channel; 3] = [Channel::Push, Channel::Email, Channel::Sms];

fn results(metrics: &Metrics) -> IntCounterVec {
    let results = metrics.counters(
        "channel_results_total",
        "Notifications that a channel's worker was done with, by result (sent: to all devices or some; again: later, for some or all; failed: given up, or nobody to send to).",
        &["channel", "priority", "result"],
    );
    for channel in SENT_BY.map(Channel::as_str) {
        for priority in Priority::ALL.map(Priority::as_str) {
            for result in ["sent", "again", "failed"] {
                results.with_label_values(&[channel, priority, result]);
            }
        }
    }
    results
}

fn many_attempts(metrics: &Metrics) -> IntCounterVec {
    let attempts = metrics.counters(
        "critical_attempts_many_total",
        "Critical notifications that were tried ten times without success.",
        &["channel"],
    );
    for channel in SENT_BY {
        attempts.with_label_values(&[channel.as_str()]);
    }
    attempts
}
