//! The request is understood: it becomes a WebSocket, an event stream or a `POST`, or gets its answer.
//! Where it carries a token, this is also the step of authentication.

use super::{
    accept::Entrance,
    closing::Closing,
    conn::{Conn, State},
    context::Context,
    mailbox::ConnId,
    open::{Ending, Open, Party, Purpose},
    posting::{Expected, Posting},
    proving::Proving,
    proxy::Newcomer,
    request::Requesting,
};
use crate::{
    auth::{AuthError, Verified},
    limits::RETRY_AFTER_S,
    position::Cursors,
    proto::{
        answer::{Answer, Reply},
        client::cursors,
        message::Decoder,
        session::Framing,
        upgrade::{Asked, Decision, Presented, TokenSource},
    },
};
use bytes::Bytes;
use tungstenite::http::StatusCode;

/// Carries out what was decided from the head alone.
pub(super) fn enter(
    conn: &mut Conn,
    decision: Decision,
    newcomer: Newcomer,
    id: ConnId,
    context: &mut Context,
) {
    let Decision { asked, reply } = decision;
    if newcomer.refused.is_some() || context.draining {
        let cause = newcomer.refused.unwrap_or("draining");
        let answer = Answer::unavailable(cause, rand::random_range(RETRY_AFTER_S));
        return refuse(conn, &answer, reply, context);
    }
    match asked {
        Asked::Plain(answer) if answer.closes(&reply) => refuse(conn, &answer, reply, context),
        Asked::Plain(answer) => answer_and_go_on(conn, &answer, &reply, context),
        Asked::Echo { response } => {
            let opening = Opening {
                party: Party::Nobody(Purpose::Echo),
                framing: Framing::WebSocket,
                first: response,
                expires_unix_s: u64::MAX,
                cursors: None,
            };
            opening.enter(conn, id, context);
        }
        Asked::WebSocket {
            response,
            presented,
        } => websocket(conn, response, presented, reply, id, context),
        Asked::Sse { head, presented } => event_stream(conn, head, presented, reply, id, context),
        Asked::Post {
            kind,
            body_bytes,
            expects_continue,
            presented,
        } => match authenticate(&presented, context) {
            Ok((verified, _)) => {
                let expected = Expected {
                    bytes: body_bytes,
                    is_asked_for: !expects_continue,
                };
                Posting::enter(conn, kind, expected, verified.user, reply, context);
            }
            Err(refused) => refuse(conn, &refused.answer(), reply, context),
        },
    }
}

/// Ends the connection with an answer.
pub(super) fn refuse(conn: &mut Conn, answer: &Answer, reply: Reply, context: &mut Context) {
    if !answer.status.is_success() {
        context.stats.refused(answer.cause);
    }
    let reply = Reply {
        keep_alive: false,
        ..reply
    };
    Closing::enter_answer(conn, answer.encode(&reply), context);
}

/// Answers, and waits for the next request on the same connection.
pub(super) fn answer_and_go_on(
    conn: &mut Conn,
    answer: &Answer,
    reply: &Reply,
    context: &mut Context,
) {
    let bytes = answer.encode(reply);
    // Nothing waits before it, so a client that reads at all has room for it.
    match super::flush::write(&mut conn.wire, &bytes, context) {
        Ok(written) if written == bytes.len() => {
            let newcomer = context.newcomer(None, Entrance::Plain);
            conn.state = State::Requesting(Box::new(Requesting::new(newcomer)));
        }
        _ => {
            context.stats.refused("unwritable");
            conn.state = State::Gone;
        }
    }
}

fn websocket(
    conn: &mut Conn,
    response: Bytes,
    presented: Presented,
    reply: Reply,
    id: ConnId,
    context: &mut Context,
) {
    if conn.canary {
        return canary(conn, response, &presented, reply, id, context);
    }
    let Some((_, source)) = &presented.token else {
        let cursors = match parse_cursors(&presented) {
            Ok(cursors) => cursors,
            Err(answer) => return refuse(conn, &answer, reply, context),
        };
        return Proving::enter(conn, response, cursors, presented.away_ms, id, context);
    };
    // A browser is not shown the status of a refused upgrade, but a close code it is.
    let is_browser = *source != TokenSource::Authorization;
    match authenticate(&presented, context) {
        Ok((verified, cursors)) => {
            context.reconnected(presented.away_ms);
            let opening = Opening {
                party: Party::User(verified.user),
                framing: Framing::WebSocket,
                first: response,
                expires_unix_s: verified.expires_unix_s,
                cursors,
            };
            opening.enter(conn, id, context);
        }
        Err(Refused::Token(error)) if is_browser => {
            context.stats.refused(error.cause());
            let mut session = context.new_session(Framing::WebSocket, u64::MAX, id);
            let (close, decoder) =
                Ending::refused(error).last(Framing::WebSocket, Decoder::default());
            session.finish([response, close].concat().into(), &mut context.actions);
            Closing::enter_session(conn, session, decoder, context);
        }
        Err(refused) => refuse(conn, &refused.answer(), reply, context),
    }
}

/// Our own canary shows the secret of this start where others show a user's token.
fn canary(
    conn: &mut Conn,
    response: Bytes,
    presented: &Presented,
    reply: Reply,
    id: ConnId,
    context: &mut Context,
) {
    let token = presented.token.as_ref();
    if !token.is_some_and(|(token, _)| context.settings.canary.admits(token.expose())) {
        return refuse(conn, &Answer::unauthorized("canary"), reply, context);
    }
    let opening = Opening {
        party: Party::Nobody(Purpose::Canary),
        framing: Framing::WebSocket,
        first: response,
        expires_unix_s: u64::MAX,
        cursors: None,
    };
    opening.enter(conn, id, context);
}

fn event_stream(
    conn: &mut Conn,
    head: Bytes,
    presented: Presented,
    reply: Reply,
    id: ConnId,
    context: &mut Context,
) {
    match authenticate(&presented, context) {
        Ok((verified, cursors)) => {
            context.reconnected(presented.away_ms);
            let opening = Opening {
                party: Party::User(verified.user),
                framing: Framing::Sse,
                first: head,
                expires_unix_s: verified.expires_unix_s,
                // Without cursors the newest rows: only a sync tells what an `id:` may claim, and a
                // plain EventSource has nothing else to resume by.
                cursors: Some(cursors.unwrap_or_default()),
            };
            opening.enter(conn, id, context);
        }
        Err(refused) => refuse(conn, &refused.answer(), reply, context),
    }
}

/// What a connection opens with.
struct Opening {
    party: Party,
    framing: Framing,
    /// The answer to the request: it leaves before any frame.
    first: Bytes,
    expires_unix_s: u64,
    cursors: Option<Cursors>,
}

impl Opening {
    fn enter(self, conn: &mut Conn, id: ConnId, context: &mut Context) {
        let mut session = context.new_session(self.framing, self.expires_unix_s, id);
        session.raw(self.first, &mut context.actions);
        let decoder = Decoder::default();
        Open::enter(
            conn,
            self.party,
            session,
            decoder,
            self.cursors,
            id,
            context,
        );
    }
}

/// What speaks against a client, found by its request.
enum Refused {
    Token(AuthError),
    Request(Answer),
}

impl Refused {
    fn answer(self) -> Answer {
        match self {
            Refused::Token(error) => Answer::token_refused(error.cause(), error.close_code()),
            Refused::Request(answer) => answer,
        }
    }
}

/// Whose token it is, and the cursors presented with it.
fn authenticate(
    presented: &Presented,
    context: &mut Context,
) -> Result<(Verified, Option<Cursors>), Refused> {
    let Some((token, _)) = &presented.token else {
        return Err(Refused::Request(Answer::unauthorized("no_token")));
    };
    let verified = context.verify(token.expose()).map_err(Refused::Token)?;
    let cursors = parse_cursors(presented).map_err(Refused::Request)?;
    Ok((verified, cursors))
}

fn parse_cursors(presented: &Presented) -> Result<Option<Cursors>, Answer> {
    let bad = |_| Answer::refusal(StatusCode::BAD_REQUEST, "cursors");
    let text = presented.cursors.as_deref();
    text.map(cursors::from_text).transpose().map_err(bad)
}
