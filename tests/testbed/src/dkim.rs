//! Keys for DKIM, and a receiver that judges signatures: dkimpy, see `judge_dkim.py` beside this file.

use crate::{
    certificates::{RSA, openssl},
    container::python,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A private key, and its public half as DNS has it.
pub struct DkimPair {
    pub key_file: PathBuf,
    pub record: String,
}

/// `kind` is rsa or ed25519.
pub fn pair(directory: &Path, kind: &str) -> DkimPair {
    let algorithm = match kind {
        "rsa" => RSA,
        other => other,
    };
    openssl(
        directory,
        &format!("genpkey -algorithm {algorithm} -out {kind}.pem"),
    );
    let public = format!("pkey -in {kind}.pem -pubout -outform DER -out {kind}.pub");
    openssl(directory, &public);
    let public = std::fs::read(directory.join(format!("{kind}.pub"))).expect("made above");
    // Of Ed25519 the record has the 32 bytes alone (RFC 8463).
    let told = match kind {
        "ed25519" => &public[public.len() - 32..],
        _ => &public[..],
    };
    DkimPair {
        key_file: directory.join(format!("{kind}.pem")),
        record: format!("v=DKIM1; k={kind}; p={}", BASE64_STANDARD.encode(told)),
    }
}

/// Of each signature of the mail, whether it holds. `dns` are names and the text that stands there.
pub fn judge(mail: &str, dns: &[(&str, &str)]) -> Vec<bool> {
    let dns: serde_json::Map<_, _> = dns
        .iter()
        .map(|(name, text)| ((*name).to_owned(), json!(text)))
        .collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/judge_dkim.py");
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let asked = json!({ "mail": mail, "dns": dns }).to_string();
    let mut input = child.stdin.take().expect("piped");
    input.write_all(asked.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "is dkimpy installed (scripts/install.sh test)?"
    );
    serde_json::from_slice(&output.stdout).expect("a list")
}
