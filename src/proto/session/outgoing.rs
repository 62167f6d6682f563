//! What goes out: items and control frames into the lanes, and out of them to the kernel.

use super::*;
use crate::{limits::CONTROL_BYTES, proto::lanes::Slices};

impl Session {
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

    /// Drops an item for which the host, not this connection, has no room: it counts as shed here.
    pub fn pass_over(
        &mut self,
        item: &Arc<Item>,
        ticket: Ticket,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        self.lanes().pass_over(item.clone(), ticket, now, actions);
    }

    /// More waits than one `writev` takes: where the kernel takes it, it should go before more is added.
    pub fn is_deep(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.is_deep())
    }

    /// Bytes of memory that what waits takes, beside the session itself.
    pub fn held_bytes(&self) -> usize {
        self.lanes.as_ref().map_or(0, |lanes| lanes.held_bytes())
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
    /// asked for here, when this one has left.
    pub fn synced(
        &mut self,
        json: &Bytes,
        cursors: &Cursors,
        complete: bool,
        actions: &mut Vec<Action>,
    ) {
        self.catch_up.answered(complete);
        let (lanes, mut outlet) = self.lanes_and_outlet();
        let framed = outlet.sync(json, cursors, complete);
        lanes.push_control(framed);
        self.bound_control(actions);
        if !complete && self.framing == Framing::Sse {
            self.tracked.get_or_insert_default().synced_in_part(cursors);
        }
    }

    /// The next part, once the kernel has taken the one before: parts are not piled up for a slow client.
    fn ask_next_part(&mut self, actions: &mut Vec<Action>) {
        let is_sent = self
            .lanes
            .as_ref()
            .is_none_or(|lanes| lanes.control_bytes() == 0);
        let tracked = self.tracked.as_mut().filter(|_| is_sent);
        if let Some(cursors) = tracked.and_then(|tracked| tracked.next_part()) {
            self.ask_sync(cursors, SYNC_ITEMS, actions);
        }
    }

    /// The client may have missed something: it is told after the pause, and again every heartbeat,
    /// until a complete sync that was asked for from now on.
    pub fn behind(&mut self, sync_after_ms: u32, now: Now) {
        self.catch_up.missed();
        self.behind_told = false;
        self.behind_due = Stamp::at(now).after(sync_after_ms);
    }

    pub fn is_behind(&self) -> bool {
        self.catch_up.is_behind()
    }

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
            self.ask_next_part(actions);
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

    fn place_in(&self, slot: Slot) -> u32 {
        spread(self.salt, 0, slot.after_ms_min..=slot.after_ms_max)
    }

    pub(super) fn lanes(&mut self) -> &mut Lanes {
        self.lanes.get_or_insert_default()
    }

    fn lanes_and_outlet(&mut self) -> (&mut Lanes, Outlet<'_>) {
        let outlet = Outlet {
            framing: self.framing,
            tracked: &mut self.tracked,
        };
        (self.lanes.get_or_insert_default(), outlet)
    }

    pub(super) fn free_if_idle(&mut self) {
        if self.lanes.as_ref().is_some_and(|lanes| lanes.is_empty()) {
            self.lanes = None;
        }
    }
}
