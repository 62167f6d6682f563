//! TLS of a whole process: what it refuses to start with, and what it takes by SIGHUP.

use crate::refuses;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::path::Path;
use tempfile::TempDir;
use testbed::{Client, Standalone, certificates, free_port};

fn certificates() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    certificates::make(directory.path(), &["gateway", "other"]);
    directory
}

#[test]
fn a_certificate_that_is_of_no_use_is_named_before_anything_is_opened() {
    let made = certificates();
    let file = |name: &str| made.path().join(name).to_str().unwrap().to_owned();
    let listen = format!("127.0.0.1:{}", free_port());
    let (pem, key, other) = (file("gateway.pem"), file("gateway.key"), file("other.key"));
    let (nothing, request) = (file("nothing"), file("gateway.csr"));
    for (certificate, private, named) in [
        ("", "", "tls.certificate_file"),
        (pem.as_str(), "", "tls.key_file"),
        (&nothing, &key, "tls.certificate_file"),
        (&key, &key, "tls.certificate_file"),
        (&pem, &nothing, "tls.key_file"),
        (&pem, &request, "tls.key_file"),
        (&pem, &other, "tls.key_file"),
    ] {
        let mut settings = vec![("gateway.tls_listen", listen.as_str())];
        let files = [
            ("tls.certificate_file", certificate),
            ("tls.key_file", private),
        ];
        settings.extend(files.iter().filter(|(_, file)| !file.is_empty()));
        for command in ["gateway", "standalone"] {
            refuses(command, &settings, named);
        }
    }
    let files = [
        ("tls.certificate_file", pem.as_str()),
        ("tls.key_file", &key),
    ];
    refuses("gateway", &files, "gateway.tls_listen");
    let listening = [&[("gateway.tls_listen", listen.as_str())][..], &files].concat();
    let keys = [&listening[..], &[("tls.ticket_keys_file", pem.as_str())]].concat();
    refuses("gateway", &keys, "tls.ticket_keys_file");
    let twice = [&listening[..], &[("admin.listen", listen.as_str())]].concat();
    refuses("gateway", &twice, "gateway.tls_listen");
}

/// One request by a client that comes for the first time: the certificate it was shown.
fn shown(made: &Path, port: u16) -> Vec<u8> {
    let output = std::process::Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-CAfile",
        ])
        .arg(made.join("ca.pem"))
        .args(["-verify_return_error", "-alpn", "http/1.1"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    let (_, from) = said
        .split_once("-----BEGIN CERTIFICATE-----")
        .expect("it shows one");
    let (certificate, _) = from.split_once("-----END").expect("a whole one");
    certificate.as_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_by_sighup_and_sessions_outlive_a_restart() {
    let made = certificates();
    let file = |name: &str| made.path().join(name);
    let tls_port = free_port();
    std::fs::copy(file("gateway.pem"), file("current.pem")).unwrap();
    std::fs::copy(file("gateway.key"), file("current.key")).unwrap();
    std::fs::write(file("ticket.keys"), STANDARD.encode([7; 32])).unwrap();
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    let mut herald = Standalone::start(&[
        ("gateway.tls_listen", &format!("127.0.0.1:{tls_port}")),
        ("tls.certificate_file", &path("current.pem")),
        ("tls.key_file", &path("current.key")),
        ("tls.ticket_keys_file", &path("ticket.keys")),
    ])
    .await;
    let url = format!("wss://127.0.0.1:{tls_port}/ws/notifications");
    let config = certificates::client(made.path(), rustls::DEFAULT_VERSIONS);
    let client = Client::start_by_tls(vec![url], herald.token("42"), config);
    herald
        .eventually("it is open", async || client.is_open())
        .await;
    let before = shown(made.path(), tls_port);

    std::fs::copy(file("other.pem"), file("current.pem")).unwrap();
    std::fs::copy(file("other.key"), file("current.key")).unwrap();
    herald.process.signal(libc::SIGHUP);
    let is_new = async || shown(made.path(), tls_port) != before;
    herald
        .eventually("the new certificate is shown", is_new)
        .await;
    let id = herald.api.notify("42", "Hello").await.unwrap();
    let arrived = async || client.live(&id) == 1;
    herald
        .eventually("it arrives by the old connection", arrived)
        .await;
    assert_eq!(client.seen.lock().unwrap().connects, 1);

    herald.process.kill();
    herald.run().await;
    let metric = r#"herald_tls_handshakes_total{kind="resumed",version="1.3"} 1"#;
    let resumed = async || herald.metrics().await.contains(metric);
    herald.eventually("its session resumes", resumed).await;
}
