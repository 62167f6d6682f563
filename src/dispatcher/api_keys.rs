//! Producers' keys: stored as hashes, verified by look-up, remembered briefly.

use super::{
    store::{ApiKey, SharedStore, StoreError},
    unix_ms,
};
use crate::{
    config::Secret,
    ids::{IdError, check_producer},
    limits,
};
use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::{sync::Arc, time::Instant};
use thiserror::Error;

/// Starts every key, so that a leaked one is recognised for what it is.
const KEY_PREFIX: &str = "herald_";

#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("the API key is missing or not known")]
    Unknown,
    #[error("the API key can't be checked now: {0}")]
    Unavailable(#[from] StoreError),
}

/// A new key in clear (shown once, kept nowhere) and what is stored of it.
pub fn generate(producer: &str, admin: bool, created_ms: u64) -> Result<(String, ApiKey), IdError> {
    check_producer(producer)?;
    let secret: [u8; 32] = rand::random();
    let clear = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let key = ApiKey {
        producer: producer.to_owned(),
        hash: hash(&clear),
        admin,
        created_ms,
    };
    Ok((clear, key))
}

/// SHA-256 without salt is enough: a key carries 256 random bits.
pub fn hash(clear: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, clear.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The key of `http.admin_key_file`, as the file holds it now; kept in no store, so that one that was
/// replaced is of no use any more.
#[derive(Clone, Default)]
pub struct AdminKey(Arc<ArcSwapOption<(Secret, Arc<ApiKey>)>>);

impl AdminKey {
    pub fn set(&self, clear: Option<Secret>) {
        let held = clear.map(|clear| {
            let key = ApiKey {
                producer: "admin".into(),
                hash: hash(clear.expose()),
                admin: true,
                created_ms: unix_ms(),
            };
            Arc::new((clear, Arc::new(key)))
        });
        self.0.store(held);
    }

    /// In clear, for the standalone's console.
    pub fn clear(&self) -> Option<Secret> {
        let held = self.0.load();
        held.as_ref().map(|held| held.0.clone())
    }

    /// Hashes are compared, so the time it takes tells nothing of the key.
    fn with_hash(&self, hash: &[u8; 32]) -> Option<Arc<ApiKey>> {
        let held = self.0.load();
        let (_, key) = held.as_deref()?;
        (key.hash == *hash).then(|| key.clone())
    }
}

pub struct ApiKeys {
    store: SharedStore,
    admin: AdminKey,
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

type Verified = (Instant, Arc<ApiKey>);

impl ApiKeys {
    pub fn new(store: SharedStore, admin: AdminKey) -> ApiKeys {
        ApiKeys {
            store,
            admin,
            verified: Mutex::default(),
        }
    }

    /// With the store away, a key verified before goes on working.
    pub async fn verify(&self, clear: &str) -> Result<Arc<ApiKey>, KeyError> {
        let hash = hash(clear);
        if let Some(admin) = self.admin.with_hash(&hash) {
            return Ok(admin);
        }
        let known = self.verified.lock().get(&hash).cloned();
        if let Some((at, key)) = &known
            && counts(*at, self.store.healthy())
        {
            return Ok(key.clone());
        }
        match (self.store.api_key(&hash).await, known) {
            (Ok(Some(key)), _) => Ok(self.remember(hash, Arc::new(key))),
            (Ok(None), _) => {
                self.verified.lock().remove(&hash);
                Err(KeyError::Unknown)
            }
            (Err(_), Some((_, key))) => Ok(key),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn remember(&self, hash: [u8; 32], key: Arc<ApiKey>) -> Arc<ApiKey> {
        let mut verified = self.verified.lock();
        if verified.len() >= limits::API_KEYS_CACHED {
            verified.clear();
        }
        verified.insert(hash, (Instant::now(), key.clone()));
        key
    }
}

/// Whether a key that was verified then counts unasked. A store that is away would be waited for by every request.
fn counts(verified: Instant, store_answers: bool) -> bool {
    !store_answers || verified.elapsed() < limits::API_KEY_CACHE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_verified_long_ago_waits_for_no_store_that_is_away() {
        let long_ago = Instant::now().checked_sub(limits::API_KEY_CACHE).unwrap();
        for (verified, store_answers, unasked) in [
            (Instant::now(), true, true),
            (long_ago, true, false),
            (long_ago, false, true),
        ] {
            assert_eq!(counts(verified, store_answers), unasked);
        }
    }

    #[test]
    fn a_key_is_stored_only_as_its_hash() {
        let (clear, key) = generate("billing", false, 5).unwrap();
        assert!(clear.starts_with(KEY_PREFIX) && clear.len() > 40);
        assert_eq!(hash(&clear), key.hash);
        assert_ne!(clear, generate("billing", false, 5).unwrap().0);
    }

    #[test]
    fn a_replaced_admin_key_is_of_no_use() {
        let admin = AdminKey::default();
        assert!(admin.with_hash(&hash("first")).is_none());
        admin.set(Some(Secret::new("first")));
        assert!(admin.with_hash(&hash("first")).unwrap().admin);
        admin.set(Some(Secret::new("second")));
        assert!(admin.with_hash(&hash("first")).is_none());
        assert!(admin.with_hash(&hash("second")).is_some());
    }

    #[test]
    fn a_producers_name_keeps_its_grammar() {
        assert!(generate("", false, 5).is_err());
        assert!(generate("Billing", false, 5).is_err());
        assert!(generate(&"a".repeat(64), false, 5).is_err());
    }
}
