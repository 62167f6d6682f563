//! A user's devices and addresses: what the channels beside in-app reach.

use super::{
    Shared,
    error::ApiError,
    extract::{PathPair, PathText, Whole},
    inbox::parse_user,
    producer::Producer,
};
use crate::{
    dispatcher::{
        devices::{Device, DeviceKind},
        intake::request::Refusal,
        store::Entered,
        suppression, unix_ms,
    },
    ids::{DeviceId, IdError, UserId},
    limits,
};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

/// 201 for a new one, 200 for one that replaces what had the id.
pub async fn put(
    State(shared): State<Shared>,
    _: Producer,
    PathPair(user, id): PathPair,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (user, id) = parse(&user, &id)?;
    let device = Device::from_json(user, id, &body, unix_ms())?;
    shared.channels.accept(&device)?;
    let (answer, entered) = (describe(&device), device.clone());
    let status = match shared.store.put_device(device).await? {
        Entered::Created => StatusCode::CREATED,
        Entered::Replaced => StatusCode::OK,
        Entered::Full => {
            let most = limits::DEVICES;
            let problem = format!(
                "the user has {most} devices already, the most there may be: delete one first"
            );
            return Err(Refusal::field("id", problem).into());
        }
    };
    suppression::enter(&shared.store, &entered).await?;
    Ok((status, Json(answer)))
}

pub async fn show(
    State(shared): State<Shared>,
    _: Producer,
    PathPair(user, id): PathPair,
) -> Result<Json<Value>, ApiError> {
    let (user, id) = parse(&user, &id)?;
    let devices = shared.store.devices(&user).await?;
    let device = devices.iter().find(|device| device.id == id);
    device
        .map(|device| Json(describe(device)))
        .ok_or_else(unknown)
}

pub async fn list(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
) -> Result<Json<Value>, ApiError> {
    let devices = shared.store.devices(&parse_user(&user)?).await?;
    let devices: Vec<Value> = devices.iter().map(describe).collect();
    Ok(Json(json!({ "devices": devices })))
}

pub async fn delete(
    State(shared): State<Shared>,
    _: Producer,
    PathPair(user, id): PathPair,
) -> Result<StatusCode, ApiError> {
    let (user, id) = parse(&user, &id)?;
    match shared.store.remove_device(&user, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown()),
    }
}

/// What a page subscribes with: `applicationServerKey`.
pub async fn web_push(State(shared): State<Shared>, _: Producer) -> Result<Json<Value>, ApiError> {
    let key = shared.channels.web_push_key();
    let key = key.ok_or_else(|| ApiError::not_found("web_push is not configured here"))?;
    Ok(Json(json!({ "public_key": key })))
}

pub fn parse(user: &str, id: &str) -> Result<(UserId, DeviceId), ApiError> {
    let device: Result<DeviceId, IdError> = id.parse();
    let device = device.map_err(|error| Refusal::field("id", error.to_string()))?;
    Ok((parse_user(user)?, device))
}

fn unknown() -> ApiError {
    ApiError::not_found("the user has no such device")
}

/// As it was entered, but for what is secret of it.
pub fn describe(device: &Device) -> Value {
    let address = match device.kind {
        DeviceKind::Email | DeviceKind::WebPush => "address",
        DeviceKind::Fcm | DeviceKind::Apns => "token",
        DeviceKind::Sms => "number",
    };
    let mut shown = json!({
        "id": device.id,
        "kind": device.kind.as_str(),
        address: device.address,
        "updated_at": device.updated_ms,
    });
    if let Some(since_ms) = device.quarantined_ms {
        shown["quarantined_at"] = json!(since_ms);
    }
    shown
}
