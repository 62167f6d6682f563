//! Who a client is: JWT verification, and minting for development.
//!
//! Invariants:
//! * a key verifies exactly one algorithm, whatever a token's header says;
//! * a token that names a key is tried with keys of that name only, one that names none with keys that
//!   have none;
//! * a [`Verifier`] never changes: the process swaps a new one in, and connections under way keep theirs;
//! * neither tokens nor keys appear in `Debug` or in an error.

mod jwks;
mod key;

pub use jwks::{JwksError, JwksMetrics, Refresher};

use crate::{
    clock::unix_s,
    config::{self, ConfigError, Secret},
    ids::UserId,
    limits,
    proto::close::CloseCode,
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, TokenData, Validation, decode, decode_header, encode,
    errors::ErrorKind,
};
use key::Key;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use thiserror::Error;

/// Why a token is not taken. The client may come back with another one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum AuthError {
    #[error("not a JWT that is understood here")]
    Malformed,
    #[error("no key of the token's name")]
    UnknownKey,
    #[error("the key is for another algorithm")]
    WrongAlgorithm,
    #[error("the signature does not match")]
    BadSignature,
    #[error("expired")]
    Expired,
    #[error("not valid yet")]
    NotYetValid,
    #[error("another issuer, or none")]
    WrongIssuer,
    #[error("another audience, or none")]
    WrongAudience,
    #[error("no expiry")]
    NoExpiry,
    #[error("no subject")]
    NoSubject,
    #[error("the subject is not a user id")]
    BadSubject,
}

impl AuthError {
    /// Whether the client should come back with a fresh token: time makes the difference, for a key also,
    /// which may have been taken away or may not have been fetched yet.
    pub fn close_code(self) -> CloseCode {
        match self {
            AuthError::Expired | AuthError::NotYetValid | AuthError::UnknownKey => {
                CloseCode::TokenExpired
            }
            _ => CloseCode::BadToken,
        }
    }

    /// Bounded label for metrics, and the reason told to the client.
    pub fn cause(self) -> &'static str {
        match self {
            AuthError::Malformed => "malformed_token",
            AuthError::UnknownKey => "unknown_key",
            AuthError::WrongAlgorithm => "wrong_algorithm",
            AuthError::BadSignature => "bad_signature",
            AuthError::Expired => "expired",
            AuthError::NotYetValid => "not_yet_valid",
            AuthError::WrongIssuer => "wrong_issuer",
            AuthError::WrongAudience => "wrong_audience",
            AuthError::NoExpiry => "no_expiry",
            AuthError::NoSubject => "no_subject",
            AuthError::BadSubject => "bad_subject",
        }
    }
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub user: UserId,
    /// From here on the token is not taken any more: `exp` and the leeway.
    pub expires_unix_s: u64,
}

/// The keys of one moment and what is demanded beside a signature.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// From files; they stay when the fetched ones are replaced.
    configured: Arc<[Key]>,
    fetched: Arc<[Key]>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_s: u64,
}

/// Times are JSON numbers, by the RFC with or without a fraction.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Verifier {
    /// Reads the key files of `[auth]`. Keys by URL come later, by a [`Refresher`].
    pub fn from_config(auth: &config::Auth) -> Result<Verifier, ConfigError> {
        let configured = auth.keys.iter().enumerate();
        let configured = configured.map(|(index, key)| Key::from_config(index, key));
        Ok(Verifier {
            configured: configured.collect::<Result<_, _>>()?,
            fetched: Arc::default(),
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway_s: auth.leeway_s,
        })
    }

    /// Configuration read again: new key files and demands, fetched keys as they are.
    pub fn reloaded(&self, auth: &config::Auth) -> Result<Verifier, ConfigError> {
        Ok(Verifier {
            fetched: self.fetched.clone(),
            ..Verifier::from_config(auth)?
        })
    }

    /// Takes tokens of [`mint_hs256`]: the standalone's development key, and tests.
    pub fn hs256(secret: &Secret) -> Verifier {
        let auth = config::Auth::default();
        Verifier {
            configured: Arc::new([Key::hs256(secret)]),
            fetched: Arc::default(),
            issuer: auth.issuer,
            audience: auth.audience,
            leeway_s: auth.leeway_s,
        }
    }

    /// The same with these fetched keys instead of the former ones.
    pub fn with_jwks(&self, json: &[u8]) -> Result<Verifier, JwksError> {
        Ok(Verifier {
            fetched: jwks::parse(json)?.into(),
            ..self.clone()
        })
    }

    /// So many keys stand ready; none means that nobody can connect yet.
    pub fn keys(&self) -> usize {
        self.configured.len() + self.fetched.len()
    }

    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Verified, AuthError> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let header = decode_header(token).map_err(|error| judge(error.kind()))?;
        // Extensions that must be understood: none is.
        if header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        let claims = self.verify_signature(token, &header)?.claims;
        let leeway_s = self.leeway_s as f64;
        if claims
            .nbf
            .is_some_and(|nbf| nbf > now_unix_s as f64 + leeway_s)
        {
            return Err(AuthError::NotYetValid);
        }
        // A cast saturates: what is before 1970 has passed.
        let exp = claims.exp.ok_or(AuthError::NoExpiry)? as u64;
        let expires_unix_s = exp.saturating_add(self.leeway_s);
        if expires_unix_s <= now_unix_s {
            return Err(AuthError::Expired);
        }
        let subject = claims.sub.ok_or(AuthError::NoSubject)?;
        Ok(Verified {
            user: subject.parse().map_err(|_| AuthError::BadSubject)?,
            expires_unix_s,
        })
    }

    /// Tries the keys that the token may mean; the most telling error of them stands.
    fn verify_signature(
        &self,
        token: &str,
        header: &Header,
    ) -> Result<TokenData<Claims>, AuthError> {
        let mut refusal = AuthError::UnknownKey;
        for key in self.configured.iter().chain(self.fetched.iter()) {
            if key.kid != header.kid {
                continue;
            }
            if key.algorithm != header.alg {
                if refusal == AuthError::UnknownKey {
                    refusal = AuthError::WrongAlgorithm;
                }
                continue;
            }
            match decode(token, &key.decoding, &self.validation(key.algorithm)) {
                Ok(data) => return Ok(data),
                Err(error) => match judge(error.kind()) {
                    AuthError::BadSignature => refusal = AuthError::BadSignature,
                    // The signature was right: what it is about decides.
                    other => return Err(other),
                },
            }
        }
        Err(refusal)
    }

    /// Everything but the times, which are judged by the caller's clock.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        let mut required = Vec::new();
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

fn judge(error: &ErrorKind) -> AuthError {
    match error {
        ErrorKind::InvalidSignature => AuthError::BadSignature,
        ErrorKind::InvalidIssuer => AuthError::WrongIssuer,
        ErrorKind::InvalidAudience => AuthError::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "iss" => AuthError::WrongIssuer,
            _ => AuthError::WrongAudience,
        },
        _ => AuthError::Malformed,
    }
}

/// A token for `user` from now on, for `ctl token` and the console of the standalone.
pub fn mint_hs256(secret: &Secret, user: &UserId, ttl: Duration) -> String {
    mint_hs256_at(secret, user, unix_s(), ttl)
}

/// The same as if it had been made at another time.
pub fn mint_hs256_at(secret: &Secret, user: &UserId, at_unix_s: u64, ttl: Duration) -> String {
    #[derive(Serialize)]
    struct Minted<'a> {
        sub: &'a str,
        iat: u64,
        exp: u64,
    }
    let claims = Minted {
        sub: user.as_str(),
        iat: at_unix_s,
        exp: at_unix_s.saturating_add(ttl.as_secs()),
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).expect("an HMAC of three claims")
}

#[cfg(test)]
mod tests;
