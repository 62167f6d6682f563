//! What users want.

use super::Home;
use crate::build::*;
use herald::dispatcher::preferences::Preferences;

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
