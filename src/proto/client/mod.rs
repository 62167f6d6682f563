//! The client protocol `herald.v1`: what clients say ([`parse`]), what they are told ([`frames`]), and
//! how cursors are written where there is no JSON ([`cursors`]).
//!
//! Invariants:
//! * a frame a client sends is either understood or answered with `error`; only too many of them close;
//! * unknown fields are ignored, also where their value has another shape than a known field would;
//! * every frame built here is one line of JSON that begins with its `type`.

pub mod cursors;
pub mod frames;
mod message;

pub use message::{ClientMessage, ErrorCode, Refusal, parse, parse_body};
