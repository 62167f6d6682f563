//! What comes in: client messages, and the answers of the surroundings to what was asked.

use super::*;
use crate::proto::client::{self, ClientMessage};

impl Session {
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
            Ok(ClientMessage::Sync { cursors, limit }) => {
                self.sync_for_client(cursors, limit, actions);
            }
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
        self.catch_up.asked();
    }

    /// One at a time: each costs reads of the store, and a client that asks on without waiting would stand
    /// in the queue of all the others many times.
    pub fn sync_for_client(&mut self, cursors: Cursors, limit: usize, actions: &mut Vec<Action>) {
        match self.catch_up.is_pending() {
            true => self.refuse(ErrorCode::Unavailable, "a sync is on its way", actions),
            false => self.ask_sync(cursors, limit, actions),
        }
    }

    pub(super) fn ask_sync(&mut self, cursors: Cursors, limit: usize, actions: &mut Vec<Action>) {
        self.sync_asked();
        actions.push(Action::Sync { cursors, limit });
    }

    pub(super) fn refuse(&mut self, code: ErrorCode, message: &str, actions: &mut Vec<Action>) {
        actions.push(Action::Refused(code));
        self.control(&frames::error(code, message), actions);
    }
}
