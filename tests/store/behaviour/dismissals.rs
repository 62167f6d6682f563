//! Broadcasts that a user does not want to see any more.

use super::Home;
use crate::build::*;
use herald::{dispatcher::store::Erasure, ids::NotificationId};

pub async fn a_dismissed_broadcast_counts_as_seen_for_its_user_only(home: &impl Home) {
    let (ada, bob) = (user("ada"), user("bob"));
    let store = home.open();
    let (first, second) = (broadcast(at(1)), broadcast(at(2)));
    let (one, other) = (first.id, second.id);
    store.append_broadcasts(vec![first, second]).await.unwrap();
    for user in [&ada, &bob] {
        assert_eq!(store.unread(user).await.unwrap().broadcasts, [other, one]);
    }
    let nothing = NotificationId::generate();
    for _ in 0..2 {
        let dismissed = store.dismiss(&ada, &[nothing, one]).await;
        assert_eq!(dismissed, Ok(vec![one]));
    }
    let store = home.open();
    let asked = [other, one, nothing];
    assert_eq!(store.dismissed_among(&ada, &asked).await, Ok(vec![one]));
    assert_eq!(store.dismissed_among(&bob, &asked).await, Ok(vec![]));
    assert_eq!(store.unread(&ada).await.unwrap().broadcasts, [other]);
    assert_eq!(store.unread(&bob).await.unwrap().broadcasts, [other, one]);
    // It is forgotten with its user.
    let erasure = Erasure {
        user: ada.clone(),
        id: NotificationId::generate(),
        below: at(9),
    };
    let removed = store.erase(&erasure).await.unwrap();
    assert_eq!(removed.dismissals, 1);
    assert_eq!(store.dismissed_among(&ada, &asked).await, Ok(vec![]));
}
