//! From `raw` to the gateways: store the rows, then look the users up, then produce.
//!
//! Invariants:
//! * rows of a batch are stored before any of its users is looked up: a client that connects meanwhile
//!   finds the row in its sync, one that was connected before is found by the look-up;
//! * a record's row and position depend on nothing but the record; clocks decide only about pushing;
//! * nothing is committed before its row, its channel records and its in-app records are durable;
//! * a record whose position went back in the partition of its key holds that partition, and no other;
//! * what goes by memory, the registry being away, is noted on `delivery` first: once the registry answers, its users
//!   are looked up after all (`tracker::second_look`).

mod parse;
mod plan;
mod push;

use super::{
    Rules,
    erasure::Erasures,
    metrics::DispatcherMetrics,
    outbox::Outbox,
    patience::{Patience, Stopped},
    preferences::Preferences,
    quota::Quotas,
    routes::Routes,
    store::{self, Appended, NewRow, RowKind, SharedStore, WentBack},
    unix_ms,
    worker::{Refused, Work},
};
use crate::{
    bus::{Consumed, Record, Target, Topic},
    envelope::{Channel, Fate, Outcome, is_expired},
    ids::{Region, UserId},
    limits,
    position::Position,
    proto::client::frames::{self, Place},
};
use async_trait::async_trait;
use bytes::Bytes;
use parse::{Parsed, Unroutable, What, is_erasure, parse};
use plan::Plan;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

pub use push::{Push, asks_everyone, to_everyone, to_shard};

pub struct Router {
    pub store: SharedStore,
    pub routes: Routes,
    pub outbox: Outbox,
    pub patience: Patience,
    pub metrics: DispatcherMetrics,
    pub region: Region,
    /// Those beside in-app that reach anybody.
    pub channels: BTreeSet<Channel>,
    pub rules: Rules,
    pub quotas: Quotas,
    pub erasures: Erasures,
    /// What every gateway has to read is paced; what waits for it waits on the bus.
    pub pause: Duration,
    /// Partitions of `raw`, once they are known.
    pub partitions: Option<u32>,
}

/// A parsed record with the bytes it came in.
struct Taken<'a> {
    parsed: Parsed,
    consumed: &'a Consumed,
    /// What the store said of its row, where it makes one.
    row: Option<Appended>,
    plan: Plan,
    /// What its row keeps.
    value: Bytes,
}

#[async_trait]
impl Work for Router {
    fn group(&self) -> &'static str {
        "router"
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Raw(super::intake::GENERATION)]
    }

    fn assigned(&mut self) {
        // Another router may have stored rows of these partitions meanwhile.
        self.store.forget_heads();
        self.partitions = None;
    }

    async fn batch(&mut self, records: &[Consumed]) -> Result<Vec<Refused>, Stopped> {
        let started = Instant::now();
        let mut taken = self.take(records).await?;
        self.plan(&mut taken).await?;
        self.show(&mut taken).await?;
        let refused = self.store_rows(&mut taken).await?;
        // The log of what is pending need not come first: it never overwrites what a gateway reports.
        let ((), asked) = tokio::try_join!(self.enter_pending(&taken), self.send(&taken))?;
        let pause_s = asked as f64 / f64::from(limits::ASK_EVERYONE_PER_S);
        self.pause = Duration::from_secs_f64(pause_s);

        let now_ms = unix_ms();
        for one in &taken {
            let age_ms = now_ms.saturating_sub(one.parsed.appended_ms);
            self.metrics.routed_s.observe(age_ms as f64 / 1000.0);
        }
        self.metrics.router_batches.inc();
        self.metrics.router_records.inc_by(records.len() as u64);
        self.metrics
            .router_batch_s
            .observe(started.elapsed().as_secs_f64());
        Ok(refused)
    }

    fn pause(&self) -> Duration {
        self.pause
    }
}

impl Router {
    async fn take<'a>(&mut self, records: &'a [Consumed]) -> Result<Vec<Taken<'a>>, Stopped> {
        let partitions = match self.partitions {
            Some(partitions) => partitions,
            None => {
                // Whoever had these partitions before may just have read an order.
                self.erasures.look(&self.patience).await?;
                self.outbox.partitions(self.topics()[0]).await?
            }
        };
        self.partitions = Some(partitions);
        self.begin_erasures(records, partitions).await?;
        let mut taken = Vec::with_capacity(records.len());
        for consumed in records.iter().filter(|one| !is_erasure(one)) {
            match parse(consumed, partitions) {
                Ok(parsed) if self.is_erased(&parsed) => {}
                Ok(parsed) => taken.push(Taken {
                    parsed,
                    consumed,
                    row: None,
                    plan: Plan::default(),
                    value: consumed.record.value.clone(),
                }),
                Err(problem) => self.leave(consumed, problem).await?,
            }
        }
        Ok(taken)
    }

    /// Before anything else of the batch: what is before an order in it is not stored either.
    async fn begin_erasures(&self, records: &[Consumed], partitions: u32) -> Result<(), Stopped> {
        for consumed in records.iter().filter(|one| is_erasure(one)) {
            match parse::erasure(consumed, partitions) {
                Ok(erasure) => {
                    let begun = self.erasures.begin(erasure, &self.patience, unix_ms());
                    begun.await?;
                }
                Err(problem) => self.leave(consumed, problem).await?,
            }
        }
        Ok(())
    }

    fn is_erased(&self, parsed: &Parsed) -> bool {
        let pos = Some(parsed.pos);
        self.erasures.drops("raw", &parsed.user, &parsed.head, pos)
    }

    async fn leave(&self, consumed: &Consumed, problem: Unroutable) -> Result<(), Stopped> {
        match problem {
            Unroutable::Malformed(cause, reason) => {
                self.outbox.dead_letter(consumed, cause, &reason).await
            }
            Unroutable::Unsupported(what) => {
                let topic = consumed.at.topic.suffix();
                tracing::warn!(%topic, what, "record of a later release left alone");
                self.metrics.unsupported.with_label_values(&[topic]).inc();
                Ok(())
            }
        }
    }

    /// What is refused is taken out, and so is what follows it in its partition.
    async fn store_rows(&self, taken: &mut Vec<Taken<'_>>) -> Result<Vec<Refused>, Stopped> {
        let mut refused = Vec::new();
        loop {
            let (makers, rows): (Vec<usize>, Vec<NewRow>) = taken
                .iter()
                .enumerate()
                .filter_map(|(at, one)| Some((at, one.parsed.row(&one.value)?)))
                .unzip();
            if rows.is_empty() {
                return Ok(refused);
            }
            let appended = self.patience.until_done("store", || async {
                store::or_went_back(self.store.append(rows.clone()).await)
            });
            match appended.await? {
                Ok(answers) => {
                    self.enter_answers(taken, makers, &rows, answers);
                    return Ok(refused);
                }
                Err(went_back) => {
                    let consumed = taken[makers[went_back.row]].consumed;
                    taken.retain(|one| {
                        one.consumed.at != consumed.at || one.consumed.offset < consumed.offset
                    });
                    refused.push(self.refuse(consumed, &went_back));
                }
            }
        }
    }

    fn refuse(&self, consumed: &Consumed, why: &WentBack) -> Refused {
        let counter = &self.metrics.refused;
        counter
            .with_label_values(&[consumed.at.topic.suffix()])
            .inc();
        Refused {
            at: consumed.at,
            offset: consumed.offset,
            why: why.to_string(),
        }
    }

    fn enter_answers(
        &self,
        taken: &mut [Taken<'_>],
        makers: Vec<usize>,
        rows: &[NewRow],
        answers: Vec<Appended>,
    ) {
        for ((at, row), appended) in makers.into_iter().zip(rows).zip(answers) {
            let kind = match row.kind {
                RowKind::Notification => "notification",
                RowKind::Read => "read",
            };
            let result = match appended {
                Appended::Stored { .. } => "stored",
                Appended::Existing { .. } => "existing",
            };
            self.metrics.rows.with_label_values(&[kind, result]).inc();
            taken[at].row = Some(appended);
        }
    }

    /// What each notification goes by. Preferences are read once for the batch.
    async fn plan(&self, taken: &mut [Taken<'_>]) -> Result<(), Stopped> {
        let is_notification = |one: &&Taken<'_>| matches!(one.parsed.what, What::Notification(_));
        let users: BTreeSet<UserId> = taken
            .iter()
            .filter(is_notification)
            .map(|one| one.parsed.user.clone())
            .collect();
        if users.is_empty() {
            return Ok(());
        }
        let users: Vec<UserId> = users.into_iter().collect();
        let wishes = self
            .patience
            .until_done("preferences", || self.store.preferences(&users))
            .await?;
        let wishes: HashMap<UserId, Preferences> = users.into_iter().zip(wishes).collect();
        let (now_ms, nothing) = (unix_ms(), Preferences::default());
        for one in taken {
            let wishes = wishes.get(&one.parsed.user).unwrap_or(&nothing);
            one.plan = Plan::make(&one.parsed, &self.rules, &self.channels, wishes, now_ms);
        }
        Ok(())
    }

    /// Puts the words of the templates in. Where that fails, what was sent is kept and shown, and `dlq` says why.
    async fn show(&self, taken: &mut [Taken<'_>]) -> Result<(), Stopped> {
        for one in taken {
            match one.plan.shown(&one.parsed, &self.rules.templates) {
                Ok(None) => {}
                Ok(Some((content, value))) => {
                    one.parsed.what = What::Notification(content);
                    one.value = value;
                }
                Err(error) => self.outbox.unshown(one.consumed, &error).await?,
            }
        }
        Ok(())
    }

    /// Every channel that begins is visibly `pending` from here on, in-app by its row; of the others the log says why they
    /// don't. Later states are never overwritten.
    async fn enter_pending(&self, taken: &[Taken<'_>]) -> Result<(), Stopped> {
        let at_ms = unix_ms();
        let (mut pending, mut attempts) = (Vec::new(), Vec::new());
        for one in taken.iter().filter(|one| !one.is_repeat()) {
            let (id, user) = (one.parsed.head.id, &one.parsed.user);
            let links = one.plan.links.iter();
            let links = links.filter(|link| link.channel != Channel::InApp);
            pending.extend(links.map(|link| (id, user.clone(), link.channel)));
            attempts.extend(one.plan.attempts(&one.parsed, at_ms));
        }
        if !pending.is_empty() {
            self.patience
                .until_done("pending", || self.store.pending(&pending, at_ms))
                .await?;
        }
        if !attempts.is_empty() {
            self.patience
                .until_done("attempts", || self.store.record_attempts(&attempts))
                .await?;
        }
        Ok(())
    }

    /// Looks the users up and produces what follows from the batch. Answers how many records every gateway
    /// has to read.
    async fn send(&self, taken: &[Taken<'_>]) -> Result<usize, Stopped> {
        let mut out = self.channel_records(taken);
        let pushes = self.pushes(taken).await?;
        let pushed = push::records(pushes, &self.routes, &self.quotas, &self.metrics).await;
        if !pushed.limited.is_empty() {
            self.patience
                .until_done("attempts", || self.store.record_attempts(&pushed.limited))
                .await?;
        }
        // Nothing goes by memory that nobody would look after.
        self.outbox.send(pushed.remembered).await?;
        out.extend(pushed.to_gateways);
        let asks = |(target, _): &&(Target, Record)| push::asks_everyone(target);
        let asked = out.iter().filter(asks).count();
        self.outbox.send(out).await?;
        Ok(asked)
    }

    /// Records for the push, email and sms workers. Their claims drop what is repeated.
    fn channel_records(&self, taken: &[Taken<'_>]) -> Vec<(Target, Record)> {
        let fresh = taken.iter().filter(|one| !one.is_repeat());
        fresh
            .flat_map(|one| one.plan.records(&one.parsed, &one.consumed.record))
            .collect()
    }

    /// What of the batch goes to gateways now.
    async fn pushes(&self, taken: &[Taken<'_>]) -> Result<Vec<Push>, Stopped> {
        let now_ms = unix_ms();
        let mut seen = HashSet::new();
        let mut pushes = Vec::new();
        let mut expired = Vec::new();
        for one in taken {
            let Some(appended) = &one.row else { continue };
            let (pos, prev, written) = match *appended {
                Appended::Stored { prev } => (one.parsed.pos, prev, false),
                // Read again: whoever did before may have died between the records for two gateways, and one of
                // them having written it says nothing of the other.
                Appended::Existing { pos, prev, .. } if pos == one.parsed.pos => (pos, prev, false),
                Appended::Existing { pos, prev, written } => (pos, prev, written),
            };
            let head = &one.parsed.head;
            let result = if written {
                "written_before"
            } else if is_expired(head.expires_ms, now_ms) {
                expired.push(one.parsed.expired_outcome(pos, now_ms));
                "expired"
            } else if matches!(one.parsed.what, What::Notification(_)) && !one.plan.goes_in_app() {
                "switched_off"
            } else if !seen.insert((head.id, one.parsed.user.clone())) {
                "repeated"
            } else {
                pushes.push(one.parsed.push(self.region.user_stream(), pos, prev));
                continue;
            };
            self.metrics.pushes.with_label_values(&[result]).inc();
        }
        if !expired.is_empty() {
            self.patience
                .until_done("expired", || self.store.record(&expired))
                .await?;
        }
        Ok(pushes)
    }
}

impl Taken<'_> {
    /// The row stands under another record: that one did, or does, what is to be done.
    fn is_repeat(&self) -> bool {
        matches!(&self.row, Some(Appended::Existing { pos, .. }) if *pos != self.parsed.pos)
    }
}

impl Parsed {
    fn push(&self, stream: String, pos: Position, prev: Position) -> Push {
        let place = Place {
            stream: &stream,
            pos,
            prev,
        };
        let frame = match &self.what {
            What::Read(ids) => frames::read(ids, place),
            What::Notification(content) => {
                frames::notification(self.head.id, place, self.head.created_ms, content, false)
            }
        };
        let collapse_key = match &self.what {
            What::Notification(content) => content.collapse_key.clone(),
            What::Read(_) => None,
        };
        Push {
            user: self.user.clone(),
            notification_type: match &self.what {
                What::Notification(content) => Some(content.notification_type.clone()),
                What::Read(_) => None,
            },
            routed: crate::envelope::Routed {
                head: self.head.clone(),
                user: Some(self.user.clone()),
                stream,
                pos,
                prev,
                collapse_key,
                answered: Vec::new(),
                frame,
            },
        }
    }

    fn expired_outcome(&self, pos: Position, at_ms: u64) -> Outcome {
        Outcome {
            id: self.head.id,
            user: Some(self.user.clone()),
            pos,
            fate: Fate::Expired,
            devices: 0,
            gateway: String::new(),
            at_ms,
            answered: Vec::new(),
        }
    }
}
