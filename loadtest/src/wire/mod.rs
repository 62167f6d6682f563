//! Bytes to frames and back, without sockets: HTTP heads, WebSocket frames, server-sent events.

pub mod head;
pub mod sse;
pub mod ws;
