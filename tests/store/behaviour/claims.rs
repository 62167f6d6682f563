//! Idempotency claims and API keys.

use super::Home;
use crate::build::*;
use herald::{
    dispatcher::store::{ApiKey, Idempotency},
    ids::NotificationId,
    limits,
};

pub async fn an_idempotency_key_is_claimed_once_until_it_is_done(home: &impl Home) {
    let store = home.open();
    let (first, other) = (NotificationId::generate(), NotificationId::generate());
    let claim = |id| store.claim("shop", "order-1", [1; 32], id, now_ms());
    assert_eq!(claim(first).await, Ok(Idempotency::Claimed));
    assert_eq!(claim(other).await, Ok(Idempotency::Pending(first)));
    store.finish_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(other).await, Ok(Idempotency::Done(first)));
}

pub async fn an_idempotency_key_with_another_body_conflicts(home: &impl Home) {
    let store = home.open();
    let id = NotificationId::generate();
    let claim = |body| store.claim("shop", "order-1", [body; 32], id, now_ms());
    assert_eq!(claim(1).await, Ok(Idempotency::Claimed));
    assert_eq!(claim(2).await, Ok(Idempotency::Conflict));
    store.finish_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(2).await, Ok(Idempotency::Conflict));
}

pub async fn an_idempotency_key_is_free_after_a_day(home: &impl Home) {
    let store = home.open();
    let (first, other) = (NotificationId::generate(), NotificationId::generate());
    let (start_ms, day_ms) = (now_ms(), limits::IDEMPOTENCY_S * 1000);
    let claim = |id, body, at_ms| store.claim("shop", "order-1", [body; 32], id, at_ms);
    assert_eq!(claim(first, 1, start_ms).await, Ok(Idempotency::Claimed));
    store.finish_claim("shop", "order-1").await.unwrap();
    let within = claim(other, 1, start_ms + day_ms - 1).await;
    assert_eq!(within, Ok(Idempotency::Done(first)));
    let after = claim(other, 2, start_ms + day_ms).await;
    assert_eq!(after, Ok(Idempotency::Claimed));
    let again = claim(first, 2, start_ms + day_ms + 1).await;
    assert_eq!(again, Ok(Idempotency::Pending(other)));
}

pub async fn a_claim_given_back_is_free_but_a_finished_one_stays(home: &impl Home) {
    let store = home.open();
    let (first, other) = (NotificationId::generate(), NotificationId::generate());
    let claim = |id| store.claim("shop", "order-1", [1; 32], id, now_ms());
    claim(first).await.unwrap();
    store.release_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(other).await, Ok(Idempotency::Claimed));
    store.finish_claim("shop", "order-1").await.unwrap();
    store.release_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(first).await, Ok(Idempotency::Done(other)));
}

pub async fn producers_do_not_share_idempotency_keys(home: &impl Home) {
    let store = home.open();
    for producer in ["shop", "bank"] {
        let id = NotificationId::generate();
        let claimed = store.claim(producer, "1", [1; 32], id, now_ms()).await;
        assert_eq!(claimed, Ok(Idempotency::Claimed), "{producer}");
    }
}

pub async fn an_api_key_is_found_by_its_hash(home: &impl Home) {
    let store = home.open();
    let key = |hash, producer: &str, admin, created_ms| ApiKey {
        producer: producer.into(),
        hash: [hash; 32],
        admin,
        created_ms,
    };
    let (shop, bank) = (key(2, "shop", false, 10), key(1, "bank", true, 20));
    for key in [&bank, &shop] {
        store.put_api_key(key.clone()).await.unwrap();
    }
    assert_eq!(store.api_key(&[1; 32]).await, Ok(Some(bank.clone())));
    assert_eq!(store.api_key(&[9; 32]).await, Ok(None));
    assert_eq!(store.api_keys().await, Ok(vec![shop, bank]));
}
