//! What users want, one document each.

use super::schema::Failure;
use crate::{
    dispatcher::{preferences::Preferences, store::StoreError},
    envelope::Channel,
    ids::UserId,
};
use rusqlite::{Connection, OptionalExtension, params};

/// Who says nothing has no row.
pub fn put(
    connection: &Connection,
    user: &UserId,
    preferences: &Preferences,
) -> Result<(), Failure> {
    if *preferences == Preferences::default() {
        let mut statement = connection.prepare_cached("DELETE FROM preferences WHERE user = ?1")?;
        statement.execute([user.as_str()])?;
        return Ok(());
    }
    let document = serde_json::to_string(preferences).expect("preferences are plain data");
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO preferences (user, document) VALUES (?1, ?2)")?;
    statement.execute(params![user.as_str(), document])?;
    Ok(())
}

pub fn of_users(connection: &Connection, users: &[UserId]) -> Result<Vec<Preferences>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT document FROM preferences WHERE user = ?1")?;
    let mut all = Vec::with_capacity(users.len());
    for user in users {
        let document: Option<String> = statement
            .query_row([user.as_str()], |row| row.get(0))
            .optional()?;
        all.push(match document {
            None => Preferences::default(),
            Some(document) => serde_json::from_str(&document).map_err(|error| {
                StoreError::Corrupt(format!("a user's preferences can't be read: {error}"))
            })?,
        });
    }
    Ok(all)
}

/// The one connection that writes reads what stands there.
pub fn switch_off(
    connection: &Connection,
    user: &UserId,
    notification_type: &str,
    channel: Channel,
) -> Result<(), Failure> {
    let found = of_users(connection, std::slice::from_ref(user))?;
    let mut preferences = found.into_iter().next().unwrap_or_default();
    preferences.switch_off(notification_type, channel);
    put(connection, user, &preferences)
}
