//! Addresses that are not sent to: what tells of them, and a list for admin keys.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, QueryPairs, Whole, parse_limit},
    producer::Admin,
};
use crate::{
    dispatcher::{
        channel::email::{
            events::{self, Events, Signed, Told},
            sns::{Given, SnsError},
        },
        suppression::{self, Report, Suppression, normal},
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

/// Bounces and complaints, signed. What is told twice counts once.
pub async fn tell(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Result<Json<Value>, ApiError> {
    let events = shared.channels.email_events();
    let events = events.ok_or_else(|| {
        ApiError::not_found(
            "nothing is told of e-mail here: see email.events_secret_file and email.sns_topics",
        )
    })?;
    let now_ms = unix_ms();
    let (told, report) = match is_of_sns(&headers) {
        true => told_by_sns(events, &body, now_ms).await?,
        false => {
            let signed = signed(&headers);
            let verified = events.verify(signed, &body, now_ms);
            verified.map_err(|error| ApiError::unsigned(error.to_string()))?;
            let report = Report::new("webhook", signed.id, &body);
            (events::read(&body, now_ms)?, report)
        }
    };
    let counter = &shared.metrics.email_events;
    // What suppresses nobody need not be remembered.
    let report = report.filter(|_| !told.returned.is_empty());
    if let Some(report) = &report
        && report.is_known(&shared.store).await?
    {
        let count = told.returned.len() + told.ignored;
        counter
            .with_label_values(&["repeated"])
            .inc_by(count as u64);
        return Ok(Json(json!({ "suppressed": 0, "ignored": count })));
    }
    let (suppressions, erased) = suppression::left(&shared.store, told.returned).await?;
    for (event, count) in [("ignored", told.ignored), ("erased", erased)] {
        counter.with_label_values(&[event]).inc_by(count as u64);
    }
    for suppression in &suppressions {
        counter
            .with_label_values(&[suppression.cause.as_str()])
            .inc();
    }
    let (count, ignored) = (suppressions.len(), told.ignored + erased);
    shared.store.suppress(suppressions).await?;
    if let Some(report) = report {
        report.remember(&shared.store).await;
    }
    Ok(Json(json!({ "suppressed": count, "ignored": ignored })))
}

/// What a function between SNS and us has signed is not SNS's any more.
fn is_of_sns(headers: &HeaderMap) -> bool {
    headers.contains_key("x-amz-sns-message-type") && !headers.contains_key("webhook-signature")
}

fn signed(headers: &HeaderMap) -> Signed<'_> {
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    Signed {
        id: header("webhook-id"),
        at: header("webhook-timestamp"),
        signatures: header("webhook-signature"),
    }
}

async fn told_by_sns(
    events: &Events,
    body: &[u8],
    now_ms: u64,
) -> Result<(Told, Option<Report>), ApiError> {
    let sns = events.sns().ok_or_else(|| {
        ApiError::unsigned("no topic of Amazon SNS is listened to: see email.sns_topics")
    })?;
    Ok(match sns.take(body, now_ms).await? {
        Given::Report { id, topic, text } => {
            let report = Report::new(&topic, &id, text.as_bytes());
            (events::of_ses(&text, now_ms)?, report)
        }
        Given::Nothing => {
            let ignored = Told {
                ignored: 1,
                ..Told::default()
            };
            (ignored, None)
        }
    })
}

impl From<SnsError> for ApiError {
    fn from(error: SnsError) -> ApiError {
        match error {
            SnsError::Malformed(refusal) => refusal.into(),
            SnsError::Unsigned { .. } => ApiError::unsigned(error.to_string()),
            SnsError::Away { .. } => ApiError::unavailable(error.to_string()),
        }
    }
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
