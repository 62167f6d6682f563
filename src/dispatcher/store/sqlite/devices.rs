//! Devices and addresses, by user.

use super::{encode, schema::Failure};
use crate::{
    dispatcher::{
        devices::Device,
        store::{Entered, StoreError},
    },
    ids::{DeviceId, IdError, UserId},
    limits,
};
use rusqlite::{Connection, Row, params};

pub fn put(connection: &Connection, device: &Device) -> Result<Entered, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT count(*), coalesce(sum(id = ?2), 0) FROM devices WHERE user = ?1",
    )?;
    let (user, id) = (device.user.as_str(), device.id.as_str());
    let (held, is_known): (usize, bool) =
        statement.query_row(params![user, id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if held >= limits::DEVICES && !is_known {
        return Ok(Entered::Full);
    }
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO devices (user, id, kind, address, updated_ms)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    statement.execute(params![
        user,
        id,
        device.kind.as_str(),
        device.address,
        encode::ms(device.updated_ms)
    ])?;
    Ok(match is_known {
        true => Entered::Replaced,
        false => Entered::Created,
    })
}

pub fn of_user(connection: &Connection, user: &UserId) -> Result<Vec<Device>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, address, updated_ms FROM devices WHERE user = ?1 ORDER BY id",
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
        updated_ms: encode::read_ms(row, 3)?,
    })
}
