//! What `ctl user` and `ctl status` show.

use super::{
    Shared, error::ApiError, extract::PathText, inbox::parse_user, notifications::describe,
    producer::Producer,
};
use crate::{
    bus::Topic,
    limits,
    registry::{GatewayLease, Route, ShardLease},
};
use axum::{Json, extract::State};
use serde_json::{Value, json};

/// Where a user is connected, what is unread, and what became of the last ones. With the registry away
/// `routes` is null: unknown, not nowhere.
pub async fn user(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
) -> Result<Json<Value>, ApiError> {
    let user = parse_user(&user)?;
    let (unread, recent) = tokio::try_join!(
        shared.newest_tags.unread(&shared.store, &user),
        shared
            .store
            .deliveries_of(&user, None, limits::RECENT_STATES),
    )?;
    let routes = shared.registry.lookup(std::slice::from_ref(&user)).await;
    let routes: Option<Vec<Value>> = routes
        .ok()
        .map(|users| users.iter().flatten().map(describe_route).collect());
    let recent: Vec<Value> = recent
        .iter()
        .map(|(id, state)| {
            let mut state = describe(state);
            state["id"] = json!(id);
            state
        })
        .collect();
    Ok(Json(json!({
        "user": user,
        "connected": routes.as_ref().map(|routes| !routes.is_empty()),
        "routes": routes,
        "unread": unread,
        "recent": recent,
    })))
}

pub async fn fleet(State(shared): State<Shared>, _: Producer) -> Result<Json<Value>, ApiError> {
    let gateways = shared.registry.gateways().await.ok();
    let shards = match shared.bus.partitions(Topic::InApp).await {
        Ok(count) => shared.registry.shards(count).await.ok(),
        Err(_) => None,
    };
    let readiness = shared.health.readiness();
    let part = |name: &str| match readiness.causes.contains_key(name) {
        true => "away",
        false => "ok",
    };
    Ok(Json(json!({
        "namespace": shared.node.namespace.as_str(),
        "region": shared.node.region.as_str(),
        "ready": readiness.ready,
        "parts": { "bus": part("bus"), "registry": part("registry"), "store": part("store") },
        "slow": shared.health.slow(),
        "gateways": gateways.map(|all| all.iter().map(describe_gateway).collect::<Vec<_>>()),
        "shards": shards.map(|all| all.iter().map(describe_shard).collect::<Vec<_>>()),
    })))
}

pub fn describe_route(route: &Route) -> Value {
    json!({
        "gateway": route.gateway.gateway.as_str(),
        "epoch": route.gateway.epoch,
        "shard": route.shard,
        "live": route.live,
    })
}

fn describe_gateway(lease: &GatewayLease) -> Value {
    let info = &lease.info;
    json!({
        "gateway": lease.owner.gateway.as_str(),
        "epoch": lease.owner.epoch,
        "live": lease.live,
        "shard": info.shard,
        "connections": info.connections,
        "accepts_limit_per_s": info.accepts_limit_per_s,
        "spare_accepts_per_s": info.spare_accepts_per_s,
        "grpc": info.grpc,
        "region": info.region.as_str(),
        "draining": info.draining,
    })
}

fn describe_shard(lease: &ShardLease) -> Value {
    json!({
        "shard": lease.shard,
        "gateway": lease.owner.gateway.as_str(),
        "gateway_epoch": lease.owner.epoch,
        "epoch": lease.epoch,
        "live": lease.live,
    })
}
