//! An established TLS connection (or one on its way there): opens what arrives, seals what leaves.
//!
//! rustls makes the handshake. Then it hands the keys over, and the rest of the connection is [`Records`].
//!
//! Invariants:
//! * what is opened, sealed and put together lies in buffers of the core ([`Scratch`]). A connection owns
//!   bytes only of a record that has not come whole, and of a sealed one that the kernel did not take whole;
//! * one record is sealed at a time, so the latter are at most one record (or the flight of a handshake);
//! * what was sealed leaves, whatever becomes of the message: its order is settled. So long as it has not left,
//!   the last byte of what was offered counts as not taken, and the session above knows that it is blocked;
//! * rustls remembers places in the bytes it has not consumed: it is given the same ones each time, and nothing
//!   at all once it has failed.

use super::records::Records;
use crate::{
    gateway::{
        slots::{self, Slots},
        wire::taken,
    },
    limits::{TLS_INCOMING_BYTES, TLS_SENT_BYTES},
};
use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    },
};
use std::{
    io::{self, IoSlice, Write},
    net::TcpStream,
    sync::Arc,
};
use thiserror::Error;

/// Buffers of one core, for whichever connection has its turn.
#[derive(Default)]
pub(in crate::gateway) struct Scratch {
    /// Opened bytes.
    pub plain: Vec<u8>,
    /// Sealed bytes on their way to the kernel.
    pub(super) sealed: Sealed,
    /// Pieces that leave in one record.
    gathered: Vec<u8>,
    /// Sealed bytes the kernel took, since the last time they were counted.
    pub sent_bytes: u64,
}

/// Room that is made once and not cleared again for each record.
#[derive(Default)]
pub(super) struct Sealed {
    room: Vec<u8>,
    length: usize,
}

/// Which of a core's channels; 32 bits, for every connection has one, plain ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct ChannelId(u32);

impl ChannelId {
    pub const NONE: ChannelId = ChannelId(slots::NONE);
}

/// The channels of one core, and the buffers they share.
pub(in crate::gateway) struct Channels {
    held: Slots<Channel>,
    pub scratch: Scratch,
}

impl Channels {
    pub fn new() -> Channels {
        Channels {
            held: Slots::new(),
            scratch: Scratch::default(),
        }
    }

    pub fn open(&mut self, config: Arc<ServerConfig>) -> Result<ChannelId, Broken> {
        let (index, _) = self.held.insert(Channel::new(config)?);
        Ok(ChannelId(index))
    }

    pub fn close(&mut self, id: ChannelId) {
        if id != ChannelId::NONE {
            self.held.remove(id.0);
        }
    }

    pub fn of(&mut self, id: ChannelId) -> Option<(&mut Channel, &mut Scratch)> {
        if id == ChannelId::NONE {
            return None;
        }
        let (_, channel) = self.held.at(id.0)?;
        Some((channel, &mut self.scratch))
    }
}

/// How a handshake went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Handshake {
    pub kind: &'static str,
    pub version: &'static str,
}

pub(in crate::gateway) struct Channel {
    session: Session,
    /// Of a record that has not come whole.
    incoming: Vec<u8>,
    /// Sealed, and not taken by the kernel.
    unsent: Vec<u8>,
    /// Of what is unsent, the last byte counts as not taken yet.
    held_back: bool,
    said_goodbye: bool,
    /// The peer has said that nothing follows: what follows is dropped.
    peer_ended: bool,
    failed: bool,
}

enum Session {
    Rustls(Box<UnbufferedServerConnection>),
    Records(Box<Records>),
    /// It could not be handed over.
    Lost,
}

/// Why a channel is of no use any more.
#[derive(Debug, Error)]
pub(in crate::gateway) enum Broken {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error("a message of the handshake is too long")]
    TooLong,
}

/// What more there is to say of bytes that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Arrived {
    /// The peer has said that nothing follows.
    pub peer_ended: bool,
}

impl Channel {
    fn new(config: Arc<ServerConfig>) -> Result<Channel, Broken> {
        Ok(Channel {
            session: Session::Rustls(Box::new(UnbufferedServerConnection::new(config)?)),
            incoming: Vec::new(),
            unsent: Vec::new(),
            held_back: false,
            said_goodbye: false,
            peer_ended: false,
            failed: false,
        })
    }

    /// Something sealed waits for the kernel.
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// How the handshake went, once it is over. Asked before anything else follows.
    pub fn handshake(&self) -> Option<Handshake> {
        let Session::Rustls(session) = &self.session else {
            return None;
        };
        if session.is_handshaking() {
            return None;
        }
        Some(Handshake {
            kind: match session.handshake_kind() {
                Some(HandshakeKind::Resumed) => "resumed",
                Some(HandshakeKind::FullWithHelloRetryRequest) => "retried",
                _ => "full",
            },
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                _ => "1.3",
            },
        })
    }

    /// Keeps the keys alone once the handshake is over. Right after something was sealed: rustls then owes nothing, as
    /// the announcement of new keys, which it would take along. Not while it has seen a part of what is to come.
    fn hand_over(&mut self) -> Result<(), rustls::Error> {
        let Session::Rustls(session) = &self.session else {
            return Ok(());
        };
        if session.is_handshaking() || !self.incoming.is_empty() {
            return Ok(());
        }
        if let Session::Rustls(session) = std::mem::replace(&mut self.session, Session::Lost) {
            self.session = Session::Records(Box::new(Records::of(*session)?));
        }
        Ok(())
    }

    /// Opens what has come into [`Scratch::plain`] and sends what the other side is owed for it. Also after an
    /// error what was opened before counts.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        socket: &TcpStream,
        scratch: &mut Scratch,
    ) -> Result<Arrived, Broken> {
        scratch.plain.clear();
        scratch.sealed.clear();
        // Behind our goodbye nothing is answered any more, and rustls takes an alert after it for a bug of its own.
        if self.peer_ended || self.failed || self.said_goodbye {
            return Ok(Arrived::default());
        }
        let result = match self.incoming.is_empty() {
            true => self.open(bytes, scratch).map(|(consumed, arrived)| {
                self.incoming = bytes[consumed..].to_vec();
                arrived
            }),
            false => {
                let mut input = std::mem::take(&mut self.incoming);
                input.extend_from_slice(bytes);
                self.open(&mut input, scratch).map(|(consumed, arrived)| {
                    self.incoming = match consumed {
                        0 => input,
                        _ => input[consumed..].to_vec(),
                    };
                    arrived
                })
            }
        };
        let result = match result {
            Ok(_) if self.incoming.len() > TLS_INCOMING_BYTES => Err(Broken::TooLong),
            result => result,
        };
        self.failed = result.is_err();
        if let Ok(Arrived { peer_ended: true }) = result {
            self.peer_ended = true;
            self.incoming = Vec::new();
        }
        self.transmit(socket, scratch)?;
        result
    }

    /// How many bytes were consumed; sealed answers are in [`Scratch::sealed`].
    fn open(
        &mut self,
        input: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(usize, Arrived), Broken> {
        match &mut self.session {
            Session::Rustls(session) => shake_hands(session, input, scratch),
            Session::Records(records) => {
                Ok(records.open(input, &mut scratch.plain, &mut scratch.sealed)?)
            }
            Session::Lost => Err(Broken::Socket(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Sends as much of the slices as the kernel takes, record by record. Fewer than all: it takes no more, and
    /// an edge will tell.
    pub fn send(
        &mut self,
        slices: &[IoSlice],
        socket: &TcpStream,
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        if !self.push_unsent(socket, scratch)? {
            return Ok(0);
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut taken = usize::from(std::mem::take(&mut self.held_back)).min(offered);
        while taken < offered {
            scratch.sealed.clear();
            taken += self.seal(slices, taken, scratch)?;
            self.transmit(socket, scratch)?;
            if !self.unsent.is_empty() {
                self.held_back = taken == offered;
                return Ok(taken - usize::from(self.held_back));
            }
        }
        Ok(taken)
    }

    /// True when nothing sealed is left to send.
    pub fn push_unsent(&mut self, socket: &TcpStream, scratch: &mut Scratch) -> io::Result<bool> {
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let written = taken((&*socket).write(&self.unsent))?;
        scratch.sent_bytes += written as u64;
        self.unsent.drain(..written);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        Ok(self.unsent.is_empty())
    }

    pub fn held_bytes(&self) -> usize {
        self.incoming.capacity() + self.unsent.capacity()
    }

    /// Says that nothing follows. True once that has left.
    pub fn say_goodbye(&mut self, socket: &TcpStream, scratch: &mut Scratch) -> io::Result<bool> {
        if !self.push_unsent(socket, scratch)? {
            return Ok(false);
        }
        if !self.said_goodbye && !self.failed && !self.is_handshaking() {
            self.said_goodbye = true;
            scratch.sealed.clear();
            let sealed = &mut scratch.sealed;
            match &mut self.session {
                Session::Rustls(session) => {
                    let status = session.process_tls_records(&mut self.incoming);
                    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
                        sealed.append(|room| traffic.queue_close_notify(room))?;
                    }
                }
                Session::Records(records) => records.goodbye(sealed).map_err(io::Error::other)?,
                Session::Lost => {}
            }
            self.transmit(socket, scratch)?;
        }
        Ok(self.unsent.is_empty())
    }

    fn is_handshaking(&self) -> bool {
        match &self.session {
            Session::Rustls(session) => session.is_handshaking(),
            Session::Records(_) | Session::Lost => false,
        }
    }

    /// Seals one record of what lies behind `from`; returns how many bytes of it.
    fn seal(
        &mut self,
        slices: &[IoSlice],
        from: usize,
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sealed = self.seal_one(slices, from, scratch);
        // The number of a record that was lost is used up: nothing that follows it could be opened.
        self.failed |= sealed.is_err();
        sealed
    }

    fn seal_one(
        &mut self,
        slices: &[IoSlice],
        from: usize,
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        let Scratch {
            gathered, sealed, ..
        } = scratch;
        match &mut self.session {
            Session::Rustls(session) => {
                let payload = one_record(slices, from, gathered);
                // With the bytes of before: the session may remember to have seen a part of them.
                encrypt(session, payload, &mut self.incoming, sealed)?;
                self.hand_over().map_err(io::Error::other)?;
                Ok(payload.len())
            }
            Session::Records(records) => {
                let sealed = records.seal(behind(slices, from), sealed);
                sealed.map_err(io::Error::other)
            }
            Session::Lost => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Hands what is sealed to the kernel; what it does not take is kept.
    fn transmit(&mut self, socket: &TcpStream, scratch: &mut Scratch) -> io::Result<()> {
        if scratch.sealed.bytes().is_empty() {
            return Ok(());
        }
        if !self.push_unsent(socket, scratch)? {
            self.unsent.extend_from_slice(scratch.sealed.bytes());
            return Ok(());
        }
        let sealed = scratch.sealed.bytes();
        let written = taken((&*socket).write(sealed))?;
        self.unsent = sealed[written..].to_vec();
        scratch.sent_bytes += written as u64;
        Ok(())
    }
}

/// As [`Channel::open`], by rustls.
pub(super) fn shake_hands(
    session: &mut UnbufferedServerConnection,
    mut input: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(usize, Arrived), Broken> {
    let whole = input.len();
    let mut arrived = Arrived::default();
    let mut failure = None;
    loop {
        let UnbufferedStatus { discard, state } = session.process_tls_records(input);
        match state {
            Ok(ConnectionState::ReadTraffic(mut records)) => {
                while let Some(record) = records.next_record() {
                    scratch.plain.extend_from_slice(record?.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                scratch.sealed.append(|room| data.encode(room))?;
                // The alert is all there is to fetch, but for the one that follows a hello of ours. Asked
                // again, rustls would meet the same bad record, and count its second alert a bug.
                if let Some(error) =
                    failure.take_if(|error| *error != rustls::Error::NoApplicationProtocol)
                {
                    return Err(Broken::Tls(error));
                }
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
            Ok(ConnectionState::PeerClosed) => arrived.peer_ended = true,
            // Nothing more can be done with what there is.
            Ok(_) => match failure {
                Some(error) => return Err(Broken::Tls(error)),
                None => {
                    let left = input.len() - discard;
                    return Ok((whole - left, arrived));
                }
            },
            Err(error) => match failure {
                // Once more: the alert that tells the other side is yet to be fetched.
                None => failure = Some(error),
                Some(first) => return Err(Broken::Tls(first)),
            },
        }
        input = &mut input[discard..];
    }
}

fn encrypt(
    session: &mut UnbufferedServerConnection,
    payload: &[u8],
    incoming: &mut [u8],
    sealed: &mut Sealed,
) -> io::Result<()> {
    loop {
        let status = session.process_tls_records(incoming);
        match status.state.map_err(io::Error::other)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return sealed.append(|room| traffic.encrypt(payload, room));
            }
            ConnectionState::EncodeTlsData(mut data) => {
                sealed.append(|room| data.encode(room))?;
            }
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// What lies behind the first `from` bytes.
fn behind<'a>(slices: &'a [IoSlice], from: usize) -> impl Iterator<Item = &'a [u8]> + Clone {
    let mut skip = from;
    slices.iter().filter_map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        (skipped < slice.len()).then(|| &slice[skipped..])
    })
}

/// What lies behind `from`, as much as one record takes: in place if one slice has it.
fn one_record<'a>(slices: &'a [IoSlice], from: usize, gathered: &'a mut Vec<u8>) -> &'a [u8] {
    let mut rest = behind(slices, from);
    let first = rest.next().unwrap_or_default();
    let Some(mut next) = rest.next().filter(|_| first.len() < TLS_SENT_BYTES) else {
        return &first[..first.len().min(TLS_SENT_BYTES)];
    };
    gathered.clear();
    gathered.extend_from_slice(first);
    loop {
        let room = TLS_SENT_BYTES - gathered.len();
        gathered.extend_from_slice(&next[..room.min(next.len())]);
        match rest.next() {
            Some(piece) if gathered.len() < TLS_SENT_BYTES => next = piece,
            _ => return gathered,
        }
    }
}

/// Room that is asked for when what was there does not do.
trait Lacking {
    fn bytes(self) -> Result<usize, io::Error>;
}

impl Lacking for EncodeError {
    fn bytes(self) -> Result<usize, io::Error> {
        match self {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Ok(required_size)
            }
            error => Err(io::Error::other(error)),
        }
    }
}

impl Lacking for EncryptError {
    fn bytes(self) -> Result<usize, io::Error> {
        match self {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Ok(required_size)
            }
            error => Err(io::Error::other(error)),
        }
    }
}

impl Sealed {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[..self.length]
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    /// Room for as many bytes more, which the caller fills.
    pub(super) fn room_for(&mut self, bytes: usize) -> &mut [u8] {
        let from = self.length;
        self.length += bytes;
        if self.room.len() < self.length {
            self.room.resize(self.length, 0);
        }
        &mut self.room[from..self.length]
    }

    /// Appends what `write` puts into the room it is given.
    fn append<E: Lacking>(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()> {
        let written = match write(&mut self.room[self.length..]) {
            Ok(written) => written,
            Err(lacking) => {
                let needed = self.length + lacking.bytes()?;
                self.room.resize(needed, 0);
                let again = write(&mut self.room[self.length..]);
                again.or_else(|lacking| {
                    lacking.bytes().and(Err(io::ErrorKind::OutOfMemory.into()))
                })?
            }
        };
        self.length += written;
        Ok(())
    }
}
