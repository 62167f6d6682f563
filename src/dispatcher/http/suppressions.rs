//! Addresses that are not sent to: what tells of them, and a list for admin keys.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, QueryPairs, Whole, parse_limit},
    producer::Admin,
};
use crate::{
    dispatcher::{
        channel::email::events::{self, Signed},
        suppression::{Suppression, normal},
        unix_ms,
    },
    limits,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// Bounces and complaints, signed. Told twice, it says the same.
pub async fn tell(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Result<Json<Value>, ApiError> {
    let events = shared.channels.email_events();
    let events = events.ok_or_else(|| {
        ApiError::not_found("nothing is told of e-mail here: see email.events_secret_file")
    })?;
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let signed = Signed {
        id: header("webhook-id"),
        at: header("webhook-timestamp"),
        signatures: header("webhook-signature"),
    };
    let now_ms = unix_ms();
    let verified = events.verify(signed, &body, now_ms);
    verified.map_err(|error| ApiError::unsigned(error.to_string()))?;
    let told = events::read(&body, now_ms)?;
    let counter = &shared.metrics.email_events;
    counter
        .with_label_values(&["ignored"])
        .inc_by(told.ignored as u64);
    for suppression in &told.suppressions {
        counter
            .with_label_values(&[suppression.cause.as_str()])
            .inc();
    }
    let count = told.suppressions.len();
    shared.store.suppress(told.suppressions).await?;
    Ok(Json(
        json!({ "suppressed": count, "ignored": told.ignored }),
    ))
}

#[derive(Deserialize)]
pub struct ListQuery {
    limit: Option<String>,
    cursor: Option<String>,
}

/// In an order of the store's own.
pub async fn list(
    State(shared): State<Shared>,
    _: Admin,
    QueryPairs(query): QueryPairs<ListQuery>,
) -> Result<Json<Value>, ApiError> {
    let limit = parse_limit(query.limit.as_deref(), limits::PAGE_ITEMS)?;
    let after = query.cursor.as_deref();
    let page = shared.store.suppressions(after, limit).await?;
    let is_full = page.len() == limit;
    let next = page.last().filter(|_| is_full).map(|last| &last.address);
    let items: Vec<Value> = page.iter().map(describe).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

pub async fn show(
    State(shared): State<Shared>,
    _: Admin,
    PathText(address): PathText,
) -> Result<Json<Value>, ApiError> {
    let found = shared.store.suppressed(&[normal(&address)]).await?;
    let found = found.into_iter().next().flatten();
    found
        .map(|suppression| Json(describe(&suppression)))
        .ok_or_else(unknown)
}

/// It is sent to again from now on.
pub async fn remove(
    State(shared): State<Shared>,
    _: Admin,
    PathText(address): PathText,
) -> Result<StatusCode, ApiError> {
    match shared.store.unsuppress(&normal(&address)).await? {
        true => {
            tracing::info!("an address is sent to again");
            Ok(StatusCode::NO_CONTENT)
        }
        false => Err(unknown()),
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("this address is not suppressed")
}

pub fn describe(suppression: &Suppression) -> Value {
    json!({
        "address": suppression.address,
        "cause": suppression.cause.as_str(),
        "reason": suppression.reason,
        "at": suppression.at_ms,
    })
}
