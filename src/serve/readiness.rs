//! What an admin port answers to `/readyz`, and `systemctl status` shows, of every process.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use std::{collections::BTreeMap, fmt};

/// One look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// To be sent work: taking it out of service would not help.
    pub ready: bool,
    /// What is wrong, and how to mend it.
    pub causes: BTreeMap<&'static str, String>,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        let mut causes = self.causes.iter();
        causes.try_for_each(|(cause, text)| write!(f, "; {cause}: {text}"))
    }
}

/// 200 with what it does without; 503 with the reasons otherwise.
impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let (status, key) = match self.ready {
            true => (StatusCode::OK, "degraded"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "reasons"),
        };
        (
            status,
            Json(json!({ "ready": self.ready, key: self.causes })),
        )
            .into_response()
    }
}
