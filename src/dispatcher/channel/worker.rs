//! The loop of one channel: attempts side by side, then what follows from them, all durable before the commit.

use super::{
    ChannelMetrics,
    parcel::{Parcel, Unreadable},
    sender::Sender,
    settle::{self, Dead, Settled},
};
use crate::{
    bus::{Consumed, Record, Target, Topic},
    dispatcher::{
        erasure::Erasures,
        metrics::DispatcherMetrics,
        outbox::Outbox,
        patience::{Patience, Stopped},
        quota::{Quotas, Wanted},
        store::{Attempted, SendState, SharedStore},
        unix_ms,
        worker::{Refused, Work},
    },
    envelope::{Channel, Priority, is_expired},
    limits,
};
use async_trait::async_trait;
use futures::future::try_join_all;

pub struct ChannelWorker {
    pub channel: Channel,
    pub sender: Sender,
    pub quotas: Quotas,
    pub erasures: Erasures,
    pub store: SharedStore,
    pub outbox: Outbox,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
    pub channel_metrics: ChannelMetrics,
}

/// A parcel, where it stood, and what became of it.
struct Tried<'a> {
    consumed: &'a Consumed,
    parcel: Parcel,
    settled: Settled,
}

#[async_trait]
impl Work for ChannelWorker {
    fn group(&self) -> &'static str {
        self.channel.as_str()
    }

    fn topics(&self) -> Vec<Topic> {
        let topic = match self.channel {
            Channel::InApp => Topic::InApp,
            Channel::Push => Topic::Push,
            Channel::Email => Topic::Email,
            Channel::Sms => Topic::Sms,
        };
        vec![topic]
    }

    fn records_max(&self) -> usize {
        limits::CHANNEL_BATCH
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        let parcels = self.read(records).await?;
        let admitted = self.admitted(&parcels).await;
        let sender = &self.sender;
        let tries = parcels.into_iter().zip(admitted);
        let tries = tries.map(|((consumed, parcel), is_admitted)| async move {
            let settled = match is_admitted {
                true => sender.send(&parcel).await?,
                false => settle::limited(&parcel.tried),
            };
            Ok::<_, Stopped>(Tried {
                consumed,
                parcel,
                settled,
            })
        });
        let tried = try_join_all(tries).await?;
        self.log(&tried).await?;
        self.try_again(&tried).await?;
        for one in &tried {
            if let Some(dead) = &one.settled.dead {
                self.set_aside(one, dead).await?;
            }
            self.count(one);
        }
        Ok(Vec::new())
    }
}

impl ChannelWorker {
    async fn read<'a>(
        &self,
        records: &'a [Consumed],
    ) -> Result<Vec<(&'a Consumed, Parcel)>, Stopped> {
        self.erasures.known(&self.patience).await?;
        let mut parcels = Vec::with_capacity(records.len());
        for consumed in records {
            if self.erasures.drops_record("channel", &consumed.record) {
                continue;
            }
            match Parcel::read(&consumed.record) {
                Ok(parcel) => parcels.push((consumed, parcel)),
                Err(Unreadable::Malformed(cause, reason)) => {
                    self.outbox.dead_letter(consumed, cause, &reason).await?;
                }
                Err(Unreadable::Unsupported(what)) => {
                    let topic = consumed.at.topic.suffix();
                    tracing::warn!(%topic, what, "record of a later release left alone");
                    self.metrics.unsupported.with_label_values(&[topic]).inc();
                }
            }
        }
        Ok(parcels)
    }

    /// Which of these their users are to get; what was begun goes on.
    async fn admitted(&self, parcels: &[(&Consumed, Parcel)]) -> Vec<bool> {
        let now_ms = unix_ms();
        let wanted = parcels.iter().map(|(_, parcel)| {
            let is_over = is_expired(parcel.head.expires_ms, now_ms);
            (parcel.tried.attempts == 0 && !is_over).then_some(Wanted {
                channel: self.channel,
                user: &parcel.user,
                id: parcel.head.id,
                priority: parcel.head.priority,
                notification_type: &parcel.content.notification_type,
            })
        });
        let wanted: Vec<Option<Wanted<'_>>> = wanted.collect();
        self.quotas.admit(&wanted).await
    }

    async fn log(&self, tried: &[Tried<'_>]) -> Result<(), Stopped> {
        let at_ms = unix_ms();
        let attempts = tried.iter().map(|one| Attempted {
            id: one.parcel.head.id,
            user: one.parcel.user.clone(),
            channel: self.channel,
            state: one.settled.state,
            devices: one.settled.tried.sent,
            sending: one.settled.sending.clone(),
            at_ms,
        });
        let attempts = self.erasures.attempts_left(attempts.collect());
        if attempts.is_empty() {
            return Ok(());
        }
        self.patience
            .until_done("attempts", || self.store.record_attempts(&attempts))
            .await
    }

    async fn try_again(&self, tried: &[Tried<'_>]) -> Result<(), Stopped> {
        let records = tried.iter().filter_map(|one| {
            let topic = one.settled.again?;
            let record = one.settled.tried.write(one.consumed, self.channel);
            Some((Target::Keyed(topic), record))
        });
        let records: Vec<(Target, Record)> = records.collect();
        for (target, _) in &records {
            if let Target::Keyed(Topic::Retry(delay_s)) = target {
                let delay_s = delay_s.to_string();
                let labels = [self.channel.as_str(), delay_s.as_str()];
                self.channel_metrics
                    .retries
                    .with_label_values(&labels)
                    .inc();
            }
        }
        self.outbox.send(records).await
    }

    /// With its bytes as they came, and what was tried in its headers.
    async fn set_aside(&self, one: &Tried<'_>, dead: &Dead) -> Result<(), Stopped> {
        let mut tried = one.settled.tried.clone();
        if !dead.devices.is_empty() {
            tried.open = Some(dead.devices.clone());
        }
        let mut record = tried.write(one.consumed, self.channel);
        record.set("ended_ms", unix_ms().to_string());
        record.set("class", one.settled.sending.error.clone());
        record.set("said", dead.said.clone());
        let consumed = Consumed {
            record,
            ..one.consumed.clone()
        };
        self.outbox
            .dead_letter(&consumed, dead.cause, &dead.reason)
            .await
    }

    fn count(&self, one: &Tried<'_>) {
        let Settled { state, sending, .. } = &one.settled;
        let (channel, priority) = (self.channel.as_str(), one.parcel.head.priority.as_str());
        let result = match (&one.settled.again, state) {
            (Some(_), _) => "again",
            (None, SendState::Sent) => "sent",
            (None, _) => "failed",
        };
        let results = &self.channel_metrics.results;
        results
            .with_label_values(&[channel, priority, result])
            .inc();
        if one.settled.tried.over_budget && !one.parcel.tried.over_budget {
            self.sender.spending.waits(self.channel);
        }
        if *state == SendState::Failed {
            let labels = [channel, sending.error.as_str()];
            self.channel_metrics.failed.with_label_values(&labels).inc();
        }
        let is_critical = one.parcel.head.priority == Priority::Critical;
        let many = sending.attempts == limits::CRITICAL_ATTEMPTS_MANY;
        if is_critical && many && *state != SendState::Sent {
            let counter = &self.channel_metrics.many_attempts;
            counter.with_label_values(&[channel]).inc();
            tracing::error!(
                channel,
                id = %one.parcel.head.id,
                class = sending.error,
                "a critical notification was tried {} times",
                sending.attempts
            );
        }
    }
}
