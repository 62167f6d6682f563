//! What passing time does: heartbeats, deadlines, and telling one that is behind.

use super::*;
use crate::{
    limits::{AUTH_EXPIRING_BEFORE, PRESSURE_SYNC_AFTER_MS},
    proto::{
        client::frames::{Gap, GapCause},
        sse,
    },
};

impl Session {
    /// When it is due ([`Session::due_in_ms`]); sooner does no harm.
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
        if self.catch_up.is_behind() && self.behind_due.is_due(now) {
            self.tell_behind(now, cfg, actions);
        }
        if self.ping_due.is_due(now) {
            // A comment adds nothing to what the kernel has to send already; a ping asks for an answer.
            if self.framing == Framing::WebSocket || self.lanes.is_none() {
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

    /// The heartbeat that is due, if nothing waits before it: to be sent at once, before [`Session::tick`] would put it in
    /// line. Say what the kernel took by [`Session::heartbeat_sent`].
    pub fn direct_heartbeat(&mut self, now: Now, cfg: &SessionConfig) -> Option<&'static [u8]> {
        let is_direct = self.lanes.is_none() && !self.closing && self.ping_due.is_due(now);
        if !is_direct || self.end(now, cfg).is_some() {
            return None;
        }
        self.schedule_ping(now, cfg);
        Some(self.heartbeat())
    }

    /// The kernel took `written` bytes of [`Session::direct_heartbeat`]; the rest is on its way.
    pub fn heartbeat_sent(&mut self, written: usize, now: Now) {
        let heartbeat = self.heartbeat();
        if written < heartbeat.len() {
            let framed = Bytes::from_static(heartbeat);
            self.lanes().resume_control(framed, written, now);
        }
    }

    /// A ping is due to a client that can answer it.
    pub fn ping_is_due(&self, now: Now) -> bool {
        self.framing == Framing::WebSocket && !self.closing && self.ping_due.is_due(now)
    }

    /// How long [`Session::tick`] is not needed if nothing happens before, so that an idle connection is
    /// looked at once a heartbeat.
    pub fn due_in_ms(&self, now: Now, cfg: &SessionConfig) -> u32 {
        let unix_ms_left = (u64::from(self.expires_unix_s) * 1_000).saturating_sub(now.unix_ms);
        let told_ms = match self.expiry_told {
            true => 0,
            false => AUTH_EXPIRING_BEFORE.as_millis() as u64,
        };
        let expiry_ms = u32::try_from(unix_ms_left.saturating_sub(told_ms)).unwrap_or(u32::MAX);
        let mut due_ms = expiry_ms.min(self.ping_due.until(now));
        if self.framing == Framing::WebSocket {
            due_ms = due_ms.min(cfg.dead_after_ms.saturating_sub(self.heard.since(now)));
        }
        if self.catch_up.is_behind() {
            due_ms = due_ms.min(self.behind_due.until(now));
        }
        if self.lanes.is_some() {
            due_ms = due_ms.min(cfg.deferred_after_ms.min(cfg.unwritable_close_ms));
        }
        due_ms
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
            self.catch_up.give_up_pending();
        }
        self.behind_told = true;
        self.behind_due = Stamp::at(now).after(cfg.heartbeat_ms);
        let resume_from = self.tracked.as_ref().and_then(|it| it.resume_from());
        if let Some(cursors) = resume_from {
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
    pub(super) fn end_episode(&mut self, now: Now, cfg: &SessionConfig, actions: &mut Vec<Action>) {
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

    fn heartbeat(&self) -> &'static [u8] {
        match self.framing {
            // A ping without payload.
            Framing::WebSocket => &[0x89, 0],
            Framing::Sse => sse::HEARTBEAT,
        }
    }

    /// ±10 % by connection and turn, so that those opened together do not stay together.
    pub(super) fn schedule_ping(&mut self, now: Now, cfg: &SessionConfig) {
        let tenth = cfg.heartbeat_ms / 10;
        let range = cfg.heartbeat_ms - tenth..=cfg.heartbeat_ms + tenth;
        let interval_ms = spread(self.salt, now.mono_ms as u32, range);
        self.ping_due = Stamp::at(now).after(interval_ms);
    }
}
