//! What a user wants to be reached by.

use super::{
    Shared,
    error::ApiError,
    extract::{PathText, Whole},
    inbox::parse_user,
    producer::Producer,
};
use crate::dispatcher::preferences::Preferences;
use axum::{Json, extract::State, http::StatusCode};

/// Of a user who said nothing: nothing is off.
pub async fn show(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
) -> Result<Json<Preferences>, ApiError> {
    let found = shared.store.preferences(&[parse_user(&user)?]).await?;
    Ok(Json(found.into_iter().next().unwrap_or_default()))
}

pub async fn put(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
    Whole(body): Whole,
) -> Result<Json<Preferences>, ApiError> {
    let user = parse_user(&user)?;
    let preferences = Preferences::from_json(&body, &shared.rules.mandatory)?;
    shared.store.put_preferences(&user, &preferences).await?;
    Ok(Json(preferences))
}

pub async fn delete(
    State(shared): State<Shared>,
    _: Producer,
    PathText(user): PathText,
) -> Result<StatusCode, ApiError> {
    let nothing = Preferences::default();
    let user = parse_user(&user)?;
    shared.store.put_preferences(&user, &nothing).await?;
    Ok(StatusCode::NO_CONTENT)
}
