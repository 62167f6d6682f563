//! One record per gateway that holds the user, in the partition of that gateway's shard. Where nobody can
//! say which gateways these are, one record that all of them read. Where only the memory can say it, a further
//! record for whoever looks the user up once the registry answers.

use crate::{
    bus::{Record, Target, Topic, TopicPartition},
    dispatcher::{metrics::DispatcherMetrics, routes::Routes},
    envelope::{Priority, Remembered, Routed},
    ids::UserId,
};
use std::collections::HashMap;

/// A frame that is to reach a user now.
pub struct Push {
    pub user: UserId,
    pub routed: Routed,
}

/// What a batch becomes.
#[derive(Default)]
pub struct Records {
    pub to_gateways: Vec<(Target, Record)>,
    /// What of it goes by memory: one record a user.
    pub remembered: Vec<(Target, Record)>,
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
pub async fn records(pushes: Vec<Push>, routes: &Routes, metrics: &DispatcherMetrics) -> Records {
    if pushes.is_empty() {
        return Records::default();
    }
    let mut index: HashMap<UserId, usize> = HashMap::new();
    let mut users = Vec::new();
    for push in &pushes {
        index.entry(push.user.clone()).or_insert_with(|| {
            users.push(push.user.clone());
            users.len() - 1
        });
    }
    let found = routes.find(&users).await;
    let mut to_gateways = Vec::with_capacity(pushes.len());
    let mut remembered: HashMap<usize, Remembered> = HashMap::new();
    for push in pushes {
        let at = index[&push.user];
        let result = match &found.shards[at] {
            None => {
                to_gateways.push(to_everyone(push.routed));
                "asked_everyone"
            }
            Some(shards) if shards.is_empty() => "absent",
            Some(shards) => {
                if found.remembered {
                    let one = remembered.entry(at).or_insert_with(|| Remembered {
                        user: push.user,
                        ids: Vec::new(),
                        shards: shards.to_vec(),
                    });
                    one.ids.push(push.routed.head.id);
                }
                let pushed = shards
                    .iter()
                    .map(|shard| to_shard(push.routed.clone(), *shard));
                to_gateways.extend(pushed);
                "pushed"
            }
        };
        metrics.pushes.with_label_values(&[result]).inc();
    }
    let remembered = remembered
        .into_values()
        .map(|one| (Target::Keyed(Topic::Delivery), one.to_record()));
    Records {
        to_gateways,
        remembered: remembered.collect(),
    }
}
