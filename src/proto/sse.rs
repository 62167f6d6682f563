//! Server-Sent Events: how a frame becomes an event, and which cursor its `id:` line may name.
//!
//! A browser sends the last `id:` it saw back as `Last-Event-ID`, without knowing of holes. So the
//! server keeps the client's cursors for it ([`Tracked`]) and writes into `id:` only what is contiguous:
//! nothing before a complete sync, and never beyond a hole.

use super::client::cursors;
use crate::position::{ContiguousCursor, Cursors, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A comment: keeps proxies awake, and makes the kernel notice that nobody is there.
pub const HEARTBEAT: &[u8] = b":\n\n";
/// Ends the `data:` line and the event.
pub const EVENT_END: &[u8] = b"\n\n";

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

    /// An incomplete sync led to these cursors. True: further than the one before it, so the next part
    /// is worth asking for.
    pub fn synced_in_part(&mut self, cursors: &Cursors) -> bool {
        let further = self.caught_up_to.as_ref() != Some(cursors);
        self.caught_up_to = Some(cursors.clone());
        further && !cursors.is_empty()
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
