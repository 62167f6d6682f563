//! Core threads: they hold the sockets and nothing else touches one. One file per step of a
//! connection's life, in order.

pub mod mailbox;
pub mod queues;

pub use queues::{Cores, Full, Inbox};
