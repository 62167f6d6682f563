//! Keys by URL: a JWKS is fetched at start and again and again; while it can't be had the former keys stay.

use super::{
    Verifier,
    key::{Key, fits},
};
use crate::{config, limits, metrics::Metrics};
use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use prometheus::{IntCounterVec, IntGauge};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use thiserror::Error;

/// Why a set was not taken. The former keys stay.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum JwksError {
    #[error("can't be fetched")]
    Unreachable,
    #[error("answered with status {0}")]
    Status(u16),
    #[error("longer than {} bytes", limits::JWKS_BYTES)]
    TooBig,
    #[error("not a JSON Web Key Set")]
    Malformed,
    #[error("has no key for RS256, ES256 or EdDSA signatures")]
    NoKeys,
}

impl JwksError {
    pub fn cause(self) -> &'static str {
        match self {
            JwksError::Unreachable => "unreachable",
            JwksError::Status(_) => "status",
            JwksError::TooBig => "too_big",
            JwksError::Malformed => "malformed",
            JwksError::NoKeys => "no_keys",
        }
    }
}

/// Keys of kinds we don't verify with are passed over; a set without any that we do is an error.
pub(super) fn parse(json: &[u8]) -> Result<Vec<Key>, JwksError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|_| JwksError::Malformed)?;
    let keys = set.keys.into_iter().take(limits::JWKS_KEYS);
    let keys: Vec<Key> = keys.filter_map(usable).collect();
    match keys.is_empty() {
        true => Err(JwksError::NoKeys),
        false => Ok(keys),
    }
}

/// `None` for a key of another kind, for another use, or of a shape that could never verify. A shared
/// secret has no place in a public document: `oct` is passed over too.
fn usable(value: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let says = match jwk.common.key_algorithm {
        None => true,
        Some(KeyAlgorithm::RS256) => algorithm == Algorithm::RS256,
        Some(KeyAlgorithm::ES256) => algorithm == Algorithm::ES256,
        Some(KeyAlgorithm::EdDSA) => algorithm == Algorithm::EdDSA,
        Some(_) => false,
    };
    let signs = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    (says && signs && fits(algorithm, &decoding)).then_some(Key {
        kid: jwk.common.key_id,
        algorithm,
        decoding,
    })
}

#[derive(Clone, Debug)]
pub struct JwksMetrics {
    fetches: IntCounterVec,
    keys: IntGauge,
}

impl JwksMetrics {
    pub fn new(metrics: &Metrics) -> JwksMetrics {
        JwksMetrics {
            fetches: metrics.counters(
                "jwks_fetches_total",
                "Fetches of the JWKS by result; on every result but ok the former keys stay.",
                &["result"],
            ),
            keys: metrics.gauge("auth_keys", "Verification keys that stand ready."),
        }
    }
}

fn refused(problem: String) -> config::ConfigError {
    config::ConfigError::new("auth.jwks_url", problem)
}

/// Keeps the fetched keys of a verifier fresh.
pub struct Refresher {
    url: String,
    every: Duration,
    verifier: Arc<ArcSwap<Verifier>>,
    client: reqwest::Client,
    metrics: JwksMetrics,
}

impl Refresher {
    /// `None` without a `jwks_url`.
    pub fn new(
        auth: &config::Auth,
        verifier: Arc<ArcSwap<Verifier>>,
        metrics: &Metrics,
    ) -> Result<Option<Refresher>, config::ConfigError> {
        let Some(url) = auth.jwks_url.clone() else {
            return Ok(None);
        };
        Refresher::check(auth)?;
        let client = reqwest::Client::builder()
            .timeout(limits::JWKS_FETCH)
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Some(Refresher {
            url,
            every: Duration::from_secs(auth.jwks_refresh_s),
            verifier,
            client,
            metrics: JwksMetrics::new(metrics),
        }))
    }

    /// What [`Refresher::new`] would refuse.
    pub fn check(auth: &config::Auth) -> Result<(), config::ConfigError> {
        let Some(url) = &auth.jwks_url else {
            return Ok(());
        };
        let parsed = reqwest::Url::parse(url).map_err(|error| refused(error.to_string()))?;
        match parsed.scheme() {
            "http" | "https" => Ok(()),
            _ => Err(refused(format!("{url:?} is neither https nor http"))),
        }
    }

    /// Fetches for ever; end it by dropping it. After a failure it comes back sooner than the interval,
    /// so that a process that started before its identity provider recovers by itself.
    pub async fn run(self) {
        let mut failures = 0u32;
        loop {
            let pause = match self.refresh().await {
                Ok(()) => {
                    failures = 0;
                    self.every
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(
                        url = self.url,
                        "JWKS {error}; the keys known so far stay in use: check auth.jwks_url and the provider"
                    );
                    Duration::from_secs(1 << failures.min(6)).min(self.every)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One fetch, swapped in if it has keys.
    pub async fn refresh(&self) -> Result<(), JwksError> {
        let result = self.fetch().await.and_then(|json| {
            let fresh = parse(&json)?;
            let fetched: Arc<[Key]> = fresh.into();
            // Not a plain store: a reload of the configuration may happen in between.
            self.verifier.rcu(|verifier| Verifier {
                fetched: fetched.clone(),
                ..Verifier::clone(verifier)
            });
            Ok(())
        });
        let label = result.map_or_else(JwksError::cause, |()| "ok");
        self.metrics.fetches.with_label_values(&[label]).inc();
        self.metrics.keys.set(self.verifier.load().keys() as i64);
        result
    }

    async fn fetch(&self) -> Result<Vec<u8>, JwksError> {
        let response = self.client.get(&self.url).send().await;
        let mut response = response.map_err(|_| JwksError::Unreachable)?;
        if !response.status().is_success() {
            return Err(JwksError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| JwksError::Unreachable)? {
            if body.len() + chunk.len() > limits::JWKS_BYTES {
                return Err(JwksError::TooBig);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
