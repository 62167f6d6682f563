//! Where notifications come in. One request is one record, and is answered after the bus has it, or, with the bus
//! away, after it is synced to the disk.
//!
//! Invariants:
//! * an accepted request is durable, and was written exactly once per attempt: to `raw` (one user),
//!   `fan_out` (a list) or `fan_out_all`;
//! * a repeated `Idempotency-Key` with the same request always gets the same id. While the first attempt
//!   is unfinished (its end unknown, or only spooled) the record is written again under that id, marked `again`.

pub mod audience;
pub mod fields;
pub mod request;
mod schedule;
mod segment;

use super::{
    Rules,
    metrics::DispatcherMetrics,
    patience::Seldom,
    quota::Quotas,
    spending::Spending,
    spool::{Direct, Spool},
    store::{Idempotency, SharedStore},
    templates::Subject,
    unix_ms,
};
use crate::{
    bus::{BusError, Record, SharedBus, Target, Topic},
    envelope::{Channel, Content, Head, Kind, Priority, Routed},
    ids::{NotificationId, Region, UserId},
    limits,
    position::Position,
    proto::client::frames::{self, Place},
};
use audience::Audience;
use aws_lc_rs::digest;
use bytes::Bytes;
use request::{Draft, Refusal, Submission};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Generation of the `raw` topic that intake writes to.
pub const GENERATION: u16 = 1;

/// Value of a `fan_out` record.
#[derive(Debug, Serialize, Deserialize)]
pub struct List {
    pub users: Vec<UserId>,
    /// JSON of [`Content`], copied into each user's record as it is.
    pub content: Box<RawValue>,
}

/// Where an accepted request is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Bus,
    /// On the disk of this host: it goes to the bus when that is back.
    Spooled,
    /// In the store, until it is due.
    Stored,
}

impl Durability {
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Bus => "bus",
            Durability::Spooled => "spooled",
            Durability::Stored => "stored",
        }
    }
}

/// The promise given for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    pub id: NotificationId,
    pub durability: Durability,
}

pub struct Intake {
    pub bus: SharedBus,
    pub store: SharedStore,
    pub(super) spool: Option<Arc<Spool>>,
    pub(super) direct: Option<Direct>,
    pub region: Region,
    pub rules: Rules,
    pub quotas: Quotas,
    pub(super) spending: Spending,
    pub metrics: DispatcherMetrics,
    pub refusing: Seldom,
}

impl Intake {
    /// Takes one request of `producer`, from either door.
    pub async fn accept(
        &self,
        producer: &str,
        draft: Result<Draft, Refusal>,
        idempotency_key: Option<&str>,
    ) -> Result<Receipt, Refusal> {
        let started = Instant::now();
        let mut priority = "unknown";
        let result = match draft.and_then(|draft| draft.check(&self.rules.chains)) {
            Err(refusal) => Err(refusal),
            Ok(mut submission) => {
                priority = submission.content.priority.as_str();
                // Hashed without the producer: claims are per producer already.
                let claim = idempotency_key.map(|key| (key, hash(&submission)));
                submission.content.producer = producer.to_owned();
                self.accept_checked(producer, &submission, claim).await
            }
        };
        let label = result.as_ref().map_or_else(Refusal::code, |_| "accepted");
        self.metrics
            .intake
            .with_label_values(&[label, priority])
            .inc();
        self.metrics
            .intake_s
            .observe(started.elapsed().as_secs_f64());
        result
    }

    async fn accept_checked(
        &self,
        producer: &str,
        submission: &Submission,
        claim: Option<(&str, [u8; 32])>,
    ) -> Result<Receipt, Refusal> {
        let mut fits = self.check_now(producer, submission).await;
        if fits.is_ok() || claim.is_some() {
            self.quotas.take(producer, submission.content.priority)?;
        }
        // Of another day's budget nothing is known.
        if fits.is_ok() && submission.schedule_at.is_none() {
            fits = self.spending.check(&submission.content).await;
        }
        match (fits, claim) {
            (Ok(()), None) => {
                let id = NotificationId::generate();
                let written = self.write(id, submission, false).await;
                written.map(|durability| Receipt { id, durability })
            }
            (Ok(()), Some((key, hash))) => self.accept_once(producer, key, hash, submission).await,
            (Err(refusal @ Refusal::Away { .. }), _) | (Err(refusal), None) => Err(refusal),
            (Err(refusal), Some((key, hash))) => {
                let before = self
                    .accepted_before(producer, key, hash, submission)
                    .await?;
                before.ok_or(refusal)
            }
        }
    }

    /// What another moment may judge otherwise.
    async fn check_now(&self, producer: &str, submission: &Submission) -> Result<(), Refusal> {
        schedule::check(submission.schedule_at, unix_ms())?;
        self.check_segment(producer, submission).await
    }

    /// Of a repetition that would not be accepted any more: its time is over, or its segment gone.
    async fn accepted_before(
        &self,
        producer: &str,
        key: &str,
        hash: [u8; 32],
        submission: &Submission,
    ) -> Result<Option<Receipt>, Refusal> {
        match self.claim(producer, key, hash).await?.1 {
            Idempotency::Done(id) => Ok(Some(receipt_again(id, submission))),
            Idempotency::Claimed => {
                let released = self.store.release_claim(producer, key).await;
                released.map_err(store_away).map(|()| None)
            }
            Idempotency::Pending(_) | Idempotency::Conflict => Ok(None),
        }
    }

    /// Under an id that counts if nobody claimed the key before.
    async fn claim(
        &self,
        producer: &str,
        key: &str,
        hash: [u8; 32],
    ) -> Result<(NotificationId, Idempotency), Refusal> {
        check_key(key)?;
        let fresh = NotificationId::generate();
        let claim = self
            .store
            .claim(producer, key, hash, fresh, unix_ms())
            .await;
        Ok((fresh, claim.map_err(store_away)?))
    }

    async fn accept_once(
        &self,
        producer: &str,
        key: &str,
        hash: [u8; 32],
        submission: &Submission,
    ) -> Result<Receipt, Refusal> {
        let (fresh, claim) = self.claim(producer, key, hash).await?;
        let (id, again) = match claim {
            Idempotency::Claimed => (fresh, false),
            Idempotency::Pending(id) => (id, true),
            Idempotency::Done(id) => return Ok(receipt_again(id, submission)),
            Idempotency::Conflict => return Err(Refusal::Conflict),
        };
        match self.write(id, submission, again).await {
            // Where the bus did not answer, the record may stand there: the claim stays pending, so
            // that the next attempt goes by the same id.
            Err(refusal @ (Refusal::Away { .. } | Refusal::NotSpooled(_))) => Err(refusal),
            Err(refusal) => {
                self.store
                    .release_claim(producer, key)
                    .await
                    .map_err(store_away)?;
                Err(refusal)
            }
            // Left pending: a repetition learns where it is durable by then.
            Ok(durability @ Durability::Spooled) => Ok(Receipt { id, durability }),
            Ok(durability @ (Durability::Bus | Durability::Stored)) => {
                // Left pending, a repetition is produced once more under this id: nothing is lost.
                if let Err(error) = self.store.finish_claim(producer, key).await {
                    tracing::warn!(%error, %id, "an idempotency claim stays pending");
                }
                Ok(Receipt { id, durability })
            }
        }
    }

    /// Makes the one record of a request durable: on the bus, or in the spool while the bus is away. In the store, if
    /// it is to be sent later.
    async fn write(
        &self,
        id: NotificationId,
        submission: &Submission,
        again: bool,
    ) -> Result<Durability, Refusal> {
        let due_ms = submission.schedule_at.filter(|at| *at > unix_ms());
        if let Audience::Segment(segment) = submission.audience {
            let from_ms = due_ms.unwrap_or_default();
            return self.send_to_segment(id, segment, submission, from_ms).await;
        }
        if let Some(due_ms) = due_ms {
            return self.keep(id, submission, due_ms).await;
        }
        let Some(spool) = &self.spool else {
            return match self.produce(id, submission, again).await {
                Ok(()) => Ok(Durability::Bus),
                Err(NotProduced::Refused(refusal)) => Err(refusal),
                Err(NotProduced::Away(error)) => Err(self.refuse(&error)),
            };
        };
        if !spool.is_active() {
            tokio::select! {
                produced = self.produce(id, submission, again) => match produced {
                    Ok(()) => return Ok(Durability::Bus),
                    Err(NotProduced::Refused(refusal)) => return Err(refusal),
                    // That waits for an operator, so it is not promised.
                    Err(NotProduced::Away(error @ BusError::NoTopic(_))) => {
                        return Err(self.refuse(&error));
                    }
                    Err(NotProduced::Away(error)) => spool.activate(&error),
                },
                () = spool.activated() => {}
            }
        }
        let (topic, record) = self.record(id, submission, true);
        record.check_size(topic).map_err(|_| too_large())?;
        let priority = submission.content.priority;
        let spooled = spool.append(priority, topic, record).await;
        spooled.map_err(Refusal::NotSpooled)?;
        if let Some(direct) = &self.direct {
            self.offer(direct, id, submission);
        }
        Ok(Durability::Spooled)
    }

    /// Critical does not wait for the bus: what is spooled also goes straight to where the users are.
    fn offer(&self, direct: &Direct, id: NotificationId, submission: &Submission) {
        let content = &submission.content;
        let is_urgent = content.priority == Priority::Critical;
        if !is_urgent || !content.channels.contains(&Channel::InApp) {
            return;
        }
        let users = match &submission.audience {
            Audience::User(user) => std::slice::from_ref(user),
            Audience::Users(users) => users,
            Audience::Segment(_) | Audience::All => return,
        };
        let head = self.head(id, content, created_ms(id), true);
        let stream = self.region.user_stream();
        let place = Place {
            stream: &stream,
            pos: Position::START,
            prev: Position::START,
        };
        let subject = Subject {
            head: &head,
            user: None,
            content,
        };
        // Nobody's language is looked up while it hurries; without a render it says what was sent.
        let shown = self.rules.templates.show(&subject, Channel::InApp, None);
        let content = shown.as_ref().map_or(content, |shown| &*shown.content);
        let frame = frames::notification(id, place, head.created_ms, content, false);
        for user in users {
            direct.offer(Routed {
                head: head.clone(),
                user: Some(user.clone()),
                stream: stream.clone(),
                pos: Position::START,
                prev: Position::START,
                // It would replace what stands at a position, and say so of a range that is none.
                collapse_key: None,
                answered: Vec::new(),
                frame: frame.clone(),
            });
        }
    }

    /// `created_ms` is what every attempt under one id says.
    fn head(&self, id: NotificationId, content: &Content, created_ms: u64, again: bool) -> Head {
        Head {
            kind: Kind::Notification,
            id,
            created_ms,
            expires_ms: content
                .ttl_s
                .map(|ttl_s| created_ms + u64::from(ttl_s) * 1000),
            priority: content.priority,
            region: self.region.to_string(),
            again,
        }
    }

    fn refuse(&self, error: &BusError) -> Refusal {
        if self.refusing.is_due() {
            tracing::warn!(%error, "the bus is away: notifications are not taken");
        }
        Refusal::Away { part: "the bus" }
    }

    /// Hands the record to the bus, trying for as long as intake may wait.
    async fn produce(
        &self,
        id: NotificationId,
        submission: &Submission,
        mut again: bool,
    ) -> Result<(), NotProduced> {
        let deadline = Instant::now() + limits::INTAKE_BUS_WAIT;
        loop {
            let (topic, record) = self.record(id, submission, again);
            let produced = self.bus.produce(vec![(Target::Keyed(topic), record)]);
            let attempt = tokio::time::timeout_at(deadline, produced).await;
            let error = match attempt {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(BusError::TooLarge { .. })) => {
                    return Err(NotProduced::Refused(too_large()));
                }
                Ok(Err(error)) => error,
                Err(_) => BusError::Unavailable("no answer in time".into()),
            };
            // What failed may have been appended all the same.
            again = true;
            if deadline.saturating_duration_since(Instant::now()) <= Duration::from_millis(100) {
                return Err(NotProduced::Away(error));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn record(&self, id: NotificationId, submission: &Submission, again: bool) -> (Topic, Record) {
        let content = &submission.content;
        // Its time begins when it is due.
        let created_ms = submission.schedule_at.unwrap_or_else(|| created_ms(id));
        let mut head = self.head(id, content, created_ms, again);
        match &submission.audience {
            Audience::User(user) => {
                let key = Bytes::copy_from_slice(user.as_str().as_bytes());
                let record = head.into_record(key, encode_content(content));
                (Topic::Raw(GENERATION), record)
            }
            Audience::Users(users) => {
                let list = List {
                    users: users.clone(),
                    content: serde_json::value::to_raw_value(content)
                        .expect("content is plain data"),
                };
                let value = serde_json::to_vec(&list).expect("a list is plain data");
                let record = head.into_record(id.to_string(), value);
                (Topic::FanOut, record)
            }
            // Each of its users has a record of their own, marked by its first writer.
            Audience::Segment(_) => {
                head.again = true;
                (
                    Topic::Raw(GENERATION),
                    head.into_record("", encode_content(content)),
                )
            }
            Audience::All => {
                head.kind = match content.tags.is_empty() {
                    true => Kind::Broadcast,
                    false => Kind::Tagged,
                };
                let record = head.into_record("all", encode_content(content));
                (Topic::FanOutAll, record)
            }
        }
    }
}

/// Why the bus does not have a record.
enum NotProduced {
    Refused(Refusal),
    Away(BusError),
}

fn check_key(key: &str) -> Result<(), Refusal> {
    let fits = (1..=limits::IDEMPOTENCY_KEY_BYTES).contains(&key.len());
    match fits && !key.chars().any(char::is_control) {
        true => Ok(()),
        false => {
            let problem = format!("has 1 to {} bytes", limits::IDEMPOTENCY_KEY_BYTES);
            Err(Refusal::field("idempotency-key", problem))
        }
    }
}

/// As it was when it was accepted.
fn receipt_again(id: NotificationId, submission: &Submission) -> Receipt {
    let is_segment = matches!(submission.audience, Audience::Segment(_));
    let durability = match submission.schedule_at.is_some() || is_segment {
        false => Durability::Bus,
        true => Durability::Stored,
    };
    Receipt { id, durability }
}

fn store_away<E>(_: E) -> Refusal {
    Refusal::Away { part: "the store" }
}

fn too_large() -> Refusal {
    Refusal::TooLarge {
        field: "body".into(),
        problem: "is larger than the bus takes".into(),
    }
}

/// The time inside a UUIDv7: every attempt under one id says the same.
pub fn created_ms(id: NotificationId) -> u64 {
    let timestamp = id.0.get_timestamp();
    timestamp.map_or_else(unix_ms, |at| {
        let (seconds, nanos) = at.to_unix();
        seconds * 1000 + u64::from(nanos / 1_000_000)
    })
}

fn encode_content(content: &Content) -> Vec<u8> {
    serde_json::to_vec(content).expect("content is plain data")
}

/// Over the meaning, not the bytes sent: both doors and any order of fields give the same.
fn hash(submission: &Submission) -> [u8; 32] {
    let (audience, content) = (&submission.audience, &submission.content);
    let meaning = match submission.schedule_at {
        // As ever: claims outlive a release.
        None => serde_json::to_vec(&(audience, content)),
        Some(at) => serde_json::to_vec(&(audience, content, at)),
    };
    let meaning = meaning.expect("a submission is plain data");
    let digest = digest::digest(&digest::SHA256, &meaning);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::fallback::Chains;

    #[test]
    fn an_id_tells_the_time_it_was_given() {
        let (before, id, after) = (unix_ms(), NotificationId::generate(), unix_ms());
        assert!((before..=after).contains(&created_ms(id)));
    }

    #[test]
    fn the_order_of_fields_does_not_make_another_request() {
        let read = |json: &str| {
            let draft = Draft::from_json(json.as_bytes()).unwrap();
            draft.check(&Chains::default()).unwrap()
        };
        let one = read(r#"{"target":{"user":"1"},"type":"x","title":"t"}"#);
        let two = read(r#"{"title":"t", "type":"x", "target":{"user":"1"}}"#);
        let three = read(r#"{"title":"u", "type":"x", "target":{"user":"1"}}"#);
        assert_eq!(hash(&one), hash(&two));
        assert_ne!(hash(&one), hash(&three));
    }
}
