//! The HTTP API: producers, inboxes, and what `ctl` asks.
//!
//! `openapi.json` beside this file says what there is to ask and what is answered. It is written by hand: requests are read
//! field by field so that a refusal names the field, and a description derived from types would need these types a second
//! time. Tests keep it true: every path is in it, and every answer that a test gets is held against it.
//!
//! Every error is `{"error":{"code","field"?,"message"}}`, counted by its code. A body is read as JSON,
//! whatever its `Content-Type` says; a field that is `null` is as if not given. A delivery is 404 until
//! the notification is routed.

mod bounds;
mod cors;
mod dead_letters;
mod devices;
mod erasure;
mod error;
mod export;
mod extract;
mod gateways;
mod inbox;
mod keys;
mod notifications;
mod preferences;
mod presence;
mod producer;
mod quarantine;
mod segments;
mod sms;
mod spend;
mod status;
mod suppressions;
mod unsubscribe;

use crate::limits;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::header,
    middleware,
    response::IntoResponse,
    routing::{MethodRouter, delete, get, post},
};
use error::ApiError;
use std::sync::Arc;

/// Cloned for every request, by each layer: one count, and not one for each of its parts.
type Shared = Arc<super::Shared>;

/// `openapi.json`, as it is served.
const DOCUMENT: &str = include_str!("openapi.json");

/// The whole API, and the pages beside it.
pub fn router(shared: super::Shared, origins: Vec<String>, pages: Option<Router>) -> Router {
    let shared = Arc::new(shared);
    let paths = routes().into_iter();
    let api = paths
        .fold(Router::new(), |api, (path, methods)| {
            api.route(path, methods)
        })
        .layer(DefaultBodyLimit::max(limits::NOTIFICATION_LIST_BYTES))
        .with_state(shared.clone());
    let all = api
        .merge(pages.unwrap_or_default())
        .fallback(async || ApiError::not_found("no such path"))
        .method_not_allowed_fallback(async || ApiError::method())
        .layer(middleware::from_fn_with_state(shared, bounds::keep));
    // Outermost, so that preflights are answered before a path looks at the method.
    match origins.is_empty() {
        true => all,
        false => all.layer(middleware::from_fn_with_state(origins.into(), cors::answer)),
    }
}

type Route = (&'static str, MethodRouter<Shared>);

/// Every path there is; [`DOCUMENT`] describes each.
fn routes() -> Vec<Route> {
    let all = for_producers().into_iter().chain(for_operators());
    all.collect()
}

fn for_producers() -> Vec<Route> {
    let small = || DefaultBodyLimit::max(limits::HTTP_BODY_BYTES);
    vec![
        ("/v1/notifications", post(notifications::submit)),
        ("/v1/notifications/{id}", delete(notifications::cancel)),
        (
            "/v1/notifications/{id}/delivery",
            get(notifications::delivery),
        ),
        ("/v1/notifications/{id}/progress", get(segments::progress)),
        ("/v1/segments", post(segments::make).layer(small())),
        (
            "/v1/segments/{id}",
            get(segments::show).delete(segments::remove),
        ),
        ("/v1/segments/{id}/users", post(segments::add)),
        ("/v1/users/{user}", get(status::user)),
        ("/v1/users/{user}/notifications", get(inbox::page)),
        ("/v1/users/{user}/read", post(inbox::read).layer(small())),
        (
            "/v1/users/{user}/dismiss",
            post(inbox::dismiss).layer(small()),
        ),
        ("/v1/users/{user}/devices", get(devices::list)),
        (
            "/v1/users/{user}/devices/{id}",
            get(devices::show)
                .put(devices::put)
                .delete(devices::delete)
                .layer(small()),
        ),
        ("/v1/web_push", get(devices::web_push)),
        (
            "/v1/sms/{provider}/{id}/{user}",
            post(sms::report).layer(small()),
        ),
        (
            "/v1/users/{user}/preferences",
            get(preferences::show)
                .put(preferences::put)
                .delete(preferences::delete)
                .layer(small()),
        ),
        (
            "/unsubscribe/{token}",
            get(unsubscribe::ask)
                .post(unsubscribe::unsubscribe)
                .layer(small()),
        ),
        ("/v1/users/{user}/presence", get(presence::show)),
        (
            "/v1/users/{user}/disconnect",
            post(presence::disconnect).layer(small()),
        ),
        ("/openapi.json", get(document)),
    ]
}

/// What `ctl` asks, and those who run the relay.
fn for_operators() -> Vec<Route> {
    let small = || DefaultBodyLimit::max(limits::HTTP_BODY_BYTES);
    vec![
        ("/v1/status", get(status::fleet)),
        (
            "/v1/gateways/{id}/drain",
            get(gateways::progress)
                .post(gateways::drain)
                .delete(gateways::cancel)
                .layer(small()),
        ),
        ("/v1/rebalance", post(gateways::rebalance).layer(small())),
        (
            "/v1/email/events",
            post(suppressions::tell).layer(DefaultBodyLimit::max(limits::EMAIL_EVENTS_BYTES)),
        ),
        ("/v1/spend", get(spend::show)),
        ("/v1/suppressions", get(suppressions::list)),
        (
            "/v1/suppressions/{address}",
            get(suppressions::show).delete(suppressions::remove),
        ),
        (
            "/v1/users/{user}/devices/{id}/restore",
            post(quarantine::restore_one).layer(small()),
        ),
        (
            "/v1/quarantine/{kind}",
            get(quarantine::list).delete(quarantine::confirm),
        ),
        (
            "/v1/quarantine/{kind}/restore",
            post(quarantine::restore).layer(small()),
        ),
        (
            "/v1/users/{user}/erasure",
            get(erasure::show).post(erasure::order).layer(small()),
        ),
        ("/v1/users/{user}/export", get(export::show)),
        ("/v1/dlq", get(dead_letters::list)),
        (
            "/v1/dlq/{partition}/{offset}",
            get(dead_letters::show).delete(dead_letters::dismiss),
        ),
        (
            "/v1/dlq/{partition}/{offset}/replay",
            post(dead_letters::replay).layer(small()),
        ),
        (
            "/v1/api-keys",
            get(keys::list).post(keys::create).layer(small()),
        ),
    ]
}

async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn described() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_path_is_described_and_no_other() {
        let described = described();
        let described: BTreeSet<&str> = described["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let served: BTreeSet<&str> = routes().iter().map(|(path, _)| *path).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn the_document_is_of_this_version() {
        assert_eq!(described()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
