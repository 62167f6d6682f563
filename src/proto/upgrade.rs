//! What a request is: a WebSocket upgrade, an event stream, a client message by POST, or something to be
//! answered plainly. Decided from the head alone; nothing of the request is borrowed afterwards.
//!
//! Invariants:
//! * a browser of a foreign origin gets 403 wherever a user's data could follow; a client that sends no
//!   `Origin` is no browser and passes;
//! * a token leaves only as [`Secret`], which is never printed.

use super::{
    answer::{Answer, Reply, sse_head},
    request::{Method, Request},
    sse,
};
use crate::{
    config::{ConfigError, Secret},
    limits,
};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use tungstenite::{handshake::derive_accept_key, http::StatusCode};

/// The one subprotocol; the version of everything a client and the gateway say to each other.
pub const SUBPROTOCOL: &str = "herald.v1";
/// In the subprotocol list this names a token: what a browser can send without leaking it into logs.
const SUBPROTOCOL_TOKEN: &str = "bearer.";

/// What does not change from request to request.
#[derive(Clone, Debug)]
pub struct Rules {
    origins: Origins,
    /// `/` echoes, without authentication.
    echo: bool,
}

#[derive(Clone, Debug)]
enum Origins {
    Every,
    Listed(Box<[Box<str>]>),
}

impl Rules {
    /// From `gateway.origins` and `conformance.echo`.
    pub fn new(origins: &[String], echo: bool) -> Result<Rules, ConfigError> {
        let origins = if origins.iter().any(|origin| origin == "*") {
            Origins::Every
        } else {
            let listed = origins.iter().map(|origin| parse_origin(origin));
            Origins::Listed(listed.collect::<Result<_, _>>()?)
        };
        Ok(Rules { origins, echo })
    }

    fn allows(&self, origin: Option<&str>) -> bool {
        match (&self.origins, origin) {
            (_, None) | (Origins::Every, _) => true,
            (Origins::Listed(origins), Some(origin)) => {
                origins.iter().any(|o| o.eq_ignore_ascii_case(origin))
            }
        }
    }
}

fn parse_origin(origin: &str) -> Result<Box<str>, ConfigError> {
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    match host.is_empty() || host.contains(['/', ' ', '*', '@']) {
        false => Ok(origin.into()),
        true => Err(ConfigError::new(
            "gateway.origins",
            format!("{origin:?} is neither \"*\" nor scheme://host[:port]"),
        )),
    }
}

/// Where a token came from: a browser can't see the status of a refused upgrade, only a close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    Authorization,
    Subprotocol,
    Query,
}

/// What a client showed with its request. The cursors are text as the client gave it; `away_ms` is how long it has been
/// without a connection, by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    pub token: Option<(Secret, TokenSource)>,
    pub cursors: Option<Box<str>>,
    pub away_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostKind {
    Ack,
    Read,
    Sync,
}

/// What the request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `response` is the 101 to send once nothing speaks against it. Without a token the first frame
    /// brings it.
    WebSocket {
        response: Bytes,
        presented: Presented,
    },
    /// The conformance echo: no authentication, no limits on the rate.
    Echo {
        response: Bytes,
    },
    /// `head` is to be sent after the token was verified.
    Sse {
        head: Bytes,
        presented: Presented,
    },
    /// A body of `body_bytes` follows the head.
    Post {
        kind: PostKind,
        body_bytes: usize,
        /// It comes once it is asked for.
        expects_continue: bool,
        presented: Presented,
    },
    Plain(Answer),
}

/// What the request is, and how to answer it should something go wrong later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub asked: Asked,
    pub reply: Reply,
}

enum Route {
    WebSocket,
    Echo,
    Sse,
    Post(PostKind),
}

impl Route {
    fn of(path: &str, rules: &Rules) -> Option<Route> {
        match path {
            "/ws/notifications" | "/connect" => Some(Route::WebSocket),
            "/sse/notifications" => Some(Route::Sse),
            "/sse/ack" => Some(Route::Post(PostKind::Ack)),
            "/sse/read" => Some(Route::Post(PostKind::Read)),
            "/sse/sync" => Some(Route::Post(PostKind::Sync)),
            "/" if rules.echo => Some(Route::Echo),
            _ => None,
        }
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::Post(_) => "POST, OPTIONS",
            _ => "GET, OPTIONS",
        }
    }
}

pub fn decide(request: &Request<'_>, rules: &Rules) -> Decision {
    let allowed = rules.allows(request.origin);
    let reply = Reply {
        allow_origin: request.origin.filter(|_| allowed).map(Into::into),
        keep_alive: request.keep_alive,
        head_only: request.method == Method::Head,
    };
    let asked = match Route::of(&request.path, rules) {
        None => Ok(Asked::Plain(Answer::refusal(
            StatusCode::NOT_FOUND,
            "not_found",
        ))),
        Some(_) if !allowed => Err(Answer::refusal(StatusCode::FORBIDDEN, "origin")),
        Some(route) => decide_route(request, &route, &reply),
    };
    Decision {
        asked: asked.unwrap_or_else(Asked::Plain),
        reply,
    }
}

fn decide_route(request: &Request<'_>, route: &Route, reply: &Reply) -> Result<Asked, Answer> {
    match (request.method, route) {
        (Method::Options, route) => Err(Answer::preflight(route.methods())),
        (Method::Get, Route::WebSocket) => Ok(Asked::WebSocket {
            response: accept(request, true)?,
            presented: presented(request)?,
        }),
        (Method::Get, Route::Echo) => Ok(Asked::Echo {
            response: accept(request, false)?,
        }),
        (Method::Get, Route::Sse) if request.last_event_id.is_some_and(sse::stays_away) => {
            Err(Answer::no_content())
        }
        (Method::Get, Route::Sse) => Ok(Asked::Sse {
            head: sse_head(reply),
            presented: demand_token(presented(request)?)?,
        }),
        (Method::Post, Route::Post(kind)) => Ok(Asked::Post {
            kind: *kind,
            body_bytes: request
                .body_bytes
                .ok_or_else(|| Answer::refusal(StatusCode::LENGTH_REQUIRED, "no_content_length"))?,
            expects_continue: request.expects_continue,
            presented: demand_token(presented(request)?)?,
        }),
        (_, route) => Err(Answer::method_not_allowed(route.methods())),
    }
}

/// The 101, or why it is not given (RFC 6455, section 4.2).
fn accept(request: &Request<'_>, negotiates: bool) -> Result<Bytes, Answer> {
    let bad = |cause| Answer::refusal(StatusCode::BAD_REQUEST, cause);
    if !request.upgrade_websocket {
        return Err(Answer::upgrade_required("upgrade_required"));
    }
    if request.version_minor == 0 {
        return Err(bad("http_version"));
    }
    if !request.connection_upgrade {
        return Err(bad("connection_upgrade"));
    }
    if request.websocket_version != Some("13") {
        return Err(Answer::upgrade_required("websocket_version"));
    }
    let key = request.websocket_key.filter(|key| is_key(key));
    let key = key.ok_or_else(|| bad("websocket_key"))?;

    let offers = &request.subprotocols;
    let subprotocol = match offers.contains(&SUBPROTOCOL) {
        _ if !negotiates => "",
        true => "Sec-WebSocket-Protocol: herald.v1\r\n",
        false if offers.is_empty() => "",
        // A browser that offered some fails without an answer, and could not say why.
        false => return Err(bad("subprotocol")),
    };
    let accept = derive_accept_key(key.as_bytes());
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{subprotocol}\r\n"
    )
    .into())
}

/// Base64 of 16 bytes. The bits after the last one are the client's affair.
fn is_key(key: &str) -> bool {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    const LENIENT: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
    let mut nonce = [0; 18];
    key.len() == 24 && LENIENT.decode_slice(key, &mut nonce) == Ok(16)
}

fn presented(request: &Request<'_>) -> Result<Presented, Answer> {
    let token = token(request)?;
    if token
        .as_ref()
        .is_some_and(|(token, _)| token.expose().len() > limits::TOKEN_BYTES)
    {
        return Err(Answer::unauthorized("token_too_long"));
    }
    // An event stream that comes back repeats its URL but knows better by then.
    let cursors = match request.last_event_id.filter(|id| !id.is_empty()) {
        Some(id) => Some(id.into()),
        None => request.query_value("cursors").map(|text| text.into()),
    };
    Ok(Presented {
        token,
        cursors,
        away_ms: away_ms(request),
    })
}

/// Only counted, so what is no number is as good as none; who was away for longer did not try to come back.
fn away_ms(request: &Request<'_>) -> Option<u32> {
    let text = request.query_value("away_ms")?;
    let away_ms = text.parse().ok();
    away_ms.filter(|away_ms| *away_ms <= limits::AWAY_MS_MAX)
}

/// The place that can't leak wins over the one that might.
fn token(request: &Request<'_>) -> Result<Option<(Secret, TokenSource)>, Answer> {
    if let Some(value) = request.authorization {
        return match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some((
                Secret::new(token.trim()),
                TokenSource::Authorization,
            ))),
            _ => Err(Answer::unauthorized("authorization_scheme")),
        };
    }
    let mut offers = request.subprotocols.iter();
    if let Some(token) = offers.find_map(|offer| offer.strip_prefix(SUBPROTOCOL_TOKEN)) {
        return Ok(Some((Secret::new(token), TokenSource::Subprotocol)));
    }
    let token = request.query_value("token");
    Ok(token.map(|token| (Secret::new(token), TokenSource::Query)))
}

fn demand_token(presented: Presented) -> Result<Presented, Answer> {
    match presented.token {
        Some(_) => Ok(presented),
        None => Err(Answer::unauthorized("no_token")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::request::parse;

    const UPGRADE: &str = "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn decided(head: &str) -> Decision {
        let rules = Rules::new(&["https://app.example".into()], true).unwrap();
        decide(&parse(head.as_bytes()).unwrap().expect("whole"), &rules)
    }

    fn upgrade(path: &str, headers: &str) -> Decision {
        decided(&format!("GET {path} HTTP/1.1\r\n{UPGRADE}{headers}\r\n"))
    }

    /// Status and cause of a plain answer.
    fn plain(decision: Decision) -> (u16, &'static str) {
        match decision.asked {
            Asked::Plain(answer) => (answer.status.as_u16(), answer.cause),
            asked => panic!("not plain: {asked:?}"),
        }
    }

    fn token(decision: &Decision) -> Option<(&str, TokenSource)> {
        let (Asked::WebSocket { presented, .. } | Asked::Sse { presented, .. }) = &decision.asked
        else {
            panic!("no token in {decision:?}");
        };
        presented
            .token
            .as_ref()
            .map(|(token, source)| (token.expose(), *source))
    }

    #[test]
    fn an_upgrade_is_answered_with_the_key_of_the_rfc() {
        let Asked::WebSocket {
            response,
            presented,
        } = upgrade("/ws/notifications", "").asked
        else {
            panic!("an upgrade");
        };
        let response = std::str::from_utf8(&response).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "));
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!response.contains("Protocol:"));
        assert_eq!(presented, Presented::default());
    }

    #[test]
    fn only_the_subprotocol_is_answered_never_the_token() {
        let decision = upgrade(
            "/connect",
            "Sec-WebSocket-Protocol: herald.v1, bearer.a.b.c\r\n",
        );
        assert_eq!(token(&decision), Some(("a.b.c", TokenSource::Subprotocol)));
        assert!(!format!("{decision:?}").contains("a.b.c"));
        let Asked::WebSocket { response, .. } = decision.asked else {
            panic!("an upgrade");
        };
        let response = std::str::from_utf8(&response).unwrap();
        assert!(response.contains("Sec-WebSocket-Protocol: herald.v1\r\n"));
        assert!(!response.contains("bearer"));
        let without = upgrade("/connect", "Sec-WebSocket-Protocol: bearer.a.b.c\r\n");
        assert_eq!(plain(without), (400, "subprotocol"));
    }

    #[test]
    fn a_token_in_a_header_wins_over_one_in_the_url() {
        let both = upgrade("/connect?token=u", "Authorization: bearer  h\r\n");
        assert_eq!(token(&both), Some(("h", TokenSource::Authorization)));
        assert_eq!(
            token(&upgrade("/connect?token=u", "")),
            Some(("u", TokenSource::Query))
        );
        let basic = upgrade("/connect", "Authorization: Basic eA==\r\n");
        assert_eq!(plain(basic), (401, "authorization_scheme"));
        let long = upgrade(&format!("/connect?token={}", "t".repeat(4097)), "");
        assert_eq!(plain(long), (401, "token_too_long"));
    }

    #[test]
    fn a_bad_upgrade_is_told_why() {
        let with = |from: &str, to: &str| {
            let head = format!("GET /connect HTTP/1.1\r\n{UPGRADE}\r\n").replace(from, to);
            decided(&head)
        };
        assert_eq!(
            plain(with("Version: 13", "Version: 8")),
            (426, "websocket_version")
        );
        assert_eq!(
            plain(with("Upgrade: websocket\r\n", "")),
            (426, "upgrade_required")
        );
        assert_eq!(
            plain(with("Connection: Upgrade\r\n", "")),
            (400, "connection_upgrade")
        );
        assert_eq!(plain(with("dGhl", "dG=l")), (400, "websocket_key"));
        assert_eq!(plain(with("25jZQ==", "==")), (400, "websocket_key"));
        assert_eq!(plain(with("HTTP/1.1", "HTTP/1.0")), (400, "http_version"));
        assert_eq!(plain(with("GET", "HEAD")), (405, "method"));
        let old = with("Version: 13", "Version: 8");
        let Asked::Plain(answer) = old.asked else {
            panic!("plain");
        };
        let bytes = answer.encode(&old.reply);
        assert!(
            std::str::from_utf8(&bytes)
                .unwrap()
                .contains("Sec-WebSocket-Version: 13\r\n")
        );
    }

    #[test]
    fn a_foreign_origin_is_refused_and_none_is_no_browser() {
        let foreign = "Origin: https://evil.example\r\n";
        assert_eq!(plain(upgrade("/connect", foreign)), (403, "origin"));
        let ours = upgrade("/connect", "Origin: HTTPS://app.example\r\n");
        assert!(matches!(ours.asked, Asked::WebSocket { .. }));
        let preflight = "OPTIONS /sse/ack HTTP/1.1\r\nHost: h\r\n";
        assert_eq!(
            plain(decided(&format!("{preflight}{foreign}\r\n"))),
            (403, "origin")
        );
        let ours = decided(&format!("{preflight}Origin: https://app.example\r\n\r\n"));
        assert_eq!(
            ours.reply.allow_origin.as_deref(),
            Some("https://app.example")
        );
        assert_eq!(plain(ours), (204, "preflight"));
    }

    #[test]
    fn an_event_stream_needs_its_token_at_once_and_resumes_by_the_last_event() {
        let bare = "GET /sse/notifications HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(plain(decided(bare)), (401, "no_token"));
        let decision = decided(
            "GET /sse/notifications?token=t&cursors=user%3Alocal%3D1 HTTP/1.1\r\nHost: h\r\n\
             Last-Event-ID: user:local=7\r\n\r\n",
        );
        assert_eq!(token(&decision), Some(("t", TokenSource::Query)));
        let Asked::Sse { head, presented } = decision.asked else {
            panic!("an event stream");
        };
        assert_eq!(presented.cursors.as_deref(), Some("user:local=7"));
        assert!(
            std::str::from_utf8(&head)
                .unwrap()
                .contains("text/event-stream\r\n")
        );
        let Asked::WebSocket { presented, .. } = upgrade("/connect?cursors=all%3Ax%3D1", "").asked
        else {
            panic!("an upgrade");
        };
        assert_eq!(presented.cursors.as_deref(), Some("all:x=1"));
    }

    #[test]
    fn an_event_stream_that_was_ended_for_good_does_not_begin_again() {
        let with = |id: &str| {
            decided(&format!(
                "GET /sse/notifications?token=t HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n"
            ))
        };
        assert_eq!(plain(with("closed-4510")), (204, "ok"));
        assert!(matches!(with("closed-1012").asked, Asked::Sse { .. }));
        assert!(matches!(with("user:local=7").asked, Asked::Sse { .. }));
        // A client that is opened anew has no last event.
        let anew = decided("GET /sse/notifications?token=t HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(matches!(anew.asked, Asked::Sse { .. }));
    }

    #[test]
    fn a_post_says_what_it_is_and_how_long() {
        let post = |path: &str| {
            decided(&format!(
                "POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\n\
                 Content-Length: 9\r\n\r\n"
            ))
        };
        let decision = post("/sse/read");
        assert!(decision.reply.keep_alive);
        assert!(matches!(
            decision.asked,
            Asked::Post {
                kind: PostKind::Read,
                body_bytes: 9,
                ..
            }
        ));
        assert_eq!(plain(post("/connect")), (405, "method"));
        let bare = |path: &str| decided(&format!("POST {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(plain(bare("/sse/ack")), (411, "no_content_length"));
        assert_eq!(plain(bare("/nowhere")), (404, "not_found"));
        let wrong = bare("/ws/notifications");
        let Asked::Plain(answer) = &wrong.asked else {
            panic!("plain");
        };
        let bytes = answer.encode(&wrong.reply);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        assert!(text.contains("Allow: GET, OPTIONS\r\n"), "{text}");
        assert_eq!(plain(post("/nowhere")), (404, "not_found"));
    }

    #[test]
    fn the_echo_exists_only_when_configured() {
        assert!(matches!(upgrade("/", "").asked, Asked::Echo { .. }));
        let rules = Rules::new(&[], false).unwrap();
        let head = format!("GET / HTTP/1.1\r\n{UPGRADE}\r\n");
        let decision = decide(&parse(head.as_bytes()).unwrap().expect("whole"), &rules);
        assert_eq!(plain(decision), (404, "not_found"));
    }

    #[test]
    fn a_bad_origin_in_the_configuration_is_named() {
        let error = Rules::new(&["app.example".into()], false).unwrap_err();
        assert_eq!(error.key, "gateway.origins");
    }
}
