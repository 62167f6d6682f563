//! Certificates by which SNS signs.
//!
//! The file that SNS gives out has no certificate of who signed it, so what vouches for it is the host that it is fetched
//! from, by TLS; beside that it has to be good now, and to name SNS.
//!
//! Whoever knows the name of a topic can have certificates asked for that are not there. So one that is held stays in use
//! until it ends, while it can't be fetched again.

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
    waiting: Semaphore,
}

/// Of a certificate, by its URL.
#[derive(Clone)]
struct Held {
    /// The public key, in DER.
    key: Arc<[u8]>,
    fetch_again_ms: u64,
    ends_ms: u64,
}

impl Certificates {
    pub fn new(client: Client) -> Certificates {
        Certificates {
            client,
            held: Mutex::default(),
            fetching: Semaphore::new(limits::SNS_FETCHES),
            waiting: Semaphore::new(limits::SNS_FETCHES_WAITING),
        }
    }

    /// The public key of the certificate that lies there.
    pub async fn key(&self, url: &str, topic: &Topic, now_ms: u64) -> Result<Arc<[u8]>, SnsError> {
        let held = self.held.lock().get(url).cloned();
        let held = held.filter(|held| now_ms < held.ends_ms);
        let fetched = match &held {
            Some(held) if now_ms < held.fetch_again_ms => return Ok(held.key.clone()),
            Some(_) => self.fetch_at_once(url).await,
            None => self.fetch_in_turn(url).await,
        };
        let kept = fetched.and_then(|pem| self.keep(url, &pem, topic, now_ms));
        match (kept, held) {
            (Err(error), Some(held)) => {
                tracing::debug!(%error, url, "the certificate that is held goes on counting");
                Ok(held.key)
            }
            (kept, _) => kept,
        }
    }

    fn keep(
        &self,
        url: &str,
        pem: &[u8],
        topic: &Topic,
        now_ms: u64,
    ) -> Result<Arc<[u8]>, SnsError> {
        let (key, ends_ms) = read(pem, topic, now_ms).map_err(|problem| {
            SnsError::unsigned(
                "SigningCertURL",
                format!("has a certificate that {problem}"),
            )
        })?;
        let held = Held {
            key: key.into(),
            fetch_again_ms: now_ms + limits::SNS_CERTIFICATE_AGE.as_millis() as u64,
            ends_ms,
        };
        let mut all = self.held.lock();
        if all.len() >= limits::SNS_CERTIFICATES && !all.contains_key(url) {
            all.clear();
        }
        all.insert(url.to_owned(), held.clone());
        Ok(held.key)
    }

    async fn fetch_at_once(&self, url: &str) -> Result<Vec<u8>, SnsError> {
        let _turn = self.fetching.try_acquire().map_err(|_| too_many())?;
        self.fetch(url).await
    }

    async fn fetch_in_turn(&self, url: &str) -> Result<Vec<u8>, SnsError> {
        let _turn = {
            // Each of them has one of the places that all requests to us share.
            let _place = self.waiting.try_acquire().map_err(|_| too_many())?;
            let turn = tokio::time::timeout(limits::SNS_TIMEOUT, self.fetching.acquire()).await;
            let turn = turn.map_err(|_| too_many())?;
            turn.expect("it is never closed")
        };
        self.fetch(url).await
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, SnsError> {
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

fn away(problem: String) -> SnsError {
    SnsError::Away {
        what: "its certificate",
        problem,
    }
}

fn too_many() -> SnsError {
    away("too many are asked for at once".into())
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
    use testbed::{SnsServer, certificates};

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

    /// What asks a server of SNS, one of its topics, and where its certificate lies.
    fn of(sns: &SnsServer) -> (Certificates, Topic, String) {
        let arn = sns.topic("ses");
        let topic = Topic::parse(&arn).unwrap();
        let builder = http::builder("email.sns_ca_file", Some(&sns.ca_file())).unwrap();
        let client = builder.resolve(&topic.host, sns.address()).build().unwrap();
        let message = sns.notification(&arn, "2", "{}");
        let url = message["SigningCertURL"].as_str().unwrap().to_owned();
        (Certificates::new(client), topic, url)
    }

    #[tokio::test]
    async fn a_certificate_that_can_not_be_fetched_again_counts_until_it_ends() {
        let sns = SnsServer::start().await;
        let (certificates, topic, url) = of(&sns);
        let key = certificates.key(&url, &topic, now_ms()).await.unwrap();
        let due_ms = now_ms() + DAY_MS;
        let all = limits::SNS_FETCHES as u32;
        let others = certificates.fetching.acquire_many(all).await.unwrap();
        let without_turn = certificates.key(&url, &topic, due_ms).await;
        assert_eq!(without_turn.unwrap(), key);
        assert_eq!(sns.fetched(), 1);
        drop(others);
        sns.set_down(true);
        assert_eq!(certificates.key(&url, &topic, due_ms).await.unwrap(), key);
        assert_eq!(sns.fetched(), 2, "it was asked for");
        let ended = certificates.key(&url, &topic, due_ms + 3 * DAY_MS).await;
        assert!(matches!(ended, Err(SnsError::Away { .. })));
    }

    #[tokio::test]
    async fn a_first_certificate_waits_for_its_turn_and_not_too_many_do() {
        let sns = SnsServer::start().await;
        let (certificates, topic, url) = of(&sns);
        let all = limits::SNS_FETCHES as u32;
        let others = certificates.fetching.acquire_many(all).await.unwrap();
        let waiting = limits::SNS_FETCHES_WAITING as u32;
        let places = certificates.waiting.acquire_many(waiting).await.unwrap();
        let refused = certificates.key(&url, &topic, now_ms()).await;
        assert!(matches!(refused, Err(SnsError::Away { .. })));
        drop(places);
        let release = async { drop(others) };
        let (key, ()) = tokio::join!(certificates.key(&url, &topic, now_ms()), release);
        assert!(key.is_ok());
    }
}
