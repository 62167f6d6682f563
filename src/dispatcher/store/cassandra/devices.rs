//! Devices and addresses, by user; and whose an address is, where it is one user's at a time.
//!
//! Invariants:
//! * a user's `revision` rises with every device entered, on the condition that it is the one that was read: the
//!   bound holds though two enter at once;
//! * who enters an address that another has takes it from there before he is its owner. Broken off in between, both
//!   have it, the caller was told of a failure, and it is done when he tries again.

use super::{
    link::{Level, Link, contended, is_applied},
    stream::{damaged, ms},
};
use crate::{
    dispatcher::{
        devices::Device,
        store::{Entered, StoreError},
    },
    ids::{DeviceId, IdError, UserId},
    limits,
};

/// As stored. A partition whose devices are all gone still has its revision.
type Stored = (
    Option<i32>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
);

pub async fn put(link: &Link, device: &Device) -> Result<Entered, StoreError> {
    let entered = enter(link, device).await?;
    if entered != Entered::Full && device.kind.is_of_one_user() {
        take(link, device).await?;
    }
    Ok(entered)
}

async fn enter(link: &Link, device: &Device) -> Result<Entered, StoreError> {
    for _ in 0..limits::CASSANDRA_CAS_ATTEMPTS {
        let (revision, held) = read(link, &device.user).await?;
        let goes = |other: &&Device| other.id != device.id && is_same(other, device);
        let stays = held
            .iter()
            .filter(|other| other.id != device.id && !goes(other));
        if stays.count() >= limits::DEVICES {
            return Ok(Entered::Full);
        }
        for other in held.iter().filter(goes) {
            remove(link, &other.user, &other.id).await?;
        }
        let values = (
            revision.unwrap_or(0) + 1,
            device.kind.as_str(),
            &device.address,
            &device.secret,
            ms(device.updated_ms),
            device.user.as_str(),
            device.id.as_str(),
            revision,
        );
        let answer = link.compare_and_set(&link.statements.put_device, values);
        if is_applied(&answer.await?)? {
            let is_known = held.iter().any(|other| other.id == device.id);
            return Ok(match is_known {
                true => Entered::Replaced,
                false => Entered::Created,
            });
        }
    }
    Err(contended("a user's devices"))
}

/// The same browser or telephone.
fn is_same(one: &Device, other: &Device) -> bool {
    one.kind.is_of_one_user() && (one.kind, &one.address) == (other.kind, &other.address)
}

/// Takes the address from whoever has it.
async fn take(link: &Link, device: &Device) -> Result<(), StoreError> {
    let (kind, address) = (device.kind.as_str(), &device.address);
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let statements = &link.statements;
    for _ in 0..limits::CASSANDRA_CAS_ATTEMPTS {
        let reader = link.reader(Level::Quorum);
        let owner = reader.first::<(String, String)>(&statements.owner, (kind, address));
        let answer = match owner.await? {
            None => {
                let values = (kind, address, user, id);
                link.compare_and_set(&statements.first_owner, values)
                    .await?
            }
            Some((had_user, had_id)) if (&*had_user, &*had_id) == (user, id) => return Ok(()),
            Some((had_user, had_id)) => {
                if had_user != user {
                    let values = (&had_user, &had_id, kind, address);
                    link.compare_and_set(&statements.remove_device_at, values)
                        .await?;
                }
                let values = (user, id, kind, address, &had_user, &had_id);
                link.compare_and_set(&statements.next_owner, values).await?
            }
        };
        if is_applied(&answer)? {
            return Ok(());
        }
    }
    Err(contended("the owner of an address"))
}

/// In the order of their ids.
pub async fn of_user(link: &Link, user: &UserId) -> Result<Vec<Device>, StoreError> {
    Ok(read(link, user).await?.1)
}

pub async fn remove(link: &Link, user: &UserId, id: &DeviceId) -> Result<bool, StoreError> {
    let (_, held) = read(link, user).await?;
    let values = (user.as_str(), id.as_str());
    let answer = link.compare_and_set(&link.statements.remove_device, values);
    let was_there = is_applied(&answer.await?)?;
    for device in held.iter().filter(|device| device.id == *id) {
        disown(link, device).await?;
    }
    Ok(was_there)
}

pub async fn remove_gone(link: &Link, device: &Device) -> Result<bool, StoreError> {
    let values = (
        device.user.as_str(),
        device.id.as_str(),
        ms(device.updated_ms),
        &device.address,
    );
    let answer = link.compare_and_set(&link.statements.remove_device_of, values);
    let was_there = is_applied(&answer.await?)?;
    if was_there {
        disown(link, device).await?;
    }
    Ok(was_there)
}

/// The address is nobody's, unless it is another's by now.
pub async fn disown(link: &Link, device: &Device) -> Result<(), StoreError> {
    if !device.kind.is_of_one_user() {
        return Ok(());
    }
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let values = (device.kind.as_str(), &device.address, user, id);
    let answer = link.compare_and_set(&link.statements.remove_owner, values);
    answer.await.map(drop)
}

/// Their revision, which is none before the first, and the devices.
async fn read(link: &Link, user: &UserId) -> Result<(Option<i32>, Vec<Device>), StoreError> {
    let reader = link.reader(Level::Quorum);
    let statement = &link.statements.devices;
    let found = reader.rows::<Stored>(statement, (user.as_str(),)).await?;
    let revision = found.first().and_then(|(revision, ..)| *revision);
    let devices = found.into_iter().filter(|(_, id, ..)| id.is_some());
    let devices = devices.map(|stored| device(user, stored));
    Ok((revision, devices.collect::<Result<_, _>>()?))
}

fn device(user: &UserId, stored: Stored) -> Result<Device, StoreError> {
    let (_, Some(id), Some(kind), Some(address), secret, updated_ms, quarantined_ms) = stored
    else {
        return Err(damaged("a device without its address"));
    };
    let id: Result<DeviceId, IdError> = id.parse();
    Ok(Device {
        user: user.clone(),
        id: id.map_err(|error| damaged(&format!("a device with a bad id: {error}")))?,
        kind: kind
            .parse()
            .map_err(|()| damaged(&format!("a device of kind {kind:?}")))?,
        address,
        secret: secret.unwrap_or_default(),
        updated_ms: updated_ms.unwrap_or_default().max(0) as u64,
        quarantined_ms: quarantined_ms.map(|at_ms| at_ms.max(0) as u64),
    })
}
