//! What the dispatcher counts. Every refusal and every drop has a cause from a closed list.

use crate::metrics::Metrics;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

#[derive(Clone, Debug)]
pub struct DispatcherMetrics {
    /// Requests by result (`accepted` or the error's code) and priority.
    pub intake: IntCounterVec,
    /// From the parsed request to the answer.
    pub intake_s: Histogram,
    pub router_batches: IntCounter,
    pub router_records: IntCounter,
    /// One batch, from the first record read to the commit.
    pub router_batch_s: Histogram,
    /// From the broker's append of the `raw` record to the produced in-app record.
    pub routed_s: Histogram,
    /// Rows by kind and result (`stored`, `existing`).
    pub rows: IntCounterVec,
    /// What was decided for a row's in-app delivery.
    pub pushes: IntCounterVec,
    pub records_out: IntCounterVec,
    pub reroutes: IntCounterVec,
    pub dead_letters: IntCounterVec,
    pub unsupported: IntCounterVec,
    pub refused: IntCounterVec,
    pub outcomes: IntCounterVec,
    pub outcomes_refused: IntCounterVec,
    pub lookups: IntCounterVec,
    /// Notifications that went by memory, by what the look-up after it found.
    pub second_looks: IntCounterVec,
    pub sync: IntCounterVec,
    /// HTTP requests that were not served to their end, by cause.
    pub http_refused: IntCounterVec,
    pub retries: IntCounterVec,
    pub scheduled: IntCounterVec,
    pub unsubscribed: IntCounter,
    /// What was told of mails that a relay took.
    pub email_events: IntCounterVec,
    /// Users of segments that a notification went to.
    pub segment_users: IntCounter,
    /// What was of before its user's erasure and not taken any further, by where it was met.
    pub erased: IntCounterVec,
    /// Users who were forgotten.
    pub erasures: IntCounter,
}

impl DispatcherMetrics {
    pub fn new(metrics: &Metrics) -> DispatcherMetrics {
        DispatcherMetrics {
            intake: metrics.counters(
                "intake_total",
                "Notifications offered by producers, by result and priority.",
                &["result", "priority"],
            ),
            intake_s: metrics.latency("intake_seconds", "From the parsed request to the answer."),
            router_batches: metrics.counter("router_batches_total", "Batches routed."),
            router_records: metrics.counter("router_records_total", "Records of raw routed."),
            router_batch_s: metrics.latency(
                "router_batch_seconds",
                "One router batch, from the first record to the commit.",
            ),
            routed_s: metrics.latency(
                "routed_seconds",
                "From the broker's append to raw to the produced in-app record.",
            ),
            rows: metrics.counters(
                "rows_total",
                "Inbox rows by kind and result.",
                &["kind", "result"],
            ),
            pushes: metrics.counters(
                "pushes_total",
                "Decisions on in-app delivery of a row, by result.",
                &["result"],
            ),
            records_out: metrics.counters(
                "records_out_total",
                "Records produced by topic.",
                &["topic"],
            ),
            reroutes: metrics.counters(
                "reroutes_total",
                "Answers of not_here by what followed.",
                &["result"],
            ),
            dead_letters: metrics.counters(
                "dead_letters_total",
                "Records set aside on dlq, by source topic and cause.",
                &["topic", "cause"],
            ),
            unsupported: unsupported(metrics),
            refused: refused(metrics),
            outcomes: metrics.counters(
                "outcomes_total",
                "Outcomes accepted from gateways, by fate.",
                &["fate"],
            ),
            outcomes_refused: metrics.counters(
                "outcomes_refused_total",
                "Outcomes that were not taken, by cause (not_the_users: a client spoke of an id its user does not have).",
                &["cause"],
            ),
            lookups: lookups(metrics),
            second_looks: second_looks(metrics),
            sync: sync(metrics),
            email_events: metrics.counters(
                "email_events_total",
                "Bounces and complaints told of, by what followed (hard_bounce and complaint suppress an address; erased: its user is forgotten, and it is not; repeated: told before; ignored).",
                &["event"],
            ),
            unsubscribed: metrics.counter(
                "unsubscribed_total",
                "Types of e-mail that their receivers ended by the link in a mail.",
            ),
            http_refused: metrics.counters(
                "http_refused_total",
                "HTTP requests answered with an error, by its code.",
                &["cause"],
            ),
            retries: retries(metrics),
            scheduled: scheduled(metrics),
            segment_users: segment_users(metrics),
            erased: erased(metrics),
            erasures: metrics.counter("erasures_total", "Users who were forgotten."),
        }
    }
}

fn sync(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "sync_total",
        "Syncs answered, by result (recovered, or why not).",
        &["result"],
    )
}

fn retries(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "retries_total",
        "Steps of the dispatcher's workers that had to be tried again.",
        &["step"],
    )
}

fn scheduled(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "scheduled_total",
        "Notifications to be sent later, by what became of them (accepted, entered, cancelled).",
        &["result"],
    )
}

fn segment_users(metrics: &Metrics) -> IntCounter {
    metrics.counter(
        "segment_users_total",
        "Users of segments that a notification went to.",
    )
}

fn erased(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "erased_dropped_total",
        "Records dropped because their user was erased since, by where they were met.",
        &["at"],
    )
}

fn unsupported(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "unsupported_total",
        "Records of a later release that were left alone, by source topic.",
        &["topic"],
    )
}

fn refused(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "partitions_refused_total",
        "Partitions that stand since a position went back in them, by topic.",
        &["topic"],
    )
}

fn lookups(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "lookups_total",
        "Users looked up for routing, by where the answer came from.",
        &["source"],
    )
}

fn second_looks(metrics: &Metrics) -> IntCounterVec {
    metrics.counters(
        "second_looks_total",
        "Notifications routed from memory, by what followed once the registry answered (rerouted: the user was elsewhere too).",
        &["result"],
    )
}

/// Of shards that no gateway owns.
#[derive(Clone, Debug)]
pub struct FinisherMetrics {
    /// Shards held now.
    pub holding: IntGauge,
    /// Records read there, by result.
    pub records: IntCounterVec,
}

impl FinisherMetrics {
    pub fn new(metrics: &Metrics) -> FinisherMetrics {
        FinisherMetrics {
            holding: metrics.gauge(
                "finishing_shards",
                "Shards without a gateway that this dispatcher reads to their end now.",
            ),
            records: metrics.counters(
                "finished_total",
                "Records read from shards without a gateway, by result (not_here: looked for elsewhere).",
                &["result"],
            ),
        }
    }
}
