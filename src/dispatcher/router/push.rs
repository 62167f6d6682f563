//! One record per gateway that holds the user, in the partition of that gateway's shard. Where nobody can
//! say which gateways these are, one record that all of them read. Where only the memory can say it, a further
//! record for whoever looks the user up once the registry answers. A user who had enough for now gets none.

use crate::{
    bus::{Record, Target, Topic, TopicPartition},
    dispatcher::{
        metrics::DispatcherMetrics,
        quota::{Quotas, Wanted},
        routes::{Found, Routes},
        store::Attempted,
    },
    envelope::{Channel, Priority, Remembered, Routed},
    ids::UserId,
};
use std::collections::HashMap;

/// A frame that is to reach a user now.
pub struct Push {
    pub user: UserId,
    /// Of a notification.
    pub notification_type: Option<String>,
    pub routed: Routed,
}

/// What a batch becomes.
#[derive(Default)]
pub struct Records {
    pub to_gateways: Vec<(Target, Record)>,
    /// What of it goes by memory: one record a user.
    pub remembered: Vec<(Target, Record)>,
    /// What is not pushed, for the delivery log.
    pub limited: Vec<Attempted>,
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
    quotas: &Quotas,
    metrics: &DispatcherMetrics,
) -> Records {
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
    let (pushes, limited) = within_limits(pushes, &index, &found, quotas, metrics).await;
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
        limited,
    }
}

/// Only who may be connected is counted for: the others see it when they ask.
async fn within_limits(
    mut pushes: Vec<Push>,
    index: &HashMap<UserId, usize>,
    found: &Found,
    quotas: &Quotas,
    metrics: &DispatcherMetrics,
) -> (Vec<Push>, Vec<Attempted>) {
    let wanted = pushes.iter().map(|push| {
        let shards = found.shards[index[&push.user]].as_ref();
        let may_be_here = shards.is_none_or(|shards| !shards.is_empty());
        push.wanted().filter(|_| may_be_here)
    });
    let wanted: Vec<Option<Wanted<'_>>> = wanted.collect();
    let admitted = quotas.admit(&wanted).await;
    let limited = wanted
        .iter()
        .zip(&admitted)
        .filter(|(_, admitted)| !**admitted)
        .filter_map(|(one, _)| one.as_ref().map(Wanted::limited));
    let limited: Vec<Attempted> = limited.collect();
    if !limited.is_empty() {
        let mut admitted = admitted.into_iter();
        pushes.retain(|_| admitted.next().unwrap_or(true));
        let counter = metrics.pushes.with_label_values(&["limited"]);
        counter.inc_by(limited.len() as u64);
    }
    (pushes, limited)
}

impl Push {
    /// `None` of what no limit is for.
    fn wanted(&self) -> Option<Wanted<'_>> {
        Some(Wanted {
            channel: Channel::InApp,
            user: &self.user,
            id: self.routed.head.id,
            priority: self.routed.head.priority,
            notification_type: self.notification_type.as_deref()?,
        })
    }
}
