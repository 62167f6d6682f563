//! DKIM (RFC 6376; Ed25519 by RFC 8463): a mail carries its domain's word that it is as it was written.
//!
//! Own code: of the crates that sign, one brings RSA without protection against who measures it, the other a DNS resolver.
//!
//! Invariants:
//! * what is signed are the bytes that are handed over;
//! * headers by which a reader judges a mail are signed once more than there are: nobody adds another one on the way;
//! * each key signs by itself, so that a receiver which knows only one kind finds it.

use crate::{
    config::{ConfigError, DkimKey, Secret},
    limits,
};
use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use std::path::Path;

/// What is signed where it is there (RFC 6376, 5.4.1; RFC 8058, 4), and whether another one is signed as absent.
const HEADERS: [(&str, bool); 12] = [
    ("from", true),
    ("to", true),
    ("subject", true),
    ("date", true),
    ("message-id", true),
    ("reply-to", true),
    ("mime-version", false),
    ("content-type", true),
    ("content-transfer-encoding", false),
    ("auto-submitted", false),
    ("list-unsubscribe", false),
    ("list-unsubscribe-post", false),
];

/// Of a signature in a header, so that its lines stay below 78.
const LINE: usize = 70;

#[derive(Default)]
pub struct Dkim(Vec<Signer>);

struct Signer {
    domain: String,
    selector: String,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl Dkim {
    /// `domain` is that of the sender; a key may be another's.
    pub fn from_config(keys: &[DkimKey], domain: &str) -> Result<Dkim, ConfigError> {
        let read = |(at, key): (usize, &DkimKey)| {
            Ok(Signer {
                domain: key.domain.as_deref().unwrap_or(domain).to_owned(),
                selector: key.selector.clone(),
                key: Key::from_file(&format!("email.dkim[{at}].key_file"), &key.key_file)?,
            })
        };
        let signers = keys.iter().enumerate().map(read);
        signers.collect::<Result<_, _>>().map(Dkim)
    }

    /// The mail with a signature by each key before it.
    pub fn sign(&self, mail: Vec<u8>, unix_s: u64) -> Vec<u8> {
        if self.0.is_empty() {
            return mail;
        }
        let (headers, body) = split(&mail);
        let fields = fields(headers);
        let digest = digest::digest(&digest::SHA256, &relaxed_body(body));
        let body_hash = BASE64_STANDARD.encode(digest);
        let signatures = self.0.iter();
        let signatures = signatures.map(|one| one.sign(&fields, &body_hash, unix_s));
        let mut signed = signatures.collect::<String>().into_bytes();
        signed.extend_from_slice(&mail);
        signed
    }
}

impl Signer {
    fn sign(&self, fields: &[Field], body_hash: &str, unix_s: u64) -> String {
        let named = signed_names(fields);
        let names: Vec<String> = named.chunks(5).map(|names| names.join(":")).collect();
        let unsigned = format!(
            "v=1; a={}; c=relaxed/relaxed; d={};\r\n s={}; t={unix_s};\r\n h={};\r\n bh={body_hash};\r\n b=",
            self.key.algorithm(),
            self.domain,
            self.selector,
            names.join(":\r\n "),
        );
        let own = Field::new("DKIM-Signature", unsigned.as_bytes());
        let mut told = Vec::new();
        for (at, name) in named.iter().enumerate() {
            // The lowest first, and nothing for those that are not there.
            let before = named[..at].iter().filter(|other| *other == name).count();
            let mut of_name = fields.iter().rev().filter(|field| field.name == *name);
            if let Some(field) = of_name.nth(before) {
                field.write(&mut told);
                told.extend_from_slice(b"\r\n");
            }
        }
        own.write(&mut told);
        let signature = BASE64_STANDARD.encode(self.key.sign(&told));
        let lines = signature.as_bytes().chunks(LINE);
        let lines: Vec<_> = lines.map(String::from_utf8_lossy).collect();
        format!("DKIM-Signature: {unsigned}{}\r\n", lines.join("\r\n "))
    }
}

/// In the order of [`HEADERS`], as often as they are there, and once more.
fn signed_names(fields: &[Field]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (name, is_closed) in HEADERS {
        let count = fields.iter().filter(|field| field.name == name).count();
        names.extend(std::iter::repeat_n(name, count + usize::from(is_closed)));
    }
    names
}

/// A header in the form `relaxed`: however it was folded, it says the same.
struct Field {
    name: String,
    value: Vec<u8>,
}

impl Field {
    fn new(name: &str, value: &[u8]) -> Field {
        let words = value.split(u8::is_ascii_whitespace);
        let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        Field {
            name: name.trim().to_ascii_lowercase(),
            value: words.join(&b' '),
        }
    }

    fn write(&self, told: &mut Vec<u8>) {
        told.extend_from_slice(self.name.as_bytes());
        told.push(b':');
        told.extend_from_slice(&self.value);
    }
}

fn split(mail: &[u8]) -> (&[u8], &[u8]) {
    let end = mail.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or((mail, &[]), |end| (&mail[..end + 2], &mail[end + 4..]))
}

fn fields(headers: &[u8]) -> Vec<Field> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in headers.split_inclusive(|byte| *byte == b'\n') {
        match fields.last_mut() {
            // What begins with white space goes on with the one before.
            Some(field) if line[0] == b' ' || line[0] == b'\t' => field.extend_from_slice(line),
            _ => fields.push(line.to_vec()),
        }
    }
    let read = |field: &Vec<u8>| {
        let colon = field.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&field[..colon]).ok()?;
        Some(Field::new(name, &field[colon + 1..]))
    };
    fields.iter().filter_map(read).collect()
}

/// White space at the ends of lines and lines at the end don't count, nor how wide the rest is.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut relaxed = Vec::with_capacity(body.len() + 2);
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut waits = false;
        for byte in line {
            match byte {
                b' ' | b'\t' => waits = true,
                byte => {
                    if std::mem::take(&mut waits) {
                        relaxed.push(b' ');
                    }
                    relaxed.push(*byte);
                }
            }
        }
        relaxed.extend_from_slice(b"\r\n");
    }
    while relaxed.ends_with(b"\r\n\r\n") {
        relaxed.truncate(relaxed.len() - 2);
    }
    match relaxed == b"\r\n" {
        true => Vec::new(),
        false => relaxed,
    }
}

impl Key {
    fn from_file(key: &str, path: &Path) -> Result<Key, ConfigError> {
        let pem = Secret::from_file(key, path)?;
        let parsed = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes());
        let parsed = parsed.ok().and_then(|der| Key::parse(&der));
        parsed.ok_or_else(|| {
            let problem = format!(
                "{} holds no private key of Ed25519, or of RSA with {} to {} bits, as PEM: \
                 `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`",
                path.display(),
                limits::DKIM_RSA_BITS.start(),
                limits::DKIM_RSA_BITS.end(),
            );
            ConfigError::new(key, problem)
        })
    }

    fn parse(der: &PrivateKeyDer<'_>) -> Option<Key> {
        let rsa = match der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    return Some(Key::Ed25519(pair));
                }
                RsaKeyPair::from_pkcs8(der)
            }
            _ => return None,
        };
        let rsa = rsa.ok()?;
        let bits = rsa.public_modulus_len() * 8;
        let fits = limits::DKIM_RSA_BITS.contains(&bits);
        fits.then(|| Key::Rsa(Box::new(rsa)))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Key::Rsa(_) => "rsa-sha256",
            Key::Ed25519(_) => "ed25519-sha256",
        }
    }

    fn sign(&self, told: &[u8]) -> Vec<u8> {
        match self {
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    told,
                    &mut signature,
                )
                .expect("it is as long as the modulus");
                signature
            }
            Key::Ed25519(pair) => {
                let digest = digest::digest(&digest::SHA256, told);
                pair.sign(digest.as_ref()).as_ref().to_vec()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_a_body_are_as_rfc_6376_has_them_relaxed() {
        // Its example, section 3.4.5.
        let (headers, body) = split(b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n");
        let mut told = Vec::new();
        for field in fields(headers) {
            field.write(&mut told);
            told.push(b'\n');
        }
        assert_eq!(told, b"a:X\nb:Y Z\n");
        assert_eq!(relaxed_body(body), b" C\r\nD E\r\n");
        assert_eq!(relaxed_body(b"\r\n\r\n"), b"");
        assert_eq!(relaxed_body(b"x"), b"x\r\n");
    }

    #[test]
    fn what_is_there_twice_is_signed_twice_and_what_is_not_there_stays_out() {
        let fields = fields(b"From: a\r\nTo: b\r\nTo: c\r\n");
        let names = signed_names(&fields);
        let count = |wanted: &str| names.iter().filter(|name| **name == wanted).count();
        assert_eq!((count("from"), count("to"), count("reply-to")), (2, 3, 1));
        assert_eq!(count("list-unsubscribe"), 0);
    }
}
