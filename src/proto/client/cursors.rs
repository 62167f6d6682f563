//! Cursors as text: `user:local=1099511627783,all:local=1099511627776`, for a query string (where it
//! is percent-encoded), an SSE `id:` line and `Last-Event-ID`.

use crate::{
    limits::{CLIENT_CURSORS, STREAM_NAME_BYTES},
    position::{Cursors, Position},
};
use std::fmt::Write as _;
use thiserror::Error;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CursorsError {
    #[error("cursors are <stream>=<position>, separated by commas")]
    Form,
    #[error("cursors name at most 8 streams")]
    TooMany,
}

/// Whether a server could have given this name. One it never gave is legal: it answers
/// `recovered:false`.
pub fn is_stream_name(name: &str) -> bool {
    (1..=STREAM_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.'))
}

/// The text form; empty for no cursors.
pub fn to_text(cursors: &Cursors) -> String {
    let mut text = String::new();
    for (stream, at) in cursors {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{stream}={at}");
    }
    text
}

/// Reads the text form (already percent-decoded). An empty text is no cursors.
pub fn from_text(text: &str) -> Result<Cursors, CursorsError> {
    let mut cursors = Cursors::new();
    for pair in text.split(',').filter(|_| !text.is_empty()) {
        let (stream, at) = pair.split_once('=').ok_or(CursorsError::Form)?;
        // `parse` also takes a sign; a server never wrote one.
        let digits = at.bytes().all(|b| b.is_ascii_digit());
        let at = at.parse().ok().filter(|_| digits);
        let at = at.and_then(Position::from_wire).ok_or(CursorsError::Form)?;
        if !is_stream_name(stream) || cursors.insert(stream.to_owned(), at).is_some() {
            return Err(CursorsError::Form);
        }
        if cursors.len() > CLIENT_CURSORS {
            return Err(CursorsError::TooMany);
        }
    }
    Ok(cursors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_what_they_write() {
        let text = "all:local=1099511627776,user:local=1099511627783";
        assert_eq!(to_text(&from_text(text).unwrap()), text);
        assert_eq!(from_text(""), Ok(Cursors::new()));
        assert_eq!(to_text(&Cursors::new()), "");
    }

    #[test]
    fn what_no_server_wrote_is_refused() {
        for text in [
            ",",
            "a",
            "a=",
            "=1",
            "a=+1",
            "a=-1",
            "a=1,",
            "a=1,a=2",
            "a b=1",
            "a=9007199254740992",
        ] {
            assert_eq!(from_text(text), Err(CursorsError::Form), "{text}");
        }
        let many: Vec<_> = (0..9).map(|i| format!("s{i}=1")).collect();
        assert_eq!(from_text(&many.join(",")), Err(CursorsError::TooMany));
        assert!(from_text(&many[..8].join(",")).is_ok());
    }
}
