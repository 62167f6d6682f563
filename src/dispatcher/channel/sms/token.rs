//! The token of an account: it lets us in, and signs what the provider reports.
//!
//! A file may hold several, one a line: the first is sent, each is taken as a signature. So a token is replaced without
//! a report being refused. The file is read again by age.

use crate::{
    config::{ConfigError, Secret},
    dispatcher::patience::Seldom,
    limits,
};
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

pub struct Tokens {
    /// Of the configuration.
    key: String,
    file: PathBuf,
    held: Mutex<(Secret, Instant)>,
    refused: Seldom,
}

impl Tokens {
    pub fn from_file(key: String, file: &Path) -> Result<Tokens, ConfigError> {
        let secret = Secret::from_file(&key, file)?;
        Ok(Tokens {
            key,
            file: file.to_owned(),
            held: Mutex::new((secret, Instant::now())),
            refused: Seldom::default(),
        })
    }

    /// A file that can't be read now leaves what was read before.
    pub fn current(&self) -> Secret {
        let mut held = self.held.lock();
        if held.1.elapsed() >= limits::SMS_TOKEN_AGE {
            held.1 = Instant::now();
            match Secret::from_file(&self.key, &self.file) {
                Ok(secret) => held.0 = secret,
                Err(error) if self.refused.is_due() => {
                    tracing::warn!(%error, "the token for text messages stays as it was");
                }
                Err(_) => {}
            }
        }
        held.0.clone()
    }
}
