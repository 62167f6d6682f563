//! The certificate and its key, from their files: what is wrong with them is said before anything is opened.

use crate::{
    config::{self, ConfigError, Secret},
    limits,
};
use rustls::{
    Error, InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate};

const CERTIFICATE: &str = "tls.certificate_file";
const KEY: &str = "tls.key_file";

/// A certificate that is good for its key.
#[derive(Debug)]
pub(super) struct Certificate {
    pub certified: CertifiedKey,
    /// End of its validity; the chain's above it may end earlier.
    pub expires_unix_s: i64,
}

impl Certificate {
    pub fn from_config(
        tls: &config::Tls,
        provider: &CryptoProvider,
    ) -> Result<Certificate, ConfigError> {
        let chain_file = named(CERTIFICATE, tls.certificate_file.as_deref())?;
        let key_file = named(KEY, tls.key_file.as_deref())?;
        let chain = chain(chain_file)?;
        let expires_unix_s = expiry(&chain, chain_file)?;
        let key = private_key(key_file)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let (key, path) = match error {
                Error::InvalidCertificate(_) => (CERTIFICATE, chain_file),
                _ => (KEY, key_file),
            };
            let problem = match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    format!("is not the key of {}", chain_file.display())
                }
                error => format!("is of no use: {error}"),
            };
            refused(key, path, &problem)
        })?;
        Ok(Certificate {
            certified,
            expires_unix_s,
        })
    }
}

fn named<'a>(key: &str, file: Option<&'a Path>) -> Result<&'a Path, ConfigError> {
    file.ok_or_else(|| {
        let problem = "is needed, because gateway.tls_listen is set: name the PEM file";
        ConfigError::new(key, problem)
    })
}

fn refused(key: &str, path: &Path, problem: &str) -> ConfigError {
    ConfigError::new(key, format!("{} {problem}", path.display()))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = Secret::from_file(CERTIFICATE, path)?;
    let certificates = CertificateDer::pem_slice_iter(pem.expose().as_bytes());
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| refused(CERTIFICATE, path, &format!("is no PEM file: {error}")))?;
    match certificates.len() {
        0 => Err(refused(CERTIFICATE, path, "has no certificate in it")),
        count if count > limits::TLS_CHAIN => {
            let most = limits::TLS_CHAIN;
            let problem = format!("has {count} certificates: at most {most} make a chain");
            Err(refused(CERTIFICATE, path, &problem))
        }
        _ => Ok(certificates),
    }
}

fn expiry(chain: &[CertificateDer<'_>], path: &Path) -> Result<i64, ConfigError> {
    let parsed = X509Certificate::from_der(&chain[0]);
    let (_, own) = parsed.map_err(|error| {
        refused(
            CERTIFICATE,
            path,
            &format!("begins with no certificate: {error}"),
        )
    })?;
    Ok(own.validity().not_after.timestamp())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let pem = Secret::from_file(KEY, path)?;
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes())
        .map_err(|error| refused(KEY, path, &format!("has no private key in PEM: {error}")))
}
