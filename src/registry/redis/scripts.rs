//! The Lua scripts. Each touches one key, so that the registry may be spread over a cluster one day.

use super::super::RegistryError;
use redis::{Pipeline, Script};
use std::sync::LazyLock;

/// `{code, text, number, number}`, see `scripts/common.lua`.
pub(super) type Reply = (String, String, u64, u64);

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {$(
        pub(super) const $name: &str =
            concat!(include_str!("scripts/common.lua"), include_str!($file));
    )*};
}

scripts! {
    ACQUIRE_GATEWAY = "scripts/acquire_gateway.lua";
    RENEW_GATEWAY = "scripts/renew_gateway.lua";
    RELEASE_GATEWAY = "scripts/release_gateway.lua";
    RAISE_GATEWAY = "scripts/raise_gateway.lua";
    FORGET_LIFE = "scripts/forget_life.lua";
    CLAIM_SHARD = "scripts/claim_shard.lua";
    RENEW_SHARD = "scripts/renew_shard.lua";
    RELEASE_SHARD = "scripts/release_shard.lua";
    FINISH_SHARD = "scripts/finish_shard.lua";
    RENEW_FINISHER = "scripts/renew_finisher.lua";
    RELEASE_FINISHER = "scripts/release_finisher.lua";
    LOCK_ORDERS = "scripts/lock_orders.lua";
    UNLOCK_ORDERS = "scripts/unlock_orders.lua";
    CLAIM_SEND = "scripts/claim_send.lua";
    RELEASE_SEND = "scripts/release_send.lua";
    SPEND = "scripts/spend.lua";
}

/// Adds a call of a lease script; its arguments follow by `.arg`. The text goes along: a lease is renewed
/// every few seconds, and a Redis that restarted has forgotten every script.
pub(super) fn eval<'a>(pipeline: &'a mut Pipeline, script: &str, key: &str) -> &'a mut Pipeline {
    pipeline.cmd("EVAL").arg(script).arg(1).arg(key)
}

/// These run once per user or rate: their text goes along once a pipeline. They answer as they say themselves.
const REMOVE_ENTRY: &str = include_str!("scripts/remove_entry.lua");
pub(super) const ADMIT: &str = include_str!("scripts/admit.lua");
pub(super) const DRAW: &str = include_str!("scripts/draw.lua");

static REMOVE_ENTRY_HASH: LazyLock<String> = LazyLock::new(|| hash(REMOVE_ENTRY));
pub(super) static ADMIT_HASH: LazyLock<String> = LazyLock::new(|| hash(ADMIT));
pub(super) static DRAW_HASH: LazyLock<String> = LazyLock::new(|| hash(DRAW));

fn hash(script: &str) -> String {
    Script::new(script).get_hash().to_owned()
}

/// A pipeline in which [`evalsha`] of this script works.
pub(super) fn loading(script: &str) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SCRIPT").arg("LOAD").arg(script).ignore();
    pipeline
}

/// Adds a call; its arguments follow by `.arg`.
pub(super) fn evalsha<'a>(pipeline: &'a mut Pipeline, hash: &str, key: &str) -> &'a mut Pipeline {
    pipeline.cmd("EVALSHA").arg(hash).arg(1).arg(key)
}

/// A pipeline in which [`remove_entry`] works.
pub(super) fn removals() -> Pipeline {
    loading(REMOVE_ENTRY)
}

/// Removes the field if its value is still `stamp`.
pub(super) fn remove_entry(pipeline: &mut Pipeline, key: &str, field: &str, stamp: u64) {
    evalsha(pipeline, &REMOVE_ENTRY_HASH, key)
        .arg(field)
        .arg(stamp)
        .ignore();
}

/// The epoch that was granted, or why none was.
pub(super) fn outcome((code, text, number, wait_ms): Reply) -> Result<u64, RegistryError> {
    match code.as_str() {
        "granted" => Ok(number),
        "lost" => Err(RegistryError::Lost { epoch: number }),
        "finishing" => Err(RegistryError::Finishing {
            finisher: text,
            wait_ms,
        }),
        "claimable" => Err(RegistryError::Claimable { in_ms: number }),
        _ => Err(RegistryError::Held {
            holder: text,
            until_ms: number,
            wait_ms,
        }),
    }
}
