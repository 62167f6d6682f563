//! Whether this dispatcher does its work: the admin port.
//!
//! Not ready until every part answered once, and whenever its own store does not. Afterwards a shared
//! part that is away, or a worker that does not move, makes it `degraded`: it still does what can be done,
//! and taking it out of service would not help.

use super::{spool::Spool, store::SharedStore};
use crate::{
    bus::{SharedBus, Topic},
    metrics::Metrics,
    registry::SharedRegistry,
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub struct Health {
    bus: SharedBus,
    registry: SharedRegistry,
    store: SharedStore,
    spool: Option<Arc<Spool>>,
    /// Every part answered once since the start.
    started: AtomicBool,
    /// Workers that do not keep up, and why.
    slow: Mutex<BTreeMap<&'static str, String>>,
}

/// One look at the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// Parts that are away.
    pub away: Vec<&'static str>,
    /// Workers that do not keep up, and why. What they read is shared, so no other process would do better.
    pub slow: BTreeMap<&'static str, String>,
    /// The spool is in use, or has still to be replayed.
    pub spool: Option<Spooling>,
}

/// What the spool is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spooling {
    /// New notifications go there; else only replay is left.
    pub active: bool,
    pub records: u64,
    /// Why it takes nothing, and how to mend that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Topics that do not exist, though records wait for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_topics: Vec<String>,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        if !self.away.is_empty() {
            write!(f, "; away: {}", self.away.join(", "))?;
        }
        if !self.slow.is_empty() {
            let slow: Vec<&str> = self.slow.keys().copied().collect();
            write!(f, "; slow: {}", slow.join(", "))?;
        }
        if let Some(spool) = &self.spool {
            let doing = if spool.active {
                "spooling"
            } else {
                "replaying"
            };
            write!(f, "; {doing}: {} records", spool.records)?;
            if let Some(fault) = &spool.fault {
                write!(f, ", it can't be used: {fault}")?;
            }
            if !spool.missing_topics.is_empty() {
                write!(f, ", missing: {}", spool.missing_topics.join(", "))?;
            }
        }
        Ok(())
    }
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
            started: AtomicBool::new(false),
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

    pub fn readiness(&self) -> Readiness {
        let parts = [
            ("bus", self.bus.healthy()),
            ("registry", self.registry.healthy()),
            ("store", self.store.healthy()),
        ];
        let away: Vec<&'static str> = parts
            .iter()
            .filter(|(_, healthy)| !healthy)
            .map(|(part, _)| *part)
            .collect();
        if away.is_empty() {
            self.started.store(true, Ordering::Relaxed);
        }
        Readiness {
            ready: self.started.load(Ordering::Relaxed) && !away.contains(&"store"),
            away,
            slow: self.slow.lock().clone(),
            spool: self.spool.as_ref().and_then(|spool| spooling(spool)),
        }
    }
}

fn spooling(spool: &Spool) -> Option<Spooling> {
    let (active, records, fault) = (spool.is_active(), spool.records(), spool.fault());
    let missing = spool.missing().into_iter();
    (active || records > 0 || fault.is_some()).then(|| Spooling {
        active,
        records,
        fault,
        missing_topics: missing.map(Topic::suffix).collect(),
    })
}

pub(super) fn router(health: Arc<Health>, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(health)
        .route(
            "/metrics",
            get(async move || {
                let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
                (kind, metrics.render())
            }),
        )
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    let Readiness {
        ready,
        away,
        slow,
        spool,
    } = health.readiness();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (
        status,
        Json(json!({
            "ready": ready,
            "degraded": !away.is_empty() || !slow.is_empty() || spool.is_some(),
            "away": away,
            "slow": slow,
            "spool": spool,
        })),
    )
}
