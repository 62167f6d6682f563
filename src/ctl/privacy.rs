//! `herald ctl erase` and `herald ctl export`: what a user may ask for.

use super::{CtlError, Endpoint, connection::path_segment};
use crate::ids::UserId;
use serde_json::{Value, json};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Orders it; with `wait` it returns once it was done, and prints the proof.
pub async fn erase(
    endpoint: &Endpoint,
    user: &UserId,
    wait: bool,
    as_json: bool,
) -> Result<(), CtlError> {
    let path = format!("/v1/users/{}/erasure", path_segment(user.as_str()));
    let ordered = endpoint.post(&path, &json!({}), None).await?;
    if !wait {
        return print(&ordered, as_json, "id");
    }
    loop {
        // 404 until the order was read.
        match endpoint.request(&path).await {
            Ok(shown) if shown["state"] == "done" && is_of(&shown, &ordered) => {
                return print(&shown, true, "id");
            }
            Ok(_) | Err(CtlError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Of this order, or of a later one.
fn is_of(shown: &Value, ordered: &Value) -> bool {
    shown["id"].as_str() >= ordered["id"].as_str()
}

pub async fn export(endpoint: &Endpoint, user: &UserId) -> Result<(), CtlError> {
    let path = format!("/v1/users/{}/export", path_segment(user.as_str()));
    // As it came: numbers of somebody else's that no `Value` holds.
    println!("{}", endpoint.request_text(&path).await?);
    Ok(())
}

fn print(answer: &Value, as_json: bool, field: &str) -> Result<(), CtlError> {
    match as_json {
        true => println!("{answer:#}"),
        false => println!("{}", answer[field].as_str().unwrap_or_default()),
    }
    Ok(())
}
