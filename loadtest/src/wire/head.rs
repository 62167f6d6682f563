//! The request that opens a connection, and the head of its answer.

use base64::{Engine, engine::general_purpose::STANDARD};

/// A larger head of an answer is refused.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// Where and how to ask.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub host: &'a str,
    pub path: &'a str,
    pub token: &'a str,
    /// `name=position,…`; empty: none are known.
    pub cursors: &'a str,
    /// How long it has been without a connection, if it had one.
    pub away_ms: Option<u64>,
}

/// The head of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Bytes the head took.
    pub length: usize,
    pub accept: Option<String>,
    pub retry_after_s: Option<u64>,
    pub content_length: Option<usize>,
    pub chunked: bool,
    /// The server closes after this answer.
    pub closes: bool,
}

/// What came is no head of an HTTP/1.1 answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnswer;

impl Request<'_> {
    /// Asks for a WebSocket; `key` is 16 random bytes.
    pub fn websocket(&self, key: [u8; 16]) -> Vec<u8> {
        let cursors = Some(self.cursors).filter(|cursors| !cursors.is_empty());
        let cursors = cursors.map(|cursors| format!("cursors={}", percent_encoded(cursors)));
        let path = self.path_with(cursors);
        let headers = format!(
            "Sec-WebSocket-Protocol: herald.v1\r\nAuthorization: Bearer {}\r\n",
            self.token
        );
        upgrade(self.host, &path, key, &headers)
    }

    /// Asks for a stream of events.
    pub fn events(&self) -> Vec<u8> {
        let last = match self.cursors {
            "" => String::new(),
            cursors => format!("Last-Event-ID: {cursors}\r\n"),
        };
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{last}\
             Authorization: Bearer {}\r\n\r\n",
            self.path_with(None),
            self.host,
            self.token
        )
        .into_bytes()
    }

    /// The path, with what goes with it in the query.
    fn path_with(&self, cursors: Option<String>) -> String {
        let away = self.away_ms.map(|away_ms| format!("away_ms={away_ms}"));
        let mut path = self.path.to_owned();
        for pair in cursors.into_iter().chain(away) {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&pair);
        }
        path
    }

    /// Posts JSON beside a stream of events.
    pub fn post(&self, json: &str) -> Vec<u8> {
        format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nAuthorization: Bearer {}\r\n\r\n{json}",
            self.path,
            self.host,
            json.len(),
            self.token
        )
        .into_bytes()
    }
}

/// Asks for a WebSocket; `headers` are whole lines.
pub fn upgrade(host: &str, path: &str, key: [u8; 16], headers: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n{headers}\r\n",
        STANDARD.encode(key)
    )
    .into_bytes()
}

/// What a server must answer to a WebSocket key.
pub fn expected_accept(key: [u8; 16]) -> String {
    tungstenite::handshake::derive_accept_key(STANDARD.encode(key).as_bytes())
}

impl Answer {
    /// `None` while the head is not whole.
    pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, BadAnswer> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
            _ => return Err(BadAnswer),
        };
        let mut answer = Answer {
            status: response.code.ok_or(BadAnswer)?,
            length,
            closes: response.version == Some(0),
            ..Answer::default()
        };
        for header in response.headers.iter() {
            let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
            match header.name.to_ascii_lowercase().as_str() {
                "sec-websocket-accept" => answer.accept = Some(value.to_owned()),
                "retry-after" => answer.retry_after_s = value.parse().ok(),
                "content-length" => answer.content_length = value.parse().ok(),
                "transfer-encoding" => answer.chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" => answer.closes |= value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        Ok(Some(answer))
    }
}

/// Only what cursors are made of beside letters, digits and dashes needs it.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request<'static> = Request {
        host: "h:1",
        path: "/ws",
        token: "t",
        cursors: "user:local=7",
        away_ms: None,
    };

    #[test]
    fn cursors_go_with_the_request() {
        let text = String::from_utf8(REQUEST.websocket([0; 16])).unwrap();
        assert!(
            text.starts_with("GET /ws?cursors=user%3Alocal%3D7 HTTP/1.1\r\n"),
            "{text}"
        );
        let text = String::from_utf8(REQUEST.events()).unwrap();
        assert!(text.contains("\r\nLast-Event-ID: user:local=7\r\n"));
    }

    #[test]
    fn who_comes_back_says_how_long_it_was_away() {
        let back = Request {
            away_ms: Some(90),
            ..REQUEST
        };
        let text = String::from_utf8(back.websocket([0; 16])).unwrap();
        let path = "GET /ws?cursors=user%3Alocal%3D7&away_ms=90 HTTP/1.1\r\n";
        assert!(text.starts_with(path), "{text}");
        let text = String::from_utf8(back.events()).unwrap();
        assert!(
            text.starts_with("GET /ws?away_ms=90 HTTP/1.1\r\n"),
            "{text}"
        );
    }

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let bytes = b"HTTP/1.1 503 No\r\nRetry-After: 9\r\nConnection: close\r\n\r\nrest";
        assert_eq!(Answer::parse(&bytes[..20]), Ok(None));
        let answer = Answer::parse(bytes).unwrap().unwrap();
        assert_eq!((answer.status, answer.retry_after_s), (503, Some(9)));
        assert!(answer.closes && !answer.chunked);
        assert_eq!(&bytes[answer.length..], b"rest");
        assert_eq!(Answer::parse(b"SMTP ready\r\n\r\n"), Err(BadAnswer));
    }
}
