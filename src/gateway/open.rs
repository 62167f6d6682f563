//! An open connection: its session decides, this file carries it out on the socket and towards control.
//!
//! Invariants:
//! * control hears `Opened` once and `Closed` once, with everything in between in order;
//! * every delivery is answered: by the session's fates, or by `NotHere` where there is no such connection;
//! * nothing of a connection is allocated while it is idle but its user's name.

use super::{
    closing::Closing,
    conn::{Conn, State},
    context::Context,
    flush::{self, Flushed},
    mailbox::{CanarySaid, ConnId, FromCore},
};
use crate::{
    auth::AuthError,
    envelope::Fate,
    ids::UserId,
    position::Cursors,
    proto::{
        close::CloseCode,
        frame::{self, BINARY, PONG, TEXT},
        message::{Decoder, Event},
        session::{Action, Framing, Item, Session, Ticket},
        sse,
    },
};
use bytes::Bytes;
use std::sync::Arc;

pub(super) struct Open {
    pub party: Party,
    pub session: Session,
    pub decoder: Decoder,
}

/// Who is at the other end.
#[derive(Clone)]
pub(super) enum Party {
    User(UserId),
    Nobody(Purpose),
}

/// What a connection is for that is no user's. One variant of [`Party`] for all: more would make it larger.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A conformance suite's: its messages come back, control knows nothing of it.
    Echo,
    /// Our own canary's: it acknowledges probes, and control hears that apart from all clients.
    Canary,
}

impl Party {
    fn is_for(&self, purpose: Purpose) -> bool {
        matches!(self, Party::Nobody(own) if *own == purpose)
    }
}

/// Why an open connection ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// By us: the code is told, and its answer awaited.
    Ours(CloseCode, &'static str),
    /// By the client's close frame, which is answered.
    Theirs(Option<u16>),
    /// By the client's end without one; of an event stream, which may still be read: what it is told is why.
    Left,
}

impl Ending {
    /// A token was not taken.
    pub fn refused(error: AuthError) -> Ending {
        Ending::Ours(error.close_code(), error.cause())
    }

    /// The last that is said, and the decoder if the client's answer is awaited: only of a WebSocket, and
    /// where ours is the first word.
    pub fn last(&self, framing: Framing, decoder: Decoder) -> (Bytes, Option<Decoder>) {
        let (code, reason) = match self {
            Ending::Ours(code, reason) => (*code, *reason),
            Ending::Left => (CloseCode::GoingAway, "your side has ended"),
            Ending::Theirs(code) => return (frame::encode_close_reply(*code), None),
        };
        match framing {
            Framing::Sse => (sse::last_event(code, reason), None),
            Framing::WebSocket => {
                let awaits = matches!(self, Ending::Ours(..));
                (frame::encode_close(code, reason), awaits.then_some(decoder))
            }
        }
    }
}

impl Open {
    /// The connection becomes one: welcome, and control is told. Whatever came in behind the last step's
    /// bytes is the caller's to pass on.
    pub fn enter(
        conn: &mut Conn,
        party: Party,
        session: Session,
        decoder: Decoder,
        cursors: Option<Cursors>,
        id: ConnId,
        context: &mut Context,
    ) {
        let mut open = Open {
            party,
            session,
            decoder,
        };
        match &open.party {
            Party::Nobody(Purpose::Echo) => context.stats.opened("echo"),
            Party::Nobody(Purpose::Canary) => tell_canary(id, CanarySaid::Opened, context),
            Party::User(user) => {
                let framing = match open.session.framing() {
                    Framing::WebSocket => "websocket",
                    Framing::Sse => "sse",
                };
                context.stats.opened(framing);
                let name = context.settings.names.of(id);
                open.session.welcome(
                    &name,
                    context.slot,
                    &context.settings.session,
                    &mut context.actions,
                );
                if cursors.is_some() {
                    open.session.sync_asked();
                }
                context.mail.tell(FromCore::Opened {
                    conn: id,
                    user: user.clone(),
                    cursors,
                });
            }
        }
        conn.state = State::Open(open);
        Open::carry_out(conn, id, context);
    }

    pub fn receive(conn: &mut Conn, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        let State::Open(open) = &mut conn.state else {
            return;
        };
        open.session.heard(context.now);
        // An SSE client has said all it had to say by its request.
        if open.session.framing() == Framing::WebSocket {
            let mut input = bytes;
            while let State::Open(open) = &mut conn.state {
                match open.next(&mut input, context) {
                    Ok(true) => Open::carry_out(conn, id, context),
                    Ok(false) => break,
                    Err(ending) => {
                        Open::end(conn, ending, id, context);
                        // What is left came behind the end: it may hold the answer to our close.
                        return conn.receive(input, id, context);
                    }
                }
            }
        }
    }

    /// Takes one event out of `input`; false when there was none left.
    fn next(&mut self, input: &mut &mut [u8], context: &mut Context) -> Result<bool, Ending> {
        let (now, settings) = (context.now, &context.settings);
        let bytes_max = settings.gateway.client_message_bytes;
        let event = match self.decoder.next_event(input, bytes_max) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(false),
            Err(violation) => {
                context.stats.violation(violation.cause());
                return Err(Ending::Ours(violation.close_code(), violation.cause()));
            }
        };
        let actions = &mut context.actions;
        let is_echo = self.party.is_for(Purpose::Echo);
        let is_canary = self.party.is_for(Purpose::Canary);
        match event {
            Event::Text(text) if is_echo => {
                self.session
                    .raw(frame::encode(TEXT, text.as_bytes()), actions);
            }
            Event::Text(text) => {
                context.stats.received += u64::from(!is_canary);
                self.session.receive(text, now, &settings.session, actions);
            }
            Event::Binary(bytes) if is_echo => {
                self.session.raw(frame::encode(BINARY, bytes), actions);
            }
            Event::Binary(_) => {
                let reason = "messages are JSON text";
                return Err(Ending::Ours(CloseCode::UnsupportedData, reason));
            }
            Event::Ping(payload) => {
                if is_echo || self.session.allow(now, &settings.session, actions) {
                    self.session.raw(frame::encode(PONG, payload), actions);
                }
            }
            Event::Pong(_) => {}
            Event::Close { code, .. } => return Err(Ending::Theirs(code)),
        }
        Ok(true)
    }

    /// Does what the session has asked for.
    pub fn carry_out(conn: &mut Conn, id: ConnId, context: &mut Context) {
        if context.actions.is_empty() {
            return;
        }
        let mut actions = std::mem::take(&mut context.actions);
        for action in actions.drain(..) {
            let State::Open(open) = &mut conn.state else {
                // It ended by an earlier action; fates are all that still counts.
                context.settle_fate(action);
                continue;
            };
            if let Err(ending) = open.act(action, id, context) {
                Open::end(conn, ending, id, context);
            }
        }
        // Ending has filled a fresh list with fates only, and emptied it.
        context.actions = actions;
    }

    fn act(&mut self, action: Action, id: ConnId, context: &mut Context) -> Result<(), Ending> {
        let Party::User(user) = &self.party else {
            match action {
                Action::Close { code, reason } => return Err(Ending::Ours(code, reason)),
                Action::Acked(ids) if self.party.is_for(Purpose::Canary) => {
                    tell_canary(id, CanarySaid::Acked(ids), context);
                }
                _ => {}
            }
            return Ok(());
        };
        let (conn, user) = (id, || user.clone());
        let message = match action {
            Action::Acked(ids) => FromCore::Acked {
                conn,
                user: user(),
                ids,
            },
            Action::Read(ids) => FromCore::Read {
                conn,
                user: user(),
                ids,
            },
            Action::Sync { cursors, limit } => FromCore::Sync {
                conn,
                user: user(),
                cursors,
                limit,
            },
            Action::Authenticate { token, cursors } => {
                return self.refresh(token.expose(), cursors, id, context);
            }
            Action::Close { code, reason } => return Err(Ending::Ours(code, reason)),
            Action::Refused(code) => {
                context.stats.client_error(code.as_str());
                return Ok(());
            }
            action @ (Action::Fate { .. } | Action::Shed) => {
                context.settle_fate(action);
                return Ok(());
            }
        };
        context.mail.tell(message);
        Ok(())
    }

    /// Another `auth` on an open connection: a longer life for the same user, and a sync if it has cursors.
    fn refresh(
        &mut self,
        token: &str,
        cursors: Option<Cursors>,
        id: ConnId,
        context: &mut Context,
    ) -> Result<(), Ending> {
        let Party::User(user) = &self.party else {
            return Ok(());
        };
        let verified = context.verify(token).map_err(|error| {
            context.stats.refused(error.cause());
            Ending::refused(error)
        })?;
        if verified.user != *user {
            let reason = "a connection keeps its user";
            return Err(Ending::Ours(CloseCode::UserChanged, reason));
        }
        self.session.refreshed(verified.expires_unix_s);
        if let Some(cursors) = cursors {
            let limit = crate::limits::SYNC_ITEMS;
            let mut actions = Vec::new();
            self.session.sync_for_client(cursors, limit, &mut actions);
            for action in actions {
                self.act(action, id, context)?;
            }
        }
        Ok(())
    }

    /// Pushes one item: straight from the shared frame if nothing waits before it, else by its lane.
    pub fn deliver(
        conn: &mut Conn,
        item: &Arc<Item>,
        ticket: Ticket,
        id: ConnId,
        context: &mut Context,
    ) {
        let State::Open(open) = &mut conn.state else {
            return context.mail.fate(ticket, Fate::NotHere, 1);
        };
        let now = context.now;
        // The second item of a turn waits for the turn's end, to leave with the others in one call.
        let may_write = !conn.blocked && conn.written_turn != context.turn;
        let direct = open.session.direct(item, now).filter(|_| may_write);
        let Some(bytes) = direct else {
            // What the kernel would take is not shed for want of room.
            if !conn.blocked && open.session.is_deep() {
                Open::flush(conn, id, context);
            }
            let State::Open(open) = &mut conn.state else {
                return context.mail.fate(ticket, Fate::Deferred, 1);
            };
            let keeps = !conn.blocked || context.keeps(item);
            let (config, actions) = (&context.settings.session, &mut context.actions);
            match keeps {
                true => open.session.deliver(item, ticket, now, config, actions),
                false => open.session.pass_over(item, ticket, now, actions),
            }
            return Open::carry_out(conn, id, context);
        };
        match flush::write(&mut conn.wire, bytes, context) {
            Ok(written) => {
                conn.blocked = written < bytes.len();
                conn.written_turn = context.turn;
                open.session
                    .sent_directly(item, ticket, written, now, &mut context.actions);
                Open::carry_out(conn, id, context);
            }
            Err(_) => {
                context.mail.fate(ticket, Fate::Deferred, 1);
                Open::lost(conn, "reset", id, context);
            }
        }
    }

    /// Whatever the session has to send, as far as the kernel takes it.
    pub fn flush(conn: &mut Conn, id: ConnId, context: &mut Context) {
        let State::Open(open) = &mut conn.state else {
            return;
        };
        match flush::flush(&mut conn.wire, &mut open.session, context) {
            Ok(flushed) => {
                conn.blocked = flushed == Flushed::Blocked;
                Open::carry_out(conn, id, context);
            }
            Err(_) => {
                Open::carry_out(conn, id, context);
                Open::lost(conn, "reset", id, context);
            }
        }
    }

    pub fn fire(conn: &mut Conn, id: ConnId, context: &mut Context) {
        let State::Open(open) = &mut conn.state else {
            return;
        };
        let (now, config) = (context.now, &context.settings.session);
        context.stats.heartbeats += u64::from(open.session.ping_is_due(now));
        if !conn.blocked
            && let Some(heartbeat) = open.session.direct_heartbeat(now, config)
        {
            match flush::write(&mut conn.wire, heartbeat, context) {
                Ok(written) => {
                    conn.blocked = written < heartbeat.len();
                    open.session.heartbeat_sent(written, now);
                }
                Err(_) => return Open::lost(conn, "reset", id, context),
            }
        }
        let config = &context.settings.session;
        open.session.tick(now, config, &mut context.actions);
        Open::carry_out(conn, id, context);
    }

    /// Ends it in good order: what was said before goes out as far as the kernel takes it at once, then
    /// nothing but the rest of a frame partly sent, and the close behind it.
    pub fn end(conn: &mut Conn, ending: Ending, id: ConnId, context: &mut Context) {
        if conn.wants_flush() {
            Open::flush(conn, id, context);
        }
        let state = std::mem::replace(&mut conn.state, State::Gone);
        let State::Open(mut open) = state else {
            conn.state = state;
            return;
        };
        let decoder = std::mem::take(&mut open.decoder);
        let (last, decoder) = ending.last(open.session.framing(), decoder);
        // What was said before the end still leaves if the kernel takes it now: the answer to one message
        // does not go missing because the next one broke the protocol. A lost socket shows again below.
        if !conn.blocked
            && let Ok(flushed) = flush::flush(&mut conn.wire, &mut open.session, context)
        {
            conn.blocked = flushed == Flushed::Blocked;
        }
        open.session.finish(last, &mut context.actions);
        context.settle_fates();
        open.tell_closed(id, context);
        match &ending {
            _ if conn.canary => {}
            Ending::Ours(code, _) => context.stats.closed(&code.code().to_string()),
            Ending::Theirs(_) => context.stats.closed("client"),
            Ending::Left => context.stats.closed("left"),
        }
        Closing::enter_session(conn, open.session, decoder, context);
    }

    /// The socket is of no use any more: what was unsent is reported.
    pub fn lost(conn: &mut Conn, how: &'static str, id: ConnId, context: &mut Context) {
        let state = std::mem::replace(&mut conn.state, State::Gone);
        let State::Open(mut open) = state else {
            conn.state = state;
            return;
        };
        open.session.abandon(&mut context.actions);
        context.settle_fates();
        open.tell_closed(id, context);
        if !conn.canary {
            context.stats.closed(how);
        }
    }

    fn tell_closed(&self, id: ConnId, context: &mut Context) {
        match &self.party {
            Party::User(user) => context.mail.tell(FromCore::Closed {
                conn: id,
                user: user.clone(),
            }),
            Party::Nobody(Purpose::Canary) => tell_canary(id, CanarySaid::Closed, context),
            Party::Nobody(Purpose::Echo) => {}
        }
    }
}

fn tell_canary(conn: ConnId, said: CanarySaid, context: &mut Context) {
    context.mail.tell(FromCore::Canary { conn, said });
}
