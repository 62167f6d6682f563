//! A connection: its socket and the state it is in. Each state is a file of its own and owns only what it
//! needs; what only a short-lived state needs is boxed, so that the many open ones pay nothing for it.

use super::{
    closing::Closing,
    context::Context,
    mailbox::ConnId,
    open::{Ending, Open},
    posting::Posting,
    proving::Proving,
    proxy::Proxied,
    request::Requesting,
    slots::Slots,
    tls::handshake::{self, Handshaking},
    wire::Wire,
};
use crate::{
    limits::HELD_SPARED_BYTES,
    memory::contract as memory,
    proto::{close::CloseCode, session::Framing},
};
use std::net::TcpStream;

pub(super) struct Conn {
    pub wire: Wire,
    /// The kernel did not take all of the last write; an edge tells when it takes more.
    pub blocked: bool,
    /// The peer's end (or an error) was told: reading goes on until it is met.
    pub ends: bool,
    /// It was met.
    pub peer_ended: bool,
    /// Listed to be read on.
    pub unread: bool,
    /// Listed to be flushed at the end of the turn.
    pub touched: bool,
    /// Our own canary's: not counted, not bounded, not asked to leave.
    pub canary: bool,
    /// Heard out only to be told that memory is short.
    pub unwelcome: bool,
    /// Turn of the last direct write, 0 before any: more of the same turn leaves in one `writev`. By its last
    /// bits: one that is taken for the present turn only waits until this one ends.
    pub written_turn: u16,
    /// Bytes of it in the account of what waits.
    pub held_bytes: u32,
    pub state: State,
}

/// In the order of a connection's life.
pub(super) enum State {
    /// Waiting for a PROXY header.
    Proxied(Box<Proxied>),
    /// In the TLS handshake.
    Handshaking(Box<Handshaking>),
    /// Waiting for a request head.
    Requesting(Box<Requesting>),
    /// A `POST`: its body, and the wait for control's answer.
    Posting(Box<Posting>),
    /// A WebSocket that has yet to say whose it is.
    Proving(Box<Proving>),
    /// Authenticated (or an echo): the only state that lasts.
    Open(Open),
    /// Saying goodbye: what is left to send, and the peer's end.
    Closing(Box<Closing>),
    /// Nothing to wait for: the socket is closed as soon as the step has returned.
    Gone,
}

/// Half a million of them exist.
const _: () = assert!(size_of::<Conn>() <= 104);
const _: () = assert!(Slots::<Conn>::ENTRY_BYTES == memory::CONNECTION_ENTRY_BYTES);

impl Conn {
    pub fn new(socket: TcpStream, state: State, canary: bool) -> Conn {
        Conn {
            wire: Wire::new(socket),
            blocked: false,
            ends: false,
            peer_ended: false,
            unread: false,
            touched: false,
            canary,
            unwelcome: false,
            written_turn: 0,
            held_bytes: 0,
            state,
        }
    }

    /// Bytes came off the socket.
    pub fn arrived(&mut self, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        match self.wire.is_tls() {
            true => handshake::receive(self, bytes, id, context),
            false => self.receive(bytes, id, context),
        }
    }

    /// Plain bytes came in, or the first sealed ones. None at all are an occasion too: a `POST` without a body
    /// is complete by its head.
    pub fn receive(&mut self, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        match &mut self.state {
            State::Proxied(_) => Proxied::receive(self, bytes, id, context),
            State::Handshaking(_) => Handshaking::receive(self, bytes, id, context),
            State::Requesting(_) => Requesting::receive(self, bytes, id, context),
            State::Posting(_) => Posting::receive(self, bytes, id, context),
            State::Proving(_) => Proving::receive(self, bytes, id, context),
            State::Open(_) => Open::receive(self, bytes, id, context),
            State::Closing(_) => Closing::receive(self, bytes, context),
            State::Gone => {}
        }
    }

    /// The peer will send no more. It may still read: what is being said to it is said to the end, and a
    /// request that is whole gets its answer. But one that can't speak any more is not served any further.
    /// A WebSocket would say by a frame that it ends: without one nobody is left to read, and where a crowd is cut
    /// off at once, a last word to each would be met by as many resets, and cost more than all else of its end.
    /// Told again while an answer is awaited, and that does no harm.
    pub fn peer_ended(&mut self, id: ConnId, context: &mut Context) {
        self.peer_ended = true;
        match &mut self.state {
            State::Closing(_) => Closing::peer_ended(self, context),
            State::Posting(posting) if posting.is_whole() => {}
            State::Open(open) if open.session.framing() == Framing::Sse => {
                Open::end(self, Ending::Left, id, context);
            }
            _ => self.lost("left", id, context),
        }
    }

    /// There is nobody any more to say anything to.
    pub fn lost(&mut self, how: &'static str, id: ConnId, context: &mut Context) {
        match &self.state {
            State::Open(_) => return Open::lost(self, how, id, context),
            State::Closing(_) | State::Gone => {}
            _ if self.canary => {}
            _ => context.stats.refused(how),
        }
        self.state = State::Gone;
    }

    /// The time it was set to has come.
    pub fn fire(&mut self, id: ConnId, context: &mut Context) {
        match &mut self.state {
            State::Proxied(_) => Proxied::fire(self, context),
            State::Handshaking(_) => Handshaking::fire(self, context),
            State::Requesting(_) => Requesting::fire(self, context),
            State::Posting(_) => Posting::fire(self, context),
            State::Proving(_) => Proving::fire(self, id, context),
            State::Open(_) => Open::fire(self, id, context),
            State::Closing(_) => Closing::fire(self, context),
            State::Gone => {}
        }
    }

    /// Monotonic ms at which [`Conn::fire`] is to be called, if nothing happens before.
    pub fn due_ms(&self, context: &Context) -> u64 {
        match &self.state {
            State::Proxied(proxied) => proxied.until_ms,
            State::Handshaking(handshaking) => handshaking.until_ms,
            State::Requesting(requesting) => requesting.until_ms,
            State::Posting(posting) => posting.until_ms,
            State::Proving(proving) => proving.until_ms,
            State::Open(open) => {
                let in_ms = open
                    .session
                    .due_in_ms(context.now, &context.settings.session);
                context.now.mono_ms + u64::from(in_ms)
            }
            State::Closing(closing) => closing.until_ms,
            State::Gone => context.now.mono_ms,
        }
    }

    /// Enters what now waits here into the account. Who has grown when nothing is left of it is ended: it comes
    /// back, and everything of it is in the inbox.
    pub fn account(&mut self, id: ConnId, context: &mut Context) {
        let held = self.waiting_bytes(context);
        let has_grown = held > self.held_bytes as usize;
        context.held_change += held as i64 - i64::from(self.held_bytes);
        self.held_bytes = held as u32;
        if has_grown && held > HELD_SPARED_BYTES && context.memory.is_full(context.held_change) {
            context.stats.crowded_out();
            match &self.state {
                State::Open(_) => {
                    let reason = "memory is short, and it does not read";
                    Open::end(self, Ending::Ours(CloseCode::TooSlow, reason), id, context);
                }
                _ => self.lost("memory", id, context),
            }
            self.account(id, context);
        }
    }

    /// Bytes of memory beyond the slab entry and the user's name.
    fn waiting_bytes(&self, context: &mut Context) -> usize {
        let of_state = match &self.state {
            State::Proxied(proxied) => proxied.held_bytes(),
            State::Handshaking(_) => size_of::<Handshaking>(),
            State::Requesting(requesting) => requesting.held_bytes(),
            State::Posting(posting) => posting.held_bytes(),
            State::Proving(proving) => proving.held_bytes(),
            State::Open(open) => open.session.held_bytes() + open.decoder.held_bytes(),
            State::Closing(closing) => closing.held_bytes(),
            // Its channel goes with it.
            State::Gone => return 0,
        };
        of_state + self.wire.held_bytes(&mut context.channels)
    }

    /// Something waits that the kernel may take.
    pub fn wants_flush(&self) -> bool {
        !self.blocked
            && match &self.state {
                State::Proving(proving) => proving.session.wants_write(),
                State::Open(open) => open.session.wants_write(),
                State::Closing(closing) => closing.wants_flush(),
                _ => false,
            }
    }

    pub fn flush(&mut self, id: ConnId, context: &mut Context) {
        match self.wire.push_unsent(&mut context.channels) {
            Ok(true) => {}
            Ok(false) => {
                self.blocked = true;
                return;
            }
            Err(_) => return self.lost("reset", id, context),
        }
        match &self.state {
            State::Proving(_) => Proving::flush(self, id, context),
            State::Open(_) => Open::flush(self, id, context),
            State::Closing(_) => Closing::flush(self, context),
            _ => {}
        }
    }
}
