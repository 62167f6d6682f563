//! The delivery log: what became of a notification, per user, channel and gateway.
//!
//! Invariants:
//! * what one gateway said of one user only moves forward by rank, so that outcomes may come twice and
//!   out of order;
//! * what a client said of an id its user does not have leaves no row: else anybody could write the log;
//! * a channel beside in-app has one row per user, which its workers and providers' reports write: it only moves forward
//!   too;
//! * of a broadcast there is one count per gateway and state, never a row per user (but for `read`);
//! * what is logged of a user's in-app rows is found by his inbox and his read marks, and goes before them;
//! * a row of the inbox that nothing is logged of is `pending`.
//!
//! The state shown is the furthest any gateway reached, with the devices of the gateways that reached it.

use super::{encode, reading, schema::Failure};
use crate::{
    dispatcher::{
        store::{Attempted, DeliveryState, PENDING, Sending, StoreError, rank, state},
        unix_ms,
    },
    envelope::{Channel, Outcome},
    ids::{NotificationId, UserId},
    limits,
};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

const COLUMNS: &str =
    "user, channel, gateway, state, rank, devices, at_ms, attempts, began_ms, error, reference";

pub fn pending(
    connection: &Connection,
    entries: &[(NotificationId, UserId, Channel)],
    at_ms: u64,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO deliveries (id, user, channel, gateway, facet, state, rank, devices, at_ms)
         VALUES (?1, ?2, ?3, '', 0, ?4, 0, 0, ?5) ON CONFLICT DO NOTHING",
    )?;
    for (id, user, channel) in entries {
        statement.execute(params![
            id.0.as_bytes(),
            user.as_str(),
            channel.as_str(),
            PENDING,
            encode::ms(at_ms)
        ])?;
    }
    Ok(())
}

/// Answers how many were left out.
pub fn record(connection: &Connection, outcomes: &[Outcome]) -> Result<usize, Failure> {
    // What the gateway saw first: it shows that the user has what a client speaks of in the same batch.
    let (said, seen): (Vec<&Outcome>, Vec<&Outcome>) = outcomes
        .iter()
        .partition(|outcome| outcome.fate.is_said_by_client());
    for outcome in seen {
        record_one(connection, outcome)?;
    }
    let mut left_out = 0;
    for outcome in said {
        let had = match &outcome.user {
            Some(user) => reading::has(connection, user, outcome.id)?,
            None => false,
        };
        match had {
            true => record_one(connection, outcome)?,
            false => left_out += 1,
        }
    }
    Ok(left_out)
}

fn record_one(connection: &Connection, outcome: &Outcome) -> Result<(), Failure> {
    // Of two reports of one state the larger count stands: a batch that is sent again counts once.
    let mut statement = connection.prepare_cached(
        "INSERT INTO deliveries (id, user, channel, gateway, facet, state, rank, devices, at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT DO UPDATE SET
            state = excluded.state,
            devices = CASE WHEN excluded.rank > rank THEN excluded.devices
                           ELSE max(devices, excluded.devices) END,
            at_ms = max(at_ms, excluded.at_ms),
            rank = excluded.rank
         WHERE excluded.rank >= rank",
    )?;
    let rank = rank(outcome.fate);
    let (user, facet) = match &outcome.user {
        Some(user) => (user.as_str(), 0),
        None => ("", rank),
    };
    statement.execute(params![
        outcome.id.0.as_bytes(),
        user,
        Channel::InApp.as_str(),
        outcome.gateway,
        facet,
        state(outcome.fate),
        rank,
        outcome.devices,
        encode::ms(outcome.at_ms)
    ])?;
    Ok(())
}

/// Workers of one channel may write in any order: the furthest attempt stands. What a provider reports (rank 3 and more)
/// may come before them, and then lacks what only they know; of its reports the last stands.
pub fn record_attempts(connection: &Connection, attempts: &[Attempted]) -> Result<(), Failure> {
    const NEWER: &str = "(excluded.rank > rank
        OR excluded.rank = rank AND (rank > 2 OR excluded.attempts >= attempts))";
    let mut statement = connection.prepare_cached(&format!(
        "INSERT INTO deliveries (id, user, channel, gateway, facet, state, rank, devices, at_ms,
            attempts, began_ms, error, reference)
         VALUES (?1, ?2, ?3, '', 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT DO UPDATE SET
            state = iif({NEWER}, excluded.state, state),
            rank = max(rank, excluded.rank),
            devices = max(devices, excluded.devices),
            at_ms = max(at_ms, excluded.at_ms),
            attempts = max(attempts, excluded.attempts),
            began_ms = iif(began_ms = 0, excluded.began_ms, began_ms),
            error = iif({NEWER}, excluded.error, error),
            reference = iif(excluded.reference <> '' AND (reference = '' OR {NEWER}),
                excluded.reference, reference)
         WHERE rank > 2 OR {NEWER}"
    ))?;
    for one in attempts {
        statement.execute(params![
            one.id.0.as_bytes(),
            one.user.as_str(),
            one.channel.as_str(),
            one.state.as_str(),
            one.state.rank(),
            one.devices,
            encode::ms(one.at_ms),
            one.sending.attempts,
            encode::ms(one.sending.began_ms),
            one.sending.error,
            one.sending.reference,
        ])?;
    }
    Ok(())
}

pub fn of_notification(
    connection: &Connection,
    id: NotificationId,
    user: Option<&UserId>,
    limit: usize,
) -> Result<Vec<DeliveryState>, Failure> {
    let wanted = if user.is_some() { "AND user = ?2" } else { "" };
    // Of what is older the log is gone, whatever it said: its row may be of later, as that of a scheduled one is.
    let is_logged = id.unix_ms() + limits::RETENTION_S * 1000 > unix_ms();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, facet FROM deliveries WHERE id = ?1 {wanted}
         UNION ALL
         SELECT user, 'in_app', '', '{PENDING}', 0, 0, stored_ms, 0, 0, '', '', 0
         FROM inbox WHERE id = ?1 {wanted} AND kind = 0 AND {is_logged} AND NOT EXISTS (
            SELECT 1 FROM deliveries
            WHERE id = ?1 AND user = inbox.user AND channel = 'in_app')
         ORDER BY user, channel, gateway, facet"
    ))?;
    let rows = match user {
        Some(user) => statement.query(params![id.0.as_bytes(), user.as_str()])?,
        None => statement.query(params![id.0.as_bytes()])?,
    };
    merge(rows, limit)
}

/// Newest first: ids are UUIDv7, whose order is that of time.
pub fn of_user(
    connection: &Connection,
    user: &UserId,
    before: Option<NotificationId>,
    limit: usize,
) -> Result<Vec<(NotificationId, DeliveryState)>, Failure> {
    let mut states = Vec::new();
    for id in ids_of_user(connection, user, before)? {
        let left = limit - states.len();
        if left == 0 {
            break;
        }
        let of_one = of_notification(connection, id, Some(user), left)?;
        states.extend(of_one.into_iter().map(|state| (id, state)));
    }
    Ok(states)
}

/// Of all that the log may know of.
fn ids_of_user(
    connection: &Connection,
    user: &UserId,
    before: Option<NotificationId>,
) -> Result<Vec<NotificationId>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM inbox WHERE user = ?1 AND id < ?2
         UNION SELECT id FROM receipts WHERE user = ?1 AND id < ?2
         UNION SELECT id FROM deliveries
            WHERE user = ?1 AND user <> '' AND channel <> 'in_app' AND id < ?2
         ORDER BY id DESC",
    )?;
    let before = before.map_or(Uuid::max(), |id| id.0);
    let values = params![user.as_str(), before.as_bytes()];
    let ids = statement.query_map(values, |row| encode::read_id(row, 0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// One gateway's word, as stored.
struct Fact {
    state: DeliveryState,
    rank: u8,
}

impl Fact {
    fn read(row: &Row<'_>) -> Result<Fact, Failure> {
        let user = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        let user = match user {
            "" => None,
            text => Some(text.parse().map_err(|error| {
                StoreError::Corrupt(format!("the delivery log holds a bad user: {error}"))
            })?),
        };
        Ok(Fact {
            state: DeliveryState {
                user,
                channel: encode::read_word(row, 1)?,
                gateway: row.get(2)?,
                state: row.get(3)?,
                devices: row.get(5)?,
                updated_ms: encode::read_ms(row, 6)?,
                sending: Sending {
                    attempts: row.get(7)?,
                    began_ms: encode::read_ms(row, 8)?,
                    error: row.get(9)?,
                    reference: row.get(10)?,
                },
            },
            rank: row.get(4)?,
        })
    }

    fn is_of_same(&self, other: &Fact) -> bool {
        self.state.user.is_some()
            && self.state.user == other.state.user
            && self.state.channel == other.state.channel
    }

    /// Takes another gateway's word on the same thing.
    fn merge(&mut self, other: Fact) {
        if other.rank > self.rank {
            *self = other;
        } else if other.rank == self.rank {
            self.state.devices += other.state.devices;
            if other.state.updated_ms > self.state.updated_ms {
                self.state.updated_ms = other.state.updated_ms;
                self.state.gateway = other.state.gateway;
                self.state.state = other.state.state;
            }
        }
    }
}

/// Folds facts of the same user and channel, which stand side by side, into one state
/// each; reads no further than `limit` states need.
fn merge(mut rows: rusqlite::Rows<'_>, limit: usize) -> Result<Vec<DeliveryState>, Failure> {
    let mut merged: Vec<Fact> = Vec::new();
    while let Some(row) = rows.next()? {
        let fact = Fact::read(row)?;
        let full = merged.len() == limit;
        match merged.last_mut() {
            Some(last) if last.is_of_same(&fact) => last.merge(fact),
            _ if full => break,
            _ => merged.push(fact),
        }
    }
    Ok(merged.into_iter().map(|fact| fact.state).collect())
}
