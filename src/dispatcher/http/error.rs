//! The one shape of an error: `{"error":{"code","field"?,"message"}}`.

use crate::{
    dispatcher::{
        api_keys::KeyError, dead_letters::DeadLetterError, gateways::GatewayError,
        intake::request::Refusal, store::StoreError, tracker::TrackError,
    },
    limits,
};
use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    field: Option<String>,
    message: String,
    retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            code,
            field: None,
            message: message.into(),
            retry_after_s: None,
        }
    }

    pub fn not_found(message: &str) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// A path or query that is not percent-encoded UTF-8, or not made of pairs.
    pub fn bad_target(problem: String) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_target", problem)
    }

    pub fn method() -> ApiError {
        let message = "this path takes another method";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
    }

    pub fn forbidden() -> ApiError {
        let message = "this needs an API key with admin rights";
        ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Of a request that its signature does not vouch for.
    pub fn unsigned(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "unsigned", message)
    }

    pub fn conflict(message: &str) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, "conflict", message)
    }

    pub fn busy() -> ApiError {
        let message = "too many requests at once: try again";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    pub fn timeout() -> ApiError {
        let message = "the request took too long";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
    }

    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> ApiError {
        let message = error.to_string();
        match error {
            GatewayError::Unknown(_) => ApiError::not_found(&message),
            GatewayError::Registry(_) => ApiError::unavailable(message),
            GatewayError::Ordering | GatewayError::Slow(_) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
            }
            GatewayError::Unreachable { .. } | GatewayError::Lapsed(_) => {
                ApiError::new(StatusCode::BAD_GATEWAY, "gateway_away", message)
            }
            GatewayError::Unanswered { .. } => {
                ApiError::new(StatusCode::GATEWAY_TIMEOUT, "unanswered", message)
            }
            GatewayError::Refused { .. }
            | GatewayError::Standalone(_)
            | GatewayError::NobodyLives
            | GatewayError::AllDrained(_) => {
                ApiError::new(StatusCode::CONFLICT, "conflict", message)
            }
            GatewayError::Only { .. } | GatewayError::NoRoom { .. } => {
                ApiError::new(StatusCode::CONFLICT, "no_room", message)
            }
        }
    }
}

impl From<DeadLetterError> for ApiError {
    fn from(error: DeadLetterError) -> ApiError {
        let message = error.to_string();
        match error {
            DeadLetterError::Bus(_) | DeadLetterError::Store(_) => ApiError::unavailable(message),
            DeadLetterError::Unknown => ApiError::not_found(&message),
            DeadLetterError::Handled(_) => ApiError::new(StatusCode::CONFLICT, "conflict", message),
            DeadLetterError::NotReplayable(_) => {
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "not_replayable", message)
            }
        }
    }
}

/// The code of an error, left in its answer for the counting.
#[derive(Clone, Copy)]
pub struct Code(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        response.extensions_mut().insert(Code(self.code));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                // At random, so that those refused together don't come back together.
                let seconds = rand::random_range(limits::RETRY_AFTER_S);
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            StatusCode::UNAUTHORIZED => {
                let scheme = header::HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            _ => {}
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let status = match refusal {
            Refusal::BadBody(_) | Refusal::BadJson(_) => StatusCode::BAD_REQUEST,
            Refusal::Field { .. } | Refusal::Unsupported { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Conflict => StatusCode::CONFLICT,
            Refusal::Away { .. } | Refusal::NotSpooled(_) | Refusal::Overloaded { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::TooMany { .. } | Refusal::OverBudget { .. } => StatusCode::TOO_MANY_REQUESTS,
        };
        ApiError {
            retry_after_s: match refusal {
                Refusal::TooMany { retry_after_s, .. }
                | Refusal::OverBudget { retry_after_s, .. } => Some(retry_after_s),
                _ => None,
            },
            field: refusal.named_field().map(str::to_owned),
            ..ApiError::new(status, refusal.code(), refusal.to_string())
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> ApiError {
        match error {
            KeyError::Unknown => ApiError::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                format!("{error}: send `Authorization: Bearer <key>`"),
            ),
            KeyError::Unavailable(_) => ApiError::unavailable(error.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        ApiError::unavailable(error.to_string())
    }
}

impl From<TrackError> for ApiError {
    fn from(error: TrackError) -> ApiError {
        ApiError::unavailable(error.to_string())
    }
}
