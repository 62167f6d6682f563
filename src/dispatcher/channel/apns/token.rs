//! Who we are to Apple: a token that a key of ours signs, for every connection.
//!
//! Invariants:
//! * a token is used for no more than an hour, and none is made within 20 minutes of the one before it, but once when that
//!   one is refused, and by another key: Apple wants it so;
//! * the file is read for every token: its key may be replaced at any time.

use crate::{
    config::{ConfigError, Secret},
    dispatcher::unix_ms,
    limits,
};
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::json;
use std::path::{Path, PathBuf};

const KEY: &str = "apns.key_file";

pub struct Signer {
    file: PathBuf,
    key_id: String,
    team_id: String,
    held: Mutex<Option<Token>>,
}

#[derive(Clone)]
pub struct Token {
    /// `bearer …`
    pub header: HeaderValue,
    made_s: u64,
    /// It took the place of one that was refused.
    is_second: bool,
    /// That signed it, as PEM.
    key: Secret,
}

impl Token {
    /// By the clock of the day: what counts for Apple goes on while a host sleeps.
    fn is_due(&self, now_s: u64) -> bool {
        // Set back, a clock says nothing of an age.
        now_s < self.made_s || now_s - self.made_s >= limits::APNS_TOKEN_S
    }

    fn may_be_replaced(&self, now_s: u64) -> bool {
        !self.is_second || now_s.saturating_sub(self.made_s) >= limits::APNS_TOKEN_S_MIN
    }
}

impl Signer {
    pub fn from_file(file: &Path, key_id: &str, team_id: &str) -> Result<Signer, ConfigError> {
        let signer = Signer {
            file: file.to_owned(),
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            held: Mutex::default(),
        };
        signer.sign(signer.key()?, unix_ms() / 1000, false)?;
        Ok(signer)
    }

    pub fn token(&self) -> Result<Token, ConfigError> {
        let now_s = unix_ms() / 1000;
        let mut held = self.held.lock();
        if let Some(token) = held.as_ref().filter(|token| !token.is_due(now_s)) {
            return Ok(token.clone());
        }
        let token = self.sign(self.key()?, now_s, false)?;
        Ok(held.insert(token).clone())
    }

    /// Another one for one that was refused, by whoever comes first; `None`: it is too soon.
    pub fn replace(&self, refused: &Token) -> Result<Option<Token>, ConfigError> {
        let now_s = unix_ms() / 1000;
        let mut held = self.held.lock();
        let key = self.key()?;
        match held.as_ref() {
            Some(token) if token.header != refused.header => return Ok(Some(token.clone())),
            // A key that was put right since counts at once.
            Some(token) if token.key == key && !token.may_be_replaced(now_s) => return Ok(None),
            _ => {}
        }
        let token = self.sign(key, now_s, true)?;
        Ok(Some(held.insert(token).clone()))
    }

    fn key(&self) -> Result<Secret, ConfigError> {
        Secret::from_file(KEY, &self.file)
    }

    fn sign(&self, pem: Secret, now_s: u64, is_second: bool) -> Result<Token, ConfigError> {
        let refused = |problem: String| {
            let problem = format!(
                "{} is no key for APNs, as Apple's developer site gives it out (AuthKey_….p8): {problem}",
                self.file.display()
            );
            ConfigError::new(KEY, problem)
        };
        let key = EncodingKey::from_ec_pem(pem.expose().as_bytes());
        let key = key.map_err(|error| refused(error.to_string()))?;
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        let claims = json!({ "iss": self.team_id, "iat": now_s });
        let text = jsonwebtoken::encode(&header, &claims, &key);
        let text = text.map_err(|error| refused(error.to_string()))?;
        let header = HeaderValue::try_from(format!("bearer {text}"));
        let mut header = header.map_err(|error| refused(error.to_string()))?;
        header.set_sensitive(true);
        Ok(Token {
            header,
            made_s: now_s,
            is_second,
            key: pem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_within_the_window_that_apple_gives() {
        let token = |is_second| Token {
            header: HeaderValue::from_static("bearer x"),
            made_s: 10_000,
            is_second,
            key: Secret::default(),
        };
        let first = token(false);
        let due = [10_000, 10_000 + 20 * 60, 10_000 + 60 * 60 - 1].map(|at| first.is_due(at));
        assert_eq!(due, [false, false, true]);
        assert!(first.is_due(9_999), "a clock that was set back");
        assert!(first.may_be_replaced(10_001));
        let second = token(true);
        assert!(!second.may_be_replaced(10_000 + 20 * 60 - 1));
        assert!(second.may_be_replaced(10_000 + 20 * 60));
    }
}
