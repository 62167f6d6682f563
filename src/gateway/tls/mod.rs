//! TLS on the client port: certificate and tickets for all cores, replaced while connections last.
//!
//! The step of a connection is [`handshake`]; what seals and opens its bytes from there on is [`channel`].
//!
//! Invariants:
//! * TLS 1.3 and 1.2, `http/1.1` and nothing else by ALPN, no state of a session on this side: it is in the
//!   client's ticket, so that any host of the fleet resumes it;
//! * what is reloaded concerns the handshakes from then on; one that is wrong changes nothing.

mod certificate;
pub(super) mod channel;
pub(super) mod handshake;
mod records;
mod tickets;

use crate::{
    clock::unix_s,
    config::{self, ConfigError},
    limits,
    metrics::Metrics,
};
use arc_swap::ArcSwap;
use certificate::Certificate;
use prometheus::IntCounter;
use rustls::{
    CipherSuite, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};
use tickets::Tickets;

const CHEAPEST: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// What handshakes are made with, shared by the cores of a process.
pub struct Tls {
    current: Arc<ArcSwap<ServerConfig>>,
    tickets: Arc<Tickets>,
    ticket_keys_file: ArcSwap<Option<PathBuf>>,
    expires_unix_s: Arc<AtomicI64>,
    reread_failed: IntCounter,
}

impl Tls {
    /// `None` where no client comes by TLS.
    pub fn from_config(
        gateway: &config::Gateway,
        tls: &config::Tls,
        metrics: &Metrics,
    ) -> Result<Option<Arc<Tls>>, ConfigError> {
        if gateway.tls_listen.is_none() {
            return Ok(None);
        }
        let (certificate, tickets) = read(tls)?;
        if tls.ticket_keys_file.is_none() {
            tracing::warn!(
                "tls.ticket_keys_file is not set: sessions resume on this host alone and until it restarts; \
                 in a reconnect storm the others make a full handshake for each of its clients"
            );
        }
        let tickets = Arc::new(tickets);
        let expires_unix_s = certificate.expires_unix_s;
        let made = Tls {
            current: Arc::new(ArcSwap::new(server_config(certificate, &tickets))),
            tickets,
            ticket_keys_file: ArcSwap::from_pointee(tls.ticket_keys_file.clone()),
            expires_unix_s: Arc::new(AtomicI64::new(expires_unix_s)),
            reread_failed: metrics.counter(
                "tls_ticket_keys_failed_total",
                "Times the file of ticket keys could not be read again; the former keys stay.",
            ),
        };
        made.register(metrics);
        Ok(Some(Arc::new(made)))
    }

    /// Files and configuration read again. What is wrong leaves everything as it was.
    pub fn reload(&self, tls: &config::Tls) -> Result<(), ConfigError> {
        let certificate = Certificate::from_config(tls, &provider())?;
        if let Some(file) = &tls.ticket_keys_file {
            self.tickets.reread(file)?;
        }
        self.ticket_keys_file
            .store(Arc::new(tls.ticket_keys_file.clone()));
        self.expires_unix_s
            .store(certificate.expires_unix_s, Ordering::Relaxed);
        self.current
            .store(server_config(certificate, &self.tickets));
        Ok(())
    }

    /// Looks at the ticket keys again and again, for as long as it is polled: whoever rotates them need not
    /// reach every process of the fleet.
    pub async fn keep_ticket_keys_fresh(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(limits::TLS_TICKET_KEYS_EVERY);
        loop {
            ticks.tick().await;
            let file = self.ticket_keys_file.load_full();
            let Some(file) = file.as_deref() else {
                continue;
            };
            match self.tickets.reread(file) {
                Ok(false) => {}
                Ok(true) => tracing::info!(keys = self.tickets.count(), "ticket keys replaced"),
                Err(error) => {
                    self.reread_failed.inc();
                    tracing::warn!(%error, "ticket keys stay as they were");
                }
            }
        }
    }

    pub(super) fn current(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.current.clone()
    }

    fn register(&self, metrics: &Metrics) {
        let expires = self.expires_unix_s.clone();
        metrics.computed(
            "tls_certificate_expires_seconds",
            "Until the certificate of the client port expires; below 0 it has.",
            move || expires.load(Ordering::Relaxed) - unix_s() as i64,
        );
        let tickets = self.tickets.clone();
        metrics.computed(
            "tls_ticket_keys",
            "Keys that session tickets are taken of.",
            move || tickets.count() as i64,
        );
    }
}

/// What [`Tls::from_config`] would refuse; nothing is kept.
pub fn check(gateway: &config::Gateway, tls: &config::Tls) -> Result<(), ConfigError> {
    match gateway.tls_listen {
        Some(_) => read(tls).map(drop),
        None if tls.certificate_file.is_some() || tls.key_file.is_some() => {
            let problem = "is needed, because a certificate is given in [tls]: name the address, e.g. \
                           \"0.0.0.0:8443\"";
            Err(ConfigError::new("gateway.tls_listen", problem))
        }
        None => Ok(()),
    }
}

fn read(tls: &config::Tls) -> Result<(Certificate, Tickets), ConfigError> {
    let certificate = Certificate::from_config(tls, &provider())?;
    let tickets = Tickets::new(tls.ticket_keys_file.as_deref())?;
    Ok((certificate, tickets))
}

/// Suites with SHA-256 and AES-128 first, whatever the client would like: their hash and cipher are instructions
/// of the CPU, while SHA-384, which rustls has first, took a fifth of a handshake's time.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| !CHEAPEST.contains(&suite.suite()));
    provider
}

fn server_config(certificate: Certificate, tickets: &Arc<Tickets>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_no_client_auth();
    let certified = SingleCertAndKey::from(certificate.certified);
    let mut config = builder.with_cert_resolver(Arc::new(certified));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = tickets.clone();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Each connection brings the ticket for the next one; a second would double what tickets cost.
    config.send_tls13_tickets = 1;
    // A connection that stands keeps its keys and nothing else (`records`).
    config.enable_secret_extraction = true;
    Arc::new(config)
}
