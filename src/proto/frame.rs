//! One WebSocket frame (RFC 6455, section 5): the header both ways, and the mask.
//!
//! The header's layout is tungstenite's; which headers a client may send is decided here. Frames of the
//! server are final, unmasked and have no reserved bits: there are no extensions and no fragments.

use super::close::CloseCode;
use bytes::Bytes;
use std::io::Cursor;
use thiserror::Error;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data},
};

pub use tungstenite::protocol::frame::coding::OpCode;

pub const TEXT: OpCode = OpCode::Data(Data::Text);
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
pub const CLOSE: OpCode = OpCode::Control(Control::Close);
pub const PING: OpCode = OpCode::Control(Control::Ping);
pub const PONG: OpCode = OpCode::Control(Control::Pong);

/// The longest header a client can send: 8 bytes of length and 4 of mask.
pub const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// The longest header of ours.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Payload of a control frame.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// What a client did against the protocol. The connection does not live on: it is closed with
/// [`Violation::close_code`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum Violation {
    #[error("a client frame is not masked")]
    Unmasked,
    #[error("a reserved bit is set")]
    ReservedBits,
    #[error("a reserved opcode")]
    ReservedOpcode,
    #[error("a control frame is fragmented")]
    ControlFragmented,
    #[error("a control frame has more than 125 bytes")]
    ControlTooLong,
    #[error("a continuation without a message")]
    UnexpectedContinuation,
    #[error("a message inside a fragmented message")]
    ExpectedContinuation,
    #[error("a close frame of one byte")]
    CloseLength,
    #[error("a close code that must not be sent")]
    CloseCode,
    #[error("text is not UTF-8")]
    InvalidUtf8,
    #[error("a message is too big")]
    TooBig,
}

impl Violation {
    pub fn close_code(self) -> CloseCode {
        match self {
            Violation::InvalidUtf8 => CloseCode::InvalidPayload,
            Violation::TooBig => CloseCode::TooBig,
            _ => CloseCode::ProtocolError,
        }
    }

    /// Bounded label for metrics, and the reason in the close frame.
    pub fn cause(self) -> &'static str {
        match self {
            Violation::Unmasked => "unmasked",
            Violation::ReservedBits => "reserved_bits",
            Violation::ReservedOpcode => "reserved_opcode",
            Violation::ControlFragmented => "control_fragmented",
            Violation::ControlTooLong => "control_too_long",
            Violation::UnexpectedContinuation => "unexpected_continuation",
            Violation::ExpectedContinuation => "expected_continuation",
            Violation::CloseLength => "close_length",
            Violation::CloseCode => "close_code",
            Violation::InvalidUtf8 => "invalid_utf8",
            Violation::TooBig => "too_big",
        }
    }
}

/// Header of a frame from a client, already judged as far as a single frame can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHeader {
    pub is_final: bool,
    pub opcode: OpCode,
    pub mask: [u8; 4],
    pub payload_bytes: u64,
}

impl ClientHeader {
    /// The header and its own length; `None` while `bytes` does not hold all of it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(ClientHeader, usize)>, Violation> {
        let mut cursor = Cursor::new(bytes);
        // The only error of a parse from memory is a reserved opcode.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::ReservedOpcode)?;
        let Some((header, payload_bytes)) = parsed else {
            return Ok(None);
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::ReservedBits);
        }
        if let OpCode::Control(_) = header.opcode {
            if !header.is_final {
                return Err(Violation::ControlFragmented);
            }
            if payload_bytes > CONTROL_PAYLOAD_BYTES_MAX as u64 {
                return Err(Violation::ControlTooLong);
            }
        }
        let header = ClientHeader {
            is_final: header.is_final,
            opcode: header.opcode,
            mask: header.mask.ok_or(Violation::Unmasked)?,
            payload_bytes,
        };
        Ok(Some((header, cursor.position() as usize)))
    }
}

/// Takes the mask off (or puts it on) in place. Returns the mask as it stands for the byte after
/// `payload`, so that a payload may come in pieces.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let masked = u64::from_ne_bytes(chunk.try_into().expect("8 bytes"));
        chunk.copy_from_slice(&(masked ^ word).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    let mut next = mask;
    next.rotate_left(payload.len() % 4);
    next
}

/// Header of a frame of ours: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHeader {
    bytes: [u8; SERVER_HEADER_BYTES_MAX],
    length: u8,
}

impl ServerHeader {
    pub fn new(opcode: OpCode, payload_bytes: usize) -> ServerHeader {
        let header = FrameHeader {
            opcode,
            ..FrameHeader::default()
        };
        let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
        header
            .format(payload_bytes as u64, &mut bytes.as_mut_slice())
            .expect("an unmasked header has at most 10 bytes");
        ServerHeader {
            bytes,
            length: header.len(payload_bytes as u64) as u8,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A whole frame of ours. A control payload is cut by the caller, who knows what it may lose.
pub fn encode(opcode: OpCode, payload: &[u8]) -> Bytes {
    let header = ServerHeader::new(opcode, payload.len());
    let mut frame = Vec::with_capacity(header.as_bytes().len() + payload.len());
    frame.extend_from_slice(header.as_bytes());
    frame.extend_from_slice(payload);
    frame.into()
}

/// A close frame of ours. The reason is cut to what a control frame holds.
pub fn encode_close(code: CloseCode, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD_BYTES_MAX - 2)];
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.code().to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    encode(CLOSE, &payload)
}

/// The answer to a client's close: its own code, or nothing where it gave none.
pub fn encode_close_reply(code: Option<u16>) -> Bytes {
    match code {
        Some(code) => encode(CLOSE, &code.to_be_bytes()),
        None => encode(CLOSE, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_ours_has_2_4_or_10_bytes() {
        let header = |n| ServerHeader::new(TEXT, n).as_bytes().to_vec();
        assert_eq!(header(0), [0x81, 0]);
        assert_eq!(header(125), [0x81, 125]);
        assert_eq!(header(126), [0x81, 126, 0, 126]);
        assert_eq!(header(65_535), [0x81, 126, 0xff, 0xff]);
        assert_eq!(header(65_536), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(encode(PONG, b"hi"), &[0x8a, 2, b'h', b'i'][..]);
    }

    #[test]
    fn a_client_header_is_judged_when_it_is_whole() {
        let parse = ClientHeader::parse;
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[0x81, 0xfe, 0, 1, 9, 9, 9]), Ok(None));
        assert_eq!(parse(&[0x81, 0x01]), Err(Violation::Unmasked));
        assert_eq!(
            parse(&[0xc1, 0x80, 0, 0, 0, 0]),
            Err(Violation::ReservedBits)
        );
        assert_eq!(
            parse(&[0x83, 0x80, 0, 0, 0, 0]),
            Err(Violation::ReservedOpcode)
        );
        assert_eq!(
            parse(&[0x09, 0x80, 0, 0, 0, 0]),
            Err(Violation::ControlFragmented)
        );
        assert_eq!(
            parse(&[0x89, 0xfe, 0, 126, 0, 0, 0, 0]),
            Err(Violation::ControlTooLong)
        );
        let (header, length) = parse(&[0x01, 0xfe, 1, 0, 1, 2, 3, 4, 0xff])
            .unwrap()
            .unwrap();
        assert_eq!((header.is_final, header.opcode), (false, TEXT));
        assert_eq!(
            (header.mask, header.payload_bytes, length),
            ([1, 2, 3, 4], 256, 8)
        );
    }

    #[test]
    fn a_payload_in_pieces_is_unmasked_as_one() {
        let plain: Vec<u8> = (0..100).collect();
        let mut whole = plain.clone();
        unmask(&mut whole, [7, 99, 0, 255]);
        for cut in 0..plain.len() {
            let mut pieces = plain.clone();
            let (head, tail) = pieces.split_at_mut(cut);
            let mask = unmask(head, [7, 99, 0, 255]);
            unmask(tail, mask);
            assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        let frame = encode_close(CloseCode::BadToken, &"ü".repeat(100));
        assert_eq!((frame.len(), frame[1]), (2 + 124, 124));
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
        assert_eq!(encode_close_reply(None), &[0x88, 0][..]);
    }
}
