//! What went by memory while the registry was away: once it answers, its users are looked up after all, and those who
//! are at another gateway too get it there.
//!
//! Invariants:
//! * the look comes after the rows were stored, so by the ordering invariant whoever it does not find finds the rows
//!   by sync: it is the router's own look-up, late;
//! * what is owed stands on `delivery`: it outlives the dispatcher that routed, and any other may do it;
//! * a group of its own reads it: outcomes on the same topic do not wait for the registry.

use super::{TrackError, Tracker};
use crate::{
    bus::{Consumed, Record, Target, Topic},
    dispatcher::{
        metrics::DispatcherMetrics,
        outbox::Outbox,
        patience::{Patience, Stopped},
        router::asks_everyone,
        worker::{Refused, Work},
    },
    envelope::{EnvelopeError, Remembered},
    ids::UserId,
    limits,
    registry::{RegistryError, Route, SharedRegistry},
};
use async_trait::async_trait;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use thiserror::Error;

/// The look is to be taken again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LookError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Track(#[from] TrackError),
}

impl Tracker {
    /// Records for the gateways that hold a user and were not sent what went by memory.
    pub async fn look_again(
        &self,
        remembered: &[Remembered],
    ) -> Result<Vec<(Target, Record)>, LookError> {
        let users: Vec<UserId> = remembered.iter().map(|one| one.user.clone()).collect();
        let routes = self.registry.lookup(&users).await?;
        let mut records = Vec::new();
        for (one, routes) in remembered.iter().zip(routes) {
            let anywhere = routes.iter().any(Route::leads_nowhere_yet);
            // Whoever came to own one of the shards since has told its clients that they may be behind. That a device
            // at another gateway acknowledged it says nothing of the others there: it may have come by sync.
            let shards: BTreeSet<u32> = routes
                .iter()
                .filter_map(|route| route.shard)
                .filter(|shard| !one.shards.contains(shard))
                .collect();
            for id in &one.ids {
                let (result, more) = match anywhere || !shards.is_empty() {
                    true => {
                        let (nobody, shards) = (Vec::new(), shards.clone());
                        self.hop(*id, &one.user, nobody, anywhere, shards).await?
                    }
                    false => ("nobody_else", Vec::new()),
                };
                let counter = &self.metrics.second_looks;
                counter.with_label_values(&[result]).inc();
                records.extend(more);
            }
        }
        Ok(records)
    }
}

pub struct SecondLook {
    pub tracker: Arc<Tracker>,
    pub registry: SharedRegistry,
    pub outbox: Outbox,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
    /// What every gateway has to read is paced.
    pub pause: Duration,
}

#[async_trait]
impl Work for SecondLook {
    fn group(&self) -> &'static str {
        "second_look"
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Delivery]
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        self.pause = Duration::ZERO;
        let remembered = self.read(records).await?;
        if remembered.is_empty() {
            return Ok(Vec::new());
        }
        let look = || self.tracker.look_again(&remembered);
        let records = self.patience.until_done("second_look", look).await?;
        let asks = |(target, _): &&(Target, Record)| asks_everyone(target);
        let asked = records.iter().filter(asks).count();
        self.outbox.send(records).await?;
        let pause_s = asked as f64 / f64::from(limits::ASK_EVERYONE_PER_S);
        self.pause = Duration::from_secs_f64(pause_s);
        Ok(Vec::new())
    }

    fn pause(&self) -> Duration {
        self.pause
    }

    fn waits_for(&self) -> Option<SharedRegistry> {
        Some(self.registry.clone())
    }
}

impl SecondLook {
    async fn read(&self, records: &[Consumed]) -> Result<Vec<Remembered>, Stopped> {
        let mut remembered = Vec::new();
        for consumed in records.iter().filter(|one| Remembered::is(&one.record)) {
            match Remembered::read(&consumed.record) {
                Ok(one) => remembered.push(one),
                Err(error @ EnvelopeError::Malformed { .. }) => {
                    let reason = error.to_string();
                    self.outbox.dead_letter(consumed, "value", &reason).await?;
                }
                Err(error @ EnvelopeError::Unsupported { .. }) => {
                    let topic = consumed.at.topic.suffix();
                    tracing::warn!(%topic, %error, "record of a later release left alone");
                    self.metrics.unsupported.with_label_values(&[topic]).inc();
                }
            }
        }
        Ok(remembered)
    }
}
