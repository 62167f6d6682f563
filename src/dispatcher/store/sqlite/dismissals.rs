//! Broadcasts that users do not want to see any more.

use super::{broadcasts, encode, schema::Failure};
use crate::ids::{NotificationId, UserId};
use rusqlite::{Connection, params};

pub fn put(
    connection: &Connection,
    user: &UserId,
    ids: &[NotificationId],
    now_ms: u64,
) -> Result<Vec<NotificationId>, Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO dismissals (user, id, stored_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?;
    let mut dismissed = Vec::new();
    for id in ids {
        if broadcasts::position(connection, *id)?.is_some() {
            statement.execute(params![user.as_str(), id.0.as_bytes(), encode::ms(now_ms)])?;
            dismissed.push(*id);
        }
    }
    Ok(dismissed)
}

pub fn among(
    connection: &Connection,
    user: &UserId,
    ids: &[NotificationId],
) -> Result<Vec<NotificationId>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM dismissals WHERE user = ?1 AND id = ?2)")?;
    let mut dismissed = Vec::new();
    for id in ids {
        if statement.query_row(params![user.as_str(), id.0.as_bytes()], |row| row.get(0))? {
            dismissed.push(*id);
        }
    }
    Ok(dismissed)
}
