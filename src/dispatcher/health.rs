//! Whether this dispatcher does its work: the admin port.
//!
//! Not ready whenever a store of its own does not answer. A shared part that is away, or a worker that does not move,
//! makes it `degraded`, from its start on: it still does what can be done (with the bus away it spools), and
//! taking it out of service would not help.

use super::{spool::Spool, store::SharedStore};
use crate::{
    bus::{SharedBus, Topic},
    limits,
    metrics::Metrics,
    registry::SharedRegistry,
    serve::{Readiness, in_words},
};
use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// What a cause is named for, beside workers.
const PARTS: [&str; 4] = ["bus", "registry", "store", "spool"];

/// What goes on, and what does not.
const WITHOUT_STORE: &str = "nothing is stored or routed; what is posted waits on the bus, or gets 503 where it needs \
                             the store at once (a key not seen before, Idempotency-Key, schedule_at, a segment)";

pub struct Health {
    bus: SharedBus,
    registry: SharedRegistry,
    store: SharedStore,
    spool: Option<Arc<Spool>>,
    /// Workers that do not keep up, and why.
    slow: Mutex<BTreeMap<&'static str, String>>,
}

impl Health {
    pub(super) fn new(
        bus: SharedBus,
        registry: SharedRegistry,
        store: SharedStore,
        spool: Option<Arc<Spool>>,
    ) -> Health {
        Health {
            bus,
            registry,
            store,
            spool,
            slow: Mutex::default(),
        }
    }

    /// Why the worker does not keep up; `None` once it does. Logged when it comes and when it goes.
    pub(super) fn worker(&self, group: &'static str, slow: Option<String>) {
        let mut workers = self.slow.lock();
        match slow {
            Some(why) => {
                if !workers.contains_key(group) {
                    tracing::warn!(worker = group, "{why}");
                }
                workers.insert(group, why);
            }
            None => {
                if workers.remove(group).is_some() {
                    tracing::info!(worker = group, "keeps up");
                }
            }
        }
    }

    /// Workers that do not keep up, and why. What they read is shared, so no other process would do better.
    pub fn slow(&self) -> BTreeMap<&'static str, String> {
        self.slow.lock().clone()
    }

    /// Read when it is asked for.
    pub(super) fn measure(self: &Arc<Self>, metrics: &Metrics) {
        let health = self.clone();
        let help = "1 while this dispatcher does its work";
        metrics.computed("dispatcher_ready", help, move || {
            i64::from(health.readiness().ready)
        });
        let health = self.clone();
        let help =
            "1 while this cause is present in the dispatcher (worker: one or more do not keep up)";
        metrics.computed_by("dispatcher_degraded", help, "cause", move || {
            let causes = health.readiness().causes;
            let parts = PARTS.map(|part| (part, causes.contains_key(part)));
            let slow = ("worker", !health.slow().is_empty());
            let all = parts.into_iter().chain([slow]);
            all.map(|(cause, is_there)| (cause, f64::from(u8::from(is_there))))
                .collect()
        });
    }

    fn store_away(&self) -> Option<String> {
        let (what, look) = match (self.store.missing(), self.store.is_shared()) {
            _ if self.store.healthy() => return None,
            (Some(why), _) => {
                return Some(format!(
                    "{why}; {WITHOUT_STORE} until it is found, it is looked for every second"
                ));
            }
            (None, true) => (
                "the store does not answer at quorum",
                "the nodes of store.datacenter",
            ),
            (None, false) => ("the store does not answer", "the disk of store.path"),
        };
        Some(format!("{what}: {WITHOUT_STORE}; check {look}"))
    }

    pub fn readiness(&self) -> Readiness {
        let away = |healthy: bool, text: &str| (!healthy).then(|| text.to_owned());
        let parts = [
            (
                "bus",
                away(
                    self.bus.healthy(),
                    "the bus does not answer: nothing is routed; check the brokers and kafka.brokers",
                ),
            ),
            (
                "registry",
                self.registry.fault().map(|why| {
                    format!("the registry is away: who is not known is looked for at every gateway ({why})")
                }),
            ),
            ("store", self.store_away()),
        ];
        let mut causes = self.slow();
        causes.extend(
            parts
                .into_iter()
                .filter_map(|(part, text)| Some((part, text?))),
        );
        let mut ready = self.store.healthy() || self.store.is_shared();
        if let Some(spool) = &self.spool {
            causes.extend(spooling(spool).map(|text| ("spool", text)));
            // Its own disk: others may take what this one can't.
            ready &= spool.fault().is_none() || !spool.is_active();
        }
        Readiness { ready, causes }
    }
}

/// What the spool is about, and who ends it.
fn spooling(spool: &Spool) -> Option<String> {
    let records = spool.records();
    let missing: Vec<String> = spool.missing().into_iter().map(Topic::suffix).collect();
    if let Some(why) = spool.fault() {
        return Some(format!("nothing can be spooled: {why}"));
    }
    if spool.is_active() {
        let filled = spool.filled();
        return Some(format!(
            "notifications wait on the disk, {records} of them, until the bus takes them; it is filled to {filled} %, and refuses low from {} % on; check the brokers, this ends by itself",
            limits::SPOOL_LOW_PERCENT
        ));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Some(format!(
            "what is spooled waits for topics that do not exist: {missing}; make them by `herald ctl topics --apply`"
        ));
    }
    (records > 0)
        .then(|| format!("{records} notifications are replayed to the bus; this ends by itself"))
}

pub(super) fn router(health: Arc<Health>, metrics: Metrics) -> Router {
    let paths = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(health)
        .route(
            "/metrics",
            get(async move || {
                let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
                (kind, metrics.render())
            }),
        );
    in_words(paths)
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    health.readiness()
}
