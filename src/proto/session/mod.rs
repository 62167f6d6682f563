//! An open connection: what it may receive, what waits to be sent, when it is dead. The same code for
//! WebSocket and SSE; only the framing of what leaves differs.
//!
//! Invariants:
//! * an idle connection owns no heap memory here (an SSE one: its cursors); what only a busy one needs is
//!   boxed in [`Lanes`] and freed when everything is sent;
//! * `behind` is cleared only by a complete sync that was asked for after it was set;
//! * after a [`Action::Close`] nothing is asked of the surroundings any more, and after [`Session::finish`]
//!   nothing but its bytes leaves.
//!
//! A WebSocket client is dead after `dead_after_ms` of silence. An SSE client can't answer: its heartbeat
//! comment makes the kernel send, and the connection is dead when the write fails (the gateway sets
//! `TCP_USER_TIMEOUT` to `dead_after_ms`) or nothing was taken for `unwritable_close_ms`.

mod clock;
mod item;
mod outlet;
#[cfg(test)]
mod tests;

pub use clock::{Stamp, spread};
pub use item::Item;
pub use outlet::Outlet;

use super::{
    Now,
    client::{
        self, ClientMessage, ErrorCode,
        frames::{self, Gap, GapCause, Slot},
    },
    close::CloseCode,
    lanes::{Lanes, Slices},
    sse::{self, Tracked},
};
use crate::{
    config,
    envelope::Fate,
    ids::{NotificationId, Region},
    limits::{AUTH_EXPIRING_BEFORE, CONTROL_BYTES, PRESSURE_SYNC_AFTER_MS, SYNC_ITEMS},
    position::{Cursors, Position},
};
use bytes::Bytes;
use std::sync::Arc;

/// Identifies one delivery towards control: whose outcome it is.
pub type Ticket = u64;

/// How bytes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    WebSocket,
    Sse,
}

/// What the session asks of its surroundings.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Acked(Vec<NotificationId>),
    Read(Vec<NotificationId>),
    /// Answer with [`Session::synced`], also when nothing could be read (`recovered:false`).
    Sync {
        cursors: Cursors,
        limit: usize,
    },
    /// A refresh; answer with [`Session::refreshed`] or a close.
    Authenticate {
        token: String,
        cursors: Option<Cursors>,
    },
    /// What became of a delivery here: one first fate each (`Deferred` or a final one), and after
    /// `Deferred` at most one final one.
    Fate {
        ticket: Ticket,
        fate: Fate,
    },
    /// An item was dropped for want of room (its fate is told apart): to be counted.
    Shed,
    /// A client frame was answered with `error`: to be counted.
    Refused(ErrorCode),
    Close {
        code: CloseCode,
        reason: &'static str,
    },
}

/// What all sessions of a core share.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Named in `gap` frames of cause `behind`, which concern the user's stream.
    pub user_stream: Arc<str>,
    pub heartbeat_ms: u32,
    pub dead_after_ms: u32,
    pub deferred_after_ms: u32,
    pub unwritable_close_ms: u32,
    pub messages_per_s: u32,
    pub messages_burst: u32,
    pub lanes_bytes: usize,
}

impl SessionConfig {
    pub fn new(gateway: &config::Gateway, region: &Region) -> SessionConfig {
        // A day is beyond every sane setting, and far within what a `Stamp` can tell.
        let ms = |ms: u64| ms.min(24 * 3_600_000) as u32;
        SessionConfig {
            user_stream: region.user_stream().into(),
            heartbeat_ms: ms(gateway.heartbeat_ms),
            dead_after_ms: ms(gateway.dead_after_ms),
            deferred_after_ms: ms(gateway.deferred_after_ms),
            unwritable_close_ms: ms(gateway.unwritable_close_ms),
            messages_per_s: gateway.client_messages_per_s,
            messages_burst: gateway.client_messages_burst,
            lanes_bytes: gateway.lanes_bytes,
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Session {
    lanes: Option<Box<Lanes>>,
    /// SSE only: the cursors of a client that can't present any but the last `id:`.
    tracked: Option<Box<Tracked>>,
    expires_unix_s: u32,
    heard: Stamp,
    ping_due: Stamp,
    /// When the client's allowance is whole again: a token bucket in four bytes.
    allowance_whole: Stamp,
    behind_due: Stamp,
    salt: u32,
    framing: Framing,
    /// Syncs asked and not answered, and how many of those were asked before `behind` was set.
    syncs_pending: u8,
    syncs_stale: u8,
    behind: bool,
    behind_told: bool,
    expiry_told: bool,
    closing: bool,
}

/// Exists half a million times.
const _: () = assert!(size_of::<Session>() <= 48);

impl Session {
    /// `salt` differs between connections (a hash of its address will do) and spreads what they do.
    pub fn new(
        framing: Framing,
        expires_unix_s: u64,
        salt: u32,
        now: Now,
        cfg: &SessionConfig,
    ) -> Session {
        let start = Stamp::at(now);
        let mut session = Session {
            lanes: None,
            tracked: None,
            expires_unix_s: 0,
            heard: start,
            ping_due: start,
            allowance_whole: start,
            behind_due: start,
            salt,
            framing,
            syncs_pending: 0,
            syncs_stale: 0,
            behind: false,
            behind_told: false,
            expiry_told: false,
            closing: false,
        };
        session.refreshed(expires_unix_s);
        session.schedule_ping(now, cfg);
        session
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    // ── what comes in ──────────────────────────────────────────────────────────────────────────

    /// Any bytes came in.
    pub fn heard(&mut self, now: Now) {
        self.heard = Stamp::at(now);
    }

    /// One complete client message.
    pub fn receive(
        &mut self,
        text: &str,
        now: Now,
        cfg: &SessionConfig,
        actions: &mut Vec<Action>,
    ) {
        if self.closing || !self.allow(now, cfg, actions) {
            return;
        }
        match client::parse(text) {
            Ok(ClientMessage::Auth { token, cursors }) => {
                actions.push(Action::Authenticate { token, cursors });
            }
            Ok(ClientMessage::Ack { ids }) => actions.push(Action::Acked(ids)),
            Ok(ClientMessage::Read { ids }) => actions.push(Action::Read(ids)),
            Ok(ClientMessage::Sync { cursors, limit }) => self.ask_sync(cursors, limit, actions),
            Ok(ClientMessage::Ping) => self.control(&frames::pong(), actions),
            Err(refusal) => self.refuse(refusal.code, refusal.message, actions),
        }
    }

    /// Takes one message from the client's allowance (a WebSocket ping of the client is one as well).
    /// False: it has sent too many; it was told, and is to be closed.
    pub fn allow(&mut self, now: Now, cfg: &SessionConfig, actions: &mut Vec<Action>) -> bool {
        let message_ms = 1_000 / cfg.messages_per_s.max(1);
        let spent_ms = self.allowance_whole.until(now);
        if spent_ms > message_ms.saturating_mul(cfg.messages_burst.saturating_sub(1)) {
            self.refuse(ErrorCode::RateLimited, "too many messages", actions);
            self.close(CloseCode::RateLimited, "too many messages", actions);
            return false;
        }
        self.allowance_whole = Stamp::at(now).after(spent_ms + message_ms);
        true
    }

    /// A token was accepted for this connection's user.
    pub fn refreshed(&mut self, expires_unix_s: u64) {
        self.expires_unix_s = u32::try_from(expires_unix_s).unwrap_or(u32::MAX);
        self.expiry_told = false;
    }

    /// A sync was asked for in this connection's name, as at connect: [`Session::synced`] will follow.
    pub fn sync_asked(&mut self) {
        self.syncs_pending = self.syncs_pending.saturating_add(1);
    }

    // ── what is to go out ──────────────────────────────────────────────────────────────────────

    /// The bytes to send at once, if nothing waits before them: say what the kernel took by
    /// [`Session::sent_directly`]. `None`: use [`Session::deliver`].
    pub fn direct<'a>(&self, item: &'a Item, now: Now) -> Option<&'a Bytes> {
        let direct = self.framing == Framing::WebSocket
            && self.lanes.is_none()
            && !self.closing
            && !item.is_expired(now.unix_ms);
        direct.then(|| item.ws())
    }

    /// The kernel took `written` bytes of [`Session::direct`]; the rest is on its way.
    pub fn sent_directly(
        &mut self,
        item: &Arc<Item>,
        ticket: Ticket,
        written: usize,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if written >= item.ws().len() {
            actions.push(Action::Fate {
                ticket,
                fate: Fate::Written,
            });
        } else {
            self.lanes().resume(item.clone(), ticket, written, now);
        }
    }

    /// Puts an item into its lane: the rules of collapse, expiry and pressure.
    pub fn deliver(
        &mut self,
        item: &Arc<Item>,
        ticket: Ticket,
        now: Now,
        cfg: &SessionConfig,
        actions: &mut Vec<Action>,
    ) {
        if self.closing {
            // The row is in the inbox, and the client comes back for it.
            return actions.push(Action::Fate {
                ticket,
                fate: Fate::Deferred,
            });
        }
        let (lanes, mut outlet) = self.lanes_and_outlet();
        lanes.push(item.clone(), ticket, now, cfg, actions);
        lanes.bound_gaps(&mut outlet);
        self.bound_control(actions);
    }

    /// Any frame as JSON text: framed here, never waits behind data.
    pub fn control(&mut self, json: &[u8], actions: &mut Vec<Action>) {
        self.control_with_retry(json, None, actions);
    }

    /// Bytes that are framed already, as a WebSocket pong.
    pub fn raw(&mut self, bytes: Bytes, actions: &mut Vec<Action>) {
        self.lanes().push_control(bytes);
        self.bound_control(actions);
    }

    pub fn welcome(
        &mut self,
        connection: &str,
        slot: Slot,
        cfg: &SessionConfig,
        actions: &mut Vec<Action>,
    ) {
        let json = frames::welcome(connection, cfg.heartbeat_ms, slot);
        self.control_with_retry(&json, Some(self.place_in(slot)), actions);
    }

    /// The window in which to come back; an SSE client gets its place in it as `retry:`.
    pub fn slot(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        self.control_with_retry(&frames::slot(slot), Some(self.place_in(slot)), actions);
    }

    pub fn reconnect(&mut self, after_ms: u32, reason: &str, actions: &mut Vec<Action>) {
        let json = frames::reconnect(after_ms, reason);
        self.control_with_retry(&json, Some(after_ms), actions);
    }

    /// The answer to a sync, as a whole frame. `complete`: recovered, and no more to come.
    ///
    /// An SSE client whose catch-up goes on over several answers is not left to ask: the next part is
    /// asked for here.
    pub fn synced(
        &mut self,
        json: &Bytes,
        cursors: &Cursors,
        complete: bool,
        actions: &mut Vec<Action>,
    ) {
        self.syncs_pending = self.syncs_pending.saturating_sub(1);
        let (lanes, mut outlet) = self.lanes_and_outlet();
        let framed = outlet.sync(json, cursors, complete);
        lanes.push_control(framed);
        self.bound_control(actions);
        match (complete, self.framing) {
            (true, _) if self.syncs_stale > 0 => self.syncs_stale -= 1,
            (true, _) => self.behind = false,
            (false, Framing::WebSocket) => {}
            (false, Framing::Sse) => {
                let tracked = self.tracked.get_or_insert_default();
                if tracked.synced_in_part(cursors) {
                    self.ask_sync(cursors.clone(), SYNC_ITEMS, actions);
                }
            }
        }
    }

    /// The client may have missed something: it is told after the pause, and again every heartbeat,
    /// until a complete sync that was asked for from now on.
    pub fn behind(&mut self, sync_after_ms: u32, now: Now) {
        self.behind = true;
        self.behind_told = false;
        self.behind_due = Stamp::at(now).after(sync_after_ms);
        self.syncs_stale = self.syncs_pending;
    }

    pub fn is_behind(&self) -> bool {
        self.behind
    }

    // ── writing ────────────────────────────────────────────────────────────────────────────────

    pub fn wants_write(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.wants_write())
    }

    /// What to write next, in one `writev`; nothing if nothing waits. [`Session::advance`] has to follow
    /// before anything else is called.
    pub fn gather<'a>(&'a mut self, now: Now, slices: &mut Slices<'a>, actions: &mut Vec<Action>) {
        let mut outlet = Outlet {
            framing: self.framing,
            tracked: &mut self.tracked,
        };
        if let Some(lanes) = &mut self.lanes {
            lanes.gather(now, &mut outlet, slices, actions);
        }
    }

    /// The kernel took so many bytes of what [`Session::gather`] offered.
    pub fn advance(
        &mut self,
        written: usize,
        now: Now,
        cfg: &SessionConfig,
        actions: &mut Vec<Action>,
    ) {
        if let Some(lanes) = &mut self.lanes {
            lanes.advance(written, now, actions);
            self.end_episode(now, cfg, actions);
            self.free_if_idle();
        }
    }

    /// Nothing but `last` (a close frame, or nothing) leaves any more, after what is partly sent.
    pub fn finish(&mut self, last: Bytes, actions: &mut Vec<Action>) {
        self.closing = true;
        let lanes = self.lanes();
        lanes.abandon(actions);
        if !last.is_empty() {
            lanes.push_control(last);
        }
        self.free_if_idle();
    }

    /// The connection is gone: what was unsent is reported.
    pub fn abandon(&mut self, actions: &mut Vec<Action>) {
        self.closing = true;
        if let Some(mut lanes) = self.lanes.take() {
            lanes.abandon(actions);
        }
    }

    // ── time ───────────────────────────────────────────────────────────────────────────────────

    /// About once a second.
    pub fn tick(&mut self, now: Now, cfg: &SessionConfig, actions: &mut Vec<Action>) {
        if self.closing {
            return;
        }
        if let Some((code, reason)) = self.end(now, cfg) {
            return self.close(code, reason, actions);
        }
        self.warn_of_expiry(now, actions);
        if let Some(lanes) = &mut self.lanes {
            lanes.expire(now, actions);
            lanes.defer(now, cfg, actions);
            self.end_episode(now, cfg, actions);
        }
        if self.behind && self.behind_due.is_due(now) {
            self.tell_behind(now, cfg, actions);
        }
        if self.ping_due.is_due(now) {
            // Where something waits already, the kernel has enough to find out with.
            if self.lanes.is_none() {
                self.raw(Bytes::from_static(self.heartbeat()), actions);
            }
            self.schedule_ping(now, cfg);
        }
        // Keeps a stamp that nothing moves within its range.
        if self.allowance_whole.is_due(now) {
            self.allowance_whole = Stamp::at(now);
        }
        self.free_if_idle();
    }

    /// Why the connection ends now, if it does.
    fn end(&mut self, now: Now, cfg: &SessionConfig) -> Option<(CloseCode, &'static str)> {
        let waiting = self.lanes.as_mut().filter(|lanes| lanes.wants_write());
        let stalled_ms = waiting.map_or(0, |lanes| lanes.stalled_ms(now));
        if now.unix_ms / 1_000 >= u64::from(self.expires_unix_s) {
            Some((CloseCode::TokenExpired, "the token expired"))
        } else if stalled_ms >= cfg.unwritable_close_ms {
            Some((CloseCode::TooSlow, "it does not read"))
        } else if self.framing == Framing::WebSocket && self.heard.since(now) >= cfg.dead_after_ms {
            Some((CloseCode::Dead, "nothing was heard"))
        } else {
            None
        }
    }

    fn close(&mut self, code: CloseCode, reason: &'static str, actions: &mut Vec<Action>) {
        if !self.closing {
            self.closing = true;
            actions.push(Action::Close { code, reason });
        }
    }

    fn warn_of_expiry(&mut self, now: Now, actions: &mut Vec<Action>) {
        let in_ms = (u64::from(self.expires_unix_s) * 1_000).saturating_sub(now.unix_ms);
        if !self.expiry_told && in_ms <= AUTH_EXPIRING_BEFORE.as_millis() as u64 {
            self.expiry_told = true;
            self.control(&frames::auth_expiring(in_ms), actions);
        }
    }

    /// A WebSocket client is told; an SSE client, whose cursors are known here, is spared the question.
    fn tell_behind(&mut self, now: Now, cfg: &SessionConfig, actions: &mut Vec<Action>) {
        if self.behind_told {
            // Answers that are this late are lost.
            self.syncs_pending = 0;
            self.syncs_stale = 0;
        }
        self.behind_told = true;
        self.behind_due = Stamp::at(now).after(cfg.heartbeat_ms);
        if let Some(cursors) = self.tracked.as_ref().and_then(|tracked| tracked.cursors()) {
            return self.ask_sync(cursors, SYNC_ITEMS, actions);
        }
        let gap = Gap {
            stream: &cfg.user_stream,
            from: Position::START,
            to: Position::START,
            dropped: 0,
            cause: GapCause::Behind,
            // The pause is over; this only spreads those whose pause ended in the same tick.
            sync_after_ms: Some(spread(self.salt, now.mono_ms as u32, 0..=1_000)),
        };
        self.control(&frames::gap(gap), actions);
    }

    /// One `gap` for all that was shed since the lanes filled up, and until the client has caught up it
    /// counts as behind.
    fn end_episode(&mut self, now: Now, cfg: &SessionConfig, actions: &mut Vec<Action>) {
        let Some(shed) = self
            .lanes
            .as_mut()
            .and_then(|lanes| lanes.end_episode(now, cfg))
        else {
            return;
        };
        let sync_after_ms = spread(self.salt, now.mono_ms as u32, PRESSURE_SYNC_AFTER_MS);
        let gap = Gap {
            stream: &shed.stream,
            from: shed.from,
            to: shed.to,
            dropped: shed.dropped,
            cause: GapCause::Pressure,
            sync_after_ms: Some(sync_after_ms),
        };
        self.control(&frames::gap(gap), actions);
        // A WebSocket client has been told by this very frame and is reminded only if it does nothing.
        let pause_ms = match self.framing {
            Framing::WebSocket => cfg.heartbeat_ms,
            Framing::Sse => sync_after_ms,
        };
        self.behind(pause_ms, now);
    }

    fn ask_sync(&mut self, cursors: Cursors, limit: usize, actions: &mut Vec<Action>) {
        self.sync_asked();
        actions.push(Action::Sync { cursors, limit });
    }

    fn refuse(&mut self, code: ErrorCode, message: &str, actions: &mut Vec<Action>) {
        actions.push(Action::Refused(code));
        self.control(&frames::error(code, message), actions);
    }

    fn control_with_retry(
        &mut self,
        json: &[u8],
        retry_ms: Option<u32>,
        actions: &mut Vec<Action>,
    ) {
        let (lanes, outlet) = self.lanes_and_outlet();
        lanes.push_control(outlet.control(json, retry_ms));
        self.bound_control(actions);
    }

    fn bound_control(&mut self, actions: &mut Vec<Action>) {
        let bytes = self.lanes.as_ref().map_or(0, |lanes| lanes.control_bytes());
        if bytes > CONTROL_BYTES {
            self.close(
                CloseCode::TooSlow,
                "it asks for more than it reads",
                actions,
            );
        }
    }

    fn heartbeat(&self) -> &'static [u8] {
        match self.framing {
            // A ping without payload.
            Framing::WebSocket => &[0x89, 0],
            Framing::Sse => sse::HEARTBEAT,
        }
    }

    /// ±10 % by connection and turn, so that those opened together do not stay together.
    fn schedule_ping(&mut self, now: Now, cfg: &SessionConfig) {
        let tenth = cfg.heartbeat_ms / 10;
        let range = cfg.heartbeat_ms - tenth..=cfg.heartbeat_ms + tenth;
        let interval_ms = spread(self.salt, now.mono_ms as u32, range);
        self.ping_due = Stamp::at(now).after(interval_ms);
    }

    fn place_in(&self, slot: Slot) -> u32 {
        spread(self.salt, 0, slot.after_ms_min..=slot.after_ms_max)
    }

    fn lanes(&mut self) -> &mut Lanes {
        self.lanes.get_or_insert_default()
    }

    fn lanes_and_outlet(&mut self) -> (&mut Lanes, Outlet<'_>) {
        let outlet = Outlet {
            framing: self.framing,
            tracked: &mut self.tracked,
        };
        (self.lanes.get_or_insert_default(), outlet)
    }

    fn free_if_idle(&mut self) {
        if self.lanes.as_ref().is_some_and(|lanes| lanes.is_empty()) {
            self.lanes = None;
        }
    }
}
