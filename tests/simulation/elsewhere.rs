//! What a dispatcher has that other tests try.

use herald::{
    bus::Consumed, config, dispatcher::quota::Quotas, ids::UserId, metrics::Metrics,
    registry::embedded::EmbeddedRegistry,
};
use std::{collections::BTreeSet, sync::Arc};

/// What is limited is tried where time passes by itself.
pub fn unlimited() -> Quotas {
    let (limits, registry) = (config::Limits::none(), EmbeddedRegistry::default());
    Quotas::new(
        limits,
        Default::default(),
        Arc::new(registry),
        &Metrics::default(),
    )
}

pub fn users_of(records: &[Consumed]) -> Vec<UserId> {
    let keys = records.iter().map(|one| one.record.key.clone());
    let users: BTreeSet<UserId> = keys
        .map(|key| {
            let text = std::str::from_utf8(&key).expect("a user's key");
            text.parse().expect("a user's key")
        })
        .collect();
    users.into_iter().collect()
}
