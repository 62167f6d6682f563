//! Producers' API keys, by their hash.

use super::{
    link::{Level, Link},
    stream::{damaged, ms},
};
use crate::dispatcher::store::{ApiKey, StoreError};

type Stored = (Vec<u8>, String, bool, i64);

pub async fn put(link: &Link, key: &ApiKey) -> Result<(), StoreError> {
    let values = (&key.hash[..], &key.producer, key.admin, ms(key.created_ms));
    link.write(&link.statements.put_api_key, values).await
}

pub async fn by_hash(link: &Link, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
    let reader = link.reader(Level::OrOne);
    let found = reader.first::<Stored>(&link.statements.api_key, (&hash[..],));
    found.await?.map(read).transpose()
}

/// In the order they were made.
pub async fn all(link: &Link) -> Result<Vec<ApiKey>, StoreError> {
    let reader = link.reader(Level::OrOne);
    let found = reader.rows::<Stored>(&link.statements.api_keys, ()).await?;
    let mut keys: Vec<ApiKey> = found.into_iter().map(read).collect::<Result<_, _>>()?;
    keys.sort_by(|a, b| (a.created_ms, &a.producer).cmp(&(b.created_ms, &b.producer)));
    Ok(keys)
}

fn read((hash, producer, admin, created_ms): Stored) -> Result<ApiKey, StoreError> {
    let hash = hash.try_into();
    Ok(ApiKey {
        producer,
        hash: hash.map_err(|_| damaged("an API key whose hash has another length"))?,
        admin,
        created_ms: created_ms.max(0) as u64,
    })
}
