//! What becomes of a record whose time on a delay topic is over.
//!
//! Invariants:
//! * what a device acknowledged is not sent, and not tried again, by any other channel of its chain;
//! * what a later notification of its collapse key replaced is not sent any more: nobody is shown it to acknowledge it;
//! * while the outcomes that may hold the acknowledgement are not accepted yet, a link waits; at most as long again as
//!   it was to wait anyway, so that a gateway that never answers holds nobody's fallback for ever;
//! * a dispatcher that has just started may be the first that gateways find for a while: what they hold comes first;
//! * nothing leaves in the quiet hours of its user, a retry neither, or once its user has switched it off.

use super::{AFTER_S, lags::Lags};
use crate::{
    bus::{Consumed, Record, SharedBus, Target, Topic, TopicPartition, partition_of, shard_group},
    dispatcher::{
        channel::{ChannelMetrics, Parcel},
        patience::{Patience, Stopped},
        preferences::{Mandatory, Preferences},
        retry,
        store::{Attempted, PENDING, SendState, Sending, SharedStore, StoreError, state},
        unix_ms,
    },
    envelope::{Channel, Fate, Priority},
    ids::UserId,
    registry::SharedRegistry,
};
use futures::future::try_join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Unix ms at which its time was over first: set when it waits longer.
const DUE_MS: &str = "due_ms";

pub struct Check {
    pub mandatory: Mandatory,
    pub store: SharedStore,
    pub registry: SharedRegistry,
    pub bus: SharedBus,
    pub lags: Lags,
    /// By then gateways have told what they held while no dispatcher was there.
    pub settled_at: Instant,
    pub patience: Patience,
    pub metrics: ChannelMetrics,
}

/// A record whose time is over.
pub struct Due {
    record: Record,
    topic: Topic,
    channel: Channel,
    parcel: Parcel,
    /// Of a link of a chain.
    after_s: Option<u32>,
    due_ms: u64,
}

/// What the store knows of the notification.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// By a later one of its collapse key.
    Replaced,
    Acknowledged,
    /// No gateway said what became of it in-app.
    Unanswered,
    Unacknowledged,
}

impl Seen {
    fn is_the_end(self) -> bool {
        matches!(self, Seen::Replaced | Seen::Acknowledged)
    }
}

impl Due {
    /// `None`: it can't be read, which its channel's worker will see.
    pub fn read(consumed: &Consumed) -> Option<Due> {
        let number = |header| {
            let text = consumed.record.header_text(header)?;
            text.parse::<u64>().ok()
        };
        let delay_s = match consumed.at.topic {
            Topic::Retry(delay_s) => delay_s,
            _ => 0,
        };
        let due_ms = consumed.appended_ms + u64::from(delay_s) * 1000;
        Some(Due {
            record: consumed.record.clone(),
            topic: Parcel::topic(&consumed.record)?,
            channel: Parcel::channel(&consumed.record)?,
            parcel: Parcel::read(&consumed.record).ok()?,
            after_s: number(AFTER_S).and_then(|after_s| u32::try_from(after_s).ok()),
            due_ms: number(DUE_MS).unwrap_or(due_ms),
        })
    }

    fn is_in_chain(&self) -> bool {
        self.after_s.is_some()
    }

    /// Another attempt, of what has begun.
    fn is_retry(&self) -> bool {
        self.parcel.tried.attempts > 0
    }

    fn may_wait(&self, now_ms: u64) -> bool {
        let after_s = self.after_s.filter(|_| !self.is_retry());
        after_s.is_some_and(|after_s| now_ms < self.due_ms + u64::from(after_s) * 1000)
    }

    /// On its way, with the channel's topic.
    fn begin(self) -> (Target, Record) {
        (Target::Keyed(self.topic), self.record)
    }

    fn wait(mut self) -> (Target, Record) {
        self.record.set(DUE_MS, self.due_ms.to_string());
        let topic = retry::aside(Duration::ZERO);
        (Target::Keyed(topic), self.record)
    }

    fn hold(self, quiet: Duration) -> (Target, Record) {
        (Target::Keyed(retry::towards(quiet)), self.record)
    }

    /// For the log: why it is not sent, or not yet.
    fn told(&self, unsent: SendState, why: &str, at_ms: u64) -> Attempted {
        let tried = &self.parcel.tried;
        Attempted {
            id: self.parcel.head.id,
            user: self.parcel.user.clone(),
            channel: self.channel,
            state: match tried.sent {
                0 => unsent,
                _ => SendState::Sent,
            },
            devices: tried.sent,
            sending: Sending {
                attempts: tried.attempts,
                began_ms: tried.began_ms,
                error: why.into(),
                reference: String::new(),
            },
            at_ms,
        }
    }
}

impl Check {
    /// Records that follow: to the channels, or to be looked at again. What is not to be sent ends here, visibly.
    pub async fn decide(&self, due: Vec<Due>) -> Result<Vec<(Target, Record)>, Stopped> {
        let users: Vec<UserId> = due.iter().map(|one| one.parcel.user.clone()).collect();
        // Before anything is looked at: what was not there then may have come in between.
        let is_settling = Instant::now() < self.settled_at;
        let (seen, wishes) = tokio::try_join!(
            self.patience.until_done("fallback", || {
                try_join_all(due.iter().map(|one| self.seen(one)))
            }),
            self.patience
                .until_done("preferences", || self.store.preferences(&users)),
        )?;
        let now_ms = unix_ms();
        let looked_for = due.iter().zip(&seen);
        let looked_for =
            looked_for.filter(|(one, seen)| !seen.is_the_end() && one.may_wait(now_ms));
        let behind = self.behind(looked_for.collect()).await;
        let (mut records, mut log) = (Vec::new(), Vec::new());
        for ((one, seen), wishes) in due.into_iter().zip(seen).zip(wishes) {
            let (channel, is_known) = (one.channel, one.is_retry() || !one.is_in_chain());
            let quiet = self.quiet(&one, &wishes, now_ms);
            let result = if seen == Seen::Replaced {
                log.push(one.told(SendState::Skipped, "collapsed", now_ms));
                "collapsed"
            } else if seen == Seen::Acknowledged {
                log.push(one.told(SendState::Skipped, "acknowledged", now_ms));
                "acknowledged"
            } else if self.is_off(&one, &wishes) {
                log.push(one.told(SendState::Skipped, "switched_off", now_ms));
                "switched_off"
            } else if let Some(quiet) = quiet {
                log.push(one.told(SendState::Pending, "quiet_hours", now_ms));
                records.push(one.hold(quiet));
                "quiet"
            } else if one.may_wait(now_ms) && (is_settling || behind.holds(&one.parcel.user, seen))
            {
                records.push(one.wait());
                "waits"
            } else {
                records.push(one.begin());
                if is_known {
                    continue;
                }
                "begins"
            };
            let counter = &self.metrics.fallbacks;
            counter.with_label_values(&[channel.as_str(), result]).inc();
        }
        if !log.is_empty() {
            self.patience
                .until_done("attempts", || self.store.record_attempts(&log))
                .await?;
        }
        Ok(records)
    }

    fn is_mandatory(&self, one: &Due) -> bool {
        let parcel = &one.parcel;
        let of_type = &parcel.content.notification_type;
        self.mandatory.is(parcel.head.priority, of_type)
    }

    fn is_off(&self, one: &Due, wishes: &Preferences) -> bool {
        let of_type = &one.parcel.content.notification_type;
        !self.is_mandatory(one) && !wishes.allow(of_type, one.channel)
    }

    fn quiet(&self, one: &Due, wishes: &Preferences, now_ms: u64) -> Option<Duration> {
        match self.is_mandatory(one) {
            true => None,
            false => wishes.quiet_for(now_ms),
        }
    }

    async fn seen(&self, one: &Due) -> Result<Seen, StoreError> {
        if self.is_replaced(one).await? {
            return Ok(Seen::Replaced);
        }
        if !one.is_in_chain() {
            return Ok(Seen::Unacknowledged);
        }
        let (id, user) = (one.parcel.head.id, &one.parcel.user);
        let states = self.store.delivery(id, Some(user), Channel::COUNT).await?;
        let in_app = states.iter().find(|known| known.channel == Channel::InApp);
        let is = |fate| in_app.is_some_and(|known| known.state == state(fate));
        Ok(if is(Fate::Acked) || is(Fate::Read) {
            Seen::Acknowledged
        } else if in_app.is_some_and(|known| known.state == PENDING) {
            Seen::Unanswered
        } else {
            Seen::Unacknowledged
        })
    }

    /// Its row is left out of what begins with it.
    async fn is_replaced(&self, one: &Due) -> Result<bool, StoreError> {
        let (parcel, store) = (&one.parcel, &self.store);
        if parcel.content.collapse_key.is_none() {
            return Ok(false);
        }
        let Some(row) = store.row(&parcel.user, parcel.head.id).await? else {
            return Ok(false);
        };
        let from = store.rows_after(&parcel.user, Some(row.prev), 1).await?;
        let is_there = from.rows.first().is_some_and(|first| first.pos <= row.pos);
        Ok(from.at_quorum && from.covered >= row.pos && !is_there)
    }

    /// Where accepted outcomes lag, of what these are waiting for.
    async fn behind(&self, waiting: Vec<(&Due, &Seen)>) -> Behind {
        let mut behind = Behind::default();
        if waiting.is_empty() {
            return behind;
        }
        behind.partitions = self.bus.partitions(Topic::Delivery).await.unwrap_or(1);
        let users = waiting.iter().map(|(one, _)| &one.parcel.user);
        let partitions: BTreeSet<u32> = users.map(|user| behind.partition(user)).collect();
        for partition in partitions {
            let at = TopicPartition {
                topic: Topic::Delivery,
                partition,
            };
            if self.lags.lags("tracker", at).await {
                behind.delivery.insert(partition);
            }
        }
        let unanswered = waiting
            .iter()
            .filter(|(_, seen)| **seen == Seen::Unanswered);
        let unanswered =
            unanswered.map(|(one, _)| (one.parcel.user.clone(), one.parcel.head.priority));
        let unanswered: BTreeMap<UserId, Priority> = unanswered.collect();
        behind.users = self.unread(unanswered).await;
        behind
    }

    /// Those whose gateway has not got through what stands in its shard.
    async fn unread(&self, users: BTreeMap<UserId, Priority>) -> BTreeSet<UserId> {
        if users.is_empty() {
            return BTreeSet::new();
        }
        let names: Vec<UserId> = users.keys().cloned().collect();
        let Ok(routes) = self.registry.lookup(&names).await else {
            return BTreeSet::new();
        };
        let mut unread = BTreeSet::new();
        for ((user, priority), routes) in users.into_iter().zip(routes) {
            let topic = match priority {
                Priority::Critical => Topic::Critical,
                _ => Topic::InApp,
            };
            for partition in routes.iter().filter_map(|route| route.shard) {
                let at = TopicPartition { topic, partition };
                if self.lags.lags(&shard_group(partition), at).await {
                    unread.insert(user.clone());
                }
            }
        }
        unread
    }
}

/// Where outcomes are known to be on their way.
#[derive(Default)]
struct Behind {
    /// Of `delivery`.
    partitions: u32,
    delivery: BTreeSet<u32>,
    users: BTreeSet<UserId>,
}

impl Behind {
    fn partition(&self, user: &UserId) -> u32 {
        partition_of(user.as_str().as_bytes(), self.partitions)
    }

    fn holds(&self, user: &UserId, seen: Seen) -> bool {
        self.delivery.contains(&self.partition(user))
            || (seen == Seen::Unanswered && self.users.contains(user))
    }
}
