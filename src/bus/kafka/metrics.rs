//! What librdkafka tells about itself, as metrics: its statistics, its errors, its log.

use super::{brokers::Brokers, link::Health, settings::Settings};
use crate::{
    bus::{Topic, metrics::BusMetrics},
    ids::Namespace,
    metrics::Metrics,
};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};
use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    statistics,
};
use std::{collections::BTreeSet, sync::Arc};

#[derive(Clone, Debug)]
pub(super) struct KafkaMetrics {
    pub(super) bus: BusMetrics,
    errors: IntCounterVec,
    brokers: IntGauge,
    brokers_up: IntGauge,
    queued: IntGaugeVec,
    lag: IntGaugeVec,
    prefetched: IntGaugeVec,
    skipped: IntCounterVec,
}

impl KafkaMetrics {
    pub(super) fn new(metrics: &Metrics) -> KafkaMetrics {
        KafkaMetrics {
            bus: BusMetrics::new(metrics),
            errors: metrics.counters(
                "kafka_errors_total",
                "Errors librdkafka reported by itself, by cause. It retries; see bus_failed_calls_total for what failed.",
                &["cause"],
            ),
            brokers: metrics.gauge("kafka_brokers", "Brokers the producer knows of."),
            brokers_up: metrics.gauge(
                "kafka_brokers_up",
                "Brokers the producer has a working connection to.",
            ),
            queued: metrics.gauges(
                "kafka_producer_queue",
                "Records waiting in the producer, by unit (messages, bytes).",
                &["unit"],
            ),
            lag: metrics.gauges(
                "kafka_consumer_lag",
                "Records behind the end of each partition this process reads, measured from the committed offset.",
                &["group", "topic", "partition"],
            ),
            prefetched: metrics.gauges(
                "kafka_prefetched_bytes",
                "Bytes fetched and not yet taken, by group and topic.",
                &["group", "topic"],
            ),
            skipped: skipped(metrics),
        }
    }

    pub(super) fn skipped(&self, topic: &str, records: u64) {
        self.skipped.with_label_values(&[topic]).inc_by(records);
    }
}

/// All topics are there before the first loss: a rate sees only what grows.
fn skipped(metrics: &Metrics) -> IntCounterVec {
    let skipped = metrics.counters(
        "bus_skipped_total",
        "Records that were gone before they were read (retention was faster than the reader), by topic.",
        &["topic"],
    );
    for topic in Topic::all() {
        skipped.with_label_values(&[topic.suffix()]);
    }
    skipped
}

/// Whose reports these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Metadata and watermarks.
    Plain,
    Producer,
    /// Group without its namespace.
    Consumer(String),
}

/// Takes what one client of librdkafka reports.
pub(super) struct Reports {
    role: Role,
    namespace: Namespace,
    metrics: KafkaMetrics,
    health: Arc<Health>,
    /// Label values this consumer has shown: (topic, partition). They go when the partition goes.
    shown: Mutex<BTreeSet<(String, String)>>,
    brokers: Arc<Brokers>,
}

impl Reports {
    pub(super) fn new(
        role: Role,
        namespace: &Namespace,
        metrics: &KafkaMetrics,
        health: &Arc<Health>,
        settings: &Settings,
    ) -> Reports {
        let lost = metrics.errors.with_label_values(&["no_brokers"]);
        Reports {
            role,
            namespace: namespace.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
            shown: Mutex::default(),
            brokers: Arc::new(Brokers::new(health.brokers(), settings, lost)),
        }
    }

    pub(super) fn failed(&self, error: &KafkaError) {
        let cause = cause(error.rdkafka_error_code());
        self.metrics.errors.with_label_values(&[cause]).inc();
        self.health.suspect(error.to_string());
    }

    pub(super) fn brokers(&self) -> &Arc<Brokers> {
        &self.brokers
    }

    fn producer_statistics(&self, statistics: &Statistics) {
        // Entries with a negative id are addresses to start from, not brokers.
        let brokers = statistics.brokers.values().filter(|b| b.nodeid >= 0);
        let (all, up) = brokers.fold((0, 0), |(all, up), broker| {
            (all + 1, up + i64::from(broker.state == "UP"))
        });
        self.metrics.brokers.set(all);
        self.metrics.brokers_up.set(up);
        let queued = |unit, value: u64| {
            let gauge = self.metrics.queued.with_label_values(&[unit]);
            gauge.set(value as i64);
        };
        queued("messages", statistics.msg_cnt);
        queued("bytes", statistics.msg_size);
    }

    fn consumer_statistics(&self, group: &str, statistics: &Statistics) {
        let prefix = format!("{}.", self.namespace);
        let mut shown = BTreeSet::new();
        for topic in statistics.topics.values() {
            let name = topic.topic.strip_prefix(&prefix).unwrap_or(&topic.topic);
            let mine = topic.partitions.values();
            let mine = mine.filter(|p| p.partition >= 0 && p.fetch_state == "active");
            let mut prefetched = 0;
            for partition in mine {
                prefetched += partition.fetchq_size;
                let number = partition.partition.to_string();
                if let Some(lag) = lag(partition) {
                    let gauge = self.metrics.lag.with_label_values(&[group, name, &number]);
                    gauge.set(lag);
                    shown.insert((name.to_owned(), number));
                }
            }
            let gauge = self.metrics.prefetched.with_label_values(&[group, name]);
            gauge.set(prefetched as i64);
        }
        let before = std::mem::replace(&mut *self.shown.lock(), shown.clone());
        self.hide(group, before.difference(&shown));
    }

    fn hide<'a>(&self, group: &str, gone: impl Iterator<Item = &'a (String, String)>) {
        for (topic, partition) in gone {
            // It may be another consumer's by now, which shows it again with its next statistics.
            let _ = self
                .metrics
                .lag
                .remove_label_values(&[group, topic, partition]);
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        if let Role::Consumer(group) = &self.role {
            self.hide(group, self.shown.lock().iter());
        }
    }
}

impl ClientContext for Reports {
    /// Its view of one connection is noise to an operator; what it means is said by [`Health`].
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.observe(&statistics);
        match &self.role {
            Role::Plain => {}
            Role::Producer => self.producer_statistics(&statistics),
            Role::Consumer(group) => self.consumer_statistics(group, &statistics),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let cause = cause(error.rdkafka_error_code());
        self.metrics.errors.with_label_values(&[cause]).inc();
        self.health.suspect(reason.to_owned());
    }
}

/// For clients that only ask; those that read have [`Side`](super::consumer::Side).
impl ConsumerContext for Reports {}

/// Of a group that never committed, the lag counts from where it reads.
fn lag(partition: &statistics::Partition) -> Option<i64> {
    let from = match partition.committed_offset {
        committed if committed >= 0 => committed,
        _ => partition.app_offset,
    };
    (from >= 0 && partition.hi_offset >= 0).then(|| (partition.hi_offset - from).max(0))
}

/// A few words for many codes: a label must stay bounded.
fn cause(code: Option<RDKafkaErrorCode>) -> &'static str {
    use RDKafkaErrorCode::*;
    match code {
        Some(AllBrokersDown | BrokerTransportFailure | Resolve | NodeUpdate) => "connection",
        Some(MessageTimedOut | OperationTimedOut | RequestTimedOut) => "timeout",
        Some(Authentication | SaslAuthenticationFailed | SSL) => "authentication",
        Some(TopicAuthorizationFailed | GroupAuthorizationFailed | ClusterAuthorizationFailed) => {
            "authorization"
        }
        Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition) => "no_topic",
        Some(NotCoordinator | CoordinatorNotAvailable | CoordinatorLoadInProgress) => "coordinator",
        Some(QueueFull) => "queue_full",
        _ => "other",
    }
}
