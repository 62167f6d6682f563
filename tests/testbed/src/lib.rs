//! Real parts for tests, each on ports and in a directory of its own: Redis, Kafka, Cassandra, Herald's own processes,
//! a client that follows the protocol's rules.
//!
//! Nothing outlives its test: every child dies with its value, and with the test process when that is
//! killed ([`child`]).

pub mod api;
pub mod apns;
mod at_exit;
pub mod cassandra;
pub mod certificates;
pub mod child;
pub mod client;
mod clock;
pub mod confine;
pub mod container;
pub mod dkim;
pub mod fcm;
pub mod fleet;
pub mod grpcurl;
pub mod haproxy;
pub mod herald;
pub mod https;
pub mod kafka;
pub mod monitoring;
pub mod openapi;
pub mod ports;
pub mod proxy;
pub mod push_service;
pub mod redis;
pub mod smtp;
pub mod sns;
pub mod standalone;
pub mod threads;
pub mod twilio;
pub mod wait;

pub use api::Api;
pub use apns::ApnsServer;
pub use client::Client;
pub use container::Container;
pub use fcm::{FcmServer, ToApp};
pub use fleet::Fleet;
pub use haproxy::HaProxy;
pub use herald::{Herald, UNLIMITED, keep_secret};
pub use monitoring::Monitoring;
pub use ports::free_port;
pub use push_service::{PushService, Pushed};
pub use smtp::{Mail, SmtpServer};
pub use sns::SnsServer;
pub use standalone::Standalone;
pub use twilio::{TextMessage, TwilioServer};
pub use wait::{PATIENCE, eventually, until};

/// A thread that panicked has failed its test already.
pub(crate) fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    let guard = mutex.lock();
    guard.unwrap_or_else(std::sync::PoisonError::into_inner)
}
