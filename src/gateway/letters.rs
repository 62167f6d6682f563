//! What control has written to this core, carried out in order.

use super::{
    conn::State,
    context::Context,
    core::Core,
    mailbox::{ConnId, Delivery, ToCore},
    open::{Ending, Open},
    posting::Posting,
    walk::Broadcast,
};
use crate::{
    config,
    envelope::Fate,
    proto::{client::frames::Slot, close::CloseCode},
};
use std::sync::Arc;

/// Letters, and deliveries in them, handled between two looks at the sockets. One letter is not divided:
/// control puts no more into it than it takes from the bus at once.
const LETTERS_PER_TURN: usize = 256;

impl Core {
    /// Takes what waits in the mailbox, as long as nothing is held up by it.
    pub fn read_letters(&mut self) {
        let mut handled = 0;
        while handled < LETTERS_PER_TURN && !self.context.mail.is_choked() {
            // Walks overtake nothing and are bounded: while too many wait, so do the letters behind them.
            if self.walks.are_full() {
                return;
            }
            let Some(letter) = self.context.mail.receive() else {
                self.letters_left = false;
                return;
            };
            handled += match &letter {
                ToCore::Deliver(deliveries) => deliveries.len().max(1),
                _ => 1,
            };
            self.carry_out(letter);
        }
    }

    fn carry_out(&mut self, letter: ToCore) {
        match letter {
            ToCore::Deliver(deliveries) => {
                for delivery in deliveries {
                    self.deliver(&delivery);
                }
            }
            ToCore::Broadcast { ticket, item } => {
                self.walks.broadcast(Broadcast::new(ticket, item));
            }
            ToCore::Synced {
                conn,
                frame,
                cursors,
                complete,
            } => self.with_open(conn, |open, context| {
                let actions = &mut context.actions;
                open.session.synced(&frame, &cursors, complete, actions);
            }),
            ToCore::Control { conn, frame } => self.with_open(conn, |open, context| {
                open.session.control(&frame, &mut context.actions);
            }),
            ToCore::Behind {
                conn,
                sync_after_ms,
            } => self.with_open(conn, |open, context| {
                open.session.behind(sync_after_ms, context.now);
            }),
            ToCore::Answer { conn, status, body } => {
                if let Some(held) = self.conns.tenant(conn.slot, conn.reuse) {
                    Posting::answer(held, status, body, &mut self.context);
                    self.settle(conn);
                }
            }
            ToCore::Close { conn, code, reason } => {
                if let Some(held) = self.conns.tenant(conn.slot, conn.reuse) {
                    Open::end(held, Ending::Ours(code, reason), conn, &mut self.context);
                    self.settle(conn);
                }
            }
            ToCore::Slot {
                after_ms_min,
                after_ms_max,
            } => {
                self.context.slot = Slot {
                    after_ms_min,
                    after_ms_max,
                };
                self.walks.tell_slot();
            }
            ToCore::Reload(gateway) => self.reload(&gateway),
            ToCore::StopAccepting => self.door.close(),
            ToCore::Leave(leaving) => {
                self.context.draining = leaving;
                self.walks.leave(leaving);
            }
            ToCore::Evict {
                clients,
                back_within_ms,
            } => self.walks.evict(clients, back_within_ms),
            ToCore::Shutdown => self.shut_down(),
        }
    }

    /// The configuration was checked before it was sent; a core goes on as before if it is wrong all the same.
    fn reload(&mut self, gateway: &config::Gateway) {
        match self.context.settings.reloaded(gateway) {
            Ok(settings) => {
                self.context.settings = Arc::new(settings);
                self.door.shape(gateway.accepts_per_s);
            }
            Err(error) => tracing::error!(core = self.context.core, %error, "limits stay"),
        }
    }

    /// One item to the user's connections on this core.
    fn deliver(&mut self, delivery: &Delivery) {
        for &id in &delivery.conns {
            let Some(conn) = self.conns.tenant(id.slot, id.reuse) else {
                self.context.mail.fate(delivery.ticket, Fate::NotHere, 1);
                continue;
            };
            Open::deliver(conn, &delivery.item, delivery.ticket, id, &mut self.context);
            self.settle(id);
        }
    }

    /// Lets the session of an open connection do something; nothing, if it is open no more.
    fn with_open(&mut self, id: ConnId, act: impl FnOnce(&mut Open, &mut Context)) {
        let Some(conn) = self.conns.tenant(id.slot, id.reuse) else {
            return;
        };
        if let State::Open(open) = &mut conn.state {
            act(open, &mut self.context);
            Open::carry_out(conn, id, &mut self.context);
            self.settle(id);
        }
    }

    /// Everything that is still here is ended at once; what can be told is told.
    fn shut_down(&mut self) {
        self.door.close();
        for index in 0..self.conns.end() {
            let Some((reuse, conn)) = self.conns.at(index) else {
                continue;
            };
            let id = ConnId {
                slot: index,
                core: self.context.core,
                reuse,
            };
            let ending = Ending::Ours(CloseCode::GoingAway, "shutdown");
            Open::end(conn, ending, id, &mut self.context);
            conn.state = State::Gone;
            self.settle(id);
        }
        self.ended = true;
    }
}
