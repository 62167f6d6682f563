//! The delivery log: what became of a notification, per user, channel and gateway.
//!
//! It is a set of facts that only grows, and a state is what the facts say together: so they may be told twice and in
//! any order, by any number of dispatchers, and nothing is read to be written.
//!
//! Invariants:
//! * of one gateway and one user the furthest rank stands, with the larger count of devices;
//! * what a client said of an id its user does not have leaves no row: else anybody could write the log; and what he
//!   says again is the same fact;
//! * of a broadcast there is one count per gateway and state, never a row per user (but for `read`).
//!
//! The state shown is the furthest any gateway reached, with the devices of the gateways that reached it.

use super::{
    CassandraStore, bucket,
    link::{Level, Reader, all},
    stream::{BROADCASTS, damaged, ms},
    unix_ms,
};
use crate::{
    dispatcher::store::{
        Attempted, DeliveryState, PENDING, SendState, Sending, StoreError, rank, state,
    },
    envelope::{Channel, Outcome},
    ids::{NotificationId, UserId},
    limits,
};
use scylla::DeserializeRow;
use uuid::Uuid;

/// A fact, of what and of whom; of a broadcast as a whole without.
type Told<'a> = (NotificationId, Option<&'a UserId>, Fact);

/// One fact, as stored.
#[derive(Clone, Debug, Default, DeserializeRow)]
struct Fact {
    channel: String,
    gateway: String,
    rank: i32,
    state: String,
    attempts: i32,
    devices: i32,
    since_ms: i64,
    at_ms: i64,
    began_ms: i64,
    error: String,
    reference: String,
}

impl CassandraStore {
    pub(super) async fn enter_pending(
        &self,
        entries: &[(NotificationId, UserId, Channel)],
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let facts = entries.iter().map(|(id, user, channel)| {
            let fact = Fact {
                channel: channel.as_str().to_owned(),
                state: PENDING.to_owned(),
                since_ms: ms(at_ms),
                at_ms: ms(at_ms),
                ..Fact::default()
            };
            (*id, Some(user), fact)
        });
        self.enter_all(facts.collect()).await
    }

    /// Answers how many were left out.
    pub(super) async fn record_outcomes(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        // What the gateway saw first: it shows that the user has what a client speaks of in the same batch.
        let (said, seen): (Vec<&Outcome>, Vec<&Outcome>) = outcomes
            .iter()
            .partition(|outcome| outcome.fate.is_said_by_client());
        self.enter_all(seen.into_iter().map(fact_of).collect())
            .await?;
        let had = all(said.iter().map(|outcome| self.is_theirs(outcome)).collect()).await?;
        let left_out = had.iter().filter(|had| !**had).count();
        let had = said.into_iter().zip(had).filter(|(_, had)| *had);
        self.enter_all(had.map(|(outcome, _)| fact_of(outcome)).collect())
            .await?;
        Ok(left_out)
    }

    async fn is_theirs(&self, outcome: &Outcome) -> Result<bool, StoreError> {
        match &outcome.user {
            Some(user) => self.has(user, outcome.id).await,
            None => Ok(false),
        }
    }

    pub(super) async fn enter_attempts(&self, attempts: &[Attempted]) -> Result<(), StoreError> {
        let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let facts = attempts.iter().map(|one| {
            let fact = Fact {
                channel: one.channel.as_str().to_owned(),
                gateway: String::new(),
                rank: i32::from(one.state.rank()),
                state: one.state.as_str().to_owned(),
                attempts: count(one.sending.attempts),
                devices: count(one.devices),
                since_ms: 0,
                at_ms: ms(one.at_ms),
                began_ms: ms(one.sending.began_ms),
                error: one.sending.error.clone(),
                reference: one.sending.reference.clone(),
            };
            (one.id, Some(&one.user), fact)
        });
        self.enter_all(facts.collect()).await
    }

    async fn enter_all(&self, facts: Vec<Told<'_>>) -> Result<(), StoreError> {
        let work = facts.into_iter().map(|told| self.enter(told));
        all(work.collect()).await.map(drop)
    }

    async fn enter(&self, (id, user, fact): Told<'_>) -> Result<(), StoreError> {
        if let Some(user) = user {
            self.index(id, user).await?;
        }
        let values = (
            id.0,
            user.map_or(BROADCASTS, UserId::as_str),
            fact.channel,
            fact.gateway,
            fact.rank,
            fact.state,
            fact.attempts,
            fact.devices,
            fact.since_ms,
            fact.at_ms,
            fact.began_ms,
            fact.error,
            fact.reference,
        );
        let link = self.link()?;
        link.write(&link.statements.put_fact, values).await
    }

    /// Before the first fact, so that none is there that is not found by its user and its id.
    async fn index(&self, id: NotificationId, user: &UserId) -> Result<(), StoreError> {
        let key = (id.0, user.clone());
        if self.indexed.lock().find(&key).is_some() {
            return Ok(());
        }
        let link = self.link()?;
        let statements = &link.statements;
        let by_user = (user.as_str(), bucket::of_id(id), id.0);
        let by_id = (id.0, slice_of(user), user.as_str());
        tokio::try_join!(
            link.write(&statements.put_delivery_of_user, by_user),
            link.write(&statements.put_user_of_delivery, by_id),
        )?;
        self.indexed.lock().put(key, ());
        Ok(())
    }

    /// Of one user, or of a broadcast as a whole.
    pub(super) async fn states_of(
        &self,
        id: NotificationId,
        user: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        let reader = self.link()?.reader(Level::OrOne);
        self.states(&reader, id, user, limit).await
    }

    async fn states(
        &self,
        reader: &Reader<'_>,
        id: NotificationId,
        user: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        let facts = reader.rows::<Fact>(&reader.statements().facts, (id.0, user));
        let facts = facts.await?;
        let user =
            match user {
                BROADCASTS => None,
                name => Some(name.parse::<UserId>().map_err(|error| {
                    damaged(&format!("a bad user in the delivery log: {error}"))
                })?),
            };
        let mut states = Vec::new();
        // Facts of one channel stand side by side, and so do those of one of its gateways.
        for channel in facts.chunk_by(|a, b| a.channel == b.channel) {
            let gateways = channel.chunk_by(|a, b| a.gateway == b.gateway);
            match &user {
                None => {
                    for gateway in gateways {
                        let counts = gateway.chunk_by(|a, b| a.rank == b.rank);
                        let counts = counts.map(fold);
                        states.extend(counts.map(|count| count.into_state(None)));
                    }
                }
                Some(_) => {
                    let furthest = gateways
                        .map(fold)
                        .reduce(furthest)
                        .expect("a chunk has facts");
                    states.push(furthest.into_state(user.clone()));
                }
            }
        }
        states.truncate(limit);
        states.into_iter().collect()
    }

    /// The counts of a broadcast first, then its users.
    pub(super) async fn states_of_all(
        &self,
        id: NotificationId,
        limit: usize,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        let reader = &self.link()?.reader(Level::OrOne);
        let mut states = self.states(reader, id, BROADCASTS, limit).await?;
        let statement = &reader.statements().users_of_delivery;
        let left = (limit - states.len()) as i32;
        if left == 0 {
            return Ok(states);
        }
        let slices = (0..i32::from(limits::DELIVERY_SLICES)).map(|slice| async move {
            let users = reader.rows::<(String,)>(statement, (id.0, slice, left));
            users.await
        });
        let users = all(slices.collect()).await?;
        let users: Vec<(String,)> = users.into_iter().flatten().take(left as usize).collect();
        let of_users = users
            .iter()
            .map(|(user,)| self.states(reader, id, user, limit));
        states.extend(all(of_users.collect()).await?.into_iter().flatten());
        states.truncate(limit);
        Ok(states)
    }

    pub(super) async fn latest_states(
        &self,
        user: &UserId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<(NotificationId, DeliveryState)>, StoreError> {
        let before = before.map_or(LAST_ID, |id| id.0);
        let reader = &self.link()?.reader(Level::OrOne);
        let statement = &reader.statements().deliveries_of_user;
        let newest = bucket::newest(unix_ms());
        let mut ids = Vec::new();
        for month in (newest - limits::BUCKETS_BACK - 1..=newest).rev() {
            let left = (limit - ids.len()) as i32;
            if left == 0 {
                break;
            }
            let values = (user.as_str(), month, before, left);
            let found = reader.rows::<(Uuid,)>(statement, values).await?;
            ids.extend(found.into_iter().map(|(id,)| NotificationId(id)));
        }
        let of_ids = ids
            .iter()
            .map(|id| self.states(reader, *id, user.as_str(), limit));
        let mut latest = Vec::new();
        for (id, states) in ids.iter().zip(all(of_ids.collect()).await?) {
            latest.extend(states.into_iter().map(|state| (*id, state)));
        }
        latest.truncate(limit);
        Ok(latest)
    }
}

fn fact_of(outcome: &Outcome) -> Told<'_> {
    let fact = Fact {
        channel: Channel::InApp.as_str().to_owned(),
        gateway: outcome.gateway.clone(),
        rank: i32::from(rank(outcome.fate)),
        state: state(outcome.fate).to_owned(),
        devices: i32::try_from(outcome.devices).unwrap_or(i32::MAX),
        at_ms: ms(outcome.at_ms),
        ..Fact::default()
    };
    (outcome.id, outcome.user.as_ref(), fact)
}

/// Of version 7, as all are: by that Cassandra orders them first.
const LAST_ID: Uuid = Uuid::from_u128(0xffff_ffff_ffff_7fff_bfff_ffff_ffff_ffff);

/// Stored, so never to be changed.
pub fn slice_of(user: &UserId) -> i32 {
    // FNV-1a: spread, and the same in every release.
    let hash = user.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash % u32::from(limits::DELIVERY_SLICES)) as i32
}

/// What the facts of one gateway say together. A later attempt replaces an earlier one; what was found out before
/// (since when it is tried, what the provider calls it) stays.
fn fold(facts: &[Fact]) -> Fact {
    let order = |fact: &&Fact| (fact.rank, fact.attempts, fact.at_ms);
    let mut folded = facts
        .iter()
        .max_by_key(order)
        .expect("a chunk has facts")
        .clone();
    let earlier = facts.iter().filter(|fact| order(fact) <= order(&&folded));
    let named = earlier
        .filter(|fact| !fact.reference.is_empty())
        .max_by_key(order);
    let reference = named.map(|fact| fact.reference.clone());
    let of_rank = || facts.iter().filter(|fact| fact.rank == folded.rank);
    let devices = of_rank().map(|fact| fact.devices).max();
    let began = facts
        .iter()
        .map(|fact| fact.began_ms)
        .filter(|ms| *ms > 0)
        .min();
    // Pending since it was first told, with or without an attempt.
    if folded.attempts == 0 && folded.rank == 0 {
        folded.at_ms = of_rank().map(|fact| fact.at_ms).min().unwrap_or_default();
    }
    folded.devices = devices.unwrap_or_default();
    folded.began_ms = began.unwrap_or_default();
    folded.reference = reference.unwrap_or_default();
    let sent = i32::from(SendState::Sent.rank());
    let of_worker = facts.iter().filter(|fact| fact.rank <= sent);
    if folded.gateway.is_empty()
        && folded.rank > sent
        && let Some(worker) = of_worker.max_by_key(order)
    {
        // A provider's report: of the attempts it knows nothing.
        folded.attempts = worker.attempts;
        folded.devices = folded.devices.max(worker.devices);
    }
    folded
}

/// Takes another gateway's word on the same thing.
fn furthest(one: Fact, other: Fact) -> Fact {
    if one.rank != other.rank {
        return if one.rank > other.rank { one } else { other };
    }
    let devices = one.devices.saturating_add(other.devices);
    let later = if other.at_ms > one.at_ms { other } else { one };
    Fact { devices, ..later }
}

impl Fact {
    fn into_state(self, user: Option<UserId>) -> Result<DeliveryState, StoreError> {
        let channel = self.channel.parse::<Channel>();
        Ok(DeliveryState {
            user,
            channel: channel.map_err(|_| damaged(&format!("a channel {:?}", self.channel)))?,
            state: self.state,
            devices: self.devices.max(0) as u32,
            gateway: self.gateway,
            updated_ms: self.at_ms.max(0) as u64,
            sending: Sending {
                attempts: self.attempts.max(0) as u32,
                began_ms: self.began_ms.max(0) as u64,
                error: self.error,
                reference: self.reference,
            },
        })
    }
}
