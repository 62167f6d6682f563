//! Plain HTTP answers, as bytes: status, JSON reason, and the headers that a browser or a client's
//! back-off needs.

use super::close::CloseCode;
use bytes::Bytes;
use std::{fmt::Write, ops::RangeInclusive};
use tungstenite::http::StatusCode;

/// How answers to one request are framed, whatever they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The origin that may read the answer: one of ours, or none was given.
    pub allow_origin: Option<Box<str>>,
    /// The client may send another request. A refusal closes all the same.
    pub keep_alive: bool,
    /// A HEAD request: the head of the answer only.
    pub head_only: bool,
}

/// One plain answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    /// Bounded label for metrics; the `error` of a refusal.
    pub cause: &'static str,
    /// JSON.
    body: Option<Bytes>,
    extra: Extra,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Extra {
    None,
    Allow(&'static str),
    Preflight {
        methods: &'static str,
    },
    RetryAfter(u32),
    /// The client is to speak WebSocket, version 13.
    Upgrade,
}

impl Answer {
    pub fn json(body: Bytes) -> Answer {
        Answer {
            body: Some(body),
            ..Answer::bare(StatusCode::OK, "ok")
        }
    }

    pub fn no_content() -> Answer {
        Answer::bare(StatusCode::NO_CONTENT, "ok")
    }

    /// `{"error":"<cause>"}`.
    pub fn refusal(status: StatusCode, cause: &'static str) -> Answer {
        Answer {
            body: Some(format!("{{\"error\":\"{cause}\"}}").into()),
            ..Answer::bare(status, cause)
        }
    }

    pub fn unauthorized(cause: &'static str) -> Answer {
        Answer::refusal(StatusCode::UNAUTHORIZED, cause)
    }

    /// A token that is not taken: a WebSocket would be closed with this code, so it is told here too.
    /// Not 204, which tells a browser the same (no answer but 200 lets it try again) and all others less.
    pub fn token_refused(cause: &'static str, code: CloseCode) -> Answer {
        let (number, come_back) = (code.code(), code.comes_back());
        let body = format!("{{\"error\":\"{cause}\",\"code\":{number},\"come_back\":{come_back}}}");
        Answer {
            body: Some(body.into()),
            ..Answer::unauthorized(cause)
        }
    }

    /// Over a limit, or going away: the client is told when to come back.
    pub fn unavailable(cause: &'static str, retry_after_s: u32) -> Answer {
        Answer {
            extra: Extra::RetryAfter(retry_after_s),
            ..Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, cause)
        }
    }

    /// The client asks too often.
    pub fn rate_limited() -> Answer {
        Answer {
            extra: Extra::RetryAfter(1),
            ..Answer::refusal(StatusCode::TOO_MANY_REQUESTS, "rate_limited")
        }
    }

    pub fn method_not_allowed(allow: &'static str) -> Answer {
        Answer {
            extra: Extra::Allow(allow),
            ..Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "method")
        }
    }

    pub fn upgrade_required(cause: &'static str) -> Answer {
        Answer {
            extra: Extra::Upgrade,
            ..Answer::refusal(StatusCode::UPGRADE_REQUIRED, cause)
        }
    }

    /// What a browser asks before it sends a request with headers of ours.
    pub fn preflight(methods: &'static str) -> Answer {
        Answer {
            extra: Extra::Preflight { methods },
            ..Answer::bare(StatusCode::NO_CONTENT, "preflight")
        }
    }

    /// Whether the connection ends with this answer.
    pub fn closes(&self, reply: &Reply) -> bool {
        !reply.keep_alive || !self.status.is_success()
    }

    pub fn encode(&self, reply: &Reply) -> Bytes {
        let mut text = head(self.status, reply);
        self.extra.write(&mut text);
        if self.status == StatusCode::UNAUTHORIZED {
            text.push_str("WWW-Authenticate: Bearer\r\n");
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.body.is_some() {
            text.push_str("Content-Type: application/json\r\n");
        }
        // A 204 must not speak of a length.
        if self.status != StatusCode::NO_CONTENT {
            let _ = write!(text, "Content-Length: {}\r\n", body.len());
        }
        text.push_str(match self.closes(reply) {
            true => "Connection: close\r\n\r\n",
            false => "Connection: keep-alive\r\n\r\n",
        });
        let mut bytes = text.into_bytes();
        if !reply.head_only {
            bytes.extend_from_slice(body);
        }
        bytes.into()
    }

    fn bare(status: StatusCode, cause: &'static str) -> Answer {
        Answer {
            status,
            cause,
            body: None,
            extra: Extra::None,
        }
    }
}

impl Extra {
    fn write(&self, text: &mut String) {
        let written = match self {
            Extra::None => Ok(()),
            Extra::Allow(methods) => write!(text, "Allow: {methods}\r\n"),
            Extra::Preflight { methods } => write!(
                text,
                "Access-Control-Allow-Methods: {methods}\r\n\
                 Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID\r\n\
                 Access-Control-Max-Age: 7200\r\n"
            ),
            Extra::RetryAfter(seconds) => write!(
                text,
                "Retry-After: {seconds}\r\nAccess-Control-Expose-Headers: Retry-After\r\n"
            ),
            Extra::Upgrade => write!(text, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        };
        written.expect("a string takes it");
    }
}

/// Status line and the headers every answer has.
fn head(status: StatusCode, reply: &Reply) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!(
        "HTTP/1.1 {} {reason}\r\nCache-Control: no-store\r\n",
        status.as_str()
    );
    if let Some(origin) = &reply.allow_origin {
        let _ = write!(
            text,
            "Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"
        );
    }
    text
}

/// The head of an event stream. It has no length and no chunks: it ends when the connection does.
pub fn sse_head(reply: &Reply) -> Bytes {
    let mut text = head(StatusCode::OK, reply);
    text.push_str(
        "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n",
    );
    text.into()
}

/// 503 before anything was read, for a host over its soft limit.
pub fn over_capacity(random: impl FnOnce(RangeInclusive<u32>) -> u32) -> Bytes {
    Answer::unavailable("over_capacity", random(crate::limits::RETRY_AFTER_S))
        .encode(&Reply::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_refusal_says_why_and_closes() {
        let reply = Reply {
            keep_alive: true,
            ..Reply::default()
        };
        let bytes = Answer::unauthorized("expired").encode(&reply);
        assert_eq!(
            text(&bytes),
            "HTTP/1.1 401 Unauthorized\r\nCache-Control: no-store\r\nWWW-Authenticate: Bearer\r\n\
             Content-Type: application/json\r\nContent-Length: 19\r\nConnection: close\r\n\r\n\
             {\"error\":\"expired\"}"
        );
    }

    #[test]
    fn a_refused_token_says_whether_to_come_back_with_another() {
        let body = |code| {
            let bytes = Answer::token_refused("why", code).encode(&Reply::default());
            let (head, body) = text(&bytes).split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
            assert!(head.contains("WWW-Authenticate: Bearer\r\n"), "{head}");
            body.to_owned()
        };
        assert_eq!(
            body(CloseCode::TokenExpired),
            r#"{"error":"why","code":4403,"come_back":true}"#
        );
        assert_eq!(
            body(CloseCode::BadToken),
            r#"{"error":"why","code":4501,"come_back":false}"#
        );
    }

    #[test]
    fn a_success_keeps_the_connection_if_the_client_does() {
        let reply = Reply {
            keep_alive: true,
            allow_origin: Some("https://a.example".into()),
            ..Reply::default()
        };
        let bytes = Answer::no_content().encode(&reply);
        assert_eq!(
            text(&bytes),
            "HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n\
             Access-Control-Allow-Origin: https://a.example\r\nVary: Origin\r\n\
             Connection: keep-alive\r\n\r\n"
        );
        assert!(Answer::no_content().closes(&Reply::default()));
    }

    #[test]
    fn a_head_request_gets_no_body() {
        let reply = Reply {
            head_only: true,
            ..Reply::default()
        };
        let bytes = Answer::json("{}".into()).encode(&reply);
        assert!(text(&bytes).contains("Content-Length: 2\r\n"));
        assert!(bytes.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn a_full_host_says_when_to_come_back() {
        let bytes = over_capacity(|range| *range.end());
        assert!(text(&bytes).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(text(&bytes).contains("Retry-After: 30\r\n"));
    }
}
