//! Bounds of the HTTP port: how many requests at once, and how long each may take to arrive and be answered.

use super::{Shared, error::ApiError};
use crate::limits;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

pub async fn keep(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let refused = |cause| {
        shared
            .metrics
            .http_refused
            .with_label_values(&[cause])
            .inc()
    };
    let Ok(_place) = shared.http_places.try_acquire() else {
        refused("busy");
        return ApiError::busy().into_response();
    };
    match tokio::time::timeout(limits::HTTP_REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            refused("timeout");
            ApiError::timeout().into_response()
        }
    }
}
