//! One record per gateway that holds the user, in the partition of that gateway's shard. Where nobody can
//! say which gateways these are, one record that all of them read.

use crate::{
    bus::{Record, Target, Topic, TopicPartition},
    dispatcher::{metrics::DispatcherMetrics, routes::Routes},
    envelope::{Priority, Routed},
    ids::UserId,
};
use std::collections::HashMap;

/// A frame that is to reach a user now.
pub struct Push {
    pub user: UserId,
    pub routed: Routed,
}

/// Where a routed record goes: critical has a topic of its own, read first by the gateways.
pub fn to_shard(routed: Routed, shard: u32) -> (Target, Record) {
    let topic = match routed.head.priority {
        Priority::Critical => Topic::Critical,
        _ => Topic::InApp,
    };
    let at = TopicPartition {
        topic,
        partition: shard,
    };
    (Target::Exact(at), routed.into_record())
}

/// Every gateway reads it; those that do not hold the user say nothing.
pub fn to_everyone(routed: Routed) -> (Target, Record) {
    let at = TopicPartition {
        topic: Topic::Broadcast,
        partition: 0,
    };
    (Target::Exact(at), routed.into_record())
}

pub fn asks_everyone(target: &Target) -> bool {
    matches!(target, Target::Exact(at) if at.topic == Topic::Broadcast)
}

/// Looks all users of the batch up at once. A user nobody holds gets no record: the row is in the inbox.
pub async fn records(
    pushes: Vec<Push>,
    routes: &Routes,
    metrics: &DispatcherMetrics,
) -> Vec<(Target, Record)> {
    if pushes.is_empty() {
        return Vec::new();
    }
    let mut index: HashMap<UserId, usize> = HashMap::new();
    let mut users = Vec::new();
    for push in &pushes {
        index.entry(push.user.clone()).or_insert_with(|| {
            users.push(push.user.clone());
            users.len() - 1
        });
    }
    let shards = routes.shards(&users).await;
    let mut records = Vec::with_capacity(pushes.len());
    for push in pushes {
        let result = match &shards[index[&push.user]] {
            None => {
                records.push(to_everyone(push.routed));
                "asked_everyone"
            }
            Some(shards) if shards.is_empty() => "absent",
            Some(shards) => {
                let pushed = shards
                    .iter()
                    .map(|shard| to_shard(push.routed.clone(), *shard));
                records.extend(pushed);
                "pushed"
            }
        };
        metrics.pushes.with_label_values(&[result]).inc();
    }
    records
}
