//! Certificates by which SNS signs.
//!
//! The file that SNS gives out has no certificate of who signed it, so what vouches for it is the host that it is fetched
//! from, by TLS; beside that it has to be good now, and to name SNS.

use super::{SnsError, message::Topic};
use crate::{dispatcher::channel::http, limits};
use parking_lot::Mutex;
use reqwest::Client;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub struct Certificates {
    client: Client,
    held: Mutex<HashMap<String, Held>>,
    fetching: Semaphore,
}

/// Of a certificate, by its URL.
#[derive(Clone)]
struct Held {
    /// The public key, in DER.
    key: Arc<[u8]>,
    until_ms: u64,
}

impl Certificates {
    pub fn new(client: Client) -> Certificates {
        Certificates {
            client,
            held: Mutex::default(),
            fetching: Semaphore::new(limits::SNS_FETCHES),
        }
    }

    /// The public key of the certificate that lies there.
    pub async fn key(&self, url: &str, topic: &Topic, now_ms: u64) -> Result<Arc<[u8]>, SnsError> {
        let held = self.held.lock().get(url).cloned();
        if let Some(held) = held.filter(|held| now_ms < held.until_ms) {
            return Ok(held.key);
        }
        let pem = self.fetch(url).await?;
        let (key, ends_ms) = read(&pem, topic, now_ms).map_err(|problem| {
            SnsError::unsigned(
                "SigningCertURL",
                format!("has a certificate that {problem}"),
            )
        })?;
        let held = Held {
            key: key.into(),
            until_ms: ends_ms.min(now_ms + limits::SNS_CERTIFICATE_AGE.as_millis() as u64),
        };
        let mut all = self.held.lock();
        if all.len() >= limits::SNS_CERTIFICATES && !all.contains_key(url) {
            all.clear();
        }
        all.insert(url.to_owned(), held.clone());
        Ok(held.key)
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, SnsError> {
        let away = |problem: String| SnsError::Away {
            what: "its certificate",
            problem,
        };
        let turn = self.fetching.try_acquire();
        let _turn = turn.map_err(|_| away("too many are asked for at once".into()))?;
        let request = self.client.get(url).timeout(limits::SNS_TIMEOUT);
        let response = request.send().await;
        let response = response.map_err(|error| away(http::cause(&error)))?;
        let status = response.status();
        let body = http::body(response, limits::PROVIDER_ANSWER_BYTES).await;
        match status.is_success() {
            true => Ok(body),
            false => Err(away(http::reason(status, &body))),
        }
    }
}

/// Key and end of a certificate that is good for this topic now, else what is wrong with it.
fn read(pem: &[u8], topic: &Topic, now_ms: u64) -> Result<(Vec<u8>, u64), String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| format!("is no PEM: {error}"))?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| format!("can't be read: {error}"))?;
    let unix_ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0) * 1_000;
    let validity = certificate.validity();
    let begins_ms = unix_ms(validity.not_before.timestamp());
    let ends_ms = unix_ms(validity.not_after.timestamp());
    if !(begins_ms..ends_ms).contains(&now_ms) {
        return Err("does not count now: check the clock".into());
    }
    let is_named = names(&certificate)
        .iter()
        .any(|name| topic.names.iter().any(|one| one.eq_ignore_ascii_case(name)));
    match is_named {
        true => Ok((certificate.public_key().raw.to_vec(), ends_ms)),
        false => Err(format!("is not of {}", topic.names.join(" or "))),
    }
}

/// Its alternative names, or the common name of one that has none.
fn names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    match certificate.subject_alternative_name() {
        Ok(None) => {
            let names = certificate.subject().iter_common_name();
            names.filter_map(|name| name.as_str().ok()).collect()
        }
        Ok(Some(extension)) => {
            let names = extension.value.general_names.iter();
            let of_dns = names.filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            });
            of_dns.collect()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};
    use testbed::certificates;

    const DAY_MS: u64 = 24 * 3600 * 1_000;

    fn now_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since.as_millis() as u64
    }

    /// Signed by an authority, with this common name and these alternative ones.
    fn made(common: &str, alternative: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        certificates::make(directory.path(), &[]);
        certificates::issue(directory.path(), common, certificates::RSA_KEY, alternative);
        std::fs::read(directory.path().join(format!("{common}.pem"))).unwrap()
    }

    #[test]
    fn a_certificate_counts_while_it_is_good_and_names_sns() {
        let topic = Topic::parse("arn:aws:sns:eu-central-1:1:t").unwrap();
        let pem = made("sns.amazonaws.com", "DNS:sns.amazonaws.com");
        let (_, ends_ms) = read(&pem, &topic, now_ms()).unwrap();
        assert!((now_ms() + DAY_MS..now_ms() + 3 * DAY_MS).contains(&ends_ms));
        for other_ms in [ends_ms, now_ms() - DAY_MS] {
            let problem = read(&pem, &topic, other_ms).unwrap_err();
            assert!(problem.starts_with("does not count now"), "{problem}");
        }
        let of_region = made("signing", "DNS:sns-signing.eu-central-1.amazonaws.com");
        assert!(read(&of_region, &topic, now_ms()).is_ok());
        for alternative in [
            "DNS:sns.eu-west-1.amazonaws.com",
            "DNS:sns.amazonaws.com.evil.example",
            "IP:127.0.0.1",
        ] {
            // Where there are alternative names, the common one is none.
            let other = made("sns.amazonaws.com", alternative);
            let problem = read(&other, &topic, now_ms()).unwrap_err();
            assert!(
                problem.starts_with("is not of sns.amazonaws.com"),
                "{problem}"
            );
        }
        assert!(read(b"<html>", &topic, now_ms()).is_err());
    }
}
