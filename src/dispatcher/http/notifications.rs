//! `POST /v1/notifications` and `GET /v1/notifications/{id}/delivery`.

use super::{Shared, error::ApiError, inbox::parse_user, producer::Producer};
use crate::{
    dispatcher::{
        intake::{
            Receipt,
            request::{Draft, Refusal},
        },
        store::DeliveryState,
    },
    ids::NotificationId,
    limits,
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
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
    let draft = match &body {
        Ok(body) => Draft::from_json(body),
        Err(_) => Err(Refusal::TooLarge {
            field: "body".into(),
            problem: format!(
                "a request has at most {} B",
                limits::NOTIFICATION_LIST_BYTES
            ),
        }),
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

#[derive(Deserialize)]
pub struct DeliveryQuery {
    user: Option<String>,
}

/// Not yet routed, and unknown, look the same: no states.
pub async fn delivery(
    State(shared): State<Shared>,
    _: Producer,
    Path(id): Path<String>,
    Query(query): Query<DeliveryQuery>,
) -> Result<Json<Value>, ApiError> {
    let id = parse_id("id", &id)?;
    let user = query.user.as_deref().map(parse_user).transpose()?;
    let states = shared
        .store
        .delivery(id, user.as_ref(), limits::DELIVERY_STATES)
        .await?;
    let states: Vec<Value> = states.iter().map(describe).collect();
    Ok(Json(json!({ "id": id, "states": states })))
}

pub fn parse_id(field: &str, text: &str) -> Result<NotificationId, ApiError> {
    let id = text.parse();
    id.map_err(|error: crate::ids::IdError| Refusal::field(field, error.to_string()).into())
}

pub fn describe(state: &DeliveryState) -> Value {
    json!({
        "user": state.user,
        "channel": state.channel,
        "state": state.state,
        "devices": state.devices,
        "gateway": state.gateway,
        "updated_at": state.updated_ms,
    })
}
