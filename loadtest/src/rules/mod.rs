//! The client's rules, without sockets or clock: what a frame means to one client, and what the client
//! says next. `now_ms` counts from the start of the process.
//!
//! * One contiguous cursor per stream; a hole that lasts asks for `sync`, one at a time.
//! * Every notification is acknowledged, repeats too (the first acknowledgement may have been lost);
//!   acknowledgements of a quarter second leave together, so as to stay under the rate limit.
//! * An id that was seen counts once.
//! * After two silent heartbeats a `ping`; after a third the connection is given up.

mod saying;

use crate::{
    accounting::Way,
    cursor::{Cursor, Numbers},
    dialect::SILENCE_MS,
    frame::{Code, Mark, ServerFrame, Slot},
    roster::Roster,
    scenario::PRIORITIES,
    tally::{self, Tally},
    unrest::is_among,
};
use rand::{RngExt, rngs::SmallRng};
use smallvec::SmallVec;
use std::{
    collections::VecDeque,
    fmt::Write,
    mem::size_of,
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// Ids remembered to recognise repeats of what others posted.
const RECENT_MAX: usize = 256;
/// Streams whose order is judged: the user's and the one to all.
const ORDERED_STREAMS: usize = 2;
/// Streams one client follows.
const STREAMS_MAX: usize = 8;
/// Ids of one `ack`.
const ACK_IDS_MAX: usize = 500;
const ACK_EVERY_MS: u64 = 250;
/// A `sync` without an answer is asked again after this, then after twice as long, and so on: a server
/// that is slow must not be asked more often for it.
const SYNC_ANSWER_MS: u64 = 10_000;
const SYNC_DOUBLINGS_MAX: u8 = 3;
/// One that could not be served is asked again after this, and ever more rarely too.
const SYNC_PAUSE_MS: Range<u64> = 1_000..3_000;
/// Rows of one sync.
const SYNC_LIMIT: u32 = 50;
const HEARTBEAT_MS: u64 = 30_000;

/// What is the same for every client of a thread.
#[derive(Debug)]
pub struct Settings {
    /// Marks the notifications of this run.
    pub run: String,
    pub acknowledge: bool,
    /// Connected by a stream of events.
    pub events: bool,
    /// Start at the first item that arrives instead of asking where the stream stands.
    pub tail: bool,
    pub hole_wait_ms: u64,
    /// How many distinct notifications satisfy a client.
    pub expect: Option<u64>,
    /// Of the clients, those that stop reading at times: their latency says nothing of the server.
    pub slow_share: f64,
    /// They read again before the end; else nothing is expected of them.
    pub slow_return: bool,
}

impl Settings {
    pub fn is_slow(&self, client: u32) -> bool {
        is_among(client, self.slow_share)
    }

    pub fn is_exempt(&self, client: u32) -> bool {
        !self.slow_return && self.is_slow(client)
    }
}

/// What a thread lends to the client whose turn it is.
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub streams: &'a mut StreamNames,
    pub tally: &'a mut Tally,
    pub random: &'a mut SmallRng,
    /// Whose clients are whose; `None`: nothing of ours is posted.
    pub roster: Option<&'a Roster>,
    /// Whose turn it is.
    pub client: u32,
    pub now_ms: u64,
}

/// Names of streams, each kept once per thread.
#[derive(Debug, Default)]
pub struct StreamNames(Vec<String>);

impl StreamNames {
    fn number(&mut self, name: &str) -> u16 {
        let known = self.0.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        }) as u16
    }
}

/// What a client wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Say {
    pub what: What,
    /// The JSON message; a `POST` of the SSE side takes the same, its `type` ignored.
    pub json: String,
    /// What an [`What::Ack`] acknowledges.
    pub ids: Vec<Uuid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Ack,
    Sync,
    Ping,
}

/// What a frame asks of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Come back elsewhere after so many ms.
    ReconnectAfter(u64),
    RefreshToken,
    /// The stream of events ends with this close code.
    Close(u16),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    Idle,
    /// To be asked at this time.
    Due(Ms),
    /// Was asked (or comes by itself after cursors were presented) at this time.
    Asked(Ms),
}

/// A moment, as `now_ms`; narrow, because a million clients keep several. Enough for 49 days.
type Ms = u32;

fn narrow(ms: u64) -> Ms {
    Ms::try_from(ms).unwrap_or(Ms::MAX)
}

/// One client, over all its connections. There are up to a million: what is rarely there is boxed.
#[derive(Debug, Default)]
pub struct Rules {
    streams: SmallVec<[(u16, Cursor); 2]>,
    rare: Option<Box<Rare>>,
    lanes: Option<Box<Lanes>>,
    /// Numbers of ours that came, to its user and to all.
    pub own: Numbers,
    pub all: Numbers,
    unique: u32,
    acknowledged_ms: Ms,
    heartbeat_ms: u32,
    slot_min_ms: u32,
    slot_max_ms: u32,
    heard_ms: Ms,
    hole_since_ms: Option<Ms>,
    sync: Sync,
    /// What the present sync is for.
    sync_way: Way,
    /// How often the present sync was asked again.
    sync_repeats: u8,
    pinged: bool,
    welcomed: bool,
}

const _: () = assert!(size_of::<Rules>() <= 168);

/// The newest live position of each stream and lane on this connection; the low half is enough to compare.
type Lanes = [u32; ORDERED_STREAMS * PRIORITIES.len()];

#[derive(Debug, Default)]
struct Rare {
    /// Ids of what others posted.
    recent: VecDeque<Uuid>,
    unacknowledged: Vec<Uuid>,
}

impl Rules {
    /// A connection begins.
    pub fn connecting(&mut self, now_ms: u64) {
        self.welcomed = false;
        self.sync = Sync::Idle;
        self.pinged = false;
        self.heard_ms = narrow(now_ms);
        if self.heartbeat_ms == 0 {
            self.heartbeat_ms = narrow(HEARTBEAT_MS);
        }
    }

    pub fn is_welcomed(&self) -> bool {
        self.welcomed
    }

    pub fn slot(&self) -> Slot {
        Slot {
            after_ms_min: self.slot_min_ms.into(),
            after_ms_max: self.slot_max_ms.into(),
        }
    }

    fn set_slot(&mut self, slot: Slot) {
        self.slot_min_ms = narrow(slot.after_ms_min);
        self.slot_max_ms = narrow(slot.after_ms_max);
    }

    /// Any byte arrived.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = narrow(now_ms);
        self.pinged = false;
    }

    /// Doesn't know yet whether something is missing.
    pub fn is_syncing(&self) -> bool {
        !self.welcomed || self.sync != Sync::Idle
    }

    pub fn has_hole(&self) -> bool {
        self.streams.iter().any(|(_, cursor)| cursor.has_hole())
    }

    /// Distinct notifications so far.
    pub fn unique(&self) -> u64 {
        self.unique.into()
    }

    /// An SSE `id:` is what a browser would resume from: it must not be above what came without a hole.
    pub fn check_event_id(&mut self, id: &str, ctx: &mut Context<'_>) {
        for (stream, at) in id.split(',').filter_map(|pair| pair.rsplit_once('=')) {
            let (Ok(at), Some(cursor)) = (at.parse::<u64>(), self.cursor(stream, ctx)) else {
                ctx.tally.counters.unreadable += 1;
                continue;
            };
            if cursor.position().is_some_and(|position| at > position) {
                ctx.tally.counters.sse_ids_ahead += 1;
            }
        }
    }

    /// Known cursors as `name=position,…`; empty before the first sync.
    pub fn cursors_text(&self, names: &StreamNames) -> String {
        let mut text = String::new();
        for (stream, cursor) in &self.streams {
            if let Some(at) = cursor.position() {
                let comma = if text.is_empty() { "" } else { "," };
                let _ = write!(text, "{comma}{}={at}", names.0[usize::from(*stream)]);
            }
        }
        text
    }

    /// Takes one frame.
    pub fn receive(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) -> Option<Wish> {
        let mut wish = None;
        match frame.kind.as_ref() {
            "notification" => {
                let fresh = self.notification(frame, Way::Live, ctx);
                self.follow(frame, ctx);
                if fresh {
                    self.judge_order(frame, ctx);
                }
            }
            "read" => {
                ctx.tally.counters.read_marks += 1;
                self.follow(frame, ctx);
            }
            "sync" => self.synced(frame, ctx),
            "gap" => self.gap(frame, ctx),
            "welcome" => self.welcome(frame, ctx),
            "slot" => self.set_slot(slot_of(frame)),
            "error" => self.refused(frame, ctx),
            "reconnect" => wish = Some(Wish::ReconnectAfter(frame.after_ms.unwrap_or(0))),
            "auth_expiring" => wish = Some(Wish::RefreshToken),
            "close" => {
                if let Some(Code::Number(code)) = frame.code {
                    wish = Some(Wish::Close(code));
                }
            }
            // "pong", and whatever a later server says.
            _ => {}
        }
        self.note_hole(ctx);
        wish
    }

    /// Within a lane of a stream, live items come in their order.
    fn judge_order(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        // What went past the bus has position 0.
        let (Some(stream), Some(pos @ 1..)) = (&frame.stream, frame.pos) else {
            return;
        };
        let number = ctx.streams.number(stream);
        let priority = frame.priority.as_deref().unwrap_or("normal");
        let lane = PRIORITIES.iter().position(|tier| *tier == priority);
        let stream = self.streams.iter().position(|(known, _)| *known == number);
        let (Some(lane), Some(stream @ 0..ORDERED_STREAMS)) = (lane, stream) else {
            return;
        };
        let lanes = self.lanes.get_or_insert_default();
        let newest = &mut lanes[stream * PRIORITIES.len() + lane];
        ctx.tally.counters.out_of_order += u64::from((pos as u32) < *newest);
        *newest = (pos as u32).max(*newest);
    }

    fn welcome(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        self.welcomed = true;
        self.lanes = None;
        if let Some(slot) = frame.slot {
            self.set_slot(slot);
        }
        self.heartbeat_ms = narrow(frame.heartbeat_ms.unwrap_or(HEARTBEAT_MS).max(1));
        let presented = self
            .streams
            .iter()
            .any(|(_, cursor)| cursor.position().is_some());
        self.sync_way = Way::Connect;
        // The answer to cursors comes unasked; on a stream of events one comes in any case.
        self.sync = match (presented || ctx.settings.events, ctx.settings.tail) {
            (true, _) => Sync::Asked(narrow(ctx.now_ms)),
            (false, true) => Sync::Idle,
            (false, false) => Sync::Due(narrow(ctx.now_ms)),
        };
    }

    /// By a server that only carries.
    pub fn let_in(&mut self) {
        self.welcomed = true;
        self.heartbeat_ms = narrow(SILENCE_MS);
    }

    /// Takes a notification of such a server: it has no place in a stream that anybody could ask for.
    pub fn carried(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        self.notification(frame, Way::Live, ctx);
    }

    /// An item arrived live: the cursor of its stream moves, or learns of a hole.
    fn follow(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        let (Some(stream), Some(pos), Some(prev)) = (&frame.stream, frame.pos, frame.prev) else {
            ctx.tally.counters.unreadable += 1;
            return;
        };
        let tail = ctx.settings.tail;
        let Some(cursor) = self.cursor(stream, ctx) else {
            return;
        };
        if tail && cursor.position().is_none() {
            cursor.adopt(pos);
        }
        cursor.advance(prev, pos);
    }

    fn cursor(&mut self, stream: &str, ctx: &mut Context<'_>) -> Option<&mut Cursor> {
        let number = ctx.streams.number(stream);
        let at = match self.streams.iter().position(|(known, _)| *known == number) {
            Some(at) => at,
            None if self.streams.len() < STREAMS_MAX => {
                self.streams.push((number, Cursor::default()));
                self.streams.len() - 1
            }
            None => {
                ctx.tally.counters.unreadable += 1;
                return None;
            }
        };
        Some(&mut self.streams[at].1)
    }

    /// Says whether it is new.
    fn notification(&mut self, frame: &ServerFrame<'_>, way: Way, ctx: &mut Context<'_>) -> bool {
        let Some(id) = frame.id else {
            ctx.tally.counters.unreadable += 1;
            return false;
        };
        let counters = &mut ctx.tally.counters;
        counters.received += 1;
        let mark = frame
            .mark()
            .filter(|mark| mark.swarm == ctx.settings.run.as_str());
        let target = mark.as_ref().map(|mark| mark.to.as_deref());
        let is_for = |user: &str| match ctx.roster {
            Some(roster) => roster.is_of(ctx.client, user),
            None => true,
        };
        let fresh = match (target, &mark) {
            (Some(Some(user)), _) if !is_for(user) => None,
            (Some(Some(_)), Some(mark)) => Some(self.own.insert(mark.n)),
            (Some(None), Some(mark)) => Some(self.all.insert(mark.n)),
            _ => Some(self.is_fresh(id)),
        };
        let live = way == Way::Live;
        match (fresh, live) {
            (None, _) => counters.misdelivered += 1,
            (Some(true), _) => self.count_fresh(frame, mark.as_ref(), live, ctx),
            (Some(false), true) => counters.repeated_live += 1,
            (Some(false), false) => counters.repeated_by_sync += 1,
        }
        if let Some(accounts) = &mut ctx.tally.accounts {
            accounts.received(id, ctx.client, way, unix_us() / 1000);
        }
        if ctx.settings.acknowledge {
            self.rare.get_or_insert_default().unacknowledged.push(id);
        }
        fresh == Some(true)
    }

    fn count_fresh(
        &mut self,
        frame: &ServerFrame<'_>,
        mark: Option<&Mark<'_>>,
        live: bool,
        ctx: &mut Context<'_>,
    ) {
        let counters = &mut ctx.tally.counters;
        counters.unique += 1;
        self.unique += 1;
        if ctx.settings.expect == Some(self.unique()) {
            counters.satisfied += 1;
        }
        if !live {
            counters.by_sync += 1;
        }
        if let Some(mark) = mark {
            counters.unique_own += u64::from(!ctx.settings.is_exempt(ctx.client));
            if !ctx.settings.is_slow(ctx.client) {
                let late_us = unix_us().saturating_sub(mark.at_us);
                let priority = frame.priority.as_deref().unwrap_or("normal");
                ctx.tally.arrived(late_us, priority);
            }
        }
    }

    fn is_fresh(&mut self, id: Uuid) -> bool {
        let recent = &mut self.rare.get_or_insert_default().recent;
        if recent.contains(&id) {
            return false;
        }
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(id);
        true
    }

    fn synced(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        self.sync_repeats = 0;
        if self.sync == Sync::Idle {
            // On a stream of events the server asks on the client's behalf.
            self.sync_way = Way::Gap;
        }
        for item in &frame.items {
            match item.kind.as_ref() {
                "notification" => drop(self.notification(item, self.sync_way, ctx)),
                "read" => ctx.tally.counters.read_marks += 1,
                _ => ctx.tally.counters.unreadable += 1,
            }
        }
        for (stream, &to) in &frame.cursors {
            let range = frame.range.get(stream).copied();
            let Some(cursor) = self.cursor(stream, ctx) else {
                continue;
            };
            let joins = match (cursor.position(), range) {
                (None, _) => true,
                (Some(at), _) if to <= at => true,
                (Some(_), Some(range)) => cursor.cover(range.from, range.to),
                (Some(_), None) => false,
            };
            if !joins && frame.recovered {
                ctx.tally.counters.syncs_false += 1;
            }
            cursor.adopt(to);
        }
        self.sync = match frame.has_more {
            true => Sync::Due(narrow(ctx.now_ms)),
            false => Sync::Idle,
        };
        match (frame.has_more, frame.recovered) {
            (true, _) => {}
            (false, true) => ctx.tally.counters.syncs_recovered += 1,
            (false, false) => ctx.tally.counters.syncs_unrecovered += 1,
        }
    }

    fn gap(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        let cause = frame.cause.as_deref().unwrap_or("none");
        tally::count(&mut ctx.tally.gaps, cause);
        if matches!(cause, "collapsed" | "expired") {
            if let (Some(stream), Some(from), Some(to)) = (&frame.stream, frame.from, frame.to)
                && let Some(cursor) = self.cursor(stream, ctx)
                && cursor.position().is_some()
            {
                cursor.cover(from, to);
            }
            return;
        }
        let wait_ms = frame.sync_after_ms.unwrap_or(0);
        self.sync_way = Way::Gap;
        self.sync_at(ctx.now_ms + wait_ms);
    }

    /// The server did not do what was asked. A sync that was asked for again is unavailable because the answer to the
    /// first is on its way: it is waited for, and longer each time.
    fn refused(&mut self, frame: &ServerFrame<'_>, ctx: &mut Context<'_>) {
        let code = match &frame.code {
            Some(Code::Name(name)) => name.as_ref(),
            _ => "none",
        };
        tally::count(&mut ctx.tally.errors, code);
        match (code, self.sync) {
            ("unavailable", Sync::Asked(_)) => self.sync = Sync::Asked(narrow(ctx.now_ms)),
            ("rate_limited", Sync::Asked(_)) => {
                let pause_ms = ctx.random.random_range(SYNC_PAUSE_MS);
                self.sync = Sync::Due(narrow(ctx.now_ms + pause_ms));
            }
            _ => {}
        }
    }

    fn sync_at(&mut self, at_ms: u64) {
        let at_ms = narrow(at_ms);
        match self.sync {
            Sync::Due(sooner) if sooner <= at_ms => {}
            _ => self.sync = Sync::Due(at_ms),
        }
    }

    fn note_hole(&mut self, ctx: &mut Context<'_>) {
        match (self.hole_since_ms, self.has_hole()) {
            (None, true) => {
                ctx.tally.counters.holes_seen += 1;
                self.hole_since_ms = Some(narrow(ctx.now_ms));
            }
            (Some(_), false) => {
                ctx.tally.counters.holes_healed += 1;
                self.hole_since_ms = None;
            }
            _ => {}
        }
    }
}

fn slot_of(frame: &ServerFrame<'_>) -> Slot {
    Slot {
        after_ms_min: frame.after_ms_min.unwrap_or(0),
        after_ms_max: frame.after_ms_max.unwrap_or(0),
    }
}

pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// Whether a client comes back after the server closed with this code.
pub fn comes_back(code: u16) -> bool {
    !matches!(code, 1002 | 1003 | 1007 | 1009 | 4500..)
}

/// How long to stay away. The first return after a connection that stood is spread over the slot the
/// server advertised; further attempts back off by base·2ⁿ with as much again at random, to 30 s at
/// most, and not before the slot either.
pub fn come_back_after_ms(slot: Slot, attempt: u32, base_ms: u64, random: &mut SmallRng) -> u64 {
    const CAP_MS: u64 = 30_000;
    let slot_end_ms = slot.after_ms_max.max(slot.after_ms_min);
    if attempt == 0 && slot_end_ms > 0 {
        return random.random_range(slot.after_ms_min..=slot_end_ms);
    }
    let step_ms = base_ms.saturating_mul(1 << attempt.min(16)).min(CAP_MS);
    let jittered_ms = step_ms / 2 + random.random_range(0..=step_ms.div_ceil(2));
    jittered_ms.max(slot.after_ms_min.min(CAP_MS))
}

#[cfg(test)]
mod tests;
