//! What is to be sent later, by the hour in which it is due.
//!
//! Whether one is taken, cancelled or neither is told by a condition, never by a look before. All that changes a row
//! has one, also what only adds or removes it.

use super::{
    link::{Level, Link, all, is_applied},
    stream::{damaged, ms},
};
use crate::{
    bus::{Record, Topic},
    dispatcher::{
        store::{Cancelled, Scheduled, StoreError, headers},
        unix_ms,
    },
    ids::{NotificationId, UserId},
    limits,
};
use std::sync::atomic::{AtomicI64, Ordering};
use uuid::Uuid;

const HOUR_MS: i64 = 3_600_000;
/// An hour that is over for so long gets nothing any more, whatever the clocks of dispatchers say.
const SETTLED_HOURS: i64 = 2;

/// Hours before it hold nothing: where to begin looking. Found again after a start.
#[derive(Default)]
pub struct Looked(AtomicI64);

type Stored = (i64, Uuid, i64, String, Vec<u8>, Vec<u8>, String);

pub async fn put(link: &Link, scheduled: &Scheduled) -> Result<(), StoreError> {
    let (record, due_ms) = (&scheduled.record, ms(scheduled.due_ms));
    // Where it stands first: without its row it is as if it was sent.
    let statements = &link.statements;
    let id = scheduled.id.0;
    link.write(&statements.put_due, (id, due_ms)).await?;
    let values = (
        due_ms / HOUR_MS,
        due_ms,
        id,
        scheduled.topic.suffix(),
        &record.key[..],
        &record.value[..],
        headers::write(record),
    );
    let answer = link.compare_and_set(&statements.put_scheduled, values);
    answer.await.map(drop)
}

pub async fn find(link: &Link, id: NotificationId) -> Result<Option<Scheduled>, StoreError> {
    let Some(due_ms) = indexed(link, id).await? else {
        return Ok(None);
    };
    let reader = link.reader(Level::Quorum);
    let values = (due_ms / HOUR_MS, due_ms, id.0);
    let found = reader.first::<Stored>(&link.statements.scheduled_at, values);
    found.await?.map(read).transpose()
}

pub async fn due(link: &Link, id: NotificationId) -> Result<Option<u64>, StoreError> {
    let Some(due_ms) = indexed(link, id).await? else {
        return Ok(None);
    };
    let reader = link.reader(Level::Quorum);
    let values = (due_ms / HOUR_MS, due_ms, id.0);
    let found = reader.first::<(i64,)>(&link.statements.scheduled_due, values);
    Ok(found.await?.map(|(due_ms,)| due_ms.max(0) as u64))
}

async fn indexed(link: &Link, id: NotificationId) -> Result<Option<i64>, StoreError> {
    let reader = link.reader(Level::Quorum);
    let found = reader.first::<(i64,)>(&link.statements.due, (id.0,));
    Ok(found.await?.map(|(due_ms,)| due_ms))
}

pub async fn take_due(
    link: &Link,
    looked: &Looked,
    now_ms: u64,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<Scheduled>, StoreError> {
    let (now_ms, until_ms) = (ms(now_ms), ms(until_ms));
    let last = now_ms / HOUR_MS;
    let ahead_ms = limits::SCHEDULE_AHEAD.as_millis() as i64;
    let first = looked.0.load(Ordering::Relaxed);
    // Nothing is kept for longer than it may be ahead, but for an outage of all dispatchers.
    let first = first.max(last - 2 * ahead_ms / HOUR_MS);
    let reader = link.reader(Level::Quorum);
    let (mut due, mut is_empty_so_far) = (Vec::new(), true);
    for hour in first..=last {
        let statement = &link.statements.scheduled;
        let found = reader.rows::<Stored>(statement, (hour, now_ms)).await?;
        is_empty_so_far &= found.is_empty();
        if is_empty_so_far && hour < last - SETTLED_HOURS {
            looked.0.store(hour + 1, Ordering::Relaxed);
        }
        for stored in found {
            if due.len() >= limit {
                return Ok(due);
            }
            let (due_ms, id, taken_until_ms, ..) = &stored;
            if *taken_until_ms > now_ms {
                continue;
            }
            let values = (until_ms, hour, *due_ms, *id, *taken_until_ms);
            let answer = link.compare_and_set(&link.statements.take_scheduled, values);
            if is_applied(&answer.await?)? {
                due.push(read(stored)?);
            }
        }
    }
    Ok(due)
}

pub async fn remove(link: &Link, ids: &[NotificationId]) -> Result<(), StoreError> {
    for id in ids {
        let Some(due_ms) = indexed(link, *id).await? else {
            continue;
        };
        let values = (due_ms / HOUR_MS, due_ms, id.0);
        let removed = link.compare_and_set(&link.statements.remove_scheduled, values);
        removed.await?;
        link.write(&link.statements.remove_due, (id.0,)).await?;
    }
    Ok(())
}

/// For this user alone, or in a list: all that is kept is looked at.
pub async fn of_user(link: &Link, user: &UserId) -> Result<Vec<Scheduled>, StoreError> {
    let now = ms(unix_ms()) / HOUR_MS;
    let ahead = limits::SCHEDULE_AHEAD.as_millis() as i64 / HOUR_MS;
    let reader = link.reader(Level::Quorum);
    let statement = &link.statements.scheduled;
    let hours = (now - SETTLED_HOURS..=now + ahead + 1).map(|hour| {
        let reader = &reader;
        async move { reader.rows::<Stored>(statement, (hour, i64::MAX)).await }
    });
    let mut found = Vec::new();
    for stored in all(hours.collect()).await?.into_iter().flatten() {
        let one = read(stored)?;
        if one.is_for(user) {
            found.push(one);
        }
    }
    Ok(found)
}

/// Whether it was still kept.
pub async fn put_value(link: &Link, one: &Scheduled, value: &[u8]) -> Result<bool, StoreError> {
    let due_ms = ms(one.due_ms);
    let values = (value, due_ms / HOUR_MS, due_ms, one.id.0);
    let answer = link.compare_and_set(&link.statements.change_scheduled, values);
    is_applied(&answer.await?)
}

pub async fn cancel(link: &Link, id: NotificationId) -> Result<Cancelled, StoreError> {
    let Some(due_ms) = indexed(link, id).await? else {
        return Ok(Cancelled::Unknown);
    };
    let values = (due_ms / HOUR_MS, due_ms, id.0);
    let answer = link.compare_and_set(&link.statements.cancel_scheduled, values);
    if is_applied(&answer.await?)? {
        link.write(&link.statements.remove_due, (id.0,)).await?;
        return Ok(Cancelled::Yes);
    }
    Ok(match find(link, id).await? {
        Some(_) => Cancelled::TooLate,
        None => Cancelled::Unknown,
    })
}

fn read(stored: Stored) -> Result<Scheduled, StoreError> {
    let (due_ms, id, _, topic, key, value, headers) = stored;
    let headers = headers::read(&headers)
        .ok_or_else(|| damaged("a scheduled notification with headers that can't be read"))?;
    let topic = Topic::named(&topic)
        .ok_or_else(|| damaged("a scheduled notification for no topic of this release"))?;
    Ok(Scheduled {
        id: NotificationId(id),
        due_ms: due_ms.max(0) as u64,
        topic,
        record: Record {
            key: key.into(),
            value: value.into(),
            headers,
        },
    })
}
