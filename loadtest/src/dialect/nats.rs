//! The client protocol of NATS, as much of it as subscribing, receiving and publishing take.

use super::BadSaying;
use std::str;

/// A longer line is none of this protocol; `INFO` of a large cluster is a few KB.
const LINE_BYTES_MAX: usize = 64 * 1024;
pub const ALL: &str = "all";

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Saying<'a> {
    /// Payload of a message.
    Message(&'a [u8]),
    Ping,
    /// What was said before the `PING` it answers is done.
    Pong,
    /// `INFO`, `+OK`.
    Other,
}

/// Reads what stands at the start of `bytes` and says how long it is; `None` while it is not whole: frames of a
/// WebSocket cut it anywhere.
pub fn parse(bytes: &[u8]) -> Result<Option<(Saying<'_>, usize)>, BadSaying> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return match bytes.len() {
            0..=LINE_BYTES_MAX => Ok(None),
            _ => Err(BadSaying("a line too long")),
        };
    };
    let line = str::from_utf8(&bytes[..end]).map_err(|_| BadSaying("not UTF-8"))?;
    let start = end + 2;
    let saying = match line.split(' ').next() {
        Some("MSG") => {
            let length = line.rsplit(' ').next().and_then(|text| text.parse().ok());
            let length: usize = length.ok_or(BadSaying("MSG without a length"))?;
            let Some(payload) = bytes.get(start..start + length) else {
                return Ok(None);
            };
            if bytes.len() < start + length + 2 {
                return Ok(None);
            }
            return Ok(Some((Saying::Message(payload), start + length + 2)));
        }
        Some("PING") => Saying::Ping,
        Some("PONG") => Saying::Pong,
        Some("INFO" | "+OK") => Saying::Other,
        Some("-ERR") => return Err(BadSaying("-ERR")),
        _ => return Err(BadSaying("not of NATS")),
    };
    Ok(Some((saying, start)))
}

/// A client's first words. The `PONG` says that it is subscribed.
pub fn subscriptions(user: &str) -> String {
    format!(
        "{}SUB {} 1\r\nSUB {ALL} 2\r\nPING\r\n",
        connect(),
        subject(user)
    )
}

pub fn connect() -> &'static str {
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"swarm\",\"version\":\"0\"}\r\n"
}

pub fn subject(user: &str) -> String {
    format!("user.{user}")
}

pub fn publication(subject: &str, payload: &str) -> String {
    format!("PUB {subject} {}\r\n{payload}\r\n", payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_when_it_is_whole_wherever_it_is_cut() {
        let bytes = b"MSG user.7 1 5\r\na\r\nbc\r\nPING\r\n";
        for cut in 0..23 {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse(bytes), Ok(Some((Saying::Message(b"a\r\nbc"), 23))));
        assert_eq!(parse(&bytes[23..]), Ok(Some((Saying::Ping, 6))));
    }

    #[test]
    fn what_is_published_is_read_as_a_message() {
        let published = publication("all", "text");
        assert_eq!(published, "PUB all 4\r\ntext\r\n");
        assert!(subscriptions("7").contains("SUB user.7 1\r\n"));
    }

    #[test]
    fn a_refusal_and_another_protocol_are_errors() {
        assert_eq!(parse(b"-ERR 'no'\r\n"), Err(BadSaying("-ERR")));
        assert_eq!(parse(b"HTTP/1.1 200\r\n"), Err(BadSaying("not of NATS")));
        assert_eq!(parse(b"INFO {}\r\nx"), Ok(Some((Saying::Other, 9))));
    }
}
