//! The load tool: clients by the thousand that keep the protocol's rules, and what arrived at them.
//!
//! In the order of a run: [`cli`], [`scenario`] and [`options`] → [`roster`] (who) → [`capacity`] (whether
//! and how) → [`flock`] (a thread of clients, by [`wheel`] and [`unrest`]) → [`client`] (a connection) →
//! [`wire`] (other servers' by [`dialect`]) → [`frame`] → [`rules`] and [`cursor`] (what it means) → [`tally`] and [`series`] → [`report`],
//! shown by [`table`] and [`page`] in [`outputs`], and [`accounting`]. [`watch`] follows a run to its end, with
//! [`progress`] and [`panics`]. Beside them [`schedule`] and [`producer`] and, for SSE, [`courier`]; [`merge`] for
//! several hosts.
//!
//! Nothing of the herald crate is used: the tool is a second reading of the protocol.

#![deny(unsafe_code)]

mod accounting;
mod capacity;
pub mod cli;
mod client;
mod courier;
mod cursor;
pub mod dialect;
mod flock;
pub mod frame;
mod hdr;
mod merge;
pub mod options;
pub mod outputs;
mod page;
mod panics;
mod plot;
mod procfs;
mod producer;
mod progress;
pub mod report;
mod roster;
pub mod rules;
pub mod run;
mod scenario;
mod schedule;
mod series;
mod sys;
mod table;
pub mod tally;
mod tls;
mod unrest;
mod watch;
mod wheel;
mod wire;
