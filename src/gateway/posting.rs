//! A `POST /sse/{ack,read,sync}`: what a client of an event stream has to say. Its body is collected, control
//! is asked, and its answer written; the connection then serves the next request.

use super::{
    conn::{Conn, State},
    context::Context,
    flush,
    mailbox::{ConnId, FromCore, Post},
    upgrade,
};
use crate::{
    ids::UserId,
    proto::{
        answer::{Answer, Reply},
        client::{self, ClientMessage},
        upgrade::PostKind,
    },
};
use bytes::Bytes;
use tungstenite::http::StatusCode;

/// Waiting for the body, then for control.
pub(super) struct Posting {
    kind: PostKind,
    user: UserId,
    body: Vec<u8>,
    expected: Expected,
    /// Control was asked.
    asked: bool,
    reply: Reply,
    pub until_ms: u64,
}

/// A body that is to come.
pub(super) struct Expected {
    pub bytes: usize,
    /// The client does not wait for `100 Continue`, or has it.
    pub is_asked_for: bool,
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Posting {
    /// The body, even an empty one, is looked at by [`Posting::receive`].
    pub fn enter(
        conn: &mut Conn,
        kind: PostKind,
        expected: Expected,
        user: UserId,
        reply: Reply,
        context: &mut Context,
    ) {
        conn.state = State::Posting(Box::new(Posting {
            kind,
            user,
            body: Vec::new(),
            expected,
            asked: false,
            reply,
            until_ms: context.now.mono_ms + context.settings.gateway.handshake_ms,
        }));
    }

    pub fn held_bytes(&self) -> usize {
        size_of::<Posting>() + self.body.capacity()
    }

    pub fn receive(conn: &mut Conn, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        let State::Posting(posting) = &mut conn.state else {
            return;
        };
        let wanted = posting.expected.bytes - posting.body.len();
        if bytes.len() > wanted || (posting.asked && !bytes.is_empty()) {
            // The next request before the answer to this one: nobody who asks here does that.
            let answer = Answer::refusal(StatusCode::BAD_REQUEST, "pipelined");
            let reply = std::mem::take(&mut posting.reply);
            return upgrade::refuse(conn, &answer, reply, context);
        }
        posting.body.extend_from_slice(bytes);
        if bytes.len() < wanted || posting.asked {
            return Posting::ask_for_body(conn, context);
        }
        match posting.post() {
            Ok(post) => {
                posting.asked = true;
                posting.body = Vec::new();
                posting.expected.bytes = 0;
                context.mail.tell(FromCore::Post {
                    conn: id,
                    user: posting.user.clone(),
                    post,
                });
            }
            Err(cause) => {
                let answer = Answer::refusal(StatusCode::BAD_REQUEST, cause);
                let reply = std::mem::take(&mut posting.reply);
                upgrade::refuse(conn, &answer, reply, context);
            }
        }
    }

    /// Once, of a client that waits for it and has sent nothing yet.
    fn ask_for_body(conn: &mut Conn, context: &mut Context) {
        let State::Posting(posting) = &mut conn.state else {
            return;
        };
        let is_asked_for = std::mem::replace(&mut posting.expected.is_asked_for, true);
        if is_asked_for || posting.asked || !posting.body.is_empty() {
            return;
        }
        // Nothing waits before it, so a client that reads at all has room for it.
        match flush::write(&mut conn.wire, CONTINUE, context) {
            Ok(written) if written == CONTINUE.len() => {}
            _ => {
                context.stats.refused("unwritable");
                conn.state = State::Gone;
            }
        }
    }

    /// Nothing more is expected of the client: the answer is on its way.
    pub fn is_whole(&self) -> bool {
        self.asked
    }

    fn post(&self) -> Result<Post, &'static str> {
        let kind = match self.kind {
            PostKind::Ack => "ack",
            PostKind::Read => "read",
            PostKind::Sync => "sync",
        };
        match client::parse_body(kind, &self.body) {
            Ok(ClientMessage::Ack { ids }) => Ok(Post::Ack(ids)),
            Ok(ClientMessage::Read { ids }) => Ok(Post::Read(ids)),
            Ok(ClientMessage::Sync { cursors, limit }) => Ok(Post::Sync { cursors, limit }),
            Ok(_) => Err("bad_field"),
            Err(refusal) => Err(refusal.code.as_str()),
        }
    }

    /// Control has answered.
    pub fn answer(conn: &mut Conn, status: u16, body: Bytes, context: &mut Context) {
        let State::Posting(posting) = &mut conn.state else {
            return;
        };
        let answer = match StatusCode::from_u16(status) {
            Ok(StatusCode::NO_CONTENT) => Answer::no_content(),
            Ok(StatusCode::TOO_MANY_REQUESTS) => Answer::rate_limited(),
            Ok(status) if body.is_empty() => Answer::refusal(status, "unavailable"),
            Ok(status) => {
                let mut answer = Answer::json(body);
                answer.status = status;
                answer
            }
            Err(_) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let reply = std::mem::take(&mut posting.reply);
        match answer.closes(&reply) || conn.peer_ended {
            true => upgrade::refuse(conn, &answer, reply, context),
            false => upgrade::answer_and_go_on(conn, &answer, &reply, context),
        }
    }

    pub fn fire(conn: &mut Conn, context: &mut Context) {
        let State::Posting(posting) = &mut conn.state else {
            return;
        };
        let reply = std::mem::take(&mut posting.reply);
        let answer = match posting.asked {
            true => Answer::unavailable("unanswered", 5),
            false => Answer::refusal(StatusCode::REQUEST_TIMEOUT, "request_timeout"),
        };
        upgrade::refuse(conn, &answer, reply, context);
    }
}
