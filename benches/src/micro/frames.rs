//! Frames: made once per notification, parsed once per client message. The bare loop copies as many bytes.

use super::compare;
use crate::table::Figure;
use herald::{
    limits,
    proto::{
        client,
        frame::{self, TEXT, unmask},
        message::{Decoder, Event},
    },
};
use std::hint::black_box;

/// A notification with 200 bytes of text.
const NOTIFICATION_BYTES: usize = 456;
const TURNS: u32 = 1_000_000;

pub fn figures(runs: usize) -> Vec<Figure> {
    let ids: Vec<String> = (0..5)
        .map(|n| format!("\"01900000-0000-7000-8000-{n:012}\""))
        .collect();
    let acknowledgement = format!(r#"{{"type":"ack","ids":[{}]}}"#, ids.join(","));
    vec![
        encode(runs),
        decode(runs, r#"{"type":"ping"}"#),
        decode(runs, &acknowledgement),
        understand(runs, &acknowledgement),
    ]
}

fn encode(runs: usize) -> Figure {
    let json = vec![b'x'; NOTIFICATION_BYTES];
    let name = format!("frame encode, {NOTIFICATION_BYTES} B, beside a copy into a new vector");
    let turn = || frame::encode(TEXT, black_box(&json));
    compare(&name, (runs, TURNS), turn, || black_box(&json).to_vec())
}

/// Header, mask, UTF-8. A message is spoilt by being read, so both loops copy it to a buffer first, as the
/// kernel does.
fn decode(runs: usize, message: &str) -> Figure {
    let sent = masked(message.as_bytes());
    let (mut buffer, mut copy) = (vec![0; sent.len()], vec![0; sent.len()]);
    let mut decoder = Decoder::default();
    let turn = || {
        buffer.copy_from_slice(black_box(&sent));
        let mut input = &mut buffer[..];
        match decoder.next_event(&mut input, limits::CLIENT_MESSAGE_BYTES) {
            Ok(Some(Event::Text(text))) => text.len(),
            other => panic!("{other:?}"),
        }
    };
    let bare = || {
        copy.copy_from_slice(black_box(&sent));
        copy.len()
    };
    let name = format!("frame parse, {} B, beside a copy", sent.len());
    compare(&name, (runs, TURNS), turn, bare)
}

fn understand(runs: usize, message: &str) -> Figure {
    let mut copy = vec![0; message.len()];
    let turn = || client::parse(black_box(message)).is_ok();
    let bare = || {
        copy.copy_from_slice(black_box(message.as_bytes()));
        copy.len()
    };
    let name = format!(
        "`ack` of 5 ids from its JSON, {} B, beside a copy",
        message.len()
    );
    compare(&name, (runs, TURNS / 10), turn, bare)
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    let start = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[start..], mask);
    frame
}
