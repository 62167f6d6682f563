use super::*;
use crate::{
    config,
    gateway::tls::{
        certificate::Certificate,
        channel::{Scratch, shake_hands},
        provider, server_config,
        tickets::Tickets,
    },
};
use rustls::{
    ClientConnection, SupportedCipherSuite,
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, pki_types::ServerName, version,
};
use std::{
    io::{Read, Write},
    sync::Arc,
};

/// Both ends after a handshake by this suite, without a socket between them.
fn established_by(suite: SupportedCipherSuite) -> (Records, ClientConnection) {
    let directory = tempfile::tempdir().unwrap();
    testbed::certificates::make(directory.path(), &["gateway"]);
    let files = config::Tls {
        certificate_file: Some(directory.path().join("gateway.pem")),
        key_file: Some(directory.path().join("gateway.key")),
        ticket_keys_file: None,
    };
    let certificate = Certificate::from_config(&files, &provider()).unwrap();
    let config = server_config(certificate, &Arc::new(Tickets::new(None).unwrap()));
    let mut session = UnbufferedServerConnection::new(config).unwrap();
    let mut offered = provider();
    offered.cipher_suites = vec![suite];
    let version = suite.version();
    let mut config = testbed::certificates::client_by(offered, directory.path(), &[version]);
    config.enable_secret_extraction = true;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    while client.is_handshaking() || session.is_handshaking() {
        let (mut said, mut scratch) = (Vec::new(), Scratch::default());
        client.write_tls(&mut said).unwrap();
        shake_hands(&mut session, &mut said, &mut scratch).unwrap();
        hear(&mut client, scratch.sealed.bytes());
    }
    (Records::of(session).unwrap(), client)
}

fn established() -> (Records, ClientConnection) {
    established_by(TLS13_AES_128_GCM_SHA256)
}

/// Those that a certificate of ECDSA is for.
fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let fit = |suite: &SupportedCipherSuite| {
        let name = format!("{:?}", suite.suite());
        name.contains("ECDSA") || name.starts_with("TLS13_")
    };
    provider().cipher_suites.into_iter().filter(fit)
}

fn opened(records: &mut Records, mut said: Vec<u8>) -> (Result<Vec<u8>, Error>, Sealed) {
    let (mut plain, mut sealed) = (Vec::new(), Sealed::default());
    let result = records.open(&mut said, &mut plain, &mut sealed);
    (result.map(|_| plain), sealed)
}

#[test]
fn every_suite_of_both_versions_is_opened_and_sealed() {
    let mut tried = 0;
    for suite in suites() {
        let (mut records, mut client) = established_by(suite);
        for text in [&b"a first"[..], b"and another"] {
            client.writer().write_all(text).unwrap();
            let mut said = Vec::new();
            client.write_tls(&mut said).unwrap();
            let (heard, _) = opened(&mut records, said);
            assert_eq!(heard.unwrap(), text, "{suite:?}");
            let mut sealed = Sealed::default();
            let pieces = [&b"said "[..], text].into_iter();
            records.seal(pieces, &mut sealed).unwrap();
            assert_eq!(hear(&mut client, sealed.bytes()), [b"said ", text].concat());
        }
        let mut sealed = Sealed::default();
        records.goodbye(&mut sealed).unwrap();
        client.read_tls(&mut sealed.bytes()).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
        tried += 1;
    }
    assert_eq!(tried, 6);
}

#[test]
fn a_record_that_was_changed_is_answered_by_an_alert_in_every_suite() {
    for suite in suites() {
        for at in [0, 5, 13, 20] {
            let (mut records, mut client) = established_by(suite);
            client.writer().write_all(b"a text").unwrap();
            let mut said = Vec::new();
            client.write_tls(&mut said).unwrap();
            said[at] ^= 2;
            let (heard, sealed) = opened(&mut records, said);
            assert!(heard.is_err(), "{suite:?}, byte {at}");
            client.read_tls(&mut sealed.bytes()).unwrap();
            let told = client.process_new_packets().unwrap_err();
            assert!(matches!(told, Error::AlertReceived(_)), "{told:?}");
        }
    }
}

#[test]
fn by_tls_1_2_nobody_shakes_hands_anew_and_warnings_are_borne_for_a_while() {
    let suite = suites().find(|suite| suite.version() == &version::TLS12);
    let (mut records, client) = established_by(suite.unwrap());
    let extracted = client.dangerous_extract_secrets().unwrap();
    let mut peer = Keys::of(Form::Tls12, extracted.tx).unwrap();
    let mut said = |kind, what: &[u8]| {
        let mut sealed = Sealed::default();
        peer.seal(kind, [what].into_iter(), &mut sealed).unwrap();
        sealed.bytes().to_vec()
    };
    let warning = [LEVEL_WARNING, AlertDescription::NoRenegotiation.into()];
    for _ in 0..TLS_EMPTY_RECORDS {
        let (heard, _) = opened(&mut records, said(ContentType::Alert, &warning));
        assert_eq!(heard.unwrap(), b"");
    }
    let (heard, _) = opened(&mut records, said(ContentType::ApplicationData, b"a text"));
    assert_eq!(heard.unwrap(), b"a text");
    let hello = said(ContentType::Handshake, &[1, 0, 0, 0]);
    let (heard, sealed) = opened(&mut records, hello);
    assert!(
        matches!(heard, Err(Error::InappropriateMessage { .. })),
        "{heard:?}"
    );
    let mut told = Keys::of(Form::Tls12, extracted.rx).unwrap();
    let (kind, alert) = told
        .open(&mut sealed.bytes().to_vec())
        .map(|(kind, text)| (kind, text.to_vec()))
        .ok()
        .unwrap();
    let expected = [LEVEL_FATAL, AlertDescription::NoRenegotiation.into()];
    assert_eq!((kind, &alert[..]), (ContentType::Alert, &expected[..]));
}

#[test]
fn worn_out_keys_of_tls_1_2_end_the_connection() {
    let suite = suites().find(|suite| suite.version() == &version::TLS12);
    let (mut records, _) = established_by(suite.unwrap());
    let mut seal = || {
        let pieces = [&b"a record"[..]].into_iter();
        records.seal_by_keys_for(3, pieces, &mut Sealed::default())
    };
    // The handshake has used up one.
    seal().unwrap();
    seal().unwrap();
    assert!(seal().is_err() && seal().is_err());
}

fn hear(client: &mut ClientConnection, mut sealed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !sealed.is_empty() {
        client.read_tls(&mut sealed).unwrap();
        client.process_new_packets().unwrap();
        // Nothing more is not the end.
        let _ = client.reader().read_to_end(&mut plain);
    }
    plain
}

#[test]
fn keys_are_renewed_before_they_are_worn_out() {
    let (mut records, mut client) = established();
    let mut renewals = 0;
    for _ in 0..10 {
        let mut sealed = Sealed::default();
        let before = records.sending.number;
        let pieces = [&b"one "[..], b"", b"record"].into_iter();
        assert_eq!(
            records.seal_by_keys_for(3, pieces, &mut sealed).unwrap(),
            10
        );
        renewals += u32::from(records.sending.number < before);
        assert_eq!(hear(&mut client, sealed.bytes()), b"one record");
    }
    assert!(renewals >= 3, "{renewals}");
}

#[test]
fn a_record_takes_no_more_than_may_wait_for_the_kernel() {
    let (mut records, mut client) = established();
    let long = vec![7; TLS_SENT_BYTES];
    let mut sealed = Sealed::default();
    let pieces = [&b"before"[..], &long].into_iter();
    assert_eq!(records.seal(pieces, &mut sealed).unwrap(), TLS_SENT_BYTES);
    assert_eq!(hear(&mut client, sealed.bytes()).len(), TLS_SENT_BYTES);
}
