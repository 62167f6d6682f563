//! E-mail addresses that are not sent to, each a partition of its own; a list goes round the ring.

use super::{
    link::{Level, Link, all, is_applied},
    stream::{damaged, ms},
};
use crate::{
    dispatcher::{store::StoreError, suppression::Suppression},
    limits,
};

type Stored = (String, String, String, i64);

/// What was said last stands.
pub async fn put(link: &Link, suppressions: &[Suppression]) -> Result<(), StoreError> {
    let write = |one: &Suppression| {
        let (address, reason) = (one.address.clone(), one.reason.clone());
        let values = (address, one.cause.as_str(), reason, ms(one.at_ms));
        link.write(&link.statements.put_suppression, values)
    };
    all(suppressions.iter().map(write).collect())
        .await
        .map(drop)
}

/// For as long as the erasure is known.
pub async fn put_mark(link: &Link, mark: &Suppression) -> Result<(), StoreError> {
    let ttl_s = limits::RETENTION_S as i32;
    let values = (&mark.address, mark.cause.as_str(), ms(mark.at_ms), ttl_s);
    link.write(&link.statements.put_erased, values).await
}

pub async fn find(
    link: &Link,
    addresses: &[String],
) -> Result<Vec<Option<Suppression>>, StoreError> {
    all(addresses.iter().map(|address| one(link, address)).collect()).await
}

async fn one(link: &Link, address: &str) -> Result<Option<Suppression>, StoreError> {
    let reader = link.reader(Level::Quorum);
    let found = reader.first::<Stored>(&link.statements.suppression, (address,));
    found.await?.map(read).transpose()
}

pub async fn page(
    link: &Link,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Suppression>, StoreError> {
    let (reader, statements) = (link.reader(Level::Quorum), &link.statements);
    let limit = limit as i32;
    let rows = match after {
        None => {
            reader
                .rows::<Stored>(&statements.first_suppressions, (limit,))
                .await?
        }
        Some(after) => {
            let values = (after, limit);
            reader
                .rows::<Stored>(&statements.next_suppressions, values)
                .await?
        }
    };
    rows.into_iter().map(read).collect()
}

pub async fn remove(link: &Link, address: &str) -> Result<bool, StoreError> {
    let answer = link.compare_and_set(&link.statements.remove_suppression, (address,));
    is_applied(&answer.await?)
}

fn read((address, cause, reason, at_ms): Stored) -> Result<Suppression, StoreError> {
    let cause = cause.parse();
    Ok(Suppression {
        address,
        cause: cause.map_err(|()| damaged("a suppressed address with an unknown word"))?,
        reason,
        at_ms: at_ms.max(0) as u64,
    })
}
