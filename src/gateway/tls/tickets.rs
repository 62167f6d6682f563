//! Session tickets that any host of the fleet resumes: sealed with keys from a file the fleet shares.
//!
//! Invariants:
//! * the first key of the file seals, every key of it opens: a key is taken up below the first on every host,
//!   put first afterwards, and dropped once its tickets are too old to be taken;
//! * a ticket names its key, and is bound to that name and to the time it was made at; one that is too old, of
//!   a key that is gone, or altered is none, and the client gets a full handshake;
//! * the AEAD bears a repeated nonce: many hosts seal with one key, and each draws its nonces at random;
//! * a file that can't be read, or has a bad key in it, changes nothing.

use crate::{
    clock::unix_s,
    config::{ConfigError, Secret},
    limits::{TLS_TICKET_KEYS, TLS_TICKET_LIFE},
};
use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::server::ProducesTickets;
use std::{path::Path, sync::Arc};

const KEY: &str = "tls.ticket_keys_file";
/// A line of the file is at least as much randomness, and the key made of it as long.
const KEY_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
/// When it was sealed, Unix s, in front of what rustls keeps in a ticket.
const TIME_BYTES: usize = 8;

/// Seals and opens tickets for all cores.
#[derive(Debug)]
pub(super) struct Tickets {
    keys: ArcSwap<Vec<TicketKey>>,
}

struct TicketKey {
    name: [u8; NAME_BYTES],
    aead: LessSafeKey,
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(ticket key)")
    }
}

impl Tickets {
    /// Keys of the file, or one of this process alone.
    pub fn new(file: Option<&Path>) -> Result<Tickets, ConfigError> {
        let keys = match file {
            Some(path) => read(path)?,
            None => vec![TicketKey::derive(&rand::random::<[u8; KEY_BYTES]>())],
        };
        Ok(Tickets {
            keys: ArcSwap::from_pointee(keys),
        })
    }

    /// The file once more. True if its keys have changed.
    pub fn reread(&self, file: &Path) -> Result<bool, ConfigError> {
        let fresh = read(file)?;
        let kept = self.keys.load();
        let names = |keys: &[TicketKey]| keys.iter().map(|key| key.name).collect::<Vec<_>>();
        let changed = names(&fresh) != names(&kept);
        if changed {
            self.keys.store(Arc::new(fresh));
        }
        Ok(changed)
    }

    /// How many keys open tickets.
    pub fn count(&self) -> usize {
        self.keys.load().len()
    }

    fn seal(&self, plain: &[u8], now_unix_s: u64) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let key = keys.first()?;
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = [&now_unix_s.to_be_bytes(), plain].concat();
        key.aead
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.name),
                &mut sealed,
            )
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn unseal(&self, ticket: &[u8], now_unix_s: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.load();
        let key = keys.iter().find(|key| key.name == name)?;
        let mut sealed = sealed.to_vec();
        let opened = key
            .aead
            .open_in_place(
                Nonce::try_assume_unique_for_key(nonce).ok()?,
                Aad::from(key.name),
                &mut sealed,
            )
            .ok()?;
        let (made, plain) = opened.split_at_checked(TIME_BYTES)?;
        let made_unix_s = u64::from_be_bytes(made.try_into().ok()?);
        // Clocks of a fleet differ: one from the future is as young as can be.
        let age_s = now_unix_s.saturating_sub(made_unix_s);
        (age_s <= TLS_TICKET_LIFE.as_secs()).then(|| plain.to_vec())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TLS_TICKET_LIFE.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, unix_s())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.unseal(ticket, unix_s())
    }
}

impl TicketKey {
    /// Name and key are drawn from the same secret apart from each other, so that one line says it all and
    /// hosts agree on both.
    fn derive(secret: &[u8]) -> TicketKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"herald session tickets");
        let drawn = salt.extract(secret);
        let mut name = [0; NAME_BYTES];
        let mut key = [0; KEY_BYTES];
        expand(&drawn, b"name", &mut name);
        expand(&drawn, b"key", &mut key);
        let unbound = UnboundKey::new(&AES_256_GCM_SIV, &key).expect("a key of its length");
        TicketKey {
            name,
            aead: LessSafeKey::new(unbound),
        }
    }
}

fn expand(drawn: &hkdf::Prk, purpose: &[u8], into: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let info = [purpose];
    let okm = drawn
        .expand(&info, Length(into.len()))
        .expect("far below what it gives");
    okm.fill(into).expect("the length asked for");
}

/// One key a line, in base64.
fn read(path: &Path) -> Result<Vec<TicketKey>, ConfigError> {
    let secret = Secret::from_file(KEY, path)?;
    let lines: Vec<&str> = secret.expose().lines().map(str::trim).collect();
    let refused = |problem: String| {
        let path = path.display();
        ConfigError::new(
            KEY,
            format!(
                "{path} {problem}: one key a line, newest first, each of `openssl rand -base64 {KEY_BYTES}`"
            ),
        )
    };
    if lines.len() > TLS_TICKET_KEYS {
        return Err(refused(format!(
            "has {} keys, at most {TLS_TICKET_KEYS} are allowed",
            lines.len()
        )));
    }
    let parse = |(number, line): (usize, &str)| match STANDARD.decode(line) {
        Ok(secret) if secret.len() >= KEY_BYTES => Ok(TicketKey::derive(&secret)),
        Ok(_) => Err(refused(format!(
            "has a key that is too short in line {number}"
        ))),
        Err(_) => Err(refused(format!("has no base64 in line {number}"))),
    };
    (1..).zip(lines).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn file(keys: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&file, keys);
        file
    }

    fn write(file: &tempfile::NamedTempFile, keys: &[u8]) {
        let lines = keys.iter().map(|key| STANDARD.encode([*key; KEY_BYTES]));
        std::fs::write(file.path(), lines.collect::<Vec<_>>().join("\n")).unwrap();
    }

    fn tickets(keys: &[u8]) -> Tickets {
        Tickets::new(Some(file(keys).path())).unwrap()
    }

    #[test]
    fn a_ticket_of_one_host_is_opened_by_another_that_shares_the_file() {
        let ticket = tickets(&[1]).seal(b"session", NOW).unwrap();
        assert_eq!(tickets(&[1]).unseal(&ticket, NOW).unwrap(), b"session");
        assert_eq!(tickets(&[2]).unseal(&ticket, NOW), None);
    }

    #[test]
    fn an_older_key_opens_and_the_first_seals() {
        let old = tickets(&[1]).seal(b"session", NOW).unwrap();
        let both = tickets(&[2, 1]);
        assert_eq!(both.unseal(&old, NOW).unwrap(), b"session");
        let new = both.seal(b"session", NOW).unwrap();
        assert_eq!(tickets(&[2]).unseal(&new, NOW).unwrap(), b"session");
        assert_eq!(tickets(&[1]).unseal(&new, NOW), None);
    }

    #[test]
    fn a_ticket_is_taken_for_its_life_and_not_longer() {
        let (tickets, life) = (tickets(&[1]), TLS_TICKET_LIFE.as_secs());
        let ticket = tickets.seal(b"session", NOW).unwrap();
        assert!(tickets.unseal(&ticket, NOW + life).is_some());
        assert!(tickets.unseal(&ticket, NOW + life + 1).is_none());
        assert!(tickets.unseal(&ticket, NOW - 60).is_some(), "clocks differ");
    }

    #[test]
    fn what_was_altered_or_cut_is_no_ticket() {
        let tickets = tickets(&[1]);
        let ticket = tickets.seal(b"session", NOW).unwrap();
        for length in 0..ticket.len() {
            assert_eq!(tickets.unseal(&ticket[..length], NOW), None, "{length}");
        }
        for at in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[at] ^= 1;
            assert_eq!(tickets.unseal(&altered, NOW), None, "{at}");
        }
    }

    #[test]
    fn a_file_that_is_bad_changes_nothing_and_a_good_one_is_taken() {
        let file = file(&[1]);
        let tickets = Tickets::new(Some(file.path())).unwrap();
        let ticket = tickets.seal(b"session", NOW).unwrap();
        for bad in ["", "no key", "c2hvcnQ="] {
            std::fs::write(file.path(), bad).unwrap();
            let error = tickets.reread(file.path()).unwrap_err();
            assert_eq!(error.key, KEY, "{error}");
            assert!(tickets.unseal(&ticket, NOW).is_some());
        }
        write(&file, &[1]);
        assert!(!tickets.reread(file.path()).unwrap());
        write(&file, &[2]);
        assert!(tickets.reread(file.path()).unwrap());
        assert!(tickets.unseal(&ticket, NOW).is_none());
    }

    #[test]
    fn without_a_file_every_process_has_a_key_of_its_own() {
        let [one, other] = [0; 2].map(|_| Tickets::new(None).unwrap());
        let ticket = one.seal(b"session", NOW).unwrap();
        assert!(one.unseal(&ticket, NOW).is_some());
        assert!(other.unseal(&ticket, NOW).is_none());
    }
}
