//! A WebSocket that came without a token: its first message has to bring one, within the limit.

use super::{
    closing::Closing,
    conn::{Conn, State},
    context::Context,
    flush::{self, Flushed},
    mailbox::ConnId,
    open::{Ending, Open, Party},
};
use crate::{
    position::Cursors,
    proto::{
        client::{self, ClientMessage, ErrorCode, frames},
        close::CloseCode,
        frame::{self, PONG},
        message::{Decoder, Event},
        session::{Action, Framing, Session},
    },
};
use bytes::Bytes;

/// Waiting for `auth`.
pub(super) struct Proving {
    /// The session it will have: until then it answers pings and errors, and nothing lets it expire.
    pub session: Session,
    decoder: Decoder,
    /// Of the request; `auth` may bring newer ones.
    cursors: Option<Cursors>,
    away_ms: Option<u32>,
    pub until_ms: u64,
}

/// What a message led to.
enum Proof {
    None,
    /// Nothing more in the input.
    Waiting,
    Given(Party, u64, Option<Cursors>),
}

impl Proving {
    pub fn enter(
        conn: &mut Conn,
        response: Bytes,
        cursors: Option<Cursors>,
        away_ms: Option<u32>,
        id: ConnId,
        context: &mut Context,
    ) {
        let mut session = context.new_session(Framing::WebSocket, u64::MAX, id);
        session.raw(response, &mut context.actions);
        conn.state = State::Proving(Box::new(Proving {
            session,
            decoder: Decoder::default(),
            cursors,
            away_ms,
            until_ms: context.now.mono_ms + context.settings.gateway.handshake_ms,
        }));
    }

    pub fn held_bytes(&self) -> usize {
        size_of::<Proving>() + self.session.held_bytes() + self.decoder.held_bytes()
    }

    pub fn receive(conn: &mut Conn, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        let mut input = bytes;
        while let State::Proving(proving) = &mut conn.state {
            match proving.next(&mut input, context) {
                Ok(Proof::None) => {}
                Ok(Proof::Waiting) => return,
                Ok(Proof::Given(party, expires_unix_s, cursors)) => {
                    let State::Proving(proving) = std::mem::replace(&mut conn.state, State::Gone)
                    else {
                        return;
                    };
                    let Proving {
                        mut session,
                        decoder,
                        away_ms,
                        ..
                    } = *proving;
                    context.reconnected(away_ms);
                    session.refreshed(expires_unix_s);
                    Open::enter(conn, party, session, decoder, cursors, id, context);
                }
                Err(ending) => Proving::end(conn, ending, id, context),
            }
        }
        conn.receive(input, id, context);
    }

    fn next(&mut self, input: &mut &mut [u8], context: &mut Context) -> Result<Proof, Ending> {
        let bytes_max = context.settings.gateway.client_message_bytes;
        let event = match self.decoder.next_event(input, bytes_max) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Proof::Waiting),
            Err(violation) => {
                context.stats.violation(violation.cause());
                return Err(Ending::Ours(violation.close_code(), violation.cause()));
            }
        };
        let config = &context.settings.session;
        if !self
            .session
            .allow(context.now, config, &mut context.actions)
        {
            let reason = "too many messages";
            return Err(Ending::Ours(CloseCode::RateLimited, reason));
        }
        let actions: &mut Vec<Action> = &mut context.actions;
        match event {
            Event::Text(text) => match client::parse(text) {
                Ok(ClientMessage::Auth { token, cursors }) => {
                    return self.judge(token.expose(), cursors, context);
                }
                Ok(ClientMessage::Ping) => self.session.control(&frames::pong(), actions),
                Ok(_) => {
                    let error = frames::error(ErrorCode::BadField, "authenticate first");
                    self.session.control(&error, actions);
                }
                Err(refusal) => {
                    let error = frames::error(refusal.code, refusal.message);
                    self.session.control(&error, actions);
                }
            },
            Event::Ping(payload) => self.session.raw(frame::encode(PONG, payload), actions),
            Event::Pong(_) => {}
            Event::Binary(_) => {
                let reason = "messages are JSON text";
                return Err(Ending::Ours(CloseCode::UnsupportedData, reason));
            }
            Event::Close { code, .. } => return Err(Ending::Theirs(code)),
        }
        context.actions.clear();
        Ok(Proof::None)
    }

    fn judge(
        &mut self,
        token: &str,
        cursors: Option<Cursors>,
        context: &mut Context,
    ) -> Result<Proof, Ending> {
        match context.verify(token) {
            Ok(verified) => Ok(Proof::Given(
                Party::User(verified.user),
                verified.expires_unix_s,
                cursors.or(self.cursors.take()),
            )),
            Err(error) => {
                context.stats.refused(error.cause());
                Err(Ending::refused(error))
            }
        }
    }

    pub fn flush(conn: &mut Conn, id: ConnId, context: &mut Context) {
        let State::Proving(proving) = &mut conn.state else {
            return;
        };
        match flush::flush(&mut conn.wire, &mut proving.session, context) {
            Ok(flushed) => conn.blocked = flushed == Flushed::Blocked,
            Err(_) => conn.lost("reset", id, context),
        }
        context.actions.clear();
    }

    pub fn fire(conn: &mut Conn, id: ConnId, context: &mut Context) {
        context.stats.refused("auth_timeout");
        let reason = "no auth in time";
        Proving::end(
            conn,
            Ending::Ours(CloseCode::AuthTimeout, reason),
            id,
            context,
        );
    }

    /// As [`Open::end`]: what was answered so far goes out before the close frame.
    pub fn end(conn: &mut Conn, ending: Ending, id: ConnId, context: &mut Context) {
        context.actions.clear();
        if conn.wants_flush() {
            Proving::flush(conn, id, context);
        }
        let State::Proving(proving) = std::mem::replace(&mut conn.state, State::Gone) else {
            return;
        };
        let Proving {
            mut session,
            decoder,
            ..
        } = *proving;
        let (last, decoder) = ending.last(Framing::WebSocket, decoder);
        session.finish(last, &mut context.actions);
        context.actions.clear();
        Closing::enter_session(conn, session, decoder, context);
    }
}
