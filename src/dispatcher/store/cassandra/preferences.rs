//! What users want, one document each.

use super::{
    link::{Level, Link, all},
    stream::damaged,
};
use crate::{
    dispatcher::{preferences::Preferences, store::StoreError},
    ids::UserId,
};

/// Who says nothing has no row.
pub async fn put(link: &Link, user: &UserId, preferences: &Preferences) -> Result<(), StoreError> {
    let statements = &link.statements;
    if *preferences == Preferences::default() {
        let values = (user.as_str(),);
        return link.write(&statements.remove_preferences, values).await;
    }
    let document = serde_json::to_string(preferences).expect("preferences are plain data");
    let values = (user.as_str(), document);
    link.write(&statements.put_preferences, values).await
}

pub async fn of_users(link: &Link, users: &[UserId]) -> Result<Vec<Preferences>, StoreError> {
    all(users.iter().map(|user| of_user(link, user)).collect()).await
}

async fn of_user(link: &Link, user: &UserId) -> Result<Preferences, StoreError> {
    let reader = link.reader(Level::Quorum);
    let statement = &link.statements.preferences;
    match reader
        .first::<(String,)>(statement, (user.as_str(),))
        .await?
    {
        None => Ok(Preferences::default()),
        Some((document,)) => serde_json::from_str(&document)
            .map_err(|error| damaged(&format!("preferences that can't be read: {error}"))),
    }
}
