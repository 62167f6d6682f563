//! The decoder against itself in other chunks, and against tungstenite in the server's role.

use super::{Damage, fuzz};
use herald::proto::{
    frame::{Violation, unmask},
    message::{Decoder, Event},
};
use proptest::prelude::*;
use std::io::{self, Cursor, Read, Write};
use tungstenite::{
    Error, Message, WebSocket,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig},
};

/// Small, so that both sides of it are reached.
const MESSAGE_BYTES_MAX: usize = 400;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    /// The bytes ended, between messages or inside one.
    Exhausted,
    Refused(Option<Violation>),
}

#[derive(Clone, Debug)]
struct Frame {
    first_byte: u8,
    mask: Option<[u8; 4]>,
    /// Bytes the length takes; more than needed is not minimal, but understood.
    length_bytes: usize,
    payload: Vec<u8>,
}

impl Frame {
    fn encode(&self) -> Vec<u8> {
        let length = self.payload.len();
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![self.first_byte];
        match (length, self.length_bytes) {
            (..126, 1) => bytes.push(masked | length as u8),
            (..65_536, ..3) => {
                bytes.push(masked | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mut payload = self.payload.clone();
        if let Some(mask) = self.mask {
            bytes.extend_from_slice(&mask);
            unmask(&mut payload, mask);
        }
        bytes.extend_from_slice(&payload);
        bytes
    }
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-zé€😀]{0,20}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        // Around the bounds of control frames, of lengths and of messages.
        2 => (prop_oneof![120..130usize, 196..204usize, 396..404usize], any::<u8>())
            .prop_map(|(length, byte)| vec![byte & 0x7f; length]),
        // Parts of characters, to be completed or not by the next fragment.
        2 => prop_oneof![
            Just(b"\xe2\x82".to_vec()), Just(b"\xac".to_vec()), Just(b"\xf0\x9f".to_vec()),
            Just(b"\x98\x80".to_vec()), Just(b"\xed\xa0\x80".to_vec()), Just(b"\xf4\x90".to_vec()),
        ],
        1 => (900..1100u16, "[a-z]{0,4}").prop_map(|(code, reason)| {
            [code.to_be_bytes().as_slice(), reason.as_bytes()].concat()
        }),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    let first_byte = prop_oneof![
        // Final and not, of each opcode there is.
        12 => (prop_oneof![3 => 0..3u8, 1 => 9..11u8], any::<bool>())
            .prop_map(|(opcode, is_final)| opcode | u8::from(is_final || opcode > 2) << 7),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let mask = prop_oneof![30 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let length_bytes = prop_oneof![20 => Just(1usize), 1 => Just(2), 1 => Just(8)];
    (first_byte, mask, length_bytes, payloads()).prop_map(
        |(first_byte, mask, length_bytes, payload)| Frame {
            first_byte,
            mask,
            length_bytes,
            payload,
        },
    )
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (prop::collection::vec(frames(), 0..8), Damage::any()).prop_map(|(frames, damage)| {
            damage.apply(frames.iter().flat_map(Frame::encode).collect())
        }),
        1 => prop::collection::vec(any::<u8>(), 0..100),
    ]
}

/// Ours, in chunks of the given sizes over and over.
fn ours(stream: &[u8], sizes: &[usize]) -> (Vec<Said>, End) {
    let (mut decoder, mut said) = (Decoder::default(), Vec::new());
    let mut stream = stream.to_vec();
    let mut rest = &mut stream[..];
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let mut chunk = rest
            .split_off_mut(..(*size).min(rest.len()))
            .expect("within");
        loop {
            said.push(match decoder.next_event(&mut chunk, MESSAGE_BYTES_MAX) {
                Ok(None) => break,
                Ok(Some(Event::Text(text))) => Said::Text(text.into()),
                Ok(Some(Event::Binary(bytes))) => Said::Binary(bytes.into()),
                Ok(Some(Event::Ping(bytes))) => Said::Ping(bytes.into()),
                Ok(Some(Event::Pong(bytes))) => Said::Pong(bytes.into()),
                Ok(Some(Event::Close { code, reason })) => {
                    said.push(Said::Close(code, reason.into()));
                    return (said, End::Closed);
                }
                Err(violation) => return (said, End::Refused(Some(violation))),
            });
        }
    }
    (said, End::Exhausted)
}

/// A stream that gives what it has and takes everything.
struct Peer(Cursor<Vec<u8>>);

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Peer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(stream: Vec<u8>) -> (Vec<Said>, End) {
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let peer = Peer(Cursor::new(stream));
    let mut socket = WebSocket::from_raw_socket(peer, Role::Server, Some(config));
    let mut said = Vec::new();
    loop {
        said.push(match socket.read() {
            Ok(Message::Text(text)) => Said::Text(text.as_str().into()),
            Ok(Message::Binary(bytes)) => Said::Binary(bytes.into()),
            Ok(Message::Ping(bytes)) => Said::Ping(bytes.into()),
            Ok(Message::Pong(bytes)) => Said::Pong(bytes.into()),
            Ok(Message::Close(frame)) => {
                let (code, reason) = match frame {
                    Some(frame) => (Some(frame.code.into()), frame.reason.as_str().into()),
                    None => (None, String::new()),
                };
                said.push(Said::Close(code, reason));
                return (said, End::Closed);
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (said, End::Exhausted);
            }
            Err(_) => return (said, End::Refused(None)),
        });
    }
}

#[test]
fn chunks_never_change_what_comes_out() {
    let sizes = prop::collection::vec(1..40usize, 1..6);
    fuzz((streams(), sizes), |(stream, sizes)| {
        let whole = ours(&stream, &[stream.len().max(1)]);
        prop_assert_eq!(&ours(&stream, &sizes), &whole);
        prop_assert_eq!(&ours(&stream, &[1]), &whole);
        Ok(())
    });
}

/// Where we differ on purpose: we refuse text at its first wrong byte and a header as soon as it is read,
/// the oracle when the frame is whole; and a close code that must not be sent is a message to the oracle.
#[test]
fn an_independent_implementation_understands_the_same() {
    fuzz((streams(), 1..80usize), |(stream, size)| {
        let (said, end) = ours(&stream, &[size]);
        let (mut oracle_said, mut oracle_end) = theirs(stream.clone());
        if end == End::Refused(Some(Violation::CloseCode)) && oracle_end == End::Closed {
            let told = Said::Close(Some(1002), "Protocol violation".into());
            prop_assert_eq!(oracle_said.pop(), Some(told));
            oracle_end = End::Refused(None);
        }
        if matches!(end, End::Refused(_)) && oracle_end == End::Exhausted {
            // Let it have the rest of the frame that we did not wait for: it must not like it either.
            let rest = vec![0; MESSAGE_BYTES_MAX + 32];
            (oracle_said, oracle_end) = theirs([stream, rest].concat());
        }
        prop_assert_eq!(said, oracle_said);
        let end = match end {
            End::Refused(_) => End::Refused(None),
            end => end,
        };
        prop_assert_eq!(end, oracle_end);
        Ok(())
    });
}
