//! What each subcommand starts, and in which order: core threads first (they take their own descriptor
//! tables before anything else opens a descriptor), then the control side.

pub mod log;
pub mod signals;

use crate::config::{ConfigError, EXIT_CONFIG};
use std::process::ExitCode;

/// Why a process ended before it ran.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host refuses something; the text says what and how to mend it.
    #[error("{0}")]
    Host(String),
}

impl StartError {
    /// 64 for a wrong configuration, 1 for everything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            StartError::Config(_) => ExitCode::from(EXIT_CONFIG),
            StartError::Host(_) => ExitCode::FAILURE,
        }
    }
}

/// The control side's threads. Core threads are apart, so two are plenty.
pub fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| StartError::Host(format!("can't start control threads: {error}")))
}
