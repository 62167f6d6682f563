//! `GET /v1/spend`: what the channels spent today, for admin keys only.

use super::{Shared, producer::Admin};
use crate::dispatcher::spending::{Standing, until_tomorrow};
use axum::{Json, extract::State};
use serde_json::{Value, json};

pub async fn show(State(shared): State<Shared>, _: Admin) -> Json<Value> {
    let standing = shared.spending.standing().await;
    let channels: Vec<Value> = standing.iter().map(describe).collect();
    Json(json!({
        "currency": shared.spending.currency(),
        "resets_in_s": until_tomorrow().as_secs(),
        // Else it is what this dispatcher knew last, with what it spent itself.
        "of_fleet": shared.registry.healthy(),
        "channels": channels,
    }))
}

fn describe(standing: &Standing) -> Value {
    let amount = |micros: u64| micros as f64 / 1e6;
    let budget = standing.budget;
    json!({
        "channel": standing.channel,
        "spent": amount(standing.spent),
        "budget": budget.map(|budget| amount(budget.whole)),
        "left": budget.map(|budget| amount(budget.whole.saturating_sub(standing.spent))),
        "reserve": budget.map(|budget| amount(budget.reserve)),
    })
}
