//! Whether a user is connected, and sending a user away.

use super::{
    Shared, error::ApiError, extract::PathText, inbox::parse_user, producer::Producer,
    status::describe_route,
};
use crate::{
    bus::{Record, Target, Topic, TopicPartition},
    dispatcher::{intake::request::Refusal, unix_ms},
    envelope::{Head, Kind, Priority},
    ids::{NotificationId, UserId},
    limits,
    registry::Route,
};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::time::timeout;

/// By the registry's word, which knows of a newcomer at once and of who has left after some seconds. Without it
/// nobody can say: 503.
pub async fn show(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
) -> Result<Json<Value>, ApiError> {
    let user = parse_user(&user)?;
    let routes = routes(&shared, &user).await?;
    Ok(Json(json!({
        "user": user,
        "connected": routes.iter().any(|route| route.live),
        "gateways": routes.iter().map(describe_route).collect::<Vec<_>>(),
    })))
}

/// Closes every connection of the user, with a code that does not come back by itself. Answers once the order is on
/// the bus, with the gateways that get it.
pub async fn disconnect(
    State(shared): State<Shared>,
    Producer(key): Producer,
    PathText(user): PathText,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let user = parse_user(&user)?;
    let routes = routes(&shared, &user).await?;
    let nowhere_yet = routes.iter().any(Route::leads_nowhere_yet);
    if nowhere_yet {
        // Some gateway has the user, and is about to say which.
        return Err(Refusal::Away { part: "a gateway" }.into());
    }
    let shards: BTreeSet<u32> = routes.iter().filter_map(|route| route.shard).collect();
    let order = order(&shared, &user);
    let records = shards.into_iter().map(|partition| {
        let topic = Topic::Critical;
        let at = TopicPartition { topic, partition };
        (Target::Exact(at), order.clone())
    });
    let produced = timeout(
        limits::INTAKE_BUS_WAIT,
        shared.bus.produce(records.collect()),
    );
    match produced.await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err(Refusal::Away { part: "the bus" }.into()),
    }
    tracing::info!(%user, producer = key.producer, "a user is sent away");
    let gateways: Vec<Value> = routes.iter().map(describe_route).collect();
    let answer = json!({ "user": user, "gateways": gateways });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

async fn routes(shared: &Shared, user: &UserId) -> Result<Vec<Route>, ApiError> {
    let found = shared.registry.lookup(std::slice::from_ref(user)).await;
    let found = found.map_err(|_| Refusal::Away {
        part: "the registry",
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// Soon over: whoever comes back later is not meant.
fn order(shared: &Shared, user: &UserId) -> Record {
    let now_ms = unix_ms();
    let head = Head {
        kind: Kind::Disconnect,
        id: NotificationId::generate(),
        created_ms: now_ms,
        expires_ms: Some(now_ms + limits::DISCONNECT_LIFE.as_millis() as u64),
        priority: Priority::Critical,
        region: shared.node.region.to_string(),
        again: false,
    };
    let mut record = head.into_record(user.as_str().to_owned(), "");
    record.set("user", user.as_str().to_owned());
    record
}
