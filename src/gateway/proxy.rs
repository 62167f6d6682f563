//! First step, for peers whose PROXY header is believed: who the client is behind the load balancer.
//!
//! From such a peer the header is demanded: without it the balancer is not set up as this side thinks, and
//! every client would look like the balancer.

use super::{
    accept::Entrance,
    conn::{Conn, State},
    context::Context,
    mailbox::ConnId,
    request::Requesting,
    tls::handshake::Handshaking,
};
use crate::{
    limits,
    proto::proxy_header::{self, Step},
};

/// What the steps before the connection is open hand on.
#[derive(Clone, Copy)]
pub(super) struct Newcomer {
    /// End of its time for PROXY header and request head.
    pub until_ms: u64,
    /// Why it will be heard out and refused.
    pub refused: Option<&'static str>,
    pub entrance: Entrance,
}

impl Newcomer {
    /// The step behind the PROXY header, or without one.
    pub fn begin(self) -> State {
        match self.entrance {
            Entrance::Plain => State::Requesting(Box::new(Requesting::new(self))),
            Entrance::Tls => State::Handshaking(Box::new(Handshaking::new(self))),
        }
    }
}

/// Waiting for a PROXY header.
pub(super) struct Proxied {
    newcomer: Newcomer,
    bytes: Vec<u8>,
    pub until_ms: u64,
}

impl Proxied {
    pub fn new(newcomer: Newcomer) -> Proxied {
        Proxied {
            newcomer,
            bytes: Vec::new(),
            until_ms: newcomer.until_ms,
        }
    }

    pub fn receive(conn: &mut Conn, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        let State::Proxied(proxied) = &mut conn.state else {
            return;
        };
        let before = proxied.bytes.len();
        let room = limits::PROXY_HEADER_BYTES - before;
        proxied
            .bytes
            .extend_from_slice(&bytes[..room.min(bytes.len())]);
        match proxy_header::parse(&proxied.bytes) {
            // Nothing here depends on where a client is: its address is for the logs of the balancer.
            Ok(Step::Done { consumed, .. }) => {
                conn.state = proxied.newcomer.begin();
                conn.receive(&mut bytes[consumed - before..], id, context);
            }
            Ok(Step::NeedMore) => {}
            Err(error) => {
                context.stats.refused(error.cause());
                conn.state = State::Gone;
            }
        }
    }

    pub fn held_bytes(&self) -> usize {
        size_of::<Proxied>() + self.bytes.capacity()
    }

    pub fn fire(conn: &mut Conn, context: &mut Context) {
        context.stats.refused("proxy_header_timeout");
        conn.state = State::Gone;
    }
}
