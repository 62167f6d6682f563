//! A client of librdkafka that has no broker left to ask is given the configured ones again.
//!
//! A broker that its controller took for dead a moment tells the first who asks that the cluster has no
//! brokers. librdkafka (2.12.1) then drops all it knows, those it started from too, and has nobody to ask
//! until its process restarts (confluentinc/librdkafka#5301).

use crate::sys;
use prometheus::IntCounter;
use rdkafka::{ClientContext, Statistics, client::Client};
use std::sync::atomic::{AtomicBool, Ordering};

/// What one client knows.
pub(super) struct Brokers {
    configured: String,
    /// By the last statistics.
    none_left: AtomicBool,
    lost: IntCounter,
}

impl Brokers {
    pub(super) fn new(configured: &str, lost: IntCounter) -> Brokers {
        Brokers {
            configured: configured.to_owned(),
            none_left: AtomicBool::new(false),
            lost,
        }
    }

    pub(super) fn observe(&self, statistics: &Statistics) {
        // The others are librdkafka's own: its group coordinator, its inner queue.
        let mut sources = statistics.brokers.values().map(|broker| &broker.source[..]);
        let any_left = sources.any(|source| matches!(source, "configured" | "learned"));
        self.none_left.store(!any_left, Ordering::Relaxed);
    }

    /// For whoever uses the client, before each use.
    pub(super) fn ensure<C: ClientContext>(&self, client: &Client<C>) {
        if self.none_left.swap(false, Ordering::Relaxed) {
            self.lost.inc();
            sys::add_brokers(client, &self.configured);
        }
    }
}
