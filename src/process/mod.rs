//! What each subcommand starts, and in which order: core threads first (they take their own descriptor
//! tables before anything else opens a descriptor), then the control side.

pub mod dispatcher;
pub mod gateway;
pub mod standalone;

mod check;
mod data;
mod log;
mod reload;
mod signals;
mod systemd;

use crate::{
    config::{ConfigError, EXIT_CONFIG},
    sys,
};
use std::process::ExitCode;

pub use check::{Checked, load};

/// Why a process ended before it ran, or while it did.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host refuses something, or a part broke; the text says what and how to mend it.
    #[error("{0}")]
    Host(String),
}

impl StartError {
    fn host(text: impl Into<String>) -> StartError {
        StartError::Host(text.into())
    }

    /// 64 for a wrong configuration, 1 for everything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            StartError::Config(_) => ExitCode::from(EXIT_CONFIG),
            StartError::Host(_) => ExitCode::FAILURE,
        }
    }
}

/// Reads a configuration: once to start, again at every SIGHUP.
pub trait Load<T>: Fn() -> Result<T, ConfigError> + Send + 'static {}

impl<T, F: Fn() -> Result<T, ConfigError> + Send + 'static> Load<T> for F {}

/// The control side's threads. Core threads are apart, so two are plenty.
fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    // First of all threads: it costs only memory where the kernel refuses.
    if let Err(error) = sys::without_huge_pages() {
        tracing::debug!(%error, "memory is backed by huge pages too");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .on_thread_park(sys::collect_freed)
        .enable_all()
        .build()
        .map_err(|error| StartError::host(format!("can't start control threads: {error}")))
}
