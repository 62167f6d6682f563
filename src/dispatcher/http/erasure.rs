//! Forgetting a user, and what was done: for admin keys.

use super::{Shared, error::ApiError, extract::PathText, inbox::parse_user, producer::Admin};
use crate::{
    bus::{Target, Topic},
    dispatcher::{
        intake::{GENERATION, request::Refusal},
        unix_ms,
    },
    envelope::{Head, Kind, Priority},
    ids::NotificationId,
    limits,
};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;

/// Answers once the order is on the bus: what is accepted from here on is of after.
pub async fn order(
    State(shared): State<Shared>,
    _: Admin,
    PathText(user): PathText,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let user = parse_user(&user)?;
    let id = NotificationId::generate();
    let head = Head {
        kind: Kind::Erase,
        id,
        created_ms: unix_ms(),
        expires_ms: None,
        priority: Priority::High,
        region: shared.node.region.to_string(),
        again: false,
    };
    let record = head.into_record(user.as_str().to_owned(), "");
    let records = vec![(Target::Keyed(Topic::Raw(GENERATION)), record)];
    match timeout(limits::INTAKE_BUS_WAIT, shared.bus.produce(records)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err(Refusal::Away { part: "the bus" }.into()),
    }
    tracing::info!(%id, "a user is ordered to be forgotten");
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))))
}

/// `pending` from when its router has read the order, then what was done.
pub async fn show(
    State(shared): State<Shared>,
    _: Admin,
    PathText(user): PathText,
) -> Result<Json<Value>, ApiError> {
    let user = parse_user(&user)?;
    let Some((erasure, proof)) = shared.store.erasure(&user).await? else {
        let message = "no order to forget this user is known, or not yet";
        return Err(ApiError::not_found(message));
    };
    let state = match &proof {
        None => "pending",
        Some(_) => "done",
    };
    // As it was written when it was done.
    let proof = proof.and_then(|proof| RawValue::from_string(proof).ok());
    Ok(Json(json!({
        "user": user,
        "id": erasure.id,
        "ordered_at": erasure.id.unix_ms(),
        "state": state,
        "proof": proof,
    })))
}
