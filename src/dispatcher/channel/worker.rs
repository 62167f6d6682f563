//! The work of one channel: attempts side by side, and what follows from each, all durable before its ticket is settled.

use super::{
    ChannelMetrics,
    out::Ticket,
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
    },
    envelope::{Channel, Priority, is_expired},
    limits,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

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

/// A record that can be tried.
struct Open {
    consumed: Consumed,
    parcel: Parcel,
    ticket: Ticket,
}

/// A parcel, where it stood, and what became of it.
pub struct Tried {
    consumed: Consumed,
    parcel: Parcel,
    settled: Settled,
}

impl ChannelWorker {
    /// Tries records side by side, and hands each on when its own attempts have ended.
    pub async fn try_each(
        &self,
        records: Vec<(Consumed, Ticket)>,
        ended: UnboundedSender<(Tried, Ticket)>,
    ) -> Result<(), Stopped> {
        let open = self.read(records).await?;
        let admitted = self.admitted(&open).await;
        let tries = open.into_iter().zip(admitted);
        let tries = tries.map(|(open, is_admitted)| self.try_one(open, is_admitted));
        let mut tries: FuturesUnordered<_> = tries.collect();
        while let Some(tried) = tries.next().await {
            // One that is stopped is read again; the others go on. Who settles leaves last.
            if let Ok(tried) = tried {
                let _ = ended.send(tried);
            }
        }
        Ok(())
    }

    async fn try_one(&self, open: Open, is_admitted: bool) -> Result<(Tried, Ticket), Stopped> {
        let Open {
            consumed,
            parcel,
            ticket,
        } = open;
        let settled = match is_admitted {
            true => self.sender.send(&parcel).await?,
            false => settle::limited(&parcel.tried),
        };
        let tried = Tried {
            consumed,
            parcel,
            settled,
        };
        Ok((tried, ticket))
    }

    /// Settles what has ended, and then what ended meanwhile, until nobody tries any more or the process leaves.
    pub async fn settle_as_they_end(&self, mut ended: UnboundedReceiver<(Tried, Ticket)>) {
        let mut group = Vec::with_capacity(limits::CHANNEL_BATCH);
        while ended.recv_many(&mut group, limits::CHANNEL_BATCH).await > 0 {
            let (tried, tickets): (Vec<Tried>, Vec<Ticket>) = group.drain(..).unzip();
            if self.settle(&tried).await.is_err() {
                break;
            }
            tickets.into_iter().for_each(Ticket::settled);
        }
    }

    /// Returns when what follows is durable.
    async fn settle(&self, tried: &[Tried]) -> Result<(), Stopped> {
        self.log(tried).await?;
        self.try_again(tried).await?;
        for one in tried {
            if let Some(dead) = &one.settled.dead {
                self.set_aside(one, dead).await?;
            }
            self.count(one);
        }
        Ok(())
    }

    async fn read(&self, records: Vec<(Consumed, Ticket)>) -> Result<Vec<Open>, Stopped> {
        self.erasures.known(&self.patience).await?;
        let mut open = Vec::with_capacity(records.len());
        for (consumed, ticket) in records {
            if self.erasures.drops_record("channel", &consumed.record) {
                ticket.settled();
                continue;
            }
            match Parcel::read(&consumed.record) {
                Ok(parcel) => {
                    open.push(Open {
                        consumed,
                        parcel,
                        ticket,
                    });
                    continue;
                }
                Err(Unreadable::Malformed(cause, reason)) => {
                    self.outbox.dead_letter(&consumed, cause, &reason).await?;
                }
                Err(Unreadable::Unsupported(what)) => {
                    let topic = consumed.at.topic.suffix();
                    tracing::warn!(%topic, what, "record of a later release left alone");
                    self.metrics.unsupported.with_label_values(&[topic]).inc();
                }
            }
            ticket.settled();
        }
        Ok(open)
    }

    /// Which of these their users are to get; what was begun goes on.
    async fn admitted(&self, open: &[Open]) -> Vec<bool> {
        let now_ms = unix_ms();
        let wanted = open.iter().map(|Open { parcel, .. }| {
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

    async fn log(&self, tried: &[Tried]) -> Result<(), Stopped> {
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

    async fn try_again(&self, tried: &[Tried]) -> Result<(), Stopped> {
        let records = tried.iter().filter_map(|one| {
            let topic = one.settled.again?;
            let record = one.settled.tried.write(&one.consumed, self.channel);
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
    async fn set_aside(&self, one: &Tried, dead: &Dead) -> Result<(), Stopped> {
        let mut tried = one.settled.tried.clone();
        if !dead.devices.is_empty() {
            tried.open = Some(dead.devices.clone());
        }
        let mut record = tried.write(&one.consumed, self.channel);
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

    fn count(&self, one: &Tried) {
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
