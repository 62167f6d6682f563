//! Devices in quarantine: a mark in the device itself, and where to look for it.
//!
//! Invariants:
//! * whether a device is in quarantine its own row says, and every change of that has a condition;
//! * it is named here before it is marked, and again after, so that who removes its name for want of a mark removes an
//!   earlier one. A name without a mark is of a device that left in another way.

use super::{
    delivery::slice_of,
    devices,
    link::{Level, Link, all, is_applied},
    stream::{damaged, ms},
};
use crate::{
    dispatcher::{
        devices::{Device, DeviceKind},
        store::{Quarantined, Release, StoreError},
        unix_ms,
    },
    ids::{DeviceId, UserId},
    limits,
};
use std::collections::BTreeMap;

pub async fn put(link: &Link, device: &Device, now_ms: u64) -> Result<bool, StoreError> {
    name(link, device).await?;
    let values = (
        ms(now_ms),
        device.user.as_str(),
        device.id.as_str(),
        ms(device.updated_ms),
        &device.address,
    );
    let answer = link.compare_and_set(&link.statements.quarantine_device, values);
    let was_there = is_applied(&answer.await?)?;
    if was_there {
        name(link, device).await?;
    }
    Ok(was_there)
}

async fn name(link: &Link, device: &Device) -> Result<(), StoreError> {
    let (slice, user) = (slice_of(&device.user), device.user.as_str());
    let values = (device.kind.as_str(), slice, user, device.id.as_str());
    link.write(&link.statements.put_quarantined, values).await
}

/// Slice by slice, by user and id in each. Names without a mark are removed on the way.
pub async fn page(
    link: &Link,
    kind: DeviceKind,
    after: Option<&(UserId, DeviceId)>,
    limit: usize,
) -> Result<Quarantined, StoreError> {
    let looked_us = ms(unix_ms()) * 1_000;
    let (mut slice, mut from) = match after {
        Some((user, id)) => (
            slice_of(user),
            (user.as_str().to_owned(), id.as_str().to_owned()),
        ),
        None => (0, Default::default()),
    };
    let reader = link.reader(Level::Quorum);
    let mut named: Vec<(String, String)> = Vec::new();
    while slice < i32::from(limits::DELIVERY_SLICES) && named.len() < limit {
        let left = (limit - named.len()) as i32;
        let values = (kind.as_str(), slice, &from.0, &from.1, left);
        named.extend(reader.rows(&link.statements.quarantined, values).await?);
        slice += 1;
        from = Default::default();
    }
    let next = named.last().filter(|_| named.len() == limit);
    let next = next.map(|(user, id)| parse(user, id)).transpose()?;
    let mut of_users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (user, id) in named {
        of_users.entry(user).or_default().push(id);
    }
    let looks = of_users.into_iter().map(|(user, ids)| async move {
        let user: UserId = user.parse().map_err(|_| damaged("a user with a bad id"))?;
        let is_marked = |device: &Device| device.kind == kind && device.quarantined_ms.is_some();
        let mut held = devices::of_user(link, &user).await?;
        held.retain(|device| is_marked(device) && ids.iter().any(|id| id == device.id.as_str()));
        for id in ids
            .iter()
            .filter(|id| held.iter().all(|one| one.id.as_str() != *id))
        {
            unname(link, kind, &user, id, looked_us).await?;
        }
        Ok(held)
    });
    let devices = all(looks.collect()).await?.into_iter().flatten().collect();
    Ok(Quarantined { devices, next })
}

fn parse(user: &str, id: &str) -> Result<(UserId, DeviceId), StoreError> {
    match (user.parse(), id.parse()) {
        (Ok(user), Ok(id)) => Ok((user, id)),
        _ => Err(damaged("a device in quarantine with a bad id")),
    }
}

/// Only if it was not named again since.
async fn unname(
    link: &Link,
    kind: DeviceKind,
    user: &UserId,
    id: &str,
    looked_us: i64,
) -> Result<(), StoreError> {
    let values = (looked_us, kind.as_str(), slice_of(user), user.as_str(), id);
    link.write(&link.statements.remove_quarantined, values)
        .await
}

/// Of one that was removed.
pub async fn forget(link: &Link, device: &Device) -> Result<(), StoreError> {
    let now_us = ms(unix_ms()) * 1_000;
    unname(link, device.kind, &device.user, device.id.as_str(), now_us).await
}

/// Whatever of this user was named by this moment.
pub async fn forget_all(link: &Link, user: &UserId, until_us: i64) -> Result<(), StoreError> {
    let kinds = [DeviceKind::WebPush, DeviceKind::Fcm, DeviceKind::Apns];
    let forget = kinds.map(|kind| async move {
        let values = (until_us, kind.as_str(), slice_of(user), user.as_str());
        let statement = &link.statements.remove_quarantined_of_user;
        link.write(statement, values).await
    });
    all(forget.into()).await.map(drop)
}

pub async fn release(link: &Link, device: &Device, release: Release) -> Result<bool, StoreError> {
    let looked_us = ms(unix_ms()) * 1_000;
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let values = (user, id, device.quarantined_ms.map(ms));
    let statements = &link.statements;
    let statement = match release {
        Release::Restored => &statements.restore_device,
        Release::Removed => &statements.remove_quarantined_device,
    };
    let was_there = device.quarantined_ms.is_some()
        && is_applied(&link.compare_and_set(statement, values).await?)?;
    if was_there {
        if release == Release::Removed {
            devices::disown(link, device).await?;
        }
        unname(link, device.kind, &device.user, id, looked_us).await?;
    }
    Ok(was_there)
}
