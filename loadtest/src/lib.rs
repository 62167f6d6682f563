//! The load tool: clients by the thousand that keep the protocol's rules, and what arrived at them.
//!
//! In the order of a run: [`cli`], [`scenario`] and [`options`] → [`roster`] (who) → [`capacity`] (whether and how) → [`flock`] (a
//! thread of clients, by [`wheel`]) → [`client`] (a connection) → [`wire`] → [`frame`] → [`rules`] and [`cursor`] (what
//! it means) → [`tally`] → [`report`] and [`accounting`]; beside them [`schedule`], [`producer`] and, for SSE, [`courier`].
//!
//! Nothing of the herald crate is used: the tool is a second reading of the protocol.

#![deny(unsafe_code)]

mod accounting;
mod capacity;
pub mod cli;
mod client;
mod courier;
mod cursor;
mod flock;
pub mod frame;
pub mod options;
mod producer;
mod report;
mod roster;
pub mod rules;
pub mod run;
mod scenario;
mod schedule;
mod sys;
pub mod tally;
mod wheel;
mod wire;
