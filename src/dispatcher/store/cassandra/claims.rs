//! Idempotency keys: claimed in two states, kept for 24 hours from the claim.
//!
//! Whoever claims first is told so by a condition, never by a look before: two dispatchers may ask at once.

use super::{
    link::{Link, contended, decode, is_applied},
    stream::{damaged, ms},
};
use crate::{
    dispatcher::store::{Idempotency, StoreError},
    ids::NotificationId,
    limits,
};
use uuid::Uuid;

/// A claim's time is judged by the clock of who asks; the row ends a little later.
const TTL_S: i32 = limits::IDEMPOTENCY_S as i32 + 3_600;

/// What stands under a key, as the answer to a condition that was not met gives it: applied, producer, key, then hash
/// of the body, time of the claim, done, id. Fields end one by one: a claim without its time has ended.
type Held = (
    bool,
    String,
    String,
    Option<Vec<u8>>,
    Option<i64>,
    Option<bool>,
    Option<Uuid>,
);

pub async fn claim(
    link: &Link,
    producer: &str,
    key: &str,
    body_hash: [u8; 32],
    id: NotificationId,
    now_ms: u64,
) -> Result<Idempotency, StoreError> {
    let alive_ms = ms(now_ms.saturating_sub(limits::IDEMPOTENCY_S * 1000));
    for _ in 0..limits::CASSANDRA_CAS_ATTEMPTS {
        let values = (producer, key, &body_hash[..], id.0, ms(now_ms), TTL_S);
        let answer = link.compare_and_set(&link.statements.claim, values).await?;
        if is_applied(&answer)? {
            return Ok(Idempotency::Claimed);
        }
        let held = decode::<Held>(answer)?.into_iter().next();
        let claimed_ms = held.as_ref().and_then(|(_, _, _, _, at_ms, ..)| *at_ms);
        if let Some(held) = held.filter(|_| claimed_ms.is_some_and(|at_ms| at_ms > alive_ms)) {
            return told(held, body_hash);
        }
        // It has ended, and is in the way.
        let values = (
            TTL_S,
            &body_hash[..],
            id.0,
            ms(now_ms),
            producer,
            key,
            claimed_ms,
        );
        let answer = link.compare_and_set(&link.statements.claim_again, values);
        if is_applied(&answer.await?)? {
            return Ok(Idempotency::Claimed);
        }
    }
    Err(contended("an idempotency key"))
}

pub async fn finish(link: &Link, producer: &str, key: &str) -> Result<(), StoreError> {
    let values = (TTL_S, producer, key);
    let answer = link.compare_and_set(&link.statements.finish_claim, values);
    answer.await.map(drop)
}

/// Only a claim that was not finished can be given back.
pub async fn release(link: &Link, producer: &str, key: &str) -> Result<(), StoreError> {
    let values = (producer, key);
    let answer = link.compare_and_set(&link.statements.release_claim, values);
    answer.await.map(drop)
}

fn told(held: Held, body_hash: [u8; 32]) -> Result<Idempotency, StoreError> {
    let (.., Some(held_hash), _, done, Some(id)) = held else {
        return Err(damaged("a claim without its id"));
    };
    let id = NotificationId(id);
    Ok(match (held_hash == body_hash, done) {
        (false, _) => Idempotency::Conflict,
        (true, Some(true)) => Idempotency::Done(id),
        (true, _) => Idempotency::Pending(id),
    })
}
