//! One record per gateway that holds the user, in the partition of that gateway's shard.

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
        let shards = &shards[index[&push.user]];
        let result = if shards.is_empty() {
            "absent"
        } else {
            "pushed"
        };
        metrics.pushes.with_label_values(&[result]).inc();
        for &shard in shards {
            records.push(to_shard(push.routed.clone(), shard));
        }
    }
    records
}
