//! Whether this dispatcher does its work: the admin port.
//!
//! Not ready until every part answered once, and whenever its own store does not. Afterwards a shared
//! part that is away makes it `degraded`: it still does what can be done, and taking it out of service
//! would not help.

use super::store::SharedStore;
use crate::{bus::SharedBus, metrics::Metrics, registry::SharedRegistry};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use std::{
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
    /// Every part answered once since the start.
    started: AtomicBool,
}

/// One look at the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// Parts that are away.
    pub away: Vec<&'static str>,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        match self.away.is_empty() {
            true => Ok(()),
            false => write!(f, "; away: {}", self.away.join(", ")),
        }
    }
}

impl Health {
    pub(super) fn new(bus: SharedBus, registry: SharedRegistry, store: SharedStore) -> Health {
        Health {
            bus,
            registry,
            store,
            started: AtomicBool::new(false),
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
        }
    }
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
    let Readiness { ready, away } = health.readiness();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (
        status,
        Json(json!({
            "ready": ready,
            "degraded": !away.is_empty(),
            "away": away,
        })),
    )
}
