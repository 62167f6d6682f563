//! TLS from the client's side, without buffers of its own: records go in and out through buffers of the
//! thread, and a connection at rest keeps only its keys.

use crate::options::Trust;
use anyhow::{Context, Result, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, RootCertStore,
    SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        UnbufferedClientConnection,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

/// First guess of what a handshake record takes.
const RECORD_BYTES: usize = 2_048;
/// What a record adds to its content, and how much content one holds.
const OVERHEAD_BYTES: usize = 64;
const CONTENT_BYTES_MAX: usize = 16_384;

/// What a thread's clients open TLS with.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Of one who has no session yet.
    first: Arc<ClientConfig>,
    again: Arc<ClientConfig>,
}

impl Connector {
    /// Up to `sessions` tickets are kept for clients that come back.
    pub fn new(trust: &Trust, sessions: usize) -> Result<Connector> {
        // The post-quantum exchange is left out: figures are compared with X25519 and P-256.
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        });
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions()?;
        let mut config = match trust {
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth(),
            Trust::Authorities(file) => builder
                .with_root_certificates(authorities(file)?)
                .with_no_client_auth(),
            Trust::System => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let sessions = Arc::new(Sessions {
            max: sessions,
            kept: Mutex::default(),
        });
        config.resumption = Resumption::store(sessions.clone());
        let again = Arc::new(config.clone());
        config.resumption = Resumption::store(Arc::new(KeepsOnly(sessions)));
        Ok(Connector {
            first: Arc::new(config),
            again,
        })
    }
}

fn authorities(file: &std::path::Path) -> Result<RootCertStore> {
    let named = || format!("--ca-file {}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(named)? {
        roots
            .add(certificate.with_context(named)?)
            .with_context(named)?;
    }
    if roots.is_empty() {
        bail!("{} holds no certificate", named());
    }
    Ok(roots)
}

/// One connection.
pub struct Tls {
    connection: UnbufferedClientConnection,
    /// What of a record is not whole yet.
    input: Vec<u8>,
    /// What is to be said once the handshake is over.
    early: Vec<u8>,
    noted: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Of one who was there before, with a session if any is left.
    pub fn new(connector: &Connector, host: &str, was_there: bool) -> Result<Tls, Error> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(|bad| Error::General(bad.to_string()))?;
        let config = match was_there {
            true => &connector.again,
            false => &connector.first,
        };
        Ok(Tls {
            connection: UnbufferedClientConnection::new(config.clone(), name)?,
            input: Vec::new(),
            early: Vec::new(),
            noted: false,
        })
    }

    /// Bytes of the socket: adds what they say to `plain`, and what is to be sent to `sealed`.
    pub fn open(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.input.is_empty() {
            let used = self.turn(bytes, plain, sealed)?;
            if used < bytes.len() {
                self.input = bytes[used..].to_vec();
            }
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.input);
        all.extend_from_slice(bytes);
        let used = self.turn(&mut all, plain, sealed)?;
        all.drain(..used);
        if !all.is_empty() {
            self.input = all;
        }
        Ok(())
    }

    /// Adds `plain` as records to `sealed`; before the handshake is over, what that needs.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), Error> {
        self.early.extend_from_slice(plain);
        self.turn(&mut [], &mut Vec::new(), sealed).map(drop)
    }

    /// Once, when the handshake has ended: whether it resumed a session.
    pub fn take_resumed(&mut self) -> Option<bool> {
        if self.noted || self.connection.is_handshaking() {
            return None;
        }
        self.noted = true;
        Some(self.connection.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Says how many bytes were used.
    fn turn(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut bytes[used..]);
            used += discard;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        plain.extend_from_slice(record.payload);
                        used += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    grow(sealed, RECORD_BYTES, |room| match data.encode(room) {
                        Ok(length) => Ok(length),
                        Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                        Err(EncodeError::AlreadyEncoded) => Err(None),
                    })?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let early = std::mem::take(&mut self.early);
                    for piece in early.chunks(CONTENT_BYTES_MAX) {
                        encrypt(&mut traffic, piece, sealed)?;
                    }
                    return Ok(used);
                }
                // The end of the stream follows, or more of the handshake.
                _ => return Ok(used),
            }
        }
    }
}

fn encrypt<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    piece: &[u8],
    sealed: &mut Vec<u8>,
) -> Result<(), Error> {
    grow(sealed, piece.len() + OVERHEAD_BYTES, |room| {
        match traffic.encrypt(piece, room) {
            Ok(length) => Ok(length),
            Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
            Err(EncryptError::EncryptExhausted) => Err(None),
        }
    })
}

/// Lets `write` fill the end of a buffer; it says how much it wrote, or how much room it needs.
fn grow(
    buffer: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = buffer.len();
    loop {
        buffer.resize(start + room, 0);
        match write(&mut buffer[start..]) {
            Ok(length) => {
                buffer.truncate(start + length);
                return Ok(());
            }
            Err(Some(needed)) if needed > room => room = needed,
            Err(_) => {
                buffer.truncate(start);
                return Err(Error::General("a record can't be written".into()));
            }
        }
    }
}

/// Tickets of a thread's clients, whoever of those who come back got them: each is used once, and the server can't tell.
#[derive(Debug)]
struct Sessions {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: VecDeque<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn keep<T>(&self, of: impl FnOnce(&mut Kept) -> &mut VecDeque<T>, session: T) {
        let mut kept = self.kept.lock().expect("no panics");
        let sessions = of(&mut kept);
        if sessions.len() >= self.max {
            sessions.pop_front();
        }
        sessions.push_back(session);
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept.lock().expect("no panics").group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.lock().expect("no panics").group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.keep(|kept| &mut kept.tls12, session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.lock().expect("no panics").tls12.pop_front()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.keep(|kept| &mut kept.tls13, ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().expect("no panics").tls13.pop_front()
    }
}

/// Keeps what is given, and has nothing itself: who comes for the first time would resume what another one began, and
/// its handshake would cost less than it does.
#[derive(Debug)]
struct KeepsOnly(Arc<Sessions>);

impl ClientSessionStore for KeepsOnly {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(name, session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(name, ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// Asks nobody for a certificate that an authority signed: a test server has none.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
