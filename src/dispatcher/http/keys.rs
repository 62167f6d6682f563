//! `GET` and `POST /v1/api-keys`: producers' keys, for admin keys only.

use super::{Shared, error::ApiError, extract::Whole, producer::Admin};
use crate::dispatcher::{
    api_keys,
    intake::{fields::Fields, request::Refusal},
    unix_ms,
};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

/// The key in clear is in this answer and nowhere else.
pub async fn create(
    State(shared): State<Shared>,
    _: Admin,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let mut fields = Fields::read(&body)?;
    let producer: String = fields.demand("producer", "a string")?;
    let admin = fields.take("admin", "true or false")?.unwrap_or(false);
    fields.finish("a new key")?;
    let (clear, key) = api_keys::generate(&producer, admin, unix_ms())
        .map_err(|error| Refusal::field("producer", error.to_string()))?;
    shared.store.put_api_key(key).await?;
    tracing::info!(producer, admin, "an API key was made");
    Ok((
        StatusCode::CREATED,
        Json(json!({ "producer": producer, "admin": admin, "key": clear })),
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
