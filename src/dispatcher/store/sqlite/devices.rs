//! Devices and addresses, by user.

use super::{encode, schema::Failure};
use crate::{
    dispatcher::{
        devices::{Device, DeviceKind},
        store::{Entered, Quarantined, Release, StoreError},
    },
    ids::{DeviceId, IdError, UserId},
    limits,
};
use rusqlite::{Connection, Row, params};

pub fn put(connection: &Connection, device: &Device) -> Result<Entered, Failure> {
    let (user, id, kind) = (
        device.user.as_str(),
        device.id.as_str(),
        device.kind.as_str(),
    );
    let is_of_one_user = device.kind.is_of_one_user();
    // Those that stay beside it.
    let mut statement = connection.prepare_cached(
        "SELECT coalesce(sum(id <> ?2 AND NOT (?5 AND address = ?3 AND kind = ?4)), 0),
            coalesce(sum(id = ?2), 0)
         FROM devices WHERE user = ?1",
    )?;
    let (others, is_known): (usize, bool) = statement.query_row(
        params![user, id, device.address, kind, is_of_one_user],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if others >= limits::DEVICES {
        return Ok(Entered::Full);
    }
    if is_of_one_user {
        let mut statement = connection.prepare_cached(
            "DELETE FROM devices WHERE address = ?1 AND kind = ?2 AND kind <> 'email'",
        )?;
        statement.execute([device.address.as_str(), kind])?;
    }
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO devices (user, id, kind, address, secret, updated_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    statement.execute(params![
        user,
        id,
        kind,
        device.address,
        device.secret,
        encode::ms(device.updated_ms)
    ])?;
    Ok(match is_known {
        true => Entered::Replaced,
        false => Entered::Created,
    })
}

pub fn of_user(connection: &Connection, user: &UserId) -> Result<Vec<Device>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, address, secret, updated_ms, quarantined_ms FROM devices
         WHERE user = ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([user.as_str()])?;
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        devices.push(read(row, user)?);
    }
    Ok(devices)
}

pub fn remove(connection: &Connection, user: &UserId, id: &DeviceId) -> Result<bool, Failure> {
    let mut statement =
        connection.prepare_cached("DELETE FROM devices WHERE user = ?1 AND id = ?2")?;
    Ok(statement.execute([user.as_str(), id.as_str()])? > 0)
}

pub fn remove_gone(connection: &Connection, device: &Device) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM devices WHERE user = ?1 AND id = ?2 AND updated_ms = ?3 AND address = ?4",
    )?;
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let at_ms = encode::ms(device.updated_ms);
    Ok(statement.execute(params![user, id, at_ms, device.address])? > 0)
}

pub fn quarantine(connection: &Connection, device: &Device, now_ms: u64) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(
        "UPDATE devices SET quarantined_ms = ?5
         WHERE user = ?1 AND id = ?2 AND updated_ms = ?3 AND address = ?4 AND quarantined_ms IS NULL",
    )?;
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let (at_ms, now_ms) = (encode::ms(device.updated_ms), encode::ms(now_ms));
    Ok(statement.execute(params![user, id, at_ms, device.address, now_ms])? > 0)
}

/// By user and id.
pub fn quarantined(
    connection: &Connection,
    kind: DeviceKind,
    after: Option<&(UserId, DeviceId)>,
    limit: usize,
) -> Result<Quarantined, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, address, secret, updated_ms, quarantined_ms, user FROM devices
         WHERE kind = ?1 AND quarantined_ms IS NOT NULL AND (user, id) > (?2, ?3)
         ORDER BY user, id LIMIT ?4",
    )?;
    let (user, id) = after.map_or(("", ""), |(user, id)| (user.as_str(), id.as_str()));
    let mut rows = statement.query(params![kind.as_str(), user, id, limit])?;
    let mut page = Quarantined::default();
    while let Some(row) = rows.next()? {
        let user: String = row.get(6)?;
        let user = user.parse().map_err(|error: IdError| {
            StoreError::Corrupt(format!("a device of a bad user: {error}"))
        })?;
        page.devices.push(read(row, &user)?);
    }
    let last = page.devices.last().filter(|_| page.devices.len() == limit);
    page.next = last.map(|device| (device.user.clone(), device.id.clone()));
    Ok(page)
}

pub fn release(
    connection: &Connection,
    device: &Device,
    release: Release,
) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached(match release {
        Release::Restored => {
            "UPDATE devices SET quarantined_ms = NULL
             WHERE user = ?1 AND id = ?2 AND quarantined_ms = ?3"
        }
        Release::Removed => {
            "DELETE FROM devices WHERE user = ?1 AND id = ?2 AND quarantined_ms = ?3"
        }
    })?;
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let since_ms = device.quarantined_ms.map(encode::ms);
    Ok(statement.execute(params![user, id, since_ms])? > 0)
}

fn read(row: &Row<'_>, user: &UserId) -> Result<Device, Failure> {
    let id = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
    let id: DeviceId = id
        .parse()
        .map_err(|error: IdError| StoreError::Corrupt(format!("a device has a bad id: {error}")))?;
    Ok(Device {
        user: user.clone(),
        id,
        kind: encode::read_word(row, 1)?,
        address: row.get(2)?,
        secret: row.get(3)?,
        updated_ms: encode::read_ms(row, 4)?,
        quarantined_ms: row.get::<_, Option<i64>>(5)?.map(|at| at.max(0) as u64),
    })
}
