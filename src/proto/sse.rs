//! Server-Sent Events: how a frame becomes an event, and which cursor its `id:` line may name.
//!
//! A browser sends the last `id:` it saw back as `Last-Event-ID`, without knowing of holes. So the
//! server keeps the client's cursors for it ([`Tracked`]) and writes into `id:` only what is contiguous:
//! nothing before a complete sync, and never beyond a hole.
//!
//! A browser opens a stream that has ended again, until it gets another answer than 200: the standard names
//! 204 for it. No gateway remembers whom another one has sent away for good, so the last event of such a
//! stream leaves that with the client, as the `id:` it comes back with ([`last_event`], [`stays_away`]).

use super::{
    client::{cursors, frames},
    close::{self, CloseCode},
};
use crate::position::{ContiguousCursor, Cursors, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A comment: keeps proxies awake, and makes the kernel notice that nobody is there.
pub const HEARTBEAT: &[u8] = b":\n\n";
/// Ends the `data:` line and the event.
pub const EVENT_END: &[u8] = b"\n\n";
/// Before the close code in an `id:`. No cursors look like it: they have an equals sign.
const STAY_AWAY: &str = "closed-";

/// Everything of an event before its JSON. `retry_ms` is how long the browser waits before it comes back.
pub fn event_head(json: &[u8], id: Option<&str>, retry_ms: Option<u32>) -> String {
    let mut head = format!("event: {}\n", event_name(json));
    if let Some(id) = id {
        let _ = writeln!(head, "id: {id}");
    }
    if let Some(retry_ms) = retry_ms {
        let _ = writeln!(head, "retry: {retry_ms}");
    }
    head.push_str("data: ");
    head
}

/// A whole event. `json` is one line, as every frame of [`super::client::frames`] is.
pub fn event(json: &[u8], id: Option<&str>, retry_ms: Option<u32>) -> Bytes {
    let head = event_head(json, id, retry_ms);
    [head.as_bytes(), json, EVENT_END].concat().into()
}

/// What a close frame says on a WebSocket. Where the client is not to come back the event has an `id:` that
/// the next request is known by; else none, and the cursors stay the last one.
pub fn last_event(code: CloseCode, reason: &str) -> Bytes {
    let id = (!code.comes_back()).then(|| format!("{STAY_AWAY}{}", code.code()));
    event(&frames::close(code, reason), id.as_deref(), None)
}

/// Whether this `Last-Event-ID` is that of a [`last_event`] after which nobody should come back.
pub fn stays_away(last_event_id: &str) -> bool {
    let code = last_event_id.strip_prefix(STAY_AWAY);
    code.and_then(|code| code.parse().ok())
        .is_some_and(|code| !close::comes_back(code))
}

/// The frame's type: what our frames begin with. Anything else is the default event.
fn event_name(json: &[u8]) -> &str {
    let name = json
        .strip_prefix(br#"{"type":""#)
        .and_then(|rest| rest.split(|&b| b == b'"').next())
        .filter(|name| name.iter().all(|b| b.is_ascii_lowercase() || *b == b'_'));
    name.and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or("message")
}

/// The cursors of a client that can't keep them itself.
#[derive(Debug, Default)]
pub struct Tracked {
    /// Streams a complete sync named are known; of the others only what was written is remembered.
    streams: BTreeMap<String, (ContiguousCursor, bool)>,
    /// Where the last incomplete sync led to.
    caught_up_to: Option<Cursors>,
    /// The next part from there is to be asked for.
    wants_next: bool,
}

impl Tracked {
    /// `(prev, pos]` of the stream is written, or covered by a `gap`.
    pub fn covered(&mut self, stream: &str, prev: Position, pos: Position) {
        match self.streams.get_mut(stream) {
            Some((cursor, _)) => cursor.advance(prev, pos),
            None => {
                let mut cursor = ContiguousCursor::default();
                cursor.advance(prev, pos);
                self.streams.insert(stream.to_owned(), (cursor, false));
            }
        }
    }

    /// A complete sync leads to these cursors: from here on they are known.
    pub fn synced(&mut self, cursors: &Cursors) {
        for (stream, &at) in cursors {
            let (cursor, known) = self.streams.entry(stream.clone()).or_default();
            let from = cursor.position();
            cursor.cover(from, at);
            *known = true;
        }
    }

    /// An incomplete sync led to these cursors: if further than the one before it, the next part is worth
    /// asking for.
    pub fn synced_in_part(&mut self, cursors: &Cursors) {
        let further = self.caught_up_to.as_ref() != Some(cursors);
        self.caught_up_to = Some(cursors.clone());
        self.wants_next = further && !cursors.is_empty();
    }

    /// From where the next part is to be asked for, once each.
    pub fn next_part(&mut self) -> Option<Cursors> {
        let wants_next = std::mem::take(&mut self.wants_next);
        self.caught_up_to.clone().filter(|_| wants_next)
    }

    /// What is known, `None` before the first complete sync.
    pub fn cursors(&self) -> Option<Cursors> {
        let known: Cursors = self
            .streams
            .iter()
            .filter(|(_, (_, known))| *known)
            .map(|(stream, (cursor, _))| (stream.clone(), cursor.position()))
            .collect();
        (!known.is_empty()).then_some(known)
    }

    /// From where to ask again for the client: what is known, or where the last incomplete answer ended.
    /// `None` before any answer.
    pub fn resume_from(&self) -> Option<Cursors> {
        self.cursors().or_else(|| self.caught_up_to.clone())
    }

    /// Text of the `id:` line.
    pub fn id(&self) -> Option<String> {
        self.cursors().map(|known| cursors::to_text(&known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(offset: u64) -> Position {
        Position::new(1, offset).unwrap()
    }

    fn synced_at(offset: u64) -> Cursors {
        Cursors::from([("user:local".to_owned(), p(offset))])
    }

    #[test]
    fn an_event_is_named_by_its_frame() {
        let json = br#"{"type":"auth_expiring","in_ms":7}"#;
        assert_eq!(
            event(json, Some("user:local=9"), Some(5)),
            "event: auth_expiring\nid: user:local=9\nretry: 5\ndata: {\"type\":\"auth_expiring\",\"in_ms\":7}\n\n"
        );
        assert_eq!(event(b"{}", None, None), "event: message\ndata: {}\n\n");
        assert_eq!(
            event(b"{\"type\":\"a\nb\"}", None, None).slice(..15),
            "event: message\n"
        );
    }

    #[test]
    fn the_last_event_of_a_stream_says_whether_to_come_back_and_is_known_again() {
        assert_eq!(
            last_event(CloseCode::Disconnected, "by an operator"),
            "event: close\nid: closed-4510\ndata: {\"type\":\"close\",\"code\":4510,\
             \"reason\":\"by an operator\",\"come_back\":false}\n\n"
        );
        assert_eq!(
            last_event(CloseCode::Restart, "drain"),
            "event: close\ndata: {\"type\":\"close\",\"code\":1012,\"reason\":\"drain\",\
             \"come_back\":true}\n\n"
        );
        assert!(stays_away("closed-4510") && stays_away("closed-4999"));
        for other in [
            "",
            "closed-",
            "closed-1012",
            "closed-4499",
            "user:local=4510",
        ] {
            assert!(!stays_away(other), "{other}");
        }
        assert!(cursors::from_text("closed-4510").is_err());
    }

    #[test]
    fn no_id_is_told_before_a_complete_sync() {
        let mut tracked = Tracked::default();
        tracked.covered("user:local", p(5), p(6));
        assert_eq!(tracked.id(), None);
    }

    #[test]
    fn what_was_written_before_the_sync_counts_once_the_sync_reaches_it() {
        let mut tracked = Tracked::default();
        tracked.covered("user:local", p(5), p(6));
        tracked.covered("user:local", p(8), p(9));
        tracked.synced(&synced_at(5));
        assert_eq!(tracked.cursors(), Some(synced_at(6)));
        tracked.covered("user:local", p(6), p(8));
        assert_eq!(tracked.cursors(), Some(synced_at(9)));
    }

    #[test]
    fn a_stream_no_sync_named_stays_out_of_the_id() {
        let mut tracked = Tracked::default();
        tracked.covered("all:local", Position::START, p(1));
        tracked.synced(&synced_at(5));
        assert_eq!(tracked.id(), Some(format!("user:local={}", p(5))));
    }

    #[test]
    fn a_later_sync_from_below_never_takes_a_cursor_back() {
        let mut tracked = Tracked::default();
        tracked.synced(&synced_at(9));
        tracked.synced(&synced_at(5));
        assert_eq!(tracked.cursors(), Some(synced_at(9)));
    }
}
