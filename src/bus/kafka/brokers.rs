//! What a client of librdkafka is given while it runs: the configured brokers when it has none left to ask, and
//! credentials that were read again.
//!
//! A broker that its controller took for dead a moment tells the first who asks that the cluster has no
//! brokers. librdkafka (2.12.1) then drops all it knows, those it started from too, and has nobody to ask
//! until its process restarts (confluentinc/librdkafka#5301).

use super::settings::{Credentials, Settings, SharedCredentials};
use crate::sys;
use parking_lot::Mutex;
use prometheus::IntCounter;
use rdkafka::{ClientContext, Statistics, client::Client};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What one client knows.
pub(super) struct Brokers {
    configured: String,
    /// By the last statistics.
    none_left: AtomicBool,
    lost: IntCounter,
    /// As they are now, and as this client was told last.
    credentials: Option<SharedCredentials>,
    told: Mutex<Option<Arc<Credentials>>>,
}

impl Brokers {
    /// For a client that is made of these settings now.
    pub(super) fn new(configured: &str, settings: &Settings, lost: IntCounter) -> Brokers {
        let credentials = settings.credentials();
        Brokers {
            configured: configured.to_owned(),
            none_left: AtomicBool::new(false),
            lost,
            told: Mutex::new(credentials.as_ref().map(|held| held.load_full())),
            credentials,
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
        if let Some(credentials) = &self.credentials {
            self.tell(&credentials.load(), client);
        }
    }

    fn tell<C: ClientContext>(&self, credentials: &Arc<Credentials>, client: &Client<C>) {
        let mut told = self.told.lock();
        if told
            .as_ref()
            .is_none_or(|told| !Arc::ptr_eq(told, credentials))
        {
            *told = Some(credentials.clone());
            sys::set_credentials(client, &credentials.username, credentials.password.expose());
        }
    }
}
