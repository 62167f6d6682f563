//! The request head: collected until it is whole, within its bounds of bytes and time.

use super::{
    closing::Closing,
    conn::{Conn, State},
    context::Context,
    mailbox::ConnId,
    proxy::Newcomer,
    upgrade,
};
use crate::proto::{
    answer::{Answer, Reply},
    request,
    upgrade::decide,
};
use tungstenite::http::StatusCode;

/// Waiting for a request head.
pub(super) struct Requesting {
    newcomer: Newcomer,
    /// What has come of a head that came in pieces.
    bytes: Vec<u8>,
    pub until_ms: u64,
}

impl Requesting {
    pub fn new(newcomer: Newcomer) -> Requesting {
        Requesting {
            newcomer,
            bytes: Vec::new(),
            until_ms: newcomer.until_ms,
        }
    }

    pub fn receive(conn: &mut Conn, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        let State::Requesting(requesting) = &mut conn.state else {
            return;
        };
        let kept = requesting.bytes.len();
        let whole = match kept {
            0 => &*bytes,
            _ => {
                requesting.bytes.extend_from_slice(bytes);
                &requesting.bytes
            }
        };
        let decided = request::parse(whole).map(|request| {
            request.map(|request| {
                (
                    request.head_bytes,
                    decide(&request, &context.settings.rules),
                )
            })
        });
        match decided {
            Ok(Some((head_bytes, decision))) => {
                let newcomer = requesting.newcomer;
                upgrade::enter(conn, decision, newcomer, id, context);
                Requesting::pass_on(conn, &mut bytes[head_bytes - kept..], id, context);
            }
            Ok(None) if kept == 0 => requesting.bytes.extend_from_slice(bytes),
            Ok(None) => {}
            Err(error) => {
                context.stats.refused(error.cause());
                let answer = error.answer().encode(&Reply::default());
                Closing::enter_answer(conn, answer, context);
            }
        }
    }

    pub fn held_bytes(&self) -> usize {
        size_of::<Requesting>() + self.bytes.capacity()
    }

    /// What came behind the head belongs to the next state. Another request does not: a client that sends
    /// it before it has the answer to the first is none of ours, and could make this recurse.
    fn pass_on(conn: &mut Conn, rest: &mut [u8], id: ConnId, context: &mut Context) {
        if matches!(conn.state, State::Requesting(_)) && !rest.is_empty() {
            context.stats.refused("pipelined");
            conn.state = State::Gone;
            return;
        }
        conn.receive(rest, id, context);
    }

    /// A client that sent nothing (or a balancer's probe) gets nothing; a slow one is told.
    pub fn fire(conn: &mut Conn, context: &mut Context) {
        let State::Requesting(requesting) = &conn.state else {
            return;
        };
        if requesting.bytes.is_empty() {
            context.stats.refused("silent");
            conn.state = State::Gone;
            return;
        }
        context.stats.refused("request_timeout");
        let answer = Answer::refusal(StatusCode::REQUEST_TIMEOUT, "request_timeout");
        Closing::enter_answer(conn, answer.encode(&Reply::default()), context);
    }
}
