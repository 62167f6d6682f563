//! `POST /v1/notifications`, `DELETE /v1/notifications/{id}` and `GET /v1/notifications/{id}/delivery`.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, QueryPairs, unread},
    inbox::parse_user,
    producer::Producer,
};
use crate::{
    dispatcher::{
        intake::{
            Receipt,
            request::{Draft, Refusal},
        },
        store::{Cancelled, DeliveryState, StoreError},
    },
    envelope::Channel,
    ids::{NotificationId, UserId},
    limits,
};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub async fn submit(
    State(shared): State<Shared>,
    Producer(key): Producer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Receipt>), ApiError> {
    let draft = match body {
        Ok(body) => Draft::from_json(&body),
        Err(rejection) => {
            let most = limits::NOTIFICATION_LIST_BYTES;
            Err(unread(rejection, format!("a request has at most {most} B")))
        }
    };
    let idempotency_key = headers
        .get("idempotency-key")
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| Refusal::field("idempotency-key", "is not printable ASCII"))?;
    let accepted = shared
        .intake
        .accept(&key.producer, draft, idempotency_key)
        .await;
    Ok((StatusCode::ACCEPTED, Json(accepted?)))
}

/// Of one that is scheduled, until it is due; of one to a segment, until its last batch.
pub async fn cancel(
    State(shared): State<Shared>,
    producer: Producer,
    PathText(id): PathText,
) -> Result<StatusCode, ApiError> {
    let id = parse_id("id", &id)?;
    if let Some(scheduled) = shared.store.scheduled(id).await? {
        if !producer.owns(scheduled.producer()) {
            return Err(not_scheduled());
        }
        return match shared.intake.cancel(id).await? {
            Cancelled::Yes => Ok(StatusCode::NO_CONTENT),
            Cancelled::TooLate => Err(ApiError::conflict(
                "it is on its way: it can't be cancelled",
            )),
            Cancelled::Unknown => Err(not_scheduled()),
        };
    }
    // To a segment, then, if it is anything.
    let send = shared.store.segment_send(id).await?;
    if !send.is_some_and(|send| producer.owns(send.producer())) {
        return Err(not_scheduled());
    }
    match shared.store.cancel_send(id).await? {
        Cancelled::Yes => Ok(StatusCode::NO_CONTENT),
        Cancelled::TooLate => Err(ApiError::conflict(
            "it went to its whole segment, or was cancelled before: its progress says which",
        )),
        Cancelled::Unknown => Err(not_scheduled()),
    }
}

/// Of another producer it is as if there were none.
fn not_scheduled() -> ApiError {
    ApiError::not_found("no such notification is scheduled: it never was, or it was sent")
}

#[derive(Deserialize)]
pub struct DeliveryQuery {
    user: Option<String>,
}

/// A row without a state (nobody has reported on a broadcast yet) answers an empty list. Without any row
/// the id is unknown or not yet routed, which only time can tell apart.
pub async fn delivery(
    State(shared): State<Shared>,
    _: Producer,
    PathText(id): PathText,
    QueryPairs(query): QueryPairs<DeliveryQuery>,
) -> Result<Json<Value>, ApiError> {
    let id = parse_id("id", &id)?;
    let user = query.user.as_deref().map(parse_user).transpose()?;
    let states = shared
        .store
        .delivery(id, user.as_ref(), limits::DELIVERY_STATES)
        .await?;
    if states.is_empty()
        && let Some(due_ms) = shared.store.scheduled_due(id).await?
    {
        let none: [Value; 0] = [];
        return Ok(Json(
            json!({ "id": id, "states": none, "scheduled_at": due_ms }),
        ));
    }
    if states.is_empty() && !is_stored(&shared, id, user.as_ref()).await? {
        let message = "no such notification, or it is not routed yet";
        return Err(ApiError::not_found(message));
    }
    let states: Vec<Value> = states.iter().map(describe).collect();
    Ok(Json(json!({ "id": id, "states": states })))
}

async fn is_stored(
    shared: &Shared,
    id: NotificationId,
    user: Option<&UserId>,
) -> Result<bool, StoreError> {
    if let Some(user) = user
        && shared.store.row(user, id).await?.is_some()
    {
        return Ok(true);
    }
    Ok(shared.store.broadcast_position(id).await?.is_some())
}

pub fn parse_id(field: &str, text: &str) -> Result<NotificationId, ApiError> {
    let id = text.parse();
    id.map_err(|error: crate::ids::IdError| Refusal::field(field, error.to_string()).into())
}

pub fn describe(state: &DeliveryState) -> Value {
    let mut shown = json!({
        "user": state.user,
        "channel": state.channel,
        "state": state.state,
        "devices": state.devices,
        "gateway": state.gateway,
        "updated_at": state.updated_ms,
    });
    let sending = &state.sending;
    if state.channel == Channel::InApp {
        // Only where it is not shown live.
        if !sending.error.is_empty() {
            shown["error"] = json!(sending.error);
        }
        return shown;
    }
    let told = |text: &str| match text {
        "" => Value::Null,
        text => json!(text),
    };
    shown["attempts"] = json!(sending.attempts);
    shown["first_attempt_at"] = match sending.began_ms {
        0 => Value::Null,
        at => json!(at),
    };
    shown["error"] = told(&sending.error);
    shown["provider_id"] = told(&sending.reference);
    shown
}
