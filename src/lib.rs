//! Herald: notification delivery. The modules in the order a notification passes them.
//!
//! producer → [`dispatcher`] (intake, router, store) → [`bus`] → [`control`] (shard consumer) →
//! [`gateway`] (core threads) → [`proto`] (the client's protocol) → client, and its acknowledgement back.

#![deny(unsafe_code)]

pub mod api;
pub mod auth;
pub mod bus;
pub mod check;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
pub mod ctl;
pub mod dispatcher;
pub mod envelope;
pub mod gateway;
pub mod held;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod position;
pub mod process;
pub mod proto;
pub mod registry;
pub mod serve;
pub mod sys;
