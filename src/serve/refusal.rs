//! What a port answers where it has nothing to say: the one shape of an error, `{"error":{"code","message"}}`.

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

pub fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let error = json!({ "error": { "code": code, "message": message } });
    (status, Json(error)).into_response()
}

/// An unknown path, and one that takes another method, are answered with words.
pub fn in_words(router: Router) -> Router {
    router
        .fallback(async || refusal(StatusCode::NOT_FOUND, "not_found", "no such path"))
        .method_not_allowed_fallback(async || {
            let message = "this path takes another method";
            refusal(StatusCode::METHOD_NOT_ALLOWED, "method", message)
        })
}
