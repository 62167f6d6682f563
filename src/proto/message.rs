//! Messages out of a client's bytes: frames in pieces, fragments, control frames between them, UTF-8.
//!
//! Invariants:
//! * how the bytes were cut into chunks never changes what comes out;
//! * a message that lies whole in a chunk is handed out in place; nothing is kept or allocated for it;
//! * what is kept is only what has arrived of a partial frame or message, so its size is what the client
//!   sent (at most the message limit), not what it announced;
//! * text is refused at the first byte that can't become UTF-8, not at the end of its message.

use super::frame::{
    BINARY, CLIENT_HEADER_BYTES_MAX, CLOSE, ClientHeader, OpCode, PING, TEXT, Violation, unmask,
};
use tungstenite::protocol::frame::coding::{CloseCode as WireCloseCode, Data};

/// What a client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload.
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The last event; the decoder takes no more bytes.
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
}

/// Half a million of them exist: nothing is allocated between messages.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// A close frame or a violation came: the rest is not ours to read.
    ended: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 16);

/// What has arrived of something that has not arrived whole.
#[derive(Debug, Default)]
struct Partial {
    stage: Stage,
    /// Fragments so far of a data message, unmasked.
    message: Option<Fragments>,
    /// Payload so far of a control frame.
    control: Vec<u8>,
}

#[derive(Debug, Default)]
enum Stage {
    /// Between frames.
    #[default]
    Idle,
    Header {
        bytes: [u8; CLIENT_HEADER_BYTES_MAX],
        length: u8,
    },
    /// In the payload; `payload_bytes` and `mask` are those of what is still to come.
    Payload(ClientHeader),
    /// The event that borrows from here was handed out: forgotten at the next call.
    Delivered(OpCode),
}

#[derive(Debug)]
struct Fragments {
    opcode: OpCode,
    bytes: Vec<u8>,
    /// Text: so many bytes are known to be UTF-8; at most 3 after them wait for their continuation.
    checked: usize,
}

/// What one step found; the event is made from it afterwards.
enum Found<'i> {
    /// The payload lies whole in the chunk.
    InPlace(OpCode, &'i mut [u8]),
    /// It was put together in [`Partial`].
    Assembled(OpCode),
}

impl Decoder {
    /// Takes the next event out of `input`, which shrinks from the front; `None` when all of it was
    /// consumed. After an error nothing more is taken: the connection is to be closed.
    ///
    /// A message may have `message_bytes_max` bytes, inclusive.
    pub fn next_event<'d, 'i: 'd>(
        &'d mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Event<'d>>, Violation> {
        self.release();
        let event = match self.find(input, message_bytes_max) {
            Ok(None) => return Ok(None),
            Ok(Some(Found::InPlace(opcode, payload))) => event(opcode, payload),
            Ok(Some(Found::Assembled(opcode))) => {
                let partial = self.partial.as_deref().expect("it was assembled there");
                event(opcode, partial.assembled(opcode))
            }
            Err(violation) => Err(violation),
        };
        self.ended = matches!(event, Err(_) | Ok(Event::Close { .. }));
        event.map(Some)
    }

    /// Something has begun and not arrived whole.
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    /// Bytes of memory that what has arrived takes.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let message = partial.message.as_ref();
            let message = message.map_or(0, |fragments| fragments.bytes.capacity());
            size_of::<Partial>() + message + partial.control.capacity()
        })
    }

    /// Gives back what the last event borrowed from, and the box once nothing is partial.
    fn release(&mut self) {
        let Some(partial) = self.partial.as_deref_mut() else {
            return;
        };
        match std::mem::take(&mut partial.stage) {
            Stage::Delivered(OpCode::Control(_)) => partial.control = Vec::new(),
            Stage::Delivered(OpCode::Data(_)) => partial.message = None,
            stage => partial.stage = stage,
        }
        let empty = matches!(partial.stage, Stage::Idle) && partial.message.is_none();
        if empty || self.ended {
            self.partial = None;
        }
    }

    fn find<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Found<'i>>, Violation> {
        while !self.ended && !input.is_empty() {
            let Some(header) = self.take_header(input, message_bytes_max)? else {
                return Ok(None);
            };
            if let Some(found) = self.take_payload(header, input)? {
                return Ok(Some(found));
            }
        }
        *input = &mut [];
        Ok(None)
    }

    /// The header of the frame whose payload comes next, read now or in an earlier chunk.
    fn take_header(
        &mut self,
        input: &mut &mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<ClientHeader>, Violation> {
        let (parsed, kept) = match self.partial.as_deref_mut().map(|p| &mut p.stage) {
            Some(Stage::Payload(header)) => return Ok(Some(*header)),
            Some(Stage::Header { bytes, length }) => {
                let kept = usize::from(*length);
                let taken = input.len().min(CLIENT_HEADER_BYTES_MAX - kept);
                bytes[kept..kept + taken].copy_from_slice(&input[..taken]);
                (ClientHeader::parse(&bytes[..kept + taken])?, kept)
            }
            _ => (ClientHeader::parse(input)?, 0),
        };
        let Some((header, length)) = parsed else {
            self.keep_header(input, kept);
            return Ok(None);
        };
        advance(input, length - kept);
        if let Some(partial) = self.partial.as_deref_mut() {
            partial.stage = Stage::Idle;
        }
        self.admit(&header, message_bytes_max)?;
        Ok(Some(header))
    }

    /// All of `input` belongs to a header that is not whole; `kept` bytes of it came before.
    fn keep_header(&mut self, input: &mut &mut [u8], kept: usize) {
        let chunk = std::mem::take(input);
        let stage = &mut self.partial.get_or_insert_default().stage;
        let mut bytes = match *stage {
            Stage::Header { bytes, .. } => bytes,
            _ => [0; CLIENT_HEADER_BYTES_MAX],
        };
        bytes[kept..kept + chunk.len()].copy_from_slice(chunk);
        let length = (kept + chunk.len()) as u8;
        *stage = Stage::Header { bytes, length };
    }

    /// Whether the frame may stand here, and its message stays within the limit.
    fn admit(&self, header: &ClientHeader, message_bytes_max: usize) -> Result<(), Violation> {
        let message = self.partial.as_deref().and_then(|p| p.message.as_ref());
        let before = match (header.opcode, message) {
            (OpCode::Control(_), _) => return Ok(()),
            (OpCode::Data(Data::Continue), None) => return Err(Violation::UnexpectedContinuation),
            (OpCode::Data(Data::Continue), Some(message)) => message.bytes.len(),
            (OpCode::Data(_), Some(_)) => return Err(Violation::ExpectedContinuation),
            (OpCode::Data(_), None) => 0,
        };
        if header.payload_bytes > message_bytes_max.saturating_sub(before) as u64 {
            return Err(Violation::TooBig);
        }
        Ok(())
    }

    /// Takes what `input` has of the payload; finds an event if that completes one.
    fn take_payload<'i>(
        &mut self,
        header: ClientHeader,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Found<'i>>, Violation> {
        let wanted = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        let here = wanted.min(input.len());
        let (chunk, rest) = std::mem::take(input).split_at_mut(here);
        *input = rest;
        let mask = unmask(chunk, header.mask);
        let payload_bytes = header.payload_bytes - chunk.len() as u64;
        let whole = payload_bytes == 0;
        let is_control = matches!(header.opcode, OpCode::Control(_));

        let nothing_kept = match self.partial.as_deref_mut() {
            None => true,
            Some(partial) => {
                partial.stage = Stage::Idle;
                match is_control {
                    true => partial.control.is_empty(),
                    false => partial.message.is_none(),
                }
            }
        };
        if whole && header.is_final && nothing_kept {
            return Ok(Some(Found::InPlace(header.opcode, chunk)));
        }
        let partial = self.partial.get_or_insert_default();
        if !whole {
            partial.stage = Stage::Payload(ClientHeader {
                mask,
                payload_bytes,
                ..header
            });
        }
        let opcode = match is_control {
            true => {
                partial.control.extend_from_slice(chunk);
                header.opcode
            }
            false => {
                let message = partial
                    .message
                    .get_or_insert_with(|| Fragments::new(header.opcode));
                message.extend(chunk)?;
                message.opcode
            }
        };
        if !(whole && header.is_final) {
            return Ok(None);
        }
        partial.stage = Stage::Delivered(opcode);
        Ok(Some(Found::Assembled(opcode)))
    }
}

impl Partial {
    /// The payload that [`Stage::Delivered`] speaks of.
    fn assembled(&self, opcode: OpCode) -> &[u8] {
        match (opcode, &self.message) {
            (OpCode::Data(_), Some(message)) => &message.bytes,
            _ => &self.control,
        }
    }
}

impl Fragments {
    fn new(opcode: OpCode) -> Fragments {
        Fragments {
            opcode,
            bytes: Vec::new(),
            checked: 0,
        }
    }

    fn extend(&mut self, chunk: &[u8]) -> Result<(), Violation> {
        self.bytes.extend_from_slice(chunk);
        if self.opcode != TEXT {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            // The tail may still become a character.
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

/// Makes the event of a complete payload. Text that was put together is checked once more, as a whole:
/// it ends in the middle of a character only if its last fragment did.
fn event(opcode: OpCode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    Ok(match opcode {
        TEXT => Event::Text(text(payload)?),
        BINARY => Event::Binary(payload),
        PING => Event::Ping(payload),
        CLOSE => close_event(payload)?,
        _ => Event::Pong(payload),
    })
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, Violation> {
    let (code, reason) = match payload {
        [] => (None, &payload[..0]),
        [_] => return Err(Violation::CloseLength),
        [high, low, reason @ ..] => (Some(u16::from_be_bytes([*high, *low])), reason),
    };
    if code.is_some_and(|code| !WireCloseCode::from(code).is_allowed()) {
        return Err(Violation::CloseCode);
    }
    let reason = text(reason)?;
    Ok(Event::Close { code, reason })
}

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)
}

fn advance(input: &mut &mut [u8], by: usize) {
    *input = &mut std::mem::take(input)[by..];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came out, owned, for comparison.
    #[derive(Debug, PartialEq, Eq)]
    enum Said {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        Refused(Violation),
    }

    const MESSAGE_BYTES_MAX: usize = 300;

    fn decode(decoder: &mut Decoder, mut chunk: &mut [u8], said: &mut Vec<Said>) {
        loop {
            said.push(match decoder.next_event(&mut chunk, MESSAGE_BYTES_MAX) {
                Ok(None) => return assert!(chunk.is_empty()),
                Ok(Some(Event::Text(text))) => Said::Text(text.into()),
                Ok(Some(Event::Binary(bytes))) => Said::Binary(bytes.into()),
                Ok(Some(Event::Ping(bytes))) => Said::Ping(bytes.into()),
                Ok(Some(Event::Pong(bytes))) => Said::Pong(bytes.into()),
                Ok(Some(Event::Close { code, reason })) => Said::Close(code, reason.into()),
                Err(violation) => return said.push(Said::Refused(violation)),
            });
        }
    }

    /// Decodes in chunks of every size and checks that the size changes nothing.
    fn said(stream: &[u8]) -> Vec<Said> {
        let mut results = (1..=stream.len().max(1)).map(|size| {
            let (mut decoder, mut said) = (Decoder::default(), Vec::new());
            for chunk in stream.to_vec().chunks_mut(size) {
                decode(&mut decoder, chunk, &mut said);
                if matches!(said.last(), Some(Said::Refused(_))) {
                    break;
                }
            }
            said
        });
        let first = results.next().expect("at least one");
        assert!(results.all(|said| said == first));
        first
    }

    /// A masked frame of a client.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..126 => bytes.push(0x80 | n as u8),
            n => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(n as u16).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask);
        bytes.extend_from_slice(&payload);
        bytes
    }

    #[test]
    fn a_whole_message_is_handed_out_in_place_and_nothing_is_kept() {
        let mut stream = frame(0x81, "grüße".as_bytes());
        let range = stream.as_ptr_range();
        let mut decoder = Decoder::default();
        let mut chunk = &mut stream[..];
        let Ok(Some(Event::Text(text))) = decoder.next_event(&mut chunk, MESSAGE_BYTES_MAX) else {
            panic!("a text message");
        };
        assert_eq!(text, "grüße");
        assert!(range.contains(&text.as_ptr()));
        assert!(!decoder.is_partial());
    }

    #[test]
    fn what_was_partial_is_given_back_when_it_is_whole() {
        let mut stream = frame(0x81, b"hello");
        let (head, tail) = stream.split_at_mut(8);
        let (mut decoder, mut said) = (Decoder::default(), Vec::new());
        decode(&mut decoder, head, &mut said);
        assert!(decoder.is_partial());
        decode(&mut decoder, tail, &mut said);
        assert_eq!(said, [Said::Text("hello".into())]);
        assert!(!decoder.is_partial());
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let stream = [
            frame(0x01, b"one "),
            frame(0x89, b"ping"),
            frame(0x00, b"two "),
            frame(0x8a, b""),
            frame(0x80, b"three"),
        ];
        assert_eq!(
            said(&stream.concat()),
            [
                Said::Ping(b"ping".into()),
                Said::Pong(b"".into()),
                Said::Text("one two three".into()),
            ]
        );
    }

    #[test]
    fn a_character_may_be_cut_by_a_fragment() {
        let euro = "€".as_bytes();
        let stream = [frame(0x01, &euro[..1]), frame(0x80, &euro[1..])].concat();
        assert_eq!(said(&stream), [Said::Text("€".into())]);
        let stream = [frame(0x01, &euro[..1]), frame(0x80, &euro[1..2])].concat();
        assert_eq!(said(&stream), [Said::Refused(Violation::InvalidUtf8)]);
    }

    #[test]
    fn text_is_refused_before_its_message_ends() {
        let stream = frame(0x01, b"a\xf4\x90");
        assert_eq!(said(&stream), [Said::Refused(Violation::InvalidUtf8)]);
        let mut cut = frame(0x81, b"\xff and more to come");
        cut.truncate(7);
        assert_eq!(said(&cut), [Said::Refused(Violation::InvalidUtf8)]);
    }

    #[test]
    fn fragments_come_in_order() {
        let stray = frame(0x80, b"x");
        assert_eq!(
            said(&stray),
            [Said::Refused(Violation::UnexpectedContinuation)]
        );
        let nested = [frame(0x01, b"x"), frame(0x82, b"y")].concat();
        assert_eq!(
            said(&nested),
            [Said::Refused(Violation::ExpectedContinuation)]
        );
    }

    #[test]
    fn the_message_limit_is_inclusive_over_all_fragments() {
        let half = [b'x'; MESSAGE_BYTES_MAX / 2];
        let stream = [frame(0x02, &half), frame(0x80, &half)].concat();
        assert_eq!(said(&stream), [Said::Binary(vec![b'x'; MESSAGE_BYTES_MAX])]);
        let stream = [frame(0x02, &half), frame(0x00, &half), frame(0x80, b"x")].concat();
        assert_eq!(said(&stream), [Said::Refused(Violation::TooBig)]);
        let announced = [0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(said(&announced), [Said::Refused(Violation::TooBig)]);
    }

    #[test]
    fn a_close_says_a_code_that_may_be_sent() {
        assert_eq!(said(&frame(0x88, b"")), [Said::Close(None, "".into())]);
        let bye = said(&frame(0x88, b"\x03\xe8bye"));
        assert_eq!(bye, [Said::Close(Some(1000), "bye".into())]);
        let refused = |payload: &[u8]| said(&frame(0x88, payload));
        assert_eq!(refused(b"\x03"), [Said::Refused(Violation::CloseLength)]);
        assert_eq!(refused(b"\x03\xed"), [Said::Refused(Violation::CloseCode)]);
        assert_eq!(
            refused(b"\x03\xe8\xff"),
            [Said::Refused(Violation::InvalidUtf8)]
        );
    }

    #[test]
    fn nothing_is_read_after_a_close() {
        let stream = [
            frame(0x01, b"begun"),
            frame(0x88, b""),
            frame(0x81, b"late"),
        ]
        .concat();
        assert_eq!(said(&stream), [Said::Close(None, "".into())]);
    }
}
