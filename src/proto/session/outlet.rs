//! Dresses frames for the wire: WebSocket text frames, or Server-Sent Events with the cursors they lead to.

use super::{Framing, Item};
use crate::{
    position::{Cursors, Position},
    proto::{
        client::frames::{self, Gap},
        frame,
        sse::{self, Tracked},
    },
};
use bytes::Bytes;

/// For the length of one call: the framing of a connection, and the cursors of an SSE one.
pub struct Outlet<'a> {
    pub(super) framing: Framing,
    pub(super) tracked: &'a mut Option<Box<Tracked>>,
}

impl Outlet<'_> {
    pub fn control(&self, json: &[u8], retry_ms: Option<u32>) -> Bytes {
        match self.framing {
            Framing::WebSocket => frame::encode(frame::TEXT, json),
            Framing::Sse => sse::event(json, None, retry_ms),
        }
    }

    pub fn gap(&mut self, gap: &Gap) -> Bytes {
        let json = frames::gap(*gap);
        if self.framing == Framing::WebSocket {
            return frame::encode(frame::TEXT, &json);
        }
        if gap.cause.covers() {
            self.covered(gap.stream, gap.from, gap.to);
        }
        sse::event(&json, self.id().as_deref(), None)
    }

    /// `complete`: the cursors it leads to are the client's from here on.
    pub fn sync(&mut self, json: &[u8], cursors: &Cursors, complete: bool) -> Bytes {
        if self.framing == Framing::WebSocket {
            return frame::encode(frame::TEXT, json);
        }
        if complete {
            self.tracked.get_or_insert_default().synced(cursors);
        }
        sse::event(
            &frames::one_line(Bytes::copy_from_slice(json)),
            self.id().as_deref(),
            None,
        )
    }

    /// Head of the item's event, once the item's place in the byte stream is settled; `None` sends the
    /// item's WebSocket frame.
    pub fn event_head(&mut self, item: &Item) -> Option<Box<str>> {
        if self.framing == Framing::WebSocket {
            return None;
        }
        self.covered(&item.stream, item.prev, item.pos);
        Some(sse::event_head(item.json(), self.id().as_deref(), None).into())
    }

    /// Slices an item takes in a `writev`.
    pub fn parts_per_item(&self) -> usize {
        match self.framing {
            Framing::WebSocket => 1,
            Framing::Sse => 3,
        }
    }

    fn covered(&mut self, stream: &str, from: Position, to: Position) {
        let tracked = self.tracked.get_or_insert_default();
        tracked.covered(stream, from, to);
    }

    fn id(&self) -> Option<String> {
        self.tracked.as_ref().and_then(|tracked| tracked.id())
    }
}
