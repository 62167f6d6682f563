//! How servers other than Herald are spoken to, so that the same clients and the same schedule drive them: what opens
//! a connection, what subscribes it, and where in what arrives the notification is.
//!
//! Such a server carries, and that is all it is asked for: nobody shows a token, acknowledges, resumes or asks again.
//! What it carries is the frame that a client of Herald would get, so that ids and moments are found as they are there.

pub mod centrifugo;
pub mod nats;
pub mod plain;

use crate::wire::head;
use clap::ValueEnum;

/// A server that only carries need not be heard for so long.
pub const SILENCE_MS: u64 = 3_600_000;

/// The server broke its protocol, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSaying(pub &'static str);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// `herald.v1`, with all its rules.
    #[default]
    Herald,
    /// A notification is a text; a client's path ends with its user. `POST …/USER` reaches the user, `POST …/all`
    /// everybody. The bare loop, tokio-tungstenite and nchan speak it; the bare loop takes posts by `tcp://`, too.
    Plain,
    /// NATS over WebSocket: subjects `user.USER` and `all`. Posts go to its own port.
    Nats,
    /// Centrifugo's JSON over WebSocket: channels `USER` and `all`. Posts go to its HTTP API.
    Centrifugo,
}

impl Dialect {
    /// Whether the server keeps nothing, and so is neither answered nor asked.
    pub fn only_carries(self) -> bool {
        self != Dialect::Herald
    }

    /// What opens the connection of a user of a server that only carries.
    pub fn upgrade(self, host: &str, path: &str, user: &str, key: [u8; 16]) -> Vec<u8> {
        match self {
            Dialect::Plain => head::upgrade(host, &plain::path(path, user), key, ""),
            Dialect::Herald | Dialect::Nats | Dialect::Centrifugo => {
                head::upgrade(host, path, key, "")
            }
        }
    }
}
