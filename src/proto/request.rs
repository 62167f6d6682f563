//! The head of an HTTP/1.1 request: read once, kept only as far as the next step asks about it.
//!
//! Invariants:
//! * the head is bounded in bytes and in headers before anything is looked at;
//! * a request whose body could be understood in two ways is refused, so that nothing behind a proxy can
//!   be smuggled;
//! * what may hold a token (query, `Authorization`, subprotocols) never appears in `Debug`.

use super::answer::Answer;
use crate::limits;
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;
use std::borrow::Cow;
use thiserror::Error;
use tungstenite::http::StatusCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Options,
}

/// Why a request is refused. The connection does not live on: what follows in it can't be trusted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum RequestError {
    #[error("not an HTTP/1.x request")]
    Malformed,
    #[error("the head has more bytes or headers than taken")]
    HeadTooBig,
    #[error("a method other than GET, HEAD, POST and OPTIONS")]
    Method,
    #[error("a header that may stand once stands twice")]
    DuplicateHeader,
    #[error("no Host header")]
    NoHost,
    #[error("Content-Length is not a number")]
    ContentLength,
    #[error("Transfer-Encoding is not taken")]
    TransferEncoding,
    #[error("the body is longer than taken")]
    BodyTooBig,
    #[error("a body where none is expected")]
    UnexpectedBody,
}

impl RequestError {
    pub fn status(self) -> StatusCode {
        match self {
            RequestError::HeadTooBig => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            RequestError::Method => StatusCode::METHOD_NOT_ALLOWED,
            RequestError::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            RequestError::BodyTooBig => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Bounded label for metrics, and the reason in the answer.
    pub fn cause(self) -> &'static str {
        match self {
            RequestError::Malformed => "malformed_request",
            RequestError::HeadTooBig => "head_too_big",
            RequestError::Method => "method",
            RequestError::DuplicateHeader => "duplicate_header",
            RequestError::NoHost => "no_host",
            RequestError::ContentLength => "content_length",
            RequestError::TransferEncoding => "transfer_encoding",
            RequestError::BodyTooBig => "body_too_big",
            RequestError::UnexpectedBody => "unexpected_body",
        }
    }

    pub fn answer(self) -> Answer {
        match self {
            RequestError::Method => Answer::method_not_allowed("GET, HEAD, POST, OPTIONS"),
            _ => Answer::refusal(self.status(), self.cause()),
        }
    }
}

/// A request head, borrowing from the bytes it was read from.
pub struct Request<'b> {
    pub method: Method,
    /// HTTP/1.0 or 1.1.
    pub version_minor: u8,
    /// Percent-decoded.
    pub path: Cow<'b, str>,
    query: &'b str,
    /// Bytes of the head; the body, or what the client sends next, follows.
    pub head_bytes: usize,
    /// `None`: no length was given, and so there is no body.
    pub body_bytes: Option<usize>,
    pub keep_alive: bool,
    /// The client sends its body once it is asked to.
    pub expects_continue: bool,
    pub origin: Option<&'b str>,
    pub authorization: Option<&'b str>,
    pub last_event_id: Option<&'b str>,
    /// `Connection` names `upgrade`.
    pub connection_upgrade: bool,
    /// `Upgrade` names `websocket`.
    pub upgrade_websocket: bool,
    pub websocket_key: Option<&'b str>,
    pub websocket_version: Option<&'b str>,
    /// Offered subprotocols in order, over all header lines.
    pub subprotocols: SmallVec<[&'b str; 2]>,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({:?} {:?})", self.method, self.path)
    }
}

/// Reads a request head from all the bytes of it so far; `None` while it is not whole. Asking again with
/// more bytes never takes back an answer.
///
/// Never asks for more than [`limits::REQUEST_HEAD_BYTES`].
pub fn parse(bytes: &[u8]) -> Result<Option<Request<'_>>, RequestError> {
    let bounded = &bytes[..bytes.len().min(limits::REQUEST_HEAD_BYTES)];
    let mut headers = [httparse::EMPTY_HEADER; limits::REQUEST_HEADERS];
    let mut raw = httparse::Request::new(&mut headers);
    let head_bytes = match raw.parse(bounded) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bounded.len() == limits::REQUEST_HEAD_BYTES => {
            return Err(RequestError::HeadTooBig);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::HeadTooBig),
        Err(_) => return Err(RequestError::Malformed),
    };
    let mut request = Request::from_line(&raw)?;
    request.head_bytes = head_bytes;
    let mut framing = Framing::default();
    for header in raw.headers.iter() {
        request.take_header(header, &mut framing)?;
    }
    request.judge_framing(framing)?;
    Ok(Some(request))
}

/// Headers that only matter while the head is read.
#[derive(Default)]
struct Framing<'b> {
    host: Option<&'b str>,
    content_length: Option<&'b str>,
    transfer_encoding: bool,
}

impl<'b> Request<'b> {
    /// A parameter of the query, percent-decoded; the first one of the name.
    pub fn query_value(&self, name: &str) -> Option<Cow<'b, str>> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| percent_decode_str(value).decode_utf8_lossy())
    }

    fn from_line(raw: &httparse::Request<'_, 'b>) -> Result<Request<'b>, RequestError> {
        let method = match raw.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            Some("OPTIONS") => Method::Options,
            _ => return Err(RequestError::Method),
        };
        let target = origin_form(raw.path.ok_or(RequestError::Malformed)?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = percent_decode_str(path).decode_utf8();
        let version_minor = raw.version.ok_or(RequestError::Malformed)?;
        Ok(Request {
            method,
            version_minor,
            path: path.map_err(|_| RequestError::Malformed)?,
            query,
            head_bytes: 0,
            body_bytes: None,
            keep_alive: version_minor == 1,
            expects_continue: false,
            origin: None,
            authorization: None,
            last_event_id: None,
            connection_upgrade: false,
            upgrade_websocket: false,
            websocket_key: None,
            websocket_version: None,
            subprotocols: SmallVec::new(),
        })
    }

    fn take_header(
        &mut self,
        header: &httparse::Header<'b>,
        framing: &mut Framing<'b>,
    ) -> Result<(), RequestError> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let once = |slot: &mut Option<&'b str>| match slot.replace(text(header.value)?) {
            None => Ok(()),
            Some(_) => Err(RequestError::DuplicateHeader),
        };
        if is("host") {
            once(&mut framing.host)
        } else if is("content-length") {
            once(&mut framing.content_length)
        } else if is("transfer-encoding") {
            framing.transfer_encoding = true;
            Ok(())
        } else if is("connection") {
            let listed = |option: &str| lists(header.value, option);
            self.connection_upgrade |= listed("upgrade");
            self.keep_alive = (self.keep_alive || listed("keep-alive")) && !listed("close");
            Ok(())
        } else if is("expect") {
            // RFC 9110, section 10.1.1: of an HTTP/1.0 client it is passed over.
            self.expects_continue |= self.version_minor == 1 && lists(header.value, "100-continue");
            Ok(())
        } else if is("upgrade") {
            self.upgrade_websocket |= lists(header.value, "websocket");
            Ok(())
        } else if is("origin") {
            once(&mut self.origin)
        } else if is("authorization") {
            once(&mut self.authorization)
        } else if is("last-event-id") {
            once(&mut self.last_event_id)
        } else if is("sec-websocket-key") {
            once(&mut self.websocket_key)
        } else if is("sec-websocket-version") {
            once(&mut self.websocket_version)
        } else if is("sec-websocket-protocol") {
            self.subprotocols
                .extend(text(header.value)?.split(',').map(str::trim));
            Ok(())
        } else {
            Ok(())
        }
    }

    /// How long the body is, if that can be understood in one way only.
    fn judge_framing(&mut self, framing: Framing<'b>) -> Result<(), RequestError> {
        if framing.host.is_none() && self.version_minor == 1 {
            return Err(RequestError::NoHost);
        }
        if framing.transfer_encoding {
            return Err(RequestError::TransferEncoding);
        }
        self.body_bytes = match framing.content_length {
            None => None,
            // `parse` alone would take a sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| RequestError::ContentLength)?)
            }
            Some(_) => return Err(RequestError::ContentLength),
        };
        match (self.method, self.body_bytes.unwrap_or(0)) {
            (Method::Post, bytes) if bytes > limits::POST_BODY_BYTES => {
                Err(RequestError::BodyTooBig)
            }
            (Method::Post, _) | (_, 0) => Ok(()),
            _ => Err(RequestError::UnexpectedBody),
        }
    }
}

/// The path and query of a target that a proxy may have sent in absolute form.
fn origin_form(target: &str) -> &str {
    let Some((_, rest)) = target
        .split_once("://")
        .filter(|_| !target.starts_with('/'))
    else {
        return target;
    };
    rest.find('/').map_or("/", |at| &rest[at..])
}

fn text(value: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(value).map_err(|_| RequestError::Malformed)
}

/// Whether a comma-separated header value names `option`.
fn lists(value: &[u8], option: &str) -> bool {
    value
        .split(|&b| b == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Request<'_> {
        parse(text.as_bytes()).unwrap().expect("a whole head")
    }

    fn refused(text: &str) -> RequestError {
        parse(text.as_bytes()).expect_err("refused")
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let head = "GET /ws/not%69fications?token=a%2Eb&x HTTP/1.1\r\nHost: h\r\n\r\n";
        for cut in 0..head.len() {
            assert!(matches!(parse(&head.as_bytes()[..cut]), Ok(None)));
        }
        let text = format!("{head}rest");
        let request = parsed(&text);
        assert_eq!(
            (request.method, &*request.path),
            (Method::Get, "/ws/notifications")
        );
        assert_eq!(request.query_value("token").as_deref(), Some("a.b"));
        assert_eq!(request.query_value("x"), None);
        assert_eq!(request.head_bytes, head.len());
        assert!(request.keep_alive);
    }

    #[test]
    fn a_proxys_absolute_target_names_the_same_path() {
        let request = parsed("GET http://h:80/connect?token=t HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(request.path, "/connect");
        let request = parsed("GET /r?next=http://h/x HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(request.path, "/r");
    }

    #[test]
    fn what_is_not_http_is_refused_at_once() {
        assert_eq!(refused("\x16\x03\x01\x02\0\x01\0"), RequestError::Malformed);
        assert_eq!(refused("GET / HTTP/2.0\r\n\r\n"), RequestError::Malformed);
        assert_eq!(
            refused("GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n"),
            RequestError::Malformed
        );
        assert_eq!(
            refused("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n"),
            RequestError::Method
        );
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), RequestError::NoHost);
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_in_headers() {
        let line = format!("X: {}\r\n", "x".repeat(limits::REQUEST_HEAD_BYTES));
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n");
        assert_eq!(refused(&long), RequestError::HeadTooBig);
        let partial = &long[..limits::REQUEST_HEAD_BYTES - 1];
        assert!(matches!(parse(partial.as_bytes()), Ok(None)));
        let many = "X: x\r\n".repeat(limits::REQUEST_HEADERS + 1);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\n{many}\r\n")),
            RequestError::HeadTooBig
        );
    }

    #[test]
    fn a_body_has_one_length_or_the_request_is_refused() {
        let post = |headers: &str| format!("POST /sse/ack HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        assert_eq!(parsed(&post("Content-Length: 12\r\n")).body_bytes, Some(12));
        assert_eq!(parsed(&post("")).body_bytes, None);
        let cases = [
            ("Content-Length: +1\r\n", RequestError::ContentLength),
            ("Content-Length: 1, 1\r\n", RequestError::ContentLength),
            (
                "Content-Length: 99999999999999999999999\r\n",
                RequestError::ContentLength,
            ),
            (
                "Content-Length: 1\r\nContent-Length: 1\r\n",
                RequestError::DuplicateHeader,
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                RequestError::TransferEncoding,
            ),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                RequestError::TransferEncoding,
            ),
            ("Content-Length: 65537\r\n", RequestError::BodyTooBig),
        ];
        for (headers, error) in cases {
            assert_eq!(refused(&post(headers)), error, "{headers}");
        }
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"),
            RequestError::UnexpectedBody
        );
    }

    #[test]
    fn connection_options_are_a_list() {
        let request = parsed(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
        );
        assert!(request.connection_upgrade && request.upgrade_websocket && !request.keep_alive);
        assert!(!parsed("GET / HTTP/1.0\r\n\r\n").keep_alive);
    }

    #[test]
    fn debug_output_shows_no_token() {
        let request = parsed(
            "GET /connect?token=secret HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\n\
             Sec-WebSocket-Protocol: bearer.secret\r\n\r\n",
        );
        assert!(!format!("{request:?}").contains("secret"));
    }
}
