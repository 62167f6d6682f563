//! The step between PROXY header and request: the TLS handshake, for clients of the TLS listener.
//!
//! Invariants:
//! * it shares the time of the steps before the request; nothing is made for a client before its first bytes;
//! * handshakes in flight are bounded per core. Over the bound the one that has taken longest is closed: a
//!   client that is alive takes a round trip or two, so whoever only holds places loses them first.

use super::channel::Broken;
use crate::gateway::{
    closing::Closing,
    conn::{Conn, State},
    context::Context,
    core::Core,
    mailbox::ConnId,
    proxy::Newcomer,
    request::Requesting,
};
use crate::limits::TLS_HANDSHAKES;
use rustls::{AlertDescription, Error, InvalidMessage};
use std::{cell::Cell, collections::VecDeque, rc::Rc};

/// Waiting for the end of the handshake.
pub(in crate::gateway) struct Handshaking {
    newcomer: Newcomer,
    place: Option<Place>,
    pub until_ms: u64,
}

/// Held by a handshake in flight.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Handshakes in flight on one core.
#[derive(Default)]
pub(in crate::gateway) struct InFlight {
    count: Rc<Cell<usize>>,
    /// In the order they began; those that are over are dropped as they come to the front.
    begun: VecDeque<ConnId>,
}

impl InFlight {
    fn begin(&mut self, id: ConnId) -> Place {
        self.count.set(self.count.get() + 1);
        self.begun.push_back(id);
        Place(self.count.clone())
    }
}

impl Handshaking {
    pub fn new(newcomer: Newcomer) -> Handshaking {
        Handshaking {
            newcomer,
            place: None,
            until_ms: newcomer.until_ms,
        }
    }

    /// Sealed bytes came in.
    pub fn receive(conn: &mut Conn, bytes: &mut [u8], id: ConnId, context: &mut Context) {
        if bytes.is_empty() {
            return;
        }
        if let Err(broken) = Handshaking::begin(conn, id, context) {
            return Handshaking::failed(conn, &broken, context);
        }
        receive(conn, bytes, id, context);
    }

    fn begin(conn: &mut Conn, id: ConnId, context: &mut Context) -> Result<(), Broken> {
        let State::Handshaking(handshaking) = &mut conn.state else {
            return Ok(());
        };
        if !conn.wire.is_tls()
            && let Some(config) = context.tls_config()
        {
            conn.wire.begin_tls(config, &mut context.channels)?;
            handshaking.place = Some(context.handshakes.begin(id));
        }
        Ok(())
    }

    /// It is over: what follows are plain bytes to the steps from here on.
    fn complete(conn: &mut Conn, context: &mut Context) {
        if let State::Handshaking(handshaking) = &conn.state
            && let Some(handshake) = conn.wire.handshake(&mut context.channels)
        {
            context.stats.handshake(handshake.kind, handshake.version);
            let newcomer = handshaking.newcomer;
            conn.state = State::Requesting(Box::new(Requesting::new(newcomer)));
        }
    }

    /// The other side has been told why, as far as TLS has a word for it; what it sent is read to its end, for
    /// a reset would take the word back.
    fn failed(conn: &mut Conn, broken: &Broken, context: &mut Context) {
        context.stats.refused(cause(broken));
        conn.wire.end_tls(&mut context.channels);
        Closing::enter_answer(conn, bytes::Bytes::new(), context);
    }

    pub fn fire(conn: &mut Conn, context: &mut Context) {
        let cause = match conn.wire.is_tls() {
            true => "tls_handshake_timeout",
            false => "silent",
        };
        context.stats.refused(cause);
        conn.state = State::Gone;
    }
}

/// Opens what arrived and hands it on.
pub(in crate::gateway) fn receive(
    conn: &mut Conn,
    bytes: &mut [u8],
    id: ConnId,
    context: &mut Context,
) {
    context.stats.tls_received_bytes += bytes.len() as u64;
    let result = conn.wire.receive(bytes, &mut context.channels);
    conn.blocked |= conn.wire.is_blocked(&mut context.channels);
    Handshaking::complete(conn, context);
    let mut plain = std::mem::take(&mut context.channels.scratch.plain);
    if !plain.is_empty() {
        conn.receive(&mut plain, id, context);
    }
    context.channels.scratch.plain = plain;
    match result {
        Ok(arrived) if arrived.peer_ended => conn.peer_ended(id, context),
        Ok(_) => {}
        Err(broken) if matches!(conn.state, State::Handshaking(_)) => {
            Handshaking::failed(conn, &broken, context);
        }
        Err(Broken::Socket(_)) => conn.lost("reset", id, context),
        Err(broken) => {
            context.stats.tls_broken(cause(&broken));
            conn.lost("tls", id, context);
        }
    }
}

/// Bounded label for metrics.
fn cause(broken: &Broken) -> &'static str {
    match broken {
        Broken::Socket(_) => "reset",
        Broken::TooLong => "tls_too_long",
        Broken::Tls(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "tls_not_tls",
        Broken::Tls(Error::InvalidMessage(_) | Error::PeerSentOversizedRecord) => "tls_malformed",
        Broken::Tls(
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. },
        ) => "tls_unexpected",
        Broken::Tls(Error::PeerIncompatible(_)) => "tls_incompatible",
        Broken::Tls(Error::PeerMisbehaved(_)) => "tls_misbehaved",
        Broken::Tls(Error::NoApplicationProtocol) => "tls_no_protocol",
        Broken::Tls(Error::DecryptError) => "tls_decrypt",
        Broken::Tls(Error::AlertReceived(alert)) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA => "tls_certificate_refused",
            _ => "tls_alert",
        },
        Broken::Tls(_) => "tls_failed",
    }
}

impl Core {
    /// Once a turn: over the bound the oldest give way.
    pub fn bound_handshakes(&mut self) {
        while let Some(&id) = self.context.handshakes.begun.front() {
            let handshakes = &self.context.handshakes;
            let is_over = handshakes.count.get() > TLS_HANDSHAKES;
            let conn = self.conns.tenant(id.slot, id.reuse);
            let conn = conn.filter(|conn| matches!(conn.state, State::Handshaking(_)));
            match conn {
                Some(conn) if is_over => {
                    conn.lost("tls_handshakes_full", id, &mut self.context);
                    self.settle(id);
                }
                Some(_) => return,
                None => {}
            }
            self.context.handshakes.begun.pop_front();
        }
    }
}
