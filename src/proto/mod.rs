//! The client-facing protocol, pure: bytes, events and times in, bytes and actions out. No sockets, no
//! clock, no threads: what makes it fuzzable, and able to be driven in virtual time.

pub mod answer;
pub mod client;
pub mod close;
pub mod frame;
pub mod lanes;
pub mod message;
pub mod proxy_header;
pub mod request;
pub mod session;
pub mod sse;
pub mod upgrade;

/// The two clocks a decision may need, read once per wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, ms since the process started: intervals.
    pub mono_ms: u64,
    /// Unix ms: expiry of tokens and notifications.
    pub unix_ms: u64,
}
