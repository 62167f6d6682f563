//! Broadcasts to a part of everyone: each says in its content which tags it is for, a user's tags stand in the preferences, and
//! whose it is is decided when it is read.
//!
//! So nothing is stored per user, and whoever is given a tag later sees in the inbox what went to it before, and by a sync
//! without a cursor; other syncs ask only for what is behind their cursor, which has passed it.

use super::store::{Row, SharedStore, StoreError, Unread};
use crate::{
    ids::{NotificationId, UserId},
    limits,
};
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::Deserialize;
use std::sync::Arc;

/// What a user is not shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Hidden {
    /// No broadcast of these is for certain tags only.
    #[default]
    Nothing,
    /// What is not for the user.
    Others(Vec<NotificationId>),
    /// All that are for certain tags: without a quorum nobody knows the user's.
    Unknown(Vec<NotificationId>),
}

impl Hidden {
    pub fn ids(&self) -> &[NotificationId] {
        match self {
            Hidden::Nothing => &[],
            Hidden::Others(ids) | Hidden::Unknown(ids) => ids,
        }
    }
}

/// What a user has made of some broadcasts, and what of them is not for the user.
#[derive(Debug, Default)]
pub struct Seen {
    pub read: Vec<NotificationId>,
    pub dismissed: Vec<NotificationId>,
    pub hidden: Hidden,
}

/// A broadcast is one row for everyone; this is what of it differs from user to user.
pub async fn seen(store: &SharedStore, user: &UserId, rows: &[&Row]) -> Result<Seen, StoreError> {
    if rows.is_empty() {
        return Ok(Seen::default());
    }
    let ids: Vec<NotificationId> = rows.iter().map(|row| row.id).collect();
    let (read, dismissed, hidden) = tokio::try_join!(
        store.read_among(user, &ids),
        store.dismissed_among(user, &ids),
        hidden(store, user, rows),
    )?;
    Ok(Seen {
        read,
        dismissed,
        hidden,
    })
}

async fn hidden(store: &SharedStore, user: &UserId, rows: &[&Row]) -> Result<Hidden, StoreError> {
    let tagged = rows
        .iter()
        .filter_map(|row| Some((row.id, tags(&row.content)?)));
    for_others(store, user, tagged.collect()).await
}

/// Of what is only shown: without the user's tags it goes on, without what is for some.
async fn for_others(
    store: &SharedStore,
    user: &UserId,
    tagged: Vec<(NotificationId, Vec<String>)>,
) -> Result<Hidden, StoreError> {
    match others(store, user, &tagged).await {
        Ok(others) if others.is_empty() => Ok(Hidden::Nothing),
        Ok(others) => Ok(Hidden::Others(others)),
        // They are read at a quorum; what else is shown is not.
        Err(StoreError::Unavailable(_)) => {
            let ids = tagged.into_iter().map(|(id, _)| id);
            Ok(Hidden::Unknown(ids.collect()))
        }
        Err(error) => Err(error),
    }
}

/// Which of these have none of the user's tags.
async fn others(
    store: &SharedStore,
    user: &UserId,
    tagged: &[(NotificationId, Vec<String>)],
) -> Result<Vec<NotificationId>, StoreError> {
    // So it is most of the time.
    if tagged.is_empty() {
        return Ok(Vec::new());
    }
    let wishes = store.preferences(std::slice::from_ref(user)).await?;
    let own = wishes.into_iter().next().unwrap_or_default().tags;
    let hidden = tagged
        .iter()
        .filter(|(_, tags)| !tags.iter().any(|tag| own.contains(tag)));
    Ok(hidden.map(|(id, _)| *id).collect())
}

/// Without the broadcasts that are not for the user, which nobody has shown: to know an id is not to have it.
pub async fn without_others(
    store: &SharedStore,
    user: &UserId,
    mut ids: Vec<NotificationId>,
) -> Result<Vec<NotificationId>, StoreError> {
    let rows = stream::iter(ids.clone()).map(|id| store.broadcast(id));
    let tagged: Vec<(NotificationId, Vec<String>)> = rows
        .buffered(limits::STORE_READERS)
        .try_filter_map(async |row| Ok(row.and_then(|row| Some((row.id, tags(&row.content)?)))))
        .try_collect()
        .await?;
    let others = others(store, user, &tagged).await?;
    ids.retain(|id| !others.contains(id));
    Ok(ids)
}

/// Tags of the newest broadcasts, of those for everyone none. A broadcast never changes, so what was read once holds.
#[derive(Clone, Default)]
pub struct NewestTags(Arc<Mutex<Arc<TagsById>>>);

type TagsById = HashMap<NotificationId, Vec<String>>;

impl NewestTags {
    /// What the user has not read, without what is not for the user.
    pub async fn unread(&self, store: &SharedStore, user: &UserId) -> Result<u64, StoreError> {
        let Unread { own, broadcasts } = store.unread(user).await?;
        let newest = self.of(store, &broadcasts).await?;
        // What is not among them is older than they are by now.
        let newest: Vec<(NotificationId, &Vec<String>)> = broadcasts
            .iter()
            .filter_map(|id| Some((*id, newest.get(id)?)))
            .collect();
        let tagged = newest.iter().filter(|(_, tags)| !tags.is_empty());
        let tagged = tagged.map(|(id, tags)| (*id, (*tags).clone())).collect();
        let hidden = for_others(store, user, tagged).await?;
        Ok(own + (newest.len() - hidden.ids().len()) as u64)
    }

    /// They are read anew when one of these is not known.
    async fn of(
        &self,
        store: &SharedStore,
        ids: &[NotificationId],
    ) -> Result<Arc<TagsById>, StoreError> {
        let known = self.0.lock().clone();
        if ids.iter().all(|id| known.contains_key(id)) {
            return Ok(known);
        }
        let rows = store
            .broadcast_page(None, limits::UNREAD_BROADCASTS)
            .await?;
        let tags = rows
            .iter()
            .map(|row| (row.id, tags(&row.content).unwrap_or_default()));
        let read = Arc::new(tags.collect::<TagsById>());
        *self.0.lock() = read.clone();
        Ok(read)
    }
}

/// `None`: it is for everyone.
fn tags(content: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Tagged {
        #[serde(default)]
        tags: Vec<String>,
    }
    // Most have none, and are not parsed for it.
    let named = content.windows(NAME.len()).any(|part| part == NAME);
    let tagged: Tagged = named.then(|| serde_json::from_slice(content).ok())??;
    (!tagged.tags.is_empty()).then_some(tagged.tags)
}

const NAME: &[u8] = br#""tags""#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_says_by_its_own_field_whom_it_is_for() {
        let content = |more: &str| format!(r#"{{"type":"x","channels":["in_app"]{more}}}"#);
        for (more, expected) in [
            ("", None),
            (r#","title":"the \"tags\""#, None),
            (r#","data":{"tags":["a"]}"#, None),
            (
                r#","tags":["a","b"]"#,
                Some(vec!["a".to_owned(), "b".to_owned()]),
            ),
        ] {
            assert_eq!(tags(content(more).as_bytes()), expected, "{more}");
        }
    }
}
