//! Segments: uploaded in parts, sent to as a whole, each its producer's own.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, Whole},
    notifications::parse_id,
    producer::Producer,
};
use crate::{
    dispatcher::{
        intake::{audience::list, fields::Fields, request::Refusal},
        store::{Segment, SegmentSend, SendProgress, StoreError},
        unix_ms,
    },
    envelope::Head,
    ids::{IdError, SegmentId, UserId},
    limits,
};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub async fn make(
    State(shared): State<Shared>,
    Producer(key): Producer,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let segment = Segment {
        id: SegmentId::generate(),
        producer: key.producer.clone(),
        created_ms: unix_ms(),
    };
    shared.store.make_segment(&segment).await?;
    Ok((StatusCode::CREATED, Json(describe(&segment, 0))))
}

pub async fn show(
    State(shared): State<Shared>,
    producer: Producer,
    PathText(id): PathText,
) -> Result<Json<Value>, ApiError> {
    let segment = own(&shared, &producer, &id).await?;
    let users = shared.store.segment_size(segment.id).await?;
    Ok(Json(describe(&segment, users)))
}

/// Adds users; who is in it already is in it once.
pub async fn add(
    State(shared): State<Shared>,
    producer: Producer,
    PathText(id): PathText,
    Whole(body): Whole,
) -> Result<Json<Value>, ApiError> {
    let segment = own(&shared, &producer, &id).await?;
    let mut fields = Fields::read(&body)?;
    let users = list("users", fields.demand("users", "a list of strings")?)?;
    fields.finish("a part of a segment")?;
    let store = &shared.store;
    let unknown: BTreeSet<UserId> = users.iter().cloned().collect();
    let mut size = store.segment_size(segment.id).await? + unknown.len() as u64;
    if size > limits::SEGMENT_USERS {
        // A part that comes again, because its answer was lost, fits as it did.
        let unknown: Vec<UserId> = unknown.into_iter().collect();
        size -= store.count_in_segment(segment.id, &unknown).await?;
    }
    if size > limits::SEGMENT_USERS {
        let most = limits::SEGMENT_USERS;
        let problem = format!("a segment has at most {most} users: `all` with `tags` reaches more");
        return Err(Refusal::TooLarge {
            field: "users".into(),
            problem,
        }
        .into());
    }
    store.add_to_segment(segment.id, &users, unix_ms()).await?;
    let users = store.segment_size(segment.id).await?;
    Ok(Json(describe(&segment, users)))
}

pub async fn remove(
    State(shared): State<Shared>,
    producer: Producer,
    PathText(id): PathText,
) -> Result<StatusCode, ApiError> {
    let segment = own(&shared, &producer, &id).await?;
    // Who was promised a notification would not get it, and nobody would be told.
    if shared.store.is_sent_to(segment.id).await? {
        return Err(ApiError::conflict(
            "a notification to it is scheduled or on its way: cancel it, or wait until it is done",
        ));
    }
    shared.store.remove_segment(segment.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How far a notification to a segment is.
pub async fn progress(
    State(shared): State<Shared>,
    producer: Producer,
    PathText(id): PathText,
) -> Result<Json<Value>, ApiError> {
    let id = parse_id("id", &id)?;
    let found = shared.store.segment_send(id).await?;
    let found = found.filter(|send| producer.owns(send.producer()));
    let send = found.ok_or_else(|| ApiError::not_found("no such notification to a segment"))?;
    Ok(Json(json!({
        "id": send.id,
        "segment": send.segment,
        "users": send.users,
        "sent": send.sent,
        "state": state(&send, unix_ms()),
    })))
}

/// One that runs and is not due yet is said to be scheduled.
fn state(send: &SegmentSend, now_ms: u64) -> &'static str {
    let is_running = send.state == SendProgress::Running;
    let head = Head::read(&send.record);
    match is_running && head.is_ok_and(|head| head.created_ms > now_ms) {
        true => "scheduled",
        false => send.state.as_str(),
    }
}

/// Of another producer it is as if there were none.
async fn own(shared: &Shared, Producer(key): &Producer, id: &str) -> Result<Segment, ApiError> {
    let id: Result<SegmentId, IdError> = id.parse();
    let id = id.map_err(|error| Refusal::field("id", error.to_string()))?;
    let found = shared
        .store
        .segment(id)
        .await
        .map_err(|error: StoreError| error)?;
    found
        .filter(|segment| segment.producer == key.producer || key.admin)
        .ok_or_else(|| ApiError::not_found("no such segment"))
}

fn describe(segment: &Segment, users: u64) -> Value {
    json!({
        "id": segment.id,
        "producer": segment.producer,
        "created_at": segment.created_ms,
        "users": users,
    })
}
