//! `[breaker]`: when a provider that fails is left alone.

use super::{ConfigError, check::within};
use crate::limits;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// In a row.
    pub errors: usize,
    pub within_ms: u64,
    /// Between the messages that find out whether it is back.
    pub probe_ms: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            errors: limits::BREAKER_ERRORS,
            within_ms: limits::BREAKER_WITHIN.as_millis() as u64,
            probe_ms: limits::BREAKER_PROBE.as_millis() as u64,
        }
    }
}

impl Breaker {
    pub fn check(&self) -> Result<(), ConfigError> {
        let allowed = limits::BREAKER_ERRORS_ALLOWED;
        within("breaker.errors", self.errors, allowed)?;
        let allowed = limits::BREAKER_MS_ALLOWED;
        within("breaker.within_ms", self.within_ms, allowed.clone())?;
        within("breaker.probe_ms", self.probe_ms, allowed)
    }
}
