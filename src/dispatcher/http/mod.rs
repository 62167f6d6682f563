//! The HTTP API: producers, inboxes, and what `ctl` asks.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/notifications` | 202 `{id, durability}` |
//! | `DELETE /v1/notifications/{id}` (one that is scheduled) | 204 |
//! | `GET /v1/notifications/{id}/delivery?user=` | 200 `{id, states}` |
//! | `GET /v1/users/{user}` | 200 `{user, connected, routes, unread, recent}` |
//! | `GET /v1/users/{user}/notifications?limit&cursor` | 200 `{items, unread, next}` |
//! | `POST /v1/users/{user}/read` `{ids}` | 202 `{id, unknown}`, 404 when all are unknown |
//! | `GET /v1/users/{user}/devices` | 200 `{devices}` |
//! | `PUT`, `GET`, `DELETE /v1/users/{user}/devices/{id}` | 201 or 200 the device, 200 the device, 204 |
//! | `GET /v1/web_push` | 200 `{public_key}`, 404 where it is not configured |
//! | `POST /v1/sms/{provider}/{id}/{user}` (signed by the provider) | 204 |
//! | `GET`, `POST /unsubscribe/{token}` (no key) | 200 a page |
//! | `GET /v1/users/{user}/presence` | 200 `{user, connected, gateways}` |
//! | `POST /v1/users/{user}/disconnect` | 202 `{user, gateways}` |
//! | `GET`, `PUT`, `DELETE /v1/users/{user}/preferences` | 200 the preferences, 204 |
//! | `GET /v1/status` | 200 `{namespace, region, parts, gateways, shards}` |
//! | `GET /v1/dlq?topic&cause&all&limit&cursor` (admin keys) | 200 `{items, next}` |
//! | `GET`, `DELETE /v1/dlq/{partition}/{offset}` (admin keys) | 200 the record, 204 |
//! | `POST /v1/dlq/{partition}/{offset}/replay` (admin keys) | 202 `{topic}` |
//! | `POST /v1/email/events` (signed) | 200 `{suppressed, ignored}` |
//! | `GET /v1/suppressions?limit&cursor` (admin keys) | 200 `{items, next}` |
//! | `GET`, `DELETE /v1/suppressions/{address}` (admin keys) | 200 the suppression, 204 |
//! | `GET`, `POST /v1/api-keys` (admin keys) | 200 `{keys}`, 201 `{producer, admin, key}` |
//!
//! Every error is `{"error":{"code","field"?,"message"}}`, counted by its code. A body is read as JSON,
//! whatever its `Content-Type` says; a field that is `null` is as if not given. A delivery is 404 until
//! the notification is routed.

mod bounds;
mod cors;
mod dead_letters;
mod devices;
mod error;
mod extract;
mod gateways;
mod inbox;
mod keys;
mod notifications;
mod preferences;
mod presence;
mod producer;
mod sms;
mod status;
mod suppressions;
mod unsubscribe;

use super::Shared;
use crate::limits;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post},
};
use error::ApiError;

/// The whole API, and the pages beside it.
pub fn router(shared: Shared, origins: Vec<String>, pages: Option<Router>) -> Router {
    let small = || DefaultBodyLimit::max(limits::HTTP_BODY_BYTES);
    let api = Router::new()
        .route("/v1/notifications", post(notifications::submit))
        .route("/v1/notifications/{id}", delete(notifications::cancel))
        .route(
            "/v1/notifications/{id}/delivery",
            get(notifications::delivery),
        )
        .route("/v1/users/{user}", get(status::user))
        .route("/v1/users/{user}/notifications", get(inbox::page))
        .route("/v1/users/{user}/read", post(inbox::read).layer(small()))
        .route("/v1/users/{user}/devices", get(devices::list))
        .route(
            "/v1/users/{user}/devices/{id}",
            get(devices::show)
                .put(devices::put)
                .delete(devices::delete)
                .layer(small()),
        )
        .route("/v1/web_push", get(devices::web_push))
        .route(
            "/v1/sms/{provider}/{id}/{user}",
            post(sms::report).layer(small()),
        )
        .route(
            "/v1/users/{user}/preferences",
            get(preferences::show)
                .put(preferences::put)
                .delete(preferences::delete)
                .layer(small()),
        )
        .route(
            "/unsubscribe/{token}",
            get(unsubscribe::ask)
                .post(unsubscribe::unsubscribe)
                .layer(small()),
        )
        .route("/v1/users/{user}/presence", get(presence::show))
        .route(
            "/v1/users/{user}/disconnect",
            post(presence::disconnect).layer(small()),
        )
        .route("/v1/status", get(status::fleet))
        .route(
            "/v1/gateways/{id}/drain",
            get(gateways::progress)
                .post(gateways::drain)
                .delete(gateways::cancel)
                .layer(small()),
        )
        .route("/v1/rebalance", post(gateways::rebalance).layer(small()))
        .route(
            "/v1/email/events",
            post(suppressions::tell).layer(DefaultBodyLimit::max(limits::EMAIL_EVENTS_BYTES)),
        )
        .route("/v1/suppressions", get(suppressions::list))
        .route(
            "/v1/suppressions/{address}",
            get(suppressions::show).delete(suppressions::remove),
        )
        .route("/v1/dlq", get(dead_letters::list))
        .route(
            "/v1/dlq/{partition}/{offset}",
            get(dead_letters::show).delete(dead_letters::dismiss),
        )
        .route(
            "/v1/dlq/{partition}/{offset}/replay",
            post(dead_letters::replay).layer(small()),
        )
        .route(
            "/v1/api-keys",
            get(keys::list).post(keys::create).layer(small()),
        )
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
