//! The standalone's console: a page, the client module it uses, and a session for a chosen user. It mints
//! tokens for whoever asks, so it is only ever mounted on loopback and only answers to a local name.

use crate::{auth, config::Secret, dispatcher::api_keys::AdminKey, ids::UserId, serve::refusal};
use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// A page that stays open refreshes its token by `auth_expiring`.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// No script but ours runs, whatever a notification says, and no other page shows this one as a part of itself, where a
/// click would send in an operator's name. The gateway is on another port.
const POLICY: &str = "default-src 'self'; img-src data:; connect-src 'self' http: ws:; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'self'";

/// What a session needs of the process around it.
#[derive(Clone)]
pub struct Console {
    pub token_secret: Secret,
    pub admin_key: AdminKey,
    /// Port of the gateway's client listener on this host.
    pub gateway_port: u16,
}

pub fn router(console: Console) -> Router {
    Router::new()
        .route(
            "/",
            get(|| asset("text/html; charset=utf-8", include_str!("index.html"))),
        )
        .route(
            "/console.css",
            get(|| asset("text/css", include_str!("console.css"))),
        )
        .route(
            "/console.js",
            get(|| asset("text/javascript", include_str!("console.js"))),
        )
        .route(
            "/herald-client.js",
            get(|| asset("text/javascript", include_str!("herald-client.js"))),
        )
        .route("/console/session", get(session))
        .with_state(Arc::new(console))
}

async fn asset(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, text).into_response()
}

#[derive(Deserialize)]
struct SessionQuery {
    user: UserId,
}

#[derive(Serialize)]
struct Session {
    token: String,
    ws_url: String,
    api_key: String,
}

async fn session(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Response {
    let Some(name) = local_name(&headers) else {
        let message = "the console answers on localhost only";
        return refusal(StatusCode::FORBIDDEN, "forbidden", message);
    };
    let Query(query) = match query {
        Ok(query) => query,
        Err(rejection) => {
            let message = format!("`user` is missing or no user id: {}", rejection.body_text());
            return refusal(StatusCode::BAD_REQUEST, "bad_target", &message);
        }
    };
    let token = auth::mint_hs256(&console.token_secret, &query.user, TOKEN_TTL);
    let ws_url = format!("ws://{name}:{}/ws/notifications", console.gateway_port);
    let api_key = console.admin_key.clear();
    let api_key = api_key.map_or_else(String::new, |key| key.expose().to_owned());
    Json(Session {
        token,
        ws_url,
        api_key,
    })
    .into_response()
}

/// The name the browser used, when it is a local one: a page of another site that resolves its own name
/// to 127.0.0.1 gets nothing.
fn local_name(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "[::1]").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_gets_no_session() {
        let with_host = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            local_name(&headers)
        };
        assert_eq!(with_host("localhost:8090").as_deref(), Some("localhost"));
        assert_eq!(with_host("[::1]:8090").as_deref(), Some("[::1]"));
        assert_eq!(with_host("evil.example:8090"), None);
    }
}
