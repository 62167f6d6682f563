//! Broadcasts: every gateway reads the one partition, from the end it noted before it called any catch-up
//! complete.
//!
//! Invariant: a broadcast is either in the store before the end was noted (a sync finds it), or it is read
//! here. Nothing is committed: the next life starts at its own end.
//!
//! What is for users with certain tags only is in the store, and no gateway knows whose it is: everyone is told to look, at a
//! bounded rate.
//!
//! A record nobody can read goes to [`dead_letters`], from every gateway that meets it. Others don't wait for
//! that, until [`limits::BROADCAST_DEAD_LETTERS`] of them are not yet written.

use super::{
    behind::Missed,
    dead_letters,
    flights::{Began, Flight, Waiter},
    health::Cause,
    host::Host,
    place::Batch,
};
use crate::{
    bus::{BusError, Consumed, Polled, Start, Topic, TopicPartition},
    clock::unix_ms,
    envelope::{EnvelopeError, Head, Kind, Routed, is_expired},
    gateway::mailbox::ToCore,
    limits,
    proto::session::Item,
};
use std::sync::Arc;
use tokio::{sync::Semaphore, time::Instant};

const BROADCAST: TopicPartition = TopicPartition {
    topic: Topic::Broadcast,
    partition: 0,
};

/// Runs until dropped.
pub async fn run(host: Arc<Host>) {
    let mut next = note_end(&host).await;
    let letters = Arc::new(Semaphore::new(limits::BROADCAST_DEAD_LETTERS));
    host.follows_broadcasts.send_replace(true);
    host.health.works(Cause::Broadcast);
    // Whoever came earlier may have missed one.
    host.behind.tell_all(Missed::Broadcast, &host.table);
    loop {
        let error = match read(&host, &mut next, &letters).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::debug!(%error, "broadcast can't be read");
        tokio::time::sleep(limits::AWAY_RETRY).await;
    }
}

async fn note_end(host: &Host) -> u64 {
    loop {
        match host.bus.end(BROADCAST).await {
            Ok(end) => return end,
            Err(error) => {
                host.fails(
                    Cause::Broadcast,
                    format!("the end of `broadcast` can't be noted: {error}; it goes on by itself when the bus answers"),
                );
                tokio::time::sleep(limits::AWAY_RETRY).await;
            }
        }
    }
}

/// One consumer's life; ends with an error only.
async fn read(
    host: &Arc<Host>,
    next: &mut u64,
    letters: &Arc<Semaphore>,
) -> Result<std::convert::Infallible, BusError> {
    // A group of its own per gateway: nothing is ever committed to it.
    let group = format!("broadcast.{}", host.id);
    let start = [(BROADCAST, Start::At(*next))];
    let mut consumer = host.bus.assign(&group, &start).await?;
    loop {
        let polled = consumer
            .poll(limits::SHARD_POLL, limits::SHARD_WAIT)
            .await?;
        if let Polled::Records(records) = polled {
            for consumed in &records {
                if let Err(reason) = place(host, consumed) {
                    count(host, "unknown", "malformed");
                    set_aside(host, consumed, reason, letters).await;
                }
                *next = consumed.offset + 1;
            }
        }
    }
}

/// Fails with what is wrong with the record.
fn place(host: &Host, consumed: &Consumed) -> Result<(), String> {
    let routed = match Routed::read(&consumed.record) {
        Ok(routed) => routed,
        Err(EnvelopeError::Malformed { header, reason }) => {
            return match Head::read(&consumed.record).map(|head| head.kind) {
                // Of a kind that is not sent this way yet.
                Ok(kind @ (Kind::Disconnect | Kind::Probe | Kind::Erase)) => {
                    count(host, kind.as_str(), "unsupported");
                    Ok(())
                }
                _ => Err(format!("{header}: {reason}")),
            };
        }
        Err(error @ EnvelopeError::Unsupported { .. }) => {
            tracing::warn!(offset = consumed.offset, %error, "a broadcast of a later release");
            count(host, "unknown", "unsupported");
            return Ok(());
        }
    };
    match (routed.head.kind, routed.user.clone()) {
        (Kind::Broadcast, None) => send(host, &routed),
        (Kind::Tagged, None) => match is_expired(routed.head.expires_ms, unix_ms()) {
            true => count(host, "tagged", "expired"),
            false => {
                count(host, "tagged", "delivered");
                host.behind.tell_round(&host.table);
            }
        },
        // A router that can't look its user up asks everyone; who has not the user says nothing.
        (Kind::Notification | Kind::Read, Some(user)) => {
            let mut batch = Batch::new(host);
            batch.place_if_here(routed, &user);
            batch.send();
        }
        (Kind::Notification | Kind::Read, None) => return Err("user: is missing".to_owned()),
        (kind, _) => count(host, kind.as_str(), "unsupported"),
    }
    Ok(())
}

async fn set_aside(
    host: &Arc<Host>,
    consumed: &Consumed,
    reason: String,
    letters: &Arc<Semaphore>,
) {
    let letter = letters.clone().acquire_owned().await.expect("never closed");
    let (host, record, offset) = (host.clone(), consumed.record.clone(), consumed.offset);
    tokio::spawn(async move {
        dead_letters::set_aside(&host, BROADCAST, offset, record, &reason).await;
        drop(letter);
    });
}

fn send(host: &Host, routed: &Routed) {
    if is_expired(routed.head.expires_ms, unix_ms()) {
        return count(host, "broadcast", "expired");
    }
    count(host, "broadcast", "delivered");
    let item = Arc::new(Item::routed(routed, host.stream(&routed.stream)));
    let ticket = host.flights.ticket();
    let began = Began::of(&routed.head, Instant::now());
    let id = routed.head.id;
    let flight = Flight::new(id, None, routed.pos, &[], 0, Waiter::Nobody, began);
    host.flights.begin([(ticket, flight)]);
    host.outboxes.send_all(|| ToCore::Broadcast {
        ticket,
        item: item.clone(),
    });
}

fn count(host: &Host, kind: &str, result: &str) {
    let records = &host.metrics.records;
    records.with_label_values(&[kind, result]).inc();
}
