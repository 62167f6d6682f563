//! The admin port: read-only. Whether this host lives, whether it delivers, what it counts, who is here.

use super::host::Host;
use crate::{
    ids::UserId,
    metrics::Metrics,
    serve::{in_words, refusal},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use std::sync::Arc;

#[derive(Clone)]
struct Admin {
    host: Arc<Host>,
    metrics: Metrics,
}

pub fn router(host: Arc<Host>, metrics: Metrics) -> Router {
    let paths = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .route("/connections/{user}", get(connections))
        .with_state(Admin { host, metrics });
    in_words(paths)
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    admin.host.health.readiness()
}

async fn render(State(admin): State<Admin>) -> impl IntoResponse {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], admin.metrics.render())
}

async fn connections(State(admin): State<Admin>, Path(user): Path<String>) -> Response {
    let user: UserId = match user.parse() {
        Ok(user) => user,
        Err(error) => {
            return refusal(StatusCode::BAD_REQUEST, "bad_target", &format!("{error}"));
        }
    };
    let epoch = admin.host.identity.borrow().0.clone();
    let here = admin.host.table.connections_of(&user);
    let connections: Vec<String> = here
        .into_iter()
        .map(|conn| admin.host.outboxes.connection_name(conn))
        .collect();
    let body = json!({
        "user": user,
        "gateway": epoch.to_string(),
        "registered": admin.host.table.is_registered(&user),
        "connections": connections,
    });
    Json(body).into_response()
}
