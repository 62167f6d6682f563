//! What users want.

use super::Home;
use crate::build::*;
use futures::future::try_join_all;
use herald::{dispatcher::preferences::Preferences, envelope::Channel};

fn wishes(body: &str) -> Preferences {
    Preferences::from_json(body.as_bytes(), &Default::default()).expect("preferences")
}

pub async fn preferences_are_those_entered_last_and_of_who_said_nothing_the_default(
    home: &impl Home,
) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let first = wishes(r#"{"channels":{"email":false}}"#);
    let second = wishes(
        r#"{"time_zone":"Europe/Vienna","quiet_hours":{"from":"22:00","to":"07:00"},"types":{"news":{"push":false}}}"#,
    );
    let nothing = Preferences::default();
    let store = home.open();
    store.put_preferences(&ada, &first).await.unwrap();
    store.put_preferences(&bob, &first).await.unwrap();
    store.put_preferences(&ada, &second).await.unwrap();
    drop(store);
    let store = home.open();
    let all = [bob.clone(), eve, ada.clone(), bob.clone()];
    let found = store.preferences(&all).await.unwrap();
    assert_eq!(found, [first.clone(), nothing.clone(), second, first]);
    store.put_preferences(&ada, &nothing).await.unwrap();
    assert_eq!(store.preferences(&[ada]).await, Ok(vec![nothing]));
    assert_eq!(store.preferences(&[]).await, Ok(vec![]));
}

pub async fn what_is_switched_off_at_once_stands_beside_what_was_said_before(home: &impl Home) {
    let (ada, bob) = (user("ada"), user("bob"));
    let said = wishes(r#"{"locale":"de-AT","types":{"news":{"email":true,"push":false}}}"#);
    let store = home.open();
    store.put_preferences(&ada, &said).await.unwrap();
    for user in [&ada, &bob] {
        let off = ["news", "order", "greeting"].map(|of_type| {
            let store = store.clone();
            async move { store.switch_off(user, of_type, Channel::Email).await }
        });
        try_join_all(off).await.unwrap();
    }
    drop(store);
    let expected = [
        wishes(
            r#"{"locale":"de-AT","types":{"news":{"email":false,"push":false},"order":{"email":false},"greeting":{"email":false}}}"#,
        ),
        wishes(
            r#"{"types":{"news":{"email":false},"order":{"email":false},"greeting":{"email":false}}}"#,
        ),
    ];
    assert_eq!(
        home.open().preferences(&[ada, bob]).await.unwrap(),
        expected
    );
}
