//! WebSocket frames from the client's side: ours are masked, the server's are not.

use std::io::Cursor;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// A larger message is refused; the server's largest is a sync.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// One frame of the server. Neither Herald nor those it is compared with fragment what they send.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// Its code, if it had one.
    Close(Option<u16>),
}

/// The server broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame(pub &'static str);

/// Reads the frame at the start of `bytes` and says how long it is; `None` while it is not whole.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, BadFrame> {
    let mut cursor = Cursor::new(bytes);
    let header = FrameHeader::parse(&mut cursor).map_err(|_| BadFrame("header"))?;
    let Some((header, length)) = header else {
        return Ok(None);
    };
    if header.mask.is_some() {
        return Err(BadFrame("masked"));
    }
    if length > MESSAGE_BYTES_MAX {
        return Err(BadFrame("too long"));
    }
    let start = cursor.position() as usize;
    let end = start + length as usize;
    let Some(payload) = bytes.get(start..end) else {
        return Ok(None);
    };
    let frame = match header.opcode {
        _ if !header.is_final => return Err(BadFrame("fragmented")),
        OpCode::Data(Data::Text) => {
            Frame::Text(std::str::from_utf8(payload).map_err(|_| BadFrame("not UTF-8"))?)
        }
        OpCode::Data(Data::Binary) => Frame::Binary(payload),
        OpCode::Control(Control::Ping) => Frame::Ping(payload),
        OpCode::Control(Control::Pong) => Frame::Pong,
        OpCode::Control(Control::Close) => {
            let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            Frame::Close(code)
        }
        _ => return Err(BadFrame("unexpected opcode")),
    };
    Ok(Some((frame, end)))
}

pub fn write_text(text: &str, mask: [u8; 4], out: &mut Vec<u8>) {
    write(OpCode::Data(Data::Text), text.as_bytes(), mask, out);
}

pub fn write_binary(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    write(OpCode::Data(Data::Binary), payload, mask, out);
}

pub fn write_pong(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    write(OpCode::Control(Control::Pong), payload, mask, out);
}

pub fn write_close(code: u16, mask: [u8; 4], out: &mut Vec<u8>) {
    write(
        OpCode::Control(Control::Close),
        &code.to_be_bytes(),
        mask,
        out,
    );
}

fn write(opcode: OpCode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        mask: Some(mask),
        ..FrameHeader::default()
    };
    header
        .format(payload.len() as u64, out)
        .expect("memory takes it");
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(p, m)| p ^ m);
    out.extend(masked);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let bytes = b"\x81\x03abc\x89\x01p";
        assert_eq!(parse(&bytes[..4]), Ok(None));
        assert_eq!(parse(bytes), Ok(Some((Frame::Text("abc"), 5))));
        assert_eq!(parse(&bytes[5..]), Ok(Some((Frame::Ping(b"p"), 3))));
        assert_eq!(
            parse(b"\x88\x02\x03\xf4"),
            Ok(Some((Frame::Close(Some(1012)), 4)))
        );
        assert_eq!(parse(b"\x88\x00"), Ok(Some((Frame::Close(None), 2))));
    }

    #[test]
    fn a_masked_or_fragmented_frame_of_a_server_is_refused() {
        assert_eq!(parse(b"\x81\x81\x00\x00\x00\x00a"), Err(BadFrame("masked")));
        assert_eq!(parse(b"\x01\x01a"), Err(BadFrame("fragmented")));
    }

    #[test]
    fn what_is_written_is_masked() {
        let mut out = Vec::new();
        write_text("ab", [1, 2, 3, 4], &mut out);
        assert_eq!(out, [0x81, 0x82, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2]);
    }
}
