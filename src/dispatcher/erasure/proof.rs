//! What an erasure leaves: what was removed, and what the bus still holds until its time.

use crate::{
    bus::{RETRY_DELAYS_S, Topic},
    dispatcher::store::{Erasure, Removed},
};
use serde_json::{Value, json};

pub struct Proof {
    removed: Removed,
    ended_ms: u64,
    below: u64,
}

impl Proof {
    pub fn new(erasure: &Erasure, removed: Removed, ended_ms: u64) -> Proof {
        Proof {
            removed,
            ended_ms,
            below: erasure.below.value(),
        }
    }

    pub fn to_json(&self) -> String {
        json!({
            "erased_at": self.ended_ms,
            "erased_below": self.below,
            "removed": self.removed,
            "retained": { "bus": self.on_the_bus(), "redis": {
                "what": "claims on sends and counts of limits, which end by themselves",
                "until": self.ended_ms + DAY_MS,
            }},
        })
        .to_string()
    }

    /// From now on nothing of before is written to any of them.
    fn on_the_bus(&self) -> Vec<Value> {
        let topics = [
            Topic::Raw(crate::dispatcher::intake::GENERATION),
            Topic::InApp,
            Topic::Critical,
            Topic::Broadcast,
            Topic::Push,
            Topic::Email,
            Topic::Sms,
            Topic::FanOut,
            Topic::Delivery,
            Topic::Dlq,
        ];
        let retries = RETRY_DELAYS_S.map(Topic::Retry);
        let retained = topics.into_iter().chain(retries).map(|topic| {
            let until = self.ended_ms + topic.spec().retention_ms;
            json!({ "topic": topic.suffix(), "until": until })
        });
        retained.collect()
    }
}

const DAY_MS: u64 = 24 * 3_600_000;
