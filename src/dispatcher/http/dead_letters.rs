//! What stands on `dlq`, for admin keys only: it holds what was sent.

use super::{
    Shared,
    error::ApiError,
    extract::{PathPair, QueryPairs, parse_limit},
    producer::Admin,
};
use crate::{
    dispatcher::{
        dead_letters::{DeadLetter, Wanted},
        intake::request::Refusal,
    },
    limits,
};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, str::FromStr};

#[derive(Deserialize)]
pub struct ListQuery {
    topic: Option<String>,
    cause: Option<String>,
    all: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// Without what the records hold.
pub async fn list(
    State(shared): State<Shared>,
    _: Admin,
    QueryPairs(query): QueryPairs<ListQuery>,
) -> Result<Json<Value>, ApiError> {
    let wanted = Wanted {
        limit: parse_limit(query.limit.as_deref(), limits::PAGE_ITEMS)?,
        from: match query.cursor.as_deref() {
            None => BTreeMap::new(),
            Some(text) => {
                cursor(text).ok_or_else(|| Refusal::field("cursor", "was not given by us"))?
            }
        },
        all: match query.all.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Refusal::field("all", "is true or false").into()),
        },
        topic: query.topic,
        cause: query.cause,
    };
    let page = shared.dead_letters.page(&wanted).await?;
    let items: Vec<Value> = page.letters.iter().map(describe).collect();
    let next = page.next.map(|next| {
        let places = next.iter().map(|(at, offset)| format!("{at}:{offset}"));
        places.collect::<Vec<_>>().join(".")
    });
    Ok(Json(json!({ "items": items, "next": next })))
}

pub async fn show(
    State(shared): State<Shared>,
    _: Admin,
    PathPair(partition, offset): PathPair,
) -> Result<Json<Value>, ApiError> {
    let (partition, offset) = place(&partition, &offset)?;
    let letter = shared.dead_letters.find(partition, offset).await?;
    let mut shown = describe(&letter);
    let headers = letter.record.headers.iter();
    let headers: Map<String, Value> = headers
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value))))
        .collect();
    shown["headers"] = headers.into();
    shown["value"] = json!(String::from_utf8_lossy(&letter.record.value));
    Ok(Json(shown))
}

pub async fn replay(
    State(shared): State<Shared>,
    _: Admin,
    PathPair(partition, offset): PathPair,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (partition, offset) = place(&partition, &offset)?;
    let topic = shared.dead_letters.replay(partition, offset).await?;
    let topic = topic.suffix();
    tracing::info!(partition, offset, topic, "a dead letter is replayed");
    Ok((StatusCode::ACCEPTED, Json(json!({ "topic": topic }))))
}

pub async fn dismiss(
    State(shared): State<Shared>,
    _: Admin,
    PathPair(partition, offset): PathPair,
) -> Result<StatusCode, ApiError> {
    let (partition, offset) = place(&partition, &offset)?;
    shared.dead_letters.dismiss(partition, offset).await?;
    tracing::info!(partition, offset, "a dead letter is dropped");
    Ok(StatusCode::NO_CONTENT)
}

fn describe(letter: &DeadLetter) -> Value {
    let header = |name: &str| {
        let value = letter.record.header(name);
        value.map_or(Value::Null, |value| json!(String::from_utf8_lossy(value)))
    };
    let at = letter.at;
    json!({
        "at": format!("{}/{}", at.partition, at.offset),
        "set_aside_at": at.appended_ms,
        "topic": header("dlq_topic"),
        "cause": header("dlq_cause"),
        "reason": header("dlq_reason"),
        "key": String::from_utf8_lossy(&letter.record.key),
        "id": header("id"),
        "channel": header("channel"),
        "attempts": header("attempts"),
        "handled": letter.handled.map(|handled| handled.as_str()),
    })
}

fn cursor(text: &str) -> Option<BTreeMap<u32, u64>> {
    let place = |text: &str| {
        let (partition, offset) = text.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    text.split('.').map(place).collect()
}

fn place(partition: &str, offset: &str) -> Result<(u32, u64), Refusal> {
    fn number<T: FromStr>(field: &str, text: &str) -> Result<T, Refusal> {
        let number = text.parse();
        number.map_err(|_| Refusal::field(field, "is no whole number"))
    }
    Ok((number("partition", partition)?, number("offset", offset)?))
}
