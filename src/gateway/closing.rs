//! Saying goodbye: what is left goes out, the client's close frame and its end are awaited, each for a
//! bounded time.
//!
//! Why not simply close: a socket closed over bytes it has not read sends a reset, which destroys what the
//! client has yet to read: the close code, or the answer that says why. So the rest is sent, our side is
//! shut, and the client's bytes are read and dropped until it has closed as well.

use super::{
    conn::{Conn, State},
    context::Context,
    flush::{self, Flushed},
    wire::Wire,
};
use crate::{
    limits::CLOSE_WAIT,
    proto::{
        message::{Decoder, Event},
        session::Session,
    },
    sys,
};
use bytes::{Buf, Bytes};
use socket2::SockRef;
use std::{io, time::Duration};

pub(super) struct Closing {
    rest: Rest,
    /// While the client's close frame is awaited.
    decoder: Option<Decoder>,
    /// Our side is shut: nothing goes out any more.
    shut: bool,
    pub until_ms: u64,
}

/// What has yet to be sent.
enum Rest {
    /// A session that sends its close frame and nothing else.
    Session(Session),
    /// An HTTP answer.
    Answer(Bytes),
}

impl Closing {
    pub fn enter_session(
        conn: &mut Conn,
        session: Session,
        decoder: Option<Decoder>,
        context: &mut Context,
    ) {
        Closing::enter(conn, Rest::Session(session), decoder, context);
    }

    /// An answer after which the connection ends.
    pub fn enter_answer(conn: &mut Conn, answer: impl Into<Bytes>, context: &mut Context) {
        Closing::enter(conn, Rest::Answer(answer.into()), None, context);
    }

    fn enter(conn: &mut Conn, rest: Rest, decoder: Option<Decoder>, context: &mut Context) {
        conn.state = State::Closing(Box::new(Closing {
            rest,
            decoder,
            shut: false,
            until_ms: context.now.mono_ms + CLOSE_WAIT.as_millis() as u64,
        }));
        if !conn.blocked {
            Closing::flush(conn, context);
        }
    }

    pub fn held_bytes(&self) -> usize {
        let rest = match &self.rest {
            Rest::Session(session) => session.held_bytes(),
            Rest::Answer(bytes) => bytes.len(),
        };
        let decoder = self.decoder.as_ref().map_or(0, Decoder::held_bytes);
        size_of::<Closing>() + rest + decoder
    }

    pub fn wants_flush(&self) -> bool {
        match &self.rest {
            Rest::Session(session) => session.wants_write(),
            Rest::Answer(bytes) => !bytes.is_empty(),
        }
    }

    /// Nothing is said to it but what was going to be; its close frame ends the wait.
    pub fn receive(conn: &mut Conn, bytes: &mut [u8], context: &mut Context) {
        let State::Closing(closing) = &mut conn.state else {
            return;
        };
        let Some(decoder) = &mut closing.decoder else {
            return;
        };
        let mut input = bytes;
        loop {
            match decoder.next_event(&mut input, context.settings.gateway.client_message_bytes) {
                Ok(Some(Event::Close { .. })) | Err(_) => {
                    closing.decoder = None;
                    return Closing::flush(conn, context);
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
            }
        }
    }

    /// It has closed: with everything sent there is nothing left to wait for.
    pub fn peer_ended(conn: &mut Conn, context: &mut Context) {
        if let State::Closing(closing) = &mut conn.state {
            closing.decoder = None;
            if !closing.wants_flush() && !conn.wire.is_blocked(&mut context.channels) {
                conn.state = State::Gone;
            }
        }
    }

    pub fn flush(conn: &mut Conn, context: &mut Context) {
        let State::Closing(closing) = &mut conn.state else {
            return;
        };
        let flushed = match &mut closing.rest {
            Rest::Session(session) => flush::flush(&mut conn.wire, session, context),
            Rest::Answer(bytes) => send(&mut conn.wire, bytes, context),
        };
        context.settle_fates();
        match flushed {
            Ok(Flushed::All) => {}
            Ok(flushed) => {
                conn.blocked = flushed == Flushed::Blocked;
                return;
            }
            Err(_) => {
                conn.state = State::Gone;
                return;
            }
        }
        if closing.decoder.is_none() && !closing.shut {
            match conn.wire.shut(&mut context.channels) {
                Ok(true) => closing.shut = true,
                Ok(false) => {
                    conn.blocked = true;
                    return;
                }
                Err(_) => conn.state = State::Gone,
            }
            if conn.peer_ended {
                conn.state = State::Gone;
            }
        }
    }

    /// It had its time. A time that the open connection was set to may come first: that is nothing to this.
    pub fn fire(conn: &mut Conn, context: &mut Context) {
        if let State::Closing(closing) = &mut conn.state
            && context.now.mono_ms >= closing.until_ms
        {
            if closing.decoder.is_some() {
                context.stats.close_unanswered();
            }
            let waits = closing.wants_flush() || conn.wire.is_blocked(&mut context.channels);
            if waits || !matches!(sys::unsent_bytes(&conn.wire.socket), Ok(0)) {
                // It does not read. The kernel would keep what it was given for minutes, for nobody.
                let _ = SockRef::from(&conn.wire.socket).set_linger(Some(Duration::ZERO));
            }
            conn.state = State::Gone;
        }
    }
}

fn send(wire: &mut Wire, rest: &mut Bytes, context: &mut Context) -> io::Result<Flushed> {
    if !rest.is_empty() {
        let written = flush::write(wire, rest, context)?;
        rest.advance(written);
    }
    Ok(match rest.is_empty() {
        true => Flushed::All,
        false => Flushed::Blocked,
    })
}
