//! What users want, one document each.

use super::{
    link::{Level, Link, all, contended, is_applied},
    stream::damaged,
};
use crate::{
    dispatcher::{preferences::Preferences, store::StoreError},
    envelope::Channel,
    ids::UserId,
    limits,
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
    parse(document(link, user).await?.as_deref())
}

/// What is entered meanwhile is read and written with it.
pub async fn switch_off(
    link: &Link,
    user: &UserId,
    notification_type: &str,
    channel: Channel,
) -> Result<(), StoreError> {
    let statements = &link.statements;
    for _ in 0..limits::CASSANDRA_CAS_ATTEMPTS {
        let held = document(link, user).await?;
        let mut preferences = parse(held.as_deref())?;
        preferences.switch_off(notification_type, channel);
        let next = serde_json::to_string(&preferences).expect("preferences are plain data");
        let answer = match held {
            None => {
                let values = (user.as_str(), next);
                link.compare_and_set(&statements.first_preferences, values)
                    .await?
            }
            Some(held) => {
                let values = (next, user.as_str(), held);
                link.compare_and_set(&statements.next_preferences, values)
                    .await?
            }
        };
        if is_applied(&answer)? {
            return Ok(());
        }
    }
    Err(contended("a user's preferences"))
}

async fn document(link: &Link, user: &UserId) -> Result<Option<String>, StoreError> {
    let reader = link.reader(Level::Quorum);
    let statement = &link.statements.preferences;
    let found = reader.first::<(String,)>(statement, (user.as_str(),));
    Ok(found.await?.map(|(document,)| document))
}

fn parse(document: Option<&str>) -> Result<Preferences, StoreError> {
    let Some(document) = document else {
        return Ok(Preferences::default());
    };
    serde_json::from_str(document)
        .map_err(|error| damaged(&format!("preferences that can't be read: {error}")))
}
