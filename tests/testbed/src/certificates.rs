//! Certificates for tests, made by `openssl`.

use std::{path::Path, process::Command, sync::Arc};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
};

/// Makes an authority (`ca.pem`, `ca.key`) and, for each of `names`, `<name>.pem` and `<name>.key` signed by
/// it, good for 127.0.0.1 on both sides of a connection.
pub fn make(directory: &Path, names: &[&str]) {
    let authority = "-keyout ca.key -out ca.pem -days 2 -subj /CN=authority";
    openssl(directory, &format!("req -x509 {EC_KEY} {authority}"));
    for name in names {
        issue(directory, name, EC_KEY, "IP:127.0.0.1");
    }
}

/// For `openssl req`.
pub const EC_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
pub const RSA_KEY: &str = "-newkey rsa:2048 -nodes";

/// Makes `<name>.pem` and `<name>.key`, signed by the authority that [`make`] has made there, with this common name and
/// these others (`DNS:…`, `IP:…`).
pub fn issue(directory: &Path, name: &str, key: &str, others: &str) {
    let others = format!("subjectAltName={others}\n");
    std::fs::write(directory.join("names"), others).expect("a file");
    let request = format!("-keyout {name}.key -out {name}.csr -subj /CN={name}");
    openssl(directory, &format!("req {key} {request}"));
    let signed = format!("-in {name}.csr -out {name}.pem -days 2 -extfile names");
    openssl(
        directory,
        &format!("x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial {signed}"),
    );
}

/// A client that trusts the authority of [`make`], and resumes what it can.
pub fn client(directory: &Path, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    client_by(aws_lc_rs::default_provider(), directory, versions)
}

/// As [`client`], with what this provider offers.
pub fn client_by(
    provider: CryptoProvider,
    directory: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let authority = CertificateDer::from_pem_file(directory.join("ca.pem")).expect("made before");
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("a certificate");
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("versions of the provider")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// As `openssl genpkey` knows them.
pub const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
pub const RSA: &str = "RSA -pkeyopt rsa_keygen_bits:2048";

/// Makes a private key and answers its public half, as PEM.
pub fn make_key(file: &Path, algorithm: &str) -> Vec<u8> {
    let directory = file.parent().expect("a file in a directory");
    let name = file.file_name().expect("a file").display();
    openssl(
        directory,
        &format!("genpkey -algorithm {algorithm} -out {name}"),
    );
    openssl(directory, &format!("pkey -pubout -in {name}"))
}

/// Runs it there; answers what it printed.
pub fn openssl(directory: &Path, arguments: &str) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl is installed (apt-get install openssl)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {errors}");
    output.stdout
}
