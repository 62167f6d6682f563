//! One verification key: what it is called, and the one algorithm it verifies.

use crate::{
    config::{self, ConfigError, Secret},
    limits,
};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use jsonwebtoken::{Algorithm, DecodingKey, errors::Result as JwtResult};

/// An uncompressed point of P-256.
const ES256_KEY_BYTES: usize = 65;
const ED25519_KEY_BYTES: usize = 32;

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    /// Redacts itself.
    pub decoding: DecodingKey,
}

impl Key {
    pub fn hs256(secret: &Secret) -> Key {
        Key {
            kid: None,
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret.expose().as_bytes()),
        }
    }

    /// A key that could never verify anything is refused here, not at the first token.
    pub fn from_config(index: usize, key: &config::AuthKey) -> Result<Key, ConfigError> {
        let name = |field: &str| format!("auth.keys[{index}].{field}");
        let algorithm = match key.algorithm.as_str() {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            other => {
                let problem = format!("{other:?} is none of HS256, RS256, ES256, EdDSA");
                return Err(ConfigError::new(name("algorithm"), problem));
            }
        };
        let secret = Secret::from_file(&name("key_file"), &key.key_file)?;
        let decoding = read(algorithm, secret.expose()).map_err(|problem| {
            let problem = format!("{}: {problem}", key.key_file.display());
            ConfigError::new(name("key_file"), problem)
        })?;
        Ok(Key {
            kid: key.kid.clone(),
            algorithm,
            decoding,
        })
    }
}

fn read(algorithm: Algorithm, text: &str) -> Result<DecodingKey, &'static str> {
    let pem = |parse: fn(&[u8]) -> JwtResult<DecodingKey>, wanted| {
        let key = parse(text.as_bytes()).map_err(|_| wanted)?;
        match fits(algorithm, &key) {
            true => Ok(key),
            false => Err(wanted),
        }
    };
    match algorithm {
        Algorithm::HS256 if text.len() < limits::SECRET_BYTES_MIN => {
            Err("an HS256 secret has at least 32 bytes: make one by `openssl rand -base64 32`")
        }
        Algorithm::HS256 => Ok(DecodingKey::from_secret(text.as_bytes())),
        Algorithm::RS256 => pem(
            DecodingKey::from_rsa_pem,
            "RS256 wants an RSA public key of 2048 to 8192 bits in PEM",
        ),
        Algorithm::ES256 => pem(
            DecodingKey::from_ec_pem,
            "ES256 wants a P-256 public key in PEM",
        ),
        _ => pem(
            DecodingKey::from_ed_pem,
            "EdDSA wants an Ed25519 public key in PEM",
        ),
    }
}

/// The library takes the bytes of any key of the family and finds out at the first signature.
pub(super) fn fits(algorithm: Algorithm, key: &DecodingKey) -> bool {
    let Ok(bytes) = key.try_get_as_bytes() else {
        // RSA by modulus and exponent, out of a JWKS.
        return algorithm == Algorithm::RS256;
    };
    match algorithm {
        Algorithm::RS256 => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, bytes).is_ok(),
        Algorithm::ES256 => bytes.len() == ES256_KEY_BYTES,
        Algorithm::EdDSA => bytes.len() == ED25519_KEY_BYTES,
        _ => false,
    }
}
