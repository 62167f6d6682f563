//! What waits to be sent on one connection: control in front, then critical, high, normal, low.
//!
//! Invariants:
//! * exists only while something is unsent; an idle connection has none;
//! * what [`Lanes::gather`] has offered is on its way: at most [`OUTGOING_BYTES`] (or one larger piece)
//!   in a settled order. Of these only a piece no byte of which was taken may still be dropped, and only
//!   as expired or collapsed, whose range the client is told; a piece partly taken always goes first
//!   and whole;
//! * every ticket gets one first fate (`Deferred` or a final one) and after `Deferred` at most one final
//!   one. What is shed under pressure or left at the end is `Deferred`: its row is in the inbox;
//! * whatever is dropped is told: a `gap` of cause `collapsed` or `expired` over exactly the items' ranges,
//!   or one `gap` of cause `pressure` for all that an episode shed;
//! * all of it is bounded: items by `lanes_bytes`, control by `control_bytes`, gaps by [`GAPS_WAITING`], and
//!   [`Lanes::held_bytes`] says what it takes of memory.

use super::{
    Now,
    client::frames::{Gap, GapCause},
    session::{Action, Item, Outlet, SessionConfig, Stamp, Ticket},
};
use crate::{
    envelope::{Fate, is_expired},
    limits::{
        GAPS_WAITING, ITEM_BYTES, OUTGOING_BYTES, OUTGOING_PIECES, PRESSURE_EPISODE, WRITE_BYTES,
    },
    position::Position,
};
use bytes::Bytes;
use smallvec::SmallVec;
use std::{collections::VecDeque, sync::Arc};

/// Slices of one `writev`.
pub type Slices<'a> = SmallVec<[&'a [u8]; 16]>;

const LANES: usize = 4;

/// An item not yet taken by the kernel.
#[derive(Debug)]
struct Waiting {
    item: Arc<Item>,
    ticket: Ticket,
    since: Stamp,
    deferred: bool,
}

impl Waiting {
    /// Bytes of memory, were it the only one that holds the item.
    fn held_bytes(&self) -> usize {
        self.item.json().len() + ITEM_BYTES
    }
}

/// A queue may have room for twice what it holds.
const _: () = assert!(size_of::<Item>() + 2 * size_of::<Piece>() <= ITEM_BYTES);

/// Something whose place in the byte stream is settled.
#[derive(Debug)]
enum Piece {
    Control(Bytes),
    Item {
        waiting: Waiting,
        /// Head of the SSE event; `None` sends the WebSocket frame.
        event: Option<Box<str>>,
    },
}

impl Piece {
    fn parts(&self) -> [&[u8]; 3] {
        match self {
            Piece::Control(framed) => [framed, b"", b""],
            Piece::Item {
                waiting,
                event: None,
            } => [waiting.item.ws(), b"", b""],
            Piece::Item {
                waiting,
                event: Some(head),
            } => [head.as_bytes(), waiting.item.json(), super::sse::EVENT_END],
        }
    }

    fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// A range the client is to be told of: `collapsed` or `expired`.
#[derive(Debug)]
struct Covered {
    stream: Arc<str>,
    from: Position,
    to: Position,
    dropped: u32,
    cause: GapCause,
}

/// What was shed since the lanes filled up.
#[derive(Debug)]
pub struct Shed {
    pub stream: Arc<str>,
    pub from: Position,
    pub to: Position,
    pub dropped: u32,
    since: Stamp,
}

#[derive(Debug, Default)]
pub struct Lanes {
    control: VecDeque<Bytes>,
    waiting: [VecDeque<Waiting>; LANES],
    outgoing: VecDeque<Piece>,
    /// Of the first outgoing piece the kernel has this many bytes.
    sent: usize,
    gaps: Vec<Covered>,
    shed: Option<Shed>,
    /// Framed bytes of control frames, outgoing ones included.
    control_bytes: usize,
    /// Bytes of memory of items, outgoing ones included.
    item_bytes: usize,
    /// Least expiry of the items, not later than the true one; `None`: none expires.
    expires_first_ms: Option<u64>,
    /// When the kernel last took a byte, or it was first asked whether it did.
    progress: Option<Stamp>,
}

impl Lanes {
    /// Nothing is unsent and nothing is to be told.
    pub fn is_empty(&self) -> bool {
        !self.wants_write() && self.shed.is_none()
    }

    pub fn wants_write(&self) -> bool {
        !(self.outgoing.is_empty() && self.control.is_empty() && self.gaps.is_empty())
            || self.waiting.iter().any(|lane| !lane.is_empty())
    }

    /// How long the kernel has taken nothing, since this was first asked.
    pub fn stalled_ms(&mut self, now: Now) -> u32 {
        self.progress.get_or_insert(Stamp::at(now)).since(now)
    }

    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Bytes of memory, had no other connection the same items.
    pub fn held_bytes(&self) -> usize {
        let gaps = self.gaps.capacity() * size_of::<Covered>();
        size_of::<Lanes>() + self.item_bytes + self.control_bytes + gaps
    }

    /// Whether more waits already than one `writev` takes.
    pub fn is_deep(&self) -> bool {
        self.item_bytes + self.control_bytes >= OUTGOING_BYTES
    }

    pub fn push_control(&mut self, framed: Bytes) {
        self.control_bytes += framed.len();
        self.control.push_back(framed);
    }

    /// The remainder of an item the kernel took `sent` bytes of, with nothing else unsent.
    pub fn resume(&mut self, item: Arc<Item>, ticket: Ticket, sent: usize, now: Now) {
        assert!(
            self.outgoing.is_empty(),
            "only an idle connection is sent to directly"
        );
        let waiting = waiting(item, ticket, now);
        self.item_bytes += waiting.held_bytes();
        self.note_expiry(&waiting.item);
        self.sent = sent;
        self.progress = Some(Stamp::at(now));
        self.outgoing.push_back(Piece::Item {
            waiting,
            event: None,
        });
    }

    /// The remainder of a control frame, likewise.
    pub fn resume_control(&mut self, framed: Bytes, sent: usize, now: Now) {
        assert!(
            self.outgoing.is_empty(),
            "only an idle connection is sent to directly"
        );
        self.control_bytes += framed.len();
        self.sent = sent;
        self.progress = Some(Stamp::at(now));
        self.outgoing.push_back(Piece::Control(framed));
    }

    /// Puts an item into its lane by the rules of expiry, collapse and pressure.
    pub fn push(
        &mut self,
        item: Arc<Item>,
        ticket: Ticket,
        now: Now,
        cfg: &SessionConfig,
        actions: &mut Vec<Action>,
    ) {
        let new = waiting(item, ticket, now);
        if new.item.is_expired(now.unix_ms) {
            return self.cover(new, GapCause::Expired, actions);
        }
        if self.is_superseded(&new.item) {
            return self.cover(new, GapCause::Collapsed, actions);
        }
        if new.item.collapse_key.is_some() {
            let over = new.item.clone();
            self.drop_covered(GapCause::Collapsed, actions, |old| supersedes(&over, old));
        }
        if !self.make_room(&new, now, cfg, actions) {
            return self.shed(new, now, actions);
        }
        self.item_bytes += new.held_bytes();
        self.note_expiry(&new.item);
        self.waiting[new.item.lane as usize].push_back(new);
    }

    /// Sheds an item at once.
    pub fn pass_over(
        &mut self,
        item: Arc<Item>,
        ticket: Ticket,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        self.shed(waiting(item, ticket, now), now, actions);
    }

    /// Offers what goes next, without giving it up: [`Lanes::advance`] says what became of it.
    pub fn gather<'a>(
        &'a mut self,
        now: Now,
        outlet: &mut Outlet,
        slices: &mut Slices<'a>,
        actions: &mut Vec<Action>,
    ) {
        self.expire(now, actions);
        self.tell_gaps(outlet);
        self.fill(outlet);
        let (mut skip, mut room) = (self.sent, WRITE_BYTES);
        for part in self.outgoing.iter().flat_map(Piece::parts) {
            let skipped = skip.min(part.len());
            skip -= skipped;
            let taken = room.min(part.len() - skipped);
            if taken > 0 && slices.len() < slices.inline_size() {
                room -= taken;
                slices.push(&part[skipped..skipped + taken]);
            }
        }
    }

    /// The kernel took `written` bytes of what [`Lanes::gather`] offered.
    pub fn advance(&mut self, written: usize, now: Now, actions: &mut Vec<Action>) {
        if written > 0 {
            self.progress = Some(Stamp::at(now));
        }
        self.sent += written;
        while let Some(first) = self.outgoing.front() {
            let length = first.len();
            if self.sent < length {
                break;
            }
            self.sent -= length;
            match self.outgoing.pop_front() {
                Some(Piece::Control(_)) => self.control_bytes -= length,
                Some(Piece::Item { waiting, .. }) => {
                    self.item_bytes -= waiting.held_bytes();
                    actions.push(fate(&waiting, Fate::Written));
                }
                None => break,
            }
        }
        let over = self.outgoing.is_empty() && self.sent > 0;
        assert!(!over, "more was written than was offered");
    }

    /// Drops what has expired, except a piece partly sent.
    pub fn expire(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !is_expired(self.expires_first_ms, now.unix_ms) {
            return;
        }
        self.drop_covered(GapCause::Expired, actions, |item| {
            item.is_expired(now.unix_ms)
        });
        let left = self.items().filter_map(|waiting| waiting.item.expires_ms);
        self.expires_first_ms = left.min();
    }

    /// Reports, once each, the items that have waited too long.
    pub fn defer(&mut self, now: Now, cfg: &SessionConfig, actions: &mut Vec<Action>) {
        let outgoing = self.outgoing.iter_mut().filter_map(|piece| match piece {
            Piece::Item { waiting, .. } => Some(waiting),
            Piece::Control(_) => None,
        });
        for waiting in outgoing.chain(self.waiting.iter_mut().flatten()) {
            if !waiting.deferred && waiting.since.since(now) >= cfg.deferred_after_ms {
                waiting.deferred = true;
                actions.push(fate(waiting, Fate::Deferred));
            }
        }
    }

    /// What the episode shed, once it has ended (or lasted too long to stay silent).
    pub fn end_episode(&mut self, now: Now, cfg: &SessionConfig) -> Option<Shed> {
        let lasts = PRESSURE_EPISODE.as_millis() as u32;
        self.shed.take_if(|shed| {
            self.item_bytes <= cfg.lanes_bytes / 2 || shed.since.since(now) >= lasts
        })
    }

    /// Gives up every item, and every control frame of which nothing was sent.
    pub fn abandon(&mut self, actions: &mut Vec<Action>) {
        let unreported = self.items().filter(|waiting| !waiting.deferred);
        actions.extend(unreported.map(|waiting| fate(waiting, Fate::Deferred)));
        // The rest of a frame partly sent has to follow, or what comes after it can't be read.
        let partly = self.outgoing.front().filter(|_| self.sent > 0);
        let rest = partly.map(|piece| Bytes::from(piece.parts().concat()).slice(self.sent..));
        let progress = self.progress;
        *self = Lanes::default();
        self.progress = progress;
        if let Some(rest) = rest {
            self.push_control(rest);
        }
    }

    /// Settles the order of the next pieces, until there is enough for one `writev`.
    fn fill(&mut self, outlet: &mut Outlet) {
        let mut bytes: usize = self.outgoing.iter().map(Piece::len).sum();
        let pieces_max = OUTGOING_PIECES / outlet.parts_per_item();
        while bytes < OUTGOING_BYTES && self.outgoing.len() < pieces_max {
            let piece = if let Some(framed) = self.control.pop_front() {
                Piece::Control(framed)
            } else if let Some(waiting) = self.waiting.iter_mut().find_map(VecDeque::pop_front) {
                Piece::Item {
                    event: outlet.event_head(&waiting.item),
                    waiting,
                }
            } else {
                break;
            };
            bytes += piece.len();
            self.outgoing.push_back(piece);
        }
    }

    fn tell_gaps(&mut self, outlet: &mut Outlet) {
        for gap in std::mem::take(&mut self.gaps) {
            let framed = outlet.gap(&Gap {
                stream: &gap.stream,
                from: gap.from,
                to: gap.to,
                dropped: gap.dropped,
                cause: gap.cause,
                sync_after_ms: None,
            });
            self.push_control(framed);
        }
    }

    /// Makes the gaps control frames when too many wait.
    pub fn bound_gaps(&mut self, outlet: &mut Outlet) {
        if self.gaps.len() > GAPS_WAITING {
            self.tell_gaps(outlet);
        }
    }

    /// Drops an item whose range the client may count as received.
    fn cover(&mut self, dropped: Waiting, cause: GapCause, actions: &mut Vec<Action>) {
        let settled = match cause {
            GapCause::Expired => Fate::Expired,
            _ => Fate::Collapsed,
        };
        actions.push(fate(&dropped, settled));
        let item = &dropped.item;
        let same = |gap: &&mut Covered| gap.cause == cause && gap.stream == item.stream;
        for gap in self.gaps.iter_mut().filter(|gap| same(gap)) {
            if item.prev == gap.to || item.pos == gap.from {
                gap.from = gap.from.min(item.prev);
                gap.to = gap.to.max(item.pos);
                gap.dropped += 1;
                return;
            }
        }
        self.gaps.push(Covered {
            stream: item.stream.clone(),
            from: item.prev,
            to: item.pos,
            dropped: 1,
            cause,
        });
    }

    /// Drops every item that `matches`, wherever it waits, except one partly sent.
    fn drop_covered(
        &mut self,
        cause: GapCause,
        actions: &mut Vec<Action>,
        matches: impl Fn(&Item) -> bool,
    ) {
        let mut dropped: SmallVec<[Waiting; 4]> = SmallVec::new();
        let first = usize::from(self.sent > 0);
        for place in (first..self.outgoing.len()).rev() {
            if matches!(&self.outgoing[place], Piece::Item { waiting, .. } if matches(&waiting.item))
                && let Some(Piece::Item { waiting, .. }) = self.outgoing.remove(place)
            {
                dropped.push(waiting);
            }
        }
        for lane in &mut self.waiting {
            if lane.iter().any(|waiting| matches(&waiting.item)) {
                for waiting in std::mem::take(lane) {
                    if matches(&waiting.item) {
                        dropped.push(waiting);
                    } else {
                        lane.push_back(waiting);
                    }
                }
            }
        }
        for waiting in dropped {
            self.item_bytes -= waiting.held_bytes();
            self.cover(waiting, cause, actions);
        }
    }

    /// A later item of its collapse key waits already: deliveries arrive out of order.
    fn is_superseded(&self, item: &Item) -> bool {
        item.collapse_key.is_some() && self.items().any(|other| supersedes(&other.item, item))
    }

    fn items(&self) -> impl Iterator<Item = &Waiting> {
        let outgoing = self.outgoing.iter().filter_map(|piece| match piece {
            Piece::Item { waiting, .. } => Some(waiting),
            Piece::Control(_) => None,
        });
        outgoing.chain(self.waiting.iter().flatten())
    }

    fn note_expiry(&mut self, item: &Item) {
        self.expires_first_ms = self
            .expires_first_ms
            .into_iter()
            .chain(item.expires_ms)
            .min();
    }

    /// Whether the item fits, after shedding what is less urgent, newest first: what stays then follows
    /// the client's cursor without a hole.
    fn make_room(
        &mut self,
        new: &Waiting,
        now: Now,
        cfg: &SessionConfig,
        actions: &mut Vec<Action>,
    ) -> bool {
        loop {
            if self.item_bytes == 0 || self.item_bytes + new.held_bytes() <= cfg.lanes_bytes {
                return true;
            }
            let less_urgent = self.waiting[new.item.lane as usize + 1..].iter_mut().rev();
            let Some(victim) = less_urgent.into_iter().find_map(VecDeque::pop_back) else {
                return false;
            };
            self.item_bytes -= victim.held_bytes();
            self.shed(victim, now, actions);
        }
    }

    fn shed(&mut self, victim: Waiting, now: Now, actions: &mut Vec<Action>) {
        if !victim.deferred {
            actions.push(fate(&victim, Fate::Deferred));
        }
        actions.push(Action::Shed);
        let item = &victim.item;
        let shed = self.shed.get_or_insert_with(|| Shed {
            stream: item.stream.clone(),
            from: item.prev,
            to: item.pos,
            dropped: 0,
            since: Stamp::at(now),
        });
        shed.dropped += 1;
        if shed.stream == item.stream {
            shed.from = shed.from.min(item.prev);
            shed.to = shed.to.max(item.pos);
        }
    }
}

fn waiting(item: Arc<Item>, ticket: Ticket, now: Now) -> Waiting {
    Waiting {
        item,
        ticket,
        since: Stamp::at(now),
        deferred: false,
    }
}

fn fate(waiting: &Waiting, fate: Fate) -> Action {
    Action::Fate {
        ticket: waiting.ticket,
        fate,
    }
}

/// Same stream, same key, later position. A repetition of the very same item supersedes nothing.
fn supersedes(later: &Item, earlier: &Item) -> bool {
    later.collapse_key.is_some()
        && later.collapse_key == earlier.collapse_key
        && later.stream == earlier.stream
        && later.pos > earlier.pos
}
