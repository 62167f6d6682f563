//! What an operator wants of gateways: to be emptied, to stay after all, to share clients anew. For admin
//! keys only; the dispatcher passes it on.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, Whole},
    producer::Admin,
};
use crate::{
    api::LeaveReply,
    dispatcher::intake::{fields::Fields, request::Refusal},
    limits,
};
use axum::{Json, extract::State};
use serde_json::{Value, json};

pub async fn progress(
    State(shared): State<Shared>,
    _: Admin,
    PathText(id): PathText,
) -> Result<Json<Value>, ApiError> {
    let reply = shared.gateways.progress(&id).await?;
    Ok(Json(describe(&id, &reply)))
}

pub async fn drain(
    State(shared): State<Shared>,
    _: Admin,
    PathText(id): PathText,
    Whole(body): Whole,
) -> Result<Json<Value>, ApiError> {
    let (mut deadline_s, mut force) = (None, None);
    if !body.is_empty() {
        let mut fields = Fields::read(&body)?;
        deadline_s = fields.take("deadline_s", "a number of seconds")?;
        force = fields.take("force", "true or false")?;
        fields.finish("a drain")?;
    }
    let deadline_ms = deadline_s.map(checked_ms).transpose()?;
    tracing::info!(
        gateway = id,
        deadline_s,
        force,
        "an operator drains a gateway"
    );
    let force = force == Some(true);
    let reply = shared.gateways.drain(&id, deadline_ms, force).await?;
    Ok(Json(describe(&id, &reply)))
}

pub async fn cancel(
    State(shared): State<Shared>,
    _: Admin,
    PathText(id): PathText,
) -> Result<Json<Value>, ApiError> {
    tracing::info!(gateway = id, "an operator takes a drain back");
    let reply = shared.gateways.order(&id, "stay").await?;
    Ok(Json(describe(&id, &reply)))
}

/// Every gateway with more than its share is asked; each paces itself.
pub async fn rebalance(State(shared): State<Shared>, _: Admin) -> Result<Json<Value>, ApiError> {
    tracing::info!("an operator shares the clients anew");
    let mut gateways = Vec::new();
    for lease in shared.gateways.serving().await? {
        let id = lease.owner.gateway.as_str();
        let reply = shared.gateways.order(id, "rebalance").await?;
        gateways.push(describe(id, &reply));
    }
    Ok(Json(json!({ "gateways": gateways })))
}

fn checked_ms(deadline_s: u64) -> Result<u64, Refusal> {
    let (least, most) = limits::DRAIN_DEADLINE_MS_ALLOWED.into_inner();
    let (least, most) = (least / 1_000, most / 1_000);
    match (least..=most).contains(&deadline_s) {
        true => Ok(deadline_s * 1_000),
        false => Err(Refusal::field(
            "deadline_s",
            format!("{deadline_s} is not allowed: {least} to {most} seconds"),
        )),
    }
}

fn describe(id: &str, reply: &LeaveReply) -> Value {
    let left = reply.left;
    let eta_s = match reply.rate_per_s {
        0 => None,
        rate => Some(left.div_ceil(u64::from(rate))),
    };
    json!({
        "gateway": id,
        "phase": reply.phase,
        "began_with": reply.began_with,
        "left": left,
        "rate_per_s": reply.rate_per_s,
        "eta_s": eta_s,
        "siblings": reply.siblings,
        "spare_per_s": reply.spare_per_s,
        "waits": reply.waits,
        "reason": reply.reason,
        "process": reply.process,
    })
}
