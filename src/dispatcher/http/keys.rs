//! `GET` and `POST /v1/api-keys`: producers' keys, for admin keys only.

use super::{Shared, error::ApiError, producer::Admin};
use crate::dispatcher::{api_keys, intake::request::Refusal, unix_ms};
use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    producer: String,
    #[serde(default)]
    admin: bool,
}

/// The key in clear is in this answer and nowhere else.
pub async fn create(
    State(shared): State<Shared>,
    _: Admin,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let new: NewKey =
        serde_json::from_slice(&body).map_err(|error| Refusal::BadJson(error.to_string()))?;
    let (clear, key) = api_keys::generate(&new.producer, new.admin, unix_ms())
        .map_err(|error| Refusal::field("producer", error.to_string()))?;
    shared.store.put_api_key(key).await?;
    tracing::info!(
        producer = new.producer,
        admin = new.admin,
        "an API key was made"
    );
    Ok((
        StatusCode::CREATED,
        Json(json!({ "producer": new.producer, "admin": new.admin, "key": clear })),
    ))
}

pub async fn list(State(shared): State<Shared>, _: Admin) -> Result<Json<Value>, ApiError> {
    let keys = shared.store.api_keys().await?;
    let keys: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "producer": key.producer,
                "admin": key.admin,
                "created_at": key.created_ms,
                // Enough to tell two keys of one producer apart, of no use as a key.
                "fingerprint": key.hash[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            })
        })
        .collect();
    Ok(Json(json!({ "keys": keys })))
}
