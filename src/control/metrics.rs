//! What control counts. Labels are bounded: kinds, fates and causes, never ids.

use super::flights::Began;
use crate::{clock::unix_ms, envelope::Priority, metrics::Metrics};
use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

pub struct ControlMetrics {
    pub ready: IntGauge,
    pub degraded: IntGaugeVec,
    pub records: IntCounterVec,
    pub lag: IntGaugeVec,
    pub in_flight: IntGaugeVec,
    pub outcomes: IntCounterVec,
    pub outcomes_waiting: IntGauge,
    pub outcome_batches: IntCounterVec,
    delivery_latency: Histogram,
    in_app_latency: HistogramVec,
    pub registry_errors: IntCounterVec,
    pub registrations_owed: IntGauge,
    pub shed: IntCounterVec,
    pub behind: IntCounterVec,
    pub syncs: IntCounterVec,
    pub jobs_waiting: IntGauge,
    pub posts: IntCounterVec,
    pub tickets: IntGauge,
    pub unanswered: IntCounter,
    pub epoch: IntGauge,
    pub shard: IntGauge,
    pub comparison: ComparisonMetrics,
    pub registrations: IntCounter,
    pub leaving: LeavingMetrics,
}

/// What the registry lost of this host's users.
pub struct ComparisonMetrics {
    pub accuracy: Gauge,
    pub missing: IntCounter,
}

impl ComparisonMetrics {
    fn new(metrics: &Metrics) -> ComparisonMetrics {
        let accuracy = metrics.fraction(
            "registry_accuracy",
            "Share of this host's users that the registry held as it should, in the last full comparison; 1 before one",
        );
        accuracy.set(1.0);
        let missing = metrics.counter(
            "registry_missing_total",
            "Users that a comparison found missing in the registry, to be entered again",
        );
        ComparisonMetrics { accuracy, missing }
    }
}

/// How clients leave this host, or would.
pub struct LeavingMetrics {
    pub evicting: IntGauge,
    pub shardless: IntCounter,
    pub slot_s: Gauge,
}

impl ControlMetrics {
    pub fn new(metrics: &Metrics) -> ControlMetrics {
        let m = metrics;
        ControlMetrics {
            ready: m.gauge("ready", "1 while this host delivers"),
            degraded: m.gauges("degraded", "1 while this cause is present", &["cause"]),
            records: m.counters(
                "records_total",
                "Records of the shard and of broadcast, by kind and what was done",
                &["kind", "result"],
            ),
            lag: m.gauges(
                "shard_lag",
                "Records between the read position and the end of the partition",
                &["topic"],
            ),
            in_flight: m.gauges(
                "records_in_flight",
                "Records read whose outcome is not accepted yet",
                &["topic"],
            ),
            outcomes: m.counters(
                "outcomes_reported_total",
                "Outcomes accepted by a dispatcher or on `delivery`",
                &["fate"],
            ),
            outcomes_waiting: m.gauge(
                "outcomes_waiting",
                "Outcomes not yet on the way to a dispatcher",
            ),
            outcome_batches: m.counters(
                "outcome_batches_total",
                "Batches of outcomes by where they went, or why not",
                &["result"],
            ),
            delivery_latency: m.latency(
                "delivery_seconds",
                "From the record's consumption to the answer of the user's last device, where one was written to",
            ),
            in_app_latency: in_app_latency(m),
            registry_errors: m.counters(
                "registry_calls_failed_total",
                "Registry calls of control that failed",
                &["call"],
            ),
            registrations_owed: m.gauge(
                "registrations_owed",
                "Connected users the registry does not know of yet",
            ),
            shed: m.counters(
                "core_shed_total",
                "Messages dropped because a core's inbox stayed full",
                &["kind"],
            ),
            behind: m.counters(
                "behind_total",
                "Connections told to sync because something may have been missed",
                &["cause"],
            ),
            syncs: m.counters("syncs_total", "Sync answers by result", &["result"]),
            jobs_waiting: m.gauge(
                "syncs_waiting",
                "Syncs and posts of clients that wait for their turn",
            ),
            posts: m.counters("posts_total", "POST /sse answers by status", &["status"]),
            tickets: m.gauge("tickets", "Deliveries whose last fate is not known yet"),
            unanswered: m.counter(
                "tickets_unanswered_total",
                "Deliveries a core never answered; counted as deferred",
            ),
            epoch: m.gauge("epoch", "Epoch of this gateway's lease; 0 without one"),
            shard: m.gauge("shard", "Shard of this gateway; -1 without one"),
            comparison: ComparisonMetrics::new(metrics),
            registrations: m.counter(
                "registrations_total",
                "Users entered in the registry, again after a new epoch or a loss",
            ),
            leaving: LeavingMetrics::new(m),
        }
    }

    /// The user's last device has answered now.
    pub fn delivered(&self, began: &Began) {
        let taken = began.taken.elapsed();
        self.delivery_latency.observe(taken.as_secs_f64());
        let since_ms = unix_ms().saturating_sub(began.created_ms);
        let latency = &self.in_app_latency;
        let latency = latency.with_label_values(&[began.priority.as_str()]);
        latency.observe(since_ms as f64 / 1_000.0);
    }
}

/// Every priority is there before its first.
fn in_app_latency(m: &Metrics) -> HistogramVec {
    let latency = m.latencies(
        "in_app_seconds",
        "From the producer's request to the answer of the user's last device, where one was written to at once, by priority",
        &["priority"],
    );
    for priority in Priority::ALL {
        latency.with_label_values(&[priority.as_str()]);
    }
    latency
}

impl LeavingMetrics {
    fn new(m: &Metrics) -> LeavingMetrics {
        LeavingMetrics {
            evicting: m.gauge(
                "evicting_per_second",
                "Clients sent to other hosts in this second",
            ),
            shardless: m.counter(
                "shardless_drains_total",
                "Times this host began to send its clients away because all shards were owned",
            ),
            slot_s: m.fraction(
                "slot_seconds",
                "Window in which clients would come back were this host to vanish",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_written_out_in_names() {
        let metrics = Metrics::default();
        let _counted = ControlMetrics::new(&metrics);
        for name in metrics.render().lines().filter_map(|line| {
            let rest = line.strip_prefix("# TYPE ")?;
            rest.split(' ').next().map(str::to_owned)
        }) {
            let is_short = |word: &str| matches!(word, "s" | "ms" | "us" | "kb" | "mb");
            assert!(!name.split('_').any(is_short), "{name}");
        }
    }
}
