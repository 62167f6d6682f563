//! Devices in quarantine, for admin keys only: seen, sent to again, or removed, a page at a time.

use super::{
    Shared, devices,
    error::ApiError,
    extract::{PathPair, PathText, QueryPairs},
    producer::Admin,
};
use crate::{
    dispatcher::{
        devices::{Device, DeviceKind},
        intake::request::Refusal,
        store::Release,
    },
    envelope::Channel,
    ids::{DeviceId, UserId},
    limits,
};
use axum::{Json, extract::State, http::StatusCode};
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub struct PageQuery {
    cursor: Option<String>,
}

pub async fn list(
    State(shared): State<Shared>,
    _: Admin,
    PathText(kind): PathText,
    QueryPairs(query): QueryPairs<PageQuery>,
) -> Result<Json<Value>, ApiError> {
    let (devices, next) = page(&shared, &kind, &query).await?;
    let items: Vec<Value> = devices.iter().map(describe).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

/// A page of them.
pub async fn restore(
    State(shared): State<Shared>,
    _: Admin,
    PathText(kind): PathText,
    QueryPairs(query): QueryPairs<PageQuery>,
) -> Result<Json<Value>, ApiError> {
    release_page(&shared, &kind, &query, Release::Restored).await
}

/// A page of them.
pub async fn confirm(
    State(shared): State<Shared>,
    _: Admin,
    PathText(kind): PathText,
    QueryPairs(query): QueryPairs<PageQuery>,
) -> Result<Json<Value>, ApiError> {
    release_page(&shared, &kind, &query, Release::Removed).await
}

pub async fn restore_one(
    State(shared): State<Shared>,
    _: Admin,
    PathPair(user, id): PathPair,
) -> Result<StatusCode, ApiError> {
    let (user, id) = devices::parse(&user, &id)?;
    let held = shared.store.devices(&user).await?;
    let unknown = || ApiError::not_found("the user has no such device in quarantine");
    let device = held.iter().find(|device| device.id == id);
    let device = device.ok_or_else(unknown)?;
    match device.quarantined_ms.is_some() && shared.store.release(device, Release::Restored).await?
    {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown()),
    }
}

async fn release_page(
    shared: &Shared,
    kind: &str,
    query: &PageQuery,
    release: Release,
) -> Result<Json<Value>, ApiError> {
    let (devices, next) = page(shared, kind, query).await?;
    let releases = devices
        .iter()
        .map(|device| shared.store.release(device, release));
    let released = try_join_all(releases).await?;
    let count = released.into_iter().filter(|is_so| *is_so).count();
    let word = match release {
        Release::Restored => "restored",
        Release::Removed => "removed",
    };
    tracing::info!(kind, count, "devices in quarantine were {word}");
    Ok(Json(json!({ word: count, "next": next })))
}

async fn page(
    shared: &Shared,
    kind: &str,
    query: &PageQuery,
) -> Result<(Vec<Device>, Option<String>), ApiError> {
    let kind = kind.parse().ok();
    let kind: DeviceKind = kind
        .filter(|kind: &DeviceKind| kind.channel() == Channel::Push)
        .ok_or_else(|| Refusal::field("kind", "is none of: web_push, fcm, apns"))?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    let most = limits::PAGE_ITEMS;
    let page = shared.store.quarantined(kind, after.as_ref(), most).await?;
    let next = page.next.map(|(user, id)| format!("{id}/{user}"));
    Ok((page.devices, next))
}

/// `<device>/<user>`: an id of a device has no slash.
fn cursor(text: &str) -> Result<(UserId, DeviceId), Refusal> {
    let (id, user) = text.split_once('/').unwrap_or((text, ""));
    match (user.parse(), id.parse()) {
        (Ok(user), Ok(id)) => Ok((user, id)),
        _ => Err(Refusal::field("cursor", "was not given by us")),
    }
}

fn describe(device: &Device) -> Value {
    let mut shown = devices::describe(device);
    shown["user"] = json!(device.user);
    shown
}
