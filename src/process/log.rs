//! One line per event: text on a terminal, JSON otherwise. Ids, never bodies or secrets.

use crate::config::{ConfigError, Log};
use std::io::IsTerminal;
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    pub fn set(&self, log: &Log) -> Result<(), ConfigError> {
        let filter = filter(log)?;
        self.0
            .reload(filter)
            .map_err(|error| ConfigError::new("log.level", error.to_string()))
    }
}

/// Installs the process's logger on standard error.
pub fn init(log: &Log) -> Result<LevelHandle, ConfigError> {
    let json = match log.format.as_str() {
        "auto" => !std::io::stderr().is_terminal(),
        "json" => true,
        "text" => false,
        _ => return Err(ConfigError::new("log.format", "must be auto, text or json")),
    };
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // A second logger in one process (tests) is not an error worth ending for.
    let _ = match json {
        true => registry.with(lines.json().flatten_event(true)).try_init(),
        false => registry.with(lines.with_target(false)).try_init(),
    };
    Ok(LevelHandle(handle))
}

/// Says how a SIGHUP went; a wrong configuration changes nothing.
pub fn reloaded(result: Result<(), ConfigError>) {
    match result {
        Ok(()) => tracing::info!("configuration re-read"),
        Err(error) => tracing::error!(%error, "re-reading failed; going on as before"),
    }
}

fn filter(log: &Log) -> Result<EnvFilter, ConfigError> {
    EnvFilter::try_new(&log.level).map_err(|error| {
        ConfigError::new(
            "log.level",
            format!("{error}: use error, warn, info, debug or trace"),
        )
    })
}
